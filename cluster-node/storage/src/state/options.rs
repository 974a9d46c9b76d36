//! How the state database is set up.

use node_core::pinset::Table;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, LogLevel, Options,
};

/// Memory and files of the state database. The defaults keep a peer under 200 MiB however many pins there are, which is
/// counted so, in MiB:
///
/// | what | nominal | at worst |
/// |---|---|---|
/// | blocks of the state, index and filters among them | 32 | 32 |
/// | writes to the state; while half of it is being flushed, as much comes in anew | 48 | 72 |
/// | readers of 256 open files, of which only the top of the index is outside of the cache | 4 | 8 |
/// | four background jobs: read-ahead and the block that is built, for two parts each | 4 | 16 |
/// | Raft log: writes 24, newest entries 8, blocks 4 | 36 | 40 |
/// | ledger: writes and blocks | 24 | 28 |
/// | all together | 148 | 196 |
///
/// The worst never come together: what is applied in bulk is not read at the same time.
#[derive(Debug, Clone)]
pub struct StateOptions {
    /// Data, index and filter blocks in memory, for all tables together.
    pub block_cache_bytes: usize,
    /// Writes in memory, for all tables together.
    pub write_buffers_bytes: usize,
    /// Most files open at a time.
    pub open_files_max: i32,
}

impl Default for StateOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 32 << 20,
            write_buffers_bytes: 48 << 20,
            open_files_max: 256,
        }
    }
}

const BACKGROUND_JOBS: i32 = 4;
const TARGET_FILE_BYTES: u64 = 32 << 20;

pub(super) fn cache(options: &StateOptions) -> Cache {
    Cache::new_hyper_clock_cache(options.block_cache_bytes, 0)
}

pub(super) fn database(options: &StateOptions) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    // There is no WAL: without this, the tables would come back from a crash at different points of the log.
    db.set_atomic_flush(true);
    db.set_db_write_buffer_size(options.write_buffers_bytes);
    db.set_max_open_files(options.open_files_max);
    db.set_max_file_opening_threads(2);
    // One for flushes, three for compactions: with two, a long compaction at the bottom lets files pile up at the top,
    // and writes are slowed down although the disk is idle.
    db.set_max_background_jobs(BACKGROUND_JOBS);
    db.set_max_subcompactions(2);
    db.set_bytes_per_sync(1 << 20);
    db.set_compaction_readahead_size(1 << 20);
    db.set_keep_log_file_num(2);
    db.set_max_log_file_size(4 << 20);
    db.set_log_level(LogLevel::Warn);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db.set_skip_stats_update_on_db_open(true);
    db
}

pub(super) fn tables(options: &StateOptions, cache: &Cache) -> Vec<ColumnFamilyDescriptor> {
    let mut tables: Vec<_> = Table::ALL
        .iter()
        .map(|table| ColumnFamilyDescriptor::new(table.name(), column_family(*table, options, cache)))
        .collect();
    tables.push(ColumnFamilyDescriptor::new(
        "default",
        column_family(Table::Meta, options, cache),
    ));
    tables
}

fn column_family(table: Table, options: &StateOptions, cache: &Cache) -> Options {
    let mut block = BlockBasedOptions::default();
    block.set_block_cache(cache);
    block.set_block_size(8 << 10);
    block.set_format_version(6);
    // Index and filters count against the cache, so memory does not grow with the number of pins; split into
    // partitions, so that only the parts in use are in it.
    block.set_cache_index_and_filter_blocks(true);
    block.set_cache_index_and_filter_blocks_with_high_priority(true);
    block.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    block.set_pin_top_level_index_and_filter(true);
    if looked_up(table) {
        block.set_bloom_filter(10.0, false);
        block.set_partition_filters(true);
        block.set_optimize_filters_for_memory(true);
    }

    let mut cf = Options::default();
    cf.set_block_based_table_factory(&block);
    cf.set_write_buffer_size(options.write_buffers_bytes / 2);
    cf.set_max_write_buffer_number(3);
    // Twenty-one tables: at the default of 1 MiB, empty arenas alone would fill the write buffers.
    cf.set_arena_block_size(64 << 10);
    cf.set_level_compaction_dynamic_level_bytes(true);
    cf.set_target_file_size_base(TARGET_FILE_BYTES);
    // Applying must not wait for compactions as long as the disk keeps up on the whole: a bulk of pins makes many small
    // files of all tables at once, and they go in a few large compactions.
    cf.set_level_zero_slowdown_writes_trigger(40);
    cf.set_level_zero_stop_writes_trigger(64);
    // The default of 25 files makes single compactions that occupy a job, and double the space of what they rewrite,
    // for tens of seconds.
    cf.set_max_compaction_bytes(10 * TARGET_FILE_BYTES);
    cf.set_compression_type(DBCompressionType::Lz4);
    cf.set_bottommost_compression_type(DBCompressionType::Zstd);
    // Without dictionary training (0), which would hold whole files in memory.
    cf.set_bottommost_compression_options(-14, 3, 0, 0, true);
    cf
}

/// Whether single keys that may be absent are asked for: only then a filter earns its memory.
fn looked_up(table: Table) -> bool {
    match table {
        Table::Meta
        | Table::Pins
        | Table::Placements
        | Table::Everywhere
        | Table::Unsettled
        | Table::Nodes
        | Table::Peers
        | Table::Tokens
        | Table::Credentials
        | Table::Requests => true,
        // The pins of a CID are always gone through, never asked for one by one.
        Table::CidPins
        | Table::ByNode
        | Table::ByName
        | Table::ByMetadata
        // Pins are asked for one by one, but by keys that an index names: they are there.
        | Table::ByCreated
        | Table::ByExpiry
        | Table::Slots
        | Table::Kept
        | Table::RequestTimes
        | Table::Changes
        | Table::Todo => false,
    }
}
