//! Reading, and what is served to whom.

use cluster_content::Source as _;
use cluster_ipfs::IpfsNode as _;
use node_core::{ErrorClass, PinMode};

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_read_from_here_and_when_asked_to_from_others() {
    let (a, b) = (Node::start().await, Node::start().await);
    let blocks = tree(1, 3, 20, 3_000);
    a.put(&blocks).await;
    b.put(&blocks[..5]).await;
    b.knows(&[&a]);
    let here = b.node.source(false);
    assert_eq!(here.get(&blocks[4].cid()).await.expect("here"), blocks[4]);
    let error = here.get(&blocks[5].cid()).await.expect_err("not here");
    assert_eq!(error.class, ErrorClass::NotFound);
    let anywhere = b.node.source(true);
    let read = futures::future::join_all(blocks.iter().rev().map(|block| {
        let cid = block.cid();
        let anywhere = &anywhere;
        async move { anywhere.get(&cid).await }
    }));
    for (read, block) in within("reading", read).await.into_iter().zip(blocks.iter().rev()) {
        assert_eq!(&read.expect("somewhere"), block);
    }
    assert_eq!(b.has(&blocks), 5, "reading keeps nothing");
    let missing = within("reading", anywhere.get(&leaf(9, 9).cid()))
        .await
        .expect_err("nowhere");
    assert_eq!(missing.class, ErrorClass::NotFound);
    // And it goes on after that.
    assert_eq!(
        within("reading", anywhere.get(&blocks[7].cid())).await.expect("there"),
        blocks[7]
    );
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_denied_is_served_to_nobody() {
    let (a, b) = (Node::start().await, Node::start().await);
    let secret = leaf(1, 100);
    a.put(std::slice::from_ref(&secret)).await;
    a.node.set_denied(&[secret.cid()]);
    assert!(a.node.is_denied(&secret.cid()));
    b.knows(&[&a]);
    let error = within("pinning", b.node.pin_add(&secret.cid(), PinMode::Direct, "", &silent)).await;
    assert_eq!(error.expect_err("denied").class, ErrorClass::NotFound);
    a.node.set_denied(&[]);
    within("pinning", b.node.pin_add(&secret.cid(), PinMode::Direct, "", &silent))
        .await
        .expect("served again");
    a.stop().await;
    b.stop().await;
}
