//! What the Pinning Services API says of a pin, from where its nodes stand.

use crate::Status;

/// The states of a pin that clients of the Pinning Services API know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PinningStatus {
    /// No node works on it now; one will.
    Queued,
    /// A node works on it.
    Pinning,
    /// As many nodes hold it as it needs at least.
    Pinned,
    /// So many nodes gave it up that it can't become pinned by itself.
    Failed,
}

impl PinningStatus {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Pinning, Self::Pinned, Self::Failed];

    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Pinning => "pinning",
            Self::Pinned => "pinned",
            Self::Failed => "failed",
        }
    }

    /// The state of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

/// The state of a pin that needs `min` nodes (below 0: all of them), of which `assigned` were chosen by now. `nodes` says where
/// the chosen ones stand; one that is not among them has not begun.
///
/// Nodes that are not chosen yet, or whose peer is silent, may still come to hold it: only what gave it up counts as lost.
pub fn pinning_status(min: i32, assigned: usize, nodes: impl IntoIterator<Item = Status>) -> PinningStatus {
    let (mut pinned, mut gave_up, mut works) = (0_usize, 0_usize, false);
    for status in nodes {
        match status {
            Status::Pinned => pinned += 1,
            Status::GaveUp => gave_up += 1,
            Status::Pinning => works = true,
            Status::Queued | Status::Retrying | Status::Unpinning | Status::Unreachable | Status::Unplaced => {}
        }
    }
    let needed = usize::try_from(min).unwrap_or(assigned).max(1);
    if pinned >= needed {
        PinningStatus::Pinned
    } else if gave_up > 0 && assigned.max(needed).saturating_sub(gave_up) < needed {
        PinningStatus::Failed
    } else if works {
        PinningStatus::Pinning
    } else {
        PinningStatus::Queued
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_round_trip() {
        for status in PinningStatus::ALL {
            assert_eq!(PinningStatus::parse(status.as_str()), Some(status));
        }
        assert_eq!(PinningStatus::parse("Pinned"), None);
    }

    #[test]
    fn one_failing_replica_is_no_failed_pin() {
        use Status::{GaveUp, Pinned, Pinning, Queued, Retrying, Unreachable};
        for (min, assigned, nodes, expected) in [
            (1, 2, vec![Pinned, GaveUp], PinningStatus::Pinned),
            (2, 2, vec![Pinned, GaveUp], PinningStatus::Failed),
            (2, 3, vec![Pinned, GaveUp], PinningStatus::Queued),
            (2, 3, vec![GaveUp, Pinning, Queued], PinningStatus::Pinning),
            (1, 1, vec![Retrying], PinningStatus::Queued),
            (1, 1, vec![Unreachable], PinningStatus::Queued),
            (1, 0, vec![], PinningStatus::Queued),
            (-1, 3, vec![Pinned, Pinned, Pinned], PinningStatus::Pinned),
            (-1, 3, vec![Pinned, Pinned], PinningStatus::Queued),
            (-1, 3, vec![Pinned, Pinned, GaveUp], PinningStatus::Failed),
            (-1, 0, vec![], PinningStatus::Queued),
        ] {
            assert_eq!(
                pinning_status(min, assigned, nodes.clone()),
                expected,
                "{min} {nodes:?}"
            );
        }
    }

    fn states() -> impl Strategy<Value = Vec<Status>> {
        prop::collection::vec(prop::sample::select(&Status::ALL[..]), 0..6)
    }

    proptest! {
        #[test]
        fn the_order_of_nodes_does_not_matter(min in -1..5, more in 0..3_usize, mut nodes in states()) {
            let assigned = nodes.len() + more;
            let one = pinning_status(min, assigned, nodes.iter().copied());
            nodes.reverse();
            prop_assert_eq!(pinning_status(min, assigned, nodes), one);
        }

        #[test]
        fn pinned_is_exactly_what_enough_nodes_hold(min in 1..5, nodes in states()) {
            let holding = nodes.iter().filter(|status| **status == Status::Pinned).count();
            let status = pinning_status(min, nodes.len(), nodes.iter().copied());
            prop_assert_eq!(status == PinningStatus::Pinned, holding >= usize::try_from(min).unwrap());
        }

        /// What failed stays so whatever the nodes do that did not give up, and what did not fail can still become pinned.
        #[test]
        fn failed_is_exactly_what_cant_become_pinned(min in 1..5, more in 0..3_usize, nodes in states()) {
            let assigned = nodes.len() + more;
            let hopeful = nodes.iter().map(|status| match status {
                Status::GaveUp => Status::GaveUp,
                _ => Status::Pinned,
            });
            // Those that were not heard of yet, and those that are still to be chosen.
            let to_come = assigned.max(usize::try_from(min).unwrap()) - nodes.len();
            let best: Vec<Status> = hopeful.chain(std::iter::repeat_n(Status::Pinned, to_come)).collect();
            let can = pinning_status(min, assigned, best) == PinningStatus::Pinned;
            let status = pinning_status(min, assigned, nodes.iter().copied());
            prop_assert_eq!(status == PinningStatus::Failed, !can);
        }

        #[test]
        fn a_node_that_comes_to_hold_it_does_no_harm(min in -1..5, mut nodes in states(), at in any::<prop::sample::Index>()) {
            prop_assume!(!nodes.is_empty());
            let before = pinning_status(min, nodes.len(), nodes.iter().copied());
            let len = nodes.len();
            nodes[at.index(len)] = Status::Pinned;
            let after = pinning_status(min, len, nodes);
            if before == PinningStatus::Pinned {
                prop_assert_eq!(after, PinningStatus::Pinned);
            }
            prop_assert!(after != PinningStatus::Failed || before == PinningStatus::Failed);
        }
    }
}
