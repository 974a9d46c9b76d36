//! The protocols that the node speaks, beside Bitswap.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use libp2p::allow_block_list::{self, BlockedPeers};
use libp2p::autonat::v2 as autonat;
use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{StreamProtocol, connection_limits, dcutr, identify, kad, ping, relay};

use crate::bitswap::{self, Shared};
use crate::config::{DhtMode, SwarmConfig};
use crate::records::{RECORD_LIFE, Records};

/// The DHT of the public network.
const DHT: StreamProtocol = StreamProtocol::new("/ipfs/kad/1.0.0");

/// The DHT of a local network.
const LAN_DHT: StreamProtocol = StreamProtocol::new("/ipfs/lan/kad/1.0.0");

/// A query of the DHT ends after this; what it found by then is kept.
pub(super) const QUERY_TIME: Duration = Duration::from_secs(60);

/// The addresses of peers that identify keeps for dialling them again.
const KNOWN_PEERS_MAX: usize = 512;

#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
pub(super) struct Behaviour {
    // These two first: what they refuse costs nothing more.
    pub(super) limits: connection_limits::Behaviour,
    pub(super) shunned: allow_block_list::Behaviour<BlockedPeers>,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) kad: Toggle<kad::Behaviour<Records>>,
    pub(super) relay: relay::client::Behaviour,
    pub(super) dcutr: dcutr::Behaviour,
    pub(super) autonat_client: Toggle<autonat::client::Behaviour>,
    pub(super) autonat_server: autonat::server::Behaviour,
    pub(super) bitswap: bitswap::Behaviour,
}

/// The name of the DHT's protocol.
pub(super) fn dht_protocol(lan: bool) -> StreamProtocol {
    if lan { LAN_DHT } else { DHT }
}

impl Behaviour {
    pub(super) fn new(
        config: &SwarmConfig,
        key: &Keypair,
        relay: relay::client::Behaviour,
        shared: Arc<Shared>,
    ) -> Self {
        let local = key.public().to_peer_id();
        let connections = &config.connections;
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_established(Some(connections.established))
            .with_max_established_incoming(Some(connections.incoming))
            .with_max_established_per_peer(Some(connections.per_peer))
            .with_max_pending_incoming(Some(connections.pending_incoming))
            .with_max_pending_outgoing(Some(connections.pending_outgoing));
        let about = identify::Config::new("ipfs/0.1.0".into(), key.public())
            .with_agent_version(config.agent.clone())
            .with_push_listen_addr_updates(true)
            .with_cache_size(KNOWN_PEERS_MAX);
        // In a local network every address may be the one that counts, and nobody outside could test any.
        let autonat_client = (!config.lan).then(autonat::client::Behaviour::default);
        Self {
            limits: connection_limits::Behaviour::new(limits),
            shunned: allow_block_list::Behaviour::default(),
            identify: identify::Behaviour::new(about),
            ping: ping::Behaviour::default(),
            kad: kad(config, local).into(),
            relay,
            dcutr: dcutr::Behaviour::new(local),
            autonat_client: autonat_client.into(),
            autonat_server: autonat::server::Behaviour::default(),
            bitswap: bitswap::Behaviour::new(shared),
        }
    }
}

fn kad(config: &SwarmConfig, local: libp2p::PeerId) -> Option<kad::Behaviour<Records>> {
    let mode = match (config.dht, config.lan) {
        (DhtMode::Off, _) => return None,
        (DhtMode::Client, _) => Some(kad::Mode::Client),
        (DhtMode::Server, _) | (DhtMode::Auto, true) => Some(kad::Mode::Server),
        (DhtMode::Auto, false) => None,
    };
    let mut options = kad::Config::new(dht_protocol(config.lan));
    options
        .set_query_timeout(QUERY_TIME)
        // Ten at a time, as Kubo asks: a third of the peers in a public table do not answer, and each costs a timeout.
        .set_parallelism(NonZeroUsize::new(10).unwrap_or(NonZeroUsize::MIN))
        // Announcing is the caller's business, and what others announce they repeat themselves.
        .set_provider_publication_interval(None)
        .set_publication_interval(None)
        .set_replication_interval(None)
        .set_provider_record_ttl(Some(RECORD_LIFE));
    let mut kad = kad::Behaviour::with_config(local, Records::new(local), options);
    kad.set_mode(mode);
    Some(kad)
}
