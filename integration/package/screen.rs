//! A terminal of 80 × 24 characters with a shell on it, and a person who types and reads.

use std::{
    fs::File,
    io::{Read, Write},
    num::NonZero,
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, Stdio},
    time::Duration,
};

use pinfold::clock;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::Winsize,
};

const ROWS: NonZero<u16> = NonZero::new(24).unwrap();
const COLUMNS: NonZero<u16> = NonZero::new(80).unwrap();

/// Printed before every command, and by nothing else.
const PROMPT: &str = "me@host:~# ";

pub(crate) struct Screen {
    child: Child,
    master: File,
    parser: vt100::Parser,
    patience: Duration,
}

impl Screen {
    pub(crate) fn new(patience: Duration) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        let size = Winsize { ws_row: ROWS.get(), ws_col: COLUMNS.get(), ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&pty.master, size).unwrap();
        let side = || Stdio::from(OwnedFd::try_clone(&pty.slave).unwrap());
        let child = Command::new("setsid")
            .args(["--ctty", "bash", "--norc", "--noprofile", "-i"])
            .env("PS1", PROMPT)
            .env("TERM", "xterm-256color")
            .env("PAGER", "cat")
            .env("SYSTEMD_COLORS", "0")
            .env_remove("NO_COLOR")
            .current_dir("/root")
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap();
        let mut screen =
            Self { child, master: File::from(pty.master), parser: vt100::Parser::new(ROWS, COLUMNS, 0), patience };
        screen.until("the first prompt", |shown| shown.contains(PROMPT.trim_end()));
        // Readline brackets what is pasted with sequences of its own.
        screen.types("bind 'set enable-bracketed-paste off'");
        screen
    }

    /// Types a line on a cleared screen and waits for the next prompt. Answers with what is on the screen then.
    pub(crate) fn types(&mut self, line: &str) -> String {
        self.press("\x0c");
        self.until("a cleared screen", |shown| {
            shown.trim_end().lines().count() == 1 && shown.starts_with(PROMPT.trim_end())
        });
        self.press(line);
        self.press("\n");
        // The prompt it was typed behind may have left the screen at the top.
        let prompted = |line: &str| line.starts_with(PROMPT.trim_end());
        let done = |shown: &str| {
            let lines: Vec<&str> = shown.trim_end().lines().collect();
            lines.last().is_some_and(|last| last.trim_end() == PROMPT.trim_end())
                && (lines.iter().filter(|line| prompted(line)).count() > 1 || !prompted(lines[0]))
        };
        self.until(line, done)
    }

    /// Types a line and does not wait for its end.
    pub(crate) fn begins(&mut self, line: &str) {
        self.press("\x0c");
        self.until("a cleared screen", |shown| shown.trim_end().lines().count() == 1);
        self.press(line);
        self.press("\n");
    }

    /// Presses what ends a command, and waits for the prompt behind it.
    pub(crate) fn ends(&mut self, keys: &str) {
        self.press(keys);
        self.until("the prompt", |shown| {
            shown.trim_end().lines().last().is_some_and(|last| last.trim_end() == PROMPT.trim_end())
        });
    }

    /// Presses keys.
    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Types `line` until what it shows is as wanted.
    pub(crate) fn again_until(&mut self, line: &str, wanted: impl Fn(&str) -> bool) -> String {
        let began = clock::monotonic();
        loop {
            let shown = self.types(line);
            if wanted(&shown) {
                return shown;
            }
            assert!(clock::monotonic().since(began) < self.patience, "{line}: never as wanted; the screen:\n{shown}");
        }
    }

    /// Waits until the screen is as wanted.
    pub(crate) fn until(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let began = clock::monotonic();
        loop {
            let shown = self.parser.screen().contents();
            if wanted(&shown) {
                return shown;
            }
            let left = self.patience.saturating_sub(clock::monotonic().since(began));
            let mut fds = [PollFd::from_borrowed_fd(self.master.as_fd(), PollFlags::IN)];
            let ready = poll(&mut fds, Some(&Timespec::try_from(left).unwrap())).unwrap();
            assert!(ready > 0, "{what}: never came; the screen:\n{shown}");
            let mut buffer = [0; 4096];
            let count = self.master.read(&mut buffer).unwrap_or(0);
            assert!(count > 0, "{what}: the terminal is gone; the screen:\n{shown}");
            self.parser.process(&buffer[..count]);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
