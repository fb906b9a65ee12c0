//! What `up` shows: events, and on a terminal the workers' output, both on stdout.
//!
//! On threads of their own, because a terminal can be stopped with Ctrl-S and a pipe's reader can sleep: whoever looks
//! must never slow down what is looked at. The supervisor only sends events into a channel.

use std::{
    collections::HashMap,
    ffi::OsString,
    io::{self, IsTerminal, Write},
    os::fd::OwnedFd,
    path::Path,
    sync::mpsc as std_mpsc,
    thread,
    time::Duration,
};

use tokio::sync::{
    mpsc::{self, UnboundedReceiver, UnboundedSender},
    oneshot,
};

use crate::cli::args::Output;
use crate::cli::render::{EventLines, Prefixer, Sgr, Summary, Zone, json_line, worker_style};
use crate::logs::{Chunk, Follower};
use crate::model::{Event, EventKind, WorkerId, WorkerStatus};
use crate::spec::types::Worker;

/// How long the end waits for a terminal or pipe that takes nothing, and for the logger to write the last bytes.
const PATIENCE: Duration = Duration::from_secs(2);

/// Events that wait for a stdout that takes nothing. More are counted, and not shown.
const BACKLOG: usize = 32 * 1024;

/// The two threads and the way to end them.
#[derive(Debug)]
pub(super) struct Console {
    events: UnboundedSender<Event>,
    /// Says that what is in the channel now is the last, and how each worker ended.
    end: oneshot::Sender<Vec<WorkerStatus>>,
    printed: std_mpsc::Receiver<io::Result<()>>,
    output: Option<OutputThread>,
}

/// What the printing thread is given.
enum Shown {
    Event(Box<Event>),
    End(Box<Summary>, Vec<WorkerStatus>),
}

#[derive(Debug)]
struct OutputThread {
    /// Closed to say that nothing more will be written.
    stop: OwnedFd,
    done: std_mpsc::Receiver<()>,
}

impl Console {
    /// Starts to show what happens to `workers`. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// Where a thread or the watch on the log directories cannot be had.
    pub(super) fn start(format: Output, logs: &Path, workers: &[Worker]) -> io::Result<Self> {
        let terminal = io::stdout().is_terminal();
        let colour = terminal && anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
        let lines = EventLines::new(workers, Zone::system(), colour);
        let output = if terminal && format == Output::Text {
            Some(show_output(logs, workers, lines.width(), colour)?)
        } else {
            None
        };
        let (events, queue) = mpsc::unbounded_channel();
        let (backlog, shown) = mpsc::channel(BACKLOG);
        let (finished, printed) = std_mpsc::channel();
        let (end, ended) = oneshot::channel();
        tokio::spawn(gather(queue, ended, backlog, Summary::new(workers)));
        thread::Builder::new().name("events".into()).spawn(move || {
            let done = print_events(shown, format, &lines);
            // Whoever waited for it has stopped waiting.
            finished.send(done).unwrap_or_default();
        })?;
        Ok(Self { events, end, printed, output })
    }

    /// Where events go.
    #[must_use]
    pub(super) fn events(&self) -> UnboundedSender<Event> {
        self.events.clone()
    }

    /// Shows what has been sent until now, and the table of how each worker ended.
    ///
    /// # Errors
    /// Where stdout takes nothing any more.
    pub(super) fn finish(self, statuses: Vec<WorkerStatus>) -> io::Result<()> {
        if let Some(OutputThread { stop, done }) = self.output {
            drop(stop);
            if done.recv_timeout(PATIENCE * 2).is_err() {
                tracing::warn!("the last output of the workers is not shown; it is in the log files");
            }
        }
        // Refused only where nobody shows anything any more.
        drop(self.end.send(statuses));
        let silent = || Err(io::Error::new(io::ErrorKind::TimedOut, "stdout takes nothing"));
        self.printed.recv_timeout(PATIENCE).unwrap_or_else(|_| silent())
    }
}

/// Takes events as fast as they come, and hands on what can be shown.
async fn gather(
    mut queue: UnboundedReceiver<Event>,
    mut ended: oneshot::Receiver<Vec<WorkerStatus>>,
    backlog: mpsc::Sender<Shown>,
    mut summary: Summary,
) {
    let mut missed = 0_u64;
    let mut hand_on = |event: Event, summary: &mut Summary| {
        summary.observe(&event);
        if missed > 0 {
            let what = format!("{missed} events are not shown: stdout took too long");
            let kind = EventKind::Supervisor { what };
            let notice = Event { seq: 0, worker: None, run: None, kind, ..event.clone() };
            match backlog.try_send(Shown::Event(Box::new(notice))) {
                Ok(()) => missed = 0,
                Err(_) => return missed += 1,
            }
        }
        if backlog.try_send(Shown::Event(Box::new(event))).is_err() {
            missed += 1;
        }
    };
    let statuses = loop {
        tokio::select! {
            biased;
            event = queue.recv() => match event {
                Some(event) => hand_on(event, &mut summary),
                None => return,
            },
            statuses = &mut ended => match statuses {
                Ok(statuses) => break statuses,
                // The supervisor ends without a word.
                Err(_) => return,
            },
        }
    };
    // Refused only where nobody shows anything any more.
    drop(backlog.send(Shown::End(Box::new(summary), statuses)).await);
}

fn print_events(mut shown: mpsc::Receiver<Shown>, format: Output, lines: &EventLines) -> io::Result<()> {
    while let Some(shown) = shown.blocking_recv() {
        let text = match (shown, format) {
            (Shown::Event(event), Output::Json) => json_line(&event)?,
            (Shown::Event(event), Output::Text) => {
                lines.line(&event).map_or_else(Vec::new, |line| format!("{line}\n").into_bytes())
            }
            // Nobody's end is to be shown where they all go on.
            (Shown::End(_, statuses), _) if statuses.is_empty() => Vec::new(),
            (Shown::End(summary, statuses), Output::Text) => {
                format!("{}\n", summary.table(&statuses, width())).into_bytes()
            }
            (Shown::End(..), Output::Json) => Vec::new(),
        };
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout.write_all(&text).and_then(|()| stdout.flush()) {
            // The reader is gone; the workers are not.
            tracing::warn!(%error, "stdout is closed: events are not shown any more");
            return Ok(());
        }
    }
    Ok(())
}

/// Columns of the terminal, where it is one that says how many it has.
fn width() -> Option<u16> {
    let terminal = io::stdout().is_terminal();
    terminal.then(|| comfy_table::Table::new().width()).flatten().filter(|columns| *columns > 0)
}

fn show_output(logs: &Path, workers: &[Worker], width: usize, colour: bool) -> io::Result<OutputThread> {
    let mut follower = Follower::new(logs, workers.iter().map(|w| &w.id))?;
    let styles: HashMap<WorkerId, usize> = workers.iter().enumerate().map(|(i, w)| (w.id.clone(), i)).collect();
    let sgr = if colour { Sgr::Keep } else { Sgr::Drop };
    let (stopped, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (finished, done) = std_mpsc::channel();
    thread::Builder::new().name("output".into()).spawn(move || {
        let make = |worker: &WorkerId| {
            let index = styles.get(worker).copied().unwrap_or(0);
            Prefixer::new(worker.as_str(), width, worker_style(index), sgr)
        };
        if let Err(error) = print_output(&mut follower, &stopped, make) {
            tracing::warn!(%error, "the workers' output is not shown any more; it is in the log files");
        }
        // Whoever waited for it has stopped waiting.
        finished.send(()).unwrap_or_default();
    })?;
    Ok(OutputThread { stop, done })
}

fn print_output(follower: &mut Follower, stopped: &OwnedFd, make: impl Fn(&WorkerId) -> Prefixer) -> io::Result<()> {
    let mut streams: HashMap<(WorkerId, OsString), Prefixer> = HashMap::new();
    let mut stopping = false;
    loop {
        // Once everything has ended only the logger's last bytes are waited for.
        let chunks =
            if stopping { follower.next(None, Some(PATIENCE))? } else { follower.next(Some(stopped), None)? };
        let silent = chunks.is_none();
        let mut text = Vec::new();
        for Chunk { worker, file, bytes, last } in chunks.into_iter().flatten() {
            let key = (worker, file);
            let stream = streams.entry(key.clone()).or_insert_with_key(|(worker, _)| make(worker));
            stream.push(&bytes, &mut text);
            if last {
                stream.finish(&mut text);
                streams.remove(&key);
            }
        }
        {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&text)?;
            stdout.flush()?;
        }
        if stopping && silent || (stopping || silent) && follower.open_files() == 0 {
            return Ok(());
        }
        stopping |= silent;
    }
}

#[cfg(test)]
mod tests {
    use super::super::chronicle::event;
    use super::*;

    #[tokio::test]
    async fn what_a_stopped_stdout_does_not_take_is_counted_and_said() {
        let (events, queue) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let (backlog, mut shown) = mpsc::channel(2);
        let gathering = tokio::spawn(gather(queue, ended, backlog, Summary::new(&[])));
        for seq in 1..=5 {
            events.send(event(seq)).unwrap();
        }
        // One thread: all five have been looked at when the first two can be seen.
        while shown.len() < 2 {
            tokio::task::yield_now().await;
        }
        let mut next = async || match shown.recv().await {
            Some(Shown::Event(event)) => match event.kind {
                EventKind::Supervisor { what } => (event.seq, what),
                other => panic!("{other:?}"),
            },
            _ => panic!("no event"),
        };
        assert_eq!((next().await.0, next().await.0), (1, 2));
        events.send(event(6)).unwrap();
        assert_eq!(next().await, (0, "3 events are not shown: stdout took too long".to_owned()));
        assert_eq!(next().await, (6, "x".to_owned()));
        end.send(Vec::new()).unwrap();
        assert!(matches!(shown.recv().await, Some(Shown::End(..))));
        gathering.await.unwrap();
    }
}
