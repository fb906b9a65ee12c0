//! What the service manager is told (`sd_notify(3)`): that we are ready, and in a line how the workers do.
//!
//! Only numbers, so that no name can say anything in our place. At most one line a second, and only after something has happened: an
//! idle host stays idle.

use std::time::Duration;

use crate::history::Ring;
use crate::kernel::host::HostKernel;
use crate::kernel::launch::give_back;
use crate::manager::handle::Manager;
use crate::model::{Detail, State, StoppedDetail};
use crate::worker::handle::Answer;

/// Between two lines.
const APART: Duration = Duration::from_secs(1);

/// Says READY once every worker runs, or could not be started for the first time; from then on, for ever, how they do.
pub(super) async fn announce(started: Vec<Answer>, kernel: HostKernel, manager: Manager, events: Ring) {
    for answer in started {
        // What could not be started is counted below.
        drop(answer.await);
    }
    let now = || line(manager.all().iter().map(|member| member.worker.status()).map(|now| (now.state, now.detail)));
    let mut told = now();
    kernel.notify(&format!("READY=1\nSTATUS={told}"));
    // What a start of thousands took at once, and nobody needs again.
    give_back();
    loop {
        // Before the look: what happens from here on is waited for no longer.
        let mut news = events.from_now();
        let line = now();
        if line != told {
            kernel.notify(&format!("STATUS={line}"));
            told = line;
        }
        news.changed().await;
        tokio::time::sleep(APART).await;
    }
}

fn line(workers: impl Iterator<Item = (State, Detail)>) -> String {
    let (mut all, mut running) = (0, 0);
    let mut others = [("starting", 0), ("stopping", 0), ("waiting for a restart", 0), ("failed", 0)];
    for (state, detail) in workers {
        all += 1;
        let other = match (state, detail) {
            (State::Running, _) => {
                running += 1;
                continue;
            }
            (State::Starting, _) => 0,
            (State::Stopping, _) => 1,
            (State::Stopped, Detail::Stopped(StoppedDetail::Waiting)) => 2,
            (State::Stopped, Detail::Stopped(StoppedDetail::Failed | StoppedDetail::BreakerOpen)) => 3,
            (State::Stopped, _) => continue,
        };
        others[other].1 += 1;
    }
    let others: Vec<String> = others.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}")).collect();
    let workers = if all == 1 { "worker" } else { "workers" };
    let runs = format!("{running} of {all} {workers} running");
    if others.is_empty() { runs } else { format!("{runs}, {}", others.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Readiness, StoppingDetail};

    #[test]
    fn who_runs_is_counted_and_who_should_and_does_not() {
        let stopped = |detail| (State::Stopped, Detail::Stopped(detail));
        let workers = [
            (State::Running, Detail::Running(Readiness::Ready)),
            (State::Running, Detail::Running(Readiness::Ready)),
            (State::Starting, Detail::Launching),
            (State::Stopping, Detail::Stopping(StoppingDetail::Term)),
            stopped(StoppedDetail::Waiting),
            stopped(StoppedDetail::Failed),
            stopped(StoppedDetail::BreakerOpen),
            stopped(StoppedDetail::Done),
            stopped(StoppedDetail::Never),
        ];
        let expected = "2 of 9 workers running, 1 starting, 1 stopping, 1 waiting for a restart, 2 failed";
        assert_eq!(line(workers.into_iter()), expected);
        assert_eq!(line(workers.into_iter().take(1)), "1 of 1 worker running");
        assert_eq!(line(std::iter::empty()), "0 of 0 workers running");
    }
}
