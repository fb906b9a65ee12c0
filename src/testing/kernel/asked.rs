//! What is asked of the kernel through its port.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Call, FakeKernel, InForce, Main, Run, SIGKILL, freezer, refused};
use crate::kernel::news::NewsSender;
use crate::kernel::port::{Kernel, KernelError, RunNote, Standing};
use crate::model::{
    Counters, CpuStat, ExitStatus, KernelEventKind, MemoryEvents, Pressures, RunId, Sample, Stage, StartError, Target,
    Wanted, Way, WorkerId,
};
use crate::spec::types::Spec;
use crate::testing::script::{Children, Launch};

const EAGAIN: i32 = 11;
const ENODEV: i32 = 19;

impl Kernel for FakeKernel {
    fn attach(&self, worker: &WorkerId, events: NewsSender) {
        let mut world = self.world();
        world.sinks.insert(worker.clone(), events);
        let untold: Vec<_> = world
            .runs
            .iter()
            .filter_map(|(id, run)| match run.main {
                Main::Reaped(_, status) if id.worker == *worker && !run.removing => {
                    Some((id.clone(), status, run.counters, run.populated(), run.above.clone()))
                }
                _ => None,
            })
            .collect();
        for (id, status, counters, populated, above) in untold {
            world.tell(&id, KernelEventKind::Exited { status, counters, populated, above });
        }
        let failed = world.runs.iter().filter(|(id, run)| id.worker == *worker && !run.removing);
        let failed: Vec<_> = failed.filter_map(|(id, run)| Some((id.clone(), run.failed.clone()?))).collect();
        for (id, error) in failed {
            world.tell(&id, KernelEventKind::LaunchFailed(error));
        }
    }

    fn prepare(&self, run: &RunId, spec: &Arc<Spec>, note: &RunNote) -> Result<Counters, StartError> {
        let now = self.clock.now();
        let mut world = self.world();
        world.calls.push((now, Call::Prepare(run.clone())));
        let last = world.last_run.insert(run.worker.clone(), run.number).unwrap_or(0);
        if run.number <= last {
            world.breach(format!("{run} is prepared after run {last}"));
        }
        let live = world.runs.iter().find(|(id, other)| id.worker == run.worker && other.populated());
        if let Some((live, _)) = live {
            let breach = format!("{run} is prepared while {live} lives");
            world.breach(breach);
        }
        let script = world.next_script(&run.worker);
        if let Some(error) = script.prepare {
            return Err(error);
        }
        world.last_made.insert(run.worker.clone(), run.number);
        let counters =
            Counters { local: Some(MemoryEvents::default()), memory: Some(MemoryEvents::default()), pids_max: Some(0) };
        let mut made = Run {
            script,
            note: RunNote { baseline: counters, ..note.clone() },
            main: Main::Unborn,
            children: false,
            counters,
            launched: now,
            dying: false,
            above_high: false,
            throttled: (None, Duration::ZERO),
            failed: None,
            above: None,
            draining: false,
            told_empty: false,
            found_empty: false,
            gone: false,
            removing: false,
            limits: InForce::default(),
            freezer: freezer::Freezer::default(),
            takeovers: 0,
            exit_lost: false,
            env: BTreeMap::new(),
        };
        made.limits.set(&spec.limits, false);
        world.runs.insert(run.clone(), made);
        Ok(counters)
    }

    fn launch(&self, run: &RunId, _spec: &Arc<Spec>, way: Way) {
        let mut world = self.world();
        let env = world.env.clone();
        let Some(found) = world.called(self.clock.now(), Call::Launch(run.clone(), way), run) else { return };
        if found.main != Main::Unborn {
            return world.breach(format!("{run} is launched twice"));
        }
        found.main = Main::Asked;
        found.env = env;
        let id = run.clone();
        match found.script.launch.clone() {
            Launch::Runs(after) => self.later(&mut world, after, move |this, world| this.main_lives(world, &id)),
            Launch::Fails(after, error) => {
                self.later(&mut world, after, move |_, world| world.launch_fails(&id, error));
            }
            Launch::Unanswered => {}
        }
    }

    fn signal(&self, run: &RunId, signal: i32, to: Target, thaws: bool) -> Result<(), KernelError> {
        let mut world = self.world();
        if thaws {
            self.write_freeze(&mut world, run, false);
        }
        let Some(found) = world.called(self.clock.now(), Call::Signal(run.clone(), signal, to), run) else {
            return Ok(());
        };
        let children_obey = to == Target::All && matches!(found.script.children, Children::Brief(_));
        self.react(&mut world, run, signal);
        if children_obey {
            self.children_end(&mut world, run);
        }
        Ok(())
    }

    fn kill(&self, run: &RunId) -> Result<(), KernelError> {
        let mut world = self.world();
        let Some(found) = world.called(self.clock.now(), Call::Kill(run.clone()), run) else { return Ok(()) };
        if found.gone {
            return Err(refused("cgroup.kill", run, ENODEV));
        }
        if found.script.kill_refusals > 0 {
            found.script.kill_refusals -= 1;
            return Err(refused("cgroup.kill", run, EAGAIN));
        }
        let slowly = found.script.dies_slowly;
        let id = run.clone();
        self.later(&mut world, slowly, move |this, world| {
            world.launch_fails(&id, StartError::os(Stage::Spawn, "", 0));
            this.main_ends(world, &id, ExitStatus::Signaled { signal: SIGKILL, core: false });
            this.children_end(world, &id);
        });
        Ok(())
    }

    fn drain(&self, run: &RunId) {
        let mut world = self.world();
        let Some(found) = world.called(self.clock.now(), Call::Drain(run.clone()), run) else { return };
        found.draining = true;
        if matches!(found.main, Main::Asked | Main::Alive(_)) {
            world.breach(format!("{run} is drained while its main process lives"));
        }
        self.tell_if_empty(&mut world, run);
    }

    fn remove(&self, run: &RunId) {
        let mut world = self.world();
        let Some(found) = world.called(self.clock.now(), Call::Remove(run.clone()), run) else { return };
        if found.populated() || !(found.told_empty || found.found_empty || found.gone) {
            return world.breach(format!("{run} is removed before it was empty"));
        }
        found.removing = true;
        let takes = found.script.removal_takes;
        let id = run.clone();
        self.later(&mut world, takes, move |_, world| {
            world.runs.remove(&id);
            world.tell(&id, KernelEventKind::Removed);
        });
    }

    fn sample(&self, run: &RunId, _wanted: Wanted) -> Sample {
        let now = self.clock.now();
        let mut world = self.world();
        let Some(found) = world.called(now, Call::Sample(run.clone()), run) else { return Sample::default() };
        let periods = |time: Duration| u64::try_from(time.as_millis() / 100).unwrap_or(u64::MAX);
        let (since, before) = found.throttled;
        let throttled = before + since.map_or(Duration::ZERO, |since| now.since(since));
        Sample {
            resident_bytes: Some(if found.above_high { 1 << 40 } else { 1 << 12 }),
            memory_current_bytes: Some(1 << 13),
            cpu: Some(CpuStat {
                usage_usec: 1000 * periods(now.since(found.launched)),
                nr_periods: periods(now.since(found.launched)),
                nr_throttled: periods(throttled),
                throttled_usec: u64::try_from(throttled.as_micros() / 2).unwrap_or(u64::MAX),
            }),
            pressure: Pressures::default(),
        }
    }

    fn tripwire(&self, run: &RunId, _spec: &Arc<Spec>, armed: bool) -> Result<(), KernelError> {
        let mut world = self.world();
        world.called(self.clock.now(), Call::Tripwire(run.clone(), armed), run);
        Ok(())
    }

    fn change_limits(&self, run: &RunId, spec: &Arc<Spec>, lifted: bool) {
        let mut world = self.world();
        let Some(found) = world.called(self.clock.now(), Call::Limits(run.clone()), run) else { return };
        let set = match &found.script.limits_refused {
            Some(error) => Err(error.clone()),
            None => Ok(found.limits.set(&spec.limits, lifted)),
        };
        let (id, takes, takeovers) = (run.clone(), found.script.limits_take, found.takeovers);
        let ice = world.form_ice(run);
        self.later(&mut world, takes, move |this, world| {
            // Nobody carries on what a supervisor had begun that is gone.
            if world.runs.get(&id).is_none_or(|run| run.takeovers == takeovers) {
                this.melt_ice(world, &id, ice);
                world.tell(&id, KernelEventKind::LimitsSet(set));
            }
        });
    }

    fn freeze(&self, run: &RunId, frozen: bool) -> Result<(), KernelError> {
        self.freeze_or_thaw(run, frozen)
    }

    fn rewatch(&self, run: &RunId, _spec: &Arc<Spec>) {
        self.world().called(self.clock.now(), Call::Rewatch(run.clone()), run);
    }

    fn set_global_env(&self, env: &BTreeMap<String, String>) {
        self.world().env.clone_from(env);
    }

    fn look_again(&self, run: &RunId) {
        let mut world = self.world();
        let Some(found) = world.runs.get_mut(run).filter(|found| !found.removing) else { return };
        if let Main::Reaped(_, status) = found.main
            && std::mem::take(&mut found.exit_lost)
        {
            let (counters, populated, above) = (found.counters, found.populated(), found.above.clone());
            world.tell(run, KernelEventKind::Exited { status, counters, populated, above });
        }
        self.tell_if_empty(&mut world, run);
        world.look_at_the_freezer(run);
    }

    fn freeze_held_up(&self, run: &RunId, frozen: bool) -> Option<String> {
        let world = self.world();
        let found = world.runs.get(run)?;
        (found.freezer.frozen != frozen).then(|| "not frozen yet: pid 300 (fake) D in folio_wait_bit".to_owned())
    }

    fn stuck_on(&self, run: &RunId) -> Option<String> {
        self.world().runs.get(run).map(|_| "pid 300 (fake) D in folio_wait_bit".to_owned())
    }

    fn note(&self, run: &RunId, now: Standing) -> Result<(), KernelError> {
        let mut world = self.world();
        let Some(found) = world.called(self.clock.now(), Call::Note(run.clone()), run) else { return Ok(()) };
        found.note.stands(now);
        Ok(())
    }
}
