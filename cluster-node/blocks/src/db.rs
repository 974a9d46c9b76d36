//! The database and what is shared around it: reads, counters, open adds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use node_core::{Cid, Timestamp};
use parking_lot::Mutex;
use rocksdb::{
    Cache, ColumnFamily, DBPinnableSlice, DBRawIteratorWithThreadMode, DBWithThreadMode, ReadOptions, SingleThreaded,
    WriteBatch, WriteOptions,
};

use crate::key::Key;
use crate::options::{self, BLOCKS, KEPT, META, NOTES, PINS, REFS, StoreOptions, WALKS};
use crate::rows::{self, Counters, Meta, Record, Refs};
use crate::{Error, Usage};

pub(crate) type Rocks = DBWithThreadMode<SingleThreaded>;
pub(crate) type Rows<'a> = DBRawIteratorWithThreadMode<'a, Rocks>;

/// The layout of tables and keys written by this version.
const FORM: u32 = 1;
const FORM_KEY: &[u8] = b"\0form";
const RUN_KEY: &[u8] = b"\0run";
pub(crate) const COUNTERS_KEY: &[u8] = b"\0counters";
/// Before the names of notes.
pub(crate) const NOTE_PREFIX: &[u8] = b"n/";
/// Before the keys of lost blocks whose pins are still to be found.
pub(crate) const LOST_PREFIX: &[u8] = b"l/";

/// Numbers of one run have this many bits: a million of them a second last for twelve days of nothing else. Each restart
/// begins a new range, and sixteen million of those fit.
const RUN_BITS: u32 = 40;

/// Bytes that may be written without a sync. What a walk fetched and a power failure took is fetched again, so this is
/// about how much.
const UNSYNCED_MAX: u64 = 16 << 20;

pub(crate) struct Shared {
    pub(crate) rocks: Rocks,
    folder: PathBuf,
    /// As on disk after the last batch.
    pub(crate) counters: Mutex<Counters>,
    /// Gives out epochs, numbers of walks and places in frontiers. Grows always, over restarts too.
    ids: AtomicU64,
    sessions: Mutex<BTreeSet<u64>>,
    /// Bytes written since the last sync.
    unsynced: AtomicU64,
    /// Why the writer ended.
    pub(crate) fault: Mutex<Option<String>>,
    /// Numbers of the walks that are in hands.
    pub(crate) walks: Mutex<BTreeSet<u64>>,
    /// One at a time looks for pins of lost blocks.
    pub(crate) repairing: Mutex<()>,
    #[cfg(test)]
    pub(crate) fail_writes: std::sync::atomic::AtomicBool,
}

impl Shared {
    pub(crate) fn open(folder: &Path, options: &StoreOptions) -> Result<Self, Error> {
        std::fs::create_dir_all(folder).map_err(Error::folder(folder))?;
        let cache = Cache::new_lru_cache(options.cache_bytes);
        let tables = options::tables(options, &cache);
        let rocks = Rocks::open_cf_descriptors(&options::database(options), folder, tables)?;
        let mut shared = Self {
            rocks,
            folder: folder.to_owned(),
            counters: Mutex::default(),
            ids: AtomicU64::new(0),
            sessions: Mutex::default(),
            unsynced: AtomicU64::new(0),
            fault: Mutex::default(),
            walks: Mutex::default(),
            repairing: Mutex::default(),
            #[cfg(test)]
            fail_writes: std::sync::atomic::AtomicBool::new(false),
        };
        shared.load()?;
        Ok(shared)
    }

    fn load(&mut self) -> Result<(), Error> {
        let notes = self.table(NOTES);
        let row = |key| self.rocks.get_cf(notes, key);
        if let Some(form) = row(FORM_KEY)? {
            let form: [u8; 4] = form
                .try_into()
                .map_err(|_| Error::Damaged("the row of its form is cut".into()))?;
            let found = u32::from_le_bytes(form);
            if found > FORM {
                return Err(Error::Newer { found, known: FORM });
            }
        }
        let counters = row(COUNTERS_KEY)?.map(|row| Counters::decode(&row)).transpose()?;
        let run = match row(RUN_KEY)? {
            Some(run) => run
                .try_into()
                .map(u64::from_le_bytes)
                .map_err(|_| Error::Damaged("the row of its runs is cut".into()))?,
            None => 0,
        } + 1;
        let mut batch = WriteBatch::default();
        batch.put_cf(notes, FORM_KEY, FORM.to_le_bytes());
        batch.put_cf(notes, RUN_KEY, run.to_le_bytes());
        // Not synced: whatever uses a number of this run comes later in the same log.
        self.rocks.write_opt(batch, &WriteOptions::default())?;
        *self.counters.get_mut() = counters.unwrap_or_default();
        self.ids = AtomicU64::new(run << RUN_BITS);
        Ok(())
    }

    pub(crate) fn table(&self, name: &str) -> &ColumnFamily {
        self.rocks
            .cf_handle(name)
            .expect("every table is opened with the database")
    }

    /// The next number.
    pub(crate) fn id(&self) -> u64 {
        self.ids(1)
    }

    /// The first of `count` numbers in a row.
    pub(crate) fn ids(&self, count: u64) -> u64 {
        self.ids.fetch_add(count, Ordering::Relaxed)
    }

    /// The epoch of what is put outside of an add: later than every add that is open.
    pub(crate) fn epoch_now(&self) -> u64 {
        self.ids.load(Ordering::Relaxed)
    }

    pub(crate) fn begin_session(&self) -> u64 {
        // Under the lock, so that who asks for the lowest sees every number that was given out before.
        let mut sessions = self.sessions.lock();
        let epoch = self.id();
        sessions.insert(epoch);
        epoch
    }

    pub(crate) fn end_session(&self, epoch: u64) {
        self.sessions.lock().remove(&epoch);
    }

    /// Blocks of this epoch and above are not collected.
    pub(crate) fn epoch_floor(&self) -> u64 {
        self.sessions.lock().first().copied().unwrap_or(u64::MAX)
    }

    /// Writes a batch. Without `sync` it is on disk after the next sync.
    pub(crate) fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), Error> {
        #[cfg(test)]
        if self.fail_writes.load(Ordering::Relaxed) {
            return Err(Error::Database("No space left on device".into()));
        }
        let bytes = batch.size_in_bytes() as u64;
        let unsynced = self.unsynced.load(Ordering::Relaxed) + bytes;
        let sync = sync || unsynced >= UNSYNCED_MAX;
        let mut write = WriteOptions::default();
        write.set_sync(sync);
        self.rocks.write_opt(batch, &write)?;
        // Only the writer comes here, so nothing is lost between the two.
        self.unsynced.store(if sync { 0 } else { unsynced }, Ordering::Relaxed);
        Ok(())
    }

    /// Whether RocksDB is about to let writers wait, because what they wrote is not flushed or compacted fast enough: it
    /// slows them down at 20 files in the first level, and stops them while all memtables of a table are full.
    pub(crate) fn is_behind(&self) -> bool {
        const FIRST_LEVEL_FILES: u64 = 12;
        let of = |table: &str, property| {
            let value = self.rocks.property_int_value_cf(self.table(table), property);
            value.ok().flatten().unwrap_or(0)
        };
        [BLOCKS, META, REFS].iter().any(|table| {
            of(table, "rocksdb.num-immutable-mem-table") > 0
                || of(table, "rocksdb.num-files-at-level0") >= FIRST_LEVEL_FILES
        })
    }

    /// Brings to disk what was written.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        if self.unsynced.load(Ordering::Relaxed) > 0 {
            self.rocks.flush_wal(true)?;
            self.unsynced.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(crate) fn many<K: AsRef<[u8]>, T>(
        &self,
        table: &str,
        keys: &[K],
        read: impl Fn(&[u8]) -> Result<T, Error>,
    ) -> Result<Vec<Option<T>>, Error> {
        let rows = self.rocks.batched_multi_get_cf(self.table(table), keys, false);
        rows.into_iter()
            .map(|row: Result<Option<DBPinnableSlice<'_>>, _>| row?.map(|row| read(&row)).transpose())
            .collect()
    }

    pub(crate) fn meta(&self, key: &Key) -> Result<Option<Meta>, Error> {
        let row = self.rocks.get_pinned_cf(self.table(META), key)?;
        row.map(|row| Meta::decode(&row)).transpose()
    }

    pub(crate) fn metas(&self, keys: &[Key]) -> Result<Vec<Option<Meta>>, Error> {
        self.many(META, keys, Meta::decode)
    }

    pub(crate) fn refs(&self, keys: &[Key]) -> Result<Vec<Refs>, Error> {
        let refs = self.many(REFS, keys, Refs::decode)?;
        Ok(refs.into_iter().map(Option::unwrap_or_default).collect())
    }

    pub(crate) fn record(&self, cid: &Cid) -> Result<Option<Record>, Error> {
        let row = self.rocks.get_pinned_cf(self.table(PINS), cid.to_bytes())?;
        row.map(|row| Record::decode(&row)).transpose()
    }

    /// Until when what lies below a root is kept; none when it is not.
    pub(crate) fn kept(&self, root: &Cid) -> Result<Option<Timestamp>, Error> {
        let row = self.rocks.get_pinned_cf(self.table(KEPT), root.to_bytes())?;
        row.map(|row| rows::read_kept(&row)).transpose()
    }

    /// The bytes of stored blocks.
    pub(crate) fn bytes(&self, keys: &[Key]) -> Result<Vec<Option<Bytes>>, Error> {
        self.many(BLOCKS, keys, |row| Ok(Bytes::copy_from_slice(row)))
    }

    /// Rows of a table in order, up to `end`.
    pub(crate) fn rows(&self, table: &str, end: Option<&[u8]>) -> Rows<'_> {
        let mut read = ReadOptions::default();
        // Long scans must not push out of the cache what look-ups use.
        read.fill_cache(false);
        if let Some(end) = end {
            read.set_iterate_upper_bound(end);
        }
        self.rocks.raw_iterator_cf_opt(self.table(table), read)
    }

    /// Rows of one walk.
    pub(crate) fn rows_of_walk(&self, from: &[u8], end: &[u8]) -> Rows<'_> {
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(from);
        read.set_iterate_upper_bound(end);
        self.rocks.raw_iterator_cf_opt(self.table(WALKS), read)
    }

    pub(crate) fn usage(&self) -> Usage {
        let counters = *self.counters.lock();
        Usage {
            blocks: counters.blocks,
            bytes: counters.bytes,
            pins: counters.pins,
            walking: counters.walking,
            lost: counters.lost,
        }
    }

    /// Bytes of all files in the folder.
    pub(crate) fn disk_bytes(&self) -> Result<u64, Error> {
        let mut bytes = 0;
        for entry in std::fs::read_dir(&self.folder).map_err(Error::folder(&self.folder))? {
            let entry = entry.map_err(Error::folder(&self.folder))?;
            // A file may go between being listed and being looked at.
            if let Ok(file) = entry.metadata() {
                bytes += file.len();
            }
        }
        Ok(bytes)
    }

    /// The error of a call that found the writer gone.
    pub(crate) fn gone(&self) -> Error {
        match &*self.fault.lock() {
            Some(reason) => Error::Broken { reason: reason.clone() },
            None => Error::Closed,
        }
    }
}
