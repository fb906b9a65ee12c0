//! The kernel fence against a real kernel, as root. Nothing here is skipped: where a test cannot run it fails and says
//! what it needs. `lifecycle` runs wherever cgroup2 is mounted, `controllers` where version 2 has the controllers (the
//! VM, a pure v2 host), `hybrid` where version 1 has them.
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]
#![allow(clippy::disallowed_methods, reason = "tests read clocks and wait for their own children")]

#[path = "kernel/controllers.rs"]
mod controllers;
#[path = "kernel/fixture.rs"]
mod fixture;
#[path = "kernel/hybrid.rs"]
mod hybrid;
#[path = "kernel/lifecycle.rs"]
mod lifecycle;
