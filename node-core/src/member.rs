//! Peers and storage nodes as the pinset knows them.

use std::collections::BTreeMap;

use crate::{NodeId, PeerId, Timestamp};

/// Whether a storage node takes and keeps pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum NodeState {
    /// Takes new pins.
    #[default]
    Active,
    /// Keeps what it has, takes nothing new.
    Cordoned,
    /// Is being emptied.
    Draining,
    /// Taken out for good.
    Gone,
}

impl NodeState {
    /// All states, in the order of their codes.
    pub const ALL: [Self; 4] = [Self::Active, Self::Cordoned, Self::Draining, Self::Gone];

    /// The word used in tables and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
            Self::Gone => "gone",
        }
    }
}

/// An IPFS node that holds blocks, as recorded in the pinset.
#[derive(Debug, Clone, PartialEq)]
pub struct StorageNode {
    /// Given out by the pinset.
    pub id: NodeId,
    /// Unique among nodes that are not gone.
    pub name: String,
    /// The peer that drives it.
    pub peer: PeerId,
    /// `kubo` or `embedded`.
    pub kind: String,
    /// URL, multiaddr or unix socket of its RPC, as the driving peer reaches it.
    pub api: String,
    /// Failure domains and other facts that placement may look at.
    pub tags: BTreeMap<String, String>,
    /// Share relative to other nodes, above 0.
    pub weight: f64,
    /// Whether it takes and keeps pins.
    pub state: NodeState,
    /// A file on the driving peer that holds the RPC credentials; empty for none. The secret itself is never replicated.
    pub auth_file: String,
}

/// A peer of the cluster, present or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Identity.
    pub id: PeerId,
    /// Its number in Raft. A peer that lost its disk gets a new one: an old number must never come back empty.
    pub raft_id: u64,
    /// For tables; unique.
    pub name: String,
    /// Where other peers reach it, `host:port`.
    pub addresses: Vec<String>,
    /// Where clients reach its gRPC API.
    pub api_address: String,
    /// Version of the software that last introduced itself.
    pub version: String,
    /// When it was admitted.
    pub joined: Timestamp,
    /// Removed for good: refused from then on.
    pub removed: bool,
}
