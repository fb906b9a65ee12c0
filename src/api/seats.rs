//! The book of places: how many are connected, and of whom. One for all who serve connections.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::peer::{Peer, Role};
use super::serve::Bounds;

/// Who comes when every place is taken is told so, as long as there are not more of them than this.
const STANDING: usize = 32;

/// Who is connected.
#[derive(Debug, Clone)]
pub(super) struct Seats {
    bounds: Bounds,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    standing: usize,
    /// Of those who are no admins.
    others: usize,
    of_user: HashMap<u32, usize>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Seats,
    peer: Peer,
    /// Only to be told that there is none.
    pub(super) standing: bool,
}

impl Seats {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, taken: Arc::default() }
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, peer: Peer) -> Option<Seat> {
        let mut taken = self.taken();
        let of_user = taken.of_user.get(&peer.uid).copied().unwrap_or(0);
        let free = taken.all < self.bounds.connections;
        let served = match peer.role {
            Role::Admin => free,
            Role::Operator => {
                let theirs = self.bounds.connections.saturating_sub(self.bounds.reserved);
                free && taken.others < theirs && of_user < self.bounds.of_one_user
            }
        };
        if !served {
            let stands = taken.standing < STANDING;
            taken.standing += usize::from(stands);
            return stands.then(|| Seat { seats: self.clone(), peer, standing: true });
        }
        taken.all += 1;
        if peer.role == Role::Operator {
            taken.others += 1;
            *taken.of_user.entry(peer.uid).or_default() += 1;
        }
        Some(Seat { seats: self.clone(), peer, standing: false })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if self.standing {
            taken.standing -= 1;
            return;
        }
        taken.all -= 1;
        if self.peer.role == Role::Operator {
            taken.others -= 1;
            let left = taken.of_user.get_mut(&self.peer.uid).map(|n| {
                *n -= 1;
                *n
            });
            if left == Some(0) {
                taken.of_user.remove(&self.peer.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_kept_for_admins_and_no_user_takes_them_all() {
        let seats = Seats::new(Bounds { connections: 6, reserved: 2, of_one_user: 3, ..Bounds::default() });
        let peer = |uid| Peer { uid, pid: None, role: if uid == 0 { Role::Admin } else { Role::Operator } };
        let sits = |uid| seats.take(peer(uid)).map(|seat| (seat.standing, seat));
        let mut taken: Vec<Seat> =
            (0..3).map(|_| sits(7).unwrap()).map(|(standing, s)| (assert!(!standing), s).1).collect();
        assert!(sits(7).unwrap().0, "three of one user");
        taken.push(sits(8).unwrap().1);
        assert!(sits(8).unwrap().0, "the others' places are taken");
        for _ in 0..2 {
            let (standing, seat) = sits(0).unwrap();
            assert!(!standing);
            taken.push(seat);
        }
        assert!(sits(0).unwrap().0, "every place is taken");
        let standing: Vec<_> = (0..STANDING).map(|_| sits(9).unwrap()).collect();
        assert!(sits(9).is_none(), "and nobody more is told so");
        drop((standing, taken));
        let taken = seats.taken();
        assert_eq!((taken.all, taken.others, taken.standing, taken.of_user.len()), (0, 0, 0, 0));
    }
}
