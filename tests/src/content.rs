//! CIDs and content for tests.

use multihash_codetable::{Code, MultihashDigest};
use node_core::Cid;

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
