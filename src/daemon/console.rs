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

use jiff::tz::TimeZone;
use tokio::{
    runtime::Handle,
    sync::{
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        oneshot,
    },
};

use crate::cli::args::Output;
use crate::cli::render::{EventLines, Prefixer, Sgr, Summary, json_line, worker_style};
use crate::logs::{Chunk, Follower};
use crate::model::{Event, WorkerId, WorkerStatus};
use crate::spec::types::Worker;

/// How long the end waits for a terminal or pipe that takes nothing, and for the logger to write the last bytes.
const PATIENCE: Duration = Duration::from_secs(2);

/// The two threads and the way to end them.
#[derive(Debug)]
pub(super) struct Console {
    events: UnboundedSender<Event>,
    /// Dropped to say that what is in the channel now is the last.
    end: oneshot::Sender<()>,
    printed: std_mpsc::Receiver<Summary>,
    output: Option<OutputThread>,
    format: Output,
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
        let lines = EventLines::new(workers, TimeZone::system(), colour);
        let output = if terminal && format == Output::Text {
            Some(show_output(logs, workers, lines.width(), colour)?)
        } else {
            None
        };
        let (events, queue) = mpsc::unbounded_channel();
        let (finished, printed) = std_mpsc::channel();
        let summary = Summary::new(workers);
        let (end, ended) = oneshot::channel();
        let runtime = Handle::current();
        thread::Builder::new().name("events".into()).spawn(move || {
            // Whoever waited for it has stopped waiting.
            drop(finished.send(print_events(&runtime, queue, ended, format, &lines, summary)));
        })?;
        Ok(Self { events, end, printed, output, format })
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
    pub(super) fn finish(self, statuses: &[WorkerStatus]) -> io::Result<()> {
        drop(self.end);
        if let Some(OutputThread { stop, done }) = self.output {
            drop(stop);
            if done.recv_timeout(PATIENCE * 2).is_err() {
                tracing::warn!("the last output of the workers is not shown; it is in the log files");
            }
        }
        let Ok(summary) = self.printed.recv_timeout(PATIENCE) else {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "stdout takes nothing"));
        };
        if self.format == Output::Text {
            let stdout = io::stdout();
            let width = stdout.is_terminal().then(comfy_table_width).flatten();
            let mut stdout = stdout.lock();
            writeln!(stdout, "{}", summary.table(statuses, width))?;
            stdout.flush()?;
        }
        Ok(())
    }
}

fn comfy_table_width() -> Option<u16> {
    comfy_table::Table::new().width()
}

fn print_events(
    runtime: &Handle,
    mut queue: UnboundedReceiver<Event>,
    mut ended: oneshot::Receiver<()>,
    format: Output,
    lines: &EventLines,
    mut summary: Summary,
) -> Summary {
    let mut heard = true;
    let mut next = || {
        runtime.block_on(async {
            tokio::select! {
                biased;
                event = queue.recv() => event,
                // Its sender is gone for good, so this is polled once: nothing comes after `None`.
                _ = &mut ended => None,
            }
        })
    };
    while let Some(event) = next() {
        summary.observe(&event);
        if !heard {
            continue;
        }
        let line = match format {
            Output::Json => json_line(&event).map_err(io::Error::from),
            Output::Text => Ok(lines.line(&event).map_or_else(Vec::new, |line| format!("{line}\n").into_bytes())),
        };
        let written = line.and_then(|line| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&line)?;
            stdout.flush()
        });
        if let Err(error) = written {
            // The reader is gone; the workers are not.
            tracing::warn!(%error, "stdout is closed: events are not shown any more");
            heard = false;
        }
    }
    summary
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
