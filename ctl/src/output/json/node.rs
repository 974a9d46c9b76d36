//! The objects of `node show` and `node gc`.

use cluster_proto::v1;
use serde::Serialize;

use super::{Node, set};
use crate::output::words;

/// `node show`
#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `NodeDetails` in cluster.proto"
)]
pub struct NodeDetails {
    pub node: Option<Node>,
    pub error: Option<String>,
    pub version: Option<String>,
    pub agent: Option<String>,
    pub ipfs_peer_id: Option<String>,
    pub addresses: Vec<String>,
    pub repo_bytes: u64,
    pub repo_max_bytes: Option<u64>,
    pub embedded: Option<Embedded>,
}

/// What an embedded node tells; `null` in [`NodeDetails`] for others.
#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `EmbeddedDetails` in cluster.proto"
)]
pub struct Embedded {
    pub store: Store,
    pub network: Network,
    pub fetching: Vec<Fetching>,
    pub fetching_count: u64,
    pub fetched: Fetched,
    pub garbage: Garbage,
    pub scrub: Scrub,
    pub announcing: Announcing,
    pub fellows: Vec<Fellow>,
    pub fellows_count: u64,
    pub fellows_connected: u64,
    pub gateways: Vec<Gateway>,
    pub routers: Vec<Router>,
}

#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `BlockStoreDetails` in cluster.proto"
)]
pub struct Store {
    pub blocks: u64,
    pub bytes: u64,
    pub pins: u64,
    pub incomplete_pins: u64,
    pub lost_blocks: u64,
    pub disk_bytes: u64,
    pub disk_max_bytes: u64,
    pub disk_free_bytes: u64,
    pub collect_at_bytes: Option<u64>,
    pub stop_at_bytes: Option<u64>,
    pub free_min_bytes: u64,
    pub intake_stopped: Option<String>,
    pub fault: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `NetworkDetails` in cluster.proto"
)]
pub struct Network {
    pub reachability: &'static str,
    pub listeners: Vec<String>,
    pub external: Vec<String>,
    pub dht: String,
    pub dht_peers: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub offences: u64,
    pub peers: Vec<Connected>,
    pub peers_count: u64,
    pub shunned: Vec<Shunned>,
    pub shunned_count: u64,
    pub wanted_blocks: u64,
    pub wanted_by_others: u64,
}

#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `ConnectedPeer` in cluster.proto"
)]
pub struct Connected {
    pub peer_id: String,
    pub agent: Option<String>,
    pub addresses: Vec<String>,
    pub bitswap: Option<String>,
    pub latency_us: Option<u64>,
    pub bytes_per_second: Option<f64>,
    pub offences: u64,
    pub fellow: bool,
}

#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `ShunnedPeer` in cluster.proto"
)]
pub struct Shunned {
    pub peer_id: String,
    pub left_ms: u64,
}

#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `FetchingPin` in cluster.proto"
)]
pub struct Fetching {
    pub cid: String,
    pub blocks: u64,
    pub bytes: u64,
    pub fetched: u64,
    pub in_flight: u64,
    pub running_ms: u64,
}

#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `FetchedDetails` in cluster.proto"
)]
pub struct Fetched {
    pub peer_blocks: u64,
    pub peer_bytes: u64,
    pub gateway_blocks: u64,
    pub gateway_bytes: u64,
    pub searches: u64,
}

#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the messages `GarbageDetails` and `GarbageProgress` in cluster.proto"
)]
pub struct Garbage {
    pub running: bool,
    pub done: f64,
    pub looks: u64,
    pub scanned: u64,
    pub deleted_blocks: u64,
    pub deleted_bytes: u64,
    pub took_ms: u64,
    pub passes: u64,
    pub problem: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `ScrubDetails` in cluster.proto"
)]
pub struct Scrub {
    pub done: f64,
    pub passes: u64,
    pub checked_blocks: u64,
    pub checked_bytes: u64,
    pub corrupt_blocks: u64,
    pub corrupt: Vec<String>,
    pub repaired_pins: u64,
    pub broken_pins: Vec<String>,
    pub broken_pins_count: u64,
}

#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `AnnouncingDetails` in cluster.proto"
)]
pub struct Announcing {
    pub strategy: String,
    pub interval_ms: u64,
    pub begun: Option<String>,
    pub total: u64,
    pub done: u64,
    pub failed: u64,
    pub behind: u64,
    pub late_ms: u64,
    pub fresh: u64,
    pub told: u64,
    pub problem: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `FellowNode` in cluster.proto"
)]
pub struct Fellow {
    pub peer_id: String,
    pub connected: bool,
    pub problem: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `GatewayUse` in cluster.proto"
)]
pub struct Gateway {
    pub url: String,
    pub usable: bool,
    pub requests_under_way: u64,
    pub blocks: u64,
    pub bytes: u64,
    pub failures: u64,
    pub last_failure: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
#[allow(
    missing_docs,
    reason = "the fields are those of the message `RouterUse` in cluster.proto"
)]
pub struct Router {
    pub url: String,
    pub usable: bool,
    pub answers: u64,
    pub failures: u64,
    pub last_failure: Option<String>,
}

fn all<A, B: From<A>>(list: Vec<A>) -> Vec<B> {
    list.into_iter().map(B::from).collect()
}

impl From<v1::NodeDetails> for NodeDetails {
    fn from(details: v1::NodeDetails) -> Self {
        Self {
            node: details.node.map(Node::from),
            error: set(details.error),
            version: set(details.version),
            agent: set(details.agent),
            ipfs_peer_id: set(details.ipfs_peer_id),
            addresses: details.addresses,
            repo_bytes: details.repo_bytes,
            repo_max_bytes: details.repo_max_bytes,
            embedded: details.embedded.map(Embedded::from),
        }
    }
}

impl From<v1::EmbeddedDetails> for Embedded {
    fn from(details: v1::EmbeddedDetails) -> Self {
        Self {
            store: details.store.unwrap_or_default().into(),
            network: details.network.unwrap_or_default().into(),
            fetching: all(details.fetching),
            fetching_count: details.fetching_count,
            fetched: details.fetched.unwrap_or_default().into(),
            garbage: details.garbage.unwrap_or_default().into(),
            scrub: details.scrub.unwrap_or_default().into(),
            announcing: details.announcing.unwrap_or_default().into(),
            fellows: all(details.fellows),
            fellows_count: details.fellows_count,
            fellows_connected: details.fellows_connected,
            gateways: all(details.gateways),
            routers: all(details.routers),
        }
    }
}

impl From<v1::BlockStoreDetails> for Store {
    fn from(store: v1::BlockStoreDetails) -> Self {
        Self {
            blocks: store.blocks,
            bytes: store.bytes,
            pins: store.pins,
            incomplete_pins: store.incomplete_pins,
            lost_blocks: store.lost_blocks,
            disk_bytes: store.disk_bytes,
            disk_max_bytes: store.disk_max_bytes,
            disk_free_bytes: store.disk_free_bytes,
            collect_at_bytes: store.collect_at_bytes,
            stop_at_bytes: store.stop_at_bytes,
            free_min_bytes: store.free_min_bytes,
            intake_stopped: set(store.intake_stopped),
            fault: set(store.fault),
        }
    }
}

impl From<v1::NetworkDetails> for Network {
    fn from(network: v1::NetworkDetails) -> Self {
        Self {
            reachability: words::reachability(network.reachability()).0,
            listeners: network.listeners,
            external: network.external,
            dht: network.dht,
            dht_peers: network.dht_peers,
            bytes_in: network.bytes_in,
            bytes_out: network.bytes_out,
            offences: network.offences,
            peers: all(network.peers),
            peers_count: network.peers_count,
            shunned: all(network.shunned),
            shunned_count: network.shunned_count,
            wanted_blocks: network.wanted_blocks,
            wanted_by_others: network.wanted_by_others,
        }
    }
}

impl From<v1::ConnectedPeer> for Connected {
    fn from(peer: v1::ConnectedPeer) -> Self {
        Self {
            peer_id: peer.peer_id,
            agent: set(peer.agent),
            addresses: peer.addresses,
            bitswap: set(peer.bitswap),
            latency_us: peer.latency_us,
            bytes_per_second: peer.bytes_per_second,
            offences: peer.offences,
            fellow: peer.fellow,
        }
    }
}

impl From<v1::ShunnedPeer> for Shunned {
    fn from(peer: v1::ShunnedPeer) -> Self {
        Self {
            peer_id: peer.peer_id,
            left_ms: peer.left_ms,
        }
    }
}

impl From<v1::FetchingPin> for Fetching {
    fn from(pin: v1::FetchingPin) -> Self {
        Self {
            cid: pin.cid,
            blocks: pin.blocks,
            bytes: pin.bytes,
            fetched: pin.fetched,
            in_flight: pin.in_flight,
            running_ms: pin.running_ms,
        }
    }
}

impl From<v1::FetchedDetails> for Fetched {
    fn from(fetched: v1::FetchedDetails) -> Self {
        Self {
            peer_blocks: fetched.peer_blocks,
            peer_bytes: fetched.peer_bytes,
            gateway_blocks: fetched.gateway_blocks,
            gateway_bytes: fetched.gateway_bytes,
            searches: fetched.searches,
        }
    }
}

impl From<v1::GarbageDetails> for Garbage {
    fn from(garbage: v1::GarbageDetails) -> Self {
        let progress = garbage.progress.unwrap_or_default();
        Self {
            running: garbage.running,
            done: progress.done,
            looks: progress.looks,
            scanned: progress.scanned,
            deleted_blocks: progress.deleted_blocks,
            deleted_bytes: progress.deleted_bytes,
            took_ms: garbage.took_ms,
            passes: garbage.passes,
            problem: set(garbage.problem),
        }
    }
}

impl From<v1::ScrubDetails> for Scrub {
    fn from(scrub: v1::ScrubDetails) -> Self {
        Self {
            done: scrub.done,
            passes: scrub.passes,
            checked_blocks: scrub.checked_blocks,
            checked_bytes: scrub.checked_bytes,
            corrupt_blocks: scrub.corrupt_blocks,
            corrupt: scrub.corrupt,
            repaired_pins: scrub.repaired_pins,
            broken_pins: scrub.broken_pins,
            broken_pins_count: scrub.broken_pins_count,
        }
    }
}

impl From<v1::AnnouncingDetails> for Announcing {
    fn from(announcing: v1::AnnouncingDetails) -> Self {
        Self {
            begun: words::time(announcing.begun.as_ref()),
            strategy: announcing.strategy,
            interval_ms: announcing.interval_ms,
            total: announcing.total,
            done: announcing.done,
            failed: announcing.failed,
            behind: announcing.behind,
            late_ms: announcing.late_ms,
            fresh: announcing.fresh,
            told: announcing.told,
            problem: set(announcing.problem),
        }
    }
}

impl From<v1::FellowNode> for Fellow {
    fn from(fellow: v1::FellowNode) -> Self {
        Self {
            peer_id: fellow.peer_id,
            connected: fellow.connected,
            problem: set(fellow.problem),
        }
    }
}

impl From<v1::GatewayUse> for Gateway {
    fn from(gateway: v1::GatewayUse) -> Self {
        Self {
            url: gateway.url,
            usable: gateway.usable,
            requests_under_way: gateway.requests_under_way,
            blocks: gateway.blocks,
            bytes: gateway.bytes,
            failures: gateway.failures,
            last_failure: set(gateway.last_failure),
        }
    }
}

impl From<v1::RouterUse> for Router {
    fn from(router: v1::RouterUse) -> Self {
        Self {
            url: router.url,
            usable: router.usable,
            answers: router.answers,
            failures: router.failures,
            last_failure: set(router.last_failure),
        }
    }
}

/// `node gc`: what is gone.
#[derive(Debug, Clone, Serialize)]
pub struct Collected {
    /// As it was named.
    pub node: String,
    /// Always `collected`.
    pub outcome: &'static str,
    /// That were deleted.
    pub blocks: u64,
    /// Of them.
    pub bytes: u64,
    /// Blocks looked at, over all looks.
    pub scanned: u64,
    /// Over the store, until one found nothing.
    pub looks: u64,
    /// From the first look to the last.
    pub took_ms: u64,
}

impl Collected {
    /// Of this node.
    pub fn new(node: String, done: v1::GarbageCollected) -> Self {
        Self {
            node,
            outcome: "collected",
            blocks: done.deleted_blocks,
            bytes: done.deleted_bytes,
            scanned: done.scanned,
            looks: done.looks,
            took_ms: done.took_ms,
        }
    }
}

/// `node gc --estimate`: what would be.
#[derive(Debug, Clone, Serialize)]
pub struct Estimated {
    /// As it was named.
    pub node: String,
    /// Always `estimated`.
    pub outcome: &'static str,
    /// That would be deleted.
    pub blocks: u64,
    /// Of them.
    pub bytes: u64,
    /// Share of the store that was looked at, 0 to 1; the rest is taken to be alike.
    pub looked_at: f64,
}

impl Estimated {
    /// Of this node.
    pub fn new(node: String, estimate: v1::GarbageEstimate) -> Self {
        Self {
            node,
            outcome: "estimated",
            blocks: estimate.blocks,
            bytes: estimate.bytes,
            looked_at: estimate.looked_at,
        }
    }
}
