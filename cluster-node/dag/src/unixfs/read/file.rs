//! Reading a file, or a range of it.

use bytes::Bytes;
use node_core::Cid;

use super::BLOCKS_AHEAD;
use super::ahead::Ahead;
use super::node::{Decoded, FileNode, Shape};
use crate::{Block, DagError};

/// How deep the blocks of a file may lie. With two links per node that is 2^128 chunks, so no file is that deep; a chain
/// of blocks that is made to keep readers busy ends here.
const DEPTH_MAX: u32 = 128;

/// Blocks that a file may have pending: several nodes as wide as a block can hold. Each takes some 200 bytes, so a
/// hostile file can make a reader hold 50 MiB; one that Kubo made, some hundred kilobytes.
const PENDING_MAX: usize = 4 * crate::codec::LINKS_MAX;

/// Reads the content of a file in order, from blocks that come in any order.
///
/// Only blocks that hold a part of the range, or lead to one, are asked for. What a node says of the length of its
/// children is checked when they come, so a file is never longer than its root says.
///
/// ```
/// # use cluster_dag::unixfs::{FileBuilder, FileReader, Metadata, Options, ReadStep};
/// # let mut store = std::collections::HashMap::new();
/// # let mut file = FileBuilder::new(Options::v1_2025(), Metadata::default()).expect("valid");
/// # file.write(b"hello world", &mut |block| drop(store.insert(block.cid(), block))).expect("fits");
/// # let root = file.finish(&mut |block| drop(store.insert(block.cid(), block))).expect("fits").cid;
/// let mut reader = FileReader::new(root).range(6, None);
/// let mut content = Vec::new();
/// loop {
///     for cid in reader.wanted() {
///         reader.supply(store[&cid].clone()); // in truth: fetch several at once, supply each as it arrives
///     }
///     match reader.step().expect("a file") {
///         ReadStep::Data(bytes) => content.extend_from_slice(&bytes),
///         ReadStep::Need(_) => continue, // in truth: wait until a block arrives
///         ReadStep::End => break,
///     }
/// }
/// assert_eq!(content, b"world");
/// ```
#[derive(Debug)]
pub struct FileReader {
    /// What is to be read, the next at the end.
    pending: Vec<Pending>,
    ahead: Ahead,
    start: u64,
    /// Behind the last byte that is wanted.
    end: u64,
    bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    cid: Cid,
    /// Where it begins in the file.
    offset: u64,
    /// How long it is, said by the node above it; the root is as long as it says itself.
    bytes: Option<u64>,
    depth: u32,
}

/// What a step of [`FileReader`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadStep {
    /// The next bytes of the content; never none.
    Data(Bytes),
    /// Nothing, until this block is supplied. It is among those that were wanted, or will be the next time.
    Need(Cid),
    /// Nothing more.
    End,
}

impl FileReader {
    /// A reader of the whole file that has this root.
    pub fn new(root: Cid) -> Self {
        Self {
            pending: vec![Pending {
                cid: root,
                offset: 0,
                bytes: None,
                depth: 0,
            }],
            ahead: Ahead::new(BLOCKS_AHEAD),
            start: 0,
            end: u64::MAX,
            bytes: None,
        }
    }

    /// Reads only the bytes from `start` to before `end`; where the file is shorter, to its end.
    pub fn range(mut self, start: u64, end: Option<u64>) -> Self {
        (self.start, self.end) = (start, end.unwrap_or(u64::MAX));
        self
    }

    /// Asks for so many blocks before they are needed, 1 to [`BLOCKS_AHEAD`].
    pub fn ahead(mut self, blocks: usize) -> Self {
        self.ahead = Ahead::new(blocks);
        self
    }

    /// The length of the whole file in bytes, as soon as the root was read.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Blocks to fetch now, the most urgent first. Each is named once: the caller sees to it that it is supplied.
    pub fn wanted(&mut self) -> Vec<Cid> {
        let next = self.pending.iter().rev().map(|pending| pending.cid);
        self.ahead.want(next)
    }

    /// Takes a block that was wanted, or that the last step needs. Whether it was one; others are not kept.
    pub fn supply(&mut self, block: Block) -> bool {
        self.ahead.supply(block)
    }

    /// Goes on as far as it can. After an error there is no more to be had.
    pub fn step(&mut self) -> Result<ReadStep, DagError> {
        while let Some(next) = self.pending.pop() {
            let upcoming = self.pending.iter().rev().take(self.ahead.limit());
            let again = upcoming.into_iter().any(|pending| pending.cid == next.cid);
            let Some(bytes) = self.ahead.take(&next.cid, again) else {
                self.pending.push(next);
                return Ok(ReadStep::Need(next.cid));
            };
            let read = self.read(next, &bytes);
            if read.is_err() {
                self.pending.clear();
            }
            if let Some(data) = read? {
                return Ok(ReadStep::Data(data));
            }
        }
        Ok(ReadStep::End)
    }

    /// Takes a block apart: puts its children in line and returns the part of the range that is in it.
    fn read(&mut self, block: Pending, bytes: &Bytes) -> Result<Option<Bytes>, DagError> {
        let decoded = Decoded::new(&block.cid, bytes)?;
        let found = decoded.shape.name();
        let Shape::File(node) = decoded.shape else {
            return Err(DagError::WrongKind {
                cid: Box::new(block.cid),
                found,
                wanted: "a file",
            });
        };
        match block.bytes {
            None => self.bytes = Some(node.bytes),
            Some(said) if said != node.bytes => {
                return Err(DagError::Malformed {
                    cid: Box::new(block.cid),
                    codec: "UnixFS",
                    reason: format!("it is {} bytes long, and the node above it says {said}", node.bytes),
                });
            }
            Some(_) => {}
        }
        self.queue_children(block, &node)?;
        let content_end = block.offset + node.content.len() as u64;
        let (from, to) = (self.start.max(block.offset), self.end.min(content_end));
        // Both differences are within the content, whose length is a usize.
        Ok((from < to).then(|| {
            node.content
                .slice((from - block.offset) as usize..(to - block.offset) as usize)
        }))
    }

    fn queue_children(&mut self, block: Pending, node: &FileNode) -> Result<(), DagError> {
        let too_large = |what, max| DagError::TooLarge {
            cid: Box::new(block.cid),
            what,
            max,
        };
        let mut offset = block.offset + node.content.len() as u64;
        let first = self.pending.len();
        for (cid, bytes) in &node.children {
            // The sum of a node's parts was checked, and that of the root fits into 64 bits.
            let end = offset + bytes;
            // The part of the range that is in it; a child without content has none.
            if offset.max(self.start) < end.min(self.end) {
                if self.pending.len() == PENDING_MAX {
                    return Err(too_large(
                        "blocks of a file that wait for each other",
                        PENDING_MAX as u64,
                    ));
                }
                self.pending.push(Pending {
                    cid: *cid,
                    offset,
                    bytes: Some(*bytes),
                    depth: block.depth + 1,
                });
            }
            offset = end;
        }
        if self.pending.len() > first && block.depth == DEPTH_MAX {
            return Err(too_large("levels of a file", u64::from(DEPTH_MAX)));
        }
        self.pending[first..].reverse();
        Ok(())
    }
}
