//! What a launch costs: directory, limits, clone, exec, exit seen, directory removed, against a bare spawn of the same
//! program in the same run. Prints ratios; an absolute time of one machine says nothing on another.
//!
//! `scripts/bench launch` builds the program that is started and runs this, natively or in the virtual machine.

use std::{
    env,
    error::Error,
    fs,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pinfold::kernel::{
    cgroup::{Dir, events, kill, limits},
    launch::{Method, Progress, plan::LaunchPlan, plan::Session, selftest, spawn},
    pidfd::{self, Whom},
    place::{Situation, Tree, settle},
};
use pinfold::spec::types::Limits;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// One way of starting the program.
struct Contender<'a> {
    name: String,
    start: Box<dyn FnMut() -> Outcome + 'a>,
    /// Whole-process command lines are slower by orders of magnitude and are run less often.
    heavy: bool,
}

fn main() -> Outcome {
    let program = PathBuf::from(env::var_os("PINFOLD_BENCH_PROGRAM").ok_or("run me by scripts/bench launch")?);
    let place = place()?;
    let measured = measure(&place, &program);
    // Whatever happened before.
    let left = place.leave();
    measured.and(left)
}

fn measure(place: &Place, program: &Path) -> Outcome {
    let tree = place.tree()?;
    let method = selftest::run(tree.aux.path())?.method;
    let missing = tree.withheld.iter().map(|w| w.controller.name()).collect::<Vec<_>>().join(" ");
    println!(
        "way into the cgroup: {method:?}; controllers missing: {}",
        if missing.is_empty() { "none" } else { &missing }
    );

    let own = |name: &str, limits: Limits, method| {
        let tree = &tree;
        Contender { name: name.into(), start: Box::new(move || ours(tree, program, &limits, method)), heavy: false }
    };
    let mut contenders = vec![
        Contender { name: "bare posix_spawn".into(), start: Box::new(|| bare(program)), heavy: false },
        own("our launch, no limit", Limits::default(), method),
    ];
    if tree.withheld.is_empty() {
        contenders.push(own("our launch, 7 limit files", seven_limits(), method));
    }
    if method == Method::IntoCgroup {
        contenders.push(own("our launch by cgroup.procs", Limits::default(), Method::Move));
    }
    for contender in whole_commands(program) {
        contenders.extend(able(contender));
    }

    report("back to back", &mut contenders, 1000, Duration::ZERO)?;
    // A write to cgroup.procs hides its RCU grace period where launches follow upon each other.
    report("30 ms apart", &mut contenders, 60, Duration::from_millis(30))
}

/// What is measured from the outside: a process that starts, launches, waits, cleans up and ends.
fn whole_commands(program: &Path) -> Vec<Contender<'static>> {
    let program = program.as_os_str().to_owned();
    let mut all = Vec::new();
    if let Some(pinfold) = env::var_os("PINFOLD_BENCH_BINARY") {
        all.push(command_line("pinfold run", Path::new(&pinfold), vec!["run".into(), "--".into(), program.clone()]));
    }
    if let Some(bundle) = env::var_os("PINFOLD_BENCH_BUNDLE") {
        let words = ["run".into(), "--bundle".into(), bundle, format!("bench-{}", std::process::id()).into()];
        all.push(command_line("crun run", Path::new("crun"), words.to_vec()));
    }
    if Path::new("/run/systemd/system").is_dir() {
        let words = vec!["--wait".into(), "--quiet".into(), "--collect".into(), program];
        all.push(command_line("systemd-run --wait", Path::new("systemd-run"), words));
    }
    all
}

/// A peer that cannot work on this host is left out, and said to be.
fn able(mut contender: Contender<'_>) -> Option<Contender<'_>> {
    match (contender.start)() {
        Ok(()) => Some(contender),
        Err(e) => {
            println!("left out: {e}");
            None
        }
    }
}

/// Takes turns, so that a machine that slows down slows all of them, and prints medians and the ratios to the first.
fn report(title: &str, contenders: &mut [Contender<'_>], rounds: usize, apart: Duration) -> Outcome {
    let mut times: Vec<Vec<Duration>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        // Each is first once, for what the one before leaves behind is paid by the next.
        let count = contenders.len();
        for i in (0..count).map(|i| (i + round) % count) {
            let (Some(contender), Some(times)) = (contenders.get_mut(i), times.get_mut(i)) else { continue };
            if contender.heavy && round % (rounds / 20) != 0 {
                continue;
            }
            pause(apart)?;
            #[expect(clippy::disallowed_methods, reason = "a bench measures time")]
            let begin = Instant::now();
            (contender.start)()?;
            times.push(begin.elapsed());
        }
    }
    println!("\n{title}");
    println!("{:<28} {:>6} {:>12} {:>12} {:>8}", "", "n", "median", "p99", "ratio");
    let base = times.first_mut().map(|t| quantile(t, 0.5)).unwrap_or_default();
    for (contender, times) in contenders.iter().zip(&mut times) {
        let median = quantile(times, 0.5);
        let ratio = median.as_secs_f64() / base.as_secs_f64();
        println!(
            "{:<28} {:>6} {:>12.1?} {:>12.1?} {:>8.2}",
            contender.name,
            times.len(),
            median,
            quantile(times, 0.99),
            ratio
        );
    }
    Ok(())
}

fn pause(apart: Duration) -> Outcome {
    if !apart.is_zero() {
        poll(&mut [], PollTimeout::try_from(apart)?)?;
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index")]
fn quantile(times: &mut [Duration], q: f64) -> Duration {
    times.sort();
    times.get((times.len().saturating_sub(1) as f64 * q).round() as usize).copied().unwrap_or_default()
}

fn bare(program: &Path) -> Outcome {
    let status = Command::new(program).stdin(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("the program ended with {status}").into()) }
}

fn command_line(name: &str, binary: &Path, words: Vec<std::ffi::OsString>) -> Contender<'static> {
    let binary = binary.to_owned();
    let start = Box::new(move || {
        let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", binary.display());
        let done = Command::new(&binary).args(&words).stdin(Stdio::null()).output().map_err(|e| failed(&e))?;
        if done.status.success() { Ok(()) } else { Err(failed(&String::from_utf8_lossy(&done.stderr).trim()).into()) }
    });
    Contender { name: name.to_owned(), start, heavy: true }
}

/// From an empty place to an empty place. Not in it: the run's record, its watches, and the talking between our processes.
fn ours(tree: &Tree, program: &Path, wanted: &Limits, method: Method) -> Outcome {
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    let stdio: [BorrowedFd<'_>; 3] = [null.as_fd(), null.as_fd(), null.as_fd()];
    let name = "bench.1";
    let dir = tree.workers.create(name)?;
    limits::set(&dir, wanted, &tree.host())?;
    let path = program.to_str().ok_or("not a name")?.as_bytes().to_vec();
    let plan = LaunchPlan {
        cgroup_name: name.to_owned(),
        candidates: vec![path.clone().into()],
        argv: vec![path.into()],
        env: Vec::new(),
        working_directory: b"/".to_vec().into(),
        ids: None,
        umask: 0o022,
        rlimits: Vec::new(),
        nice: None,
        oom_score_adj: 0,
        session: Session::New,
    };
    let mut child = spawn(&plan, dir.as_fd(), stdio, method)?;
    if let Progress::Failed(e) = child.confirm.wait() {
        return Err(e.into());
    }
    poll(&mut [PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
    let counters = events::read(&dir)?;
    pidfd::reap_blocking(Whom::Pid(child.pid))?;
    std::hint::black_box(counters);
    // From Linux 6.19 on a cgroup can be busy for a moment after its last process has been reaped.
    while let Err(e) = kill::remove(&tree.workers, name) {
        if !e.is_busy() {
            return Err(e.into());
        }
    }
    Ok(())
}

fn seven_limits() -> Limits {
    let mut limits = Limits::default();
    limits.memory.max = Some(64 << 20);
    limits.memory.high = Some(60 << 20);
    limits.cpu.max_percent = Some(100.0);
    limits.cpu.weight = Some(200);
    limits.pids.max = Some(64);
    limits
}

/// A place of the bench's own.
struct Place {
    situation: Situation,
    path: PathBuf,
}

fn place() -> Outcome<Place> {
    let situation = Situation::of_this_process()?;
    let path = situation.mount.path.join(format!("pinfold-bench-{}", std::process::id()));
    Ok(Place { situation, path })
}

impl Place {
    fn tree(&self) -> Outcome<Tree> {
        let top = !self.situation.mount.path.join("cgroup.events").exists();
        Ok(settle(&self.situation, &self.path, top, &[])?)
    }

    fn leave(self) -> Outcome {
        let home = Dir::open(&self.situation.own_dir)?;
        let tree = settle(&self.situation, &self.path, false, &[])?;
        tree.dissolve(&home, &[], true)?;
        Ok(())
    }
}
