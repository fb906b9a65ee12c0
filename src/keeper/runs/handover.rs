//! The runs as the next keeper gets them.

use super::{Adopted, Life, Runs};
use crate::keeper::handover::{AdoptedState, Left, RunsState, take};
use crate::kernel::inherit::Inherited;

impl Runs {
    /// All but what is in flight.
    pub(in crate::keeper) fn leave<'fd>(&'fd self, left: &mut Left<'fd>) -> RunsState {
        let mut state = RunsState::default();
        for (run, life) in &self.lives {
            let run = run.clone();
            match life {
                Life::Alive { pid, at } => state.alive.push((run, *pid, *at)),
                Life::Adopted { at, token, .. } => {
                    if let Some(Adopted { pidfd, pid, start_ticks, .. }) = self.adopted.get(token) {
                        let (pid, start_ticks, at) = (*pid, *start_ticks, *at);
                        state.adopted.push(AdoptedState { run, pid, start_ticks, at, pidfd: left.leave(pidfd) });
                    }
                }
                Life::Ended { pid, status, at } => state.ended.push((run, *pid, *status, *at)),
                Life::Failed(error) => state.failed.push((run, error.clone())),
            }
        }
        state
    }

    /// Goes on with those of the keeper before.
    pub(in crate::keeper) fn take_over(&mut self, state: RunsState, inherited: &mut Inherited) {
        for (run, pid, at) in state.alive {
            self.is_alive(run, pid, at);
        }
        for AdoptedState { run, pid, start_ticks, at, pidfd } in state.adopted {
            // Lost, it is found and given to us again by the next supervisor, as what an earlier keeper has left.
            if let Some(pidfd) = take(inherited, pidfd, &format_args!("the watch over {run}")) {
                self.adopt(run, (pid, start_ticks), at, pidfd);
            }
        }
        for (run, pid, status, at) in state.ended {
            self.lives.insert(run, Life::Ended { pid, status, at });
        }
        for (run, error) in state.failed {
            self.failed(run, error);
        }
    }

    /// The adopted processes that live, by their tokens.
    pub(in crate::keeper) fn all_adopted(&self) -> impl Iterator<Item = (u64, &Adopted)> {
        self.adopted.iter().map(|(token, adopted)| (*token, adopted))
    }
}
