//! Clients that flood the control socket, and what that is to everybody else.
//!
//! They run as other users of the socket's group. What is measured while they do is compared with the same on a machine that
//! is as busy with something else: the same clients at a door that is nobody's, and takes as long for an answer. So it is our
//! door that is measured, and not that a busy machine is slow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::MetadataExt, net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use pinfold::{
    api::Bounds,
    clock,
    model::{Event, EventKind, Mono, State},
};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::json;
use support::{
    Case,
    door::Door,
    example, misbehaving, patience, pause,
    process::Process,
    public_place,
    run::finish,
    seconds_since,
    up::{Up, at, is},
    wait_until,
};

/// Users, none of whom may have all the places.
const USERS: [u32; 4] = [65_534, 65_533, 65_532, 65_531];

/// Samples of each kind in each situation.
const ROUNDS: usize = 12;

/// How much longer a root's `ps` may take while others flood than on a machine that is as busy with something else. Where they do
/// nothing but connect, it waits behind all of them to be accepted, and there it waits behind nobody.
const PS: f64 = 4.0;
const PS_IN_A_QUEUE: f64 = 10.0;

/// How much longer a worker may take to stop and to come back.
const WORKER: f64 = 2.5;

/// What it may leave behind of memory, as a multiple of what there was: the events of so many stops and starts are kept, too.
const MEMORY: u64 = 8;

/// Those beyond the places who are told that there is none, and those whom the kernel has wait to be accepted.
const STANDING: usize = 32;
const BACKLOG: usize = 128;

/// How long it is measured how fast answers come.
const MEASURE: Duration = Duration::from_secs(1);

/// More than are told apart from what the seats need: a file that is read just then, a timer.
const FEW: usize = 24;

struct Scene {
    up: Up,
    supervisor: Process,
    socket: PathBuf,
    flooder: PathBuf,
    /// The socket's group.
    group: u32,
    /// The runs of the worker that is killed, and of the one that is stopped.
    runs: (u32, u32),
    case: Case,
    _public: tempfile::TempDir,
}

/// What took how long in one situation.
#[derive(Debug, Default, Clone)]
struct Times {
    /// `pinfold ps`, the whole program.
    ps: Vec<Duration>,
    /// One request on a connection of its own.
    ask: Vec<Duration>,
    /// From SIGKILL to the next start.
    restart: Vec<Duration>,
    /// From the worker's hearing of a stop to its end.
    stop: Vec<Duration>,
}

impl Times {
    /// The ratios of the lower quartiles: what else this machine does comes and goes, what the flood does stays.
    fn compared_with(&self, other: &Self) -> [f64; 4] {
        let ratio =
            |ours: &[Duration], theirs: &[Duration]| part(ours, 4).as_secs_f64() / part(theirs, 4).as_secs_f64();
        [
            ratio(&self.ps, &other.ps),
            ratio(&self.ask, &other.ask),
            ratio(&self.restart, &other.restart),
            ratio(&self.stop, &other.stop),
        ]
    }

    fn add(&mut self, other: &Self) {
        self.ps.extend(&other.ps);
        self.ask.extend(&other.ask);
        self.restart.extend(&other.restart);
        self.stop.extend(&other.stop);
    }

    fn print(&self, what: &str) {
        let of =
            |times: &[Duration]| format!("{:>7.2} / {:>7.2}", ms(part(times, 2)), ms(*times.iter().max().unwrap()));
        let all = [&self.ps, &self.ask, &self.restart, &self.stop].map(|times| of(times));
        eprintln!("  {what:<28} {}", all.join("   "));
    }
}

/// The time that one in `n` of them does not reach.
fn part(times: &[Duration], n: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() / n]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Scene {
    fn new() -> Self {
        let case = Case::alone();
        let (public, flooder) = public_place(&example("flooder"));
        let socket = public.path().join("api.sock");
        let at_once = "restart: {policy: always, retry_delay: 0s, max_retries: 0}";
        let workers = misbehaving("mortal", &["sleep"], &[at_once]) + &misbehaving("meek", &["sleep"], &[]);
        let config = case.config(&workers);
        let mut up = Up::spawn(case.pinfold("up").arg(config).arg("--socket").arg(&socket));
        up.state("mortal", State::Running, "ready");
        up.state("meek", State::Running, "ready");
        let group = wait_until("the socket is there", || fs::metadata(&socket).ok()).gid();
        let supervisor = case.role("supervisor");
        Self { up, supervisor, socket, flooder, group, runs: (1, 1), case, _public: public }
    }

    /// One request of root's, on a connection of its own; what it took.
    fn ask(&self) -> Duration {
        let before = clock::monotonic();
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(patience())).unwrap();
        stream.write_all(b"GET /v1/workers/mortal HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        clock::monotonic().since(before)
    }

    fn ps(&self) -> Duration {
        let ran = finish(self.case.pinfold("ps").arg("--socket").arg(&self.socket));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.stdout.contains("mortal") && ran.stdout.contains("meek"), "{ran:?}");
        ran.took
    }

    fn restart(&mut self) -> Duration {
        let main = self.up.started("mortal", self.runs.0);
        let before = clock::monotonic();
        main.signal(Signal::KILL);
        self.runs.0 += 1;
        let run = Some(self.runs.0);
        let again = |e: &Event| is(e, "mortal") && e.run == run && matches!(e.kind, EventKind::Started { .. });
        at(&self.up.wait_for("it is back", again)).since(before)
    }

    fn stop(&mut self) -> Duration {
        let mut door = Door::open(&self.socket);
        assert_eq!(door.post("/v1/workers/meek/stop", &json!({})).status, 200);
        let run = Some(self.runs.1);
        let (_, exited) = self.up.exit_of("meek", self.runs.1);
        let asks = |e: &&Event| e.run == run && matches!(&e.kind, EventKind::Operator { what, .. } if what == "stop");
        let took = at(&exited).since(at(self.up.of("meek").find(asks).unwrap()));
        assert_eq!(door.post("/v1/workers/meek/start", &json!({})).status, 200);
        self.runs.1 += 1;
        self.up.started("meek", self.runs.1);
        took
    }

    fn measure(&mut self, what: &str) -> Times {
        let mut times = Times::default();
        for _ in 0..ROUNDS {
            times.ps.push(self.ps());
            times.ask.extend((0..4).map(|_| self.ask()));
            times.restart.push(self.restart());
            times.stop.push(self.stop());
        }
        times.print(what);
        times
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.supervisor.pid)).unwrap().count()
    }

    /// The processor time that its thread of this name has used, in ticks.
    fn ticks(&self, name: &str) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.supervisor.pid)).unwrap().flatten();
        let named =
            |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name);
        let task = tasks.into_iter().find(named).unwrap_or_else(|| panic!("no thread {name}"));
        let stat = fs::read_to_string(task.path().join("stat")).unwrap();
        // utime and stime, the 14th and 15th field of proc_pid_stat(5), of which the second ends with the last bracket.
        let fields = stat.rsplit_once(") ").unwrap().1.split(' ');
        fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
    }

    /// `each` clients of every user.
    fn flood(&self, what: &str, each: usize, path: &str) -> Flood {
        self.flood_at(&self.socket, what, each, path)
    }

    fn flood_at(&self, socket: &Path, what: &str, each: usize, path: &str) -> Flood {
        let began = clock::monotonic();
        let start = |user: &u32| {
            let mut command = Command::new(&self.flooder);
            command.arg(what).arg(socket).arg(each.to_string()).arg(path).envs(self.case.mark());
            command.uid(*user).gid(self.group).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
            let said = BufReader::new(child.stdout.take().unwrap());
            (child, said)
        };
        let mut clients: Vec<_> = USERS.iter().map(start).collect();
        for (_, said) in &mut clients {
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n", "{what}");
        }
        Flood { clients, began }
    }
}

/// A door that is nobody's.
struct Elsewhere {
    socket: PathBuf,
    child: Child,
}

impl Elsewhere {
    fn start(scene: &Scene, pace: Duration) -> Self {
        let socket = scene.socket.with_file_name("elsewhere.sock");
        let mut command = Command::new(&scene.flooder);
        command.arg("serve").arg(&socket).arg(pace.as_micros().to_string()).envs(scene.case.mark());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { socket, child }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        fs::remove_file(&self.socket).unwrap();
    }
}

/// Everybody who floods.
struct Flood {
    clients: Vec<(Child, BufReader<ChildStdout>)>,
    began: Mono,
}

impl Flood {
    /// Ends it; how often what came of it, and in how many seconds.
    fn end(mut self) -> (BTreeMap<String, u32>, f64) {
        for (child, _) in &mut self.clients {
            drop(child.stdin.take());
        }
        let seconds = seconds_since(self.began);
        let mut told = BTreeMap::new();
        for (mut child, mut said) in std::mem::take(&mut self.clients) {
            let mut text = String::new();
            said.read_to_string(&mut text).unwrap();
            assert!(child.wait().unwrap().success());
            for line in text.lines() {
                let (word, n) = line.split_once(' ').unwrap();
                *told.entry(word.to_owned()).or_default() += n.parse::<u32>().unwrap();
            }
        }
        (told, seconds)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        for (child, _) in &mut self.clients {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

fn more_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// What took too long in situations of one kind, as compared with the same `otherwise`.
fn longer_than(otherwise: &Times, during: &[&(&str, Times, &str)], ps_limit: f64) -> Vec<String> {
    let mut together = Times::default();
    let mut too_long = Vec::new();
    for (name, times, _) in during {
        let [ps, ask, restart, stop] = times.compared_with(otherwise);
        eprintln!("{name:<32} ps {ps:.2} x, one request {ask:.2} x, restart {restart:.2} x, stop {stop:.2} x");
        if ps > ps_limit {
            too_long.push(format!("{name}: ps {:?}, otherwise {:?}", times.ps, otherwise.ps));
        }
        together.add(times);
    }
    // Of one situation there are too few.
    let [_, _, restart, stop] = together.compared_with(otherwise);
    eprintln!("together: restart {restart:.2} x, stop {stop:.2} x");
    if restart > WORKER {
        too_long.push(format!("restart {:?}, otherwise {:?}", together.restart, otherwise.restart));
    }
    if stop > WORKER {
        too_long.push(format!("stop {:?}, otherwise {:?}", together.stop, otherwise.stop));
    }
    too_long
}

/// The words of what came of it.
fn words(told: &BTreeMap<String, u32>) -> BTreeSet<&str> {
    told.keys().map(String::as_str).collect()
}

#[test]
fn a_flood_of_operators_changes_neither_what_root_sees_nor_when_workers_stop_and_come_back() {
    let mut scene = Scene::new();
    more_descriptors();
    let bounds = Bounds::default();
    let theirs = bounds.connections - bounds.reserved;
    eprintln!("median / slowest, in ms        ps (the program)    one request         restart             stop");
    // The first warms up.
    scene.measure("(first)");
    let quiet = scene.measure("idle");
    let (before, memory) = (scene.descriptors(), scene.supervisor.own_bytes());
    let pace = {
        let flood = scene.flood("ask", 50, "/v1/workers/mortal");
        pause(MEASURE);
        let (told, seconds) = flood.end();
        Duration::from_secs_f64(seconds / f64::from(told["200"]))
    };
    // What the same clients do to a machine: those that keep their connections, and those that do not.
    let control = |scene: &mut Scene, what: &str, name: &str| {
        let elsewhere = Elsewhere::start(scene, pace);
        let flood = scene.flood_at(&elsewhere.socket, what, 50, "/");
        let times = scene.measure(name);
        eprintln!("    {:?}", flood.end().0);
        times
    };
    let asking = control(&mut scene, "ask", "200 ask somebody else");
    let leaving = control(&mut scene, "leave", "200 come and go elsewhere");

    let mut all = Vec::new();
    let mut during = |scene: &mut Scene, kind: &'static str, what: &'static str, flood: Flood| {
        let times = scene.measure(what);
        // Of every connection the descriptor, and the one that its end is waited for on.
        let open = scene.descriptors().saturating_sub(before);
        let (told, seconds) = flood.end();
        eprintln!("    {told:?} in {seconds:.1} s, {open} descriptors more");
        assert!(open <= 2 * (theirs + STANDING) + FEW, "{what}: {open} descriptors more");
        all.push((what, times, kind));
        (told, seconds)
    };

    // As fast as they can.
    let used = |scene: &Scene| (scene.ticks("api"), scene.ticks("api-operators"));
    let (api, operators) = used(&scene);
    let flood = scene.flood("ask", 50, "/v1/workers/mortal");
    let (told, seconds) = during(&mut scene, "asking", "200 ask without a pause", flood);
    let (api, operators) = (used(&scene).0 - api, used(&scene).1 - operators);
    eprintln!(
        "    {:.0} requests/s; processor ticks: {api} of root's thread, {operators} of theirs",
        f64::from(told["200"]) / seconds
    );
    assert!(api < operators / 2, "what they ask is not done where root is served: {api} and {operators}");
    for word in words(&told) {
        assert!(word == "200" || word == "503" || !word.starts_with(|c: char| c.is_ascii_digit()), "{told:?}");
    }

    // Heads and bodies that never end.
    let flood = scene.flood("head", 50, "");
    during(&mut scene, "asking", "200 slow heads", flood);
    let flood = scene.flood("body", 50, "");
    during(&mut scene, "asking", "200 slow bodies", flood);

    // Ten thousand, and each of them at once replaced by another.
    let flood = scene.flood("idle", 2_500, "");
    let (told, seconds) = during(&mut scene, "coming and going", "10,000 idle, more all the time", flood);
    eprintln!("    {:.0} connections/s", f64::from(told["more"]) / seconds);
    assert!(f64::from(told["more"]) <= 25_600.0 * seconds + 1000.0, "a pause after each 128: {told:?} in {seconds} s");
    // Whoever has not been accepted yet is not closed either.
    assert!(told["held"] > 0 && told["held"] as usize <= theirs + STANDING + BACKLOG, "{told:?}");

    let flood = scene.flood("bulk", 50, "");
    let (told, _) = during(&mut scene, "asking", "200 bodies of a megabyte", flood);
    let answered = |word: &str| told.get(word).copied().unwrap_or_default();
    assert!(answered("404") + answered("503") > 0 && answered("500") == 0, "{told:?}");

    let flood = scene.flood("huge", 50, "");
    let (told, _) = during(&mut scene, "asking", "200 heads of a megabyte", flood);
    assert!(told["431"] > 0, "{told:?}");
    assert!(!told.contains_key("200"), "{told:?}");

    // As many as find a place for sure, though one that has its answer may ask again before its place is free.
    let flood = scene.flood("half", 20, "/v1/workers/mortal");
    let (told, _) = during(&mut scene, "coming and going", "80 that say no more", flood);
    assert_eq!(words(&told), BTreeSet::from(["200"]), "each of them has its answer: {told:?}");

    let flood = scene.flood("leave", 50, "/v1/workers/mortal?wait_generation=1000000000");
    during(&mut scene, "coming and going", "200 that hang up on a wait", flood);

    let situations = [("asking", "ask", &asking, PS), ("coming and going", "leave", &leaving, PS_IN_A_QUEUE)];
    for (what, clients, otherwise, ps_limit) in situations {
        let during: Vec<_> = all.iter().filter(|(_, _, kind)| *kind == what).collect();
        let mut too_long = longer_than(otherwise, &during, ps_limit);
        if !too_long.is_empty() {
            // Or the machine was idler before than it was since.
            eprintln!("{too_long:#?}");
            let again = control(&mut scene, clients, "200 of them elsewhere again");
            too_long = longer_than(&again, &during, ps_limit);
        }
        assert!(too_long.is_empty(), "{what}: {too_long:#?}");
    }

    // And then it is as if nothing had been.
    wait_until("every descriptor is given back", || (scene.descriptors() <= before).then_some(()));
    let at_once = scene.supervisor.own_bytes();
    eprintln!("memory {} KiB, afterwards {} KiB", memory >> 10, at_once >> 10);
    let after = wait_until("memory is given back", || {
        Some(scene.supervisor.own_bytes()).filter(|after| *after <= memory * MEMORY)
    });
    eprintln!("then {} KiB", after >> 10);
    let flood = scene.flood("ask", 40, "/v1/workers/mortal");
    assert_eq!(words(&flood.end().0), BTreeSet::from(["200"]), "whoever is of the group finds a place");
    let again = scene.measure("idle again");
    eprintln!("idle again: ps {:.2} x", again.compared_with(&quiet)[0]);
    assert!(scene.supervisor.alive());
    scene.up.stop();
}
