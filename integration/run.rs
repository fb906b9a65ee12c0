//! `pinfold run` through its door, on a real kernel, as root. Nothing is skipped: what cannot run here fails and says
//! why. `lifecycle` runs wherever cgroup2 is mounted, `controllers` where version 2 has the controllers (the VM).
#![allow(missing_docs, reason = "tests")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test's support fails as a test does")]
#![allow(dead_code, reason = "the fixture is shared with the kernel's tests")]
#![allow(clippy::disallowed_methods, reason = "tests read clocks and wait for their own children")]

#[path = "run/command.rs"]
mod command;
#[path = "run/controllers.rs"]
mod controllers;
#[path = "kernel/fixture.rs"]
mod fixture;
#[path = "run/lifecycle.rs"]
mod lifecycle;
