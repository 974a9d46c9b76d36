//! What goes wrong at one node stays there.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cluster_ipfs::{Operation, Progress};
use node_core::{ErrorClass, Status};

use crate::common::*;

#[tokio::test]
async fn a_node_that_hangs_delays_no_other() {
    let bench = Bench::new();
    let (hung, well) = (FakeNode::new(), FakeNode::new());
    hung.on_all(Some(Answer::Hang(Progress::default())));
    bench.drive(&[(settings(NODE), &hung), (settings(OTHER), &well)]);
    bench.want(NODE, 0..500);
    bench.want(OTHER, 0..500);
    until("the other node", || {
        bench.ledger.counts(OTHER).of(Status::Pinned) == 500
    })
    .await;
    assert_eq!(bench.ledger.counts(NODE).of(Status::Queued), 500);
    let begun = Instant::now();
    assert!(bench.worker.reports().len() == 2 && bench.view(NODE, 1).is_some());
    assert!(
        begun.elapsed() < Duration::from_millis(200),
        "questions do not wait for nodes"
    );
    until("it to be noticed", || {
        bench
            .worker
            .report(NODE)
            .is_some_and(|report| report.class == Some(ErrorClass::Unreachable))
    })
    .await;
    let begun = Instant::now();
    bench
        .worker
        .shutdown(Duration::from_secs(5))
        .await
        .expect("stops though a node hangs");
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn the_breaker_spares_a_node_that_is_down_and_work_begins_when_it_is_back() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    until("the first report", || {
        bench.worker.report(NODE).is_some_and(|report| report.reachable)
    })
    .await;
    let report = bench.worker.report(NODE).expect("driven");
    assert_eq!(
        (report.free_bytes, report.total_bytes, report.breaker),
        (Some(900), Some(1_000), "closed")
    );
    assert_eq!(report.ipfs_peer.as_deref(), Some("12D3KooWFake"));

    node.on_all(Some(Answer::Fail(ErrorClass::Unreachable)));
    bench.want(NODE, 0..200);
    until("the breaker to open", || {
        bench
            .worker
            .report(NODE)
            .is_some_and(|report| report.breaker == "open" && !report.reachable)
    })
    .await;
    let asked = node.calls(Operation::PinLs).len();
    assert!(asked < 60, "{asked} requests were made of a node that is down");
    let counts = bench.ledger.counts(NODE);
    assert_eq!(
        (counts.of(Status::Queued), counts.of(Status::GaveUp)),
        (200, 0),
        "its faults do not count against pins"
    );
    assert!(bench.worker.report(NODE).expect("driven").oldest_queued_age.is_some());

    node.on_all(None);
    let back = Instant::now();
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 200).await;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    until("a good report", || {
        bench
            .worker
            .report(NODE)
            .is_some_and(|report| report.reachable && report.breaker == "closed")
    })
    .await;
}

#[tokio::test]
async fn pins_and_unpins_do_not_wait_for_each_other() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, 0..10);
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 10).await;
    // All permits of unpins hang, as during a garbage collection.
    for n in 0..5 {
        node.on_remove(cid(n), Answer::Hang(Progress::default()));
    }
    bench.unwant(NODE, 0..5);
    until("unpins to hang", || node.calls(Operation::PinRm).len() == 2).await;
    bench.want(NODE, 100..150);
    until("pins go on", || bench.ledger.counts(NODE).of(Status::Pinned) == 55).await;

    // And the other way round.
    for n in 200..220 {
        node.on_add(cid(n), Answer::Hang(Progress::default()));
    }
    bench.want(NODE, 200..220);
    until("pins to hang", || node.adding.load(Ordering::Relaxed) >= 4).await;
    for n in 0..5 {
        node.on_remove(cid(n), Answer::Well);
    }
    bench.unwant(NODE, 100..120);
    until("unpins go on", || bench.ledger.counts(NODE).of(Status::Unpinning) == 0).await;
}

#[tokio::test]
async fn a_full_disk_stops_pins_and_not_unpins() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, 0..3);
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 3).await;
    for n in 10..100 {
        node.on_add(cid(n), Answer::Fail(ErrorClass::DiskFull));
    }
    bench.want(NODE, 10..100);
    until("the first refusal", || {
        bench
            .worker
            .page(NODE, None, 200)
            .expect("reads")
            .iter()
            .any(|(_, view)| view.class == Some(ErrorClass::DiskFull))
    })
    .await;
    bench.unwant(NODE, 0..3);
    until("space to be made", || node.held() == 0).await;
    assert!(node.calls(Operation::PinAdd).len() < 40, "most are not even tried");
}

#[tokio::test]
async fn a_source_that_fails_is_asked_again() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.wishes.broken.store(true, Ordering::Relaxed);
    bench.want(NODE, 0..10);
    bench.drive(&[(settings(NODE), &node)]);
    until("a failure", || bench.wishes.failures.load(Ordering::Relaxed) > 0).await;
    bench.wishes.broken.store(false, Ordering::Relaxed);
    until("all pinned", || {
        bench.ledger.counts(NODE).of(Status::Pinned) == 10 && bench.wishes.notes() == 0
    })
    .await;
}

#[tokio::test]
async fn after_an_outage_all_permits_are_used_though_the_first_pins_take_long() {
    let bench = Bench::new();
    let node = FakeNode::new();
    node.on_all(Some(Answer::Fail(ErrorClass::Unreachable)));
    let many = cluster_worker::NodeSettings {
        concurrency_max: 16,
        concurrency_start: 16,
        ..settings(NODE)
    };
    bench.drive(&[(many, &node)]);
    for n in 0..20 {
        node.on_add(cid(n), Answer::Hang(Progress { blocks: 1, bytes: 1 }));
    }
    bench.want(NODE, 0..20);
    until("the breaker to open", || {
        bench.worker.report(NODE).is_some_and(|report| report.breaker == "open")
    })
    .await;
    let permits = bench.worker.report(NODE).expect("driven").concurrency;
    node.on_all(None);
    let back = Instant::now();
    until("all permits to be used", || {
        node.adding.load(Ordering::Relaxed) == permits as u64
    })
    .await;
    assert!(
        permits > 1 && back.elapsed() < Duration::from_secs(5),
        "{permits} in {:?}",
        back.elapsed()
    );
    assert_eq!(bench.worker.report(NODE).expect("driven").breaker, "closed");
}
