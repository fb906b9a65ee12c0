//! The package, from its installation to its removal, as somebody new meets it: typed on a terminal of 80 × 24 characters; and
//! `scripts/install` for who has no use for a package. Needs a machine whose init is systemd, on which nobody else uses pinfold, and the
//! package in `target/package`: scripts/test has both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

#[path = "package/screen.rs"]
mod screen;
mod support;

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use screen::Screen;
use support::{ELSEWHERE, patience, process::Process, run::finish};

const CONFIG: &str = "/etc/pinfold/pinfold.yaml";

const SIX_LINES: &str = "\
workers:
  - id: web
    unit:
      command: sh -c 'echo ready; exec sleep 1000'
      limits: {memory: {max_rss: 32MiB}}
      restart: {policy: never}
";

/// The only package there.
fn package() -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/package");
    let all = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}: {ELSEWHERE}", dir.display()));
    let mut all = all.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "deb"));
    let (Some(package), None) = (all.next(), all.next()) else { panic!("one package: {ELSEWHERE}") };
    package.to_str().unwrap().to_owned()
}

/// What is on a screen, without what is different each time.
macro_rules! assert_screen {
    ($name:literal, $shown:expr) => {
        insta::with_settings!({ filters => vec![
            (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE"),
            (r"\d\d:\d\d:\d\d(\.\d+)?", "TIME"),
            (r"\b\d+(\.\d+)?(ms|s|m\d+s)\b", "TIMESPAN"),
            (r"\d+ → \d+", "N → N"),
            (r"\+\d+", "+N"),
            (r"pid \d+", "pid PID"),
            (r" \d+(\.\d+)? [KM]?i?B ", " SIZE "),
            (r"running +\d+", "running  PID"),
            (r" {3,}", "  "),
        ] }, { insta::assert_snapshot!($name, $shown) });
    };
}

/// The number that a command printed behind itself.
fn number(shown: &str) -> i32 {
    shown.lines().find_map(|line| line.trim().parse().ok()).unwrap_or_else(|| panic!("no number: {shown}"))
}

/// Types a command, which has to succeed.
fn succeeds(screen: &mut Screen, command: &str) {
    let shown = screen.types(&format!("{command}; echo \"code $?\""));
    assert!(shown.contains("code 0"), "{shown}");
}

/// The main processes of the service and of its only worker.
fn pids(screen: &mut Screen) -> (i32, i32) {
    let service = number(&screen.types("systemctl show -p MainPID --value pinfold"));
    let worker = screen.types("pinfold ps -o json | grep -o '\"pid\": *[0-9]*' | grep -o '[0-9]*'");
    (service, number(&worker))
}

/// How often a binary was replaced on this machine, by whichever test.
fn replacements(screen: &mut Screen) -> i32 {
    number(&screen.types("journalctl -u pinfold --no-pager -o cat | grep -c 'the binary was replaced'"))
}

/// The machine, whose only pinfold is the test's as long as this is held.
fn machine() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let machine = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let init = fs::read_to_string("/proc/1/comm").unwrap_or_default();
    assert_eq!(init.trim(), "systemd", "init is not systemd: {ELSEWHERE}");
    assert!(!Path::new("/usr/bin/pinfold").exists(), "it is installed already: {ELSEWHERE}");
    machine
}

#[test]
fn somebody_new_installs_it_breaks_a_worker_asks_why_mends_it_upgrades_and_removes_it() {
    let _machine = machine();
    let package = package();
    let mut screen = Screen::new(patience() * 4);

    succeeds(&mut screen, &format!("dpkg -i {package} >/dev/null"));
    let without_config =
        screen.types("systemctl start pinfold; systemctl is-enabled pinfold; systemctl is-active pinfold");
    assert!(without_config.contains("\nenabled\ninactive"), "nothing to do, and no failure: {without_config}");

    fs::write(CONFIG, SIX_LINES).unwrap();
    succeeds(&mut screen, "systemctl start pinfold");
    assert_screen!("it_runs", screen.types("pinfold ps"));

    fs::write(CONFIG, SIX_LINES.replace("exec sleep 1000", "tail /dev/zero")).unwrap();
    succeeds(&mut screen, "systemctl reload pinfold");
    screen.again_until("pinfold ps -a", |shown| shown.contains("stopped") && shown.contains("oom"));
    assert_screen!("why_it_is_down", screen.types("pinfold why web"));

    fs::write(CONFIG, SIX_LINES).unwrap();
    assert_screen!("mended", screen.types("pinfold reload"));

    screen.begins("pinfold logs -f web");
    screen.until("what it has written", |shown| shown.matches("\nready").count() == 3);
    screen.ends("\x03");
    screen.begins("pinfold top");
    // Whole, and with numbers: what it looks like is held by the snapshots of its view.
    let whole = |shown: &str| shown.trim_end().lines().count() == 24 && shown.contains("max 32 MiB");
    let top = screen.until("the screen of top", whole);
    assert!(top.starts_with(" 1 worker, 1 running") && top.contains("\nweb "), "{top}");
    screen.ends("q");
    let back = screen.types("pinfold stop web");
    assert!(back.contains("\nweb: stopped\n"), "{back}");

    // An upgrade, here by the same version.
    screen.types("pinfold start web");
    let before = pids(&mut screen);
    let replaced = replacements(&mut screen);
    let web = Process::open(before.1).expect("web runs");
    succeeds(&mut screen, &format!("dpkg -i {package} >/dev/null"));
    assert_eq!(pids(&mut screen), before, "the same processes go on");
    assert_eq!(replacements(&mut screen), replaced + 1);

    let removed = screen.types("dpkg -r pinfold >/dev/null; echo \"code $?\"; pgrep -c pinfold");
    assert!(removed.contains("code 0") && number(&removed) == 0, "{removed}");
    web.wait_gone("a worker of a supervisor that was removed");
    assert!(Path::new("/var/lib/pinfold/pinfold.db").exists(), "what is remembered stays until it is purged");
    succeeds(&mut screen, "dpkg -P pinfold >/dev/null");
    assert!(!Path::new("/var/lib/pinfold").exists());
    assert!(Path::new(CONFIG).exists(), "who has written it keeps it");
    fs::remove_dir_all("/etc/pinfold").unwrap();
}

#[test]
fn what_was_installed_without_a_package_serves_is_replaced_under_its_workers_and_removed_without_a_trace() {
    let _machine = machine();
    let mut screen = Screen::new(patience() * 4);
    let install = format!("{}/scripts/install", env!("CARGO_MANIFEST_DIR"));
    let installs = format!("{install} --no-build >/dev/null 2>&1");
    // All of them, which are more than a screen has lines.
    let files = || finish(Command::new("find").args(["/usr/local", "-type", "f"])).stdout;
    let before = files();

    succeeds(&mut screen, &installs);
    assert!(files().contains("/usr/local/bin/pinfold\n") && !files().contains(".new\n"), "nothing half-done is left");
    let group = screen.types("getent group pinfold; ls -d /etc/pinfold/conf.d");
    assert!(group.contains("\npinfold:") && group.contains("\n/etc/pinfold/conf.d"), "{group}");

    fs::write(CONFIG, SIX_LINES).unwrap();
    succeeds(&mut screen, "systemctl start pinfold");
    let running = pids(&mut screen);
    let replaced = replacements(&mut screen);
    succeeds(&mut screen, &installs);
    assert_eq!(pids(&mut screen), running, "the same processes go on");
    assert_eq!(replacements(&mut screen), replaced + 1);

    let refused = screen.types(&format!("{install} --uninstall; echo \"code $?\""));
    assert!(refused.contains("pinfold down") && refused.contains("code 1"), "{refused}");
    succeeds(&mut screen, "pinfold down >/dev/null");
    succeeds(&mut screen, &format!("{install} --uninstall 2>/dev/null"));
    assert_eq!(files(), before);
    assert!(Path::new(CONFIG).exists(), "who has written it keeps it");
    fs::remove_dir_all("/etc/pinfold").unwrap();
    fs::remove_dir_all("/var/lib/pinfold").unwrap();
}
