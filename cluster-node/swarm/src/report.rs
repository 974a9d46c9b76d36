//! What the node says about itself.

use std::time::Duration;

use libp2p::PeerId;
use multiaddr::Multiaddr;

/// How the node stands in the network now.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Connected peers.
    pub peers: Vec<PeerInfo>,
    /// Where it listens.
    pub listeners: Vec<Multiaddr>,
    /// Where it is reachable from outside, as far as that is confirmed or configured.
    pub external: Vec<Multiaddr>,
    /// Whether it is reachable from outside.
    pub nat: NatStatus,
    /// Whether it answers in the DHT now.
    pub dht_server: bool,
    /// Peers in the routing table of the DHT.
    pub dht_peers: usize,
    /// Bytes of Bitswap messages that came, since the start.
    pub bytes_in: u64,
    /// Bytes of Bitswap messages that went out, since the start.
    pub bytes_out: u64,
    /// Peers that are shunned, and for how much longer.
    pub shunned: Vec<(PeerId, Duration)>,
    /// Offences since the start, of all peers.
    pub offences: u64,
    /// Fetches that are open.
    pub fetches: usize,
    /// Blocks that they want.
    pub wanted: usize,
    /// Wants of other peers that are kept.
    pub wants_of_others: usize,
}

/// A connected peer.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Who it is.
    pub peer: PeerId,
    /// Where it is connected.
    pub addresses: Vec<Multiaddr>,
    /// What it says it is; empty until it has said so.
    pub agent: String,
    /// The Bitswap protocol that it speaks, for example `/ipfs/bitswap/1.2.0`; none if it speaks none.
    pub bitswap: Option<&'static str>,
    /// Time from a question to its answer.
    pub latency: Option<Duration>,
    /// Bytes of blocks per second while it was asked for any.
    pub rate: Option<f64>,
    /// Offences while it is connected.
    pub offences: u64,
}

/// Whether the node is reachable from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NatStatus {
    /// Nobody has tried yet.
    #[default]
    Unknown,
    /// Another peer reached it.
    Public,
    /// Other peers tried and did not reach it.
    Private,
}
