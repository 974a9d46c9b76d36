//! What reads answer, in the core's types.

use node_core::{Cid, ErrorClass, NodeId, Pin, PinMode, Placement, Status, Timestamp};

/// A pin with the decision where its content is held.
#[derive(Debug, Clone, PartialEq)]
pub struct PinView {
    /// As recorded.
    pub pin: Pin,
    /// Of its CID.
    pub placement: Option<Placement>,
}

/// What one node says of one CID.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeEntry {
    /// Which node.
    pub node: NodeId,
    /// Where it stands.
    pub status: Status,
    /// How much of the graph that is about.
    pub mode: PinMode,
    /// How often it was tried since it was queued or re-armed.
    pub attempts: u32,
    /// The daemon's words of the last failure.
    pub error: String,
    /// Its kind.
    pub error_class: Option<ErrorClass>,
    /// When it is tried again; zero when it is not.
    pub next_attempt: Timestamp,
    /// When it came to stand there; zero when unknown.
    pub changed: Timestamp,
    /// Blocks fetched.
    pub blocks: u64,
    /// Bytes fetched.
    pub bytes: u64,
}

impl NodeEntry {
    /// Sees whether what is held is what is wanted: one block is not all below it. Its driver has not looked yet at what is wanted
    /// since then.
    pub fn measure(&mut self, wanted: PinMode) {
        if self.status == Status::Pinned && self.mode == PinMode::Direct && wanted == PinMode::Recursive {
            self.status = Status::Queued;
        }
    }

    /// A state about which nothing more is known.
    pub fn bare(node: NodeId, status: Status) -> Self {
        Self {
            node,
            status,
            mode: PinMode::default(),
            attempts: 0,
            error: String::new(),
            error_class: None,
            next_attempt: Timestamp::ZERO,
            changed: Timestamp::ZERO,
            blocks: 0,
            bytes: 0,
        }
    }
}

/// What all assigned nodes say of one CID.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusView {
    /// Which CID.
    pub cid: Cid,
    /// Of the first of its pins that has one.
    pub name: String,
    /// None when no pin wants it any more and nodes still let go of it.
    pub placement: Option<Placement>,
    /// The whole.
    pub status: Status,
    /// Each node, in order of ID.
    pub entries: Vec<NodeEntry>,
}

impl StatusView {
    /// Folds what was heard about a CID. Nodes that are assigned and said nothing stand as they must: `queued` when
    /// their peer answered (its worker has not looked yet), `unreachable` when it did not.
    pub fn fold(
        cid: Cid,
        name: String,
        placement: Option<Placement>,
        mut entries: Vec<NodeEntry>,
        everyone: &[NodeId],
        unreachable: &dyn Fn(NodeId) -> bool,
    ) -> Self {
        let wanted: &[NodeId] = match &placement {
            Some(placement) if placement.replication.is_everywhere() => everyone,
            Some(placement) => &placement.nodes,
            None => &[],
        };
        if let Some(placement) = &placement {
            entries.iter_mut().for_each(|entry| entry.measure(placement.mode));
        }
        for node in wanted {
            if !entries.iter().any(|entry| entry.node == *node) {
                let status = if unreachable(*node) {
                    Status::Unreachable
                } else {
                    Status::Queued
                };
                entries.push(NodeEntry::bare(*node, status));
            }
        }
        entries.sort_unstable_by_key(|entry| entry.node);
        entries.dedup_by_key(|entry| entry.node);
        let min = placement.as_ref().map_or(0, |placement| placement.replication.min);
        let short = placement.as_ref().is_some_and(|placement| placement.unplaced.is_some());
        // Nodes that only let go of it say nothing of whether it is held.
        let holding = entries
            .iter()
            .filter(|entry| wanted.contains(&entry.node))
            .map(|entry| entry.status);
        let status = if placement.is_none() {
            Status::Unpinning
        } else if short {
            Status::Unplaced
        } else {
            node_core::fold(holding, min)
        };
        Self {
            cid,
            name,
            placement,
            status,
            entries,
        }
    }
}

#[cfg(test)]
mod tests {
    use node_core::Replication;

    use super::*;

    fn cid() -> Cid {
        "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
            .parse()
            .expect("valid")
    }

    fn placement(nodes: &[u32], min: i32) -> Placement {
        Placement {
            cid: cid(),
            mode: PinMode::Recursive,
            replication: Replication { min, max: min },
            nodes: nodes.iter().copied().map(NodeId).collect(),
            unplaced: None,
            pins: 1,
            origins: Vec::new(),
            updated_from: None,
            revision: 1,
            changed: Timestamp::ZERO,
        }
    }

    fn fold(placement: Option<Placement>, entries: &[(u32, Status)], silent: u32) -> StatusView {
        let entries = entries
            .iter()
            .map(|(node, status)| NodeEntry::bare(NodeId(*node), *status))
            .collect();
        let everyone = [NodeId(1), NodeId(2), NodeId(3)];
        StatusView::fold(cid(), String::new(), placement, entries, &everyone, &|node| {
            node.0 == silent
        })
    }

    #[test]
    fn who_says_nothing_is_queued_or_unreachable() {
        let view = fold(Some(placement(&[1, 2], 2)), &[(1, Status::Pinned)], 2);
        assert_eq!(view.entries[1].status, Status::Unreachable);
        assert_eq!(view.status, Status::Unreachable);
        let view = fold(Some(placement(&[1, 2], 2)), &[(1, Status::Pinned)], 9);
        assert_eq!(view.status, Status::Queued);
    }

    #[test]
    fn a_node_that_lets_go_does_not_count() {
        let view = fold(
            Some(placement(&[1], 1)),
            &[(1, Status::Pinned), (2, Status::Unpinning)],
            9,
        );
        assert_eq!(view.status, Status::Pinned);
        assert_eq!(fold(None, &[(2, Status::Unpinning)], 9).status, Status::Unpinning);
    }

    /// A node that held one block for another pin has not looked yet at what is wanted now.
    #[test]
    fn one_block_is_not_all_below_it() {
        let mut held = NodeEntry::bare(NodeId(1), Status::Pinned);
        held.mode = PinMode::Direct;
        let mut placement = placement(&[1], 1);
        for (wanted, status) in [(PinMode::Direct, Status::Pinned), (PinMode::Recursive, Status::Queued)] {
            placement.mode = wanted;
            let rows = vec![held.clone()];
            let view = StatusView::fold(cid(), String::new(), Some(placement.clone()), rows, &[], &|_| false);
            assert_eq!((view.status, view.entries[0].status), (status, status));
        }
    }

    #[test]
    fn everywhere_means_everyone() {
        let everywhere = Placement {
            replication: Replication::EVERYWHERE,
            ..placement(&[], -1)
        };
        let view = fold(Some(everywhere), &[(1, Status::Pinned), (2, Status::Pinned)], 9);
        assert_eq!(view.entries.len(), 3);
        assert_eq!(view.status, Status::Queued);
    }
}
