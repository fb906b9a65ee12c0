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
    future::{Future, poll_fn},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_channel::mpsc::{UnboundedReceiver, unbounded};
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::{self, Clock};
use crate::kernel::news::{NewsReceiver, news};
use crate::kernel::port::{Kernel, RunNote, Standing};
use crate::metrics::latency::Latency;
use crate::model::{self, Begun, EventKind, Mono, RunEnd, RunId, Story, WorkerId, chain};
use crate::spec::types::{Spec, ViolationPolicy};
use crate::store::{Change, Kept, Ledger, Shown};

use super::charge::Taken;
use super::effect::{Effect, Refusal};
use super::event::{Event, Ticket, Turn};
use super::gone::Seqs;
use super::handle::{Command, Message, Published, WorkerHandle};
use super::keeping::{Come, Keeping};
use super::state::State;

pub use super::charge::{Charge, Fate, Found};

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
    /// Where goes what outlives the supervisor.
    pub ledger: Arc<dyn Ledger>,
    /// The supervisor's number, for the events.
    pub epoch: u64,
    /// Where a worker is named whose breaker has opened and whose `on_open` is `exit`.
    pub give_up: mpsc::UnboundedSender<WorkerId>,
    /// How many CPUs a run can use at the most.
    pub cpus: u32,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: Arc<str>,
    /// What jitter and runs' identities are drawn from, together with the worker's name: random, or fixed in a test.
    pub seed: u64,
    /// How long decisions take.
    pub latency: Arc<Latency>,
    /// The number of the last event of each worker.
    pub seqs: Mutex<Seqs>,
}

impl Shared {
    fn seqs(&self) -> MutexGuard<'_, Seqs> {
        // Nothing under this lock can panic half-way.
        self.seqs.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    let declared = Arc::clone(&charge.spec);
    let Taken { id, spec_hash, state, record, late, debris } = charge.take(&shared.boot_id, now);
    let (state, record) = (state.on_cpus(shared.cpus), record.as_deref());
    // tokio's has room for 32 commands from the start: 2.8 KiB for each worker, which is asked for something once a day.
    let (commands, command_queue) = unbounded();
    let (news, kernel_queue) = news();
    let story = record.and_then(|record| record.story.clone()).unwrap_or_else(Story::untold);
    let first = Published { status: state.status(), at_rest: state.is_at_rest(), story: Arc::clone(&story) };
    let (showcase, published) = watch::channel(first);
    let mut keeping = Keeping::default();
    keeping.left(late, debris);
    if record.and_then(|record| record.spec_hash) != Some(spec_hash) {
        keeping.add(Change::Declared { worker: id.clone(), spec_hash });
    }
    let began = state.main_process();
    if let Some((pid, started)) = began
        && record.and_then(|record| record.last_run.as_ref()).is_none_or(|run| run.number != state.run().number)
    {
        let (at, begun) = (wall_at(started, now, clock::wall()), Some(Begun::Adopted));
        let boot_id = Arc::clone(&shared.boot_id);
        keeping.add(Change::Started { run: state.run(), pid, boot_id, at, begun });
    }
    shared.kernel.attach(&id, news);
    let mut hasher = DefaultHasher::new();
    (shared.seed, &id).hash(&mut hasher);
    let actor = Actor {
        shared: Arc::clone(shared),
        state,
        seq: shared.seqs().take(&id),
        generation: 0,
        tickets: 0,
        waiting: Vec::new(),
        taken: None,
        publisher: showcase,
        story,
        story_is_new: false,
        keeping,
        declared,
        random: fastrand::Rng::with_seed(hasher.finish()),
        next: VecDeque::new(),
        began,
        came: now,
    };
    (WorkerHandle { id, who: None, commands, published }, actor.run(kernel_queue, command_queue))
}

/// What the wall clock, which says `wall` now, said at `then`.
fn wall_at(then: Mono, now: Mono, wall: Timestamp) -> Timestamp {
    wall.checked_sub(now.since(then)).unwrap_or(wall)
}

struct Actor {
    shared: Arc<Shared>,
    state: State,
    /// The number of its last event.
    seq: Arc<AtomicU64>,
    generation: u64,
    tickets: u64,
    waiting: Vec<(Ticket, oneshot::Sender<Result<(), Refusal>>)>,
    /// Of the command whose turn it is.
    taken: Option<oneshot::Sender<()>>,
    publisher: watch::Sender<Published>,
    story: Arc<Story>,
    story_is_new: bool,
    keeping: Keeping,
    /// What the store knows it to run.
    declared: Arc<Spec>,
    random: fastrand::Rng,
    /// What effects answered at once: taken before anything else, but for a start that failed.
    next: VecDeque<Event>,
    /// The main process of the current run and when its program began, until the run is over.
    began: Option<(i32, Mono)>,
    /// When that came, or was due, whose turn it is.
    came: Mono,
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.shared.seqs().give_back(self.state.run().worker);
    }
}

impl Actor {
    #[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice: 1.6 KiB instead of 0.6")]
    fn run(
        mut self,
        mut kernel: NewsReceiver,
        mut commands: UnboundedReceiver<Message>,
    ) -> impl Future<Output = ()> + Send + use<> {
        async move {
            for end in self.keeping.late() {
                self.tell_late(end);
            }
            self.turn(Event::Begin);
            let (mut listening, mut leaving) = (true, false);
            while listening || !self.state.is_at_rest() || !self.keeping.is_idle() {
                if leaving && self.next.is_empty() && self.keeping.is_idle() && self.state.can_be_left() {
                    return;
                }
                let deadline = self.state.deadline();
                let alarm = self.shared.clock.instant(deadline.unwrap_or(Mono(Duration::MAX)));
                let event = tokio::select! {
                    biased;
                    // Cancel-safe: a message is taken or stays.
                    (at, news) = kernel.recv() => {
                        self.came = at;
                        Event::Kernel(news)
                    }
                    // Cancel-safe: made anew from the state in each turn.
                    () = tokio::time::sleep_until(alarm), if deadline.is_some() => {
                        self.came = deadline.unwrap_or(self.came);
                        Event::Deadline
                    }
                    // Cancel-safe: what is on its way stays so.
                    stored = poll_fn(|context| self.keeping.poll_stored(context)), if !self.keeping.is_idle() => {
                        self.stored(&stored);
                        continue;
                    }
                    // Cancel-safe: a message is taken or stays.
                    message = commands.next(), if listening => match message {
                        Some(Message::Ask(command)) => {
                            // It waits in a queue that does not say since when.
                            self.came = self.shared.clock.now();
                            self.admit(*command)
                        }
                        Some(Message::Leave { now: true }) => return,
                        Some(Message::Leave { now: false }) => {
                            leaving = true;
                            continue;
                        }
                        None => {
                            listening = false;
                            continue;
                        }
                    },
                    // Cancel-safe: the event stays until it is taken.
                    () = tokio::task::yield_now(), if !self.next.is_empty() => match self.next.pop_front() {
                        Some(next) => {
                            self.came = self.shared.clock.now();
                            next
                        }
                        None => continue,
                    },
                };
                self.turn(event);
                if let Some(taken) = self.taken.take() {
                    self.keeping.taken(taken);
                }
                self.shrink();
            }
        }
    }

    /// Gives back the room that a turn has taken: it can be days to the next one.
    fn shrink(&mut self) {
        self.next.shrink_to_fit();
        self.waiting.shrink_to_fit();
        self.keeping.shrink();
        self.state.shrink();
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
                if matches!(effect, Effect::Reply { .. }) {
                    self.keeping.hand_over(&*self.shared.ledger);
                }
                self.perform(effect);
            }
            self.keeping.hand_over(&*self.shared.ledger);
            self.keeping.end_of_turn().iter().for_each(|run| self.shared.kernel.remove(run));
            let at_once = self.next.front().is_some_and(|next| !failed_at_once(next));
            event = if at_once { self.next.pop_front() } else { None };
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Prepare(run) => {
                let note = self.new_note(&run);
                let result = self.shared.kernel.prepare(&run, self.state.spec(), &note);
                self.next.push_back(Event::Prepared { run: run.number, result: Box::new(result) });
            }
            Effect::Launch(run, way) => self.shared.kernel.launch(&run, self.state.spec(), way),
            Effect::Signal { run, signal, to, thaws } => {
                let sent = self.shared.kernel.signal(&run, signal, to, thaws);
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
                self.began = None;
                self.keeping.over(run);
            }
            Effect::Sample { run, wanted, periodic } => {
                let sample = Box::new(self.shared.kernel.sample(&run, wanted));
                self.next.push_back(Event::Sampled { run: run.number, sample, periodic });
            }
            Effect::Tripwire { run, armed } => {
                let set = self.shared.kernel.tripwire(&run, self.state.spec(), armed);
                self.record_failure(&run, set);
            }
            Effect::Limits { run, spec, lifted } => self.shared.kernel.change_limits(&run, &spec, lifted),
            Effect::Freeze { run, frozen } => {
                if let Err(error) = self.shared.kernel.freeze(&run, frozen) {
                    let why = chain(&error).into();
                    self.next.push_back(Event::FreezeRefused { run: run.number, why });
                }
            }
            Effect::InquireFreeze { run, frozen } => {
                if let Some(what) = self.shared.kernel.freeze_held_up(&run, frozen) {
                    self.next.push_back(Event::StuckOn { run: run.number, what: what.into() });
                }
            }
            Effect::Rewatch(run) => self.shared.kernel.rewatch(&run, self.state.spec()),
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
            Effect::Remember { durably } => self.remember(durably),
            Effect::Emit { run, kind } => self.emit(run, *kind),
            Effect::Reply { ticket, result } => self.reply(ticket, result),
            Effect::Publish => self.publish(),
        }
    }

    fn remember(&mut self, durably: bool) {
        let now = self.shared.clock.now();
        let RunId { worker, number: run } = self.state.run();
        if !Arc::ptr_eq(&self.declared, self.state.spec()) {
            self.declared = Arc::clone(self.state.spec());
            self.keeping.add(Change::Declared { worker: worker.clone(), spec_hash: self.declared.digest() });
        }
        if let Some(wish) = self.state.desired() {
            self.keeping.add(Change::Wish { worker: worker.clone(), wish, at: clock::wall() });
        }
        let (breaker, restarts) = (self.state.breaker(now), self.state.status().restarts_by);
        let kept = Box::new(Kept { run, breaker, restarts, outlook: self.state.outlook(now) });
        self.keeping.add(Change::Breaker { worker, kept });
        if durably {
            self.keeping.durably();
        }
    }

    /// What was to be on disk is, or could not be written.
    fn stored(&mut self, come: &Come) {
        if let Come::Intent(Err(why)) = come {
            let run = Some(self.state.run().number).filter(|number| *number > 0);
            self.emit(run, EventKind::Fault { error: format!("what was decided is done and not on disk: {why}") });
            self.keeping.hand_over(&*self.shared.ledger);
            self.publish();
        }
        self.keeping.let_go(come, |run| self.shared.kernel.remove(run));
    }

    fn new_note(&mut self, run: &RunId) -> RunNote {
        let status = self.state.status();
        RunNote {
            v: NOTE_VERSION,
            uuid: uuid(&mut self.random),
            run: run.clone(),
            spec_hash: self.state.spec().digest(),
            breaker: self.state.breaker(self.shared.clock.now()),
            restarts: status.restarts_by,
            desired_up: self.state.should_be_up(),
            pid: None,
            pid_start_ticks: None,
            boot_id: self.shared.boot_id.to_string(),
            started_mono_ns: None,
            baseline: model::Counters::default(),
            ending: None,
            untold: self.keeping.untold(run.number),
        }
    }

    fn rewrite_note(&mut self, run: &RunId) {
        let now = Standing {
            desired_up: self.state.should_be_up(),
            breaker: self.state.breaker(self.shared.clock.now()),
            main: self.state.main_process(),
            ending: self.state.ending(),
            untold: self.keeping.untold(run.number),
        };
        let written = self.shared.kernel.note(run, now);
        self.record_failure(run, written);
    }

    fn record_failure(&mut self, run: &RunId, result: Result<(), impl std::error::Error>) {
        if let Err(error) = result {
            self.emit(Some(run.number), EventKind::Fault { error: chain(&error) });
        }
    }

    fn emit(&mut self, run: Option<u32>, kind: EventKind) {
        let at = clock::wall();
        self.note_down(run, &kind, at);
        self.tell(run, kind, at);
    }

    /// Tells of an end that the supervisor before has seen: perhaps once more.
    fn tell_late(&mut self, end: RunEnd) {
        let RunId { worker, .. } = self.state.run();
        if let Some((pid, at)) = end.began {
            let (run, boot_id) = (RunId::new(worker.clone(), end.run), Arc::clone(&self.shared.boot_id));
            self.keeping.add(Change::Started { run, pid, boot_id, at, begun: end.begun });
        }
        let RunEnd { run, at, cause, confidence, evidence, .. } = end.clone();
        self.keeping.ended(worker, end);
        self.tell(Some(run), EventKind::Exited { cause, confidence, evidence }, at);
    }

    fn tell(&mut self, run: Option<u32>, kind: EventKind, at: Timestamp) {
        if let EventKind::Decision(model::Decision { limit: Some(limit), policy, evidence, rule, .. }) = &kind {
            let worker = self.state.run().worker;
            if policy == ViolationPolicy::Alert.as_str() {
                tracing::error!(%worker, %limit, "violated: {evidence}");
            } else {
                tracing::info!(%worker, %limit, "violated: {evidence}; {rule}");
            }
        }
        let now = self.shared.clock.now();
        if matches!(kind, EventKind::Decision(_)) {
            self.shared.latency.observe(now.since(self.came));
        }
        let seq = self.seq.fetch_add(1, Ordering::Relaxed) + 1;
        let event = model::Event {
            v: EVENT_VERSION,
            epoch: self.shared.epoch,
            seq,
            time: format!("{at:.6}"),
            mono_ns: now.as_nanos(),
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

    /// Has the begin and the end of a run remembered.
    fn note_down(&mut self, run: Option<u32>, kind: &EventKind, at: Timestamp) {
        let Some(number) = run else { return };
        let (worker, begun) = (self.state.run().worker, self.state.begun());
        match kind {
            EventKind::Started { pid } => {
                self.began = self.state.main_process();
                let (run, boot_id) = (RunId::new(worker, number), Arc::clone(&self.shared.boot_id));
                self.keeping.add(Change::Started { run, pid: *pid, boot_id, at, begun });
            }
            EventKind::Exited { cause, confidence, evidence } => {
                let now = self.shared.clock.now();
                let began = self.began.map(|(pid, started)| (pid, wall_at(started, now, at)));
                let (cause, confidence, evidence) = (cause.clone(), *confidence, evidence.clone());
                self.keeping.ended(worker, RunEnd { run: number, began, begun, at, cause, confidence, evidence });
            }
            _ => {}
        }
    }

    fn reply(&mut self, ticket: Ticket, result: Result<(), Refusal>) {
        if let Some(at) = self.waiting.iter().position(|(waiting, _)| *waiting == ticket) {
            self.keeping.answer(self.waiting.swap_remove(at).1, result);
        }
    }

    fn publish(&mut self) {
        self.generation += 1;
        let mut status = self.state.status();
        status.generation = self.generation;
        let at_rest = self.state.is_at_rest();
        if self.keeping.is_new((status.state, status.detail)) || self.story_is_new {
            let shown = Shown { state: status.state, detail: status.detail };
            let story = self.story_is_new.then(|| Arc::clone(&self.story));
            self.keeping.add(Change::Status { worker: status.id.clone(), status: shown, story });
        }
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
#[path = "handoff_tests.rs"]
mod handoff_tests;

#[cfg(test)]
#[path = "update_tests.rs"]
mod update_tests;

#[cfg(test)]
#[path = "policy_tests.rs"]
mod policy_tests;

#[cfg(test)]
#[path = "begun_tests.rs"]
mod begun_tests;

#[cfg(test)]
#[path = "freezer_tests.rs"]
mod freezer_tests;
