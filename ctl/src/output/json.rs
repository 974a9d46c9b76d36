//! The objects of `--output json`. One a line; names and types of fields stay. Every field is always there: `null`
//! stands for what is not set. CIDs are strings, times RFC 3339, states words.

mod access;
mod content;
mod node;

use std::collections::BTreeMap;

use cluster_proto::v1;
use serde::Serialize;

use super::words;

pub use access::{CreatedCredential, Credential};
pub use content::{AddDone, Added, Exported, Got};
pub use node::{Collected, Estimated, NodeDetails};

/// A pin as recorded: `pin ls`, and the answer of `pin update`.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the fields are those of the message `Pin` in pins.proto")]
pub struct Pin {
    pub namespace: String,
    pub cid: String,
    pub slot: String,
    pub name: String,
    pub mode: &'static str,
    pub replication_min: i32,
    pub replication_max: i32,
    pub requested_nodes: Vec<String>,
    pub metadata: BTreeMap<String, String>,
    pub origins: Vec<String>,
    pub expire_at: Option<String>,
    pub updated_from: Option<String>,
    pub created: Option<String>,
    pub modified: Option<String>,
    pub nodes: Vec<String>,
    pub everywhere: bool,
    pub unplaced: Option<String>,
    pub revision: u64,
}

impl From<v1::Pin> for Pin {
    fn from(pin: v1::Pin) -> Self {
        Self {
            mode: words::mode(pin.mode()),
            expire_at: words::time(pin.expire_at.as_ref()),
            created: words::time(pin.created.as_ref()),
            modified: words::time(pin.modified.as_ref()),
            namespace: pin.namespace,
            cid: pin.cid,
            slot: pin.slot,
            name: pin.name,
            replication_min: pin.replication_min,
            replication_max: pin.replication_max,
            requested_nodes: pin.requested_nodes,
            metadata: pin.metadata.into_iter().collect(),
            origins: pin.origins,
            updated_from: set(pin.updated_from),
            nodes: pin.nodes,
            everywhere: pin.everywhere,
            unplaced: set(pin.unplaced),
            revision: pin.revision,
        }
    }
}

/// What became of one CID of `pin add`, `pin rm` and `pin update`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Written {
    /// The namespace that was asked for.
    pub namespace: String,
    /// The CID as given.
    pub cid: String,
    /// The slot that was asked for.
    pub slot: String,
    /// `created`, `updated`, `unchanged`; `removed`, `missing`; `refused`.
    pub outcome: &'static str,
    /// The gRPC code of a refusal.
    pub code: Option<&'static str>,
    /// Why it was refused.
    pub error: Option<String>,
    /// Where it is held; `null` for long lists, whose answers do not say.
    pub nodes: Option<Vec<String>>,
    /// Every node holds it.
    pub everywhere: bool,
    /// Why it has no nodes yet.
    pub unplaced: Option<String>,
    /// With `--wait`: the state at the end; `released` when no node holds it any more.
    pub status: Option<&'static str>,
}

/// The status of one CID: `pin status`.
#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `PinStatus` in pins.proto"
)]
pub struct PinStatus {
    pub cid: String,
    pub name: String,
    pub status: &'static str,
    pub replication_min: i32,
    pub replication_max: i32,
    pub pins: u32,
    pub unplaced: Option<String>,
    pub nodes: Vec<NodeStatus>,
}

impl From<v1::PinStatus> for PinStatus {
    fn from(status: v1::PinStatus) -> Self {
        Self {
            status: words::status(status.status()).0,
            cid: status.cid,
            name: status.name,
            replication_min: status.replication_min,
            replication_max: status.replication_max,
            pins: status.pins,
            unplaced: set(status.unplaced),
            nodes: status.nodes.into_iter().map(NodeStatus::from).collect(),
        }
    }
}

/// What one node says of a CID.
#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `NodeStatus` in pins.proto"
)]
pub struct NodeStatus {
    pub node: String,
    pub node_id: String,
    pub peer: String,
    pub status: &'static str,
    pub attempts: u32,
    pub error: Option<String>,
    pub error_class: Option<String>,
    pub next_attempt: Option<String>,
    pub changed: Option<String>,
    pub blocks: u64,
    pub bytes: u64,
}

impl From<v1::NodeStatus> for NodeStatus {
    fn from(node: v1::NodeStatus) -> Self {
        Self {
            status: words::status(node.status()).0,
            next_attempt: words::time(node.next_attempt.as_ref()),
            changed: words::time(node.changed.as_ref()),
            node: node.node,
            node_id: node.node_id,
            peer: node.peer,
            attempts: node.attempts,
            error: set(node.error),
            error_class: set(node.error_class),
            blocks: node.blocks,
            bytes: node.bytes,
        }
    }
}

/// `pin ls --count`.
#[derive(Debug, Clone, Serialize)]
pub struct Count {
    /// How many pins match.
    pub count: u64,
}

/// `pin explain`.
#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `ExplainResponse` in pins.proto"
)]
pub struct Explanation {
    pub cid: String,
    pub pinned: bool,
    pub summary: String,
    pub nodes: Vec<Verdict>,
}

/// Why a node was chosen or not. `rank` and `score` are `null` when it was filtered out.
#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `NodeVerdict` in pins.proto"
)]
pub struct Verdict {
    pub node: String,
    pub node_id: String,
    pub chosen: bool,
    pub rank: Option<u32>,
    pub score: Option<f64>,
    pub reason: String,
}

impl From<v1::ExplainResponse> for Explanation {
    fn from(answer: v1::ExplainResponse) -> Self {
        let verdict = |node: v1::NodeVerdict| Verdict {
            rank: (node.rank > 0).then_some(node.rank),
            score: (node.rank > 0).then_some(node.score),
            node: node.node,
            node_id: node.node_id,
            chosen: node.chosen,
            reason: node.reason,
        };
        Self {
            cid: answer.cid,
            pinned: answer.pinned,
            summary: answer.summary,
            nodes: answer.nodes.into_iter().map(verdict).collect(),
        }
    }
}

/// `pin recover`.
#[derive(Debug, Clone, Serialize)]
pub struct Recovered {
    /// Entries that are tried again at once, summed over nodes.
    pub recovered: u64,
    /// Nodes whose peer did not answer.
    pub unreachable_nodes: Vec<String>,
}

/// The end of `pin import`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Imported {
    /// Lines read in all runs.
    pub lines: u64,
    /// Pins that are new.
    pub created: u64,
    /// Pins whose options were replaced.
    pub updated: u64,
    /// Pins that were there already.
    pub unchanged: u64,
    /// Lines refused here or by the cluster.
    pub refused: u64,
    /// Where this run began; 0 when it began at the top.
    pub resumed_at_line: u64,
}

/// The end of a comparison: `import`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Pins of the list.
    pub pins: u64,
    /// That are here as they were.
    pub equal: u64,
    /// That are not here.
    pub missing: u64,
    /// That are here and differ.
    pub different: u64,
    /// Of the equal ones, those that a node which held them shall not hold.
    pub moved: u64,
    /// Lines whose pins had expired, or were part of another, and were passed over.
    pub passed_over: u64,
    /// Lines that can't be taken over.
    pub refused: u64,
    /// Pins of the namespace that are not of the list.
    pub others: u64,
}

/// The end of `export`.
#[derive(Debug, Clone, Serialize)]
pub struct PinsExported {
    /// The file.
    pub to: String,
    /// Pins written.
    pub pins: u64,
    /// Pins left out, since another pin of their CID was written.
    pub left_out: u64,
}

/// A peer: `peer ls`, and in `status`.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the fields are those of the message `Peer` in cluster.proto")]
pub struct Peer {
    pub peer_id: String,
    pub name: String,
    pub raft_id: u64,
    pub role: &'static str,
    pub leader: bool,
    pub reachable: bool,
    pub addresses: Vec<String>,
    pub api_address: String,
    pub version: String,
    pub applied_index: u64,
    pub joined: Option<String>,
}

impl From<v1::Peer> for Peer {
    fn from(peer: v1::Peer) -> Self {
        Self {
            role: words::role(peer.role()),
            joined: words::time(peer.joined.as_ref()),
            peer_id: peer.peer_id,
            name: peer.name,
            raft_id: peer.raft_id,
            leader: peer.leader,
            reachable: peer.reachable,
            addresses: peer.addresses,
            api_address: peer.api_address,
            version: peer.version,
            applied_index: peer.applied_index,
        }
    }
}

/// `peer join-token`.
#[derive(Debug, Clone, Serialize)]
pub struct JoinToken {
    /// To be given to the peer that joins.
    pub token: String,
    /// When it is no longer taken.
    pub expires: Option<String>,
}

/// A storage node: `node ls|add|cordon|uncordon|drain`, and in `status`.
#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `StorageNode` in cluster.proto"
)]
pub struct Node {
    pub id: String,
    pub name: String,
    pub peer: String,
    pub kind: String,
    pub api: String,
    pub tags: BTreeMap<String, String>,
    pub weight: f64,
    pub state: &'static str,
    pub report: Option<Report>,
}

/// What a node's peer last reported; `null` in [`Node`] when it has not.
#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `NodeReport` in cluster.proto"
)]
pub struct Report {
    pub time: Option<String>,
    pub reachable: bool,
    pub error: Option<String>,
    pub free_bytes: u64,
    pub total_bytes: u64,
    pub version: String,
    pub ipfs_peer_id: String,
    pub queued: u64,
    pub pinning: u64,
    pub pinned: u64,
    pub retrying: u64,
    pub gave_up: u64,
    pub unpinning: u64,
    pub oldest_queued_ms: u64,
    pub pins_per_second: f64,
    pub breaker: String,
    pub concurrency: u32,
}

impl From<v1::StorageNode> for Node {
    fn from(node: v1::StorageNode) -> Self {
        let report = |report: v1::NodeReport| Report {
            time: words::time(report.time.as_ref()),
            reachable: report.reachable,
            error: set(report.error),
            free_bytes: report.free_bytes,
            total_bytes: report.total_bytes,
            version: report.version,
            ipfs_peer_id: report.ipfs_peer_id,
            queued: report.queued,
            pinning: report.pinning,
            pinned: report.pinned,
            retrying: report.retrying,
            gave_up: report.gave_up,
            unpinning: report.unpinning,
            oldest_queued_ms: report.oldest_queued_ms,
            pins_per_second: report.pins_per_second,
            breaker: report.breaker,
            concurrency: report.concurrency,
        };
        Self {
            state: words::node_state(node.state()).0,
            id: node.id,
            name: node.name,
            peer: node.peer,
            kind: node.kind,
            api: node.api,
            tags: node.tags.into_iter().collect(),
            weight: node.weight,
            report: node.report.map(report),
        }
    }
}

/// What was removed: `peer rm`, `peer promote`, `node rm`.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// Peer ID, or name or ID of a node.
    pub subject: String,
    /// `removed` or `promoted`.
    pub outcome: &'static str,
}

/// `status`.
#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `ClusterStatus` in cluster.proto"
)]
pub struct ClusterStatus {
    pub cluster_id: String,
    pub health: &'static str,
    pub problems: Vec<Problem>,
    pub leader: Option<String>,
    pub term: u64,
    pub committed_index: u64,
    pub revision: u64,
    pub pins: u64,
    pub cids: u64,
    pub unplaced: u64,
    pub peers: Vec<Peer>,
    pub nodes: Vec<Node>,
    pub answered_by: String,
}

/// What is wrong, and what to do.
#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `Problem` in cluster.proto"
)]
pub struct Problem {
    pub severity: &'static str,
    pub subject: Option<String>,
    pub message: String,
}

impl From<v1::ClusterStatus> for ClusterStatus {
    fn from(status: v1::ClusterStatus) -> Self {
        let problem = |problem: v1::Problem| Problem {
            severity: words::health(problem.severity()).0,
            subject: set(problem.subject),
            message: problem.message,
        };
        Self {
            health: words::health(status.health()).0,
            cluster_id: status.cluster_id,
            problems: status.problems.into_iter().map(problem).collect(),
            leader: set(status.leader),
            term: status.term,
            committed_index: status.committed_index,
            revision: status.revision,
            pins: status.pins,
            cids: status.cids,
            unplaced: status.unplaced,
            peers: status.peers.into_iter().map(Peer::from).collect(),
            nodes: status.nodes.into_iter().map(Node::from).collect(),
            answered_by: status.answered_by,
        }
    }
}

/// `settings`.
#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `Settings` in cluster.proto"
)]
pub struct Settings {
    pub replication_min: Option<i32>,
    pub replication_max: Option<i32>,
    pub spread_by: Vec<String>,
}

/// A change of the pinset: `watch`.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs, reason = "the fields are those of the message `Change` in pins.proto")]
pub struct Change {
    pub revision: u64,
    pub kind: &'static str,
    pub namespace: String,
    pub cid: String,
    pub slot: String,
    pub time: Option<String>,
}

impl From<v1::Change> for Change {
    fn from(change: v1::Change) -> Self {
        Self {
            kind: words::change(change.kind()),
            time: words::time(change.time.as_ref()),
            revision: change.revision,
            namespace: change.namespace,
            cid: change.cid,
            slot: change.slot,
        }
    }
}

/// `version`.
#[derive(Debug, Clone, Serialize)]
pub struct Version {
    /// Of this binary.
    pub version: &'static str,
}

fn set(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
