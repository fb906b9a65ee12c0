//! What is known, and what whoever looks has chosen. Plain data; [`update`](mod@super::update) changes it.

use std::collections::VecDeque;

use crate::api::wire::{Usage, Worker};
use crate::cli::stats::{Looks, Rates};
use crate::model::{Detail, Readiness, State, StoppedDetail, WorkerId};

/// How many events are kept for the screen: as many as the highest shows.
pub(super) const EVENTS: usize = 100;

/// The terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) width: u16,
    pub(super) height: u16,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) size: Size,
    /// Whether colours are seen, and wanted.
    pub(super) colour: bool,
    /// Every worker, with its rates, in the order of their declaration.
    pub(super) workers: Vec<(Worker, Rates)>,
    pub(super) looks: Looks,
    /// The last events, the newest last.
    pub(super) events: VecDeque<String>,
    pub(super) sort: Sort,
    /// The other way round.
    pub(super) reverse: bool,
    /// What names have to contain, in small letters.
    pub(super) filter: String,
    pub(super) selected: Option<WorkerId>,
    /// How many rows are above the first that is shown.
    pub(super) first: usize,
    pub(super) mode: Mode,
    /// What came of the last order.
    pub(super) said: Option<String>,
    /// Why the supervisor does not answer, while it does not.
    pub(super) lost: Option<String>,
}

/// What keys mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    /// Moving about.
    Browse,
    /// Typing a filter.
    Filter,
    /// Asked whether an order is meant.
    Confirm(Order),
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) verb: Verb,
    pub(super) worker: WorkerId,
}

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Restart,
    Freeze,
    Thaw,
}

impl Verb {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Freeze => "freeze",
            Self::Thaw => "thaw",
        }
    }
}

/// By what rows are sorted: names from a to z, all else the largest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// As they are declared.
    Declared,
    Name,
    Cpu,
    Throttled,
    Memory,
    Stalled,
    Restarts,
}

impl Sort {
    pub(super) const ALL: [Self; 7] =
        [Self::Declared, Self::Name, Self::Cpu, Self::Throttled, Self::Memory, Self::Stalled, Self::Restarts];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Declared => "declaration",
            Self::Name => "name",
            Self::Cpu => "CPU",
            Self::Throttled => "throttling",
            Self::Memory => "memory",
            Self::Stalled => "stalls",
            Self::Restarts => "restarts",
        }
    }
}

impl Model {
    pub(super) fn new(size: Size, colour: bool) -> Self {
        Self {
            size,
            colour,
            workers: Vec::new(),
            looks: Looks::default(),
            events: VecDeque::new(),
            sort: Sort::Declared,
            reverse: false,
            filter: String::new(),
            selected: None,
            first: 0,
            mode: Mode::Browse,
            said: None,
            lost: None,
        }
    }

    /// The rows there are, sorted and filtered.
    pub(super) fn rows(&self) -> Vec<&(Worker, Rates)> {
        let fits = |(worker, _): &&(Worker, Rates)| worker.id.as_str().to_lowercase().contains(&self.filter);
        let mut rows: Vec<_> = self.workers.iter().filter(fits).collect();
        let largest = |a: Option<f64>, b: Option<f64>| b.unwrap_or(-1.0).total_cmp(&a.unwrap_or(-1.0));
        let memory = |(worker, _): &(Worker, Rates)| usage(worker).memory_bytes;
        // A stable order: what is equal stays as it is declared.
        rows.sort_by(|a, b| match self.sort {
            Sort::Declared => std::cmp::Ordering::Equal,
            Sort::Name => a.0.id.cmp(&b.0.id),
            Sort::Cpu => largest(a.1.cpu_percent, b.1.cpu_percent),
            Sort::Throttled => largest(a.1.throttled_percent, b.1.throttled_percent),
            Sort::Memory => memory(b).cmp(&memory(a)),
            Sort::Stalled => largest(stalled(&a.1), stalled(&b.1)),
            Sort::Restarts => b.0.restarts.cmp(&a.0.restarts),
        });
        if self.reverse {
            rows.reverse();
        }
        rows
    }

    /// The worker that is chosen, where it is among the rows.
    pub(super) fn chosen(&self) -> Option<&(Worker, Rates)> {
        let id = self.selected.as_ref()?;
        self.workers.iter().find(|(worker, _)| worker.id == *id)
    }
}

/// What it uses, where it runs.
pub(super) fn usage(worker: &Worker) -> Usage {
    worker.usage.unwrap_or_default()
}

/// The most that tasks have waited for anything.
pub(super) fn stalled(rates: &Rates) -> Option<f64> {
    let all = [rates.memory_stalled_percent, rates.cpu_stalled_percent, rates.io_stalled_percent];
    all.into_iter().flatten().max_by(f64::total_cmp)
}

/// How much of its limit it uses, in percent; of `memory.high` where that is the lower one.
#[expect(clippy::cast_precision_loss, reason = "a share")]
pub(super) fn memory_percent(usage: &Usage) -> Option<f64> {
    let limit =
        [usage.memory_high_bytes, usage.memory_max_bytes].into_iter().flatten().min().filter(|limit| *limit > 0)?;
    Some(usage.memory_bytes? as f64 * 100.0 / limit as f64)
}

/// One word for what it is.
pub(super) const fn word(worker: &Worker) -> &'static str {
    match worker.detail {
        Detail::Running(Readiness::Ready) => State::Running.as_str(),
        Detail::Stopped(StoppedDetail::Stopped) => State::Stopped.as_str(),
        detail => detail.as_str(),
    }
}
