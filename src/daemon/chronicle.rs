//! The supervisor's own events.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

use crate::clock::{self, Clock};
use crate::model::{Event, EventKind};

use super::orphans::Orphans;

/// Cheap to clone; all clones count together.
#[derive(Clone)]
pub(super) struct Chronicle {
    clock: Clock,
    epoch: u64,
    /// Held while an event is handed over, so that their order is that of their numbers.
    seq: Arc<Mutex<u64>>,
    records: UnboundedSender<Event>,
}

impl Chronicle {
    pub(super) fn new(clock: Clock, epoch: u64, records: UnboundedSender<Event>) -> Self {
        Self { clock, epoch, seq: Arc::default(), records }
    }

    pub(super) fn supervisor(&self, what: String) {
        self.record(EventKind::Supervisor { what });
    }

    /// What the death of a keeper has left.
    pub(super) fn orphans(&self, orphans: &Orphans) {
        for run in &orphans.ended {
            let what = format!("{run} ended while nobody watched: its status is lost, what the kernel counted is not");
            self.record(EventKind::Reconciled { what });
        }
        for run in &orphans.half_made {
            self.record(EventKind::Reconciled { what: format!("killed {run}: its program had not begun") });
        }
        match orphans.alive.len() {
            0 => {}
            n => self.supervisor(format!("re-attached {n} runs whose keeper is gone")),
        }
    }

    pub(super) fn record(&self, kind: EventKind) {
        let mut seq = self.seq.lock().unwrap_or_else(PoisonError::into_inner);
        *seq += 1;
        let event = Event {
            v: 1,
            epoch: self.epoch,
            seq: *seq,
            time: format!("{:.6}", clock::wall()),
            mono_ns: self.clock.now().as_nanos(),
            worker: None,
            run: None,
            kind,
        };
        // The console is gone only at the very end.
        drop(self.records.send(event));
    }
}

/// An event for tests.
#[cfg(test)]
pub(super) fn event(seq: u64) -> Event {
    let kind = EventKind::Supervisor { what: "x".into() };
    Event { v: 1, epoch: 1, seq, time: String::new(), mono_ns: 0, worker: None, run: None, kind }
}
