//! Walking a DAG, whole or in part, and giving it out as a CAR file.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use async_stream::try_stream;
use bytes::Bytes;
use cluster_dag::car::CarWriter;
use cluster_dag::unixfs::{DirectoryReader, FileReader, ListStep, Node, ReadStep};
use cluster_dag::{Block, DagError};
use futures::{FutureExt as _, StreamExt as _};
use node_core::Cid;

use super::fetch::Fetcher;
use super::{BlockStream, ByteStream, Content, FRONTIER_MAX, Resolved, SEEN_MAX, Scope, WalkOptions};
use crate::ContentError;

/// Bytes of a CAR file that are given out at once, if blocks are there: many small blocks would else be many small
/// writes. With the last block it may be 2 MiB more.
const PIECE_BYTES: usize = 256 * 1024;

/// CIDs that were met. Two hashes with keys of this process stand for each: 16 bytes instead of 160.
struct Seen {
    keys: [RandomState; 2],
    met: HashSet<[u64; 2]>,
}

impl Seen {
    fn new() -> Self {
        Self {
            keys: [RandomState::new(), RandomState::new()],
            met: HashSet::new(),
        }
    }

    fn key(&self, cid: &Cid) -> [u64; 2] {
        [self.keys[0].hash_one(cid), self.keys[1].hash_one(cid)]
    }

    fn contains(&self, cid: &Cid) -> bool {
        self.met.contains(&self.key(cid))
    }

    /// Whether it is met for the first time, as far as is remembered.
    fn insert(&mut self, cid: &Cid) -> bool {
        let key = self.key(cid);
        if self.met.len() >= SEEN_MAX {
            return !self.met.contains(&key);
        }
        self.met.insert(key)
    }
}

/// A part of a file as bytes from `from` to before `end`; none where it is empty.
pub(super) fn part(file_bytes: u64, from: i64, to: Option<i64>) -> Option<(u64, u64)> {
    let from_end = |back: i64| file_bytes.checked_sub(back.unsigned_abs());
    let start = match from {
        0.. => from as u64,
        _ => from_end(from).unwrap_or(0),
    };
    let end = match to {
        None => file_bytes,
        Some(to @ 0..) => (to as u64 + 1).min(file_bytes),
        Some(to) => from_end(to)? + 1,
    };
    (start < end).then_some((start, end))
}

impl Content {
    /// The blocks of DAGs, one DAG after another, depth first: each before those that it links to, in the order of the
    /// links. Blocks of identity CIDs are followed and left out: the CIDs carry them.
    pub fn walk(&self, roots: Vec<Cid>, options: WalkOptions) -> BlockStream {
        match options.scope {
            Scope::Block => self.walk_blocks(roots),
            Scope::Entity { from, to } => self.walk_entities(roots, from, to),
            Scope::All => self.walk_all(roots, options.duplicates),
        }
    }

    fn walk_blocks(&self, roots: Vec<Cid>) -> BlockStream {
        let content = self.clone();
        Box::pin(try_stream! {
            for root in roots {
                if Block::inline(root).is_none() {
                    yield content.block(&root).await?;
                }
            }
        })
    }

    fn walk_all(&self, mut frontier: Vec<Cid>, duplicates: bool) -> BlockStream {
        let ahead = self.ahead;
        let mut fetcher = Fetcher::new(self.source.clone(), ahead);
        let mut seen = Seen::new();
        frontier.reverse();
        Box::pin(try_stream! {
            while let Some(cid) = frontier.pop() {
                if !duplicates && !seen.insert(&cid) {
                    continue;
                }
                // What lies behind it in line is asked for while it is on its way.
                for next in frontier.iter().rev().take(ahead) {
                    if duplicates || !seen.contains(next) {
                        fetcher.want(*next);
                    }
                }
                let block = fetcher.take(cid).await?;
                let links = block.links()?;
                if frontier.len() + links.len() > FRONTIER_MAX {
                    Err(DagError::TooLarge {
                        cid: Box::new(cid),
                        what: "links that wait to be followed",
                        max: FRONTIER_MAX as u64,
                    })?;
                }
                frontier.extend(links.into_iter().rev());
                if Block::inline(cid).is_none() {
                    yield block;
                }
            }
        })
    }

    fn walk_entities(&self, roots: Vec<Cid>, from: i64, to: Option<i64>) -> BlockStream {
        let content = self.clone();
        Box::pin(try_stream! {
            let mut seen = Seen::new();
            for root in roots {
                let block = content.block(&root).await?;
                let node = Node::decode(&block);
                if seen.insert(&root) && Block::inline(root).is_none() {
                    yield block.clone();
                }
                let mut reader = match node {
                    Ok(Node::File { bytes, .. }) => match part(bytes, from, to) {
                        Some((start, end)) => Reader::File(FileReader::new(root).range(start, Some(end)).ahead(content.ahead)),
                        None => continue,
                    },
                    Ok(Node::Directory { .. }) => Reader::Directory(DirectoryReader::new(root)),
                    // A symlink is one block, and so is what is no UnixFS.
                    Ok(Node::Symlink { .. }) | Err(_) => continue,
                };
                let mut fetcher = Fetcher::new(content.source.clone(), content.ahead);
                let mut root = Some(block);
                loop {
                    for cid in reader.wanted() {
                        if root.as_ref().is_none_or(|block| block.cid() != cid) {
                            fetcher.want(cid);
                        }
                    }
                    // Blocks are needed in the order in which they lie in the file or directory: depth first.
                    let Some(cid) = reader.needs()? else { break };
                    let block = match root.take() {
                        Some(root) if root.cid() == cid => root,
                        _ => fetcher.take(cid).await?,
                    };
                    reader.supply(block.clone());
                    if seen.insert(&cid) {
                        yield block;
                    }
                }
            }
        })
    }

    /// A CAR file of version 1 with these roots and, one after another, their DAGs. It ends after the first error, in the
    /// middle of the file.
    pub fn car(&self, roots: Vec<Cid>, options: WalkOptions) -> ByteStream {
        let blocks = self.walk(roots.clone(), options);
        car(roots, blocks)
    }

    /// A CAR file of version 1 of where a path leads: the blocks on the way, which prove where it leads, and then what lies
    /// there. Its root is the end of the path, as in Kubo.
    pub fn car_of_path(&self, resolved: &Resolved, options: WalkOptions) -> ByteStream {
        let way = self.walk_blocks(resolved.along.clone());
        let blocks = way.chain(self.walk(vec![resolved.cid], options));
        car(vec![resolved.cid], blocks.boxed())
    }
}

enum Reader {
    File(FileReader),
    Directory(DirectoryReader),
}

impl Reader {
    fn wanted(&mut self) -> Vec<Cid> {
        match self {
            Self::File(reader) => reader.wanted(),
            Self::Directory(reader) => reader.wanted(),
        }
    }

    /// Reads on to the next block that is missing; none at the end.
    fn needs(&mut self) -> Result<Option<Cid>, DagError> {
        loop {
            match self {
                Self::File(reader) => match reader.step()? {
                    ReadStep::Data(_) => {}
                    ReadStep::Need(cid) => return Ok(Some(cid)),
                    ReadStep::End => return Ok(None),
                },
                Self::Directory(reader) => match reader.step()? {
                    ListStep::Entry(_) => {}
                    ListStep::Need(cid) => return Ok(Some(cid)),
                    ListStep::End => return Ok(None),
                },
            }
        }
    }

    fn supply(&mut self, block: Block) {
        match self {
            Self::File(reader) => reader.supply(block),
            Self::Directory(reader) => reader.supply(block),
        };
    }
}

fn car(roots: Vec<Cid>, mut blocks: BlockStream) -> ByteStream {
    Box::pin(try_stream! {
        let mut out = Vec::new();
        let mut writer = CarWriter::new(&roots, &mut out)?;
        let mut failed: Option<ContentError> = None;
        // The first block is waited for: with it, or its error, there is something to say.
        while let Some(block) = blocks.next().await {
            match block {
                Ok(block) => writer.block(&block, &mut out),
                Err(error) => failed = Some(error),
            }
            while failed.is_none() && out.len() < PIECE_BYTES {
                match blocks.next().now_or_never() {
                    Some(Some(Ok(block))) => writer.block(&block, &mut out),
                    Some(Some(Err(error))) => failed = Some(error),
                    Some(None) | None => break,
                }
            }
            if !out.is_empty() {
                yield Bytes::from(std::mem::take(&mut out));
            }
            if let Some(error) = failed.take() {
                Err(error)?;
            }
        }
        if !out.is_empty() {
            yield Bytes::from(out);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::part;

    #[test]
    fn parts_are_counted_from_both_ends() {
        for (bytes, from, to, expected) in [
            (10, 0, None, Some((0, 10))),
            (10, 3, Some(5), Some((3, 6))),
            (10, 3, Some(100), Some((3, 10))),
            (10, -4, None, Some((6, 10))),
            (10, -40, None, Some((0, 10))),
            (10, 2, Some(-3), Some((2, 8))),
            (10, 0, Some(-10), Some((0, 1))),
            (10, 0, Some(-11), None),
            (10, 9, Some(-1), Some((9, 10))),
            (10, 10, None, None),
            (10, 5, Some(4), None),
            (0, 0, None, None),
            (10, i64::MIN, Some(i64::MAX), Some((0, 10))),
            (u64::MAX, i64::MAX, None, Some((i64::MAX as u64, u64::MAX))),
        ] {
            assert_eq!(part(bytes, from, to), expected, "{from}:{to:?} of {bytes}");
        }
    }
}
