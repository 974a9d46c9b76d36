//! How a node is.

use std::time::Duration;

use cluster_storage::ledger::Counts;
use node_core::{ErrorClass, NodeId, Timestamp};

/// What the peer knows of a node that it drives.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeReport {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it answered when it was last asked. False until it was.
    pub reachable: bool,
    /// Why it is not reachable.
    pub error: Option<String>,
    /// The class of that error.
    pub class: Option<ErrorClass>,
    /// Bytes that it can still take; none when unknown or without limit.
    pub free_bytes: Option<u64>,
    /// Bytes that it may hold; none when unknown or without limit.
    pub total_bytes: Option<u64>,
    /// Bytes that it holds.
    pub used_bytes: Option<u64>,
    /// The daemon's version.
    pub version: Option<String>,
    /// Its IPFS peer ID.
    pub ipfs_peer: Option<String>,
    /// Its IPFS addresses.
    pub addresses: Vec<String>,
    /// Entries in each state; those being pinned count as what they wait as.
    pub counts: Counts,
    /// How long the oldest entry has been waiting for its first try.
    pub oldest_queued_age: Option<Duration>,
    /// Pins that ended well per second, over the last ten seconds or so.
    pub pins_per_second: f64,
    /// `closed` (works), `open` (left alone) or `half_open` (being tried).
    pub breaker: &'static str,
    /// Pins that may run at a time now.
    pub concurrency: usize,
    /// Pins that run now.
    pub pinning: usize,
    /// When it was last asked; none before the first time.
    pub probed_at: Option<Timestamp>,
}
