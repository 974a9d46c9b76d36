//! Properties of applying: whatever is asked, in whatever order, the state keeps its invariants, and every peer that
//! applies the same log has the same rows.

use std::collections::BTreeMap;
use std::time::Duration;

use node_core::command::{CommandBatch, NewPeer, Op, OpResult, PinOutcome, Plan, RefusalKind, Request};
use node_core::pinset::{self, Effects, KvRead, MemoryKv, Settings, Table, check_invariants};
use node_core::{
    Cid, Created, Credential, CredentialId, Namespace, NodeId, NodeState, PeerId, PinKey, PinMode, PinOptions,
    Replication, RequestId, Scope, SecretHash, SigningKey, StorageNode, Timestamp,
};
use proptest::prelude::*;

const PEER: &str = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5";

/// A request ID of the Pinning Services API.
const SLOT: &str = "0f9e1c2d-0000-4a5b-8c7d-0123456789ab";

fn peer_id() -> PeerId {
    PEER.parse().expect("valid")
}

fn new_peer() -> NewPeer {
    NewPeer {
        id: peer_id(),
        name: "peer-1".into(),
        addresses: vec!["127.0.0.1:9096".into()],
        api_address: "127.0.0.1:9098".into(),
        version: "0".into(),
    }
}

/// A raw CID with an identity-like sha2-256 digest made of one number.
fn cid(number: u8) -> Cid {
    let mut bytes = vec![0x01, 0x55, 0x12, 0x20];
    bytes.extend([number; 32]);
    Cid::from_bytes(&bytes).expect("valid")
}

fn key(namespace: &str, number: u8, slot: &str) -> PinKey {
    PinKey {
        namespace: Namespace::new(namespace).expect("valid"),
        cid: cid(number),
        slot: slot.into(),
    }
}

fn node(name: &str) -> StorageNode {
    StorageNode {
        id: NodeId(0),
        name: name.into(),
        peer: peer_id(),
        kind: "kubo".into(),
        api: "http://127.0.0.1:5001".into(),
        tags: BTreeMap::new(),
        weight: 1.0,
        state: NodeState::Active,
        auth_file: String::new(),
    }
}

struct Machine {
    kv: MemoryKv,
    index: u64,
    time: Timestamp,
    log: Vec<Vec<u8>>,
}

impl Machine {
    /// A cluster with one peer and `nodes` storage nodes.
    fn new(nodes: u32) -> Self {
        let mut machine = Self {
            kv: MemoryKv::default(),
            index: 1,
            time: Timestamp::from_millis(1_000_000),
            log: Vec::new(),
        };
        let settings = Settings::default();
        machine.one(Op::InitCluster {
            cluster_id: "test".into(),
            settings,
            peer: new_peer(),
        });
        for number in 1..=nodes {
            machine.one(Op::PutNode {
                node: node(&format!("node-{number}")),
            });
        }
        machine
    }

    fn apply(&mut self, requests: Vec<Request>) -> (Vec<OpResult>, Effects) {
        self.index += 1;
        let bytes = CommandBatch {
            time: self.time,
            requests,
        }
        .encode();
        let batch = CommandBatch::decode(&bytes).expect("just encoded");
        let mut effects = Effects::default();
        let results = pinset::apply(&mut self.kv, self.index, &batch, &mut effects).expect("a store in memory");
        let bytes_of_results = pinset::encode_results(&results);
        assert_eq!(
            pinset::decode_results(&bytes_of_results).expect("just encoded"),
            results
        );
        self.log.push(bytes);
        (results, effects)
    }

    fn one(&mut self, op: Op) -> OpResult {
        self.apply(vec![Request { id: None, op }]).0.remove(0)
    }

    /// Plans as a leader would, with the first nodes there are.
    fn plan(&self, key: &PinKey, options: &PinOptions) -> Plan {
        let old = pinset::placement(&self.kv, &key.cid).expect("memory");
        let demand =
            pinset::demand(&self.kv, &key.cid, old.as_ref(), pinset::Step::Replace(key, options)).expect("memory");
        self.plan_for(&key.cid, demand.replication)
    }

    fn plan_for(&self, cid: &Cid, replication: Replication) -> Plan {
        let old = pinset::placement(&self.kv, cid).expect("memory");
        let all = pinset::nodes(&self.kv).expect("memory");
        let active = all
            .iter()
            .filter(|node| node.state == NodeState::Active)
            .map(|node| node.id);
        let nodes: Vec<_> = active.take(replication.max.max(0) as usize).collect();
        let short = nodes.len() < replication.min.max(0) as usize;
        Plan {
            based_on: old.map_or(0, |old| old.revision),
            nodes,
            unplaced: short.then(|| "too few nodes".into()),
        }
    }

    fn put(&self, key: PinKey, options: PinOptions) -> Op {
        let plan = self.plan(&key, &options);
        Op::PutPin {
            key,
            options,
            plan,
            from: None,
            unpin_from: false,
            created: None,
        }
    }

    fn pin(&mut self, key: PinKey, options: PinOptions) -> OpResult {
        let op = self.put(key, options);
        self.one(op)
    }
}

fn replicas(min: i32, max: i32) -> PinOptions {
    PinOptions {
        replication: Replication { min, max },
        ..PinOptions::default()
    }
}

fn outcome(result: &OpResult) -> Option<PinOutcome> {
    match result {
        OpResult::Pinned(pinned) => Some(pinned.outcome),
        _ => None,
    }
}

fn refusal(result: &OpResult) -> Option<RefusalKind> {
    match result {
        OpResult::Refused(refusal) => Some(refusal.kind),
        _ => None,
    }
}

#[test]
fn the_same_pin_again_changes_nothing() {
    let mut machine = Machine::new(3);
    assert_eq!(
        outcome(&machine.pin(key("", 1, ""), replicas(1, 2))),
        Some(PinOutcome::Created)
    );
    let before = machine.kv.clone();
    machine.time = machine.time.plus(Duration::from_secs(60));
    assert_eq!(
        outcome(&machine.pin(key("", 1, ""), replicas(1, 2))),
        Some(PinOutcome::Unchanged)
    );
    assert_eq!(machine.kv, before);
    assert_eq!(
        outcome(&machine.pin(key("", 1, ""), replicas(1, 1))),
        Some(PinOutcome::Updated)
    );
}

#[test]
fn a_request_is_carried_out_once() {
    let mut machine = Machine::new(2);
    let id = Some(RequestId::new("r-1").expect("valid"));
    let put = machine.put(key("", 1, ""), replicas(1, 1));
    let request = Request { id, op: put };
    let (first, _) = machine.apply(vec![request.clone()]);
    machine.one(Op::RemovePin { key: key("", 1, "") });
    let (again, effects) = machine.apply(vec![request.clone(), request]);
    assert_eq!([first[0].clone(), first[0].clone()], again[..]);
    assert!(effects.touched.is_empty());
    assert_eq!(
        pinset::pin(&machine.kv, &key("", 1, "")),
        Ok(None),
        "the repetition did not pin it again"
    );
}

#[test]
fn a_request_id_is_forgotten_after_its_time() {
    let mut machine = Machine::new(2);
    let request = |machine: &Machine| Request {
        id: Some(RequestId::new("r-1").expect("valid")),
        op: machine.put(key("", 1, ""), replicas(1, 1)),
    };
    let first = request(&machine);
    machine.apply(vec![first]);
    machine.time = machine.time.plus(pinset::REQUESTS_KEPT_FOR + Duration::from_millis(1));
    machine.one(Op::RemovePin { key: key("", 1, "") });
    let later = request(&machine);
    let (results, _) = machine.apply(vec![later]);
    assert_eq!(outcome(&results[0]), Some(PinOutcome::Created));
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
    let (_, effects) = machine.apply(vec![Request {
        id: None,
        op: Op::Release {
            cid: cid(1),
            by: cid(2),
        },
    }]);
    assert_eq!(effects.touched, [(NodeId(1), cid(1)), (NodeId(2), cid(1))]);
    assert_eq!(placement(&machine, 1), None);
    let again = machine.kv.clone();
    machine.one(Op::Release {
        cid: cid(1),
        by: cid(2),
    });
    assert_eq!(machine.kv, again, "released once");
    check_invariants(&machine.kv).expect("holds");

    // Somebody else's pin of it is none of that.
    machine.pin(key("other", 2, ""), replicas(1, 1));
    machine.one(Op::Release {
        cid: cid(2),
        by: cid(3),
    });
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
    assert!(effects.touched.is_empty(), "{:?}", effects.touched);
    assert_eq!(pinset::kept(&machine.kv, None, 9), Ok(vec![(cid(1), cid(2))]));
    check_invariants(&machine.kv).expect("holds");
}

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
    let release = CommandBatch {
        time: Timestamp::ZERO,
        requests: vec![Request {
            id: None,
            op: Op::Release {
                cid: cid(1),
                by: cid(2),
            },
        }],
    };
    assert_eq!(release.encode()[..6], [0x01, 0x12, 0x4b, 0x82, 0x01, 0x48]);
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

#[test]
fn a_token_admits_one_peer_once() {
    let mut machine = Machine::new(0);
    let hash = vec![7; 32];
    let expires = machine.time.plus(Duration::from_secs(60));
    machine.one(Op::CreateToken {
        hash: hash.clone(),
        expires,
    });
    let other: PeerId = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
        .parse()
        .expect("valid");
    let admit = |attempt: u8| Op::AdmitPeer {
        token_hash: hash.clone(),
        attempt: vec![attempt],
        peer: NewPeer {
            id: other,
            name: "peer-2".into(),
            ..new_peer()
        },
    };
    let OpResult::Admitted {
        raft_id,
        replaces: None,
    } = machine.one(admit(1))
    else {
        panic!("admitted")
    };
    assert_eq!(raft_id, machine.index);
    assert_eq!(
        machine.one(admit(1)),
        OpResult::Admitted {
            raft_id,
            replaces: None
        },
        "its answer was lost"
    );
    assert_eq!(
        refusal(&machine.one(admit(2))),
        Some(RefusalKind::Denied),
        "a wiped disk, or a thief"
    );
    machine.one(Op::RemovePeer { peer: other });
    assert_eq!(refusal(&machine.one(admit(1))), Some(RefusalKind::Denied));
    let fresh = vec![8; 32];
    machine.one(Op::CreateToken {
        hash: fresh.clone(),
        expires,
    });
    let again = Op::AdmitPeer {
        token_hash: fresh,
        attempt: vec![3],
        peer: NewPeer {
            id: other,
            ..new_peer()
        },
    };
    assert_eq!(
        refusal(&machine.one(again)),
        Some(RefusalKind::Denied),
        "removed for good"
    );
}

#[test]
fn an_expired_or_unknown_token_is_denied() {
    let mut machine = Machine::new(0);
    let expires = machine.time.plus(Duration::from_secs(1));
    machine.one(Op::CreateToken {
        hash: vec![7; 32],
        expires,
    });
    machine.time = expires;
    for hash in [vec![7; 32], vec![8; 32]] {
        let op = Op::AdmitPeer {
            token_hash: hash,
            attempt: vec![1],
            peer: new_peer(),
        };
        assert_eq!(refusal(&machine.one(op)), Some(RefusalKind::Denied));
    }
}

#[test]
fn a_request_id_is_not_taken_for_another_request() {
    let mut machine = Machine::new(2);
    let id = Some(RequestId::new("once").expect("valid"));
    let first = Request {
        id: id.clone(),
        op: machine.put(key("", 1, ""), replicas(1, 1)),
    };
    let other = Request {
        id,
        op: machine.put(key("", 2, ""), replicas(1, 1)),
    };
    let (results, _) = machine.apply(vec![first.clone(), other, first]);
    assert!(matches!(&results[0], OpResult::Pinned(pinned) if pinned.outcome == PinOutcome::Created));
    assert_eq!(refusal(&results[1]), Some(RefusalKind::Invalid), "{:?}", results[1]);
    assert_eq!(results[2], results[0], "the first answer is given again");
    assert!(pinset::pin(&machine.kv, &key("", 2, "")).expect("memory").is_none());
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

/// All rows but those that remember requests, and the header that counts them: old ones are forgotten as time passes,
/// whatever is asked.
fn without_requests(kv: &MemoryKv) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let kept = |table: Table| !matches!(table, Table::Meta | Table::Requests | Table::RequestTimes);
    kv.rows()
        .filter(|(table, _, _)| kept(*table))
        .map(|(table, key, value)| (table, key.to_vec(), value.to_vec()))
        .collect()
}

/// What a random client does.
#[derive(Debug, Clone)]
enum Step {
    Pin {
        namespace: u8,
        cid: u8,
        slot: bool,
        min: i32,
        extra: i32,
        direct: bool,
        named: bool,
        expires: bool,
        stale: bool,
    },
    Unpin {
        namespace: u8,
        cid: u8,
        slot: bool,
    },
    Replan {
        cid: u8,
        max: i32,
    },
    Node {
        number: u8,
    },
    NodeState {
        node: u32,
        state: usize,
    },
    Wait {
        seconds: u64,
    },
    Update {
        from: u8,
        to: u8,
        unpin_from: bool,
    },
    Release {
        which: u8,
    },
    Credential {
        number: u8,
        expires: bool,
    },
    Revoke {
        number: u8,
    },
    Expire,
}

fn credential_id(number: u8) -> CredentialId {
    CredentialId::from_bytes([number; 5])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2u8, 0..6u8, any::<bool>(), -1..4i32, 0..3i32, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(namespace, cid, slot, min, extra, direct, named, expires, stale)| Step::Pin {
                namespace, cid, slot, min, extra, direct, named, expires, stale
            }),
        3 => (0..2u8, 0..6u8, any::<bool>()).prop_map(|(namespace, cid, slot)| Step::Unpin { namespace, cid, slot }),
        2 => (0..6u8, 0..4i32).prop_map(|(cid, max)| Step::Replan { cid, max }),
        1 => (0..6u8).prop_map(|number| Step::Node { number }),
        1 => (0..7u32, 0..4usize).prop_map(|(node, state)| Step::NodeState { node, state }),
        2 => (0..6u8, 0..6u8, any::<bool>()).prop_map(|(from, to, unpin_from)| Step::Update { from, to, unpin_from }),
        2 => any::<u8>().prop_map(|which| Step::Release { which }),
        1 => prop_oneof![4 => 1..100u64, 1 => 80_000..90_000u64].prop_map(|seconds| Step::Wait { seconds }),
        1 => (0..4u8, any::<bool>()).prop_map(|(number, expires)| Step::Credential { number, expires }),
        1 => (0..4u8).prop_map(|number| Step::Revoke { number }),
        1 => Just(Step::Expire),
    ]
}

fn op_of(machine: &mut Machine, stale: &mut Option<Plan>, step: Step) -> Option<Op> {
    let named = |namespace: u8, number: u8, slot: bool| {
        key(
            if namespace == 0 { "" } else { "other" },
            number,
            if slot { SLOT } else { "" },
        )
    };
    Some(match step {
        Step::Pin {
            namespace,
            cid,
            slot,
            min,
            extra,
            direct,
            named: has_name,
            expires,
            stale: use_stale,
        } => {
            let replication = match min {
                -1 => Replication::EVERYWHERE,
                min => Replication {
                    min: min.max(1),
                    max: min.max(1) + extra,
                },
            };
            let options = PinOptions {
                name: if has_name { format!("name-{cid}") } else { String::new() },
                mode: if direct { PinMode::Direct } else { PinMode::Recursive },
                replication,
                metadata: if has_name {
                    BTreeMap::from([("a".into(), "b".into())])
                } else {
                    BTreeMap::new()
                },
                expire_at: expires.then(|| machine.time.plus(Duration::from_secs(50))),
                ..PinOptions::default()
            };
            let key = named(namespace, cid, slot);
            let fresh = machine.plan(&key, &options);
            let plan = if use_stale {
                stale.take().unwrap_or_else(|| fresh.clone())
            } else {
                fresh.clone()
            };
            *stale = Some(fresh);
            Op::PutPin {
                key,
                options,
                plan,
                from: None,
                unpin_from: false,
                // Some as another cluster had them, many of one second.
                created: (has_name && use_stale).then_some(Timestamp::from_millis(900_000)),
            }
        }
        Step::Unpin { namespace, cid, slot } => Op::RemovePin {
            key: named(namespace, cid, slot),
        },
        Step::Replan { cid: number, max } => {
            let cid = cid(number);
            let plan = machine.plan_for(&cid, Replication { min: 0, max });
            Op::Place { cid, plan }
        }
        Step::Node { number } => Op::PutNode {
            node: node(&format!("extra-{number}")),
        },
        Step::NodeState { node, state } => Op::SetNodeState {
            node: NodeId(node),
            state: NodeState::ALL[state],
        },
        Step::Wait { seconds } => {
            machine.time = machine.time.plus(Duration::from_secs(seconds));
            return None;
        }
        Step::Release { which } => {
            let kept = pinset::kept(&machine.kv, None, usize::MAX).expect("memory");
            let (cid, by) = match kept.as_slice() {
                [] => (cid(which), cid(0)),
                kept => kept[usize::from(which) % kept.len()],
            };
            Op::Release { cid, by }
        }
        Step::Update { from, to, unpin_from } => {
            let (from, to) = (named(0, from, false), named(0, to, false));
            let source = pinset::pin(&machine.kv, &from).expect("memory");
            let mut options = source.map(|pin| pin.options).unwrap_or_default();
            options.replication = options
                .replication
                .resolve(Replication { min: 1, max: 2 })
                .expect("as stored");
            options.expire_at = options.expire_at.filter(|at| *at > machine.time);
            options.updated_from = Some(from.cid);
            let plan = machine.plan(&to, &options);
            Op::PutPin {
                key: to,
                options,
                plan,
                from: Some(from),
                unpin_from,
                created: None,
            }
        }
        Step::Credential { number, expires } => Op::CreateCredential {
            credential: Box::new(Credential {
                id: credential_id(number),
                name: format!("user-{}", number / 2),
                secret: SecretHash::Token([number; 32]),
                namespace: Namespace::default(),
                scope: Scope::Pin,
                signing_key: SigningKey([number; 32]),
                created: Timestamp::ZERO,
                expires: expires.then(|| machine.time.plus(Duration::from_secs(50))),
            }),
        },
        Step::Revoke { number } => Op::RevokeCredential {
            id: credential_id(number),
        },
        Step::Expire => Op::Expire { limit: 3 },
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_and_replicas_agree(
        steps in prop::collection::vec((step(), prop::option::of(0..8u8)), 1..60), batch in 1..5usize
    ) {
        let mut machine = Machine::new(3);
        let mut stale = None;
        let mut pending = Vec::new();
        for (step, id) in steps {
            if let Some(op) = op_of(&mut machine, &mut stale, step) {
                let id = id.map(|id| RequestId::new(&format!("request-{id}")).expect("valid"));
                pending.push(Request { id, op });
            }
            if pending.len() >= batch {
                let before = machine.kv.clone();
                let (results, effects) = machine.apply(std::mem::take(&mut pending));
                check_invariants(&machine.kv).map_err(TestCaseError::fail)?;
                // A batch of refusals leaves no trace.
                if results.iter().all(|result| refusal(result).is_some()) {
                    prop_assert_eq!(without_requests(&before), without_requests(&machine.kv));
                }
                // Whoever is to hold something else than before is told.
                for cid in (0..6).map(cid) {
                    for node in (1..10).map(NodeId) {
                        let row = pinset::keys::by_node(node, &cid);
                        let was = before.get(Table::ByNode, &row).expect("memory").is_some();
                        let is = machine.kv.get(Table::ByNode, &row).expect("memory").is_some();
                        prop_assert!(was == is || effects.touched.contains(&(node, cid)), "{} {}", node, cid);
                    }
                }
            }
        }
        let mut replica = MemoryKv::default();
        for (index, bytes) in machine.log.iter().enumerate() {
            let batch = CommandBatch::decode(bytes).expect("just encoded");
            pinset::apply(&mut replica, index as u64 + 2, &batch, &mut Effects::default()).expect("memory");
        }
        prop_assert!(replica == machine.kv, "a replica differs");
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = CommandBatch::decode(&bytes);
        let _ = pinset::decode_results(&bytes);
        let _ = pinset::keys::read_pin(&bytes);
        let _ = pinset::keys::read_by_expiry(&bytes);
        let _ = pinset::keys::read_indexed(&bytes, 2);
        let _ = pinset::keys::read_kept(&bytes);
        let _ = pinset::keys::read_slot(&bytes);
        let mut with_version = vec![1];
        with_version.extend(&bytes);
        let _ = CommandBatch::decode(&with_version);
    }
}
