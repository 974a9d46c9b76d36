//! Blocks: bytes, and the CID that they are proven to have.

use bytes::Bytes;
use node_core::{CID_BYTES_MAX, Cid, DIGEST_BYTES_MAX};

use crate::hash::{self, HashFunction, NoDigest};
use crate::{DagError, varint};

/// The hash function whose digests are the blocks themselves.
const IDENTITY: u64 = 0x00;

/// Longest block, in bytes: Bitswap's limit, and so what every IPFS node takes and gives.
pub const BLOCK_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A block whose bytes are those that its CID names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    cid: Cid,
    bytes: Bytes,
}

impl Block {
    /// Checks bytes that came from elsewhere against the CID that they were asked for under.
    ///
    /// Refused are blocks of more than [`BLOCK_BYTES_MAX`] bytes, hash functions that are not known, digests that are
    /// too short to prove anything, and bytes that have another hash.
    pub fn new(cid: Cid, bytes: Bytes) -> Result<Self, DagError> {
        verify(&cid, &bytes)?;
        Ok(Self { cid, bytes })
    }

    /// The block of bytes that were checked before, for example when they went into the store that they come from.
    pub fn trusted(cid: Cid, bytes: Bytes) -> Self {
        Self { cid, bytes }
    }

    /// The block that an identity CID carries in itself; none for other CIDs.
    pub fn inline(cid: Cid) -> Option<Self> {
        if !hash::is_identity(cid.hash_code()) {
            return None;
        }
        let bytes = Bytes::copy_from_slice(digest_of(&cid).as_slice());
        Some(Self { cid, bytes })
    }

    /// The block of no bytes, when that is what the CID names; none for other CIDs.
    ///
    /// Whoever has such a CID has the block, as with an identity CID. It is made, and not asked for: Kubo 0.43 answers a
    /// want for it with HAVE and never sends it, so who fetches it from Kubo waits for ever.
    pub fn empty(cid: Cid) -> Option<Self> {
        Self::new(cid, Bytes::new()).ok()
    }

    /// Puts bytes into a CID of their own, of version 1 and this codec: at most 128 of them
    /// ([`crate::unixfs::INLINE_BYTES_MAX`]).
    pub fn identity(codec: u64, bytes: &[u8]) -> Result<Self, DagError> {
        let mut binary = Vec::with_capacity(CID_BYTES_MAX);
        for number in [1, codec, IDENTITY, bytes.len() as u64] {
            varint::write(&mut binary, number);
        }
        binary.extend_from_slice(bytes);
        let cid = Cid::from_bytes(&binary).map_err(|_| DagError::BadEntry {
            field: "bytes of a block that its CID shall hold:",
            value: bytes.len().to_string(),
            reason: "are too many: a CID holds at most 128",
        })?;
        Ok(Self {
            cid,
            bytes: Bytes::copy_from_slice(bytes),
        })
    }

    /// Names new bytes. Version 0 is for dag-pb under sha2-256 only; everything else becomes version 1. Whether they are
    /// what the codec says is not looked at.
    pub fn seal(version: u64, codec: u64, function: HashFunction, bytes: Bytes) -> Result<Self, DagError> {
        if bytes.len() > BLOCK_BYTES_MAX {
            return Err(DagError::BlockTooLarge {
                cid: None,
                bytes: bytes.len() as u64,
                max: BLOCK_BYTES_MAX as u64,
                remedy: "take a smaller chunk size or fewer links per node, and let large directories be sharded",
            });
        }
        let length = function.digest_bytes();
        let Ok(digest) = hash::digest(function.code(), length, &bytes) else {
            return Err(DagError::BadEntry {
                field: "hash function",
                value: function.to_string(),
                reason: "does not exist; check the options before building",
            });
        };
        let mut binary = Vec::with_capacity(CID_BYTES_MAX);
        if !(version == 0 && codec == crate::codec::DAG_PB && function == HashFunction::Sha2_256) {
            varint::write(&mut binary, 1);
            varint::write(&mut binary, codec);
        }
        varint::write(&mut binary, function.code());
        varint::write(&mut binary, length as u64);
        binary.extend_from_slice(&digest[..length]);
        let cid = Cid::from_bytes(&binary).map_err(|_| DagError::BadEntry {
            field: "hash function",
            value: function.to_string(),
            reason: "makes no valid CID; check the options before building",
        })?;
        Ok(Self { cid, bytes })
    }

    /// Its name.
    pub fn cid(&self) -> Cid {
        self.cid
    }

    /// Its content.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Name and content.
    pub fn into_parts(self) -> (Cid, Bytes) {
        (self.cid, self.bytes)
    }

    /// What it links to; see [`crate::links`].
    pub fn links(&self) -> Result<Vec<Cid>, DagError> {
        crate::links(&self.cid, &self.bytes)
    }
}

/// A digest of any length.
struct Digest {
    bytes: [u8; DIGEST_BYTES_MAX],
    length: usize,
}

impl Digest {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The digest in a CID.
fn digest_of(cid: &Cid) -> Digest {
    let binary = cid.to_bytes();
    let mut bytes = [0; DIGEST_BYTES_MAX];
    // A CID that was parsed once is parsed again.
    let parsed = cid::CidGeneric::<DIGEST_BYTES_MAX>::try_from(&binary[..]).unwrap_or_default();
    let digest = parsed.hash().digest();
    bytes[..digest.len()].copy_from_slice(digest);
    Digest {
        bytes,
        length: digest.len(),
    }
}

fn verify(cid: &Cid, bytes: &[u8]) -> Result<(), DagError> {
    if bytes.len() > BLOCK_BYTES_MAX {
        return Err(DagError::BlockTooLarge {
            cid: Some(Box::new(*cid)),
            bytes: bytes.len() as u64,
            max: BLOCK_BYTES_MAX as u64,
            remedy: "it can only be had by splitting the content anew where it comes from",
        });
    }
    let wanted = digest_of(cid);
    let code = cid.hash_code();
    if hash::is_identity(code) {
        return if wanted.as_slice() == bytes {
            Ok(())
        } else {
            Err(DagError::HashMismatch { cid: Box::new(*cid) })
        };
    }
    match hash::digest(code, wanted.length, bytes) {
        Ok(digest) if digest == wanted.bytes => Ok(()),
        Ok(_) => Err(DagError::HashMismatch { cid: Box::new(*cid) }),
        Err(NoDigest::UnknownFunction) => Err(DagError::UnknownHash {
            cid: Box::new(*cid),
            code,
        }),
        Err(NoDigest::Length { min, max }) => Err(DagError::DigestLength {
            cid: Box::new(*cid),
            code,
            bytes: wanted.length,
            min,
            max,
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::{DAG_CBOR, DAG_PB, RAW};

    fn function() -> impl Strategy<Value = HashFunction> {
        prop_oneof![
            Just(HashFunction::Sha2_256),
            Just(HashFunction::Sha2_512),
            prop_oneof![Just(28u8), Just(32), Just(48), Just(64)].prop_map(HashFunction::Sha3),
            (20u8..=64).prop_map(HashFunction::Blake2b),
            Just(HashFunction::Blake3),
        ]
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_verified_and_nothing_else_is(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            function in function(),
            version in 0u64..=1,
            flipped in any::<proptest::sample::Index>(),
        ) {
            for codec in [RAW, DAG_PB, DAG_CBOR] {
                let block = Block::seal(version, codec, function, bytes.clone().into()).expect("sealed");
                prop_assert_eq!(block.cid().codec(), codec);
                let v0 = version == 0 && codec == DAG_PB && function == HashFunction::Sha2_256;
                prop_assert_eq!(block.cid().version(), u64::from(!v0));
                prop_assert!(Block::new(block.cid(), bytes.clone().into()).is_ok());
                let mut other = bytes.clone();
                if other.is_empty() {
                    other.push(0);
                } else {
                    let place = flipped.index(other.len());
                    other[place] ^= 1;
                }
                let refused = Block::new(block.cid(), other.into());
                prop_assert_eq!(refused, Err(DagError::HashMismatch { cid: Box::new(block.cid()) }));
            }
        }
    }

    #[test]
    fn an_identity_cid_carries_its_block() {
        let cid: Cid = "bafkqabtimvwgy3yk".parse().expect("valid");
        let block = Block::inline(cid).expect("identity");
        assert_eq!(&block.bytes()[..], b"hello\n");
        assert_eq!(Block::new(cid, block.bytes().clone()), Ok(block));
        assert!(Block::new(cid, Bytes::from_static(b"hellO\n")).is_err());
        let hashed: Cid = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
            .parse()
            .expect("valid");
        assert_eq!(Block::inline(hashed), None);
    }

    #[test]
    fn the_empty_block_is_known_in_every_hash_function() {
        let functions = [
            HashFunction::Sha2_256,
            HashFunction::Sha2_512,
            HashFunction::Sha3(64),
            HashFunction::Blake2b(32),
            HashFunction::Blake3,
        ];
        for function in functions {
            for codec in [RAW, DAG_PB, DAG_CBOR] {
                let block = Block::seal(1, codec, function, Bytes::new()).expect("sealed");
                assert_eq!(Block::empty(block.cid()), Some(block));
                let other = Block::seal(1, codec, function, Bytes::from_static(&[0])).expect("sealed");
                assert_eq!(Block::empty(other.cid()), None);
            }
        }
        // As `ipfs block put` names them: a raw one, an empty dag-pb node under both versions, and no bytes inline.
        for known in [
            "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
            "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n",
            "bafybeihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
            "bafkqaaa",
        ] {
            let cid: Cid = known.parse().expect("valid");
            assert!(Block::empty(cid).is_some_and(|block| block.cid() == cid), "{known}");
        }
        // A function that is not known here proves nothing.
        let sha1 = [&[1, 0x55, 0x11, 20][..], &[0xda; 20]].concat();
        assert_eq!(Block::empty(Cid::from_bytes(&sha1).expect("valid")), None);
    }

    #[test]
    fn unknown_functions_and_short_digests_are_named() {
        let of = |code: u64, length: usize| {
            let mut binary = vec![1, 0x55];
            varint::write(&mut binary, code);
            varint::write(&mut binary, length as u64);
            binary.extend(std::iter::repeat_n(7, length));
            Block::new(Cid::from_bytes(&binary).expect("valid"), Bytes::new()).expect_err("refused")
        };
        assert!(matches!(of(0x11, 20), DagError::UnknownHash { code: 0x11, .. }));
        assert!(of(0x11, 20).to_string().contains("0x11"));
        assert!(matches!(
            of(0x12, 4),
            DagError::DigestLength {
                bytes: 4,
                min: 20,
                max: 32,
                ..
            }
        ));
        assert!(matches!(of(0x12, 20), DagError::HashMismatch { .. }));
    }

    #[test]
    fn long_blocks_are_refused() {
        let bytes = Bytes::from(vec![0; BLOCK_BYTES_MAX + 1]);
        let sealed = Block::seal(1, RAW, HashFunction::Sha2_256, bytes.clone());
        assert!(matches!(sealed, Err(DagError::BlockTooLarge { .. })));
        let fits = Block::seal(1, RAW, HashFunction::Sha2_256, bytes.slice(1..)).expect("fits");
        let refused = Block::new(fits.cid(), bytes);
        assert!(matches!(refused, Err(DagError::BlockTooLarge { bytes: 2_097_153, .. })));
    }
}
