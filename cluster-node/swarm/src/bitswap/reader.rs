//! A stream that a peer opened: its bytes become messages, and those go to the driver.
//!
//! A peer may keep one stream for all its messages, or open one for each. Messages of one stream keep their order, those
//! of several have none, as everywhere in Bitswap.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cluster_bitswap::{FrameDecoder, FrameError, Incoming, Message, MessageError};
use futures::stream::FuturesOrdered;
use futures::{AsyncRead, AsyncReadExt as _, StreamExt as _};
use libp2p::PeerId;
use libp2p::swarm::Stream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::room::{Place, Waiting};
use super::{Arrived, Control, LinkId, Shared};

/// Bytes that are read at a time. A frame of Yamux has as many.
const READ_BYTES: usize = 16 << 10;

/// A message of which more than this has come, in bytes, needs one of the places for large messages. The decoder alone
/// holds no more than that beforehand.
const SMALL_BYTES: usize = 16 << 10;

/// Blocks up to this many bytes are hashed on the spot, because handing them to another thread takes as long.
const HASH_HERE_BYTES: usize = 32 << 10;

/// Messages of one stream that are being hashed while it is read on.
const PIPELINE: usize = 4;

/// A message that does not go on for so long is given up.
const STALL: Duration = Duration::from_secs(20);

/// A message that is not whole after so long is given up, even if a byte comes now and then: 4 MiB at 280 kbit/s.
const MESSAGE_TIME: Duration = Duration::from_secs(120);

/// Bytes per second that must come of a message that holds a place, when others wait for one. 64 places at this rate are
/// 1 MiB/s: with much more, a node with a slow line would cut off peers that are slow because of itself; with much less,
/// peers that trickle would hold the places almost for nothing.
const PLACE_RATE: usize = 16 << 10;

/// What such a message may be behind that, so that a short pause in the network is none in vain.
const PLACE_GRACE: Duration = Duration::from_secs(5);

/// The engine is told that a message is arriving after so many bytes of it.
const SIGN_BYTES: usize = 64 << 10;

/// Reads one stream.
pub(super) struct Reader {
    link: LinkId,
    peer: PeerId,
    shared: Arc<Shared>,
    readers: Arc<AtomicUsize>,
    /// The connection is gone.
    gone: CancellationToken,
}

/// Why a stream is not read any further.
enum End {
    /// The peer closed or reset it, or the connection is gone.
    Closed,
    /// Too little came of a large message while other peers waited.
    Slow,
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
type Hashing = JoinHandle<(Incoming, Option<Place>)>;

/// What comes next in a stream.
enum Next {
    Hashed(Result<(Incoming, Option<Place>), tokio::task::JoinError>),
    Place(Place),
    Bytes(usize),
}

/// The time that a message took. It runs only while its bytes are waited for, not while it waits for others: peers are
/// not to be blamed for what they can't help.
#[derive(Debug, Default)]
struct Clock {
    /// Since it began.
    spent: Duration,
    /// Of that, what was before it had a place.
    without: Duration,
}

impl Clock {
    /// How long it may hold its place without another byte, when others wait and so much of it is here.
    fn allowance(&self, buffered: usize) -> Duration {
        let due = Duration::from_secs_f64(buffered as f64 / PLACE_RATE as f64);
        (PLACE_GRACE + due).saturating_sub(self.spent.saturating_sub(self.without))
    }
}

impl Reader {
    pub(super) fn new(
        link: LinkId,
        peer: PeerId,
        shared: Arc<Shared>,
        readers: Arc<AtomicUsize>,
        gone: CancellationToken,
    ) -> Self {
        readers.fetch_add(1, Ordering::Relaxed);
        Self {
            link,
            peer,
            shared,
            readers,
            gone,
        }
    }

    pub(super) async fn run(self, mut stream: Stream) {
        let stop = self.shared.stop.clone();
        let end = tokio::select! {
            () = stop.cancelled() => return,
            end = self.read(&mut stream) => end,
        };
        match end {
            Ok(()) | Err(End::Closed) => {}
            Err(End::Slow) => tracing::debug!(peer = %self.peer, "a large message came too slowly while others waited"),
            Err(End::Broken(how)) => {
                let (link, peer) = (self.link, self.peer);
                self.shared.tell(Control::Broke { link, peer, how });
            }
        }
    }

    /// Reads until the stream ends. What was whole by then counts, however it ends.
    async fn read(&self, stream: &mut (impl AsyncRead + Unpin)) -> Result<(), End> {
        let mut hashing = FuturesOrdered::new();
        let end = self.read_messages(stream, &mut hashing).await;
        while let Some(hashed) = hashing.next().await {
            self.deliver(hashed).await?;
        }
        end
    }

    async fn read_messages(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        hashing: &mut FuturesOrdered<Hashing>,
    ) -> Result<(), End> {
        let mut decoder = FrameDecoder::new();
        let mut buffer = vec![0; READ_BYTES];
        let mut waiting: Option<Waiting> = None;
        let mut place: Option<Place> = None;
        // While a message is under way.
        let mut clock: Option<Clock> = None;
        let mut signed = 0;
        loop {
            let full = hashing.len() >= PIPELINE;
            let buffered = decoder.buffered();
            if place.is_none() && buffered > SMALL_BYTES && waiting.is_none() {
                waiting = Some(self.shared.room.enter(self.peer));
            }
            let reads = !full && waiting.is_none();
            let since = Instant::now();
            let next = tokio::select! {
                biased;
                Some(hashed) = hashing.next(), if !hashing.is_empty() => Next::Hashed(hashed),
                got = taken(&mut waiting) => Next::Place(got),
                // While it is not read, nothing else tells; and peers that come and go would make the queue ever longer.
                () = self.gone.cancelled(), if waiting.is_some() => return Err(End::Closed),
                count = read_some(stream, &mut buffer, clock.as_ref()), if reads => Next::Bytes(count?),
                () = too_slow(place.as_mut(), clock.as_ref(), buffered), if reads => return Err(End::Slow),
            };
            if let Some(clock) = clock.as_mut().filter(|_| reads) {
                clock.spent += since.elapsed();
            }
            let count = match next {
                Next::Hashed(hashed) => {
                    self.deliver(hashed).await?;
                    continue;
                }
                Next::Place(got) => {
                    (place, waiting) = (Some(got), None);
                    if let Some(clock) = &mut clock {
                        clock.without = clock.spent;
                    }
                    continue;
                }
                Next::Bytes(count) => count,
            };
            if count == 0 {
                // Yamux says the same when a stream is reset, as peers do that give a message up or stop; so it is no
                // breach to end inside a message.
                if let Err(error) = decoder.finish() {
                    tracing::debug!(peer = %self.peer, %error, "a message was cut off");
                }
                return Ok(());
            }
            self.shared.bytes_in.fetch_add(count as u64, Ordering::Relaxed);
            let mut input = &buffer[..count];
            while let Some(frame) = decoder.decode(&mut input)? {
                let message = Message::decode(frame)?;
                (clock, signed) = (None, 0);
                self.identify(message, place.take(), hashing).await?;
            }
            if decoder.finish().is_err() {
                clock.get_or_insert_default();
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
        large: Option<Place>,
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

    async fn deliver(&self, hashed: Result<(Incoming, Option<Place>), tokio::task::JoinError>) -> Result<(), End> {
        // The thread panicked, or the runtime ends.
        let (message, large) = hashed.map_err(|_| End::Closed)?;
        self.hand_over(message, large).await
    }

    async fn hand_over(&self, message: Incoming, large: Option<Place>) -> Result<(), End> {
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
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place that is waited for, if one is.
async fn taken(waiting: &mut Option<Waiting>) -> Place {
    match waiting {
        Some(waiting) => waiting.await,
        None => pending().await,
    }
}

/// Waits until the place of a message has gone to another peer, because too little of it came.
async fn too_slow(place: Option<&mut Place>, clock: Option<&Clock>, buffered: usize) {
    let (Some(place), Some(clock)) = (place, clock) else {
        return pending().await;
    };
    sleep(clock.allowance(buffered)).await;
    place.give_way().await;
}

/// Reads what there is. Between messages a stream may be silent as long as it likes, inside one it may not.
async fn read_some(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
    clock: Option<&Clock>,
) -> Result<usize, End> {
    let Some(clock) = clock else {
        return Ok(stream.read(buffer).await?);
    };
    let left = MESSAGE_TIME.saturating_sub(clock.spent);
    match timeout(left.min(STALL), stream.read(buffer)).await {
        Ok(count) => Ok(count?),
        Err(_) if left < STALL => Err(End::Broken(format!(
            "a message was not whole after {} s",
            MESSAGE_TIME.as_secs()
        ))),
        Err(_) => Err(End::Broken(format!(
            "a message did not go on for {} s",
            STALL.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use cluster_bitswap::{Ask, BlockHasher as _, Entry, MessageBuilder, Sha2Hasher, Version, WantKind};
    use futures::TryStreamExt as _;
    use futures::channel::mpsc::{UnboundedSender, unbounded};
    use tokio::sync::mpsc;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::bitswap::room::{PLACES_OF_PEER, PLACES_UNASKED};

    /// Longer than a message may take.
    const LONG: Duration = Duration::from_secs(1_000);

    /// A stream that is read, and what comes of it.
    struct Read {
        bytes: UnboundedSender<io::Result<Vec<u8>>>,
        messages: mpsc::Receiver<Arrived>,
        shared: Arc<Shared>,
        gone: CancellationToken,
        end: JoinHandle<Result<(), End>>,
    }

    impl Read {
        fn start() -> Self {
            let (control, _) = mpsc::unbounded_channel();
            let (sender, messages) = mpsc::channel(4);
            let shared = Shared::new(control, sender, TaskTracker::new(), CancellationToken::new());
            let (shared, gone) = (Arc::new(shared), CancellationToken::new());
            let (link, peer) = (LinkId(1), PeerId::random());
            let reader = Reader::new(link, peer, shared.clone(), Arc::default(), gone.clone());
            let (bytes, stream) = unbounded();
            let mut stream = stream.into_async_read();
            let end = tokio::spawn(async move { reader.read(&mut stream).await });
            Self {
                bytes,
                messages,
                shared,
                gone,
                end,
            }
        }

        fn send(&self, bytes: &[u8]) {
            self.bytes.unbounded_send(Ok(bytes.to_vec())).expect("it is read");
        }

        async fn has_read(&self, bytes: usize) {
            while self.shared.bytes_in.load(Ordering::Relaxed) < bytes as u64 {
                tokio::task::yield_now().await;
            }
        }

        /// Takes all places that there are for peers which are not asked for anything.
        async fn fill(&self) -> Vec<Place> {
            let mut places = Vec::new();
            while places.len() < PLACES_UNASKED {
                let peer = PeerId::random();
                for _ in 0..PLACES_OF_PEER {
                    places.push(self.shared.room.enter(peer).await);
                }
            }
            places
        }

        async fn message(&mut self) {
            let arrived = self.messages.recv().await.expect("it is read");
            assert!(arrived.message.is_some());
        }
    }

    /// A message of some 40 KiB, and how much of it is large.
    fn large() -> (bytes::Bytes, usize) {
        let mut message = MessageBuilder::new(Version::V1_2, 4 << 20);
        for number in 0..1_000u32 {
            let digest = Sha2Hasher.digest(0x12, 32, &number.to_be_bytes()).expect("known");
            let ask = Ask::Want {
                kind: WantKind::Block,
                priority: 1,
                send_dont_have: false,
            };
            let cid = cid::Cid::new_v1(0x55, digest);
            assert!(message.entry(&Entry { cid, ask }).expect("sayable"));
        }
        let frame = message.take_frame();
        assert!(frame.len() > 2 * SMALL_BYTES);
        (frame, SMALL_BYTES + 1_000)
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_place_is_not_held_against_a_message() {
        let mut read = Read::start();
        let places = read.fill().await;
        let (frame, some) = large();
        read.send(&frame[..some]);
        read.has_read(SMALL_BYTES).await;
        sleep(LONG).await;
        assert!(!read.end.is_finished());
        read.send(&frame[some..]);
        drop(places);
        read.message().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_trickles_goes_on_until_others_wait() {
        let mut read = Read::start();
        let (frame, some) = large();
        read.send(&frame[..some]);
        let mut pieces = frame[some..].chunks(10);
        // Next to nothing, for longer than it may be behind.
        for _ in 0..10 {
            read.send(pieces.next().expect("more"));
            sleep(Duration::from_secs(1)).await;
        }
        assert!(!read.end.is_finished());
        let mut places = Vec::new();
        let peers: Vec<_> = (0..PLACES_UNASKED).map(|_| PeerId::random()).collect();
        for peer in peers {
            places.push(read.shared.room.enter(peer).await);
        }
        let end = (&mut read.end).await.expect("no panic");
        assert!(matches!(end, Err(End::Slow)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_in_the_midst_of_a_message_is_no_breach() {
        let mut read = Read::start();
        let (frame, some) = large();
        read.send(&frame);
        read.send(&frame[..some]);
        read.bytes.close_channel();
        read.message().await;
        assert!((&mut read.end).await.expect("no panic").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_place_leaves_with_its_connection() {
        let mut read = Read::start();
        let places = read.fill().await;
        let (frame, some) = large();
        read.send(&frame[..some]);
        read.has_read(SMALL_BYTES).await;
        read.gone.cancel();
        let end = (&mut read.end).await.expect("no panic");
        assert!(matches!(end, Err(End::Closed)));
        drop(places);
    }

    #[test]
    fn time_counts_against_a_place_from_when_it_is_held_and_bytes_make_up_for_it() {
        let mut clock = Clock {
            spent: Duration::from_secs(60),
            without: Duration::from_secs(60),
        };
        assert_eq!(clock.allowance(PLACE_RATE), Duration::from_secs(6));
        clock.spent += Duration::from_secs(4);
        assert_eq!(clock.allowance(PLACE_RATE), Duration::from_secs(2));
        assert_eq!(clock.allowance(3 * PLACE_RATE), Duration::from_secs(4));
        clock.spent += Duration::from_secs(40);
        assert_eq!(clock.allowance(3 * PLACE_RATE), Duration::ZERO);
    }
}
