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
pub(super) struct Connected {
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

/// The place of a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    of: Connected,
    peer: Peer,
    /// Only to be told that there is none.
    pub(super) standing: bool,
}

impl Connected {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, taken: Arc::default() }
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn place(&self, peer: Peer) -> Option<Place> {
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
            return stands.then(|| Place { of: self.clone(), peer, standing: true });
        }
        taken.all += 1;
        if peer.role == Role::Operator {
            taken.others += 1;
            *taken.of_user.entry(peer.uid).or_default() += 1;
        }
        Some(Place { of: self.clone(), peer, standing: false })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
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
    fn places_are_kept_for_admins_and_no_user_takes_them_all() {
        let connected = Connected::new(Bounds { connections: 6, reserved: 2, of_one_user: 3, ..Bounds::default() });
        let peer = |uid| Peer { uid, pid: None, role: if uid == 0 { Role::Admin } else { Role::Operator } };
        let comes = |uid| connected.place(peer(uid)).map(|place| (place.standing, place));
        let mut taken: Vec<Place> =
            (0..3).map(|_| comes(7).unwrap()).map(|(standing, s)| (assert!(!standing), s).1).collect();
        assert!(comes(7).unwrap().0, "three of one user");
        taken.push(comes(8).unwrap().1);
        assert!(comes(8).unwrap().0, "the others' places are taken");
        for _ in 0..2 {
            let (standing, place) = comes(0).unwrap();
            assert!(!standing);
            taken.push(place);
        }
        assert!(comes(0).unwrap().0, "every place is taken");
        let standing: Vec<_> = (0..STANDING).map(|_| comes(9).unwrap()).collect();
        assert!(comes(9).is_none(), "and nobody more is told so");
        drop((standing, taken));
        let taken = connected.taken();
        assert_eq!((taken.all, taken.others, taken.standing, taken.of_user.len()), (0, 0, 0, 0));
    }
}
