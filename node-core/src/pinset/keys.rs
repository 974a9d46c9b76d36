//! Keys of the tables: big-endian numbers, texts ended by NUL, CIDs as they are (they carry their length), and a slot
//! to the end. So the order of keys is the order of their parts, and every key reads back without ambiguity.

use crate::{Cid, Created, NodeId, PinKey, Timestamp};
use crate::{Namespace, pinset::view::KvError};

/// The one row of [`super::Table::Meta`] that belongs to the pinset.
pub const HEADER: &[u8] = b"header";

/// Key in `Pins`.
pub fn pin(key: &PinKey) -> Vec<u8> {
    let mut out = namespace(&key.namespace);
    out.extend_from_slice(&key.cid.to_bytes());
    out.extend_from_slice(key.slot.as_bytes());
    out
}

/// What all keys of a namespace begin with, in `Pins`.
pub fn namespace(namespace: &Namespace) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    text(&mut out, namespace.as_str());
    out
}

/// Reads a key of `Pins` back.
pub fn read_pin(key: &[u8]) -> Result<PinKey, KvError> {
    let (namespace, rest) = read_text(key)?;
    let (cid, slot) = read_cid(rest)?;
    Ok(PinKey {
        namespace: read_namespace(namespace)?,
        cid,
        slot: utf8(slot)?.to_owned(),
    })
}

/// Key in `CidPins`.
pub fn cid_pin(key: &PinKey) -> Vec<u8> {
    let mut out = key.cid.to_bytes();
    text(&mut out, key.namespace.as_str());
    out.extend_from_slice(key.slot.as_bytes());
    out
}

/// Reads a key of `CidPins` back.
pub fn read_cid_pin(key: &[u8]) -> Result<PinKey, KvError> {
    let (cid, rest) = read_cid(key)?;
    let (namespace, slot) = read_text(rest)?;
    Ok(PinKey {
        namespace: read_namespace(namespace)?,
        cid,
        slot: utf8(slot)?.to_owned(),
    })
}

/// Key in `Unsettled`: rows of one kind lie together, so that a loop that looks for one kind passes over no other.
pub fn unsettled(kind: super::Unsettled, cid: &Cid) -> Vec<u8> {
    let mut out = vec![kind.code()];
    out.extend_from_slice(&cid.to_bytes());
    out
}

/// Reads the CID of a key in `Unsettled`.
pub fn read_unsettled(key: &[u8]) -> Result<Cid, KvError> {
    read_whole_cid(key.get(1..).unwrap_or_default())
}

/// Key in `Placements` and `Everywhere`.
pub fn cid(cid: &Cid) -> Vec<u8> {
    cid.to_bytes()
}

/// Reads such a key back.
pub fn read_whole_cid(key: &[u8]) -> Result<Cid, KvError> {
    Cid::from_bytes(key).map_err(|error| KvError(format!("a key in the state is damaged: {error}")))
}

/// Key in `ByNode`.
pub fn by_node(node: NodeId, cid: &Cid) -> Vec<u8> {
    let mut out = node.0.to_be_bytes().to_vec();
    out.extend_from_slice(&cid.to_bytes());
    out
}

/// Key in `Nodes`, and what all keys of a node begin with in `ByNode`.
pub fn node(node: NodeId) -> Vec<u8> {
    node.0.to_be_bytes().to_vec()
}

/// Reads the CID of a key in `ByNode`.
pub fn read_by_node(key: &[u8]) -> Result<Cid, KvError> {
    read_whole_cid(key.get(4..).unwrap_or_default())
}

/// Key in `ByName`.
pub fn by_name(key: &PinKey, name: &str, created: Created) -> Vec<u8> {
    tail(named(&key.namespace, name), key, created)
}

/// What the keys of all pins of this name begin with, in `ByName`.
pub fn named(of: &Namespace, name: &str) -> Vec<u8> {
    let mut out = namespace(of);
    text(&mut out, name);
    out
}

/// What the keys of all names that begin with `prefix` begin with, in `ByName`.
pub fn name_prefix(of: &Namespace, prefix: &str) -> Vec<u8> {
    let mut out = namespace(of);
    out.extend_from_slice(prefix.as_bytes());
    out
}

/// Key in `ByMetadata`.
pub fn by_metadata(key: &PinKey, name: &str, value: &str, created: Created) -> Vec<u8> {
    tail(metadata_pair(&key.namespace, name, value), key, created)
}

/// What the keys of all pins with this pair begin with, in `ByMetadata`.
pub fn metadata_pair(of: &Namespace, name: &str, value: &str) -> Vec<u8> {
    let mut out = namespace(of);
    text(&mut out, name);
    text(&mut out, value);
    out
}

/// Key in `ByCreated`.
pub fn by_created(key: &PinKey, created: Created) -> Vec<u8> {
    tail(namespace(&key.namespace), key, created)
}

/// Where the pins created at or after a time begin, in `ByCreated`.
pub fn created_from(of: &Namespace, created: Timestamp) -> Vec<u8> {
    let mut out = namespace(of);
    out.extend_from_slice(&created.as_millis().to_be_bytes());
    out
}

/// Puts a place in the order of pins behind what keys begin with, in `ByCreated`, `ByName` and `ByMetadata`: there the pins
/// that were recorded then or later begin.
pub fn created_at(mut prefix: Vec<u8>, created: Created) -> Vec<u8> {
    prefix.extend_from_slice(&created.at.as_millis().to_be_bytes());
    prefix.extend_from_slice(&created.ordinal.to_be_bytes());
    prefix
}

/// Reads a key of `ByName` (`texts` = 1), `ByMetadata` (2) or `ByCreated` (0) back: which pin, and when it was recorded.
pub fn read_indexed(key: &[u8], texts: usize) -> Result<(Created, PinKey), KvError> {
    let (namespace, mut rest) = read_text(key)?;
    for _ in 0..texts {
        rest = read_text(rest)?.1;
    }
    let (millis, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
    let (ordinal, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    let (cid, slot) = read_cid(rest)?;
    let created = Created {
        at: Timestamp::from_millis(u64::from_be_bytes(*millis)),
        ordinal: u32::from_be_bytes(*ordinal),
    };
    let key = PinKey {
        namespace: read_namespace(namespace)?,
        cid,
        slot: utf8(slot)?.to_owned(),
    };
    Ok((created, key))
}

/// Key in `Slots`.
pub fn slot(key: &PinKey) -> Vec<u8> {
    let mut out = slot_of(&key.namespace, &key.slot);
    out.extend_from_slice(&key.cid.to_bytes());
    out
}

/// What the keys of this slot begin with, in `Slots`.
pub fn slot_of(of: &Namespace, slot: &str) -> Vec<u8> {
    let mut out = namespace(of);
    text(&mut out, slot);
    out
}

/// Reads the CID of a key in `Slots`.
pub fn read_slot(key: &[u8]) -> Result<Cid, KvError> {
    let (_, rest) = read_text(key)?;
    read_whole_cid(read_text(rest)?.1)
}

/// Key in `Kept`.
pub fn kept(cid: &Cid, by: &Cid) -> Vec<u8> {
    let mut out = cid.to_bytes();
    out.extend_from_slice(&by.to_bytes());
    out
}

/// Reads a key of `Kept` back: what is kept, and for the sake of which.
pub fn read_kept(key: &[u8]) -> Result<(Cid, Cid), KvError> {
    let (cid, by) = read_cid(key)?;
    Ok((cid, read_whole_cid(by)?))
}

/// Key in `ByExpiry`.
pub fn by_expiry(key: &PinKey, at: Timestamp) -> Vec<u8> {
    let mut out = at.as_millis().to_be_bytes().to_vec();
    out.extend_from_slice(&pin(key));
    out
}

/// Reads a key of `ByExpiry` back.
pub fn read_by_expiry(key: &[u8]) -> Result<(Timestamp, PinKey), KvError> {
    let (time, rest) = key.split_first_chunk::<8>().ok_or_else(damaged)?;
    Ok((Timestamp::from_millis(u64::from_be_bytes(*time)), read_pin(rest)?))
}

/// Key in `RequestTimes`.
pub fn request_time(time: Timestamp, id: &str) -> Vec<u8> {
    let mut out = time.as_millis().to_be_bytes().to_vec();
    out.extend_from_slice(id.as_bytes());
    out
}

/// Key in `Changes`, and anything else kept by one number.
pub fn number(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// Reads such a key back.
pub fn read_number(key: &[u8]) -> Result<u64, KvError> {
    Ok(u64::from_be_bytes(key.try_into().map_err(|_| damaged())?))
}

/// The first key behind all keys that begin with `prefix`; none when there is no such key.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut out = prefix[..=last].to_vec();
    out[last] += 1;
    Some(out)
}

fn tail(prefix: Vec<u8>, key: &PinKey, created: Created) -> Vec<u8> {
    let mut out = created_at(prefix, created);
    out.extend_from_slice(&key.cid.to_bytes());
    out.extend_from_slice(key.slot.as_bytes());
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn read_text(key: &[u8]) -> Result<(&[u8], &[u8]), KvError> {
    let end = key.iter().position(|byte| *byte == 0).ok_or_else(damaged)?;
    Ok((&key[..end], &key[end + 1..]))
}

fn read_cid(key: &[u8]) -> Result<(Cid, &[u8]), KvError> {
    Cid::read(key).map_err(|error| KvError(format!("a key in the state is damaged: {error}")))
}

fn read_namespace(bytes: &[u8]) -> Result<Namespace, KvError> {
    Namespace::new(utf8(bytes)?).map_err(|error| KvError(format!("a key in the state is damaged: {error}")))
}

fn utf8(bytes: &[u8]) -> Result<&str, KvError> {
    std::str::from_utf8(bytes).map_err(|_| damaged())
}

fn damaged() -> KvError {
    KvError("a key in the state is damaged: it ends too early or is no text".into())
}
