//! A worker's life, death and after-life on the real kernel, through the `pinfold` binary: what needs no controller and
//! therefore runs on every host where we may make cgroups, and in the virtual machine as well. Limits are in
//! `limits.rs`, systemd in `systemd.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod causes;
mod harness;
mod hostile;
mod place;
mod processes;
mod restart;
mod run;
mod states;
mod stopping;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const ALWAYS_AT_ONCE: &str = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";
