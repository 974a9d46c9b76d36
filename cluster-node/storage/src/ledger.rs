//! The ledger: what each node that this peer drives really holds, and what is still to do there.
//!
//! ```text
//! entries  node cid                 -> Entry                 the truth
//! due      node lane due-time cid   ->                       queued, retrying and unpinning entries, by due time
//! status   node status cid          ->                       entries in any state but pinned
//! meta     'c' node status          -> count                 how many entries are in each state
//!          'n' node note            -> bytes                 what else is remembered of a node
//! ```
//! One RocksDB instance of its own, because it must survive the installation of a snapshot, which replaces the state.
//! The write-ahead log is on: a killed process loses nothing. It is synced on request only ([`Ledger::sync`]): what a
//! power failure may take is a tail of outcomes that the worker finds again by asking the node.
//!
//! All tables change in the same batch, so that indexes and counts never need a scan at start-up.
//! `pinned` has no index: it is the state of nearly all entries, found by walking the main table.

mod check;
mod entry;
mod floors;
mod keys;
mod notes;
mod writer;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use node_core::reconcile::{Change, Entry, Lane};
use node_core::{Cid, NodeId, Status, Timestamp};
use parking_lot::{Mutex, RwLock};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BoundColumnFamily, Cache, ColumnFamilyDescriptor, DB, DBCompressionType,
    IteratorMode, LogLevel, Options, ReadOptions,
};
use tokio::sync::{mpsc, oneshot};

pub use check::Checked;
pub use entry::ERROR_BYTES_MAX;
pub use notes::Note;
pub use writer::Edit;

const ENTRIES: &str = "entries";
const DUE: &str = "due";
const STATUS: &str = "status";
const META: &str = "meta";

const FORM_KEY: &[u8] = b"form";
/// The layout of tables and keys written by this version.
const FORM: u32 = 1;

/// The states that are stored and counted.
const COUNTS: [Status; 5] = [
    Status::Queued,
    Status::Pinned,
    Status::Retrying,
    Status::GaveUp,
    Status::Unpinning,
];

fn is_indexed(status: Status) -> bool {
    status != Status::Pinned
}

/// Why the ledger could not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// RocksDB failed: usually the disk.
    #[error("the ledger's database failed: {0}")]
    Database(String),
    /// What was read is not what was written.
    #[error("the ledger is damaged: {0}")]
    Damaged(String),
    /// Written by a version that knows more than this one.
    #[error("the ledger was written in form {found}, this version knows forms up to {known}")]
    Newer {
        /// What was found.
        found: u32,
        /// The newest known here.
        known: u32,
    },
    /// The writer's thread could not be started.
    #[error("the thread of the ledger could not be started: {0}")]
    Thread(String),
    /// The ledger is being closed.
    #[error("the ledger is closed")]
    Closed,
}

impl From<rocksdb::Error> for Error {
    fn from(error: rocksdb::Error) -> Self {
        Self::Database(error.to_string())
    }
}

/// Bounds of memory and files. The defaults suit tens of millions of entries: what is hot is small, because the queues
/// are read in order and a pinned entry is touched again only when somebody asks.
#[derive(Debug, Clone)]
pub struct LedgerOptions {
    /// Bytes in memtables, all tables together.
    pub memtable_bytes: usize,
    /// Bytes of the block cache, which also holds indexes and filters.
    pub cache_bytes: usize,
    /// Files kept open.
    pub open_files: i32,
    /// Bytes of write-ahead log before the oldest memtable is flushed; bounds the time of recovery.
    pub wal_bytes: u64,
}

impl Default for LedgerOptions {
    fn default() -> Self {
        Self {
            memtable_bytes: 16 << 20,
            cache_bytes: 8 << 20,
            open_files: 256,
            wal_bytes: 64 << 20,
        }
    }
}

/// How many entries of a node are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([u64; Status::ALL.len()]);

impl Counts {
    /// Entries in this state.
    pub fn of(&self, status: Status) -> u64 {
        self.0[status as usize]
    }

    /// All entries.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// What is due in a queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// Due times and CIDs, earliest first.
    pub items: Vec<(Timestamp, Cid)>,
    /// When the first item that is not due yet will be. None when there is none, or when the limit was reached first.
    pub next: Option<Timestamp>,
}

/// Bytes the database uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerStats {
    /// In memtables.
    pub memtable_bytes: u64,
    /// In the block cache.
    pub cache_bytes: u64,
    /// In table readers outside of the cache.
    pub reader_bytes: u64,
    /// In tables on disk.
    pub disk_bytes: u64,
    /// What compaction has yet to rewrite.
    pub pending_compaction_bytes: u64,
}

struct Shared {
    db: DB,
    cache: Cache,
    counts: RwLock<HashMap<NodeId, Counts>>,
    floors: floors::Floors,
    unsynced: AtomicBool,
    /// Held from taking the mark until the flush is through: a second caller that found the mark gone would else return
    /// while what it waits for is still on its way to the disk.
    syncing: Mutex<()>,
    /// Why the last write failed; none when it did not.
    fault: Mutex<Option<String>>,
}

impl Shared {
    fn column(&self, name: &str) -> Arc<BoundColumnFamily<'_>> {
        self.db
            .cf_handle(name)
            .expect("every table is opened with the database")
    }
}

/// The open ledger. Reads go straight to the database; changes go through one writer.
pub struct Ledger {
    shared: Arc<Shared>,
    commands: Mutex<Option<mpsc::Sender<writer::Command>>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Ledger {
    /// Opens the ledger in the folder `path`, which is created when it is missing.
    pub fn open(path: &Path, options: &LedgerOptions) -> Result<Self, Error> {
        let cache = Cache::new_lru_cache(options.cache_bytes);
        let mut all = Options::default();
        all.create_if_missing(true);
        all.create_missing_column_families(true);
        all.set_max_open_files(options.open_files);
        all.set_db_write_buffer_size(options.memtable_bytes);
        all.set_max_total_wal_size(options.wal_bytes);
        all.set_max_background_jobs(2);
        all.set_bytes_per_sync(1 << 20);
        all.set_keep_log_file_num(4);
        all.set_max_log_file_size(4 << 20);
        all.set_log_level(LogLevel::Warn);
        all.set_stats_dump_period_sec(0);
        let tables = [ENTRIES, DUE, STATUS, META]
            .map(|name| ColumnFamilyDescriptor::new(name, table_options(name, options, &cache)));
        let db = DB::open_cf_descriptors(&all, path, tables)?;
        let shared = Arc::new(Shared {
            db,
            cache,
            counts: RwLock::default(),
            floors: floors::Floors::default(),
            unsynced: AtomicBool::new(false),
            syncing: Mutex::default(),
            fault: Mutex::default(),
        });
        shared.load()?;
        let (commands, thread) = writer::spawn(Arc::clone(&shared))?;
        Ok(Self {
            shared,
            commands: Mutex::new(Some(commands)),
            writer: Mutex::new(Some(thread)),
        })
    }

    /// Applies edits in order and returns each entry as it is afterwards. Once this returns, a killed process keeps
    /// them. On an error none or some of them are applied, so edits are written to be repeatable.
    pub async fn edit(&self, edits: Vec<Edit>) -> Result<Vec<Option<Entry>>, Error> {
        if edits.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        self.commands()?
            .send(writer::Command::Edit { edits, reply })
            .await
            .map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// As [`Self::edit`], for threads that may wait.
    pub fn edit_blocking(&self, edits: Vec<Edit>) -> Result<Vec<Option<Entry>>, Error> {
        let (reply, answer) = oneshot::channel();
        let command = writer::Command::Edit { edits, reply };
        self.commands()?.blocking_send(command).map_err(|_| Error::Closed)?;
        answer.blocking_recv().map_err(|_| Error::Closed)?
    }

    /// Forgets everything about a node.
    pub async fn drop_node(&self, node: NodeId) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.commands()?
            .send(writer::Command::DropNode { node, reply })
            .await
            .map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Makes everything written so far survive a power failure. Waits for the disk, so never call it on an async
    /// thread. Free when nothing was written since the last call.
    pub fn sync(&self) -> Result<(), Error> {
        let _syncing = self.shared.syncing.lock();
        if self.shared.unsynced.swap(false, Ordering::AcqRel)
            && let Err(error) = self.shared.db.flush_wal(true)
        {
            self.shared.unsynced.store(true, Ordering::Release);
            return Err(error.into());
        }
        Ok(())
    }

    /// The entry of one CID.
    pub fn get(&self, node: NodeId, cid: &Cid) -> Result<Option<Entry>, Error> {
        let value = self
            .shared
            .db
            .get_pinned_cf(&self.shared.column(ENTRIES), keys::entry(node, cid))?;
        value.map(|value| entry::decode(&value)).transpose()
    }

    /// The entries of several CIDs, in the order asked.
    pub fn get_many(&self, node: NodeId, cids: &[Cid]) -> Result<Vec<Option<Entry>>, Error> {
        self.read_many(&cids.iter().map(|cid| keys::entry(node, cid)).collect::<Vec<_>>())
    }

    /// Calls `visit` for each entry of a node in CID order, behind `after`, as they were when the call began, until it
    /// says stop. Reads from disk: run it where waiting is allowed.
    pub fn scan(
        &self,
        node: NodeId,
        after: Option<&Cid>,
        mut visit: impl FnMut(Cid, Entry) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let from = after.map_or_else(|| keys::node(node).to_vec(), |cid| successor(keys::entry(node, cid)));
        let to = keys::node_end(node).map(|end| end.to_vec());
        self.walk(ENTRIES, &from, to, false, |key, value| {
            let (_, cid) = keys::read_entry(key)?;
            Ok(visit(cid, entry::decode(value)?))
        })
    }

    /// At most `limit` entries of a node in CID order, behind `after`.
    pub fn page(&self, node: NodeId, after: Option<&Cid>, limit: usize) -> Result<Vec<(Cid, Entry)>, Error> {
        let mut out = Vec::new();
        if limit > 0 {
            self.scan(node, after, |cid, entry| {
                out.push((cid, entry));
                if out.len() < limit {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
        }
        Ok(out)
    }

    /// At most `limit` entries of a node in this state, in CID order, behind `after`; fewer only when nothing lies behind
    /// them. For any state but `pinned` that costs what it returns; `pinned` has no index and walks the table.
    ///
    /// An entry that leaves the state while this reads is listed with its new one, or not at all once it is gone.
    pub fn scan_status(
        &self,
        node: NodeId,
        status: Status,
        after: Option<&Cid>,
        limit: usize,
    ) -> Result<Vec<(Cid, Entry)>, Error> {
        let mut out = Vec::new();
        if limit == 0 {
            return Ok(out);
        }
        if !is_indexed(status) {
            self.scan(node, after, |cid, entry| {
                if entry.status == status {
                    out.push((cid, entry));
                }
                if out.len() < limit {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
            return Ok(out);
        }
        let mut from = after.map_or_else(
            || keys::status_prefix(node, status).to_vec(),
            |cid| successor(keys::status(&keys::entry(node, cid), status)),
        );
        let end = keys::status_end(node, status).to_vec();
        // Callers take a short page for the last one. An entry that goes between the two reads must not make one, or all
        // behind it would be left out without an error: the index is read on until the page is full or the index ends.
        // That ends, because each round begins behind the last key of the one before.
        loop {
            let wanted = limit - out.len();
            let mut found = Vec::new();
            let mut last = None;
            self.walk(STATUS, &from, Some(end.clone()), true, |key, _| {
                found.push(keys::status_to_entry(key)?);
                if found.len() < wanted {
                    return Ok(ControlFlow::Continue(()));
                }
                last = Some(key.to_vec());
                Ok(ControlFlow::Break(()))
            })?;
            for (key, entry) in found.iter().zip(self.read_many(&found)?) {
                // An entry that left the state between the two reads is in this list with its new state: the cursor must
                // not depend on a race, and the caller sees what is true now.
                if let Some(entry) = entry {
                    out.push((keys::read_entry(key)?.1, entry));
                }
            }
            match last {
                Some(last) if out.len() < limit => from = successor(last),
                _ => return Ok(out),
            }
        }
    }

    /// What is due in a queue at `now`, earliest first, without those that `skip` names.
    pub fn due(
        &self,
        node: NodeId,
        lane: Lane,
        now: Timestamp,
        limit: usize,
        mut skip: impl FnMut(&Cid) -> bool,
    ) -> Result<Due, Error> {
        let queue = keys::due_lane(node, lane);
        let end = keys::due_lane_end(node, lane).to_vec();
        let (from, mark) = self.shared.floors.begin(queue);
        let mut first = None;
        let mut out = Due::default();
        if limit == 0 {
            return Ok(out);
        }
        self.walk(DUE, &from, Some(end.clone()), true, |key, _| {
            if first.is_none() {
                first = Some(key.to_vec());
            }
            let (at, cid) = keys::read_due(key)?;
            if at > now {
                out.next = Some(at);
                return Ok(ControlFlow::Break(()));
            }
            if !skip(&cid) {
                out.items.push((at, cid));
            }
            Ok(if out.items.len() < limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
        self.shared.floors.raise(queue, mark, first.unwrap_or(end));
        Ok(out)
    }

    /// How many entries of a node are in each state.
    pub fn counts(&self, node: NodeId) -> Counts {
        self.shared.counts.read().get(&node).copied().unwrap_or_default()
    }

    /// The nodes of which anything is known.
    pub fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<_> = self.shared.counts.read().keys().copied().collect();
        nodes.sort_unstable();
        nodes
    }

    /// Since when the oldest entry without a finished first try has been wanted. Found among the first of the queue: an
    /// entry that was put off by a fault of the node moves back in it, so beyond them it can be off by such a delay.
    pub fn oldest_queued(&self, node: NodeId) -> Result<Option<Timestamp>, Error> {
        const LOOKED_AT: usize = 64;
        let end = Timestamp::from_millis(u64::MAX);
        let cids: Vec<_> = self
            .due(node, Lane::Fresh, end, LOOKED_AT, |_| false)?
            .items
            .into_iter()
            .map(|(_, cid)| cid)
            .collect();
        let entries = self.get_many(node, &cids)?;
        Ok(entries.into_iter().flatten().map(|entry| entry.first_queued).min())
    }

    /// Memory and disk used.
    pub fn stats(&self) -> LedgerStats {
        let sum = |property: &str| {
            [ENTRIES, DUE, STATUS, META]
                .iter()
                .filter_map(|name| {
                    self.shared
                        .db
                        .property_int_value_cf(&self.shared.column(name), property)
                        .ok()?
                })
                .sum()
        };
        LedgerStats {
            memtable_bytes: sum("rocksdb.cur-size-all-mem-tables"),
            cache_bytes: self.shared.cache.get_usage() as u64,
            reader_bytes: sum("rocksdb.estimate-table-readers-mem"),
            disk_bytes: sum("rocksdb.total-sst-files-size"),
            pending_compaction_bytes: sum("rocksdb.estimate-pending-compaction-bytes"),
        }
    }

    /// Why the ledger takes no changes now: the last write failed, or its writer has ended. None when it takes them.
    pub fn fault(&self) -> Option<String> {
        let fault = self.shared.fault.lock().clone();
        fault.or_else(|| {
            let open = self.commands.lock().is_some();
            let ended = self.writer.lock().as_ref().is_some_and(|writer| writer.is_finished());
            (open && ended).then(|| "the thread that writes the ledger has ended".to_owned())
        })
    }

    fn commands(&self) -> Result<mpsc::Sender<writer::Command>, Error> {
        self.commands.lock().clone().ok_or(Error::Closed)
    }

    fn read_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Entry>>, Error> {
        let values = self
            .shared
            .db
            .batched_multi_get_cf(&self.shared.column(ENTRIES), keys, keys.is_sorted());
        values
            .into_iter()
            .map(|value| value?.map(|value| entry::decode(&value)).transpose())
            .collect()
    }

    /// Walks a table from `from` up to and without `to`. `cached` is for what is read again soon; a walk over all
    /// entries would only push everything else out.
    fn walk(
        &self,
        table: &str,
        from: &[u8],
        to: Option<Vec<u8>>,
        cached: bool,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Error>,
    ) -> Result<(), Error> {
        if to.as_deref().is_some_and(|to| to <= from) {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        options.fill_cache(cached);
        if let Some(to) = to {
            options.set_iterate_upper_bound(to);
        }
        let mut rows = self.shared.db.raw_iterator_cf_opt(&self.shared.column(table), options);
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            if visit(key, value)?.is_break() {
                return Ok(());
            }
            rows.next();
        }
        Ok(rows.status()?)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // The writer ends when the last sender is gone, after it has written what waits.
        drop(self.commands.lock().take());
        if let Some(thread) = self.writer.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of the ledger panicked");
        }
        if let Err(error) = self.sync() {
            tracing::warn!(%error, "the ledger was not synced when it was closed");
        }
    }
}

impl Shared {
    /// Reads the counts, which is all that has to be in memory, and checks who wrote the tables.
    fn load(&self) -> Result<(), Error> {
        let meta = self.column(META);
        match self.db.get_cf(&meta, FORM_KEY)? {
            None => self.db.put_cf(&meta, FORM_KEY, FORM.to_be_bytes())?,
            Some(form) => {
                let form = form
                    .as_slice()
                    .try_into()
                    .map_err(|_| Error::Damaged("the form is no number".into()))?;
                let found = u32::from_be_bytes(form);
                if found > FORM {
                    return Err(Error::Newer { found, known: FORM });
                }
            }
        }
        let mut counts = self.counts.write();
        for row in self.db.iterator_cf(&meta, IteratorMode::Start) {
            let (key, value) = row?;
            if let Some((node, status)) = keys::read_count(&key)? {
                let value = value
                    .as_ref()
                    .try_into()
                    .map_err(|_| Error::Damaged("a count is no number".into()))?;
                counts.entry(node).or_default().0[status as usize] = u64::from_be_bytes(value);
            }
        }
        Ok(())
    }
}

fn successor(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

fn table_options(name: &str, options: &LedgerOptions, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    let mut table = Options::default();
    // Per table a share, so that the one that grows fastest is flushed before the common bound stops all.
    table.set_write_buffer_size(options.memtable_bytes / 4);
    table.set_compression_type(DBCompressionType::Lz4);
    table.set_level_compaction_dynamic_level_bytes(true);
    match name {
        ENTRIES => {
            // Most first edits ask for an entry that does not exist yet. Index and filters are cut into blocks that the
            // cache can drop: at a hundred million entries they would not fit into memory whole.
            blocks.set_bloom_filter(10.0, false);
            blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
            blocks.set_partition_filters(true);
            blocks.set_pin_top_level_index_and_filter(true);
            blocks.set_block_size(8 << 10);
        }
        DUE | STATUS => {
            // Queues: what was taken out must not stay as tombstones in front of what is next.
            table.add_compact_on_deletion_collector_factory(8_192, 4_096, 0.5);
        }
        _ => {}
    }
    table.set_block_based_table_factory(&blocks);
    table
}

#[cfg(test)]
mod tests;
