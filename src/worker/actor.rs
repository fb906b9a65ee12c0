//! The thin task around [`step`](super::transition::step): gather one event, step, perform the effects in order.
//!
//! Nothing in it waits but the one `select!` between two turns, and nothing it does blocks: the kernel's methods are a handful
//! of system calls each, the status goes to a `watch`, answers to oneshots, and records to an *unbounded*
//! channel. A bounded one would have to choose between two wrongs when it is full: to wait, which stops the supervision for
//! a slow disk, or to drop, which breaks the gapless `seq`. What fills it is bounded instead: a worker's events come with its
//! starts, exits and damped notifications, and who must not fall behind (a sink over a network) has its own bounded queue and
//! counts what it drops.

use std::{
    collections::VecDeque,
    future::Future,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::{self, Clock};
use crate::kernel::news::{NewsReceiver, news};
use crate::kernel::port::{Kernel, RunNote};
use crate::model::{self, EventKind, Mono, RunId, Story, WorkerId, chain};
use crate::spec::types::{Spec, ViolationPolicy};

use super::effect::{Effect, Refusal};
use super::event::{Event, Ticket, Turn};
use super::handle::{Command, Published, WorkerHandle};
use super::state::{Adopted, State};

/// The version of [`RunNote`] that is written.
const NOTE_VERSION: u32 = 1;

/// The version of [`model::Event`] that is written.
const EVENT_VERSION: u32 = 1;

/// What all actors of a supervisor share.
pub struct Shared {
    /// The kernel.
    pub kernel: Arc<dyn Kernel>,
    /// The clock.
    pub clock: Clock,
    /// Where records of what happened go.
    pub records: mpsc::UnboundedSender<model::Event>,
    /// Where a worker is named whose breaker has opened and whose `on_open` is `exit`.
    pub give_up: mpsc::UnboundedSender<WorkerId>,
    /// How many CPUs a run can use at the most.
    pub cpus: u32,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// What jitter and runs' identities are drawn from, together with the worker's name: random, or fixed in a test.
    pub seed: u64,
}

/// A worker to supervise.
pub struct Charge {
    /// Its name.
    pub id: WorkerId,
    /// What to run and how.
    pub spec: Arc<Spec>,
    /// A hash of `spec`, for the run's record.
    pub spec_hash: u64,
    /// What there is of it.
    pub found: Found,
}

/// What there is of a worker when its supervision begins.
pub enum Found {
    /// Nothing.
    Nothing {
        /// The highest number that any run of it ever had; 0 for none.
        last_run: u32,
    },
    /// A live run, with its record and its keeper.
    Alive {
        /// Its main process; `None` where its launch is not decided yet.
        pid: Option<i32>,
        /// Its record.
        note: Box<RunNote>,
    },
    /// A populated cgroup that nobody can tell anything of.
    Occupied {
        /// The number in its name.
        run: u32,
    },
}

/// Supervises `charge` from now on, in a task of its own. Nothing is started before it is asked for.
#[must_use]
pub fn spawn(shared: &Arc<Shared>, charge: Charge) -> WorkerHandle {
    let (handle, actor) = supervise(shared, charge);
    tokio::spawn(actor);
    handle
}

/// As [`spawn`], and the caller decides where the actor runs. It ends when its handles are gone and its worker has come
/// to rest.
pub fn supervise(shared: &Arc<Shared>, charge: Charge) -> (WorkerHandle, impl Future<Output = ()> + Send + use<>) {
    let now = shared.clock.now();
    let Charge { id, spec, spec_hash, found } = charge;
    let mut note = None;
    let state = match found {
        Found::Nothing { last_run } => State::new(id.clone(), spec, last_run, now),
        Found::Occupied { run } => State::occupied(id.clone(), spec, run, now),
        Found::Alive { pid, note: found } => {
            let adopted = Adopted {
                run: found.run.number,
                pid,
                started: found.started_mono_ns.map_or(now, |ns| Mono(Duration::from_nanos(ns))),
                baseline: found.baseline,
                breaker: found.breaker.clone(),
                recorded_running: found.pid.is_some(),
                restarts: found.restarts,
                desired_up: found.desired_up,
            };
            note = Some(found);
            State::adopted(id.clone(), spec, &adopted, now)
        }
    };
    let state = state.on_cpus(shared.cpus);
    let (commands, command_queue) = mpsc::unbounded_channel();
    let (news, kernel_queue) = news();
    let (showcase, published) =
        watch::channel(Published { status: state.status(), at_rest: state.is_at_rest(), story: Arc::default() });
    shared.kernel.attach(&id, news);
    let mut hasher = DefaultHasher::new();
    (shared.seed, &id).hash(&mut hasher);
    let actor = Actor {
        shared: Arc::clone(shared),
        state,
        spec_hash,
        note,
        seq: 0,
        generation: 0,
        tickets: 0,
        waiting: Vec::new(),
        taken: None,
        publisher: showcase,
        story: Arc::default(),
        story_is_new: false,
        random: fastrand::Rng::with_seed(hasher.finish()),
        next: VecDeque::new(),
    };
    (WorkerHandle { id, who: None, commands, published }, actor.run(kernel_queue, command_queue))
}

struct Actor {
    shared: Arc<Shared>,
    state: State,
    spec_hash: u64,
    /// The current run's record.
    note: Option<Box<RunNote>>,
    seq: u64,
    generation: u64,
    tickets: u64,
    waiting: Vec<(Ticket, oneshot::Sender<Result<(), Refusal>>)>,
    /// Of the command whose turn it is.
    taken: Option<oneshot::Sender<()>>,
    publisher: watch::Sender<Published>,
    story: Arc<Story>,
    story_is_new: bool,
    random: fastrand::Rng,
    /// What effects answered at once: taken before anything else, but for a start that failed.
    next: VecDeque<Event>,
}

impl Actor {
    #[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice: 1.6 KiB instead of 0.6")]
    fn run(
        mut self,
        mut kernel: NewsReceiver,
        mut commands: mpsc::UnboundedReceiver<Command>,
    ) -> impl Future<Output = ()> + Send + use<> {
        async move {
            self.turn(Event::Begin);
            let mut listening = true;
            while listening || !self.state.is_at_rest() {
                let deadline = self.state.deadline();
                let alarm = self.shared.clock.instant(deadline.unwrap_or(Mono(Duration::MAX)));
                let event = tokio::select! {
                    biased;
                    // Cancel-safe: a message is taken or stays.
                    news = kernel.recv() => Event::Kernel(news),
                    // Cancel-safe: made anew from the state in each turn.
                    () = tokio::time::sleep_until(alarm), if deadline.is_some() => Event::Deadline,
                    // Cancel-safe: a message is taken or stays.
                    command = commands.recv(), if listening => {
                        let Some(command) = command else {
                            listening = false;
                            continue;
                        };
                        self.admit(command)
                    }
                    // Cancel-safe: the event stays until it is taken.
                    () = tokio::task::yield_now(), if !self.next.is_empty() => match self.next.pop_front() {
                        Some(next) => next,
                        None => continue,
                    },
                };
                self.turn(event);
                self.taken = None;
            }
        }
    }

    fn admit(&mut self, Command { ask, who, taken, answer }: Command) -> Event {
        self.taken = Some(taken);
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.waiting.push((ticket, answer));
        Event::Operator { ask, who, ticket: Some(ticket) }
    }

    fn turn(&mut self, event: Event) {
        let mut event = Some(event);
        while let Some(now_this) = event {
            let turn = Turn { now: self.shared.clock.now(), jitter: self.random.f64() };
            for effect in self.state.advance(now_this, turn) {
                self.perform(effect);
            }
            let at_once = self.next.front().is_some_and(|next| !failed_at_once(next));
            event = if at_once { self.next.pop_front() } else { None };
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Prepare(run) => {
                let note = self.new_note(&run);
                let mut result = self.shared.kernel.prepare(&run, self.state.spec(), &note);
                if let Ok(baseline) = &mut result {
                    self.note = Some(Box::new(RunNote { baseline: *baseline, ..note }));
                }
                self.next.push_back(Event::Prepared { run: run.number, result: Box::new(result) });
            }
            Effect::Launch(run, way) => self.shared.kernel.launch(&run, self.state.spec(), way),
            Effect::Signal { run, signal, to } => {
                let sent = self.shared.kernel.signal(&run, signal, to);
                self.record_failure(&run, sent);
            }
            Effect::Kill(run) => {
                let killed = self.shared.kernel.kill(&run);
                if killed.is_err() {
                    self.next.push_back(Event::KillRefused { run: run.number });
                }
                self.record_failure(&run, killed);
            }
            Effect::Drain(run) => self.shared.kernel.drain(&run),
            Effect::Remove(run) => {
                self.note = None;
                self.shared.kernel.remove(&run);
            }
            Effect::Sample { run, wanted, periodic } => {
                let sample = Box::new(self.shared.kernel.sample(&run, wanted));
                self.next.push_back(Event::Sampled { run: run.number, sample, periodic });
            }
            Effect::Tripwire { run, armed } => {
                let set = self.shared.kernel.tripwire(&run, self.state.spec(), armed);
                self.record_failure(&run, set);
            }
            Effect::Inquire(run) => {
                if let Some(what) = self.shared.kernel.stuck_on(&run) {
                    self.next.push_back(Event::StuckOn { run: run.number, what: what.into() });
                }
            }
            Effect::GiveUp => {
                // Refused only where the supervisor is ending already.
                drop(self.shared.give_up.send(self.state.run().worker));
            }
            Effect::Note(run) => self.rewrite_note(&run),
            Effect::Emit { run, kind } => self.emit(run, *kind),
            Effect::Reply { ticket, result } => self.reply(ticket, result),
            Effect::Publish => self.publish(),
        }
    }

    fn new_note(&mut self, run: &RunId) -> RunNote {
        let status = self.state.status();
        RunNote {
            v: NOTE_VERSION,
            uuid: uuid(&mut self.random),
            run: run.clone(),
            spec_hash: self.spec_hash,
            breaker: self.state.breaker(self.shared.clock.now()),
            restarts: status.restarts_by,
            desired_up: status.desired_up,
            pid: None,
            pid_start_ticks: None,
            boot_id: self.shared.boot_id.clone(),
            started_mono_ns: None,
            baseline: model::Counters::default(),
        }
    }

    fn rewrite_note(&mut self, run: &RunId) {
        let Some(note) = &mut self.note else { return };
        note.desired_up = self.state.status().desired_up;
        note.breaker = self.state.breaker(self.shared.clock.now());
        if let Some((pid, started)) = self.state.main_process() {
            note.pid = Some(pid);
            note.started_mono_ns = Some(started.as_nanos());
        }
        let written = self.shared.kernel.note(run, note);
        self.record_failure(run, written);
    }

    fn record_failure(&mut self, run: &RunId, result: Result<(), impl std::error::Error>) {
        if let Err(error) = result {
            self.emit(Some(run.number), EventKind::Fault { error: chain(&error) });
        }
    }

    fn emit(&mut self, run: Option<u32>, kind: EventKind) {
        if let EventKind::Decision(model::Decision { limit: Some(limit), policy, evidence, rule, .. }) = &kind {
            let worker = self.state.run().worker;
            if policy == ViolationPolicy::Alert.as_str() {
                tracing::error!(%worker, %limit, "violated: {evidence}");
            } else {
                tracing::info!(%worker, %limit, "violated: {evidence}; {rule}");
            }
        }
        self.seq += 1;
        let event = model::Event {
            v: EVENT_VERSION,
            seq: self.seq,
            time: format!("{:.6}", clock::wall()),
            mono_ns: self.shared.clock.now().as_nanos(),
            worker: Some(self.state.run().worker),
            run,
            kind,
        };
        if Story::concerns(&event.kind) {
            Arc::make_mut(&mut self.story).tell(&event);
            self.story_is_new = true;
        }
        // Nobody keeps records any more: the supervisor is going down, and supervision goes on till the end.
        drop(self.shared.records.send(event));
    }

    fn reply(&mut self, ticket: Ticket, result: Result<(), Refusal>) {
        if let Some(at) = self.waiting.iter().position(|(waiting, _)| *waiting == ticket) {
            // Whoever asked may have stopped waiting.
            drop(self.waiting.swap_remove(at).1.send(result));
        }
    }

    fn publish(&mut self) {
        self.generation += 1;
        let mut status = self.state.status();
        status.generation = self.generation;
        let at_rest = self.state.is_at_rest();
        self.publisher.send_modify(|shown| {
            shown.status = status;
            shown.at_rest = at_rest;
            if std::mem::take(&mut self.story_is_new) {
                shown.story = Arc::clone(&self.story);
            }
        });
    }
}

/// A start that failed without a wait. Where it is tried again without a delay, the two would go on for ever and
/// nothing else be heard, so that it takes its turn behind everything else.
fn failed_at_once(event: &Event) -> bool {
    matches!(event, Event::Prepared { result, .. } if result.is_err())
}

/// A random UUID (RFC 9562, version 4).
fn uuid(random: &mut fastrand::Rng) -> String {
    let bits = random.u128(..);
    let bits = (bits & !(0xf << 76) & !(0b11 << 62)) | (0x4 << 76) | (0b10 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
#[path = "actor_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "policy_tests.rs"]
mod policy_tests;
