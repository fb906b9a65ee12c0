//! Lines as they were written, with the time before each where that is asked for.

/// Writes lines, one after the other.
#[derive(Debug)]
pub struct Plain {
    timestamps: bool,
    /// Whether what comes next stands at the beginning of a line.
    at_begin: bool,
}

impl Plain {
    /// With the time before each line, or without.
    #[must_use]
    pub const fn new(timestamps: bool) -> Self {
        Self { timestamps, at_begin: true }
    }

    /// Adds a line, or a part of one, to `text`; `goes_on` where it is a part behind another one of the same line.
    pub fn write(&mut self, bytes: &[u8], goes_on: bool, date: impl FnOnce() -> Option<String>, text: &mut Vec<u8>) {
        if self.timestamps {
            // What ended without an end is not joined with another's line.
            if self.at_begin || !goes_on {
                text.extend_from_slice(if self.at_begin { b"" } else { b"\n" });
                text.extend_from_slice(date().as_deref().unwrap_or("-").as_bytes());
                text.push(b' ');
            }
            self.at_begin = bytes.ends_with(b"\n");
        }
        text.extend_from_slice(bytes);
    }
}
