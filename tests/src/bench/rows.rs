//! How many rows a pin is, so that a rate of pins can be held against a rate of raw rows.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow, ensure};
use node_core::command::{CommandBatch, NewPeer, Op, OpResult, Plan, Request};
use node_core::pinset::{Effects, MemoryKv, Settings, apply};
use node_core::{Namespace, NodeId, NodeState, PinKey, PinOptions, Replication, StorageNode, Timestamp};

use crate::content;

const PEER: &str = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5";

/// Rows that one pin on two nodes adds to the state, counted with the function that adds them.
pub fn of_a_pin() -> anyhow::Result<usize> {
    let mut kv = MemoryKv::default();
    let peer = NewPeer {
        id: PEER.parse()?,
        name: "peer".into(),
        addresses: vec!["127.0.0.1:1".into()],
        api_address: "127.0.0.1:2".into(),
        version: "0".into(),
    };
    let node = |name: &str| Op::PutNode {
        node: StorageNode {
            id: NodeId(0),
            name: name.into(),
            peer: peer.id,
            kind: "kubo".into(),
            api: "http://127.0.0.1:3".into(),
            tags: BTreeMap::new(),
            weight: 1.0,
            state: NodeState::Active,
            auth_file: String::new(),
        },
    };
    let init = Op::InitCluster {
        cluster_id: "bench".into(),
        settings: Settings::default(),
        peer: peer.clone(),
    };
    for (index, op) in [init, node("one"), node("two")].into_iter().enumerate() {
        one(&mut kv, index as u64 + 1, op)?;
    }
    let before = kv.rows().count();
    one(
        &mut kv,
        4,
        Op::PutPin {
            key: PinKey {
                namespace: Namespace::default(),
                cid: content::cid(1),
                slot: String::new(),
            },
            options: PinOptions {
                replication: Replication { min: 2, max: 2 },
                ..PinOptions::default()
            },
            plan: Plan {
                nodes: vec![NodeId(1), NodeId(2)],
                ..Plan::default()
            },
            from: None,
            unpin_from: false,
            created: None,
        },
    )?;
    Ok(kv.rows().count() - before)
}

fn one(kv: &mut MemoryKv, index: u64, op: Op) -> anyhow::Result<()> {
    let batch = CommandBatch {
        time: Timestamp::from_millis(index),
        requests: vec![Request { id: None, op }],
    };
    let results = apply(kv, index, &batch, &mut Effects::default()).map_err(|error| anyhow!(error.0))?;
    let result = results.first().context("an operation was not answered")?;
    ensure!(!matches!(result, OpResult::Refused(_)), "{result:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_pin_has_its_own_row_that_of_its_placement_and_those_of_its_indexes() {
        assert!(super::of_a_pin().expect("applied") >= 6);
    }
}
