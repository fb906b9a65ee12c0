//! A pseudo terminal with an interactive shell on it, and a person at the keyboard.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::Winsize,
};

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Shell {
    child: Child,
    master: File,
    /// What the terminal showed, and how much of it has been looked at.
    shown: String,
    seen: usize,
}

impl Shell {
    /// An interactive shell that has the terminal for its session; `run` in it is `command`, also in `$RUN`.
    pub(crate) fn start(command: &str) -> Self {
        let pty = nix::pty::openpty(None, None).unwrap();
        let side = || Stdio::from(OwnedFd::try_clone(&pty.slave).unwrap());
        let child = Command::new("setsid")
            .args(["--ctty", "bash", "--norc", "--noprofile", "-i"])
            .env("PS1", "ready> ")
            .env("RUN", command)
            .env("TERM", "dumb")
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap();
        drop(pty.slave);
        let mut shell = Self { child, master: File::from(pty.master), shown: String::new(), seen: 0 };
        shell.expect("ready> ");
        shell.line("alias run=\"$RUN\"");
        shell.expect("ready> ");
        shell
    }

    /// Types a line.
    pub(crate) fn line(&mut self, text: &str) {
        self.press(format!("{text}\n").as_bytes());
    }

    /// Presses keys.
    pub(crate) fn press(&mut self, keys: &[u8]) {
        self.master.write_all(keys).unwrap();
    }

    pub(crate) fn resize(&mut self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).unwrap();
    }

    /// Waits until `text` shows behind what was seen before. Answers with what came up to it.
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.shown[self.seen..].find(text) {
                let before = self.shown[self.seen..self.seen + at].to_owned();
                self.seen += at + text.len();
                return before;
            }
            assert!(self.read(deadline), "{text:?} never came; the terminal showed:\n{}", self.shown);
        }
    }

    /// Types `line` again and again until `text` shows.
    pub(crate) fn until(&mut self, line: &str, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.line(line);
            let answer = self.expect("ready> ");
            if answer.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "{text:?} never came; the terminal showed:\n{}", self.shown);
        }
    }

    /// Waits until the job is over, with this code. Answers with what it said since the last look.
    pub(crate) fn expect_code(&mut self, code: i32) -> String {
        // Typed text shows as well, perhaps twice: the marker is not in it as it is printed.
        self.line("echo \"en\"\"ded $?.\"");
        let said = self.expect("ended ");
        let ended = self.expect(".");
        assert_eq!(ended, code.to_string(), "the terminal showed:\n{}", self.shown);
        said
    }

    fn read(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::from_borrowed_fd(self.master.as_fd(), PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::try_from(left).unwrap())).unwrap() == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        // EIO: the last of the other side has gone.
        let count = self.master.read(&mut buffer).unwrap_or(0);
        self.shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
        count > 0
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // A hangup for its session, as when a window is closed; then the certain way.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
