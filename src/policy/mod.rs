//! Pure verdicts: no lock, no clock, no file, no `async`.
//!
//! [`cause`] says why a run ended; [`violation`] when a limit is violated and when no longer; [`dispatch`] what a
//! limit's policy comes to; [`decide`] what follows from any trigger, asking the [`breaker`] for restarts, whose delays are
//! [`backoff`]'s. [`restart`] is the configuration of it all. What calls them is `worker::transition`.

pub mod backoff;
pub mod breaker;
pub mod cause;
pub mod decide;
pub mod dispatch;
pub mod restart;
pub mod violation;
