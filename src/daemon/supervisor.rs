//! The role that decides, as the keeper's child: builds kernel and actors, takes over what lives, starts what should,
//! and stops it all in order.
//!
//! It can be killed at any time: the keeper starts another, which finds the configuration in the state directory, the
//! living runs with the keeper and their records on their cgroups.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::api::tenure::Tenure;
use crate::cli::exit::{Exit, Failure};
use crate::clock::Clock;
use crate::health::probe::Tools;
use crate::keeper::client::{self, Events};
use crate::keeper::protocol::FromKeeper;
use crate::kernel::ancestors::Ancestors;
use crate::kernel::auxiliary::{self, Auxiliary};
use crate::kernel::cgroup::{Dir, Namespace};
use crate::kernel::host::{HostKernel, Parts, Scan};
use crate::kernel::launch::{Method, selftest};
use crate::kernel::place::{self, record, settle};
use crate::manager::diff::{Origin, diff};
use crate::manager::handle::{Manager, Member};
use crate::model::{EventKind, RunId, Trigger, chain};
use crate::spec::types;
use crate::worker::actor::Shared;
use crate::worker::handle::WorkerHandle;
use crate::worker::rules;

use super::announce::announce;
use super::applied::{self, InForce, lay_over};
use super::chronicle::Chronicle;
use super::console::Console;
use super::door::{Behind, Door, Next};
use super::ending::{End, Farewell, TIDY, close, finish, go_home, leave, lost_sight, stop};
use super::household::Household;
use super::memory;
use super::orphans;
use super::records::Records;
use super::reexec::{self, Desk};
use super::reload::{self, Reloader};
use super::signals::Signals;
use super::takeover::{Past, Takeover, begin};

pub use super::settings::Settings;

/// How long probes that were called off may keep the next supervisor waiting, which would end them.
const PROBES: Duration = Duration::from_secs(2);

/// The role's main: `socket` leads to the keeper.
///
/// # Errors
/// [`Failure`]. The workers are left as they are.
pub fn main(settings: &Settings, socket: OwnedFd) -> Result<Exit, Failure> {
    let failed = |e: io::Error| Failure::failed("cannot start the supervisor", e);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("supervisor")
        .enable_all()
        .build()
        .map_err(failed)?;
    let ended = runtime.block_on(supervise(settings, socket));
    // What still looks something up for a launch is not waited for.
    runtime.shutdown_background();
    ended
}

async fn supervise(settings: &Settings, socket: OwnedFd) -> Result<Exit, Failure> {
    let failed = |doing: &str| {
        let doing = doing.to_owned();
        move |e: io::Error| Failure::failed(doing, e)
    };
    // Before anything else, so that a signal that comes early is not lost.
    let mut signals = Signals::listen().map_err(failed("cannot listen for signals"))?;
    let clock = Clock::new();
    // Before the first word to the keeper, which from then on takes a long silence for a hang: ten thousand workers are a
    // long text.
    let InForce { from, mut config, overrides, registered, amiss, told: of_registrations, lost } =
        applied::restore(&settings.state_dir, settings.config.as_ref())
            .map_err(|e| Failure::failed("cannot tell the configuration in force", e))?;
    let misfits = lay_over(&mut config, &overrides);
    let opening = memory::open(&settings.state_dir, &config);
    let (keeper, mut news) = client::connect(socket).map_err(|e| Failure::failed("cannot reach the keeper", e))?;
    keeper.list().map_err(|e| Failure::failed("cannot reach the keeper", e))?;
    let mut told = hear(&mut news).await.map_err(|e| Failure::failed("the keeper does not answer", e))?;

    // Held until our end, so that nobody takes our place while we live without a keeper.
    let locks = std::mem::take(&mut told.locks);

    let mut memory = opening.settle(told.previous.is_some())?;
    // Before it can be asked, so that a signal meanwhile is not lost.
    let binary = settings.binary.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let mut desk = Desk::new(&binary, &settings.state_dir, told.reexecs, told.previous.clone())
        .map_err(failed("cannot listen for signals"))?;

    let tree = Tree::open(&settings.root)?;
    let logs = settings.state_dir.join("logs");
    let console = Console::start(settings.output, &logs, &config.workers).map_err(failed("cannot show anything"))?;
    let stream = Records::start(console.events(), &config.history).map_err(failed("cannot number events"))?;
    let records = stream.events();
    let chronicle = Chronicle::new(clock, memory.epoch, records.clone());
    memory.tell(&chronicle);
    let tenure = Tenure::among(&locks, &settings.socket);
    let door = match Door::at(&settings.socket, tenure).await {
        Ok(door) => Some(door),
        // What lives goes on to be supervised, even where nobody can ask about it.
        Err(error) if told.previous.is_some() => {
            tracing::error!(error = %chain(&error), "no command is heard");
            chronicle.supervisor(format!("no command is heard: {}", chain(&error)));
            None
        }
        Err(error) => return Err(Failure::failed("cannot listen for commands", error)),
    };

    let auxiliary = auxiliary::Parts {
        // Tried only where programs will be run: it takes a few clones.
        method: if runs_probes(&config) {
            let tried = selftest::run(tree.aux.path());
            tried.map_err(failed("cannot try how processes get into a cgroup"))?.method
        } else {
            Method::IntoCgroup
        },
        dir: tree.aux,
        limits: tree.limits.clone(),
        global_env: config.env.clone(),
        inherited: std::env::vars_os().collect(),
    };
    let (kernel, pump) = HostKernel::new(Parts {
        workers: tree.workers,
        slices: config.slices.clone(),
        ancestors: tree.ancestors,
        namespace: tree.namespace,
        limits: tree.limits,
        keeper,
        news,
        logs: logs.clone(),
        global_env: config.env.clone(),
        inherited: std::env::vars_os().collect(),
        clock,
    })
    .map_err(|e| Failure::failed(cannot_watch(&e), e))?;
    let Scan { found, removed } = kernel.scan().map_err(|e| Failure::failed("cannot read the tree", e))?;

    let boot_id = record::boot_id().map_err(failed("cannot tell this boot from another"))?;
    let (give_up, mut given_up) = tokio::sync::mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        kernel: Arc::new(kernel.clone()),
        clock,
        records,
        ledger: Arc::new(memory.handle.clone()),
        epoch: memory.epoch,
        give_up,
        cpus: rules::cpus(),
        boot_id: boot_id.as_str().into(),
        seed: fastrand::u64(..),
        latency: Arc::clone(stream.told().tally.latency()),
        seqs: Mutex::default(),
    });
    if let Some(previous) = &told.previous {
        chronicle.supervisor(format!("started again: {previous}"));
    }
    let mut orphans = orphans::hand_over(&kernel, &found, &told.messages, &memory, &boot_id, clock);
    chronicle.orphans(&orphans);
    told.messages.append(&mut orphans.told);
    let mut takeover = Takeover::sort(found, &told.messages, &boot_id);
    for slice in removed {
        chronicle.record(EventKind::Reconciled {
            what: format!("removed the empty slice {slice}, which is not configured"),
        });
    }
    for what in amiss {
        tracing::error!("{what}");
        chronicle.record(EventKind::Reconciled { what });
    }
    for what in of_registrations {
        chronicle.supervisor(what);
    }
    for (worker, problems) in misfits {
        let what = format!("what was set for {worker} does not fit what is configured, and is left out: {problems}");
        chronicle.supervisor(what);
    }
    let probes = probes(auxiliary, &chronicle)?;
    let held = if lost { takeover.hold_undeclared(&config, &memory) } else { HashMap::new() };
    let plan = diff(&config, &takeover.present(&config));
    let past = Past { memory: &mut memory, takeover: &mut takeover, going_down: told.going_down };
    let handles = begin(&config, &logs, &shared, &kernel, past, &chronicle);
    let mut members = members(&config, &handles);
    members.extend(takeover.leftovers(&shared, &kernel, &memory, &chronicle));
    takeover.clear(&kernel, &chronicle);
    pump.replay(told.messages);
    let mut pump = tokio::spawn(pump.run());
    let household = Arc::new(Household {
        shared: Arc::clone(&shared),
        kernel: kernel.clone(),
        probes: Arc::clone(&probes),
        clock,
        logs: logs.clone(),
        attended: Mutex::default(),
        last_runs: Mutex::default(),
        held: Mutex::new(held),
    });
    for member in &members {
        household.attend(&member.worker, &member.spec);
    }
    let manager = Manager::with(household.clone(), members);
    if told.going_down {
        manager.close();
    }
    let reloader = Reloader::new(reload::Parts {
        state: settings.state_dir.clone(),
        from,
        config: config.clone(),
        overrides,
        registered,
        manager: manager.clone(),
        household,
        kernel: kernel.clone(),
        chronicle: chronicle.clone(),
        sinks: stream.sinks(),
    });
    let mut farewell = Farewell::new();
    let behind = Behind {
        manager: manager.clone(),
        kernel: kernel.clone(),
        clock,
        logs: logs.clone(),
        store: memory.handle.clone(),
        told: stream.told(),
        governor: Arc::new(reloader.clone()),
        upgrades: desk.upgrades(),
        shutdowns: farewell.shutdowns(),
    };
    let door = door.map(|door| door.open(behind)).transpose().map_err(failed("cannot listen for commands"))?;

    let started: Vec<_> = config
        .workers
        .iter()
        .zip(&handles)
        // What an earlier supervisor was ended over is not begun anew for the sake of its end. What goes on has its wish on
        // record: one that ends in this very moment is its policy's to decide on.
        .filter(|(worker, _)| worker.enabled && !told.going_down && !takeover.adopted.contains(&worker.id))
        .map(|(_, handle)| handle.start(Trigger::Config))
        .collect();
    kernel.took_over();
    let announcement = tokio::spawn(announce(started, kernel.clone(), manager.clone(), stream.told().ring));
    // From now on manager and reloader have what is true.
    drop((config, handles));
    let hangups = signals.hangup.take().map(|hangup| {
        tokio::spawn(async move {
            reloader.finish_removals().await;
            reloader.bring_in_line(plan).await;
            reloader.on_hangup(hangup).await;
        })
    });

    let end = loop {
        tokio::select! {
            lost = &mut pump => {
                leave(door);
                memory.close().await;
                return Err(lost_sight(lost));
            }
            end = signals.end(settings.on_term) => break end,
            who = farewell.wished() => {
                // Before anything else: a next supervisor starts nothing any more.
                kernel.going_down();
                chronicle.record(EventKind::Operator { who, what: "shutdown".to_owned() });
                break End::Stop;
            }
            // Its sender is in `shared`, which the actors hold.
            Some(worker) = given_up.recv() => break End::GiveUp(worker),
            verified = desk.next() => match verified {
                Ok(verified) => {
                    chronicle.supervisor(format!("making way for version {}, asked by {}", verified.version, verified.who));
                    break End::MakeWay(verified);
                }
                Err(why) => chronicle.supervisor(format!("the binary is not replaced: {why}")),
            },
        }
    };
    // Whoever wishes for another binary now is told that it is too late.
    drop(desk);
    farewell.begins();
    // What has been announced is true no longer.
    announcement.abort();
    match end {
        End::MakeWay(_) => manager.make_way(),
        End::Stop | End::Detach | End::GiveUp(_) => manager.close(),
    }
    manager.stop_reconciler();
    if let Some(hangups) = hangups {
        hangups.abort();
    }
    let members = manager.all();
    let handles: Vec<WorkerHandle> = members.iter().map(|member| member.worker.clone()).collect();
    if let End::MakeWay(successor) = end {
        drop(farewell);
        reexec::leave(&handles).await;
        stream.let_go().await;
        close(door, Next::Another).await;
        // Those of runs that nobody attends any more have been called off.
        drop(tokio::time::timeout(PROBES, probes.idle()).await);
        memory.close().await;
        finish(console, &[], stream).await;
        let (file, version) = successor.into_file();
        return tokio::select! {
            lost = &mut pump => Err(lost_sight(lost)),
            said = kernel.reexec(file, version) => match said {
                Ok(()) => Ok(Exit::Ok),
                Err(error) => Err(Failure::failed("cannot ask the keeper for another binary", error)),
            },
        };
    }
    if matches!(end, End::Detach) {
        chronicle.supervisor("ending; the workers go on".to_owned());
        kernel.notify("STOPPING=1");
        drop(farewell);
        stream.let_go().await;
        close(door, Next::Nobody).await;
        // Nothing ends, or is cleared away, that the store is not told of.
        reexec::leave_at_once(&handles).await;
        memory.close().await;
        finish(console, &[], stream).await;
        return Ok(Exit::Ok);
    }
    kernel.notify("STOPPING=1\nSTATUS=stopping every worker");
    chronicle.supervisor(format!("stopping {} workers", handles.len()));
    let (outcomes, left) = tokio::select! {
        lost = &mut pump => {
            leave(door);
            memory.close().await;
            return Err(lost_sight(lost));
        }
        stopped = stop(members, &mut signals) => stopped,
    };
    farewell.tell(outcomes);
    stream.let_go().await;
    close(door, Next::Nobody).await;
    // The runs are over, and with them their probes: what those had started is on its way out.
    if tokio::time::timeout(TIDY, probes.idle()).await.is_err() {
        tracing::error!("what probes have started could not be ended; the next start tries again");
    }
    memory.close().await;
    finish(console, &handles, stream).await;
    // What was found alive and is nobody's we know was told at the start, and not touched since.
    let left: Vec<RunId> = left.into_iter().filter(|run| !takeover.held.contains(run)).collect();
    if !left.is_empty() {
        let names = left.iter().map(|run| run.worker.as_str()).collect::<Vec<_>>().join(", ");
        let why = "their processes survive SIGKILL (uninterruptible sleep); they are held in their cgroups";
        return Err(Failure::failed(format!("cannot end {names}"), why));
    }
    go_home(settings);
    match end {
        End::GiveUp(worker) => {
            let why = "its restart breaker has opened, and its on_open is exit";
            Err(Failure::failed(format!("{worker} was given up, and every worker with it"), why))
        }
        End::Stop | End::Detach | End::MakeWay(_) => Ok(Exit::Ok),
    }
}

/// What carries probes out. What probes an earlier supervisor left behind is ended.
fn probes(parts: auxiliary::Parts, chronicle: &Chronicle) -> Result<Arc<Tools>, Failure> {
    let auxiliary = Auxiliary::new(parts);
    let left = auxiliary.sweep().map_err(|e| Failure::failed("cannot read the tree", e))?;
    for name in left {
        chronicle.record(EventKind::Reconciled { what: format!("ended the probe {name} of an earlier supervisor") });
    }
    Ok(Arc::new(Tools::new(auxiliary)))
}

/// With the fix where the kernel's word is but "too many open files".
fn cannot_watch(error: &io::Error) -> &'static str {
    if error.raw_os_error() == Some(nix::libc::EMFILE) {
        "cannot watch the kernel: inotify instances (raise fs.inotify.max_user_instances) or descriptors are used up"
    } else {
        "cannot watch the kernel"
    }
}

/// Whether some health check runs a program.
fn runs_probes(config: &types::Config) -> bool {
    let checks = config.workers.iter().filter_map(|worker| worker.spec.health.as_ref());
    let mut probes = checks.flat_map(|c| [&c.startup, &c.liveness, &c.readiness]).flatten();
    probes.any(|probe| matches!(probe.action, types::ProbeAction::Exec { .. }))
}

/// All workers of the configuration as those see them who ask from outside.
fn members(config: &types::Config, handles: &[WorkerHandle]) -> Vec<Member> {
    let member = |(declared, worker): (&types::Worker, &WorkerHandle)| Member {
        enabled: declared.enabled,
        origin: Origin::of(declared),
        ..Member::new(declared.declared_as.clone(), Arc::clone(&declared.spec), worker.clone())
    };
    config.workers.iter().zip(handles).map(member).collect()
}

/// What the keeper knew when we began.
#[derive(Debug, Default)]
struct Told {
    messages: Vec<FromKeeper>,
    previous: Option<String>,
    reexecs: u32,
    going_down: bool,
    /// Of state directory and tree.
    locks: Vec<OwnedFd>,
}

async fn hear(news: &mut Events) -> Result<Told, crate::keeper::transport::TransportError> {
    let mut told = Told::default();
    loop {
        // A pidfd is let go of at once: the keeper signals for us.
        match news.next().await? {
            (FromKeeper::Hello { previous, reexecs, going_down, .. }, locks) => {
                told.previous = previous;
                told.reexecs = reexecs;
                told.going_down = going_down;
                told.locks = locks;
            }
            (FromKeeper::Listed, _) => return Ok(told),
            (message, _) => told.messages.push(message),
        }
    }
}

/// The part of the tree that runs live in.
struct Tree {
    workers: Dir,
    aux: Dir,
    ancestors: Ancestors,
    namespace: Namespace,
    limits: crate::kernel::cgroup::limits::Host,
}

impl Tree {
    fn open(root: &Path) -> Result<Self, Failure> {
        let failed = |e: place::PlaceError| Failure::failed("cannot open the tree", e);
        let situation = place::Situation::of_this_process().map_err(failed)?;
        // Made before: this finds it as it is, and why a controller is missing.
        let tree = settle(&situation, root, false, &[]).map_err(failed)?;
        let ancestors = tree.ancestors.iter().cloned().chain([tree.workers.path().to_owned()]);
        let ancestors = Ancestors::open(&situation.mount.path, &ancestors.collect::<Vec<_>>());
        Ok(Self { limits: tree.host(), aux: tree.aux, workers: tree.workers, ancestors, namespace: tree.xattrs })
    }
}
