//! `unit.health_check`: what is written of it, and what its keys say together. The names and meanings are Kubernetes'
//! (Probe v1), in snake case; durations are written as everywhere else here, and its `…_seconds` are understood too.

#![expect(clippy::doc_markdown, reason = "the comments are shown by editors, as plain text")]

use std::{borrow::Cow, net::IpAddr, time::Duration};

use schemars::{Schema, json_schema};

use super::{
    declare::{choice, record},
    decode::{Cx, Field, Found, FromWord, List, Word, Wrong},
    problem::Place,
    quantity::Time,
    raw::Command,
    types::{self, ProbeAction},
    units::{Int, variable},
    validate::split,
};

/// Where a probe connects to unless told otherwise. Not a name, so that nothing is looked up.
const LOCALHOST: &str = "127.0.0.1";
/// Closer tries are a load of their own.
const MIN_PERIOD: Duration = Duration::from_millis(100);
const PERIOD: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(1);
const FAILURE_THRESHOLD: u32 = 3;

/// Ten years, as of any duration.
const MAX_SECONDS: i64 = 3650 * 24 * 60 * 60;
type Seconds<const MIN: i64> = Int<MIN, MAX_SECONDS>;
type Threshold = Int<1, 1_000_000>;
type Port = Int<1, 65_535>;

record! {
    /// How a worker's health is told. One probe of a worker is tried at a time.
    HealthCheck {
        /// Whether the program has come up; until it passes, the other two are not tried. Where it fails, the worker is restarted.
        startup: Probe,
        /// Whether the worker still works; where it fails, the worker is restarted.
        liveness: Probe,
        /// Whether the worker can serve; where it fails, the worker is shown as unready.
        readiness: Probe,
    }
}

record! {
    /// A probe: one of exec, http_get and tcp_socket.
    Probe later [grpc] {
        /// Runs a program as the worker's user, in a small cgroup of its own; code 0 is success.
        exec: Exec,
        /// Asks by HTTP; a code from 200 to 399 is success.
        http_get: HttpGet,
        /// Connects; an accepted connection is success.
        tcp_socket: TcpSocket,
        /// From the program's start, or from the success of startup, to the first try. Default 0.
        initial_delay: Time,
        /// The same in seconds, as Kubernetes has it.
        initial_delay_seconds: Seconds<0>,
        /// From one try's begin to the next one's, at least 100ms. Default 10s.
        period: Time,
        /// The same in seconds, as Kubernetes has it.
        period_seconds: Seconds<1>,
        /// What a try may take. Default 1s.
        timeout: Time,
        /// The same in seconds, as Kubernetes has it.
        timeout_seconds: Seconds<1>,
        /// So many failures in a row are a failure. Default 3.
        failure_threshold: Threshold,
        /// So many successes in a row are a success; always 1 for startup and liveness. Default 1.
        success_threshold: Threshold,
    }
}

record! {
    /// A program that tells a worker's health by its exit code.
    Exec requires [command] {
        /// Program and arguments: a list, or a string that is split into words by the rules of a shell.
        command: Command,
    }
}

record! {
    /// A request by HTTP. Redirects to the same host are followed; certificates are not checked.
    HttpGet requires [port] {
        /// Path and query. Default /.
        path: UrlPath,
        /// The port.
        port: Port,
        /// A name or an address. Default 127.0.0.1.
        host: Host,
        /// http or https. Default http.
        scheme: Scheme,
        /// Headers of the request.
        http_headers: List<Header>,
    }
}

record! {
    /// A header of a request.
    Header requires [name, value] {
        /// Its name.
        name: HeaderName,
        /// Its value.
        value: HeaderValue,
    }
}

record! {
    /// A connection by TCP.
    TcpSocket requires [port] {
        /// The port.
        port: Port,
        /// A name or an address. Default 127.0.0.1.
        host: Host,
    }
}

// Kubernetes writes them large.
choice!(Scheme => bool, "a scheme", { "http" => false, "https" => true, "HTTP" => false, "HTTPS" => true, });

/// Declares a text that the crate `http` knows how to check.
macro_rules! http_text {
    ($name:ident, $what:literal, $like:literal, $pattern:literal, $check:expr) => {
        #[doc = concat!("Text that is ", $what, ".")]
        #[derive(Debug, Clone)]
        pub(super) struct $name(pub(super) String);

        impl FromWord for $name {
            const WHAT: &'static str = $what;
            const LIKE: &'static str = $like;

            fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
                let sound: fn(&str) -> bool = $check;
                if sound(&word.text) { Ok(Self((*word.text).to_owned())) } else { Err(Wrong::is(concat!("is not ", $what))) }
            }

            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn schema() -> Schema {
                json_schema!({ "anyOf": [{ "type": ["string", "number", "boolean"], "pattern": $pattern }, variable()] })
            }
        }
    };
}

http_text!(
    UrlPath,
    "the path of a URL",
    "a path that begins with /, its odd characters as %20, and without #",
    "^/[!-\"$-~]*$",
    |text| text.starts_with('/')
        && text.is_ascii()
        && !text.contains('#')
        && text.parse::<http::uri::PathAndQuery>().is_ok()
);

http_text!(
    HeaderName,
    "the name of a header",
    "letters, digits and -, like X-Probe",
    "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
    |text| http::HeaderName::from_bytes(text.as_bytes()).is_ok()
);

http_text!(
    HeaderValue,
    "the value of a header",
    "one line of text",
    "^[^\\u0000-\\u0008\\u000a-\\u001f\\u007f]*$",
    |text| http::HeaderValue::from_bytes(text.as_bytes()).is_ok()
);

/// A name or an address to connect to.
#[derive(Debug, Clone)]
pub(super) struct Host(String);

impl FromWord for Host {
    const WHAT: &'static str = "a host";
    const LIKE: &'static str = "a name or an address alone, like 127.0.0.1, ::1 or db.internal";

    fn from_word(word: &Word<'_>) -> Result<Self, Wrong> {
        let text = &*word.text;
        let in_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        // RFC 1035, 3.1: at most 255 octets, which is 253 characters.
        let name = (1..=253).contains(&text.len()) && text.bytes().all(in_name) && !text.starts_with(['.', '-']);
        if name || text.parse::<IpAddr>().is_ok() { Ok(Self(text.to_owned())) } else { Err(Wrong::is("is not a host")) }
    }

    fn name() -> Cow<'static, str> {
        "Host".into()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "pattern": "^([A-Za-z0-9_][A-Za-z0-9._-]{0,252}|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)$" },
            variable(),
        ] })
    }
}

/// The health check of a unit; defaults filled in. `None` where it has no probe.
pub(super) fn health_check(raw: &HealthCheck, cx: &mut Cx<'_>) -> Option<types::HealthCheck> {
    let startup = raw.startup.found().and_then(|found| probe(found, true, cx));
    let liveness = raw.liveness.found().and_then(|found| probe(found, true, cx));
    let readiness = raw.readiness.found().and_then(|found| probe(found, false, cx));
    let any = startup.is_some() || liveness.is_some() || readiness.is_some();
    any.then_some(types::HealthCheck { startup, liveness, readiness })
}

fn probe(found: &Found<Probe>, once: bool, cx: &mut Cx<'_>) -> Option<types::Probe> {
    let raw = &found.value;
    let action = action(found, cx);
    let initial_delay = time(&raw.initial_delay, &raw.initial_delay_seconds, cx);
    let period = time(&raw.period, &raw.period_seconds, cx);
    let timeout = time(&raw.timeout, &raw.timeout_seconds, cx);
    if let Some((at, length)) = period
        && length < MIN_PERIOD
    {
        cx.report.add(at, "tries this close together are a load of their own", "write at least 100ms");
    }
    if let Some((at, length)) = timeout
        && length.is_zero()
    {
        cx.report.add(at, "nothing can be done in no time", "write a time above 0");
    }
    let success_threshold = raw.success_threshold.get().copied().map_or(1, threshold);
    if let Some(found) = raw.success_threshold.found()
        && once
        && success_threshold != 1
    {
        let message = format!("{success_threshold} is out of range: one success is enough for startup and liveness");
        cx.report.add(&found.at, message, "write 1, or remove the key");
    }
    Some(types::Probe {
        action: action?,
        initial_delay: initial_delay.map_or(Duration::ZERO, |(_, length)| length),
        period: period.map_or(PERIOD, |(_, length)| length),
        timeout: timeout.map_or(TIMEOUT, |(_, length)| length),
        failure_threshold: raw.failure_threshold.get().copied().map_or(FAILURE_THRESHOLD, threshold),
        success_threshold,
    })
}

fn threshold(count: Threshold) -> u32 {
    u32::try_from(count.unsigned()).unwrap_or(u32::MAX)
}

/// A length of time by whichever of its two keys is written. What a worker writes itself goes before the defaults.
fn time<'f, const MIN: i64>(
    words: &'f Field<Time>,
    seconds: &'f Field<Seconds<MIN>>,
    cx: &mut Cx<'_>,
) -> Option<(&'f Place, Duration)> {
    let in_words = words.found().map(|found| (&found.at, found.value.0));
    let in_seconds = seconds.found().map(|found| (&found.at, Duration::from_secs(found.value.unsigned())));
    match (in_words, in_seconds) {
        (Some(one), Some((at, _))) if at.inherited() && !one.0.inherited() => Some(one),
        (Some((at, _)), Some(one)) if at.inherited() && !one.0.inherited() => Some(one),
        (Some(one), Some((at, _))) => {
            cx.report.add(at, "this says again what another key here says", "keep one of the two spellings");
            Some(one)
        }
        (one, other) => one.or(other),
    }
}

/// What of a probe's actions is written.
enum Written<'f> {
    Exec(&'f Exec),
    HttpGet(&'f HttpGet),
    TcpSocket(&'f TcpSocket),
}

/// The one thing that a probe tries.
fn action(found: &Found<Probe>, cx: &mut Cx<'_>) -> Option<ProbeAction> {
    let raw = &found.value;
    let written = [
        raw.exec.found().map(|exec| (&exec.at, Written::Exec(&exec.value))),
        raw.http_get.found().map(|get| (&get.at, Written::HttpGet(&get.value))),
        raw.tcp_socket.found().map(|socket| (&socket.at, Written::TcpSocket(&socket.value))),
    ];
    // What a worker writes itself replaces another action from the defaults.
    let own = written.iter().flatten().any(|(at, _)| !at.inherited());
    let mut written = written.into_iter().flatten().filter(|(at, _)| !own || !at.inherited());
    match (written.next(), written.next()) {
        (Some((_, Written::Exec(exec))), None) => {
            let argv = exec.command.found().and_then(|command| argv(command, cx))?;
            Some(ProbeAction::Exec { argv })
        }
        (Some((_, Written::HttpGet(get))), None) => http_get(get).map(ProbeAction::HttpGet),
        (Some((_, Written::TcpSocket(socket))), None) => {
            Some(ProbeAction::TcpSocket { host: host(&socket.host), port: port(&socket.port)? })
        }
        (Some(_), Some((second, _))) => {
            cx.report.add(second, "a probe tries one thing, and this is a second one", "keep one of them");
            None
        }
        (None, _) => {
            if raw.exec.is_absent() && raw.http_get.is_absent() && raw.tcp_socket.is_absent() {
                let message = "a probe needs exec, http_get or tcp_socket";
                cx.report.add(&found.at, message, "add one, like tcp_socket: {port: 8080}");
            }
            None
        }
    }
}

fn argv(command: &Found<Command>, cx: &mut Cx<'_>) -> Option<Vec<String>> {
    let argv = match &command.value {
        Command::Words(words) => words.iter().map(|word| word.value.0.clone()).collect(),
        Command::Line(line) => {
            let otherwise = "write [sh, -c, \"…\"], or the command as a list";
            split(line, &command.at, otherwise, cx)?
        }
    };
    match argv.first() {
        None => cx.report.add(&command.at, "the command is empty", "write a program and its arguments"),
        Some(program) if program.is_empty() => {
            cx.report.add(&command.at, "the program's name is empty", "write a path or a name as the first word");
        }
        Some(_) => return Some(argv),
    }
    None
}

fn http_get(raw: &HttpGet) -> Option<types::HttpGet> {
    let headers = raw.http_headers.get().map_or(&[][..], |headers| &headers.0);
    Some(types::HttpGet {
        tls: raw.scheme.get().is_some_and(|scheme| scheme.0),
        host: host(&raw.host),
        port: port(&raw.port)?,
        path: raw.path.get().map_or("/", |path| &path.0).to_owned(),
        headers: headers.iter().filter_map(|header| pair(&header.value)).collect(),
    })
}

fn pair(header: &Header) -> Option<(String, String)> {
    Some((header.name.get()?.0.clone(), header.value.get()?.0.clone()))
}

fn host(field: &Field<Host>) -> String {
    field.get().map_or(LOCALHOST, |host| &host.0).to_owned()
}

fn port(field: &Field<Port>) -> Option<u16> {
    u16::try_from(field.get()?.unsigned()).ok()
}

/// The text that a health check hands down, in bytes.
pub(super) fn weight(check: &HealthCheck) -> usize {
    let probes = [&check.startup, &check.liveness, &check.readiness];
    let of = |probe: &Probe| {
        let exec = probe.exec.get().and_then(|exec| exec.command.get()).map_or(0, Command::weight);
        let get = probe.http_get.get().map_or(0, |get| {
            let headers = get.http_headers.get().map_or(&[][..], |headers| &headers.0);
            let headers = headers.iter().filter_map(|header| pair(&header.value)).map(|(n, v)| n.len() + v.len() + 96);
            get.path.get().map_or(0, |path| path.0.len()) + headers.sum::<usize>()
        });
        exec + get
    };
    probes.into_iter().filter_map(Field::get).map(of).sum()
}
