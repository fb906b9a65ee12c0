//! A launch that fails, and what is said of it.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pinfold::clock::monotonic;
use pinfold::keeper::protocol::{FromKeeper, ToKeeper};
use pinfold::kernel::launch::plan::{Ids, LaunchPlan, Rlimit};
use pinfold::kernel::launch::{Method, Progress, spawn};
use pinfold::kernel::pidfd::{self, Whom};
use pinfold::model::{Stage, Way};
use serde_bytes::ByteBuf;

use crate::support::{self, Bed, MISBEHAVE, Tree, launched, plan, run};

/// What a plan's failure says, by either method, and that it can be said within 50 ms: the best of a few tries, because
/// other tests run beside this one.
fn failure(tree: &Tree, number: &mut u32, change: &dyn Fn(&mut LaunchPlan)) -> String {
    let mut texts = Vec::new();
    for method in [Method::IntoCgroup, Method::Move] {
        let mut best = Duration::MAX;
        for _ in 0..20 {
            *number += 1;
            let (took, text) = fail_once(tree, *number, change, method);
            texts.push(text);
            best = best.min(took);
            if best < Duration::from_millis(50) {
                break;
            }
        }
        assert!(best < Duration::from_millis(50), "{best:?}");
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "every try says the same: {texts:?}");
    texts.remove(0)
}

fn fail_once(tree: &Tree, number: u32, change: &dyn Fn(&mut LaunchPlan), method: Method) -> (Duration, String) {
    let null = std::fs::File::open("/dev/null").unwrap();
    let run = run("fails", number);
    let cgroup = tree.make(&run.to_string());
    let mut plan = plan(&run, &["/bin/true"]);
    change(&mut plan);
    let begin = monotonic();
    match spawn(&plan, cgroup.as_fd(), [null.as_fd(); 3], method) {
        Err(e) => (monotonic().since(begin), e.to_string()),
        Ok(mut child) => {
            let progress = child.confirm.wait();
            let took = monotonic().since(begin);
            pidfd::reap_blocking(Whom::PidFd(child.pidfd.as_fd())).unwrap();
            let Progress::Failed(e) = progress else { panic!("{progress:?}") };
            (took, e.to_string())
        }
    }
}

#[test]
fn every_failure_names_step_object_and_reason_within_50_ms() {
    let tree = Tree::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let file = |name: &str, mode: u32, text: &[u8]| {
        std::fs::write(path(name), text).unwrap();
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(mode)).unwrap();
        path(name)
    };
    let bytes = |text: &str| ByteBuf::from(text.to_owned());
    let ids = |uid| Some(Ids { uid, gid: 4711, groups: vec![4711] });

    let plain = file("plain", 0o644, b"#!/bin/sh\n");
    let script = file("script", 0o755, b"#!/bin/nosuch -e\necho\n");
    let windows = file("windows", 0o755, b"#!/bin/sh\r\necho\r\n");
    let forbidden_interpreter = file("forbidden", 0o755, format!("#!{plain}\n").as_bytes());
    let formless = file("formless", 0o755, b"echo\n");
    let mut program = std::fs::read("/bin/true").unwrap();
    let loader = program.windows(5).position(|w| w == b"/lib6" || w == b"/lib/").expect("a dynamic program");
    program[loader + 1..loader + 4].copy_from_slice(b"bil");
    let loaderless = file("loaderless", 0o755, &program);
    let busy = file("busy", 0o755, b"\x7fELF");
    let _writer = std::fs::OpenOptions::new().write(true).open(&busy).unwrap();
    let secret = path("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o700)).unwrap();
    let directory = path("");
    let directory = directory.trim_end_matches('/');

    let mut number = 0;
    let mut fails = |change: &dyn Fn(&mut LaunchPlan)| failure(&tree, &mut number, change);
    let mut exec = |file: &str| fails(&|p| p.candidates = vec![bytes(file)]);
    assert_eq!(exec("/bin/nosuch"), "exec /bin/nosuch: No such file or directory");
    assert_eq!(exec(&plain), format!("exec {plain}: Permission denied"));
    assert_eq!(exec(&script), format!("exec {script}: interpreter /bin/nosuch: No such file or directory"));
    assert_eq!(exec(&windows), format!("exec {windows}: interpreter /bin/sh\\r: No such file or directory"));
    assert_eq!(
        exec(&forbidden_interpreter),
        format!("exec {forbidden_interpreter}: interpreter {plain}: Permission denied")
    );
    assert_eq!(
        exec(&formless),
        format!("exec {formless} (neither a program nor a script with a #! line): Exec format error")
    );
    let text = exec(&loaderless);
    assert!(text.starts_with(&format!("exec {loaderless}: dynamic loader /bil")), "{text}");
    assert!(text.ends_with(": No such file or directory"), "{text}");
    assert_eq!(exec(&busy), format!("exec {busy}: Text file busy"));
    assert_eq!(exec(directory), format!("exec {directory} (a directory): Permission denied"));
    assert_eq!(exec(&format!("{plain}/x")), format!("exec {plain}/x: Not a directory"));

    let search = |p: &mut LaunchPlan, dirs: &[&str], name: &str| {
        p.argv = vec![bytes(name)];
        p.candidates = dirs.iter().map(|dir| bytes(&format!("{dir}/{name}"))).collect();
    };
    assert_eq!(
        fails(&|p| search(p, &["/bin", "/usr/bin"], "frobnicate")),
        "exec frobnicate (not found in PATH=/bin:/usr/bin): No such file or directory"
    );
    assert_eq!(
        fails(&|p| search(p, &["/nosuch", directory, "/bin"], "plain")),
        format!("exec {plain}: Permission denied"),
        "a forbidden file is remembered, not hidden by a missing one behind it"
    );
    assert_eq!(
        fails(&|p| search(p, &["/nosuch", directory], "script")),
        format!("exec {script}: interpreter /bin/nosuch: No such file or directory")
    );
    assert_eq!(fails(&|p| search(p, &[], "true")), "exec true (PATH is empty): No such file or directory");
    assert_eq!(fails(&|p| p.argv.push(bytes("a\0b"))), "exec: a NUL byte in an argument");
    assert_eq!(
        fails(&|p| p.env = vec![bytes(&"x".repeat(200_000))]),
        "exec /bin/true (200011 bytes of arguments and environment): Argument list too long"
    );

    assert_eq!(fails(&|p| p.working_directory = bytes("/nosuch")), "chdir /nosuch: No such file or directory");
    assert_eq!(
        fails(&|p| (p.working_directory, p.ids) = (bytes(&secret), ids(4711))),
        format!("chdir {secret}: Permission denied"),
        "entered as the worker's user"
    );
    let limit = |p: &mut LaunchPlan| {
        p.rlimits = vec![Rlimit { resource: libc::RLIMIT_NOFILE, soft: 1 << 40, hard: 1 << 40 }];
    };
    assert_eq!(fails(&limit), "rlimit RLIMIT_NOFILE=1099511627776: Operation not permitted");
    assert_eq!(
        fails(&|p| p.rlimits = vec![Rlimit { resource: 99, soft: 7, hard: 7 }]),
        "rlimit 99=7: Invalid argument"
    );
    assert_eq!(fails(&|p| p.oom_score_adj = 1001), "oom_score_adj 1001: Invalid argument");
    assert_eq!(fails(&|p| p.ids = ids(u32::MAX)), "uid: 4294967295 was not taken on although the kernel said so");
    assert_eq!(
        fails(&|p| p.ids = Some(Ids { uid: 1, gid: 1, groups: vec![u32::MAX] })),
        "groups 4294967295: Invalid argument"
    );
    // The directory is not where the plan says.
    assert_eq!(
        fails(&|p| p.cgroup_name = "elsewhere.1".into()),
        "membership: the child is not in elsewhere.1 although the kernel reported success"
    );
    // A terminal's own group, without a terminal.
    if std::fs::File::open("/dev/tty").is_err() {
        let foreground = pinfold::kernel::launch::plan::Session::Foreground;
        assert_eq!(fails(&|p| p.session = foreground), "session: No such device or address");
    }
}

#[test]
fn nothing_is_started_in_a_frozen_or_removed_cgroup() {
    let tree = Tree::new();
    let null = std::fs::File::open("/dev/null").unwrap();
    let run = run("frozen", 1);
    let cgroup = tree.make("frozen.1");
    tree.write("frozen.1/cgroup.freeze", "1");
    let refused = |expected: &str| {
        let err = spawn(&plan(&run, &["/bin/true"]), cgroup.as_fd(), [null.as_fd(); 3], Method::IntoCgroup);
        assert_eq!(err.unwrap_err().to_string(), expected);
    };
    refused("cgroup: frozen.1 is frozen: nothing can start in it before it is thawed");
    tree.write("frozen.1/cgroup.freeze", "0");
    tree.write("cgroup.freeze", "1");
    refused("cgroup: frozen.1 is frozen: nothing can start in it before it is thawed");
    tree.write("cgroup.freeze", "0");
    std::fs::remove_dir(tree.root.join("frozen.1")).unwrap();
    refused("cgroup frozen.1/cgroup.events: No such file or directory");
}

#[test]
fn a_failed_launch_is_told_through_the_keeper_until_it_is_acknowledged() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let run = run("missing", 1);
    bed.launch(&fake, &plan(&run, &["/bin/nosuch"]));
    let (FromKeeper::Failed { run: failed, error }, _) = fake.next() else { panic!() };
    assert_eq!((&failed, error.stage), (&run, Stage::Exec));
    assert_eq!(error.to_string(), "exec /bin/nosuch: No such file or directory");
    assert_eq!(fake.list(), [FromKeeper::Failed { run: run.clone(), error }]);
    fake.send(&ToKeeper::Ack { run }, &[]);
    assert_eq!(fake.list(), []);
    assert_eq!(bed.tree.pids("missing.1"), [0; 0], "its child is gone");
}

#[test]
fn a_run_is_not_launched_twice_and_a_request_without_its_descriptors_is_refused() {
    let bed = Bed::start("into-cgroup");
    let (mut fake, ..) = bed.greeted();
    let run = run("once", 1);
    let cgroup = bed.tree.make("once.1");
    bed.launch_in(&fake, &plan(&run, &[MISBEHAVE, "sleep"]), cgroup.as_fd());
    let (_, pid) = launched(fake.next().0);
    bed.launch_in(&fake, &plan(&run, &[MISBEHAVE, "sleep"]), cgroup.as_fd());
    let (FromKeeper::Failed { error, .. }, _) = fake.next() else { panic!() };
    assert_eq!(error.to_string(), "keeper: the launch of once.1 was refused: it is known already");
    assert_eq!(bed.tree.pids("once.1"), [pid]);
    let other = support::run("once", 2);
    let logs = bed.logs(&other);
    fake.send(&ToKeeper::Launch { run: other, logs, way: Way::Usual }, &[cgroup.as_fd()]);
    let (FromKeeper::Failed { error, .. }, _) = fake.next() else { panic!() };
    assert_eq!(
        error.to_string(),
        "keeper: the launch of once.2 was refused: 1 descriptors beside a message that has 2"
    );
}
