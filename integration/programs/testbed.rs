//! The keeper and the logger as they are, with a supervisor that a test scripts.
//!
//! `pinfold-testbed start CGROUP CONTROL METHOD` becomes the keeper. Its supervisor connects to CONTROL, a listening
//! `SOCK_SEQPACKET` socket of the test, and hands its own socket to the keeper over, so that the test speaks with the
//! keeper itself. What is left in the process reports the signals it gets and exits with the code it is told to. With
//! `TESTBED_LOGGER` in the environment the logger runs before the keeper does.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use pinfold::keeper::role::Started;
use pinfold::keeper::setup::{Leaf, RunningLogger, Setup};
use pinfold::keeper::{role, setup, transport};
use pinfold::kernel::launch::plan::{LaunchPlan, Session};
use pinfold::kernel::launch::{self, Method, Progress};
use pinfold::kernel::pidfd;
use pinfold::model::ExitStatus;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let arg = |i: usize| args.get(i).and_then(|a| a.to_str()).unwrap_or_default().to_owned();
    match arg(1).as_str() {
        setup::ROLE => pinfold::keeper::main::main(),
        role::LOGGER => pinfold::logger::main::main(),
        role::SUPERVISOR => supervise(&arg(2)),
        "start" => {
            let leaf = |name: &str| {
                let directory = std::fs::File::open(format!("{}/{name}", arg(2))).ok()?;
                Some(Leaf { name: name.to_owned(), directory: directory.into() })
            };
            let method = if arg(4) == "move" { Method::Move } else { Method::IntoCgroup };
            let logger = std::env::var_os("TESTBED_LOGGER").and_then(|_| {
                let leaf = leaf("logger")?;
                let started =
                    role::Binary::running().ok()?.start(role::LOGGER, &[], Some((&leaf, method)), Session::New);
                let Started { child, socket } = started.ok()?;
                Some(RunningLogger { pid: child.pid, socket })
            });
            let setup = Setup {
                supervisor_args: vec![arg(3).into()],
                method,
                supervisor_leaf: leaf("supervisor"),
                logger_leaf: leaf("logger"),
                logger,
                state: None,
                waiter: None,
                keep: Vec::new(),
            };
            eprintln!("testbed: {}", setup.become_keeper());
            ExitCode::FAILURE
        }
        "foreground" => foreground(),
        _ => ExitCode::from(2),
    }
}

/// Launches `report-self` of the other program as `run` does on a terminal.
fn foreground() -> ExitCode {
    let program = std::env::var("MISBEHAVE").unwrap_or_default();
    let bytes = |text: &str| serde_bytes::ByteBuf::from(text.to_owned());
    let plan = LaunchPlan {
        cgroup_name: String::new(),
        candidates: vec![bytes(&program)],
        argv: vec![bytes(&program), bytes("report-self")],
        env: vec![bytes("ONLY=this")],
        working_directory: bytes("/"),
        ids: None,
        umask: 0o022,
        rlimits: Vec::new(),
        nice: None,
        oom_score_adj: 0,
        session: Session::Foreground,
    };
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let Ok(mut child) = launch::spawn_here(&plan, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]) else {
        return ExitCode::from(96);
    };
    let progress = child.confirm.wait();
    if progress != Progress::Execed {
        eprintln!("testbed: {progress:?}");
    }
    match pidfd::reap_blocking(pidfd::Whom::PidFd(child.pidfd.as_fd())) {
        Ok(ExitStatus::Exited { code: 0 }) => ExitCode::SUCCESS,
        _ => ExitCode::from(95),
    }
}

/// `H`: here I am, with the keeper's socket. `S n`: signal n came. From the test: one byte, the code to exit with.
fn supervise(control: &str) -> ExitCode {
    let done = (|| -> std::io::Result<u8> {
        let keeper = role::begin(c"fake-supervisor")?;
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let signals = SignalFd::new(&mask)?;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(control)?)?;
        transport::send(socket.as_fd(), b"H", &[keeper.as_fd()]).map_err(std::io::Error::other)?;
        drop::<OwnedFd>(keeper);
        loop {
            let mut ready = [PollFd::new(&signals, PollFlags::IN), PollFd::new(&socket, PollFlags::IN)];
            poll(&mut ready, None)?;
            let [signal, told] = ready.map(|fd| !fd.revents().is_empty());
            if signal && let Some(info) = signals.read_signal()? {
                let number = u8::try_from(info.ssi_signo).unwrap_or(255);
                transport::send(socket.as_fd(), &[b'S', number], &[]).map_err(std::io::Error::other)?;
            }
            if told {
                let mut code = [0];
                // The test's end, at whatever moment, ends us and so the keeper.
                return Ok(if rustix::io::read(&socket, &mut code)? == 1 { code[0] } else { 98 });
            }
        }
    })();
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("fake supervisor: {e}");
            ExitCode::from(97)
        }
    }
}
