//! One block.

use bytes::Bytes;
use cluster_dag::codec::{DAG_PB, RAW};
use cluster_dag::unixfs::{Metadata, Mtime, Node};
use cluster_dag::{Block, links};
use node_core::Cid;
use prost::Message as _;

use crate::memory::measure;
use crate::protobuf::{self, KIND_DIRECTORY, KIND_FILE, KIND_RAW, KIND_SHARD, KIND_SYMLINK};

/// Memory beside the block's: a link of 8 bytes takes some 230, in a list that doubles, and is there again among the
/// children of a file; a size of one byte takes eight.
const MEMORY_PER_BYTE: usize = 160;
const SMALL: usize = 16 << 10;

/// Decodes a block; prost must see the same in it.
pub(super) fn check(cid: Cid, bytes: &Bytes) -> Option<Node> {
    let block = Block::trusted(cid, bytes.clone());
    let (node, held) = measure(|| Node::decode(&block));
    assert!(
        held <= MEMORY_PER_BYTE * bytes.len() + SMALL,
        "{held} bytes for {}",
        bytes.len()
    );
    let Ok(node) = node else { return None };
    if cid.codec() == RAW {
        let (bytes, metadata) = (bytes.len() as u64, Metadata::default());
        assert_eq!(node, Node::File { bytes, metadata });
        return Some(node);
    }
    assert_eq!(cid.codec(), DAG_PB);
    let found = links(&cid, bytes).expect("a UnixFS node is dag-pb");
    let theirs = protobuf::Node::decode(&bytes[..]).expect("a UnixFS node is protobuf");
    assert_eq!(theirs.links.len(), found.len());
    let data = protobuf::Data::decode(theirs.data.as_deref().unwrap_or_default()).expect("UnixFS data is protobuf");
    let metadata = match &node {
        Node::File { bytes, metadata } => {
            assert!(matches!(data.kind, KIND_RAW | KIND_FILE));
            assert_eq!(data.block_sizes.len(), found.len());
            let content = data.data.as_deref().unwrap_or_default().len() as u64;
            let sum = data
                .block_sizes
                .iter()
                .try_fold(content, |sum, size| sum.checked_add(*size));
            assert_eq!(sum, Some(*bytes));
            assert!(data.file_size.is_none_or(|size| size == *bytes));
            metadata
        }
        Node::Directory { sharded, metadata } => {
            assert_eq!(data.kind, if *sharded { KIND_SHARD } else { KIND_DIRECTORY });
            assert!(!sharded || data.fanout.is_some_and(|fanout| fanout as usize >= found.len()));
            metadata
        }
        Node::Symlink { target, metadata } => {
            assert_eq!(data.kind, KIND_SYMLINK);
            assert_eq!(target[..], data.data.unwrap_or_default());
            metadata
        }
    };
    assert_eq!(
        metadata.mode,
        data.mode.map(|mode| mode & 0o7777).filter(|mode| *mode != 0)
    );
    assert!(metadata.mtime.is_none_or(|Mtime { nanos, .. }| nanos < 1_000_000_000));
    Some(node)
}
