//! Listing a directory.

use bytes::Bytes;
use node_core::Cid;

use super::BLOCKS_AHEAD;
use super::ahead::Ahead;
use super::node::{Decoded, Shape, Slot};
use crate::codec::pb;
use crate::unixfs::slots::HASH_BITS;
use crate::{Block, DagError};

/// Lists a directory, plain or sharded, from blocks that come in any order.
///
/// Plain directories come in the order in which they are written, which is by name; sharded ones by the hash of the
/// name, in the same order each time. It holds the entries of one plain directory (a block), or the slots of one shard
/// of each level: at most 21 shards of 1024.
#[derive(Debug)]
pub struct DirectoryReader {
    /// What is to be listed, the next at the end.
    pending: Vec<Item>,
    ahead: Ahead,
}

#[derive(Debug)]
enum Item {
    Entry(DirectoryEntry),
    /// A block, behind so many bits of the hash that the shards above it took.
    Block {
        cid: Cid,
        taken: u32,
    },
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Its name: any bytes, also such as no file system takes.
    pub name: Bytes,
    /// Its root.
    pub cid: Cid,
    /// Bytes of all its blocks, as whoever made the directory says.
    pub tsize: u64,
}

/// What a step of [`DirectoryReader`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListStep {
    /// The next entry.
    Entry(DirectoryEntry),
    /// Nothing, until this block is supplied. It is among those that were wanted, or will be the next time.
    Need(Cid),
    /// Nothing more.
    End,
}

impl DirectoryReader {
    /// A reader of the directory that has this root.
    pub fn new(root: Cid) -> Self {
        Self {
            pending: vec![Item::Block { cid: root, taken: 0 }],
            ahead: Ahead::new(BLOCKS_AHEAD),
        }
    }

    /// Blocks to fetch now, the most urgent first. Each is named once: the caller sees to it that it is supplied.
    pub fn wanted(&mut self) -> Vec<Cid> {
        // What can be listed is listed first: a plain directory of many entries would be walked here each time.
        if matches!(self.pending.last(), Some(Item::Entry(_))) {
            return Vec::new();
        }
        let next = self.pending.iter().rev().filter_map(|item| match item {
            Item::Block { cid, .. } => Some(*cid),
            Item::Entry(_) => None,
        });
        self.ahead.want(next)
    }

    /// Takes a block that was wanted, or that the last step needs. Whether it was one; others are not kept.
    pub fn supply(&mut self, block: Block) -> bool {
        self.ahead.supply(block)
    }

    /// Goes on as far as it can. After an error there is no more to be had.
    pub fn step(&mut self) -> Result<ListStep, DagError> {
        loop {
            let (cid, taken) = match self.pending.pop() {
                None => return Ok(ListStep::End),
                Some(Item::Entry(entry)) => return Ok(ListStep::Entry(entry)),
                Some(Item::Block { cid, taken }) => (cid, taken),
            };
            // Two equal shards would hold the same names.
            let Some(bytes) = self.ahead.take(&cid, false) else {
                self.pending.push(Item::Block { cid, taken });
                return Ok(ListStep::Need(cid));
            };
            if let Err(error) = self.open(cid, taken, &bytes) {
                self.pending.clear();
                return Err(error);
            }
        }
    }

    fn open(&mut self, cid: Cid, taken: u32, bytes: &Bytes) -> Result<(), DagError> {
        let shape = Decoded::new(&cid, bytes)?.shape;
        let found = shape.name();
        match shape {
            Shape::Directory(links) if taken == 0 => {
                self.pending
                    .extend(links.into_iter().rev().map(|link| Item::Entry(link.into())));
            }
            Shape::Shard(shard) => {
                let taken = deeper(&cid, taken, shard.bits)?;
                self.pending
                    .extend(shard.slots.into_iter().rev().map(|(_, slot)| match slot {
                        Slot::Entry(link) => Item::Entry(link.into()),
                        Slot::Shard(cid) => Item::Block { cid, taken },
                    }));
            }
            _ => {
                let wanted = if taken == 0 {
                    "a directory"
                } else {
                    "a shard of a directory"
                };
                return Err(DagError::WrongKind {
                    cid: Box::new(cid),
                    found,
                    wanted,
                });
            }
        }
        Ok(())
    }
}

/// Bits of the hash that are taken below a shard.
pub(super) fn deeper(cid: &Cid, taken: u32, bits: u32) -> Result<u32, DagError> {
    let taken = taken + bits;
    if taken > HASH_BITS {
        return Err(DagError::TooLarge {
            cid: Box::new(*cid),
            what: "bits of the hash that a sharded directory uses",
            max: u64::from(HASH_BITS),
        });
    }
    Ok(taken)
}

impl From<pb::Link> for DirectoryEntry {
    fn from(link: pb::Link) -> Self {
        Self {
            name: link.name,
            cid: link.cid,
            tsize: link.tsize,
        }
    }
}
