//! Following a path through directories.

use bytes::Bytes;
use node_core::Cid;

use super::ahead::Ahead;
use super::directory::deeper;
use super::node::{Decoded, Shape, Slot};
use crate::error::shown;
use crate::unixfs::murmur3;
use crate::unixfs::slots::slot;
use crate::{Block, DagError};

/// Longest path, in bytes: what a URL can hold of it, several times over.
const PATH_BYTES_MAX: usize = 64 * 1024;

/// Finds the CID that a path leads to, from blocks that the caller fetches one after another.
#[derive(Debug)]
pub struct PathResolver {
    /// Where the names so far have led.
    at: Cid,
    /// Names still to be followed, the next at the end.
    names: Vec<Vec<u8>>,
    /// The directory in which the next name is looked for, while shards of it are being walked.
    directory: Cid,
    /// Bits of the name's hash that the shards so far took.
    taken: u32,
    blocks: Ahead,
}

/// What a step of [`PathResolver`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolveStep {
    /// The path leads here. Whether that block exists was not looked at.
    Found(Cid),
    /// Nothing, until this block is supplied.
    Need(Cid),
}

impl PathResolver {
    /// A resolver of a path below a root, `a/b/c` with any number of `/` around and between the names. An empty path leads
    /// to the root. Symlinks are not followed, as in Kubo, and `.` and `..` are names like others.
    pub fn new(root: Cid, path: &[u8]) -> Result<Self, DagError> {
        if path.len() > PATH_BYTES_MAX {
            return Err(DagError::BadEntry {
                field: "path",
                value: shown(path),
                reason: "is longer than 65536 bytes",
            });
        }
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        Ok(Self {
            at: root,
            names: names.rev().map(<[u8]>::to_vec).collect(),
            directory: root,
            taken: 0,
            blocks: Ahead::new(1),
        })
    }

    /// Takes the block that the last step needs. Whether it was that; others are not kept.
    pub fn supply(&mut self, block: Block) -> bool {
        self.blocks.supply(block)
    }

    /// Goes on as far as it can.
    pub fn step(&mut self) -> Result<ResolveStep, DagError> {
        while let Some(name) = self.names.last() {
            let Some(bytes) = self.blocks.take(&self.at, false) else {
                return Ok(ResolveStep::Need(self.at));
            };
            match self.look_up(name, &bytes)? {
                Found::Entry(cid) => {
                    self.names.pop();
                    (self.at, self.directory, self.taken) = (cid, cid, 0);
                }
                Found::Shard(cid, taken) => (self.at, self.taken) = (cid, taken),
            }
        }
        Ok(ResolveStep::Found(self.at))
    }

    fn look_up(&self, name: &[u8], bytes: &Bytes) -> Result<Found, DagError> {
        let missing = || DagError::NotFound {
            directory: Box::new(self.directory),
            name: shown(name),
        };
        let not_a_directory = |found| DagError::NotADirectory {
            cid: Box::new(self.at),
            found,
            name: shown(name),
        };
        let decoded = match Decoded::new(&self.at, bytes) {
            Err(DagError::WrongKind { found, .. }) => return Err(not_a_directory(found)),
            decoded => decoded?,
        };
        match decoded.shape {
            Shape::Directory(links) if self.taken == 0 => {
                let link = links.iter().find(|link| link.name == name);
                link.map(|link| Found::Entry(link.cid)).ok_or_else(missing)
            }
            Shape::Shard(shard) => {
                let deeper = deeper(&self.at, self.taken, shard.bits)?;
                let slot = slot(murmur3::x64_64(name), self.taken, shard.bits);
                match shard.slots.into_iter().find(|(number, _)| *number == slot) {
                    Some((_, Slot::Shard(cid))) => Ok(Found::Shard(cid, deeper)),
                    Some((_, Slot::Entry(link))) if link.name == name => Ok(Found::Entry(link.cid)),
                    _ => Err(missing()),
                }
            }
            other => Err(not_a_directory(other.name())),
        }
    }
}

enum Found {
    Entry(Cid),
    Shard(Cid, u32),
}
