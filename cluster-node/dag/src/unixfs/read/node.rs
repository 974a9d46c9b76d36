//! What a UnixFS block is.

use bytes::Bytes;
use node_core::Cid;

use crate::codec::{self, Fault, pb};
use crate::unixfs::data::{Data, Kind};
use crate::unixfs::murmur3;
use crate::unixfs::slots::prefix;
use crate::unixfs::write::Metadata;
use crate::{Block, DagError};

/// What the root block of something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A file, or a chunk of one: read it with [`super::FileReader`].
    File {
        /// Its length in bytes.
        bytes: u64,
        /// Mode and mtime.
        metadata: Metadata,
    },
    /// A directory: list it with [`super::DirectoryReader`].
    Directory {
        /// Whether it is one of many blocks.
        sharded: bool,
        /// Mode and mtime.
        metadata: Metadata,
    },
    /// A symlink.
    Symlink {
        /// Where it leads. Any bytes; nothing here follows it.
        target: Bytes,
        /// Mode and mtime.
        metadata: Metadata,
    },
}

impl Node {
    /// Decodes a block of UnixFS: dag-pb, or raw, which is a chunk of a file.
    pub fn decode(block: &Block) -> Result<Self, DagError> {
        let decoded = Decoded::new(&block.cid(), block.bytes())?;
        let metadata = decoded.metadata;
        Ok(match decoded.shape {
            Shape::File(file) => Self::File {
                bytes: file.bytes,
                metadata,
            },
            Shape::Directory(_) => Self::Directory {
                sharded: false,
                metadata,
            },
            Shape::Shard(_) => Self::Directory {
                sharded: true,
                metadata,
            },
            Shape::Symlink(target) => Self::Symlink { target, metadata },
        })
    }
}

/// A block of UnixFS, decoded and checked.
pub(super) struct Decoded {
    pub(super) shape: Shape,
    pub(super) metadata: Metadata,
}

pub(super) enum Shape {
    File(FileNode),
    Directory(Vec<pb::Link>),
    Shard(Shard),
    Symlink(Bytes),
}

/// A block of a file.
pub(super) struct FileNode {
    /// The content in the block itself, which stands before that of its children.
    pub(super) content: Bytes,
    /// Its children and their lengths in bytes.
    pub(super) children: Vec<(Cid, u64)>,
    /// Length of all of it.
    pub(super) bytes: u64,
}

/// A block of a sharded directory.
pub(super) struct Shard {
    /// Bits of a name's hash that it takes.
    pub(super) bits: u32,
    /// What stands in its slots, by rising number of the slot.
    pub(super) slots: Vec<(usize, Slot)>,
}

pub(super) enum Slot {
    /// An entry of the directory.
    Entry(pb::Link),
    /// The shard of all entries that fall into this slot.
    Shard(Cid),
}

impl Shape {
    /// For error messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::File(_) => "a file",
            Self::Directory(_) | Self::Shard(_) => "a directory",
            Self::Symlink(_) => "a symlink",
        }
    }
}

impl Decoded {
    pub(super) fn new(cid: &Cid, bytes: &Bytes) -> Result<Self, DagError> {
        match cid.codec() {
            codec::RAW => Ok(Self {
                shape: Shape::File(FileNode {
                    content: bytes.clone(),
                    children: Vec::new(),
                    bytes: bytes.len() as u64,
                }),
                metadata: Metadata::default(),
            }),
            codec::DAG_PB => decode(bytes).map_err(|fault| fault.of(cid, "UnixFS")),
            code => Err(DagError::WrongKind {
                cid: Box::new(*cid),
                found: match code {
                    codec::DAG_CBOR => "a dag-cbor block",
                    codec::DAG_JSON => "a dag-json block",
                    _ => "a block of another codec",
                },
                wanted: "a UnixFS file or directory",
            }),
        }
    }
}

fn decode(bytes: &Bytes) -> Result<Decoded, Fault> {
    let node = pb::Node::decode(bytes)?;
    let data = node
        .data
        .ok_or_else(|| Fault::new("it is a dag-pb block without UnixFS data"))?;
    let data = Data::decode(&data)?;
    let metadata = Metadata {
        mode: data.mode.map(|mode| mode & 0o7777).filter(|mode| *mode != 0),
        mtime: data.mtime,
    };
    let shape = match data.kind {
        Kind::File | Kind::Raw => Shape::File(file(data, &node.links)?),
        Kind::Directory => Shape::Directory(node.links),
        Kind::HamtShard => Shape::Shard(shard(&data, node.links)?),
        Kind::Symlink => Shape::Symlink(data.data.unwrap_or_default()),
        Kind::Metadata => {
            return Err(Fault::new(
                "it is of the UnixFS type Metadata, which was given up long ago",
            ));
        }
    };
    Ok(Decoded { shape, metadata })
}

fn file(data: Data, links: &[pb::Link]) -> Result<FileNode, Fault> {
    if data.block_sizes.len() != links.len() {
        return Err(Fault::new(format!(
            "it has {} links and {} sizes of what they lead to",
            links.len(),
            data.block_sizes.len()
        )));
    }
    let content = data.data.unwrap_or_default();
    let bytes = data
        .block_sizes
        .iter()
        .try_fold(content.len() as u64, |sum, size| sum.checked_add(*size))
        .ok_or_else(|| Fault::new("its length does not fit into 64 bits"))?;
    if data.file_size.is_some_and(|size| size != bytes) {
        return Err(Fault::new(format!(
            "it says that it is {} bytes long, and its parts together are {bytes}",
            data.file_size.unwrap_or_default()
        )));
    }
    let children = links
        .iter()
        .zip(data.block_sizes)
        .map(|(link, size)| (link.cid, size))
        .collect();
    Ok(FileNode {
        content,
        children,
        bytes,
    })
}

fn shard(data: &Data, links: Vec<pb::Link>) -> Result<Shard, Fault> {
    if data.hash_type != Some(murmur3::CODE) {
        return Err(Fault::new(format!(
            "it is sharded by hash 0x{:x}, and only murmur3-x64-64 (0x22) is known",
            data.hash_type.unwrap_or_default()
        )));
    }
    let fanout = data.fanout.unwrap_or_default();
    if !(8..=1024).contains(&fanout) || !fanout.is_power_of_two() {
        return Err(Fault::new(format!(
            "it has a fanout of {fanout}, which is no power of two from 8 to 1024"
        )));
    }
    let fanout = fanout as usize;
    let field = data.data.as_deref().unwrap_or_default();
    if field.len() > fanout / 8 {
        return Err(Fault::new(format!(
            "its bit field of {} bytes is longer than its fanout of {fanout}",
            field.len()
        )));
    }
    // The last byte holds the first eight slots.
    let set = (0..8 * field.len()).filter(|slot| field[field.len() - 1 - slot / 8] >> (slot % 8) & 1 == 1);
    let set: Vec<usize> = set.collect();
    if set.len() != links.len() {
        return Err(Fault::new(format!(
            "it has {} links, and its bit field has {}",
            links.len(),
            set.len()
        )));
    }
    let slots = set.into_iter().zip(links).map(|(slot, link)| {
        let prefix = prefix(slot, fanout);
        let Some(name) = link.name.strip_prefix(prefix.as_bytes()) else {
            return Err(Fault::new(format!(
                "the link in slot {slot} is named {:?} and should begin with {prefix}",
                crate::error::shown(&link.name)
            )));
        };
        let slot_content = if name.is_empty() {
            Slot::Shard(link.cid)
        } else {
            Slot::Entry(pb::Link {
                name: link.name.slice(prefix.len()..),
                ..link
            })
        };
        Ok((slot, slot_content))
    });
    Ok(Shard {
        bits: fanout.ilog2(),
        slots: slots.collect::<Result<_, _>>()?,
    })
}
