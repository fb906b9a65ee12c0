//! What came out of a run: its cause, what we exit with, what is said on stderr, and the report.

use std::{path::PathBuf, time::Duration};

use nix::libc::{SIGINT, SIGPIPE};

use super::request::Request;
use crate::cli::{
    exit::{self, Exit},
    render::{cause_sentence, duration, signal_name},
    report::{self, Limits, Readings, Report},
};
use crate::kernel::cgroup::limits::Effective;
use crate::model::{AboveReading, Counters, Evidence, ExitCause, ExitStatus, KilledBy, StartError, Usage};
use crate::policy::cause::{self, Asked, End, Facts};
use crate::spec::types::Stop;

/// Everything that is known of a run.
#[derive(Debug)]
pub(super) struct Facets {
    pub(super) uuid: String,
    pub(super) cgroup: PathBuf,
    pub(super) effective: Effective,
    /// RFC 3339.
    pub(super) started: Option<String>,
    pub(super) wall_ms: u64,
    pub(super) end: Result<ExitStatus, StartError>,
    pub(super) before: Counters,
    pub(super) after: Counters,
    pub(super) above: Option<Box<AboveReading>>,
    pub(super) usage: Option<Usage>,
    pub(super) asked: Asked,
    pub(super) timed_out: bool,
    pub(super) leftover: bool,
    /// The command had the terminal to itself.
    pub(super) had_terminal: bool,
}

/// The outcome in the three forms it takes.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) exit: Exit,
    /// For stderr; `None` where the command ended by itself, or by what the person at the terminal did.
    pub(super) sentence: Option<String>,
    pub(super) report: Report,
}

impl Facets {
    /// Decides.
    pub(super) fn verdict(self, request: &Request) -> Verdict {
        let end = match &self.end {
            Ok(status) => End::Reaped(*status),
            Err(error) => End::NeverRan(error),
        };
        let (cause, confidence) = cause::decide(&Facts {
            end,
            before: self.before,
            after: self.after,
            doomed: false,
            own_oom: false,
            above: self.above.as_deref(),
            asked: self.asked,
            oom_takes_all: request.spec.oom_takes_all(),
            success_exit_codes: &request.spec.restart.success_exit_codes,
        });
        let cause = match cause {
            // The only policy of a run.
            ExitCause::Killed { by: KilledBy::Policy, .. } => {
                ExitCause::Killed { by: KilledBy::Policy, policy: Some("timeout".to_owned()) }
            }
            other => other,
        };
        let (status, start_error) = match self.end {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(error)),
        };
        let exit = exit::of_run(&cause, status, self.timed_out, start_error.as_ref());
        let evidence = Evidence {
            status,
            before: self.before,
            after: self.after,
            usage: self.usage,
            asked_by: self.asked.by(),
            above: self.above.clone(),
            start_error: start_error.clone(),
            wall_ms: self.wall_ms,
        };
        let words = match (self.timed_out, request.timeout, status) {
            (true, Some(timeout), Some(status)) => timed_out(timeout, status, self.asked.kill.is_some(), request),
            _ => cause_sentence(&cause, confidence, &evidence, &request.spec),
        };
        let says = says_so(&cause, self.timed_out, self.had_terminal) || disturbed(&cause, &evidence);
        let sentence = says.then(|| words.clone());
        let report = Report {
            v: report::VERSION,
            run: self.uuid,
            pinfold: env!("CARGO_PKG_VERSION").to_owned(),
            command: request.spec.argv.clone(),
            cgroup: self.cgroup,
            started: self.started,
            wall_ms: self.wall_ms,
            exit_code: exit.code(),
            cause,
            confidence,
            sentence: words,
            status,
            start_error,
            timed_out: self.timed_out,
            leftover: self.leftover,
            memory: report::Memory::default(),
            cpu: report::Cpu::default(),
            pids: report::Pids::default(),
            pressure: report::Pressure::default(),
            counters: Readings::default(),
            above: self.above,
            limits: Limits { requested: request.typed.clone(), effective: effective(&self.effective) },
        }
        .with_usage(self.usage, Readings { before: self.before, after: self.after });
        Verdict { exit, sentence, report }
    }
}

fn timed_out(timeout: Duration, status: ExitStatus, killed: bool, request: &Request) -> String {
    let Stop { signal, timeout: patience, .. } = &request.spec.stop;
    let end = match status {
        ExitStatus::Exited { code } => format!("it exited with code {code}"),
        ExitStatus::Signaled { .. } if killed => {
            format!("killed, still there {} after {}", duration(*patience), signal_name(*signal))
        }
        ExitStatus::Signaled { signal, .. } => format!("it ended by {}", signal_name(signal)),
    };
    format!("stopped at its timeout of {}: {end}", duration(timeout))
}

/// Several lines of one file (`io.max`) become one text.
fn effective(limits: &Effective) -> std::collections::BTreeMap<String, String> {
    let mut files = std::collections::BTreeMap::<String, String>::new();
    for (file, content) in &limits.files {
        let text = files.entry((*file).to_owned()).or_default();
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(content.trim_end());
    }
    files
}

/// Whether a person has to be told. As in a shell, Ctrl-C and a reader that went away (`| head`) need no words.
fn says_so(cause: &ExitCause, timed_out: bool, had_terminal: bool) -> bool {
    match cause {
        ExitCause::Exited { .. } => timed_out,
        ExitCause::Signaled { signal, .. } => *signal != SIGPIPE && !(*signal == SIGINT && had_terminal),
        _ => true,
    }
}

/// Whether a failure has a likely reason that the command cannot know: the kernel took a child, or refused a fork.
fn disturbed(cause: &ExitCause, evidence: &Evidence) -> bool {
    let growth = evidence.after.since(evidence.before);
    let acted = growth.memory.is_some_and(|memory| memory.oom_kill > 0) || growth.pids_max.is_some_and(|max| max > 0);
    acted && matches!(cause, ExitCause::Exited { code } if *code != 0)
}

/// A run of which nothing is known but its start error: before or instead of a cgroup.
impl Facets {
    pub(super) fn never_ran(uuid: String, cgroup: PathBuf, error: StartError) -> Self {
        Self {
            uuid,
            cgroup,
            effective: Effective::default(),
            started: None,
            wall_ms: 0,
            end: Err(error),
            before: Counters::default(),
            after: Counters::default(),
            above: None,
            usage: None,
            asked: Asked::default(),
            timed_out: false,
            leftover: false,
            had_terminal: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MemoryEvents, Stage, WorkerId};
    use crate::spec::types::Spec;

    fn request() -> Request {
        let mut spec = Spec::new(vec!["leak".into()]);
        spec.limits.memory.max = Some(16 << 20);
        Request {
            name: WorkerId::new("leak").unwrap(),
            spec,
            timeout: Some(std::time::Duration::from_secs(3)),
            report: None,
            typed: [("--memory".to_owned(), "16M".to_owned())].into(),
        }
    }

    fn ended(status: ExitStatus) -> Facets {
        let error = StartError::refused(Stage::Spawn, "unused");
        Facets { end: Ok(status), ..Facets::never_ran("u".into(), "/cg/runs/leak.1".into(), error) }
    }

    const KILLED: ExitStatus = ExitStatus::Signaled { signal: 9, core: false };

    #[test]
    fn an_oom_is_told_with_its_numbers() {
        let events = |n| MemoryEvents { max: 9, oom: n, oom_kill: n, oom_group_kill: n, ..MemoryEvents::default() };
        let after = Counters { local: Some(events(1)), memory: Some(events(1)), pids_max: None };
        let usage = Some(Usage { memory_peak_bytes: Some(16 << 20), ..Usage::default() });
        let verdict = Facets { after, usage, ..ended(KILLED) }.verdict(&request());
        assert_eq!(verdict.exit.code(), 137);
        insta::assert_snapshot!(
            verdict.sentence.unwrap(),
            @"out of memory: killed by the kernel at memory.max 16 MiB (peak 16 MiB, oom_kill +1)"
        );
        assert_eq!(verdict.report.memory.oom_kills, Some(1));
    }

    #[test]
    fn a_command_that_ended_by_itself_has_the_last_word() {
        let verdict = ended(ExitStatus::Exited { code: 3 }).verdict(&request());
        assert_eq!((verdict.exit.code(), verdict.sentence), (3, None));
    }

    #[test]
    fn a_failure_that_the_kernel_had_a_part_in_is_told_with_it() {
        let after = Counters { pids_max: Some(3), ..Counters::default() };
        let ends = |code| Facets { after, ..ended(ExitStatus::Exited { code }) }.verdict(&request()).sentence;
        insta::assert_snapshot!(ends(2).unwrap(), @"exited with code 2; forks refused (max +3)");
        assert_eq!(ends(0), None, "it coped");
    }

    #[test]
    fn a_timeout_is_told_however_the_command_took_it() {
        let asked = Asked { stop: Some((KilledBy::Policy, 15)), kill: None, policy: None };
        let timed_out = |status| Facets { asked, timed_out: true, ..ended(status) }.verdict(&request());
        let said: Vec<_> = [ExitStatus::Exited { code: 7 }, ExitStatus::Signaled { signal: 15, core: false }]
            .map(|status| timed_out(status).sentence.unwrap())
            .into();
        insta::assert_snapshot!(said.join("\n"), @r"
        stopped at its timeout of 3s: it exited with code 7
        stopped at its timeout of 3s: it ended by SIGTERM
        ");
        let killed = Asked { kill: Some(KilledBy::Policy), ..asked };
        let verdict = Facets { asked: killed, timed_out: true, ..ended(KILLED) }.verdict(&request());
        insta::assert_snapshot!(
            verdict.sentence.unwrap(),
            @"stopped at its timeout of 3s: killed, still there 30s after SIGTERM"
        );
        let verdict = timed_out(ExitStatus::Exited { code: 0 });
        assert_eq!(verdict.exit.code(), 124);
        let by_policy = ExitCause::Killed { by: KilledBy::Policy, policy: Some("timeout".into()) };
        assert_eq!(verdict.report.cause, by_policy);
    }

    #[test]
    fn what_the_person_at_the_terminal_did_needs_no_words() {
        let by = |signal, had_terminal| {
            let status = ExitStatus::Signaled { signal, core: false };
            Facets { had_terminal, ..ended(status) }.verdict(&request()).sentence
        };
        assert_eq!(by(SIGINT, true), None);
        assert_eq!(by(SIGINT, false).as_deref(), Some("killed by SIGINT"));
        assert_eq!(by(SIGPIPE, false), None);
    }

    #[test]
    fn a_command_that_never_ran_is_no_success() {
        let error = StartError::os(Stage::Exec, "/bin/none", nix::libc::ENOENT);
        let verdict = Facets::never_ran("u".into(), "/cg".into(), error).verdict(&request());
        assert_eq!(verdict.exit.code(), 127);
        assert_eq!(verdict.sentence.as_deref(), Some("could not start: exec /bin/none: No such file or directory"));
    }
}
