//! Directories in many blocks: a hash array mapped trie over the names.
//!
//! Each shard takes the next bits of a name's hash, highest first. Where one entry has these bits it stands there, its
//! name behind them in hexadecimal; where several have, a shard stands there. The shape depends on the names only, not
//! on the order in which they came.

use bytes::Bytes;

use super::directory::Entry;
use super::{Added, Metadata, seal};
use crate::codec::pb;
use crate::error::shown;
use crate::unixfs::data::{Data, Kind};
use crate::unixfs::slots::{HASH_BITS, prefix, slot};
use crate::unixfs::{Options, murmur3};
use crate::{Block, DagError};

/// Makes the shards, those below first, and gives them away.
pub(super) fn write(
    options: &Options,
    metadata: &Metadata,
    mut entries: Vec<Entry>,
    sink: &mut dyn FnMut(Block),
) -> Result<Added, DagError> {
    // Then the entries of a slot stand side by side on every level.
    entries.sort_unstable_by_key(|entry| entry.hash);
    Writer {
        options,
        bits: u32::from(options.sharding.fanout).ilog2(),
        sink,
    }
    .shard(&entries, 0, metadata)
}

struct Writer<'a> {
    options: &'a Options,
    /// Bits of the hash that a shard takes.
    bits: u32,
    sink: &'a mut dyn FnMut(Block),
}

impl Writer<'_> {
    /// Recursion is as deep as the hash has bits: 21 shards at the smallest fanout.
    fn shard(&mut self, entries: &[Entry], taken: u32, metadata: &Metadata) -> Result<Added, DagError> {
        if taken + self.bits > HASH_BITS {
            return Err(DagError::BadEntry {
                field: "name",
                value: entries.first().map(|entry| shown(entry.name())).unwrap_or_default(),
                reason: "has the same hash as another name of its directory, so no sharded directory can hold both: rename it",
            });
        }
        let fanout = usize::from(self.options.sharding.fanout);
        let bits = self.bits;
        let slot_of = |entry: &Entry| slot(entry.hash, taken, bits);
        let mut field = vec![0u8; fanout / 8];
        let (mut bytes, mut below) = (Vec::new(), 0u64);
        for group in entries.chunk_by(|a, b| slot_of(a) == slot_of(b)) {
            let slot = slot_of(&group[0]);
            field[fanout / 8 - 1 - slot / 8] |= 1 << (slot % 8);
            let prefix = prefix(slot, fanout);
            if let [entry] = group {
                entry.write(&mut bytes, prefix.as_bytes());
                below = below.saturating_add(entry.tsize);
            } else {
                let shard = self.shard(group, taken + self.bits, &Metadata::default())?;
                pb::write_link(&mut bytes, &shard.cid, &[prefix.as_bytes()], shard.tsize);
                below = below.saturating_add(shard.tsize);
            }
        }
        let mut data = Data::new(Kind::HamtShard);
        let zeros = field.iter().take_while(|byte| **byte == 0).count();
        data.data = (zeros < field.len()).then(|| Bytes::from(field).slice(zeros..));
        data.hash_type = Some(murmur3::CODE);
        data.fanout = Some(fanout as u64);
        metadata.put_into(&mut data);
        data.write(&mut bytes);
        let tsize = below.saturating_add(bytes.len() as u64);
        let block = seal(self.options, bytes)?;
        let cid = block.cid();
        (self.sink)(block);
        Ok(Added {
            cid,
            tsize,
            content_bytes: 0,
        })
    }
}
