//! What a block is called: its CID, computed from its bytes.

use bytes::Bytes;
use cid::{Cid, Version, multihash::Multihash};
use multihash_codetable::{Code, MultihashDigest};

/// The multicodec of dag-pb, the only one that a CIDv0 has.
const DAG_PB: u64 = 0x70;

/// The multicodec of raw blocks.
const RAW: u64 = 0x55;

/// The multihash code of sha2-256, the only one that a CIDv0 has.
const SHA2_256: u64 = 0x12;

/// The multihash code of "the digest is the content".
pub(crate) const IDENTITY: u64 = 0x00;

/// Shortest digest that names a block. Kubo refuses to handle shorter ones, because they can be forged.
const DIGEST_BYTES_MIN: usize = 20;

/// Hash functions, so that the caller decides which ones there are.
pub trait BlockHasher {
    /// The digest of `data` by the function with the multihash code `code`, `length` bytes long. `None` when there is no
    /// such function here, or when it has no digest of that length.
    fn digest(&self, code: u64, length: usize, data: &[u8]) -> Option<Multihash<64>>;
}

/// Sha2-256 alone, which names nearly all there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sha2Hasher;

impl BlockHasher for Sha2Hasher {
    fn digest(&self, code: u64, length: usize, data: &[u8]) -> Option<Multihash<64>> {
        if code != SHA2_256 || !(DIGEST_BYTES_MIN..=32).contains(&length) {
            return None;
        }
        let whole = Code::Sha2_256.digest(data);
        if length == 32 {
            return Some(whole);
        }
        Multihash::wrap(code, whole.digest().get(..length)?).ok()
    }
}

/// All components of a CID but its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    version: Version,
    codec: u64,
    hash: u64,
    length: usize,
}

impl Prefix {
    /// The prefix of a CID.
    pub fn of(cid: &Cid) -> Self {
        Self {
            version: cid.version(),
            codec: cid.codec(),
            hash: cid.hash().code(),
            length: usize::from(cid.hash().size()),
        }
    }

    /// The prefix of every block that comes bare, as Bitswap 1.0.0 sends them: CIDv0.
    pub(crate) const V0: Self = Self {
        version: Version::V0,
        codec: DAG_PB,
        hash: SHA2_256,
        length: 32,
    };

    /// Reads the four varints; says in words what is wrong with them.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut rest = bytes;
        let mut next = |what: &str| {
            prost::encoding::decode_varint(&mut rest).map_err(|_| format!("its {what} is missing or no varint"))
        };
        let (version, codec) = (next("version")?, next("codec")?);
        let (hash, length) = (next("hash function")?, next("digest length")?);
        if !rest.is_empty() {
            return Err(format!("{} bytes are left over behind it", rest.len()));
        }
        let version = Version::try_from(version).map_err(|_| format!("there is no CID version {version}"))?;
        let length = match usize::try_from(length) {
            Ok(length) if length <= 64 => length,
            _ => return Err(format!("a digest has at most 64 bytes, not {length}")),
        };
        let prefix = Self {
            version,
            codec,
            hash,
            length,
        };
        if version == Version::V0 && prefix != Self::V0 {
            return Err("a CIDv0 is dag-pb with a sha2-256 digest of 32 bytes".into());
        }
        Ok(prefix)
    }

    pub(crate) fn to_bytes(self) -> Bytes {
        let mut bytes = Vec::with_capacity(8);
        for value in [self.version.into(), self.codec, self.hash, self.length as u64] {
            prost::encoding::encode_varint(value, &mut bytes);
        }
        bytes.into()
    }

    fn cid(self, hasher: &dyn BlockHasher, data: &[u8]) -> Option<Cid> {
        let digest = hasher.digest(self.hash, self.length, data)?;
        Cid::new(self.version, self.codec, digest).ok()
    }
}

/// A block whose CID was computed from its bytes: nothing else makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    cid: Cid,
    bare: bool,
    data: Bytes,
}

impl Block {
    /// The block with this prefix. `None` when the hash function is not known here.
    pub fn identify(prefix: &Prefix, data: Bytes, hasher: &dyn BlockHasher) -> Option<Self> {
        let cid = prefix.cid(hasher, &data)?;
        Some(Self { cid, bare: false, data })
    }

    /// A block that came without a prefix.
    pub(crate) fn identify_bare(data: Bytes, hasher: &dyn BlockHasher) -> Option<Self> {
        let cid = Prefix::V0.cid(hasher, &data)?;
        Some(Self { cid, bare: true, data })
    }

    /// Its CID.
    pub fn cid(&self) -> &Cid {
        &self.cid
    }

    /// Its content. Shares the memory of the message that it came in.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Under which CIDs it may have been wanted: its own, and where the sender could not say which codec it has, those
    /// of the common codecs.
    pub(crate) fn names(&self) -> impl Iterator<Item = Cid> + use<> {
        let others = [DAG_PB, RAW].map(|codec| Cid::new_v1(codec, *self.cid.hash()));
        let count = if self.bare { others.len() } else { 0 };
        std::iter::once(self.cid).chain(others.into_iter().take(count))
    }
}
