//! The nodes above the chunks of a file, built as the chunks come.
//!
//! Both layouts keep only nodes that still take children: one per level. That is at most `file_links_max` encoded links
//! for each of a handful of levels, whatever the length of the file.

use bytes::Bytes;

use super::Metadata;
use super::node::{Child, OpenNode, leaf};
use crate::unixfs::data::Kind;
use crate::unixfs::{Layout, Options};
use crate::{Block, DagError};

/// How many subtrees of a depth stand side by side in a trickle DAG (boxo, `depthRepeat`).
const SUBTREES_PER_DEPTH: usize = 4;

/// No metadata: what every node but the root has.
const NONE: Metadata = Metadata {
    mode: None,
    mtime: None,
};

/// A file that is being built.
#[derive(Debug)]
pub(super) enum Tree {
    Balanced(Balanced),
    Trickle(Trickle),
}

impl Tree {
    pub(super) fn new(layout: Layout) -> Self {
        match layout {
            Layout::Balanced => Self::Balanced(Balanced::default()),
            Layout::Trickle => Self::Trickle(Trickle {
                open: vec![Branch::new(None)],
            }),
        }
    }

    pub(super) fn chunk(
        &mut self,
        options: &Options,
        chunk: Bytes,
        sink: &mut dyn FnMut(Block),
    ) -> Result<(), DagError> {
        match self {
            Self::Balanced(balanced) => balanced.chunk(options, chunk, sink),
            Self::Trickle(trickle) => trickle.chunk(options, chunk, sink),
        }
    }

    /// Closes all open nodes and returns the root, whose block is not given away yet.
    pub(super) fn finish(
        self,
        options: &Options,
        metadata: &Metadata,
        sink: &mut dyn FnMut(Block),
    ) -> Result<Child, DagError> {
        match self {
            Self::Balanced(balanced) => balanced.finish(options, metadata, sink),
            Self::Trickle(trickle) => trickle.finish(options, metadata, sink),
        }
    }
}

/// All leaves equally deep. `levels[0]` links to leaves, each level above to closed nodes of the one below.
#[derive(Debug, Default)]
pub(super) struct Balanced {
    /// The first chunk, until a second comes: alone it is the root, and the root's metadata are in it.
    first: Option<Bytes>,
    levels: Vec<OpenNode>,
}

impl Balanced {
    fn chunk(&mut self, options: &Options, chunk: Bytes, sink: &mut dyn FnMut(Block)) -> Result<(), DagError> {
        if self.levels.is_empty() {
            let Some(first) = self.first.take() else {
                self.first = Some(chunk);
                return Ok(());
            };
            self.add(options, 0, leaf(options, Kind::File, first, &NONE)?, sink)?;
        }
        self.add(options, 0, leaf(options, Kind::File, chunk, &NONE)?, sink)
    }

    /// Adds to a level. A full node is closed only when there is more for it: the last one may become the root.
    fn add(
        &mut self,
        options: &Options,
        level: usize,
        child: Child,
        sink: &mut dyn FnMut(Block),
    ) -> Result<(), DagError> {
        if level == self.levels.len() {
            self.levels.push(OpenNode::default());
        }
        if self.levels[level].children() == options.file_links_max {
            let full = std::mem::take(&mut self.levels[level]);
            // As deep as there are levels: 64 bits of length divided by two links at the least.
            self.add(options, level + 1, full.close(options, &NONE)?, sink)?;
        }
        let block = self.levels[level].add(child);
        sink(block);
        Ok(())
    }

    fn finish(
        mut self,
        options: &Options,
        metadata: &Metadata,
        sink: &mut dyn FnMut(Block),
    ) -> Result<Child, DagError> {
        if self.levels.is_empty() {
            return leaf(options, Kind::File, self.first.unwrap_or_default(), metadata);
        }
        let mut level = 0;
        loop {
            let node = std::mem::take(&mut self.levels[level]);
            if level + 1 == self.levels.len() {
                return node.close(options, metadata);
            }
            // The level above may be full, and then become a child of a level more.
            self.add(options, level + 1, node.close(options, &NONE)?, sink)?;
            level += 1;
        }
    }
}

/// Leaves right below each node, then subtrees that get deeper and deeper.
#[derive(Debug)]
pub(super) struct Trickle {
    /// From the root down to the node that takes the next leaf; never empty.
    open: Vec<Branch>,
}

/// An open node of a trickle DAG.
#[derive(Debug)]
struct Branch {
    node: OpenNode,
    /// Subtrees of this depth and more may not stand in it; none at the root.
    depth_end: Option<usize>,
    subtrees: usize,
}

impl Branch {
    fn new(depth_end: Option<usize>) -> Self {
        Self {
            node: OpenNode::default(),
            depth_end,
            subtrees: 0,
        }
    }

    /// The depth of the next subtree, if there may be one.
    fn next_depth(&self) -> Option<usize> {
        let depth = 1 + self.subtrees / SUBTREES_PER_DEPTH;
        self.depth_end.is_none_or(|end| depth < end).then_some(depth)
    }
}

impl Trickle {
    fn chunk(&mut self, options: &Options, chunk: Bytes, sink: &mut dyn FnMut(Block)) -> Result<(), DagError> {
        let leaf = leaf(options, Kind::Raw, chunk, &NONE)?;
        while let Some(last) = self.open.last_mut() {
            if last.node.children() < options.file_links_max {
                let block = last.node.add(leaf);
                sink(block);
                return Ok(());
            }
            match last.next_depth() {
                Some(depth) => {
                    last.subtrees += 1;
                    self.open.push(Branch::new(Some(depth)));
                }
                None => self.close_last(options, sink)?,
            }
        }
        Ok(())
    }

    /// Closes the last open node into the one above; the root is left alone.
    fn close_last(&mut self, options: &Options, sink: &mut dyn FnMut(Block)) -> Result<(), DagError> {
        if self.open.len() > 1
            && let Some(closed) = self.open.pop()
            && let Some(above) = self.open.last_mut()
        {
            let block = above.node.add(closed.node.close(options, &NONE)?);
            sink(block);
        }
        Ok(())
    }

    fn finish(
        mut self,
        options: &Options,
        metadata: &Metadata,
        sink: &mut dyn FnMut(Block),
    ) -> Result<Child, DagError> {
        while self.open.len() > 1 {
            self.close_last(options, sink)?;
        }
        let root = self.open.pop().map(|root| root.node).unwrap_or_default();
        root.close(options, metadata)
    }
}
