//! What a node says of itself.

use std::sync::Arc;

use cluster_blocks::Usage;
use cluster_swarm::{Multiaddr, PeerId};

use crate::announce::AnnounceReport;
use crate::disk::Level;
use crate::error::Failure;
use crate::fellows::FellowReport;
use crate::fetch::Fetched;
use crate::gc::GcReport;
use crate::http::{GatewayReport, RouterReport};
use crate::inner::Inner;
use crate::scrub::ScrubReport;
use crate::walk::WalkReport;

/// Everything that an operator wants to see.
#[derive(Debug, Clone)]
pub struct EmbeddedReport {
    /// Who it is.
    pub peer: PeerId,
    /// Where others may reach it.
    pub addresses: Vec<Multiaddr>,
    /// How it stands in the network: peers, traffic, DHT, offences.
    pub swarm: cluster_swarm::Report,
    /// Blocks, bytes and pins.
    pub usage: Usage,
    /// Bytes that the store takes on the disk.
    pub disk_bytes: u64,
    /// Bytes that the file system has left.
    pub disk_free_bytes: u64,
    /// Bytes that the store may take: what is configured, or what the disk leaves it.
    pub disk_max_bytes: u64,
    /// Why nothing new is taken; none while it is.
    pub intake_stopped: Option<String>,
    /// Why the store takes no writes; none while it does.
    pub store_fault: Option<String>,
    /// Pins that are being fetched.
    pub walks: Vec<WalkReport>,
    /// What came from where.
    pub fetched: Fetched,
    /// Garbage collection.
    pub gc: GcReport,
    /// Reading again what rests.
    pub scrub: ScrubReport,
    /// Announcing.
    pub announce: AnnounceReport,
    /// The cluster's other embedded nodes.
    pub fellows: Vec<FellowReport>,
    /// Gateways.
    pub gateways: Vec<GatewayReport>,
    /// Delegated routers.
    pub routers: Vec<RouterReport>,
}

pub(crate) async fn of(inner: &Arc<Inner>) -> Result<EmbeddedReport, Failure> {
    let swarm = &inner.network.swarm;
    let (network, room) = tokio::join!(swarm.report(), inner.gate.look());
    let room = room?;
    let intake_stopped = match inner.config.disk.judge(room) {
        Level::Stop(reason) => Some(reason),
        Level::Fine | Level::Collect => None,
    };
    Ok(EmbeddedReport {
        peer: swarm.peer_id(),
        addresses: swarm.addresses(),
        swarm: network.map_err(|_| Failure::stopping())?,
        usage: inner.store.usage(),
        disk_bytes: room.used_bytes,
        disk_free_bytes: room.free_bytes,
        disk_max_bytes: inner.gate.max_bytes(room),
        intake_stopped,
        store_fault: inner.store.fault(),
        walks: inner.walks.report(),
        fetched: inner.network.counters.read(),
        gc: inner.gc.report(),
        scrub: inner.scrub.report(),
        announce: inner.announcer.report(inner),
        fellows: inner.fellows.report(),
        gateways: inner.network.gateways.report(),
        routers: inner.network.routers.report(),
    })
}
