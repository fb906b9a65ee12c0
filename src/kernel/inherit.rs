//! Descriptors that are left open over execve(2), for a process that executes itself and goes on with them.
//!
//! Twenty thousand of them are too many for the queue of a socket, so their numbers are told instead. What makes a number
//! one's own is the close-on-exec flag: it is never set on what has come over an exec, and always on what this process has
//! made since, because everything here opens with it. So [`Inherited::take`] gives nothing away that has an owner already,
//! nor anything twice.
#![expect(unsafe_code, reason = "a descriptor known by its number is owned by nobody until it is said to be")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};

/// Leaves `fd` open over the next exec; the number under which it is found there.
///
/// # Errors
/// `fcntl(2)`.
pub fn leave_open(fd: BorrowedFd<'_>) -> io::Result<i32> {
    fcntl_setfd(fd, FdFlags::empty())?;
    Ok(fd.as_raw_fd())
}

/// Takes [`leave_open`] back: there was no exec.
///
/// # Errors
/// `fcntl(2)`.
pub fn close_on_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(fcntl_setfd(fd, FdFlags::CLOEXEC)?)
}

/// What has come over the exec that began this process.
#[derive(Debug)]
pub struct Inherited {
    _once: (),
}

impl Inherited {
    /// All of it, for whoever asks first in this process.
    pub fn claim() -> Option<Self> {
        static CLAIMED: AtomicBool = AtomicBool::new(false);
        (!CLAIMED.swap(true, Ordering::Relaxed)).then_some(Self { _once: () })
    }

    /// The descriptor of this number, close-on-exec from now on.
    ///
    /// # Errors
    /// `EBADF` where it is not open, is one of the standard streams, was taken before, or was made by this process.
    pub fn take(&mut self, number: i32) -> io::Result<OwnedFd> {
        if number <= libc::STDERR_FILENO {
            return Err(Errno::BADF.into());
        }
        // SAFETY: it is only asked for its flags; where nothing is open under the number, the kernel says so (EBADF).
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        if fcntl_getfd(fd)?.contains(FdFlags::CLOEXEC) {
            return Err(Errno::BADF.into());
        }
        close_on_exec(fd.as_fd())?;
        // SAFETY: it is open, and without the flag until just now: it has come over the exec, nothing in this process has
        // made it, and it was not taken before. There is one `Inherited` in a process, and it is borrowed exclusively.
        Ok(unsafe { super::pidfd::own(number) })
    }

    /// Closes at the next exec what has come over the last one and was not taken.
    ///
    /// # Errors
    /// `close_range(2)`.
    pub fn leave_the_rest(self) -> io::Result<()> {
        let (first, last) = (3u32, u32::MAX);
        // SAFETY: three integers; no descriptor is closed, only a flag is set on those that are open.
        let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// One test for all: what is inherited is claimed once in a process.
    #[test]
    fn what_was_left_open_is_taken_once_and_nothing_that_has_an_owner() {
        let mut inherited = Inherited::claim().unwrap();
        assert!(Inherited::claim().is_none(), "twice");

        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let code = |result: io::Result<OwnedFd>| result.unwrap_err().raw_os_error();
        assert_eq!(code(inherited.take(read.as_raw_fd())), Some(libc::EBADF), "it is ours");
        for number in [-1, 0, 1, 2, 1_000_000] {
            assert_eq!(code(inherited.take(number)), Some(libc::EBADF), "{number}");
        }

        leave_open(read.as_fd()).unwrap();
        assert_eq!(fcntl_getfd(&read).unwrap(), FdFlags::empty());
        close_on_exec(read.as_fd()).unwrap();
        assert_eq!(code(inherited.take(read.as_raw_fd())), Some(libc::EBADF), "there was no exec");

        let number = leave_open(read.as_fd()).unwrap();
        // As over an exec: open, and nobody's.
        std::mem::forget(read);
        let taken = inherited.take(number).unwrap();
        assert_eq!(fcntl_getfd(&taken).unwrap(), FdFlags::CLOEXEC);
        assert_eq!(code(inherited.take(number)), Some(libc::EBADF), "it is taken");
        drop(write);
        assert_eq!(std::fs::File::from(taken).read(&mut [0]).unwrap(), 0, "it is the pipe");
    }
}
