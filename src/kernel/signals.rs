//! What this process was started with and cannot be asked safely: which signals it was told to ignore.
#![expect(unsafe_code, reason = "sigaction(2) as a question has no safe wrapper")]

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

#[cfg(test)]
mod tests {
    #[test]
    fn rust_ignores_sigpipe_and_nothing_else() {
        assert!(super::is_ignored(libc::SIGPIPE));
        assert!(!super::is_ignored(libc::SIGHUP));
        assert!(!super::is_ignored(4711), "an unknown signal is not ignored");
    }
}
