//! The listening side: TCP connections in, proven peers out.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use node_core::PeerId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use crate::tls::proven_peer;
use crate::{CertificateError, LogLimit, Members, Membership, PeerTls};

/// Connections that are proven but not yet taken over by the server, which takes them at once.
const READY_MAX: usize = 64;
/// Pause after the system could not give a connection, as when all file descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bounds of a [`PeerAcceptor`].
#[derive(Debug, Clone)]
pub struct AcceptorOptions {
    /// Handshakes at the same time; more wait in the system's backlog.
    pub handshakes_max: usize,
    /// After which a handshake is given up.
    pub handshake_timeout: Duration,
    /// Connections of strangers at the same time: they come to join, one by one.
    pub strangers_max: usize,
    /// How long a stranger may stay without having become a member.
    pub stranger_time_max: Duration,
}

impl Default for AcceptorOptions {
    fn default() -> Self {
        Self {
            handshakes_max: 256,
            handshake_timeout: Duration::from_secs(3),
            strangers_max: 16,
            stranger_time_max: Duration::from_secs(60),
        }
    }
}

/// A stream of connections whose other side has proven its key; for `serve_with_incoming` of tonic's server.
///
/// Stops listening when it is dropped.
#[derive(Debug)]
pub struct PeerAcceptor {
    ready: mpsc::Receiver<PeerStream>,
    local_address: SocketAddr,
    task: JoinHandle<()>,
}

/// What is known of a connection. Is in the extensions of each request on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerConnection {
    /// Who is on the other side, proven.
    pub peer: PeerId,
    /// From where.
    pub remote: SocketAddr,
}

/// An accepted connection.
pub struct PeerStream {
    tls: TlsStream<TcpStream>,
    connection: PeerConnection,
    probation: Option<Probation>,
}

/// A stranger's time and place, until it goes or is a member.
struct Probation {
    end: Pin<Box<Sleep>>,
    members: Arc<dyn Members>,
    _place: OwnedSemaphorePermit,
}

struct Shared {
    tls: TlsAcceptor,
    members: Arc<dyn Members>,
    options: AcceptorOptions,
    strangers: Arc<Semaphore>,
    log_limit: LogLimit,
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no handshake within {0:?}")]
    Timeout(Duration),
    #[error("the handshake failed: {0}")]
    Handshake(#[from] io::Error),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("{0} strangers are connected already")]
    Strangers(usize),
}

impl PeerAcceptor {
    /// Begins to accept. Must be called inside a tokio runtime.
    pub fn new(
        listener: TcpListener,
        tls: &PeerTls,
        members: Arc<dyn Members>,
        options: AcceptorOptions,
    ) -> io::Result<Self> {
        let local_address = listener.local_addr()?;
        let (proven, ready) = mpsc::channel(READY_MAX);
        let shared = Shared {
            tls: TlsAcceptor::from(tls.server()),
            members,
            strangers: Arc::new(Semaphore::new(options.strangers_max)),
            log_limit: LogLimit::default(),
            options,
        };
        let task = tokio::spawn(accept(listener, Arc::new(shared), proven));
        Ok(Self {
            ready,
            local_address,
            task,
        })
    }

    /// Where it listens.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }
}

impl Drop for PeerAcceptor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream for PeerAcceptor {
    type Item = io::Result<PeerStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|stream| stream.map(Ok))
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, proven: mpsc::Sender<PeerStream>) {
    let places = Arc::new(Semaphore::new(shared.options.handshakes_max));
    // Dropped with this task, which ends all handshakes.
    let mut handshakes = JoinSet::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let (tcp, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(suppressed) = shared.log_limit.allow() {
                    warn!(%error, suppressed, "a peer's connection could not be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while handshakes.try_join_next().is_some() {}
        let shared = shared.clone();
        let proven = proven.clone();
        handshakes.spawn(async move {
            let outcome = prove(&shared, tcp, remote).await;
            drop(place);
            match outcome {
                // The receiver is gone when the server stops: nobody waits for this connection then.
                Ok(stream) => drop(proven.send(stream).await),
                Err(error) => {
                    if let Some(suppressed) = shared.log_limit.allow() {
                        warn!(%remote, reason = %error, suppressed, "a peer's connection was refused");
                    }
                }
            }
        });
    }
}

async fn prove(shared: &Shared, tcp: TcpStream, remote: SocketAddr) -> Result<PeerStream, Refused> {
    tcp.set_nodelay(true)?;
    let timeout = shared.options.handshake_timeout;
    let tls = tokio::time::timeout(timeout, shared.tls.accept(tcp))
        .await
        .map_err(|_| Refused::Timeout(timeout))??;
    let peer = proven_peer(tls.get_ref().1.peer_certificates())?;
    let probation = match shared.members.membership(&peer) {
        Membership::Member => None,
        Membership::Stranger | Membership::Removed => {
            let place = shared
                .strangers
                .clone()
                .try_acquire_owned()
                .map_err(|_| Refused::Strangers(shared.options.strangers_max))?;
            Some(Probation {
                end: Box::pin(tokio::time::sleep(shared.options.stranger_time_max)),
                members: shared.members.clone(),
                _place: place,
            })
        }
    };
    debug!(%peer, %remote, "a peer connected");
    Ok(PeerStream {
        tls,
        connection: PeerConnection { peer, remote },
        probation,
    })
}

impl PeerStream {
    /// Who is on the other side.
    pub fn connection(&self) -> PeerConnection {
        self.connection
    }

    fn check_probation(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(probation) = &mut self.probation else {
            return Ok(());
        };
        if probation.end.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        if probation.members.membership(&self.connection.peer) == Membership::Member {
            self.probation = None;
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer did not become a member in time",
        ))
    }
}

impl fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerStream")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

impl Connected for PeerStream {
    type ConnectInfo = PeerConnection;

    fn connect_info(&self) -> PeerConnection {
        self.connection
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_probation(cx)?;
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}
