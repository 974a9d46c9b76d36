//! Names of blocks in the tables, and what a block links to in them.

use std::collections::HashMap;

use cluster_dag::codec::{DAG_CBOR, DAG_JSON, DAG_PB, RAW};
use cluster_dag::{Block, DagError};
use node_core::Cid;

use crate::Error;

/// The binary multihash of a block: its name in all tables, since blocks of one content are one block whatever codec
/// they are read in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(Box<[u8]>);

impl Key {
    pub(crate) fn of(cid: &Cid) -> Self {
        let binary = cid.to_bytes();
        if cid.version() == 0 {
            return Self(binary.into());
        }
        // Version and codec are varints in front of the multihash.
        let mut rest = &binary[..];
        for _ in 0..2 {
            let end = rest
                .iter()
                .position(|byte| byte & 0x80 == 0)
                .map_or(rest.len(), |at| at + 1);
            rest = &rest[end..];
        }
        Self(rest.into())
    }

    pub(crate) fn from_row(row: &[u8]) -> Self {
        Self(row.into())
    }

    /// The block as CIDv1 of codec raw: how it is named where its codec is not known.
    pub(crate) fn to_cid(&self) -> Result<Cid, Error> {
        let mut binary = Vec::with_capacity(2 + self.0.len());
        binary.extend([1, 0x55]);
        binary.extend_from_slice(&self.0);
        Cid::from_bytes(&binary).map_err(|error| Error::Damaged(format!("the name of a block: {error}")))
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Codec and multihash: what a walk visits once. CIDv0 and CIDv1 of a block are one target.
pub(crate) fn target(cid: &Cid) -> Vec<u8> {
    let mut binary = cid.to_bytes();
    if cid.version() == 0 {
        binary.insert(0, 0x70);
    } else {
        binary.remove(0);
    }
    binary
}

/// Reads a target back, as CIDv1.
pub(crate) fn read_target(target: &[u8]) -> Result<Cid, Error> {
    let mut binary = Vec::with_capacity(1 + target.len());
    binary.push(1);
    binary.extend_from_slice(target);
    Cid::from_bytes(&binary).map_err(|error| Error::Damaged(format!("a row of a walk: {error}")))
}

/// Codecs that have links, a bit each: a set of them fits into a byte of a block's row.
const CODECS: [(u64, u8); 4] = [(RAW, 1), (DAG_PB, 2), (DAG_CBOR, 4), (DAG_JSON, 8)];

/// The bit of raw: the codec under which a block has no links.
pub(crate) const RAW_BIT: u8 = 1;

pub(crate) fn codec_bit(codec: u64) -> Option<u8> {
    CODECS.iter().find(|(code, _)| *code == codec).map(|(_, bit)| *bit)
}

/// The codecs of a set.
pub(crate) fn codecs(set: u8) -> impl Iterator<Item = u64> {
    CODECS
        .into_iter()
        .filter(move |(_, bit)| set & bit != 0)
        .map(|(code, _)| code)
}

/// The CID of a block under a codec.
pub(crate) fn with_codec(key: &Key, codec: u64) -> Result<Cid, Error> {
    let mut target = Vec::with_capacity(2 + key.0.len());
    if let Ok(short) = u8::try_from(codec)
        && short < 0x80
    {
        target.push(short);
    } else {
        // dag-json is the one codec of the set whose varint has two bytes.
        target.push((codec & 0x7f) as u8 | 0x80);
        target.push((codec >> 7) as u8);
    }
    target.extend_from_slice(&key.0);
    read_target(&target)
}

/// How many links below a block are wanted. [`ALL`] is everything.
pub(crate) type Left = u32;

/// No limit of depth.
pub(crate) const ALL: Left = Left::MAX;

fn below(left: Left) -> Left {
    if left == ALL { ALL } else { left.saturating_sub(1) }
}

/// What a block links to. Identity CIDs are never stored: in their place stands what they link to themselves.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Links {
    /// The blocks that get a reference, each once, in order. Depends on nothing but the block and its codec: it is taken
    /// back by computing it again.
    pub(crate) keys: Vec<Key>,
    /// Where a walk goes on, each CID once with the largest depth, in the order of the block.
    pub(crate) children: Vec<(Cid, Left)>,
}

impl Links {
    /// Reads the links of a block of which `left` links downwards are wanted. `left` must not be 0.
    ///
    /// An identity block in a codec that is not known has no keys, and is an error only where the walk goes into it.
    pub(crate) fn read(cid: &Cid, bytes: &[u8], left: Left) -> Result<Self, DagError> {
        let mut all: Vec<(Cid, Left)> = Vec::new();
        let mut keys: Vec<Key> = Vec::new();
        // One iterator a level. What an identity CID carries is shorter than it is, so 128 bytes end that soon.
        let mut levels = vec![(cluster_dag::links(cid, bytes)?.into_iter(), below(left), true)];
        while let Some((links, left, walked)) = levels.last_mut() {
            let (left, walked) = (*left, *walked);
            let Some(link) = links.next() else {
                levels.pop();
                continue;
            };
            let Some(inline) = Block::inline(link) else {
                keys.push(Key::of(&link));
                if walked {
                    all.push((link, left));
                }
                continue;
            };
            let walked = walked && left > 0;
            match inline.links() {
                Ok(links) => levels.push((links.into_iter(), below(left), walked)),
                Err(error) if walked => return Err(error),
                Err(_) => {}
            }
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(Self {
            keys,
            children: distinct(all),
        })
    }
}

fn distinct(all: Vec<(Cid, Left)>) -> Vec<(Cid, Left)> {
    let mut places: HashMap<Cid, usize> = HashMap::with_capacity(all.len());
    let mut out: Vec<(Cid, Left)> = Vec::with_capacity(all.len());
    for (cid, left) in all {
        match places.entry(cid) {
            std::collections::hash_map::Entry::Occupied(place) => {
                let known = &mut out[*place.get()].1;
                *known = left.max(*known);
            }
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(out.len());
                out.push((cid, left));
            }
        }
    }
    out
}

/// The keys to which a block gives references under a set of codecs: one list a codec, without raw, which has none.
pub(crate) fn counted_keys(key: &Key, bytes: &[u8], set: u8) -> Result<Vec<Key>, Error> {
    let mut keys = Vec::new();
    for codec in codecs(set & !RAW_BIT) {
        let cid = with_codec(key, codec)?;
        // Depth 1 asks for nothing of what identity blocks hold but their keys.
        keys.extend(Links::read(&cid, bytes, 1)?.keys);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_multihash_whatever_version_and_codec() {
        let v0: Cid = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn".parse().expect("valid");
        let key = Key::of(&v0);
        for codec in [RAW, DAG_PB, DAG_CBOR, DAG_JSON] {
            let cid = with_codec(&key, codec).expect("valid");
            assert_eq!((cid.version(), cid.codec()), (1, codec));
            assert_eq!(Key::of(&cid), key);
            assert_eq!(read_target(&target(&cid)).expect("valid"), cid);
        }
        let v1 = with_codec(&key, DAG_PB).expect("valid");
        assert_eq!(target(&v0), target(&v1));
        assert_eq!(key.to_cid().expect("valid").codec(), RAW);
        assert_eq!(Key::from_row(key.as_ref()), key);
    }

    #[test]
    fn what_stands_in_identity_cids_is_looked_through() {
        let leaf: Cid = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
            .parse()
            .expect("valid");
        // A list of one link in dag-cbor, inline.
        let mut inner = vec![0x81, 0xd8, 0x2a, 0x58, 37, 0];
        inner.extend(leaf.to_bytes());
        let mut binary = vec![1, 0x71, 0, inner.len() as u8];
        binary.extend(&inner);
        let inline = Cid::from_bytes(&binary).expect("valid");
        // And a block that links to it twice, and to the leaf itself.
        let mut outer = vec![0x83];
        for cid in [inline, leaf, inline] {
            let binary = cid.to_bytes();
            outer.extend([0xd8, 0x2a, 0x58, binary.len() as u8 + 1, 0]);
            outer.extend(binary);
        }
        let cid = with_codec(&Key::of(&leaf), DAG_CBOR).expect("valid");
        let read = |left| Links::read(&cid, &outer, left).expect("reads");
        assert_eq!(read(ALL).children, vec![(leaf, ALL)]);
        assert_eq!(read(3).children, vec![(leaf, 2)]);
        assert_eq!(read(1).children, vec![(leaf, 0)]);
        assert_eq!(read(1).keys, vec![Key::of(&leaf)]);
        // Without the direct link, the leaf is two links away.
        let mut outer = vec![0x81, 0xd8, 0x2a, 0x58, binary.len() as u8 + 1, 0];
        outer.extend(&binary);
        let read = |left| Links::read(&cid, &outer, left).expect("reads");
        assert_eq!(read(2).children, vec![(leaf, 0)]);
        assert_eq!(read(1).children, vec![]);
        assert_eq!(read(1).keys, vec![Key::of(&leaf)], "references do not depend on depth");
    }
}
