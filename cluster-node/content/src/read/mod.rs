//! Reading content.

mod fetch;
mod tar;
mod walk;

use std::sync::Arc;

use async_stream::try_stream;
use bytes::Bytes;
use cluster_dag::unixfs::{
    BLOCKS_AHEAD, DirectoryEntry, DirectoryReader, FileReader, ListStep, Node, PathResolver, ReadStep, ResolveStep,
};
use cluster_dag::{Block, DagError};
use futures::stream::BoxStream;
use node_core::Cid;

use crate::{ContentError, Source};
use fetch::Fetcher;

/// Blocks asked for before they are needed, unless said otherwise.
pub const AHEAD_DEFAULT: usize = 32;

/// Blocks asked for before they are needed, at most.
pub const AHEAD_MAX: usize = BLOCKS_AHEAD;

/// Bytes in order. Ends after the first error.
pub type ByteStream = BoxStream<'static, Result<Bytes, ContentError>>;

/// Entries of a directory. Ends after the first error.
pub type EntryStream = BoxStream<'static, Result<DirectoryEntry, ContentError>>;

/// Blocks of a DAG. Ends after the first error.
pub type BlockStream = BoxStream<'static, Result<Block, ContentError>>;

/// Reads content out of a [`Source`]. Cheap to clone.
#[derive(Clone)]
pub struct Content {
    source: Arc<dyn Source>,
    ahead: usize,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What it leads to. Whether that block is to be had was not looked at.
    pub cid: Cid,
    /// The blocks on the way, the root first, without the one that it leads to: directories and their shards.
    pub along: Vec<Cid>,
}

/// A file that is being read.
pub struct FileContent {
    /// Length of the whole file in bytes.
    pub file_bytes: u64,
    /// The bytes of the range.
    pub bytes: ByteStream,
}

/// How much of a DAG is meant: `dag-scope` of the trustless gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// The root block.
    Block,
    /// What it takes to read the file, or a range of it, or to list the directory. Of what is neither, the root block.
    Entity {
        /// First byte of the file, from its end when negative.
        from: i64,
        /// Last byte of the file, from its end when negative; none is the end.
        to: Option<i64>,
    },
    /// Everything below the root.
    #[default]
    All,
}

/// How a DAG is walked. By default all of it, each block once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WalkOptions {
    /// How much of it.
    pub scope: Scope,
    /// Whether a block comes as often as it is linked to. Of [`Scope::Entity`] each comes once in any case.
    pub duplicates: bool,
}

/// Links that a walk has found and not followed yet, at most: several times the most that one block has.
pub const FRONTIER_MAX: usize = 4 * cluster_dag::codec::LINKS_MAX;

/// Blocks that a walk knows again, at most. In what has more, blocks from then on may come more than once.
pub const SEEN_MAX: usize = 2 * 1024 * 1024;

/// Bytes of the root blocks of all directories that a tar is inside of at one time.
pub const OPEN_DIRECTORIES_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Content {
    /// A reader.
    pub fn new(source: Arc<dyn Source>) -> Self {
        Self {
            source,
            ahead: AHEAD_DEFAULT,
        }
    }

    /// Asks for so many blocks before they are needed, 1 to [`AHEAD_MAX`].
    pub fn ahead(mut self, blocks: usize) -> Self {
        self.ahead = blocks.clamp(1, AHEAD_MAX);
        self
    }

    /// One block, also of an identity CID.
    pub async fn block(&self, cid: &Cid) -> Result<Block, ContentError> {
        match Block::inline(*cid) {
            Some(block) => Ok(block),
            None => Ok(self.source.get(cid).await?),
        }
    }

    /// Follows a path below a root: `a/b/c`, with any number of `/` around and between the names; an empty one leads to
    /// the root. Symlinks are not followed, as in Kubo.
    pub async fn resolve(&self, root: Cid, path: &[u8]) -> Result<Resolved, ContentError> {
        let mut resolver = PathResolver::new(root, path)?;
        let mut along = Vec::new();
        loop {
            match resolver.step()? {
                ResolveStep::Found(cid) => return Ok(Resolved { cid, along }),
                ResolveStep::Need(cid) => {
                    resolver.supply(self.block(&cid).await?);
                    along.push(cid);
                }
            }
        }
    }

    /// What something is: file, directory or symlink, with its metadata.
    pub async fn node(&self, cid: &Cid) -> Result<Node, ContentError> {
        Ok(Node::decode(&self.block(cid).await?)?)
    }

    /// Reads a file from byte `start` on, `length` bytes of it or, with none, all. A range that begins behind the end is
    /// an error, one that ends there is cut. A directory or symlink is an error.
    pub async fn cat(&self, cid: Cid, start: u64, length: Option<u64>) -> Result<FileContent, ContentError> {
        let root = self.block(&cid).await?;
        let file_bytes = match Node::decode(&root)? {
            Node::File { bytes, .. } => bytes,
            node => {
                return Err(DagError::WrongKind {
                    cid: Box::new(cid),
                    found: kind(&node),
                    wanted: "a file",
                }
                .into());
            }
        };
        if start > file_bytes {
            return Err(ContentError::Range {
                cid: Box::new(cid),
                start,
                bytes: file_bytes,
            });
        }
        let end = length.map(|length| start.saturating_add(length));
        let bytes = self.read(root, start, end);
        Ok(FileContent { file_bytes, bytes })
    }

    /// A part of the file with this root block.
    fn read(&self, root: Block, start: u64, end: Option<u64>) -> ByteStream {
        let mut reader = FileReader::new(root.cid()).range(start, end).ahead(self.ahead);
        let mut fetcher = Fetcher::new(self.source.clone(), self.ahead);
        Box::pin(try_stream! {
            let mut root = Some(root);
            loop {
                for cid in reader.wanted() {
                    if root.as_ref().is_none_or(|root| root.cid() != cid) {
                        fetcher.want(cid);
                    }
                }
                match reader.step()? {
                    ReadStep::Data(bytes) => yield bytes,
                    ReadStep::Need(cid) => {
                        let block = match root.take() {
                            Some(root) if root.cid() == cid => root,
                            _ => fetcher.take(cid).await?,
                        };
                        reader.supply(block);
                    }
                    ReadStep::End => break,
                }
            }
        })
    }

    /// The entries of a directory: of a plain one in the order in which it holds them, by name as a rule; of a sharded one
    /// by the hash of the name.
    pub fn list(&self, cid: Cid) -> EntryStream {
        let mut reader = DirectoryReader::new(cid);
        let mut fetcher = Fetcher::new(self.source.clone(), self.ahead);
        Box::pin(try_stream! {
            loop {
                for cid in reader.wanted() {
                    fetcher.want(cid);
                }
                match reader.step()? {
                    ListStep::Entry(entry) => yield entry,
                    ListStep::Need(cid) => {
                        let block = fetcher.take(cid).await?;
                        reader.supply(block);
                    }
                    ListStep::End => break,
                }
            }
        })
    }
}

fn kind(node: &Node) -> &'static str {
    match node {
        Node::File { .. } => "a file",
        Node::Directory { .. } => "a directory",
        Node::Symlink { .. } => "a symlink",
    }
}
