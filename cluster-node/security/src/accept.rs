//! The listening side: TCP connections in, proven peers out.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use node_core::PeerId;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
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
    /// Connections of strangers at the same time: they come to join, one by one. One more displaces another, so that
    /// whoever holds them all keeps nobody out: the oldest of the network that has the most.
    pub strangers_max: usize,
    /// Of these at most so many from one network, which is an IPv4 address or the first 64 bits of an IPv6 address. One
    /// more displaces the oldest of that network, so that a single source takes no place from others.
    pub strangers_per_network_max: usize,
    /// Connections of removed peers at the same time, which come to be told that they were removed. They have places of
    /// their own, with the same rule: peers that were removed and go on trying must not stand in the way of one that joins.
    pub removed_max: usize,
    /// How long a stranger or a removed peer may stay without having become a member.
    pub stranger_time_max: Duration,
}

impl Default for AcceptorOptions {
    fn default() -> Self {
        Self {
            handshakes_max: 256,
            handshake_timeout: Duration::from_secs(3),
            strangers_max: 32,
            // A cluster whose peers are all on one host, or behind one address, is founded with so many joins at once.
            strangers_per_network_max: 16,
            removed_max: 4,
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
    place: Place,
}

/// Places for connections of one kind, each of which may be displaced by a later one.
struct Places {
    max: usize,
    per_network_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    /// Number of the next place.
    next: u64,
    /// The oldest first.
    held: VecDeque<Held>,
}

struct Held {
    number: u64,
    connection: PeerConnection,
    displace: oneshot::Sender<()>,
}

/// A place, given back when it is dropped.
struct Place {
    number: u64,
    places: Arc<Places>,
    /// Tells that another has it now. Closed without a word once the peer is a member, which needs none.
    displaced: oneshot::Receiver<()>,
    /// That was told.
    is_displaced: bool,
}

impl Places {
    fn new(max: usize, per_network_max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            per_network_max,
            taken: Mutex::default(),
        })
    }

    /// A place, and whose connection it displaced. None only when there are no places at all.
    fn take(
        self: &Arc<Self>,
        connection: PeerConnection,
        members: &dyn Members,
    ) -> Option<(Place, Option<PeerConnection>)> {
        if self.max == 0 || self.per_network_max == 0 {
            return None;
        }
        let (displace, displaced) = oneshot::channel();
        let mut taken = self.taken.lock();
        let gone = taken.full_for(self, connection.remote).and_then(|_| {
            // Who has joined meanwhile needs no place, and its connection must not be closed for one.
            let is_stranger = |held: &Held| members.membership(&held.connection.peer) != Membership::Member;
            taken.held.retain(is_stranger);
            let at = taken.full_for(self, connection.remote)?;
            taken.held.remove(at)
        });
        let number = taken.next;
        taken.next += 1;
        taken.held.push_back(Held {
            number,
            connection,
            displace,
        });
        drop(taken);
        let place = Place {
            number,
            places: self.clone(),
            displaced,
            is_displaced: false,
        };
        let gone = gone.map(|gone| {
            // Its connection may have ended by itself just now.
            let _ = gone.displace.send(());
            gone.connection
        });
        Some((place, gone))
    }
}

impl Taken {
    /// Who has to go before one more from there has a place; none when there is one.
    fn full_for(&self, bounds: &Places, remote: SocketAddr) -> Option<usize> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for held in &self.held {
            *counts.entry(network_of(held.connection.remote)).or_default() += 1;
        }
        let network = network_of(remote);
        let crowded = if counts
            .get(&network)
            .is_some_and(|count| *count >= bounds.per_network_max)
        {
            network
        } else if self.held.len() >= bounds.max {
            // Of equals the one whose connection is the oldest.
            let networks = self.held.iter().map(|held| network_of(held.connection.remote));
            networks.rev().max_by_key(|network| counts.get(network).copied())?
        } else {
            return None;
        };
        self.held
            .iter()
            .position(|held| network_of(held.connection.remote) == crowded)
    }
}

impl Place {
    /// Whether another has it now; if not, the task is woken when it has.
    fn is_displaced(&mut self, cx: &mut Context<'_>) -> bool {
        // One that has told its end must not be asked again.
        if !self.displaced.is_terminated() {
            self.is_displaced = matches!(Pin::new(&mut self.displaced).poll(cx), Poll::Ready(Ok(())));
        }
        self.is_displaced
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.lock().held.retain(|held| held.number != self.number);
    }
}

/// What one source can choose its addresses from: everybody with IPv6 has 2^64 of them.
fn network_of(remote: SocketAddr) -> IpAddr {
    match remote.ip().to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

struct Shared {
    tls: TlsAcceptor,
    members: Arc<dyn Members>,
    options: AcceptorOptions,
    strangers: Arc<Places>,
    removed: Arc<Places>,
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
    #[error("there is no place for peers that are not members")]
    NoPlace,
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
            strangers: Places::new(options.strangers_max, options.strangers_per_network_max),
            removed: Places::new(options.removed_max, options.removed_max),
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
    let connection = PeerConnection { peer, remote };
    let places = match shared.members.membership(&peer) {
        Membership::Member => None,
        Membership::Stranger => Some(&shared.strangers),
        Membership::Removed => Some(&shared.removed),
    };
    let probation = match places {
        None => None,
        Some(places) => {
            let (place, displaced) = places.take(connection, &*shared.members).ok_or(Refused::NoPlace)?;
            if let Some(displaced) = displaced
                && let Some(suppressed) = shared.log_limit.allow()
            {
                warn!(
                    peer = %displaced.peer, remote = %displaced.remote, by = %peer, by_remote = %remote, suppressed,
                    "a connection was closed to make room for another, because neither peer is a member"
                );
            }
            Some(Probation {
                end: Box::pin(tokio::time::sleep(shared.options.stranger_time_max)),
                members: shared.members.clone(),
                place,
            })
        }
    };
    debug!(%peer, %remote, "a peer connected");
    Ok(PeerStream {
        tls,
        connection,
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
        let displaced = probation.place.is_displaced(cx);
        if !displaced && probation.end.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        if probation.members.membership(&self.connection.peer) == Membership::Member {
            self.probation = None;
            return Ok(());
        }
        Err(if displaced {
            io::Error::new(io::ErrorKind::ConnectionAborted, "another stranger took the place")
        } else {
            io::Error::new(io::ErrorKind::TimedOut, "the peer did not become a member in time")
        })
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
        // Also here: who does not read what it is sent could hold a server that writes, and with it a connection for which
        // there is no place any more.
        self.check_probation(cx)?;
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_probation(cx)?;
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
        self.check_probation(cx)?;
        Pin::new(&mut self.tls).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;
    use tokio_stream::StreamExt;

    use super::*;
    use crate::Identity;

    type ClientStream = tokio_rustls::client::TlsStream<TcpStream>;

    type Known = Arc<Mutex<HashMap<PeerId, Membership>>>;

    async fn listen(options: AcceptorOptions, known: Known) -> (PeerId, PeerAcceptor) {
        let identity = Identity::generate();
        let members = Arc::new(move |peer: &PeerId| known.lock().get(peer).copied().unwrap_or(Membership::Stranger));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let acceptor = PeerAcceptor::new(listener, &PeerTls::new(&identity), members, options).expect("it listens");
        (identity.peer_id(), acceptor)
    }

    async fn connect(identity: &Identity, to: PeerId, address: SocketAddr) -> ClientStream {
        let tls = TlsConnector::from(PeerTls::new(identity).client(to));
        let name = ServerName::try_from("peer.pinfleet.invalid").expect("a name");
        let tcp = TcpStream::connect(address).await.expect("it listens");
        tls.connect(name, tcp).await.expect("a handshake")
    }

    /// A server that sends back what it reads on each connection.
    struct Echo {
        peer: PeerId,
        address: SocketAddr,
        known: Known,
        task: JoinHandle<()>,
    }

    impl Drop for Echo {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    impl Echo {
        async fn new(options: AcceptorOptions) -> Self {
            let known = Known::default();
            let (peer, mut acceptor) = listen(options, known.clone()).await;
            let address = acceptor.local_address();
            let task = tokio::spawn(async move {
                let mut served = JoinSet::new();
                while let Some(Ok(mut stream)) = acceptor.next().await {
                    served.spawn(async move {
                        let mut byte = [0];
                        while stream.read_exact(&mut byte).await.is_ok() {
                            stream.write_all(&byte).await.expect("it is read");
                            stream.flush().await.expect("it is read");
                        }
                    });
                }
            });
            Self {
                peer,
                address,
                known,
                task,
            }
        }

        /// A connection that the server has taken over, on which nothing more is said.
        async fn hold(&self, membership: Membership) -> Client {
            let identity = Identity::generate();
            self.known.lock().insert(identity.peer_id(), membership);
            let mut held = Client(connect(&identity, self.peer, self.address).await);
            held.ask().await.expect("whoever comes gets in");
            held
        }
    }

    struct Client(ClientStream);

    impl Client {
        async fn ask(&mut self) -> io::Result<()> {
            self.0.write_all(b"?").await?;
            self.0.flush().await?;
            let mut byte = [0];
            self.0.read_exact(&mut byte).await.map(drop)
        }

        /// Returns when the server closes it.
        async fn closed(mut self) {
            let end = tokio::time::timeout(Duration::from_secs(10), self.0.read(&mut [0])).await;
            assert!(matches!(end.expect("it is closed"), Ok(0) | Err(_)));
        }
    }

    #[tokio::test]
    async fn idle_strangers_keep_nobody_out() {
        let server = Echo::new(AcceptorOptions {
            strangers_max: 16,
            ..AcceptorOptions::default()
        })
        .await;
        let mut idle = VecDeque::new();
        for _ in 0..16 {
            idle.push_back(server.hold(Membership::Stranger).await);
        }
        let mut joiner = server.hold(Membership::Stranger).await;
        idle.pop_front().expect("the oldest").closed().await;
        joiner.ask().await.expect("it stays");
        for held in &mut idle {
            held.ask().await.expect("one made room, and only one");
        }
    }

    #[tokio::test]
    async fn removed_peers_take_no_place_from_strangers_nor_strangers_from_them() {
        let server = Echo::new(AcceptorOptions {
            strangers_max: 2,
            removed_max: 2,
            ..AcceptorOptions::default()
        })
        .await;
        let mut stranger = server.hold(Membership::Stranger).await;
        let first = server.hold(Membership::Removed).await;
        let mut second = server.hold(Membership::Removed).await;
        let mut third = server.hold(Membership::Removed).await;
        first.closed().await;
        let mut newest = server.hold(Membership::Stranger).await;
        for held in [&mut stranger, &mut second, &mut third, &mut newest] {
            held.ask().await.expect("it has its place");
        }
        let _displaces = server.hold(Membership::Stranger).await;
        stranger.closed().await;
        second.ask().await.expect("the places of removed peers are their own");
    }

    #[tokio::test]
    async fn who_reads_nothing_is_displaced_all_the_same() {
        let options = AcceptorOptions {
            strangers_max: 1,
            ..AcceptorOptions::default()
        };
        let (peer, mut acceptor) = listen(options, Known::default()).await;
        let address = acceptor.local_address();
        let _reads_nothing = connect(&Identity::generate(), peer, address).await;
        let mut stream = acceptor.next().await.expect("a stream").expect("accepted");
        let writing = tokio::spawn(async move {
            loop {
                if let Err(error) = stream.write_all(&[0; 64 << 10]).await {
                    return error.kind();
                }
            }
        });
        let _displaces = connect(&Identity::generate(), peer, address).await;
        let ended = tokio::time::timeout(Duration::from_secs(10), writing).await;
        let kind = ended.expect("it is not held").expect("no panic");
        assert_eq!(kind, io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn strangers_do_not_stay_and_members_do() {
        let server = Echo::new(AcceptorOptions {
            stranger_time_max: Duration::from_millis(100),
            ..AcceptorOptions::default()
        })
        .await;
        let mut member = server.hold(Membership::Member).await;
        let stranger = server.hold(Membership::Stranger).await;
        stranger.closed().await;
        member.ask().await.expect("its time is not bounded");
    }

    fn none_joined(_: &PeerId) -> Membership {
        Membership::Stranger
    }

    fn from(address: &str) -> PeerConnection {
        PeerConnection {
            peer: Identity::generate().peer_id(),
            remote: format!("{address}:4001").parse().expect("valid"),
        }
    }

    fn take(places: &Arc<Places>, connection: PeerConnection) -> (Place, Option<PeerConnection>) {
        places.take(connection, &none_joined).expect("there are places")
    }

    #[test]
    fn whoever_comes_has_a_place_and_a_crowd_displaces_itself() {
        let places = Places::new(6, 4);
        let crowd: Vec<_> = (0..6).map(|number| from(&format!("[2001:db8::{number}]"))).collect();
        let mut held = Vec::new();
        for (at, one) in crowd.iter().enumerate() {
            let (place, displaced) = take(&places, *one);
            assert_eq!(displaced, at.checked_sub(4).map(|oldest| crowd[oldest]));
            held.push(place);
        }
        // Others come in: first while there is room, then in the place of the crowd's oldest.
        let others = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.3", "192.0.2.4"].map(from);
        let expected = [None, None, Some(crowd[2]), Some(crowd[3]), Some(crowd[4])];
        for (one, expected) in others.into_iter().zip(expected) {
            let (place, displaced) = take(&places, one);
            assert_eq!(displaced, expected);
            held.push(place);
        }
        // 192.0.2.3 has two now and the others one each.
        let (last, displaced) = take(&places, from("192.0.2.5"));
        assert_eq!(displaced, Some(others[2]));
        // Only the oldest is left to choose: nobody has more than one.
        assert_eq!(take(&places, from("192.0.2.6")).1, Some(crowd[5]));
        drop((held, last));
        assert!(places.taken.lock().held.is_empty(), "places are given back");
    }

    #[test]
    fn who_has_joined_makes_room_and_is_not_displaced() {
        let places = Places::new(2, 2);
        let (joined, other) = (from("192.0.2.1"), from("192.0.2.1"));
        let members = move |peer: &PeerId| {
            if *peer == joined.peer {
                Membership::Member
            } else {
                Membership::Stranger
            }
        };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut first, _) = take(&places, joined);
        let (mut second, _) = take(&places, other);
        let (_third, displaced) = places.take(from("192.0.2.1"), &members).expect("a place");
        assert_eq!(displaced, None);
        assert!(!first.is_displaced(&mut cx) && !first.is_displaced(&mut cx));
        assert!(!second.is_displaced(&mut cx));
        let (_fourth, displaced) = places.take(from("192.0.2.1"), &members).expect("a place");
        assert_eq!(displaced, Some(other));
        assert!(second.is_displaced(&mut cx));
    }

    #[test]
    fn addresses_of_one_source_are_one_network() {
        for (address, network) in [
            ("192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]", "192.0.2.1"),
            ("[2001:db8:1:2:3:4:5:6]", "2001:db8:1:2::"),
        ] {
            assert_eq!(
                network_of(from(address).remote),
                network.parse::<IpAddr>().expect("valid")
            );
        }
        assert!(Places::new(0, 1).take(from("192.0.2.1"), &none_joined).is_none());
    }
}
