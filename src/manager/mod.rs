//! Which workers there are, and how several are asked at once.
//!
//! Owned here: the names (what a pattern means) and the gathering of answers. What one worker does about it is its own
//! affair ([`worker`](crate::worker)); who may ask is the API's.
//!
//! * [`pattern`]: names and what chooses among them, pure. [`handle`]: what everybody else holds of it all.
//!
//! * [`diff`]: what stands between what there is and a configuration, pure. [`crew`]: workers made, scaled, changed and
//!   removed, for the supervisor and for users of the library, through a `nursery`, which makes them and lets them go.
//!   [`keep`]: the store and the history sinks of those users.
//!
//! Everything asks through [`handle::Manager`], and nothing keeps a list of its own: which workers there are can change.

pub mod crew;
pub mod diff;
mod error;
pub mod handle;
pub mod keep;
mod nursery;
pub mod pattern;
