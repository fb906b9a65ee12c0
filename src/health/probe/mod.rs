//! One try of one probe.

mod exec;
mod http;
mod tcp;
mod tls;

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use super::task::Prober;
use crate::kernel::auxiliary::Auxiliary;
use crate::model::{ProbeKind, WorkerId, printable};
use crate::spec::types::{Probe, ProbeAction, Spec};

/// The longest `observed`, in bytes.
pub const MAX_OBSERVED: usize = 256;

/// What a try came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// It succeeded.
    Passed,
    /// It did not.
    Failed,
    /// It could not be made, for reasons that are not the worker's: it says nothing about the worker.
    Untried,
}

/// A try, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What it came to.
    pub finding: Finding,
    /// What was seen: at most [`MAX_OBSERVED`] bytes on one line, without control characters.
    pub observed: String,
}

impl Outcome {
    fn new(finding: Finding, observed: &str) -> Self {
        Self { finding, observed: inert(observed) }
    }

    /// A success.
    #[must_use]
    pub fn passed(observed: &str) -> Self {
        Self::new(Finding::Passed, observed)
    }

    /// A failure.
    #[must_use]
    pub fn failed(observed: &str) -> Self {
        Self::new(Finding::Failed, observed)
    }

    /// No try.
    #[must_use]
    pub fn untried(observed: &str) -> Self {
        Self::new(Finding::Untried, observed)
    }

    /// What an error makes of a try: nothing, where it was we who had run out of something.
    fn of_error(error: Option<&io::Error>, observed: &str) -> Self {
        let exhausted = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];
        let ours = error.and_then(io::Error::raw_os_error).is_some_and(|errno| exhausted.contains(&errno));
        Self::new(if ours { Finding::Untried } else { Finding::Failed }, observed)
    }
}

/// Text from outside on one line that cannot steer a terminal: white space is one space, what else would is replaced, and what is
/// too long is cut.
fn inert(text: &str) -> String {
    const CUT: char = '…';
    let mut safe = String::new();
    for word in text.split_whitespace() {
        let space = if safe.is_empty() { "" } else { " " };
        for c in space.chars().chain(word.chars().map(printable)) {
            if safe.len() + c.len_utf8() > MAX_OBSERVED - CUT.len_utf8() {
                safe.push(CUT);
                return safe;
            }
            safe.push(c);
        }
    }
    safe
}

/// `1s`, `500ms`.
fn words(time: Duration) -> String {
    humantime::format_duration(time).to_string().replace(' ', "")
}

/// What all probers of a supervisor share.
#[derive(Debug)]
pub struct Tools {
    http: http::Client,
    auxiliary: Auxiliary,
}

impl Tools {
    /// Programs are run by `auxiliary`.
    #[must_use]
    pub const fn new(auxiliary: Auxiliary) -> Self {
        Self { http: http::Client::new(), auxiliary }
    }

    /// The global environment of every program that is run from now on.
    pub fn set_global_env(&self, env: &BTreeMap<String, String>) {
        self.auxiliary.set_global_env(env);
    }

    /// Waits until nothing is left of what probes have started, once nobody probes any more.
    pub async fn idle(&self) {
        self.auxiliary.idle().await;
    }
}

/// The prober of one worker.
#[derive(Debug)]
pub struct Probes {
    tools: Arc<Tools>,
    exec: exec::Exec,
}

impl Probes {
    /// Probes `worker`, whose programs run as `spec` has it.
    #[must_use]
    pub fn new(tools: &Arc<Tools>, worker: &WorkerId, spec: &Arc<Spec>) -> Self {
        let exec = exec::Exec::new(tools.auxiliary.clone(), worker.clone(), Arc::clone(spec));
        Self { tools: Arc::clone(tools), exec }
    }
}

impl Prober for Probes {
    async fn probe(&self, run: u32, kind: ProbeKind, probe: &Probe) -> Outcome {
        match &probe.action {
            ProbeAction::Exec { argv } => self.exec.run(run, kind, argv, probe.timeout).await,
            ProbeAction::HttpGet(get) => self.tools.http.get(get, probe.timeout).await,
            ProbeAction::TcpSocket { host, port } => tcp::connect(host, *port, probe.timeout).await,
        }
    }
}

#[cfg(test)]
mod net_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_one_short_line_that_steers_nothing() {
        assert_eq!(inert("  a\r\n\tb\u{0b}c  "), "a b c");
        assert_eq!(inert("\u{1b}[2Jx\u{202e}y\u{61c}\0"), "\u{fffd}[2Jx\u{fffd}y\u{fffd}\u{fffd}");
        assert_eq!(inert(""), "");
        for unit in ["x", "é", "€", "🦀", "x ", "\u{1b}"] {
            for count in 60..300 {
                let text = unit.repeat(count);
                let safe = inert(&text);
                assert!(safe.len() <= MAX_OBSERVED, "{} of {count} × {unit:?}", safe.len());
                let whole = text.trim_end().chars().map(printable).collect::<String>();
                assert_eq!(safe.strip_suffix('…').unwrap_or(&whole), &whole[..safe.trim_end_matches('…').len()]);
                assert!(safe.ends_with('…') || safe == whole);
            }
        }
    }

    #[test]
    fn what_we_ran_out_of_is_no_failure_of_the_worker() {
        let outcome = |errno| Outcome::of_error(Some(&io::Error::from_raw_os_error(errno)), "").finding;
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::EADDRNOTAVAIL] {
            assert_eq!(outcome(errno), Finding::Untried);
        }
        for errno in [libc::ECONNREFUSED, libc::ECONNRESET, libc::EHOSTUNREACH] {
            assert_eq!(outcome(errno), Finding::Failed);
        }
        assert_eq!(Outcome::of_error(None, "").finding, Finding::Failed);
    }
}
