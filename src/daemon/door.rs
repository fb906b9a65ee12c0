//! The control socket, joined to what it serves.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::api::socket::{self, Socket, SocketError, SocketFile};
use crate::api::tenure::Tenure;
use crate::api::{Api, Bounds, Governor, Meter, Server, Shutdowns, Told, Upgrades};
use crate::clock::Clock;
use crate::kernel::{host::HostKernel, launch, own};
use crate::manager::handle::Manager;
use crate::model::{Measured, OwnUse, RunId, Usage};
use crate::store::StoreHandle;

/// How long the host's user database may take to tell the socket's group: it can come over a network.
const LOOK_UP: Duration = Duration::from_secs(5);

/// A socket that listens, and is not answered yet: who connects waits.
#[derive(Debug)]
pub(super) struct Door {
    socket: Socket,
    tenure: Option<Tenure>,
}

/// Who answers after us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Another,
    Nobody,
}

/// What is behind it.
pub(super) struct Behind {
    pub(super) manager: Manager,
    pub(super) kernel: HostKernel,
    pub(super) clock: Clock,
    pub(super) logs: PathBuf,
    pub(super) store: StoreHandle,
    pub(super) told: Told,
    pub(super) governor: Arc<dyn Governor>,
    pub(super) upgrades: Upgrades,
    pub(super) shutdowns: Shutdowns,
}

/// A socket that is answered.
#[derive(Debug)]
pub(super) struct OpenDoor {
    server: Server,
    file: SocketFile,
    tenure: Option<Tenure>,
}

impl Door {
    /// Listens at `path`. By `tenure` clients tell that somebody will, where nobody does.
    ///
    /// # Errors
    /// [`SocketError`].
    pub(super) async fn at(path: &Path, tenure: Option<Tenure>) -> Result<Self, SocketError> {
        let group = match tokio::time::timeout(LOOK_UP, tokio::task::spawn_blocking(socket::group)).await {
            Ok(Ok(Ok(group))) => group,
            Ok(Ok(Err(error))) => {
                tracing::warn!(%error, "the socket gets no group: the user database cannot be asked");
                None
            }
            _ => {
                tracing::warn!("the socket gets no group: the user database does not answer");
                None
            }
        };
        if let Some(tenure) = &tenure {
            // One before us may have let go of it for its end, which did not come.
            if let Err(error) = tenure.hold().and_then(|()| tenure.open_to(group)) {
                tracing::warn!(%error, "the lock beside the socket cannot be looked at by those who may use the socket");
            }
        }
        Ok(Self { socket: Socket::bind(path, group)?, tenure })
    }

    /// Answers from now on.
    ///
    /// # Errors
    /// Where a thread cannot be had.
    pub(super) fn open(self, behind: Behind) -> io::Result<OpenDoor> {
        let Behind { manager, kernel, clock, logs, store, told, governor, upgrades, shutdowns } = behind;
        let api = Api::new(manager, Arc::new(Gauge(kernel)), clock, logs, store.watch(), store, told);
        let api = api.governed_by(governor).with_upgrades(upgrades).with_shutdowns(shutdowns);
        let (listener, file) = self.socket.into_parts();
        let server = Server::start(listener, api.router(), Bounds::default(), launch::give_back)?;
        Ok(OpenDoor { server, file, tenure: self.tenure })
    }
}

impl OpenDoor {
    /// Closes, and removes the socket's file.
    pub(super) async fn close(self, next: Next) {
        if let (Next::Nobody, Some(tenure)) = (next, &self.tenure)
            && let Err(error) = tenure.end()
        {
            tracing::warn!(%error, "whoever asks now waits for a supervisor that does not come");
        }
        // The file first: who comes now finds no supervisor, rather than one that does not answer.
        self.file.remove();
        self.server.stop().await;
    }

    /// Removes the socket's file, and waits for nothing: connections go with the process.
    pub(super) fn leave(self) {
        self.file.remove();
    }
}

/// What runs use, by the kernel's word.
struct Gauge(HostKernel);

impl Meter for Gauge {
    fn read(&self, run: &RunId) -> Usage {
        self.0.glance(run)
    }

    fn measure(&self, run: &RunId) -> Measured {
        self.0.measure(run)
    }

    fn own(&self) -> Option<OwnUse> {
        own::read()
    }
}
