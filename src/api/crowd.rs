//! Where there were many connections and are few again, what they took is given back. The allocator does not do so by itself: it
//! keeps whatever lies below something that is still used.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// So many at once are a crowd.
const MANY: usize = 32;

/// What follows a crowd's end follows so much later: crowds that come one after the other are followed once in so long.
const AFTER: Duration = Duration::from_secs(2);

/// Those who are there.
#[derive(Debug, Clone)]
pub(super) struct Crowd {
    count: Arc<Mutex<Count>>,
    then: fn(),
}

#[derive(Debug, Default)]
struct Count {
    now: usize,
    /// The most since most of them have gone the last time.
    most: usize,
    /// They were a crowd, and not all of it has gone yet.
    crowd: bool,
    /// Most of them have gone, and nothing has followed yet.
    due: bool,
}

impl Crowd {
    /// Nobody yet. A crowd's end is followed by `then`.
    pub(super) fn new(then: fn()) -> Self {
        Self { count: Arc::default(), then }
    }

    pub(super) fn come(&self) {
        self.count().come();
    }

    /// Goes, and sees to what follows where there is somebody needed to do so.
    pub(super) async fn go(&self) {
        if self.count().go() {
            tokio::time::sleep(AFTER).await;
            self.count().due = false;
            (self.then)();
        }
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    const fn come(&mut self) {
        self.now += 1;
        self.crowd |= self.now >= MANY;
        if self.now > self.most {
            self.most = self.now;
        }
    }

    /// Whether most of a crowd have gone by that, or most of those that were left the last time, and nobody has seen to it. Some
    /// may stay for ever, and the last of them may have taken as much as all the others.
    const fn go(&mut self) -> bool {
        self.now = self.now.saturating_sub(1);
        if !self.crowd || self.now > self.most / 4 {
            return false;
        }
        self.most = self.now;
        self.crowd = self.now > 0;
        !std::mem::replace(&mut self.due, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of them, counted from 1, sees to the end when `n` go.
    fn sees(count: &mut Count, n: usize) -> Vec<usize> {
        (1..=n).filter(|_| count.go()).collect()
    }

    #[test]
    fn of_a_crowd_somebody_sees_to_what_most_of_it_leave_behind_and_of_a_few_nobody() {
        let mut count = Count::default();
        (0..MANY - 1).for_each(|_| count.come());
        assert_eq!(sees(&mut count, MANY - 1), [0; 0]);
        (0..4 * MANY).for_each(|_| count.come());
        assert_eq!(sees(&mut count, 4 * MANY - 1), [3 * MANY], "some may stay for ever");
        // That was seen to, and then the last one goes.
        count.due = false;
        assert_eq!(sees(&mut count, 1), [1]);
        count.due = false;
        (0..MANY - 1).for_each(|_| count.come());
        assert_eq!(sees(&mut count, MANY - 1), [0; 0], "it is over");
    }

    #[test]
    fn another_crowd_is_seen_to_when_the_first_one_was() {
        let mut count = Count::default();
        for due in [false, true, false] {
            (0..MANY).for_each(|_| count.come());
            count.due = due;
            assert_eq!(sees(&mut count, MANY).len(), usize::from(!due));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_follows_is_done_once_and_later() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static DONE: AtomicUsize = AtomicUsize::new(0);
        let crowd = Crowd::new(|| {
            DONE.fetch_add(1, Ordering::Relaxed);
        });
        for _ in 0..3 {
            (0..MANY).for_each(|_| crowd.come());
            let all: Vec<_> = (0..MANY)
                .map(|_| {
                    tokio::spawn({
                        let crowd = crowd.clone();
                        async move { crowd.go().await }
                    })
                })
                .collect();
            tokio::time::sleep(AFTER / 10).await;
            assert_eq!(DONE.load(Ordering::Relaxed), 0);
            drop(all);
        }
        tokio::time::sleep(2 * AFTER).await;
        assert_eq!(DONE.load(Ordering::Relaxed), 1);
    }
}
