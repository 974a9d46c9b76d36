//! A stream that a peer opened: its bytes become messages, and those go to the driver.
//!
//! A peer may keep one stream for all its messages, or open one for each. Messages of one stream keep their order, those
//! of several have none, as everywhere in Bitswap.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cluster_bitswap::{FrameDecoder, FrameError, Incoming, Message, MessageError};
use futures::stream::FuturesOrdered;
use futures::{AsyncReadExt as _, StreamExt as _};
use libp2p::PeerId;
use libp2p::swarm::Stream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Arrived, Control, Large, LinkId, Shared};

/// Bytes that are read at a time. A frame of Yamux has as many.
const READ_BYTES: usize = 16 << 10;

/// A message of which more than this has come needs one of the places for large messages. The decoder alone holds no more
/// than that beforehand.
const SMALL_BYTES: usize = 16 << 10;

/// Blocks up to this many bytes are hashed on the spot, because handing them to another thread takes as long.
const HASH_HERE_BYTES: usize = 32 << 10;

/// Messages of one stream that are being hashed while it is read on.
const PIPELINE: usize = 4;

/// A message that does not go on for so long is given up.
const STALL: Duration = Duration::from_secs(20);

/// A message that is not whole after so long is given up, even if a byte comes now and then: 4 MiB at 280 kbit/s.
const MESSAGE_TIME: Duration = Duration::from_secs(120);

/// The engine is told that a message is arriving after so many bytes of it.
const SIGN_BYTES: usize = 64 << 10;

/// Reads one stream.
pub(super) struct Reader {
    link: LinkId,
    peer: PeerId,
    shared: Arc<Shared>,
    large: Arc<Semaphore>,
    readers: Arc<AtomicUsize>,
}

/// Why a stream is not read any further.
enum End {
    /// The peer closed it, or the connection is gone.
    Closed,
    /// The peer broke the protocol.
    Broken(String),
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<MessageError> for End {
    fn from(error: MessageError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

/// A message that is being hashed, with the memory that it holds.
type Hashing = JoinHandle<(Incoming, Option<Large>)>;

impl Reader {
    pub(super) fn new(
        link: LinkId,
        peer: PeerId,
        shared: Arc<Shared>,
        large: Arc<Semaphore>,
        readers: Arc<AtomicUsize>,
    ) -> Self {
        readers.fetch_add(1, Ordering::Relaxed);
        Self {
            link,
            peer,
            shared,
            large,
            readers,
        }
    }

    pub(super) async fn run(self, mut stream: Stream) {
        let stop = self.shared.stop.clone();
        let end = tokio::select! {
            () = stop.cancelled() => return,
            end = self.read(&mut stream) => end,
        };
        if let Err(End::Broken(how)) = end {
            let (link, peer) = (self.link, self.peer);
            self.shared.tell(Control::Broke { link, peer, how });
        }
    }

    async fn read(&self, stream: &mut Stream) -> Result<(), End> {
        let mut decoder = FrameDecoder::new();
        let mut buffer = vec![0; READ_BYTES];
        let mut hashing = FuturesOrdered::<Hashing>::new();
        let mut large = None;
        let mut begun: Option<Instant> = None;
        let mut signed = 0;
        loop {
            let full = hashing.len() >= PIPELINE;
            let wants_room = large.is_none() && decoder.buffered() > SMALL_BYTES;
            let count = tokio::select! {
                biased;
                Some(hashed) = hashing.next(), if !hashing.is_empty() => {
                    self.deliver(hashed).await?;
                    continue;
                }
                room = self.room(), if wants_room => {
                    large = Some(room?);
                    continue;
                }
                count = read_some(stream, &mut buffer, begun), if !full && !wants_room => count?,
            };
            if count == 0 {
                decoder.finish()?;
                while let Some(hashed) = hashing.next().await {
                    self.deliver(hashed).await?;
                }
                return Ok(());
            }
            self.shared.bytes_in.fetch_add(count as u64, Ordering::Relaxed);
            let mut input = &buffer[..count];
            while let Some(frame) = decoder.decode(&mut input)? {
                let message = Message::decode(frame)?;
                (begun, signed) = (None, 0);
                self.identify(message, large.take(), &mut hashing).await?;
            }
            if decoder.finish().is_err() {
                begun = begun.or_else(|| Some(Instant::now()));
                if decoder.buffered() >= signed + SIGN_BYTES {
                    signed = decoder.buffered();
                    self.sign_of_life();
                }
            }
        }
    }

    /// Computes the CIDs of a message's blocks, here or on another thread.
    async fn identify(
        &self,
        message: Message,
        large: Option<Large>,
        hashing: &mut FuturesOrdered<Hashing>,
    ) -> Result<(), End> {
        let bytes: usize = message.blocks.iter().map(|block| block.data.len()).sum();
        if bytes <= HASH_HERE_BYTES && hashing.is_empty() {
            let message = message.identify(&self.shared.hasher);
            return self.hand_over(message, large).await;
        }
        // The messages of a piece of 16 KiB may be more than the pipeline has room for.
        if hashing.len() >= PIPELINE
            && let Some(hashed) = hashing.next().await
        {
            self.deliver(hashed).await?;
        }
        let permit = self.shared.hashing.clone().acquire_owned().await;
        let permit = permit.map_err(|_| End::Closed)?;
        let hasher = self.shared.hasher;
        hashing.push_back(tokio::task::spawn_blocking(move || {
            let message = message.identify(&hasher);
            drop(permit);
            (message, large)
        }));
        Ok(())
    }

    async fn deliver(&self, hashed: Result<(Incoming, Option<Large>), tokio::task::JoinError>) -> Result<(), End> {
        // The thread panicked, or the runtime ends.
        let (message, large) = hashed.map_err(|_| End::Closed)?;
        self.hand_over(message, large).await
    }

    async fn hand_over(&self, message: Incoming, large: Option<Large>) -> Result<(), End> {
        let arrived = Arrived {
            link: self.link,
            peer: self.peer,
            message: Some(message),
            _large: large,
        };
        self.shared.messages.send(arrived).await.map_err(|_| End::Closed)
    }

    fn sign_of_life(&self) {
        let arrived = Arrived {
            link: self.link,
            peer: self.peer,
            message: None,
            _large: None,
        };
        // When the queue is full, the engine has enough signs.
        let _ = self.shared.messages.try_send(arrived);
    }

    /// Room for a large message.
    async fn room(&self) -> Result<Large, End> {
        let of_connection = self.large.clone().acquire_owned().await.map_err(|_| End::Closed)?;
        let of_all = self.shared.large.clone().acquire_owned().await;
        Ok(Large {
            _of_connection: of_connection,
            _of_all: of_all.map_err(|_| End::Closed)?,
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads what there is. Between messages a stream may be silent as long as it likes, inside one it may not.
async fn read_some(stream: &mut Stream, buffer: &mut [u8], begun: Option<Instant>) -> Result<usize, End> {
    let Some(begun) = begun else {
        return Ok(stream.read(buffer).await?);
    };
    let stalled = |_| End::Broken(format!("a message did not go on for {} s", STALL.as_secs()));
    let slow = |_| End::Broken(format!("a message was not whole after {} s", MESSAGE_TIME.as_secs()));
    let reading = timeout(STALL, stream.read(buffer));
    Ok(timeout_at(begun + MESSAGE_TIME, reading)
        .await
        .map_err(slow)?
        .map_err(stalled)??)
}
