//! Pure verdicts: no lock, no clock, no file, no `async`.
//!
//! [`cause`] says why a run ended, [`restart`] what follows, [`backoff`] when. The restart breaker and the
//! violation policies will sit beside them; what calls them is `worker::transition`.

pub mod backoff;
pub mod cause;
pub mod restart;
