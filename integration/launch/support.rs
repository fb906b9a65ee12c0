//! A cgroup tree of a test's own, and a keeper whose supervisor is the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's helper fails as its test does")]
#![allow(dead_code, reason = "each test file takes the part it needs")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pinfold::clock::monotonic;
use pinfold::keeper::protocol::{FromKeeper, LogFiles, ToKeeper, VERSION};
use pinfold::keeper::transport::{self, Inbox, TransportError};
use pinfold::kernel::launch::plan::{LaunchPlan, Session};
use pinfold::model::{LogPolicy, RunId, Way, WorkerId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_bytes::ByteBuf;

pub(crate) const MISBEHAVE: &str = env!("CARGO_BIN_EXE_pinfold-probe");
pub(crate) const TESTBED: &str = env!("CARGO_BIN_EXE_pinfold-testbed");
const PATIENCE: Duration = Duration::from_secs(20);

/// A cgroup v2 directory of the test's own; everything in it is killed and removed in the end.
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
}

impl Tree {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let v2 = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup v2 mount");
        let mount = v2.split(' ').nth(4).unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = Path::new(mount).join(format!("pinfold-test-launch-{}-{number}", std::process::id()));
        std::fs::create_dir(&root).unwrap();
        Self { root }
    }

    pub(crate) fn make(&self, name: &str) -> OwnedFd {
        std::fs::create_dir(self.root.join(name)).unwrap();
        std::fs::File::open(self.root.join(name)).unwrap().into()
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        std::fs::write(self.root.join(file), text).unwrap();
    }

    pub(crate) fn pids(&self, name: &str) -> Vec<i32> {
        let text = std::fs::read_to_string(self.root.join(name).join("cgroup.procs")).unwrap();
        text.lines().map(|line| line.parse().unwrap()).collect()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        std::fs::write(self.root.join("cgroup.kill"), "1").ok();
        let empty =
            || std::fs::read_to_string(self.root.join("cgroup.events")).is_ok_and(|t| t.contains("populated 0"));
        let deadline = monotonic() + PATIENCE;
        while !empty() && monotonic() < deadline {
            pause(5);
        }
        for entry in std::fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                std::fs::remove_dir(entry.path()).ok();
            }
        }
        std::fs::remove_dir(&self.root).ok();
    }
}

pub(crate) fn pause(ms: i64) {
    poll(&mut [], Some(&Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 })).ok();
}

/// Looks until it is so.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = monotonic() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(monotonic() < deadline, "waited in vain for {what}");
        pause(2);
    }
}

/// Waits until something is there to be read.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>) -> bool {
    let limit = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap(), tv_nsec: 0 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap() == 1
}

pub(crate) fn run(worker: &str, number: u32) -> RunId {
    RunId::new(WorkerId::new(worker).unwrap(), number)
}

pub(crate) fn plan(run: &RunId, argv: &[&str]) -> LaunchPlan {
    LaunchPlan {
        cgroup_name: run.to_string(),
        candidates: vec![ByteBuf::from(argv[0])],
        argv: argv.iter().map(|a| ByteBuf::from(*a)).collect(),
        env: vec![ByteBuf::from("PATH=/usr/bin:/bin"), ByteBuf::from("ONLY=this")],
        working_directory: ByteBuf::from("/"),
        ids: None,
        umask: 0o027,
        rlimits: Vec::new(),
        nice: None,
        oom_score_adj: 0,
        session: Session::New,
    }
}

/// An exec that takes its time: the right file is the last that is tried.
pub(crate) fn slow_plan(run: &RunId) -> LaunchPlan {
    let tries = std::iter::repeat_n(ByteBuf::from("/-"), 500_000);
    LaunchPlan { candidates: tries.chain([ByteBuf::from(MISBEHAVE)]).collect(), ..plan(run, &[MISBEHAVE, "sleep"]) }
}

/// The run that was launched, and its main process.
pub(crate) fn launched(message: FromKeeper) -> (RunId, i32) {
    match message {
        FromKeeper::Launched { run, pid, .. } => (run, pid),
        other => panic!("not launched: {other:?}"),
    }
}

/// A keeper in a tree of its own, and what its supervisors connect to.
pub(crate) struct Bed {
    pub(crate) tree: Tree,
    pub(crate) keeper: Child,
    pub(crate) dir: tempfile::TempDir,
    listener: OwnedFd,
}

impl Bed {
    pub(crate) fn start(method: &str) -> Self {
        Self::start_with(method, |_, _| {})
    }

    /// With a change to the command that becomes the keeper; it is told the directory of the test.
    pub(crate) fn start_with(method: &str, change: impl FnOnce(&mut Command, &Path)) -> Self {
        let tree = Tree::new();
        for leaf in ["supervisor", "logger"] {
            tree.make(leaf);
        }
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("control");
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&control).unwrap()).unwrap();
        rustix::net::listen(&listener, 8).unwrap();
        let stderr = std::fs::File::create(dir.path().join("stderr")).unwrap();
        let mut command = Command::new(TESTBED);
        command.arg("start").args([&tree.root, &control]).arg(method).stdin(Stdio::null()).stderr(stderr);
        change(&mut command, dir.path());
        let keeper = command.spawn().unwrap();
        Self { tree, keeper, dir, listener }
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr")).unwrap()
    }

    pub(crate) fn keeper_pid(&self) -> i32 {
        i32::try_from(self.keeper.id()).unwrap()
    }

    /// The next supervisor, as soon as it is there.
    pub(crate) fn supervisor(&self) -> Fake {
        assert!(wait_readable(self.listener.as_fd()), "no supervisor came: {}", self.said());
        let control = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC).unwrap();
        let pid = rustix::net::sockopt::socket_peercred(&control).unwrap().pid.as_raw_nonzero().get();
        assert!(wait_readable(control.as_fd()));
        let keeper = receive_socket(control.as_fd());
        Fake { control, keeper, pid, inbox: Inbox::default() }
    }

    /// The same, after the greeting. With it what the keeper says of earlier ones.
    pub(crate) fn greeted(&self) -> (Fake, u32, Option<String>) {
        let mut fake = self.supervisor();
        fake.send(&ToKeeper::Hello { version: VERSION }, &[]);
        let (FromKeeper::Hello { version: VERSION, restarts, previous, .. }, _) = fake.next() else {
            panic!("no hello")
        };
        (fake, restarts, previous)
    }

    pub(crate) fn logs(&self, run: &RunId) -> LogFiles {
        let dir = self.dir.path().join("logs").join(run.to_string());
        let file = |stream: &str| dir.join(format!("{}.{stream}", run.number));
        LogFiles {
            stdout: file("stdout"),
            stderr: file("stderr"),
            policy: LogPolicy { max_size: 1 << 30, ..LogPolicy::default() },
        }
    }

    /// Asks for a launch in a fresh cgroup.
    pub(crate) fn launch(&self, fake: &Fake, plan: &LaunchPlan) {
        let cgroup = self.tree.make(&plan.cgroup_name);
        self.launch_in(fake, plan, cgroup.as_fd());
    }

    pub(crate) fn launch_in(&self, fake: &Fake, plan: &LaunchPlan, cgroup: BorrowedFd<'_>) {
        self.launch_by(Way::Usual, fake, plan, cgroup);
    }

    pub(crate) fn launch_by(&self, way: Way, fake: &Fake, plan: &LaunchPlan, cgroup: BorrowedFd<'_>) {
        let run = RunId::from_dir_name(&plan.cgroup_name).unwrap();
        let body = transport::seal_body(plan).unwrap();
        let logs = self.logs(&run);
        fake.send(&ToKeeper::Launch { run, logs, way }, &[cgroup, body.as_fd()]);
    }

    /// Ends the supervisor with a code; the keeper's own.
    pub(crate) fn leave(mut self, fake: Fake, code: u8) -> i32 {
        fake.send(&ToKeeper::TookOver, &[]);
        fake.exit(code);
        drop(fake);
        self.keeper.wait().unwrap().code().unwrap()
    }

    pub(crate) fn logger_pid(&self) -> i32 {
        wait_for("the logger", || self.tree.pids("logger").first().copied())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.keeper.kill().ok();
        self.keeper.wait().ok();
    }
}

fn receive_socket(control: BorrowedFd<'_>) -> OwnedFd {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [rustix::io::IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(control, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    rights.next().expect("the keeper's socket")
}

/// A supervisor: the process is a puppet, its words are the test's.
pub(crate) struct Fake {
    pub(crate) control: OwnedFd,
    pub(crate) keeper: OwnedFd,
    pub(crate) pid: i32,
    inbox: Inbox,
}

impl Fake {
    pub(crate) fn send(&self, message: &ToKeeper, fds: &[BorrowedFd<'_>]) {
        let bytes = transport::encode(message).unwrap();
        while let Err(e) = transport::send(self.keeper.as_fd(), &bytes, fds) {
            assert!(matches!(e, TransportError::WouldBlock), "{e}");
            poll(&mut [PollFd::new(&self.keeper, PollFlags::OUT)], None).unwrap();
        }
    }

    /// The keeper's next word; pings are answered.
    pub(crate) fn next(&mut self) -> (FromKeeper, Vec<OwnedFd>) {
        loop {
            assert!(wait_readable(self.keeper.as_fd()), "the keeper says nothing");
            match self.inbox.recv::<FromKeeper>(self.keeper.as_fd()) {
                Ok(got) => match got.message {
                    FromKeeper::Ping { nonce } => self.send(&ToKeeper::Pong { nonce }, &[]),
                    message => return (message, got.fds),
                },
                Err(TransportError::WouldBlock) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// Waits for the next ping, and leaves it unanswered.
    pub(crate) fn asked(&mut self) -> u64 {
        loop {
            assert!(wait_readable(self.keeper.as_fd()), "the keeper says nothing");
            match self.inbox.recv::<FromKeeper>(self.keeper.as_fd()) {
                Ok(got) => match got.message {
                    FromKeeper::Ping { nonce } => return nonce,
                    other => panic!("{other:?}"),
                },
                Err(TransportError::WouldBlock) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    pub(crate) fn list(&mut self) -> Vec<FromKeeper> {
        self.send(&ToKeeper::List, &[]);
        let mut all = Vec::new();
        loop {
            match self.next().0 {
                FromKeeper::Listed => return all,
                message => all.push(message),
            }
        }
    }

    pub(crate) fn signal_self(&self, signal: i32) {
        let pidfd = pinfold::kernel::pidfd::open(self.pid).unwrap();
        pinfold::kernel::pidfd::signal(pidfd.as_fd(), signal).unwrap();
    }

    /// The next signal that it was sent.
    pub(crate) fn next_signal(&self) -> i32 {
        assert!(wait_readable(self.control.as_fd()), "no signal came");
        let mut word = [0; 2];
        assert_eq!(rustix::io::read(&self.control, &mut word).unwrap(), 2);
        assert_eq!(word[0], b'S');
        word[1].into()
    }

    pub(crate) fn exit(&self, code: u8) {
        rustix::io::write(&self.control, &[code]).unwrap();
    }
}
