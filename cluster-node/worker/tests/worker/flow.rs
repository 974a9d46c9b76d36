//! How fast, and in which order.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cluster_ipfs::{Operation, Progress};
use cluster_worker::{NodeSettings, WorkerConfig};
use node_core::{ErrorClass, Status};

use crate::common::*;

#[tokio::test]
async fn the_rate_is_respected() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(
        NodeSettings {
            pins_per_second: 100.0,
            burst: 10,
            ..settings(NODE)
        },
        &node,
    )]);
    let begun = Instant::now();
    bench.want(NODE, 0..60);
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 60).await;
    // 10 at once, 50 at 100 a second. A slow machine only makes it longer.
    assert!(begun.elapsed() >= Duration::from_millis(490), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn no_more_pins_run_than_there_are_permits() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(
        NodeSettings {
            concurrency_max: 3,
            concurrency_start: 3,
            ..settings(NODE)
        },
        &node,
    )]);
    for n in 0..30 {
        node.on_add(cid(n), Answer::Hang(Progress::default()));
    }
    bench.want(NODE, 0..30);
    until("permits to be used", || node.adding.load(Ordering::Relaxed) == 3).await;
    assert_eq!(bench.worker.report(NODE).expect("driven").pinning, 3);
    for n in 0..30 {
        node.on_add(cid(n), Answer::Well);
    }
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 30).await;
    assert_eq!(node.adding_most.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn fresh_work_does_not_wait_behind_hopeless_work() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(
        NodeSettings {
            concurrency_max: 4,
            ..settings(NODE)
        },
        &node,
    )]);
    // Much that fails at once, and as much that stalls from its second try on.
    for n in 0..400 {
        node.on_add(cid(n), Answer::Fail(ErrorClass::NotFound));
    }
    bench.want(NODE, 0..400);
    until("hopeless work", || {
        bench.ledger.counts(NODE).of(Status::Retrying) == 400
    })
    .await;
    for n in 0..400 {
        node.on_add(cid(n), Answer::Hang(Progress::default()));
    }
    until("some to stall", || node.adding.load(Ordering::Relaxed) >= 2).await;
    bench.want(NODE, 1_000..1_100);
    until("fresh work", || bench.ledger.counts(NODE).of(Status::Pinned) == 100).await;
    assert!(
        node.adding.load(Ordering::Relaxed) <= 2,
        "hopeless work holds at most half of the permits"
    );
}

#[tokio::test]
async fn repeated_work_does_not_starve() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    node.on_add(cid(0), Answer::Fail(ErrorClass::Temporary));
    bench.want(NODE, [0]);
    bench.until_status(NODE, 0, Some(Status::Retrying)).await;
    node.on_add(cid(0), Answer::Well);
    // More fresh work all the time.
    let mut n = 1;
    while bench.status(NODE, 0) != Some(Status::Pinned) {
        assert!(n < 200_000, "it starves");
        bench.want(NODE, n..n + 200);
        n += 200;
        until("not too much at a time", || {
            bench.ledger.counts(NODE).of(Status::Queued) < 2_000 && bench.wishes.notes() < 2_000
        })
        .await;
    }
    assert!(node.calls(Operation::PinAdd).len() > 1);
}

#[tokio::test]
async fn first_tries_that_find_nothing_make_way_for_others() {
    let bench = Bench::with(WorkerConfig {
        first_try_quiet: Duration::from_millis(200),
        ..config()
    });
    let node = FakeNode::new();
    let mut four = NodeSettings {
        concurrency_max: 4,
        ..settings(NODE)
    };
    four.retry.first = Duration::from_secs(100);
    four.retry.max = Duration::from_secs(100);
    bench.drive(&[(four, &node)]);
    // Three that nobody has, and one that moves, however slowly.
    for n in 0..3 {
        node.on_add(cid(n), Answer::Hang(Progress::default()));
    }
    node.on_add(cid(3), Answer::Hang(Progress { blocks: 1, bytes: 1 }));
    bench.want(NODE, 0..4);
    until("permits to be used", || node.adding.load(Ordering::Relaxed) == 4).await;
    // Nobody waits, so they may go on.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(node.adding.load(Ordering::Relaxed), 4);
    bench.want(NODE, 10..30);
    until("fresh work", || bench.ledger.counts(NODE).of(Status::Pinned) == 20).await;
    assert_eq!(
        bench.status(NODE, 3),
        Some(Status::Pinning),
        "what moves is not disturbed"
    );
    let retrying = bench.ledger.counts(NODE).of(Status::Retrying);
    assert!((1..=3).contains(&retrying), "{retrying}");
    let late = (0..3)
        .filter_map(|n| bench.view(NODE, n))
        .find(|view| view.error.is_some());
    let late = late.expect("one made way");
    assert_eq!((late.class, late.attempts), (Some(ErrorClass::Stalled), 1));
    assert!(late.error.is_some_and(|error| error.contains("others waited")));
}

#[tokio::test]
async fn later_tries_get_the_whole_stall_timeout() {
    let bench = Bench::with(WorkerConfig {
        first_try_quiet: Duration::from_millis(50),
        ..config()
    });
    let node = FakeNode::new();
    bench.drive(&[(
        NodeSettings {
            concurrency_max: 2,
            concurrency_start: 2,
            ..settings(NODE)
        },
        &node,
    )]);
    node.on_add(cid(1), Answer::Fail(ErrorClass::Stalled));
    bench.want(NODE, [1]);
    bench.until_status(NODE, 1, Some(Status::Retrying)).await;
    node.on_add(cid(1), Answer::Hang(Progress::default()));
    bench.until_status(NODE, 1, Some(Status::Pinning)).await;
    bench.want(NODE, 10..200);
    until("fresh work", || bench.ledger.counts(NODE).of(Status::Pinned) == 190).await;
    assert_eq!(bench.status(NODE, 1), Some(Status::Pinning));
}
