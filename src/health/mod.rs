//! Whether workers do what they are there for: probes, and a monitor for each worker that has some.
//!
//! ```text
//!           next_run, run_over, frozen                    begin, end                 exec ─▶ kernel::auxiliary
//! Patient ─────────────────────────────▶ task::attend ◀──────────────▶ Monitor       http ─▶ hyper
//!    ▲                                        │    │                   (pure)        tcp  ─▶ tokio
//!    └───────────── report, verdict ──────────┘    └──────── probe ─────────────────▶ Prober
//! ```
//!
//! - [`monitor`] decides: which probe is due when, and what its outcomes amount to. The rules are Kubernetes'.
//! - [`task`] acts: one task for each worker with a health check, asleep while no run of it runs. It knows the worker as a
//!   [`Patient`](task::Patient) and how to probe as a [`Prober`](task::Prober), nothing else.
//! - [`probe`] is the real prober.
//!
//! What must hold: a worker has at most one probe in flight · an outcome of one run never counts for another · nothing is
//! tried while it is frozen · a fault of ours (no descriptor left, no cgroup to be had) is never the worker's failure.

pub mod monitor;
pub mod probe;
pub mod task;
