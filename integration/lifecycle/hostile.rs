//! Configurations that are made to do harm.

use std::{fmt::Write, fs, process::Command};

use crate::MS;
use crate::support::{self, Case, run::finish, scaled, tree};

#[test]
fn hostile_configurations_are_refused_quickly_with_exit_code_2() {
    let case = Case::alone();
    let one = |limits: &str| {
        format!("workers:\n  - id: a\n    unit:\n      command: [\"/bin/true\"]\n      limits: {limits}\n")
    };
    let bomb = {
        let mut yaml = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let aliases = vec![format!("*a{}", i - 1); 9].join(",");
            writeln!(yaml, "a{i}: &a{i} [{aliases}]").unwrap();
        }
        yaml + "workers: *a11\n"
    };
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("10-megabytes", "# all comment\n".repeat(10_000_000 / 14).into_bytes()),
        (
            "10-megabytes-of-workers",
            "workers:\n".bytes().chain("- {id: a}\n".bytes().cycle().take(10_000_000)).collect(),
        ),
        ("depth-flow", [vec![b'['; 100_000], vec![b']'; 100_000]].concat()),
        ("depth-block", format!("workers: {}", "- ".repeat(100_000)).into_bytes()),
        ("depth-maps", "{a: ".repeat(100_000).into_bytes()),
        ("alias-bomb", bomb.into_bytes()),
        ("alias-loop", b"workers: &a [*a]\n".to_vec()),
        ("nul", b"workers:\n  - id: \"a\0b\"\n".to_vec()),
        ("nul-in-argument", one("{}").replace("/bin/true", "/bin/true\\0x").into_bytes()),
        ("invalid-utf8", b"workers:\n  - id: \"\xff\xfe\"\n".to_vec()),
        ("memory-is-minus-1", one("{memory: -1}").into_bytes()),
        ("max-rss-is-minus-1", one("{memory: {max_rss: -1}}").into_bytes()),
        ("max-rss-is-2-to-64", one("{memory: {max_rss: 18446744073709551616}}").into_bytes()),
        ("max-rss-is-1e400", one("{memory: {max_rss: 1e400}}").into_bytes()),
        ("percent-is-1e400", one("{cpu: {max_percent: 1e400}}").into_bytes()),
        ("percent-is-nan", one("{cpu: {max_percent: .nan}}").into_bytes()),
        ("duplicate-key", one("{pids: {max: 3}, pids: {max: 4}}").into_bytes()),
        ("unknown-key", one("{memory: {max_rsss: 64MiB}}").into_bytes()),
        ("no-list", b"workers: {}\n".to_vec()),
    ];
    // What the program takes to do nothing, on this machine, now: the best of five.
    let nothing = (0..5).map(|_| finish(Command::new(support::PINFOLD).arg("version")).took).min().unwrap();
    // 100 ms on a machine where nothing takes 2 ms; and never less than what a scheduler may take away.
    let bound = (nothing * 50).max(scaled(100 * MS));
    for (name, text) in hostile {
        let file = case.file(name);
        fs::write(&file, text).unwrap();
        for subcommand in ["validate", "up"] {
            // The better of two: the first may have to read the file from a disk.
            let mut command = case.pinfold(subcommand);
            command.arg(&file);
            let runs = [finish(&mut command), finish(&mut command)];
            let ran = &runs[0];
            assert_eq!(ran.code, Some(2), "{subcommand} {name}: {ran:?}");
            assert!(!ran.stderr.is_empty() && ran.stderr.len() < 64 << 10, "{subcommand} {name}: {ran:?}");
            let took = runs[0].took.min(runs[1].took);
            assert!(took < bound, "{subcommand} {name} took {took:?}, doing nothing takes {nothing:?}");
        }
    }
    assert_eq!(tree::children(&case.root), Vec::<std::path::PathBuf>::new(), "nothing was made");
}
