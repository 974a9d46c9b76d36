//! What a node can be asked that is no daemon behind a wire: things of which Pinfleet's driver needs none, and clients of Kubo
//! do.

use async_trait::async_trait;
use cluster_ipfs::{Error, Listed};
use node_core::Cid;

/// What has come in and gone out since the node started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that came in.
    pub bytes_in: u64,
    /// Bytes that went out.
    pub bytes_out: u64,
    /// Blocks that came in.
    pub blocks_in: u64,
    /// Bytes of them.
    pub block_bytes_in: u64,
}

/// A peer, connected or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub id: String,
    /// Where, as multiaddrs; without `/p2p/ID` at the end.
    pub addresses: Vec<String>,
    /// What it says it is.
    pub agent: String,
}

/// The node itself, looked at from inside its process.
#[async_trait]
pub trait Inside: Send + Sync {
    /// Blocks that it holds.
    async fn objects(&self) -> Result<u64, Error>;
    /// How long a block is that it holds; nothing is fetched.
    async fn size(&self, cid: &Cid) -> Result<Option<u64>, Error>;
    /// Its pins that are complete, in CID order: those among the next `limit` records behind `after`, and where to go on;
    /// none at the end.
    async fn pins(&self, after: Option<Cid>, limit: usize) -> Result<(Vec<(Cid, Listed)>, Option<Cid>), Error>;
    /// Collects garbage until there is none.
    async fn collect_garbage(&self) -> Result<(), Error>;
    /// What has come and gone.
    async fn traffic(&self) -> Result<Traffic, Error>;
    /// Who is connected.
    async fn peers(&self) -> Result<Vec<Peer>, Error>;
    /// Ends the connections with who bears this ID.
    async fn disconnect(&self, id: &str) -> Result<(), Error>;
    /// Looks for peers that have a block, at most so many.
    async fn providers(&self, cid: &Cid, limit: usize) -> Result<Vec<Peer>, Error>;
}
