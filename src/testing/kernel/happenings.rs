//! What happens in the fake world: launches, ends, and what the kernel counts.

use std::time::Duration;

use super::{FakeKernel, Main, SIGKILL, World};
use crate::model::{AboveReading, ExitStatus, KernelEventKind, Level, Limit, MemoryEvents, RunId, Usage};
use crate::testing::script::{Children, OnSignal, Oom};

use super::PIDS;

impl FakeKernel {
    /// Does `what` after a while; at once, and before this returns, where there is none.
    pub(super) fn later(
        &self,
        world: &mut World,
        after: Duration,
        what: impl FnOnce(&Self, &mut World) + Send + 'static,
    ) {
        if after.is_zero() {
            return what(self, world);
        }
        let this = self.clone();
        let due = self.clock.instant(self.clock.now() + after);
        tokio::spawn(async move {
            tokio::time::sleep_until(due).await;
            what(&this, &mut this.world());
        });
    }

    pub(super) fn main_lives(&self, world: &mut World, id: &RunId) {
        let free = PIDS.into_iter().find(|pid| !world.pids.contains(pid)).unwrap_or(*PIDS.end());
        let Some(run) = world.runs.get_mut(id) else { return };
        if run.main != Main::Asked {
            return;
        }
        run.main = Main::Alive(free);
        run.launched = self.clock.now();
        run.children = run.script.children != Children::None;
        let script = run.script.clone();
        world.pids.insert(free);
        world.tell(id, KernelEventKind::Launched { pid: free });
        if let Some((after, forks)) = script.refused_forks {
            let id = id.clone();
            self.later(world, after, move |_, world| {
                if let Some(run) = world.runs.get_mut(&id).filter(|run| run.populated()) {
                    run.counters.pids_max = Some(run.counters.pids_max.unwrap_or(0) + forks);
                    let counters = run.counters;
                    world.tell(&id, KernelEventKind::Counted { counters, main_is_dying: false });
                }
            });
        }
        if let Some((after, stays)) = script.above_high {
            let id = id.clone();
            self.later(world, after, move |this, world| this.grows_above_high(world, &id, stays));
        }
        if let Some((after, lasts)) = script.throttled {
            let id = id.clone();
            self.later(world, after, move |this, world| this.is_throttled(world, &id, lasts));
        }
        if let Some(after) = script.moved_out {
            let id = id.clone();
            self.later(world, after, move |_, world| world.lose(&id));
        }
        if let Some((after, what)) = script.oom {
            let id = id.clone();
            self.later(world, after, move |this, world| this.oom_kill(world, &id, what));
        }
        if let Some((after, lasts)) = script.frozen_by_another {
            let id = id.clone();
            self.later(world, after, move |this, world| this.is_frozen_by_another(world, &id, lasts));
        }
        if let Some((after, status)) = script.exits {
            let id = id.clone();
            self.later(world, after, move |this, world| this.main_would_end(world, &id, status));
        }
    }

    pub(super) fn grows_above_high(&self, world: &mut World, id: &RunId, stays: Duration) {
        let Some(run) = world.runs.get_mut(id).filter(|run| run.populated()) else { return };
        run.above_high = true;
        for events in [&mut run.counters.local, &mut run.counters.memory].into_iter().flatten() {
            events.high += 7;
        }
        let counters = run.counters;
        world.tell(id, KernelEventKind::Counted { counters, main_is_dying: false });
        let id = id.clone();
        self.later(world, stays, move |_, world| {
            if let Some(run) = world.runs.get_mut(&id) {
                run.above_high = false;
            }
        });
    }

    pub(super) fn is_throttled(&self, world: &mut World, id: &RunId, lasts: Duration) {
        let now = self.clock.now();
        let works = |run: &&mut super::Run| run.populated() && !run.freezer.frozen;
        let Some(run) = world.runs.get_mut(id).filter(works) else { return };
        run.throttled.0 = Some(now);
        world.tell(id, KernelEventKind::Pressed(Limit::CpuMax));
        let id = id.clone();
        self.later(world, lasts, move |this, world| {
            let now = this.clock.now();
            if let Some(run) = world.runs.get_mut(&id)
                && let Some(since) = run.throttled.0.take()
            {
                run.throttled.1 += now.since(since);
            }
        });
    }

    pub(super) fn main_ends(&self, world: &mut World, id: &RunId, status: ExitStatus) {
        let Some(run) = world.runs.get_mut(id) else { return };
        let Main::Alive(pid) = run.main else { return };
        let status = if run.dying { ExitStatus::Signaled { signal: SIGKILL, core: false } } else { status };
        let status = (!run.script.status_lost).then_some(status);
        run.main = Main::Reaped(pid, status);
        let (counters, children, stolen) = (run.counters, run.script.children, run.script.stolen);
        let (populated, above) = (run.populated(), run.above.clone());
        run.exit_lost = run.script.exit_lost;
        let run_lost = run.exit_lost;
        world.pids.remove(&pid);
        if run_lost {
            return;
        }
        world.tell(id, KernelEventKind::Exited { status, counters, populated, above });
        if let Children::Brief(after) = children {
            let id = id.clone();
            self.later(world, after.max(Duration::from_millis(1)), move |this, world| this.children_end(world, &id));
        }
        if let Some(after) = stolen {
            let id = id.clone();
            self.later(world, after, move |_, world| {
                if world.runs.get(&id).is_some_and(|run| !run.populated()) {
                    world.lose(&id);
                }
            });
        }
    }

    pub(super) fn children_end(&self, world: &mut World, id: &RunId) {
        if let Some(run) = world.runs.get_mut(id) {
            run.children = false;
            self.tell_if_empty(world, id);
        }
    }

    pub(super) fn oom_kill(&self, world: &mut World, id: &RunId, what: Oom) {
        let Some(run) = world.runs.get_mut(id) else { return };
        if !matches!(run.main, Main::Alive(_)) {
            return;
        }
        if let Oom::Main { report, lingers } = what {
            return self.oom_of_main(world, id, report, lingers);
        }
        let old = run.counters.local.unwrap_or_default();
        let all = what != Oom::Child;
        let own = u64::from(!matches!(what, Oom::Foreign { .. }));
        if let Oom::Foreign { ancestor } = what {
            let after = MemoryEvents { oom: u64::from(ancestor), ..MemoryEvents::default() };
            let level = Level { path: "/pinfold/workers".to_owned(), before: MemoryEvents::default(), after };
            run.above = Some(Box::new(AboveReading { levels: vec![level], complete: true, host: None }));
        }
        let new = MemoryEvents {
            max: old.max + 20 * own,
            oom: old.oom + own,
            oom_kill: old.oom_kill + 1,
            oom_group_kill: old.oom_group_kill + u64::from(all),
            ..old
        };
        run.counters.local = Some(new);
        run.counters.memory = Some(new);
        let counters = run.counters;
        if !matches!(what, Oom::All { notified: false }) {
            world.tell(id, KernelEventKind::Counted { counters, main_is_dying: all });
        }
        if all {
            // The main process takes a moment to die; the notification is faster.
            let id = id.clone();
            self.later(world, Duration::from_millis(3), move |this, world| {
                this.main_ends(world, &id, ExitStatus::Signaled { signal: SIGKILL, core: false });
                this.children_end(world, &id);
            });
        }
    }

    fn oom_of_main(&self, world: &mut World, id: &RunId, report: Duration, lingers: Duration) {
        if !world.counts_oom(id, false) {
            return;
        }
        let id = id.clone();
        self.later(world, report, move |this, world| {
            if world.counts_oom(&id, true) {
                this.later(world, lingers, move |this, world| {
                    this.main_ends(world, &id, ExitStatus::Signaled { signal: SIGKILL, core: false });
                    this.tell_if_empty(world, &id);
                });
            }
        });
    }

    pub(super) fn tell_if_empty(&self, world: &mut World, id: &RunId) {
        let Some(run) = world.runs.get_mut(id) else { return };
        if run.gone && run.draining {
            return world.tell(id, KernelEventKind::CgroupGone);
        }
        if run.populated() || !run.draining || run.gone {
            return;
        }
        run.draining = false;
        let late = run.script.unpopulated_late;
        let id = id.clone();
        self.later(world, late, move |_, world| {
            let Some(run) = world.runs.get_mut(&id) else { return };
            run.told_empty = true;
            let usage = Usage { cpu_usec: Some(12_345), ..Default::default() };
            let counters = run.counters;
            world.tell(&id, KernelEventKind::Unpopulated { usage, counters, above: None });
        });
    }

    pub(super) fn react(&self, world: &mut World, id: &RunId, signal: i32) {
        let Some(run) = world.runs.get_mut(id) else { return };
        if run.freezer.frozen && signal != SIGKILL {
            return run.freezer.signals.push(signal);
        }
        let (after, status) = match run.script.on_signal {
            _ if signal == SIGKILL => (run.script.dies_slowly, ExitStatus::Signaled { signal, core: false }),
            OnSignal::Dies(after) => (after, ExitStatus::Signaled { signal, core: false }),
            OnSignal::Exits(after, code) => (after, ExitStatus::Exited { code }),
            OnSignal::Ignores => return,
        };
        let (id, killed) = (id.clone(), signal == SIGKILL);
        self.later(world, after, move |this, world| {
            if killed { this.main_ends(world, &id, status) } else { this.main_would_end(world, &id, status) }
        });
    }
}

impl World {
    /// Counts that the run's own limit was reached, or that its main process is killed for it, and tells; whether it lives.
    fn counts_oom(&mut self, id: &RunId, killed: bool) -> bool {
        let Some(run) = self.runs.get_mut(id).filter(|run| matches!(run.main, Main::Alive(_))) else { return false };
        for events in [&mut run.counters.local, &mut run.counters.memory] {
            let events = events.get_or_insert_default();
            events.oom += u64::from(!killed);
            events.oom_kill += u64::from(killed);
        }
        run.dying = killed;
        let counters = run.counters;
        self.tell(id, KernelEventKind::Counted { counters, main_is_dying: killed });
        true
    }
}
