//! How other peers are reached; the caller of this crate knows how.

use async_trait::async_trait;
use node_core::PeerId;
use tonic::transport::Channel;

/// What a connection is for. Each purpose has its own connection, so that a snapshot never holds up an append, and
/// neither holds up a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// Heartbeats, votes and what little else decides about leadership.
    Vote,
    /// Entries of the log.
    Append,
    /// Snapshots.
    Snapshot,
    /// Everything that is not Raft.
    Forward,
}

/// Why there is no channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{peer} can't be reached: {reason}")]
pub struct ConnectError {
    /// The peer that was meant.
    pub peer: PeerId,
    /// Why not.
    pub reason: String,
}

/// Gives out channels to other peers. It makes sure that the peer at the other end is the one that is meant.
#[async_trait]
pub trait ChannelProvider: Send + Sync + 'static {
    /// A channel to `peer`. Asked for before each request, so it is kept, and returned without waiting for a connection.
    async fn channel(&self, peer: &PeerId, addresses: &[String], purpose: Purpose) -> Result<Channel, ConnectError>;
}
