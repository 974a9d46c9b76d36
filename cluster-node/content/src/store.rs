//! Where blocks come from and where they go.

use async_trait::async_trait;
use cluster_dag::Block;
use node_core::Cid;

use crate::StoreError;

/// Gives blocks: a local store, the network, a CAR file, a test.
///
/// Readers call it for many blocks at once. Dropping the future means that the block is not needed any more.
#[async_trait]
pub trait Source: Send + Sync {
    /// The block of this CID. It must be what the CID names: it is not hashed again by who asks.
    ///
    /// That nobody has it is an error of the class `NotFound`. Identity CIDs are never asked for.
    async fn get(&self, cid: &Cid) -> Result<Block, StoreError>;
}

/// Takes blocks: a local store, nodes over the network, a test.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Keeps these blocks; done when they are safe, in whatever sense the sink has.
    ///
    /// A batch is never empty and holds no block of an identity CID. Batches are begun in the order in which blocks were
    /// made, leaves before what links to them, and up to [`crate::BATCHES_MAX`] are under way at once. Repeated content comes
    /// as often as it occurs. After the first error no more are begun.
    async fn put(&self, blocks: Vec<Block>) -> Result<(), StoreError>;
}

/// Keeps nothing: to learn a CID without storing anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullSink;

#[async_trait]
impl Sink for NullSink {
    async fn put(&self, _: Vec<Block>) -> Result<(), StoreError> {
        Ok(())
    }
}
