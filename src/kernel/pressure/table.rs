//! A thread with descriptors of its own.
//!
//! The kernel destroys a pressure trigger with its descriptor, and waits for its readers each time (`synchronize_rcu`:
//! 10 to 20 ms). A process that dies closes what is left one by one before its parent hears of its death: a supervisor
//! with a thousand triggers would take 10 to 20 s to be replaced. Every thread closes a table of its own, and at the same
//! time as the others. Besides, `RLIMIT_NOFILE` is for each table: triggers take no descriptor from the runs.
#![expect(unsafe_code, reason = "close_range(2) is a raw system call")]

use std::{io, os::fd::RawFd};

/// The lowest descriptor that is not a standard stream.
const FIRST: u32 = 3;

/// Gives the calling thread a copy of the process's descriptor table. From now on the numbers of the two have nothing to do
/// with each other: nothing that others open may be used here, nothing of here elsewhere.
///
/// By `close_range(2)`, which containers allow; `unshare(2)` they often forbid.
///
/// # Errors
/// Where the kernel refuses. The table is shared as before then.
pub(super) fn unshare() -> io::Result<()> {
    // The last number there can be: nothing is closed.
    close_range(u32::MAX, u32::MAX, libc::CLOSE_RANGE_UNSHARE)
}

/// Closes every descriptor of this thread's own table but the standard streams and `keep`.
///
/// Only to be called after [`unshare`], and before anything but `keep` was opened: every copy has its original elsewhere.
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn close_all_but(keep: &mut [RawFd]) -> io::Result<()> {
    keep.sort_unstable();
    let mut from = FIRST;
    for fd in keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd >= FIRST) {
        if fd > from {
            close_range(from, fd - 1, 0)?;
        }
        from = fd + 1;
    }
    close_range(from, u32::MAX, 0)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: takes three numbers and touches no memory. That nobody's descriptor is closed is the callers' part: either
    // the range is empty, or the table is this thread's own, and what it holds of others is a copy.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, os::fd::AsRawFd, path::PathBuf};

    use super::*;

    /// What the descriptors of this thread lead to.
    fn open_here() -> Vec<PathBuf> {
        let entries = std::fs::read_dir("/proc/thread-self/fd").unwrap();
        entries.filter_map(|e| std::fs::read_link(e.unwrap().path()).ok()).collect()
    }

    #[test]
    fn a_thread_keeps_what_it_names_and_takes_nothing_from_the_others() {
        let mut theirs = File::open("/proc/self/comm").unwrap();
        let before = open_here();
        assert!(before.iter().any(|path| path.ends_with("comm")), "{before:?}");
        let kept = std::thread::spawn(|| {
            unshare().unwrap();
            let own = File::open("/proc/self/stat").unwrap();
            close_all_but(&mut [own.as_raw_fd()]).unwrap();
            open_here()
        });
        let kept = kept.join().unwrap();
        assert!(kept.iter().any(|path| path.ends_with("stat")), "{kept:?}");
        assert!(!kept.iter().any(|path| path.ends_with("comm")), "{kept:?}");
        let mut text = String::new();
        assert!(theirs.read_to_string(&mut text).is_ok() && !text.is_empty());
    }
}
