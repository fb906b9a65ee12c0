//! The task behind a [`LimitManager`](super::LimitManager): hears what the kernel tells of one cgroup, asks the engine what that is
//! and the judge what follows, and does it.
//!
//! ```text
//!  memory.events, pids.events ── inotify ─┐
//!  *.pressure ──────── triggers, a thread ┼─▶ Watch ─▶ Watchman ─ findings ─▶ Judge ─ actions ─▶ Watch ─▶ cgroup, history, callback
//!  time ──────────────────────────────────┘
//! ```

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{
    mpsc::{self, UnboundedReceiver},
    oneshot,
};

use super::judge::{Action, Judge};
use super::{Callback, LimitError, Recorded, Shared};
use crate::kernel::cgroup::{Dir, DirError, events, kill, limits, signal, stat};
use crate::kernel::pressure::{Pressure, triggers};
use crate::kernel::watch::{self, Hint, Hints, Interest, Seen, Source, WatchError, Watches};
use crate::model::{Counters, Limit, Mono, RunId, Sample, Violation, WorkerId, chain};
use crate::policy::dispatch::{ViolationHandling, ViolationPolicy};
use crate::policy::violation::{Finding, Watchman};
use crate::spec::types::{Limits, Memory};

/// `SIGTERM` (signal(7)).
const SIGTERM: i32 = 15;
/// Closing pressure triggers takes the kernel some tens of milliseconds; longer only where their thread has failed.
const RELEASE: Duration = Duration::from_secs(5);
/// Violations that a slow callback has not yet taken.
const UNTAKEN: usize = 256;

/// What is watched and what is heard of it.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    /// What the parts call the cgroup.
    name: RunId,
    watches: Watches,
    hints: Hints,
    pressed: Pressed,
    teller: mpsc::Sender<Told>,
    watchman: Watchman,
    judge: Judge,
    /// When they were last read.
    counters: Counters,
    wire: Arc<Wire>,
}

/// The pressure triggers, where there are any.
#[derive(Debug)]
struct Pressed {
    triggers: Option<Pressure>,
    /// Says nothing where there are none.
    fired: UnboundedReceiver<(RunId, Limit)>,
    released: UnboundedReceiver<RunId>,
}

/// For the callback.
struct Told {
    callback: Callback,
    violation: Violation,
    policy: ViolationPolicy,
}

/// The cgroup is not there any more.
struct Gone;

impl Watch {
    /// Sets the watches. Everything that is counted from here on is noticed.
    pub(super) fn begin(shared: Arc<Shared>, mode: ViolationHandling) -> Result<Self, LimitError> {
        let (watches, hints) = watch::channel(shared.clock).map_err(LimitError::Notifications)?;
        let name = name_of(&shared.dir)?;
        // Watched first and read second: nothing is missed between the two.
        watches.add(&name, &shared.dir, interest(&shared)).map_err(LimitError::Watch)?;
        let counters = events::read(&shared.dir)?;
        let wire = Arc::new(Wire::new(&shared));
        let pressed = Pressed::set(&shared.dir, &shared.limits, &name)?;
        Ok(Self {
            name,
            watches,
            hints,
            pressed,
            teller: teller(),
            // It began with the host at the earliest, and how much CPU time it has used since is looked up when that matters.
            watchman: Watchman::new(Mono::default()),
            judge: Judge::new(mode),
            counters,
            wire,
            shared,
        })
    }

    /// Watches until it is told to stop, or until nothing more can come.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let asked = loop {
            let due = self.watchman.deadline(&self.shared.rules).into_iter().chain(self.judge.deadline()).min();
            let clock = self.shared.clock;
            let time = async {
                match due {
                    Some(at) => tokio::time::sleep_until(clock.instant(at)).await,
                    None => std::future::pending().await,
                }
            };
            let going_on = tokio::select! {
                biased;
                // Without an answer the manager is gone: then the cgroup is left alone.
                asked = &mut stop => break asked.is_ok(),
                hint = self.hints.next() => match hint {
                    Ok(hint) => self.hear(&hint),
                    Err(error) => {
                        tracing::error!(cgroup = %self.path(), %error, "limits are watched no more: no notification comes");
                        break false;
                    }
                },
                Some((_, limit)) = self.pressed.fired.recv() => {
                    let findings = self.watchman.pressed(&self.shared.rules, limit, clock.now());
                    self.follow(findings)
                }
                () = time => self.look(),
            };
            if let Err(Gone) = going_on {
                tracing::info!(cgroup = %self.path(), "limits are watched no more: the cgroup is gone");
                break false;
            }
        };
        self.end(asked).await;
    }

    async fn end(mut self, asked: bool) {
        self.watches.forget(&self.name);
        self.shared.history().close(None, self.shared.clock.now());
        if self.pressed.triggers.as_ref().is_some_and(|triggers| triggers.forget(&self.name)) {
            // Closed before the directory is removed: a trigger that is left is closed in the rmdir, which takes the whole host along.
            if tokio::time::timeout(RELEASE, self.pressed.released.recv()).await.is_err() {
                tracing::error!(cgroup = %self.path(), "pressure triggers are not closed yet");
            }
        }
        if asked && self.wire.is_lifted() {
            match Arc::clone(&self.wire).arm().await {
                Ok(()) => {}
                Err(error) => tracing::error!(cgroup = %self.path(), %error, "memory.high is not in force again"),
            }
        }
    }

    // ── what is heard ─────────────────────────────────────────────────────────────────────────────────────────────

    fn hear(&mut self, hint: &Hint) -> Result<(), Gone> {
        match hint {
            Hint::Changed(_, source) => self.read(*source),
            Hint::Events(_) => self.is_empty(),
            Hint::Rescan => {
                self.read(Source::Memory)?;
                self.is_empty()
            }
            // Said of parents and ancestors, which nobody watches here.
            Hint::Removed(_) | Hint::Above(_) => Ok(()),
        }
    }

    fn read(&mut self, source: Source) -> Result<(), Gone> {
        let counters = match events::read(&self.shared.dir) {
            Ok(counters) => counters,
            Err(e) if e.is_absent() => return Err(Gone),
            Err(e) => {
                tracing::error!(cgroup = %self.path(), error = %chain(&e), "the counters of a cgroup cannot be read");
                return Ok(());
            }
        };
        let before = std::mem::replace(&mut self.counters, counters);
        let grown = counters.since(before);
        self.watches.seen(&self.name, source, Seen::of(source, grown));
        if counters == before {
            return Ok(());
        }
        let findings = self.watchman.counted(&self.shared.rules, grown, self.shared.clock.now());
        self.follow(findings)
    }

    fn is_empty(&mut self) -> Result<(), Gone> {
        match self.shared.dir.populated() {
            Ok(true) => Ok(()),
            Ok(false) => {
                let then = self.judge.empty();
                self.perform(then)
            }
            Err(e) => self.unreadable(&e),
        }
    }

    fn look(&mut self) -> Result<(), Gone> {
        if !self.shared.dir.has("cgroup.events") {
            return Err(Gone);
        }
        let now = self.shared.clock.now();
        let rules = &self.shared.rules;
        let wanted = self.watchman.wanted(rules, now);
        let sample = if wanted.any() { stat::sample(&self.shared.dir, wanted) } else { Sample::default() };
        let findings = self.watchman.sampled(rules, &sample, now);
        self.follow(findings)?;
        let then = self.judge.time(now);
        self.perform(then)
    }

    fn unreadable(&self, e: &DirError) -> Result<(), Gone> {
        if e.is_absent() {
            return Err(Gone);
        }
        tracing::error!(cgroup = %self.path(), error = %chain(e), "whether a cgroup is empty cannot be read");
        Ok(())
    }

    // ── what is done ──────────────────────────────────────────────────────────────────────────────────────────────

    fn follow(&mut self, findings: Vec<Finding>) -> Result<(), Gone> {
        for finding in findings {
            let callback = self.shared.callback().is_some();
            let then = self.judge.found(&self.shared.limits, finding, callback, self.shared.clock.now());
            self.perform(then)?;
        }
        Ok(())
    }

    fn perform(&mut self, actions: Vec<Action>) -> Result<(), Gone> {
        let mut todo = VecDeque::from(actions);
        while let Some(action) = todo.pop_front() {
            match action {
                Action::Tripwire { armed } => self.tripwire(armed),
                Action::Record { violation, policy, handler, response } => {
                    self.log(&violation, policy);
                    let since = self.shared.clock.now();
                    let one = Recorded { violation, since, until: None, policy, handler, response, error: None };
                    self.shared.history().add(one);
                }
                Action::Close(limit) => {
                    tracing::info!(cgroup = %self.path(), %limit, "a limit is kept again");
                    self.shared.history().close(Some(limit), self.shared.clock.now());
                }
                Action::Call { violation, policy } => self.call(violation, policy),
                Action::Unheard => tracing::warn!(
                    cgroup = %self.path(),
                    "violations are handled externally, and no callback is set: nothing is done about them"
                ),
                Action::Terminate => self.terminate(),
                Action::Kill => match kill::kill(&self.shared.dir) {
                    Err(e) if e.is_absent() => return Err(Gone),
                    Err(e) => {
                        self.failed(chain(&e));
                        self.judge.refused(self.shared.clock.now());
                    }
                    Ok(()) => {}
                },
                Action::AwaitEmpty => match self.watches.drain(&self.name, &self.shared.dir) {
                    Ok(true) => {}
                    Ok(false) => todo.extend(self.judge.empty()),
                    Err(WatchError::Dir(e)) => self.unreadable(&e)?,
                    // The kill comes in its time all the same.
                    Err(e) => self.failed(chain(&e)),
                },
                Action::Unkillable => self.failed("a process is left after cgroup.kill".to_owned()),
                Action::Settle => self.settle()?,
            }
        }
        Ok(())
    }

    fn tripwire(&mut self, armed: bool) {
        if armed {
            // Aside: the kernel reclaims within that write.
            drop(Arc::clone(&self.wire).arm());
        } else {
            self.watchman.lifted();
            self.wire.lift();
        }
    }

    fn terminate(&self) {
        let dir = &self.shared.dir;
        if let Err(e) = signal::make_heard(dir) {
            self.failed(chain(&e));
        }
        if let Err(e) = signal::all(dir, SIGTERM) {
            self.failed(format!("SIGTERM to all: {e}"));
        }
    }

    /// The watch for the last process goes, the others stay: set anew, because they come and go together.
    fn settle(&mut self) -> Result<(), Gone> {
        self.watches.forget(&self.name);
        if let Err(e) = self.watches.add(&self.name, &self.shared.dir, interest(&self.shared)) {
            tracing::error!(cgroup = %self.path(), error = %chain(&e), "limits are watched no more, or not all of them");
        }
        self.read(Source::Memory)
    }

    fn call(&self, violation: Violation, policy: ViolationPolicy) {
        let Some(callback) = self.shared.callback() else { return };
        if self.teller.try_send(Told { callback, violation, policy }).is_err() {
            tracing::error!(cgroup = %self.path(), "the violation callback does not come back; a violation is not told to it");
        }
    }

    fn failed(&self, why: String) {
        tracing::error!(cgroup = %self.path(), error = why, "a violation could not be handled as it should be");
        self.shared.history().failed(why);
    }

    fn log(&self, violation: &Violation, policy: ViolationPolicy) {
        let cgroup = self.path();
        let Violation { limit, observed, configured, .. } = violation;
        match policy {
            ViolationPolicy::None => tracing::debug!(%cgroup, %limit, observed, configured, "a limit is violated"),
            ViolationPolicy::Alert => tracing::error!(%cgroup, %limit, observed, configured, "a limit is violated"),
            _ => tracing::warn!(%cgroup, %limit, observed, configured, "a limit is violated"),
        }
    }

    fn path(&self) -> std::path::Display<'_> {
        self.shared.dir.path().display()
    }
}

impl Pressed {
    fn set(dir: &Arc<Dir>, limits: &Limits, name: &RunId) -> Result<Self, LimitError> {
        let (press, fired) = mpsc::unbounded_channel();
        let (release, released) = mpsc::unbounded_channel();
        let wanted = triggers(limits);
        if wanted.is_empty() {
            return Ok(Self { triggers: None, fired, released });
        }
        // Whoever does not listen any more has no use for it.
        let release = move |name| drop(release.send(name));
        let triggers = Pressure::start(Arc::clone(dir), press, release).map_err(LimitError::Triggers)?;
        triggers.watch(name, dir, wanted);
        Ok(Self { triggers: Some(triggers), fired, released })
    }
}

/// `memory.high` of one cgroup, lifted at once and set again aside.
#[derive(Debug)]
struct Wire {
    dir: Arc<Dir>,
    memory: Memory,
    page_size: u64,
    /// Whether it was last asked to be out of force.
    lifted: AtomicBool,
}

impl Wire {
    fn new(shared: &Shared) -> Self {
        Self {
            dir: Arc::clone(&shared.dir),
            memory: shared.limits.memory.clone(),
            page_size: super::page_size(),
            lifted: AtomicBool::new(false),
        }
    }

    fn is_lifted(&self) -> bool {
        self.lifted.load(Ordering::SeqCst)
    }

    fn lift(&self) {
        self.lifted.store(true, Ordering::SeqCst);
        self.set(false);
    }

    /// Should it be lifted once more meanwhile, that is what holds in the end, whoever of the two writes last.
    fn arm(self: Arc<Self>) -> tokio::task::JoinHandle<()> {
        self.lifted.store(false, Ordering::SeqCst);
        tokio::task::spawn_blocking(move || {
            for armed in [true, false] {
                if self.is_lifted() != armed {
                    self.set(armed);
                }
            }
        })
    }

    fn set(&self, armed: bool) {
        match limits::tripwire(&self.dir, &self.memory, self.page_size, armed) {
            // That it is gone is noticed elsewhere.
            Err(_) if !self.dir.has("cgroup.events") => {}
            Err(e) => {
                let cgroup = self.dir.path().display();
                tracing::error!(%cgroup, error = %chain(&e), "memory.high is not as it should be");
            }
            Ok(()) => {}
        }
    }
}

fn interest(shared: &Shared) -> Interest {
    Interest { memory: shared.rules.counted, pids: shared.rules.counted }
}

/// The parts watch many runs and know each by its name; this is the only one.
fn name_of(dir: &Dir) -> Result<RunId, LimitError> {
    let worker = WorkerId::new(dir.name()).or_else(|_| WorkerId::new("cgroup"));
    let worker = worker.map_err(|e| LimitError::Notifications(io::Error::other(e)))?;
    Ok(RunId::new(worker, 1))
}

/// Calls back, one violation after the other, where it may take its time and nobody waits for it.
fn teller() -> mpsc::Sender<Told> {
    let (teller, mut untold) = mpsc::channel::<Told>(UNTAKEN);
    tokio::spawn(async move {
        while let Some(Told { callback, violation, policy }) = untold.recv().await {
            let called = tokio::task::spawn_blocking(move || callback(&violation, policy)).await;
            if let Err(error) = called {
                tracing::error!(%error, "the violation callback has failed");
            }
        }
    });
    teller
}

impl Shared {
    /// Nothing under these locks can panic half-way, so a poisoned one is as good as new.
    pub(super) fn history(&self) -> std::sync::MutexGuard<'_, super::history::History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn callback(&self) -> Option<Callback> {
        self.callback.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
