//! How one run of a fake worker behaves.

use std::time::Duration;

use crate::model::{ExitStatus, Stage, StartError};

/// One run, from its cgroup to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// Why its cgroup cannot be made.
    pub prepare: Option<StartError>,
    /// How its launch is answered.
    pub launch: Launch,
    /// When and how it ends by itself, counted from its launch.
    pub exits: Option<(Duration, ExitStatus)>,
    /// When the OOM killer comes, counted from its launch.
    pub oom: Option<(Duration, Oom)>,
    /// When forks begin to be refused, counted from its launch, and how often they are.
    pub refused_forks: Option<(Duration, u64)>,
    /// When it grows above `memory.high`, counted from its launch, and how long it stays there.
    pub above_high: Option<(Duration, Duration)>,
    /// When its quota begins to run out in each period, counted from its launch, and for how long.
    pub throttled: Option<(Duration, Duration)>,
    /// What the main process does about a signal that can be caught.
    pub on_signal: OnSignal,
    /// What other processes there are once the main process has ended.
    pub children: Children,
    /// How many times `cgroup.kill` is refused.
    pub kill_refusals: u32,
    /// How long it takes to die of SIGKILL (D state). Zero is at once.
    pub dies_slowly: Duration,
    /// How late the news of the empty cgroup is.
    pub unpopulated_late: Duration,
    /// How long its directory takes to go.
    pub removal_takes: Duration,
    /// When somebody else removes its directory, if it is empty then. Counted from the end of its main process.
    pub stolen: Option<Duration>,
    /// When somebody moves its processes out and removes its directory, counted from its launch.
    pub moved_out: Option<Duration>,
    /// That nobody learns its exit status.
    pub status_lost: bool,
    /// Why its limits cannot be changed while it runs.
    pub limits_refused: Option<StartError>,
    /// How long a change of its limits takes.
    pub limits_take: Duration,
    /// That the news of its end is lost, until somebody asks.
    pub exit_lost: bool,
    /// How long it takes until all of it is frozen (D state).
    pub freezes_slowly: Duration,
    /// That it can be neither frozen nor thawed.
    pub freeze_refused: bool,
    /// That the news of its being frozen or thawed is lost, until somebody looks.
    pub frozen_lost: bool,
    /// When somebody else freezes it, counted from its launch, and for how long.
    pub frozen_by_another: Option<(Duration, Duration)>,
}

/// How a launch is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Launch {
    /// Its program runs after this time.
    Runs(Duration),
    /// It fails after this time.
    Fails(Duration, StartError),
    /// Not at all.
    Unanswered,
}

/// What a process does about a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSignal {
    /// Dies of it after this time.
    Dies(Duration),
    /// Exits with a code after this time.
    Exits(Duration, i32),
    /// Nothing.
    Ignores,
}

/// Processes that outlive the main one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Children {
    /// None.
    None,
    /// Until a SIGTERM, or this time after the main process.
    Brief(Duration),
    /// Until SIGKILL.
    Stubborn,
}

/// What the OOM killer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oom {
    /// Every process; the counters' notification comes before the exit, or not at all.
    All {
        /// Whether it does.
        notified: bool,
    },
    /// Every process, for a limit further up, or for the host.
    Foreign {
        /// Whether it was an ancestor's limit.
        ancestor: bool,
    },
    /// A child.
    Child,
    /// The main process alone, for the own limit.
    Main {
        /// From the limit's count to the kill's: the kernel writes its report.
        report: Duration,
        /// From the kill's count to the end.
        lingers: Duration,
    },
}

impl Default for Script {
    fn default() -> Self {
        Self {
            prepare: None,
            launch: Launch::Runs(Duration::ZERO),
            exits: None,
            oom: None,
            refused_forks: None,
            above_high: None,
            throttled: None,
            on_signal: OnSignal::Dies(Duration::ZERO),
            children: Children::None,
            kill_refusals: 0,
            dies_slowly: Duration::ZERO,
            unpopulated_late: Duration::ZERO,
            removal_takes: Duration::ZERO,
            stolen: None,
            moved_out: None,
            status_lost: false,
            limits_refused: None,
            limits_take: Duration::ZERO,
            exit_lost: false,
            freezes_slowly: Duration::ZERO,
            freeze_refused: false,
            frozen_lost: false,
            frozen_by_another: None,
        }
    }
}

impl Script {
    /// Exits with `code` after `ran`.
    #[must_use]
    pub fn exits(ran: Duration, code: i32) -> Self {
        Self { exits: Some((ran, ExitStatus::Exited { code })), ..Self::default() }
    }

    /// Fails at `stage`, after its cgroup was made.
    #[must_use]
    pub fn fails(stage: Stage, errno: i32) -> Self {
        Self { launch: Launch::Fails(Duration::ZERO, StartError::os(stage, "it", errno)), ..Self::default() }
    }

    /// A run such as a hostile world brings.
    #[must_use]
    pub fn random(random: &mut fastrand::Rng) -> Self {
        let ms = |random: &mut fastrand::Rng, max| Duration::from_millis(random.u64(0..max));
        let one_in = |random: &mut fastrand::Rng, n: u32| random.u32(0..n) == 0;
        let stages = [Stage::Spawn, Stage::Exec, Stage::Chdir, Stage::Clone, Stage::Timeout];
        let error = |random: &mut fastrand::Rng| StartError::os(stages[random.usize(0..stages.len())], "it", 2);
        let exit = match random.u32(0..6) {
            0 | 1 => None,
            2 => Some(ExitStatus::Exited { code: 0 }),
            3 => Some(ExitStatus::Exited { code: random.i32(1..256) }),
            4 => Some(ExitStatus::Signaled { signal: 9, core: false }),
            _ => Some(ExitStatus::Signaled { signal: random.i32(1..65), core: random.bool() }),
        };
        let soon = if random.bool() { 5 } else { 30_000 };
        Self {
            prepare: one_in(random, 12).then(|| error(random)),
            launch: match random.u32(0..12) {
                0 => Launch::Fails(ms(random, 100), error(random)),
                1 => Launch::Unanswered,
                2..6 => Launch::Runs(ms(random, 3000)),
                _ => Launch::Runs(Duration::ZERO),
            },
            exits: exit.map(|status| (ms(random, soon), status)),
            oom: one_in(random, 5).then(|| {
                let what = match random.u32(0..6) {
                    0 => Oom::Child,
                    1 => Oom::Foreign { ancestor: random.bool() },
                    5 => Oom::Main { report: ms(random, 10_000), lingers: ms(random, 10_000) },
                    n => Oom::All { notified: n == 2 },
                };
                (ms(random, 10_000), what)
            }),
            refused_forks: one_in(random, 6).then(|| (ms(random, 5000), random.u64(1..100_000))),
            above_high: one_in(random, 6).then(|| (ms(random, 5000), ms(random, 40_000))),
            throttled: one_in(random, 6).then(|| (ms(random, 5000), ms(random, 60_000))),
            on_signal: match random.u32(0..4) {
                0 => OnSignal::Ignores,
                1 => OnSignal::Exits(ms(random, 4000), random.i32(0..3)),
                _ => OnSignal::Dies(ms(random, 50)),
            },
            children: match random.u32(0..6) {
                0 => Children::Stubborn,
                1 => Children::Brief(ms(random, 10_000)),
                _ => Children::None,
            },
            kill_refusals: if one_in(random, 6) { random.u32(1..4) } else { 0 },
            dies_slowly: if one_in(random, 8) { ms(random, 40_000) } else { Duration::ZERO },
            unpopulated_late: if one_in(random, 3) { ms(random, 15) } else { Duration::ZERO },
            removal_takes: if one_in(random, 3) { ms(random, 200) } else { Duration::ZERO },
            stolen: one_in(random, 15).then(|| ms(random, 20)),
            moved_out: one_in(random, 20).then(|| ms(random, 10_000)),
            status_lost: one_in(random, 20),
            limits_refused: one_in(random, 4).then(|| StartError::refused(Stage::Limit, "not so")),
            limits_take: if random.bool() { Duration::ZERO } else { ms(random, 3000) },
            exit_lost: false,
            freezes_slowly: if one_in(random, 3) { ms(random, 10_000) } else { Duration::ZERO },
            freeze_refused: one_in(random, 12),
            frozen_lost: one_in(random, 6),
            frozen_by_another: one_in(random, 15).then(|| (ms(random, 10_000), ms(random, 20_000))),
        }
    }
}
