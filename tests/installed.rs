//! Holds the Debian package and `scripts/install` to each other: what one of them has and the other has not is missed by those who
//! install the other way, and by nobody here.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot read its files has failed")]

use std::{collections::BTreeSet, path::Path, process::Command};

use serde_json::Value;

/// What only the package has: Debian wants it there.
const ONLY_OF_THE_PACKAGE: &str = "changelog.gz 644 share/doc/pinfold/changelog.gz";

/// Where what is installed comes from: written at its build, or kept here. The unit is changed for another prefix, and is then
/// written, too.
const FROM: [&str; 4] = ["target/package/", "target/install/", "target/release/", "scripts/lib/package/"];

/// A file with its mode and its place below the prefix, as both lists are compared.
fn file(source: &str, mode: &str, to: &str) -> String {
    let source = FROM.iter().find_map(|from| source.strip_prefix(from)).unwrap_or(source);
    let name = source.rsplit('/').next().unwrap();
    let name = if to.ends_with('/') { name } else { "" };
    // Debian has one of its own for what its packages bring.
    let to = to.replace("share/zsh/vendor-completions/", "share/zsh/site-functions/");
    format!("{source} {mode} {to}{name}")
}

/// What the package has.
fn packaged() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let asked = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let metadata: Value = serde_json::from_slice(&asked.stdout).unwrap();
    let deb = &metadata["packages"][0]["metadata"]["deb"];
    let assets: Vec<[String; 3]> = serde_json::from_value(deb["assets"].clone()).unwrap();
    let assets = assets.iter().map(|[source, to, mode]| file(source, mode, to.strip_prefix("usr/").unwrap()));
    // These cargo-deb finds by their names.
    let units = &deb["systemd-units"];
    let [folder, name] = ["unit-scripts", "unit-name"].map(|key| units[key].as_str().unwrap());
    let found = [("service", "lib/systemd/system/pinfold.service"), ("sysusers", "lib/sysusers.d/pinfold.conf")];
    let found = found.iter().map(|(kind, to)| (format!("{folder}/{name}.{kind}"), *to));
    assets.chain(found.filter(|(source, _)| root.join(source).exists()).map(|(s, to)| file(&s, "644", to))).collect()
}

/// What `scripts/install` installs: what it puts into its list `files`.
fn installed() -> BTreeSet<String> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install")).unwrap();
    let lists = text.split("files=(").skip(1).chain(text.split("files+=(").skip(1));
    let lines = lists.flat_map(|list| list.split(')').next().unwrap().split('"').skip(1).step_by(2));
    let known = [
        ("$binary", "target/release/pinfold"),
        ("$into/", "target/install/"),
        ("${page##*/}", ""),
        ("$page", "man/*.1"),
    ];
    lines
        .map(|line| {
            let line = known.iter().fold(line.to_owned(), |line, (name, value)| line.replace(name, value));
            let [source, mode, to] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line:?} is no file") };
            file(source, mode, to)
        })
        .collect()
}

#[test]
fn what_the_package_has_is_installed_without_it_too_and_the_other_way_round() {
    let (mut packaged, installed) = (packaged(), installed());
    assert!(packaged.remove(ONLY_OF_THE_PACKAGE), "not in the package: {ONLY_OF_THE_PACKAGE}");
    let missing = packaged.difference(&installed).map(|file| format!("scripts/install does not have: {file}"));
    let missing: Vec<String> = missing
        .chain(installed.difference(&packaged).map(|file| format!("the assets in Cargo.toml do not have: {file}")))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
