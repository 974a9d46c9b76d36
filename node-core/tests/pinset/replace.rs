//! Pins that take the place of others.

use node_core::command::{Op, OpResult, PinOutcome, RefusalKind, Request};
use node_core::pinset;
use node_core::pinset::check_invariants;
use node_core::{NodeId, Replication};

use super::machine::*;

#[test]
fn updating_takes_the_place_of_the_old_pin_in_one_step() {
    let mut machine = Machine::new(2);
    machine.pin(key("", 1, ""), replicas(1, 1));
    let mut op = machine.put(key("", 2, ""), replicas(1, 1));
    if let Op::PutPin { from, unpin_from, .. } = &mut op {
        *from = Some(key("", 1, ""));
        *unpin_from = true;
    }
    assert_eq!(outcome(&machine.one(op.clone())), Some(PinOutcome::Created));
    assert_eq!(pinset::pin(&machine.kv, &key("", 1, "")), Ok(None));
    machine.one(Op::RemovePin { key: key("", 2, "") });
    assert_eq!(
        refusal(&machine.one(op)),
        Some(RefusalKind::NotFound),
        "the source is gone"
    );
    check_invariants(&machine.kv).expect("holds");
}

/// The blocks that old and new share must be under a pin on their nodes all the time, also when the new one goes elsewhere.
#[test]
fn what_was_replaced_is_kept_until_what_replaces_it_is_held() {
    let mut machine = Machine::new(3);
    machine.pin(key("", 1, ""), replicas(2, 2));
    let replace = |machine: &Machine, from: u8, to: u8, slot: &str| {
        let mut op = machine.put(key("", to, slot), replicas(1, 1));
        if let Op::PutPin {
            from: source,
            unpin_from,
            plan,
            ..
        } = &mut op
        {
            *source = Some(key("", from, ""));
            *unpin_from = true;
            plan.nodes = vec![NodeId(3)];
        }
        op
    };
    let placement = |machine: &Machine, number: u8| pinset::placement(&machine.kv, &cid(number)).expect("memory");
    let before = placement(&machine, 1).expect("placed");
    let op = replace(&machine, 1, 2, "");
    let (results, effects) = machine.apply(vec![Request { id: None, op }]);
    assert_eq!(outcome(&results[0]), Some(PinOutcome::Created));
    assert_eq!(
        effects.touched,
        [(NodeId(3), cid(2))],
        "nobody lets go of the old content"
    );
    assert_eq!(pinset::pin(&machine.kv, &key("", 1, "")), Ok(None), "its pin is gone");
    let after = placement(&machine, 1).expect("kept");
    assert_eq!((&after.nodes, after.replication), (&before.nodes, before.replication));
    assert_eq!(pinset::kept(&machine.kv, None, 9), Ok(vec![(cid(1), cid(2))]));
    check_invariants(&machine.kv).expect("holds");

    // Replaced once more before it was held: the first is kept for the second, the second for the third.
    let op = replace(&machine, 2, 3, "");
    machine.one(op);
    assert_eq!(pinset::header(&machine.kv).expect("memory").pins, 1);
    assert_eq!(
        pinset::kept(&machine.kv, Some(&(cid(1), cid(2))), 9),
        Ok(vec![(cid(2), cid(3))])
    );
    check_invariants(&machine.kv).expect("holds");
    let op = machine.release(cid(1), cid(2));
    let (_, effects) = machine.apply(vec![Request { id: None, op }]);
    assert_eq!(effects.touched, [(NodeId(1), cid(1)), (NodeId(2), cid(1))]);
    assert_eq!(placement(&machine, 1), None);
    let again = machine.kv.clone();
    let op = machine.release(cid(1), cid(2));
    machine.one(op);
    assert_eq!(machine.kv, again, "released once");
    check_invariants(&machine.kv).expect("holds");

    // Somebody else's pin of it is none of that.
    machine.pin(key("other", 2, ""), replicas(1, 1));
    let op = machine.release(cid(2), cid(3));
    machine.one(op);
    assert_eq!(placement(&machine, 2).expect("wanted").pins, 1);
    check_invariants(&machine.kv).expect("holds");
}

#[test]
fn replacing_by_what_is_there_already_removes_the_old_pin() {
    let mut machine = Machine::new(2);
    machine.pin(key("", 1, ""), replicas(1, 1));
    machine.pin(key("", 2, ""), replicas(1, 1));
    let mut op = machine.put(key("", 2, ""), replicas(1, 1));
    if let Op::PutPin { from, unpin_from, .. } = &mut op {
        (*from, *unpin_from) = (Some(key("", 1, "")), true);
    }
    assert_eq!(outcome(&machine.one(op)), Some(PinOutcome::Updated));
    assert_eq!(pinset::pin(&machine.kv, &key("", 1, "")), Ok(None));
    // A pin of one CID takes the place of another of it: nothing is to be kept.
    let mut op = machine.put(key("", 2, "other"), replicas(1, 1));
    if let Op::PutPin { from, unpin_from, .. } = &mut op {
        (*from, *unpin_from) = (Some(key("", 2, "")), true);
    }
    let (results, effects) = machine.apply(vec![Request { id: None, op }]);
    assert_eq!(outcome(&results[0]), Some(PinOutcome::Created));
    assert_eq!(
        effects.touched,
        [(NodeId(1), cid(2))],
        "asked for once more, and let go of nowhere"
    );
    assert_eq!(pinset::kept(&machine.kv, None, 9), Ok(vec![(cid(1), cid(2))]));
    check_invariants(&machine.kv).expect("holds");
}

/// Two that have replaced each other keep each other; nobody wants them once both have no pin.
#[test]
fn what_nobody_wants_any_more_is_not_waited_for() {
    let mut machine = Machine::new(2);
    machine.pin(key("", 1, ""), replicas(1, 1));
    let replace = |machine: &mut Machine, from: u8, to: u8| {
        let mut op = machine.put(key("", to, ""), replicas(1, 1));
        if let Op::PutPin {
            from: source,
            unpin_from,
            ..
        } = &mut op
        {
            *source = Some(key("", from, ""));
            *unpin_from = true;
        }
        assert!(outcome(&machine.one(op)).is_some());
    };
    let wanted = |machine: &Machine, number: u8| pinset::is_wanted(&machine.kv, &cid(number)).expect("memory");
    replace(&mut machine, 1, 2);
    replace(&mut machine, 2, 3);
    replace(&mut machine, 3, 1);
    for number in 1..=3 {
        assert!(
            wanted(&machine, number),
            "{number}: the pin of 1 is at the end of its chain"
        );
    }
    assert!(!wanted(&machine, 4));
    machine.one(Op::RemovePin { key: key("", 1, "") });
    for number in 1..=3 {
        assert!(!wanted(&machine, number), "{number}");
    }
    for (kept, by) in pinset::kept(&machine.kv, None, 10).expect("memory") {
        let op = machine.release(kept, by);
        machine.one(op);
    }
    for number in 1..=3 {
        let placement = pinset::placement(&machine.kv, &cid(number));
        assert_eq!(placement, Ok(None), "{number}");
    }
    check_invariants(&machine.kv).expect("holds");
}

/// A leader saw that the new content is held, lost its place, and what it decided comes after the new content was sent
/// elsewhere: nobody is known to hold it there.
#[test]
fn what_was_seen_of_another_placement_lets_go_of_nothing() {
    let mut machine = Machine::new(3);
    machine.pin(key("", 1, ""), replicas(1, 1));
    let mut op = machine.put(key("", 2, ""), replicas(1, 1));
    if let Op::PutPin { from, unpin_from, .. } = &mut op {
        (*from, *unpin_from) = (Some(key("", 1, "")), true);
    }
    machine.one(op);
    let late = machine.release(cid(1), cid(2));
    let mut plan = machine.plan_for(&cid(2), Replication { min: 1, max: 1 });
    plan.nodes = vec![NodeId(3)];
    machine.one(Op::Place { cid: cid(2), plan });
    let before = machine.kv.clone();
    assert_eq!(machine.one(late), OpResult::Done);
    assert_eq!(machine.kv, before, "it is kept, until somebody looks anew");
    let gone = machine.release(cid(1), cid(2));
    machine.one(Op::RemovePin { key: key("", 2, "") });
    machine.one(gone);
    assert_eq!(pinset::kept(&machine.kv, None, 9), Ok(vec![(cid(1), cid(2))]));
    let op = machine.release(cid(1), cid(2));
    machine.one(op);
    assert_eq!(pinset::kept(&machine.kv, None, 9), Ok(Vec::new()));
    assert_eq!(pinset::placement(&machine.kv, &cid(1)), Ok(None));
    check_invariants(&machine.kv).expect("holds");
}

/// What is kept counts as one that asks; how many do is not taken from a placement of before that.
#[test]
fn who_asks_for_replaced_content_is_counted_right() {
    let mut machine = Machine::new(2);
    for key in [key("one", 1, ""), key("", 1, ""), key("", 1, "slot"), key("", 2, "")] {
        machine.pin(key, replicas(1, 1));
    }
    let mut op = machine.put(key("", 2, "other"), replicas(1, 1));
    if let Op::PutPin { from, unpin_from, .. } = &mut op {
        (*from, *unpin_from) = (Some(key("", 1, "")), true);
    }
    machine.one(op);
    check_invariants(&machine.kv).expect("holds");
    for gone in [key("one", 1, ""), key("", 1, "slot")] {
        machine.one(Op::RemovePin { key: gone });
        check_invariants(&machine.kv).expect("holds");
    }
}
