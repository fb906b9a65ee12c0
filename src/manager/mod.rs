//! Which workers there are, and how several are asked at once.
//!
//! Owned here: the names (what a pattern means) and the gathering of answers. What one worker does about it is its own
//! affair ([`worker`](crate::worker)); who may ask is the API's.
//!
//! * [`pattern`]: names and what chooses among them, pure. [`handle`]: what everybody else holds of it all.
//!
//! Which workers exist is fixed when a supervisor starts. A reload that changes it has its seat here: everything asks
//! through [`handle::Manager`], and nothing keeps a list of its own.

pub mod handle;
pub mod pattern;
