//! The judge of a case in which everything moves: what `/proc` and cgroupfs say of its tree must fit together, whatever the product
//! says, and what may be for a moment only is told from what must never be.

use std::{collections::BTreeMap, path::Path};

use super::{
    Case, patience, pause,
    process::cgroup_of,
    sight::{ROLES, Run, Sight, is_populated, parent_and_start},
};

/// What was seen that must not be.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// What must never be, not for a moment.
    pub(crate) broken: Vec<String>,
    /// What may be for a moment only: while a run begins or ends, or a role is being replaced.
    pub(crate) unsettled: Vec<String>,
}

impl Truth {
    /// Looks at everything once.
    pub(crate) fn look(case: &Case) -> Self {
        let mut truth = Self::default();
        let sight = Sight::of(case);
        truth.broken.extend(sight.no_runs.iter().map(|dir| format!("{} is no run's", dir.display())));
        truth.broken.extend(sight.peopled_slices.iter().map(|dir| format!("processes in {} itself", dir.display())));
        truth.one_life_each(&sight.runs);
        for run in &sight.runs {
            truth.run(run, &case.root);
        }
        truth.roles(&sight);
        truth.strangers(&sight, &case.root);
        truth
    }

    /// Waits until nothing is unsettled. What must never be fails at once.
    pub(crate) fn wait_settled(case: &Case) {
        let started = pinfold::clock::monotonic();
        loop {
            let seen = Self::look(case);
            assert!(seen.broken.is_empty(), "{:#?}", seen.broken);
            if seen.unsettled.is_empty() {
                return;
            }
            let waited = pinfold::clock::monotonic().since(started);
            assert!(waited < patience(), "still unsettled after {waited:?}: {:#?}", seen.unsettled);
            pause(std::time::Duration::from_millis(10));
        }
    }

    /// Two runs of one worker never live at the same time.
    fn one_life_each(&mut self, dirs: &[Run]) {
        let mut lives: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
        for dir in dirs.iter().filter(|dir| dir.populated) {
            lives.entry(dir.id.worker.as_str()).or_default().push(dir);
        }
        for (worker, mut runs) in lives {
            // One was read before the other. A directory is used once: whoever lives still has lived all the time.
            runs.retain(|dir| is_populated(&dir.dir));
            if runs.len() > 1 {
                let runs: Vec<String> = runs.iter().map(|dir| dir.id.to_string()).collect();
                self.broken.push(format!("{worker} lives more than once: {runs:?}"));
            }
        }
    }

    fn run(&mut self, run: &Run, root: &Path) {
        let name = run.dir.display();
        // Nothing that was read holds of one that has ended meanwhile.
        let mut unsettled = |what: String| {
            if run.dir.exists() {
                self.unsettled.push(what);
            }
        };
        if !run.populated {
            return unsettled(format!("{name} is empty"));
        }
        if run.freezer.0 != run.freezer.1 {
            unsettled(format!("{name} is to be frozen and is: {:?}", run.freezer));
        }
        let Some(record) = &run.record else { return unsettled(format!("{name} has no record")) };
        let (Some(pid), Some(ticks)) = (record.pid, record.start_ticks) else {
            return unsettled(format!("the record of {name} has no process"));
        };
        if !run.procs.contains(&pid) {
            return unsettled(format!("the main process {pid} is not in {name}"));
        }
        let Some([parent, started]) = parent_and_start(pid) else {
            return unsettled(format!("the main process {pid} of {name} is gone"));
        };
        if started != ticks {
            self.broken.push(format!("process {pid} of {name} began at {started}, its record says {ticks}"));
        }
        // One that has outlived its keeper is init's, or the nearest subreaper's: never another worker's.
        let parents = cgroup_of(i32::try_from(parent).unwrap());
        if parents.starts_with(root) && parents != root.join("keeper") {
            self.broken.push(format!("the parent of process {pid} of {name} is in {}", parents.display()));
        }
    }

    /// One keeper, one supervisor, and a logger of that keeper's (others may go on for runs of earlier keepers).
    fn roles(&mut self, sight: &Sight) {
        let [keepers, supervisors, loggers] = &sight.roles;
        let ([keeper], [_]) = (&keepers[..], &supervisors[..]) else {
            self.unsettled.push(format!("keepers {keepers:?}, supervisors {supervisors:?}"));
            return;
        };
        let own = loggers.iter().filter(|pid| parent_and_start(**pid).is_some_and(|[p, _]| p == i64::from(*keeper)));
        if own.count() != 1 {
            self.unsettled.push(format!("the keeper is {keeper}, loggers are {loggers:?}"));
        }
    }

    /// Whoever bears the case's mark is in a run's directory, or one of ours.
    fn strangers(&mut self, sight: &Sight, root: &Path) {
        for marked in &sight.marked {
            let below = marked.place.strip_prefix(root).ok().and_then(|p| p.components().next());
            let below = below.map(|first| first.as_os_str().to_string_lossy().into_owned());
            if !below.is_some_and(|first| ["workers", "aux"].contains(&&*first) || ROLES.contains(&&*first)) {
                self.unsettled.push(format!("{} is in {}", marked.line, marked.place.display()));
            }
        }
    }
}
