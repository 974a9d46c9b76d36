//! How RocksDB is set up, and why.
//!
//! **Every block is written twice**, once to the write-ahead log and once to its blob file: blob files take over values
//! when a memtable is flushed, and until then the log holds the one copy that survives. Without a log each sync would
//! have to be a flush, and each flush leaves a blob file: one synced block would cost three new files. So the log stays,
//! and what it costs is kept small: it is written in large appends (one batch and one sync for all who wait), its files
//! are overwritten in place (a sync then needs no journal entry of the file system), and it is not compressed, since
//! content mostly is already.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, LogLevel, Options,
};

use crate::rows;

pub(crate) const BLOCKS: &str = "blocks";
pub(crate) const META: &str = "meta";
pub(crate) const REFS: &str = "refs";
pub(crate) const PINS: &str = "pins";
pub(crate) const WALKS: &str = "walks";
pub(crate) const NOTES: &str = "notes";
pub(crate) const KEPT: &str = "kept";
/// Tables with rows.
pub(crate) const FLUSHED: [&str; 7] = [BLOCKS, META, REFS, PINS, WALKS, NOTES, KEPT];
/// RocksDB's own, which has to be there; nothing is in it.
const DEFAULT: &str = "default";

/// Blocks of this length and above lie in blob files, which compactions do not rewrite. Shorter ones are cheaper in
/// tables than a pointer and a read of their own.
const BLOB_BYTES_MIN: u64 = 4 << 10;

/// Bounds of memory and files. The defaults suit ten million blocks.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes of writes in memory, all tables together. A third is for one memtable of blocks: the larger it is, the fewer
    /// blob files there are. [`crate::BlockStore::flush`] frees them.
    pub write_buffers_bytes: usize,
    /// Bytes of the block cache: indexes, filters and small rows, never blobs, which the system's page cache holds.
    pub cache_bytes: usize,
    /// Files kept open.
    pub open_files_max: i32,
    /// Bytes of blocks that may wait for the writer; callers beyond wait for room.
    pub queue_bytes: usize,
    /// Bytes of write-ahead log before the oldest memtable is flushed; bounds the time of recovery, which reads all of it.
    pub wal_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            write_buffers_bytes: 96 << 20,
            cache_bytes: 32 << 20,
            open_files_max: 512,
            queue_bytes: 16 << 20,
            wal_bytes: 128 << 20,
        }
    }
}

pub(crate) fn database(options: &StoreOptions) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_db_write_buffer_size(options.write_buffers_bytes);
    db.set_max_open_files(options.open_files_max);
    db.set_max_total_wal_size(options.wal_bytes);
    // Two are enough to go round, and their space is never given back.
    db.set_recycle_log_file_num(2);
    db.set_max_background_jobs(2);
    // Files are handed to the disk as they grow, so that their last sync, and a sync of the log beside it, is short.
    db.set_bytes_per_sync(1 << 20);
    // Reading the statistics of every file is what makes a large database open slowly.
    db.set_skip_stats_update_on_db_open(true);
    db.set_keep_log_file_num(2);
    db.set_max_log_file_size(4 << 20);
    db.set_log_level(LogLevel::Warn);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db
}

pub(crate) fn tables(options: &StoreOptions, cache: &Cache) -> Vec<ColumnFamilyDescriptor> {
    [BLOCKS, META, REFS, PINS, WALKS, NOTES, KEPT, DEFAULT]
        .map(|name| ColumnFamilyDescriptor::new(name, table(name, options, cache)))
        .into()
}

fn table(name: &str, options: &StoreOptions, cache: &Cache) -> Options {
    let mut block = BlockBasedOptions::default();
    block.set_block_cache(cache);
    // Indexes and filters of ten million rows are in the cache a part at a time, so memory does not grow with them.
    block.set_cache_index_and_filter_blocks(true);
    block.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    block.set_partition_filters(true);
    block.set_pin_top_level_index_and_filter(true);
    block.set_bloom_filter(10.0, false);
    block.set_block_size(8 << 10);
    block.set_format_version(5);
    let mut table = Options::default();
    table.set_block_based_table_factory(&block);
    table.set_level_compaction_dynamic_level_bytes(true);
    // Keys are hashes; what could be compressed is small blocks, and in them mostly hashes too.
    table.set_compression_type(DBCompressionType::None);
    match name {
        BLOCKS => {
            table.set_write_buffer_size(options.write_buffers_bytes / 3);
            table.set_max_write_buffer_number(3);
            table.set_enable_blob_files(true);
            table.set_min_blob_size(BLOB_BYTES_MIN);
            table.set_blob_file_size(256 << 20);
            table.set_blob_compression_type(DBCompressionType::None);
            // Compactions move what lives out of the oldest quarter of the blob files; and are begun for that once half
            // of those is garbage.
            table.set_enable_blob_gc(true);
            table.set_blob_gc_age_cutoff(0.25);
            table.set_blob_gc_force_threshold(0.5);
            // A collection leaves marks of deleted rows: where half of a stretch is such, it is compacted.
            table.add_compact_on_deletion_collector_factory(4_096, 2_048, 0.5);
        }
        REFS => {
            table.set_write_buffer_size(options.write_buffers_bytes / 12);
            table.set_merge_operator_associative("pinfleet-refs", rows::merge);
        }
        WALKS => {
            table.set_write_buffer_size(options.write_buffers_bytes / 12);
            // Rows live as long as their walk.
            table.add_compact_on_deletion_collector_factory(4_096, 2_048, 0.5);
        }
        META => table.set_write_buffer_size(options.write_buffers_bytes / 12),
        _ => {
            table.set_write_buffer_size(1 << 20);
            table.set_arena_block_size(64 << 10);
        }
    }
    table
}
