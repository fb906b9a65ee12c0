#![expect(unsafe_code, reason = "malloc_trim(3) has no wrapper")]

/// Gives freed heap back to the kernel, after something large: the keeper is small because a fork copies what it has.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes the allocator's own locks and touches free memory only.
    unsafe {
        libc::malloc_trim(0)
    };
}
