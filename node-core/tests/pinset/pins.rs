//! What pins and unpins do, and when pins expire.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use node_core::command::{Op, OpResult, PinOutcome, RefusalKind, Request};
use node_core::pinset;
use node_core::pinset::{KvError, KvRead, Table, check_invariants};
use node_core::{NodeId, NodeState, PinMode, PinOptions, Replication};

use super::machine::*;

/// Counts the rows that scans read.
struct Counting<'a> {
    kv: &'a dyn KvRead,
    rows: Cell<u32>,
}

impl KvRead for Counting<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.kv.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), KvError> {
        self.kv.scan(table, start, end, &mut |key, value| {
            self.rows.set(self.rows.get() + 1);
            visit(key, value)
        })
    }
}

/// The reference reuses the object it decodes log entries into, so optional fields of one pin leak into the next.
#[test]
fn no_option_of_one_pin_leaks_into_another() {
    let mut machine = Machine::new(2);
    let full = PinOptions {
        name: "full".into(),
        mode: PinMode::Direct,
        replication: Replication { min: 1, max: 2 },
        nodes: vec![NodeId(1)],
        metadata: BTreeMap::from([("k".into(), "v".into())]),
        origins: vec![format!("/ip4/192.0.2.1/tcp/4001/p2p/{PEER}")],
        expire_at: Some(machine.time.plus(Duration::from_secs(60))),
        updated_from: Some(cid(9)),
    };
    let bare = replicas(1, 1);
    let ops = vec![
        Request {
            id: None,
            op: machine.put(key("", 1, ""), full),
        },
        Request {
            id: None,
            op: machine.put(key("", 2, ""), bare.clone()),
        },
    ];
    machine.apply(ops);
    let pin = pinset::pin(&machine.kv, &key("", 2, ""))
        .expect("memory")
        .expect("recorded");
    assert_eq!(pin.options, bare);
    let placement = pinset::placement(&machine.kv, &cid(2))
        .expect("memory")
        .expect("placed");
    assert!(placement.origins.is_empty() && placement.updated_from.is_none());
}

#[test]
fn content_goes_with_its_last_pin() {
    let mut machine = Machine::new(3);
    machine.pin(key("a", 1, ""), replicas(1, 1));
    machine.pin(key("b", 1, ""), replicas(2, 3));
    let placement = |machine: &Machine| pinset::placement(&machine.kv, &cid(1)).expect("memory");
    assert_eq!(
        placement(&machine).expect("placed").nodes.len(),
        3,
        "the largest demand counts"
    );
    let (_, effects) = machine.apply(vec![Request {
        id: None,
        op: Op::RemovePin { key: key("b", 1, "") },
    }]);
    assert!(
        effects.touched.is_empty(),
        "nobody lets go before the leader has chosen who"
    );
    assert_eq!(
        pinset::Unsettled::of(Replication { min: 1, max: 1 }, 3),
        Some(pinset::Unsettled::TooMany)
    );
    let plan = machine.plan_for(&cid(1), Replication { min: 1, max: 1 });
    let (_, effects) = machine.apply(vec![Request {
        id: None,
        op: Op::Place { cid: cid(1), plan },
    }]);
    assert_eq!(effects.touched.len(), 2);
    let (_, effects) = machine.apply(vec![Request {
        id: None,
        op: Op::RemovePin { key: key("a", 1, "") },
    }]);
    assert_eq!(effects.touched, [(NodeId(1), cid(1))]);
    assert_eq!(placement(&machine), None);
    check_invariants(&machine.kv).expect("holds");
}

#[test]
fn a_plan_made_for_another_state_is_a_conflict() {
    let mut machine = Machine::new(3);
    let stale = machine.put(key("a", 1, ""), replicas(2, 2));
    machine.pin(key("b", 1, ""), replicas(1, 1));
    assert_eq!(refusal(&machine.one(stale)), Some(RefusalKind::Conflict));
    let gone = machine.put(key("a", 2, ""), replicas(1, 1));
    machine.one(Op::SetNodeState {
        node: NodeId(1),
        state: NodeState::Gone,
    });
    assert_eq!(refusal(&machine.one(gone)), Some(RefusalKind::Conflict));
    check_invariants(&machine.kv).expect("holds");
}

#[test]
fn pins_expire_in_order_and_bounded() {
    let mut machine = Machine::new(1);
    let start = machine.time;
    for number in 0..5 {
        let expire_at = Some(start.plus(Duration::from_secs(10 + u64::from(number))));
        machine.pin(
            key("", number, ""),
            PinOptions {
                expire_at,
                ..replicas(1, 1)
            },
        );
    }
    assert_eq!(
        pinset::next_expiry(&machine.kv),
        Ok(Some(start.plus(Duration::from_secs(10))))
    );
    machine.time = start.plus(Duration::from_secs(12));
    assert_eq!(machine.one(Op::Expire { limit: 2 }), OpResult::Expired(2));
    assert_eq!(machine.one(Op::Expire { limit: 2 }), OpResult::Expired(1));
    assert_eq!(pinset::header(&machine.kv).expect("memory").pins, 2);
    let past = PinOptions {
        expire_at: Some(start),
        ..replicas(1, 1)
    };
    assert_eq!(refusal(&machine.pin(key("", 9, ""), past)), Some(RefusalKind::Invalid));
    check_invariants(&machine.kv).expect("holds");
}

#[test]
fn nodes_hear_of_new_origins_and_forget_none() {
    let mut machine = Machine::new(2);
    let origin = |number: u8| format!("/ip4/10.0.0.{number}/tcp/4001/p2p/{PEER}");
    let with = |number: u8| PinOptions {
        origins: vec![origin(number)],
        ..replicas(2, 2)
    };
    machine.pin(key("", 1, ""), with(1));
    let op = machine.put(key("", 1, ""), with(2));
    let (_, effects) = machine.apply(vec![Request { id: None, op }]);
    assert_eq!(effects.touched, [(NodeId(1), cid(1)), (NodeId(2), cid(1))]);
    // Another pin of the same CID that names none.
    machine.pin(key("other", 1, ""), replicas(1, 1));
    let placement = pinset::placement(&machine.kv, &cid(1))
        .expect("memory")
        .expect("placed");
    assert_eq!(placement.origins, [origin(2), origin(1)]);
    check_invariants(&machine.kv).expect("holds");
}

#[test]
fn the_pins_of_one_cid_are_bounded() {
    let mut machine = Machine::new(1);
    let many = pinset::PINS_PER_CID_MAX;
    for first in (0..many).step_by(1_000) {
        // One plan for all: what is there suffices after the first.
        let plan = machine.plan_for(&cid(1), Replication { min: 1, max: 1 });
        let put = |slot: u32| Op::PutPin {
            key: key("", 1, &slot.to_string()),
            options: replicas(1, 1),
            plan: plan.clone(),
            from: None,
            unpin_from: false,
            created: None,
        };
        let requests: Vec<_> = (first..first + 1_000)
            .map(|slot| Request {
                id: None,
                op: put(slot),
            })
            .collect();
        let (results, _) = machine.apply(requests);
        assert!(results.iter().all(|result| matches!(result, OpResult::Pinned(_))));
    }
    let result = machine.pin(key("", 1, "one too many"), replicas(1, 1));
    assert_eq!(refusal(&result), Some(RefusalKind::Precondition));
    // One of those that ask for the same is replaced and removed without a look at all the others, or a batch of such
    // would hold up everybody.
    let counting = Counting {
        kv: &machine.kv,
        rows: Cell::new(0),
    };
    let placement = pinset::placement(&machine.kv, &cid(1)).expect("memory");
    let (key_of_one, options) = (key("", 1, "7"), replicas(1, 1));
    for step in [
        pinset::Step::Replace(&key_of_one, &options),
        pinset::Step::Remove(&key_of_one),
    ] {
        let demand = pinset::demand(&counting, &cid(1), placement.as_ref(), step).expect("memory");
        let left = many - u32::from(matches!(step, pinset::Step::Remove(_)));
        assert_eq!(
            (demand.replication, demand.pins),
            (Replication { min: 1, max: 1 }, left)
        );
    }
    assert!(counting.rows.get() < 10, "{} rows were read", counting.rows.get());
    // Those there can still be changed.
    let result = machine.pin(key("", 1, "7"), replicas(1, 2));
    assert!(matches!(&result, OpResult::Pinned(pinned) if pinned.outcome == PinOutcome::Updated));
}

#[test]
fn a_new_node_looks_at_everything_that_is_held_everywhere() {
    let mut machine = Machine::new(1);
    machine.pin(key("", 1, ""), replicas(-1, -1));
    let (results, effects) = machine.apply(vec![Request {
        id: None,
        op: Op::PutNode { node: node("late") },
    }]);
    assert!(matches!(&results[0], OpResult::Node(node) if node.id == NodeId(2)));
    assert_eq!(effects.resync, [NodeId(2)]);
    check_invariants(&machine.kv).expect("holds");
}

/// Its nodes may have given the content up for want of somebody who has it; a month later somebody else pins it.
#[test]
fn whoever_asks_for_a_cid_makes_its_nodes_look_again() {
    let mut machine = Machine::new(3);
    machine.pin(key("one", 1, ""), replicas(2, 2));
    let revision = |machine: &Machine| {
        let placement = pinset::placement(&machine.kv, &cid(1)).expect("memory");
        placement.expect("placed").revision
    };
    let before = revision(&machine);
    let both = [(NodeId(1), cid(1)), (NodeId(2), cid(1))];
    // Another one's pin, and another name for it: the same nodes, and nothing for them to do but to look.
    for (key, name) in [(key("two", 1, ""), ""), (key("two", 1, ""), "named")] {
        let options = PinOptions {
            name: name.into(),
            ..replicas(2, 2)
        };
        let op = machine.put(key, options);
        let (_, effects) = machine.apply(vec![Request { id: None, op }]);
        assert_eq!(effects.touched, both);
    }
    assert!(revision(&machine) > before, "by that they see that somebody asked");
    // Said again it is no new wish.
    let options = PinOptions {
        name: "named".into(),
        ..replicas(2, 2)
    };
    let op = machine.put(key("two", 1, ""), options);
    let (_, effects) = machine.apply(vec![Request { id: None, op }]);
    assert!(effects.touched.is_empty());
    let op = Op::RemovePin { key: key("two", 1, "") };
    let (_, effects) = machine.apply(vec![Request { id: None, op }]);
    assert!(effects.touched.is_empty(), "nobody asks by letting go");
}
