//! Configuration files through the public door: `tests/fixtures/spec/good` load and mean what is asserted here,
//! `tests/fixtures/spec/bad` are refused with exactly the text beside them.
//!
//! `PINFOLD_BLESS=1` rewrites the expected texts; read the difference before committing it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so by failing")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use pinfold::{
    model::Overflow,
    policy::restart::{BudgetOverride, OnOpen, RestartMode},
    spec::{
        self, Problem, Source,
        types::{
            Config, Credentials, Endpoint, HealthCheck, HttpGet, Io, JsonlSink, KillMode, OomGroup, OpenSearchSink,
            PressureTrigger, Probe, ProbeAction, Process, Profile, Sink, Spec, StoreType, SwapMax, ViolationHandling,
            ViolationPolicy, Worker,
        },
    },
};

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/spec").join(kind);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    paths
}

fn environment(name: &str) -> Option<String> {
    let value = match name {
        "HOME" => "/root",
        "NUMBER" => "2",
        "WORD" => "seven",
        "YAML_LIST" => "[a, b]",
        _ => return None,
    };
    Some(value.to_owned())
}

fn source(path: &Path) -> Source {
    Source { name: path.file_name().unwrap().to_str().unwrap().to_owned(), bytes: fs::read(path).unwrap() }
}

fn text(name: &str, text: &str) -> Source {
    Source { name: name.to_owned(), bytes: text.as_bytes().to_vec() }
}

fn load(sources: &[Source]) -> Result<Config, spec::Problems> {
    spec::load(sources, &environment)
}

fn good(name: &str) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/spec/good").join(name).with_extension("yaml");
    load(&[source(&path)]).unwrap_or_else(|problems| panic!("{problems}"))
}

fn problems(sources: &[Source]) -> String {
    load(sources).expect_err("loaded").to_string()
}

fn worker<'c>(config: &'c Config, id: &str) -> &'c Worker {
    config.workers.iter().find(|worker| worker.id.as_str() == id).unwrap_or_else(|| panic!("no worker {id}"))
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn every_bad_fixture_is_refused_with_exactly_its_message() {
    let bless = std::env::var_os("PINFOLD_BLESS").is_some();
    let paths = fixtures("bad");
    assert!(paths.len() >= 40, "only {} fixtures found", paths.len());
    let mut wrong = Vec::new();
    for path in &paths {
        let actual = match load(&[source(path)]) {
            Ok(_) => "loads, and should not".to_owned(),
            Err(problems) => format!("{problems}\n"),
        };
        let expected = path.with_extension("expected");
        if bless {
            fs::write(&expected, &actual).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        if actual != expected {
            wrong.push(format!("{}\nexpected:\n{expected}\nactual:\n{actual}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_message_repeats_what_may_be_a_secret() {
    let file = fixtures("bad").into_iter().find(|path| path.ends_with("secret.yaml")).unwrap();
    let problems = load(&[source(&file)]).unwrap_err().0;
    assert_eq!(problems.len(), 7, "{problems:?}");
    for problem in problems {
        let said = format!("{} {} {}", problem.path, problem.message, problem.fix);
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn every_good_fixture_loads() {
    let paths = fixtures("good");
    assert!(paths.len() >= 10, "only {} fixtures found", paths.len());
    for path in paths {
        if let Err(problems) = load(&[source(&path)]) {
            panic!("{problems}");
        }
    }
}

#[test]
fn the_block_of_the_source_document_loads_as_it_stands_once_it_has_a_command() {
    let config = good("resource-managed-worker");
    let [worker] = config.workers.as_slice() else { panic!("{} workers", config.workers.len()) };
    assert_eq!(worker.id.as_str(), "resource-managed-worker");
    assert_eq!(worker.spec.argv, ["/usr/sbin/nginx", "-g", "daemon off;"]);
    let limits = &worker.spec.limits;
    assert_eq!((limits.memory.max, limits.memory.policy), (Some(256_000_000), ViolationPolicy::Restart));
    assert_eq!((limits.cpu.max_percent, limits.cpu.policy), (Some(75.0), ViolationPolicy::GracefulShutdown));
    assert_eq!(limits.monitoring.violation_handling, ViolationHandling::External);
}

#[test]
fn what_is_not_written_has_the_default_of_the_interface() {
    let config = good("minimal");
    let expected = Spec::new(vec!["/bin/true".to_owned()]);
    assert_eq!(*config.workers[0].spec, expected);
    assert!(config.workers[0].enabled);
    assert_eq!(config.workers[0].declared_as, config.workers[0].id);
}

#[test]
fn a_profile_reaches_the_restart_policy_whether_that_is_written_inherited_or_absent() {
    let command = "command: [/bin/true]";
    let workers = format!(
        "workers:\n- {{id: a, profile_type: batch, instances: 2, unit: {{{command}}}}}\n\
         - {{id: b, profile_type: web, unit: {{{command}, restart: {{max_retries: 9}}}}}}\n- {{id: c, unit: {{{command}}}}}\n"
    );
    for defaults in ["", "defaults: {restart: {jitter: 0}}\n"] {
        let config = load(&[text("a.yaml", &format!("{defaults}{workers}"))]).unwrap();
        let profiles: Vec<_> = config.workers.iter().map(|worker| worker.spec.restart.profile).collect();
        assert_eq!(profiles, [Profile::Batch, Profile::Batch, Profile::Web, Profile::Default], "{defaults}");
    }
}

#[test]
fn every_key_reaches_the_value_it_names() {
    let config = good("everything");
    assert_eq!(config.env, map(&[("LANG", "C.UTF-8"), ("SHARED", "global")]));
    assert_eq!(config.reconcile_interval, Some(Duration::from_secs(5)));
    let names: Vec<_> = config.workers.iter().map(|worker| worker.id.as_str()).collect();
    assert_eq!(names, ["full-1", "full-2"]);
    let worker = worker(&config, "full-2");
    assert_eq!(worker.declared_as.as_str(), "full");
    assert!(!worker.enabled);

    assert_eq!(config.store, StoreType::Memory);
    let [shared] = config.slices.as_slice() else { panic!("{} slices", config.slices.len()) };
    assert_eq!((shared.name.as_str(), worker.spec.slice.as_ref()), ("shared", Some(&shared.name)));

    let spec = &*worker.spec;
    assert_eq!(spec.argv, ["/usr/bin/server", "--port", "8080", "--verbose"]);
    let env = [("PORT", "8080"), ("VERSION", "1.10"), ("DEBUG", "true"), ("EMPTY", ""), ("SHARED", "worker")];
    assert_eq!(spec.env, map(&env), "numbers and truth values stay as they are written");
    let files: Vec<_> = spec.env_files.iter().map(|file| (file.path.to_str().unwrap(), file.optional)).collect();
    assert_eq!(files, [("/etc/default/server", false), ("/etc/default/server.local", true)]);
    assert_eq!(spec.working_directory, Path::new("/srv"));
    assert_eq!((spec.user.as_deref(), spec.group.as_deref()), (Some("www-data"), Some("33")));
    assert_eq!((spec.umask, spec.nice, spec.oom_score_adj), (0o027, 5, -500));
    assert_eq!((spec.stop.signal, spec.stop.timeout, spec.stop.kill_mode), (2, secs(90), KillMode::Group));

    let logs = spec.logs;
    assert_eq!((logs.max_size, logs.max_files), (1 << 20, 3));
    assert_eq!((logs.rate_limit, logs.overflow), (Some(500_000), Overflow::Drop));

    let restart = &spec.restart;
    assert_eq!(restart.mode, RestartMode::UnlessStopped);
    assert_eq!(restart.profile, Profile::Database, "the worker's own key, and every instance has it");
    assert_eq!(restart.max_retries, 5);
    assert_eq!(restart.retry_delay, Duration::from_millis(500));
    assert_eq!(format!("{:?}", (restart.backoff_rate, restart.jitter)), "(2.0, 0.0)");
    assert_eq!((restart.max_delay, restart.reset_after), (secs(60), secs(3600)));
    assert_eq!((restart.cooldown, restart.startup_grace_period), (None, secs(15)));
    assert_eq!(restart.success_exit_codes, [0, 143]);
    assert_eq!(restart.profile_multipliers, BTreeMap::from([("database".to_owned(), 4.0)]));
    assert_eq!(restart.severity_multipliers, BTreeMap::from([("warning".to_owned(), 0.25)]));
    let health = BudgetOverride { max_retries: Some(9), retry_delay: Some(secs(1)), ..BudgetOverride::default() };
    assert_eq!(restart.health_failures, health);
    let violations =
        BudgetOverride { backoff_rate: Some(3.0), max_delay: Some(secs(120)), ..BudgetOverride::default() };
    assert_eq!(restart.resource_violations, violations);
    assert_eq!(restart.on_open, OnOpen::Exit);

    let memory = &spec.limits.memory;
    assert_eq!((memory.max, memory.high), (Some(256 << 20), Some(192 << 20)));
    assert_eq!((memory.swap_max, memory.oom_scope), (SwapMax::Bytes(64 << 20), OomGroup::Process));
    assert_eq!((memory.policy, memory.high_policy), (ViolationPolicy::Restart, ViolationPolicy::Throttle));
    assert_eq!(memory.throttle_deadline, secs(10));
    let cpu = &spec.limits.cpu;
    assert_eq!((cpu.max_percent, cpu.weight, cpu.burst_usec), (Some(150.5), Some(200), Some(20_000)));
    assert_eq!((cpu.max_time, cpu.sustained), (Some(secs(7200)), secs(5)));
    assert_eq!(format!("{}", cpu.throttled_ratio), "0.9");
    assert_eq!(cpu.policy, ViolationPolicy::GracefulShutdown);
    assert_eq!((spec.limits.pids.max, spec.limits.pids.policy), (Some(64), ViolationPolicy::Alert));
    let io = Io {
        path: "/data".into(),
        rbps: Some(10_000_000),
        wbps: Some(20_000_000),
        riops: Some(100),
        wiops: Some(200),
        policy: ViolationPolicy::ImmediateKill,
    };
    assert_eq!(spec.limits.io, [io]);
    let trigger = |full, stall, window, sustained, policy| {
        let (stall, window) = (Duration::from_millis(stall), Duration::from_millis(window));
        Some(PressureTrigger { full, stall, window, sustained: secs(sustained), policy })
    };
    assert_eq!(spec.limits.pressure.memory, trigger(true, 150, 1000, 30, ViolationPolicy::Alert));
    assert_eq!(spec.limits.pressure.cpu, trigger(false, 1000, 2000, 20, ViolationPolicy::Log));
    assert_eq!(spec.limits.pressure.io, trigger(false, 500, 10_000, 20, ViolationPolicy::None));
    let process =
        Process { max_file_descriptors: Some(1024), max_core_size: Some(0), max_locked_memory: Some(u64::MAX) };
    assert_eq!(spec.limits.process, process);
    let monitoring = &spec.limits.monitoring;
    assert!(!monitoring.enabled && !monitoring.alerting_enabled);
    assert_eq!((monitoring.interval, monitoring.history_retention), (Some(secs(10)), secs(7 * 86_400)));
    assert_eq!(monitoring.violation_handling, ViolationHandling::Internal);

    let ms = Duration::from_millis;
    let exec = ProbeAction::Exec { argv: vec!["/usr/bin/check".to_owned(), "--deep".to_owned()] };
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let get = HttpGet {
        tls: true,
        host: "::1".to_owned(),
        port: 8443,
        path: "/healthz?full=1".to_owned(),
        headers: vec![header("X-Probe", "pinfold"), header("Host", "server.internal")],
    };
    let socket = ProbeAction::TcpSocket { host: "localhost".to_owned(), port: 8080 };
    let probe = |action, [initial_delay, period, timeout]: [Duration; 3], failure_threshold, success_threshold| {
        Some(Probe { action, initial_delay, period, timeout, failure_threshold, success_threshold })
    };
    let health = HealthCheck {
        startup: probe(exec, [secs(2), secs(1), ms(500)], 30, 1),
        liveness: probe(ProbeAction::HttpGet(get), [secs(0), secs(5), secs(2)], 3, 1),
        readiness: probe(socket, [ms(500), secs(10), secs(1)], 1, 2),
    };
    assert_eq!(spec.health.as_deref(), Some(&health));
}

#[test]
fn a_probe_can_be_copied_from_kubernetes_and_what_a_worker_writes_goes_before_the_defaults() {
    let config = good("health-kubernetes");
    let liveness = |id| worker(&config, id).spec.health.as_ref().unwrap().liveness.clone().unwrap();
    let copied = liveness("copied");
    let ProbeAction::HttpGet(get) = &copied.action else { panic!("{copied:?}") };
    assert_eq!((get.tls, get.host.as_str(), get.port, get.path.as_str()), (true, "127.0.0.1", 8080, "/healthz"));
    assert_eq!((copied.initial_delay, copied.period, copied.timeout), (secs(3), secs(4), secs(1)));
    assert_eq!((copied.failure_threshold, copied.success_threshold), (3, 1));
    let inherited = liveness("inherited");
    assert_eq!(inherited.action, ProbeAction::TcpSocket { host: "127.0.0.1".to_owned(), port: 80 });
    assert_eq!((inherited.initial_delay, inherited.period, inherited.timeout), (secs(0), secs(2), secs(3)));
    assert_eq!(inherited.failure_threshold, 5);
    let readiness = worker(&config, "inherited").spec.health.as_ref().unwrap().readiness.clone().unwrap();
    let argv = ["check", "--quick", "a b"].map(str::to_owned).to_vec();
    assert_eq!(readiness.action, ProbeAction::Exec { argv });
}

#[test]
fn a_health_check_without_probes_is_none() {
    let config = load(&[text("f", "workers: [{id: w, unit: {command: [x], health_check: {}}}]")]).unwrap();
    assert_eq!(config.workers[0].spec.health, None);
}

#[test]
fn a_slice_has_the_limits_that_are_written_and_takes_one_worker_at_an_oom() {
    let config = good("slices");
    let names: Vec<_> = config.slices.iter().map(|slice| slice.name.as_str()).collect();
    assert_eq!(names, ["web", "batch", "free", "lifted"], "in the order of the file");
    let limits = |name: &str| &config.slices.iter().find(|slice| slice.name.as_str() == name).unwrap().limits;
    let web = limits("web");
    assert_eq!((web.memory.max, web.memory.high), (Some(2 << 30), Some(3 << 29)));
    assert_eq!(web.memory.swap_max, SwapMax::Bytes(64 << 20));
    assert_eq!((web.cpu.max_percent, web.cpu.weight, web.cpu.burst_usec), (Some(300.0), Some(200), Some(20_000)));
    assert_eq!(web.pids.max, Some(500));
    let io = &web.io[0];
    assert_eq!((io.path.to_str(), io.rbps, io.wbps), (Some("/data"), Some(10_000_000), Some(20_000_000)));
    assert_eq!((io.riops, io.wiops), (Some(100), Some(200)));
    assert_eq!(limits("batch").memory.max, Some(1 << 30), "by the name that a worker's has");
    for slice in &config.slices {
        assert_eq!(slice.limits.memory.oom_scope, OomGroup::Process, "{}", slice.name);
    }
    for name in ["free", "lifted"] {
        assert_eq!((limits(name).memory.max, limits(name).pids.max), (None, None), "{name}");
    }
}

#[test]
fn a_worker_is_in_the_slice_it_names_and_keeps_its_own_limits() {
    let config = good("slices");
    let slice = |id: &str| worker(&config, id).spec.slice.as_ref().map(pinfold::model::SliceName::as_str);
    assert_eq!([slice("front-1"), slice("front-2")], [Some("web"); 2]);
    assert_eq!((slice("job"), slice("alone")), (Some("batch"), None), "the name may come from a variable");
    assert_eq!(worker(&config, "front-2").spec.limits.memory.max, Some(512 << 20));
    let whole = |id: &str| worker(&config, id).spec.oom_takes_all();
    assert_eq!(
        (whole("job"), whole("alone")),
        (true, false),
        "an OOM takes all of a worker where a limit can be reached"
    );
}

#[test]
fn a_worker_can_be_in_a_slice_of_another_file() {
    let workers = text("a.yaml", "workers: [{id: a, slice: web, unit: {command: [a]}}]");
    let slices = text("b.yaml", "slices: {web: {pids: {max: 5}}}");
    let config = load(&[workers, slices]).unwrap();
    assert_eq!(config.workers[0].spec.slice.as_ref(), Some(&config.slices[0].name));
}

#[test]
fn a_slice_in_two_files_is_an_error_that_names_both() {
    let first = text("a.yaml", "slices:\n  web: {pids: {max: 5}}");
    let second = text("b.yaml", "# more\nslices:\n  batch: {}\n  web: {pids: {max: 7}}");
    let problems = problems(&[first, second]);
    assert!(
        problems.starts_with("b.yaml:4:3: slices.web: the slice \"web\" is given twice, first at a.yaml:2; "),
        "{problems}"
    );
}

#[test]
fn a_file_without_content_is_an_empty_configuration() {
    for name in ["empty", "only-comments"] {
        assert_eq!(good(name), Config::default(), "{name}");
    }
}

#[test]
fn a_command_is_a_list_or_words_or_a_script() {
    let config = good("command-forms");
    assert_eq!(worker(&config, "list").spec.argv, ["/bin/sleep", "10"]);
    assert_eq!(worker(&config, "words").spec.argv, ["/bin/echo", "two words", "it's", "more"]);
    assert_eq!(worker(&config, "shell").spec.argv, ["/bin/sh", "-c", "dmesg | tail -n \"$1\"", "sh", "5"]);
    assert_eq!(worker(&config, "block").spec.argv, ["/bin/sh", "-c", "set -e\nexec sleep 10\n"]);
}

#[test]
fn an_environment_is_a_map_or_a_list_of_pairs() {
    let config = good("env-forms");
    assert_eq!(config.env, map(&[("LANG", "C.UTF-8"), ("QUERY", "a=b")]));
    assert_eq!(worker(&config, "w").spec.env, map(&[("EMPTY", ""), ("SPACES", "a b")]));
    assert!(worker(&config, "w").spec.env_files[0].optional);
}

#[test]
fn a_variable_brings_text_and_never_yaml() {
    let config = good("expansion");
    let env = [("HOME_DIR", "/root"), ("FALLBACK", "fall back"), ("DOLLAR", "$HOME costs $5"), ("NOT_YAML", "[a, b]")];
    assert_eq!(config.env, map(&env));
    assert_eq!(config.workers.len(), 2, "a number may come from a variable");
    let spec = &worker(&config, "w-2").spec;
    assert_eq!(spec.argv, ["/bin/echo", "/root/bin"]);
    assert_eq!(spec.env, map(&[("LIST", "[a, b]")]));
    assert_eq!(spec.limits.memory.max, Some(256 << 20));
}

#[test]
fn an_equals_sign_in_a_variable_does_not_move_the_border_of_a_pair() {
    let source = text("f", "env: [\"A=${EVIL}\"]");
    let config = spec::load(&[source], &|_| Some("x=y\nB=c".to_owned())).unwrap();
    assert_eq!(config.env, map(&[("A", "x=y\nB=c")]));
}

#[test]
fn defaults_are_merged_below_each_unit() {
    let config = good("defaults");
    let inherits = &worker(&config, "inherits").spec;
    assert_eq!(inherits.argv, ["/bin/a", "--default"]);
    assert_eq!(inherits.env, map(&[("A", "default"), ("B", "default")]));
    assert_eq!(inherits.restart.success_exit_codes, [0, 1]);
    assert_eq!(inherits.limits.memory.high, Some(128 << 20));

    let overrides = &worker(&config, "overrides").spec;
    assert_eq!(overrides.argv, ["/bin/b"], "a list is replaced as a whole");
    assert_eq!(overrides.env, map(&[("A", "default"), ("B", "own"), ("C", "own")]));
    assert_eq!((overrides.restart.mode, &*overrides.restart.success_exit_codes), (RestartMode::Always, &[2][..]));
    assert_eq!(overrides.limits.memory.high, Some(512 << 20), "a percentage is of the worker's own max_rss");
    assert!(overrides.limits.pressure.memory.as_ref().is_some_and(|trigger| !trigger.full));

    let lifts = &worker(&config, "lifts").spec;
    assert_eq!((lifts.limits.memory.max, lifts.limits.memory.high), (None, None));
}

#[test]
fn units_with_b_alone_are_powers_of_1000_and_all_others_of_1024() {
    let config = good("sizes");
    let max = |id| worker(&config, id).spec.limits.memory.max;
    assert_eq!(max("thousands"), Some(256_000_000));
    assert_eq!([max("k1024"), max("bytes"), max("fraction")], [Some(256 << 20); 3]);
    let limits = &worker(&config, "unlimited").spec.limits;
    assert_eq!((limits.memory.max, limits.pids.max, limits.cpu.max_percent), (None, None, None));
}

#[test]
fn instances_share_one_spec() {
    let config = good("everything");
    assert!(std::sync::Arc::ptr_eq(&config.workers[0].spec, &config.workers[1].spec));
}

#[test]
fn one_instance_is_numbered_too() {
    let config = load(&[text("f", "workers: [{id: w, instances: 1, unit: {command: [x]}}]")]).unwrap();
    assert_eq!(config.workers[0].id.as_str(), "w-1");
}

#[test]
fn several_files_are_one_configuration_and_later_ones_win() {
    let first =
        text("a.yaml", "env: {A: 1, B: 1}\ndefaults: {nice: 1, user: one}\nworkers: [{id: a, unit: {command: [a]}}]");
    let second = text("b.yaml", "env: {B: 2}\ndefaults: {nice: 2}\nworkers: [{id: b, unit: {command: [b]}}]");
    let config = load(&[first, second]).unwrap();
    assert_eq!(config.env, map(&[("A", "1"), ("B", "2")]));
    let kept = |first: &str, second: &str| load(&[text("a.yaml", first), text("b.yaml", second)]).unwrap().store;
    assert_eq!(kept("store: {type: memory}", "env: {A: 1}"), StoreType::Memory);
    assert_eq!(kept("store: {type: memory}", "store: {type: sqlite}"), StoreType::Sqlite);
    assert_eq!(kept("store: {}", "env: {A: 1}"), StoreType::Sqlite);
    for (id, worker) in ["a", "b"].iter().zip(&config.workers) {
        assert_eq!(worker.id.as_str(), *id, "in the order of the files");
        assert_eq!((worker.spec.nice, worker.spec.user.as_deref()), (2, Some("one")), "defaults act on all files");
    }
}

#[test]
fn a_worker_in_two_files_is_an_error_that_names_both() {
    let first = text("a.yaml", "workers:\n  - {id: web, unit: {command: [a]}}");
    let second = text("b.yaml", "# moved\nworkers:\n  - {id: web, unit: {command: [b]}}");
    let problems = problems(&[first, second]);
    assert!(
        problems.starts_with("b.yaml:3:10: workers[0].id: the id \"web\" is given twice, first at a.yaml:2; "),
        "{problems}"
    );
}

#[test]
fn problems_come_from_all_files_in_their_order() {
    let problems = problems(&[text("a.yaml", "env: 5"), text("b.yaml", "env: 6")]);
    let files: Vec<_> = problems.lines().filter_map(|line| line.split_once(".yaml:").map(|(file, _)| file)).collect();
    assert_eq!(files, ["a", "b"]);
}

/// A file of a mebibyte takes whatever it takes; a larger one must take nothing, and one that is nonsense not more.
mod hostile {
    use super::*;

    fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
        (0..count).map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_file_above_1_mib_is_refused_before_it_is_parsed() {
        let mut bytes = b"\xff\xff\xff not YAML: [".to_vec();
        bytes.resize(10 << 20, b'[');
        let refused = load(&[Source { name: "big".into(), bytes }]).unwrap_err();
        let [Problem { line: 0, message, .. }] = refused.0.as_slice() else { panic!("{refused}") };
        assert_eq!(message, "is larger than 1 MiB", "neither the encoding nor the syntax was looked at");
    }

    #[test]
    fn exactly_1_mib_is_read() {
        let mut bytes = b"env: {A: b}\n".to_vec();
        bytes.resize(spec::MAX_FILE, b'#');
        assert!(load(&[Source { name: "full".into(), bytes }]).is_ok());
    }

    #[test]
    fn depth_is_refused_at_its_bound_and_not_at_the_end_of_the_stack() {
        for open in ["[", "{a: ", "- ", "? ", "[{a: "] {
            let refused = load(&[text("deep", &open.repeat(100_000))]).unwrap_err();
            let [problem] = refused.0.as_slice() else { panic!("{refused}") };
            assert!(problem.column < 1000, "{open:?} was read up to column {}", problem.column);
        }
        let stairs = lines(1000, |depth| format!("{}a:", " ".repeat(depth)));
        let refused = load(&[text("stairs", &stairs)]).unwrap_err();
        assert!(refused.0[0].line < 100, "{refused}");
    }

    #[test]
    fn an_alias_bomb_is_refused_at_its_first_anchor_and_nothing_is_repeated() {
        let bomb = lines(40, |n| match n {
            0 => "a0: &a0 [x, x]".to_owned(),
            n => format!("a{n}: &a{n} [*a{}, *a{}]", n - 1, n - 1),
        });
        let refused = load(&[text("bomb", &bomb)]).unwrap_err();
        assert!(refused.0[0].message.contains("anchor"), "{refused}");
    }

    #[test]
    fn variables_cannot_blow_up_a_file() {
        let bomb = format!("env: {{A: \"{}\"}}", "${BIG}".repeat(100_000));
        let refused = spec::load(&[text("bomb", &bomb)], &|_| Some("x".repeat(1 << 17)));
        assert!(refused.unwrap_err().to_string().contains("more than 4 MiB"));
    }

    #[test]
    fn defaults_cannot_blow_up_a_file() {
        let workers = lines(10_000, |n| format!("- {{id: w{n}, unit: {{command: [x]}}}}"));
        let bomb = format!("defaults: {{env: {{A: {}}}}}\nworkers:\n{workers}", "x".repeat(500_000));
        let refused = load(&[text("bomb", &bomb)]).unwrap_err();
        assert!(refused.to_string().contains("more than 64 MiB"), "{refused}");
    }

    #[test]
    fn a_file_full_of_problems_gives_a_hundred_and_one() {
        let many = lines(60_000, |n| format!("unknown{n}: 1"));
        assert_eq!(load(&[text("many", &many)]).unwrap_err().0.len(), 101);
    }
}

mod files {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn write(directory: &Path, name: &str, mode: u32) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, "env: {A: b}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn files_are_read_in_their_order_under_their_paths() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["b.yaml", "a.yaml"].map(|name| write(directory.path(), name, 0o644));
        let sources = spec::read_files(&paths, false).unwrap();
        let names: Vec<_> = sources.iter().map(|source| PathBuf::from(&source.name)).collect();
        assert_eq!(names, paths);
        assert_eq!(sources[0].bytes, b"env: {A: b}");
    }

    #[test]
    fn what_is_no_file_is_refused_without_being_opened() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let link = directory.path().join("link");
        symlink("/dev/zero", &link).unwrap();
        let missing = directory.path().join("missing");
        let paths = [fifo, link, "/dev/zero".into(), directory.path().to_owned(), missing];
        let problems = spec::read_files(&paths, false).unwrap_err();
        let messages: Vec<_> = problems.0.iter().map(|problem| problem.message.as_str()).collect();
        let device = "is not a regular file";
        let missing = "cannot be read: No such file or directory (os error 2)";
        assert_eq!(messages, [device, device, device, "is a directory", missing]);
    }

    #[test]
    fn a_large_file_is_refused_by_its_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sparse");
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let problems = spec::read_files(&[path], false).unwrap_err();
        assert_eq!(problems.0[0].message, "is larger than 1 MiB");
    }

    /// A file that belongs to nobody but root can only be made by root: `scripts/test` runs as it.
    #[test]
    fn what_root_reads_belongs_to_root_and_is_writable_by_nobody_else() {
        if !nix::unistd::geteuid().is_root() {
            // Without root every file is somebody else's: that half of the rule still holds.
            let directory = tempfile::tempdir().unwrap();
            let foreign = write(directory.path(), "foreign", 0o644);
            assert!(spec::read_files(&[foreign], true).unwrap_err().0[0].fix.starts_with("run: chown root "));
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let own = write(directory.path(), "own", 0o600);
        let readable = write(directory.path(), "readable", 0o644);
        let group = write(directory.path(), "group file", 0o664);
        let world = write(directory.path(), "world", 0o646);
        let foreign = write(directory.path(), "foreign", 0o600);
        chown(&foreign, Some(1), None).unwrap();
        let link = directory.path().join("link");
        symlink(&group, &link).unwrap();

        assert!(spec::read_files(&[own, readable], true).is_ok());
        for (path, fix) in [
            (&group, "run: chmod go-w '"),
            (&world, "run: chmod go-w /"),
            (&foreign, "run: chown root /"),
            (&link, "run: chmod go-w "),
        ] {
            let problems = spec::read_files(std::slice::from_ref(path), true).unwrap_err();
            assert!(problems.0[0].fix.starts_with(fix), "{problems}");
            assert!(spec::read_files(std::slice::from_ref(path), false).is_ok(), "only root has to care");
        }
    }
}

#[test]
fn sinks_have_their_defaults_and_keep_their_order() {
    let jsonl = |path: &str, max_size, keep| Sink::Jsonl(JsonlSink { path: path.into(), max_size, keep });
    let endpoint = |tls, host: &str, port, path: &str| Endpoint { tls, host: host.into(), port, path: path.into() };
    let plain = OpenSearchSink {
        endpoint: endpoint(false, "127.0.0.1", 9200, ""),
        index: "pinfold".into(),
        credentials: None,
        ca_file: None,
        timeout: secs(30),
        connect_timeout: secs(5),
    };
    let basic = Credentials::Basic { username: "pinfold".into(), password_file: "/etc/pinfold/password".into() };
    let expected = [
        jsonl("/var/log/pinfold/events.jsonl", 64 << 20, 5),
        jsonl("/var/log/pinfold/all.jsonl", 1 << 20, 0),
        Sink::OpenSearch(plain.clone()),
        Sink::OpenSearch(OpenSearchSink {
            endpoint: endpoint(true, "2001:db8::7", 443, "/search"),
            index: "pinfold-events".into(),
            credentials: Some(basic),
            ca_file: Some("/etc/pinfold/ca.pem".into()),
            timeout: secs(60),
            connect_timeout: Duration::from_millis(500),
        }),
        Sink::OpenSearch(OpenSearchSink {
            endpoint: endpoint(false, "localhost", 9200, ""),
            index: "a".into(),
            credentials: Some(Credentials::ApiKey { file: "/etc/pinfold/key".into() }),
            ..plain
        }),
    ];
    let sinks = good("history").history;
    assert_eq!(sinks, expected);
    let Sink::OpenSearch(server) = &sinks[3] else { panic!("{sinks:?}") };
    assert_eq!(server.endpoint.to_string(), "https://[2001:db8::7]:443/search");
}

#[test]
fn sinks_of_several_files_are_put_one_after_the_other() {
    let one = |name: &str| text(name, &format!("history: [{{type: jsonl, path: /{name}}}]"));
    let sinks = load(&[one("a"), one("b")]).unwrap().history;
    let path = |sink: &Sink| match sink {
        Sink::Jsonl(file) => file.path.clone(),
        Sink::OpenSearch(_) => panic!("{sink:?}"),
    };
    assert_eq!(sinks.iter().map(path).collect::<Vec<_>>(), [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert!(problems(&[one("a"), one("a")]).contains("two sinks write to"));
}
