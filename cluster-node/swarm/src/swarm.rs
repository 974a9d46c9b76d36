//! The handle of a running node.

use std::sync::Arc;

use cid::Cid;
use libp2p::PeerId;
use libp2p::identity::Keypair;
use multiaddr::Multiaddr;
use tokio::sync::{mpsc, oneshot};

use crate::blocks::Blocks;
use crate::config::SwarmConfig;
use crate::error::{Closed, ConnectError, DhtError, StartError};
use crate::fetch::{Candidate, Fetch};
use crate::report::Report;

/// A running node of the IPFS network. Clones are handles of the same one. It runs until [`Swarm::shutdown`], or until the
/// last handle and the last [`Fetch`] are dropped.
#[derive(Debug, Clone)]
pub struct Swarm {
    // The insides follow.
    peer_id: PeerId,
}

impl Swarm {
    /// Starts a node on the tokio runtime that this is called on. It listens when this returns, and dials its bootstrap
    /// peers from then on.
    ///
    /// # Errors
    /// When the configuration is not usable, or an address is taken.
    pub async fn start(config: SwarmConfig, key: Keypair, blocks: Arc<dyn Blocks>) -> Result<Self, StartError>;

    /// Its ID: the multihash of its public key.
    pub fn peer_id(&self) -> PeerId;

    /// Where it listens now, without `/p2p`. Ports are those that were taken, never 0.
    pub fn listeners(&self) -> Vec<Multiaddr>;

    /// Where others may reach it, each with `/p2p/PEER_ID`: its listeners, its confirmed and configured external
    /// addresses, and its relays.
    pub fn addresses(&self) -> Vec<Multiaddr>;

    /// Connects to the peer at this address, which must end in `/p2p/PEER_ID`. Returns at once when it is connected.
    ///
    /// # Errors
    /// When nobody answers there, or somebody else.
    pub async fn connect(&self, address: Multiaddr) -> Result<PeerId, ConnectError>;

    /// Connects to a peer at any of these addresses, or, without any, at those that the DHT knows.
    ///
    /// # Errors
    /// When it can't be reached.
    pub async fn connect_to(&self, candidate: Candidate) -> Result<(), ConnectError>;

    /// Ends all connections with a peer. It may come back.
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn disconnect(&self, peer: PeerId) -> Result<(), Closed>;

    /// Begins a fetch. The candidates are connected to in the background, as far as they are not.
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn fetch(&self, candidates: Vec<Candidate>) -> Result<Fetch, Closed>;

    /// Tells that blocks are in the store now, with their sizes in bytes, wherever they came from: peers that wait for them
    /// are served, and fetches that want them are told ([`crate::FetchEvent::Held`]).
    ///
    /// To be called for fetched blocks too, after they were stored. Best in batches.
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn stored(&self, blocks: Vec<(Cid, usize)>) -> Result<(), Closed>;

    /// Looks for peers in the DHT that say they have a block. They come as they are found, each once, without this node
    /// itself; dropping the receiver ends the query. The channel ends when the query does.
    ///
    /// # Errors
    /// When nobody can be asked.
    pub async fn find_providers(&self, cid: Cid) -> Result<mpsc::Receiver<Candidate>, DhtError>;

    /// Tells the DHT once that this node has a block: the (up to 20) peers closest to it are found and told. They forget
    /// it after 48 hours; tell them again in time (Kubo does after 22). Gives the number of peers that were told.
    ///
    /// # Errors
    /// When nobody can be told.
    pub async fn provide(&self, cid: Cid) -> Result<usize, DhtError>;

    /// How the node stands in the network.
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn report(&self) -> Result<Report, Closed>;

    /// Ends all fetches and connections, and returns when that is done. Further calls of any handle fail.
    pub async fn shutdown(&self);
}
