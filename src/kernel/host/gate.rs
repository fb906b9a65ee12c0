//! How many launches the keeper is asked for at once.
//!
//! What thousands of workers need to start, asked for in one moment, would stand in the keeper's socket before the stop of any other,
//! and all their children would be between clone and exec together. So a few are under way at a time, and the others wait in
//! their order. One that takes long (its program is on a file system that does not answer) gives its place up: nobody waits
//! for it.

use std::{collections::VecDeque, time::Duration};

use crate::model::{Mono, RunId};

/// So many are under way at once. The keeper makes one child after the other: more of them would only wait there.
const AT_ONCE: usize = 32;

/// For so long a launch is waited for. It takes 2 ms on an idle host, and a hundred times as long on one that is worked to its limits.
const SLOW: Duration = Duration::from_millis(500);

/// The launches that are under way, and what those that wait need.
#[derive(Debug)]
pub(super) struct Gate<T> {
    /// Since when, the oldest first.
    under_way: VecDeque<(RunId, Mono)>,
    waiting: VecDeque<(RunId, T)>,
}

impl<T> Default for Gate<T> {
    fn default() -> Self {
        Self { under_way: VecDeque::new(), waiting: VecDeque::new() }
    }
}

impl<T> Gate<T> {
    /// Has `run` wait for its turn, which [`next`](Self::next) says.
    pub(super) fn queue(&mut self, run: RunId, what: T) {
        self.waiting.push_back((run, what));
    }

    /// Whose turn it is, from now on under way.
    pub(super) fn next(&mut self, now: Mono) -> Option<(RunId, T)> {
        while self.under_way.front().is_some_and(|(_, since)| now.since(*since) >= SLOW) {
            self.under_way.pop_front();
        }
        if self.under_way.len() >= AT_ONCE {
            return None;
        }
        let (run, what) = self.waiting.pop_front()?;
        if self.waiting.is_empty() {
            // Room for thousands is not needed again.
            self.waiting = VecDeque::new();
        }
        self.under_way.push_back((run.clone(), now));
        Some((run, what))
    }

    /// `run` is not under way any more.
    pub(super) fn answered(&mut self, run: &RunId) {
        self.under_way.retain(|(other, _)| other != run);
    }

    /// Whether `run` has waited, and does no more.
    pub(super) fn withdraw(&mut self, run: &RunId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|(other, _)| other != run);
        self.waiting.len() < before
    }

    /// When one that is under way gives its place up; `None` where nobody waits for it.
    pub(super) fn due(&self) -> Option<Mono> {
        let (_, since) = self.under_way.front().filter(|_| !self.waiting.is_empty())?;
        Some(*since + SLOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WorkerId;

    fn run(number: u32) -> RunId {
        RunId::new(WorkerId::new("w").unwrap(), number)
    }

    fn at(ms: u64) -> Mono {
        Mono(Duration::from_millis(ms))
    }

    /// A gate at which those of `numbers` have been asked for at 0.
    fn asked(numbers: std::ops::RangeInclusive<u32>) -> (Gate<u32>, Vec<u32>) {
        let mut gate = Gate::default();
        numbers.for_each(|number| gate.queue(run(number), number));
        let let_in = all(&mut gate, at(0));
        (gate, let_in)
    }

    fn all(gate: &mut Gate<u32>, now: Mono) -> Vec<u32> {
        std::iter::from_fn(|| gate.next(now)).map(|(_, number)| number).collect()
    }

    #[test]
    fn a_few_are_under_way_at_once_and_the_others_follow_in_their_order() {
        let (mut gate, first) = asked(1..=100);
        assert_eq!(first, (1..=32).collect::<Vec<_>>());
        gate.answered(&run(7));
        gate.answered(&run(9));
        assert_eq!(all(&mut gate, at(1)), [33, 34]);
        assert_eq!(all(&mut gate, at(1)), [0; 0]);
    }

    #[test]
    fn nobody_waits_for_a_launch_that_takes_long() {
        let (mut gate, _) = asked(1..=40);
        assert_eq!(gate.due(), Some(at(500)));
        assert_eq!(all(&mut gate, at(499)), [0; 0]);
        assert_eq!(all(&mut gate, at(500)), (33..=40).collect::<Vec<_>>());
        assert_eq!(gate.due(), None, "nobody waits");
        // Its late answer frees nobody's place.
        gate.answered(&run(1));
        assert_eq!(gate.under_way.len(), 8);
    }

    #[test]
    fn one_that_waits_can_be_called_off_and_one_that_is_under_way_cannot() {
        let (mut gate, _) = asked(1..=40);
        assert!(gate.withdraw(&run(33)) && !gate.withdraw(&run(33)) && !gate.withdraw(&run(1)));
        gate.answered(&run(1));
        assert_eq!(all(&mut gate, at(1)), [34]);
    }

    #[test]
    fn it_keeps_no_room_for_those_that_have_gone() {
        let (mut gate, _) = asked(1..=5000);
        for number in 1..=5000 {
            gate.answered(&run(number));
            all(&mut gate, at(1));
        }
        assert_eq!((gate.waiting.capacity(), gate.under_way.len()), (0, 0));
    }
}
