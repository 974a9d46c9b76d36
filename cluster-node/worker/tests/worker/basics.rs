//! Every way from one state to another.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cluster_ipfs::{Operation, PIN_NAME, Progress};
use cluster_worker::{ALL_NODES, Kind, Observer, Recover, SystemClock, Worker};
use node_core::{ErrorClass, NodeId, PinMode, Status};
use parking_lot::Mutex;

use crate::common::*;

#[tokio::test]
async fn wanted_is_pinned_and_unwanted_is_unpinned() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, 0..100);
    until("all to be pinned", || {
        bench.ledger.counts(NODE).of(Status::Pinned) == 100
    })
    .await;
    assert_eq!(node.held(), 100);
    let view = bench.view(NODE, 5).expect("known");
    assert_eq!((view.attempts, view.blocks, view.bytes, view.error), (1, 3, 300, None));
    assert!(view.pinned_at.is_some() && view.next_due.is_none());
    assert_eq!(bench.wishes.notes(), 0);

    bench.unwant(NODE, 0..50);
    until("half to be gone", || bench.ledger.counts(NODE).total() == 50).await;
    assert_eq!(node.held(), 50);
    assert_eq!(bench.view(NODE, 5), None);
    bench.ledger.check().expect("consistent");
}

#[tokio::test]
async fn a_running_pin_shows_its_progress_and_is_cut_off_when_it_is_not_wanted_any_more() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    let progress = Progress {
        blocks: 17,
        bytes: 4_711,
    };
    node.on_add(cid(1), Answer::Hang(progress));
    bench.want(NODE, [1]);
    until("progress", || {
        bench.view(NODE, 1).is_some_and(|view| view.progress == Some(progress))
    })
    .await;
    assert_eq!(bench.status(NODE, 1), Some(Status::Pinning));
    assert_eq!(bench.worker.live(NODE)[&cid(1)].kind, Kind::Pin);
    assert_eq!(
        bench.worker.page(NODE, None, 9).expect("reads")[0].1.status,
        Status::Pinning
    );
    assert_eq!(bench.worker.report(NODE).expect("driven").pinning, 1);
    // Kept as queued, so that a crash forgets nothing.
    assert_eq!(bench.entry(1).expect("known").status, Status::Queued);

    bench.unwant(NODE, [1]);
    bench.until_status(NODE, 1, None).await;
    assert_eq!(
        node.calls(Operation::PinRm),
        [cid(1), cid(1)],
        "the outcome of what was cut off is not known, and may come later"
    );
    // The ledger forgets it a moment before the driver does.
    until("nothing to be under way", || bench.worker.live(NODE).is_empty()).await;
}

#[tokio::test]
async fn what_was_never_tried_is_forgotten_without_a_call() {
    let bench = Bench::new();
    let node = FakeNode::new();
    // The only permit is taken.
    let one = cluster_worker::NodeSettings {
        concurrency_max: 1,
        concurrency_start: 1,
        ..settings(NODE)
    };
    bench.drive(&[(one, &node)]);
    node.on_add(cid(0), Answer::Hang(Progress::default()));
    bench.want(NODE, [0]);
    bench.until_status(NODE, 0, Some(Status::Pinning)).await;
    bench.want(NODE, 1..20);
    until("all to be queued", || bench.ledger.counts(NODE).total() == 20).await;
    bench.unwant(NODE, 3..20);
    until("some to be gone", || bench.ledger.counts(NODE).total() == 3).await;
    // One more than there are permits may already be marked as ours, waiting for its turn.
    assert!(node.calls(Operation::PinRm).iter().collect::<BTreeSet<_>>().len() <= 1);
    assert_eq!(node.calls(Operation::PinAdd), [cid(0)]);
}

#[tokio::test]
async fn a_failed_pin_is_repeated_until_it_works() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    node.on_add(cid(1), Answer::Fail(ErrorClass::Temporary));
    bench.want(NODE, [1]);
    until("some tries", || {
        bench.view(NODE, 1).is_some_and(|view| view.attempts >= 3)
    })
    .await;
    let entry = bench.entry(1).expect("known");
    assert_eq!(
        (entry.status, entry.class),
        (Status::Retrying, Some(ErrorClass::Temporary))
    );
    assert_eq!(entry.error, "scripted temporary");
    node.on_add(cid(1), Answer::Well);
    bench.until_status(NODE, 1, Some(Status::Pinned)).await;
    assert_eq!(bench.view(NODE, 1).expect("known").error, None);
}

#[tokio::test]
async fn what_can_never_work_is_given_up_and_can_be_recovered() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    for n in 0..30 {
        node.on_add(cid(n), Answer::Fail(ErrorClass::Permanent));
    }
    bench.want(NODE, 0..30);
    until("all given up", || bench.ledger.counts(NODE).of(Status::GaveUp) == 30).await;
    let view = bench.view(NODE, 3).expect("known");
    assert!(view.error.expect("a reason").contains("scripted permanent") && view.next_due.is_none());
    for n in 0..30 {
        node.on_add(cid(n), Answer::Well);
    }
    let one = Recover {
        cid: Some(cid(3)),
        ..Recover::default()
    };
    assert_eq!(bench.worker.recover(one.clone()).await, Ok(1));
    bench.until_status(NODE, 3, Some(Status::Pinned)).await;
    assert_eq!(bench.worker.recover(one).await, Ok(0));
    let other_class = Recover {
        class: Some(ErrorClass::Stalled),
        ..Recover::default()
    };
    assert_eq!(bench.worker.recover(other_class).await, Ok(0));
    assert_eq!(
        bench
            .worker
            .recover(Recover {
                node: Some(OTHER),
                ..Recover::default()
            })
            .await,
        Ok(0)
    );
    assert_eq!(
        bench
            .worker
            .recover(Recover {
                node: Some(NODE),
                ..Recover::default()
            })
            .await,
        Ok(29)
    );
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 30).await;
}

#[tokio::test]
async fn too_many_tries_or_too_much_age_end_in_giving_up() {
    let bench = Bench::new();
    let node = FakeNode::new();
    let mut limited = settings(NODE);
    limited.retry.attempts_max = 4;
    bench.drive(&[(limited, &node)]);
    node.on_add(cid(1), Answer::Fail(ErrorClass::Stalled));
    bench.want(NODE, [1]);
    bench.until_status(NODE, 1, Some(Status::GaveUp)).await;
    assert_eq!(bench.view(NODE, 1).expect("known").attempts, 4);
    // Asking again is a new chance.
    node.on_add(cid(1), Answer::Well);
    bench.want(NODE, [1]);
    bench.until_status(NODE, 1, Some(Status::Pinned)).await;
}

#[tokio::test]
async fn unpins_are_never_given_up() {
    let bench = Bench::new();
    let node = FakeNode::new();
    let mut limited = settings(NODE);
    limited.retry.attempts_max = 2;
    bench.drive(&[(limited, &node)]);
    bench.want(NODE, [1]);
    bench.until_status(NODE, 1, Some(Status::Pinned)).await;
    node.on_remove(cid(1), Answer::Fail(ErrorClass::Permanent));
    bench.unwant(NODE, [1]);
    until("many tries", || node.calls(Operation::PinRm).len() >= 5).await;
    assert_eq!(bench.status(NODE, 1), Some(Status::Unpinning));
    node.on_remove(cid(1), Answer::Well);
    bench.until_status(NODE, 1, None).await;
    assert_eq!(node.held(), 0);
}

#[tokio::test]
async fn wanted_again_while_it_is_being_unpinned() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, [1]);
    bench.until_status(NODE, 1, Some(Status::Pinned)).await;
    node.on_remove(cid(1), Answer::Hang(Progress::default()));
    bench.unwant(NODE, [1]);
    until("the unpin to run", || !node.calls(Operation::PinRm).is_empty()).await;
    bench.want(NODE, [1]);
    node.on_remove(cid(1), Answer::Well);
    bench.until_status(NODE, 1, Some(Status::Pinned)).await;
    assert_eq!(node.holds(&cid(1)), Some(PinMode::Recursive));
}

#[tokio::test]
async fn another_mode_is_brought_about() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, [1]);
    bench.until_status(NODE, 1, Some(Status::Pinned)).await;
    bench.wishes.want_as(NODE, cid(1), PinMode::Direct);
    bench.worker.wake();
    until("direct", || node.holds(&cid(1)) == Some(PinMode::Direct)).await;
    bench.until_status(NODE, 1, Some(Status::Pinned)).await;
    bench.want(NODE, [1]);
    until("recursive", || node.holds(&cid(1)) == Some(PinMode::Recursive)).await;
}

#[tokio::test]
async fn pins_made_by_hand_are_left_alone() {
    let bench = Bench::new();
    let node = FakeNode::new();
    node.pin_by_hand(cid(1), PinMode::Recursive);
    node.pin_by_hand(cid(2), PinMode::Direct);
    node.pin_by_hand(cid(3), PinMode::Recursive);
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, [1, 2, 4]);
    bench.wishes.want_as(NODE, cid(5), PinMode::Direct);
    node.pin_by_hand(cid(5), PinMode::Recursive);
    bench.worker.wake();
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 4).await;
    assert!(!node.calls(Operation::PinAdd).contains(&cid(1)), "it was enough");
    assert_eq!(node.holds(&cid(2)), Some(PinMode::Recursive));
    bench.unwant(NODE, [1, 2, 4, 5]);
    until("all let go", || bench.ledger.counts(NODE).total() == 0).await;
    assert_eq!(node.holds(&cid(1)), Some(PinMode::Recursive));
    assert_eq!(node.holds(&cid(2)), Some(PinMode::Direct), "back to what it was");
    assert_eq!(node.holds(&cid(3)), Some(PinMode::Recursive), "never asked for");
    assert_eq!(node.holds(&cid(4)), None);
    assert_eq!(node.holds(&cid(5)), Some(PinMode::Recursive));
}

#[tokio::test]
async fn origins_are_connected_to_and_an_older_version_is_used() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, [1]);
    bench.until_status(NODE, 1, Some(Status::Pinned)).await;
    bench.wishes.want_with(NODE, cid(2), |wanted| {
        wanted.origins = (0..20).map(|n| format!("/ip4/192.0.2.{n}/tcp/4001/p2p/x")).collect();
        wanted.updated_from = Some(cid(1));
    });
    // The older version is not pinned by us here.
    bench
        .wishes
        .want_with(NODE, cid(3), |wanted| wanted.updated_from = Some(cid(9)));
    bench.worker.wake();
    bench.until_status(NODE, 2, Some(Status::Pinned)).await;
    bench.until_status(NODE, 3, Some(Status::Pinned)).await;
    assert_eq!(node.calls(Operation::PinUpdate), [cid(2)]);
    assert_eq!(node.calls(Operation::PinAdd), [cid(1), cid(3)]);
    assert_eq!(node.name(&cid(2)), PIN_NAME);
    // A daemon hands the name on, and that of a pin made by hand is not ours.
    node.pin_by_hand(cid(20), PinMode::Recursive);
    bench.want(NODE, [20]);
    bench.until_status(NODE, 20, Some(Status::Pinned)).await;
    bench
        .wishes
        .want_with(NODE, cid(21), |wanted| wanted.updated_from = Some(cid(20)));
    bench.worker.wake();
    bench.until_status(NODE, 21, Some(Status::Pinned)).await;
    assert_eq!(node.name(&cid(21)), PIN_NAME);
    assert_eq!(node.origins().len(), 10);
}

#[tokio::test]
async fn a_failed_update_falls_back_to_pinning() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, [1]);
    bench.until_status(NODE, 1, Some(Status::Pinned)).await;
    node.on_add(cid(2), Answer::Fail(ErrorClass::Stalled));
    bench
        .wishes
        .want_with(NODE, cid(2), |wanted| wanted.updated_from = Some(cid(1)));
    bench.worker.wake();
    until("both tried", || {
        !node.calls(Operation::PinAdd).is_empty() && node.calls(Operation::PinAdd).contains(&cid(2))
    })
    .await;
    assert!(node.calls(Operation::PinUpdate).contains(&cid(2)));
}

#[tokio::test]
async fn a_whole_node_is_compared() {
    let bench = Bench::new();
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    bench.want(NODE, 0..100);
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 100).await;
    // As after the installation of a snapshot: other wishes, no notes but one.
    bench.wishes.replace(NODE, (50..170).map(cid));
    bench.wishes.note(ALL_NODES, None);
    bench.worker.wake();
    until("in line", || {
        let counts = bench.ledger.counts(NODE);
        counts.of(Status::Pinned) == 120 && counts.total() == 120
    })
    .await;
    assert_eq!(node.held(), 120);
    assert!((50..170).all(|n| node.holds(&cid(n)).is_some()));
    until("the note to be forgotten", || bench.wishes.notes() == 0).await;
    // Nothing is wanted at all.
    bench.wishes.replace(NODE, std::iter::empty());
    bench.wishes.note(NODE, None);
    bench.worker.wake();
    until("empty", || bench.ledger.counts(NODE).total() == 0 && node.held() == 0).await;
}

/// After a snapshot the note is read at once, while the list of nodes that came with it is told a moment later.
#[tokio::test]
async fn a_note_for_all_nodes_is_not_lost_on_nodes_that_are_told_later() {
    let bench = Bench::new();
    bench.drive(&[]);
    bench.wishes.replace(NODE, (0..10).map(cid));
    bench.wishes.note(ALL_NODES, None);
    bench.worker.wake();
    until("the note to be forgotten", || bench.wishes.notes() == 0).await;
    let node = FakeNode::new();
    bench.drive(&[(settings(NODE), &node)]);
    until("all pinned", || bench.ledger.counts(NODE).of(Status::Pinned) == 10).await;
    assert_eq!(node.held(), 10);
}

#[tokio::test]
async fn nodes_come_and_go() {
    let bench = Bench::new();
    let (one, two) = (FakeNode::new(), FakeNode::new());
    bench.want(NODE, 0..10);
    bench.want(OTHER, 0..10);
    bench.drive(&[(settings(NODE), &one)]);
    until("the first node", || bench.ledger.counts(NODE).of(Status::Pinned) == 10).await;
    assert_eq!((two.held(), bench.worker.report(OTHER)), (0, None));
    bench.drive(&[(settings(NODE), &one), (settings(OTHER), &two)]);
    until("the second node", || two.held() == 10).await;
    one.on_add(cid(50), Answer::Hang(Progress::default()));
    bench.want(NODE, [50]);
    bench.until_status(NODE, 50, Some(Status::Pinning)).await;
    // The same settings leave it alone; others begin it anew.
    bench.drive(&[(settings(NODE), &one), (settings(OTHER), &two)]);
    assert_eq!(bench.status(NODE, 50), Some(Status::Pinning));
    bench.drive(&[(settings(OTHER), &two)]);
    until("the request to be cut off", || {
        one.adding.load(std::sync::atomic::Ordering::Relaxed) == 0
    })
    .await;
    assert_eq!(bench.status(NODE, 50), Some(Status::Queued));
    one.on_add(cid(50), Answer::Well);
    bench.drive(&[(settings(NODE), &one), (settings(OTHER), &two)]);
    bench.until_status(NODE, 50, Some(Status::Pinned)).await;
    bench.drive(&[(settings(OTHER), &two)]);
    bench.worker.forget_node(NODE).await.expect("forgets");
    assert_eq!(bench.ledger.nodes(), [OTHER]);
    bench.worker.shutdown(Duration::from_secs(5)).await.expect("stops");
}

#[derive(Default)]
struct Tally(Mutex<Vec<String>>);

impl Observer for Tally {
    fn attempt(&self, node: NodeId, kind: Kind, outcome: Result<(), ErrorClass>, _: Duration) {
        let outcome = outcome.map_or_else(ErrorClass::as_str, |()| "well");
        self.0.lock().push(format!("{node} {} {outcome}", kind.as_str()));
    }

    fn gave_up(&self, node: NodeId, class: ErrorClass) {
        self.0.lock().push(format!("{node} gave up {}", class.as_str()));
    }
}

#[tokio::test]
async fn outcomes_are_told_to_the_observer() {
    let dir = tempfile::tempdir().expect("folder");
    let (wishes, node, tally) = (Wishes::new(), FakeNode::new(), Arc::new(Tally::default()));
    let clock = Arc::new(SystemClock);
    let worker = Worker::start(
        config(),
        open(&dir),
        Arc::clone(&wishes) as _,
        clock,
        1,
        Arc::clone(&tally) as _,
    );
    node.on_add(cid(1), Answer::Fail(ErrorClass::Permanent));
    worker.set_nodes(vec![(settings(NODE), Arc::clone(&node) as _)]);
    wishes.want(NODE, cid(1));
    worker.wake();
    until("giving up", || tally.0.lock().len() == 2).await;
    wishes.want(NODE, cid(2));
    worker.wake();
    until("pinning", || tally.0.lock().len() == 3).await;
    wishes.unwant(NODE, cid(2));
    worker.wake();
    until("unpinning", || tally.0.lock().len() == 4).await;
    assert_eq!(
        *tally.0.lock(),
        [
            "n1 gave up permanent",
            "n1 pin permanent",
            "n1 pin well",
            "n1 unpin well"
        ]
    );
}
