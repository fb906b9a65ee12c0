//! The fence around the kernel: the only `unsafe`, the only /sys and /proc.

pub mod launch;
pub mod news;
pub mod port;
