//! Reading what the logger wrote.
//!
//! The logger (`crate::logger`) owns the files; this module only ever reads them. [`read`](mod@read) tells the lines of one worker,
//! [`Follower`] shows many as they grow. Nothing polls: whoever waits is woken by inotify, and reads then what is there.
//!
//! ```text
//!  files ── tape: a stream's files as one ── read: lines, by time and run ──▶ api
//!    ├───── index: when their bytes came ──── start: since when, how many lines
//!    └───── follow: many streams, as they come ──▶ console
//! ```

mod follow;
pub mod index;
mod place;
mod plain;
pub mod read;
mod start;
mod tape;

pub use follow::{Chunk, Follower};
pub use place::{NoPlace, Place};
pub use plain::Plain;
pub use read::{Line, Query, Runs, Told, read};
