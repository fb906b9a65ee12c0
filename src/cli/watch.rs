//! `ps --watch`: workers as they change.
//!
//! The supervisor is asked for what is newer than what is shown, and answers when there is something: nothing is polled for. On a
//! terminal the table stands in the place of the one before, and what is used and how long things last is looked at once
//! a second. For whoever else reads, each worker is a row (`-o json`: a line) at first, and once more at every change.

use std::{
    collections::HashMap,
    io::{self, Write},
    time::Duration,
};

use super::args::{Format, Ps};
use super::client::{Client, encoded};
use super::exit::{Exit, Failure};
use super::render::{self, Listed, Reader};
use super::said;
use super::stats::{Screen, frame, wait};
use crate::api::wire::{Glimpse, Worker, Workers};
use crate::model::{Detail, State, WorkerId};

/// Between two looks at what is used.
const LOOK: &str = "1s";

/// How long news is waited for in one request; then it is asked for anew.
const NEWS: &str = "20s";

/// Between two answers: whoever reads sees no more, and a storm of changes costs no more.
const BREATH: Duration = Duration::from_millis(100);

/// A worker's generation, run and state.
type Mark = (u64, u32, State, Detail);

/// What was told so far.
#[derive(Debug, Default)]
struct Told {
    /// By what a worker has changed. Another supervisor counts anew, so the number alone does not say it.
    marks: HashMap<WorkerId, Mark>,
}

impl Told {
    /// Those of `workers` that have changed since. One that has come to rest is told of once more where it was told of before,
    /// or `all` are.
    fn news(&mut self, workers: Vec<Worker>, all: bool) -> Vec<Worker> {
        let before = std::mem::take(&mut self.marks);
        let mut changed = Vec::new();
        for worker in workers {
            let known = before.get(&worker.id).copied();
            if known.is_none() && !all && !worker.is_of_interest() {
                continue;
            }
            let mark = (worker.generation, worker.run, worker.state, worker.detail);
            self.marks.insert(worker.id.clone(), mark);
            if known != Some(mark) {
                changed.push(worker);
            }
        }
        changed
    }
}

/// `pinfold ps --watch`: until its reader has enough.
///
/// # Errors
/// [`Failure`].
pub fn ps(args: &Ps, client: &Client, reader: &Reader, screen: Screen, out: &mut impl Write) -> Result<Exit, Failure> {
    let format = args.output.format;
    let height = match screen {
        Screen::Lines(height) if format == Format::Table => Some(height),
        Screen::Lines(_) | Screen::None => None,
    };
    let mut told = Told::default();
    let mut shown = None;
    loop {
        let Workers { generation, workers } = client.get(&path(args, shown, height.is_some()))?;
        let first = shown.replace(generation).is_none();
        let text = match height {
            Some(height) => {
                let of_interest = |worker: &&Worker| args.all || worker.is_of_interest();
                let workers: Vec<Glimpse> = workers.iter().filter(of_interest).map(Glimpse::from).collect();
                frame(&render::worker_table(&workers, reader), height)
            }
            None => rows(&told.news(workers, args.all), format, first, reader)?,
        };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => wait(BREATH)?,
            // Whoever reads has read enough, as head(1) does.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Ok),
            Err(e) => return Err(Failure::failed("cannot print", e)),
        }
    }
}

/// What is asked for behind the generation `shown`; at first, what there is.
fn path(args: &Ps, shown: Option<u64>, looks: bool) -> String {
    let pattern = encoded(args.pattern.as_deref().unwrap_or_default());
    let wait = shown.map_or_else(String::new, |generation| {
        format!("&wait_generation={generation}&timeout={}", if looks { LOOK } else { NEWS })
    });
    format!("/v1/workers?pattern={pattern}&usage=true{wait}")
}

fn rows(workers: &[Worker], format: Format, first: bool, reader: &Reader) -> Result<String, Failure> {
    match format {
        Format::Table => {
            let workers: Vec<Glimpse> = workers.iter().map(Glimpse::from).collect();
            let table = render::worker_table(&workers, reader);
            let header = table.find('\n').map_or(0, |end| end + 1);
            Ok(if first { table } else { table[header..].to_owned() })
        }
        Format::Json => said::lines(workers),
    }
}

#[cfg(test)]
mod tests {
    use super::super::render::samples::{reader, running};
    use super::*;
    use crate::model::{Readiness, StoppedDetail};

    fn at(name: &str, generation: u64) -> Worker {
        Worker { generation, ..running(name, Readiness::Ready) }
    }

    fn resting(name: &str, generation: u64) -> Worker {
        Worker { state: State::Stopped, detail: Detail::Stopped(StoppedDetail::Stopped), ..at(name, generation) }
    }

    fn names(workers: &[Worker]) -> Vec<&str> {
        workers.iter().map(|worker| worker.id.as_str()).collect()
    }

    #[test]
    fn who_has_changed_is_told_once_for_each_change() {
        let mut told = Told::default();
        assert_eq!(names(&told.news(vec![at("a", 1), at("b", 1)], false)), ["a", "b"]);
        assert_eq!(names(&told.news(vec![at("a", 1), at("b", 2)], false)), ["b"]);
        assert_eq!(names(&told.news(vec![at("a", 1), at("b", 2)], false)), [""; 0]);
        assert_eq!(names(&told.news(vec![at("a", 1), at("b", 2), at("c", 1)], false)), ["c"]);
        let anew = Worker { run: 7, ..at("a", 1) };
        assert_eq!(
            names(&told.news(vec![anew, at("b", 2), at("c", 1)], false)),
            ["a"],
            "another supervisor counts anew"
        );
    }

    #[test]
    fn that_somebody_comes_to_rest_is_news_and_who_rests_already_is_told_with_all() {
        let mut told = Told::default();
        assert_eq!(names(&told.news(vec![at("a", 1), resting("b", 1)], false)), ["a"]);
        assert_eq!(names(&told.news(vec![resting("a", 2), resting("b", 1)], false)), ["a"]);
        assert_eq!(names(&told.news(vec![resting("a", 2), at("b", 2)], false)), ["b"]);
        assert_eq!(names(&Told::default().news(vec![at("a", 1), resting("b", 1)], true)), ["a", "b"]);
    }

    #[test]
    fn a_header_is_there_once_and_json_is_a_line_for_each() {
        let table = |first| rows(&[at("a", 1)], Format::Table, first, &reader()).unwrap();
        assert!(table(true).starts_with(" NAME") && table(true).lines().count() == 2);
        assert!(table(false).starts_with(" a ") && table(false).lines().count() == 1);
        let json = rows(&[at("a", 1), at("b", 1)], Format::Json, true, &reader()).unwrap();
        let ids: Vec<String> =
            json.lines().map(|line| serde_json::from_str::<Worker>(line).unwrap().id.to_string()).collect();
        assert_eq!(ids, ["a", "b"]);
    }
}
