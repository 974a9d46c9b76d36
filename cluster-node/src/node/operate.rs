//! What operators see of the node inside this peer, and how they have it collect its garbage.

use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use cluster_embedded::{
    AnnounceConfig, AnnounceReport, DhtMode, DiskConfig, EmbeddedNode, EmbeddedReport, FellowReport, GcReport,
    NatStatus, PeerInfo, ScrubReport, Strategy, SwarmReport, WalkReport,
};
use cluster_ipfs::cut;
use cluster_proto::v1;
use node_core::{Cid, Timestamp};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::service::{Error, Operated};

/// Items in each list that is shown. There may be thousands of peers; nobody reads them.
const LIST_MAX: usize = 100;

/// Bytes of a text that others chose: what a peer calls itself, what a gateway says.
const TEXT_MAX: usize = 256;

/// The node with what the configuration says of it.
pub struct OperatedNode {
    /// The node.
    pub node: EmbeddedNode,
    /// Its own threads: what takes long is done there.
    pub runtime: Handle,
    /// Its watermarks.
    pub disk: DiskConfig,
    /// What it announces.
    pub announce: AnnounceConfig,
    /// What it is in the DHT.
    pub dht: DhtMode,
}

impl OperatedNode {
    /// On the node's threads; ends when nobody waits for it any more.
    async fn on_node<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, cluster_ipfs::Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let task = AbortOnDropHandle::new(self.runtime.spawn(work));
        match task.await {
            Ok(result) => result.map_err(refused),
            Err(error) => Err(Error::Internal(format!("the embedded node ended early: {error}"))),
        }
    }
}

fn refused(error: cluster_ipfs::Error) -> Error {
    Error::precondition(format!("the embedded node can't do it: {}", error.message))
}

#[async_trait]
impl Operated for OperatedNode {
    async fn details(&self) -> Result<v1::EmbeddedDetails, Error> {
        let report = self.node.report().await.map_err(refused)?;
        Ok(details(report, self))
    }

    fn garbage(&self) -> v1::GarbageProgress {
        progress(&self.node.garbage())
    }

    async fn collect_garbage(&self) -> Result<v1::GarbageCollected, Error> {
        let node = self.node.clone();
        let report = self.on_node(async move { node.collect_garbage().await }).await?;
        Ok(v1::GarbageCollected {
            looks: report.looks,
            scanned: report.scanned,
            deleted_blocks: report.deleted_blocks,
            deleted_bytes: report.deleted_bytes,
            took_ms: millis(report.took),
        })
    }

    async fn estimate_garbage(&self, time: Duration) -> Result<v1::GarbageEstimate, Error> {
        let node = self.node.clone();
        let estimate = self.on_node(async move { node.estimate_garbage(time).await }).await?;
        Ok(v1::GarbageEstimate {
            blocks: estimate.garbage.blocks,
            bytes: estimate.garbage.bytes,
            looked_at: estimate.looked_at,
        })
    }
}

fn details(report: EmbeddedReport, of: &OperatedNode) -> v1::EmbeddedDetails {
    let fellows = report.fellows;
    let fellows_count = count(&fellows);
    let fellows_connected = fellows.iter().filter(|fellow| fellow.connected).count() as u64;
    let store = v1::BlockStoreDetails {
        blocks: report.usage.blocks,
        bytes: report.usage.bytes,
        pins: report.usage.pins,
        incomplete_pins: report.usage.walking,
        lost_blocks: report.usage.lost,
        disk_bytes: report.disk_bytes,
        disk_max_bytes: report.disk_max_bytes,
        disk_free_bytes: report.disk_free_bytes,
        collect_at_bytes: mark(of.disk.max_bytes, of.disk.collect_percent),
        stop_at_bytes: mark(of.disk.max_bytes, of.disk.stop_percent),
        free_min_bytes: of.disk.free_bytes_min,
        intake_stopped: report.intake_stopped.unwrap_or_default(),
        fault: report.store_fault.unwrap_or_default(),
    };
    let mut walks = report.walks;
    let fetching_count = count(&walks);
    walks.sort_unstable_by_key(|walk| std::cmp::Reverse(walk.running));
    v1::EmbeddedDetails {
        store: Some(store),
        network: Some(network(report.swarm, &fellows, of.dht)),
        fetching: walks.iter().take(LIST_MAX).map(fetching).collect(),
        fetching_count,
        fetched: Some(v1::FetchedDetails {
            peer_blocks: report.fetched.peer_blocks,
            peer_bytes: report.fetched.peer_bytes,
            gateway_blocks: report.fetched.gateway_blocks,
            gateway_bytes: report.fetched.gateway_bytes,
            searches: report.fetched.searches,
        }),
        garbage: Some(v1::GarbageDetails {
            running: report.gc.running,
            progress: Some(progress(&report.gc)),
            took_ms: millis(report.gc.took),
            passes: report.gc.passes,
            problem: report.gc.problem,
        }),
        scrub: Some(scrub(report.scrub)),
        announcing: Some(announcing(report.announce, of.announce)),
        fellows: listed_fellows(fellows),
        fellows_count,
        fellows_connected,
        gateways: report.gateways.into_iter().take(LIST_MAX).map(gateway).collect(),
        routers: report.routers.into_iter().take(LIST_MAX).map(router).collect(),
    }
}

/// A share of what the store may take. By the same reckoning as the node's own.
fn mark(max: Option<u64>, percent: u8) -> Option<u64> {
    let mark = u128::from(max?) * u128::from(percent) / 100;
    u64::try_from(mark).ok()
}

fn network(swarm: SwarmReport, fellows: &[FellowReport], dht: DhtMode) -> v1::NetworkDetails {
    let dht = match (dht, swarm.dht_server) {
        (DhtMode::Off, _) => "off",
        (_, true) => "server",
        (_, false) => "client",
    };
    let reachability = match swarm.nat {
        NatStatus::Unknown => v1::Reachability::Unspecified,
        NatStatus::Public => v1::Reachability::Public,
        NatStatus::Private => v1::Reachability::Private,
    };
    let (peers_count, shunned_count) = (count(&swarm.peers), count(&swarm.shunned));
    let is_fellow = |peer: &PeerInfo| {
        let found = fellows.binary_search_by_key(&peer.peer, |fellow| fellow.peer);
        found.is_ok()
    };
    let mut peers: Vec<(bool, PeerInfo)> = swarm.peers.into_iter().map(|peer| (is_fellow(&peer), peer)).collect();
    // Those of the cluster, then the fastest; of equals always the same, so that two looks can be compared.
    peers.sort_unstable_by(|(a_fellow, a), (b_fellow, b)| {
        let rate = |peer: &PeerInfo| peer.rate.unwrap_or_default();
        let by_rate = rate(b).total_cmp(&rate(a));
        b_fellow.cmp(a_fellow).then(by_rate).then(a.peer.cmp(&b.peer))
    });
    v1::NetworkDetails {
        reachability: reachability.into(),
        listeners: texts(&swarm.listeners),
        external: texts(&swarm.external),
        dht: dht.into(),
        dht_peers: swarm.dht_peers as u64,
        bytes_in: swarm.bytes_in,
        bytes_out: swarm.bytes_out,
        offences: swarm.offences,
        peers: peers.into_iter().take(LIST_MAX).map(connected).collect(),
        peers_count,
        shunned: swarm
            .shunned
            .iter()
            .take(LIST_MAX)
            .map(|(peer, left)| v1::ShunnedPeer {
                peer_id: peer.to_string(),
                left_ms: millis(*left),
            })
            .collect(),
        shunned_count,
        wanted_blocks: swarm.wanted as u64,
        wanted_by_others: swarm.wants_of_others as u64,
    }
}

fn connected((fellow, peer): (bool, PeerInfo)) -> v1::ConnectedPeer {
    v1::ConnectedPeer {
        peer_id: peer.peer.to_string(),
        agent: cut(&peer.agent, TEXT_MAX),
        addresses: texts(&peer.addresses),
        bitswap: peer.bitswap.unwrap_or_default().to_owned(),
        latency_us: peer
            .latency
            .map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
        bytes_per_second: peer.rate,
        offences: peer.offences,
        fellow,
    }
}

fn fetching(walk: &WalkReport) -> v1::FetchingPin {
    v1::FetchingPin {
        cid: walk.cid.to_string(),
        blocks: walk.blocks,
        bytes: walk.bytes,
        fetched: walk.fetched,
        in_flight: walk.in_flight as u64,
        running_ms: millis(walk.running),
    }
}

fn progress(gc: &GcReport) -> v1::GarbageProgress {
    v1::GarbageProgress {
        done: gc.done,
        looks: gc.looks,
        scanned: gc.scanned,
        deleted_blocks: gc.deleted_blocks,
        deleted_bytes: gc.deleted_bytes,
    }
}

fn scrub(scrub: ScrubReport) -> v1::ScrubDetails {
    let cids = |cids: &[Cid]| cids.iter().take(LIST_MAX).map(Cid::to_string).collect();
    v1::ScrubDetails {
        done: scrub.done,
        passes: scrub.passes,
        checked_blocks: scrub.checked_blocks,
        checked_bytes: scrub.checked_bytes,
        corrupt_blocks: scrub.corrupt,
        corrupt: cids(&scrub.last_corrupt),
        repaired_pins: scrub.repaired,
        broken_pins: cids(&scrub.broken),
        broken_pins_count: count(&scrub.broken),
    }
}

fn announcing(report: AnnounceReport, config: AnnounceConfig) -> v1::AnnouncingDetails {
    let strategy = match config.strategy {
        Strategy::Roots => "roots",
        Strategy::All => "all",
        Strategy::None => "none",
    };
    v1::AnnouncingDetails {
        strategy: strategy.into(),
        interval_ms: millis(config.interval),
        begun: (report.begun != Timestamp::ZERO).then(|| time(report.begun)),
        total: report.total,
        done: report.done,
        failed: report.failed,
        behind: report.behind,
        late_ms: millis(report.late),
        fresh: report.fresh as u64,
        told: report.told,
        problem: cut(&report.problem, TEXT_MAX),
    }
}

fn listed_fellows(mut fellows: Vec<FellowReport>) -> Vec<v1::FellowNode> {
    fellows.sort_by_key(|fellow| fellow.connected);
    let listed = fellows.into_iter().take(LIST_MAX).map(|fellow| v1::FellowNode {
        peer_id: fellow.peer.to_string(),
        connected: fellow.connected,
        problem: cut(&fellow.problem, TEXT_MAX),
    });
    listed.collect()
}

fn gateway(gateway: cluster_embedded::GatewayReport) -> v1::GatewayUse {
    v1::GatewayUse {
        url: gateway.gateway,
        usable: gateway.usable,
        requests_under_way: gateway.requests as u64,
        blocks: gateway.blocks,
        bytes: gateway.bytes,
        failures: gateway.failures,
        last_failure: cut(&gateway.last_failure, TEXT_MAX),
    }
}

fn router(router: cluster_embedded::RouterReport) -> v1::RouterUse {
    v1::RouterUse {
        url: router.router,
        usable: router.usable,
        answers: router.answers,
        failures: router.failures,
        last_failure: cut(&router.last_failure, TEXT_MAX),
    }
}

fn texts(addresses: &[impl ToString]) -> Vec<String> {
    let shown = addresses.iter().take(LIST_MAX);
    shown.map(|address| cut(&address.to_string(), TEXT_MAX)).collect()
}

fn count<T>(list: &[T]) -> u64 {
    list.len() as u64
}

fn time(time: Timestamp) -> prost_types::Timestamp {
    (UNIX_EPOCH + Duration::from_millis(time.as_millis())).into()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use cluster_embedded::{Keypair, PeerId};

    use super::*;

    fn peer() -> PeerId {
        PeerId::from(Keypair::generate_ed25519().public())
    }

    fn info(peer: PeerId, rate: Option<f64>) -> PeerInfo {
        PeerInfo {
            peer,
            addresses: Vec::new(),
            agent: "x".repeat(1_000),
            bitswap: None,
            latency: None,
            rate,
            offences: 0,
        }
    }

    #[test]
    fn the_cluster_comes_first_and_then_the_fastest_and_no_more_than_a_hundred() {
        let mut fellows: Vec<_> = (0..2)
            .map(|_| FellowReport {
                peer: peer(),
                connected: true,
                problem: String::new(),
            })
            .collect();
        fellows.sort_unstable_by_key(|fellow| fellow.peer);
        let mut peers: Vec<_> = (0..200).map(|rate| info(peer(), Some(f64::from(rate)))).collect();
        peers.push(info(peer(), None));
        peers.push(info(fellows[1].peer, None));
        let swarm = SwarmReport {
            peers,
            ..SwarmReport::default()
        };
        let shown = network(swarm, &fellows, DhtMode::Auto);
        assert_eq!((shown.peers.len(), shown.peers_count), (LIST_MAX, 202));
        assert!(shown.peers[0].fellow && shown.peers[0].peer_id == fellows[1].peer.to_string());
        let rates: Vec<_> = shown.peers[1..].iter().map(|peer| peer.bytes_per_second).collect();
        assert!(rates.iter().rev().is_sorted() && rates[0] == Some(199.0), "{rates:?}");
        assert!(shown.peers.iter().all(|peer| peer.agent.len() == TEXT_MAX));
        assert_eq!(shown.dht, "client");
    }

    #[test]
    fn fellows_that_are_missing_are_seen_first() {
        let fellow = |connected| FellowReport {
            peer: peer(),
            connected,
            problem: String::new(),
        };
        let fellows: Vec<_> = (0..LIST_MAX).map(|_| fellow(true)).chain([fellow(false)]).collect();
        let listed = listed_fellows(fellows);
        assert_eq!(listed.len(), LIST_MAX);
        assert!(!listed[0].connected);
    }

    #[test]
    fn marks_are_shares_of_what_is_configured() {
        assert_eq!(mark(Some(1_000), 90), Some(900));
        assert_eq!(mark(Some(u64::MAX), 100), Some(u64::MAX));
        assert_eq!(mark(None, 90), None);
    }
}
