//! The signals that the supervisor is asked by.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::args::OnTerm;

use super::ending::End;

/// The signals that end us.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Until somebody reloads by it.
    pub(super) hangup: Option<Signal>,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        // Nothing is asked for by the one, and the other is the desk's as soon as there is one; their default action would end us.
        // The handler stays when its end is dropped.
        for unused in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
            drop(signal(unused)?);
        }
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: Some(signal(SignalKind::hangup())?),
        })
    }

    pub(super) async fn end(&mut self, on_term: OnTerm) -> End {
        tokio::select! {
            _ = self.interrupt.recv() => End::Stop,
            _ = self.terminate.recv() => match on_term {
                OnTerm::Stop => End::Stop,
                OnTerm::Detach => End::Detach,
            },
        }
    }

    /// Somebody who asks once more while everything is being stopped.
    pub(super) async fn again(&mut self) {
        // A hangup meanwhile changes nothing: it is taken and not acted upon since the handler was set.
        self.interrupt.recv().await;
    }
}
