//! The binary: picks its role before any runtime exists.

fn main() {}
