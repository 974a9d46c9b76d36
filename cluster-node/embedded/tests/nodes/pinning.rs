//! Pins: fetched from others, kept, let go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_embedded::{EmbeddedNode, State};
use cluster_ipfs::{Held, IpfsNode as _, LookFor, Progress, Updated};
use cluster_swarm::{Blocks, Keypair, Swarm};
use node_core::{Cid, ErrorClass, PinMode};
use parking_lot::Mutex;

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_is_fetched_from_a_fellow() {
    let (a, b) = (Node::start().await, Node::start().await);
    let blocks = tree(1, 10, 30, 2_000);
    a.put(&blocks).await;
    b.knows(&[&a]);
    let seen: Mutex<Vec<Progress>> = Mutex::default();
    let sink = |progress| seen.lock().push(progress);
    let added = within(
        "pinning",
        b.node.pin_add(&root(&blocks), PinMode::Recursive, "pinfleet:x", &sink),
    )
    .await;
    let added = added.expect("pinned");
    assert_eq!(added.held, PinMode::Recursive);
    let whole = Progress {
        blocks: blocks.len() as u64,
        bytes: bytes_of(&blocks),
    };
    assert_eq!(added.progress, whole);
    assert_eq!(b.has(&blocks), blocks.len());
    assert_eq!(b.fetched().await, blocks.len() as u64, "each block is fetched once");
    let seen = seen.into_inner();
    assert!(
        seen.is_sorted_by(|a, b| a.blocks <= b.blocks && a.bytes <= b.bytes),
        "{seen:?}"
    );
    assert_eq!(seen.last(), Some(&whole));

    let listed = b
        .node
        .pin_ls(&root(&blocks), LookFor::Recursive)
        .await
        .expect("listed")
        .expect("pinned");
    assert_eq!(
        (listed.held, listed.name.as_deref()),
        (Held::Recursive, Some("pinfleet:x"))
    );
    let leaf = b
        .node
        .pin_ls(&blocks[0].cid(), LookFor::Any)
        .await
        .expect("listed")
        .expect("below");
    assert_eq!(leaf.held, Held::Indirect);
    assert_eq!(
        b.node
            .pin_ls(&blocks[0].cid(), LookFor::Recursive)
            .await
            .expect("listed"),
        None
    );
    let report = b.node.report().await.expect("report");
    assert_eq!((report.usage.pins, report.usage.walking), (1, 0));
    assert_eq!(report.walks, []);
    assert!(report.fellows[0].connected, "{:?}", report.fellows);

    // Again: nothing is to be done, and the name follows.
    let again = b
        .node
        .pin_add(&root(&blocks), PinMode::Recursive, "other", &silent)
        .await
        .expect("pinned");
    assert_eq!(again.progress, whole);
    assert_eq!(b.fetched().await, blocks.len() as u64);
    let listed = b
        .node
        .pin_ls(&root(&blocks), LookFor::Any)
        .await
        .expect("listed")
        .expect("pinned");
    assert_eq!(listed.name.as_deref(), Some("other"));
    let direct = b
        .node
        .pin_add(&root(&blocks), PinMode::Direct, "", &silent)
        .await
        .expect("held");
    assert_eq!(direct.held, PinMode::Recursive, "recursive includes direct");

    assert!(b.node.pin_rm(&root(&blocks)).await.expect("removed"));
    assert!(!b.node.pin_rm(&root(&blocks)).await.expect("was none"));
    assert_eq!(
        b.node.pin_ls(&root(&blocks), LookFor::Recursive).await.expect("listed"),
        None
    );
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_goes_on_where_it_stopped() {
    let a = Node::start().await;
    let b = Node::start().await;
    let blocks = tree(2, 8, 20, 1_000);
    // The root, all nodes and the leaves of half of them.
    let lacking: Vec<_> = blocks[8 * 10 + 4..]
        .iter()
        .filter(|block| block.cid().codec() == u64::from(RAW))
        .collect();
    let first: Vec<_> = blocks
        .iter()
        .filter(|block| !lacking.contains(block))
        .cloned()
        .collect();
    a.put(&first).await;
    b.knows(&[&a]);
    let failed = within(
        "pinning",
        b.node.pin_add(&root(&blocks), PinMode::Recursive, "n", &silent),
    )
    .await;
    let error = failed.expect_err("some are missing");
    assert_eq!(error.class, ErrorClass::NotFound, "{error}");
    assert_eq!(b.has(&blocks), first.len());
    assert_eq!(
        b.node.pin_ls(&root(&blocks), LookFor::Recursive).await.expect("listed"),
        None,
        "not pinned"
    );
    let begun = b.node.pins(None, 10).await.expect("pins");
    assert_eq!(begun[0].state, State::Walking);
    let key = b.node.peer_id();
    let dir = b.stop().await;

    a.put(&blocks).await;
    let b = Node::open(dir, |_| {}).await;
    assert_eq!(b.node.peer_id(), key, "it is the same node");
    b.knows(&[&a]);
    let added = within(
        "pinning",
        b.node.pin_add(&root(&blocks), PinMode::Recursive, "n", &silent),
    )
    .await;
    assert_eq!(added.expect("pinned").progress.blocks, blocks.len() as u64);
    assert_eq!(b.fetched().await, lacking.len() as u64, "nothing is fetched twice");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_has_is_not_found_in_time() {
    let (a, b) = (Node::start().await, Node::start().await);
    b.knows(&[&a]);
    let missing = leaf(77, 100).cid();
    for node in [&a, &b] {
        let begun = Instant::now();
        let error = within("pinning", node.node.pin_add(&missing, PinMode::Recursive, "", &silent)).await;
        let error = error.expect_err("nobody has it");
        assert_eq!(error.class, ErrorClass::NotFound, "{error}");
        assert!(error.message.contains(&missing.to_string()), "{error}");
        assert!(begun.elapsed() >= Duration::from_secs(2), "peers get their time");
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_walked_is_permanent_and_named() {
    let (a, b) = (Node::start().await, Node::start().await);
    b.knows(&[&a]);
    let git = named(0x78, b"of another kind".to_vec()).cid();
    let above = parent(&[leaf(3, 10).cid(), git]);
    let broken = named(DAG_PB, vec![0xff; 40]);
    a.put(&[leaf(3, 10), above.clone()]).await;
    // The same bytes under a codec that asks nothing of them, so that they can be put on a node.
    a.put(&[named(RAW, broken.bytes().to_vec())]).await;
    let sha1 = Cid::from_bytes(&[&[1, RAW, 0x11, 20][..], &[7; 20]].concat()).expect("cid");
    for (cid, words) in [
        (git, "git-raw"),
        (above.cid(), "git-raw"),
        (sha1, "0x11"),
        (broken.cid(), "dag-pb"),
    ] {
        let error = within("pinning", b.node.pin_add(&cid, PinMode::Recursive, "", &silent)).await;
        let error = error.expect_err(words);
        assert_eq!(error.class, ErrorClass::Permanent, "{error}");
        assert!(error.message.contains(words), "{error}");
        assert_eq!(b.node.pin_ls(&cid, LookFor::Recursive).await.expect("listed"), None);
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_pin_holds_one_block() {
    let (a, b) = (Node::start().await, Node::start().await);
    let blocks = tree(4, 3, 5, 500);
    a.put(&blocks).await;
    b.knows(&[&a]);
    let top = root(&blocks);
    let added = within("pinning", b.node.pin_add(&top, PinMode::Direct, "d", &silent))
        .await
        .expect("pinned");
    assert_eq!((added.held, added.progress.blocks), (PinMode::Direct, 1));
    assert_eq!((b.has(&blocks), b.fetched().await), (1, 1));
    let listed = b
        .node
        .pin_ls(&top, LookFor::Any)
        .await
        .expect("listed")
        .expect("pinned");
    assert_eq!((listed.held, listed.name.as_deref()), (Held::Direct, Some("d")));
    assert_eq!(b.node.pin_ls(&top, LookFor::Recursive).await.expect("listed"), None);
    b.node.collect_garbage().await.expect("collected");
    assert_eq!(b.has(&blocks), 1);
    // One more level, then all of it.
    let depth = within("pinning", b.node.pin_to_depth(&top, 1, "d", &silent))
        .await
        .expect("pinned");
    assert_eq!((depth.progress.blocks, b.fetched().await), (4, 4));
    let added = within("pinning", b.node.pin_add(&top, PinMode::Recursive, "d", &silent))
        .await
        .expect("pinned");
    assert_eq!(added.progress.blocks, blocks.len() as u64);
    assert_eq!(b.fetched().await, blocks.len() as u64, "nothing is fetched twice");
    // A block whose codec nobody knows can be held, though not walked.
    let git = named(0x78, b"of another kind".to_vec());
    a.put(&[named(RAW, git.bytes().to_vec())]).await;
    within("pinning", b.node.pin_add(&git.cid(), PinMode::Direct, "", &silent))
        .await
        .expect("pinned");
    assert_eq!(b.has(&[git]), 1);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_fetches_what_differs() {
    let (a, b) = (Node::start().await, Node::start().await);
    let old = tree(5, 4, 20, 700);
    let mut new = old[..old.len() - 1].to_vec();
    let extra = leaf(999, 700);
    let mut links: Vec<Cid> = old
        .iter()
        .filter(|block| block.cid().codec() != u64::from(RAW))
        .map(|b| b.cid())
        .collect();
    links.pop();
    links.push(extra.cid());
    new.push(extra);
    new.push(parent(&links));
    a.put(&old).await;
    a.put(&new).await;
    b.knows(&[&a]);
    let missing = b
        .node
        .pin_update(&root(&old), &root(&new), &silent)
        .await
        .expect("answered");
    assert_eq!(missing, Updated::SourceNotPinned);
    within(
        "pinning",
        b.node.pin_add(&root(&old), PinMode::Recursive, "mine", &silent),
    )
    .await
    .expect("pinned");
    let before = b.fetched().await;
    let done = within("updating", b.node.pin_update(&root(&old), &root(&new), &silent))
        .await
        .expect("updated");
    assert!(
        matches!(done, Updated::Done(progress) if progress.blocks == new.len() as u64),
        "{done:?}"
    );
    assert_eq!(b.fetched().await - before, 2, "the new leaf and the new root");
    for cid in [root(&old), root(&new)] {
        let listed = b
            .node
            .pin_ls(&cid, LookFor::Recursive)
            .await
            .expect("listed")
            .expect("pinned");
        assert_eq!(listed.name.as_deref(), Some("mine"));
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_is_enough() {
    let (a, b) = (Node::start().await, Node::start().await);
    let blocks = tree(6, 2, 5, 100);
    a.put(&blocks).await;
    let own = b.node.addresses()[0].to_string();
    let mut origins = vec![
        "nonsense".to_owned(),
        "/ip4/127.0.0.1/tcp/1".to_owned(),
        own,
        format!(
            "/ip4/127.0.0.1/tcp/1/p2p/{}",
            Keypair::generate_ed25519().public().to_peer_id()
        ),
    ];
    origins.push(a.node.addresses()[0].to_string());
    let connected = within("connecting", b.node.swarm_connect(&origins)).await;
    assert_eq!(connected.connected, 1, "{connected:?}");
    let classes: Vec<ErrorClass> = connected.failures.iter().map(|error| error.class).collect();
    use ErrorClass::{Permanent, Temporary};
    assert_eq!(classes, [Permanent, Permanent, Permanent, Temporary]);
    for (failure, origin) in connected.failures.iter().zip(&origins) {
        assert!(failure.message.contains(origin.as_str()), "{failure}");
    }
    within(
        "pinning",
        b.node.pin_add(&root(&blocks), PinMode::Recursive, "", &silent),
    )
    .await
    .expect("pinned");
    let id = b.node.id().await.expect("id");
    assert_eq!(id.peer_id, b.node.peer_id().to_string());
    assert!(id.agent.starts_with("pinfleet/"), "{}", id.agent);
    assert!(
        id.addresses.iter().all(|address| address.ends_with(&id.peer_id)),
        "{:?}",
        id.addresses
    );
    a.stop().await;
    let b_node = b.node.clone();
    b.stop().await;
    assert_eq!(b_node.id().await.expect_err("ended").class, ErrorClass::Unreachable);
    let error = b_node
        .pin_add(&leaf(1, 1).cid(), PinMode::Recursive, "", &silent)
        .await
        .expect_err("ended");
    assert_eq!(error.class, ErrorClass::Unreachable, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_calls_for_one_pin_fetch_it_once() {
    let (a, b) = (Node::start().await, Node::start().await);
    let blocks = tree(7, 5, 30, 1_000);
    a.put(&blocks).await;
    b.knows(&[&a]);
    let top = root(&blocks);
    let (one, two, cut) = tokio::join!(
        b.node.pin_add(&top, PinMode::Recursive, "x", &silent),
        b.node.pin_add(&top, PinMode::Recursive, "x", &silent),
        tokio::time::timeout(
            Duration::from_millis(5),
            b.node.pin_add(&top, PinMode::Recursive, "x", &silent)
        ),
    );
    assert_eq!(one.expect("pinned").progress, two.expect("pinned").progress);
    drop(cut);
    assert_eq!(b.fetched().await, blocks.len() as u64);
    a.stop().await;
    b.stop().await;
}

/// A peer that has everything, and sends something else.
struct Liar;

impl Blocks for Liar {
    fn sizes(&self, cids: &[cluster_swarm::Cid]) -> Result<Vec<Option<usize>>, cluster_swarm::StoreError> {
        Ok(vec![Some(500); cids.len()])
    }

    fn read(&self, cids: &[cluster_swarm::Cid]) -> Result<Vec<Option<bytes::Bytes>>, cluster_swarm::StoreError> {
        Ok(vec![Some(bytes::Bytes::from_static(&[7; 500])); cids.len()])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_lies_does_no_harm() {
    let (a, b) = (Node::start().await, Node::start().await);
    let blocks = tree(8, 3, 10, 500);
    let mut swarm = config(a.dir.path()).swarm;
    swarm.agent = "liar".into();
    let liar = Swarm::start(swarm, Keypair::generate_ed25519(), Arc::new(Liar))
        .await
        .expect("started");
    let fellows = [liar.addresses(), a.node.addresses()].concat();
    b.node.set_fellows(&liar.addresses()).expect("fellows");
    let error = within(
        "pinning",
        b.node.pin_add(&root(&blocks), PinMode::Recursive, "", &silent),
    )
    .await;
    let error = error.expect_err("the only one who says to have it lies");
    assert!(
        matches!(error.class, ErrorClass::NotFound | ErrorClass::Stalled),
        "{error}"
    );
    assert_eq!(b.has(&blocks), 0);
    a.put(&blocks).await;
    b.node.set_fellows(&fellows).expect("fellows");
    within(
        "pinning",
        b.node.pin_add(&root(&blocks), PinMode::Recursive, "", &silent),
    )
    .await
    .expect("pinned");
    assert_eq!(b.has(&blocks), blocks.len());
    liar.shutdown().await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_has_one_node() {
    let a = Node::start().await;
    let error = EmbeddedNode::start(config(a.dir.path()))
        .await
        .err()
        .expect("in use")
        .to_string();
    assert!(error.to_lowercase().contains("lock"), "{error}");
    let dir = a.stop().await;
    Node::open(dir, |_| {}).await.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_comes_later_is_asked_too() {
    let a = Node::start().await;
    let b = Node::with(|config| config.fetch.not_found_after = config.fetch.stall_timeout).await;
    let blocks = tree(9, 2, 5, 100);
    a.put(&blocks).await;
    let top = root(&blocks);
    let pinning = b.node.pin_add(&top, PinMode::Recursive, "", &silent);
    let coming = async {
        until("it is fetched", || async {
            b.node
                .report()
                .await
                .expect("report")
                .walks
                .iter()
                .any(|walk| walk.cid == top)
        })
        .await;
        // It comes by itself: nobody has told B of it.
        let to = b.node.addresses()[0].to_string();
        assert_eq!(a.node.swarm_connect(&[to]).await.connected, 1);
    };
    let (pinned, ()) = within("pinning", async { tokio::join!(pinning, coming) }).await;
    assert_eq!(pinned.expect("pinned").progress.blocks, blocks.len() as u64);
    a.stop().await;
    b.stop().await;
}
