//! The fence around the kernel: the only `unsafe`, the only /sys and /proc.

pub mod launch;
pub mod pidfd;
pub mod port;
