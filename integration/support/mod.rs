//! The harness of the integration tests. It drives the product only through its public door (the `pinfold` binary, its
//! JSON lines, its signals) and checks it by means of its own: `/proc`, cgroupfs and files that the workers wrote.
//!
//! - [`Case`]: one test's place (a root cgroup and directories of its own) and its leak check at the end.
//! - [`up::Up`]: a running `pinfold up` and the events it told.
//! - [`run`]: one `pinfold run` to its end.
//! - [`disk`]: disks that are full.
//! - [`door`]: the control socket, spoken to without the product.
//! - [`judge`]: what an output may be.
//! - [`tree`], [`process`]: what the kernel says.
//! - [`sight`]: all that the kernel says of a case, read once.
//! - [`evidence`], [`truth`]: its two judges, whether all that the kernel says of a case fits together, after one order and under load.
//!
//! Nothing here waits for a while: everything waits for a level, with a deadline that only a failure reaches. On a slow
//! machine (an emulated processor) `PINFOLD_TEST_SLOWNESS` multiplies every deadline.
#![allow(dead_code, reason = "every test program uses another part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a harness fails by panicking")]

pub(crate) mod disk;
pub(crate) mod door;
pub(crate) mod evidence;
pub(crate) mod judge;
pub(crate) mod process;
pub(crate) mod run;
pub(crate) mod sight;
pub(crate) mod tree;
pub(crate) mod truth;
pub(crate) mod up;

use std::{
    env,
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use pinfold::{clock, model::Mono};

/// The binary under test.
pub(crate) const PINFOLD: &str = env!("CARGO_BIN_EXE_pinfold");

/// The variable by which every process of a case is known, wherever it has gone.
pub(crate) const MARK: &str = "PINFOLD_IT_CASE";

/// The one sentence for a test that was started where it cannot run. It is a failure, never a skip.
pub(crate) const ELSEWHERE: &str = "run it by scripts/test, which starts every test where it can run";

/// A whole number from the environment, for a measurement that is longer than a test's, or a machine that is slower.
pub(crate) fn parameter<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no whole number: {text:?}")))
}

/// How many times slower than a plain machine this one may be.
pub(crate) fn slowness() -> u32 {
    parameter("PINFOLD_TEST_SLOWNESS").unwrap_or(1)
}

/// `plain` on a plain machine, more on a slow one.
pub(crate) fn scaled(plain: Duration) -> Duration {
    plain * slowness()
}

/// What only a failure reaches.
pub(crate) fn patience() -> Duration {
    scaled(Duration::from_secs(15))
}

/// Waits until `look` sees something, and says what it was waiting for when that never comes.
pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = clock::monotonic();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        let waited = clock::monotonic().since(started);
        assert!(waited < patience(), "waited {waited:?} in vain: {what}");
        pause(Duration::from_millis(5));
    }
}

/// The time between two looks, and the length of a measurement. Never "long enough".
#[expect(clippy::disallowed_methods, reason = "between two looks at a file that cannot be waited for")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Seconds since `then`.
pub(crate) fn seconds_since(then: Mono) -> f64 {
    clock::monotonic().since(then).as_secs_f64()
}

/// The misbehaving program, built beside the binary under test.
pub(crate) fn misbehave() -> String {
    example("misbehave").to_str().unwrap().to_owned()
}

/// The program of this name, built beside the binary under test.
pub(crate) fn example(name: &str) -> PathBuf {
    let path = Path::new(PINFOLD).with_file_name("examples").join(name);
    assert!(path.exists(), "{} is missing: cargo build --example {name}", path.display());
    path
}

/// A directory that everybody can look into.
pub(crate) fn public_dir() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("pinfold-it-public-").permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap()
}

/// The same, with `program` in it: what somebody else needs to be let in or not.
pub(crate) fn public_place(program: &Path) -> (tempfile::TempDir, PathBuf) {
    let dir = public_dir();
    let there = dir.path().join(program.file_name().unwrap());
    copy_program(program, &there);
    (dir, there)
}

/// Copies a program, by a process of its own: what a parallel test forks at that moment would hold ours open for writing, and
/// whatever is open for writing cannot be executed (ETXTBSY).
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let ran = run::finish(Command::new("/bin/cp").arg("--preserve=mode").args([from, to]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

/// One test's place in the world: a root cgroup, a state, runtime and scratch directory that nobody else has. At its
/// end nothing of the case may be left: no process anywhere on the host, no run's directory.
pub(crate) struct Case {
    /// The cgroup given as `--cgroup-root`.
    pub(crate) root: PathBuf,
    /// What is to be removed in the end: `root` or a parent of it.
    top: PathBuf,
    /// A directory for the test's own files, state and configuration.
    pub(crate) dir: tempfile::TempDir,
    mark: String,
    _turn: File,
}

impl Case {
    /// A case that minds no neighbour.
    pub(crate) fn new() -> Self {
        Self::make(false)
    }

    /// A case that measures time, or loads the machine: no other test runs beside it.
    pub(crate) fn alone() -> Self {
        Self::make(true)
    }

    fn make(alone: bool) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        // A lock of the file system's: a runner may start every test in a process of its own.
        let turn = File::create(env::temp_dir().join("pinfold-integration.lock")).unwrap();
        if alone { turn.lock() } else { turn.lock_shared() }.unwrap();
        let mark = format!("pinfold-it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let top = tree::mount().join(&mark);
        fs::create_dir(&top)
            .unwrap_or_else(|e| panic!("mkdir {}: {e}; these tests need root: {ELSEWHERE}", top.display()));
        let dir = tempfile::Builder::new().prefix("pinfold-it-").tempdir().unwrap();
        Self { root: top.clone(), top, dir, mark, _turn: turn }
    }

    /// The same, where the kernel enforces limits: every one of `controllers` is there for children of the root.
    pub(crate) fn with_limits(alone: bool) -> Self {
        let wanted = ["memory", "cpu", "pids", "io"];
        let mount = tree::mount();
        let missing = |file: &str| {
            let there = tree::read(&mount, file);
            wanted.into_iter().filter(|c| !there.split(' ').any(|t| t == *c)).collect::<Vec<_>>()
        };
        let absent = missing("cgroup.controllers");
        assert!(absent.is_empty(), "this host's cgroup v2 has no controller {absent:?}: {ELSEWHERE}");
        let off = missing("cgroup.subtree_control");
        if !off.is_empty() {
            // A machine's root cgroup is its owner's; in our own virtual machine that is us.
            assert!(env::var_os("PINFOLD_VM").is_some(), "{off:?} are not enabled below the root: {ELSEWHERE}");
            for controller in off {
                fs::write(mount.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
            }
        }
        Self::make(alone)
    }

    /// The same on a root that is one level further down, below a cgroup that gives it no controller.
    pub(crate) fn below_a_parent_without_controllers() -> Self {
        let mut case = Self::make(false);
        case.root = case.top.join("withheld");
        fs::create_dir(&case.root).unwrap();
        case
    }

    /// A path for a file of the test's own.
    pub(crate) fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// The lines that workers have told to [`Self::file`] `name` so far.
    pub(crate) fn told(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.file(name)).unwrap_or_default();
        // A line is told in one write, but a reader can come before it.
        text.split_inclusive('\n').filter_map(|l| l.strip_suffix('\n')).map(str::to_owned).collect()
    }

    /// Waits for a line `KEY NUMBER` in file `name`; the number.
    pub(crate) fn wait_told(&self, name: &str, key: &str) -> i32 {
        wait_until(&format!("a line \"{key} NUMBER\" in {name}"), || {
            self.told(name).iter().find_map(|l| l.strip_prefix(key)?.trim().parse().ok())
        })
    }

    /// Writes an executable file.
    pub(crate) fn executable(&self, name: &str, text: &str) -> String {
        use std::os::unix::fs::OpenOptionsExt;
        let (path, draft) = (self.file(name), self.file(&format!("{name}.draft")));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&draft).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        copy_program(draft.as_ref(), path.as_ref());
        path
    }

    /// Writes a configuration of `workers` (the entries of the list, in YAML); its path.
    pub(crate) fn config(&self, workers: &str) -> String {
        self.config_with("", workers)
    }

    /// The same, with further keys of the whole configuration (`slices: …`) on lines of their own.
    pub(crate) fn config_with(&self, top: &str, workers: &str) -> String {
        let path = self.file("pinfold.yaml");
        fs::write(&path, format!("env: {{{MARK}: {}}}\n{top}workers:\n{workers}\n", self.mark)).unwrap();
        path
    }

    /// The binary under test, at this case's place and with its mark.
    pub(crate) fn pinfold(&self, subcommand: &str) -> Command {
        let mut command = Command::new(PINFOLD);
        command.arg(subcommand).arg("--cgroup-root").arg(&self.root);
        command.arg("--state-dir").arg(self.dir.path().join("state"));
        command.arg("--runtime-dir").arg(self.dir.path().join("run"));
        command.envs(self.mark()).env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        command.current_dir("/");
        command
    }

    /// A command of the control socket, which must succeed.
    pub(crate) fn ask(&self, subcommand: &str, args: &[&str]) -> run::Ran {
        let ran = run::finish(self.pinfold(subcommand).args(args));
        assert_eq!(ran.code, Some(0), "pinfold {subcommand} {}: {ran:?}", args.join(" "));
        ran
    }

    /// The control socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("run/api.sock")
    }

    /// The cgroup of a run.
    pub(crate) fn run_dir(&self, worker: &str, run: u32) -> PathBuf {
        self.root.join("workers").join(format!("{worker}.{run}"))
    }

    /// The only process of one of our own leaves (`keeper`, `supervisor`, `logger`).
    pub(crate) fn role(&self, leaf: &str) -> process::Process {
        let pid = wait_until(&format!("a process in {leaf}"), || tree::procs(&self.root.join(leaf)).first().copied());
        process::Process::open(pid).unwrap_or_else(|| panic!("{leaf} {pid} is gone"))
    }

    /// Every process of this case that lives, wherever it has gone: `PID COMMAND`.
    pub(crate) fn processes(&self) -> Vec<String> {
        process::with_environment(&format!("{MARK}={}", self.mark))
    }

    /// The variable that marks a process as one of this case.
    pub(crate) fn mark(&self) -> [(&str, &str); 1] {
        [(MARK, &self.mark)]
    }

    /// What must not be there once the product has ended.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let mut leaks = tree::run_dirs(&self.root);
        leaks.extend(self.processes());
        leaks.extend(tree::procs_below(&self.top).iter().map(|pid| format!("process {pid} in {}", self.top.display())));
        leaks
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        // The level that must come by itself, before anything is cleaned up.
        let started = clock::monotonic();
        let mut leaks = self.leaks();
        while !leaks.is_empty() && !std::thread::panicking() && clock::monotonic().since(started) < patience() / 5 {
            pause(Duration::from_millis(10));
            leaks = self.leaks();
        }
        tree::kill_and_remove(&self.top);
        if leaks.is_empty() {
            return;
        }
        let leaks = format!("left behind at the end of the test:\n  {}", leaks.join("\n  "));
        if std::thread::panicking() { eprintln!("{leaks}") } else { panic!("{leaks}") }
    }
}

/// One entry of `workers`: `unit` holds further lines of its unit. Without a `restart` of its own it is never
/// restarted.
pub(crate) fn worker<S: AsRef<str>>(id: &str, command: &[S], unit: &[&str]) -> String {
    // In a configuration `$$` is a dollar.
    let command: Vec<String> = command.iter().map(|word| word.as_ref().replace('$', "$$")).collect();
    let mut yaml = format!("  - id: {id}\n    unit:\n      command: {}\n", serde_json::to_string(&command).unwrap());
    let restart = (!unit.iter().any(|l| l.starts_with("restart:"))).then_some("restart: {policy: never}");
    for line in unit.iter().copied().chain(restart) {
        writeln!(yaml, "      {line}").unwrap();
    }
    yaml
}

/// The same for the misbehaving program: `args` is its subcommand and arguments.
pub(crate) fn misbehaving(id: &str, args: &[&str], unit: &[&str]) -> String {
    let program = misbehave();
    let command: Vec<&str> = std::iter::once(program.as_str()).chain(args.iter().copied()).collect();
    worker(id, &command, unit)
}
