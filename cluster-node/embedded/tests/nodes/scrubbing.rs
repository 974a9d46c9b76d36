//! Reading again what rests, when the store does not play along.

use std::time::Duration;

use cluster_dag::Block;

use crate::support::*;

/// Whatever fails, blocks are read again: it was one bad sector that ended it until the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resting_blocks_are_read_again_after_a_failure() {
    let node = Node::with(|config| {
        config.scrub.bytes_per_second = 100_000_000;
        config.scrub.pause = Duration::from_millis(100);
    })
    .await;
    let scrub = || async { node.node.report().await.expect("report").scrub };
    until("a pass", || async { scrub().await.passes > 0 }).await;
    // Its writer is gone: no position can be written down, and no block removed.
    let store = node.node.store().clone();
    let mut blocks = tree(1, 2, 10, 500);
    blocks[3] = Block::trusted(blocks[3].cid(), vec![7; 500].into());
    node.put(&blocks).await;
    tokio::task::spawn_blocking(move || store.close())
        .await
        .expect("ran")
        .expect("closed");
    let before = scrub().await;
    until("more passes", || async { scrub().await.passes >= before.passes + 3 }).await;
    let after = scrub().await;
    assert!(
        after.checked_blocks >= before.checked_blocks + 2 * (blocks.len() as u64 - 1),
        "{after:?}"
    );
    node.stop().await;
}
