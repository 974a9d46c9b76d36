//! What the worker can be told.

use std::time::Duration;

use node_core::NodeId;
use node_core::retry::RetryPolicy;

/// Bounds that concern all nodes of the peer.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerConfig {
    /// How often a node is asked how it is.
    pub report_interval: Duration,
    /// How often a node that did not answer is asked again. Shorter, so that it works again soon after it came back.
    pub recheck_interval: Duration,
    /// How long each of these questions may take.
    pub probe_timeout: Duration,
    /// Notes taken at a time. Together they are one batch and one sync of the ledger.
    pub drain_batch: usize,
    /// The shortest time between two such syncs while few notes arrive: they share the disk with the Raft log.
    pub drain_interval: Duration,
    /// Wishes compared at a time when a whole node is.
    pub resync_chunk: usize,
    /// The longest time for which an outcome may be lost by a power failure.
    pub sync_interval: Duration,
    /// How long connecting to the origins of a pin may delay it.
    pub origins_timeout: Duration,
    /// CIDs taken from a queue into memory at a time, per node and queue: about 200 kB each, and a read every few hundred
    /// pins.
    pub picks_max: usize,
    /// How long after a request that was cut off or overtaken the node is looked at once more. The time in which a
    /// daemon notices that its caller has gone: Kubo does within moments, a busy one within seconds.
    pub look_again_after: Duration,
    /// A first try of which no block has come for so long is cut off while others wait. Providers that are there are
    /// found within seconds (a DHT look-up takes 1 to 8); the stall timeout, which all later tries have, is minutes.
    pub first_try_quiet: Duration,
    /// Pinned entries looked at per minute and node; 0 is none. Each is one look-up by the daemon, so a few cost nothing;
    /// what they find is a sample, such as that a repository was restored from a backup.
    pub audit_per_minute: u32,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            report_interval: Duration::from_secs(10),
            recheck_interval: Duration::from_secs(2),
            probe_timeout: Duration::from_secs(10),
            drain_batch: 1_024,
            drain_interval: Duration::from_millis(20),
            resync_chunk: 1_024,
            sync_interval: Duration::from_secs(1),
            origins_timeout: Duration::from_secs(5),
            picks_max: 512,
            look_again_after: Duration::from_secs(10),
            first_try_quiet: Duration::from_secs(10),
            audit_per_minute: 6,
        }
    }
}

/// How one node is driven.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSettings {
    /// Its ID.
    pub id: NodeId,
    /// Its name, for logs and reports.
    pub name: String,
    /// The name that its pins bear. A pin under it is taken for one of the cluster, whatever the ledger knows of it.
    pub pin_name: String,
    /// Whether every pin that it had when the cluster first wanted its CID is taken for one of the cluster: for a node
    /// that another cluster filled.
    pub adopts: bool,
    /// Most pins begun per second; 0 is no limit.
    pub pins_per_second: f64,
    /// Pins that may begin at once after a pause; at least 1.
    pub burst: u32,
    /// Most pins at a time.
    pub concurrency_max: u32,
    /// Pins at a time to begin with; the number then follows the node's answers.
    pub concurrency_start: u32,
    /// Most unpins at a time. They have permits of their own, so neither kind of work waits for the other.
    pub unpin_concurrency: u32,
    /// Without progress for so long a pin is cut off. Watched by the client of the node.
    pub stall_timeout: Duration,
    /// When failed tries are repeated.
    pub retry: RetryPolicy,
}
