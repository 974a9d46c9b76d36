//! Reading, and what is served to whom.

use std::sync::Arc;

use cluster_content::Source as _;
use cluster_ipfs::IpfsNode as _;
use cluster_swarm::{Blocks, FetchEvent, Keypair, StoreError, Swarm, to_wire};
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

/// A peer that has nothing.
struct Nothing;

impl Blocks for Nothing {
    fn sizes(&self, cids: &[cluster_swarm::Cid]) -> Result<Vec<Option<usize>>, StoreError> {
        Ok(vec![None; cids.len()])
    }

    fn read(&self, cids: &[cluster_swarm::Cid]) -> Result<Vec<Option<bytes::Bytes>>, StoreError> {
        Ok(vec![None; cids.len()])
    }
}

/// Kubo says that it has the empty block and never sends it, so a node has it without being sent it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_empty_block_is_there_without_anybody_who_sends_it() {
    let a = Node::start().await;
    let empty = named(RAW, Vec::new());
    let absent = leaf(1, 1);

    // It is read and served though it is not stored.
    assert_eq!(a.has(std::slice::from_ref(&empty)), 0);
    assert_eq!(a.node.source(false).get(&empty.cid()).await.expect("made"), empty);
    let found = a.node.blocks(&[empty.cid(), absent.cid()]).await.expect("looked up");
    assert_eq!(found, [Some(bytes::Bytes::new()), None]);
    let swarm = Swarm::start(
        config(a.dir.path()).swarm,
        Keypair::generate_ed25519(),
        Arc::new(Nothing),
    )
    .await
    .expect("started");
    swarm.connect(a.node.addresses()[0].clone()).await.expect("connected");
    let mut fetch = swarm.fetch(Vec::new()).await.expect("begun");
    let wire = to_wire(&empty.cid()).expect("a CID of Bitswap");
    fetch.want(vec![wire], true).await.expect("wanted");
    let got = within("fetching", async {
        loop {
            match fetch.next().await {
                // Said as long as the other one has not told that it speaks Bitswap.
                Some(FetchEvent::NobodyHas(_)) => {}
                other => break other,
            }
        }
    });
    match got.await {
        Some(FetchEvent::Block { cid, data, .. }) => assert!(cid == wire && data.is_empty()),
        other => panic!("{other:?}"),
    }
    swarm.shutdown().await;

    // A pin with it in its middle needs nobody for it.
    let top = parent(&[empty.cid()]);
    a.put(std::slice::from_ref(&top)).await;
    for cid in [top.cid(), empty.cid()] {
        within("pinning", a.node.pin_add(&cid, PinMode::Recursive, "", &silent))
            .await
            .expect("pinned");
    }
    assert_eq!((a.has(&[top, empty]), a.fetched().await), (2, 0));
    a.stop().await;
}
