//! The supervisor: what it tells every second, and what is ordered of it.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::Duration,
};

use serde::Deserialize;

use super::model::{Order, Verb};
use super::update::Message;
use crate::api::wire::{Ask, Results, Worker, Workers};
use crate::cli::client::{Client, encoded};
use crate::cli::exit::Failure;
use crate::cli::render::{EventLines, Zone, inert};
use crate::model::Event;

/// Between two looks.
const BETWEEN: Duration = Duration::from_secs(1);

/// The media type of lines of JSON.
const LINES: &str = "application/x-ndjson";

/// What a look has seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) workers: Vec<Worker>,
    /// What has happened since the look before, a line each.
    pub(super) events: Vec<String>,
}

/// The way to it.
pub(super) struct Source {
    client: Client,
    workers: String,
    /// Where the events go on.
    cursor: Option<String>,
    zone: Zone,
}

/// An event's place in the stream.
#[derive(Deserialize)]
struct Place {
    cursor: String,
}

impl Source {
    pub(super) fn new(client: Client, pattern: &str, zone: Zone) -> Self {
        let workers = format!("/v1/workers?pattern={}&usage=full", encoded(pattern));
        Self { client, workers, cursor: None, zone }
    }

    pub(super) fn look(&mut self) -> Result<Seen, Failure> {
        let Workers { workers, .. } = self.client.get(&self.workers)?;
        let lines = EventLines::of_names(workers.iter().map(|worker| &worker.id), self.zone.clone(), false);
        let from = match &self.cursor {
            Some(cursor) => format!("after={}", encoded(cursor)),
            None => "since=10m".to_owned(),
        };
        let mut events = Vec::new();
        self.client.lines(&format!("/v1/events?follow=false&{from}"), LINES, |line| {
            // A gap's marker is no event: what is missing is not on this screen.
            if let (Ok(Place { cursor }), Ok(event)) =
                (serde_json::from_slice(line), serde_json::from_slice::<Event>(line))
            {
                self.cursor = Some(cursor);
                events.extend(lines.line(&event));
            }
            Ok(true)
        })?;
        Ok(Seen { workers, events })
    }

    /// Looks every second, and does what is ordered, until nobody orders or listens any more.
    pub(super) fn serve(mut self, orders: &Receiver<Order>, send: &Sender<Message>) {
        loop {
            let mut told = Vec::new();
            match orders.recv_timeout(BETWEEN) {
                Ok(order) => told.push(Message::Said(self.carry_out(&order))),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            told.push(match self.look() {
                Ok(seen) => Message::Looked(seen),
                Err(failure) => Message::Lost(inert(&failure.sentence()).into_owned()),
            });
            if told.into_iter().any(|message| send.send(message).is_err()) {
                return;
            }
        }
    }

    /// What came of it, in words. It is not waited for: the screen shows how it goes on.
    fn carry_out(&self, Order { verb, worker }: &Order) -> String {
        let path = format!("/v1/workers/{}/{}", encoded(worker.as_str()), verb.as_str());
        let ask = Ask { wait: false, ..Ask::default() };
        let done = match verb {
            Verb::Restart => "restarting",
            Verb::Freeze => "freezing",
            Verb::Thaw => "thawing",
        };
        let said = match self.client.post::<Results>(&path, &ask) {
            Ok(Ok(_)) => format!("{done} {worker}"),
            Ok(Err(problem)) => {
                let why = problem.results.iter().find_map(|settled| settled.error.as_deref());
                format!("{worker}: {}", why.unwrap_or(&problem.detail))
            }
            Err(failure) => failure.sentence(),
        };
        inert(&said).into_owned()
    }
}
