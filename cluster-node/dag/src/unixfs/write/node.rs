//! Blocks of a file: leaves, and nodes that link to them.

use bytes::Bytes;

use super::{Metadata, name, seal};
use crate::codec::{RAW, pb};
use crate::unixfs::Options;
use crate::unixfs::data::{Data, Kind};
use crate::{Block, DagError};

/// A finished block as the node above it sees it.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) block: Block,
    /// Bytes of file content in and below it.
    pub(super) content_bytes: u64,
    /// Bytes of all blocks in and below it.
    pub(super) tsize: u64,
}

/// A leaf with a chunk. Framed leaves are of kind `File` in the balanced layout, of kind `Raw` in the trickle layout: an
/// old mistake that CIDs depend on.
pub(super) fn leaf(options: &Options, kind: Kind, chunk: Bytes, metadata: &Metadata) -> Result<Child, DagError> {
    let content_bytes = chunk.len() as u64;
    let block = if options.raw_leaves {
        name(options, 1, RAW, chunk)?
    } else {
        let mut data = Data::new(kind);
        data.file_size = Some(content_bytes);
        data.data = (!chunk.is_empty()).then_some(chunk);
        metadata.put_into(&mut data);
        let mut bytes = Vec::new();
        data.write(&mut bytes);
        seal(options, bytes)?
    };
    Ok(Child {
        tsize: block.bytes().len() as u64,
        block,
        content_bytes,
    })
}

/// A node that still takes children. It holds them encoded: some 50 bytes each, 130 with the longest digest.
#[derive(Debug, Default)]
pub(super) struct OpenNode {
    links: Vec<u8>,
    sizes: Vec<u64>,
    content_bytes: u64,
    /// Bytes of all blocks below it.
    tsize: u64,
}

impl OpenNode {
    pub(super) fn children(&self) -> usize {
        self.sizes.len()
    }

    /// Links to a child; its block is handed back, to be given away.
    pub(super) fn add(&mut self, child: Child) -> Block {
        pb::write_link(&mut self.links, &child.block.cid(), &[], child.tsize);
        self.sizes.push(child.content_bytes);
        self.content_bytes += child.content_bytes;
        self.tsize += child.tsize;
        child.block
    }

    /// Closes it.
    pub(super) fn close(self, options: &Options, metadata: &Metadata) -> Result<Child, DagError> {
        let mut data = Data::new(Kind::File);
        data.file_size = Some(self.content_bytes);
        data.block_sizes = self.sizes;
        metadata.put_into(&mut data);
        let mut bytes = self.links;
        data.write(&mut bytes);
        let tsize = self.tsize + bytes.len() as u64;
        Ok(Child {
            block: seal(options, bytes)?,
            content_bytes: self.content_bytes,
            tsize,
        })
    }
}
