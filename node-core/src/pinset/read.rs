//! Lookups in the state.

use std::collections::BTreeSet;

use super::codec;
use super::keys;
use super::records::{Change, Header};
use super::view::{KvError, KvRead, Table};
use crate::{Cid, Namespace, NodeId, NodeState, Peer, PeerId, Pin, PinKey, Placement, StorageNode, Timestamp};

/// The counters and settings; the defaults when nothing was applied yet.
pub fn header(kv: &dyn KvRead) -> Result<Header, KvError> {
    let row = kv.get(Table::Meta, keys::HEADER)?;
    row.map_or_else(|| Ok(Header::default()), |bytes| codec::decode_header(&bytes))
}

/// One pin.
pub fn pin(kv: &dyn KvRead, key: &PinKey) -> Result<Option<Pin>, KvError> {
    let row = kv.get(Table::Pins, &keys::pin(key))?;
    row.map(|bytes| codec::decode_pin(key.clone(), &bytes)).transpose()
}

/// The pin of a namespace that was recorded under a request ID of the Pinning Services API ([`crate::is_request_slot`]). Clients
/// that choose their slots themselves may use one twice; then the one with the smallest CID.
pub fn pin_under(kv: &dyn KvRead, of: &Namespace, slot: &str) -> Result<Option<Pin>, KvError> {
    let prefix = keys::slot_of(of, slot);
    let mut found = None;
    kv.scan(
        Table::Slots,
        &prefix,
        keys::after_prefix(&prefix).as_deref(),
        &mut |key, _| {
            found = Some(keys::read_slot(key));
            false
        },
    )?;
    let Some(cid) = found.transpose()? else {
        return Ok(None);
    };
    let key = PinKey {
        namespace: of.clone(),
        cid,
        slot: slot.to_owned(),
    };
    pin(kv, &key)
}

/// Up to `limit` CIDs that are kept, each with the one for whose sake, behind one of them.
pub fn kept(kv: &dyn KvRead, after: Option<&(Cid, Cid)>, limit: usize) -> Result<Vec<(Cid, Cid)>, KvError> {
    let start = after.map_or_else(Vec::new, |(cid, by)| [keys::kept(cid, by).as_slice(), &[0]].concat());
    let (mut found, mut failed) = (Vec::new(), None);
    kv.scan(Table::Kept, &start, None, &mut |key, _| {
        match keys::read_kept(key) {
            Ok(pair) => found.push(pair),
            Err(error) => failed = Some(error),
        }
        failed.is_none() && found.len() < limit
    })?;
    failed.map_or(Ok(found), Err)
}

/// Most CIDs that [`is_wanted`] looks at. Longer chains of replacements are taken to be wanted, until their ends go.
const WANTED_LOOKS: usize = 1_000;

/// Whether somebody wants a CID, or what has replaced it since: it has a pin, or from it, along what was replaced by what, one
/// that has a pin is reached. Two that have replaced each other keep each other, and are wanted no more once both have no pin.
pub fn is_wanted(kv: &dyn KvRead, cid: &Cid) -> Result<bool, KvError> {
    let (mut seen, mut open) = (BTreeSet::from([*cid]), vec![*cid]);
    while let Some(cid) = open.pop() {
        let prefix = keys::cid(&cid);
        let mut has_pin = false;
        kv.scan(
            Table::CidPins,
            &prefix,
            keys::after_prefix(&prefix).as_deref(),
            &mut |_, _| {
                has_pin = true;
                false
            },
        )?;
        if has_pin || seen.len() > WANTED_LOOKS {
            return Ok(true);
        }
        let by = collect(kv, Table::Kept, &prefix, |key, _| Ok(keys::read_kept(key)?.1))?;
        open.extend(by.into_iter().filter(|by| seen.insert(*by)));
    }
    Ok(false)
}

/// Where a CID is held.
pub fn placement(kv: &dyn KvRead, cid: &Cid) -> Result<Option<Placement>, KvError> {
    let row = kv.get(Table::Placements, &keys::cid(cid))?;
    row.map(|bytes| codec::decode_placement(*cid, &bytes)).transpose()
}

/// The names of all pins of a CID. Grows with the namespaces and slots that want it.
pub fn pins_of(kv: &dyn KvRead, cid: &Cid) -> Result<Vec<PinKey>, KvError> {
    collect(kv, Table::CidPins, &keys::cid(cid), |key, _| keys::read_cid_pin(key))
}

/// One storage node.
pub fn node(kv: &dyn KvRead, id: NodeId) -> Result<Option<StorageNode>, KvError> {
    let row = kv.get(Table::Nodes, &keys::node(id))?;
    row.map(|bytes| codec::decode_node(&bytes)).transpose()
}

/// All storage nodes in order of ID, those that are gone included.
pub fn nodes(kv: &dyn KvRead) -> Result<Vec<StorageNode>, KvError> {
    collect(kv, Table::Nodes, &[], |_, value| codec::decode_node(value))
}

/// The storage node with this name or ID that is not gone.
pub fn find_node(kv: &dyn KvRead, name_or_id: &str) -> Result<Option<StorageNode>, KvError> {
    let present = |node: &StorageNode| node.state != NodeState::Gone;
    if let Ok(id) = name_or_id.parse() {
        return Ok(node(kv, id)?.filter(present));
    }
    Ok(nodes(kv)?
        .into_iter()
        .filter(present)
        .find(|node| node.name == name_or_id))
}

/// The storage nodes that a peer drives and that are not gone.
pub fn nodes_of_peer(kv: &dyn KvRead, peer: PeerId) -> Result<Vec<StorageNode>, KvError> {
    let mut nodes = nodes(kv)?;
    nodes.retain(|node| node.peer == peer && node.state != NodeState::Gone);
    Ok(nodes)
}

/// One peer, also a removed one.
pub fn peer(kv: &dyn KvRead, id: PeerId) -> Result<Option<Peer>, KvError> {
    let row = kv.get(Table::Peers, &id.to_bytes())?;
    row.map(|bytes| codec::decode_peer(&bytes)).transpose()
}

/// All peers, removed ones included.
pub fn peers(kv: &dyn KvRead) -> Result<Vec<Peer>, KvError> {
    collect(kv, Table::Peers, &[], |_, value| codec::decode_peer(value))
}

/// When the next pin expires.
pub fn next_expiry(kv: &dyn KvRead) -> Result<Option<Timestamp>, KvError> {
    let mut first = None;
    let start = keys::number(header(kv)?.expiry_from.as_millis());
    kv.scan(Table::ByExpiry, &start, None, &mut |key, _| {
        first = Some(keys::read_by_expiry(key).map(|(time, _)| time));
        false
    })?;
    first.transpose()
}

/// Up to `limit` changes after `revision`.
pub fn changes_after(kv: &dyn KvRead, revision: u64, limit: usize) -> Result<Vec<Change>, KvError> {
    let mut changes = Vec::new();
    let mut failed = None;
    kv.scan(
        Table::Changes,
        &keys::number(revision.saturating_add(1)),
        None,
        &mut |key, value| {
            match keys::read_number(key).and_then(|revision| codec::decode_change(revision, value)) {
                Ok(change) => changes.push(change),
                Err(error) => failed = Some(error),
            }
            failed.is_none() && changes.len() < limit
        },
    )?;
    failed.map_or(Ok(changes), Err)
}

/// Reads all rows whose keys begin with `prefix`.
pub(super) fn collect<T>(
    kv: &dyn KvRead,
    table: Table,
    prefix: &[u8],
    read: impl Fn(&[u8], &[u8]) -> Result<T, KvError>,
) -> Result<Vec<T>, KvError> {
    let mut out = Vec::new();
    let mut failed = None;
    kv.scan(
        table,
        prefix,
        keys::after_prefix(prefix).as_deref(),
        &mut |key, value| {
            match read(key, value) {
                Ok(item) => out.push(item),
                Err(error) => failed = Some(error),
            }
            failed.is_none()
        },
    )?;
    failed.map_or(Ok(out), Err)
}
