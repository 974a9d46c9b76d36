//! The way out to a peer: a task that writes the frames of one lane into one stream, in order.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cluster_bitswap::Lane;
use futures::AsyncWriteExt as _;
use libp2p::PeerId;
use libp2p::swarm::Stream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Control, LinkId, Opener, Shared};

/// Bytes that are handed to the stream at a time, between looks at the clock.
const WRITE_BYTES: usize = 64 << 10;

/// A peer that takes nothing for so long loses the stream, and the memory that its frame holds here is free again.
const STALL: Duration = Duration::from_secs(20);

/// A stream that is not used for so long is closed; the next frame opens another. Helia resets streams that bring no message
/// for five seconds (`DEFAULT_MESSAGE_RECEIVE_TIMEOUT` of @helia/bitswap), and what is written into such a stream is lost.
const IDLE: Duration = Duration::from_secs(4);

/// After so many failures in a row the lane counts as hopeless.
const FAILURES_MAX: u32 = 3;

/// How long a lane rests after its first failure, so that a peer which takes no streams is not asked in a tight loop.
/// Twice as long after each further one.
const REST: Duration = Duration::from_millis(500);

/// Frames that wait for one lane. Bounded by the engine: one message of wants, some of answers.
#[derive(Debug)]
pub(crate) struct LaneQueue(mpsc::UnboundedSender<Bytes>);

impl LaneQueue {
    /// Starts a lane. It ends when this is dropped, or the connection is gone.
    pub(crate) fn start(link: LinkId, peer: PeerId, lane: Lane, opener: Opener, shared: &Arc<Shared>) -> Self {
        let (sender, frames) = mpsc::unbounded_channel();
        let writer = Writer {
            link,
            peer,
            lane,
            opener,
            shared: shared.clone(),
            stream: None,
            failures: 0,
        };
        let stop = shared.stop.clone();
        shared.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = writer.run(frames) => {}
            }
        });
        Self(sender)
    }

    /// Queues a frame. What became of it is told to the driver.
    pub(crate) fn send(&self, frame: Bytes) {
        // Fails only when the node stops.
        let _ = self.0.send(frame);
    }
}

struct Writer {
    link: LinkId,
    peer: PeerId,
    lane: Lane,
    opener: Opener,
    shared: Arc<Shared>,
    stream: Option<Stream>,
    failures: u32,
}

/// How writing a frame failed.
enum Failure {
    /// The peer can't have got all of it, so it may be sent again.
    Partly(String),
    /// It may have got it.
    Perhaps(String),
    /// It is not worth another try.
    Hopeless(String),
}

impl Writer {
    async fn run(mut self, mut frames: mpsc::UnboundedReceiver<Bytes>) {
        loop {
            let next = match &mut self.stream {
                None => frames.recv().await,
                Some(stream) => match timeout(IDLE, frames.recv()).await {
                    Ok(next) => next,
                    Err(_) => {
                        // A peer that does not even take the end of the stream is left alone with it.
                        let _ = timeout(STALL, stream.close()).await;
                        self.stream = None;
                        continue;
                    }
                },
            };
            let Some(frame) = next else { return };
            let (link, lane) = (self.link, self.lane);
            match self.send(&frame).await {
                Ok(()) => {
                    self.failures = 0;
                    self.shared.tell(Control::Sent { link, lane });
                }
                Err(reason) => {
                    self.failures += 1;
                    tracing::debug!(peer = %self.peer, ?lane, reason, "a Bitswap message was not sent");
                    tokio::time::sleep(REST * 2u32.pow(self.failures.min(FAILURES_MAX) - 1)).await;
                    let hopeless = self.failures >= FAILURES_MAX;
                    self.shared.tell(Control::Failed { link, lane, hopeless });
                }
            }
        }
    }

    /// Writes a frame, once more in a new stream when the old one turns out to be closed.
    async fn send(&mut self, frame: &Bytes) -> Result<(), String> {
        let reused = self.stream.is_some();
        let failure = match self.write(frame).await {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        self.stream = None;
        match failure {
            Failure::Partly(_) if reused => self.write(frame).await.map_err(|failure| {
                self.stream = None;
                failure.reason()
            }),
            failure => Err(failure.reason()),
        }
    }

    async fn write(&mut self, frame: &Bytes) -> Result<(), Failure> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            slot => slot.insert(self.opener.open().await.map_err(Failure::Hopeless)?),
        };
        for piece in frame.chunks(WRITE_BYTES) {
            within(stream.write_all(piece), "took nothing")
                .await
                .map_err(|failure| match failure {
                    // Bytes that it did not take for so long are not worth another stream.
                    Failure::Hopeless(_) => failure,
                    Failure::Partly(reason) | Failure::Perhaps(reason) => Failure::Partly(reason),
                })?;
            self.shared.bytes_out.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        within(stream.flush(), "did not take the end of a message").await
    }
}

impl Failure {
    fn reason(self) -> String {
        match self {
            Self::Partly(reason) | Self::Perhaps(reason) | Self::Hopeless(reason) => reason,
        }
    }
}

async fn within(writing: impl Future<Output = io::Result<()>>, what: &str) -> Result<(), Failure> {
    match timeout(STALL, writing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::Perhaps(error.to_string())),
        Err(_) => Err(Failure::Hopeless(format!("the peer {what} for {} s", STALL.as_secs()))),
    }
}
