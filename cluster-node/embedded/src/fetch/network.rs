//! The sources of blocks outside of this node, and what came from them.

use std::sync::atomic::{AtomicU64, Ordering};

use cluster_swarm::{Candidate, DhtMode, Multiaddr, PeerId, Swarm};
use multiaddr::Protocol;
use parking_lot::Mutex;

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
    pub(crate) counters: Counters,
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
}
