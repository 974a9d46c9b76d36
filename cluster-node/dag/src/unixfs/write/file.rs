//! Adding a file.

use super::layout::Tree;
use super::{Added, Metadata};
use crate::unixfs::chunker::Splitter;
use crate::unixfs::{InvalidOptions, Options};
use crate::{Block, DagError};

/// Makes a DAG of a file whose bytes come in pieces of any size.
///
/// Blocks are given away as soon as they are complete, each before the one that links to it, repeated content as often
/// as it occurs. It holds one or two chunks and the open nodes: for the largest options some megabytes, by default some
/// hundred kilobytes. A piece of n bytes makes at most n / (shortest chunk) + 1 leaves and the nodes above them, so the
/// size of the pieces bounds what `sink` has to take at once.
///
/// ```
/// use cluster_dag::unixfs::{FileBuilder, Metadata, Options};
///
/// let mut blocks = Vec::new();
/// let mut file = FileBuilder::new(Options::v0_2015(), Metadata::default()).expect("a profile is valid");
/// file.write(b"hello ", &mut |block| blocks.push(block)).expect("chunks of a profile fit into blocks");
/// file.write(b"world\n", &mut |block| blocks.push(block)).expect("chunks of a profile fit into blocks");
/// let added = file.finish(&mut |block| blocks.push(block)).expect("nodes of a profile fit into blocks");
/// assert_eq!(added.cid.to_string(), "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o");
/// assert_eq!((added.content_bytes, blocks.len()), (12, 1));
/// ```
#[derive(Debug)]
pub struct FileBuilder {
    options: Options,
    metadata: Metadata,
    splitter: Splitter,
    tree: Tree,
}

impl FileBuilder {
    /// An empty file. Options that make no DAG are refused, and metadata together with raw leaves: a file of one chunk
    /// would have no place for them.
    pub fn new(options: Options, metadata: Metadata) -> Result<Self, InvalidOptions> {
        options.check()?;
        metadata.check()?;
        if options.raw_leaves && !metadata.is_empty() {
            return Err(InvalidOptions::new(
                "raw leaves:",
                "true",
                "leaves no place for a mode or an mtime: turn raw leaves off, or leave the metadata out",
            ));
        }
        Ok(Self {
            splitter: Splitter::new(options.chunker),
            tree: Tree::new(options.layout),
            options,
            metadata,
        })
    }

    /// Takes the next bytes. After an error the builder is of no use; the one possible is [`DagError::BlockTooLarge`].
    pub fn write(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(Block)) -> Result<(), DagError> {
        while !bytes.is_empty() {
            if let Some(chunk) = self.splitter.take(&mut bytes) {
                self.tree.chunk(&self.options, chunk, sink)?;
            }
        }
        Ok(())
    }

    /// Ends the file. The last block given away is its root.
    pub fn finish(mut self, sink: &mut dyn FnMut(Block)) -> Result<Added, DagError> {
        if let Some(chunk) = self.splitter.rest() {
            self.tree.chunk(&self.options, chunk, sink)?;
        }
        let root = self.tree.finish(&self.options, &self.metadata, sink)?;
        let added = Added {
            cid: root.block.cid(),
            tsize: root.tsize,
            content_bytes: root.content_bytes,
        };
        sink(root.block);
        Ok(added)
    }
}
