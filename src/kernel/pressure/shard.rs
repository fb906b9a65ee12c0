//! One thread that holds some of the triggers, in a descriptor table of its own. It blocks in `epoll_wait(2)` on an epoll of its own: asking a trigger takes
//! its event back, so that nothing can stand between it and whoever waits.
//!
//! ```text
//!           fires                      1, 2, 4, 8, 10 s
//!   armed ─────────▶ told, at rest ─────────────────────▶ armed again
//! ```
//!
//! A trigger that fired rests, for whoever was told looks by himself from then on. One that had stayed silent for as
//! long as the longest rest begins with the shortest again. With nothing at rest and nothing to be looked at there is no
//! timer.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Arc, mpsc::Sender},
    thread,
    time::Duration,
};

use rustix::event::{Timespec, epoll};

use super::{
    Ask, Bell, Instead, LOOK, PER_SHARD, Told, table,
    trigger::{Privilege, Trigger},
};
use crate::{
    clock::monotonic,
    kernel::cgroup::{Dir, DirError, stat},
    model::{Limit, Mono, RunId, Wanted, chain},
};

/// How long a trigger rests that has fired: the first time, doubled each time after …
const FIRST_REST: Duration = Duration::from_secs(1);
/// … up to this.
const LONGEST_REST: Duration = Duration::from_secs(10);
/// So many threads close descriptors at a time, each of which waits for the same event of the kernel.
const CLOSERS: usize = 16;
/// The token of the bell.
const BELL: u64 = 0;
/// A trigger's event, which comes once and is then asked for again.
const FIRED: epoll::EventFlags = epoll::EventFlags::PRI.union(epoll::EventFlags::ONESHOT);

/// What the thread has.
pub(super) struct Shard {
    workers: Dir,
    epoll: OwnedFd,
    bell: Arc<Bell>,
    told: Sender<Told>,
    privilege: Privilege,
    armed: HashMap<u64, Armed>,
    runs: HashMap<RunId, Vec<u64>>,
    /// When a trigger is to be armed again. An entry whose trigger is gone means nothing.
    resting: BinaryHeap<Reverse<(Mono, u64)>>,
    looked_at: Vec<LookedAt>,
    /// When the totals are read next, where any are.
    look: Option<Mono>,
    /// The last token given.
    serial: u64,
}

struct Armed {
    fd: OwnedFd,
    run: RunId,
    limit: Limit,
    since: Mono,
    /// Rests in a row.
    noise: u8,
}

/// A total that is read for want of a trigger.
struct LookedAt {
    run: RunId,
    /// Its directory, below that of all workers.
    below: Box<str>,
    trigger: Trigger,
    last: Option<u64>,
}

/// Makes the descriptors: in a table of this thread's own where the kernel allows it.
pub(super) fn begin(workers: &Dir, bell: Arc<Bell>, told: Sender<Told>) -> io::Result<Shard> {
    let own = table::unshare();
    let workers = workers.reopen().map_err(DirError::into_io)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    // Where it is refused, the process's table is shared: triggers take descriptors from the runs, and a dying supervisor takes longer.
    if own.is_ok() {
        table::close_all_but(&mut [bell.as_fd().as_raw_fd(), workers.as_fd().as_raw_fd(), epoll.as_raw_fd()])?;
    }
    epoll::add(&epoll, &*bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
    Ok(Shard {
        workers,
        epoll,
        bell,
        told,
        privilege: Privilege::put_aside(),
        armed: HashMap::new(),
        runs: HashMap::new(),
        resting: BinaryHeap::new(),
        looked_at: Vec::new(),
        look: None,
        serial: BELL,
    })
}

impl Shard {
    /// Works until the handle is gone.
    pub(super) fn work(mut self) {
        if let Err(e) = self.serve() {
            self.tell(Told::Fault(chain(&e)));
        }
        close(self.armed.drain().map(|(_, armed)| armed.fd).collect());
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(PER_SHARD);
        loop {
            let next = self.resting.peek().map(|Reverse((at, _))| *at).into_iter().chain(self.look).min();
            let patience = next.map(|at| timespec(at.since(monotonic())));
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), patience.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let now = monotonic();
            for event in &events {
                match event.data.u64() {
                    BELL => self.bell.hear()?,
                    token => self.fired(token, event.flags, now),
                }
            }
            let (asks, ended) = self.bell.take();
            self.perform(asks, now);
            if ended {
                return Ok(());
            }
            self.wake(now);
            if self.look.is_some_and(|at| at <= now) {
                self.look_at_totals(now);
            }
        }
    }

    fn fired(&mut self, token: u64, flags: epoll::EventFlags, now: Mono) {
        let Some(armed) = self.armed.get_mut(&token) else { return };
        if flags.contains(epoll::EventFlags::ERR) {
            // Its cgroup is gone, which is told elsewhere.
            drop(self.armed.remove(&token));
            return;
        }
        if now.since(armed.since) >= LONGEST_REST {
            armed.noise = 0;
        }
        let rest = FIRST_REST.saturating_mul(1 << armed.noise.min(4)).min(LONGEST_REST);
        armed.noise = armed.noise.saturating_add(1);
        self.resting.push(Reverse((now + rest, token)));
        let pressed = Told::Pressed(armed.run.clone(), armed.limit);
        self.tell(pressed);
    }

    /// Arms what has rested. What fired meanwhile is forgotten: it fires again, should it go on.
    fn wake(&mut self, now: Mono) {
        while let Some(Reverse((at, token))) = self.resting.peek().copied()
            && at <= now
        {
            self.resting.pop();
            let Some(armed) = self.armed.get_mut(&token) else { continue };
            armed.since = now;
            let again = epoll::modify(&self.epoll, &armed.fd, epoll::EventData::new_u64(token), FIRED);
            let fault = again.err().map(|e| format!("the trigger of {} for {}: {e}", armed.run, armed.limit));
            if let Some(fault) = fault {
                self.tell(Told::Fault(fault));
            }
        }
    }

    fn perform(&mut self, asks: Vec<Ask>, now: Mono) {
        let (mut closing, mut forgotten) = (Vec::new(), Vec::new());
        for ask in asks {
            match ask {
                Ask::Watch { run, below, triggers } => {
                    for trigger in triggers {
                        self.watch(&run, &below, trigger, now);
                    }
                }
                Ask::Forget(run) => {
                    closing.extend(self.forget(&run));
                    forgotten.push(run);
                }
            }
        }
        // All of them at once, and before their directories are removed: the kernel would else close them in the rmdir,
        // under a lock of the whole host.
        close(closing);
        for run in forgotten {
            self.tell(Told::Released(run));
        }
    }

    fn watch(&mut self, run: &RunId, below: &str, trigger: Trigger, now: Mono) {
        let set = self.workers.open_below(below).and_then(|dir| self.privilege.set(&dir, &trigger));
        let why = match set.map_err(|e| (e.is_absent(), e)) {
            Ok(fd) => match self.arm(run, trigger.limit, fd, now) {
                Ok(()) => return,
                Err(e) => e.to_string(),
            },
            // Without the file there is nothing to be looked at either, but for cpu.stat; without the cgroup nothing at all.
            Err((true, _)) if self.workers.open_below(below).is_err_and(|e| e.is_absent()) => return,
            Err((_, e)) => chain(&e),
        };
        let instead = if !trigger.missed {
            Instead::Unmissed
        } else if self.total(below, &trigger).is_none() {
            Instead::Nothing
        } else {
            self.looked_at.push(LookedAt { run: run.clone(), below: below.into(), trigger, last: None });
            // Soon, for the first reading is only what later ones are compared with.
            self.look = self.look.or(Some(now));
            Instead::Looks
        };
        self.tell(Told::Without { run: run.clone(), limit: trigger.limit, why, instead });
    }

    fn arm(&mut self, run: &RunId, limit: Limit, fd: OwnedFd, now: Mono) -> io::Result<()> {
        self.serial += 1;
        epoll::add(&self.epoll, &fd, epoll::EventData::new_u64(self.serial), FIRED)?;
        self.armed.insert(self.serial, Armed { fd, run: run.clone(), limit, since: now, noise: 0 });
        self.runs.entry(run.clone()).or_default().push(self.serial);
        Ok(())
    }

    /// Takes everything of `run` off; what is to be closed.
    fn forget(&mut self, run: &RunId) -> Vec<OwnedFd> {
        self.looked_at.retain(|looked| looked.run != *run);
        if self.looked_at.is_empty() {
            self.look = None;
        }
        let tokens = self.runs.remove(run).unwrap_or_default();
        tokens.into_iter().filter_map(|token| self.armed.remove(&token)).map(|armed| armed.fd).collect()
    }

    fn look_at_totals(&mut self, now: Mono) {
        let mut looked_at = std::mem::take(&mut self.looked_at);
        looked_at.retain_mut(|looked| {
            let Some(total) = self.total(&looked.below, &looked.trigger) else { return false };
            let grown = looked.last.replace(total).map_or(0, |last| total.saturating_sub(last));
            if looked.trigger.is_exceeded_by(grown) {
                self.tell(Told::Pressed(looked.run.clone(), looked.trigger.limit));
            }
            true
        });
        self.looked_at = looked_at;
        self.look = (!self.looked_at.is_empty()).then(|| now + LOOK);
    }

    fn tell(&self, told: Told) {
        // The crier hears until the last of us has ended.
        drop(self.told.send(told));
    }

    /// What the trigger goes by; of throttling the periods, for they are counted without pressure information too.
    fn total(&self, below: &str, trigger: &Trigger) -> Option<u64> {
        let dir = self.workers.open_below(below).ok()?;
        if trigger.limit == Limit::CpuMax {
            return Some(stat::sample(&dir, Wanted { cpu: true, ..Wanted::default() }).cpu?.nr_throttled);
        }
        let pressure = stat::sample(&dir, Wanted { pressure: true, ..Wanted::default() }).pressure;
        let stalled = match trigger.limit.resource() {
            "memory" => pressure.memory,
            "cpu" => pressure.cpu,
            _ => pressure.io,
        }?;
        Some(if trigger.full { stalled.full_usec } else { stalled.some_usec })
    }
}

impl Trigger {
    /// Whether a total that has grown by `grown` from one look to the next is a reason to look closely.
    fn is_exceeded_by(&self, grown: u64) -> bool {
        match self.limit {
            // Throttled now and then is no reason: half of the periods is what an episode asks for by default.
            Limit::CpuMax => grown >= LOOK.as_secs() / 2,
            // A stall can lie within one window, or be spread over one that is longer than a look.
            _ => {
                Duration::from_micros(grown)
                    >= self.stall.mul_f64((LOOK.as_secs_f64() / self.window.as_secs_f64()).min(1.0))
            }
        }
    }
}

/// Closes triggers: all at the same time, because each waits for the same event of the kernel.
fn close(mut fds: Vec<OwnedFd>) {
    let share = fds.len().div_ceil(CLOSERS).max(1);
    thread::scope(|scope| {
        while fds.len() > share {
            let some = fds.split_off(fds.len() - share);
            let closer = thread::Builder::new().name("pressure-close".into()).stack_size(64 << 10);
            // Where there is no thread to be had, they were closed with the closure.
            drop(closer.spawn_scoped(scope, move || drop(some)));
        }
        drop(fds);
    });
}

fn timespec(left: Duration) -> Timespec {
    // Rounded up: waking a moment early would find nothing due and wait again.
    let left = left.saturating_add(Duration::from_micros(1));
    Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
}
