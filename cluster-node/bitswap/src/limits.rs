//! Sizes that the protocol and this crate set.

/// Longest message taken or sent, in bytes, without its length prefix. Source: specs.ipfs.tech/bitswap-protocol ("All
/// protocol messages MUST be less than or equal to 4MiB").
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Largest block taken or sent, in bytes. Source: the same ("MUST support … less than or equal to 2MiB. Handling blocks
/// larger than 2MiB is not recommended").
pub const BLOCK_BYTES_MAX: usize = 2 << 20;

/// Most wantlist entries in one message. Clients of the field split what they want at 512 KiB of message, which is some
/// ten thousand entries; without a bound, 4 MiB of empty entries would become 2 million structs.
pub const ENTRIES_MAX: usize = 16_384;

/// Most HAVE and DONT_HAVE answers in one message, for the same reason.
pub const PRESENCES_MAX: usize = 16_384;

/// Most blocks in one message, for the same reason. Blocks of 256 bytes still fill a message.
pub const BLOCKS_MAX: usize = 16_384;

/// Longest binary CID in a message, in bytes: four varints of at most ten bytes and a digest of 64, the longest that any
/// registered hash function but identity has.
pub const CID_BYTES_MAX: usize = 4 * 10 + 64;

/// Longest CID prefix of a block in a message, in bytes: four varints.
pub const PREFIX_BYTES_MAX: usize = 4 * 10;
