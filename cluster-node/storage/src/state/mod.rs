//! The state: what the log has made of the pinset.
//!
//! A folder with generations `gen-N`, each a RocksDB of its own, and a file `CURRENT` that names the one in use. A
//! snapshot from another peer becomes the next generation; readers keep the old one until they are done.
//!
//! There is no WAL: the Raft log is one already. All tables are flushed together, and the row that tells how far the
//! log was applied is written in the same batch as what it did, so after a crash the state is that of some earlier
//! point of the log, and applying goes on from there.

mod db;
mod options;
mod overlay;
mod todo;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use node_core::NodeId;
use node_core::pinset::{KvRead, Table};
use parking_lot::Mutex;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{Cache, FlushOptions, WriteBatch, WriteOptions};

pub use db::StateDb;
pub use options::StateOptions;
pub use overlay::{Overlay, StateBatch};
pub use todo::{ALL_NODES, TodoRow, read_todo, todo_key, todo_value};

use crate::StoreError;
use crate::files;

const CURRENT: &str = "CURRENT";
const GENERATION: &str = "gen-";
const INCOMING: &str = "incoming-";
const SNAPSHOTS: &str = "snapshots";

/// The state of a peer, through all its generations.
pub struct StateStore {
    folder: PathBuf,
    options: StateOptions,
    cache: Cache,
    current: ArcSwap<StateDb>,
    /// Held while writing and while a generation is replaced, so that no write goes to the one that is left.
    writer: Mutex<()>,
}

/// Sizes, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StateStats {
    /// Writes in memory.
    pub memtable_bytes: u64,
    /// Blocks in memory.
    pub cache_bytes: u64,
    /// Files in use.
    pub sst_bytes: u64,
    /// What compaction has yet to rewrite.
    pub pending_compaction_bytes: u64,
}

impl StateStore {
    /// Opens the state in `folder`, which is made when it is not there, and removes what a crash left half done.
    pub fn open(folder: &Path, options: StateOptions) -> Result<Self, StoreError> {
        files::make_folder(folder)?;
        let generation = current_generation(folder)?;
        let own = format!("{GENERATION}{generation}");
        for name in files::names(folder)? {
            let left_over = [INCOMING, files::DOOMED].iter().any(|prefix| name.starts_with(prefix))
                || (name.starts_with(GENERATION) && name != own);
            if left_over {
                tracing::info!(folder = name, "removing what an interrupted snapshot install left");
                files::remove_folder(&folder.join(name))?;
            }
        }
        let cache = options::cache(&options);
        let db = StateDb::open(&folder.join(&own), generation, &options, &cache)?;
        files::sync_folder(folder)?;
        files::replace_file(&folder.join(CURRENT), format!("{own}\n").as_bytes())?;
        Ok(Self {
            folder: folder.to_owned(),
            options,
            cache,
            current: ArcSwap::from_pointee(db),
            writer: Mutex::new(()),
        })
    }

    /// The generation in use. Whoever keeps it sees no snapshot that is installed later, and keeps its files on disk.
    pub fn current(&self) -> Arc<StateDb> {
        self.current.load_full()
    }

    /// Where the snapshots of this state are kept: links to its files, so it is on the same file system.
    pub fn snapshots_folder(&self) -> PathBuf {
        self.folder.join(SNAPSHOTS)
    }

    /// A folder for receiving a snapshot, not made yet. Left-over ones are removed by [`StateStore::open`].
    pub fn incoming_folder(&self) -> PathBuf {
        self.folder.join(files::fresh_name(INCOMING))
    }

    /// Writes a batch at once. It is durable after the next flush only.
    pub fn write(&self, batch: StateBatch) -> Result<(), StoreError> {
        let _writer = self.writer.lock();
        let db = self.current.load();
        if db.generation() != batch.generation {
            return Err(StoreError::Corrupt(format!(
                "a batch made over generation {} can't be written to generation {}",
                batch.generation,
                db.generation()
            )));
        }
        Ok(db.rocks().write_opt(batch.batch, &unlogged())?)
    }

    /// The oldest to-do rows.
    pub fn todo_batch(&self, limit: usize) -> Result<Vec<TodoRow>, StoreError> {
        let db = self.current.load();
        let start = db.todo_floor.lock().clone();
        let mut rows = Vec::new();
        let mut damaged = None;
        db.scan(Table::Todo, &start, None, &mut |key, value| {
            match read_todo(key, value) {
                Ok(row) => rows.push(row),
                Err(error) => damaged = Some(error),
            }
            damaged.is_none() && rows.len() < limit
        })?;
        if let Some(error) = damaged {
            return Err(error.into());
        }
        if let Some(first) = rows.first() {
            let mut floor = db.todo_floor.lock();
            if *floor < first.key {
                floor.clone_from(&first.key);
            }
        }
        Ok(rows)
    }

    /// Deletes to-do rows that are done. May come beside [`StateStore::write`]: applying never reads this table and
    /// never writes a key twice. A row that was read before a snapshot was installed is not in the new generation.
    pub fn delete_todo(&self, keys: &[Vec<u8>]) -> Result<(), StoreError> {
        let db = self.current.load();
        let table = db.table(Table::Todo);
        let mut batch = WriteBatch::default();
        for key in keys {
            batch.delete_cf(&table, key);
        }
        Ok(db.rocks().write_opt(batch, &unlogged())?)
    }

    /// Leaves a note for each of these nodes that wanted and seen must be compared. For the start: what is read later may
    /// pass over it.
    pub fn note_nodes(&self, nodes: impl IntoIterator<Item = NodeId>) -> Result<(), StoreError> {
        let _writer = self.writer.lock();
        let db = self.current.load();
        let table = db.table(Table::Todo);
        let mut batch = WriteBatch::default();
        for node in nodes {
            // No entry of the log has the index 0.
            batch.put_cf(&table, todo_key(0, node.0), todo_value(node, None));
        }
        if batch.is_empty() {
            return Ok(());
        }
        db.rocks().write_opt(batch, &unlogged())?;
        // No replay of the log would bring it back.
        flush(&db)
    }

    /// Makes everything written so far durable.
    pub fn flush(&self) -> Result<(), StoreError> {
        flush(&self.current.load())
    }

    /// Makes a copy of the state in `folder`, which must not exist, out of links to its files. What was written before
    /// is in it: the memory is flushed first.
    pub fn checkpoint(&self, folder: &Path) -> Result<(), StoreError> {
        let db = self.current.load();
        // The size that makes RocksDB flush is 0 in this call. Any other loses writes that are in no WAL.
        Ok(Checkpoint::new(db.rocks())?.create_checkpoint(folder)?)
    }

    /// Makes the checkpoint in `incoming` the next generation. `at` is the log index it was taken at, and `check` has
    /// the last word about its content. When this fails, the state is what it was.
    pub fn install(
        &self,
        incoming: &Path,
        at: u64,
        check: impl FnOnce(&dyn KvRead) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let _writer = self.writer.lock();
        let old = self.current.load_full();
        let generation = old.generation() + 1;
        let name = format!("{GENERATION}{generation}");
        let folder = self.folder.join(&name);
        files::remove_folder(&folder)?;
        files::rename(incoming, &folder)?;
        let installed = self.prepare(&folder, generation, at, check).and_then(|db| {
            files::replace_file(&self.folder.join(CURRENT), format!("{name}\n").as_bytes())?;
            Ok(db)
        });
        match installed {
            Ok(db) => {
                self.current.store(Arc::new(db));
                old.doom();
                Ok(())
            }
            Err(error) => {
                // CURRENT may have been replaced before its folder could be synced: then what it names must stay.
                if current_generation(&self.folder).is_ok_and(|named| named != generation) {
                    files::remove_folder_later(folder);
                }
                Err(error)
            }
        }
    }

    fn prepare(
        &self,
        folder: &Path,
        generation: u64,
        at: u64,
        check: impl FnOnce(&dyn KvRead) -> Result<(), StoreError>,
    ) -> Result<StateDb, StoreError> {
        let db = StateDb::open(folder, generation, &self.options, &self.cache)?;
        check(&db)?;
        // The to-do came with the snapshot and is the sender's. This peer has to compare everything once.
        let table = db.table(Table::Todo);
        let mut batch = WriteBatch::default();
        let end = [0xff; 13];
        batch.delete_range_cf(&table, &[][..], &end[..]);
        batch.put_cf(&table, todo_key(at, u32::MAX), todo_value(ALL_NODES, None));
        db.rocks().write_opt(batch, &unlogged())?;
        // Durable before it is in use: otherwise a crash would bring the sender's to-do back.
        flush(&db)?;
        Ok(db)
    }

    /// Whether RocksDB slows writes down because compaction is behind.
    pub fn is_slowed_down(&self) -> bool {
        let db = self.current.load();
        let rate = db.rocks().property_int_value("rocksdb.actual-delayed-write-rate");
        rate.ok().flatten().is_some_and(|rate| rate > 0)
    }

    /// Sizes, for metrics.
    pub fn stats(&self) -> StateStats {
        let db = self.current.load();
        let sum = |property: &str| {
            let of = |table: &Table| {
                db.rocks()
                    .property_int_value_cf(&db.table(*table), property)
                    .ok()
                    .flatten()
            };
            Table::ALL.iter().filter_map(of).sum()
        };
        StateStats {
            memtable_bytes: sum("rocksdb.cur-size-all-mem-tables"),
            cache_bytes: self.cache.get_usage() as u64,
            sst_bytes: sum("rocksdb.total-sst-files-size"),
            pending_compaction_bytes: sum("rocksdb.estimate-pending-compaction-bytes"),
        }
    }
}

fn unlogged() -> WriteOptions {
    let mut write = WriteOptions::default();
    write.disable_wal(true);
    write
}

fn flush(db: &StateDb) -> Result<(), StoreError> {
    let mut options = FlushOptions::default();
    options.set_wait(true);
    let tables: Vec<_> = Table::ALL.iter().map(|table| db.table(*table)).collect();
    let tables: Vec<_> = tables.iter().collect();
    Ok(db.rocks().flush_cfs_opt(&tables, &options)?)
}

/// The generation that `CURRENT` names. Without the file nothing but the first one can be there.
fn current_generation(folder: &Path) -> Result<u64, StoreError> {
    let path = folder.join(CURRENT);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let names = files::names(folder)?;
            let first = format!("{GENERATION}1");
            return match names
                .iter()
                .find(|name| name.starts_with(GENERATION) && **name != first)
            {
                None => Ok(1),
                Some(other) => Err(StoreError::Corrupt(format!(
                    "{}: {other} is there, but no file CURRENT that says which generation is in use",
                    folder.display()
                ))),
            };
        }
        Err(error) => return Err(StoreError::io(&path)(error)),
    };
    let number = text
        .trim()
        .strip_prefix(GENERATION)
        .and_then(|number| number.parse().ok());
    number.ok_or_else(|| StoreError::Corrupt(format!("{}: {:?} names no generation", path.display(), text.trim())))
}
