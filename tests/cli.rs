//! What a user types and reads: the binary's own words and codes, where no cgroup is needed.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, reason = "a test that cannot start the binary has failed")]

use std::path::Path;

use assert_cmd::Command;

/// The binary in a clean environment, so that nobody's PINFOLD_… or colours show.
fn pinfold(args: &[&str], dir: &Path) -> Command {
    let mut command = Command::cargo_bin("pinfold").unwrap();
    command.args(args).current_dir(dir).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", dir);
    command
}

/// Words in, all that comes out: `$ pinfold …`, stdout, stderr, the code.
fn session(args: &[&str], dir: &Path) -> String {
    let output = pinfold(args, dir).output().unwrap();
    let said = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, err) = (said(output.stdout), said(output.stderr));
    let text = format!("$ pinfold {}\n{out}--- stderr\n{err}--- {}\n", args.join(" "), output.status);
    // Names of temporary directories differ.
    text.replace(&dir.display().to_string(), "DIR")
}

fn dir_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

const GOOD: &str = "workers:\n  - id: web\n    instances: 2\n    unit: {command: [sleep, '1']}\n";
const BAD: &str =
    "workers:\n  - id: web\n    unit:\n      command: sleep 1\n      limits: {pids: {max: 0}}\n      colour: red\n";

#[test]
fn the_help_names_every_command_and_flag() {
    let dir = dir_with(&[]);
    let helps = [&["--help"][..], &["up", "--help"], &["run", "--help"], &["validate", "--help"], &["doctor", "-h"]];
    insta::assert_snapshot!(helps.map(|args| session(args, dir.path())).join("\n"));
}

#[test]
fn the_help_of_what_talks_to_a_supervisor() {
    let dir = dir_with(&[]);
    let commands = [
        "ps", "stats", "top", "status", "count", "start", "stop", "restart", "kill", "signal", "reset", "freeze",
        "thaw", "why", "events", "history", "logs", "reexec", "down", "inspect",
    ];
    insta::assert_snapshot!(commands.map(|command| session(&[command, "-h"], dir.path())).join("\n"));
}

#[test]
fn without_a_supervisor_there_is_one_sentence_and_one_code() {
    let dir = dir_with(&[]);
    let lines = [
        &["ps"][..],
        &["ps", "-o", "json"],
        &["stats"],
        &["status", "a"],
        &["events"],
        &["history", "a"],
        &["events", "-f", "-o", "json"],
        &["count", "a"],
        &["start", "a"],
        &["stop", "a", "b"],
        &["restart", "--force", "a"],
        &["kill", "a"],
        &["signal", "HUP", "a"],
        &["reset", "a"],
        &["freeze", "a"],
        &["thaw", "a"],
        &["why", "a"],
        &["inspect", "a"],
        &["logs", "a"],
        &["reexec"],
        &["down"],
        &["down", "--no-wait"],
    ];
    for args in lines {
        let args = [args, &["--socket", "none.sock"]].concat();
        let expected = format!(
            "pinfold: no supervisor answers at {}/none.sock: start one with `pinfold up`, or name its socket with --socket\n",
            dir.path().display()
        );
        let assert = pinfold(&args, dir.path()).assert().code(6).stdout("");
        // On a host with a supervisor of root's, that one is mentioned behind it.
        let said = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert_eq!(said.replace(" (there is one at /run/pinfold/api.sock)", ""), expected, "{args:?}");
    }
}

#[test]
fn without_a_supervisor_it_is_said_where_the_output_is_kept() {
    let dir = dir_with(&[]);
    let kept = dir.path().join("state/logs/a");
    std::fs::create_dir_all(&kept).unwrap();
    let said = |name: &str| {
        let args = ["logs", name, "--socket", "none.sock", "--state-dir", "state", "--runtime-dir", "run"];
        let assert = pinfold(&args, dir.path()).assert().code(6);
        String::from_utf8(assert.get_output().stderr.clone()).unwrap()
    };
    assert!(said("a").ends_with(&format!("; what it wrote is kept in {}\n", kept.display())), "{}", said("a"));
    assert!(!said("b").contains("kept"));
    assert!(!said("../logs/a").contains("kept"), "a name is no path");
}

#[test]
fn what_is_asked_wrongly_is_usage_and_asks_nobody() {
    let dir = dir_with(&[]);
    let lines = [
        &["start"][..],
        &["signal", "HUP"],
        &["signal", "NOTHING", "a"],
        &["stop", "a", "--timeout", "soon"],
        &["stop", "a", "--timeout", "1s", "--no-wait"],
        &["stop", "a", "--force"],
        &["down", "--timeout", "soon"],
        &["down", "--timeout", "1s", "--no-wait"],
        &["down", "web"],
        &["ps", "a", "b"],
        &["history", "a", "-n", "0"],
        &["status"],
    ];
    for args in lines {
        // A socket that is not there: whoever tried it would say so.
        pinfold(&[args, &["--socket", "none.sock"]].concat(), dir.path()).assert().code(2);
    }
}

#[test]
fn a_user_without_a_runtime_directory_is_told_what_to_name() {
    // Not as root, who has one.
    let dir = dir_with(&[]);
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("pinfold"));
    command.args(["ps"]).env_clear().current_dir("/");
    if std::fs::metadata(dir.path()).is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0) {
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.contains("--runtime-dir")), (Some(2), true), "{said}");
}

#[test]
fn a_wrong_command_line_is_usage() {
    let dir = dir_with(&[]);
    let lines = [
        &["fly"][..],
        &["run"],
        &["run", "--swap", "1G", "true"],
        &["up", "--on-term=explode"],
        &["version", "-o", "xml"],
        &["run", "-m", "10", "--cpu", "x", "true"],
    ];
    for args in lines {
        pinfold(args, dir.path()).assert().code(2);
    }
    insta::assert_snapshot!(lines.map(|args| session(args, dir.path())).join("\n"));
}

#[test]
fn the_version_is_that_of_the_package() {
    let dir = dir_with(&[]);
    let text = format!("pinfold {}\n", env!("CARGO_PKG_VERSION"));
    pinfold(&["version"], dir.path()).assert().success().stdout(text.clone());
    pinfold(&["--version"], dir.path()).assert().success().stdout(text);
    let json = format!("{{\"name\":\"pinfold\",\"version\":\"{}\"}}\n", env!("CARGO_PKG_VERSION"));
    pinfold(&["version", "-o", "json"], dir.path()).assert().success().stdout(json);
}

#[test]
fn a_good_config_is_counted_and_a_bad_one_is_explained() {
    let dir = dir_with(&[("good.yaml", GOOD), ("bad.yaml", BAD), ("more.yaml", "env: {A: b}\n")]);
    let lines = [
        &["validate", "good.yaml"][..],
        &["validate", "--config", "more.yaml", "good.yaml"],
        &["validate", "bad.yaml"],
        &["validate", "-o", "json", "good.yaml"],
        &["validate", "-o", "json", "bad.yaml"],
        &["validate", "none.yaml"],
    ];
    insta::assert_snapshot!(lines.map(|args| session(args, dir.path())).join("\n"));
    pinfold(&["validate", "bad.yaml"], dir.path()).assert().code(2);
}

#[test]
fn the_variable_names_the_config_where_no_flag_does() {
    let dir = dir_with(&[("good.yaml", GOOD), ("bad.yaml", BAD)]);
    pinfold(&["validate"], dir.path()).env("PINFOLD_CONFIG", "good.yaml").assert().success();
    pinfold(&["validate"], dir.path()).env("PINFOLD_CONFIG", "bad.yaml").assert().code(2);
    pinfold(&["validate", "good.yaml"], dir.path()).env("PINFOLD_CONFIG", "bad.yaml").assert().success();
}

#[test]
fn the_schema_is_json_and_names_what_it_is() {
    let dir = dir_with(&[]);
    let output = pinfold(&["schema"], dir.path()).output().unwrap();
    assert!(output.status.success());
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["properties"]["workers"].is_object(), "{schema}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure_of_ours() {
    // `pinfold schema | head -1`
    let dir = dir_with(&[]);
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("pinfold"))
        .arg("schema")
        .current_dir(dir.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_ne!(output.status.code(), Some(101), "no panic");
}
