//! Private networks.

use cluster_swarm::{StartError, Swarm, SwarmConfig, SwarmKey};

use crate::support::{Memory, Node, Over, blocks, config, within};

const FILE: &str = "/key/swarm/psk/1.0.0/\n/base16/\n\
                    0123456789abcdef0123456789abcdef0123456789ABCDEF0123456789abcdef\n";

fn with_key(key: SwarmKey) -> SwarmConfig {
    SwarmConfig {
        swarm_key: Some(key),
        ..config(Over::Tcp)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_with_the_key_come_in() {
    within(async {
        let key = SwarmKey::parse(FILE).expect("a key");
        let server = Node::start(with_key(key.clone())).await;
        let member = Node::start(with_key(key)).await;
        let content = blocks(100, 10_000);
        server.store.put(&content);
        member.fetch(&[&server], &content).await;
        let strangers = [
            Node::over(Over::Tcp).await,
            Node::start(with_key(SwarmKey::new([7; 32]))).await,
        ];
        // Each waits until the other one is taken for silent; all at once, that it takes no minute.
        let refused = strangers.iter().map(|stranger| async {
            let (there, here) = (server.candidate(), stranger.candidate());
            let (to, from) = tokio::join!(stranger.swarm.connect_to(there), server.swarm.connect_to(here));
            to.expect_err("no key");
            from.expect_err("no key");
        });
        futures::future::join_all(refused).await;
        assert_eq!(server.report().await.peers.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_private_network_has_no_quic() {
    let mut config = with_key(SwarmKey::new([7; 32]));
    config.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().expect("an address")];
    let key = cluster_swarm::Keypair::generate_ed25519();
    let error = Swarm::start(config, key, std::sync::Arc::new(Memory::default())).await;
    let error = error.expect_err("QUIC");
    assert!(matches!(error, StartError::Address { field: "listen", .. }), "{error}");
}

#[test]
fn keys_are_read_as_kubo_writes_them() {
    let key = SwarmKey::parse(FILE).expect("a key");
    assert!(key == SwarmKey::parse(&FILE.replace('\n', "\r\n")).expect("the same key"));
    assert_eq!(format!("{key:?}"), "SwarmKey(..)");
    for bad in [
        "",
        "0123",
        &FILE.replace("/base16/", "/base64/"),
        &FILE.replace("psk", "key"),
        &FILE[..FILE.len() - 3],
        &format!("{FILE}more"),
        &FILE.replace("01", "0g"),
        &FILE.replace("01", "+1"),
        &FILE.replace("0123456789abcdef0123456789ABCDEF", "0123456789abcdef0123456789ABCDé"),
    ] {
        let error = SwarmKey::parse(bad).expect_err(bad).to_string();
        assert!(!error.contains("456789"), "{error}");
    }
}
