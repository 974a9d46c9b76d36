//! Blocks on their way to a sink.

/// Blocks of a batch, at most.
pub const BATCH_BLOCKS_MAX: usize = 256;

/// Bytes after which a batch is given away: with its last block, it may have 2 MiB more.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Batches that are under way at once: with the one being filled, up to 30 MiB.
pub const BATCHES_MAX: usize = 4;
