//! How the supervisor ends: every worker stopped, what is shown finished, the tree left as it was found.

use std::time::Duration;

use crate::cli::exit::Failure;
use crate::kernel::cgroup::Dir;
use crate::kernel::host::Lost;
use crate::kernel::place::{self, record, settle};
use crate::model::{Detail, KilledBy, RunId, State, StoppingDetail, WorkerId};
use crate::worker::handle::WorkerHandle;

use super::console::Console;
use super::door::OpenDoor;
use super::records::Records;
use super::reexec::Verified;
use super::settings::Settings;
use super::signals::Signals;

/// How long after the last worker has ended its directory may still be there.
pub(super) const TIDY: Duration = Duration::from_secs(40);

/// How the supervisor is to end.
#[derive(Debug)]
pub(super) enum End {
    /// Every worker is stopped first.
    Stop,
    /// They are left running.
    Detach,
    /// As `Stop`, because the breaker of this worker has opened.
    GiveUp(WorkerId),
    /// This binary goes on.
    MakeWay(Verified),
}

/// Takes the socket's file away, while the place is still held: whoever gets that next must not find a listener.
pub(super) fn leave(door: Option<OpenDoor>) {
    if let Some(door) = door {
        door.leave();
    }
}

pub(super) async fn close(door: Option<OpenDoor>) {
    if let Some(door) = door {
        door.close().await;
    }
}

/// Stops every worker at once; a second interrupt kills. The runs that could not be ended.
pub(super) async fn stop(handles: &[WorkerHandle], signals: &mut Signals) -> Vec<RunId> {
    let answers: Vec<_> = handles.iter().map(|handle| handle.stop(KilledBy::Shutdown)).collect();
    let all_down = async {
        for answer in answers {
            // Refused: not every process could be ended, which its status shows.
            drop(answer.await);
        }
    };
    tokio::pin!(all_down);
    loop {
        tokio::select! {
            () = &mut all_down => break,
            () = signals.again() => {
                for handle in handles {
                    drop(handle.kill(KilledBy::Shutdown));
                }
            }
        }
    }
    let tidy = async {
        for handle in handles.iter().filter(|h| !is_unkillable(h)) {
            // An actor that is gone has nothing left.
            drop(handle.at_rest().await);
        }
    };
    if tokio::time::timeout(TIDY, tidy).await.is_err() {
        tracing::error!("run directories could not be removed; the next start removes them");
    }
    handles.iter().filter(|h| is_unkillable(h)).map(|h| RunId::new(h.id().clone(), h.status().run)).collect()
}

fn is_unkillable(handle: &WorkerHandle) -> bool {
    let status = handle.status();
    status.state == State::Stopping && status.detail == Detail::Stopping(StoppingDetail::Unkillable)
}

/// Shows the end, and then waits for the sinks: a person is not kept waiting for a server.
pub(super) async fn finish(console: Console, handles: &[WorkerHandle], stream: Records) {
    let leftover = stream.end().await;
    let statuses: Vec<_> = handles.iter().map(WorkerHandle::status).collect();
    if let Err(error) = console.finish(statuses) {
        tracing::warn!(%error, "the end is not shown");
    }
    leftover.close().await;
}

pub(super) fn lost_sight(lost: Result<Lost, tokio::task::JoinError>) -> Failure {
    match lost {
        Ok(lost) => Failure::failed("cannot supervise any more", lost),
        Err(error) => Failure::failed("cannot supervise any more", error),
    }
}

/// Leaves the tree as it was found: what is empty and ours goes.
pub(super) fn go_home(settings: &Settings) {
    let Some(home) = &settings.home else { return };
    let dissolve = || -> Result<(), Box<dyn std::error::Error>> {
        let situation = place::Situation::of_this_process()?;
        let home = Dir::open(home)?;
        let tree = settle(&situation, &settings.root, false, &[])?;
        if tree.workers.populated()? || tree.runs.populated()? {
            // Somebody's who goes on; nothing of it is touched, the empty cgroups it made below its own included.
            return Ok(());
        }
        let mut own = Vec::new();
        for leaf in place::Leaf::ALL {
            own.extend(tree.root.open_below(leaf.name())?.processes()?);
        }
        tree.dissolve(&home, &own, settings.made)?;
        record::Recorded::erase(&settings.state_dir)?;
        Ok(())
    };
    if let Err(error) = dissolve() {
        // Below systemd the scope goes with its last process; elsewhere an empty directory stays.
        tracing::debug!(%error, "the tree stays");
    }
}
