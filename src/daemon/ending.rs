//! How the supervisor ends: every worker stopped, what is shown finished, the tree left as it was found.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use crate::api::{Outcomes, Shutdowns};
use crate::cli::exit::Failure;
use crate::kernel::cgroup::Dir;
use crate::kernel::host::Lost;
use crate::kernel::place::{self, record, settle};
use crate::manager::handle::{Member, Outcome};
use crate::model::{Detail, KilledBy, RunId, State, StoppingDetail, WorkerId};
use crate::worker::handle::WorkerHandle;

use super::console::Console;
use super::door::{Next, OpenDoor};
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

/// Takes wishes for the end that come over the socket, and tells whoever has one what came of it.
#[derive(Debug)]
pub(super) struct Farewell {
    wishes: mpsc::UnboundedReceiver<String>,
    ended: watch::Sender<Option<Arc<Outcomes>>>,
    shutdowns: Shutdowns,
}

impl Farewell {
    pub(super) fn new() -> Self {
        let (sender, wishes) = mpsc::unbounded_channel();
        let (ended, told) = watch::channel(None);
        Self { wishes, ended, shutdowns: Shutdowns { wishes: sender, ended: told } }
    }

    /// For the API.
    pub(super) fn shutdowns(&self) -> Shutdowns {
        self.shutdowns.clone()
    }

    /// Who wishes for the end. Cancel safe.
    pub(super) async fn wished(&mut self) -> String {
        match self.wishes.recv().await {
            Some(who) => who,
            // Never: one of its senders is our own.
            None => std::future::pending().await,
        }
    }

    /// The end has begun: who wishes for it now waits for this one.
    pub(super) fn begins(&mut self) {
        self.wishes.close();
    }

    /// Every worker is stopped, or will never be.
    pub(super) fn tell(&self, outcomes: Outcomes) {
        self.ended.send_replace(Some(Arc::new(outcomes)));
    }
}

/// Takes the socket's file away, while the place is still held: whoever gets that next must not find a listener.
pub(super) fn leave(door: Option<OpenDoor>) {
    if let Some(door) = door {
        door.leave();
    }
}

pub(super) async fn close(door: Option<OpenDoor>, next: Next) {
    if let Some(door) = door {
        door.close(next).await;
    }
}

/// Stops every worker at once; a second interrupt kills. What came of it for each, and the runs that could not be ended.
pub(super) async fn stop(members: Vec<Arc<Member>>, signals: &mut Signals) -> (Outcomes, Vec<RunId>) {
    let handles: Vec<WorkerHandle> = members.iter().map(|member| member.worker.clone()).collect();
    let answers: Vec<_> = handles.iter().map(|handle| handle.stop(KilledBy::Shutdown)).collect();
    let mut outcomes = Outcomes::new();
    let all_down = async {
        for (member, answer) in members.into_iter().zip(answers) {
            // Refused: not every process could be ended, which its status shows, too.
            outcomes.push((member, Outcome::of(answer.await)));
        }
    };
    {
        tokio::pin!(all_down);
        loop {
            tokio::select! {
                () = &mut all_down => break,
                () = signals.again() => {
                    for handle in &handles {
                        drop(handle.kill(KilledBy::Shutdown));
                    }
                }
            }
        }
    }
    let tidy = async {
        for handle in handles.iter().filter(|handle| !is_unkillable(handle)) {
            // An actor that is gone has nothing left.
            drop(handle.at_rest().await);
        }
    };
    if tokio::time::timeout(TIDY, tidy).await.is_err() {
        tracing::error!("run directories could not be removed; the next start removes them");
    }
    let left = handles.iter().filter(|handle| is_unkillable(handle));
    (outcomes, left.map(|handle| RunId::new(handle.id().clone(), handle.status().run)).collect())
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
