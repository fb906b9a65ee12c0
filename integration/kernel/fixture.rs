//! A cgroup of the test's own, removed with everything in it when the test ends, however it ends.

use std::{
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use pinfold::{
    kernel::{
        cgroup::{Dir, kill},
        place::Situation,
    },
    model::{RunId, WorkerId},
};

/// Tells the places of one test process apart.
static NUMBER: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Place {
    pub(crate) situation: Situation,
    pub(crate) dir: Arc<Dir>,
    above: Dir,
}

impl Place {
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests make cgroups: run them as root");
        let situation = Situation::of_this_process().expect("a cgroup2 mount that shows our own cgroup");
        let above = Dir::open(&situation.mount.path).unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("pinfold-test-kernel-{}-{number}", std::process::id());
        let dir = Arc::new(above.create(&name).unwrap());
        Self { situation, dir, above }
    }

    pub(crate) fn run(&self, number: u32) -> (RunId, Arc<Dir>) {
        let run = RunId::new(WorkerId::new("web").unwrap(), number);
        let dir = self.dir.create(&run.to_string()).unwrap();
        (run, Arc::new(dir))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ended = kill::kill(&self.dir).is_ok() && wait_until(|| !self.dir.populated().unwrap_or(false));
        let removed = ended && wait_until(|| kill::remove(&self.above, self.dir.name()).is_ok());
        assert!(removed || std::thread::panicking(), "{} is left", self.dir.path().display());
    }
}

/// Waits for a level, five seconds at most.
pub(crate) fn wait_until(mut level: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(if cfg!(debug_assertions) { 15 } else { 5 });
    while !level() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// The length of a measurement. Never "long enough".
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A child that is killed and reaped when the test forgets to.
pub(crate) struct Program(pub(crate) Child);

impl Program {
    /// `sh -c script` in `dir`: it begins once it is there.
    pub(crate) fn sh(dir: &Dir, script: &str) -> Self {
        let gated = format!("read go; {script}");
        let mut child = Command::new("sh")
            .args(["-c", &gated])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        dir.write("cgroup.procs", &child.id().to_string()).unwrap();
        drop(child.stdin.take());
        Self(child)
    }

    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
}
