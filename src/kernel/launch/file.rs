//! What a file that cannot be executed is, read without allocating: `ENOENT` and `EACCES` of execve(2) can be about
//! the file or about the interpreter or loader it names.

use std::ffi::CStr;

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};

/// How much of a file is looked at. The kernel itself reads 256 bytes of a script (`BINPRM_BUF_SIZE`); an ELF file's
/// headers come first.
pub(super) const HEAD: usize = 4096;

pub(super) fn exists(path: &CStr) -> bool {
    rustix::fs::accessat(CWD, path, Access::EXISTS, AtFlags::empty()).is_ok()
}

pub(super) fn is_executable(path: &CStr) -> bool {
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

pub(super) fn is_directory(path: &CStr) -> bool {
    let kind = |s: rustix::fs::Stat| rustix::fs::FileType::from_raw_mode(s.st_mode);
    rustix::fs::statat(CWD, path, AtFlags::empty()).is_ok_and(|s| kind(s) == rustix::fs::FileType::Directory)
}

/// The beginning of a file, nothing where it cannot be read. Never waits, also not for a FIFO's writer.
pub(super) fn read_head<'b>(path: &CStr, buffer: &'b mut [u8; HEAD]) -> &'b [u8] {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let read =
        rustix::fs::openat(CWD, path, flags, Mode::empty()).and_then(|fd| rustix::io::read(&fd, &mut buffer[..]));
    read.ok().and_then(|n| buffer.get(..n)).unwrap_or_default()
}

/// What stands after `#!`, up to the first blank.
pub(super) fn interpreter(head: &[u8]) -> Option<&[u8]> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    line.split(|b| matches!(b, b' ' | b'\t')).find(|word| !word.is_empty())
}

/// The `PT_INTERP` segment of a 64-bit ELF file (elf(5)).
pub(super) fn loader(head: &[u8]) -> Option<&[u8]> {
    const PT_INTERP: u32 = 3;
    const CLASS_64: u8 = 2;
    if !head.starts_with(b"\x7fELF") || head.get(4) != Some(&CLASS_64) {
        return None;
    }
    let u16_at = |at: usize| head.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let u32_at = |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let u64_at = |at: usize| head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes);
    let place = |n: u64| usize::try_from(n).ok();
    let (table, size, count) = (place(u64_at(32)?)?, usize::from(u16_at(54)?), usize::from(u16_at(56)?));
    for i in 0..count {
        let entry = size.checked_mul(i)?.checked_add(table)?;
        if entry > HEAD {
            return None;
        }
        if u32_at(entry)? == PT_INTERP {
            let start = place(u64_at(entry + 8)?)?;
            let name = head.get(start..start.checked_add(place(u64_at(entry + 32)?)?)?)?;
            return name.split(|b| *b == 0).next();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_scripts_interpreter_is_its_first_word() {
        assert_eq!(interpreter(b"#! /bin/nosuch -e\necho"), Some(&b"/bin/nosuch"[..]));
        assert_eq!(interpreter(b"#!/bin/sh\r\n"), Some(&b"/bin/sh\r"[..]), "the carriage return is the trouble");
        assert_eq!(interpreter(b"#!\n/bin/sh"), None);
        assert_eq!(interpreter(b"echo"), None);
    }

    #[test]
    fn a_programs_loader_is_found_in_its_headers() {
        let mut head = [0; HEAD];
        let head = read_head(c"/bin/ls", &mut head);
        let loader = loader(head).unwrap();
        assert!(std::path::Path::new(std::str::from_utf8(loader).unwrap()).exists(), "{}", loader.escape_ascii());
    }

    proptest! {
        #[test]
        fn no_file_makes_the_look_fail(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..HEAD),
            class in 0..4u8,
        ) {
            for (to, from) in bytes.iter_mut().zip(b"\x7fELF".iter().chain([&class])) {
                *to = *from;
            }
            prop_assert!(loader(&bytes).is_none_or(|name| name.len() <= HEAD));
            prop_assert!(interpreter(&bytes).is_none_or(|name| name.len() <= HEAD));
        }
    }
}
