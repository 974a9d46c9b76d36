//! Announcing into a DHT of three nodes.

use std::time::Duration;

use cluster_embedded::{DhtMode, EmbeddedConfig, Strategy};
use cluster_ipfs::IpfsNode as _;
use node_core::PinMode;

use crate::support::*;

fn in_dht(config: &mut EmbeddedConfig) {
    config.swarm.dht = DhtMode::Server;
    config.fetch.not_found_after = Duration::from_secs(10);
}

async fn knows_dht(node: &Node, count: usize) {
    until("the routing table fills", || async {
        node.node.report().await.expect("report").swarm.dht_peers >= count
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pinned_is_found_in_the_dht() {
    let (a, b, c) = (
        Node::with(in_dht).await,
        Node::with(in_dht).await,
        Node::with(in_dht).await,
    );
    // A and C know B, and not each other.
    a.knows(&[&b]);
    c.knows(&[&b]);
    knows_dht(&a, 1).await;
    knows_dht(&c, 1).await;
    let blocks = tree(1, 2, 10, 500);
    a.put(&blocks).await;
    within(
        "pinning",
        a.node.pin_add(&root(&blocks), PinMode::Recursive, "", &silent),
    )
    .await
    .expect("pinned");
    until("it is announced", || async {
        a.node.report().await.expect("report").announce.told >= 1
    })
    .await;
    within(
        "pinning",
        c.node.pin_add(&root(&blocks), PinMode::Recursive, "", &silent),
    )
    .await
    .expect("found and pinned");
    assert_eq!(c.has(&blocks), blocks.len());
    assert_eq!(b.has(&blocks), 0);
    for node in [a, b, c] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_goes_on_after_a_restart() {
    let b = Node::with(in_dht).await;
    let short = |config: &mut EmbeddedConfig| {
        in_dht(config);
        config.announce.interval = Duration::from_secs(4);
        config.announce.strategy = Strategy::Roots;
    };
    let a = Node::with(short).await;
    a.knows(&[&b]);
    knows_dht(&a, 1).await;
    let blocks: Vec<_> = (0..20).map(|seed| leaf(seed, 100)).collect();
    a.put(&blocks).await;
    for block in &blocks {
        within("pinning", a.node.pin_add(&block.cid(), PinMode::Recursive, "", &silent))
            .await
            .expect("pinned");
    }
    until("a round of all of them is under way", || async {
        let announce = a.node.report().await.expect("report").announce;
        announce.total == 20 && (3..15).contains(&announce.done)
    })
    .await;
    let before = a.node.report().await.expect("report").announce;
    let dir = a.stop().await;
    // The same interval, or the round would be measured by another one.
    let a = Node::open(dir, short).await;
    until("the round is loaded", || async {
        a.node.report().await.expect("report").announce.total == 20
    })
    .await;
    let after = a.node.report().await.expect("report").announce;
    assert!(
        after.begun == before.begun && after.done >= before.done,
        "{before:?} {after:?}"
    );
    // Without anybody to tell it falls behind, and says so.
    until("it is behind", || async {
        let announce = a.node.report().await.expect("report").announce;
        announce.begun != before.begun || announce.behind > 0 && !announce.problem.is_empty()
    })
    .await;
    a.knows(&[&b]);
    until("it catches up and begins the next round", || async {
        let announce = a.node.report().await.expect("report").announce;
        announce.begun > before.begun
    })
    .await;
    a.stop().await;
    b.stop().await;
}
