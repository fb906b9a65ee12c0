//! What was asked under which key, pure: the same key of the same user means the same request, which is done once.
//!
//! Bounded: a user has at most [`OF_ONE_USER`] keys, of which the oldest answered one makes room, and all answers together
//! take at most [`BYTES`]. What is under way is never forgotten.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::model::Mono;

/// How long an answer is kept.
pub(super) const KEPT: Duration = Duration::from_secs(10 * 60);

/// Keys of one user.
pub(super) const OF_ONE_USER: usize = 256;

/// Keys of all users.
pub(super) const OF_ALL: usize = 1024;

/// What all kept answers take at most.
pub(super) const BYTES: usize = 4 << 20;

/// A user, and the key.
type Name = (u32, String);

/// Names one that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ticket(u64);

/// What is known of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<V> {
    /// Nothing: it is to be done.
    New(Ticket),
    /// It was asked already, and this is where its answer is or will be.
    Same(V),
    /// Something else was asked under it.
    Differs,
    /// So many are under way that there is no room for another.
    Full,
}

#[derive(Debug)]
struct Entry<V> {
    ticket: Ticket,
    print: u64,
    answer: V,
}

/// Who has answered, when, and how much room that takes.
#[derive(Debug)]
struct Answered {
    name: Name,
    at: Mono,
    bytes: usize,
}

/// The keys.
#[derive(Debug)]
pub(super) struct Keys<V> {
    entries: HashMap<Name, Entry<V>>,
    under_way: HashMap<Ticket, Name>,
    /// In the order in which they were answered.
    answered: BTreeMap<u64, Answered>,
    bytes: usize,
    last: u64,
}

impl<V> Default for Keys<V> {
    fn default() -> Self {
        let (entries, under_way, answered) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        Self { entries, under_way, answered, bytes: 0, last: 0 }
    }
}

impl<V: Clone> Keys<V> {
    /// What there is under `key` of `uid` for a request that `print` stands for; `answer` is where a new one's will be.
    pub(super) fn begin(&mut self, now: Mono, uid: u32, key: &str, print: u64, answer: V) -> Found<V> {
        self.forget_old(now);
        let name = (uid, key.to_owned());
        if let Some(known) = self.entries.get(&name) {
            return if known.print == print { Found::Same(known.answer.clone()) } else { Found::Differs };
        }
        let of_user = self.entries.keys().filter(|(whose, _)| *whose == uid).count();
        if of_user >= OF_ONE_USER && !self.forget_oldest(|whose| whose == uid) {
            return Found::Full;
        }
        if self.entries.len() >= OF_ALL && !self.forget_oldest(|_| true) {
            return Found::Full;
        }
        self.last += 1;
        let ticket = Ticket(self.last);
        self.under_way.insert(ticket, name.clone());
        self.entries.insert(name, Entry { ticket, print, answer });
        Found::New(ticket)
    }

    /// It is answered, with an answer of so many bytes.
    pub(super) fn answered(&mut self, ticket: Ticket, now: Mono, bytes: usize) {
        let Some(name) = self.under_way.remove(&ticket) else { return };
        self.last += 1;
        self.bytes += bytes;
        self.answered.insert(self.last, Answered { name, at: now, bytes });
        while self.bytes > BYTES && self.forget_oldest(|_| true) {}
    }

    /// It was not done, and will not be: as if it had never been asked.
    pub(super) fn dropped(&mut self, ticket: Ticket) {
        if let Some(name) = self.under_way.remove(&ticket)
            && self.entries.get(&name).is_some_and(|entry| entry.ticket == ticket)
        {
            self.entries.remove(&name);
        }
    }

    fn forget_old(&mut self, now: Mono) {
        while self.answered.first_key_value().is_some_and(|(_, answered)| now.since(answered.at) >= KEPT) {
            self.forget_oldest(|_| true);
        }
    }

    /// Forgets the oldest answer of a user that `whose` means. `false` where there is none.
    fn forget_oldest(&mut self, whose: impl Fn(u32) -> bool) -> bool {
        let oldest = self.answered.iter().find(|(_, answered)| whose(answered.name.0)).map(|(at, _)| *at);
        let Some(answered) = oldest.and_then(|at| self.answered.remove(&at)) else { return false };
        self.bytes -= answered.bytes;
        self.entries.remove(&answered.name);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Mono {
        Mono(Duration::from_secs(secs))
    }

    fn begun(keys: &mut Keys<&'static str>, secs: u64, uid: u32, key: &str) -> Ticket {
        match keys.begin(at(secs), uid, key, 1, "answer") {
            Found::New(ticket) => ticket,
            other => panic!("{key}: {other:?}"),
        }
    }

    #[test]
    fn a_key_means_one_request_of_one_user() {
        let mut keys = Keys::default();
        let ticket = begun(&mut keys, 0, 1000, "k");
        assert_eq!(keys.begin(at(1), 1000, "k", 1, "another"), Found::Same("answer"), "it is under way");
        keys.answered(ticket, at(2), 10);
        assert_eq!(keys.begin(at(3), 1000, "k", 1, "another"), Found::Same("answer"));
        assert_eq!(keys.begin(at(3), 1000, "k", 2, "another"), Found::Differs);
        begun(&mut keys, 3, 1001, "k");
    }

    #[test]
    fn an_answer_is_kept_for_its_time_and_what_is_under_way_for_longer() {
        let mut keys = Keys::default();
        let ticket = begun(&mut keys, 0, 0, "done");
        begun(&mut keys, 0, 0, "slow");
        keys.answered(ticket, at(5), 10);
        let just_before = KEPT.as_secs() + 4;
        assert_eq!(keys.begin(at(just_before), 0, "done", 1, "new"), Found::Same("answer"));
        begun(&mut keys, just_before + 1, 0, "done");
        assert_eq!(keys.begin(at(10 * just_before), 0, "slow", 1, "new"), Found::Same("answer"));
    }

    #[test]
    fn what_was_dropped_is_done_by_the_next() {
        let mut keys = Keys::default();
        let ticket = begun(&mut keys, 0, 0, "k");
        keys.dropped(ticket);
        begun(&mut keys, 0, 0, "k");
        keys.dropped(ticket);
        assert_eq!(
            keys.begin(at(0), 0, "k", 1, "new"),
            Found::Same("answer"),
            "an old ticket says nothing of a new one"
        );
    }

    #[test]
    fn a_user_fills_nobodys_room_but_their_own() {
        let mut keys = Keys::default();
        let theirs = begun(&mut keys, 0, 1, "theirs");
        keys.answered(theirs, at(0), 10);
        for n in 0..OF_ONE_USER {
            let ticket = begun(&mut keys, 1, 2, &n.to_string());
            keys.answered(ticket, at(1), 10);
        }
        begun(&mut keys, 1, 2, "one more");
        assert_eq!(keys.begin(at(1), 1, "theirs", 1, "new"), Found::Same("answer"));
        assert!(matches!(keys.begin(at(1), 2, "0", 1, "new"), Found::New(_)), "the oldest has made room");
    }

    #[test]
    fn where_all_is_under_way_there_is_no_room_and_nothing_is_forgotten() {
        let mut keys = Keys::default();
        for n in 0..OF_ONE_USER {
            begun(&mut keys, 0, 0, &n.to_string());
        }
        assert_eq!(keys.begin(at(0), 0, "one more", 1, "new"), Found::Full);
        assert_eq!(keys.begin(at(0), 0, "0", 1, "new"), Found::Same("answer"));
    }

    #[test]
    fn answers_take_a_bounded_room() {
        let mut keys = Keys::default();
        for n in 0..10 {
            let ticket = begun(&mut keys, 0, 0, &n.to_string());
            keys.answered(ticket, at(0), BYTES / 4);
        }
        assert!(keys.bytes <= BYTES && keys.entries.len() == 4, "{} {}", keys.bytes, keys.entries.len());
        let ticket = begun(&mut keys, 0, 0, "huge");
        keys.answered(ticket, at(0), BYTES + 1);
        assert_eq!((keys.bytes, keys.entries.len(), keys.answered.len()), (0, 0, 0));
    }
}
