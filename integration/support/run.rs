//! One `pinfold run` (or another command that ends by itself) to its end.

use std::{fs, process::Command, time::Duration};

use pinfold::{clock, model::ExitCause};

use super::Case;

/// What came of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit code; `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
    /// `--report`'s file.
    pub(crate) report: Option<serde_json::Value>,
}

impl Ran {
    /// The cause in the report.
    pub(crate) fn cause(&self) -> ExitCause {
        let report = self.report.as_ref().unwrap_or_else(|| panic!("no report was written: {self:?}"));
        serde_json::from_value(report["cause"].clone()).unwrap_or_else(|e| panic!("the report's cause: {e}: {self:?}"))
    }
}

/// `pinfold run ARGS`, with a report.
pub(crate) fn run(case: &Case, args: &[&str]) -> Ran {
    let report = tempfile::Builder::new().prefix("report-").tempfile_in(case.dir.path()).unwrap();
    let mut command = case.pinfold("run");
    command.arg("--report").arg(report.path()).args(args);
    let mut ran = finish(&mut command);
    ran.report = fs::read_to_string(report.path()).ok().and_then(|text| serde_json::from_str(&text).ok());
    ran
}

/// Any command to its end.
pub(crate) fn finish(command: &mut Command) -> Ran {
    let started = clock::monotonic();
    let output = command.stdin(std::process::Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: clock::monotonic().since(started),
        report: None,
    }
}
