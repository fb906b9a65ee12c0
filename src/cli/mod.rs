//! The command line: what can be typed, what is printed, what we end with.

pub mod doctor;
