//! The logger and its pipes as the next keeper gets them. The logger itself notices nothing.

use serde_bytes::ByteBuf;

use super::{Logs, Pipe, Seat};
use crate::keeper::handover::{Left, LoggerState, LogsState, take};
use crate::keeper::protocol::ToLogger;
use crate::kernel::inherit::Inherited;

impl Logs {
    /// All of it.
    pub(in crate::keeper) fn leave<'fd>(&'fd self, left: &mut Left<'fd>) -> LogsState {
        let mut logger = None;
        if let Some(Seat { pid, kill_at, since, child: _, socket }) = &self.seat {
            let socket = socket.as_ref().map(|socket| left.leave(socket));
            logger = Some(LoggerState { pid: *pid, since: *since, kill_at: *kill_at, socket });
        }
        let pipes = self.pipes.iter().map(|((run, stream), pipe)| (pipe.attach(run, *stream), left.leave(&pipe.spare)));
        let pipes = pipes.collect();
        let waiting = self
            .out
            .waiting()
            .map(|(message, fds)| (ByteBuf::from(message), fds.iter().map(|fd| left.leave(fd)).collect()));
        let waiting = waiting.collect();
        let (backoff, restart_at, method) = (self.backoff.clone(), self.restart_at, self.method);
        LogsState { logger, pipes, waiting, backoff, restart_at, method }
    }

    /// Goes on with those of the keeper before.
    pub(in crate::keeper) fn take_over(&mut self, state: LogsState, inherited: &mut Inherited) {
        let LogsState { logger, pipes, waiting, backoff, restart_at, method } = state;
        (self.backoff, self.restart_at, self.method) = (backoff, restart_at, method);
        self.seat = logger.map(|LoggerState { pid, since, kill_at, socket }| Seat {
            pid,
            kill_at,
            since,
            child: None,
            // Lost, it looks to the logger as if we had died: it ends when its pipes do, and the next one follows.
            socket: socket.and_then(|socket| take(inherited, socket, &"the logger's socket")),
        });
        for (attach, spare) in pipes {
            let ToLogger::Attach { run, stream, path, policy } = attach;
            if let Some(spare) = take(inherited, spare, &format_args!("the spare end of {run}'s {stream:?}")) {
                self.pipes.insert((run, stream), Pipe { path, policy, spare });
            }
        }
        for (message, fds) in waiting {
            let wanted = fds.len();
            let taken: Vec<_> =
                fds.into_iter().filter_map(|fd| take(inherited, fd, &"a message to the logger")).collect();
            if taken.len() == wanted {
                self.out.push_encoded(message.into_vec(), taken);
            }
        }
    }
}
