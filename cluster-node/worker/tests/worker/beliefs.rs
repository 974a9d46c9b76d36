//! What the ledger says of a node, and what happens when the node says otherwise.

use std::time::Duration;

use cluster_ipfs::{Operation, PIN_NAME, Progress};
use cluster_storage::ledger::Note;
use cluster_worker::{Recover, WorkerConfig};
use node_core::{ErrorClass, PinMode, Status};

use crate::common::*;

#[tokio::test]
async fn another_daemon_at_the_address_is_noticed_and_gets_everything() {
    let bench = Bench::new();
    let node = FakeNode::new();
    node.pin_by_hand(cid(1), PinMode::Recursive);
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, 0..20);
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 20).await;
    let known = bench.ledger.note(NODE, Note::Daemon).expect("reads");
    assert_eq!(known.as_deref(), Some(&b"12D3KooWFake"[..]));
    // One is given up, one can't be let go of.
    node.on_add(cid(30), Answer::Fail(ErrorClass::Permanent));
    bench.want(NODE, [30]);
    bench.until_status(NODE, 30, Some(Status::GaveUp)).await;
    node.on_remove(cid(0), Answer::Fail(ErrorClass::Temporary));
    bench.unwant(NODE, [0]);
    bench.until_status(NODE, 0, Some(Status::Unpinning)).await;

    node.replace("12D3KooWOther");
    node.on_add(cid(30), Answer::Well);
    until("all pinned anew", || node.held() == 20).await;
    until("the ledger to say so", || {
        let counts = bench.ledger.counts(NODE);
        counts.of(Status::Pinned) == 20 && counts.total() == 20
    })
    .await;
    // What had been made by hand on the old one was made by us on the new one.
    bench.unwant(NODE, [1]);
    until("it to be gone", || node.holds(&cid(1)).is_none()).await;
    // A restart finds the same daemon and does nothing.
    let bench = bench.restart().await;
    let asked = node.calls(Operation::PinLs).len();
    bench.drive(&[(settings(NODE), &node)]);
    until("a report", || {
        bench.worker.report(NODE).is_some_and(|report| report.reachable)
    })
    .await;
    assert_eq!(node.calls(Operation::PinLs).len(), asked);
    assert_eq!(bench.ledger.counts(NODE).of(Status::Pinned), 19);
}

#[tokio::test]
async fn a_running_unpin_is_not_cut_off_and_its_end_is_looked_at() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, [1]);
    bench.until_status(NODE, 1, Some(Status::Pinned)).await;
    node.on_remove(cid(1), Answer::Hang(Progress::default()));
    bench.unwant(NODE, [1]);
    until("the unpin to run", || node.calls(Operation::PinRm).len() == 1).await;
    bench.want(NODE, [1]);
    bench.until_status(NODE, 1, Some(Status::Queued)).await;
    // Nothing else is done to it while the daemon may carry the unpin out, so nothing can be found pinned too early.
    bench.want(NODE, [2]);
    bench.until_status(NODE, 2, Some(Status::Pinned)).await;
    assert_eq!(bench.status(NODE, 1), Some(Status::Queued));
    // The try of the other one is over a moment after its outcome is written.
    until("the unpin to be all that runs", || bench.worker.live(NODE).len() == 1).await;
    node.on_remove(cid(1), Answer::Well);
    bench.until_status(NODE, 1, Some(Status::Pinned)).await;
    assert_eq!(node.holds(&cid(1)), Some(PinMode::Recursive));
    assert_eq!(
        node.calls(Operation::PinAdd),
        [cid(1), cid(2), cid(1)],
        "it had really been let go of"
    );
}

#[tokio::test]
async fn a_pin_that_wins_after_it_was_cut_off_leaves_no_orphan() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    node.on_add(cid(1), Answer::Hang(Progress::default()));
    bench.want(NODE, [1]);
    bench.until_status(NODE, 1, Some(Status::Pinning)).await;
    bench.unwant(NODE, [1]);
    until("the first unpin", || node.calls(Operation::PinRm).len() == 1).await;
    // The daemon had not noticed yet that its caller was gone.
    node.pin_as(cid(1), PinMode::Recursive, PIN_NAME);
    bench.until_status(NODE, 1, None).await;
    assert_eq!(node.holds(&cid(1)), None);
}

#[tokio::test]
async fn the_second_look_survives_a_restart() {
    let bench = Bench::with(WorkerConfig {
        look_again_after: Duration::from_secs(1),
        ..config()
    });
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    node.on_add(cid(1), Answer::Hang(Progress::default()));
    bench.want(NODE, [1]);
    bench.until_status(NODE, 1, Some(Status::Pinning)).await;
    bench.unwant(NODE, [1]);
    until("the first unpin", || {
        bench.entry(1).is_some_and(|entry| {
            entry.status == Status::Unpinning && !entry.look_again && !node.calls(Operation::PinRm).is_empty()
        })
    })
    .await;
    let bench = bench.restart().await;
    node.pin_as(cid(1), PinMode::Recursive, PIN_NAME);
    bench.drive(&[(settings(NODE), &node)]);
    bench.until_status(NODE, 1, None).await;
    assert_eq!(node.holds(&cid(1)), None);
}

#[tokio::test]
async fn our_pins_are_known_by_their_name_when_the_ledger_is_lost() {
    let bench = Bench::new();
    let node = FakeNode::new();
    node.pin_by_hand(cid(1), PinMode::Recursive);
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, 0..4);
    bench.wishes.want_as(NODE, cid(4), PinMode::Direct);
    bench.worker.wake();
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 5).await;
    assert_eq!(
        (node.name(&cid(0)).as_str(), node.name(&cid(1)).as_str()),
        (PIN_NAME, "")
    );
    // As after a lost disk, or when the node is added again.
    let added = node.calls(Operation::PinAdd).len();
    bench.drive(&[]);
    bench.worker.forget_node(NODE).await.expect("forgets");
    assert_eq!(bench.ledger.note(NODE, Note::Daemon).expect("reads"), None);
    bench.wishes.note(NODE, None);
    bench.drive(&[(settings(NODE), &node)]);
    bench.worker.wake();
    until("all found", || bench.ledger.counts(NODE).of(Status::Pinned) == 5).await;
    assert_eq!(node.calls(Operation::PinAdd).len(), added, "it was all there");
    bench.unwant(NODE, 0..5);
    until("ours to be gone", || bench.ledger.counts(NODE).total() == 0).await;
    assert_eq!(
        node.all().into_iter().collect::<Vec<_>>(),
        [(cid(1), PinMode::Recursive)]
    );
}

#[tokio::test]
async fn pins_of_another_cluster_at_the_same_daemon_stay() {
    let bench = Bench::new();
    let node = FakeNode::new();
    let theirs = format!("{PIN_NAME}:another");
    node.pin_as(cid(1), PinMode::Recursive, &theirs);
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, 0..3);
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 3).await;
    bench.unwant(NODE, 0..3);
    until("ours to be gone", || bench.ledger.counts(NODE).total() == 0).await;
    assert_eq!(node.name(&cid(1)), theirs);
    assert_eq!(node.held(), 1);
}

#[tokio::test]
async fn nodes_that_are_gone_are_forgotten() {
    let bench = Bench::new();
    let (node, other) = (FakeNode::new(), FakeNode::new());
    bench.drive(&[(settings(NODE), &node), (settings(OTHER), &other)]);
    bench.want(NODE, 0..5);
    bench.want(OTHER, 0..5);
    until("all pinned", || node.held() + other.held() == 10).await;
    until("all known", || bench.ledger.counts(OTHER).of(Status::Pinned) == 5).await;
    bench.drive(&[(settings(OTHER), &other)]);
    bench.worker.forget_nodes([NODE, cluster_worker::ALL_NODES]);
    until("it to be forgotten", || bench.ledger.nodes() == [OTHER]).await;
    assert_eq!(node.held(), 5, "the pins stay on a daemon that is not ours any more");
}

#[tokio::test]
async fn an_audit_finds_what_a_person_took_away() {
    let bench = Bench::with(WorkerConfig {
        audit_per_minute: 6_000,
        ..config()
    });
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, 0..10);
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 10).await;
    node.unpin_by_hand(&cid(3));
    node.unpin_by_hand(&cid(7));
    until("both to be back", || node.held() == 10).await;
    until("the ledger to say so", || {
        bench.ledger.counts(NODE).of(Status::Pinned) == 10
    })
    .await;
    assert_eq!(node.calls(Operation::PinAdd).len(), 12, "and nothing else was touched");
}

#[tokio::test]
async fn without_audits_nobody_asks() {
    let bench = Bench::with(WorkerConfig {
        audit_per_minute: 0,
        ..config()
    });
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, [1]);
    bench.until_status(NODE, 1, Some(Status::Pinned)).await;
    let probes = node.count(Operation::Id);
    until("some probes", || node.count(Operation::Id) > probes + 2).await;
    assert_eq!(node.calls(Operation::PinLs), [cid(1)]);
}

#[tokio::test]
async fn recover_takes_exactly_the_states_that_were_asked_for() {
    let bench = Bench::new();
    let node = FakeNode::new();
    let mut slow = settings(NODE);
    slow.retry.first = Duration::from_secs(1_000);
    slow.retry.max = Duration::from_secs(1_000);
    bench.drive(&[(slow, &node)]);
    bench.want(NODE, [1, 2, 3]);
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 3).await;
    node.on_add(cid(10), Answer::Fail(ErrorClass::Permanent));
    node.on_add(cid(11), Answer::Fail(ErrorClass::Temporary));
    node.on_remove(cid(3), Answer::Fail(ErrorClass::Temporary));
    bench.want(NODE, [10, 11]);
    bench.unwant(NODE, [3]);
    until("all to have failed", || {
        let counts = bench.ledger.counts(NODE);
        counts.of(Status::GaveUp) == 1
            && counts.of(Status::Retrying) == 1
            && bench.entry(3).is_some_and(|entry| entry.attempts == 1)
    })
    .await;
    let recover = async |statuses: &[Status], n: Option<u64>| {
        let filter = Recover {
            statuses: statuses.to_vec(),
            cid: n.map(cid),
            ..Recover::default()
        };
        bench.worker.recover(filter).await.expect("recovers")
    };
    // Not asked for, not touched: with and without a CID.
    assert_eq!(recover(&[Status::Pinned, Status::Pinning], None).await, 0);
    assert_eq!(recover(&[Status::GaveUp], Some(11)).await, 0);
    assert_eq!(recover(&[Status::Retrying], Some(10)).await, 0);
    assert_eq!(recover(&[], Some(3)).await, 0);
    assert_eq!(recover(&[], Some(1)).await, 0);
    assert_eq!(node.calls(Operation::PinAdd).len(), 5);
    // Asked for.
    node.on_remove(cid(3), Answer::Well);
    assert_eq!(recover(&[Status::Unpinning], None).await, 1);
    bench.until_status(NODE, 3, None).await;
    assert_eq!(bench.status(NODE, 11), Some(Status::Retrying));
    node.on_add(cid(10), Answer::Well);
    node.on_add(cid(11), Answer::Well);
    assert_eq!(recover(&[], None).await, 2, "those given up and those that wait");
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 4).await;
}

/// We did not get on, so an operator pinned it by hand; then the cluster lets go of it.
#[tokio::test]
async fn a_pin_made_by_hand_after_our_request_failed_stays() {
    let bench = Bench::new();
    let node = FakeNode::new();
    node.on_add(cid(1), Answer::Fail(ErrorClass::Permanent));
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, [1]);
    bench.until_status(NODE, 1, Some(Status::GaveUp)).await;
    node.pin_by_hand(cid(1), PinMode::Recursive);
    bench.unwant(NODE, [1]);
    bench.until_status(NODE, 1, None).await;
    assert_eq!(node.holds(&cid(1)), Some(PinMode::Recursive));
    assert_eq!(node.calls(Operation::PinRm), []);
}
