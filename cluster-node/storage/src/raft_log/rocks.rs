//! The log engine on RocksDB.
//!
//! One table. Entries under `l` and their index; the rest under `m` and a name, behind them, so that whole files of
//! purged entries hold nothing else.

use std::io;
use std::path::Path;

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBWithThreadMode, LogLevel, Options, ReadOptions, SingleThreaded,
    WriteBatch, WriteOptions,
};

use super::engine::{LogEngine, LogHead, LogOp};
use crate::StoreError;

const VOTE: &[u8] = b"mvote";
const COMMITTED: &[u8] = b"mcommitted";
const PURGED: &[u8] = b"mpurged";
const ENTRIES: u8 = b'l';
const ENTRIES_END: &[u8] = b"m";

/// Memory of the log's database.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Writes in memory.
    pub write_buffers_bytes: usize,
    /// Blocks in memory. Followers that lag are served from files, so little is needed.
    pub block_cache_bytes: usize,
    /// Most files open at a time.
    pub open_files_max: i32,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            write_buffers_bytes: 24 << 20,
            block_cache_bytes: 4 << 20,
            open_files_max: 64,
        }
    }
}

/// Sizes, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Writes in memory.
    pub memtable_bytes: u64,
    /// Blocks in memory.
    pub cache_bytes: u64,
    /// Files in use.
    pub sst_bytes: u64,
    /// What compaction has yet to rewrite.
    pub pending_compaction_bytes: u64,
}

/// The log on disk.
pub struct RocksLogEngine {
    rocks: DBWithThreadMode<SingleThreaded>,
}

impl RocksLogEngine {
    /// Opens the log in `folder`, which is made when it is not there.
    pub fn open(folder: &Path, options: &LogOptions) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder).map_err(StoreError::io(folder))?;
        Ok(Self {
            rocks: DBWithThreadMode::open(&database(options), folder)?,
        })
    }

    /// How large it is now. Answers from memory.
    pub fn stats(&self) -> LogStats {
        let of = |property: &str| {
            self.rocks
                .property_int_value(property)
                .ok()
                .flatten()
                .unwrap_or_default()
        };
        LogStats {
            memtable_bytes: of("rocksdb.cur-size-all-mem-tables"),
            cache_bytes: of("rocksdb.block-cache-usage"),
            sst_bytes: of("rocksdb.total-sst-files-size"),
            pending_compaction_bytes: of("rocksdb.estimate-pending-compaction-bytes"),
        }
    }

    fn purge(&self, upto: u64, marker: &Bytes, before: WriteBatch) -> Result<(), rocksdb::Error> {
        let mut batch = before;
        let from = match self.rocks.get(PURGED)? {
            Some(old) => marker_index(&old).map_or(0, |index| index + 1),
            None => 0,
        };
        let mut row = upto.to_be_bytes().to_vec();
        row.extend_from_slice(marker);
        batch.put(PURGED, row);
        // The marker must be on disk before files are dropped: dropping is not undone by a crash, and a log whose
        // beginning is missing without a marker is a log with a hole.
        self.rocks.write_opt(batch, &synced(true))?;
        let end = entry_key(upto.saturating_add(1));
        let start = entry_key(from);
        if start < end {
            self.rocks.delete_file_in_range(start, end)?;
            let mut rest = WriteBatch::default();
            rest.delete_range(start, end);
            self.rocks.write_opt(rest, &synced(false))?;
        }
        Ok(())
    }

    fn write_ops(&self, ops: Vec<LogOp>, sync: bool) -> Result<(), rocksdb::Error> {
        let mut batch = WriteBatch::default();
        for op in ops {
            match op {
                LogOp::Put { index, value } => batch.put(entry_key(index), value),
                LogOp::Vote(vote) => batch.put(VOTE, vote),
                LogOp::Committed(committed) => batch.put(COMMITTED, committed),
                LogOp::Truncate { from } => {
                    // Row by row: a range mark at the end of the log would slow every later look at its last entry.
                    self.rocks.write_opt(std::mem::take(&mut batch), &synced(false))?;
                    let mut rows = self.rocks.raw_iterator_opt(bounds(ENTRIES_END));
                    rows.seek(entry_key(from));
                    while let Some(key) = rows.key() {
                        batch.delete(key);
                        rows.next();
                    }
                    rows.status()?;
                }
                LogOp::Purge { upto, marker } => self.purge(upto, &marker, std::mem::take(&mut batch))?,
            }
        }
        if sync || !batch.is_empty() {
            self.rocks.write_opt(batch, &synced(sync))?;
        }
        Ok(())
    }

    fn read_rows(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Bytes>, rocksdb::Error> {
        let mut values = Vec::new();
        if start >= end {
            return Ok(values);
        }
        let mut bytes = 0;
        let mut rows = self.rocks.raw_iterator_opt(bounds(&entry_key(end)));
        rows.seek(entry_key(start));
        let mut expected = start;
        while let Some((key, value)) = rows.item() {
            if key != entry_key(expected) || (bytes > 0 && bytes + value.len() > bytes_max) {
                break;
            }
            bytes += value.len();
            values.push(Bytes::copy_from_slice(value));
            expected += 1;
            rows.next();
        }
        rows.status()?;
        Ok(values)
    }

    fn head(&self) -> Result<LogHead, rocksdb::Error> {
        let get = |key| self.rocks.get(key).map(|row| row.map(Bytes::from));
        let purged = get(PURGED)?.and_then(|row| Some((marker_index(&row)?, row.slice(8..))));
        // Nothing is deleted behind the last entry but by rows of a truncation, so this takes no search.
        let mut rows = self.rocks.raw_iterator_opt(bounds(ENTRIES_END));
        rows.seek_for_prev(entry_key(u64::MAX));
        let last = rows
            .item()
            .and_then(|(key, value)| Some((entry_index(key)?, Bytes::copy_from_slice(value))));
        rows.status()?;
        let beyond = purged.as_ref().map_or(0, |(index, _)| index + 1);
        Ok(LogHead {
            vote: get(VOTE)?,
            committed: get(COMMITTED)?,
            last: last.filter(|(index, _)| *index >= beyond),
            purged,
        })
    }
}

impl LogEngine for RocksLogEngine {
    fn load(&self) -> io::Result<LogHead> {
        self.head().map_err(io::Error::other)
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Bytes>> {
        self.read_rows(start, end, bytes_max).map_err(io::Error::other)
    }

    fn write(&self, ops: Vec<LogOp>, sync: bool) -> io::Result<()> {
        self.write_ops(ops, sync).map_err(io::Error::other)
    }
}

fn database(options: &LogOptions) -> Options {
    let mut block = BlockBasedOptions::default();
    block.set_block_cache(&Cache::new_lru_cache(options.block_cache_bytes));
    block.set_cache_index_and_filter_blocks(true);
    block.set_block_size(32 << 10);

    let mut db = Options::default();
    db.create_if_missing(true);
    db.set_block_based_table_factory(&block);
    db.set_write_buffer_size(options.write_buffers_bytes / 3);
    db.set_db_write_buffer_size(options.write_buffers_bytes);
    db.set_max_write_buffer_number(3);
    db.set_max_open_files(options.open_files_max);
    // Written once, read rarely, deleted from the front: compaction is only wanted for whole files to be dropped.
    db.set_level_zero_file_num_compaction_trigger(8);
    db.set_level_zero_slowdown_writes_trigger(32);
    db.set_level_zero_stop_writes_trigger(64);
    db.set_target_file_size_base(32 << 20);
    db.set_compression_per_level(&[
        DBCompressionType::None,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
        DBCompressionType::Lz4,
    ]);
    // Overwriting an old WAL file spares the file system its journal: a sync is then of data alone.
    db.set_recycle_log_file_num(4);
    db.set_max_total_wal_size(2 * options.write_buffers_bytes as u64);
    db.set_max_background_jobs(2);
    db.set_keep_log_file_num(2);
    db.set_max_log_file_size(4 << 20);
    db.set_log_level(LogLevel::Warn);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db
}

fn synced(sync: bool) -> WriteOptions {
    let mut write = WriteOptions::default();
    write.set_sync(sync);
    write
}

fn bounds(end: &[u8]) -> ReadOptions {
    let mut read = ReadOptions::default();
    read.set_iterate_upper_bound(end);
    read
}

fn entry_key(index: u64) -> [u8; 9] {
    let mut key = [ENTRIES; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn entry_index(key: &[u8]) -> Option<u64> {
    let (tag, index) = key.split_first()?;
    let index = <[u8; 8]>::try_from(index).ok()?;
    (*tag == ENTRIES).then_some(u64::from_be_bytes(index))
}

fn marker_index(row: &[u8]) -> Option<u64> {
    row.first_chunk::<8>().map(|index| u64::from_be_bytes(*index))
}
