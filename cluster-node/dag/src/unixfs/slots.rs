//! Where a name stands in a sharded directory.

/// Bits of a name's hash.
pub(crate) const HASH_BITS: u32 = u64::BITS;

/// The slot of a hash in a shard, behind this many bits that the shards above took.
pub(crate) fn slot(hash: u64, taken: u32, bits: u32) -> usize {
    (hash << taken >> (HASH_BITS - bits)) as usize
}

/// The number of a slot as it stands in front of names: as many capital hexadecimal digits as the largest needs.
pub(crate) fn prefix(slot: usize, fanout: usize) -> String {
    let digits = (usize::BITS - (fanout - 1).leading_zeros()).div_ceil(4) as usize;
    format!("{slot:0digits$X}")
}
