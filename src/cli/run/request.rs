//! The flags of `run`, as a spec. They are put in the config's own words and read by the config's own rules, so that a
//! flag and its key can never differ in what they take; a problem is then told with the flag's name.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value, json};

use crate::cli::{args, exit::Failure};
use crate::model::WorkerId;
use crate::spec::{
    self,
    types::{EnvFile, Spec},
};

/// What to run and how to end it.
#[derive(Debug)]
pub(super) struct Request {
    /// What names the run: the program's name, as far as it makes a name.
    pub(super) name: WorkerId,
    pub(super) spec: Spec,
    pub(super) timeout: Option<Duration>,
    pub(super) report: Option<PathBuf>,
    /// The limits by flag, as they were typed.
    pub(super) typed: BTreeMap<String, String>,
}

/// Each flag that is a key of the config: its name, its path below `unit`, its value.
fn keys(args: &args::Run) -> Vec<(&'static str, &'static [&'static str], Option<&String>)> {
    vec![
        ("--memory", &["limits", "memory", "max_rss"], args.memory.as_ref()),
        ("--memory-high", &["limits", "memory", "high"], args.memory_high.as_ref()),
        ("--swap", &["limits", "memory", "swap_max"], args.swap.as_ref()),
        ("--cpu", &["limits", "cpu", "max_percent"], args.cpu.as_ref()),
        ("--cpu-weight", &["limits", "cpu", "weight"], args.cpu_weight.as_ref()),
        ("--pids", &["limits", "pids", "max"], args.pids.as_ref()),
        ("--stop-timeout", &["stop", "timeout"], args.stop_timeout.as_ref()),
        ("--stop-signal", &["stop", "signal"], args.stop_signal.as_ref()),
        ("--user", &["user"], args.user.as_ref()),
        ("--group", &["group"], args.group.as_ref()),
    ]
}

impl Request {
    /// Reads the flags. `cwd` is the directory that relative paths are relative to, and where the command starts;
    /// `umask` is ours.
    ///
    /// # Errors
    /// [`Failure::Usage`] with every problem.
    pub(super) fn new(args: &args::Run, cwd: &Path, umask: u32) -> Result<Self, Failure> {
        let keys = keys(args);
        let mut unit = json!({ "command": ["unused"] });
        for (_, path, value) in &keys {
            if let Some(value) = value {
                put(&mut unit, path, scalar(value));
            }
        }
        let rates = args.io.iter().map(|text| io(text, cwd)).collect::<Result<Vec<_>, _>>()?;
        if !rates.is_empty() {
            put(&mut unit, &["limits", "io"], Value::Array(rates));
        }
        let mut spec = read(&unit, &keys)?;

        spec.argv = args.command.iter().map(text).collect::<Result<_, _>>()?;
        spec.env = args.env.iter().map(|text| variable(text)).collect::<Result<_, _>>()?;
        spec.env_files = args.env_file.iter().map(|file| EnvFile { path: cwd.join(file), optional: false }).collect();
        spec.working_directory = args.workdir.as_ref().map_or_else(|| cwd.to_owned(), |dir| cwd.join(dir));
        // A command of a shell goes on with what the shell gave it.
        spec.umask = umask;
        let timeout = args.timeout.as_deref().map(timeout).transpose()?;
        let limits = keys.iter().filter(|(_, path, _)| path[0] == "limits");
        let typed = limits.filter_map(|(flag, _, value)| Some(((*flag).to_owned(), (*value)?.clone())));
        let typed_io = (!args.io.is_empty()).then(|| ("--io".to_owned(), args.io.join(" ")));
        Ok(Self {
            name: name(&spec.argv),
            spec,
            timeout,
            report: args.report.as_ref().map(|file| cwd.join(file)),
            typed: typed.chain(typed_io).collect(),
        })
    }
}

/// Reads one unit by the rules of the config.
fn read(unit: &Value, keys: &[(&'static str, &[&'static str], Option<&String>)]) -> Result<Spec, Failure> {
    let config = json!({ "workers": [{ "id": "run", "unit": unit }] });
    // JSON is YAML.
    let source = spec::Source { name: "the command line".to_owned(), bytes: config.to_string().into_bytes() };
    let read = spec::load(&[source], &|_| None).map_err(|problems| {
        let said = problems.0.iter().map(|problem| {
            let below = problem.path.strip_prefix("workers[0].unit.").unwrap_or(&problem.path);
            let flag = keys.iter().find(|(_, path, _)| below == path.join(".")).map(|(flag, _, _)| *flag);
            let flag = flag.or(below.starts_with("limits.io[").then_some("--io")).unwrap_or(below);
            format!("{flag}: {}; {}", problem.message, problem.fix)
        });
        Failure::Usage(said.collect::<Vec<_>>().join("\n"))
    })?;
    match read.workers.into_iter().next() {
        Some(worker) => Ok(std::sync::Arc::unwrap_or_clone(worker.spec)),
        None => Err(Failure::Usage("there is nothing to run".to_owned())),
    }
}

/// A duration like any other of the config.
fn timeout(typed: &str) -> Result<Duration, Failure> {
    let unit = json!({ "command": ["unused"], "stop": { "timeout": scalar(typed) } });
    match read(&unit, &[("--timeout", &["stop", "timeout"], None)])?.stop.timeout {
        Duration::ZERO => Err(Failure::Usage("--timeout: 0 leaves no time; write a time like 30s".to_owned())),
        time => Ok(time),
    }
}

fn put(at: &mut Value, path: &[&str], value: Value) {
    let Some((key, below)) = path.split_first() else { return *at = value };
    if !at.is_object() {
        *at = Value::Object(Map::new());
    }
    if let Value::Object(map) = at {
        put(map.entry(*key).or_insert(Value::Null), below, value);
    }
}

/// As it would stand in a config: a number bare, all else in quotes. A dollar on a command line is one: the shell has
/// expanded what was to be.
fn scalar(typed: &str) -> Value {
    match typed.parse::<serde_json::Number>() {
        Ok(number) => Value::Number(number),
        Err(_) => Value::String(typed.replace('$', "$$")),
    }
}

/// `PATH:KEY=RATE,…`
fn io(typed: &str, cwd: &Path) -> Result<Value, Failure> {
    let wrong = || {
        let like = "write PATH:KEY=RATE,… with the keys rbps, wbps, riops, wiops, like /data:wbps=20M,riops=500";
        Failure::Usage(format!("--io: {typed:?} names no rates; {like}"))
    };
    // The last colon: a path may have some.
    let (path, rates) = typed.rsplit_once(':').ok_or_else(wrong)?;
    let path = cwd.join(path);
    let mut io = Map::new();
    io.insert("path".to_owned(), scalar(path.to_str().ok_or_else(wrong)?));
    for rate in rates.split(',') {
        let (key, value) = rate.split_once('=').ok_or_else(wrong)?;
        if io.insert(key.to_owned(), scalar(value)).is_some() {
            return Err(Failure::Usage(format!("--io: {key} is given twice in {typed:?}; give it once")));
        }
    }
    Ok(Value::Object(io))
}

fn text(word: &OsString) -> Result<String, Failure> {
    word.to_str().map(str::to_owned).ok_or_else(|| {
        let shown = word.to_string_lossy();
        Failure::Usage(format!("{shown:?} is not UTF-8; pass such a name by a script or a file"))
    })
}

fn variable(typed: &str) -> Result<(String, String), Failure> {
    match typed.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Failure::Usage(format!(
            "--env: {typed:?} is no KEY=VALUE; variables of the current environment are passed on without it"
        ))),
    }
}

/// The program's file name with everything left out that a worker's name cannot have.
fn name(argv: &[String]) -> WorkerId {
    let program = argv.first().map(String::as_str).unwrap_or_default();
    let file = program.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default();
    let allowed: String =
        file.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).take(40).collect();
    let plain = allowed.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    WorkerId::new(plain).unwrap_or_else(|_| fallback())
}

#[expect(clippy::expect_used, reason = "a constant; a test makes it")]
fn fallback() -> WorkerId {
    WorkerId::new("command").expect("a plain word is a name")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::spec::types::SwapMax;

    fn request(line: &str) -> Result<Request, Failure> {
        let words = shell_words::split(&format!("pinfold run {line}")).unwrap();
        let Command::Run(args) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        Request::new(&args, Path::new("/cwd"), 0o027)
    }

    fn refusal(line: &str) -> String {
        let failure = request(line).unwrap_err();
        assert_eq!(failure.exit().code(), 2, "{line}");
        failure.sentence()
    }

    #[test]
    fn flags_become_the_spec_that_the_same_keys_would_give() {
        let request = request(
            "-m 256M --memory-high 90% --swap 1G --cpu 12.5 --cpu-weight 50 --pids 64 --io /data:wbps=20MB,riops=5 \
             --stop-timeout 1m30s --stop-signal int -u 1000 -g 7 --timeout 500ms -- sleep 1",
        )
        .unwrap();
        let (spec, limits) = (&request.spec, &request.spec.limits);
        assert_eq!(limits.memory.max, Some(256 << 20));
        assert_eq!(limits.memory.high, Some((256 << 20) / 10 * 9 + 5));
        assert_eq!(limits.memory.swap_max, SwapMax::Bytes(1 << 30));
        assert_eq!((limits.cpu.max_percent, limits.cpu.weight, limits.pids.max), (Some(12.5), Some(50), Some(64)));
        assert_eq!((limits.io[0].path.as_path(), limits.io[0].wbps), (Path::new("/data"), Some(20_000_000)));
        assert_eq!((spec.stop.signal, spec.stop.timeout), (nix::libc::SIGINT, Duration::from_secs(90)));
        assert_eq!((spec.user.as_deref(), spec.group.as_deref()), (Some("1000"), Some("7")));
        assert_eq!(request.timeout, Some(Duration::from_millis(500)));
        assert_eq!(request.typed["--memory"], "256M");
        assert_eq!(request.typed["--io"], "/data:wbps=20MB,riops=5");
        assert_eq!(request.typed.get("--user"), None, "no limit");
    }

    #[test]
    fn without_flags_nothing_is_limited_and_the_shells_surroundings_stay() {
        let request = request("-- true").unwrap();
        let plain = Spec { working_directory: "/cwd".into(), umask: 0o027, ..Spec::new(vec!["true".into()]) };
        assert_eq!(request.spec, plain);
    }

    #[test]
    fn arguments_and_variables_are_taken_as_they_are() {
        let request = request("-e 'A=$B=${C}' -e D= -w sub -- echo '${HOME}' '$$' --memory").unwrap();
        assert_eq!(request.spec.argv, ["echo", "${HOME}", "$$", "--memory"]);
        assert_eq!(request.spec.env, [("A".into(), "$B=${C}".into()), ("D".into(), String::new())].into());
        assert_eq!(request.spec.working_directory, Path::new("/cwd/sub"));
    }

    #[test]
    fn a_problem_is_told_with_the_flag() {
        let refusals = [
            "-m 10 true",
            "-m lots true",
            "--cpu fast true",
            "--cpu 0 true",
            "--cpu-weight 0 true",
            "--pids -1 true",
            "--stop-signal SIGSTOP true",
            "--timeout soon true",
            "-u 'a b' true",
            "--io /data true",
            "--io /data:speed=1 true",
            "-e A true",
            "-m 1K --cpu x true",
        ]
        .map(|line| format!("$ pinfold run {line}\n{}", refusal(line)));
        insta::assert_snapshot!(refusals.join("\n"));
    }

    #[test]
    fn the_run_is_named_after_the_program() {
        let named = |program: &str| name(&[program.to_owned()]).to_string();
        assert_eq!(named("/usr/bin/python3.11"), "python3-11");
        assert_eq!(named("./a.out"), "a-out");
        assert_eq!(named("[/"), "command");
        assert_eq!(named("-"), "command");
        assert_eq!(named("/"), "command");
        assert_eq!(named(&"x".repeat(200)).len(), 40);
    }
}
