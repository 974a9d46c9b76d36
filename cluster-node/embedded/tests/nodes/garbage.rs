//! Garbage, beside everything else, and disks that fill.

use std::time::Duration;

use cluster_content::Sink as _;
use cluster_dag::Block;
use cluster_embedded::State;
use cluster_ipfs::{IpfsNode as _, LookFor, Progress};
use node_core::{ErrorClass, PinMode};
use parking_lot::Mutex;

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_block_outlives_one_of_its_pins() {
    let node = Node::start().await;
    let one = tree(1, 3, 10, 500);
    // The second one has the first node of the first in it.
    let shared = &one[..11];
    let own = tree(2, 1, 5, 500);
    let top = parent(&[shared[10].cid(), root(&own)]);
    let two: Vec<_> = shared.iter().chain(&own).cloned().chain([top]).collect();
    node.put(&one).await;
    node.put(&two).await;
    for blocks in [&one, &two] {
        let added = within(
            "pinning",
            node.node.pin_add(&root(blocks), PinMode::Recursive, "", &silent),
        )
        .await;
        assert_eq!(added.expect("all is there").progress.blocks, blocks.len() as u64);
    }
    assert_eq!(node.fetched().await, 0);
    node.put(&[leaf(77, 500)]).await;
    let estimate = node
        .node
        .estimate_garbage(Duration::from_secs(5))
        .await
        .expect("estimate");
    assert_eq!(estimate.garbage.blocks, 1);
    let report = within("collecting", node.node.collect_garbage())
        .await
        .expect("collected");
    assert_eq!(
        (report.deleted_blocks, report.deleted_bytes, report.running),
        (1, 500, false)
    );
    // One that deleted it, and one that found nothing more.
    assert_eq!((report.looks, report.done), (2, 1.0));
    assert_eq!(node.node.garbage(), report);

    node.node.pin_rm(&root(&one)).await.expect("removed");
    let report = within("collecting", node.node.collect_garbage())
        .await
        .expect("collected");
    assert_eq!(report.deleted_blocks, (one.len() - shared.len()) as u64);
    assert_eq!((node.has(&two), node.has(&one)), (two.len(), shared.len()));
    node.node.pin_rm(&root(&two)).await.expect("removed");
    within("collecting", node.node.collect_garbage())
        .await
        .expect("collected");
    assert_eq!((node.has(&two), node.has(&one)), (0, 0));
    assert_eq!(node.node.report().await.expect("report").usage.blocks, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adds_pins_and_collection_run_beside_each_other() {
    let (a, b) = (Node::start().await, Node::start().await);
    let there: Vec<_> = (10..14).map(|seed| tree(seed, 4, 20, 800)).collect();
    for blocks in &there {
        a.put(blocks).await;
    }
    b.knows(&[&a]);
    let added: Vec<_> = (20..26).map(|seed| tree(seed, 3, 20, 800)).collect();
    let adding = async {
        for blocks in &added {
            let session = b.node.begin_add();
            for batch in blocks.chunks(7) {
                session.put(batch.to_vec()).await.expect("stored");
                tokio::task::yield_now().await;
            }
            session
                .pin(&root(blocks), PinMode::Recursive, "", &silent)
                .await
                .expect("pinned");
        }
    };
    let pinning = async {
        for blocks in &there {
            b.node
                .pin_add(&root(blocks), PinMode::Recursive, "", &silent)
                .await
                .expect("pinned");
        }
    };
    let done = tokio_util::sync::CancellationToken::new();
    let collecting = async {
        let mut passes = 0;
        while !done.is_cancelled() {
            b.node.collect_garbage().await.expect("collected");
            passes += 1;
        }
        passes
    };
    let work = async {
        tokio::join!(adding, pinning);
        done.cancel();
    };
    let ((), passes) = within("all of it", async { tokio::join!(work, collecting) }).await;
    assert!(passes > 0);
    for blocks in there.iter().chain(&added) {
        assert_eq!(b.has(blocks), blocks.len());
    }
    let pins = b.node.pins(None, 100).await.expect("pins");
    assert_eq!(pins.len(), there.len() + added.len());
    assert!(pins.iter().all(|pin| pin.state == State::Complete));
    // Half of them go, and exactly their blocks.
    for blocks in &there {
        b.node.pin_rm(&root(blocks)).await.expect("removed");
    }
    within("collecting", b.node.collect_garbage()).await.expect("collected");
    for blocks in &there {
        assert_eq!(b.has(blocks), 0);
    }
    for blocks in &added {
        assert_eq!(b.has(blocks), blocks.len());
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intake_stops_at_the_mark_and_goes_on_below_it() {
    let (a, b) = (
        Node::start().await,
        Node::with(|config| {
            config.disk.max_bytes = Some(64 * 1024 * 1024);
            config.gc.by_itself = false;
        })
        .await,
    );
    let blocks = tree(3, 4, 40, 1_000_000);
    a.put(&blocks).await;
    b.knows(&[&a]);
    let error = within(
        "pinning",
        b.node.pin_add(&root(&blocks), PinMode::Recursive, "", &silent),
    )
    .await;
    let error = error.expect_err("it does not fit");
    assert_eq!(error.class, ErrorClass::DiskFull, "{error}");
    assert!(error.message.contains("disk.max_bytes"), "{error}");
    assert_eq!(
        b.node.pin_ls(&root(&blocks), LookFor::Recursive).await.expect("listed"),
        None
    );
    let stat = b.node.repo_stat().await.expect("stat");
    assert_eq!(stat.max_bytes, Some(64 * 1024 * 1024));
    // What was asked for while there was room came too: 64 blocks of 1 MB. How long their log stays beside them is RocksDB's
    // matter.
    assert!(b.has(&blocks) <= 128, "{} blocks, {stat:?}", b.has(&blocks));
    // What it holds by now is more than this.
    let dir = b.stop().await;
    let b = Node::open(dir, |config| {
        config.disk.max_bytes = Some(16 * 1024 * 1024);
        config.gc.by_itself = false;
    })
    .await;
    let refused = b.node.begin_add().put(vec![leaf(5, 10)]).await.expect_err("full");
    assert_eq!(refused.class, ErrorClass::DiskFull);
    let stopped = b.node.report().await.expect("report").intake_stopped.expect("full");
    assert!(stopped.contains("disk.max_bytes"), "{stopped}");
    // What is let go makes room.
    b.node.pin_rm(&root(&blocks)).await.expect("removed");
    within("collecting", b.node.collect_garbage()).await.expect("collected");
    assert_eq!(b.has(&blocks), 0);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_goes_by_itself_when_the_disk_fills() {
    let node = Node::with(|config| {
        config.disk.max_bytes = Some(10 * 1024 * 1024);
        config.disk.stop_percent = 100;
        config.disk.collect_percent = 1;
        config.gc.interval = Duration::from_millis(100);
    })
    .await;
    let blocks = tree(4, 1, 20, 20_000);
    node.put(&blocks).await;
    until("the garbage is gone", || async { node.has(&blocks) == 0 }).await;
    node.stop().await;
}

/// A node with this content, one block of which is not what it should be: put past all checks, as a disk would do it.
async fn with_a_spoilt_block(blocks: &[Block], place: usize) -> Node {
    // Patient: a test wants to see it wait.
    let node = Node::with(|config| config.fetch.not_found_after = config.fetch.stall_timeout).await;
    let mut spoilt = blocks.to_vec();
    spoilt[place] = Block::trusted(blocks[place].cid(), vec![7; blocks[place].bytes().len()].into());
    node.put(&spoilt).await;
    node
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_the_disk_spoilt_is_fetched_again() {
    let a = Node::start().await;
    let blocks = tree(5, 2, 10, 5_000);
    a.put(&blocks).await;
    let b = with_a_spoilt_block(&blocks, 3).await;
    within(
        "pinning",
        b.node.pin_add(&root(&blocks), PinMode::Recursive, "n", &silent),
    )
    .await
    .expect("pinned");
    let dir = b.stop().await;
    let b = Node::open(dir, |config| {
        config.scrub.bytes_per_second = 100_000_000;
        config.scrub.pause = Duration::from_millis(100);
    })
    .await;
    b.knows(&[&a]);
    until("it is found and repaired", || async {
        b.node.report().await.expect("report").scrub.repaired == 1
    })
    .await;
    let scrub = b.node.report().await.expect("report").scrub;
    assert_eq!((scrub.corrupt, scrub.last_corrupt.len()), (1, 1), "{scrub:?}");
    assert_eq!(scrub.broken, []);
    assert_eq!(
        b.node.store().get(&blocks[3].cid()).expect("read"),
        Some(blocks[3].bytes().clone())
    );
    assert!(
        b.node
            .pin_ls(&root(&blocks), LookFor::Recursive)
            .await
            .expect("listed")
            .is_some()
    );
    assert_eq!(b.fetched().await, 1);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_is_lost_in_the_middle_of_a_walk_is_walked_again() {
    let a = Node::start().await;
    let blocks = tree(6, 2, 10, 5_000);
    // A leaf that nobody has keeps the walk from ending.
    let (missing, spoilt) = (0, 15);
    let there: Vec<_> = blocks[1..].to_vec();
    a.put(&there).await;
    let b = with_a_spoilt_block(&there, spoilt - 1).await;
    b.knows(&[&a]);
    let seen: Mutex<Vec<Progress>> = Mutex::default();
    let sink = |progress| seen.lock().push(progress);
    let top = root(&blocks);
    let pinning = b.node.pin_add(&top, PinMode::Recursive, "n", &sink);
    let losing = async {
        until("all that is there was seen", || async {
            seen.lock()
                .last()
                .is_some_and(|progress| progress.blocks == there.len() as u64)
        })
        .await;
        let (store, lost) = (b.node.store().clone(), blocks[spoilt].cid());
        let removed = tokio::task::spawn_blocking(move || store.remove_corrupt(&lost)).await;
        removed.expect("ran").expect("removed");
        a.put(&blocks[missing..=missing]).await;
    };
    let (pinned, ()) = within("pinning", async { tokio::join!(pinning, losing) }).await;
    assert_eq!(pinned.expect("pinned").progress.blocks, blocks.len() as u64);
    assert_eq!(b.has(&blocks), blocks.len());
    assert_eq!(
        b.node.store().get(&blocks[spoilt].cid()).expect("read"),
        Some(blocks[spoilt].bytes().clone())
    );
    let seen = seen.into_inner();
    assert!(seen.is_sorted_by_key(|progress| progress.blocks), "{seen:?}");
    a.stop().await;
    b.stop().await;
}

/// Of an add nothing refers to what came first until its root comes: a directory of a million files takes hours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_add_that_takes_long_loses_nothing() {
    let kept_for = Duration::from_millis(50);
    let node = Node::with(|config| config.kept_for = kept_for).await;
    let blocks = tree(31, 2, 3, 500);
    let (last, first) = blocks.split_last().expect("a root");
    let mut intake = node.node.intake().await.expect("taken in");
    intake.put(first.to_vec()).await.expect("stored");
    // What is only kept by a clock is not kept any more. Time itself is meant: an add that is open shows no end to await.
    tokio::time::sleep(4 * kept_for).await;
    let report = within("collecting", node.node.collect_garbage())
        .await
        .expect("collected");
    assert_eq!(report.deleted_blocks, 0);
    intake.put(vec![last.clone()]).await.expect("stored");
    intake.finish(&[last.cid()]).await.expect("on disk");
    assert_eq!(node.has(&blocks), blocks.len());

    // Neither a long queue before the pin nor a restart is the end of what was acknowledged.
    // What was put behind it and given up goes once every clock of before has run out.
    let mut later = node.node.intake().await.expect("taken in");
    later.put(vec![leaf(34, 500)]).await.expect("stored");
    drop(later);
    until("the clocks have run out", || async {
        node.node.collect_garbage().await.expect("collected");
        node.has(&[leaf(34, 500)]) == 0
    })
    .await;
    assert_eq!(node.has(&blocks), blocks.len());
    let dir = node.stop().await;
    let node = Node::open(dir, |config| config.kept_for = kept_for).await;
    within("collecting", node.node.collect_garbage())
        .await
        .expect("collected");
    assert_eq!(node.has(&blocks), blocks.len());
    let root = last.cid();
    let pinned = node.node.pin_add(&root, PinMode::Recursive, "", &silent);
    within("pinning", pinned).await.expect("all is there");

    // Pinned and let go of, it is garbage as any other.
    node.node.pin_rm(&last.cid()).await.expect("removed");
    within("collecting", node.node.collect_garbage())
        .await
        .expect("collected");
    assert_eq!(node.has(&blocks), 0);
    node.stop().await;
}

/// An add that was given up is garbage after its time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_add_that_breaks_off_keeps_nothing_for_long() {
    let node = Node::with(|config| config.kept_for = Duration::from_millis(50)).await;
    let mut intake = node.node.intake().await.expect("taken in");
    intake.put(vec![leaf(32, 500)]).await.expect("stored");
    drop(intake);
    until("it is collected", || async {
        node.node.collect_garbage().await.expect("collected");
        node.has(&[leaf(32, 500)]) == 0
    })
    .await;
    node.stop().await;
}
