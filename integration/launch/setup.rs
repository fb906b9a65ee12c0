//! Where a child finds itself, and how it is set up.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use pinfold::keeper::protocol::{FromKeeper, ToKeeper};
use pinfold::kernel::launch::plan::{Ids, Rlimit};
use pinfold::kernel::launch::{Method, Progress, spawn};
use pinfold::kernel::pidfd::{self, Whom};
use pinfold::model::ExitStatus;
use serde_bytes::ByteBuf;

use crate::support::{Bed, MISBEHAVE, TESTBED, Tree, plan, run, wait_for};

/// `report-self` as the child wrote it.
fn report(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(' ')).filter(|(key, _)| *key != "env").collect()
}

#[test]
fn two_hundred_children_find_themselves_where_and_as_they_should_be() {
    for method in ["into-cgroup", "move"] {
        let bed = Bed::start(method);
        let (mut fake, ..) = bed.greeted();
        let runs: Vec<_> = (1..=200).map(|n| run("self", n)).collect();
        for run in &runs {
            let mut plan = plan(run, &[MISBEHAVE, "report-self"]);
            plan.nice = Some(3);
            plan.oom_score_adj = 77;
            plan.rlimits = vec![Rlimit { resource: libc::RLIMIT_NOFILE, soft: 100, hard: 200 }];
            plan.working_directory = ByteBuf::from("/usr");
            plan.ids = Some(Ids { uid: 4711, gid: 4712, groups: vec![4712, 4713] });
            bed.launch(&fake, &plan);
        }
        let (mut started, mut ended) = (0, 0);
        while started < runs.len() || ended < runs.len() {
            match fake.next() {
                (FromKeeper::Launched { .. }, fds) => started += fds.len(),
                (FromKeeper::Exited { run, status, .. }, _) => {
                    assert_eq!(status, Some(ExitStatus::Exited { code: 0 }), "{run}");
                    fake.send(&ToKeeper::Ack { run }, &[]);
                    ended += 1;
                }
                (other, _) => panic!("{other:?}"),
            }
        }
        for run in &runs {
            let path = bed.logs(run).stdout;
            let text = wait_for("the report", || {
                std::fs::read_to_string(&path).ok().filter(|text| text.contains("env ONLY=this"))
            });
            let report = report(&text);
            let cgroup = format!("{}/{run}", bed.tree.root.file_name().unwrap().to_str().unwrap());
            assert!(report["cgroup"].ends_with(&cgroup), "{}", report["cgroup"]);
            for (fact, value) in [
                ("fds", "0 1 2"),
                ("stdin", "/dev/null"),
                ("SigBlk", "0000000000000000"),
                // Rust's runtime, in the reporter itself, ignores SIGPIPE (13).
                ("SigIgn", "0000000000001000"),
                ("Uid", "4711 4711 4711 4711"),
                ("Gid", "4712 4712 4712 4712"),
                ("Groups", "4712 4713"),
                ("Umask", "0027"),
                ("CapInh", "0000000000000000"),
                ("CapAmb", "0000000000000000"),
                ("CapEff", "0000000000000000"),
                ("session", "own"),
                ("group", "own"),
                ("cwd", "/usr"),
                ("nice", "3"),
                ("oom_score_adj", "77"),
                ("nofile", "Some(100) Some(200)"),
            ] {
                assert_eq!(report[fact], value, "{fact} of {run} by {method}\n{text}");
            }
            let env: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("env ")).collect();
            assert_eq!(env, ["PATH=/usr/bin:/bin", "ONLY=this"]);
        }
        assert_eq!(fake.list(), [], "all were acknowledged");
        assert_eq!(bed.leave(fake, 0), 0);
    }
}

#[test]
fn a_worker_without_limits_of_its_own_gets_the_descriptor_limit_from_before_the_keeper_raised_it() {
    let bed = Bed::start("into-cgroup");
    let (fake, ..) = bed.greeted();
    let run = run("nofile", 1);
    bed.launch(&fake, &plan(&run, &[MISBEHAVE, "report-self"]));
    let path = bed.logs(&run).stdout;
    let text = wait_for("the report", || std::fs::read_to_string(&path).ok().filter(|t| t.contains("env ONLY")));
    let ours = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!(report(&text)["nofile"], format!("{:?} {:?}", ours.current, ours.maximum));
}

/// A terminal, its controlling process (a shell's part) and a command in the foreground.
#[test]
fn a_command_on_a_terminal_gets_its_own_foreground_group() {
    use nix::pty::openpty;
    let tree = Tree::new();
    let cgroup = tree.make("shell.1");
    let terminal = openpty(None, None).unwrap();
    // setsid --ctty gives a session with this terminal; the session leader launches as `run` does.
    let mut shell = plan(&run("shell", 1), &["/usr/bin/setsid", "--ctty", "--wait", TESTBED, "foreground"]);
    shell.env.push(ByteBuf::from(format!("MISBEHAVE={MISBEHAVE}")));
    let mut child = spawn(&shell, cgroup.as_fd(), [terminal.slave.as_fd(); 3], Method::IntoCgroup).unwrap();
    assert_eq!(child.confirm.wait(), Progress::Execed);
    drop(terminal.slave);
    let mut text = String::new();
    let mut master = std::fs::File::from(terminal.master);
    while !text.contains("env ") {
        let mut buffer = [0; 4096];
        let n = std::io::Read::read(&mut master, &mut buffer).unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    let text = text.replace('\r', "");
    let report = report(&text);
    assert_eq!((report["group"], report["session"], report["foreground"]), ("own", "another's", "own"), "{text}");
    pidfd::reap_blocking(Whom::PidFd(child.pidfd.as_fd())).unwrap();
}
