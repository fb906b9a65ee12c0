//! The composition root of `pinfold up`: builds the parts, joins them, and ends them in order.
//!
//! ```text
//! up.rs          the process that was typed: checks, finds its place, starts the logger, becomes the keeper
//! detach.rs      the same in the background, and whoever waits until it has begun
//! supervisor.rs  the keeper's child: builds kernel and actors, takes over, starts, stops
//! settings.rs    what it is started with
//! signals.rs     what it is asked by
//! ending.rs      how it ends
//! announce.rs    what the service manager is told meanwhile
//! applied.rs     the configuration in force, kept for a supervisor that is started again
//! registered.rs  the workers that no file declares, kept beside it
//! memory.rs      the store: opened, judged, watched, closed
//! chronicle.rs   the supervisor's own events
//! console.rs     what is shown
//! records.rs     where events go: the console, whoever follows, the history sinks
//! patient.rs     a worker as the monitor of its health sees it
//! household.rs   what one more worker takes in a running supervisor, or one less
//! reload.rs      the configuration, changed while everything runs; reload/: how it is read, one worker's limits, and
//!                workers that come and go over the API
//! takeover.rs    what stood in the tree before us
//! orphans.rs     runs whose keeper is gone
//! door.rs        the control socket, joined to what it serves
//! reexec.rs      another binary in the place of this one
//! ```

mod announce;
mod applied;
mod chronicle;
mod console;
pub mod detach;
mod door;
mod ending;
mod household;
mod memory;
mod orphans;
mod patient;
mod records;
pub mod reexec;
mod registered;
mod reload;
mod settings;
mod signals;
pub mod supervisor;
mod takeover;
pub mod up;
