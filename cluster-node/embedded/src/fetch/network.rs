//! The sources of blocks outside of this node, and what came from them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster_swarm::{Candidate, DhtMode, Multiaddr, PeerId, Swarm};
use multiaddr::Protocol;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::{EmbeddedConfig, FetchConfig};
use crate::http::{GatewayConfig, Gateways, Routers};

/// All sources, shared by everything that fetches.
pub(crate) struct Network {
    pub(crate) swarm: Swarm,
    pub(crate) routers: Routers,
    pub(crate) gateways: Gateways,
    pub(crate) gateway_config: GatewayConfig,
    pub(crate) config: FetchConfig,
    /// Whether the DHT can be asked.
    pub(crate) dht: bool,
    /// The other embedded nodes of the cluster: the first to be asked.
    pub(crate) fellows: Mutex<Vec<Candidate>>,
    /// Where the cluster was told that content comes from.
    pub(crate) origins: Mutex<Origins>,
    pub(crate) counters: Counters,
}

/// Origins kept in mind: as many as a fetch may dial.
const ORIGINS_MAX: usize = 64;

/// How long: the fetch that they were named for begins right after.
const ORIGINS_FOR: Duration = Duration::from_secs(600);

/// Peers that were connected to because they have some content: candidates of what is fetched next.
#[derive(Debug, Default)]
pub(crate) struct Origins(VecDeque<(Instant, Candidate)>);

impl Origins {
    pub(crate) fn add(&mut self, now: Instant, candidate: Candidate) {
        self.0.retain(|(_, known)| known.peer != candidate.peer);
        if self.0.len() == ORIGINS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, candidate));
    }

    pub(crate) fn recent(&mut self, now: Instant) -> Vec<Candidate> {
        self.0.retain(|(at, _)| now.duration_since(*at) < ORIGINS_FOR);
        self.0.iter().map(|(_, candidate)| candidate.clone()).collect()
    }
}

/// What came from where, since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    peer_blocks: AtomicU64,
    peer_bytes: AtomicU64,
    gateway_blocks: AtomicU64,
    gateway_bytes: AtomicU64,
    searches: AtomicU64,
}

/// What came from where, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Blocks from peers.
    pub peer_blocks: u64,
    /// Their bytes.
    pub peer_bytes: u64,
    /// Blocks from gateways.
    pub gateway_blocks: u64,
    /// Their bytes.
    pub gateway_bytes: u64,
    /// Searches for providers.
    pub searches: u64,
}

impl Counters {
    pub(crate) fn add_from_peer(&self, bytes: usize) {
        self.peer_blocks.fetch_add(1, Ordering::Relaxed);
        self.peer_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_from_gateway(&self, bytes: usize) {
        self.gateway_blocks.fetch_add(1, Ordering::Relaxed);
        self.gateway_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn searched(&self) {
        self.searches.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Fetched {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Fetched {
            peer_blocks: of(&self.peer_blocks),
            peer_bytes: of(&self.peer_bytes),
            gateway_blocks: of(&self.gateway_blocks),
            gateway_bytes: of(&self.gateway_bytes),
            searches: of(&self.searches),
        }
    }
}

impl Network {
    pub(crate) fn new(config: &EmbeddedConfig, swarm: Swarm, routers: Routers, gateways: Gateways) -> Self {
        Self {
            swarm,
            routers,
            gateways,
            gateway_config: config.gateways.clone(),
            config: config.fetch,
            dht: config.swarm.dht != DhtMode::Off,
            fellows: Mutex::default(),
            origins: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Whether there is anybody to ask who has something.
    pub(crate) fn can_search(&self) -> bool {
        self.dht || !self.routers.is_empty()
    }
}

/// The peer at the end of an address, and the address as a candidate: without an address in front of it, it is one that
/// the DHT has to find.
pub(crate) fn candidate(address: &Multiaddr) -> Option<Candidate> {
    let peer = peer_of(address)?;
    let bare = address.iter().count() == 1;
    Some(Candidate {
        peer,
        addresses: if bare { Vec::new() } else { vec![address.clone()] },
    })
}

fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last()? {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_is_named_by_the_end_of_its_address() {
        let peer = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
        let of = |text: String| candidate(&text.parse().expect("address"));
        let with = of(format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}")).expect("named");
        assert_eq!((with.peer.to_string().as_str(), with.addresses.len()), (peer, 1));
        let bare = of(format!("/p2p/{peer}")).expect("named");
        assert_eq!((bare.peer.to_string().as_str(), bare.addresses.len()), (peer, 0));
        assert_eq!(of("/ip4/192.0.2.1/tcp/1".into()), None);
        // A relay is not the one that is meant.
        let other = libp2p_identity::Keypair::generate_ed25519().public().to_peer_id();
        let relayed = of(format!("/ip4/192.0.2.1/tcp/1/p2p/{other}/p2p-circuit/p2p/{peer}")).expect("named");
        assert_eq!(relayed.peer.to_string(), peer);
    }

    #[test]
    fn origins_are_bounded_and_forgotten() {
        let mut origins = Origins::default();
        let now = Instant::now();
        let one = || Candidate {
            peer: libp2p_identity::Keypair::generate_ed25519().public().to_peer_id(),
            addresses: Vec::new(),
        };
        let first = one();
        origins.add(now, first.clone());
        origins.add(now, first.clone());
        assert_eq!(origins.recent(now), std::slice::from_ref(&first));
        for _ in 0..ORIGINS_MAX {
            origins.add(now + Duration::from_secs(1), one());
        }
        let recent = origins.recent(now + ORIGINS_FOR);
        assert_eq!(recent.len(), ORIGINS_MAX);
        assert!(!recent.contains(&first), "the oldest went");
        assert_eq!(origins.recent(now + ORIGINS_FOR + Duration::from_secs(1)), []);
    }
}
