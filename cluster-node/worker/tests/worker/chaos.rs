//! Wishes that change all the time, a node that fails now and then, and restarts: in the end the node holds what is
//! wanted and nothing else.

use std::time::Duration;

use node_core::{PinMode, Status};

use crate::common::*;

#[tokio::test]
async fn whatever_happens_the_node_ends_up_with_what_is_wanted() {
    for seed in 1..=3_u64 {
        let mut state = seed;
        let mut bench = Bench::new();
        let node = FakeNode::new();
        // Made by hand: one that nobody asks for, and one that is asked for now and then.
        node.pin_by_hand(cid(1_000), PinMode::Recursive);
        node.pin_by_hand(cid(0), PinMode::Recursive);
        node.set_flaky(5, seed);
        bench.drive(&[(settings(NODE), &node)]);
        for round in 0..6 {
            for _ in 0..150 {
                let n = random(&mut state) % 40;
                match random(&mut state) % 5 {
                    0 | 1 => bench.wishes.want(NODE, cid(n)),
                    2 => bench.wishes.want_as(NODE, cid(n), PinMode::Direct),
                    3 => bench.wishes.unwant(NODE, cid(n)),
                    _ => tokio::time::sleep(Duration::from_micros(random(&mut state) % 2_000)).await,
                }
                bench.worker.wake();
            }
            if round % 2 == 1 {
                bench = bench.restart().await;
                bench.drive(&[(settings(NODE), &node)]);
            }
        }
        node.set_flaky(0, 0);
        let mut expected = bench.wishes.all(NODE);
        until("rest", || {
            let counts = bench.ledger.counts(NODE);
            bench.wishes.notes() == 0
                && counts.of(Status::Pinned) == counts.total()
                && counts.total() == expected.len() as u64
        })
        .await;
        expected.insert(cid(1_000), PinMode::Recursive);
        expected.insert(cid(0), PinMode::Recursive);
        assert_eq!(node.all(), expected, "seed {seed}");
        bench.ledger.check().expect("consistent");
        bench.worker.shutdown(Duration::from_secs(5)).await.expect("stops");
    }
}
