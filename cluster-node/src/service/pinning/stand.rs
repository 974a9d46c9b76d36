//! Where pins stand, from what the ledgers of all peers say.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use node_core::pinset::{self, KvWalk, Table, keys};
use node_core::{Cid, NodeId, PeerId, Pin, PinningStatus, Placement, Status, pinning_status};

use crate::service::gather::Entries;
use crate::service::status::Sources;
use crate::service::{Error, NodeEntry};

/// How long a silent peer is waited for.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(2);

/// A pin and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct PinningView {
    /// As recorded.
    pub pin: Pin,
    /// As a whole.
    pub status: PinningStatus,
    /// What nodes say of its CID; those that only let go of it are not among them.
    pub entries: Vec<NodeEntry>,
    /// The nodes that hold it or shall.
    pub nodes: Vec<NodeId>,
    /// Why it has too few of them.
    pub unplaced: Option<String>,
}

/// Where a pin stands, as its placement has it.
pub fn placed(pin: Pin, placement: Option<&Placement>, rows: Vec<NodeEntry>, everyone: &[NodeId]) -> PinningView {
    let assigned: &[NodeId] = match placement {
        Some(placement) if placement.replication.is_everywhere() => everyone,
        Some(placement) => &placement.nodes,
        None => &[],
    };
    let mut entries: Vec<NodeEntry> = rows
        .into_iter()
        .filter(|entry| assigned.contains(&entry.node))
        .collect();
    let mode = placement.map_or(pin.options.mode, |placement| placement.mode);
    entries.iter_mut().for_each(|entry| entry.measure(mode));
    let statuses = entries.iter().map(|entry| entry.status);
    PinningView {
        status: pinning_status(pin.options.replication.min, assigned.len(), statuses),
        pin,
        nodes: assigned.to_vec(),
        unplaced: placement.and_then(|placement| placement.unplaced.clone()),
        entries: in_order(entries),
    }
}

/// The same when what the nodes say is enough to know it: as many hold it as it needs, or none gave it up. Its placement,
/// which lies far from those of the other pins of a page, need not be read.
fn known(pin: &Pin, rows: &[NodeEntry]) -> Option<PinningStatus> {
    // Of more than the node was told of when it said so, only the placement tells.
    if rows.iter().any(|row| row.mode != pin.options.mode) {
        return None;
    }
    let needed = usize::try_from(pin.options.replication.min).ok()?.max(1);
    let has = |status: Status| rows.iter().any(|entry| entry.status == status);
    if rows.iter().filter(|entry| entry.status == Status::Pinned).count() >= needed {
        return Some(PinningStatus::Pinned);
    }
    if rows.is_empty() || has(Status::GaveUp) || has(Status::Unpinning) {
        return None;
    }
    Some(match has(Status::Pinning) {
        true => PinningStatus::Pinning,
        false => PinningStatus::Queued,
    })
}

fn in_order(mut entries: Vec<NodeEntry>) -> Vec<NodeEntry> {
    entries.sort_unstable_by_key(|entry| entry.node);
    entries.dedup_by_key(|entry| entry.node);
    entries
}

/// Where many pins stand: one look at this peer's ledger for each of its nodes, and one call to each other peer. Blocks: runs on
/// a thread that may wait, inside a runtime. Peers in `silent` are not asked; who does not answer is added.
pub fn stand(sources: &Sources, pins: Vec<Pin>, silent: &mut BTreeSet<PeerId>) -> Result<Vec<PinningView>, Error> {
    if pins.is_empty() {
        return Ok(Vec::new());
    }
    // In order they are found faster; several pins may be of one CID.
    let mut cids: Vec<Cid> = pins.iter().map(|pin| pin.key.cid).collect();
    let mut sorted: Vec<(Vec<u8>, Cid)> = cids.drain(..).map(|cid| (cid.to_bytes(), cid)).collect();
    sorted.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    sorted.dedup_by(|(a, _), (b, _)| a == b);
    cids.extend(sorted.into_iter().map(|(_, cid)| cid));
    let runtime = tokio::runtime::Handle::current();
    let asked = sources.gather.all(&sources.names, &cids, PEER_TIMEOUT, silent);
    let entries: Entries = runtime.block_on(asked)?;
    let no_rows: &[NodeEntry] = &[];
    let rows_of = |pin: &Pin| entries.get(&pin.key.cid).map_or(no_rows, Vec::as_slice);
    let unknown: BTreeSet<Cid> = pins
        .iter()
        .filter(|pin| known(pin, rows_of(pin)).is_none())
        .map(|pin| pin.key.cid)
        .collect();
    let placements = sources.state.walk_view(|kv| placements(kv, &unknown))?;
    let everyone = sources.names.everyone();
    let view = |pin: Pin| {
        let rows = rows_of(&pin).to_vec();
        match known(&pin, &rows) {
            Some(status) => {
                let entries = in_order(
                    rows.into_iter()
                        .filter(|entry| entry.status != Status::Unpinning)
                        .collect(),
                );
                PinningView {
                    nodes: entries.iter().map(|entry| entry.node).collect(),
                    pin,
                    status,
                    entries,
                    unplaced: None,
                }
            }
            None => {
                let placement = placements.get(&pin.key.cid);
                placed(pin, placement, rows, &everyone)
            }
        }
    };
    Ok(pins.into_iter().map(view).collect())
}

fn placements(kv: &dyn KvWalk, cids: &BTreeSet<Cid>) -> Result<HashMap<Cid, Placement>, Error> {
    let rows: Vec<Vec<u8>> = cids.iter().map(keys::cid).collect();
    let values = kv.get_many(Table::Placements, &rows)?;
    let found = cids.iter().zip(values).filter_map(|(cid, value)| Some((*cid, value?)));
    let found: Result<HashMap<Cid, Placement>, pinset::KvError> = found
        .map(|(cid, value)| Ok((cid, pinset::decode_placement(cid, &value)?)))
        .collect();
    Ok(found?)
}

#[cfg(test)]
mod tests {
    use node_core::{Namespace, PinKey, PinMode, PinOptions, Replication, Timestamp};
    use proptest::prelude::*;

    use super::*;

    fn cid() -> Cid {
        "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
            .parse()
            .expect("valid")
    }

    fn pin(min: i32) -> Pin {
        Pin {
            key: PinKey {
                namespace: Namespace::default(),
                cid: cid(),
                slot: String::new(),
            },
            options: PinOptions {
                replication: Replication { min, max: min },
                ..PinOptions::default()
            },
            created: Timestamp::ZERO,
            ordinal: 0,
            modified: Timestamp::ZERO,
            revision: 1,
        }
    }

    fn placement(replication: Replication, nodes: &[u32]) -> Placement {
        Placement {
            cid: cid(),
            mode: PinMode::Recursive,
            replication,
            nodes: nodes.iter().copied().map(NodeId).collect(),
            unplaced: None,
            pins: 1,
            origins: Vec::new(),
            updated_from: None,
            revision: 1,
            changed: Timestamp::ZERO,
        }
    }

    fn rows(states: &[(u32, Status)]) -> Vec<NodeEntry> {
        let row = |(node, status): &(u32, Status)| NodeEntry::bare(NodeId(*node), *status);
        states.iter().map(row).collect()
    }

    #[test]
    fn only_the_chosen_nodes_count() {
        let placement = placement(Replication { min: 1, max: 1 }, &[1]);
        let states = [(2, Status::Unpinning), (1, Status::GaveUp), (3, Status::Pinned)];
        let view = placed(pin(1), Some(&placement), rows(&states), &[]);
        assert_eq!((view.status, view.nodes), (PinningStatus::Failed, vec![NodeId(1)]));
        assert_eq!(view.entries, rows(&states[1..2]));
        // Nobody is chosen.
        assert_eq!(placed(pin(1), None, Vec::new(), &[]).status, PinningStatus::Queued);
    }

    /// Another pin of the CID asked for the one block, and the nodes have not looked yet at what is wanted now.
    #[test]
    fn one_block_is_not_all_below_it() {
        let mut placement = placement(Replication { min: 1, max: 1 }, &[1]);
        let mut held = rows(&[(1, Status::Pinned)]);
        held[0].mode = PinMode::Direct;
        assert_eq!(known(&pin(1), &held), None);
        let view = placed(pin(1), Some(&placement), held.clone(), &[]);
        assert_eq!(
            (view.status, view.entries[0].status),
            (PinningStatus::Queued, Status::Queued)
        );
        placement.mode = PinMode::Direct;
        assert_eq!(
            placed(pin(1), Some(&placement), held, &[]).status,
            PinningStatus::Pinned
        );
    }

    #[test]
    fn a_pin_that_needs_all_needs_all() {
        let placement = placement(Replication::EVERYWHERE, &[]);
        let everyone = [NodeId(1), NodeId(2)];
        for (states, expected) in [
            (vec![(1, Status::Pinned)], PinningStatus::Queued),
            (vec![(1, Status::Pinned), (2, Status::Pinned)], PinningStatus::Pinned),
        ] {
            let view = placed(pin(-1), Some(&placement), rows(&states), &everyone);
            assert_eq!((view.status, view.nodes.len()), (expected, 2));
            assert_eq!(
                known(&pin(-1), &rows(&states)),
                None,
                "how many all are is not in the ledgers"
            );
        }
    }

    proptest! {
        /// What is known without the placement is what the placement would have told.
        #[test]
        fn the_short_way_comes_to_the_same(min in 1..4, assigned in 0..4_u32, states in prop::collection::vec(
            prop::sample::select(&[Status::Queued, Status::Pinning, Status::Pinned, Status::Retrying, Status::GaveUp,
                Status::Unpinning][..]), 0..4)) {
            let nodes: Vec<u32> = (1..=assigned).collect();
            // Ledgers know of chosen nodes, and of others that let go.
            let told: Vec<(u32, Status)> = states.into_iter().enumerate().map(|(at, status)| {
                let node = u32::try_from(at).unwrap() + 1;
                (node, if node > assigned { Status::Unpinning } else { status })
            }).collect();
            let placement = placement(Replication { min, max: 3 }, &nodes);
            let view = placed(pin(min), Some(&placement), rows(&told), &[]);
            if let Some(status) = known(&pin(min), &rows(&told)) {
                prop_assert_eq!(status, view.status);
            }
        }
    }
}
