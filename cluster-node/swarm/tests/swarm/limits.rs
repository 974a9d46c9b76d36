//! How many peers there may be, and who is refused.

use cluster_swarm::{ConnectError, ConnectionLimits, StartError, Swarm, SwarmConfig};

use crate::support::{BOTH, Node, Over, config, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_refused() {
    within(async {
        for over in BOTH {
            let connections = ConnectionLimits {
                incoming: 2,
                ..ConnectionLimits::default()
            };
            let server = Node::start(SwarmConfig {
                connections,
                ..config(over)
            })
            .await;
            let clients = [Node::over(over).await, Node::over(over).await];
            for client in &clients {
                client.meet(&server).await;
            }
            let third = Node::over(over).await;
            third
                .swarm
                .connect_to(server.candidate())
                .await
                .expect_err("there is no room");
            assert_eq!(server.report().await.peers.len(), 2);
            // Once one is gone there is room again.
            clients[0].swarm.shutdown().await;
            until("there is room", || async { server.report().await.peers.len() < 2 }).await;
            third.meet(&server).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_high_water_the_idle_ones_go() {
    within(async {
        let connections = ConnectionLimits {
            high_water: 2,
            ..ConnectionLimits::default()
        };
        let server = Node::start(SwarmConfig {
            connections,
            ..config(Over::Tcp)
        })
        .await;
        let content = crate::support::blocks(3, 1_000);
        server.store.put(&content);
        let mut clients = Vec::new();
        for _ in 0..4 {
            let client = Node::over(Over::Tcp).await;
            client.meet(&server).await;
            clients.push(client);
        }
        // The first two are of use after the last two came.
        for client in &clients[..2] {
            client.fetch(&[&server], &content).await;
        }
        until("there are as many as may be", || async {
            server.report().await.peers.len() == 2
        })
        .await;
        let kept: Vec<_> = server.report().await.peers.iter().map(|peer| peer.peer).collect();
        for client in &clients[..2] {
            assert!(kept.contains(&client.swarm.peer_id()));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_fails_with_a_reason() {
    within(async {
        let (one, two) = (Node::over(Over::Tcp).await, Node::over(Over::Tcp).await);
        let bare = two.swarm.listeners().remove(0);
        let error = one.swarm.connect(bare.clone()).await.expect_err("no peer ID");
        assert_eq!(error, ConnectError::NoPeerId(bare.clone()));
        // Somebody else answers there.
        let mut candidate = one.candidate();
        candidate.addresses = vec![bare];
        candidate.peer = Node::over(Over::Tcp).await.swarm.peer_id();
        let error = one.swarm.connect_to(candidate.clone()).await.expect_err("another peer");
        assert!(
            matches!(&error, ConnectError::Failed { peer, .. } if *peer == candidate.peer),
            "{error}"
        );
        // Nobody does.
        let gone = two.candidate();
        two.swarm.shutdown().await;
        let error = one.swarm.connect_to(gone).await.expect_err("nobody");
        assert!(matches!(&error, ConnectError::Failed { .. }), "{error}");
        let error = one.swarm.connect_to(one.candidate()).await.expect_err("itself");
        assert!(error.to_string().contains("itself"), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_not_usable_is_refused() {
    within(async {
        let store = || std::sync::Arc::new(crate::support::Memory::default());
        let key = cluster_swarm::Keypair::generate_ed25519;
        let taken = Node::over(Over::Tcp).await;
        let mut listen = config(Over::Tcp);
        listen.listen = taken.swarm.listeners();
        let error = Swarm::start(listen, key(), store()).await.expect_err("taken");
        assert!(matches!(error, StartError::Listen { .. }), "{error}");
        let mut bootstrap = config(Over::Tcp);
        bootstrap.bootstrap = taken.swarm.listeners();
        let error = Swarm::start(bootstrap, key(), store()).await.expect_err("no peer ID");
        assert!(error.to_string().contains("/p2p/PEER_ID"), "{error}");
        let mut unknown = config(Over::Tcp);
        unknown.listen = vec!["/memory/1".parse().expect("an address")];
        let error = Swarm::start(unknown, key(), store())
            .await
            .expect_err("no such transport");
        assert!(matches!(error, StartError::Listen { .. }), "{error}");
    })
    .await;
}
