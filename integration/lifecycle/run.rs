//! `pinfold run`: one command, without a supervisor.

use std::{collections::BTreeMap, fs, time::Duration};

use pinfold::model::ExitCause;

use crate::support::{Case, misbehave, run::run, scaled, tree};

#[test]
fn run_ends_with_the_commands_own_code_and_reports_its_cause() {
    let case = Case::new();
    for code in [0, 1, 42, 123, 255] {
        let ran = run(&case, &["--", "/bin/sh", "-c", &format!("echo out; echo err >&2; exit {code}")]);
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert_eq!(ran.stdout, "out\n");
        assert!(ran.stderr.contains("err\n"), "{ran:?}");
        assert_eq!(ran.cause(), ExitCause::Exited { code });
        assert_eq!(tree::run_dirs(&case.root), Vec::<String>::new(), "nothing is left after it");
    }
}

#[test]
fn run_tells_signals_time_and_what_could_not_be_executed_apart() {
    let case = Case::new();
    let plain = case.file("plain");
    fs::write(&plain, "").unwrap();

    let ran = run(&case, &["--", "/bin/bash", "-c", "ulimit -c 0; kill -SEGV $$"]);
    assert_eq!((ran.code, ran.cause()), (Some(128 + 11), ExitCause::Signaled { signal: 11, core: false }), "{ran:?}");
    let ran = run(&case, &["--timeout", "300ms", "--", "/bin/sleep", "1000"]);
    assert_eq!(ran.code, Some(124), "{ran:?}");
    assert!(ran.took < scaled(Duration::from_secs(5)), "{ran:?}");
    let ran = run(&case, &["--", "/nonexistent/program"]);
    assert_eq!(ran.code, Some(127), "{ran:?}");
    assert!(ran.stderr.contains("/nonexistent/program") && ran.stderr.contains("No such file"), "{ran:?}");
    let ran = run(&case, &["--", &plain]);
    assert_eq!(ran.code, Some(126), "{ran:?}");
    assert!(ran.stderr.contains("Permission denied"), "{ran:?}");
    let ran = run(&case, &["-u", "nobody-of-this-name", "--", "/bin/true"]);
    assert_eq!(ran.code, Some(125), "{ran:?}");
    assert!(ran.stderr.contains("nobody-of-this-name"), "{ran:?}");
}

#[test]
fn run_leaves_nothing_of_a_command_that_has_forked_away() {
    let case = Case::new();
    let told = case.file("told");
    let script =
        format!("{} double-fork {told} & while ! grep -q pid {told}; do sleep 0.01; done; exit 5", misbehave());
    let ran = run(&case, &["--", "/bin/sh", "-c", &script]);
    assert_eq!(ran.code, Some(5), "{ran:?}");
    case.wait_told("told", "orphan ");
    // Not a moment later: it has ended, so they have.
    assert_eq!(case.processes(), Vec::<String>::new());
}

#[test]
fn two_hundred_runs_at_once_do_not_disturb_each_other() {
    let case = Case::alone();
    let codes: BTreeMap<i32, Option<i32>> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8)
            .map(|lane| {
                let case = &case;
                scope.spawn(move || {
                    let code = |i: i32| run(case, &["--", "/bin/sh", "-c", &format!("exit {i}")]).code;
                    (0..25).map(|i| lane * 25 + i).map(|i| (i, code(i))).collect::<Vec<_>>()
                })
            })
            .collect();
        runs.into_iter().flat_map(|r| r.join().unwrap()).collect()
    });
    let wrong: Vec<_> = codes.iter().filter(|(want, got)| **got != Some(**want)).collect();
    assert_eq!(codes.len(), 200);
    assert!(wrong.is_empty(), "{wrong:?}");
}
