//! The order of pins, their moments, and the keys that they lie under.

use std::time::Duration;

use node_core::command::{CommandBatch, Op, OpResult, Request};
use node_core::pinset::{self, Table, check_invariants};
use node_core::{Created, Namespace, PinKey, Timestamp};

use super::machine::*;

#[test]
fn pins_of_one_moment_have_an_order() {
    let mut machine = Machine::new(1);
    let created = |result: &OpResult| match result {
        OpResult::Pinned(pinned) => (pinned.created, pinned.ordinal),
        other => panic!("{other:?}"),
    };
    let requests = (1..4).map(|number| Request {
        id: None,
        op: machine.put(key("", number, ""), replicas(1, 1)),
    });
    let (results, _) = machine.apply(requests.collect());
    let now = machine.time;
    let told: Vec<_> = results.iter().map(created).collect();
    assert_eq!(told, [(now, 0), (now, 1), (now, 2)]);
    // Another entry of the same millisecond, and one of a leader whose clock is behind.
    assert_eq!(created(&machine.pin(key("other", 1, ""), replicas(1, 1))), (now, 3));
    machine.time = Timestamp::from_millis(now.as_millis() - 5_000);
    assert_eq!(created(&machine.pin(key("", 4, ""), replicas(1, 1))), (now, 4));
    // A change of its options does not move a pin.
    machine.time = now.plus(Duration::from_secs(1));
    assert_eq!(created(&machine.pin(key("", 4, ""), replicas(1, 2))), (now, 4));
    assert_eq!(created(&machine.pin(key("", 5, ""), replicas(1, 1))), (machine.time, 0));
    let prefix = pinset::keys::namespace(&Namespace::default());
    let (mut back, end) = (Vec::new(), pinset::keys::after_prefix(&prefix));
    pinset::KvWalk::scan_back(
        &machine.kv,
        Table::ByCreated,
        &prefix,
        end.as_deref(),
        &mut |key, value| {
            let (_, key) = pinset::keys::read_indexed(key, 0).expect("a key");
            back.push(pinset::decode_pin(key, value).expect("the pin itself").key.cid);
            true
        },
    )
    .expect("memory");
    assert_eq!(back, [5, 4, 3, 2, 1].map(cid), "the newest first");
    check_invariants(&machine.kv).expect("holds");
}

/// Keys are on disk, and the order of their bytes is the order of lists.
#[test]
fn keys_lie_as_they_always_did() {
    use pinset::keys;
    let key = key("a", 7, SLOT);
    let created = Created {
        at: Timestamp::from_millis(0x0102_0304),
        ordinal: 5,
    };
    let moment = [0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 5];
    let tail = [&moment[..], &cid(7).to_bytes(), SLOT.as_bytes()].concat();
    for (made, head) in [
        (keys::by_created(&key, created), &b"a\0"[..]),
        (keys::by_name(&key, "n", created), b"a\0n\0"),
        (keys::by_metadata(&key, "k", "v", created), b"a\0k\0v\0"),
    ] {
        assert_eq!(made, [head, &tail].concat());
        let texts = head.split(|byte| *byte == 0).count() - 2;
        assert_eq!(keys::read_indexed(&made, texts), Ok((created, key.clone())));
    }
    assert_eq!(
        keys::slot(&key),
        [b"a\0", SLOT.as_bytes(), &[0], &cid(7).to_bytes()].concat()
    );
    assert_eq!(keys::read_slot(&keys::slot(&key)), Ok(cid(7)));
    let kept = keys::kept(&cid(1), &cid(2));
    assert_eq!(kept, [cid(1).to_bytes(), cid(2).to_bytes()].concat());
    assert_eq!(keys::read_kept(&kept), Ok((cid(1), cid(2))));
    let release = |based_on| CommandBatch {
        time: Timestamp::ZERO,
        requests: vec![Request {
            id: None,
            op: Op::Release {
                cid: cid(1),
                by: cid(2),
                based_on,
            },
        }],
    };
    let before = release(None).encode();
    assert_eq!(before[..6], [0x01, 0x12, 0x4b, 0x82, 0x01, 0x48]);
    let now = release(Some(1)).encode();
    assert_eq!(now[..8], [0x01, 0x12, 0x4f, 0x8a, 0x01, 0x4c, 0x0a, 0x48]);
    for based_on in [None, Some(0), Some(7)] {
        let batch = release(based_on);
        assert_eq!(CommandBatch::decode(&batch.encode()), Ok(batch));
    }
}

/// An export of IPFS Cluster has whole seconds.
#[test]
fn pins_of_another_cluster_have_moments_of_their_own() {
    let mut machine = Machine::new(1);
    let then = Timestamp::from_millis(machine.time.as_millis() - 60_000);
    let from = |machine: &Machine, key: PinKey, at: Timestamp| {
        let mut op = machine.put(key, replicas(1, 1));
        if let Op::PutPin { created, .. } = &mut op {
            *created = Some(at);
        }
        Request { id: None, op }
    };
    let requests: Vec<Request> = (0..200)
        .map(|number| from(&machine, key("", number, ""), then))
        .collect();
    machine.apply(requests);
    // Another one of that second, when the count has come round.
    machine.apply(vec![from(&machine, key("other", 1, ""), then)]);
    let of = |machine: &Machine, key: &PinKey| {
        let pin = pinset::pin(&machine.kv, key).expect("memory");
        pin.expect("recorded").created()
    };
    let moments: std::collections::BTreeSet<Created> =
        (0..200).map(|number| of(&machine, &key("", number, ""))).collect();
    assert_eq!(moments.len(), 200);
    assert!(moments.iter().all(|moment| moment.at == then));
    // One that is still to come counts as now.
    let later = machine.time.plus(Duration::from_secs(60));
    let request = from(&machine, key("", 201, ""), later);
    machine.apply(vec![request]);
    assert_eq!(of(&machine, &key("", 201, "")).at, machine.time);
    // A new leader whose clock is behind all of them.
    machine.time = Timestamp::from_millis(then.as_millis() - 60_000);
    machine.pin(key("", 202, ""), replicas(1, 1));
    assert!(of(&machine, &key("", 202, "")) > of(&machine, &key("", 201, "")));
    check_invariants(&machine.kv).expect("holds");
}

#[test]
fn a_pin_is_found_by_its_request_id() {
    let mut machine = Machine::new(1);
    let id = "0f9e1c2d-0000-4a5b-8c7d-0123456789ab";
    let team = Namespace::new("team").expect("valid");
    machine.pin(key("team", 1, id), replicas(1, 1));
    machine.pin(key("team", 2, "two"), replicas(1, 1));
    let found = |machine: &Machine, namespace: &Namespace, slot: &str| {
        let found = pinset::pin_under(&machine.kv, namespace, slot).expect("memory");
        found.map(|pin| pin.key.cid)
    };
    assert_eq!(found(&machine, &team, id), Some(cid(1)));
    assert_eq!(
        found(&machine, &Namespace::default(), id),
        None,
        "not in another namespace"
    );
    assert_eq!(found(&machine, &team, &id[..35]), None);
    assert_eq!(found(&machine, &team, "two"), None, "only request IDs need a row");
    machine.one(Op::RemovePin {
        key: key("team", 1, id),
    });
    assert_eq!(found(&machine, &team, id), None);
    check_invariants(&machine.kv).expect("holds");
}
