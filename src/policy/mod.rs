//! Pure verdicts: no lock, no clock, no file, no `async`.
//!
//! [`cause`] says why a run ended, [`restart`] what follows, [`backoff`] when; [`violation`] says when a limit is violated
//! and when it is kept again. The restart breaker will sit beside them; what calls them is `worker::transition`.

pub mod backoff;
pub mod cause;
pub mod restart;
pub mod violation;
