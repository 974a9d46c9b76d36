//! How the node stands in the network.

use std::net::SocketAddr;
use std::time::Duration;

use cluster_bitswap::{ClientConfig, ServerConfig};
use multiaddr::Multiaddr;

use crate::error::StartError;

/// How the node stands in the network.
#[derive(Debug, Clone)]
pub struct SwarmConfig {
    /// Where it listens: `/ip4/…/tcp/PORT`, `/ip4/…/udp/PORT/quic-v1`, the same with `ip6`. Port 0 takes a free one.
    /// Empty = it only dials.
    pub listen: Vec<Multiaddr>,
    /// Addresses at which it is reachable although it does not listen there itself, for example behind a forwarded port.
    pub announce: Vec<Multiaddr>,
    /// Peers by which it finds into the DHT, each with `/p2p/PEER_ID`. They are dialled again as long as the routing table
    /// is empty. Empty = none.
    pub bootstrap: Vec<Multiaddr>,
    /// Its part in the DHT.
    pub dht: DhtMode,
    /// Speaks the DHT of the local network (`/ipfs/lan/kad/1.0.0`) instead of the public one, and takes private addresses
    /// into it. For clusters that have no internet, and for tests.
    pub lan: bool,
    /// Relays to be reachable by, each with `/p2p/PEER_ID`. Empty = when it is not reachable otherwise, relays are chosen
    /// among the connected peers, at most two.
    pub relays: Vec<Multiaddr>,
    /// Makes it part of a private network: it talks only to peers with the same key, and only over TCP.
    pub swarm_key: Option<SwarmKey>,
    /// How names in addresses are resolved.
    pub dns: Dns,
    /// How many connections it has.
    pub connections: ConnectionLimits,
    /// How long a peer is shunned that misbehaved badly.
    pub shun: Duration,
    /// Its agent version, as it tells other peers.
    pub agent: String,
    /// The side of Bitswap that fetches.
    pub client: ClientConfig,
    /// The side of Bitswap that serves; `bytes_per_second` is the limit for all peers together.
    pub server: ServerConfig,
}

impl Default for SwarmConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            announce: Vec::new(),
            bootstrap: Vec::new(),
            dht: DhtMode::Auto,
            lan: false,
            relays: Vec::new(),
            swarm_key: None,
            dns: Dns::System,
            connections: ConnectionLimits::default(),
            shun: Duration::from_secs(3600),
            agent: concat!("pinfleet/", env!("CARGO_PKG_VERSION")).to_owned(),
            client: ClientConfig::default(),
            server: ServerConfig::default(),
        }
    }
}

/// The part of a node in the DHT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DhtMode {
    /// None: nothing is looked up and nothing announced.
    Off,
    /// It asks and announces, and answers nobody.
    Client,
    /// It also answers, and keeps records for others. For nodes that can be reached.
    Server,
    /// A server as soon as an address is confirmed to be reachable from outside, a client until then. In LAN mode a
    /// server at once, because nobody there could confirm it.
    #[default]
    Auto,
}

/// How names in addresses (`/dns`, `/dns4`, `/dns6`, `/dnsaddr`) are resolved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Dns {
    /// Not at all: addresses with names can't be dialled.
    Off,
    /// By the resolvers of the system.
    #[default]
    System,
    /// By these, over UDP and TCP.
    Servers(Vec<SocketAddr>),
}

/// How many connections there are. What is beyond is refused before anything is spent on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections in all. The bound of most memory: each has a window for what it receives and streams.
    pub established: u32,
    /// Of those, the ones that others opened, so that there is always room for own dials.
    pub incoming: u32,
    /// Connections with one peer. More than one come about when both sides dial at once, or by a relay.
    pub per_peer: u32,
    /// Incoming ones that are in their handshake.
    pub pending_incoming: u32,
    /// Outgoing ones that are being dialled.
    pub pending_outgoing: u32,
    /// Peers above which the ones that were of no use for longest are let go. At most `established`.
    pub high_water: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            established: 512,
            incoming: 384,
            per_peer: 4,
            pending_incoming: 64,
            pending_outgoing: 64,
            high_water: 256,
        }
    }
}

/// The key of a private network: 32 bytes that all its peers share.
#[derive(Clone, PartialEq, Eq)]
pub struct SwarmKey(pub(crate) [u8; 32]);

impl SwarmKey {
    /// A key of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads Kubo's `swarm.key`: the lines `/key/swarm/psk/1.0.0/`, `/base16/`, and 64 hexadecimal digits.
    ///
    /// # Errors
    /// When it is anything else. The error does not show the key.
    pub fn parse(text: &str) -> Result<Self, StartError> {
        let bad = |reason: &str| StartError::SwarmKey(reason.to_owned());
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        if lines.next() != Some("/key/swarm/psk/1.0.0/") {
            return Err(bad("the first line is not /key/swarm/psk/1.0.0/"));
        }
        if lines.next() != Some("/base16/") {
            return Err(bad("the second line is not /base16/"));
        }
        let digits = lines.next().unwrap_or_default();
        if lines.next().is_some() {
            return Err(bad("there are more than three lines"));
        }
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(bad("the third line is not 64 hexadecimal digits"));
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16)
                .map_err(|_| bad("the third line is not 64 hexadecimal digits"))?;
        }
        Ok(Self(bytes))
    }
}

impl std::fmt::Debug for SwarmKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SwarmKey(..)")
    }
}
