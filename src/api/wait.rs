//! `wait_generation`: an answer that comes when there is something new, or when its time is up. Until then nothing runs and
//! nobody is woken; there are few such seats, and some are kept for admins.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::wire::{Code, Problem};
use crate::manager::handle::{Manager, Member};

/// How long is waited where nothing is said of it.
const USUAL: Duration = Duration::from_secs(30);

/// The longest wait: whoever is gone without a word holds a seat no longer.
const LONGEST: Duration = Duration::from_secs(10 * 60);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    /// A number above this one.
    above: u64,
    within: Duration,
}

impl Wait {
    /// What `wait_generation` and `timeout` ask for; `None`: nothing.
    pub(super) fn of(above: Option<u64>, timeout: Option<&str>) -> Result<Option<Self>, Problem> {
        let bad = |detail: String| Problem::new(Code::BadRequest, detail);
        let within = timeout.map(crate::spec::time).transpose().map_err(|e| bad(format!("timeout: {e}")))?;
        if within.is_some_and(|within| within > LONGEST) {
            return Err(bad(format!("timeout: at most {} s are waited", LONGEST.as_secs())));
        }
        match (above, within) {
            (Some(above), within) => Ok(Some(Self { above, within: within.unwrap_or(USUAL) })),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(bad("timeout: it is for wait_generation only".to_owned())),
        }
    }

    /// Until `member` has published something newer.
    pub(super) async fn for_one(self, member: &Member) {
        // Its number never falls: a greater one was told by another supervisor, whose news are not waited for.
        let known = member.worker.generation();
        if known < self.above {
            return;
        }
        // One that is gone tells nothing any more.
        self.within(async { drop(member.worker.wait_for(|status| status.generation > self.above).await) }).await;
    }

    /// Until one of those that `pattern` means has published something, or there are others.
    pub(super) async fn for_all(self, manager: &Manager, pattern: &str) {
        self.within(async {
            let mut listed = manager.listed();
            // What is told of the list comes first: what changes between the two is a change.
            let changes = *listed.borrow_and_update();
            let Ok(chosen) = manager.choose(pattern) else { return };
            let seen: Vec<u64> = chosen.iter().map(|member| member.worker.generation()).collect();
            // As for one: a greater number was told by another supervisor.
            if changes + seen.iter().sum::<u64>() != self.above {
                return;
            }
            tokio::select! {
                () = news(&chosen, &seen) => {}
                // Where nobody changes it any more the end is near.
                changed = listed.changed() => drop(changed),
            }
        })
        .await;
    }

    async fn within(self, news: impl Future<Output = ()>) {
        // Either way the answer is what there is by then.
        drop(tokio::time::timeout(self.within, news).await);
    }
}

/// Until one of them has published something newer than was seen of it.
async fn news(members: &[Arc<Member>], seen: &[u64]) {
    let waits = members.iter().zip(seen).map(|(member, seen)| async move {
        drop(member.worker.wait_for(|status| status.generation > *seen).await);
    });
    let mut waits: FuturesUnordered<_> = waits.collect();
    if waits.next().await.is_none() {
        // Of nobody there is no news.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
#[path = "wait_tests.rs"]
mod tests;
