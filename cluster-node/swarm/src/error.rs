//! What can go wrong.

use libp2p::PeerId;
use multiaddr::Multiaddr;

/// Why a node can't be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The swarm key is none.
    #[error(
        "the swarm key is not usable: {0}; take the file swarm.key that the other peers of the private network use"
    )]
    SwarmKey(String),
    /// An address in the configuration is of no use.
    #[error("{field} has the address {address}, which {reason}")]
    Address {
        /// Where it stands: `listen`, `bootstrap` or `relays`.
        field: &'static str,
        /// The address.
        address: Multiaddr,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The node can't listen at an address.
    #[error("cannot listen at {address}: {reason}; take another address, or end the program that has this one")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the system said.
        reason: String,
    },
    /// There is no resolver for names.
    #[error("names can't be resolved: {0}; name resolvers in the configuration, or switch DNS off")]
    Dns(String),
    /// A transport can't be set up.
    #[error("the {transport} transport can't be set up: {reason}")]
    Transport {
        /// Which one.
        transport: &'static str,
        /// What it said.
        reason: String,
    },
}

/// The node has been shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node's swarm has been shut down")]
pub struct Closed;

/// Why there is no connection with a peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The node has been shut down.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The address does not say whose it is.
    #[error("the address {0} has no /p2p/PEER_ID at its end, so whoever answers there could not be told from another")]
    NoPeerId(Multiaddr),
    /// The peer misbehaved and is shunned for a while.
    #[error("peer {0} is shunned because it misbehaved; the log says how")]
    Shunned(PeerId),
    /// Nobody answered, or somebody else.
    #[error("cannot connect to peer {peer}: {reason}")]
    Failed {
        /// The peer.
        peer: PeerId,
        /// What happened at each of its addresses.
        reason: String,
    },
}

/// Why the DHT gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DhtError {
    /// The node has been shut down.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The node takes no part in the DHT.
    #[error("the DHT is switched off")]
    Off,
    /// No peer of the DHT is known, so nobody can be asked.
    #[error("no peer of the DHT is known; connect to one, or name bootstrap peers")]
    NoPeers,
    /// There are too many queries at a time; try again later.
    #[error("{0} queries to the DHT are running, no more are taken")]
    Busy(usize),
    /// Nobody answered.
    #[error("nobody of the DHT answered within the time of a query")]
    Timeout,
}

/// What the store of blocks said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the block store failed: {0}")]
pub struct StoreError(pub String);
