//! The hash functions under which blocks are taken.

use cid::multihash::Multihash;
use cluster_bitswap::{BlockHasher, Sha2Hasher};
use multihash_codetable::{Code, MultihashDigest as _};

/// Shortest digest that is taken as proof, in bytes; the same as Kubo's (boxo, package `verifcid`).
const DIGEST_BYTES_MIN: usize = 20;

/// Codes of the multicodec table.
const SHA2_256: u64 = 0x12;
const SHA2_512: u64 = 0x13;
const SHA3_512: u64 = 0x14;
const SHA3_384: u64 = 0x15;
const SHA3_256: u64 = 0x16;
const SHA3_224: u64 = 0x17;
const BLAKE3: u64 = 0x1e;
/// `blake2b-8`; the codes of the longer ones follow, a byte each.
const BLAKE2B_8: u64 = 0xb201;
const BLAKE2B_512: u64 = 0xb240;

/// Sha2-256, sha2-512, SHA-3, BLAKE2b and BLAKE3: those that Pinfleet stores blocks under.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hasher;

impl BlockHasher for Hasher {
    fn digest(&self, code: u64, length: usize, data: &[u8]) -> Option<Multihash<64>> {
        let cut = |whole: &[u8]| Multihash::wrap(code, whole.get(..length)?).ok();
        if length < DIGEST_BYTES_MIN {
            return None;
        }
        match code {
            SHA2_256 => Sha2Hasher.digest(code, length, data),
            SHA2_512 => cut(Code::Sha2_512.digest(data).digest()),
            SHA3_512 => cut(Code::Sha3_512.digest(data).digest()),
            SHA3_384 => cut(Code::Sha3_384.digest(data).digest()),
            SHA3_256 => cut(Code::Sha3_256.digest(data).digest()),
            SHA3_224 => cut(Code::Sha3_224.digest(data).digest()),
            BLAKE3 if length <= 64 => {
                let mut digest = [0; 64];
                let mut hasher = blake3::Hasher::new();
                hasher.update(data);
                hasher.finalize_xof().fill(&mut digest[..length]);
                cut(&digest)
            }
            BLAKE2B_8..=BLAKE2B_512 => {
                // The length is a parameter of BLAKE2b: a shorter digest is not the beginning of a longer one.
                let bytes = usize::try_from(code - BLAKE2B_8 + 1).ok()?;
                let mut params = blake2b_simd::Params::new();
                params.hash_length(bytes);
                cut(params.hash(data).as_bytes())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use cluster_dag::{Block, HashFunction};
    use proptest::prelude::*;

    use super::*;

    fn functions() -> impl Strategy<Value = HashFunction> {
        prop_oneof![
            Just(HashFunction::Sha2_256),
            Just(HashFunction::Sha2_512),
            prop_oneof![Just(28u8), Just(32), Just(48), Just(64)].prop_map(HashFunction::Sha3),
            Just(HashFunction::Blake3),
            (20u8..=64).prop_map(HashFunction::Blake2b),
        ]
    }

    proptest! {
        /// What this side of the network takes for a block is what the rest of Pinfleet takes for it, cut digests too.
        #[test]
        fn digests_are_those_that_are_checked_elsewhere(
            data in proptest::collection::vec(any::<u8>(), 0..3000),
            function in functions(),
            length in 0usize..=64,
        ) {
            let wide = Hasher.digest(function.code(), length, &data);
            match wide {
                Some(digest) => {
                    let cid = cid::Cid::new_v1(0x55, digest);
                    prop_assert_eq!(usize::from(cid.hash().size()), length);
                    let cid = crate::from_wire(&cid).expect("a CID");
                    prop_assert!(Block::new(cid, data.clone().into()).is_ok());
                    let mut other = data;
                    other.push(1);
                    prop_assert!(Block::new(cid, other.into()).is_err());
                }
                None => {
                    let digest = vec![7; length];
                    let digest = Multihash::<64>::wrap(function.code(), &digest).expect("at most 64 bytes");
                    let cid = crate::from_wire(&cid::Cid::new_v1(0x55, digest)).expect("a CID");
                    let refused = Block::new(cid, data.into());
                    let refused = matches!(refused, Err(cluster_dag::DagError::DigestLength { .. }));
                    prop_assert!(refused, "{:?} of {} bytes", function, length);
                }
            }
        }
    }

    #[test]
    fn unknown_functions_have_no_digest() {
        for code in [0x00, 0x11, 0xb241, 0xb200] {
            assert_eq!(Hasher.digest(code, 32, b"abc"), None);
        }
    }
}
