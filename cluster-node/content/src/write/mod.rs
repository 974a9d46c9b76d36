//! Adding content.

mod adder;

use cluster_dag::unixfs::{Metadata, Options};
use node_core::Cid;

pub use adder::Adder;

/// Bytes that are cut and hashed before others get their turn: about a millisecond.
pub const STEP_BYTES_MAX: usize = 256 * 1024;

/// Top-level entries of one add, unless they are wrapped.
pub const ROOTS_MAX: usize = 1024;

/// How entries become a DAG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddOptions {
    /// Everything that makes the CIDs.
    pub unixfs: Options,
    /// Whether a directory is put around all top-level entries.
    pub wrap: bool,
    /// Mode and mtime of directories that no entry names, that one included.
    pub unnamed_metadata: Metadata,
    /// Whether entries below the top level whose names begin with `.` are taken; else they are left out, with all below
    /// them. Top-level entries are named by the user, and taken in any case, as by Kubo.
    pub hidden: bool,
}

/// A file, directory or symlink that is to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Names with `/` between them, for example `photos/2024/a.jpg`; any bytes otherwise. May be empty for one file alone
    /// whose name is not known (standard input); wrapped it is then named by its CID, as by Kubo.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Mode and mtime to be kept. With raw leaves there is no place for them: turn these off
    /// ([`AddOptions::keeping_metadata`]). Of a symlink the mode is left out.
    pub metadata: Metadata,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A file: its bytes follow by [`Adder::write`].
    File,
    /// A directory: needed only for empty ones, and for their metadata.
    Directory,
    /// A symlink to this target. It is not followed.
    Symlink(Vec<u8>),
}

/// How far an add has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Files, directories and symlinks that are complete.
    pub entries: u64,
    /// Bytes of files taken.
    pub content_bytes: u64,
    /// Blocks made.
    pub blocks: u64,
    /// Their bytes.
    pub block_bytes: u64,
    /// Blocks that are with the sink.
    pub stored_blocks: u64,
}

/// An entry that is complete, for a line of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedEntry {
    /// Its path; empty for the directory that wraps all.
    pub path: Vec<u8>,
    /// Its root.
    pub cid: Cid,
    /// Bytes of all its blocks.
    pub tsize: u64,
}

/// A root that came out of an add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Name of the top-level entry; empty for the directory that wraps all.
    pub name: Vec<u8>,
    /// Its CID.
    pub cid: Cid,
    /// Bytes of all its blocks, repeated ones counted as often as they are linked.
    pub tsize: u64,
}

/// What came out of an add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// One per top-level entry in their order; the one directory around them when they were wrapped.
    pub roots: Vec<Root>,
    /// How much it was.
    pub progress: Progress,
}

impl Entry {
    /// A file without metadata.
    pub fn file(path: impl AsRef<[u8]>) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            kind: EntryKind::File,
            metadata: Metadata::default(),
        }
    }

    /// A directory without metadata.
    pub fn directory(path: impl AsRef<[u8]>) -> Self {
        Self {
            kind: EntryKind::Directory,
            ..Self::file(path)
        }
    }

    /// A symlink without metadata.
    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self {
            kind: EntryKind::Symlink(target.as_ref().to_vec()),
            ..Self::file(path)
        }
    }

    /// The same with this metadata.
    pub fn with(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }
}

impl AddOptions {
    /// `unixfs-v1-2025`: what to take for new content. Not wrapped, without hidden files.
    pub fn v1_2025() -> Self {
        Self::new(Options::v1_2025())
    }

    /// `unixfs-v0-2015`: CIDs that begin with `Qm`. Not wrapped, without hidden files.
    pub fn v0_2015() -> Self {
        Self::new(Options::v0_2015())
    }

    /// With these options for the DAG; not wrapped, without hidden files.
    pub fn new(unixfs: Options) -> Self {
        Self {
            unixfs,
            wrap: false,
            unnamed_metadata: Metadata::default(),
            hidden: false,
        }
    }

    /// The same without raw leaves, as Kubo does when mode or mtime shall be kept.
    pub fn keeping_metadata(mut self) -> Self {
        self.unixfs.raw_leaves = false;
        self
    }
}
