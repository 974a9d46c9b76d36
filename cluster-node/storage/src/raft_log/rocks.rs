//! The log engine on RocksDB.
//!
//! Two tables: the entries by their index, in RocksDB's default one, and what else there is, by name. Apart, so that
//! files of entries hold nothing else: those are dropped whole when they are purged, and never rewritten.

use std::io;
use std::path::Path;

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DBCompressionType, DBWithThreadMode, LogLevel,
    Options, Range, ReadOptions, SingleThreaded, WriteBatch, WriteOptions,
};

use super::engine::{LogEngine, LogHead, LogOp};
use crate::StoreError;
use crate::files;

const ENTRIES: &str = "default";
const META: &str = "meta";

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";
const OWNER: &[u8] = b"owner";

const KEY_BYTES: usize = 8;

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
    /// Opens the log in `folder`, which is made when it is not there, and finishes a purge that a crash interrupted.
    pub fn open(folder: &Path, options: &LogOptions) -> Result<Self, StoreError> {
        files::make_folder(folder)?;
        let block = block_options(options);
        let tables = [
            ColumnFamilyDescriptor::new(ENTRIES, entries_table(options, &block)),
            ColumnFamilyDescriptor::new(META, meta_table(&block)),
        ];
        let rocks = DBWithThreadMode::open_cf_descriptors(&database(options), folder, tables)?;
        let engine = Self { rocks };
        engine.check_layout(folder)?;
        engine.finish_purge()?;
        Ok(engine)
    }

    /// Logs of development versions had everything in one table, under longer keys. They must not be taken for empty
    /// ones: an empty log has forgotten its votes.
    fn check_layout(&self, folder: &Path) -> Result<(), StoreError> {
        let mut rows = self.rocks.raw_iterator();
        rows.seek_to_last();
        let foreign = rows.key().is_some_and(|key| key.len() != KEY_BYTES);
        rows.status()?;
        if foreign {
            return Err(StoreError::Corrupt(format!(
                "{}: this Raft log was written by a development version that this one does not read; remove this peer \
                 from the cluster, delete its data and let it join anew",
                folder.display()
            )));
        }
        Ok(())
    }

    /// Drops what was purged. The marker is written first, so a crash in between leaves entries that nothing asks for
    /// and no later purge looks at.
    fn finish_purge(&self) -> Result<(), StoreError> {
        let Some(purged) = self.purged()?.map(|(index, _)| index) else {
            return Ok(());
        };
        let mut rows = self
            .rocks
            .raw_iterator_opt(bounds(&entry_key(purged.saturating_add(1))));
        rows.seek_to_first();
        let left = rows.valid();
        rows.status()?;
        drop(rows);
        if left {
            self.drop_entries(0, purged)?;
        }
        Ok(())
    }

    fn meta(&self) -> &ColumnFamily {
        self.rocks.cf_handle(META).expect("it was opened with this table")
    }

    fn purged(&self) -> Result<Option<(u64, Bytes)>, rocksdb::Error> {
        let row = self.rocks.get_cf(self.meta(), PURGED)?.map(Bytes::from);
        Ok(row.and_then(|row| Some((number(&row)?, row.slice(8..)))))
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
        let from = self.purged()?.map_or(0, |(index, _)| index.saturating_add(1));
        let mut row = upto.to_be_bytes().to_vec();
        row.extend_from_slice(marker);
        batch.put_cf(self.meta(), PURGED, row);
        // The marker must be on disk before files are dropped: dropping is not undone by a crash, and a log whose
        // beginning is missing without a marker is a log with a hole.
        self.rocks.write_opt(batch, &synced(true))?;
        self.drop_entries(from, upto)
    }

    /// Drops the entries from `from` to `upto`, both included.
    fn drop_entries(&self, from: u64, upto: u64) -> Result<(), rocksdb::Error> {
        if from > upto {
            return Ok(());
        }
        // The end of this range is part of it: a file that ends with entry `upto + 1` would go with that entry, were
        // the end given as it is to `delete_range`, which leaves its end alone.
        self.rocks.delete_file_in_range(entry_key(from), entry_key(upto))?;
        let mut rest = WriteBatch::default();
        match upto.checked_add(1) {
            Some(end) => rest.delete_range(entry_key(from), entry_key(end)),
            None => {
                rest.delete_range(entry_key(from), entry_key(upto));
                rest.delete(entry_key(upto));
            }
        }
        self.rocks.write_opt(rest, &synced(false))
    }

    fn write_ops(&self, ops: Vec<LogOp>, sync: bool) -> Result<(), rocksdb::Error> {
        let mut batch = WriteBatch::default();
        for op in ops {
            match op {
                LogOp::Put { index, value } => batch.put(entry_key(index), value),
                LogOp::Vote(vote) => batch.put_cf(self.meta(), VOTE, vote),
                LogOp::Committed(committed) => batch.put_cf(self.meta(), COMMITTED, committed),
                LogOp::Owner(raft_id) => batch.put_cf(self.meta(), OWNER, raft_id.to_be_bytes()),
                LogOp::Truncate { from } => {
                    // Row by row: a range mark at the end of the log would slow every later look at its last entry.
                    self.rocks.write_opt(std::mem::take(&mut batch), &synced(false))?;
                    let mut rows = self.rocks.raw_iterator();
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
        let get = |key| self.rocks.get_cf(self.meta(), key).map(|row| row.map(Bytes::from));
        let purged = self.purged()?;
        // Nothing is deleted behind the last entry but by rows of a truncation, so this takes no search.
        let mut rows = self.rocks.raw_iterator();
        rows.seek_to_last();
        let last = rows
            .item()
            .and_then(|(key, value)| Some((number(key)?, Bytes::copy_from_slice(value))));
        rows.status()?;
        let beyond = purged.as_ref().map_or(0, |(index, _)| index.saturating_add(1));
        Ok(LogHead {
            vote: get(VOTE)?,
            committed: get(COMMITTED)?,
            last: last.filter(|(index, _)| *index >= beyond),
            purged,
            owner: get(OWNER)?.and_then(|row| number(&row)),
            bytes: self.entries_bytes(beyond)?,
        })
    }

    /// Bytes of the entries from `from` on, in files and in memory.
    fn entries_bytes(&self, from: u64) -> Result<u64, rocksdb::Error> {
        let (start, end) = (entry_key(from), entry_key(u64::MAX));
        let sizes = self.rocks.get_approximate_sizes(&[Range::new(&start, &end)]);
        let files: u64 = sizes.into_iter().sum();
        let memory = self.rocks.property_int_value("rocksdb.cur-size-all-mem-tables")?;
        Ok(files + memory.unwrap_or(0))
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
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_db_write_buffer_size(options.write_buffers_bytes);
    db.set_max_open_files(options.open_files_max);
    // Overwriting an old WAL file spares the file system its journal: a sync is then of data alone.
    db.set_recycle_log_file_num(4);
    // Also what makes the table of names, which hardly grows, flush now and then: it keeps WAL files alive otherwise.
    db.set_max_total_wal_size(2 * options.write_buffers_bytes as u64);
    db.set_max_background_jobs(2);
    db.set_keep_log_file_num(2);
    db.set_max_log_file_size(4 << 20);
    db.set_log_level(LogLevel::Warn);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db
}

fn block_options(options: &LogOptions) -> BlockBasedOptions {
    let mut block = BlockBasedOptions::default();
    block.set_block_cache(&Cache::new_lru_cache(options.block_cache_bytes));
    block.set_cache_index_and_filter_blocks(true);
    block.set_block_size(32 << 10);
    block
}

fn entries_table(options: &LogOptions, block: &BlockBasedOptions) -> Options {
    let mut table = Options::default();
    table.set_block_based_table_factory(block);
    table.set_write_buffer_size(options.write_buffers_bytes / 3);
    table.set_max_write_buffer_number(3);
    // Written once, read rarely, deleted from the front: compaction is only wanted for whole files to be dropped.
    table.set_level_zero_file_num_compaction_trigger(8);
    table.set_level_zero_slowdown_writes_trigger(32);
    table.set_level_zero_stop_writes_trigger(64);
    table.set_target_file_size_base(32 << 20);
    // Nowhere: files of entries do not overlap, so going down a level is a rename as long as both compress alike.
    table.set_compression_type(DBCompressionType::None);
    table
}

fn meta_table(block: &BlockBasedOptions) -> Options {
    let mut table = Options::default();
    table.set_block_based_table_factory(block);
    // A handful of rows, each replaced over and over.
    table.set_write_buffer_size(1 << 20);
    table.set_arena_block_size(64 << 10);
    table.set_compression_type(DBCompressionType::None);
    table
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

fn entry_key(index: u64) -> [u8; KEY_BYTES] {
    index.to_be_bytes()
}

fn number(row: &[u8]) -> Option<u64> {
    row.first_chunk::<8>().map(|index| u64::from_be_bytes(*index))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that do not compress, so that sizes of files are what was put into them.
    fn noise(seed: u64) -> Bytes {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut value = Vec::with_capacity(4096);
        while value.len() < 4096 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            value.extend_from_slice(&state.to_be_bytes());
        }
        value.into()
    }

    fn put(engine: &RocksLogEngine, indexes: std::ops::Range<u64>) {
        let ops = indexes.map(|index| LogOp::Put {
            index,
            value: noise(index),
        });
        engine.write(ops.collect(), true).expect("written");
    }

    fn purge(engine: &RocksLogEngine, upto: u64) {
        let marker = Bytes::from_static(b"m");
        engine
            .write(vec![LogOp::Purge { upto, marker }], false)
            .expect("purged");
    }

    fn small() -> LogOptions {
        LogOptions {
            write_buffers_bytes: 3 << 20,
            ..LogOptions::default()
        }
    }

    /// Files below the first level, each with its first and last entry.
    fn settled_files(engine: &RocksLogEngine) -> Vec<(u64, u64)> {
        let mut files: Vec<_> = engine
            .rocks
            .live_files()
            .expect("listed")
            .into_iter()
            .filter(|file| file.level > 0 && file.column_family_name == ENTRIES)
            .filter_map(|file| Some((number(&file.start_key?)?, number(&file.end_key?)?)))
            .collect();
        files.sort_unstable();
        files
    }

    fn settle(engine: &RocksLogEngine) {
        engine.rocks.flush().expect("flushed");
        engine.rocks.compact_range(None::<&[u8]>, None::<&[u8]>);
    }

    #[test]
    fn a_purge_up_to_the_last_but_one_entry_of_a_file_leaves_that_entry() {
        let folder = tempfile::tempdir().expect("a folder");
        let engine = RocksLogEngine::open(folder.path(), &small()).expect("opened");
        put(&engine, 0..4000);
        settle(&engine);
        let (_, last) = settled_files(&engine)[0];
        assert!(last > 0);
        purge(&engine, last - 1);
        let read = engine.read(last, last + 2, usize::MAX).expect("read");
        assert!(read.first() == Some(&noise(last)), "entry {last} went with its file");
    }

    #[test]
    fn a_purge_that_a_crash_interrupted_is_finished() {
        let folder = tempfile::tempdir().expect("a folder");
        let engine = RocksLogEngine::open(folder.path(), &small()).expect("opened");
        put(&engine, 0..4000);
        settle(&engine);
        put(&engine, 4000..4010);
        // As if the power had gone between the marker and the deletion.
        let mut row = 4002_u64.to_be_bytes().to_vec();
        row.push(b'm');
        engine.rocks.put_cf(engine.meta(), PURGED, row).expect("written");
        let before = engine.load().expect("read");
        assert_eq!(before.purged, Some((4002, Bytes::from_static(b"m"))));
        drop(engine);
        let engine = RocksLogEngine::open(folder.path(), &small()).expect("opened");
        let first = settled_files(&engine).first().map(|(first, _)| *first);
        assert!(first.is_none_or(|first| first > 0), "whole files are still there");
        let mut rows = engine.rocks.raw_iterator();
        rows.seek_to_first();
        assert_eq!(rows.key().and_then(number), Some(4003));
        assert_eq!(engine.read(4003, 4010, usize::MAX).expect("read").len(), 7);
    }

    #[test]
    fn a_log_of_the_old_layout_is_refused_with_a_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut options = Options::default();
        options.create_if_missing(true);
        let old = DBWithThreadMode::<SingleThreaded>::open(&options, folder.path()).expect("opened");
        old.put(b"l\0\0\0\0\0\0\0\x01", b"entry").expect("written");
        old.put(b"mvote", b"vote").expect("written");
        drop(old);
        let error = RocksLogEngine::open(folder.path(), &LogOptions::default())
            .err()
            .expect("refused");
        assert!(error.to_string().contains("join anew"), "{error}");
    }

    #[test]
    fn the_weight_of_the_entries_is_told_at_open() {
        let folder = tempfile::tempdir().expect("a folder");
        let engine = RocksLogEngine::open(folder.path(), &small()).expect("opened");
        put(&engine, 0..2000);
        drop(engine);
        let engine = RocksLogEngine::open(folder.path(), &small()).expect("opened");
        let full = 2000 * 4096;
        let bytes = engine.load().expect("read").bytes;
        assert!((full / 2..full * 2).contains(&bytes), "{bytes}");
        purge(&engine, 1900);
        settle(&engine);
        let bytes = engine.load().expect("read").bytes;
        assert!(bytes < full / 4, "{bytes}");
    }
}
