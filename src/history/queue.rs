//! What waits for a sink: bounded in events and in bytes, pure.

use std::{collections::VecDeque, sync::Arc};

use super::{Bounds, Record};

/// Records in their order.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<Arc<Record>>,
    bytes: usize,
    bounds: Bounds,
}

impl Queue {
    pub(super) const fn new(bounds: Bounds) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, bounds }
    }

    /// Puts `record` behind the others; how many of the oldest had to go for it, itself included where it is too large
    /// for any queue.
    pub(super) fn push(&mut self, record: Arc<Record>) -> u64 {
        self.bytes += record.weight();
        self.waiting.push_back(record);
        let mut dropped = 0;
        while self.waiting.len() > self.bounds.events || self.bytes > self.bounds.bytes {
            if self.pop().is_none() {
                break;
            }
            dropped += 1;
        }
        if self.waiting.is_empty() || self.waiting.len() * 4 < self.waiting.capacity() {
            // An outage must not cost its memory for ever.
            self.waiting.shrink_to(self.waiting.len() * 2);
        }
        dropped
    }

    /// Adds to `batch` what may go with it.
    pub(super) fn take(&mut self, batch: &mut Vec<Arc<Record>>) {
        let mut bytes: usize = batch.iter().map(|record| record.weight()).sum();
        while let Some(next) = self.waiting.front().map(|record| record.weight()) {
            let fits = batch.len() < self.bounds.batch_events && bytes + next <= self.bounds.batch_bytes;
            if !fits && !batch.is_empty() {
                break;
            }
            bytes += next;
            batch.extend(self.pop());
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to(self.bounds.batch_events);
        }
    }

    /// Whether what waits is a whole batch.
    pub(super) fn is_batch(&self) -> bool {
        self.waiting.len() >= self.bounds.batch_events || self.bytes >= self.bounds.batch_bytes
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn clear(&mut self) -> usize {
        self.bytes = 0;
        std::mem::take(&mut self.waiting).len()
    }

    fn pop(&mut self) -> Option<Arc<Record>> {
        let record = self.waiting.pop_front()?;
        self.bytes -= record.weight();
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Scribe;
    use crate::history::record::tests::event;

    fn records(n: u64) -> Vec<Arc<Record>> {
        let mut scribe = Scribe::new("e");
        (1..=n).map(|seq| scribe.write(event(seq, "x"))).collect()
    }

    fn seqs(records: &[Arc<Record>]) -> Vec<u64> {
        records.iter().map(|record| record.event.seq).collect()
    }

    #[test]
    fn of_more_events_than_may_wait_the_oldest_go() {
        let mut queue = Queue::new(Bounds { events: 3, ..Bounds::default() });
        let dropped: u64 = records(5).into_iter().map(|record| queue.push(record)).sum();
        assert_eq!((dropped, queue.len()), (2, 3));
        let mut batch = Vec::new();
        queue.take(&mut batch);
        assert_eq!(seqs(&batch), [3, 4, 5]);
        assert_eq!((queue.len(), queue.bytes), (0, 0));
    }

    #[test]
    fn of_more_bytes_than_may_wait_the_oldest_go_and_one_that_never_fits_goes_itself() {
        let records = records(4);
        let three = records.iter().take(3).map(|record| record.weight()).sum();
        let mut queue = Queue::new(Bounds { bytes: three, ..Bounds::default() });
        let dropped: u64 = records.into_iter().map(|record| queue.push(record)).sum();
        assert_eq!((dropped, queue.len()), (1, 3));
        let giant = Scribe::new("e").write(event(9, &"x".repeat(three)));
        assert_eq!(queue.push(giant), 4, "it drives out what was there and does not fit itself");
        assert_eq!((queue.len(), queue.bytes), (0, 0));
    }

    #[test]
    fn a_batch_is_bounded_and_what_is_too_large_goes_alone() {
        let mut queue = Queue::new(Bounds { batch_events: 2, ..Bounds::default() });
        for record in records(3) {
            queue.push(record);
        }
        let mut batch = Vec::new();
        queue.take(&mut batch);
        assert_eq!(seqs(&batch), [1, 2]);
        queue.take(&mut batch);
        assert_eq!(seqs(&batch), [1, 2], "it is full");
        let mut small = Queue::new(Bounds { batch_bytes: 1, ..Bounds::default() });
        for record in records(2) {
            small.push(record);
        }
        let mut batch = Vec::new();
        small.take(&mut batch);
        assert_eq!(seqs(&batch), [1]);
    }
}
