//! `stats`: what running workers use, measured between two looks.

use std::{
    collections::HashMap,
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;

use super::args::{Format, Stats};
use super::client::{Client, encoded};
use super::exit::{Exit, Failure};
use super::render::{self, Reader};
use super::said;
use crate::api::wire::{Usage, Worker, Workers};
use crate::model::{State, WorkerId};

/// Between two looks. A shorter time would measure the looks.
const BETWEEN: Duration = Duration::from_secs(1);

/// What one worker uses, and at what rate since the look before.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Its name.
    pub worker: WorkerId,
    /// The number of its run.
    pub run: u32,
    /// What is measured at this moment, and in all.
    #[serde(flatten)]
    pub usage: Usage,
    /// What is measured between two.
    #[serde(flatten)]
    pub rates: Rates,
}

/// What was used between two looks. Absent where there was one only, or the kernel does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Rates {
    /// CPU time, of one CPU: two that are busy are 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    /// Periods in which `cpu.max` was reached, of those that passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_percent: Option<f64>,
    /// Time in which some task waited for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_stalled_percent: Option<f64>,
    /// Time in which some task waited for a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_stalled_percent: Option<f64>,
    /// Time in which some task waited for a disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_stalled_percent: Option<f64>,
}

impl Rates {
    /// From two looks at one run.
    #[must_use]
    pub fn between(before: &Usage, now: &Usage) -> Self {
        let growth = |of: fn(&Usage) -> Option<u64>| Some(of(now)?.saturating_sub(of(before)?));
        let time = growth(|usage| usage.at_usec);
        let share = |part: Option<u64>, whole: Option<u64>| percent(part?, whole?);
        let stalled = |of: fn(&Usage) -> Option<u64>| share(growth(of), time);
        Self {
            cpu_percent: share(growth(|usage| usage.cpu_usec), time),
            throttled_percent: share(growth(|usage| usage.cpu_throttled_periods), growth(|usage| usage.cpu_periods)),
            memory_stalled_percent: stalled(|usage| Some(usage.pressure?.memory?.some_usec)),
            cpu_stalled_percent: stalled(|usage| Some(usage.pressure?.cpu?.some_usec)),
            io_stalled_percent: stalled(|usage| Some(usage.pressure?.io?.some_usec)),
        }
    }
}

/// To a tenth. `None` of nothing.
#[expect(clippy::cast_precision_loss, reason = "shares of seconds")]
fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 * 1000.0 / whole as f64).round() / 10.0)
}

/// What is remembered from look to look.
#[derive(Debug, Default)]
pub(super) struct Looks {
    before: HashMap<(WorkerId, u32), Usage>,
}

impl Looks {
    /// What each of `workers` has used since the look before.
    pub(super) fn rates(&mut self, workers: &[Worker]) -> Vec<Rates> {
        let before = std::mem::take(&mut self.before);
        let mut rates = |worker: &Worker| {
            let usage = worker.usage?;
            // Another run has other counters.
            let key = (worker.id.clone(), worker.run);
            let rates = before.get(&key).map(|before| Rates::between(before, &usage));
            self.before.insert(key, usage);
            rates
        };
        workers.iter().map(|worker| rates(worker).unwrap_or_default()).collect()
    }

    /// Those that run, with what they have used since the look before.
    fn look(&mut self, mut workers: Vec<Worker>) -> Vec<Line> {
        workers.retain(|worker| worker.state == State::Running);
        let rates = self.rates(&workers);
        let line = |(Worker { id: worker, run, usage, .. }, rates)| Line {
            worker,
            run,
            usage: usage.unwrap_or_default(),
            rates,
        };
        workers.into_iter().zip(rates).map(line).collect()
    }
}

/// Where it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// A terminal of so many lines: each table is in the place of the one before.
    Lines(u16),
    /// A pipe or a file.
    None,
}

/// `pinfold stats`: until its reader has enough. A table that is no terminal's is shown once.
///
/// # Errors
/// [`Failure`].
pub fn stats(
    args: &Stats,
    client: &Client,
    reader: &Reader,
    screen: Screen,
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    let path = format!("/v1/workers?pattern={}&usage=full", encoded(args.pattern.as_deref().unwrap_or_default()));
    let format = args.output.format;
    let once = args.no_stream || (format == Format::Table && screen == Screen::None);
    let mut looks = Looks::default();
    let mut look = || client.get(&path).map(|Workers { workers, .. }| looks.look(workers));
    if once {
        // One look knows no rate.
        look()?;
        wait(BETWEEN)?;
    }
    loop {
        let lines = look()?;
        let text = match (format, screen) {
            (Format::Json, _) => said::lines(&lines)?,
            (Format::Table, Screen::Lines(height)) if !once => frame(&render::stats_table(&lines, reader), height),
            (Format::Table, _) => render::stats_table(&lines, reader),
        };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) if once => return Ok(Exit::Ok),
            Ok(()) => wait(BETWEEN)?,
            // Whoever reads has read enough, as head(1) does.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Ok),
            Err(e) => return Err(Failure::failed("cannot print", e)),
        }
    }
}

/// Until the next look, `time` from now.
pub(super) fn wait(time: Duration) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|e| Failure::failed("cannot wait", e))?;
    // Made inside: a sleep knows its runtime from its birth.
    runtime.block_on(async { tokio::time::sleep(time).await });
    Ok(())
}

/// `table` in the place of the one before: from the upper left corner (CUP), each line up to its end (EL), and nothing
/// below (ED). What does not fit is counted, for a terminal that scrolls shows two tables.
pub(super) fn frame(table: &str, height: u16) -> String {
    let room = usize::from(height.max(4)) - 1;
    let lines: Vec<&str> = table.lines().collect();
    let (shown, more) = match lines.len() {
        all if all <= room => (all, String::new()),
        all => (room - 1, format!("… and {} more: a pattern chooses some\x1b[K\n", all - (room - 1))),
    };
    let shown = [lines[..shown].join("\x1b[K\n"), "\x1b[K\n".to_owned()].concat();
    format!("\x1b[H{shown}{more}\x1b[J")
}

#[cfg(test)]
mod tests {
    use super::super::render::samples::running;
    use super::*;
    use crate::model::{Pressures, Readiness, Stalled};

    fn at(usec: u64) -> Usage {
        Usage { at_usec: Some(usec), ..Usage::default() }
    }

    #[test]
    fn a_rate_is_what_was_used_of_the_time_between() {
        let stalled = |some_usec| Some(Stalled { some_usec, full_usec: 0 });
        let memory = |usec| Some(Pressures { memory: stalled(usec), ..Pressures::default() });
        let before = Usage { cpu_usec: Some(500), cpu_periods: Some(10), cpu_throttled_periods: Some(1), ..at(1_000) };
        let before = Usage { pressure: memory(0), ..before };
        let now = Usage { cpu_usec: Some(2_000_500), cpu_periods: Some(18), cpu_throttled_periods: Some(3), ..before };
        let now = Usage { at_usec: Some(1_001_000), pressure: memory(250_000), ..now };
        let rates = Rates::between(&before, &now);
        assert_eq!(rates.cpu_percent, Some(200.0), "of one CPU");
        assert_eq!((rates.throttled_percent, rates.memory_stalled_percent), (Some(25.0), Some(25.0)));
        assert_eq!((rates.cpu_stalled_percent, rates.io_stalled_percent), (None, None), "what is not told is absent");
        assert_eq!(Rates::between(&now, &now), Rates::default(), "between a moment and itself there is nothing");
    }

    #[test]
    fn a_look_compares_runs_and_not_workers() {
        let mut looks = Looks::default();
        let web = |run, cpu| {
            let usage = Usage { cpu_usec: Some(cpu), ..at(1_000_000 + cpu * 10) };
            vec![Worker { run, usage: Some(usage), ..running("web", Readiness::Ready) }]
        };
        let mut cpu = |run, cpu| looks.look(web(run, cpu))[0].rates.cpu_percent;
        assert_eq!(cpu(1, 100), None, "the first look knows no rate");
        assert_eq!(cpu(1, 200), Some(10.0));
        assert_eq!(cpu(2, 5), None, "another run has other counters");
        assert_eq!(cpu(2, 105), Some(10.0));
    }

    #[test]
    fn only_what_runs_is_looked_at() {
        let stopped = Worker { state: State::Stopped, ..running("off", Readiness::Ready) };
        let lines = Looks::default().look(vec![stopped, running("on", Readiness::Ready)]);
        assert_eq!(lines.iter().map(|line| line.worker.as_str()).collect::<Vec<_>>(), ["on"]);
    }

    #[test]
    fn a_table_is_in_the_place_of_the_one_before_and_never_longer_than_the_screen() {
        assert_eq!(frame("A\nB\n", 24), "\x1b[HA\x1b[K\nB\x1b[K\n\x1b[J");
        let long: Vec<String> = (0..100).map(|i| i.to_string()).collect();
        let shown = frame(&long.join("\n"), 10);
        assert_eq!(shown.matches('\n').count(), 9, "and the line behind the last is the tenth");
        assert!(shown.ends_with("7\x1b[K\n… and 92 more: a pattern chooses some\x1b[K\n\x1b[J"), "{shown}");
    }

    #[test]
    fn a_line_of_json_has_what_is_known() {
        let usage = Usage { memory_bytes: Some(4096), ..at(7) };
        let rates = Rates { cpu_percent: Some(1.5), ..Rates::default() };
        let line = Line { worker: WorkerId::new("a").unwrap(), run: 2, usage, rates };
        assert_eq!(
            said::lines(&[line]).unwrap(),
            "{\"worker\":\"a\",\"run\":2,\"memory_bytes\":4096,\"at_usec\":7,\"cpu_percent\":1.5}\n"
        );
    }
}
