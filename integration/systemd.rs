//! pinfold beside systemd: as a service of its own, from a root shell, and as an unprivileged user's. Needs a machine
//! whose init is systemd and whose services may be killed: scripts/test boots one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use pinfold::model::ExitCause;
use rustix::process::Signal;
use support::{
    ELSEWHERE, MARK, PINFOLD, misbehave, misbehaving,
    process::{Process, with_environment},
    run::{Ran, finish},
    tree,
    up::Up,
    wait_until,
};

/// One test's place on a machine with systemd: the product chooses its cgroups itself.
struct Guest {
    dir: tempfile::TempDir,
    mark: String,
    unit: String,
}

impl Guest {
    fn new(name: &str) -> Self {
        let init = fs::read_to_string("/proc/1/comm").unwrap_or_default();
        assert_eq!(init.trim(), "systemd", "init is not systemd: {ELSEWHERE}");
        let dir = tempfile::Builder::new().prefix("pinfold-it-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mark = format!("pinfold-it-{name}-{}", std::process::id());
        let unit = format!("{mark}.service");
        Self { dir, mark, unit }
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn told(&self) -> Vec<String> {
        fs::read_to_string(self.file("told")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn wait_told(&self, key: &str) -> i32 {
        wait_until(&format!("a line \"{key} NUMBER\""), || {
            self.told().iter().find_map(|l| l.strip_prefix(key)?.trim().parse().ok())
        })
    }

    fn config(&self, workers: &str) -> String {
        let path = self.file("pinfold.yaml");
        fs::write(&path, format!("env: {{{MARK}: {}}}\nworkers:\n{workers}\n", self.mark)).unwrap();
        path
    }

    /// The arguments of this case's own directories.
    fn places(&self) -> [String; 4] {
        ["--state-dir".to_owned(), self.file("state"), "--runtime-dir".to_owned(), self.file("run")]
    }

    fn pinfold(&self, subcommand: &str) -> Command {
        let mut command = Command::new(PINFOLD);
        command.arg(subcommand).args(self.places()).env(MARK, &self.mark).current_dir("/");
        command
    }

    fn processes(&self) -> Vec<String> {
        with_environment(&format!("{MARK}={}", self.mark))
    }

    /// The supervisor, which in a service has no cgroup of its own: by its command line.
    fn supervisor(&self) -> Process {
        wait_until("a supervisor", || {
            let ours = self.processes();
            let line = ours.iter().find(|line| line.contains(" __supervisor "))?;
            Process::open(line.split(' ').nth(1)?.parse().ok()?)
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let path = unit_path(&self.unit);
        if path.exists() {
            let _stopped = finish(Command::new("systemctl").args(["kill", "--signal=KILL", &self.unit]));
            let _stopped = finish(Command::new("systemctl").args(["stop", &self.unit]));
            if std::thread::panicking() {
                let log = finish(Command::new("journalctl").args(["--no-pager", "-n", "60", "-u", &self.unit]));
                eprintln!("{}{}", log.stdout, fs::read_to_string(self.file("events")).unwrap_or_default());
            }
            fs::remove_file(path).unwrap();
            let _reloaded = finish(Command::new("systemctl").arg("daemon-reload"));
        }
        let left = self.processes();
        for process in &left {
            let pid = process.split(' ').nth(1).and_then(|pid| pid.parse().ok());
            if let Some(process) = pid.and_then(Process::open) {
                process.signal(Signal::KILL);
            }
        }
        if std::thread::panicking() {
            eprintln!("left behind: {left:#?}");
        } else {
            assert!(left.is_empty(), "left behind: {left:#?}");
        }
    }
}

fn unit_path(unit: &str) -> PathBuf {
    Path::new("/run/systemd/system").join(unit)
}

fn systemctl(args: &[&str]) -> Ran {
    let ran = finish(Command::new("systemctl").args(args));
    assert_eq!(ran.code, Some(0), "systemctl {args:?}: {ran:?}");
    ran
}

fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "-p", name, unit]).stdout.trim().to_owned()
}

fn main_pid(unit: &str) -> i32 {
    property(unit, "MainPID").parse().unwrap()
}

/// Waits for the unit to be active with another main process than `old`.
fn new_main(unit: &str, old: i32) -> Process {
    wait_until("the unit is active with a new main process", || {
        let pid = main_pid(unit);
        let active = property(unit, "ActiveState") == "active";
        Process::open(pid).filter(|_| active && pid != old && pid != 0)
    })
}

#[test]
fn a_services_worker_survives_everything_that_befalls_the_service() {
    let guest = Guest::new("service");
    let (lock, told) = (guest.file("lock"), guest.file("told"));
    let unit = ["restart: {policy: always, retry_delay: 0s}", "limits: {memory: {max_rss: 64MiB}}"];
    let config = guest.config(&misbehaving("steady", &["hold-lock", &lock, &told], &unit));
    let text = format!(
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=notify\nNotifyAccess=main\nWatchdogSec=8\nRestart=always\n\
         RestartSec=100ms\nTimeoutStartSec=300\nEnvironment={MARK}={}\nStandardOutput=append:{}\n\
         ExecStart={PINFOLD} up --on-term=detach -o json {} {config}\n",
        guest.mark,
        guest.file("events"),
        guest.places().join(" "),
    );
    fs::write(unit_path(&guest.unit), text).unwrap();
    systemctl(&["daemon-reload"]);

    // READY: `start` of a notify service returns when it has come, and the unit is active only then.
    systemctl(&["start", &guest.unit]);
    assert_eq!(property(&guest.unit, "ActiveState"), "active");
    let worker = Process::open(guest.wait_told("begin ")).expect("the worker lives");
    let cgroup = worker.cgroup();
    assert!(cgroup.ends_with("workers/steady.1"), "{}", cgroup.display());
    assert_eq!(tree::read(&cgroup, "memory.max"), (64_u64 << 20).to_string());
    let service = tree::mount().join(property(&guest.unit, "ControlGroup").trim_start_matches('/'));
    assert!(!cgroup.starts_with(&service), "the tree is not below the service: {}", cgroup.display());
    let steady = |when: &str| {
        assert!(worker.alive(), "the worker lives {when}");
        assert_eq!(worker.cgroup(), cgroup, "{when}");
        assert_eq!(guest.told(), [format!("begin {}", worker.pid)], "no second life of it {when}");
    };

    // What a supervisor that comes tells of it, and what is counted: it was taken over, by whichever supervisor, and never restarted.
    let taken_over = || {
        let events = fs::read_to_string(guest.file("events")).unwrap_or_default();
        events.matches(&format!("taken over untouched, with pid {}", worker.pid)).count()
    };
    let attached =
        || fs::read_to_string(guest.file("events")).unwrap_or_default().matches("re-attached 1 runs").count();
    let uncounted = |when: &str| {
        let status = finish(guest.pinfold("status").args(["steady", "-o", "json"]));
        let status: serde_json::Value =
            serde_json::from_str(&status.stdout).unwrap_or_else(|e| panic!("{e}: {status:?}"));
        assert_eq!(
            (&status["pid"], &status["run"], &status["restarts"]),
            (&worker.pid.into(), &1.into(), &0.into()),
            "{when}"
        );
    };

    // WATCHDOG arrives, again and again.
    let beat = || property(&guest.unit, "WatchdogTimestampMonotonic").parse::<u64>().unwrap();
    let first = beat();
    let second = wait_until("a sign of life", || Some(beat()).filter(|b| *b > first));
    wait_until("one more sign of life", || Some(beat()).filter(|b| *b > second));
    let main = main_pid(&guest.unit);

    // A supervisor that no longer answers is replaced; systemd notices nothing.
    let stopped = guest.supervisor();
    stopped.signal(Signal::STOP);
    stopped.wait_gone("the stopped supervisor");
    assert_ne!(guest.supervisor().pid, stopped.pid);
    let then = beat();
    wait_until("signs of life from the new one", || Some(beat()).filter(|b| *b > then));
    assert_eq!((main_pid(&guest.unit), property(&guest.unit, "NRestarts").as_str()), (main, "0"));
    steady("after a supervisor was replaced");
    uncounted("after a supervisor was replaced");
    assert_eq!(attached(), 0, "its keeper was there all the time");
    let before = taken_over();

    // The main process is killed.
    Process::open(main).expect("the main process").signal(Signal::KILL);
    let second = new_main(&guest.unit, main);
    assert_eq!(property(&guest.unit, "NRestarts"), "1");
    steady("after a kill -9 of the main process");
    uncounted("after a kill -9 of the main process");
    assert_eq!((attached(), taken_over()), (1, before + 1), "that it goes on is told");

    systemctl(&["restart", &guest.unit]);
    let third = new_main(&guest.unit, second.pid);
    steady("after systemctl restart");
    uncounted("after systemctl restart");
    assert_eq!((attached(), taken_over()), (2, before + 2), "and told again");
    let events = fs::read_to_string(guest.file("events")).unwrap();
    assert_eq!(events.matches("\"kind\":\"exited\"").count(), 0, "no run has ended: {events}");

    systemctl(&["stop", &guest.unit]);
    assert!(!third.alive());
    steady("after systemctl stop");
    assert_eq!(property(&guest.unit, "Result"), "success");

    // --on-term=detach has left it: that was asked for. Its end is ours.
    fs::write(cgroup.join("cgroup.kill"), "1").unwrap();
    worker.wait_gone("the worker");
}

/// What `misbehave limits` told under `-m 32M --pids 9`.
fn assert_limited(ran: &Ran) -> PathBuf {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let fields = ran.stdout.trim().split('\t').filter_map(|f| f.split_once('='));
    let told: std::collections::BTreeMap<&str, &str> = fields.collect();
    assert_eq!(told["memory.max"], (32_u64 << 20).to_string(), "{ran:?}");
    assert_eq!(told["pids.max"], "9", "{ran:?}");
    tree::mount().join(told["cgroup"].trim_start_matches('/'))
}

#[test]
fn run_and_up_find_a_place_of_their_own_from_a_root_shell() {
    let guest = Guest::new("shell");
    let program = misbehave();
    let ran = finish(guest.pinfold("run").args(["-m", "32M", "--pids", "9", "--", &program, "limits"]));
    let cgroup = assert_limited(&ran);
    assert!(!cgroup.exists(), "nothing is left of it");

    let config = guest.config(&misbehaving("leaky", &["leak"], &["limits: {memory: {max_rss: 32MiB}}"]));
    let mut up = Up::spawn(guest.pinfold("up").arg(config));
    assert!(matches!(up.exited("leaky", 1), ExitCause::Oom { .. }));
    up.stop();
}

#[test]
fn run_and_up_find_a_place_of_their_own_from_a_users_session() {
    let guest = Guest::new("user");
    let id = finish(Command::new("id").args(["-u", "tester"]));
    let uid: u32 = id.stdout.trim().parse().unwrap_or_else(|_| panic!("there is no user tester: {ELSEWHERE}"));
    systemctl(&["start", &format!("user@{uid}.service")]);
    chown(guest.dir.path(), Some(uid), Some(uid)).unwrap();
    // Everything its session needs, and nothing of root's.
    let as_tester = |script: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "tester", "--regid", "tester", "--init-groups", "--inh-caps=-all"]);
        command.args(["systemd-run", "--user", "--pipe", "--wait", "--collect", "--quiet"]);
        command.arg(format!("--setenv={MARK}={}", guest.mark));
        command.args(["/bin/sh", "-c", script]).current_dir("/").env_clear();
        command.env("PATH", "/usr/bin:/bin").env("XDG_RUNTIME_DIR", format!("/run/user/{uid}"));
        command
    };
    let program = misbehave();
    let places = guest.places().join(" ");
    let ran = finish(&mut as_tester(&format!("exec {PINFOLD} run {places} -m 32M --pids 9 -- {program} limits")));
    let cgroup = assert_limited(&ran);
    let session = tree::mount().join(format!("user.slice/user-{uid}.slice/user@{uid}.service"));
    assert!(cgroup.starts_with(&session), "{}", cgroup.display());

    let unit = ["limits: {memory: {max_rss: 32MiB}}", "restart: {policy: on-failure, retry_delay: 0s, max_retries: 0}"];
    let config = guest.config(&misbehaving("leaky", &["leak"], &unit));
    chown(&config, Some(uid), Some(uid)).unwrap();
    let script = format!("exec {PINFOLD} up {places} -o json {config}");
    let mut up = Up::spawn_as_it_is(&mut as_tester(&script));
    assert!(matches!(up.exited("leaky", 1), ExitCause::Oom { .. }));
    assert!(matches!(up.exited("leaky", 2), ExitCause::Oom { .. }));
    // systemd-run does not pass a signal on: it is for the keeper itself.
    guest.supervisor().signal(Signal::TERM);
    assert_eq!(up.end().code, Some(0));
}

#[test]
fn a_down_is_not_answered_by_a_restart_and_the_service_shows_how_its_workers_do() {
    let guest = Guest::new("down");
    let config = guest.config(&misbehaving("steady", &["sleep"], &[]));
    for restart in ["Restart=on-failure", "Restart=always\nRestartPreventExitStatus=0"] {
        let text = format!(
            "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=notify\nNotifyAccess=main\n{restart}\nRestartSec=100ms\n\
             TimeoutStartSec=300\nEnvironment={MARK}={}\nEnvironment=PINFOLD_LOG=info\n\
             ExecStart={PINFOLD} up --on-term=detach -o json {} {config}\n",
            guest.mark,
            guest.places().join(" "),
        );
        fs::write(unit_path(&guest.unit), text).unwrap();
        systemctl(&["daemon-reload"]);
        systemctl(&["start", &guest.unit]);
        assert_eq!(property(&guest.unit, "StatusText"), "1 of 1 worker running");
        let main = Process::open(main_pid(&guest.unit)).expect("the main process");
        let down = finish(&mut guest.pinfold("down"));
        assert_eq!((down.code, down.stdout.as_str()), (Some(0), "steady: stopped\n"), "{down:?}");
        assert!(!main.alive());
        wait_until("the unit rests", || (property(&guest.unit, "ActiveState") == "inactive").then_some(()));
        assert_eq!(
            (property(&guest.unit, "Result"), property(&guest.unit, "NRestarts")),
            ("success".into(), "0".into())
        );
        assert_eq!(guest.processes(), Vec::<String>::new(), "{restart}");
    }

    // A supervisor that is killed is told of by the keeper, as a warning.
    systemctl(&["start", &guest.unit]);
    guest.supervisor().signal(Signal::KILL);
    wait_until("the keeper's warning in the journal", || {
        let unit = ["--no-pager", "-o", "cat", "-p", "warning..warning", "-u", &guest.unit];
        let log = finish(Command::new("journalctl").args(unit));
        log.stdout.contains("pinfold keeper: the supervisor is gone, ended by signal 9").then_some(())
    });
    wait_until("the next supervisor", || (finish(guest.pinfold("count").arg("steady")).stdout == "1\n").then_some(()));
    assert_eq!(finish(&mut guest.pinfold("down")).code, Some(0));
    wait_until("the unit rests", || (property(&guest.unit, "ActiveState") == "inactive").then_some(()));
}
