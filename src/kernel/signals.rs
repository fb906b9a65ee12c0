//! What this process does about signals before anything else: which it was told to ignore, and which never stop it.
#![expect(unsafe_code, reason = "sigaction(2) as a question has no safe wrapper")]

use nix::sys::signal::{SigSet, Signal};

/// Whether `signal` is ignored, as nohup(1) or `trap '' HUP` in a shell left it for us. Blocking it and reading it from a
/// signalfd would hear it all the same: a blocked signal is never dropped.
#[must_use]
pub fn is_ignored(signal: i32) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action nothing is changed; the old one is written to a structure of ours.
    let known = unsafe { libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) } == 0;
    // SAFETY: all zeroes is a valid structure, and the kernel has filled it where the signal is known.
    let now = unsafe { now.assume_init() };
    known && now.sa_sigaction == libc::SIG_IGN
}

/// Blocks SIGTTOU and SIGTTIN for this thread and those it makes. A process group in the background of a terminal with
/// `stty tostop` is stopped by SIGTTOU when it writes there, but writes where that is blocked (termios(3)).
///
/// # Errors
/// `sigprocmask(2)`.
pub fn never_wait_for_the_foreground() -> std::io::Result<()> {
    let mut stops = SigSet::empty();
    stops.add(Signal::SIGTTOU);
    stops.add(Signal::SIGTTIN);
    Ok(stops.thread_block()?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn sigpipe_is_ignored_by_rust_and_sigkill_by_nobody() {
        assert!(super::is_ignored(libc::SIGPIPE));
        assert!(!super::is_ignored(libc::SIGKILL));
        assert!(!super::is_ignored(4711), "an unknown signal is not ignored");
    }
}
