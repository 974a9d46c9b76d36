//! Making DAGs.

mod directory;
mod file;
mod hamt;
mod layout;
mod node;

use bytes::Bytes;
use node_core::Cid;

pub use directory::{DIRECTORY_ENTRIES_MAX, DirectoryBuilder, NAME_BYTES_MAX};
pub use file::FileBuilder;

use super::data::{Data, Kind};
use super::{InvalidOptions, Mtime, Options};
use crate::codec::DAG_PB;
use crate::error::shown;
use crate::{Block, DagError};

/// Longest target of a symlink, in bytes: the longest path that Linux takes.
const SYMLINK_BYTES_MAX: usize = 4096;

/// What became of a file, a directory or a symlink that was added: enough to link to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// Its root.
    pub cid: Cid,
    /// Bytes of all its blocks, repeated ones counted as often as they are linked.
    pub tsize: u64,
    /// Bytes of content: of a file its length, of a directory none.
    pub content_bytes: u64,
}

/// What is kept of a file or directory beside its content: UnixFS 1.5. By default nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metadata {
    /// The lower twelve bits of the Unix mode. None and zero are the same; higher bits are left out.
    pub mode: Option<u32>,
    /// When it was changed last.
    pub mtime: Option<Mtime>,
}

impl Metadata {
    fn is_empty(&self) -> bool {
        self.mode().is_none() && self.mtime.is_none()
    }

    fn mode(&self) -> Option<u32> {
        self.mode.map(|mode| mode & 0o7777).filter(|mode| *mode != 0)
    }

    fn check(&self) -> Result<(), InvalidOptions> {
        match self.mtime {
            Some(mtime) if !mtime.is_valid() => Err(InvalidOptions::new(
                "nanoseconds of the mtime:",
                mtime.nanos.to_string(),
                "is a second or more",
            )),
            _ => Ok(()),
        }
    }

    fn put_into(&self, data: &mut Data) {
        data.mode = self.mode();
        data.mtime = self.mtime;
    }
}

/// Makes a symlink: one block. As in Kubo it has no mode.
pub fn symlink(
    options: &Options,
    target: &[u8],
    mtime: Option<Mtime>,
    sink: &mut dyn FnMut(Block),
) -> Result<Added, DagError> {
    let bad = |reason| {
        Err(DagError::BadEntry {
            field: "symlink target",
            value: shown(target),
            reason,
        })
    };
    if target.is_empty() {
        return bad("is empty");
    }
    if target.len() > SYMLINK_BYTES_MAX {
        return bad("is longer than the 4096 bytes that a path may have");
    }
    let mut data = Data::new(Kind::Symlink);
    data.data = Some(Bytes::copy_from_slice(target));
    data.mtime = mtime.filter(|mtime| mtime.is_valid());
    let mut bytes = Vec::new();
    data.write(&mut bytes);
    let tsize = bytes.len() as u64;
    let block = seal(options, bytes)?;
    let cid = block.cid();
    sink(block);
    Ok(Added {
        cid,
        tsize,
        content_bytes: 0,
    })
}

/// Names a dag-pb block.
fn seal(options: &Options, bytes: Vec<u8>) -> Result<Block, DagError> {
    name(options, options.version(), DAG_PB, bytes.into())
}

/// Names a block, or puts it into its CID.
fn name(options: &Options, version: u64, codec: u64, bytes: Bytes) -> Result<Block, DagError> {
    match options.inline {
        Some(limit) if bytes.len() <= limit => Block::identity(codec, &bytes),
        _ => Block::seal(version, codec, options.hash, bytes),
    }
}
