//! Programs that probe workers, on the real kernel: whatever they do, they end with everything they made, and nothing of
//! them is left. Needs root and a cgroup2 mount, no controller; what their limits do is in `kernel/controllers.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use pinfold::{
    clock::{self, Clock},
    health::{
        probe::{Finding, Outcome as Tried, Probes, Tools},
        task::{self, Patient, Prober, RunSeen},
    },
    kernel::{
        auxiliary::{Auxiliary, MAX_OUTPUT, Outcome, Parts, Seat},
        launch::Method,
        place::{Situation, settle::settle},
    },
    model::{Event, EventKind, ExitStatus, HealthReport, HealthVerdict, ProbeKind, RunId, Stage, State, WorkerId},
    spec::types::{HealthCheck, HttpGet, Probe, ProbeAction, Spec},
};
use support::{
    Case, misbehaving, patience, scaled, tree,
    up::{Up, is},
    wait_until, worker as worker_of,
};
use tokio::sync::{mpsc, watch};

/// A timeout that is meant to be reached, and in which a program is executed for certain.
fn short() -> Duration {
    scaled(Duration::from_secs(1))
}

/// A case with its tree, and what runs programs in it.
struct Bed {
    auxiliary: Auxiliary,
    seat: Seat,
    case: Case,
}

impl Bed {
    fn new() -> Self {
        Self::on(Case::new(), Method::IntoCgroup)
    }

    fn on(case: Case, method: Method) -> Self {
        let situation = Situation::of_this_process().unwrap();
        let tree = settle(&situation, &case.root, false, &[]).unwrap();
        let [(key, value)] = case.mark();
        let auxiliary = Auxiliary::new(Parts {
            limits: tree.host(),
            dir: tree.aux,
            global_env: BTreeMap::from([(key.to_owned(), value.to_owned()), ("GREETING".into(), "hello".into())]),
            inherited: BTreeMap::new(),
            method,
        });
        Self { auxiliary, seat: Seat::default(), case }
    }

    fn aux(&self) -> PathBuf {
        self.case.root.join("aux")
    }

    async fn run(&self, argv: &[&str], timeout: Duration) -> Outcome {
        self.run_as(&Spec::new(vec!["/bin/true".into()]), argv, timeout).await
    }

    async fn run_as(&self, spec: &Spec, argv: &[&str], timeout: Duration) -> Outcome {
        let argv: Vec<_> = argv.iter().map(|word| (*word).to_owned()).collect();
        let plan = self.auxiliary.resolve(&run(1), spec, &argv).unwrap();
        self.auxiliary.run(&self.seat, &Arc::new(plan), timeout).await
    }

    async fn sh(&self, script: &str, timeout: Duration) -> Outcome {
        self.run(&["/bin/sh", "-c", script], timeout).await
    }

    /// Nothing is left, and that comes by itself.
    async fn gone(&self) {
        tokio::time::timeout(patience(), self.auxiliary.idle()).await.expect("something lives on");
        assert_eq!(tree::children(&self.aux()), Vec::<PathBuf>::new());
        assert_eq!(self.case.processes(), Vec::<String>::new());
    }

    /// The prober of a worker that runs as `spec`.
    fn probes(&self, spec: Spec) -> Probes {
        let tools = Arc::new(Tools::new(self.auxiliary.clone()));
        Probes::new(&tools, &worker(), &Arc::new(spec))
    }
}

fn worker() -> WorkerId {
    WorkerId::new("web").unwrap()
}

fn run(number: u32) -> RunId {
    RunId::new(worker(), number)
}

fn probe(action: ProbeAction, timeout: Duration) -> Probe {
    Probe {
        action,
        initial_delay: Duration::ZERO,
        period: Duration::from_millis(100),
        timeout,
        failure_threshold: 1,
        success_threshold: 1,
    }
}

fn exec(argv: &[&str]) -> ProbeAction {
    ProbeAction::Exec { argv: argv.iter().map(|word| (*word).to_owned()).collect() }
}

fn exited(code: i32, output: &str) -> Outcome {
    Outcome::Ended { status: ExitStatus::Exited { code }, oom: false, output: output.as_bytes().to_vec() }
}

#[tokio::test]
async fn a_program_is_told_by_its_code_and_its_output() {
    let bed = Bed::new();
    assert_eq!(bed.sh("exit 0", patience()).await, exited(0, ""));
    assert_eq!(bed.sh("echo out; echo err >&2; exit 3", patience()).await, exited(3, "out\nerr\n"));
    let killed = Outcome::Ended {
        status: ExitStatus::Signaled { signal: libc::SIGTERM, core: false },
        oom: false,
        output: Vec::new(),
    };
    assert_eq!(bed.sh("kill $$", patience()).await, killed);
    assert_eq!(bed.sh("cat", patience()).await, exited(0, ""), "its standard input is empty");
    bed.gone().await;
}

#[tokio::test]
async fn the_other_way_into_the_cgroup_leads_there_too() {
    let bed = Bed::on(Case::new(), Method::Move);
    assert_eq!(bed.sh("echo there; exit 3", patience()).await, exited(3, "there\n"));
    // The move waits for the kernel's other work: 10 ms on an idle host.
    assert!(matches!(bed.sh("sleep 1000", 3 * short()).await, Outcome::TimedOut { .. }));
    bed.gone().await;
}

/// From a cgroup that saw a kill, a child that is born in another one is killed before its first instruction, on kernels
/// with that bug; on the others this is the plain way.
#[test]
fn where_children_die_at_birth_the_other_way_is_found() {
    let case = Case::new();
    let killed = case.root.join("killed");
    fs::create_dir(&killed).unwrap();
    fs::write(killed.join("cgroup.kill"), "1").unwrap();
    let again = "a_program_is_told_by_its_code_and_its_output";
    let script = "echo 0 > \"$1/cgroup.procs\" && exec \"$0\" --exact \"$2\"";
    let mut sh = std::process::Command::new("sh");
    sh.args(["-c", script]).arg(std::env::current_exe().unwrap()).arg(&killed).arg(again);
    let output = sh.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn it_runs_in_a_cgroup_of_its_own_named_after_the_run() {
    let bed = Bed::new();
    let Outcome::Ended { output, .. } = bed.sh("cat /proc/self/cgroup", patience()).await else { panic!("no end") };
    let output = String::from_utf8(output).unwrap();
    let path = output.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    let below = path.rsplit_once("/aux/").map(|(_, name)| name);
    assert_eq!(below, Some("web.1.1"), "{path}");
    bed.gone().await;
}

#[tokio::test]
async fn it_runs_as_its_worker_does() {
    let bed = Bed::new();
    let mut spec = Spec::new(vec!["/bin/true".into()]);
    spec.user = Some("nobody".into());
    spec.working_directory = "/usr".into();
    spec.umask = 0o027;
    spec.nice = 7;
    spec.oom_score_adj = -500;
    spec.env = BTreeMap::from([("OWN".into(), "value".into())]);
    // Opening the standard output anew needs to be its owner.
    let script = "echo $(id -un) $(pwd) $(umask) $(nice) $OWN $GREETING $PINFOLD_WORKER.$PINFOLD_RUN \
                  $(cat /proc/self/oom_score_adj) $(ulimit -n) > /dev/stdout";
    let outcome = bed.run_as(&spec, &["/bin/sh", "-c", script], patience()).await;
    assert_eq!(outcome, exited(0, "nobody /usr 0027 7 value hello web.1 0 1024\n"));
    spec.limits.process.max_file_descriptors = Some(77);
    let outcome = bed.run_as(&spec, &["/bin/sh", "-c", "ulimit -n"], patience()).await;
    assert_eq!(outcome, exited(0, "77\n"));
    bed.gone().await;
}

#[tokio::test]
async fn a_program_that_does_not_end_is_killed_at_its_timeout() {
    let bed = Bed::new();
    let begun = clock::monotonic();
    let outcome = bed.sh("echo begun; trap '' TERM INT HUP; while :; do sleep 1; done", short()).await;
    assert_eq!(outcome, Outcome::TimedOut { output: b"begun\n".to_vec() });
    let took = clock::monotonic().since(begun);
    assert!(took >= short() && took < short() + patience() / 3, "{took:?}");
    bed.gone().await;
}

#[tokio::test]
async fn of_a_flood_the_first_part_is_kept_and_nobody_is_blocked_by_the_rest() {
    let bed = Bed::new();
    let megabytes = "head -c 20000000 /dev/zero | tr '\\0' x; exit 5";
    let Outcome::Ended { status, output, .. } = bed.sh(megabytes, patience()).await else { panic!("no end") };
    assert_eq!((status, output), (ExitStatus::Exited { code: 5 }, vec![b'x'; MAX_OUTPUT]));
    let Outcome::TimedOut { output } = bed.run(&["yes"], short()).await else { panic!("yes has ended") };
    assert_eq!(output.len(), MAX_OUTPUT);
    bed.gone().await;
}

#[tokio::test]
async fn what_it_leaves_behind_goes_with_it_and_is_not_waited_for() {
    let bed = Bed::new();
    let holding = "sleep 1000 & setsid sh -c 'trap \"\" TERM; sleep 1000; sleep 1000' & echo done; exit 4";
    assert_eq!(bed.sh(holding, patience()).await, exited(4, "done\n"), "though the pipe is held open");
    bed.gone().await;
    let orphans = "(setsid sleep 1000 > /dev/null 2>&1 &) ; exit 0";
    assert_eq!(bed.sh(orphans, patience()).await, exited(0, ""));
    bed.gone().await;
}

#[tokio::test]
async fn a_program_that_has_moved_out_of_its_cgroup_is_killed_all_the_same() {
    let bed = Bed::new();
    // A leaf of its own: a cgroup that passes controllers on takes no process.
    let elsewhere = bed.case.root.join("runs/elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let script = format!("echo 0 > {}/cgroup.procs; exec sleep 1000", elsewhere.display());
    assert_eq!(bed.sh(&script, short()).await, Outcome::TimedOut { output: Vec::new() });
    bed.gone().await;
    fs::remove_dir(&elsewhere).unwrap();
}

#[tokio::test]
async fn the_cgroups_it_makes_below_its_own_go_too() {
    let bed = Bed::new();
    let own = bed.aux().join("web.1.1");
    let own = own.display();
    let script = format!("mkdir -p {own}/a/b {own}/c; sleep 1000 & echo $! > {own}/a/b/cgroup.procs; sleep 1000");
    assert_eq!(bed.sh(&script, short()).await, Outcome::TimedOut { output: Vec::new() });
    bed.gone().await;
}

#[tokio::test]
async fn what_cannot_be_executed_says_so() {
    let bed = Bed::new();
    let Outcome::NotStarted(error) = bed.run(&["/no/such/program"], patience()).await else { panic!("it ran") };
    assert_eq!(error.to_string(), "exec /no/such/program: No such file or directory");
    let Outcome::NotStarted(error) = bed.run(&["/usr"], patience()).await else { panic!("it ran") };
    assert_eq!((error.stage, error.errno), (Stage::Exec, libc::EACCES));
    let mut spec = Spec::new(vec!["/bin/true".into()]);
    spec.working_directory = "/no/such/directory".into();
    let Outcome::NotStarted(error) = bed.run_as(&spec, &["/bin/true"], patience()).await else { panic!("it ran") };
    assert_eq!(error.stage, Stage::Chdir);
    bed.gone().await;
}

#[tokio::test]
async fn nothing_is_started_in_a_frozen_tree() {
    let bed = Bed::new();
    fs::write(bed.case.root.join("cgroup.freeze"), "1").unwrap();
    wait_until("the tree is frozen", || (tree::field(&bed.case.root, "cgroup.events", "frozen") == 1).then_some(()));
    let Outcome::NotStarted(error) = bed.run(&["/bin/true"], patience()).await else { panic!("it ran") };
    assert!(error.to_string().contains("is frozen"), "{error}");
    bed.gone().await;
    fs::write(bed.case.root.join("cgroup.freeze"), "0").unwrap();
    assert_eq!(bed.run(&["/bin/true"], patience()).await, exited(0, ""));
    bed.gone().await;
}

#[tokio::test]
async fn a_program_nobody_waits_for_any_more_is_killed() {
    let bed = Bed::new();
    let told = bed.case.file("told");
    let script = format!("echo pid $$ > {told}; exec sleep 1000");
    tokio::select! {
        outcome = bed.sh(&script, patience()) => panic!("{outcome:?}"),
        () = appears(Path::new(&told)) => {}
    }
    bed.gone().await;
}

/// Waits for a file that another process writes.
async fn appears(path: &Path) {
    let deadline = clock::monotonic() + patience();
    while !path.exists() {
        assert!(clock::monotonic() < deadline, "{} never came", path.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn of_one_worker_a_second_program_waits_for_the_first_and_of_two_it_does_not() {
    let bed = Bed::new();
    let told = bed.case.file("told");
    let script = format!("echo pid $$ > {told}; exec sleep 1000");
    let long = bed.sh(&script, patience());
    let after = async {
        appears(Path::new(&told)).await;
        let second = bed.run(&["/bin/true"], short()).await;
        let other = Bed { seat: Seat::default(), auxiliary: bed.auxiliary.clone(), case: Case::new() };
        (second, other.run(&["/bin/true"], patience()).await)
    };
    tokio::select! {
        outcome = long => panic!("{outcome:?}"),
        (second, other) = after => {
            assert_eq!(second, Outcome::Occupied);
            assert_eq!(other, exited(0, ""));
        }
    }
    // What is on its way out is waited for.
    assert_eq!(bed.run(&["/bin/true"], patience()).await, exited(0, ""));
    bed.gone().await;
}

#[tokio::test]
async fn what_an_earlier_supervisor_left_is_swept() {
    let bed = Bed::new();
    let left = bed.aux().join("web.1.1");
    fs::create_dir_all(left.join("below")).unwrap();
    fs::create_dir(bed.aux().join("stranger")).unwrap();
    let mut sleeper = std::process::Command::new("sleep").arg("1000").envs(bed.case.mark()).spawn().unwrap();
    fs::write(left.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
    // Its name is taken until it is gone, which is no reason to wait.
    let before = bed.run(&["/bin/true"], patience()).await;
    assert_eq!(before, exited(0, ""));
    let mut swept = bed.auxiliary.sweep().unwrap();
    swept.retain(|name| name != "web.1.2");
    swept.sort();
    assert_eq!(swept, ["stranger", "web.1.1"]);
    bed.gone().await;
    sleeper.wait().unwrap();
}

#[tokio::test]
async fn probes_find_out_what_is_the_worker_s_failure_and_what_is_ours() {
    let bed = Bed::new();
    let probes = bed.probes(Spec::new(vec!["/bin/true".into()]));
    let tried = |action, timeout| {
        let (probes, probe) = (&probes, probe(action, timeout));
        async move { probes.probe(1, ProbeKind::Liveness, &probe).await }
    };
    let failed = |observed: &str| Tried { finding: Finding::Failed, observed: observed.to_owned() };
    assert_eq!(tried(exec(&["/bin/sh", "-c", "echo no; exit 3"]), patience()).await, failed("exited 3: no"));
    // What was looked up for a run is kept for it.
    assert_eq!(tried(exec(&["/bin/false"]), patience()).await, failed("exited 3: no"));
    let other_run = probes.probe(2, ProbeKind::Liveness, &probe(exec(&["/bin/true"]), patience())).await;
    assert_eq!(other_run.finding, Finding::Passed);
    let mut nobody = Spec::new(vec!["/bin/true".into()]);
    nobody.user = Some("no-such-user".into());
    let missing = bed.probes(nobody).probe(1, ProbeKind::Startup, &probe(exec(&["/bin/true"]), patience())).await;
    assert_eq!(missing.finding, Finding::Untried, "{missing:?}");
    bed.gone().await;
}

/// A worker whose run the test moves.
struct Puppet {
    runs: watch::Receiver<Option<u32>>,
    reports: mpsc::UnboundedSender<(u32, HealthReport)>,
}

impl Patient for Puppet {
    async fn next_run(&self) -> Option<RunSeen> {
        self.runs.has_changed().ok()?;
        let number = *self.runs.clone().wait_for(Option::is_some).await.ok()?;
        number.map(|number| RunSeen { number, started: clock::monotonic() })
    }

    async fn run_over(&self, number: u32) {
        drop(self.runs.clone().wait_for(|run| *run != Some(number)).await);
    }

    fn frozen(&self) -> bool {
        false
    }

    async fn freezes(&self, _: u32) {
        std::future::pending::<()>().await;
    }

    async fn thaws(&self, _: u32) {}

    async fn report(&self, number: u32, report: HealthReport) -> HealthVerdict {
        drop(self.reports.send((number, report)));
        HealthVerdict::Muted
    }
}

#[tokio::test]
async fn the_end_of_a_run_ends_its_probe_and_the_next_run_has_its_own() {
    let bed = Bed::new();
    let told = bed.case.file("told");
    let script = format!("echo run $PINFOLD_RUN >> {told}; [ $PINFOLD_RUN = 2 ] || exec sleep 1000");
    let check = HealthCheck {
        startup: None,
        liveness: Some(probe(exec(&["/bin/sh", "-c", &script]), patience() * 4)),
        readiness: None,
    };
    let (run, runs) = watch::channel(Some(1));
    let (sender, mut reports) = mpsc::unbounded_channel();
    let puppet = Puppet { runs, reports: sender };
    let probes = bed.probes(Spec::new(vec!["/bin/true".into()]));
    let task = tokio::spawn(task::attend(puppet, probes, Arc::new(check), Clock::new()));
    appears(Path::new(&told)).await;
    run.send_replace(Some(2));
    let (number, report) = tokio::time::timeout(patience(), reports.recv()).await.expect("no report").unwrap();
    assert_eq!((number, report), (2, HealthReport::Alive { observed: "exited 0".into() }));
    drop(run);
    task.await.unwrap();
    bed.gone().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_probes_leave_no_descriptor_no_zombie_and_no_directory() {
    let bed = Bed::on(Case::alone(), Method::IntoCgroup);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        // Every second connection is left without an answer.
        for n in 0_u32.. {
            let (stream, _) = listener.accept().await.unwrap();
            if n.is_multiple_of(2) {
                // Only accepted, it is not known yet to take anything.
                stream.writable().await.unwrap();
                stream.try_write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
        }
    });
    let get = HttpGet { tls: false, host: "127.0.0.1".into(), port, path: "/".into(), headers: Vec::new() };
    let actions = [
        exec(&["/bin/true"]),
        exec(&["/no/such/program"]),
        exec(&["/bin/sh", "-c", "sleep 1000 & exit 1"]),
        exec(&["/bin/sleep", "1000"]),
        ProbeAction::HttpGet(get),
        ProbeAction::TcpSocket { host: "127.0.0.1".into(), port },
    ];
    let probes: Vec<_> = actions.iter().map(|_| bed.probes(Spec::new(vec!["/bin/true".into()]))).collect();
    let round = async |number| {
        let tries = actions.iter().zip(&probes).map(|(action, probes)| {
            let probe = probe(action.clone(), scaled(Duration::from_millis(50)));
            async move { probes.probe(number, ProbeKind::Liveness, &probe).await }
        });
        drop(futures_util::future::join_all(tries).await);
    };
    // The first ones open what stays: the client, threads.
    for number in 1..5 {
        round(number).await;
    }
    bed.gone().await;
    let before = descriptors();
    for number in 5..40 {
        round(number).await;
    }
    bed.gone().await;
    server.abort();
    wait_until(&format!("no more descriptors than before: {before}, and not {}", descriptors()), || {
        (descriptors() <= before).then_some(())
    });
    assert_eq!(children(), Vec::<String>::new(), "every one is reaped");
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Our children, the dead ones included.
fn children() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

// --- through the product ------------------------------------------------------

/// A health event of run `run` that says `healthy` of `kind`.
fn tells<'a>(worker: &'a str, run: u32, kind: &'a str, healthy: bool) -> impl FnMut(&Event) -> bool + 'a {
    move |event| {
        let told =
            matches!(&event.kind, EventKind::Health { probe, healthy: now, .. } if probe == kind && *now == healthy);
        is(event, worker) && event.run == Some(run) && told
    }
}

#[test]
fn a_worker_that_fails_its_liveness_check_is_restarted_and_one_that_is_unready_is_not() {
    let case = Case::new();
    let [alive, ready] = ["alive", "ready"].map(|name| case.file(name));
    for file in [&alive, &ready] {
        fs::write(file, "").unwrap();
    }
    // However late the next run's probe is, that one passes.
    let liveness = format!("test -e {alive} || test $$PINFOLD_RUN != 1");
    let check = format!(
        "health_check: {{liveness: {{exec: {{command: [sh, -c, '{liveness}']}}, period: 100ms, timeout: {0}s}}, \
         readiness: {{exec: {{command: [test, -e, {ready}]}}, period: 100ms, timeout: {0}s}}}}",
        patience().as_secs()
    );
    let restart = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";
    let mut up = Up::start(&case, &misbehaving("web", &["sleep"], &[&check, restart]));
    let main = up.started("web", 1);
    up.state("web", State::Running, "ready");
    fs::remove_file(&ready).unwrap();
    up.state("web", State::Running, "unready");
    assert!(main.alive(), "it is put up with");
    fs::remove_file(&alive).unwrap();
    up.wait_for("a failed liveness check", tells("web", 1, "liveness", false));
    let second = up.started("web", 2);
    up.wait_for("a passed liveness check", tells("web", 2, "liveness", true));
    fs::write(&ready, "").unwrap();
    up.wait_for("a passed readiness check", tells("web", 2, "readiness", true));
    assert!(second.alive() && !main.alive());
    up.stop();
}

#[test]
fn a_probe_that_hangs_holds_nothing_up_and_is_gone_with_the_supervisor() {
    let case = Case::new();
    let told = case.file("told");
    let script = format!("trap '' TERM; echo begun > {told}; sleep 1000");
    let command = serde_json::to_string(&["sh", "-c", &script]).unwrap();
    let check = format!("health_check: {{liveness: {{exec: {{command: {command}}}, timeout: 1000s}}}}");
    let mut up = Up::start(&case, &misbehaving("web", &["sleep"], &[&check]));
    up.started("web", 1);
    wait_until("the probe", || Path::new(&told).exists().then_some(()));
    assert_eq!(tree::children(&case.root.join("aux")).len(), 1);
    // The case itself sees that nothing is left.
    up.stop();
}

#[test]
fn a_probe_of_a_supervisor_that_was_killed_is_ended_by_the_next_and_the_worker_is_not() {
    let case = Case::new();
    let told = case.file("told");
    let script = format!("echo pid $$$$ >> {told}; exec sleep 1000");
    let command = serde_json::to_string(&["sh", "-c", &script]).unwrap();
    let check = format!("health_check: {{liveness: {{exec: {{command: {command}}}, timeout: 1000s}}}}");
    let mut up = Up::start(&case, &worker_of("web", &["sleep", "1000"], &[&check]));
    let main = up.started("web", 1);
    let probe = case.wait_told("told", "pid");
    let probe = support::process::Process::open(probe).unwrap();
    case.role("supervisor").signal(rustix::process::Signal::KILL);
    wait_until("the end of the probe", || (!probe.alive()).then_some(()));
    wait_until("the next supervisor's probe", || (case.told("told").len() >= 2).then_some(()));
    assert!(main.alive());
    let swept = |e: &Event| matches!(&e.kind, EventKind::Reconciled { what } if what.contains("probe web.1.1"));
    up.wait_for("what was swept", swept);
    // A second supervisor's events begin at 1 again, which `Up::stop` does not expect.
    up.signal(rustix::process::Signal::TERM);
    up.reap_killed();
    up.wait_silent();
}
