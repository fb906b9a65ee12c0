//! The control socket: HTTP/1.1 and JSON over a unix socket, for the command line and for programs.
//!
//! Owned here: the shapes that clients script against, the paths, who may connect and how much. What is served is what
//! workers have published: a read never asks an actor, so it costs the same while a worker takes half a minute to die.
//! What is asked goes through [`manager`](crate::manager).
//!
//! ```text
//!  socket  the file: mode, group, a stale one, its end ── tenure  whether somebody will be there again
//!  serve   accept, bounds, one connection ── peer  who it is ── connected  how many ── presence  whether they are still there
//!          ── crowd  when many have gone
//!  table   every route, for whom and of what shape ── openapi  the same, written down
//!  guard   who may ── once  what is asked by the same key is done once ── keys  which were asked
//!  routes, list  what they do ── extract  what a request brings ── amiss  what is wrong with it ── wait  for something new
//!  events  the stream ── filter  who wants which of it ── audience  how many follow it, or wait for something new
//!  logs    a worker's output, on a thread for each reader ── patience  how long a reader may take
//!  register  workers that are made over the socket
//!  govern  who changes what is configured ── reexec, shutdown  the supervisor's own end
//!  metrics what a monitoring system reads
//!  wire    every shape ── problem  every error ── moment  every date ── usage  what running workers use
//! ```
//!
//! Failure paths: a client that is slow, large or greedy loses its connection; one that goes away while it waits takes
//! nothing back of what it asked. At the supervisor's end nothing is started any more (`going_down`), and reads and
//! kills are answered until the last worker has ended.

mod amiss;
mod audience;
mod connected;
mod crowd;
mod events;
mod extract;
mod filter;
mod govern;
mod guard;
mod keys;
mod list;
mod logs;
mod metrics;
mod moment;
mod once;
mod openapi;
mod patience;
mod peer;
mod presence;
mod problem;
mod reexec;
mod register;
mod routes;
mod serve;
mod shutdown;
pub mod socket;
mod table;
pub mod tenure;
mod usage;
mod wait;
pub mod wire;

pub use extract::MAX_BODY;
pub use govern::{Answering, Governor, Made, Outcomes};
pub use moment::Moment;
pub use openapi::json as openapi;
pub use peer::{Peer, Role};
pub use reexec::{Upgrades, Wish};
pub use register::Patience;
pub use routes::{Api, Told};
pub use serve::{Bounds, Server};
pub use shutdown::Shutdowns;
pub use usage::Meter;
