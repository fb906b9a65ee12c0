//! What is noticed of a run, what [`decide`] makes of it, and what then happens: violated limits,
//! health checks, and what time brings to the breaker.

use crate::model::{
    BreakerState, Class, Counters, EventKind, HealthReport, Limit, Mono, PolicyName, ProbeKind, Sample, Severity,
    Violation, Wanted,
};
use crate::policy::decide::{self, Act, Breach, Facts, Pending, Trigger};
use crate::policy::dispatch::{Response, ViolationPolicy, respond};
use crate::policy::restart::OnOpen;
use crate::policy::violation::Finding;

use super::{Transition, breaker_open};
use crate::worker::effect::{Effect, Refusal};
use crate::worker::event::Ticket;
use crate::worker::rules::policy_of;
use crate::worker::state::{After, Behalf, Goal, Life, Main, Phase, Rest, Wish};

impl Transition<'_> {
    // ── asking the one place ──────────────────────────────────────────────────────────────────────────────────────

    /// What there is of the worker, as the one place takes it.
    pub(super) fn life(&self) -> decide::Life {
        let rerun = |life: &Life, after: &After| *after == After::Rerun || life.pending.is_some();
        match &self.s.phase {
            Phase::Resting(_) | Phase::Waiting { .. } => decide::Life::Down,
            Phase::Preparing { .. } | Phase::Launching { .. } => decide::Life::Starting,
            Phase::Running { main, .. } => decide::Life::Alive { since: main.started },
            Phase::Draining { life, after, .. } if life.asked.by().is_none() && !rerun(life, after) => {
                decide::Life::Dying
            }
            Phase::Terminating { life, after, .. }
            | Phase::Draining { life, after, .. }
            | Phase::Killing { life, after, .. }
            | Phase::Stuck { life, after, .. } => decide::Life::Ending { rerun: rerun(life, after) },
        }
    }

    pub(super) fn facts(&self, life: decide::Life, began: Mono, pending: Option<Pending>, again: bool) -> Facts<'_> {
        let wish = match self.s.wish {
            Wish::Down(_) => decide::Wish::Down,
            Wish::Up if again => decide::Wish::Again,
            Wish::Up => decide::Wish::Up,
        };
        Facts { policy: &self.s.spec.restart, wish, life, began, pending, now: self.now, draw: self.jitter }
    }

    /// Decides, and puts the decision on record.
    pub(super) fn decide(
        &mut self,
        trigger: &Trigger<'_>,
        life: decide::Life,
        began: Mono,
        pending: Option<Pending>,
        again: bool,
    ) -> Act {
        let mut breaker = std::mem::take(&mut self.s.breaker);
        let outcome = decide::decide(trigger, &self.facts(life, began, pending, again), &mut breaker);
        self.s.breaker = breaker;
        self.emit(EventKind::Decision(outcome.decision));
        outcome.act
    }

    /// Decides about the run there is.
    fn decide_about_the_run(&mut self, trigger: &Trigger<'_>) -> Act {
        let known = self.s.phase.life().map(|life| (life.began, life.pending));
        let (began, pending) = known.unwrap_or((self.now, None));
        self.decide(trigger, self.life(), began, pending, false)
    }

    // ── violated limits ───────────────────────────────────────────────────────────────────────────────────────────

    /// Puts `findings` on record and does what needs no decision. What remains is to be [decided](Self::judge).
    pub(super) fn tell(&mut self, findings: Vec<Finding>, counters: Counters) -> Vec<Breach> {
        let mut breaches = Vec::new();
        for finding in findings {
            match finding {
                Finding::Opened(violation) => breaches.push(self.violation(violation, counters)),
                Finding::Recovered { limit, lasted } => self.recovered(limit, lasted),
                Finding::LiftHigh { why } => self.lift(why),
                Finding::RearmHigh => self.arm(),
                Finding::ThrottleExpired(violation) => breaches.extend(self.throttle_expired(&violation)),
            }
        }
        breaches
    }

    fn violation(&mut self, violation: Violation, counters: Counters) -> Breach {
        let Violation { limit, severity, observed, configured } = violation;
        let resource = limit.resource().to_owned();
        let kind = EventKind::Violation {
            resource,
            limit,
            severity: severity.as_str().to_owned(),
            observed,
            configured,
            counters,
        };
        self.emit(kind);
        self.breach(limit, severity)
    }

    fn breach(&self, limit: Limit, severity: Severity) -> Breach {
        let limits = &self.s.spec.limits;
        let policy = match policy_of(limits, limit) {
            ViolationPolicy::Alert if !limits.monitoring.alerting_enabled => ViolationPolicy::Log,
            policy => policy,
        };
        Breach { limit, severity, policy, mode: limits.monitoring.violation_handling }
    }

    fn recovered(&mut self, limit: Limit, lasted: std::time::Duration) {
        let after_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
        self.emit(EventKind::Recovered { resource: limit.resource().to_owned(), limit, after_ms });
        // A process that the OOM killer took stays taken, a fork that was refused stays refused.
        let lasting = !matches!(limit, Limit::MemoryMax | Limit::PidsMax | Limit::CpuTime);
        let Phase::Running { life, .. } = &mut self.s.phase else { return };
        life.unserved = life.unserved.take().filter(|breach| breach.limit != limit);
        if lasting && life.pending.is_some_and(|pending| pending.limit == Some(limit)) {
            life.pending = None;
            self.s.breaker.withdraw(Class::Violation);
        }
    }

    fn lift(&mut self, why: &str) {
        if let Some(life) = self.s.phase.life_mut() {
            life.lifted = true;
            life.watch.lifted();
        }
        self.out.push(Effect::Tripwire { run: self.s.run(), armed: false });
        self.emit(EventKind::LimitChanged {
            file: "memory.high".to_owned(),
            value: "max".to_owned(),
            why: why.to_owned(),
        });
    }

    fn arm(&mut self) {
        let Some(high) = self.s.spec.limits.memory.high else { return };
        if let Some(life) = self.s.phase.life_mut() {
            life.lifted = false;
        }
        self.out.push(Effect::Tripwire { run: self.s.run(), armed: true });
        let why = "the worker is below it again".to_owned();
        self.emit(EventKind::LimitChanged { file: "memory.high".to_owned(), value: high.to_string(), why });
    }

    /// Throttling has not helped: the policy of `memory.max` acts, or nothing holds it any longer.
    fn throttle_expired(&mut self, violation: &Violation) -> Option<Breach> {
        let limits = &self.s.spec.limits;
        let (policy, mode) = (limits.memory.policy, limits.monitoring.violation_handling);
        // Whatever follows and when: it was to be held for so long at the most.
        self.lift(&violation.observed);
        if respond(policy, mode) == Response::Record {
            return None;
        }
        Some(Breach { limit: violation.limit, severity: violation.severity, policy, mode })
    }

    /// Decides about each, and acts.
    pub(super) fn judge(&mut self, breaches: Vec<Breach>) {
        for breach in breaches {
            let act = self.decide_about_the_run(&Trigger::Violation(breach));
            let behalf = Behalf::policy(breach.limit.policy());
            self.act_on_the_run(act, behalf, Some(breach));
        }
    }

    fn act_on_the_run(&mut self, act: Act, behalf: Behalf, breach: Option<Breach>) {
        match act {
            Act::Restart(pending) => {
                if let Some(life) = self.s.phase.life_mut() {
                    life.pending = Some(pending);
                }
                self.perform_if_due();
            }
            Act::End => {
                if let Phase::Running { life, main } = self.take_running() {
                    self.terminate(life, main, behalf, After::Policy, None);
                }
            }
            Act::Shutdown { within } => {
                self.wish_down(behalf, None);
                if let Phase::Running { life, main } = self.take_running() {
                    self.terminate(life, main, behalf, After::Policy, within);
                }
            }
            Act::Kill => {
                self.wish_down(behalf, None);
                self.kill(behalf, None);
            }
            Act::Hold { opened, .. } => {
                if let Some(life) = self.s.phase.life_mut() {
                    life.unserved = breach;
                }
                if opened {
                    self.opened();
                }
            }
            // The others are about a worker without a run, or nothing to do.
            _ => {}
        }
    }

    /// The phase, where it is `Running`; else it stays, and what comes back is nothing to act on.
    fn take_running(&mut self) -> Phase {
        if matches!(self.s.phase, Phase::Running { .. }) { self.take() } else { Phase::Resting(Rest::Never) }
    }

    /// A breaker that opens may be the end of the supervisor.
    pub(super) fn opened(&mut self) {
        if self.s.spec.restart.on_open == OnOpen::Exit {
            self.out.push(Effect::GiveUp);
        }
    }

    // ── restarts that were decided ────────────────────────────────────────────────────────────────────────────────

    pub(super) fn perform_if_due(&mut self) {
        if let Phase::Running { life, main } = self.take_running() {
            self.perform_pending(life, main);
        }
    }

    pub(super) fn perform_pending(&mut self, life: Box<Life>, main: Main) {
        match life.pending_now() {
            Some(pending) if pending.due <= self.now => {
                let policy = pending.limit.map_or(PolicyName::Health, Limit::policy);
                self.terminate(life, main, Behalf::policy(policy), After::Policy, None);
            }
            _ => self.s.phase = Phase::Running { life, main },
        }
    }

    /// Gives back the seat of a restart that has not begun.
    pub(super) fn withdraw(&mut self, life: &mut Life) {
        if let Some(pending) = life.pending.take() {
            self.s.breaker.withdraw(pending.class);
        }
    }

    /// No restart that was decided follows any more.
    pub(super) fn call_off(&mut self) {
        let began = !matches!(self.s.phase, Phase::Running { .. } | Phase::Launching { .. });
        let Some(life) = self.s.phase.life_mut() else { return };
        life.unserved = None;
        if let Some(pending) = life.pending.take()
            && !began
        {
            self.s.breaker.withdraw(pending.class);
        }
    }

    // ── health ────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) fn health(&mut self, run: u32, report: &HealthReport, ticket: Option<Ticket>) {
        let Phase::Running { life, .. } = &mut self.s.phase else {
            return self.reply(ticket, Err(Refusal::NotRunning));
        };
        if run != self.s.last_run {
            return self.reply(ticket, Err(Refusal::NotRunning));
        }
        // What was asked of it before came too late for an answer.
        if life.is_held() && matches!(report, HealthReport::Failed { .. }) {
            return self.reply(ticket, Err(Refusal::NotNow("it is frozen".to_owned())));
        }
        let waits_for_readiness = self.s.spec.health.as_ref().is_some_and(|check| check.readiness.is_some());
        let healthy = match report {
            HealthReport::Started { .. } => {
                life.unready = waits_for_readiness;
                true
            }
            HealthReport::Ready { .. } => {
                life.unready = false;
                true
            }
            HealthReport::Unready { .. } => {
                life.unready = true;
                false
            }
            HealthReport::Alive { .. } => {
                self.healthy_again();
                true
            }
            HealthReport::Failed { .. } => {
                life.unhealthy = true;
                false
            }
            HealthReport::Untried { probe, observed } => {
                let fault = format!("the {probe} check cannot be carried out: {observed}");
                self.fault(&fault);
                return self.reply(ticket, Ok(()));
            }
        };
        let (probe, observed) = (report.probe(), report.observed().to_owned());
        self.emit(EventKind::Health { probe: probe.as_str().to_owned(), healthy, observed });
        if healthy || probe == ProbeKind::Readiness {
            return self.reply(ticket, Ok(()));
        }
        let act = self.decide_about_the_run(&Trigger::Health { probe: probe.as_str() });
        match act {
            Act::Hold { class, .. } => self.reply(ticket, Err(breaker_open(class))),
            Act::Record if self.life() != (decide::Life::Ending { rerun: true }) && !self.is_pending() => {
                self.reply(ticket, Err(Refusal::NotNow("it is too young to be restarted".to_owned())));
            }
            Act::End => self.reply(ticket, Ok(())),
            _ => self.owe(ticket, Goal::Up),
        }
        self.act_on_the_run(act, Behalf::policy(PolicyName::Health), None);
    }

    /// Its liveness check passes. That a new run passes it for the first time mends no budget, or one that fails a little later
    /// each time would be restarted for ever; that a class stays open for one that is well would be no use.
    fn healthy_again(&mut self) {
        let Phase::Running { life, .. } = &mut self.s.phase else { return };
        let failed_before = std::mem::take(&mut life.unhealthy);
        if life.pending.is_some_and(|pending| pending.class == Class::Health) {
            life.pending = None;
            self.s.breaker.withdraw(Class::Health);
        }
        if failed_before || self.s.breaker.is_open(Class::Health) {
            let changes = self.s.breaker.recovered(Class::Health);
            self.changes.extend(changes);
        }
    }

    fn is_pending(&self) -> bool {
        self.s.phase.life().is_some_and(|life| life.pending.is_some())
    }

    // ── what time brings ──────────────────────────────────────────────────────────────────────────────────────────

    /// Lets the breaker know what time it is, and makes the trial of a class whose cooldown is over.
    pub(super) fn breaker_in_time(&mut self) {
        let alive = self.s.alive_since();
        let changes = self.s.breaker.tick(&self.s.spec.restart, alive, self.now);
        self.changes.extend(changes);
        self.tell_of_the_breaker();
        if let Phase::Resting(Rest::Held(class)) = self.s.phase
            && self.s.breaker.state(class) != BreakerState::Open
        {
            let act = self.decide(&Trigger::Trial(class), decide::Life::Down, self.now, None, false);
            return self.follow(act);
        }
        // A living one that was put up with, and is still as bad as it was.
        if !self.s.breaker.is_open(Class::Violation)
            && let Phase::Running { life, .. } = &mut self.s.phase
            && let Some(breach) = life.unserved.take()
        {
            self.judge(vec![breach]);
        }
    }

    /// Looks at what is suspicious, where it is time.
    pub(super) fn look(&mut self) {
        let (rules, now, interval) = (self.s.rules(), self.now, self.s.spec.limits.monitoring.interval);
        let Phase::Running { life, .. } = &mut self.s.phase else { return };
        let due = |at: Option<Mono>| at.is_some_and(|at| at <= now);
        let periodic = due(life.sample_at);
        if periodic {
            life.sample_at = interval.map(|interval| now + interval);
        }
        if periodic || due(life.watch_deadline(&rules)) {
            let wanted = if periodic { Wanted::ALL } else { life.watch.wanted(&rules, life.own_time(now)) };
            self.out.push(Effect::Sample { run: self.s.run(), wanted, periodic });
        }
    }

    /// A pressure trigger fired: there may be something to look at.
    pub(super) fn pressed(&mut self, limit: Limit) {
        let (rules, now) = (self.s.rules(), self.now);
        let Phase::Running { life, .. } = &mut self.s.phase else { return };
        let findings = life.watch.pressed(&rules, limit, life.own_time(now));
        let breaches = self.tell(findings, Counters::default());
        self.judge(breaches);
        self.look();
    }

    pub(super) fn sampled(&mut self, sample: &Sample, periodic: bool) {
        if periodic && matches!(self.s.phase, Phase::Running { .. }) {
            self.emit(EventKind::Sample { sample: *sample });
        }
        let (rules, now) = (self.s.rules(), self.now);
        let Phase::Running { life, .. } = &mut self.s.phase else { return };
        if life.is_frozen() {
            return;
        }
        let findings = life.watch.sampled(&rules, sample, life.own_time(now));
        let breaches = self.tell(findings, Counters::default());
        self.judge(breaches);
    }

    pub(super) fn stuck_on(&mut self, what: Box<str>) {
        match &mut self.s.phase {
            Phase::Stuck { life, .. } => life.stuck_on = Some(what),
            Phase::Running { life, .. } if life.asked_of_freezer().is_some() => life.stuck_on = Some(what),
            _ => {}
        }
    }

    /// One event for each class that is not as it was.
    pub(super) fn tell_of_the_breaker(&mut self) {
        for (class, before) in Class::ALL.into_iter().zip(self.told) {
            let state = self.s.breaker.state(class);
            if state == before {
                continue;
            }
            // What a request or a person brought about it does not say itself.
            let said = self.changes.iter().rev().find(|change| change.class == class).map(|change| change.rule);
            let rule = said.unwrap_or(match (before, state) {
                (BreakerState::HalfOpen, BreakerState::Open) => "the trial has failed",
                (_, BreakerState::Open) => "all restarts in a row are used",
                (_, BreakerState::HalfOpen) => "its cooldown has passed: one restart may try",
                (_, BreakerState::Closed) => "it was asked for",
            });
            let until = self.s.breaker.status(&self.s.spec.restart).into_iter().find(|s| s.class == class);
            let left = until.and_then(|s| s.until).map(|until| until.since(self.now));
            let for_ms = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
            self.emit(EventKind::Breaker { class, state, rule: rule.to_owned(), for_ms });
        }
        self.told = Class::ALL.map(|class| self.s.breaker.state(class));
    }
}
