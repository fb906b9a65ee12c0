//! A configuration after validation: every default filled in, every reference resolved, every number in the unit
//! the kernel or the policy takes. Nothing downstream validates again.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use crate::model::{LogPolicy, SliceName, WorkerId};
pub use crate::policy::restart::Profile;
use crate::policy::restart::RestartPolicy;

pub use super::compare::{Change, Takes, differing};
pub use crate::policy::dispatch::{ViolationHandling, ViolationPolicy};

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// The global environment, below each worker's own.
    pub env: BTreeMap<String, String>,
    /// Shared budgets, in the order of the files. Names are unique.
    pub slices: Vec<Slice>,
    /// Where what outlives the supervisor is kept.
    pub store: StoreType,
    /// Where events go beside the store, in the order of the files.
    pub history: Vec<Sink>,
    /// The workers, instances expanded, in the order of the files. Names are unique.
    pub workers: Vec<Worker>,
    /// How often what every worker does is held against what the kernel says; `None`: where there is a reason only.
    pub reconcile_interval: Option<Duration>,
}

/// Where wishes, restart breakers and runs are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StoreType {
    /// In a file in the state directory.
    #[default]
    Sqlite,
    /// Until the supervisor ends.
    Memory,
}

/// A budget that workers share: a cgroup that their runs are made in.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// Its name.
    pub name: SliceName,
    /// What all of them together may use. Of these only what the kernel enforces is configurable: nothing watches a
    /// slice, and an OOM in it takes a worker and never all of them (`memory.oom_scope` is `process`).
    pub limits: Limits,
}

/// One of `history`: what takes events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// A file of JSON lines.
    Jsonl(JsonlSink),
    /// A server with OpenSearch's bulk API.
    OpenSearch(OpenSearchSink),
}

/// A sink of type `jsonl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonlSink {
    /// Absolute.
    pub path: PathBuf,
    /// How large the file may become, in bytes.
    pub max_size: u64,
    /// How many files put aside are kept.
    pub keep: u32,
}

/// A sink of type `opensearch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSearchSink {
    /// Where the server is.
    pub endpoint: Endpoint,
    /// The index or data stream.
    pub index: String,
    /// Whom it knows us as; `None` where it asks nobody.
    pub credentials: Option<Credentials>,
    /// Certificates (PEM) that the server's is checked against; `None`: the host's.
    pub ca_file: Option<PathBuf>,
    /// How long a request may take.
    pub timeout: Duration,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
}

/// A server's address and what is before the paths of its API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// https.
    pub tls: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Without a slash at its end: empty, or `/search`.
    pub path: String,
}

/// Whom a server knows us as. The secrets themselves stay in their files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// RFC 7617.
    Basic {
        /// Without a colon.
        username: String,
        /// The file of the password.
        password_file: PathBuf,
    },
    /// `Authorization: ApiKey …`.
    ApiKey {
        /// The file of the key, as the server encoded it.
        file: PathBuf,
    },
}

/// One worker that should exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Its name: the id, or `id-N` for an instance.
    pub id: WorkerId,
    /// The id it was declared under: equal to `id` unless it is one of several instances.
    pub declared_as: WorkerId,
    /// Whether it is started.
    pub enabled: bool,
    /// Whether it was registered over the API: no file declares it.
    pub registered: bool,
    /// What to run and how.
    pub spec: Arc<Spec>,
}

/// What to run and how: a worker's `unit`, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The slice that its runs are made in; one of [`Config::slices`].
    pub slice: Option<SliceName>,
    /// Program and arguments; never empty. The program is looked up on the worker's `PATH` where it has no slash.
    pub argv: Vec<String>,
    /// Environment of the worker's own; env files are merged below it when a run starts.
    pub env: BTreeMap<String, String>,
    /// Files of `K=V` lines, read at every start, later ones win.
    pub env_files: Vec<EnvFile>,
    /// chdir(2) target; `/` where none is configured.
    pub working_directory: PathBuf,
    /// User, by name or number.
    pub user: Option<String>,
    /// Group, by name or number; the user's own where none is configured.
    pub group: Option<String>,
    /// umask(2).
    pub umask: u32,
    /// setpriority(2), −20 to 19.
    pub nice: i32,
    /// `/proc/self/oom_score_adj`, −1000 to 1000.
    pub oom_score_adj: i32,
    /// How it is stopped.
    pub stop: Stop,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// What it may use.
    pub limits: Limits,
    /// How much of its output is kept.
    pub logs: LogPolicy,
    /// How its health is told; `None` where no probe is configured.
    pub health: Option<Arc<HealthCheck>>,
}

/// One of `env_file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFile {
    /// Absolute.
    pub path: PathBuf,
    /// Whether it may be missing (written with a leading `-`, as in systemd.exec(5)).
    pub optional: bool,
}

/// `unit.stop`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The signal that asks.
    pub signal: i32,
    /// How long it may take before `cgroup.kill`.
    pub timeout: Duration,
    /// Whom the signal is for.
    pub kill_mode: KillMode,
}

/// `stop.kill_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KillMode {
    /// The stop signal to the main process; what is left at the timeout is killed.
    #[default]
    Mixed,
    /// The stop signal to every process of the cgroup.
    Group,
}

/// `unit.limits`. `None`: not configured, the kernel's file is left alone.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Limits {
    /// `limits.memory`.
    pub memory: Memory,
    /// `limits.cpu`.
    pub cpu: Cpu,
    /// `limits.pids`.
    pub pids: Pids,
    /// `limits.io`.
    pub io: Vec<Io>,
    /// `limits.pressure`: validated here, acts with the violation engine.
    pub pressure: Pressure,
    /// `limits.process`.
    pub process: Process,
    /// `limits.monitoring`.
    pub monitoring: Monitoring,
}

/// `limits.memory`, in bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// `memory.max`. At least 1 MiB: under less an exec fails with misleading errors.
    pub max: Option<u64>,
    /// `memory.high`, resolved to bytes (a percentage is of `max`).
    pub high: Option<u64>,
    /// `memory.swap.max`; 0 unless configured, written only where `max` is set.
    pub swap_max: SwapMax,
    /// `memory.oom.group`.
    pub oom_scope: OomGroup,
    /// What an OOM kill leads to.
    pub policy: ViolationPolicy,
    /// What `memory.high` leads to.
    pub high_policy: ViolationPolicy,
    /// How long `high_policy: throttle` may throttle without progress.
    pub throttle_deadline: Duration,
}

/// `memory.swap_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapMax {
    /// At most so many bytes.
    Bytes(u64),
    /// `max`: as much as the host has.
    Max,
}

/// `memory.oom_scope`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OomGroup {
    /// An OOM kills the whole worker: `memory.oom.group` 1.
    #[default]
    Worker,
    /// An OOM kills one process: `memory.oom.group` 0.
    Process,
}

/// `limits.cpu`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cpu {
    /// `cpu.max`, as a percentage of one CPU.
    pub max_percent: Option<f64>,
    /// `cpu.weight`, 1 to 10000.
    pub weight: Option<u32>,
    /// `cpu.max.burst`, microseconds; at most the quota.
    pub burst_usec: Option<u64>,
    /// Total CPU time a run may use.
    pub max_time: Option<Duration>,
    /// How long throttling lasts before it is a violation.
    pub sustained: Duration,
    /// The share of throttled periods that counts as throttling.
    pub throttled_ratio: f64,
    /// What a violation leads to.
    pub policy: ViolationPolicy,
}

/// `limits.pids`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pids {
    /// `pids.max`.
    pub max: Option<u64>,
    /// What a refused fork leads to.
    pub policy: ViolationPolicy,
}

/// One of `limits.io`. At least one rate is set.
#[derive(Debug, Clone, PartialEq)]
pub struct Io {
    /// A path on the device, resolved to its disk when a run starts.
    pub path: PathBuf,
    /// Bytes a second.
    pub rbps: Option<u64>,
    /// Bytes a second.
    pub wbps: Option<u64>,
    /// Operations a second.
    pub riops: Option<u64>,
    /// Operations a second.
    pub wiops: Option<u64>,
    /// What a violation leads to.
    pub policy: ViolationPolicy,
}

/// `limits.pressure`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pressure {
    /// On `memory.pressure`.
    pub memory: Option<PressureTrigger>,
    /// On `cpu.pressure`.
    pub cpu: Option<PressureTrigger>,
    /// On `io.pressure`.
    pub io: Option<PressureTrigger>,
}

/// A PSI trigger (Linux Documentation/accounting/psi.rst): `stall` within `window`.
#[derive(Debug, Clone, PartialEq)]
pub struct PressureTrigger {
    /// `full` (every task stalls) instead of `some`.
    pub full: bool,
    /// Stall time.
    pub stall: Duration,
    /// Window, 500 ms to 10 s.
    pub window: Duration,
    /// How long it lasts before it is a violation.
    pub sustained: Duration,
    /// What it leads to.
    pub policy: ViolationPolicy,
}

/// `limits.process`: setrlimit(2), soft and hard alike. `None`: the supervisor's own at its start; `u64::MAX` is
/// infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Process {
    /// `RLIMIT_NOFILE`.
    pub max_file_descriptors: Option<u64>,
    /// `RLIMIT_CORE`, bytes.
    pub max_core_size: Option<u64>,
    /// `RLIMIT_MEMLOCK`, bytes.
    pub max_locked_memory: Option<u64>,
}

/// `limits.monitoring`.
#[derive(Debug, Clone, PartialEq)]
pub struct Monitoring {
    /// Whether violations are detected at all; the kernel's limits hold regardless.
    pub enabled: bool,
    /// Period of usage samples; `None` is off.
    pub interval: Option<Duration>,
    /// How long samples and violations are kept.
    pub history_retention: Duration,
    /// Whether `alert` is more than a log line.
    pub alerting_enabled: bool,
    /// Who handles a violation.
    pub violation_handling: ViolationHandling,
}

impl Cpu {
    /// The enforcement period of a `cpu.max` of `percent`: 100 ms, the kernel's default; for shares below 1 %, whose quota would
    /// then be less than the 1 ms that it takes at the least, 1 s, its longest.
    #[must_use]
    pub fn period(percent: f64) -> Duration {
        if percent < 1.0 { Duration::from_secs(1) } else { Duration::from_millis(100) }
    }
}

/// `unit.health_check`. At least one probe is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Whether the program has come up; the other two wait for it.
    pub startup: Option<Probe>,
    /// Whether it still works.
    pub liveness: Option<Probe>,
    /// Whether it can serve.
    pub readiness: Option<Probe>,
}

/// One of the probes of a health check, with Kubernetes' names and meanings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is tried.
    pub action: ProbeAction,
    /// From the program's start to the first try; where there is a startup probe, the others' from its success.
    pub initial_delay: Duration,
    /// From the begin of a try to the next one's. At least 100 ms.
    pub period: Duration,
    /// What a try may take. Above 0.
    pub timeout: Duration,
    /// So many failures in a row are a failure. At least 1.
    pub failure_threshold: u32,
    /// So many successes in a row are a success. At least 1, and 1 for startup and liveness.
    pub success_threshold: u32,
}

/// What a probe tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeAction {
    /// `exec`: a program, which ends with code 0.
    Exec {
        /// Program and arguments, as in [`Spec::argv`].
        argv: Vec<String>,
    },
    /// `http_get`: a request that is answered by a code from 200 to 399.
    HttpGet(HttpGet),
    /// `tcp_socket`: a connection that is accepted.
    TcpSocket {
        /// A name or an address, without brackets.
        host: String,
        /// Its port.
        port: u16,
    },
}

/// `http_get` of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGet {
    /// `https` instead of `http`. Certificates are not checked.
    pub tls: bool,
    /// A name or an address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Path and query; begins with `/`.
    pub path: String,
    /// Names and values, each valid by RFC 9110.
    pub headers: Vec<(String, String)>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            max: None,
            high: None,
            swap_max: SwapMax::Bytes(0),
            oom_scope: OomGroup::default(),
            policy: ViolationPolicy::default(),
            high_policy: ViolationPolicy::default(),
            throttle_deadline: Duration::from_secs(30),
        }
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self {
            max_percent: None,
            weight: None,
            burst_usec: None,
            max_time: None,
            sustained: Duration::from_secs(10),
            throttled_ratio: 0.5,
            policy: ViolationPolicy::default(),
        }
    }
}

impl Default for Monitoring {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: None,
            history_retention: Duration::from_secs(24 * 60 * 60),
            alerting_enabled: true,
            violation_handling: ViolationHandling::default(),
        }
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: nix::libc::SIGTERM, timeout: Duration::from_secs(30), kill_mode: KillMode::default() }
    }
}

impl Spec {
    /// Whether an OOM kill takes every process of a run (`memory.oom.group` 1): where there is a memory limit to run
    /// into, its own or its slice's, and `oom_scope` does not say otherwise.
    #[must_use]
    pub fn oom_takes_all(&self) -> bool {
        let limited = self.limits.memory.max.is_some() || self.slice.is_some();
        limited && self.limits.memory.oom_scope == OomGroup::Worker
    }

    /// Whether a run is not ready before a health check has said so.
    #[must_use]
    pub fn waits_for_readiness(&self) -> bool {
        self.health.as_ref().is_some_and(|check| check.startup.is_some() || check.readiness.is_some())
    }

    /// A spec of `argv` with every default of the interface.
    #[must_use]
    pub fn new(argv: Vec<String>) -> Self {
        Self {
            slice: None,
            argv,
            env: BTreeMap::new(),
            env_files: Vec::new(),
            working_directory: PathBuf::from("/"),
            user: None,
            group: None,
            umask: 0o022,
            nice: 0,
            oom_score_adj: 0,
            stop: Stop::default(),
            restart: RestartPolicy::default(),
            limits: Limits::default(),
            logs: LogPolicy::default(),
            health: None,
        }
    }
}
