//! A sink that keeps what it is given: for tests, of ours and of users of the library.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::future::BoxFuture;

use super::{HistorySink, Record, WriteError, Written};

/// Keeps the last events. A clone is another way to the same memory: one is given away, one is asked.
#[derive(Debug, Clone)]
pub struct MemorySink {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug)]
struct Kept {
    records: VecDeque<Arc<Record>>,
    most: usize,
    refuses: Option<String>,
}

impl MemorySink {
    /// Keeps the last `most` events.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { kept: Arc::new(Mutex::new(Kept { records: VecDeque::new(), most, refuses: None })) }
    }

    /// What it has been given, in its order.
    #[must_use]
    pub fn records(&self) -> Vec<Arc<Record>> {
        self.kept().records.iter().cloned().collect()
    }

    /// From now on it takes nothing and says `why`, or takes everything again.
    pub fn refuse(&self, why: Option<&str>) {
        self.kept().refuses = why.map(str::to_owned);
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HistorySink for MemorySink {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn write<'a>(&'a mut self, batch: &'a [Arc<Record>]) -> BoxFuture<'a, Result<Written, WriteError>> {
        let mut kept = self.kept();
        let taken = if let Some(why) = &kept.refuses {
            Err(WriteError::new(why.clone()))
        } else {
            kept.records.extend(batch.iter().cloned());
            let surplus = kept.records.len().saturating_sub(kept.most);
            kept.records.drain(..surplus);
            Ok(Written::All)
        };
        Box::pin(std::future::ready(taken))
    }
}
