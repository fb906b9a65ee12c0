//! A running `pinfold up`: its events as they come, its signals, its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use pinfold::{
    clock,
    model::{Decision, Detail, Event, EventKind, ExitCause, Mono, State},
};
use rustix::process::{Pid, Signal, kill_process};

use super::{Case, patience, process::Process, wait_until};

/// `pinfold up FILE -o json`, and all it has told. On a failed test its events and its stderr are printed.
pub(crate) struct Up {
    child: Child,
    lines: Receiver<String>,
    stderr: Arc<Mutex<String>>,
    /// All events so far.
    pub(crate) seen: Vec<Event>,
    ended: bool,
    /// Whether it goes on with runs that another has started.
    adopts: bool,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
}

impl Up {
    /// Starts it with `workers`, the entries of the list in YAML.
    pub(crate) fn start(case: &Case, workers: &str) -> Self {
        let config = case.config(workers);
        Self::spawn(case.pinfold("up").arg(config))
    }

    /// Starts a prepared command that ends in `pinfold up FILE`.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self::spawn_as_it_is(command.args(["-o", "json"]))
    }

    /// Starts a command that becomes `pinfold up -o json FILE`.
    pub(crate) fn spawn_as_it_is(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (send, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines() {
                if line.is_ok_and(|line| send.send(line).is_err()) {
                    break;
                }
            }
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&stderr);
        let mut from = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        Self { child, lines, stderr, seen: Vec::new(), ended: false, adopts: false }
    }

    /// Starts one that goes on with what an earlier one has left, with the same configuration.
    pub(crate) fn again(case: &Case) -> Self {
        let mut up = Self::spawn(case.pinfold("up").arg(case.file("pinfold.yaml")));
        up.adopts = true;
        up
    }

    /// The process that was started: the keeper.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Signals the process that was started. It is not reaped before [`Self::end`], so its number is its own.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Holds the keeper still: neither does it start a next supervisor, nor kill one that is stopped.
    pub(crate) fn hold(&self) {
        self.signal(Signal::STOP);
        let keeper = Process::open(self.pid()).expect("not reaped yet");
        wait_until("the keeper is stopped", || keeper.status("State").starts_with('T').then_some(()));
    }

    /// Lets a held keeper go on.
    pub(crate) fn let_go(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Takes one line. An event is a JSON object of exactly the published shape: read as one and written again, it is
    /// the same, so there is no field of which the shape does not know.
    fn take(&mut self, line: &str) {
        let event: Event = serde_json::from_str(line).unwrap_or_else(|e| panic!("no event ({e}): {line}"));
        let raw: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_value(&event).unwrap(), raw, "the line has more or other fields than an event");
        self.seen.push(event);
    }

    /// The first event, past or to come, that `wanted` accepts.
    pub(crate) fn wait_for(&mut self, what: &str, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        let started = clock::monotonic();
        let mut looked = 0;
        loop {
            while let Some(event) = self.seen.get(looked) {
                looked += 1;
                if wanted(event) {
                    return event.clone();
                }
            }
            let left = patience().saturating_sub(clock::monotonic().since(started));
            match self.lines.recv_timeout(left) {
                Ok(line) => self.take(&line),
                Err(RecvTimeoutError::Timeout) => panic!("no event came within {:?}: {what}", patience()),
                Err(RecvTimeoutError::Disconnected) => panic!("pinfold up ended without the event: {what}"),
            }
        }
    }

    /// Takes what comes for `time`: the length of a measurement, or of a look at what must not come.
    pub(crate) fn watch(&mut self, time: Duration) {
        let started = clock::monotonic();
        while let Some(left) = time.checked_sub(clock::monotonic().since(started)).filter(|l| !l.is_zero()) {
            match self.lines.recv_timeout(left) {
                Ok(line) => self.take(&line),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => panic!("pinfold up ended"),
            }
        }
    }

    /// Waits for run `run` of `worker`; the number of its main process, which may be gone by then.
    pub(crate) fn begun(&mut self, worker: &str, run: u32) -> i32 {
        let event = self.wait_for(&format!("{worker}.{run} started"), |e| {
            is(e, worker) && e.run == Some(run) && matches!(e.kind, EventKind::Started { .. })
        });
        let EventKind::Started { pid } = event.kind else { unreachable!() };
        pid
    }

    /// The same; its main process.
    pub(crate) fn started(&mut self, worker: &str, run: u32) -> Process {
        let pid = self.begun(worker, run);
        Process::open(pid).unwrap_or_else(|| panic!("{worker}.{run} (process {pid}) is gone already"))
    }

    /// Waits for the end of run `run` of `worker`; its cause.
    pub(crate) fn exited(&mut self, worker: &str, run: u32) -> ExitCause {
        self.exit_of(worker, run).0
    }

    /// The same, with the whole event.
    pub(crate) fn exit_of(&mut self, worker: &str, run: u32) -> (ExitCause, Event) {
        let event = self.wait_for(&format!("{worker}.{run} exited"), |e| {
            is(e, worker) && e.run == Some(run) && matches!(e.kind, EventKind::Exited { .. })
        });
        let EventKind::Exited { cause, .. } = &event.kind else { unreachable!() };
        (cause.clone(), event)
    }

    /// Waits until `worker` is in `state` with a detail of this word.
    pub(crate) fn state(&mut self, worker: &str, state: State, detail: &str) -> Event {
        self.wait_for(&format!("{worker} is {}({detail})", state.as_str()), |e| {
            is(e, worker)
                && matches!(&e.kind, EventKind::State { state: s, detail: d } if *s == state && d.as_str() == detail)
        })
    }

    /// The events of one worker so far.
    pub(crate) fn of<'a>(&'a self, worker: &'a str) -> impl Iterator<Item = &'a Event> {
        self.seen.iter().filter(move |e| is(e, worker))
    }

    /// The states and details of one worker so far, as `state(detail)`.
    pub(crate) fn states(&self, worker: &str) -> Vec<String> {
        let word = |e: &Event| match &e.kind {
            EventKind::State { state, detail } => Some(format!("{}({})", state.as_str(), detail.as_str())),
            _ => None,
        };
        self.of(worker).filter_map(word).collect()
    }

    /// The decisions about one worker so far.
    pub(crate) fn decisions(&self, worker: &str) -> Vec<(Mono, Decision)> {
        let decision = |e: &Event| match &e.kind {
            EventKind::Decision(d) => Some((at(e), d.clone())),
            _ => None,
        };
        self.of(worker).filter_map(decision).collect()
    }

    /// Asks it to stop as a service manager would, and waits for its end, which must be a good one.
    pub(crate) fn stop(&mut self) -> Ended {
        self.signal(Signal::TERM);
        let ended = self.end();
        assert_eq!(ended.code, Some(0), "pinfold up ends well after SIGTERM: {}", ended.stderr);
        ended
    }

    /// Waits for its end, takes the last events and checks what always holds of them.
    pub(crate) fn end(&mut self) -> Ended {
        let keeper = Process::open(self.pid()).expect("not reaped yet");
        keeper.wait_gone("pinfold up");
        let code = self.child.wait().unwrap().code();
        self.ended = true;
        self.wait_silent();
        assert_eq!(events_break_a_rule(&self.seen, self.adopts), None);
        Ended { code, stderr: self.stderr() }
    }

    /// Its code where it has ended by itself.
    pub(crate) fn over(&mut self) -> Option<i32> {
        let status = self.child.try_wait().unwrap()?;
        self.ended = true;
        Some(status.code().unwrap_or_else(|| panic!("{status}: {}", self.stderr())))
    }

    /// Waits until nobody holds its stdout: whoever reads it in a pipe would wait for ever otherwise.
    pub(crate) fn wait_silent(&mut self) {
        loop {
            match self.lines.recv_timeout(patience()) {
                Ok(line) => self.take(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("pinfold up has ended, but somebody holds its stdout open"),
            }
        }
    }

    /// Its end after a SIGKILL of the keeper: what lives on may hold its stdout.
    pub(crate) fn reap_killed(&mut self) {
        let keeper = Process::open(self.pid()).expect("not reaped yet");
        keeper.wait_gone("the killed keeper");
        self.child.wait().unwrap();
        self.ended = true;
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if !self.ended {
            // A failed test, or one that ends with it running: it must not outlive the case, whose end kills the rest.
            self.signal(Signal::TERM);
            let keeper = Process::open(self.pid());
            if keeper.is_some_and(|k| !k.gone_within(patience() / 3)) {
                self.signal(Signal::KILL);
            }
            let _reaped = self.child.wait();
        }
        if std::thread::panicking() {
            while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(100)) {
                eprintln!("later event: {line}");
            }
            let shown = self.seen.len().saturating_sub(120);
            eprintln!("--- pinfold up: {} events seen, the last of them:", self.seen.len());
            for event in &self.seen[shown..] {
                eprintln!("{}", serde_json::to_string(event).unwrap_or_default());
            }
            eprintln!("--- pinfold up: stderr:\n{}", self.stderr());
        }
    }
}

/// Whether an event is about `worker`.
pub(crate) fn is(event: &Event, worker: &str) -> bool {
    event.worker.as_ref().is_some_and(|w| w.as_str() == worker)
}

/// When an event was told.
pub(crate) fn at(event: &Event) -> Mono {
    Mono(Duration::from_nanos(event.mono_ns))
}

/// What always holds of events: `seq` begins at 1 with each epoch and has no gap for one worker, epochs grow, time does not go
/// back, a run starts at most once and ends exactly once if it started, and no run starts before the one before it
/// ended. One that `adopts` tells of ends whose start another has told.
pub(crate) fn events_break_a_rule(events: &[Event], adopts: bool) -> Option<String> {
    let mut next: BTreeMap<Option<&str>, (u64, u64)> = BTreeMap::new();
    let mut live: BTreeMap<&str, u32> = BTreeMap::new();
    let mut over: BTreeMap<&str, u32> = BTreeMap::new();
    let mut known: BTreeSet<&str> = BTreeSet::new();
    let mut epoch = 0;
    for event in events {
        let worker = event.worker.as_ref().map(pinfold::model::WorkerId::as_str);
        let broken = |rule: &str| Some(format!("{rule}: {}", serde_json::to_string(event).unwrap_or_default()));
        if event.epoch < epoch {
            return broken("an epoch that was over");
        }
        if event.epoch > epoch {
            epoch = event.epoch;
            next.clear();
        }
        let (seq, time) = next.entry(worker).or_insert((1, 0));
        if event.seq != *seq {
            return broken(&format!("seq {seq} was to come"));
        }
        if event.mono_ns < *time {
            return broken("time went back");
        }
        (*seq, *time) = (*seq + 1, event.mono_ns);
        if event.time.parse::<jiff::Timestamp>().is_err() {
            return broken("time is no RFC 3339");
        }
        let (Some(worker), Some(run)) = (worker, event.run) else { continue };
        match &event.kind {
            EventKind::Started { .. } => {
                known.insert(worker);
                if let Some(other) = live.insert(worker, run) {
                    return broken(&format!("run {other} had not ended"));
                }
                if over.get(worker).is_some_and(|o| *o >= run) {
                    return broken("that run was over");
                }
            }
            EventKind::Exited { cause, evidence, .. } => {
                // Whatever the cause: it can be killed before it executes its program, too.
                let never_ran = evidence.start_error.is_some();
                let adopted = adopts && known.insert(worker);
                // Of an earlier supervisor, whose events are not these.
                let unseen = matches!(cause, ExitCause::Unknown { .. }) && !live.contains_key(worker);
                if !unseen && live.remove(worker) != (!never_ran).then_some(run) && !adopted {
                    return broken("the end of a run that had not started");
                }
                if over.insert(worker, run).is_some_and(|o| o >= run) {
                    return broken("a run ended twice");
                }
            }
            EventKind::State { state, detail } => {
                let fits = match detail {
                    Detail::Stopped(_) => State::Stopped,
                    Detail::Preparing | Detail::Launching => State::Starting,
                    Detail::Running(_) => State::Running,
                    Detail::Stopping(_) => State::Stopping,
                };
                if fits != *state {
                    return broken("the detail belongs to another state");
                }
            }
            _ => {}
        }
    }
    None
}
