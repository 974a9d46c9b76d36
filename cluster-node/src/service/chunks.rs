//! Answers that come in chunks, and a bound on how long a client may leave one unread.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tokio::sync::{mpsc, oneshot};

use super::Error;

/// Chunks that wait for a client: one being sent and one on its way.
pub const AHEAD: usize = 2;

/// How long a chunk waits to be taken. A list holds a snapshot of the store and a thread, a watch a task: a client that
/// stops reading for good must not keep them, and one that was merely slow goes on from its last cursor.
pub const SEND_LIMIT: Duration = Duration::from_secs(30);

/// The end that makes chunks.
pub struct ChunkSender<T> {
    queue: mpsc::Sender<Result<T, Error>>,
    /// For the last word when the queue is full.
    end: Option<oneshot::Sender<Error>>,
    limit: Duration,
}

/// The end that the API reads.
pub struct Chunks<T> {
    queue: mpsc::Receiver<Result<T, Error>>,
    end: Option<oneshot::Receiver<Error>>,
}

/// A queue of chunks for a client.
pub fn chunks<T>() -> (ChunkSender<T>, Chunks<T>) {
    chunks_within(AHEAD, SEND_LIMIT)
}

/// The same with so many chunks that wait, each for so long.
pub fn chunks_within<T>(ahead: usize, limit: Duration) -> (ChunkSender<T>, Chunks<T>) {
    let (queue, chunks) = mpsc::channel(ahead);
    let (end, told) = oneshot::channel();
    let sender = ChunkSender {
        queue,
        end: Some(end),
        limit,
    };
    let receiver = Chunks {
        queue: chunks,
        end: Some(told),
    };
    (sender, receiver)
}

impl<T> ChunkSender<T> {
    /// Sends a chunk and tells whether more are wanted: not when nobody listens, nor when nothing was read for
    /// too long, which the client is told.
    pub async fn send(&mut self, chunk: Result<T, Error>) -> bool {
        if self.end.is_none() {
            return false;
        }
        match self.queue.send_timeout(chunk, self.limit).await {
            Ok(()) => true,
            Err(mpsc::error::SendTimeoutError::Closed(_)) => false,
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                if let Some(end) = self.end.take() {
                    // Nobody listens any more: the caller went away.
                    let _ = end.send(Error::ClientTooSlow { limit: self.limit });
                }
                false
            }
        }
    }

    /// The same for a thread that may block, inside a runtime.
    pub fn send_blocking(&mut self, chunk: Result<T, Error>) -> bool {
        tokio::runtime::Handle::current().block_on(self.send(chunk))
    }

    /// Returns when nobody listens any more.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }
}

impl<T> Chunks<T> {
    /// The next chunk; none at the end.
    pub async fn next(&mut self) -> Option<Result<T, Error>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Error>>> {
        if let Some(chunk) = ready!(self.queue.poll_recv(cx)) {
            return Poll::Ready(Some(chunk));
        }
        let Some(end) = self.end.as_mut() else {
            return Poll::Ready(None);
        };
        let told = ready!(Pin::new(end).poll(cx));
        self.end = None;
        Poll::Ready(told.ok().map(Err))
    }
}

impl<T> Stream for Chunks<T> {
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_chunk(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_stops_reading_is_told_and_let_go() {
        let limit = Duration::from_millis(50);
        let (mut sender, mut receiver) = chunks_within(AHEAD, limit);
        let producer = tokio::spawn(async move {
            let mut sent = 0;
            while sender.send(Ok(sent)).await {
                sent += 1;
            }
            sent
        });
        // It ends although nobody reads.
        assert_eq!(producer.await.expect("no panic"), AHEAD);
        for expected in 0..AHEAD {
            assert_eq!(receiver.next().await, Some(Ok(expected)), "what was sent is not lost");
        }
        assert_eq!(receiver.next().await, Some(Err(Error::ClientTooSlow { limit })));
        assert_eq!(receiver.next().await, None);
    }

    #[tokio::test]
    async fn an_answer_that_is_read_ends_without_an_error() {
        let (mut sender, mut receiver) = chunks();
        assert!(sender.send(Ok(1)).await);
        drop(sender);
        assert_eq!(receiver.next().await, Some(Ok(1)));
        assert_eq!(receiver.next().await, None);
        let (mut sender, receiver) = chunks();
        drop(receiver);
        assert!(!sender.send(Ok(1)).await, "nobody listens");
    }
}
