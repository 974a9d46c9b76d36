//! The servers: for clients, and for other peers.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use cluster_consensus::Consensus;
use cluster_proto::peer::v1::peers_server::PeersServer;
use cluster_proto::v1::access_server::AccessServer;
use cluster_proto::v1::cluster_server::ClusterServer;
use cluster_proto::v1::content_server::ContentServer;
use cluster_proto::v1::pins_server::PinsServer;
use cluster_security::{AcceptorOptions, MemberGuardLayer, PeerAcceptor, PeerTls};
use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::admission::Admission;
use super::channels::AddressBook;
use super::local::LocalSocket;
use super::supervise::supervised;
use super::vouching::Vouching;
use crate::api::{AccessApi, CallerLayer, ClusterApi, ContentApi, ErrorDetailsLayer, PeerApi, PinsApi};
use crate::config::{Auth, Config};
use crate::service::{Access, Pins};
use crate::telemetry::{GrpcMetricsLayer, Health, Metrics};

/// The method that a peer may call before it is a member.
const JOIN_PATH: &str = "/pinfleet.peer.v1.Peers/Join";

/// The methods on which a peer that this one does not know may be its leader.
const RAFT_PATHS: &str = "/pinfleet.peer.v1.Raft/";

/// Largest message between peers: a chunk of a snapshot or of a ledger is far below it.
const PEER_MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Requests open on one connection of another peer. It has a connection for each purpose and batches what it asks: a
/// few dozen are in use, a scan for each list of its clients included.
const PEER_STREAMS_MAX: u32 = 256;

/// Bytes that a client may send of one stream before they are read.
const CLIENT_STREAM_WINDOW: u32 = 512 << 10;

/// The same for all streams of a connection. What clients send in small pieces (files of an add, items of a bulk stream) costs
/// more than its bytes while it waits here, and h2 ends the connection as hostile when that is more than half of this
/// window: a piece below 256 bytes counts for 256. With 64 times the window of a stream, a stream of the smallest messages
/// there are (11 bytes on average) that nobody reads for some time stays below it.
const CLIENT_CONNECTION_WINDOW: u32 = 32 << 20;

/// A server that runs.
pub struct Serving {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Serving {
    /// Takes no more connections, and waits so long until those that are open have ended.
    pub async fn stop(self, limit: Duration) -> bool {
        self.stop.cancel();
        tokio::time::timeout(limit, self.task).await.is_ok()
    }
}

/// Serves other peers. Beside Raft, on its runtime, so that no client and no daemon can delay a heartbeat.
pub fn serve_peers(
    listener: std::net::TcpListener,
    tls: PeerTls,
    book: Arc<AddressBook>,
    vouching: Vouching,
    consensus: &Consensus,
    pins: Arc<Pins>,
    health: &Health,
) -> Serving {
    let members = Arc::new(move |peer: &node_core::PeerId| book.membership(peer));
    let guard = MemberGuardLayer::new(members.clone(), [JOIN_PATH]).vouched(Arc::new(vouching), RAFT_PATHS);
    let peer_service = PeersServer::new(PeerApi::new(pins, Handle::current()))
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX);
    let raft_service = consensus.raft_service();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let served = async move {
        let listener = TcpListener::from_std(listener)?;
        let acceptor = PeerAcceptor::new(listener, &tls, members, AcceptorOptions::default())?;
        let server = Server::builder()
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .max_concurrent_streams(PEER_STREAMS_MAX)
            .layer(guard)
            .add_service(raft_service)
            .add_service(peer_service);
        server
            .serve_with_incoming_shutdown(acceptor, stopped.cancelled())
            .await?;
        Ok(())
    };
    let task = supervised("peer server", health.clone(), stop.clone(), served);
    Serving {
        stop,
        task: consensus.runtime().spawn(task),
    }
}

/// Serves clients: at the address of the configuration, and at the socket in the peer's folder.
#[allow(clippy::too_many_arguments, reason = "it wires what the peer is made of")]
pub fn serve_clients(
    listener: TcpListener,
    admin_socket: &Path,
    pins: Arc<Pins>,
    access: Arc<Access>,
    metrics: Metrics,
    config: &Config,
    admission: Admission,
    health: &Health,
) -> anyhow::Result<Serving> {
    let bytes = usize::try_from(config.api.message_bytes_max).unwrap_or(usize::MAX);
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(cluster_proto::PUBLIC_FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // What the details of an error are made of: without it a client that knows nothing shows bytes.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let routes = Routes::new(health_service)
        .add_service(reflection)
        // Answers are bounded by their chunks; a page of 1,000 pins with the longest metadata exceeds what a message
        // of a client may be.
        .add_service(
            PinsServer::new(PinsApi(pins.clone()))
                .max_decoding_message_size(bytes)
                .max_encoding_message_size(64 << 20),
        )
        .add_service(
            ContentServer::new(ContentApi::new(pins.clone()))
                .max_decoding_message_size(bytes)
                .max_encoding_message_size(64 << 20),
        )
        .add_service(AccessServer::new(AccessApi(access.clone())).max_decoding_message_size(bytes))
        .add_service(ClusterServer::new(ClusterApi(pins)).max_decoding_message_size(bytes));
    let door = |required| CallerLayer {
        access: access.clone(),
        required,
    };
    let (required, streams_max) = (config.api.auth == Auth::Required, config.api.streams_max);
    let (open, asking) = (door(false), door(required));
    let socket = match LocalSocket::bind(admin_socket) {
        Ok(socket) => Some(socket),
        Err(error) if required => {
            return Err(error).with_context(|| {
                format!(
                    "{}: can't listen there, and with api.auth = \"required\" it is how the first credential is made; the folder's \
                     path may be too long for a socket",
                    admin_socket.display()
                )
            });
        }
        Err(error) => {
            tracing::warn!(path = %admin_socket.display(), %error, "the peer's own socket can't be listened at");
            None
        }
    };
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let followed = health.clone();
    // Without it an answer of more than one segment waits for the acknowledgement of the first, which clients delay by
    // 40 ms.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = async move {
        let surface = |door| Surface {
            routes: routes.clone(),
            door,
            metrics: metrics.clone(),
            admission: admission.clone(),
            streams_max,
            stopped: stopped.clone(),
        };
        let clients = surface(asking).serve(incoming);
        let owner = async {
            match socket {
                Some(socket) => surface(open).serve(socket.owners()).await,
                None => {
                    stopped.cancelled().await;
                    Ok(())
                }
            }
        };
        tokio::select! {
            served = async { tokio::try_join!(clients, owner) } => { served?; }
            () = tell_health(reporter, followed) => {}
        }
        Ok(())
    };
    let task = supervised("api server", health.clone(), stop.clone(), served);
    Ok(Serving {
        stop,
        task: tokio::spawn(task),
    })
}

/// What clients are served, and how.
struct Surface {
    routes: Routes,
    door: CallerLayer,
    metrics: Metrics,
    admission: Admission,
    streams_max: u32,
    stopped: CancellationToken,
}

impl Surface {
    async fn serve<C>(self, incoming: impl Stream<Item = io::Result<C>>) -> Result<(), tonic::transport::Error>
    where
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        C::ConnectInfo: Clone + Send + Sync + 'static,
    {
        Server::builder()
            .max_concurrent_streams(self.streams_max)
            .initial_stream_window_size(CLIENT_STREAM_WINDOW)
            .initial_connection_window_size(CLIENT_CONNECTION_WINDOW)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .layer(GrpcMetricsLayer::new(self.metrics))
            .layer(self.admission)
            // Behind the door of what may be open at all, so that those who guess at credentials are bounded too.
            .layer(self.door)
            .layer(ErrorDetailsLayer)
            .add_routes(self.routes)
            .serve_with_incoming_shutdown(incoming, self.stopped.cancelled())
            .await
    }
}

/// Answers of the gRPC health service follow what `/readyz` says. Never ends.
async fn tell_health(reporter: HealthReporter, health: Health) {
    let services = [
        "",
        <PinsServer<PinsApi> as NamedService>::NAME,
        <ContentServer<ContentApi> as NamedService>::NAME,
        <AccessServer<AccessApi> as NamedService>::NAME,
        <ClusterServer<ClusterApi> as NamedService>::NAME,
    ];
    let mut ready = false;
    loop {
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in services {
            reporter.set_service_status(service, status).await;
        }
        ready = !ready;
        health.until_ready_is(ready).await;
    }
}
