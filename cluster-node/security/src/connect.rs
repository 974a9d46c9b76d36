//! The calling side: gRPC channels to peers, found by their IDs.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use node_core::PeerId;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use tracing::{debug, warn};

use crate::tls::WrongPeer;
use crate::{LogLimit, PeerTls};

/// Where a peer is reached at the moment, `host:port`, the best first. Asked at every attempt to connect.
pub trait Addresses: Send + Sync + 'static {
    /// Empty when the peer is not known.
    fn addresses(&self, peer: &PeerId) -> Vec<String>;
}

impl<F: Fn(&PeerId) -> Vec<String> + Send + Sync + 'static> Addresses for F {
    fn addresses(&self, peer: &PeerId) -> Vec<String> {
        self(peer)
    }
}

/// What a connection is for. Each has its own, so that a snapshot never delays a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Votes, which must not wait behind log entries.
    Vote,
    /// Heartbeats and log entries.
    Append,
    /// Snapshot files.
    Snapshot,
    /// Writes handed to the leader.
    Forward,
    /// Short questions.
    Query,
    /// Long answers, which wait for whoever reads them. With small windows, so that some that nobody reads leave room on
    /// the connection for the others.
    Scan,
    /// Blocks: many bytes, so that short questions do not wait behind them.
    Content,
}

/// Timing and windows of connections between peers.
#[derive(Debug, Clone)]
pub struct ConnectorOptions {
    /// For the TCP connection and for the handshake, each, per address.
    pub connect_timeout: Duration,
    /// Silence after which the other side is asked whether it lives.
    pub keepalive_interval: Duration,
    /// How long it may take to say so.
    pub keepalive_timeout: Duration,
    /// Bytes in flight on one stream.
    pub stream_window_bytes: u32,
    /// The same for [`Purpose::Scan`]. The connection's window divided by it is how many of them may stand still without
    /// holding up the next one.
    pub scan_window_bytes: u32,
    /// Bytes in flight on one connection.
    pub connection_window_bytes: u32,
}

impl Default for ConnectorOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(5),
            keepalive_timeout: Duration::from_secs(5),
            stream_window_bytes: 4 << 20,
            scan_window_bytes: 128 << 10,
            connection_window_bytes: 16 << 20,
        }
    }
}

/// Why a peer could not be reached.
#[derive(Debug)]
pub struct ConnectError {
    /// Which one.
    pub peer: PeerId,
    /// What each address said, in the order in which they were tried. Empty when no address is known.
    pub attempts: Vec<(String, Attempt)>,
}

/// Why one address did not lead to the peer.
#[derive(Debug, thiserror::Error)]
pub enum Attempt {
    /// Nothing there.
    #[error("{0}")]
    Connect(io::Error),
    /// Something there, but not the peer, or it refused us.
    #[error("{0}")]
    Handshake(io::Error),
    /// No answer in time.
    #[error("no answer in {} ms", .0.as_millis())]
    Timeout(Duration),
}

impl ConnectError {
    /// Whether something answered that is not the wanted peer.
    pub fn is_wrong_peer(&self) -> bool {
        self.attempts
            .iter()
            .any(|(_, attempt)| matches!(attempt, Attempt::Handshake(error) if wrong_peer(error).is_some()))
    }

    fn is_handshake(&self) -> bool {
        self.attempts
            .iter()
            .any(|(_, attempt)| matches!(attempt, Attempt::Handshake(_)))
    }
}

impl std::error::Error for ConnectError {}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.attempts.is_empty() {
            return write!(f, "no address of peer {} is known", self.peer);
        }
        write!(f, "peer {} can't be reached", self.peer)?;
        for (at, (address, attempt)) in self.attempts.iter().enumerate() {
            let sign = if at == 0 { ':' } else { ';' };
            match attempt {
                Attempt::Handshake(error) => match wrong_peer(error) {
                    Some(wrong) => write!(f, "{sign} {address}: {wrong}")?,
                    None => write!(f, "{sign} {address}: the handshake failed: {error}")?,
                },
                other => write!(f, "{sign} {address}: {other}")?,
            }
        }
        Ok(())
    }
}

fn wrong_peer(error: &io::Error) -> Option<&WrongPeer> {
    let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = tls else {
        return None;
    };
    other.0.downcast_ref::<WrongPeer>()
}

/// Makes and keeps channels to peers. Cheap to clone.
#[derive(Clone)]
pub struct PeerConnector {
    shared: Arc<Shared>,
}

struct Shared {
    tls: PeerTls,
    addresses: Arc<dyn Addresses>,
    options: ConnectorOptions,
    // Bounded by the number of members: the callers ask for members only, and removed ones are forgotten.
    channels: Mutex<HashMap<(PeerId, Purpose), Channel>>,
    log_limit: LogLimit,
}

impl fmt::Debug for PeerConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerConnector")
            .field("tls", &self.shared.tls)
            .finish_non_exhaustive()
    }
}

impl PeerConnector {
    /// `addresses` is asked at every attempt, so a peer that moved is found at its new place without a restart.
    pub fn new(tls: PeerTls, addresses: Arc<dyn Addresses>, options: ConnectorOptions) -> Self {
        Self {
            shared: Arc::new(Shared {
                tls,
                addresses,
                options,
                channels: Mutex::new(HashMap::new()),
                log_limit: LogLimit::default(),
            }),
        }
    }

    /// The channel to a peer for a purpose. Connects with the first request, and anew after a loss with the next one; a
    /// request on a peer that can't be reached fails with `UNAVAILABLE` as soon as that is known. Waiting between
    /// attempts is up to the caller.
    pub fn channel(&self, peer: PeerId, purpose: Purpose) -> Channel {
        let mut channels = self.shared.channels.lock();
        channels
            .entry((peer, purpose))
            .or_insert_with(|| {
                let shared = self.shared.clone();
                self.shared
                    .endpoint(&peer, purpose)
                    .connect_with_connector_lazy(service_fn(move |_| {
                        let shared = shared.clone();
                        async move {
                            let addresses = shared.addresses.addresses(&peer);
                            shared.dial(peer, &addresses).await.map(TokioIo::new)
                        }
                    }))
            })
            .clone()
    }

    /// Connects now, to a peer that need not be a member yet. The channel is the caller's; it connects to the same
    /// addresses again when it is lost.
    pub async fn connect(&self, expected: PeerId, addresses: &[String]) -> Result<Channel, ConnectError> {
        let first = self.shared.dial(expected, addresses).await?;
        let first = Arc::new(Mutex::new(Some(first)));
        let shared = self.shared.clone();
        let addresses: Arc<[String]> = addresses.into();
        let channel = self
            .shared
            .endpoint(&expected, Purpose::Query)
            .connect_with_connector_lazy(service_fn(move |_| {
                let ready = first.lock().take();
                let shared = shared.clone();
                let addresses = addresses.clone();
                async move {
                    match ready {
                        Some(stream) => Ok(stream),
                        None => shared.dial(expected, &addresses).await,
                    }
                    .map(TokioIo::new)
                }
            }));
        Ok(channel)
    }

    /// Drops the channels to a peer, as when it was removed. Requests under way on them end as they do.
    pub fn forget(&self, peer: &PeerId) {
        self.shared.channels.lock().retain(|(of, _), _| of != peer);
    }

    /// Drops the channels to all peers but those named.
    pub fn retain(&self, keep: impl Fn(&PeerId) -> bool) {
        self.shared.channels.lock().retain(|(of, _), _| keep(of));
    }
}

impl Shared {
    fn endpoint(&self, peer: &PeerId, purpose: Purpose) -> Endpoint {
        let stream_window_bytes = match purpose {
            Purpose::Scan => self.options.scan_window_bytes,
            _ => self.options.stream_window_bytes,
        };
        // The name goes into requests' `:authority`, and is never resolved.
        Endpoint::from_shared(format!("http://{peer}"))
            .expect("a peer ID is letters and digits")
            .http2_keep_alive_interval(self.options.keepalive_interval)
            .keep_alive_timeout(self.options.keepalive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(stream_window_bytes)
            .initial_connection_window_size(self.options.connection_window_bytes)
    }

    async fn dial(&self, peer: PeerId, addresses: &[String]) -> Result<TlsStream<TcpStream>, ConnectError> {
        let tls = TlsConnector::from(self.tls.client(peer));
        let mut attempts = Vec::new();
        for address in addresses {
            match self.dial_one(&tls, address).await {
                Ok(stream) => {
                    debug!(%peer, address, "connected to a peer");
                    return Ok(stream);
                }
                Err(error) => attempts.push((address.clone(), error)),
            }
        }
        let error = ConnectError { peer, attempts };
        // Not reached is everyday, and the callers report it; a failed handshake is a misconfiguration or an attack.
        if !error.is_handshake() {
            debug!(%peer, reason = %error, "a peer could not be reached");
        } else if let Some(suppressed) = self.log_limit.allow() {
            warn!(%peer, reason = %error, suppressed, "a peer's address leads to something else");
        }
        Err(error)
    }

    async fn dial_one(&self, tls: &TlsConnector, address: &str) -> Result<TlsStream<TcpStream>, Attempt> {
        let limit = self.options.connect_timeout;
        let tcp = tokio::time::timeout(limit, TcpStream::connect(address))
            .await
            .map_err(|_| Attempt::Timeout(limit))?
            .map_err(Attempt::Connect)?;
        tcp.set_nodelay(true).map_err(Attempt::Connect)?;
        let name = ServerName::try_from("peer.pinfleet.invalid").expect("it is a DNS name");
        tokio::time::timeout(limit, tls.connect(name, tcp))
            .await
            .map_err(|_| Attempt::Timeout(limit))?
            .map_err(Attempt::Handshake)
    }
}
