//! One connection, as Bitswap sees it: it opens streams for the lanes, and gives every stream that comes to a reader.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use cluster_bitswap::Version;
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandlerEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
    ProtocolsChange,
};
use libp2p::swarm::{ConnectionHandler, Stream, SubstreamProtocol};
use libp2p::{PeerId, swarm::StreamUpgradeError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::reader::Reader;
use super::upgrade::{Offer, best};
use super::{Control, LinkId, Shared};

/// Streams of one connection that are read at a time; each takes 16 KiB, and 16 KiB of a message that has begun.
/// Kubo has one open for its wants and up to eight that bring answers.
const READERS_MAX: usize = 32;

/// So many streams beyond [`READERS_MAX`] are no accident: the peer is reported.
const REFUSED_MAX: u32 = 256;

/// How long a peer may take to agree on a protocol for a stream.
const OPENING: Duration = Duration::from_secs(10);

/// Asks a connection for a stream.
#[derive(Debug, Clone)]
pub(crate) struct Opener(mpsc::UnboundedSender<oneshot::Sender<Result<Stream, String>>>);

impl Opener {
    /// An opener whose connection is gone.
    #[cfg(test)]
    pub(crate) fn of_nothing() -> Self {
        Self(mpsc::unbounded_channel().0)
    }

    /// A new stream.
    ///
    /// # Errors
    /// When the connection is gone, or the peer does not take the stream.
    pub(crate) async fn open(&self) -> Result<Stream, String> {
        let gone = || "the connection is gone".to_owned();
        let (answer, stream) = oneshot::channel();
        self.0.send(answer).map_err(|_| gone())?;
        stream.await.map_err(|_| gone())?
    }
}

/// The part of a connection that speaks Bitswap.
#[derive(Debug)]
pub(crate) struct Handler {
    link: LinkId,
    peer: PeerId,
    relayed: bool,
    shared: Arc<Shared>,
    /// Known when the peer is known to speak Bitswap; the driver has been told.
    version: Option<Version>,
    opener: Opener,
    /// Streams that are wanted: at most one for each lane.
    openings: mpsc::UnboundedReceiver<oneshot::Sender<Result<Stream, String>>>,
    readers: Arc<AtomicUsize>,
    refused: u32,
    /// The connection is gone.
    gone: CancellationToken,
}

impl Handler {
    pub(crate) fn new(link: LinkId, peer: PeerId, relayed: bool, shared: Arc<Shared>) -> Self {
        let (opener, openings) = mpsc::unbounded_channel();
        Self {
            link,
            peer,
            relayed,
            shared,
            version: None,
            opener: Opener(opener),
            openings,
            readers: Arc::new(AtomicUsize::new(0)),
            refused: 0,
            gone: CancellationToken::new(),
        }
    }

    /// The peer speaks Bitswap.
    fn up(&mut self, version: Version) {
        if self.version.is_none() {
            self.version = Some(version);
            self.shared.tell(Control::Up {
                link: self.link,
                peer: self.peer,
                version,
                relayed: self.relayed,
                opener: self.opener.clone(),
            });
        }
    }

    fn read(&mut self, stream: Stream) {
        if self.readers.load(Ordering::Relaxed) >= READERS_MAX {
            // Dropping it resets it.
            self.refused += 1;
            if self.refused == REFUSED_MAX {
                let how = format!("it opened {REFUSED_MAX} streams beyond the {READERS_MAX} that may be open");
                let (link, peer) = (self.link, self.peer);
                self.shared.tell(Control::Broke { link, peer, how });
            }
            return;
        }
        let reader = Reader::new(
            self.link,
            self.peer,
            self.shared.clone(),
            self.readers.clone(),
            self.gone.clone(),
        );
        self.shared.tasks.spawn(reader.run(stream));
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.gone.cancel();
        if self.version.is_some() {
            self.shared.tell(Control::Down { link: self.link });
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = std::convert::Infallible;
    type ToBehaviour = std::convert::Infallible;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = oneshot::Sender<Result<Stream, String>>;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        SubstreamProtocol::new(Offer, ()).with_timeout(OPENING)
    }

    /// Peers that speak Bitswap stay connected, until there are too many of them: finding them again costs more than
    /// keeping them.
    fn connection_keep_alive(&self) -> bool {
        self.version.is_some()
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Offer, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        match self.openings.poll_recv(context) {
            Poll::Ready(Some(answer)) => Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(Offer, answer).with_timeout(OPENING),
            }),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Offer, Offer, (), oneshot::Sender<Result<Stream, String>>>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                let (stream, version) = protocol;
                self.up(version);
                self.read(stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                // Fails when the lane has ended in the meantime.
                let _ = info.send(Ok(protocol.0));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let reason = match error {
                    StreamUpgradeError::Timeout => "the peer does not answer to a new stream".to_owned(),
                    StreamUpgradeError::NegotiationFailed => "the peer takes no stream of Bitswap".to_owned(),
                    StreamUpgradeError::Io(error) => error.to_string(),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = info.send(Err(reason));
            }
            ConnectionEvent::RemoteProtocolsChange(ProtocolsChange::Added(protocols)) => {
                if let Some(version) = best(protocols) {
                    self.up(version);
                }
            }
            _ => {}
        }
    }
}
