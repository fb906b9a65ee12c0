//! The programs that the integration tests supervise: one small binary, `misbehave SUBCOMMAND`, each subcommand one way
//! to trouble a supervisor. It starts no thread and no runtime, so that it starts fast under an emulated processor and
//! every process counts as one in `pids.current`.
//!
//! What a subcommand tells, it appends to a FILE as one line in one write, so that tests need no part of the product to
//! read it. What can be had from `/bin/sh` (exit codes, signals) is not here.
#![expect(clippy::disallowed_methods, reason = "a program that idles on purpose sleeps")]

mod life;

use std::{
    env,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::{
        fs::{FileExt, OpenOptionsExt},
        process::CommandExt,
    },
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{SigSet, Signal},
    unistd,
};

const USAGE: &str = "usage: misbehave SUBCOMMAND
  limits [FILE]            read the own cgroup's files at entry, tell them, exit 0
  sleep [FILE]             tell the pid, then idle
  exit CODE [FILE]         tell the pid, exit
  signal N                 end by signal N
  later MS SUBCOMMAND…     go on as SUBCOMMAND after a while
  after FIFO SUBCOMMAND…   go on as SUBCOMMAND once somebody opens FIFO for writing
  once FILE SUBCOMMAND…    go on as SUBCOMMAND in the first life, idle in any other (FILE says which it is)
  leak [MIB_PER_SECOND]    touch memory for ever, as fast as possible without a rate
  leak-child FILE [SUBCOMMAND…]
                           let a child leak; tell how it died; go on as SUBCOMMAND, or idle
  hog MIB PACE_MS FILE     touch MIB of memory, one each PACE_MS, tell `mib N NS` (the time) before each; hold it; give
                           it back on SIGUSR1 and tell `free`; idle
  read FILE TOLD           read FILE from its beginning to its end, tell `read BYTES`, and again, for ever
  fork-bomb                every process forks for ever
  forks N [FILE]           start N children that idle, tell `forks N` of how many it got, idle
  burn                     spin
  ignore-term FILE         block SIGTERM, tell the pid, idle
  on-term MS CODE [FILE]   tell `ready`, wait for SIGTERM, tell `asked`, exit with CODE MS later
  double-fork FILE         leave a session leader's orphan behind, tell both pids, idle
  leave-behind MS FILE     leave a child that needs MS after SIGTERM (0: never ends), tell its pid, exit 0
  hold-lock LOCK FILE      tell `begin PID`, or `second PID` and exit 99 where another life holds LOCK; idle
  write-disk DIR           write past the page cache for ever
  print N                  N numbered lines on stdout, exit 0
  flood                    lines on stdout for ever
  tick FILE                a numbered line on stdout and in FILE every 20 ms, for ever
  count MS FILE            a numbered, long line on stdout every MS, for ever, whoever reads it; the number of the last one
                           that could be written is in FILE.RUN
  coded MS FILE            some time within MS tell `RUN CODE NS` (the time) and exit with CODE, another one in each life
  serve SICK PORT          answer HTTP on the loopback's PORT: 200, or 503 while the file SICK is there
  life LOCK FILE [SICK PORT]
                           the same lock and telling as hold-lock, with the run's number; serve, where a PORT is given;
                           on SIGTERM tell `end PID RUN` and exit 0, on SIGHUP the same and exit 3, on SIGUSR1 use
                           memory for a moment, on SIGUSR2 have children for a moment, on SIGALRM leak";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("misbehave {}: {e}", args.join(" "));
            ExitCode::from(98)
        }
    }
}

fn run(args: &[&str]) -> io::Result<ExitCode> {
    match *args {
        ["limits"] => print_line(&limits()?),
        ["limits", file] => tell(file, &limits()?),
        ["sleep"] => idle(),
        ["sleep", file] => {
            tell(file, &own_pid())?;
            idle()
        }
        ["exit", code] => return Ok(ExitCode::from(number::<u8>(code)?)),
        ["exit", code, file] => {
            tell(file, &own_pid())?;
            return Ok(ExitCode::from(number::<u8>(code)?));
        }
        ["leak"] => leak(None),
        ["leak", rate] => leak(Some(number(rate)?)),
        ["leak-child", file, ref then @ ..] => return leak_child(file, then),
        ["signal", number] => return end_by(number),
        ["later", ms, ref then @ ..] => {
            thread::sleep(Duration::from_millis(number(ms)?));
            return run(then);
        }
        ["after", fifo, ref then @ ..] => {
            // Nobody has to write: an open waits until the other end is opened as well, fifo(7).
            drop(File::open(fifo)?);
            return run(then);
        }
        ["once", file, ref then @ ..] => {
            return match File::create_new(file) {
                Ok(_) => run(then),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => run(&["sleep"]),
                Err(e) => Err(e),
            };
        }
        ["hog", mib, pace, file] => hog(number(mib)?, Duration::from_millis(number(pace)?), file),
        ["read", file, told] => read_for_ever(file, told),
        ["fork-bomb"] => fork_bomb(),
        ["forks", n] => forks(number(n)?, None),
        ["forks", n, file] => forks(number(n)?, Some(file)),
        ["burn"] => loop {
            std::hint::spin_loop();
        },
        ["ignore-term", file] => {
            block_term()?;
            tell(file, &own_pid())?;
            idle()
        }
        ["on-term", ms, code] => return on_term(ms, code, None),
        ["on-term", ms, code, file] => return on_term(ms, code, Some(file)),
        ["double-fork", file] => double_fork(file),
        ["orphan", file] => {
            unistd::setsid()?;
            let orphan = me(&["sleep"]).spawn()?;
            tell(file, &format!("orphan {}", orphan.id()))
        }
        ["leave-behind", ms, file] => leave_behind(ms, file),
        ["left-behind", ms, file] => left_behind(number(ms)?, file),
        ["hold-lock", lock, file] => return hold_lock(lock, file),
        ["write-disk", dir] => write_disk(dir),
        ["print", n] => {
            for i in 1..=number::<u64>(n)? {
                print_line(&format!("line {i}"))?;
            }
            Ok(())
        }
        ["flood"] => loop {
            print_line("all work and no play makes a worker a dull process")?;
        },
        ["tick", file] => tick(file),
        ["count", ms, file] => count(Duration::from_millis(number(ms)?), file),
        ["coded", ms, file] => return coded(number(ms)?, file),
        ["serve", sick, port] => life::serve(sick, number(port)?),
        ["life", lock, file] => return life::live(lock, file, None),
        ["life", lock, file, sick, port] => return life::live(lock, file, Some((sick, number(port)?))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, USAGE)),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn number<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> io::Result<T> {
    text.parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

/// One line in one write: lines of several processes never mix.
fn tell(file: &str, line: &str) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(file)?.write_all(format!("{line}\n").as_bytes())
}

fn print_line(line: &str) -> io::Result<()> {
    io::stdout().write_all(format!("{line}\n").as_bytes())
}

fn own_pid() -> String {
    format!("pid {}", std::process::id())
}

fn idle() -> io::Result<()> {
    loop {
        thread::park();
    }
}

/// This very program again, away from our standard streams.
fn me(args: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

const LIMITS: [&str; 9] = [
    "memory.max",
    "memory.high",
    "memory.swap.max",
    "memory.oom.group",
    "cpu.max",
    "cpu.max.burst",
    "cpu.weight",
    "pids.max",
    "io.max",
];

/// `key=value` of what holds for us right now, tab-separated. A file that is not there is `-`.
fn limits() -> io::Result<String> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let cgroup = own.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("?").to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = mounts
        .lines()
        .find(|l| l.contains(" - cgroup2 "))
        .and_then(|l| l.split(' ').nth(4))
        .ok_or_else(|| io::Error::other("no cgroup2 mount"))?;
    let dir = Path::new(mount).join(cgroup.trim_start_matches('/'));
    let mut fields = vec![format!("pid={}", std::process::id()), format!("cgroup={cgroup}")];
    for key in LIMITS {
        let value = fs::read_to_string(dir.join(key)).map_or_else(|_| "-".to_owned(), |v| v.trim().replace('\n', ";"));
        fields.push(format!("{key}={value}"));
    }
    Ok(fields.join("\t"))
}

const MIB: usize = 1 << 20;

fn leak(mib_per_second: Option<u32>) -> io::Result<()> {
    // Without a rate in large pieces: the kernel can give huge pages, and a whole machine is full in seconds.
    let piece = if mib_per_second.is_some() { MIB } else { 32 * MIB };
    loop {
        // A non-zero fill: the kernel has to give every page.
        std::mem::forget(vec![0xA5_u8; piece]);
        if let Some(rate) = mib_per_second {
            thread::sleep(Duration::from_secs(1) / rate.max(1));
        }
    }
}

fn leak_child(file: &str, then: &[&str]) -> io::Result<ExitCode> {
    let status = me(&["leak"]).spawn()?.wait()?;
    tell(file, &format!("child {status}"))?;
    run(if then.is_empty() { &["sleep"] } else { then })
}

/// By a shell in our place: its `kill` knows every number, the real-time signals among them.
fn end_by(signal: &str) -> io::Result<ExitCode> {
    Err(Command::new("/bin/sh").args(["-c", "kill -\"$1\" $$", "sh", signal]).exec())
}

fn hog(mib: u32, pace: Duration, file: &str) -> io::Result<()> {
    // Blocked before it holds anything, so that no order comes too early.
    let give_back = SigSet::from(Signal::SIGUSR1);
    give_back.thread_block()?;
    let mut held = Vec::new();
    for n in 1..=mib {
        tell(file, &format!("mib {n} {}", monotonic_ns()))?;
        // A non-zero fill: the kernel has to give every page.
        held.push(vec![0xA5_u8; MIB]);
        thread::sleep(pace);
    }
    tell(file, "held")?;
    give_back.wait()?;
    drop(held);
    tell(file, "free")?;
    idle()
}

/// `CLOCK_MONOTONIC`, which every process of the machine shares.
fn monotonic_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn read_for_ever(file: &str, told: &str) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        let (mut file, mut bytes) = (File::open(file)?, 0);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => bytes += n,
            }
        }
        tell(told, &format!("read {bytes}"))?;
    }
}

fn forks(n: u32, file: Option<&str>) -> io::Result<()> {
    let got = (0..n).map_while(|_| me(&["sleep"]).spawn().ok()).count();
    file.map_or(Ok(()), |file| tell(file, &format!("forks {got}")))?;
    idle()
}

fn on_term(ms: &str, code: &str, file: Option<&str>) -> io::Result<ExitCode> {
    block_term()?;
    let say = |line| file.map_or(Ok(()), |file| tell(file, line));
    say("ready")?;
    SigSet::from(Signal::SIGTERM).wait()?;
    say("asked")?;
    thread::sleep(Duration::from_millis(number(ms)?));
    Ok(ExitCode::from(number::<u8>(code)?))
}

fn fork_bomb() -> io::Result<()> {
    loop {
        if me(&["fork-bomb"]).spawn().is_err() {
            // At pids.max: keep trying, without starving the one who watches.
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn block_term() -> io::Result<()> {
    SigSet::from(Signal::SIGTERM).thread_block().map_err(Into::into)
}

/// fork, setsid, fork, exit: the orphan belongs to no session, process group or parent of ours any more.
fn double_fork(file: &str) -> io::Result<()> {
    me(&["orphan", file]).spawn()?.wait()?;
    tell(file, &own_pid())?;
    idle()
}

fn leave_behind(ms: &str, file: &str) -> io::Result<()> {
    let mut child = me(&["left-behind", ms, file]).stdout(Stdio::piped()).spawn()?;
    // EOF or a byte: it is ready to be asked.
    if let Some(ready) = &mut child.stdout {
        ready.read_exact(&mut [0])?;
    }
    Ok(())
}

fn left_behind(ms: u64, file: &str) -> io::Result<()> {
    block_term()?;
    tell(file, &format!("left {}", std::process::id()))?;
    print_line("")?;
    SigSet::from(Signal::SIGTERM).wait()?;
    tell(file, "asked")?;
    if ms == 0 {
        return idle();
    }
    thread::sleep(Duration::from_millis(ms));
    tell(file, "finished")
}

fn hold_lock(lock: &str, file: &str) -> io::Result<ExitCode> {
    let held = File::create(lock)?;
    match held.try_lock() {
        Ok(()) => {
            tell(file, &format!("begin {}", std::process::id()))?;
            idle()?;
        }
        Err(TryLockError::WouldBlock) => tell(file, &format!("second {}", std::process::id()))?,
        Err(TryLockError::Error(e)) => return Err(e),
    }
    Ok(ExitCode::from(99))
}

const BLOCK: usize = 16 << 10;

/// `O_DIRECT` wants memory, offset and length aligned to the disk's block.
#[repr(align(4096))]
struct Block([u8; BLOCK]);

fn write_disk(dir: &str) -> io::Result<()> {
    let path = Path::new(dir).join("written");
    let direct = |path: &Path| {
        OpenOptions::new().write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT).open(path)
    };
    let block = Box::new(Block([0x5A; BLOCK]));
    loop {
        let mut file = direct(&path)?;
        for _ in 0..256 {
            file.write_all(&block.0)?;
        }
    }
}

fn tick(file: &str) -> io::Result<()> {
    for n in 1_u64.. {
        print_line(&format!("tick {n}"))?;
        tell(file, &format!("tick {n}"))?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The number of this life, as the supervisor gave it.
fn own_run() -> String {
    env::var("PINFOLD_RUN").unwrap_or_else(|_| "0".to_owned())
}

fn count(pace: Duration, file: &str) -> io::Result<()> {
    let last = File::create(format!("{file}.{}", own_run()))?;
    for n in 1_u64.. {
        let padding = "x".repeat(200);
        match print_line(&format!("{n} {padding}")) {
            // Of one width: it is written over the one before.
            Ok(()) => last.write_all_at(format!("{n:020}").as_bytes(), 0)?,
            // Nobody will ever read the rest. What has been counted by then is what could be written.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return idle(),
            Err(e) => return Err(e),
        }
        thread::sleep(pace);
    }
    Ok(())
}

fn coded(within_ms: u64, file: &str) -> io::Result<ExitCode> {
    let pid = u64::from(std::process::id());
    // Neither 0 nor one of those that the harness uses itself.
    let code = 1 + u8::try_from(pid % 90).unwrap_or_default();
    thread::sleep(Duration::from_millis(pid.wrapping_mul(7919) % within_ms.max(1)));
    tell(file, &format!("{} {code} {}", own_run(), monotonic_ns()))?;
    Ok(ExitCode::from(code))
}
