//! dag-pb and UnixFS as prost reads and writes them: another decoder to compare with, and an encoder that makes what our
//! own writers never would.

use node_core::Cid;

/// A dag-pb node.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Node {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(crate) data: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) links: Vec<Link>,
}

/// A link of a dag-pb node.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Link {
    #[prost(bytes = "vec", optional, tag = "1")]
    pub(crate) hash: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(crate) name: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) tsize: Option<u64>,
}

impl Link {
    pub(crate) fn to(cid: &Cid, name: &[u8], tsize: u64) -> Self {
        Self {
            hash: Some(cid.to_bytes()),
            name: Some(name.to_vec()),
            tsize: Some(tsize),
        }
    }

    pub(crate) fn cid(&self) -> Option<Cid> {
        Cid::from_bytes(self.hash.as_deref()?).ok()
    }
}

/// The data of a UnixFS node; without the mtime, of which no comparison is made.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Data {
    #[prost(int32, required, tag = "1")]
    pub(crate) kind: i32,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(crate) data: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) file_size: Option<u64>,
    #[prost(uint64, repeated, packed = "false", tag = "4")]
    pub(crate) block_sizes: Vec<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub(crate) hash_type: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    pub(crate) fanout: Option<u64>,
    #[prost(uint32, optional, tag = "7")]
    pub(crate) mode: Option<u32>,
}

pub(crate) const KIND_RAW: i32 = 0;
pub(crate) const KIND_DIRECTORY: i32 = 1;
pub(crate) const KIND_FILE: i32 = 2;
pub(crate) const KIND_SYMLINK: i32 = 4;
pub(crate) const KIND_SHARD: i32 = 5;
