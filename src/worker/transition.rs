//! The rules: what an event does to a worker, and what is to be done about it.
//!
//! Pure. Nothing here waits, reads a clock or can fail; an event that has no meaning in the phase it meets (of a
//! run that is over, told twice) changes nothing.

use std::time::Duration;

use crate::model::{
    Counters, EventKind, Evidence, ExitStatus, KernelEvent, KernelEventKind, KilledBy, MemoryEvents, Mono, RunId,
    Stage, StartError, Target, Trigger, UnknownWhy, Usage,
};
use crate::policy::cause::{self, Above, End, Facts};
use crate::policy::restart::{self, Attempts, Ended, Next};
use crate::spec::types::KillMode;

use super::effect::{Effect, Refusal};
use super::event::{Ask, Event, Ticket, Turn};
use super::state::{After, Body, Goal, Life, Main, Phase, Remains, Rest, State, Wish};

/// SIGTERM and SIGKILL, signal(7): the same numbers on every architecture.
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// How long a cgroup may stay populated after `cgroup.kill`, before it is called unkillable.
pub const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How long a refused `cgroup.kill` waits for the next try.
pub const KILL_RETRY: Duration = Duration::from_millis(100);

/// How long a launch may stay unanswered. The kernel's side answers long before; this is for one that never does.
pub const LAUNCH_PATIENCE: Duration = Duration::from_secs(120);

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
        let before = (self.status(), self.leftovers.len());
        let mut t = Transition { s: self, out: Vec::new(), replies: Vec::new(), now: turn.now, jitter: turn.jitter };
        match event {
            Event::Begin => t.begin(),
            Event::Operator { ask, ticket } => t.asked(ask, ticket),
            Event::Kernel(news) if news.kind == KernelEventKind::Removed => t.removed(&news.run),
            Event::Kernel(news) if t.is_current(&news.run) => t.kernel(*news),
            Event::Prepared { run, result } if run == t.s.last_run => t.prepared(*result),
            Event::KillRefused { run } if run == t.s.last_run => t.kill_refused(),
            // A run that is over cannot touch the one there is.
            Event::Kernel(_) | Event::Prepared { .. } | Event::KillRefused { .. } => {}
            Event::Deadline => t.deadline(),
        }
        let (state, detail) = t.s.public();
        if state != before.0.state {
            t.s.since = t.now;
        }
        if (state, detail) != (before.0.state, before.0.detail) {
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

struct Transition<'a> {
    s: &'a mut State,
    out: Vec<Effect>,
    replies: Vec<Effect>,
    now: Mono,
    jitter: f64,
}

impl Transition<'_> {
    fn begin(&mut self) {
        match self.take() {
            Phase::Running { life, main } => {
                self.emit(EventKind::Reconciled {
                    what: format!("found running as pid {}: adopted untouched", main.pid),
                });
                match self.s.wish {
                    Wish::Down(by) => self.terminate(life, main, by.unwrap_or(KilledBy::Stop), After::Policy),
                    Wish::Up => self.s.phase = Phase::Running { life, main },
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

    // ── what is asked ─────────────────────────────────────────────────────────────────────────────────────────────

    fn asked(&mut self, ask: Ask, ticket: Option<Ticket>) {
        if let Some((who, what)) = match ask {
            Ask::Start { trigger: Trigger::Operator } => Some(("operator", "start")),
            Ask::Start { .. } => None,
            Ask::Restart { .. } => Some(("operator", "restart")),
            Ask::Stop { by } => Some((who(by), "stop")),
            Ask::Kill { by } => Some((who(by), "kill")),
        } {
            self.emit(EventKind::Operator { who: who.to_owned(), what: what.to_owned() });
        }
        match ask {
            Ask::Start { .. } => {
                self.s.attempts = Attempts::default();
                self.wish_up();
                self.start(ticket, false);
            }
            Ask::Restart { seen } => {
                self.wish_up();
                self.start(ticket, seen >= self.s.last_run);
            }
            Ask::Stop { by } => {
                self.wish_down(by);
                self.stop(by, ticket);
            }
            Ask::Kill { by } => {
                self.wish_down(by);
                self.kill(by, ticket);
            }
        }
    }

    fn start(&mut self, ticket: Option<Ticket>, anew: bool) {
        match self.take() {
            Phase::Resting(_) | Phase::Waiting { .. } => {
                self.owe(ticket, Goal::Up);
                self.begin_run();
            }
            Phase::Running { life, main } if anew => {
                self.owe(ticket, Goal::Up);
                self.terminate(life, main, KilledBy::Stop, After::Rerun);
            }
            running @ Phase::Running { .. } => {
                self.s.phase = running;
                self.reply(ticket, Ok(()));
            }
            // The launch under way starts what was asked for.
            starting @ (Phase::Preparing { .. } | Phase::Launching { .. }) => {
                self.s.phase = starting;
                self.owe(ticket, Goal::Up);
            }
            mut ending @ (Phase::Terminating { .. } | Phase::Draining { .. } | Phase::Killing { .. }) => {
                ending.rerun();
                self.s.phase = ending;
                self.owe(ticket, Goal::Up);
            }
            mut stuck @ Phase::Stuck { .. } => {
                stuck.rerun();
                self.s.phase = stuck;
                self.reply(ticket, Err(Refusal::Unkillable));
            }
        }
    }

    fn stop(&mut self, by: KilledBy, ticket: Option<Ticket>) {
        match self.take() {
            Phase::Waiting { .. } => {
                self.s.phase = Phase::Resting(Rest::Stopped);
                self.reply(ticket, Ok(()));
            }
            resting @ Phase::Resting(_) => {
                self.s.phase = resting;
                self.reply(ticket, Ok(()));
            }
            Phase::Running { life, main } => {
                self.owe(ticket, Goal::Down);
                self.terminate(life, main, by, After::Policy);
            }
            // Somebody else's processes: the end of this supervisor is no reason to touch them, a person's word is.
            Phase::Stuck { life, body: Body::Gone(Remains::Strangers), after } if by != KilledBy::Shutdown => {
                self.owe(ticket, Goal::Down);
                self.signal(self.s.spec.stop.signal, Target::All);
                let kill_at = self.now + self.s.spec.stop.timeout;
                self.s.phase = Phase::Draining { life, remains: Remains::Strangers, kill_at, after };
            }
            stuck @ Phase::Stuck { .. } => {
                self.s.phase = stuck;
                self.reply(ticket, Err(Refusal::Unkillable));
            }
            // The kernel's answer to a launch comes first; what ends already goes on ending.
            other => {
                self.s.phase = other;
                self.owe(ticket, Goal::Down);
            }
        }
    }

    fn kill(&mut self, by: KilledBy, ticket: Option<Ticket>) {
        match self.take() {
            Phase::Waiting { .. } => {
                self.s.phase = Phase::Resting(Rest::Stopped);
                self.reply(ticket, Ok(()));
            }
            resting @ Phase::Resting(_) => {
                self.s.phase = resting;
                self.reply(ticket, Ok(()));
            }
            Phase::Stuck { life, body: Body::Gone(Remains::Strangers), after } if by == KilledBy::Shutdown => {
                self.s.phase = Phase::Stuck { life, body: Body::Gone(Remains::Strangers), after };
                self.reply(ticket, Err(Refusal::Unkillable));
            }
            Phase::Launching { life, .. } => {
                self.owe(ticket, Goal::Down);
                self.kill_now(life, Body::Unborn, by, After::Policy);
            }
            Phase::Running { life, main } | Phase::Terminating { life, main, .. } => {
                self.owe(ticket, Goal::Down);
                self.kill_now(life, Body::Alive(main), by, After::Policy);
            }
            Phase::Draining { life, remains, after, .. } => {
                self.owe(ticket, Goal::Down);
                self.kill_now(life, Body::Gone(remains), by, after);
            }
            Phase::Stuck { life, body, after } => {
                self.owe(ticket, Goal::Down);
                self.kill_now(life, body, by, after);
            }
            other @ (Phase::Preparing { .. } | Phase::Killing { .. }) => {
                self.s.phase = other;
                self.owe(ticket, Goal::Down);
            }
        }
    }

    fn wish_up(&mut self) {
        let was = std::mem::replace(&mut self.s.wish, Wish::Up);
        // A stop that only waited for the launch has not begun: it is called off. One that has begun is carried through.
        if was != Wish::Up && matches!(self.s.phase, Phase::Preparing { .. } | Phase::Launching { .. }) {
            self.settle(Goal::Down, &Err(Refusal::Superseded));
        }
        if was != Wish::Up {
            self.note();
        }
    }

    fn wish_down(&mut self, by: KilledBy) {
        let was = std::mem::replace(&mut self.s.wish, Wish::Down(Some(by)));
        self.settle(Goal::Up, &Err(Refusal::Superseded));
        if was == Wish::Up {
            self.note();
        }
    }

    // ── what the kernel says ──────────────────────────────────────────────────────────────────────────────────────

    fn kernel(&mut self, news: KernelEvent) {
        match news.kind {
            KernelEventKind::Launched { pid } => self.launched(pid),
            KernelEventKind::LaunchFailed(error) => self.launch_failed(error),
            KernelEventKind::Counted(counters) => self.counted(counters),
            KernelEventKind::Exited { status, counters } => self.exited(status, counters),
            KernelEventKind::Unpopulated { usage, counters } => self.unpopulated(usage, counters),
            KernelEventKind::CgroupGone => self.cgroup_gone(),
            KernelEventKind::Removed => {}
        }
    }

    fn prepared(&mut self, result: Result<Counters, StartError>) {
        match (self.take(), result) {
            (Phase::Preparing { began }, Ok(baseline)) => {
                let life = Box::new(Life::new(began, baseline));
                if let Wish::Down(by) = self.s.wish {
                    let remains = Remains::CalledOff(by.unwrap_or(KilledBy::Stop));
                    self.out.push(Effect::Drain(self.s.run()));
                    self.s.phase =
                        Phase::Draining { life, remains, kill_at: self.now + KILL_PATIENCE, after: After::Policy };
                } else {
                    self.out.push(Effect::Launch(self.s.run()));
                    self.s.phase = Phase::Launching { life, patience: self.now + LAUNCH_PATIENCE };
                }
            }
            (Phase::Preparing { began }, Err(error)) => {
                self.settle(Goal::Up, &Err(Refusal::StartFailed(error.clone())));
                self.report_unstarted(&Life::new(began, Counters::default()), &Remains::Stillborn(error));
                self.what_next(began, None, After::Policy);
            }
            (other, _) => self.s.phase = other,
        }
    }

    fn launched(&mut self, pid: i32) {
        let main = Main { pid, started: self.now };
        match self.take() {
            Phase::Launching { life, .. } => {
                self.began(main);
                if life.cgroup_gone {
                    self.unfenced(life, main, After::Policy);
                } else if let Wish::Down(by) = self.s.wish {
                    self.terminate(life, main, by.unwrap_or(KilledBy::Stop), After::Policy);
                } else {
                    self.s.phase = Phase::Running { life, main };
                    self.settle(Goal::Up, &Ok(()));
                }
            }
            // The kill may have come before the child was there.
            Phase::Killing { life, body: Body::Unborn, give_up, after, .. } => {
                self.began(main);
                if !life.cgroup_gone {
                    self.out.push(Effect::Kill(self.s.run()));
                }
                self.s.phase = Phase::Killing { life, body: Body::Alive(main), give_up, retry: None, after };
            }
            Phase::Stuck { life, body: Body::Unborn, after } => {
                self.began(main);
                self.kill_again(life, Body::Alive(main), after);
            }
            other => self.s.phase = other,
        }
    }

    fn began(&mut self, main: Main) {
        self.s.attempts.spawn_faults = 0;
        self.emit(EventKind::Started { pid: main.pid });
        self.out.push(Effect::Note(self.s.run()));
    }

    fn launch_failed(&mut self, error: StartError) {
        let (life, after, killing) = match self.take() {
            Phase::Launching { life, .. } => (life, After::Policy, None),
            Phase::Killing { life, body: Body::Unborn, give_up, after, .. } => (life, after, Some(give_up)),
            Phase::Stuck { life, body: Body::Unborn, after } => (life, after, Some(self.now + KILL_PATIENCE)),
            other => return self.s.phase = other,
        };
        // Killed for its silence, it is said to have been killed: that was the consequence.
        let error = if life.overdue { overdue() } else { error };
        // With a rerun asked for after the kill of this launch, the answer is the next one's.
        if after == After::Policy {
            self.settle(Goal::Up, &Err(Refusal::StartFailed(error.clone())));
        }
        let remains = Remains::Stillborn(error);
        if life.cgroup_gone {
            return self.over(*life, remains, after);
        }
        self.out.push(Effect::Drain(self.s.run()));
        self.s.phase = match killing {
            Some(give_up) => Phase::Killing { life, body: Body::Gone(remains), give_up, retry: None, after },
            None => Phase::Draining { life, remains, kill_at: self.now + self.s.spec.stop.timeout, after },
        };
    }

    fn counted(&mut self, counters: Counters) {
        let takes_all = self.s.oom_takes_all();
        let Some(life) = self.s.phase.life_mut() else { return };
        let grown = life.readings.read(counters, takes_all, self.now);
        self.violations(grown);
    }

    /// Reports what the growth of the counters says. One report for each growth of `oom_kill`, and one in a run for
    /// refused forks; episodes, severities and policies are the violation engine's.
    fn violations(&mut self, grown: Counters) {
        let oom_kills = grown.memory.or(grown.local).map_or(0, |e: MemoryEvents| e.oom_kill);
        if oom_kills > 0 {
            self.violation("memory", format!("oom_kill grew by {oom_kills}"), grown);
        }
        let forks = grown.pids_max.unwrap_or(0);
        let Some(life) = self.s.phase.life_mut() else { return };
        if forks > 0 && !std::mem::replace(&mut life.pids_reported, true) {
            self.violation("pids", format!("max grew by {forks}: forks were refused"), grown);
        }
    }

    fn violation(&mut self, resource: &str, observed: String, counters: Counters) {
        let (resource, severity) = (resource.to_owned(), "critical".to_owned());
        self.emit(EventKind::Violation { resource, severity, observed, counters });
    }

    fn exited(&mut self, status: Option<ExitStatus>, counters: Counters) {
        // Before the phase is taken apart: an OOM kill that ended it is a violation as well.
        let lived = matches!(
            self.s.phase,
            Phase::Launching { .. }
                | Phase::Running { .. }
                | Phase::Terminating { .. }
                | Phase::Killing { body: Body::Unborn | Body::Alive(_), .. }
                | Phase::Stuck { body: Body::Unborn | Body::Alive(_), .. }
        );
        if !lived {
            return;
        }
        let takes_all = self.s.oom_takes_all();
        let now = self.now;
        let Some(life) = self.s.phase.life_mut() else { return };
        let before = life.readings.before_exit(takes_all, now);
        let grown = life.readings.read(counters, takes_all, now);
        self.violations(grown);
        // A launch whose answer was lost has taken place all the same.
        let unseen = Main { pid: 0, started: self.now };
        let (life, main, after, timing) = match self.take() {
            Phase::Launching { life, .. } => {
                self.settle(Goal::Up, &Ok(()));
                (life, unseen, After::Policy, Timing::Fresh)
            }
            Phase::Running { life, main } => (life, main, After::Policy, Timing::Fresh),
            Phase::Terminating { life, main, kill_at, after } => (life, main, after, Timing::Asked { kill_at }),
            Phase::Killing { life, body: Body::Alive(main), give_up, after, .. } => {
                (life, main, after, Timing::Killed { give_up })
            }
            Phase::Killing { life, give_up, after, .. } => (life, unseen, after, Timing::Killed { give_up }),
            Phase::Stuck { life, body: Body::Alive(main), after } => (life, main, after, Timing::Stuck),
            Phase::Stuck { life, after, .. } => (life, unseen, after, Timing::Stuck),
            other => return self.s.phase = other,
        };
        let ran = self.now.since(main.started);
        let unknown = if life.cgroup_gone { UnknownWhy::CgroupRemoved } else { UnknownWhy::SupervisorAway };
        let late = overdue();
        let end = if life.overdue && life.asked.kill.is_none() {
            End::NeverRan(&late)
        } else {
            status.map_or(End::Unseen(unknown), End::Reaped)
        };
        self.report_exit(&life, end, before, counters, ran);
        let remains = Remains::Dead { ran };
        if life.cgroup_gone {
            return self.over(*life, remains, after);
        }
        self.out.push(Effect::Drain(self.s.run()));
        let asked_all = life.asked.stop.is_some() && self.s.spec.stop.kill_mode == KillMode::Group;
        self.s.phase = match timing {
            Timing::Killed { give_up } => {
                Phase::Killing { life, body: Body::Gone(remains), give_up, retry: None, after }
            }
            Timing::Stuck => Phase::Stuck { life, body: Body::Gone(remains), after },
            Timing::Fresh | Timing::Asked { .. } => {
                if !asked_all {
                    self.signal(SIGTERM, Target::All);
                }
                let kill_at = match timing {
                    Timing::Asked { kill_at } => kill_at,
                    _ => self.now + self.s.spec.stop.timeout,
                };
                Phase::Draining { life, remains, kill_at, after }
            }
        };
    }

    fn unpopulated(&mut self, usage: Usage, counters: Counters) {
        let takes_all = self.s.oom_takes_all();
        let empty = matches!(
            self.s.phase,
            Phase::Draining { .. }
                | Phase::Killing { body: Body::Gone(_), .. }
                | Phase::Stuck { body: Body::Gone(_), .. }
        );
        // Before the main process is reaped it is no proof.
        if !empty {
            return;
        }
        if let Some(life) = self.s.phase.life_mut() {
            let grown = life.readings.read(counters, takes_all, self.now);
            self.violations(grown);
        }
        match self.take() {
            Phase::Draining { life, remains, after, .. }
            | Phase::Killing { life, body: Body::Gone(remains), after, .. }
            | Phase::Stuck { life, body: Body::Gone(remains), after } => {
                if matches!(remains, Remains::Dead { .. }) {
                    self.emit(EventKind::Usage { usage });
                }
                self.over(*life, remains, after);
            }
            other => self.s.phase = other,
        }
    }

    fn cgroup_gone(&mut self) {
        if let Some(life) = self.s.phase.life_mut() {
            if std::mem::replace(&mut life.cgroup_gone, true) {
                return;
            }
            self.fault("its cgroup was removed by somebody else");
        }
        match self.take() {
            Phase::Running { life, main } => self.unfenced(life, main, After::Policy),
            Phase::Terminating { life, main, after, .. } => self.unfenced(life, main, after),
            // A directory can only be removed when nothing lives in it.
            Phase::Draining { life, remains, after, .. }
            | Phase::Killing { life, body: Body::Gone(remains), after, .. }
            | Phase::Stuck { life, body: Body::Gone(remains), after } => self.over(*life, remains, after),
            other => self.s.phase = other,
        }
    }

    fn removed(&mut self, run: &RunId) {
        if run.worker == self.s.id {
            self.s.leftovers.retain(|left| *left != run.number);
        }
    }

    fn kill_refused(&mut self) {
        if let Phase::Killing { retry, .. } = &mut self.s.phase {
            *retry = Some(self.now + KILL_RETRY);
        }
    }

    // ── what time brings ──────────────────────────────────────────────────────────────────────────────────────────

    fn deadline(&mut self) {
        if self.s.deadline().is_none_or(|at| at > self.now) {
            return;
        }
        match self.take() {
            Phase::Waiting { .. } => {
                self.s.restarts = self.s.restarts.saturating_add(1);
                self.begin_run();
            }
            Phase::Launching { mut life, .. } => {
                let error = overdue();
                self.fault(&error.to_string());
                self.settle(Goal::Up, &Err(Refusal::StartFailed(error)));
                life.overdue = true;
                self.kill_again(life, Body::Unborn, After::Policy);
            }
            Phase::Terminating { life, main, after, .. } => {
                let by = match life.asked.by() {
                    Some(KilledBy::Stop) | None => KilledBy::StopTimeout,
                    Some(by) => by,
                };
                self.kill_now(life, Body::Alive(main), by, after);
            }
            Phase::Draining { life, remains, after, .. } => self.kill_again(life, Body::Gone(remains), after),
            Phase::Killing { life, body, give_up, after, .. } if give_up <= self.now => {
                self.fault("still populated after cgroup.kill");
                self.settle(Goal::Down, &Err(Refusal::Unkillable));
                self.settle(Goal::Up, &Err(Refusal::Unkillable));
                self.s.phase = Phase::Stuck { life, body, after };
            }
            Phase::Killing { life, body, give_up, after, .. } => {
                if !life.cgroup_gone {
                    self.out.push(Effect::Kill(self.s.run()));
                }
                self.s.phase = Phase::Killing { life, body, give_up, retry: None, after };
            }
            other => self.s.phase = other,
        }
    }

    // ── steps of a life ───────────────────────────────────────────────────────────────────────────────────────────

    fn begin_run(&mut self) {
        self.s.last_run = self.s.last_run.saturating_add(1);
        self.s.phase = Phase::Preparing { began: self.now };
        self.out.push(Effect::Prepare(self.s.run()));
    }

    fn terminate(&mut self, mut life: Box<Life>, main: Main, by: KilledBy, after: After) {
        let signal = self.s.spec.stop.signal;
        life.asked.stop = Some((by, signal));
        let to = match self.s.spec.stop.kill_mode {
            KillMode::Mixed => Target::Main,
            KillMode::Group => Target::All,
        };
        self.signal(signal, to);
        let kill_at = self.now + self.s.spec.stop.timeout;
        self.s.phase = Phase::Terminating { life, main, kill_at, after };
    }

    /// A kill that counts as the reason, should the main process die of it.
    fn kill_now(&mut self, mut life: Box<Life>, body: Body, by: KilledBy, after: After) {
        life.asked.kill = Some(by);
        self.kill_again(life, body, after);
    }

    fn kill_again(&mut self, life: Box<Life>, body: Body, after: After) {
        if !life.cgroup_gone {
            self.out.push(Effect::Kill(self.s.run()));
        }
        self.s.phase = Phase::Killing { life, body, give_up: self.now + KILL_PATIENCE, retry: None, after };
    }

    /// The cgroup is gone and the main process was not reaped: it is dead and will be, or somebody moved it out of its limits.
    fn unfenced(&mut self, life: Box<Life>, main: Main, after: After) {
        self.signal(SIGKILL, Target::Main);
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
            above: Above::Unread,
            asked: life.asked,
            oom_takes_all: self.s.oom_takes_all(),
            success_exit_codes: &self.s.spec.restart.success_exit_codes,
        });
        self.s.cause = Some(cause.clone());
        let wall_ms = u64::try_from(ran.as_millis()).unwrap_or(u64::MAX);
        let asked_by = life.asked.by();
        let evidence = Box::new(Evidence { status, before, after, usage: None, asked_by, start_error, wall_ms });
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
                life.asked.kill = Some(*by);
                let error = StartError::refused(Stage::Spawn, "called off before it was launched");
                self.report_exit(&life, End::NeverRan(&error), before, counters, Duration::ZERO);
            }
            Remains::Dead { .. } | Remains::Strangers => {}
        }
    }

    /// Nothing of the run is left: its directory goes, its stop is answered, and what follows is decided.
    fn over(&mut self, life: Life, remains: Remains, after: After) {
        self.out.push(Effect::Remove(self.s.run()));
        self.s.leftovers.push(self.s.last_run);
        self.report_unstarted(&life, &remains);
        self.settle(Goal::Down, &Ok(()));
        match remains {
            Remains::Strangers => {
                self.emit(EventKind::Reconciled { what: "the processes found in its cgroup are gone".to_owned() });
                match self.s.wish {
                    Wish::Up => self.begin_run(),
                    Wish::Down(None) => self.s.phase = Phase::Resting(Rest::Never),
                    Wish::Down(Some(_)) => self.s.phase = Phase::Resting(Rest::Stopped),
                }
            }
            Remains::Dead { ran } => self.what_next(life.began, Some(ran), after),
            Remains::Stillborn(_) | Remains::CalledOff(_) => self.what_next(life.began, None, after),
        }
    }

    fn what_next(&mut self, began: Mono, ran: Option<Duration>, after: After) {
        let Some(cause) = &self.s.cause else { return };
        let wish = match (self.s.wish, after) {
            (Wish::Down(_), _) => restart::Wish::Down,
            (Wish::Up, After::Rerun) => restart::Wish::Again,
            (Wish::Up, After::Policy) => restart::Wish::Up,
        };
        let ended = Ended { cause, began, ran };
        let outcome = restart::decide(&self.s.spec.restart, self.s.attempts, &ended, wish, self.now, self.jitter);
        self.s.attempts = outcome.attempts;
        self.emit(EventKind::Decision(outcome.decision));
        match outcome.next {
            Next::Restart { due } if due <= self.now => {
                if wish == restart::Wish::Up {
                    self.s.restarts = self.s.restarts.saturating_add(1);
                }
                self.begin_run();
            }
            Next::Restart { due } => self.s.phase = Phase::Waiting { due },
            Next::Done => self.s.phase = Phase::Resting(Rest::Done),
            Next::Failed => self.s.phase = Phase::Resting(Rest::Failed),
            Next::Stopped => {
                self.settle(Goal::Down, &Ok(()));
                self.s.phase = Phase::Resting(Rest::Stopped);
            }
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
        self.out.push(Effect::Signal { run: self.s.run(), signal, to });
    }

    /// Rewrites the run's record, where there is one to write on.
    fn note(&mut self) {
        if self.s.phase.life().is_some_and(|life| !life.cgroup_gone) {
            self.out.push(Effect::Note(self.s.run()));
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

/// How the time left is counted once the main process has been reaped.
enum Timing {
    Fresh,
    Asked { kill_at: Mono },
    Killed { give_up: Mono },
    Stuck,
}

impl Phase {
    fn rerun(&mut self) {
        match self {
            Self::Terminating { after, .. }
            | Self::Draining { after, .. }
            | Self::Killing { after, .. }
            | Self::Stuck { after, .. } => *after = After::Rerun,
            Self::Resting(_)
            | Self::Waiting { .. }
            | Self::Preparing { .. }
            | Self::Launching { .. }
            | Self::Running { .. } => {}
        }
    }
}

fn overdue() -> StartError {
    StartError::refused(Stage::Timeout, "the launch was not answered in time")
}

const fn who(by: KilledBy) -> &'static str {
    match by {
        KilledBy::Stop | KilledBy::StopTimeout | KilledBy::Operator => "operator",
        KilledBy::Shutdown => "supervisor",
        KilledBy::Policy => "policy",
    }
}
