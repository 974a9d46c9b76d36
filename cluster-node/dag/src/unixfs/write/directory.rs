//! Adding a directory.

use node_core::Cid;

use super::{Added, Metadata, hamt, seal};
use crate::codec::pb;
use crate::error::shown;
use crate::unixfs::data::{Data, Kind};
use crate::unixfs::{InvalidOptions, Options, SizeEstimate, murmur3};
use crate::{Block, DagError};

/// Longest name of a directory entry, in bytes. File systems take 255; with sixteen times that a shard of 256 entries
/// still fits into a block.
pub const NAME_BYTES_MAX: usize = 4096;

/// Most entries of one directory. They are all held until the directory is complete, since its shape depends on the last
/// of them: about 100 bytes and the name each.
pub const DIRECTORY_ENTRIES_MAX: usize = 16 * 1024 * 1024;

/// Makes a directory of what was added before.
///
/// Give it entries in any order, then finish it. Whether it becomes one block or a tree of shards follows from
/// [`Options::sharding`]. To wrap a file, make a directory of that one entry.
#[derive(Debug)]
pub struct DirectoryBuilder {
    options: Options,
    metadata: Metadata,
    entries: Vec<Entry>,
}

/// An entry, kept small: a directory may have millions.
#[derive(Debug)]
pub(super) struct Entry {
    /// The murmur3 hash of the name: its place in a sharded directory.
    pub(super) hash: u64,
    pub(super) tsize: u64,
    /// The binary CID, which ends where it says, and the name.
    bytes: Box<[u8]>,
    cid_bytes: u8,
}

impl Entry {
    pub(super) fn cid(&self) -> Option<Cid> {
        Cid::read(&self.bytes).ok().map(|(cid, _)| cid)
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.bytes[usize::from(self.cid_bytes)..]
    }

    /// Appends the link, with something in front of its name.
    pub(super) fn write(&self, out: &mut Vec<u8>, prefix: &[u8]) {
        // What was a CID when the entry was made is one still.
        if let Some(cid) = self.cid() {
            pb::write_link(out, &cid, &[prefix, self.name()], self.tsize);
        }
    }
}

impl DirectoryBuilder {
    /// An empty directory.
    pub fn new(options: Options, metadata: Metadata) -> Result<Self, InvalidOptions> {
        options.check()?;
        metadata.check()?;
        Ok(Self {
            options,
            metadata,
            entries: Vec::new(),
        })
    }

    /// Adds an entry. The name may be any bytes, but not empty, `.` or `..`, and without `/`. That there is one of the
    /// same name is noticed by [`finish`](Self::finish).
    pub fn add(&mut self, name: impl AsRef<[u8]>, entry: &Added) -> Result<(), DagError> {
        let name = name.as_ref();
        let bad = |reason| {
            Err(DagError::BadEntry {
                field: "name",
                value: shown(name),
                reason,
            })
        };
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return bad("is no name of a directory entry: it must not be empty, \".\" or \"..\", or hold a \"/\"");
        }
        if name.len() > NAME_BYTES_MAX {
            return bad("is longer than 4096 bytes");
        }
        if self.entries.len() == DIRECTORY_ENTRIES_MAX {
            return bad("is one too many: a directory takes 16777216 entries, divide it");
        }
        let mut bytes = entry.cid.to_bytes();
        let Ok(cid_bytes) = u8::try_from(bytes.len()) else {
            return bad("links to a CID that is too long");
        };
        bytes.extend_from_slice(name);
        self.entries.push(Entry {
            hash: murmur3::x64_64(name),
            tsize: entry.tsize,
            bytes: bytes.into(),
            cid_bytes,
        });
        Ok(())
    }

    /// Entries so far.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Ends the directory. The last block given away is its root.
    pub fn finish(mut self, sink: &mut dyn FnMut(Block)) -> Result<Added, DagError> {
        self.entries.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        if let Some(pair) = self.entries.windows(2).find(|pair| pair[0].name() == pair[1].name()) {
            return Err(DagError::BadEntry {
                field: "name",
                value: shown(pair[0].name()),
                reason: "is given to two entries of one directory: rename one of them",
            });
        }
        let mut data = Data::new(Kind::Directory);
        self.metadata.put_into(&mut data);
        let sharding = self.options.sharding;
        let size = self.estimate(data.length());
        // As in Kubo the number of entries counts only where large directories are split at all.
        let has_too_many = sharding.entries_max.is_some_and(|max| self.entries.len() > max);
        if sharding.above.is_some_and(|above| size > above || has_too_many) {
            return hamt::write(&self.options, &self.metadata, self.entries, sink);
        }
        let mut bytes = Vec::new();
        for entry in &self.entries {
            entry.write(&mut bytes, &[]);
        }
        data.write(&mut bytes);
        let own = bytes.len() as u64;
        let tsize = self
            .entries
            .iter()
            .fold(own, |sum, entry| sum.saturating_add(entry.tsize));
        let block = seal(&self.options, bytes)?;
        let cid = block.cid();
        sink(block);
        Ok(Added {
            cid,
            tsize,
            content_bytes: 0,
        })
    }

    /// How large the directory would be in one block, as [`SizeEstimate`] has it.
    fn estimate(&self, data: usize) -> u64 {
        let links = self.entries.iter().map(|entry| {
            let cid = usize::from(entry.cid_bytes);
            let name = entry.name().len();
            match self.options.sharding.estimate {
                SizeEstimate::Links => cid + name,
                SizeEstimate::Block => pb::written_link(cid, name, entry.tsize),
            }
        });
        let links: u64 = links.map(|bytes| bytes as u64).sum();
        match self.options.sharding.estimate {
            SizeEstimate::Links => links,
            SizeEstimate::Block => links + pb::written_data(data) as u64,
        }
    }
}
