//! What goes over the socket, as JSON. Scripts and other programs depend on these shapes: add to them freely, break them
//! never. Causes, evidence and events are those of the event stream ([`crate::model`]).
//!
//! Moments are RFC 3339 in UTC with milliseconds, and where a program would only subtract them from its own clock there
//! is the length of time beside them: milliseconds where the name says `ms`, microseconds where it says `usec`. What is
//! not known, or does not apply, is absent.

mod declaration;
mod health;
mod inspect;
mod order;
mod problem;
mod runs;
mod stream;
mod worker;

pub use declaration::Declaration;
pub use health::{Health, StoreHealth};
pub use inspect::{Inspection, Provenance, Setting};
pub use order::{Ask, Carried, Instances, Reexec, Reloaded, Results, SetLimits, Settled, Shutdown, Word};
pub use problem::{Code, Problem, Wrong};
pub use runs::{History, Limits, LogLine, PastRun, Why};
pub use stream::{EventLine, Marker, MarkerWord, Placed};
pub use worker::{Breaker, Glance, Glimpse, Glimpses, Usage, Worker, Workers};

pub use crate::manager::diff::{Origin, Plan, Step};

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
