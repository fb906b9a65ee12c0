//! How long an answer may wait for its reader: a while, but for what a person reads at their own pace.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_io_timeout::TimeoutStream;

/// With every request: whether the reader of its answer may take its time.
#[derive(Debug, Clone, Default)]
pub(super) struct Unhurried(Arc<AtomicBool>);

impl Unhurried {
    /// It may, from now on, as long as the connection lasts.
    pub(super) fn allow(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection that ends when its reader takes nothing for too long.
#[derive(Debug)]
pub(super) struct Patient {
    stream: Pin<Box<TimeoutStream<UnixStream>>>,
    unhurried: Unhurried,
}

impl Patient {
    pub(super) fn new(stream: UnixStream, patience: Duration, unhurried: Unhurried) -> Self {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(patience));
        Self { stream: Box::pin(stream), unhurried }
    }

    fn hurried(&mut self) -> Pin<&mut TimeoutStream<UnixStream>> {
        if self.unhurried.0.load(Ordering::Relaxed) && self.stream.write_timeout().is_some() {
            self.stream.as_mut().set_write_timeout_pinned(None);
        }
        self.stream.as_mut()
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.hurried().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.hurried().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.hurried().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.hurried().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
