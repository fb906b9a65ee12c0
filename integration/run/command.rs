//! `pinfold run` in a cgroup of the test's own.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
};

use pinfold::{cli::report::Report, kernel::cgroup::Dir};
use rustix::process::{Pid, Signal};

use crate::fixture::Place;

/// A place, and a directory for reports and scratch files.
pub(crate) struct Bench {
    pub(crate) place: Place,
    pub(crate) scratch: tempfile::TempDir,
}

/// What came out of a run.
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) report: Report,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { place: Place::new(), scratch: tempfile::tempdir().unwrap() }
    }

    /// Where the host passes the controllers on; the host's root cgroup stands for a delegating one.
    pub(crate) fn with_controllers() -> Self {
        let bench = Self::new();
        let above = Dir::open(&bench.place.situation.mount.path).unwrap();
        above
            .write("cgroup.subtree_control", "+memory +cpu +pids")
            .expect("this test needs a host whose controllers are in version 2: scripts/vm");
        bench
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pinfold"));
        command.args(["run", "--cgroup-root"]).arg(self.place.dir.path());
        command.arg("--report").arg(self.scratch.path().join("report.json")).args(args);
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        let output = self.command(args).stdin(Stdio::null()).output().unwrap();
        self.outcome(output.status, &output.stdout, &output.stderr)
    }

    fn outcome(&self, status: ExitStatus, out: &[u8], err: &[u8]) -> Outcome {
        let err = String::from_utf8_lossy(err).into_owned();
        let code = status.code().unwrap_or_else(|| panic!("{status}: {err}"));
        let report = std::fs::read(self.scratch.path().join("report.json")).unwrap_or_else(|e| panic!("{e}: {err}"));
        let report: Report = serde_json::from_slice(&report).unwrap();
        assert_eq!(i32::from(report.exit_code), code, "the report says what we ended with");
        self.assert_empty();
        Outcome { code, out: String::from_utf8_lossy(out).into_owned(), err, report }
    }

    /// The directories of runs that are there.
    pub(crate) fn runs(&self) -> Vec<String> {
        self.place.dir.open_below("runs").unwrap().children().unwrap()
    }

    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.runs(), Vec::<String>::new(), "nothing is left behind");
    }

    /// Runs in the background; returns once the command has written its first line.
    pub(crate) fn start(&self, args: &[&str]) -> Running<'_> {
        let mut command = self.command(args);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut running = Running { bench: self, child, out: None };
        let mut out = BufReader::new(running.child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        running.out = Some(out);
        running
    }
}

/// A run in the background.
pub(crate) struct Running<'a> {
    bench: &'a Bench,
    pub(crate) child: Child,
    out: Option<BufReader<std::process::ChildStdout>>,
}

impl Running<'_> {
    /// To `pinfold run` itself.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The next line of the command.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.as_mut().unwrap().read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits for the end.
    pub(crate) fn end(mut self) -> Outcome {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        self.out.take().unwrap().read_to_end(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_end(&mut err).unwrap();
        let status = self.child.wait().unwrap();
        self.bench.outcome(status, &out, &err)
    }
}
