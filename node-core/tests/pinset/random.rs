//! Whatever clients do, in whatever order.

use std::collections::BTreeMap;
use std::time::Duration;

use node_core::command::{CommandBatch, Op, Plan, Request};
use node_core::pinset::{self, Effects, KvRead, MemoryKv, Table, check_invariants};
use node_core::{
    Credential, CredentialId, Namespace, NodeId, NodeState, PinMode, PinOptions, Replication, RequestId, Scope,
    SecretHash, SigningKey, Timestamp,
};
use proptest::prelude::*;

use super::machine::*;

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
            machine.release(cid, by)
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
