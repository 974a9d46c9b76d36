//! Peers on loopback: who gets through, and how the others are refused.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cluster_security::{
    AcceptorOptions, ConnectorOptions, Identity, MemberGuardLayer, Membership, PeerAcceptor, PeerConnector, PeerTls,
    Purpose,
};
use node_core::PeerId;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tonic::Code;
use tonic::transport::{Channel, Server};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const CHECK: &str = "/grpc.health.v1.Health/Check";

#[derive(Clone, Default)]
struct List(Arc<Mutex<HashMap<PeerId, Membership>>>);

impl List {
    fn set(&self, peer: PeerId, membership: Membership) {
        self.0.lock().insert(peer, membership);
    }
}

struct Fixture {
    identity: Identity,
    address: String,
    members: List,
    _stop: oneshot::Sender<()>,
}

/// A peer with the health service behind the guard.
async fn serve(open: &[&str], options: AcceptorOptions) -> Fixture {
    serve_as(Identity::generate(), "127.0.0.1:0", List::default(), open, options).await
}

async fn serve_as(identity: Identity, listen: &str, members: List, open: &[&str], options: AcceptorOptions) -> Fixture {
    let tls = PeerTls::new(&identity);
    let listener = TcpListener::bind(listen).await.unwrap();
    let list = members.clone();
    let check = Arc::new(move |peer: &PeerId| list.0.lock().get(peer).copied().unwrap_or(Membership::Stranger));
    let acceptor = PeerAcceptor::new(listener, &tls, check.clone(), options).unwrap();
    let address = acceptor.local_address().to_string();
    let (_reporter, health) = tonic_health::server::health_reporter();
    let (stop, stopped) = oneshot::channel::<()>();
    let guard = MemberGuardLayer::new(check, open.iter().copied());
    tokio::spawn(
        Server::builder()
            .layer(guard)
            .add_service(health)
            .serve_with_incoming_shutdown(acceptor, async {
                let _ = stopped.await;
            }),
    );
    Fixture {
        identity,
        address,
        members,
        _stop: stop,
    }
}

fn connector(identity: &Identity) -> PeerConnector {
    let nowhere = |_: &PeerId| Vec::new();
    PeerConnector::new(PeerTls::new(identity), Arc::new(nowhere), ConnectorOptions::default())
}

async fn check(channel: Channel) -> Result<(), tonic::Status> {
    HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .map(drop)
}

async fn ask(server: &Fixture, as_whom: &Identity) -> Result<(), tonic::Status> {
    let channel = connector(as_whom)
        .connect(server.identity.peer_id(), std::slice::from_ref(&server.address))
        .await
        .unwrap();
    check(channel).await
}

#[tokio::test]
async fn members_pass_and_others_do_not() {
    let server = serve(&[], AcceptorOptions::default()).await;
    let caller = Identity::generate();

    let refused = ask(&server, &caller).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("not a member"), "{refused}");

    server.members.set(caller.peer_id(), Membership::Member);
    ask(&server, &caller).await.unwrap();

    server.members.set(caller.peer_id(), Membership::Removed);
    let refused = ask(&server, &caller).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("removed"), "{refused}");
}

#[tokio::test]
async fn removal_counts_on_open_connections() {
    let server = serve(&[], AcceptorOptions::default()).await;
    let caller = Identity::generate();
    server.members.set(caller.peer_id(), Membership::Member);
    let channel = connector(&caller)
        .connect(server.identity.peer_id(), std::slice::from_ref(&server.address))
        .await
        .unwrap();
    check(channel.clone()).await.unwrap();
    server.members.set(caller.peer_id(), Membership::Removed);
    assert_eq!(check(channel).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn strangers_reach_open_paths_only() {
    let server = serve(&[CHECK], AcceptorOptions::default()).await;
    ask(&server, &Identity::generate()).await.unwrap();
    let removed = Identity::generate();
    server.members.set(removed.peer_id(), Membership::Removed);
    assert_eq!(ask(&server, &removed).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn another_peer_behind_the_address_is_refused_in_the_handshake() {
    let server = serve(&[CHECK], AcceptorOptions::default()).await;
    let wanted = Identity::generate().peer_id();
    let error = connector(&Identity::generate())
        .connect(wanted, std::slice::from_ref(&server.address))
        .await
        .unwrap_err();
    assert!(error.is_wrong_peer(), "{error}");
    let text = error.to_string();
    assert!(text.contains(&wanted.to_string()), "{text}");
    assert!(text.contains(&server.identity.peer_id().to_string()), "{text}");
}

#[tokio::test]
async fn plain_text_is_refused() {
    let server = serve(&[CHECK], AcceptorOptions::default()).await;
    let plain = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address))
        .unwrap()
        .connect()
        .await;
    // HTTP/2 clients may find out with the first request only.
    if let Ok(channel) = plain {
        check(channel).await.unwrap_err();
    }
    let mut raw = TcpStream::connect(&server.address).await.unwrap();
    raw.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = raw.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let server = serve(&[CHECK], AcceptorOptions::default()).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.extend([]);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("peer.pinfleet.invalid").unwrap();
    let tcp = TcpStream::connect(&server.address).await.unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .unwrap_err();
}

#[tokio::test]
async fn silent_connections_are_dropped_and_block_nobody() {
    let options = AcceptorOptions {
        handshakes_max: 2,
        handshake_timeout: Duration::from_millis(200),
        ..AcceptorOptions::default()
    };
    let server = serve(&[CHECK], options).await;
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(TcpStream::connect(&server.address).await.unwrap());
    }
    // All six are through, two at a time, after 600 ms; the connector's own patience is 1 s.
    ask(&server, &Identity::generate()).await.unwrap();
    for mut stream in silent {
        let mut byte = [0];
        assert!(matches!(stream.read(&mut byte).await, Ok(0) | Err(_)));
    }
}

#[tokio::test]
async fn idle_connections_of_strangers_block_no_join_and_no_leader() {
    let options = AcceptorOptions {
        strangers_max: 16,
        ..AcceptorOptions::default()
    };
    let server = serve(&[CHECK], options).await;
    let connect = async |identity: &Identity| {
        connector(identity)
            .connect(server.identity.peer_id(), std::slice::from_ref(&server.address))
            .await
            .unwrap()
    };
    let mut idle = Vec::new();
    for _ in 0..16 {
        let channel = connect(&Identity::generate()).await;
        // So that it has its place.
        check(channel.clone()).await.unwrap();
        idle.push(channel);
    }
    // What a joining peer asks, and a leader that this peer does not know.
    for _ in 0..2 {
        let newcomer = connect(&Identity::generate()).await;
        check(newcomer.clone()).await.unwrap();
        check(newcomer).await.unwrap();
    }
    // A removed peer is still told that it was removed, and a member needs no place.
    let (removed, member) = (Identity::generate(), Identity::generate());
    server.members.set(removed.peer_id(), Membership::Removed);
    server.members.set(member.peer_id(), Membership::Member);
    let refused = ask(&server, &removed).await.unwrap_err();
    assert!(refused.message().contains("removed"), "{refused}");
    ask(&server, &member).await.unwrap();
}

#[tokio::test]
async fn channels_find_a_peer_that_moved() {
    let first = serve(&[CHECK], AcceptorOptions::default()).await;
    let identity = first.identity.clone();
    let address = Arc::new(Mutex::new(vec!["127.0.0.1:1".to_owned(), first.address.clone()]));
    let known = address.clone();
    let connector = PeerConnector::new(
        PeerTls::new(&Identity::generate()),
        Arc::new(move |_: &PeerId| known.lock().clone()),
        ConnectorOptions::default(),
    );
    let peer = identity.peer_id();
    // The first address does not answer, the second does.
    check(connector.channel(peer, Purpose::Query)).await.unwrap();

    drop(first);
    let second = serve_as(
        identity,
        "127.0.0.1:0",
        List::default(),
        &[CHECK],
        AcceptorOptions::default(),
    )
    .await;
    *address.lock() = vec![second.address.clone()];
    tokio::time::timeout(Duration::from_secs(10), async {
        while check(connector.channel(peer, Purpose::Query)).await.is_err() {}
    })
    .await
    .unwrap();

    address.lock().clear();
    connector.forget(&peer);
    let error = check(connector.channel(peer, Purpose::Query)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
}

/// Vouches for one peer, and counts how often it was asked.
struct Friend {
    of: PeerId,
    asked: std::sync::atomic::AtomicUsize,
}

impl cluster_security::Vouchers for Friend {
    fn vouch(&self, peer: PeerId) -> std::pin::Pin<Box<dyn Future<Output = bool> + Send>> {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let known = peer == self.of;
        Box::pin(async move {
            tokio::task::yield_now().await;
            known
        })
    }
}

#[tokio::test]
async fn a_stranger_passes_where_a_member_vouches_for_it() {
    let (known, unknown, removed) = (Identity::generate(), Identity::generate(), Identity::generate());
    let friend = Arc::new(Friend {
        of: known.peer_id(),
        asked: Default::default(),
    });
    for (paths, passes) in [("/grpc.health.v1.Health/", true), ("/grpc.other/", false)] {
        let members = List::default();
        members.set(removed.peer_id(), Membership::Removed);
        let list = members.clone();
        let check_list =
            Arc::new(move |peer: &PeerId| list.0.lock().get(peer).copied().unwrap_or(Membership::Stranger));
        let guard = MemberGuardLayer::new(check_list.clone(), [""; 0]).vouched(friend.clone(), paths);
        let server = serve_guarded(guard, check_list, members).await;
        assert_eq!(ask(&server, &known).await.is_ok(), passes);
        assert_eq!(ask(&server, &unknown).await.unwrap_err().code(), Code::PermissionDenied);
        let before = friend.asked.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(ask(&server, &removed).await.unwrap_err().code(), Code::PermissionDenied);
        let after = friend.asked.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(before, after, "nobody is asked about who was removed");
    }
}

async fn serve_guarded(guard: MemberGuardLayer, check: Arc<dyn cluster_security::Members>, members: List) -> Fixture {
    let identity = Identity::generate();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = PeerAcceptor::new(listener, &PeerTls::new(&identity), check, AcceptorOptions::default()).unwrap();
    let address = acceptor.local_address().to_string();
    let (_reporter, health) = tonic_health::server::health_reporter();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::builder().layer(guard).add_service(health);
    tokio::spawn(server.serve_with_incoming_shutdown(acceptor, async {
        let _ = stopped.await;
    }));
    Fixture {
        identity,
        address,
        members,
        _stop: stop,
    }
}

#[tokio::test]
async fn what_a_stranger_sends_is_read_to_a_limit() {
    let server = serve(&[CHECK], AcceptorOptions::default()).await;
    let caller = Identity::generate();
    let channel = connector(&caller)
        .connect(server.identity.peer_id(), std::slice::from_ref(&server.address))
        .await
        .unwrap();
    let asks = |bytes: usize| {
        let service = "x".repeat(bytes);
        let mut client = HealthClient::new(channel.clone());
        async move { client.check(HealthCheckRequest { service }).await.unwrap_err() }
    };
    assert_eq!(asks(60 << 10).await.code(), Code::NotFound, "it was read");
    let refused = asks(70 << 10).await;
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    // A member may send what the service takes.
    server.members.set(caller.peer_id(), Membership::Member);
    assert_eq!(asks(70 << 10).await.code(), Code::NotFound);
}
