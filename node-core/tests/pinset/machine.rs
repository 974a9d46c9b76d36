//! A pinset in memory that entries are applied to.

use std::collections::BTreeMap;

use node_core::command::{CommandBatch, NewPeer, Op, OpResult, PinOutcome, Plan, RefusalKind, Request};
use node_core::pinset::{self, Effects, MemoryKv, Settings};
use node_core::{Cid, Namespace, NodeId, NodeState, PeerId, PinKey, PinOptions, Replication, StorageNode, Timestamp};

pub const PEER: &str = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5";

/// A request ID of the Pinning Services API.
pub const SLOT: &str = "0f9e1c2d-0000-4a5b-8c7d-0123456789ab";

pub fn peer_id() -> PeerId {
    PEER.parse().expect("valid")
}

pub fn new_peer() -> NewPeer {
    NewPeer {
        id: peer_id(),
        name: "peer-1".into(),
        addresses: vec!["127.0.0.1:9096".into()],
        api_address: "127.0.0.1:9098".into(),
        version: "0".into(),
    }
}

/// A raw CID with an identity-like sha2-256 digest made of one number.
pub fn cid(number: u8) -> Cid {
    let mut bytes = vec![0x01, 0x55, 0x12, 0x20];
    bytes.extend([number; 32]);
    Cid::from_bytes(&bytes).expect("valid")
}

pub fn key(namespace: &str, number: u8, slot: &str) -> PinKey {
    PinKey {
        namespace: Namespace::new(namespace).expect("valid"),
        cid: cid(number),
        slot: slot.into(),
    }
}

pub fn node(name: &str) -> StorageNode {
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

pub struct Machine {
    pub kv: MemoryKv,
    pub index: u64,
    pub time: Timestamp,
    pub log: Vec<Vec<u8>>,
}

impl Machine {
    /// A cluster with one peer and `nodes` storage nodes.
    pub fn new(nodes: u32) -> Self {
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

    pub fn apply(&mut self, requests: Vec<Request>) -> (Vec<OpResult>, Effects) {
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

    pub fn one(&mut self, op: Op) -> OpResult {
        self.apply(vec![Request { id: None, op }]).0.remove(0)
    }

    /// Plans as a leader would, with the first nodes there are.
    pub fn plan(&self, key: &PinKey, options: &PinOptions) -> Plan {
        let old = pinset::placement(&self.kv, &key.cid).expect("memory");
        let demand =
            pinset::demand(&self.kv, &key.cid, old.as_ref(), pinset::Step::Replace(key, options)).expect("memory");
        self.plan_for(&key.cid, demand.replication)
    }

    pub fn plan_for(&self, cid: &Cid, replication: Replication) -> Plan {
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

    pub fn put(&self, key: PinKey, options: PinOptions) -> Op {
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

    pub fn pin(&mut self, key: PinKey, options: PinOptions) -> OpResult {
        let op = self.put(key, options);
        self.one(op)
    }

    /// Lets go of `cid` as a leader would that sees `by` as it is now.
    pub fn release(&self, cid: Cid, by: Cid) -> Op {
        let placement = pinset::placement(&self.kv, &by).expect("memory");
        Op::Release {
            cid,
            by,
            based_on: Some(placement.map_or(0, |placement| placement.revision)),
        }
    }
}

pub fn replicas(min: i32, max: i32) -> PinOptions {
    PinOptions {
        replication: Replication { min, max },
        ..PinOptions::default()
    }
}

pub fn outcome(result: &OpResult) -> Option<PinOutcome> {
    match result {
        OpResult::Pinned(pinned) => Some(pinned.outcome),
        _ => None,
    }
}

pub fn refusal(result: &OpResult) -> Option<RefusalKind> {
    match result {
        OpResult::Refused(refusal) => Some(refusal.kind),
        _ => None,
    }
}
