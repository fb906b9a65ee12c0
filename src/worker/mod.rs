//! One supervised worker: from the wish that it runs to the proof that nothing of it is left.
//!
//! Owned here: which run a worker has, how far its start or its stop has come, what is owed to whom. *Why* a run ended and
//! *whether* another follows is decided in [`policy`](crate::policy); cgroups, processes and counters are the
//! [`Kernel`](crate::kernel::port::Kernel)'s; which workers exist is the manager's.
//!
//! ```text
//!               start                 prepared               launched
//!   Resting ───────────▶ Preparing ───────────▶ Launching ───────────▶ Running
//!      ▲  ▲                  │ refused              │ failed              │    │
//!      │  └──────────────────┘                      │          exited by  │    │ stop
//!      │                                            ▼             itself  ▼    ▼
//!      │     unpopulated, and policy content    Draining ◀───────────────────  Terminating
//!      ├───────────────────────────────────────────┤ │        exited           │
//!      │                                           │ │ timeout                 │ timeout, or kill
//!      │  due: Preparing                           │ ▼                         ▼
//!   Waiting ◀──────────────────────────────────────┴─ Killing ◀────────────────┘
//!            unpopulated, and a restart is due        │   ▲
//!                                        still there  ▼   │ kill asked for again
//!                                                    Stuck        (leaves by Unpopulated like the two above)
//! ```
//!
//! Failure paths: a start that fails *before* there is a cgroup ends at once; one that fails later drains like an exit,
//! so that its cgroup is proved empty. A launch that is never answered is killed after [`transition::LAUNCH_PATIENCE`]. A
//! `cgroup.kill` that is refused is tried again. A cgroup that somebody removes under a living main process takes the fence
//! away, so the process is ended. What cannot be proved dead stays `Stuck`, published as `stopping(unkillable)`,
//! and nothing is started over it.
//!
//! * [`state`], [`event`], [`effect`]: the nouns; `state::past` is what is left of a supervisor for the next one, `state::freezer` whether a run stands still. [`transition::step`]: the rules, pure.
//! * [`rules`]: the configured limits as the violation engine takes them.
//! * `charge`: a worker to be supervised, and the state that begins in. [`actor`]: the task that gathers, steps, acts and publishes; `keeping`: what it has remembered, and answers that wait for that. [`handle`]: what everybody else holds of it. [`gone`]: what is remembered of those that are supervised no longer.

pub mod actor;
mod charge;
pub mod effect;
pub mod event;
pub mod gone;
pub mod handle;
mod keeping;
pub mod rules;
pub mod state;
pub mod transition;
