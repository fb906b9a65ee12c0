//! The way of a worker's [`KernelEvent`]s to its actor: a queue that costs nothing while it is empty.
//!
//! tokio's channel holds a block of 32 messages from the start: 12 KiB for each worker, where 6 are the budget for
//! everything (`worker::actor`'s test holds it).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::clock;
use crate::model::{KernelEvent, Mono};

/// The kernel's end. Sending never waits.
#[derive(Debug, Clone)]
pub struct NewsSender(Arc<Shared>);

/// The actor's end. What is sent after it was dropped is dropped too.
#[derive(Debug)]
pub struct NewsReceiver(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// Each with when it came.
    news: VecDeque<(Mono, Box<KernelEvent>)>,
    closed: bool,
}

impl Queue {
    /// The next one. Behind the last one no room is kept: it can be days to another.
    fn take(&mut self) -> Option<(Mono, Box<KernelEvent>)> {
        let next = self.news.pop_front();
        if self.news.is_empty() {
            self.news.shrink_to_fit();
        }
        next
    }
}

/// Both ends of a new queue.
#[must_use]
pub fn news() -> (NewsSender, NewsReceiver) {
    let shared = Arc::new(Shared::default());
    (NewsSender(Arc::clone(&shared)), NewsReceiver(shared))
}

impl NewsSender {
    /// Adds `event` behind those that wait.
    pub fn send(&self, event: KernelEvent) {
        let mut queue = self.0.queue();
        if !queue.closed {
            queue.news.push_back((clock::monotonic(), Box::new(event)));
            drop(queue);
            self.0.arrived.notify_one();
        }
    }
}

impl NewsReceiver {
    /// The next event with when it came, as soon as there is one. Cancel-safe: it is taken or stays.
    pub async fn recv(&mut self) -> (Mono, Box<KernelEvent>) {
        // One whose every answer is there at once, a launch that nobody takes for one, gives way now and then: nothing else
        // would run beside it.
        tokio::task::coop::consume_budget().await;
        loop {
            if let Some(event) = self.0.queue().take() {
                return event;
            }
            // What is sent between the look and this leaves a permit behind.
            self.0.arrived.notified().await;
        }
    }
}

impl Drop for NewsReceiver {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.closed = true;
        queue.news.clear();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole between any two of its operations.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KernelEventKind, RunId, WorkerId};

    fn launched(pid: i32) -> KernelEvent {
        KernelEvent { run: RunId::new(WorkerId::new("w").unwrap(), 1), kind: KernelEventKind::Launched { pid } }
    }

    #[tokio::test]
    async fn news_arrive_in_order_whether_or_not_somebody_waits() {
        let (sender, mut receiver) = news();
        let waiting = tokio::spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..200 {
                seen.push(*receiver.recv().await.1);
            }
            seen
        });
        for pid in 0..200 {
            sender.send(launched(pid));
            if pid % 7 == 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(waiting.await.unwrap(), (0..200).map(launched).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn an_actor_whose_answers_are_always_there_lets_others_run() {
        let (sender, mut receiver) = news();
        sender.send(launched(0));
        let restless = tokio::spawn(async move {
            loop {
                sender.send(*receiver.recv().await.1);
            }
        });
        // Never again, were it not to give way.
        tokio::task::yield_now().await;
        restless.abort();
    }

    #[tokio::test]
    async fn nothing_piles_up_for_an_actor_that_has_ended() {
        let (sender, receiver) = news();
        sender.send(launched(1));
        drop(receiver);
        sender.send(launched(2));
        assert_eq!(sender.0.queue().news.len(), 0);
    }
}
