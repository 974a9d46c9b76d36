//! The smaller things that the pinset keeps beside pins, placements, nodes and peers.

use crate::{Cid, Created, PeerId, PinKey, Replication, Timestamp};

/// What holds for the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// For pins that ask for 0.
    pub replication: Replication,
    /// Tag names whose values are failure domains, widest first.
    pub spread_by: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replication: Replication { min: 1, max: 2 },
            spread_by: Vec::new(),
        }
    }
}

/// Counters and settings: one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Empty until the cluster is named.
    pub cluster_id: String,
    /// Grows by one with each change of a pin or placement.
    pub revision: u64,
    /// The ID that the next storage node gets.
    pub next_node: u32,
    /// Pins, of all namespaces.
    pub pins: u64,
    /// CIDs that at least one pin wants, or that are kept until what replaces them is held.
    pub cids: u64,
    /// CIDs with fewer nodes than they need.
    pub unplaced: u64,
    /// What holds for the whole cluster.
    pub settings: Settings,
    /// The oldest revision whose change is still kept.
    pub changes_from: u64,
    /// Request IDs that are remembered.
    pub requests: u64,
    /// No remembered request is older. Looking for old ones begins here: before it lie only the marks of removed rows,
    /// of which a day's work leaves millions.
    pub requests_from: Timestamp,
    /// No pin expires before. Looking for what is due begins here, for the same reason.
    pub expiry_from: Timestamp,
    /// Credentials of clients, expired ones included.
    pub credentials: u64,
    /// Of the newest pin; every new one is newer, but for those that come from another cluster with a time of their own.
    pub last_created: Created,
    /// Where looking for a free ordinal begins for one of these.
    pub next_ordinal: u32,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            cluster_id: String::new(),
            revision: 0,
            next_node: 1,
            pins: 0,
            cids: 0,
            unplaced: 0,
            settings: Settings::default(),
            changes_from: 1,
            requests: 0,
            requests_from: Timestamp::ZERO,
            expiry_from: Timestamp::ZERO,
            credentials: 0,
            last_created: Created::FIRST,
            next_ordinal: 0,
        }
    }
}

/// A join token. Used ones are kept until they expire, so that a replay is told from a guess.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Refused from then on.
    pub expires: Timestamp,
    /// Who came with it.
    pub used_by: Option<PeerId>,
    /// Which attempt of that peer.
    pub attempt: Vec<u8>,
}

/// Kinds of [`Change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// A pin is new.
    PinCreated,
    /// A pin's options changed.
    PinUpdated,
    /// A pin was removed.
    PinRemoved,
    /// A pin's time had come.
    PinExpired,
    /// A CID is held elsewhere than before, without a change of its pins.
    PlacementChanged,
}

impl ChangeKind {
    /// All kinds, in the order of their codes.
    pub const ALL: [Self; 5] = [
        Self::PinCreated,
        Self::PinUpdated,
        Self::PinRemoved,
        Self::PinExpired,
        Self::PlacementChanged,
    ];
}

/// One step of the pinset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its place in the order of all steps.
    pub revision: u64,
    /// What happened.
    pub kind: ChangeKind,
    /// To which CID.
    pub cid: Cid,
    /// To which pin; none when only the placement changed.
    pub key: Option<PinKey>,
    /// When, by the leader's clock.
    pub time: Timestamp,
}

/// Why a row stands in [`super::Table::Unsettled`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsettled {
    /// Fewer nodes than the minimum.
    TooFew = 1,
    /// More nodes than the maximum.
    TooMany = 2,
    /// Enough nodes, but fewer than the maximum: topped up when there are more to choose from.
    BelowMax = 3,
}

impl Unsettled {
    /// What is amiss with so many nodes, if anything.
    pub fn of(replication: Replication, nodes: usize) -> Option<Self> {
        let nodes = i32::try_from(nodes).unwrap_or(i32::MAX);
        if replication.is_everywhere() {
            None
        } else if nodes < replication.min {
            Some(Self::TooFew)
        } else if nodes > replication.max {
            Some(Self::TooMany)
        } else if nodes < replication.max {
            Some(Self::BelowMax)
        } else {
            None
        }
    }

    /// What the row's key begins with.
    pub fn code(self) -> u8 {
        self as u8
    }
}
