//! Where events go: one task takes them from the actors as fast as they come, numbers them and hands them on to the
//! console, to the ring that followers read and to the history sinks. None of these makes it wait.

use std::{io, time::Duration};

use tokio::{
    sync::{
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        oneshot,
    },
    task::JoinHandle,
};

use crate::api::Told;
use crate::clock;
use crate::history::{History, Ring, Scribe, SinkState};
use crate::kernel::place::record::boot_id;
use crate::metrics::Tally;
use crate::model::Event;
use crate::spec::types::Sink;

/// How many events are kept for whoever comes later, and how many bytes of them.
const KEPT_EVENTS: usize = 4096;
const KEPT_BYTES: usize = 4 << 20;

/// How long the end waits for sinks.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The task, and the way to end it.
#[derive(Debug)]
pub(super) struct Records {
    events: UnboundedSender<Event>,
    steps: UnboundedSender<Step>,
    told: Told,
    task: JoinHandle<History>,
}

/// What is done in between, and the end. Each acts behind every event that was sent before it.
#[derive(Debug)]
enum Step {
    /// These are the sinks from now on.
    Sinks(Vec<Sink>, oneshot::Sender<()>),
    /// Nobody follows any more.
    LetGo(oneshot::Sender<()>),
    /// Nothing is handed on any more.
    End,
}

/// Whoever says which sinks there are. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Sinks(UnboundedSender<Step>);

impl Sinks {
    /// Has every event from now on go to the sinks that `configured` asks for; when this returns, it does. Those that are asked for
    /// unchanged notice nothing.
    pub(super) async fn configure(&self, configured: &[Sink]) {
        let (done, changed) = oneshot::channel();
        // A task that has ended tells nobody anything any more.
        drop(self.0.send(Step::Sinks(configured.to_vec(), done)));
        drop(changed.await);
    }
}

impl Records {
    /// Hands events on to `shown` and to `sinks`. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// Where this boot cannot be told from another.
    pub(super) fn start(shown: UnboundedSender<Event>, sinks: &[Sink]) -> io::Result<Self> {
        let scribe = Scribe::begin(&boot_id()?);
        let mut history = History::default();
        history.configure(sinks);
        let ring = Ring::new(scribe.stream(), KEPT_EVENTS, KEPT_BYTES);
        let tally = Tally::default();
        let told = Told { ring: ring.clone(), began: clock::wall(), sinks: history.vitals(), tally: tally.clone() };
        let (events, incoming) = mpsc::unbounded_channel();
        let (steps, orders) = mpsc::unbounded_channel();
        let task = tokio::spawn(hand_on(incoming, orders, scribe, ring, history, tally, shown));
        Ok(Self { events, steps, told, task })
    }

    /// Where events go.
    #[must_use]
    pub(super) fn events(&self) -> UnboundedSender<Event> {
        self.events.clone()
    }

    /// Where other sinks are asked for.
    #[must_use]
    pub(super) fn sinks(&self) -> Sinks {
        Sinks(self.steps.clone())
    }

    /// What they leave behind.
    #[must_use]
    pub(super) fn told(&self) -> Told {
        self.told.clone()
    }

    /// Tells whoever follows that this was all.
    pub(super) async fn let_go(&self) {
        let (done, gone) = oneshot::channel();
        // A task that has ended has let go of everybody.
        drop(self.steps.send(Step::LetGo(done)));
        drop(gone.await);
    }

    /// Hands on what has been sent until now, and nothing more.
    pub(super) async fn end(self) -> Leftover {
        drop(self.steps.send(Step::End));
        Leftover(self.task.await.unwrap_or_default())
    }
}

/// What may still be on its way to the sinks.
pub(super) struct Leftover(History);

impl Leftover {
    /// Waits for the sinks, for a while.
    pub(super) async fn close(self) {
        for sink in self.0.close(LAST_WORDS).await {
            let lost = sink.dropped.full + sink.dropped.rejected + sink.dropped.closing;
            if lost > 0 || sink.state == SinkState::Failing {
                tracing::warn!(sink = sink.name, delivered = sink.delivered, lost, "a history sink does not have all");
            }
        }
    }
}

async fn hand_on(
    mut events: UnboundedReceiver<Event>,
    mut steps: UnboundedReceiver<Step>,
    mut scribe: Scribe,
    ring: Ring,
    mut history: History,
    tally: Tally,
    shown: UnboundedSender<Event>,
) -> History {
    loop {
        tokio::select! {
            // The last events are before the end.
            biased;
            Some(event) = events.recv() => {
                tally.note(&event);
                // The console is gone only at the very end.
                drop(shown.send(event.clone()));
                let record = scribe.write(event);
                history.tell(&record);
                ring.push(record);
            }
            step = steps.recv() => match step {
                Some(Step::Sinks(configured, done)) => {
                    history.configure(&configured);
                    // Whoever waited for it may have gone away.
                    done.send(()).unwrap_or_default();
                }
                Some(Step::LetGo(done)) => {
                    ring.close();
                    // Whoever waited for it has stopped waiting.
                    done.send(()).unwrap_or_default();
                }
                Some(Step::End) | None => {
                    ring.close();
                    return history;
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::chronicle::event;
    use super::*;
    use crate::history::{Piece, SinkHealth};

    #[tokio::test]
    async fn what_was_sent_before_the_end_reaches_everybody() {
        let dir = tempfile::tempdir().unwrap();
        let file = crate::spec::types::JsonlSink { path: dir.path().join("e"), max_size: 1 << 20, keep: 1 };
        let (shown, mut console) = mpsc::unbounded_channel();
        let records = Records::start(shown, &[Sink::Jsonl(file.clone())]).unwrap();
        let told = records.told();
        let mut reader = told.ring.from_now();
        for seq in 1..=500 {
            records.events().send(event(seq)).unwrap();
        }
        records.let_go().await;
        let Piece::Events(followed) = reader.next(1000) else { panic!("nothing is followed") };
        assert_eq!(followed.len(), 500);
        assert!(matches!(reader.next(1), Piece::Over));
        records.events().send(event(501)).unwrap();
        let events = records.events();
        let leftover = records.end().await;
        drop(events.send(event(502)));
        leftover.close().await;
        assert_eq!(std::iter::from_fn(|| console.try_recv().ok()).count(), 501);
        let SinkHealth { delivered, queued, .. } = told.sinks.read().remove(0);
        assert_eq!((delivered, queued), (501, 0));
        assert_eq!(std::fs::read_to_string(file.path).unwrap().lines().count(), 501);
    }
}
