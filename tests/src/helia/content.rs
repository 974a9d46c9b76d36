//! What a Helia peer, or the CAR tool, can be told to make. All of it follows from seeds.

use node_core::Cid;
use serde::{Deserialize, Serialize};

use crate::content::{seeded_bytes, sha256};

/// Something to make. Sizes are in bytes.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "make", rename_all = "snake_case")]
pub enum Make {
    /// A file of [`seeded_bytes`] of file 0.
    Bytes {
        /// The seed.
        seed: u32,
        /// Its size.
        size: u64,
        /// How it is cut into blocks.
        options: UnixfsOptions,
    },
    /// A directory of files named by [`file_name`], file n of [`seeded_bytes`] each.
    Directory {
        /// The seed.
        seed: u32,
        /// Their number.
        files: u32,
        /// The size of each.
        size: u64,
        /// How it is cut into blocks.
        options: UnixfsOptions,
    },
    /// A tree of nodes that link to `width` others each, `depth` levels below the root; a chain when `width` is 1. All
    /// nodes of the lowest level link to the same raw block of 1000 bytes.
    Graph {
        /// Of what the nodes are.
        codec: GraphCodec,
        /// The seed.
        seed: u32,
        /// The number of levels below the root.
        depth: u32,
        /// The number of links of an inner node.
        width: u32,
    },
    /// One block as given.
    Block {
        /// The multicodec code, for example 0x55 for raw.
        codec: u64,
        /// How it is hashed.
        hash: Hash,
        /// Its content.
        #[serde(with = "base64")]
        data: Vec<u8>,
    },
}

impl Make {
    /// A file, cut into blocks as Kubo does with `cid-version=1` and a chunk size of 1 MiB.
    pub fn bytes(seed: u32, size: u64) -> Self {
        Self::Bytes {
            seed,
            size,
            options: UnixfsOptions::default(),
        }
    }

    /// A directory in one block, unless that would be larger than 256 KiB.
    pub fn directory(seed: u32, files: u32, size: u64) -> Self {
        Self::Directory {
            seed,
            files,
            size,
            options: UnixfsOptions::default(),
        }
    }

    /// A HAMT directory, however few files there are.
    pub fn hamt(seed: u32, files: u32, size: u64) -> Self {
        Self::Directory {
            seed,
            files,
            size,
            options: UnixfsOptions {
                shard_above_bytes: Some(0),
                ..UnixfsOptions::default()
            },
        }
    }

    /// A tree of dag-cbor or dag-json nodes.
    pub fn graph(codec: GraphCodec, seed: u32, depth: u32, width: u32) -> Self {
        Self::Graph {
            codec,
            seed,
            depth,
            width,
        }
    }

    /// A raw block with one of the hashes.
    pub fn raw_block(hash: Hash, data: &[u8]) -> Self {
        Self::Block {
            codec: 0x55,
            hash,
            data: data.to_vec(),
        }
    }

    /// The SHA-256 that [`super::Fetched::content_sha256`] must be: over all files, in the order of their names. None for
    /// what has no files.
    pub fn content_sha256(&self) -> Option<[u8; 32]> {
        let count = |size: u64| usize::try_from(size).expect("the content fits into memory");
        match *self {
            Self::Bytes { seed, size, .. } => Some(sha256(&seeded_bytes(seed, 0, count(size)))),
            Self::Directory { seed, files, size, .. } => {
                let all: Vec<u8> = (0..files)
                    .flat_map(|file| seeded_bytes(seed, file, count(size)))
                    .collect();
                Some(sha256(&all))
            }
            Self::Block {
                codec: 0x55, ref data, ..
            } => Some(sha256(data)),
            Self::Graph { .. } | Self::Block { .. } => None,
        }
    }
}

/// The name of a file in a directory that was made from a seed.
pub fn file_name(file: u32) -> String {
    format!("file-{file:06}")
}

/// The files of a directory that is made from a seed, by name and content.
pub fn seeded_files(seed: u32, files: u32, size: usize) -> Vec<(String, Vec<u8>)> {
    (0..files)
        .map(|file| (file_name(file), seeded_bytes(seed, file, size)))
        .collect()
}

/// How files and directories are cut into blocks; what is not set is as the profile says.
#[derive(Debug, Clone, Default, Serialize)]
pub struct UnixfsOptions {
    /// The CID profile.
    pub profile: Profile,
    /// Bytes of a block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_bytes: Option<u64>,
    /// Links of an inner node of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_links: Option<u32>,
    /// Whether the blocks of content are raw ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_leaves: Option<bool>,
    /// 0 or 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cid_version: Option<u8>,
    /// A directory whose size is above this becomes a HAMT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard_above_bytes: Option<u64>,
    /// The trickle layout instead of the balanced one.
    pub trickle: bool,
}

impl UnixfsOptions {
    /// Blocks of this many bytes.
    pub fn chunks_of(bytes: u64) -> Self {
        Self {
            chunk_bytes: Some(bytes),
            ..Self::default()
        }
    }
}

/// The CID profiles of IPIP-499.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Profile {
    /// CID version 0, blocks of 256 KiB in protobuf, 174 links.
    #[serde(rename = "unixfs-v0-2015")]
    V0,
    /// CID version 1, raw blocks of 1 MiB, 1024 links.
    #[default]
    #[serde(rename = "unixfs-v1-2025")]
    V1,
}

/// Of what the nodes of a graph are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GraphCodec {
    /// Code 0x71.
    DagCbor,
    /// Code 0x0129.
    DagJson,
}

/// The hashes that a peer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub enum Hash {
    #[serde(rename = "sha2-256")]
    Sha2_256,
    #[serde(rename = "sha2-512")]
    Sha2_512,
    #[serde(rename = "blake2b-256")]
    Blake2b256,
    #[serde(rename = "blake3")]
    Blake3,
    #[serde(rename = "identity")]
    Identity,
}

impl Hash {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Sha2_256,
        Self::Sha2_512,
        Self::Blake2b256,
        Self::Blake3,
        Self::Identity,
    ];
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Added {
    /// Its root.
    #[serde(deserialize_with = "super::cid")]
    pub cid: Cid,
    /// Its blocks, each counted once.
    pub blocks: u64,
    /// Their sizes.
    pub bytes: u64,
}

/// Base64 with padding, RFC 4648.
pub(super) mod base64 {
    use multibase::Base;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Base::Base64Pad.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        text.map(|text| Base::Base64Pad.decode(text).map_err(de::Error::custom))
            .transpose()
    }
}
