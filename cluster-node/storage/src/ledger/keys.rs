//! Keys of the ledger's tables: big-endian numbers and then the binary CID, so that the order of keys is the order of
//! their parts.

use node_core::{Cid, NodeId, Status, Timestamp};

use super::{Error, Lane, Note};

/// Bytes of a node in front of every key.
const NODE: usize = 4;
/// Bytes in front of the CID in the due index: node, lane, time.
const DUE_HEAD: usize = NODE + 1 + 8;

pub(super) fn node(node: NodeId) -> [u8; NODE] {
    node.0.to_be_bytes()
}

/// Behind all keys of a node. None for the highest number, whose keys end the table.
pub(super) fn node_end(node: NodeId) -> Option<[u8; NODE]> {
    node.0.checked_add(1).map(u32::to_be_bytes)
}

pub(super) fn entry(of: NodeId, cid: &Cid) -> Vec<u8> {
    let cid = cid.to_bytes();
    let mut out = Vec::with_capacity(NODE + cid.len());
    out.extend_from_slice(&node(of));
    out.extend_from_slice(&cid);
    out
}

pub(super) fn read_entry(key: &[u8]) -> Result<(NodeId, Cid), Error> {
    let (head, cid) = key.split_first_chunk::<NODE>().ok_or_else(damaged)?;
    Ok((NodeId(u32::from_be_bytes(*head)), read_cid(cid)?))
}

pub(super) fn due_lane(of: NodeId, lane: Lane) -> [u8; NODE + 1] {
    let mut out = [0; NODE + 1];
    out[..NODE].copy_from_slice(&node(of));
    out[NODE] = lane as u8;
    out
}

/// Behind all keys of a lane: lane codes are far below the highest byte.
pub(super) fn due_lane_end(of: NodeId, lane: Lane) -> [u8; NODE + 1] {
    let mut out = due_lane(of, lane);
    out[NODE] += 1;
    out
}

/// `entry_key` is the key of the entry in the main table.
pub(super) fn due(entry_key: &[u8], lane: Lane, at: Timestamp) -> Vec<u8> {
    let (node, cid) = entry_key.split_at(NODE);
    let mut out = Vec::with_capacity(DUE_HEAD + cid.len());
    out.extend_from_slice(node);
    out.push(lane as u8);
    out.extend_from_slice(&at.as_millis().to_be_bytes());
    out.extend_from_slice(cid);
    out
}

pub(super) fn read_due(key: &[u8]) -> Result<(Timestamp, Cid), Error> {
    let (time, cid) = key
        .get(NODE + 1..)
        .and_then(|rest| rest.split_first_chunk::<8>())
        .ok_or_else(damaged)?;
    Ok((Timestamp::from_millis(u64::from_be_bytes(*time)), read_cid(cid)?))
}

pub(super) fn status_prefix(of: NodeId, status: Status) -> [u8; NODE + 1] {
    let mut out = [0; NODE + 1];
    out[..NODE].copy_from_slice(&node(of));
    out[NODE] = status as u8;
    out
}

pub(super) fn status_end(of: NodeId, status: Status) -> [u8; NODE + 1] {
    let mut out = status_prefix(of, status);
    out[NODE] += 1;
    out
}

/// `entry_key` is the key of the entry in the main table.
pub(super) fn status(entry_key: &[u8], status: Status) -> Vec<u8> {
    let (node, cid) = entry_key.split_at(NODE);
    let mut out = Vec::with_capacity(entry_key.len() + 1);
    out.extend_from_slice(node);
    out.push(status as u8);
    out.extend_from_slice(cid);
    out
}

/// From a key of the status index to the key of its entry.
pub(super) fn status_to_entry(key: &[u8]) -> Result<Vec<u8>, Error> {
    if key.len() <= NODE + 1 {
        return Err(damaged());
    }
    let mut out = Vec::with_capacity(key.len() - 1);
    out.extend_from_slice(&key[..NODE]);
    out.extend_from_slice(&key[NODE + 1..]);
    Ok(out)
}

const COUNT: u8 = b'c';
const NOTE: u8 = b'n';

pub(super) fn count(of: NodeId, status: Status) -> [u8; NODE + 2] {
    let mut out = [0; NODE + 2];
    out[0] = COUNT;
    out[1..=NODE].copy_from_slice(&node(of));
    out[NODE + 1] = status as u8;
    out
}

/// None when the key is not that of a count.
pub(super) fn read_count(key: &[u8]) -> Result<Option<(NodeId, Status)>, Error> {
    let Some((&COUNT, rest)) = key.split_first() else {
        return Ok(None);
    };
    let (node, status) = rest.split_first_chunk::<NODE>().ok_or_else(damaged)?;
    let [code] = status else { return Err(damaged()) };
    let status = Status::ALL.get(usize::from(*code)).copied().ok_or_else(damaged)?;
    Ok(Some((NodeId(u32::from_be_bytes(*node)), status)))
}

pub(super) fn note(of: NodeId, note: Note) -> [u8; NODE + 2] {
    let mut out = [0; NODE + 2];
    out[0] = NOTE;
    out[1..=NODE].copy_from_slice(&node(of));
    out[NODE + 1] = note as u8;
    out
}

fn read_cid(bytes: &[u8]) -> Result<Cid, Error> {
    Cid::from_bytes(bytes).map_err(|error| Error::Damaged(error.to_string()))
}

fn damaged() -> Error {
    Error::Damaged("a key ends too early".into())
}
