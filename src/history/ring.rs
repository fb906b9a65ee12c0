//! The last events, in memory, for whoever follows the stream.
//!
//! A reader is a place in the ring and nothing else: it keeps no queue, so that a slow one costs nobody anything. One that
//! is overtaken by the end of the ring has fallen out of it and is told so.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::watch;

use super::{Cursor, Record};

/// The last events. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ring {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    stream: Arc<str>,
    state: Mutex<State>,
    /// How many events have been told, or that there will be no more.
    news: watch::Sender<News>,
    events: usize,
    bytes: usize,
    /// Events that somebody was too slow for.
    missed: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    kept: VecDeque<Arc<Record>>,
    bytes: usize,
    /// The position of the last event that is not kept any more.
    gone: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct News {
    told: u64,
    over: bool,
}

/// A reader's place.
#[derive(Debug)]
pub struct Reader {
    ring: Ring,
    /// The position of the last event it has had.
    had: u64,
    news: watch::Receiver<News>,
}

/// What a reader is given at once.
#[derive(Debug)]
pub enum Piece {
    /// The next events, in their order, at least one.
    Events(Vec<Arc<Record>>),
    /// It was too slow.
    Fallen(Fallen),
    /// It has had everything there is for now.
    Nothing,
    /// It has had everything, and there will be no more.
    Over,
}

/// How much a reader has missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fallen {
    /// Events that are not kept any more.
    pub missed: u64,
}

impl Ring {
    /// Keeps the last events of `stream`: at most so many, and so many bytes.
    #[must_use]
    pub fn new(stream: Arc<str>, events: usize, bytes: usize) -> Self {
        let (news, _) = watch::channel(News::default());
        Self {
            inner: Arc::new(Inner { stream, state: Mutex::default(), news, events, bytes, missed: AtomicU64::new(0) }),
        }
    }

    /// The next event. Never waits for a reader.
    pub fn push(&self, record: Arc<Record>) {
        let position = record.cursor().position;
        {
            let mut state = self.lock();
            state.bytes += record.weight();
            state.kept.push_back(record);
            while state.kept.len() > self.inner.events || state.bytes > self.inner.bytes {
                let Some(oldest) = state.kept.pop_front() else { break };
                state.bytes -= oldest.weight();
                state.gone = oldest.cursor().position;
            }
        }
        self.inner.news.send_modify(|news| news.told = position);
    }

    /// There will be no more.
    pub fn close(&self) {
        self.inner.news.send_modify(|news| news.over = true);
    }

    /// A reader of all that is kept and all that comes.
    #[must_use]
    pub fn from_the_beginning(&self) -> Reader {
        self.reader(0)
    }

    /// A reader of what comes.
    #[must_use]
    pub fn from_now(&self) -> Reader {
        self.reader(self.inner.news.borrow().told)
    }

    /// A reader of what was told behind `cursor`; `None` where that is a place in another stream, or one that has not
    /// been reached.
    #[must_use]
    pub fn after(&self, cursor: &Cursor) -> Option<Reader> {
        let known = cursor.stream == self.inner.stream && cursor.position <= self.inner.news.borrow().told;
        known.then(|| self.reader(cursor.position))
    }

    /// How many events have been told and are not kept any more.
    #[must_use]
    pub fn gone(&self) -> u64 {
        self.lock().gone
    }

    /// Counts what a reader was too slow for.
    pub fn miss(&self, Fallen { missed }: Fallen) {
        self.inner.missed.fetch_add(missed, Ordering::Relaxed);
    }

    /// How many events readers were too slow for, together.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.inner.missed.load(Ordering::Relaxed)
    }

    /// The oldest event that is kept.
    #[must_use]
    pub fn oldest(&self) -> Option<Arc<Record>> {
        self.lock().kept.front().cloned()
    }

    fn reader(&self, had: u64) -> Reader {
        Reader { ring: self.clone(), had, news: self.inner.news.subscribe() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    /// The next events, at most `most`. Does not wait.
    pub fn next(&mut self, most: usize) -> Piece {
        // Before the look at what is kept: what comes between the two is news again.
        let news = *self.news.borrow_and_update();
        let state = self.ring.lock();
        if state.gone > self.had {
            let missed = state.gone - self.had;
            drop(state);
            self.had += missed;
            return Piece::Fallen(Fallen { missed });
        }
        // Positions have no gaps.
        let skip = usize::try_from(self.had - state.gone).unwrap_or(usize::MAX);
        let events: Vec<_> = state.kept.iter().skip(skip).take(most).cloned().collect();
        drop(state);
        match events.last() {
            Some(last) => {
                self.had = last.cursor().position;
                Piece::Events(events)
            }
            None if news.over => Piece::Over,
            None => Piece::Nothing,
        }
    }

    /// Waits until there is something new.
    pub async fn changed(&mut self) {
        // A ring that is gone, which it cannot be while a reader has it, would be over.
        drop(self.news.changed().await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Scribe;
    use crate::history::record::tests::event;

    struct Stream {
        ring: Ring,
        scribe: Scribe,
        seq: u64,
    }

    impl Stream {
        fn new(events: usize) -> Self {
            let scribe = Scribe::new("s");
            Self { ring: Ring::new(scribe.stream(), events, 1 << 20), scribe, seq: 0 }
        }

        fn tell(&mut self, n: u64) {
            for _ in 0..n {
                self.seq += 1;
                self.ring.push(self.scribe.write(event(self.seq, "x")));
            }
        }
    }

    fn seqs(piece: Piece) -> Vec<u64> {
        match piece {
            Piece::Events(records) => records.iter().map(|record| record.event.seq).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn cursor(position: u64) -> Cursor {
        Cursor { stream: "s".into(), position }
    }

    #[test]
    fn a_reader_has_every_event_once_and_in_order() {
        let mut stream = Stream::new(10);
        stream.tell(3);
        let (mut all, mut coming) = (stream.ring.from_the_beginning(), stream.ring.from_now());
        assert_eq!(seqs(all.next(2)), [1, 2]);
        assert_eq!(seqs(all.next(2)), [3]);
        assert!(matches!(all.next(2), Piece::Nothing));
        assert!(matches!(coming.next(2), Piece::Nothing));
        stream.tell(1);
        assert_eq!((seqs(all.next(2)), seqs(coming.next(2))), (vec![4], vec![4]));
    }

    #[test]
    fn a_reader_goes_on_behind_a_cursor_and_not_behind_anothers() {
        let mut stream = Stream::new(10);
        stream.tell(3);
        assert_eq!(seqs(stream.ring.after(&cursor(2)).unwrap().next(9)), [3]);
        assert!(matches!(stream.ring.after(&cursor(3)).unwrap().next(9), Piece::Nothing));
        assert!(stream.ring.after(&cursor(4)).is_none(), "it has not been reached");
        assert!(stream.ring.after(&Cursor { stream: "t".into(), position: 1 }).is_none());
    }

    #[test]
    fn a_reader_that_is_overtaken_is_told_how_much_it_has_missed() {
        let mut stream = Stream::new(3);
        let mut slow = stream.ring.from_the_beginning();
        stream.tell(5);
        assert_eq!(stream.ring.gone(), 2);
        assert!(matches!(slow.next(9), Piece::Fallen(Fallen { missed: 2 })));
        assert_eq!(seqs(slow.next(9)), [3, 4, 5], "it may go on behind that");
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes_too() {
        let mut scribe = Scribe::new("s");
        let weight = scribe.write(event(1, "x")).weight();
        let mut stream = Stream { ring: Ring::new("s".into(), 100, 2 * weight), scribe: Scribe::new("s"), seq: 0 };
        stream.tell(3);
        assert_eq!(stream.ring.gone(), 1);
    }

    #[tokio::test]
    async fn the_end_comes_behind_the_last_event() {
        let mut stream = Stream::new(3);
        let mut reader = stream.ring.from_now();
        let waiting = tokio::spawn(async move {
            reader.changed().await;
            reader
        });
        stream.tell(1);
        stream.ring.close();
        let mut reader = waiting.await.unwrap();
        assert_eq!(seqs(reader.next(9)), [1]);
        assert!(matches!(reader.next(9), Piece::Over));
    }
}
