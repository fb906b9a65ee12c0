//! Who is at the other end of a connection, by the kernel's word (`SO_PEERCRED`, unix(7)): the credentials of the process
//! that connected, as they were then.

use std::fmt;

use tokio::net::unix::UCred;

/// A client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its process; `None` where it is in a pid namespace that we do not see into.
    pub pid: Option<i32>,
    /// What it may do.
    pub role: Role,
}

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything: root, and the supervisor's own user.
    Admin,
    /// Look and ask: whoever else the socket's group lets in. What is for the other role alone, `table` says, route by route.
    Operator,
}

impl Peer {
    /// The client with these credentials, of a supervisor that runs as `own`.
    #[must_use]
    pub fn new(credentials: &UCred, own: u32) -> Self {
        Self::of(credentials.uid(), credentials.pid(), own)
    }

    pub(super) fn of(uid: u32, pid: Option<i32>, own: u32) -> Self {
        let role = if uid == 0 || uid == own { Role::Admin } else { Role::Operator };
        Self { uid, pid: pid.filter(|pid| *pid > 0), role }
    }
}

/// `uid 1000 (pid 4711)`: `who` of an operator's event.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)?;
        match self.pid {
            Some(pid) => write!(f, " (pid {pid})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_our_own_user_are_admins_and_nobody_else() {
        let role = |uid, own| Peer::of(uid, Some(1), own).role;
        assert_eq!(role(0, 1000), Role::Admin);
        assert_eq!(role(1000, 1000), Role::Admin);
        assert_eq!(role(1001, 1000), Role::Operator);
        assert_eq!(role(1000, 0), Role::Operator);
    }

    #[test]
    fn a_peer_is_named_by_user_and_process() {
        assert_eq!(Peer::of(1000, Some(4711), 0).to_string(), "uid 1000 (pid 4711)");
        assert_eq!(Peer::of(1000, Some(0), 0).to_string(), "uid 1000");
        assert_eq!(Peer::of(1000, None, 0).to_string(), "uid 1000");
    }
}
