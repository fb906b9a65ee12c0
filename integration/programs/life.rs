//! A life that can be proved to be the only one of its worker, and that misbehaves when a signal asks for it.

use std::{
    fs::{File, TryLockError},
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::fd::AsFd,
    path::Path,
    process::{Child, ExitCode},
    thread,
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

use super::{MIB, leak, me, tell};

/// How much SIGUSR1 touches, and how many children SIGUSR2 tries to have: more than what the tests allow.
const MORE_MIB: usize = 24;
const MORE_CHILDREN: usize = 12;
const MOMENT: Duration = Duration::from_millis(300);

/// What the signals ask for.
const ORDERS: [Signal; 5] = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM];

/// Lives until a signal ends it. A second life beside another one tells `second PID RUN` and ends with 99.
pub(super) fn live(lock: &str, file: &str, health: Option<(&str, u16)>) -> io::Result<ExitCode> {
    // Blocked before anything is told: whoever knows of this life can give it orders.
    let orders: SigSet = ORDERS.into_iter().collect();
    orders.thread_block()?;
    let orders = SignalFd::with_flags(&orders, SfdFlags::SFD_CLOEXEC)?;
    let run = std::env::var("PINFOLD_RUN").unwrap_or_else(|_| "0".to_owned());
    let stamp = |what: &str| tell(file, &format!("{what} {} {run}", std::process::id()));
    // The lock is the open file's: a child that is not the program yet holds it as well, and so does not hide it.
    let held = File::create(lock)?;
    match held.try_lock() {
        Ok(()) => stamp("begin")?,
        Err(TryLockError::WouldBlock) => {
            stamp("second")?;
            return Ok(ExitCode::from(99));
        }
        Err(TryLockError::Error(e)) => return Err(e),
    }
    let health = health.map(|(sick, port)| io::Result::Ok((sick, listen(port)?))).transpose()?;
    loop {
        let mut fds = vec![PollFd::new(orders.as_fd(), PollFlags::POLLIN)];
        fds.extend(health.iter().map(|(_, listener)| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        poll(&mut fds, PollTimeout::NONE)?;
        let [ordered, asked] = [0, 1].map(|i| fds.get(i).and_then(PollFd::any).unwrap_or(false));
        if let Some((sick, listener)) = health.as_ref().filter(|_| asked) {
            answer(sick, listener)?;
        }
        let Some(order) = ordered.then(|| orders.read_signal()).transpose()?.flatten() else { continue };
        match Signal::try_from(i32::try_from(order.ssi_signo).unwrap_or_default())? {
            Signal::SIGHUP => {
                stamp("end")?;
                return Ok(ExitCode::from(3));
            }
            Signal::SIGUSR1 => {
                let held: Vec<Vec<u8>> = (0..MORE_MIB).map(|_| vec![0xA5; MIB]).collect();
                thread::sleep(MOMENT);
                drop(held);
            }
            Signal::SIGUSR2 => children_for_a_moment()?,
            Signal::SIGALRM => leak(None)?,
            _ => {
                stamp("end")?;
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

fn children_for_a_moment() -> io::Result<()> {
    let mut children: Vec<Child> = (0..MORE_CHILDREN).map_while(|_| me(&["sleep"]).spawn().ok()).collect();
    thread::sleep(MOMENT);
    for child in &mut children {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

/// Answers for ever.
pub(super) fn serve(sick: &str, port: u16) -> io::Result<()> {
    let listener = listen(port)?;
    loop {
        answer(sick, &listener)?;
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// One connection. A health check sends one short request and waits, so that a fixed text is answer enough.
fn answer(sick: &str, listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    let status = if Path::new(sick).exists() { "503 Service Unavailable" } else { "200 OK" };
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    // Who has hung up in the meantime is no trouble of ours, and a check that only connects sends nothing.
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    match stream.read(&mut [0; 1024]).and_then(|_| stream.write_all(text.as_bytes())) {
        Ok(()) | Err(_) => Ok(()),
    }
}
