//! Where a pin stands at one member, in the words of IPFS Cluster.

use cluster_http::Failure;
use node_core::Status;

use crate::service::NodeEntry;

/// Where a pin stands at one member. The discriminants are bits of a [`Filter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Tracker {
    /// The peer that drives the node did not answer.
    ClusterError = 1,
    /// The last try to pin failed.
    PinError = 1 << 1,
    /// The last try to let go failed.
    UnpinError = 1 << 2,
    /// The node holds it.
    Pinned = 1 << 3,
    /// Being fetched.
    Pinning = 1 << 4,
    /// Being let go of.
    Unpinning = 1 << 5,
    /// Nobody wants it.
    Unpinned = 1 << 6,
    /// Wanted, but of other members.
    Remote = 1 << 7,
    /// Waits to be fetched.
    PinQueued = 1 << 8,
}

/// The words that IPFS Cluster has, and the bits that each stands for. Pinfleet never says the last four: what waits to be
/// let go of is `unpinning`, content is never sharded over members, and what a node lost is fetched again.
const WORDS: [(&str, u16); 15] = [
    ("cluster_error", Tracker::ClusterError as u16),
    ("pin_error", Tracker::PinError as u16),
    ("unpin_error", Tracker::UnpinError as u16),
    (
        "error",
        Tracker::ClusterError as u16 | Tracker::PinError as u16 | Tracker::UnpinError as u16,
    ),
    ("pinned", Tracker::Pinned as u16),
    ("pinning", Tracker::Pinning as u16),
    ("unpinning", Tracker::Unpinning as u16),
    ("unpinned", Tracker::Unpinned as u16),
    ("remote", Tracker::Remote as u16),
    ("pin_queued", Tracker::PinQueued as u16),
    ("queued", Tracker::PinQueued as u16 | NEVER),
    ("unpin_queued", NEVER),
    ("sharded", NEVER),
    ("unexpectedly_unpinned", NEVER),
    ("undefined", 0),
];

/// A bit for what no member ever says: a filter of it alone finds nothing, which is not the same as no filter.
const NEVER: u16 = 1 << 15;

impl Tracker {
    /// Of what a node says.
    pub fn of(entry: &NodeEntry) -> Self {
        match entry.status {
            Status::Queued | Status::Unplaced => Self::PinQueued,
            Status::Pinning => Self::Pinning,
            Status::Pinned => Self::Pinned,
            Status::Retrying | Status::GaveUp => Self::PinError,
            Status::Unpinning if entry.error.is_empty() => Self::Unpinning,
            Status::Unpinning => Self::UnpinError,
            Status::Unreachable => Self::ClusterError,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        let word = WORDS.iter().find(|(_, bits)| *bits == self as u16);
        word.map_or("undefined", |(word, _)| word)
    }
}

/// Which states are wanted. By default all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter(u16);

impl Filter {
    /// Reads a list of words with commas between them. Spaces and unknown words are passed over, as by IPFS Cluster; a list
    /// in which nothing is known is an error.
    pub fn read(text: &str) -> Result<Self, Failure> {
        let words = text.split(',').map(str::trim);
        let bits = |word: &str| {
            let known = WORDS.iter().find(|(name, _)| *name == word);
            known.map_or(0, |(_, bits)| *bits)
        };
        let found = words.map(bits).fold(0, |all, bits| all | bits);
        if found == 0 && !text.trim().is_empty() {
            return Err(Failure::bad("invalid filter value"));
        }
        Ok(Self(found))
    }

    /// Both together; either is all when it names nothing.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether everything passes.
    pub fn is_all(self) -> bool {
        self.0 == 0
    }

    /// Whether this state passes.
    pub fn wants(self, tracker: Tracker) -> bool {
        self.is_all() || self.0 & tracker as u16 != 0
    }

    /// The states of nodes to look for; none when any CID may pass. An empty list: none can.
    pub fn statuses(self) -> Option<Vec<Status>> {
        if self.is_all() || self.0 & (Tracker::Remote as u16 | Tracker::Unpinned as u16) != 0 {
            return None;
        }
        let mut found = Vec::new();
        for (tracker, statuses) in [
            (Tracker::ClusterError, &[Status::Unreachable][..]),
            (Tracker::PinError, &[Status::Retrying, Status::GaveUp]),
            (Tracker::UnpinError, &[Status::Unpinning]),
            (Tracker::Pinned, &[Status::Pinned]),
            (Tracker::Pinning, &[Status::Pinning]),
            (Tracker::Unpinning, &[Status::Unpinning]),
            (Tracker::PinQueued, &[Status::Queued]),
        ] {
            if self.0 & tracker as u16 != 0 {
                found.extend(
                    statuses
                        .iter()
                        .filter(|status| !found.contains(*status))
                        .copied()
                        .collect::<Vec<_>>(),
                );
            }
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use node_core::NodeId;

    use super::*;

    #[test]
    fn every_state_of_a_node_has_a_word_that_finds_it_again() {
        for status in Status::ALL {
            for error in ["", "no space"] {
                let mut entry = NodeEntry::bare(NodeId(1), status);
                entry.error = error.into();
                let tracker = Tracker::of(&entry);
                let filter = Filter::read(tracker.as_str()).expect("a word");
                assert!(filter.wants(tracker));
                // Unplaced is no state of a node.
                let looked_for = filter.statuses().expect("a node says it");
                assert!(looked_for.contains(&status) || status == Status::Unplaced, "{status:?}");
            }
        }
    }

    #[test]
    fn filters_are_read_as_the_reference_reads_them() {
        let read = |text: &str| Filter::read(text).expect(text);
        assert!(read("").is_all() && read(" ").is_all());
        for (text, passes, not) in [
            ("pinned", Tracker::Pinned, Tracker::PinError),
            ("error", Tracker::PinError, Tracker::Pinned),
            ("error", Tracker::UnpinError, Tracker::Pinning),
            ("queued", Tracker::PinQueued, Tracker::Pinning),
            ("nonsense, pinned", Tracker::Pinned, Tracker::Remote),
            (
                "pinned,error,cluster_error,pin_error",
                Tracker::ClusterError,
                Tracker::Remote,
            ),
        ] {
            assert!(read(text).wants(passes) && !read(text).wants(not), "{text}");
        }
        for text in ["invalid", "undefined", "PINNED", "invalid,undefined"] {
            assert!(Filter::read(text).is_err(), "{text}");
        }
        // What is never said finds nothing, rather than everything.
        let sharded = read("sharded");
        assert!(!sharded.is_all() && sharded.statuses() == Some(Vec::new()));
        assert_eq!(read("remote,pinned").statuses(), None);
        assert_eq!(
            read("pin_error").statuses(),
            Some(vec![Status::Retrying, Status::GaveUp])
        );
    }
}
