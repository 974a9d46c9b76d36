//! What a peer tells the leader about itself, once an interval.

use std::time::{Duration, Instant};

use cluster_proto::peer::v1::{NodeReportItem, ReportRequest};
use cluster_worker::{NodeReport, Worker};
use node_core::{NodeId, Status};

use super::{Heard, HeardNode};

/// Addresses of a node that are passed on. A daemon names a dozen; the rest would only make reports longer.
const ADDRESSES_MAX: usize = 16;

/// The states whose counts are reported, in the order of [`HeardNode::counts`].
pub const COUNTED: [Status; 6] = [
    Status::Queued,
    Status::Pinning,
    Status::Pinned,
    Status::Retrying,
    Status::GaveUp,
    Status::Unpinning,
];

/// What this peer's worker knows of its nodes.
pub fn own_nodes(worker: &Worker) -> Vec<HeardNode> {
    worker.reports().iter().filter_map(heard_of).collect()
}

/// What a report tells; nothing before the node was first asked. Who has not been asked yet is not out of reach, and the
/// leader places pins on nodes that it has heard nothing of.
fn heard_of(report: &NodeReport) -> Option<HeardNode> {
    report.probed_at?;
    Some(HeardNode {
        node: report.node,
        reachable: report.reachable,
        error: report.error.clone().unwrap_or_default(),
        free_bytes: report.free_bytes,
        total_bytes: report.total_bytes,
        version: report.version.clone().unwrap_or_default(),
        ipfs_peer_id: report.ipfs_peer.clone().unwrap_or_default(),
        counts: COUNTED.map(|status| match status {
            Status::Pinning => report.pinning as u64,
            status => report.counts.of(status),
        }),
        oldest_queued: report.oldest_queued_age.unwrap_or_default(),
        pins_per_second: report.pins_per_second,
        breaker: report.breaker.to_string(),
        concurrency: u32::try_from(report.concurrency).unwrap_or(u32::MAX),
        addresses: report.addresses.iter().take(ADDRESSES_MAX).cloned().collect(),
    })
}

/// The same, for another peer.
pub fn own_items(worker: &Worker) -> Vec<NodeReportItem> {
    own_nodes(worker).iter().map(put_item).collect()
}

/// A node's part of a report.
pub fn put_item(node: &HeardNode) -> NodeReportItem {
    let [queued, pinning, pinned, retrying, gave_up, unpinning] = node.counts;
    NodeReportItem {
        node: node.node.0,
        reachable: node.reachable,
        error: node.error.clone(),
        free_bytes: node.free_bytes,
        total_bytes: node.total_bytes,
        version: node.version.clone(),
        ipfs_peer_id: node.ipfs_peer_id.clone(),
        queued,
        pinning,
        pinned,
        retrying,
        gave_up,
        unpinning,
        oldest_queued_ms: u64::try_from(node.oldest_queued.as_millis()).unwrap_or(u64::MAX),
        pins_per_second: node.pins_per_second,
        breaker: node.breaker.clone(),
        concurrency: node.concurrency,
        addresses: node.addresses.clone(),
    }
}

/// Reads a node's part of a report.
pub fn read_item(item: &NodeReportItem) -> HeardNode {
    HeardNode {
        node: NodeId(item.node),
        reachable: item.reachable,
        error: item.error.clone(),
        free_bytes: item.free_bytes,
        total_bytes: item.total_bytes,
        version: item.version.clone(),
        ipfs_peer_id: item.ipfs_peer_id.clone(),
        counts: [
            item.queued,
            item.pinning,
            item.pinned,
            item.retrying,
            item.gave_up,
            item.unpinning,
        ],
        oldest_queued: Duration::from_millis(item.oldest_queued_ms),
        pins_per_second: item.pins_per_second,
        breaker: item.breaker.clone(),
        concurrency: item.concurrency,
        addresses: item.addresses.iter().take(ADDRESSES_MAX).cloned().collect(),
    }
}

/// Reads a report as it comes in.
pub fn read_report(report: &ReportRequest) -> Heard {
    Heard {
        at: Instant::now(),
        applied_index: report.applied_index,
        version: report.version.clone(),
        nodes: report.nodes.iter().map(read_item).collect(),
    }
}

#[cfg(test)]
mod tests {
    use node_core::Timestamp;

    use super::*;

    #[test]
    fn a_node_that_was_not_asked_yet_is_not_said_to_be_out_of_reach() {
        let mut report = NodeReport {
            node: NodeId(1),
            name: "node-1".into(),
            reachable: false,
            error: None,
            class: None,
            free_bytes: None,
            total_bytes: None,
            used_bytes: None,
            version: None,
            ipfs_peer: None,
            addresses: Vec::new(),
            counts: Default::default(),
            oldest_queued_age: None,
            pins_per_second: 0.0,
            breaker: "closed",
            concurrency: 1,
            pinning: 0,
            probed_at: None,
        };
        assert!(heard_of(&report).is_none());
        report.probed_at = Some(Timestamp::from_millis(1));
        assert!(heard_of(&report).is_some_and(|heard| !heard.reachable));
    }
}
