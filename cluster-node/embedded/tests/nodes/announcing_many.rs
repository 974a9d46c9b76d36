//! More new pins than there is room for among those that are told at once.

use cluster_embedded::DhtMode;
use cluster_ipfs::IpfsNode as _;
use futures::StreamExt as _;
use node_core::PinMode;

use crate::support::*;

/// Pins that wait, at most, and some that are in hands or find no room.
const PINS: u64 = 1_024 + 8 + 68;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_pins_that_found_no_room_are_told_soon_all_the_same() {
    let in_dht = |config: &mut cluster_embedded::EmbeddedConfig| config.swarm.dht = DhtMode::Server;
    let (a, b) = (Node::with(in_dht).await, Node::with(in_dht).await);
    // Nobody can be told yet, so the queue fills.
    let blocks: Vec<_> = (0..PINS).map(|seed| leaf(seed + 1, 16)).collect();
    a.put(&blocks).await;
    within("pinning", async {
        let pins = blocks.iter().map(|block| async {
            let pinned = a.node.pin_add(&block.cid(), PinMode::Recursive, "", &silent).await;
            pinned.expect("pinned");
        });
        futures::stream::iter(pins).buffer_unordered(64).collect::<()>().await;
    })
    .await;
    let announce = || async { a.node.report().await.expect("report").announce };
    assert_eq!((announce().await.fresh, announce().await.told), (1_024, 0));
    a.knows(&[&b]);
    // Not by rounds, which tell one in a minute, and would reach the last of them in a day.
    until("all are told besides those of rounds", || async {
        let announce = announce().await;
        announce.told >= PINS + announce.done
    })
    .await;
    a.stop().await;
    b.stop().await;
}
