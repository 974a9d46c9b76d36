//! Stops, kills and what is there afterwards.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_ipfs::{Operation, PIN_NAME, Progress};
use cluster_storage::ledger::Edit;
use node_core::reconcile::Entry;
use node_core::{ErrorClass, PinMode, Status, Timestamp};

use crate::common::*;

#[tokio::test]
async fn unpins_survive_a_restart() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, 0..20);
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 20).await;
    node.on_all(Some(Answer::Fail(ErrorClass::Unreachable)));
    bench.unwant(NODE, 0..20);
    until("unpins to be noted", || {
        bench.ledger.counts(NODE).of(Status::Unpinning) == 20 && bench.wishes.notes() == 0
    })
    .await;
    let bench = bench.restart().await;
    assert_eq!(bench.ledger.counts(NODE).of(Status::Unpinning), 20);
    node.on_all(None);
    bench.drive(&[(settings(NODE), &node)]);
    until("nothing to be left", || {
        node.held() == 0 && bench.ledger.counts(NODE).total() == 0
    })
    .await;
}

#[tokio::test]
async fn what_runs_at_a_stop_goes_on_after_it() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    for n in 0..10 {
        node.on_add(cid(n), Answer::Hang(Progress::default()));
    }
    bench.want(NODE, 0..10);
    until("all permits to be in use", || {
        node.adding.load(std::sync::atomic::Ordering::Relaxed) == 4
    })
    .await;
    let bench = bench.restart().await;
    assert_eq!(node.adding.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(
        bench.ledger.counts(NODE).of(Status::Queued),
        10,
        "cut off is not failed"
    );
    for n in 0..10 {
        node.on_add(cid(n), Answer::Well);
    }
    bench.drive(&[(settings(NODE), &node)]);
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 10).await;
    assert!(
        bench
            .entry(0)
            .is_some_and(|entry| entry.attempts == 1 && entry.found.is_none())
    );
}

#[tokio::test]
async fn what_was_pinned_before_a_crash_is_ours() {
    // The mark that it is ours was written, the request ended well, the outcome was lost.
    let bench = Bench::new();
    let node = FakeNode::new();
    node.pin_as(cid(1), PinMode::Recursive, PIN_NAME);
    let entry = Entry {
        ours: true,
        ..Entry::queued(PinMode::Recursive, 1, Timestamp::from_millis(1))
    };
    bench
        .ledger
        .edit(vec![Edit::put(NODE, cid(1), entry)])
        .await
        .expect("edits");
    bench.drive(&[(settings(NODE), &node)]);
    bench.until_status(NODE, 1, Some(Status::Pinned)).await;
    assert_eq!(
        node.calls(Operation::PinAdd),
        [],
        "a daemon may let go of what it is asked to pin again"
    );
    bench.unwant(NODE, [1]);
    until("it to be gone", || node.held() == 0).await;
}

#[tokio::test]
async fn a_long_queue_is_taken_up_at_once() {
    const N: u64 = 100_000;
    let bench = Bench::new();
    let all: Vec<_> = (0..N).collect();
    for chunk in all.chunks(4_096) {
        let entry = |n: &u64| Entry::queued(PinMode::Recursive, 1, Timestamp::from_millis(1_000 + n));
        let edits = chunk.iter().map(|n| Edit::put(NODE, cid(*n), entry(n))).collect();
        bench.ledger.edit(edits).await.expect("edits");
    }
    let begun = Instant::now();
    let bench = bench.restart().await;
    let node = FakeNode::new();
    node.silent.store(true, std::sync::atomic::Ordering::Relaxed);
    bench.drive(&[(settings(NODE), &node)]);
    until("the first pins", || node.held() >= 10).await;
    println!(
        "worker: first pins {:?} after a restart with {N} queued",
        begun.elapsed()
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
    // In order of age.
    assert!((0..4).all(|n| node.holds(&cid(n)).is_some()));
    bench.worker.shutdown(Duration::from_secs(10)).await.expect("stops");
}

const CRASH_DIR: &str = "PINFLEET_TEST_WORKER_DIR";
const QUEUED: u64 = 20_000;

/// Not a test of its own: what the child process of the next one runs until it is killed.
#[tokio::test]
async fn crash_child() {
    let Ok(dir) = std::env::var(CRASH_DIR) else { return };
    let ledger = Arc::new(
        cluster_storage::ledger::Ledger::open(std::path::Path::new(&dir), &Default::default()).expect("opens"),
    );
    let wishes = Wishes::new();
    let clock = Arc::new(cluster_worker::SystemClock);
    let worker = cluster_worker::Worker::start(config(), ledger, Arc::clone(&wishes) as _, clock, 1, Arc::new(()));
    let node = FakeNode::new();
    // Some are pinned, some fail, some hang.
    for n in (0..QUEUED).step_by(3) {
        node.on_add(cid(n), Answer::Fail(ErrorClass::Temporary));
    }
    worker.set_nodes(vec![(settings(NODE), Arc::clone(&node) as _)]);
    for n in 0..QUEUED {
        wishes.want(NODE, cid(n));
    }
    worker.wake();
    let mut handled = false;
    loop {
        if !handled && wishes.notes() == 0 {
            handled = true;
            println!("handled");
        }
        println!("held {}", node.held());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn kill_9_loses_no_queued_pin() {
    for round in 0..2 {
        let dir = tempfile::tempdir().expect("folder");
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["restart::crash_child", "--exact", "--nocapture", "--test-threads=1"])
            .env(CRASH_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let (mut handled, mut held) = (false, 0);
        for line in BufReader::new(child.stdout.take().expect("piped")).lines() {
            let line = line.expect("reads");
            handled |= line == "handled";
            held = line.strip_prefix("held ").and_then(|n| n.parse().ok()).unwrap_or(held);
            if handled && held > round * 2_000 {
                break;
            }
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("ends");
        let bench = Bench::over(dir, Wishes::new());
        let checked = bench.ledger.check().expect("consistent");
        assert_eq!(
            checked.entries, QUEUED,
            "all notes had been forgotten, so all must be in the ledger"
        );
        // The outcomes of the last moments may be missing, not more than had permits.
        let counts = bench.ledger.counts(NODE);
        assert!(
            counts.of(Status::Pinned) + 64 >= held,
            "{counts:?}, the node held {held}"
        );
        // And all of it gets done.
        let node = FakeNode::new();
        node.silent.store(true, std::sync::atomic::Ordering::Relaxed);
        bench.drive(&[(settings(NODE), &node)]);
        until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == QUEUED).await;
        bench.worker.shutdown(Duration::from_secs(10)).await.expect("stops");
    }
}
