//! The rules: what an event does to a worker, and what is to be done about it.
//!
//! Pure. Nothing here waits, reads a clock or can fail; an event that has no meaning in the phase it meets (of a
//! run that is over, told twice) changes nothing.
//!
//! Here are the frame of a step, what time brings, and the steps of a life that several events lead to; what is asked of a
//! worker and what the kernel says of it are in the two modules below.

use std::time::Duration;

use crate::model::{
    Begun, BreakerState, Class, Counters, EventKind, Evidence, KernelEventKind, KilledBy, Mono, Outlook, RestartCounts,
    RunId, Stage, StartError, Target,
};
use crate::policy::breaker::{Breaker, Changes};
use crate::policy::cause::{self, End, Facts};
use crate::policy::decide::{self, Act, Exit, Pending, Trigger};
use crate::spec::types::KillMode;

use super::effect::{Effect, Refusal};
use super::event::{Event, Ticket, Turn};
use super::state::{After, Behalf, Body, Goal, Life, Main, Phase, Remains, Rest, State, Unseen, Wish};

/// SIGTERM and SIGKILL, signal(7): the same numbers on every architecture.
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// How long a cgroup may stay populated after `cgroup.kill`, before it is called unkillable.
pub const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How long a refused `cgroup.kill` waits for the next try.
pub const KILL_RETRY: Duration = Duration::from_millis(100);

/// How long a launch may stay unanswered. The kernel's side answers long before, and lets ten thousand of them wait for their turn on
/// a slow host; this is for one that never does.
pub const LAUNCH_PATIENCE: Duration = Duration::from_secs(600);

/// Takes one event.
#[must_use]
pub fn step(mut state: State, event: Event, turn: Turn) -> (State, Vec<Effect>) {
    let effects = state.advance(event, turn);
    (state, effects)
}

impl State {
    /// [`step`] in place.
    #[must_use]
    pub fn advance(&mut self, event: Event, turn: Turn) -> Vec<Effect> {
        let begin = event == Event::Begin;
        let ordered = event.is_a_persons();
        let (before, memory) = ((self.status(), self.leftovers.len()), self.memory());
        let told = Class::ALL.map(|class| self.breaker.state(class));
        let mut t = Transition {
            s: self,
            out: Vec::new(),
            replies: Vec::new(),
            changes: Changes::new(),
            told,
            now: turn.now,
            jitter: turn.jitter,
        };
        match event {
            Event::Begin => t.begin(),
            Event::Operator { ask, who, ticket } => t.asked(ask, who.as_deref(), ticket),
            Event::Kernel(news) if news.kind == KernelEventKind::Removed => t.removed(&news.run),
            Event::Kernel(news) if matches!(news.kind, KernelEventKind::LogDropped { .. }) => t.log_dropped(*news),
            Event::Kernel(news) if t.is_current(&news.run) => t.kernel(*news),
            Event::Prepared { run, result } if run == t.s.last_run => t.prepared(*result),
            Event::KillRefused { run } if run == t.s.last_run => t.kill_refused(),
            Event::Sampled { run, sample, periodic } if run == t.s.last_run => t.sampled(&sample, periodic),
            Event::StuckOn { run, what } if run == t.s.last_run => t.stuck_on(what),
            Event::FreezeRefused { run, why } if run == t.s.last_run => t.freeze_refused(&why),
            // A run that is over cannot touch the one there is.
            Event::Kernel(_)
            | Event::Prepared { .. }
            | Event::KillRefused { .. }
            | Event::Sampled { .. }
            | Event::StuckOn { .. }
            | Event::FreezeRefused { .. } => {}
            Event::Deadline => t.deadline(),
        }
        t.freezer_matters();
        t.tell_of_the_breaker();
        t.remember(&memory, ordered);
        let (state, detail) = t.s.public();
        if state != before.0.state {
            t.s.since = t.now;
        }
        // An empty cgroup has to be read to be empty, which takes no time worth telling.
        let passing = matches!(&t.s.phase, Phase::Draining { life, .. } if !life.left_behind);
        if (state, detail) != (before.0.state, before.0.detail) && !passing {
            t.emit(EventKind::State { state, detail });
        }
        if begin || before != (t.s.status(), t.s.leftovers.len()) {
            t.out.push(Effect::Publish);
        }
        // Whoever is answered finds the status that the answer speaks of.
        t.out.append(&mut t.replies);
        t.out
    }
}

mod asked;
mod freezer;
mod news;
mod update;
mod verdict;

struct Transition<'a> {
    s: &'a mut State,
    out: Vec<Effect>,
    replies: Vec<Effect>,
    /// What the breaker said of itself.
    changes: Changes,
    /// Each class of it as it was last told.
    told: [BreakerState; 3],
    now: Mono,
    jitter: f64,
}

impl Transition<'_> {
    fn begin(&mut self) {
        if let Some(unseen) = self.s.unseen.take() {
            return self.ended_unseen(*unseen);
        }
        match self.take() {
            Phase::Running { life, main } => {
                let frozen = if life.is_frozen() { ", frozen" } else { "" };
                self.emit(EventKind::Reconciled {
                    what: format!("taken over untouched, with pid {}{frozen}", main.pid),
                });
                // A store that was made anew knows nothing of it.
                self.out.push(Effect::Remember { durably: false });
                match self.s.wish {
                    Wish::Down(by) => self.terminate(life, main, by.unwrap_or(Behalf::STOP), After::Policy, None),
                    Wish::Up => {
                        self.s.phase = Phase::Running { life, main };
                        self.hold_to_limits();
                    }
                }
            }
            // What was asked for may not have reached it.
            Phase::Terminating { life, main, after, .. } => {
                self.found_ending(main);
                let by = life.asked.by().unwrap_or(KilledBy::Stop);
                let behalf = Behalf { by, policy: life.asked.policy };
                self.terminate(life, main, behalf, after, None);
            }
            Phase::Killing { life, body: Body::Alive(main), after, .. } => {
                self.found_ending(main);
                self.kill_again(life, Body::Alive(main), after);
            }
            draining @ Phase::Draining { .. } => {
                let what = "its run has ended and been told of: what is left of it is seen to its end";
                self.emit(EventKind::Reconciled { what: what.to_owned() });
                self.s.phase = draining;
                self.out.push(Effect::Remember { durably: false });
                self.out.push(Effect::Drain(self.s.run()));
            }
            launching @ Phase::Launching { .. } => {
                self.emit(EventKind::Reconciled { what: "found while it is being launched".to_owned() });
                self.s.phase = launching;
                if self.s.wish == Wish::Up {
                    self.hold_to_limits();
                }
            }
            stuck @ Phase::Stuck { .. } => {
                let what = "processes of an earlier supervisor are in its cgroup, without a record: left alone, nothing is \
                            started over them";
                self.emit(EventKind::Reconciled { what: what.to_owned() });
                self.s.phase = stuck;
                self.out.push(Effect::Drain(self.s.run()));
            }
            other => self.s.phase = other,
        }
    }

    fn found_ending(&mut self, main: Main) {
        let what = format!("taken over with pid {}, to be ended as was begun", main.pid);
        self.emit(EventKind::Reconciled { what });
        self.out.push(Effect::Remember { durably: false });
    }

    /// A run that a store has as running is not there, and nobody saw it end.
    fn ended_unseen(&mut self, Unseen { run, why, began }: Unseen) {
        let (life, nothing) = (Life::new(self.now, Counters::default()), Counters::default());
        let last = std::mem::replace(&mut self.s.last_run, run);
        // How long it ran nobody knows: not long enough to be called stable.
        self.report_exit(&life, End::Unseen(why), nothing, nothing, Duration::ZERO);
        self.s.last_run = last;
        if self.s.wish == Wish::Up {
            let began = Mono(self.now.0.saturating_sub(began));
            self.what_next(began, None, After::Policy);
        }
    }

    /// Has remembered what has changed: on disk before the answer where a person or a final policy wished it, or a class of the
    /// breaker has opened. That everything ends changes nothing about the workers, but that the next supervisor starts
    /// what ran.
    fn remember(&mut self, before: &(Wish, Breaker, RestartCounts, Outlook), ordered: bool) {
        let after = self.s.memory();
        if after == *before {
            return;
        }
        if self.s.is_shutting_down() {
            if after.0 != before.0 && after.3 == Outlook::Start && !before.3.is_rest() {
                self.out.push(Effect::Remember { durably: false });
            }
            return;
        }
        // The wish first, and in the end that it is done: whoever was told so finds it so.
        let down = matches!(after.0, Wish::Down(Some(_)));
        let taken_down = down && (after.0 != before.0 || after.3.is_rest());
        let opened = Class::ALL.into_iter().any(|class| after.1.is_open(class) && !before.1.is_open(class));
        self.out.push(Effect::Remember { durably: ordered || taken_down || opened });
    }

    // ── what time brings ──────────────────────────────────────────────────────────────────────────────────────────

    fn deadline(&mut self) {
        if self.s.deadline().is_none_or(|at| at > self.now) {
            return;
        }
        self.breaker_in_time();
        self.look();
        self.inquire_freezer();
        let now = self.now;
        let due = |at: Mono| at <= now;
        match self.take() {
            Phase::Waiting { due: at, class } if due(at) => {
                self.count_restart(class);
                self.begin_run(Begun::of(class));
            }
            Phase::Running { life, main } => self.perform_pending(life, main),
            Phase::Launching { life, patience } if !due(patience) => {
                self.s.phase = Phase::Launching { life, patience };
            }
            Phase::Terminating { life, main, kill_at, after } if !due(kill_at) => {
                self.s.phase = Phase::Terminating { life, main, kill_at, after };
            }
            Phase::Draining { life, remains, kill_at, after } if !due(kill_at) => {
                self.s.phase = Phase::Draining { life, remains, kill_at, after };
            }
            Phase::Launching { mut life, .. } => {
                let error = overdue();
                self.fault(&error.to_string());
                if !self.s.follow_up {
                    self.settle(Goal::Up, &Err(Refusal::StartFailed(error)));
                }
                life.overdue = true;
                let after = self.after_launch();
                self.kill_again(life, Body::Unborn, after);
            }
            Phase::Terminating { life, main, after, .. } => {
                // Whoever asked for the stop, this is what it died of; who asked stands in the evidence.
                let behalf = Behalf { by: KilledBy::StopTimeout, policy: life.asked.policy };
                self.kill_now(life, Body::Alive(main), behalf, after);
            }
            Phase::Draining { life, remains, after, .. } => self.kill_again(life, Body::Gone(remains), after),
            Phase::Killing { life, body, give_up, after, .. } if give_up <= self.now => {
                self.fault("still populated after cgroup.kill");
                self.settle(Goal::Down, &Err(Refusal::Unkillable));
                self.settle(Goal::Up, &Err(Refusal::Unkillable));
                self.out.push(Effect::Inquire(self.s.run()));
                self.s.phase = Phase::Stuck { life, body, after };
            }
            Phase::Killing { life, body, give_up, retry: Some(retry), after } if due(retry) => {
                if !life.cgroup_gone {
                    self.out.push(Effect::Kill(self.s.run()));
                }
                self.s.phase = Phase::Killing { life, body, give_up, retry: None, after };
            }
            other => self.s.phase = other,
        }
    }

    // ── steps of a life ───────────────────────────────────────────────────────────────────────────────────────────

    fn begin_run(&mut self, by: Begun) {
        if let Some(next) = self.s.next.take() {
            self.s.spec = next;
        }
        self.s.generations.observed = self.s.generations.desired;
        self.s.follow_up = false;
        self.s.last_run = self.s.last_run.saturating_add(1);
        (self.s.begun, self.s.anew) = (Some(by), None);
        self.s.phase = Phase::Preparing { began: self.now };
        self.out.push(Effect::Prepare(self.s.run()));
    }

    /// Asks it to end. `within` is the time it has for that, where it is not the worker's own.
    fn terminate(&mut self, mut life: Box<Life>, main: Main, behalf: Behalf, after: After, within: Option<Duration>) {
        let signal = self.s.spec.stop.signal;
        life.asked.stop = Some((behalf.by, signal));
        life.asked.policy = behalf.policy;
        if self.s.spec.limits.memory.high.is_some() && !life.lifted {
            // Throttled at it, a program cannot end in time.
            life.lifted = true;
            self.out.push(Effect::Tripwire { run: self.s.run(), armed: false });
        }
        // Before the signal: whoever sees the end knows what it was of.
        self.note_of(&life);
        let to = match self.s.spec.stop.kill_mode {
            KillMode::Mixed => Target::Main,
            KillMode::Group => Target::All,
        };
        self.signal(signal, to);
        let kill_at = self.now + within.unwrap_or(self.s.spec.stop.timeout);
        self.s.phase = Phase::Terminating { life, main, kill_at, after };
    }

    /// A kill that counts as the reason, should the main process die of it.
    fn kill_now(&mut self, mut life: Box<Life>, body: Body, behalf: Behalf, after: After) {
        life.asked.kill = Some(behalf.by);
        life.asked.policy = behalf.policy;
        self.note_of(&life);
        self.kill_again(life, body, after);
    }

    fn kill_again(&mut self, life: Box<Life>, body: Body, after: After) {
        if !life.cgroup_gone {
            self.out.push(Effect::Kill(self.s.run()));
        } else if matches!(body, Body::Alive(_)) {
            self.signal(SIGKILL, Target::Main);
        }
        self.s.phase = Phase::Killing { life, body, give_up: self.now + KILL_PATIENCE, retry: None, after };
    }

    /// The cgroup is gone and the main process was not reaped: it is dead and will be, or somebody moved it out of its limits.
    fn unfenced(&mut self, life: Box<Life>, main: Main, after: After) {
        self.kill_again(life, Body::Alive(main), after);
    }

    fn report_exit(&mut self, life: &Life, end: End<'_>, before: Counters, after: Counters, ran: Duration) {
        let (status, start_error) = match end {
            End::Reaped(status) => (Some(status), None),
            End::NeverRan(error) => (None, Some(error.clone())),
            End::Unseen(_) => (None, None),
        };
        let (cause, confidence) = cause::decide(&Facts {
            end,
            before,
            after,
            doomed: life.readings.doomed(),
            own_oom: life.readings.own_oom() || life.watch.explains_oom_kill(life.own_time(self.now)),
            above: life.above.as_deref(),
            asked: life.asked,
            oom_takes_all: self.s.oom_takes_all(),
            success_exit_codes: &self.s.spec.restart.success_exit_codes,
        });
        let clean = decide::is_clean(&self.s.spec.restart, &cause);
        let program_ran = !matches!(end, End::NeverRan(_));
        let changes = self.s.breaker.ended(&self.s.spec.restart, program_ran.then_some(ran), clean, self.now);
        self.changes.extend(changes);
        self.s.cause = Some(cause.clone());
        let wall_ms = u64::try_from(ran.as_millis()).unwrap_or(u64::MAX);
        // The timeout asked nobody: whose stop it was is what the evidence tells.
        let asked_by = match (life.asked.kill, life.asked.stop) {
            (Some(KilledBy::StopTimeout), Some((by, _))) => Some(by),
            _ => life.asked.by(),
        };
        let above = life.above.clone();
        let evidence = Box::new(Evidence { status, before, after, usage: None, asked_by, above, start_error, wall_ms });
        self.emit(EventKind::Exited { cause, confidence, evidence });
    }

    /// The exit of a run whose program was never executed.
    fn report_unstarted(&mut self, life: &Life, remains: &Remains) {
        let counters = life.readings.last();
        let before = life.readings.before_exit(self.s.oom_takes_all(), self.now);
        match remains {
            Remains::Stillborn(error) => {
                self.report_exit(life, End::NeverRan(error), before, counters, Duration::ZERO);
            }
            Remains::CalledOff(by) => {
                let mut life = life.clone();
                life.asked.kill = Some(by.by);
                life.asked.policy = by.policy;
                let error = StartError::called_off();
                self.report_exit(&life, End::NeverRan(&error), before, counters, Duration::ZERO);
            }
            Remains::Dead { .. } | Remains::Strangers => {}
        }
    }

    /// Nothing of the run is left: its directory goes, its stop is answered, and what follows is decided.
    fn over(&mut self, life: &Life, remains: &Remains, after: After) {
        self.out.push(Effect::Remove(self.s.run()));
        self.s.leftovers.push(self.s.last_run);
        self.report_unstarted(life, remains);
        self.settle(Goal::Down, &Ok(()));
        self.change_is_over();
        match remains {
            Remains::Strangers => {
                self.emit(EventKind::Reconciled { what: "the processes found in its cgroup are gone".to_owned() });
                match self.s.wish {
                    Wish::Up => self.begin_run(self.s.anew.unwrap_or(Begun::Start)),
                    Wish::Down(None) => self.s.phase = Phase::Resting(Rest::Never),
                    Wish::Down(Some(_)) => self.s.phase = Phase::Resting(Rest::Stopped),
                }
            }
            Remains::Dead { .. } | Remains::Stillborn(_) | Remains::CalledOff(_) => {
                self.what_next(life.began, life.pending, after);
            }
        }
    }

    /// The run is over: what follows.
    fn what_next(&mut self, began: Mono, pending: Option<Pending>, after: After) {
        let Some(cause) = self.s.cause.clone() else { return };
        let memory = self.s.spec.limits.memory.policy;
        let exit = Exit { cause: &cause, memory: (memory, self.s.spec.limits.monitoring.violation_handling) };
        let again = after == After::Rerun;
        let act = self.decide(&Trigger::Exit(exit), decide::Life::Over, began, pending, again);
        self.follow(act);
    }

    /// Does what was decided about a worker without a run.
    fn follow(&mut self, act: Act) {
        match act {
            Act::Run { due, class } if due <= self.now => {
                self.count_restart(class);
                // Somebody's wish that joined a restart is what it is for.
                self.begin_run(self.s.anew.unwrap_or(Begun::of(class)));
            }
            Act::Run { due, class } => self.s.phase = Phase::Waiting { due, class },
            Act::Rest(rest) => self.rest(rest),
            // Of a run that is over nothing else is decided.
            _ => {}
        }
    }

    fn rest(&mut self, rest: decide::Rest) {
        self.s.anew = None;
        self.s.phase = Phase::Resting(match rest {
            decide::Rest::Done => Rest::Done,
            decide::Rest::Failed => Rest::Failed,
            decide::Rest::Stopped => Rest::Stopped,
            decide::Rest::Open { class, opened } => {
                if opened {
                    self.opened();
                }
                Rest::Held(class)
            }
        });
        match rest {
            decide::Rest::Done | decide::Rest::Failed => self.settle(Goal::Up, &Err(Refusal::Ended)),
            decide::Rest::Open { class, .. } => self.settle(Goal::Up, &Err(breaker_open(class))),
            decide::Rest::Stopped => self.settle(Goal::Down, &Ok(())),
        }
    }

    fn count_restart(&mut self, class: Option<Class>) {
        if let Some(class) = class {
            self.s.restarts.add(class);
        }
    }

    // ── small things ──────────────────────────────────────────────────────────────────────────────────────────────

    fn take(&mut self) -> Phase {
        std::mem::replace(&mut self.s.phase, Phase::Resting(Rest::Never))
    }

    fn is_current(&self, run: &RunId) -> bool {
        run.number == self.s.last_run && run.worker == self.s.id
    }

    fn emit(&mut self, kind: EventKind) {
        let run = (self.s.last_run > 0).then_some(self.s.last_run);
        self.out.push(Effect::Emit { run, kind: Box::new(kind) });
    }

    fn fault(&mut self, error: &str) {
        self.emit(EventKind::Fault { error: error.to_owned() });
    }

    fn signal(&mut self, signal: i32, to: Target) {
        self.out.push(Effect::Signal { run: self.s.run(), signal, to, thaws: true });
    }

    /// Rewrites the run's record, where there is one to write on.
    fn note(&mut self) {
        if self.s.phase.life().is_some_and(|life| !life.cgroup_gone) {
            self.note_once();
        }
    }

    /// The same while the phase is between two.
    pub(super) fn note_of(&mut self, life: &Life) {
        if !life.cgroup_gone {
            self.note_once();
        }
    }

    /// What is noted is what there is when all of a step is done: once is enough.
    fn note_once(&mut self) {
        let note = Effect::Note(self.s.run());
        if !self.out.contains(&note) {
            self.out.push(note);
        }
    }

    fn owe(&mut self, ticket: Option<Ticket>, goal: Goal) {
        if let Some(ticket) = ticket {
            self.s.owed.push((ticket, goal));
        }
    }

    fn reply(&mut self, ticket: Option<Ticket>, result: Result<(), Refusal>) {
        if let Some(ticket) = ticket {
            self.replies.push(Effect::Reply { ticket, result });
        }
    }

    fn settle(&mut self, goal: Goal, result: &Result<(), Refusal>) {
        for (ticket, _) in self.s.owed.extract_if(.., |(_, waits_for)| *waits_for == goal) {
            self.replies.push(Effect::Reply { ticket, result: result.clone() });
        }
    }
}

fn breaker_open(class: Class) -> Refusal {
    Refusal::BreakerOpen { restarts: class.as_str() }
}

fn overdue() -> StartError {
    StartError::refused(Stage::Timeout, "the launch was not answered in time")
}

#[cfg(test)]
#[path = "transition_tests.rs"]
mod tests;
