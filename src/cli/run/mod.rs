//! `pinfold run`: one command in its own cgroup, without a daemon and without a second process.
//!
//! ```text
//! request ─▶ place ─▶ mkdir, limits, baseline ─▶ spawn ─▶ confirm ─▶ watch ─▶ counters, reap ─▶ drain ─▶ totals, rmdir
//!  (flags)                                                                                          └▶ verdict, report
//! ```
//! `request` reads the flags by the rules of the config, `watch` waits, `ladder` decides about signals and
//! deadlines, `terminal` is job control, `verdict` says what came out. It launches before it starts any thread and
//! starts none afterwards.
//!
//! Killed with SIGKILL itself, it leaves the command running in its cgroup, limits in force: the directory under
//! `runs/` stays populated, and `doctor` or an operator's `cgroup.kill` finds it there. The kernel's way to tie
//! a child to its parent (`PR_SET_PDEATHSIG`) fires when a *thread* ends and is cleared by set-user-ID programs, so it is
//! no fence.

mod ladder;
mod request;
mod terminal;
mod verdict;
mod watch;

use std::os::fd::AsFd;

use super::{
    args,
    exit::{Exit, Failure},
    paths::Paths,
};
