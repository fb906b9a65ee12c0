//! What the kernel says of a run.

use crate::model::{
    AboveReading, Counters, EventKind, ExitStatus, KernelEvent, KernelEventKind, Limit, Mono, RunId, Severity,
    StartError, Target, UnknownWhy, Usage,
};
use crate::policy::cause::End;
use crate::spec::types::KillMode;

use super::{KILL_PATIENCE, KILL_RETRY, LAUNCH_PATIENCE, SIGKILL, SIGTERM, Transition, overdue};
use crate::policy::decide::Breach;
use crate::worker::effect::{Effect, Refusal};
use crate::worker::state::{After, Behalf, Body, Goal, Life, Main, Phase, Remains, Wish};

impl Transition<'_> {
    pub(super) fn kernel(&mut self, news: KernelEvent) {
        match news.kind {
            KernelEventKind::Launched { pid } => self.launched(pid),
            KernelEventKind::LaunchFailed(error) => self.launch_failed(error),
            KernelEventKind::Counted { counters, main_is_dying } => self.counted(counters, main_is_dying),
            KernelEventKind::Exited { status, counters, populated, above } => {
                self.seen_above(above);
                self.ended_while_frozen(status);
                self.exited(status, counters, populated);
            }
            KernelEventKind::Unpopulated { usage, counters, above } => {
                self.seen_above(above);
                self.unpopulated(&usage, counters);
            }
            KernelEventKind::CgroupGone => self.cgroup_gone(),
            KernelEventKind::Pressed(limit) => self.pressed(limit),
            KernelEventKind::LimitsSet(result) => {
                self.limits_set(result);
                self.limits_have_changed();
            }
            KernelEventKind::Frozen(frozen) => self.freezer_says(frozen),
            KernelEventKind::Removed | KernelEventKind::LogDropped { .. } => {}
        }
    }

    /// Output can be on its way when its run is over: it is told with its own run's number, and changes nothing.
    pub(super) fn log_dropped(&mut self, news: KernelEvent) {
        if let KernelEventKind::LogDropped { stream, why, bytes } = news.kind {
            let kind = Box::new(EventKind::LogDropped { stream, why, bytes });
            self.out.push(Effect::Emit { run: Some(news.run.number), kind });
        }
    }

    pub(super) fn prepared(&mut self, result: Result<Counters, StartError>) {
        match (self.take(), result) {
            (Phase::Preparing { began }, Ok(baseline)) => {
                let life = Box::new(Life::new(began, baseline));
                if let Wish::Down(by) = self.s.wish {
                    let remains = Remains::CalledOff(by.unwrap_or(Behalf::STOP));
                    self.out.push(Effect::Drain(self.s.run()));
                    self.s.phase =
                        Phase::Draining { life, remains, kill_at: self.now + KILL_PATIENCE, after: After::Policy };
                } else {
                    self.out.push(Effect::Launch(self.s.run(), self.s.breaker.way()));
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
            Phase::Launching { mut life, .. } => {
                self.began(main);
                life.unready = self.s.spec.waits_for_readiness();
                life.sample_at = self.s.spec.limits.monitoring.interval.map(|interval| self.now + interval);
                if life.cgroup_gone {
                    self.unfenced(life, main, After::Policy);
                } else if let Wish::Down(by) = self.s.wish {
                    self.terminate(life, main, by.unwrap_or(Behalf::STOP), After::Policy, None);
                } else if self.s.follow_up {
                    // What is asked for meanwhile is a run of a later spec: this one is not it.
                    self.terminate(life, main, Behalf::STOP, After::Rerun, None);
                } else {
                    self.s.phase = Phase::Running { life, main };
                    self.settle(Goal::Up, &Ok(()));
                    // What was decided while it was being launched.
                    self.perform_if_due();
                }
            }
            // The kill may have come before the child was there.
            Phase::Killing { life, body: Body::Unborn, give_up, retry, after } => {
                self.began(main);
                if life.cgroup_gone {
                    self.signal(SIGKILL, Target::Main);
                } else {
                    self.out.push(Effect::Kill(self.s.run()));
                }
                self.s.phase = Phase::Killing { life, body: Body::Alive(main), give_up, retry, after };
            }
            Phase::Stuck { life, body: Body::Unborn, after } => {
                self.began(main);
                self.kill_again(life, Body::Alive(main), after);
            }
            other => self.s.phase = other,
        }
    }

    fn began(&mut self, main: Main) {
        self.s.breaker.began();
        self.emit(EventKind::Started { pid: main.pid });
        self.out.push(Effect::Note(self.s.run()));
    }

    fn launch_failed(&mut self, error: StartError) {
        let (life, after, killing) = match self.take() {
            Phase::Launching { life, .. } => (life, self.after_launch(), None),
            Phase::Killing { life, body: Body::Unborn, give_up, retry, after } => (life, after, Some((give_up, retry))),
            Phase::Stuck { life, body: Body::Unborn, after } => (life, after, Some((self.now + KILL_PATIENCE, None))),
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
            return self.over(&life, &remains, after);
        }
        self.out.push(Effect::Drain(self.s.run()));
        self.s.phase = match killing {
            Some((give_up, retry)) => Phase::Killing { life, body: Body::Gone(remains), give_up, retry, after },
            None => Phase::Draining { life, remains, kill_at: self.now + self.s.spec.stop.timeout, after },
        };
    }

    fn counted(&mut self, counters: Counters, main_is_dying: bool) {
        let breaches = self.read(counters, main_is_dying);
        self.judge(breaches);
        self.look();
    }

    /// Takes a reading, and puts what it says on record.
    fn read(&mut self, counters: Counters, main_is_dying: bool) -> Vec<Breach> {
        let (takes_all, rules, now) = (self.s.oom_takes_all(), self.s.rules(), self.now);
        let Some(life) = self.s.phase.life_mut() else { return Vec::new() };
        let grown = life.readings.read(counters, takes_all, now);
        let own_time = life.own_time(now);
        let findings = life.watch.counted(&rules, grown, own_time);
        // Behind a SIGKILL of ours it says nothing.
        if main_is_dying && life.asked.kill.is_none() && life.asked.stop.is_none_or(|(_, s)| s != SIGKILL) {
            life.readings.doom(life.watch.explains_oom_kill(own_time));
        }
        let own = life.watch.open().any(|limit| limit == Limit::MemoryMax);
        let kills = grown.hierarchical().map_or(0, |events| events.oom_kill);
        if kills > 0 && !own {
            self.lost_to_others(kills, grown);
        }
        self.tell(findings, grown)
    }

    /// A process was taken for a limit further up, or by the host: on record, and no policy of this worker's is asked.
    fn lost_to_others(&mut self, kills: u64, counters: Counters) {
        self.emit(EventKind::Violation {
            resource: Limit::MemoryMax.resource().to_owned(),
            limit: Limit::MemoryMax,
            severity: Severity::Warning.as_str().to_owned(),
            observed: format!("oom_kill +{kills}, for a limit further up or for the host"),
            configured: "not its own".to_owned(),
            counters,
        });
    }

    /// What is above a run comes with the news of its end, before that is reported.
    fn seen_above(&mut self, above: Option<Box<AboveReading>>) {
        if let Some(life) = self.s.phase.life_mut()
            && above.is_some()
        {
            life.above = above;
        }
    }

    fn exited(&mut self, status: Option<ExitStatus>, counters: Counters, populated: bool) {
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
        life.left_behind = populated;
        let before = life.readings.before_exit(takes_all, now);
        // On record before the exit that may have come of it, and decided after it.
        let breaches = self.read(counters, false);
        // A launch whose answer was lost has taken place all the same.
        let unseen = Main { pid: 0, started: self.now };
        let (life, main, after, timing) = match self.take() {
            Phase::Launching { life, .. } => {
                let after = self.after_launch();
                if after == After::Policy {
                    self.settle(Goal::Up, &Ok(()));
                }
                (life, unseen, after, Timing::Fresh)
            }
            Phase::Running { life, main } => (life, main, After::Policy, Timing::Fresh),
            Phase::Terminating { life, main, kill_at, after } => (life, main, after, Timing::Asked { kill_at }),
            Phase::Killing { life, body: Body::Alive(main), give_up, retry, after } => {
                (life, main, after, Timing::Killed { give_up, retry })
            }
            Phase::Killing { life, give_up, retry, after, .. } => {
                (life, unseen, after, Timing::Killed { give_up, retry })
            }
            Phase::Stuck { life, body: Body::Alive(main), after } => (life, main, after, Timing::Stuck),
            Phase::Stuck { life, after, .. } => (life, unseen, after, Timing::Stuck),
            other => return self.s.phase = other,
        };
        let ran = self.now.since(main.started);
        let unknown = if life.cgroup_gone { UnknownWhy::CgroupRemoved } else { UnknownWhy::SupervisorAway };
        let late = overdue();
        let end = if life.overdue && life.asked.kill.is_none() {
            End::NeverRan(&late)
        } else if life.cgroup_gone && life.asked.by().is_none() && status == Some(KILLED) {
            // By our hand: outside of its limits it must not go on.
            End::Unseen(unknown)
        } else {
            status.map_or(End::Unseen(unknown), End::Reaped)
        };
        self.report_exit(&life, end, before, counters, ran);
        let remains = Remains::Dead { ran };
        if life.cgroup_gone {
            return self.over(&life, &remains, after);
        }
        if life.pending.is_some() {
            // What is decided stays decided, also under another supervisor.
            self.note_of(&life);
        }
        self.out.push(Effect::Drain(self.s.run()));
        self.after_exit(life, remains, after, timing, populated);
        self.judge(breaches);
    }

    fn after_exit(&mut self, life: Box<Life>, remains: Remains, after: After, timing: Timing, populated: bool) {
        let asked_all = life.asked.stop.is_some() && self.s.spec.stop.kill_mode == KillMode::Group;
        self.s.phase = match timing {
            Timing::Killed { give_up, retry } => {
                Phase::Killing { life, body: Body::Gone(remains), give_up, retry, after }
            }
            Timing::Stuck => Phase::Stuck { life, body: Body::Gone(remains), after },
            Timing::Fresh | Timing::Asked { .. } => {
                if populated && !asked_all {
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

    fn unpopulated(&mut self, usage: &Usage, counters: Counters) {
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
        let breaches = self.read(counters, false);
        self.judge(breaches);
        match self.take() {
            Phase::Draining { life, remains, after, .. }
            | Phase::Killing { life, body: Body::Gone(remains), after, .. }
            | Phase::Stuck { life, body: Body::Gone(remains), after } => {
                if matches!(remains, Remains::Dead { .. }) {
                    self.emit(EventKind::Usage { usage: *usage });
                }
                self.over(&life, &remains, after);
            }
            other => self.s.phase = other,
        }
    }

    fn cgroup_gone(&mut self) {
        if let Some(life) = self.s.phase.life_mut() {
            let known = std::mem::replace(&mut life.cgroup_gone, true);
            if !known {
                self.fault("its cgroup was removed by somebody else");
            }
        }
        match self.take() {
            Phase::Running { life, main } => self.unfenced(life, main, After::Policy),
            // A kill of the cgroup may have been refused, and can not be tried again.
            Phase::Terminating { life, main, after, .. }
            | Phase::Killing { life, body: Body::Alive(main), after, .. }
            | Phase::Stuck { life, body: Body::Alive(main), after } => self.unfenced(life, main, after),
            // A directory can only be removed when nothing lives in it.
            Phase::Draining { life, remains, after, .. }
            | Phase::Killing { life, body: Body::Gone(remains), after, .. }
            | Phase::Stuck { life, body: Body::Gone(remains), after } => self.over(&life, &remains, after),
            other => self.s.phase = other,
        }
    }

    pub(super) fn removed(&mut self, run: &RunId) {
        if run.worker == self.s.id {
            self.s.leftovers.retain(|left| *left != run.number);
        }
    }

    pub(super) fn kill_refused(&mut self) {
        if let Phase::Killing { retry, .. } = &mut self.s.phase {
            *retry = Some(self.now + KILL_RETRY);
        }
    }
}

/// What the main process of a run ends with that lost its cgroup.
const KILLED: ExitStatus = ExitStatus::Signaled { signal: SIGKILL, core: false };

/// How the time left is counted once the main process has been reaped.
#[derive(Clone, Copy)]
enum Timing {
    Fresh,
    Asked { kill_at: Mono },
    Killed { give_up: Mono, retry: Option<Mono> },
    Stuck,
}
