//! The composition root of `pinfold up`: builds the parts, joins them, and ends them in order.
//!
//! ```text
//! up.rs          the process that was typed: checks, finds its place, starts the logger, becomes the keeper
//! supervisor.rs  the keeper's first child: builds kernel and actors, starts, stops
//! console.rs     what it shows
//! ```

pub mod console;
