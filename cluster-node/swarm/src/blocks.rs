//! The store of blocks, as the network sees it.

use bytes::Bytes;
use cid::Cid;

use crate::error::StoreError;

/// The blocks that the node has. Called on blocking threads, at most [`crate::STORE_CALLS_MAX`] at a time.
pub trait Blocks: Send + Sync + 'static {
    /// The size of each of these blocks in bytes, in the same order; none for those that are not in the store.
    ///
    /// # Errors
    /// When the store can't say. Then it is taken to have none of them, and the error is logged.
    fn sizes(&self, cids: &[Cid]) -> Result<Vec<Option<usize>>, StoreError>;

    /// These blocks, in the same order; none for those that are not in the store.
    ///
    /// # Errors
    /// When the store can't say; as with [`Self::sizes`].
    fn read(&self, cids: &[Cid]) -> Result<Vec<Option<Bytes>>, StoreError>;

    /// Whether the operator denies this block to everybody. Asked often and on the task that decides what is sent, so it
    /// must not block: a look into a set in memory.
    fn is_denied(&self, _cid: &Cid) -> bool {
        false
    }
}

/// A CID as Bitswap knows it. None for digests of more than 64 bytes, which only identity CIDs have; such a CID holds its
/// block itself, and there is nothing to fetch.
pub fn to_wire(cid: &node_core::Cid) -> Option<Cid> {
    Cid::try_from(&cid.to_bytes()[..]).ok()
}

/// A CID of Bitswap as the rest of Pinfleet knows it. None for what [`node_core::Cid`] does not take.
pub fn from_wire(cid: &Cid) -> Option<node_core::Cid> {
    node_core::Cid::from_bytes(&cid.to_bytes()).ok()
}
