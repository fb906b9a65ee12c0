//! Pure verdicts: no lock, no clock, no file, no `async`.

pub mod restart;
