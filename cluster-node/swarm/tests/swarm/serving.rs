//! What is served, and how fast.

use std::time::{Duration, Instant};

use cluster_swarm::{FetchEvent, ServerConfig};

use crate::support::{Node, Over, blocks, config, next_block, raw, within};

#[tokio::test(flavor = "multi_thread")]
async fn denied_blocks_are_not_served() {
    within(async {
        let (server, client) = (Node::over(Over::Tcp).await, Node::over(Over::Tcp).await);
        let content = [raw("denied"), raw("allowed")];
        server.store.put(&content);
        server.store.deny(content[0].0);
        client.meet(&server).await;
        let mut fetch = client.swarm.fetch(vec![server.candidate()]).await.expect("it runs");
        fetch.want(vec![content[0].0], true).await.expect("it runs");
        assert_eq!(fetch.next().await, Some(FetchEvent::NobodyHas(vec![content[0].0])));
        fetch.want(vec![content[1].0], true).await.expect("it runs");
        assert_eq!(next_block(&mut fetch).await, content[1]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serving_keeps_to_its_rate() {
    within(async {
        let server = ServerConfig {
            bytes_per_second: 4 << 20,
            ..ServerConfig::default()
        };
        let server = Node::start(cluster_swarm::SwarmConfig {
            server,
            ..config(Over::Tcp)
        })
        .await;
        let (one, two) = (Node::over(Over::Tcp).await, Node::over(Over::Tcp).await);
        let content = blocks(48, 256 << 10);
        server.store.put(&content);
        one.meet(&server).await;
        two.meet(&server).await;
        let begun = Instant::now();
        let from = [&server];
        tokio::join!(one.fetch(&from, &content[..24]), two.fetch(&from, &content[24..]));
        // 12 MiB at 4 MiB/s, less what a full bucket lets through at once (a second's worth) and rounding.
        assert!(begun.elapsed() > Duration::from_millis(1_500), "{:?}", begun.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_has_nothing() {
    struct Failing;
    impl cluster_swarm::Blocks for Failing {
        fn sizes(&self, _: &[cluster_swarm::Cid]) -> Result<Vec<Option<usize>>, cluster_swarm::StoreError> {
            Err(cluster_swarm::StoreError("the disk is on fire".into()))
        }

        fn read(&self, _: &[cluster_swarm::Cid]) -> Result<Vec<Option<bytes::Bytes>>, cluster_swarm::StoreError> {
            panic!("and burnt down")
        }
    }
    within(async {
        let key = cluster_swarm::Keypair::generate_ed25519();
        let server = cluster_swarm::Swarm::start(config(Over::Tcp), key, std::sync::Arc::new(Failing));
        let server = server.await.expect("it starts");
        let client = Node::over(Over::Tcp).await;
        let address = server.addresses().remove(0);
        client.swarm.connect(address).await.expect("connected");
        let mut fetch = client.swarm.fetch(vec![]).await.expect("it runs");
        let (cid, _) = raw("gone");
        fetch.want(vec![cid], true).await.expect("it runs");
        assert_eq!(fetch.next().await, Some(FetchEvent::NobodyHas(vec![cid])));
    })
    .await;
}
