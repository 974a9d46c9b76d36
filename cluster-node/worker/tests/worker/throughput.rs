//! Pins per second with a node that answers at once: printed, never asserted. `PINFLEET_TEST_PINS` asks for more pins.

use std::sync::atomic::Ordering;
use std::time::Instant;

use cluster_worker::NodeSettings;
use node_core::Status;

use crate::common::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_per_second_are_printed() {
    let n: u64 = std::env::var("PINFLEET_TEST_PINS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(10_000);
    let bench = Bench::new();
    let node = FakeNode::new();
    node.silent.store(true, Ordering::Relaxed);
    bench.want(NODE, 0..n);
    let begun = Instant::now();
    bench.drive(&[(
        NodeSettings {
            concurrency_max: 64,
            concurrency_start: 8,
            ..settings(NODE)
        },
        &node,
    )]);
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == n).await;
    let report = bench.worker.report(NODE).expect("driven");
    println!("worker: {:?}", bench.ledger.stats());
    println!(
        "worker: {:.0} pins/s ({} permits)",
        n as f64 / begun.elapsed().as_secs_f64(),
        report.concurrency
    );
}
