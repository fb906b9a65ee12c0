//! The keeper and the logger as they are, with a supervisor that a test scripts.
//!
//! `pinfold-testbed start CGROUP CONTROL METHOD` becomes the keeper. Its supervisor connects to CONTROL, a listening
//! `SOCK_SEQPACKET` socket of the test, and hands its own socket to the keeper over, so that the test speaks with the
//! keeper itself. What is left in the process reports the signals it gets and exits with the code it is told to.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use pinfold::keeper::setup::{Leaf, Setup};
use pinfold::keeper::{role, setup, transport};
use pinfold::kernel::launch::Method;
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
            let setup = Setup {
                supervisor_args: vec![arg(3).into()],
                method: if arg(4) == "move" { Method::Move } else { Method::IntoCgroup },
                supervisor_leaf: leaf("supervisor"),
                logger_leaf: leaf("logger"),
                logger: None,
                keep: Vec::new(),
            };
            eprintln!("testbed: {}", setup.become_keeper());
            ExitCode::FAILURE
        }
        _ => ExitCode::from(2),
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
