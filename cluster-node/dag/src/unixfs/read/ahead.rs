//! Blocks that were asked for before they are needed.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use node_core::Cid;

use crate::Block;

/// Blocks that a reader asks for before it needs them, at most: with the largest blocks 128 MiB, with those of a file
/// that Kubo added 16 or 64 MiB.
pub const BLOCKS_AHEAD: usize = 64;

/// What was asked for and what has arrived: together at most `limit` blocks, and one for each level of the DAG.
#[derive(Debug)]
pub(super) struct Ahead {
    limit: usize,
    asked: HashSet<Cid>,
    arrived: HashMap<Cid, Bytes>,
    /// The block that was missing last: it is taken too, whoever saw to it.
    missing: Option<Cid>,
}

impl Ahead {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.clamp(1, BLOCKS_AHEAD),
            asked: HashSet::new(),
            arrived: HashMap::new(),
            missing: None,
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Of the blocks that are needed next, in this order, those that are to be fetched now and were not named before.
    pub(super) fn want(&mut self, next: impl Iterator<Item = Cid>) -> Vec<Cid> {
        let mut wanted = Vec::new();
        for (place, cid) in next.take(self.limit).enumerate() {
            if self.asked.contains(&cid) || self.arrived.contains_key(&cid) || Block::inline(cid).is_some() {
                continue;
            }
            // The very next one is asked for in any case: what was asked for before lies behind it and can't go away.
            if place > 0 && self.asked.len() + self.arrived.len() >= self.limit {
                break;
            }
            self.asked.insert(cid);
            wanted.push(cid);
        }
        wanted
    }

    /// Takes a block, if it had been asked for.
    pub(super) fn supply(&mut self, block: Block) -> bool {
        let (cid, bytes) = block.into_parts();
        let missing = self.missing == Some(cid);
        let taken = self.asked.remove(&cid) || missing && !self.arrived.contains_key(&cid);
        if taken {
            self.arrived.insert(cid, bytes);
        }
        taken
    }

    /// A block that is needed now, if it is there.
    pub(super) fn take(&mut self, cid: &Cid, needed_again: bool) -> Option<Bytes> {
        if let Some(block) = Block::inline(*cid) {
            return Some(block.into_parts().1);
        }
        let bytes = if needed_again {
            self.arrived.get(cid).cloned()
        } else {
            self.arrived.remove(cid)
        };
        self.missing = bytes.is_none().then_some(*cid);
        bytes
    }
}
