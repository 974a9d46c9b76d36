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

    /// Sends what `finish` makes of each of `begun`, in order, until those end or no more are wanted. For work that waits
    /// for the cluster, whose slowness must not be taken for the client's: what is not finished waits in `begun`, whose
    /// room is bounded and not the time there, and the limit is on how long a finished one stays unread.
    pub async fn send_finished<B, F>(mut self, mut begun: mpsc::Receiver<B>, finish: impl Fn(B) -> F)
    where
        F: Future<Output = T>,
    {
        while let Some(one) = begun.recv().await {
            let finished = tokio::select! {
                finished = finish(one) => finished,
                // Nobody waits for the result; finishing it could take as long as the cluster is without a leader.
                () = self.closed() => return,
            };
            if !self.send(Ok(finished)).await {
                return;
            }
        }
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

    /// As many as a stream of small messages begins while the cluster has no leader: more than have room.
    const BEGUN: usize = 20;
    const ROOM: usize = 16;

    /// Begins [`BEGUN`] messages, each finished once `released` tells so, and answers how many found room in the end.
    async fn begin(begun: mpsc::Sender<usize>) -> usize {
        for number in 0..BEGUN {
            if begun.send(number).await.is_err() {
                return number;
            }
        }
        BEGUN
    }

    #[tokio::test]
    async fn a_slow_cluster_is_not_taken_for_a_slow_client() {
        // Long enough that a machine that is busy for a moment is not taken for a client that does not read.
        let limit = Duration::from_millis(400);
        let (sender, mut receiver) = chunks_within(AHEAD, limit);
        let (begun, to_finish) = mpsc::channel(ROOM);
        let (release, released) = tokio::sync::watch::channel(false);
        let beginning = tokio::spawn(begin(begun));
        let finishing = tokio::spawn(sender.send_finished(to_finish, move |number| {
            let mut released = released.clone();
            async move {
                released.wait_for(|is_released| *is_released).await.expect("it is told");
                number
            }
        }));
        // The client reads all the time. Waiting is the point: the room is taken for longer than anything may stay unread.
        let first = tokio::time::timeout(limit + limit / 2, receiver.next()).await;
        assert!(first.is_err(), "nothing is finished yet: {first:?}");
        release.send(true).expect("it is awaited");
        for expected in 0..BEGUN {
            assert_eq!(receiver.next().await, Some(Ok(expected)));
        }
        assert_eq!(receiver.next().await, None, "no error at the end");
        assert_eq!(beginning.await.expect("no panic"), BEGUN);
        finishing.await.expect("no panic");
    }

    #[tokio::test]
    async fn a_client_that_reads_no_finished_work_is_told_and_let_go() {
        let limit = Duration::from_millis(50);
        let (sender, mut receiver) = chunks_within(AHEAD, limit);
        let (begun, to_finish) = mpsc::channel(ROOM);
        let beginning = tokio::spawn(begin(begun));
        // It ends although nobody reads, and with it whoever begins more.
        sender.send_finished(to_finish, std::future::ready).await;
        assert!(beginning.await.expect("no panic") <= BEGUN);
        for expected in 0..AHEAD {
            assert_eq!(receiver.next().await, Some(Ok(expected)), "what was sent is not lost");
        }
        assert_eq!(receiver.next().await, Some(Err(Error::ClientTooSlow { limit })));
        assert_eq!(receiver.next().await, None);
    }

    #[tokio::test]
    async fn work_for_a_client_that_went_away_is_not_awaited() {
        let (sender, receiver) = chunks::<usize>();
        let (begun, to_finish) = mpsc::channel(ROOM);
        begun.send(0).await.expect("room");
        let finishing = tokio::spawn(sender.send_finished(to_finish, |_| std::future::pending()));
        drop(receiver);
        finishing.await.expect("no panic");
        begun.closed().await;
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
