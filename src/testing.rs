//! For tests, ours and those of users of the library: a kernel in memory.
