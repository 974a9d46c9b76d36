//! CIDs and content for tests.

use multihash_codetable::{Code, MultihashDigest};
use node_core::Cid;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

/// A CIDv1 of a raw block that no other number has.
pub fn cid(number: u64) -> Cid {
    cid_of(0x55, &number.to_be_bytes())
}

/// A CIDv1 of this codec and content.
pub fn cid_of(codec: u64, content: &[u8]) -> Cid {
    let made: cid::Cid = cid::Cid::new_v1(codec, Code::Sha2_256.digest(content));
    Cid::from_bytes(&made.to_bytes()).expect("a CID as it should be")
}

/// A CIDv0.
pub fn cid_v0(number: u64) -> Cid {
    let made =
        cid::Cid::new_v0(Code::Sha2_256.digest(&number.to_be_bytes())).expect("sha2-256 is what version 0 takes");
    Cid::from_bytes(&made.to_bytes()).expect("a CID as it should be")
}

/// A CID that no other call has made.
pub fn fresh_cid() -> Cid {
    cid_of(0x55, uuid::Uuid::new_v4().as_bytes())
}

/// Bytes that no other call has made.
pub fn fresh_bytes(count: usize) -> Vec<u8> {
    use rand::RngCore;
    let mut bytes = vec![0; count];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

/// Bytes that follow from a seed, so that programs in other languages make the same: file `file` of seed `seed` is the
/// keystream of ChaCha20 (64-bit counter from 0, nonce 0) under the key SHA-256(seed || file), both as 8 bytes big-endian.
/// The JavaScript side has the same in `tests/tools/helia/content.mjs`.
pub fn seeded_bytes(seed: u32, file: u32, count: usize) -> Vec<u8> {
    let name = [u64::from(seed).to_be_bytes(), u64::from(file).to_be_bytes()].concat();
    let mut bytes = vec![0; count];
    ChaCha20Rng::from_seed(sha256(&name)).fill_bytes(&mut bytes);
    bytes
}

/// A SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let hash = Code::Sha2_256.digest(bytes);
    hash.digest().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `openssl enc -chacha20` over zeros, with the hash as its key and a zero IV; JavaScript's is OpenSSL's too.
    #[test]
    fn seeded_bytes_are_what_openssl_makes() {
        let bytes = seeded_bytes(1, 2, 70);
        assert_eq!(bytes[..8], [0x4e, 0x56, 0x5a, 0x4c, 0xb6, 0x0a, 0x5a, 0x6a]);
        // Past the first block of the cipher.
        assert_eq!(bytes[64..], [0xa2, 0xb1, 0x27, 0x0a, 0x1e, 0x0a]);
        assert_eq!(seeded_bytes(1, 2, 7), bytes[..7]);
        assert_ne!(seeded_bytes(1, 3, 70), bytes);
    }
}
