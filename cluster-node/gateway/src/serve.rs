//! Serving a router on a listener, with bounds on connections and on clients that take or send nothing.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

/// After an accept that failed, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeOptions {
    /// Connections at the same time; more wait in the system's queue.
    pub connections_max: usize,
    /// For the head of a request to be there, from when one may come: also the longest that an idle connection stays open.
    pub head_timeout: Duration,
    /// For the client to take something, when there is something to send.
    pub stall_timeout: Duration,
    /// For what is being answered when the end comes.
    pub grace: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            connections_max: 512,
            head_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            grace: Duration::from_secs(5),
        }
    }
}

/// Answers connections over HTTP/1.1 until `end` is done. What is being answered then gets its time, and is cut off after
/// it. HTTP/2 is not spoken: many requests on one connection would pass by the bounds.
pub async fn serve(listener: TcpListener, router: Router, options: ServeOptions, end: impl Future<Output = ()> + Send) {
    let mut end = pin!(end);
    let places = Arc::new(Semaphore::new(options.connections_max));
    let (ending, ended) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            // Never closed, so there is a place sooner or later.
            let place = places.clone().acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut end => break,
            accepted = accepted => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, router.clone(), options, ended.clone(), place));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    drop(ending);
    // Those that are left are cut off when the set is dropped.
    let _ = timeout(options.grace, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

async fn connection(
    stream: TcpStream,
    router: Router,
    options: ServeOptions,
    mut ended: watch::Receiver<()>,
    _place: Option<OwnedSemaphorePermit>,
) {
    // Lines of progress are small, and each is to arrive at once.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Stalling::new(stream, options.stall_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.head_timeout)
        .serve_connection(io, TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        // An error is the sender's end.
        _ = ended.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection broke");
    }
}

/// A stream that breaks when what is to be sent is not taken for some time.
struct Stalling<T> {
    inner: T,
    limit: Duration,
    /// Runs while something waits to be sent.
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl<T> Stalling<T> {
    fn new(inner: T, limit: Duration) -> Self {
        Self {
            inner,
            limit,
            timer: Box::pin(sleep_until(Instant::now())),
            waiting: false,
        }
    }

    fn judge<R>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if poll.is_ready() {
            self.waiting = false;
            return poll;
        }
        if !self.waiting {
            self.waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.limit);
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                let words = format!("the client took nothing for {:?}", self.limit);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, words)))
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Stalling<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Stalling<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.judge(cx, poll)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_write_vectored(cx, parts);
        this.judge(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_flush(cx);
        this.judge(cx, poll)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.judge(cx, poll)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// What a client may take its time for.
    const LIMIT: Duration = Duration::from_secs(2);

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = Stalling::new(ours, LIMIT);
        let sent = tokio::spawn(async move { (ours.write_all(&[7; 64]).await, ours) });
        let began = Instant::now();
        let mut part = [0; 16];
        for _ in 0..3 {
            // It is the time between two pieces that counts, and all together they take longer.
            sleep(LIMIT * 2 / 5).await;
            theirs.read_exact(&mut part).await.expect("sent");
        }
        let (result, mut ours) = sent.await.expect("no panic");
        result.expect("something was taken all the time");
        assert!(began.elapsed() > LIMIT);
        let began = Instant::now();
        let error = ours.write_all(&[7; 64]).await.expect_err("nothing is taken");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= LIMIT);
    }
}
