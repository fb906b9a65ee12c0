//! The fence around the kernel: the only `unsafe`, the only /sys and /proc.

pub mod ancestors;
pub mod auxiliary;
pub mod cgroup;
pub mod host;
pub mod inherit;
pub mod launch;
pub mod news;
pub mod note;
pub mod orphan;
pub mod own;
pub mod pidfd;
pub mod place;
pub mod port;
pub mod pressure;
pub mod probe;
pub mod signals;
pub mod watch;
