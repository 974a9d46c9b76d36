//! Rows of the to-do: what this peer's worker has yet to look at.
//!
//! Key: log index and a counter within the entry, big-endian, so no key comes twice and new rows come last. Value: the
//! storage node and, unless it means the node as a whole, the CID.

use node_core::pinset::KvError;
use node_core::{Cid, NodeId};

/// Stands for all storage nodes of this peer.
pub const ALL_NODES: NodeId = NodeId(0);

/// A row of the to-do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TodoRow {
    /// What to delete when it is done.
    pub key: Vec<u8>,
    /// Which storage node; [`ALL_NODES`] for all of this peer.
    pub node: NodeId,
    /// Which CID; `None` = wanted and seen of the whole node must be compared.
    pub cid: Option<Cid>,
}

/// Key of the `number`th row that the entry at `log_index` leaves.
pub fn todo_key(log_index: u64, number: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(12);
    key.extend_from_slice(&log_index.to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// Value of a row.
pub fn todo_value(node: NodeId, cid: Option<&Cid>) -> Vec<u8> {
    let mut value = node.0.to_be_bytes().to_vec();
    if let Some(cid) = cid {
        value.extend_from_slice(&cid.to_bytes());
    }
    value
}

/// Reads a row back.
pub fn read_todo(key: &[u8], value: &[u8]) -> Result<TodoRow, KvError> {
    let damaged = || {
        KvError(format!(
            "a to-do row of {} and {} bytes is damaged",
            key.len(),
            value.len()
        ))
    };
    let (node, cid) = value.split_first_chunk::<4>().ok_or_else(damaged)?;
    let cid = match cid {
        [] => None,
        bytes => Some(Cid::from_bytes(bytes).map_err(|_| damaged())?),
    };
    Ok(TodoRow {
        key: key.to_vec(),
        node: NodeId(u32::from_be_bytes(*node)),
        cid,
    })
}
