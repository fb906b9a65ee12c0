//! The deaths: 1,000 of them, each with its program and its limits, who ends it, and what is right to say about it.

use std::fs;

use pinfold::model::{ExitCause, KilledBy, OomScope, Stage};

use super::support::{Case, misbehave};

/// One worker, and its death.
pub(crate) struct Death {
    pub(crate) kind: &'static str,
    pub(crate) id: String,
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// Lines of its unit in pinfold's configuration.
    pub(crate) unit: Vec<String>,
    /// Lines of its `[Service]` for systemd; `None` where systemd has nothing of the kind.
    pub(crate) service: Option<Vec<String>>,
    /// The number of the shared budget it is in.
    pub(crate) slice: Option<usize>,
    pub(crate) by: By,
    /// What pinfold has to say.
    pub(crate) cause: ExitCause,
    /// What systemd says where it knows.
    pub(crate) answer: Answer,
}

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The program or the kernel.
    Itself,
    /// A stranger, by this signal.
    Stranger(i32),
    /// The kernel takes a child; a while after that a stranger kills the main process.
    StrangerAfterChild,
    Stop,
    Kill,
    /// The end of `up`.
    Shutdown,
}

/// `Result` and the end of the main process, as systemd gives them for this kind of death.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    /// That names it: no other kind of the table has this answer.
    Names(&'static str, Main),
    /// That is true as far as it goes, and the answer for another kind as well.
    Shares(&'static str, Main),
    /// It has nothing of the kind.
    Nothing,
}

/// `ExecMainCode` and `ExecMainStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Main {
    Exited(i32),
    Killed(i32),
    Any,
}

/// `memory.max` of those that reach it.
const OWN_MIB: u32 = 4;
/// `memory.max` of a shared budget.
pub(crate) const SLICE_MIB: u32 = 24;
pub(crate) const SLICES: usize = 16;
const IN_A_SLICE: usize = 5;

/// Where the deaths meet the test.
pub(crate) struct Places {
    /// The FIFO whose opening begins the first wave.
    pub(crate) gate: String,
    /// The same for the second: that of the host's memory.
    pub(crate) last_gate: String,
    dir: String,
}

impl Places {
    pub(crate) fn new(case: &Case, name: &str) -> Self {
        let dir = case.file(name);
        fs::create_dir(&dir).unwrap();
        let fifo = |name: &str| {
            let path = format!("{dir}/{name}");
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
            path
        };
        Self { gate: fifo("gate"), last_gate: fifo("last-gate"), dir }
    }

    /// Where the program of `id` tells what the test has to know.
    pub(crate) fn told(&self, id: &str) -> String {
        format!("{}/{id}.told", self.dir)
    }

    fn first(&self, id: &str) -> String {
        format!("{}/{id}.first", self.dir)
    }
}

/// All of them, kind by kind in the order of the table.
pub(crate) fn deaths(places: &Places) -> Vec<Death> {
    let mut all = Vec::new();
    let mut kind = |kind: &'static str, count: usize, one: &dyn Fn(Death, usize) -> Death| {
        all.extend((0..count).map(|i| one(Death::new(kind, i), i)));
    };
    let gate = |args: &[&str]| [&["after", &places.gate], args].concat().iter().map(ToString::to_string).collect();
    let last_gate =
        |args: &[&str]| [&["after", &places.last_gate], args].concat().iter().map(ToString::to_string).collect();
    let sleep = || vec!["sleep".to_owned()];
    let signal = |signal| ExitCause::Signaled { signal, core: false };
    let killed = |by| ExitCause::Killed { by, policy: None };
    let policy = |name: &str| ExitCause::Killed { by: KilledBy::Policy, policy: Some(name.to_owned()) };
    let oom = |scope| ExitCause::Oom { scope };
    let memory = |more: &str| format!("limits: {{memory: {{max_rss: {OWN_MIB}MiB{more}}}}}");
    let memory_max = format!("MemoryMax={OWN_MIB}M");

    kind("exit", 256, &|d, i| {
        let code = i32::try_from(i).unwrap();
        let result = if code == 0 { "success" } else { "exit-code" };
        d.runs(gate(&["exit", &code.to_string()]))
            .ends_as(ExitCause::Exited { code })
            .systemd(&[], Answer::Names(result, Main::Exited(code)))
    });
    let deadly: Vec<i32> = (1..=64).filter(|s| ![9, 17, 18, 19, 20, 21, 22, 23, 28].contains(s)).collect();
    kind("signal", 110, &|d, i| {
        let s = deadly[i % deadly.len()];
        d.runs(gate(&["signal", &s.to_string()]))
            .ends_as(signal(s))
            .systemd(&[], Answer::Names(result_of(s), Main::Killed(s)))
    });
    kind("signal-of-a-stranger", 15, &|d, i| {
        let s = [10, 6, 2, 37, 64][i % 5];
        d.runs(sleep())
            .by(By::Stranger(s))
            .ends_as(signal(s))
            .systemd(&[], Answer::Names(result_of(s), Main::Killed(s)))
    });
    kind("sigkill-of-a-stranger", 60, &|d, _| {
        d.runs(sleep())
            .by(By::Stranger(9))
            .ends_as(ExitCause::KilledExternal)
            .systemd(&[], Answer::Names("signal", Main::Killed(9)))
    });
    kind("oom", 115, &|d, _| {
        d.runs(gate(&["leak"]))
            .unit(&memory(""))
            .ends_as(oom(OomScope::Worker))
            .systemd(&[&memory_max, "OOMPolicy=kill"], Answer::Names("oom-kill", Main::Any))
    });
    kind("oom-of-one-process", 50, &|d, _| {
        d.runs(gate(&["leak"]))
            .unit(&memory(", oom_scope: process"))
            .ends_as(oom(OomScope::Worker))
            .systemd(&[&memory_max, "OOMPolicy=continue"], Answer::Names("oom-kill", Main::Any))
    });
    // Not what the main process dies of.
    kind("exit-after-oom-of-a-child", 20, &|d, _| {
        let told = places.told(&d.id);
        d.runs(gate(&["leak-child", &told, "exit", "7"]))
            .unit(&memory(", oom_scope: process"))
            .ends_as(ExitCause::Exited { code: 7 })
            .systemd(&[&memory_max, "OOMPolicy=continue"], Answer::Names("exit-code", Main::Exited(7)))
    });
    kind("sigkill-after-oom-of-a-child", 10, &|d, _| {
        let told = places.told(&d.id);
        d.runs(gate(&["leak-child", &told]))
            .unit(&memory(", oom_scope: process"))
            .by(By::StrangerAfterChild)
            .ends_as(ExitCause::KilledExternal)
            .systemd(&[&memory_max, "OOMPolicy=continue"], Answer::Names("signal", Main::Killed(9)))
    });
    // One of each budget leaks: the others are taken before it, and then it is. Their own limits are never reached. They
    // hold something: the kernel's score for one that asks to be taken is the budget's size and its own.
    kind("oom-of-the-slice", SLICES * IN_A_SLICE, &|d, i| {
        let told = places.told(&d.id);
        let (program, adj) = match i % IN_A_SLICE {
            0 => (gate(&["leak"]), 0),
            _ => (args(&["hog", "1", "0", &told]), 1000),
        };
        d.runs(program)
            .unit("limits: {memory: {max_rss: 512MiB}}")
            .unit(&format!("oom_score_adj: {adj}"))
            .in_slice(i / IN_A_SLICE)
            .ends_as(oom(OomScope::Ancestor))
            .systemd(
                &["MemoryMax=512M", "OOMPolicy=kill", &format!("OOMScoreAdjust={adj}")],
                Answer::Shares("oom-kill", Main::Any),
            )
    });
    kind("oom-of-the-host", 15, &|d, i| {
        let (program, adj) = if i == 0 { (last_gate(&["leak"]), 0) } else { (sleep(), 1000) };
        d.runs(program)
            .unit("limits: {memory: {max_rss: 64GiB}}")
            .unit(&format!("oom_score_adj: {adj}"))
            .ends_as(oom(OomScope::Host))
            .systemd(
                &["MemoryMax=64G", "OOMPolicy=kill", &format!("OOMScoreAdjust={adj}")],
                Answer::Shares("oom-kill", Main::Any),
            )
    });
    kind("stop", 50, &|d, _| {
        d.runs(sleep())
            .by(By::Stop)
            .ends_as(killed(KilledBy::Stop))
            .systemd(&[], Answer::Names("success", Main::Killed(15)))
    });
    kind("code-after-stop", 10, &|d, _| {
        let told = places.told(&d.id);
        d.runs(args(&["on-term", "10", "3", &told]))
            .by(By::Stop)
            .ends_as(ExitCause::Exited { code: 3 })
            .systemd(&[], Answer::Names("exit-code", Main::Exited(3)))
    });
    kind("stop-timeout", 20, &|d, _| {
        let told = places.told(&d.id);
        d.runs(args(&["ignore-term", &told]))
            .unit("stop: {timeout: 500ms}")
            .by(By::Stop)
            .ends_as(killed(KilledBy::StopTimeout))
            .systemd(&["TimeoutStopSec=500ms"], Answer::Names("timeout", Main::Killed(9)))
    });
    kind("kill-of-the-operator", 60, &|d, _| {
        d.runs(sleep())
            .by(By::Kill)
            .ends_as(killed(KilledBy::Operator))
            .systemd(&[], Answer::Shares("signal", Main::Killed(9)))
    });
    kind("shutdown", 19, &|d, _| d.runs(sleep()).by(By::Shutdown).ends_as(killed(KilledBy::Shutdown)));
    kind("no-such-program", 10, &|mut d, _| {
        d.command = args(&["/nonexistent/program"]);
        d.ends_as(ExitCause::StartFailed { stage: Stage::Exec, errno: 2 })
            .systemd(&[], Answer::Names("exit-code", Main::Exited(203)))
    });
    kind("policy-of-pids", 40, &|d, _| {
        d.runs(gate(&["fork-bomb"])).unit("limits: {pids: {max: 6, policy: immediate_kill}}").ends_as(policy("pids"))
    });
    // Above the tripwire and far below the limit.
    let high = |policy: &str| format!("limits: {{memory: {{max_rss: 256MiB, high: 4MiB, high_policy: {policy}}}}}");
    let at_once = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";
    kind("policy-of-high-shutdown", 25, &|d, _| {
        let told = places.told(&d.id);
        d.runs(gate(&["hog", "8", "0", &told])).unit(&high("graceful_shutdown")).ends_as(policy("memory"))
    });
    kind("policy-of-high-restart", 15, &|d, _| {
        let (told, first) = (places.told(&d.id), places.first(&d.id));
        d.runs(gate(&["once", &first, "hog", "8", "0", &told]))
            .unit(&high("restart"))
            .unit(at_once)
            .ends_as(policy("memory"))
    });
    kind("policy-of-memory-restart", 10, &|d, _| {
        let (told, first) = (places.told(&d.id), places.first(&d.id));
        d.runs(gate(&["once", &first, "leak-child", &told]))
            .unit(&memory(", oom_scope: process, policy: restart"))
            .unit(at_once)
            .ends_as(policy("memory"))
    });
    kind("policy-of-cpu-time", 10, &|d, _| {
        d.runs(gate(&["burn"])).unit("limits: {cpu: {max_time: 200ms, policy: immediate_kill}}").ends_as(policy("cpu"))
    });
    all
}

/// `Result` of a main process that a signal ended: some count as good ends, systemd.service(5).
fn result_of(signal: i32) -> &'static str {
    if [1, 2, 13, 15].contains(&signal) { "success" } else { "signal" }
}

fn args(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

impl Death {
    fn new(kind: &'static str, i: usize) -> Self {
        Self {
            kind,
            id: format!("{kind}-{i}"),
            command: Vec::new(),
            unit: Vec::new(),
            service: None,
            slice: None,
            by: By::Itself,
            cause: ExitCause::KilledExternal,
            answer: Answer::Nothing,
        }
    }

    /// Whether it dies as soon as it is started: there is nobody to wait for.
    pub(crate) fn at_once(&self) -> bool {
        matches!(self.cause, ExitCause::StartFailed { .. })
    }

    fn runs(mut self, args: Vec<String>) -> Self {
        self.command = [vec![misbehave()], args].concat();
        self
    }

    fn unit(mut self, line: &str) -> Self {
        self.unit.push(line.to_owned());
        self
    }

    fn in_slice(mut self, number: usize) -> Self {
        self.slice = Some(number);
        self
    }

    fn by(mut self, by: By) -> Self {
        self.by = by;
        self
    }

    fn ends_as(mut self, cause: ExitCause) -> Self {
        self.cause = cause;
        self
    }

    fn systemd(mut self, service: &[&str], answer: Answer) -> Self {
        self.service = Some(args(service));
        self.answer = answer;
        self
    }
}
