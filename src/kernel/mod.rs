//! The fence around the kernel: the only `unsafe`, the only /sys and /proc.

pub mod cgroup;
pub mod launch;
pub mod note;
pub mod pidfd;
pub mod place;
pub mod port;
pub mod probe;
pub mod watch;
