//! One generation of the state.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use node_core::pinset::{KvError, KvRead, KvWalk, Table, Visit};
use parking_lot::Mutex;
use rocksdb::{Cache, ColumnFamily, DBRawIteratorWithThreadMode, DBWithThreadMode, ReadOptions, SingleThreaded};
use rocksdb::{DBAccess, DBPinnableSlice, SnapshotWithThreadMode};

use super::options::{self, StateOptions};
use crate::StoreError;
use crate::files;

pub(super) type Rocks = DBWithThreadMode<SingleThreaded>;

/// How the rows of the tables are laid out. 2: pins lie in the index by time, and names and metadata are in its order.
const FORM: u32 = 2;

/// What states have that bear no mark.
const UNMARKED: u32 = 1;

const FORM_KEY: &[u8] = b"form";

/// One generation of the state. It lives as long as a reader holds it, also when a snapshot has replaced it.
pub struct StateDb {
    /// `None` only while it is dropped.
    rocks: Option<Rocks>,
    folder: PathBuf,
    generation: u64,
    doomed: AtomicBool,
    /// Where to begin reading the to-do: everything before it is deleted, and crossing the marks of deleted rows costs
    /// as much as crossing rows. New rows have larger keys always.
    pub(super) todo_floor: Mutex<Vec<u8>>,
}

/// A consistent view of all tables.
struct StateView<'a> {
    db: &'a StateDb,
    snapshot: SnapshotWithThreadMode<'a, Rocks>,
}

impl StateDb {
    pub(super) fn open(
        folder: &Path,
        generation: u64,
        options: &StateOptions,
        cache: &Cache,
    ) -> Result<Self, StoreError> {
        let rocks = Rocks::open_cf_descriptors(&options::database(options), folder, options::tables(options, cache))?;
        check_atomic_flush(folder)?;
        check_form(&rocks, folder)?;
        Ok(Self::new(rocks, folder, generation))
    }

    /// Opens a checkpoint for reading only. One that an earlier version made lacks the tables that came later: they read as
    /// empty, and [`StateDb::open`] makes them.
    pub(crate) fn open_checkpoint(folder: &Path) -> Result<Self, StoreError> {
        let options = StateOptions {
            block_cache_bytes: 1 << 20,
            ..StateOptions::default()
        };
        let cache = options::cache(&options);
        let mut database = options::database(&options);
        database.create_if_missing(false);
        database.create_missing_column_families(false);
        let present = Rocks::list_cf(&database, folder)?;
        let mut tables = options::tables(&options, &cache);
        tables.retain(|table| present.iter().any(|name| name == table.name()));
        let rocks = Rocks::open_cf_descriptors_read_only(&database, folder, tables, false)?;
        Ok(Self::new(rocks, folder, 0))
    }

    fn new(rocks: Rocks, folder: &Path, generation: u64) -> Self {
        Self {
            rocks: Some(rocks),
            folder: folder.to_owned(),
            generation,
            doomed: AtomicBool::new(false),
            todo_floor: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn rocks(&self) -> &Rocks {
        self.rocks.as_ref().expect("it is taken out only while it is dropped")
    }

    pub(super) fn table(&self, table: Table) -> &ColumnFamily {
        self.readable(table)
            .expect("all tables were opened, unless it is a checkpoint, to which nothing is written")
    }

    /// The table, unless this is the checkpoint of a version that had none of it.
    fn readable(&self, table: Table) -> Option<&ColumnFamily> {
        self.rocks().cf_handle(table.name())
    }

    /// Which generation this is; each installed snapshot makes a new one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Its folder is removed when the last reader lets go of it.
    pub(super) fn doom(&self) {
        self.doomed.store(true, Ordering::Release);
    }

    /// Reads from one consistent snapshot of all tables. Blocking, as every read here.
    pub fn read_view<R>(&self, read: impl FnOnce(&dyn KvRead) -> R) -> R {
        read(&StateView {
            db: self,
            snapshot: self.rocks().snapshot(),
        })
    }

    /// The same for who goes backwards too, or asks for much at once.
    pub fn walk_view<R>(&self, read: impl FnOnce(&dyn KvWalk) -> R) -> R {
        read(&StateView {
            db: self,
            snapshot: self.rocks().snapshot(),
        })
    }

    /// Values of sorted keys, in one go.
    pub(super) fn get_sorted(&self, table: Table, keys: &[Vec<u8>]) -> Vec<Result<Option<Vec<u8>>, KvError>> {
        let values = self.rocks().batched_multi_get_cf(self.table(table), keys, true);
        let value = |read: Result<Option<DBPinnableSlice<'_>>, _>| Ok(read.map_err(failed)?.map(|row| row.to_vec()));
        values.into_iter().map(value).collect()
    }

    /// For going through many short ranges. Without read-ahead, for which RocksDB would have to know their ends.
    pub(super) fn all_rows(&self, table: Table) -> DBRawIteratorWithThreadMode<'_, Rocks> {
        self.rocks().raw_iterator_cf(self.table(table))
    }

    fn rows(&self, table: Table, end: Option<&[u8]>) -> DBRawIteratorWithThreadMode<'_, Rocks> {
        self.rocks().raw_iterator_cf_opt(self.table(table), bounds(end))
    }
}

impl Drop for StateDb {
    fn drop(&mut self) {
        drop(self.rocks.take());
        if self.doomed.load(Ordering::Acquire) {
            files::remove_folder_later(self.folder.clone());
        }
    }
}

impl KvRead for StateDb {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match self.readable(table) {
            Some(rows) => self.rocks().get_cf(rows, key).map_err(failed),
            None => Ok(None),
        }
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), KvError> {
        if self.readable(table).is_none() {
            return Ok(());
        }
        walk(self.rows(table, end), start, visit)
    }
}

impl KvRead for StateView<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match self.db.readable(table) {
            Some(rows) => self.snapshot.get_cf(rows, key).map_err(failed),
            None => Ok(None),
        }
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), KvError> {
        match self.db.readable(table) {
            Some(rows) => walk(self.snapshot.raw_iterator_cf_opt(rows, bounds(end)), start, visit),
            None => Ok(()),
        }
    }
}

impl KvWalk for StateView<'_> {
    fn scan_back(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), KvError> {
        let Some(rows) = self.db.readable(table) else {
            return Ok(());
        };
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let mut read = bounds(end);
        read.set_iterate_lower_bound(start);
        let mut rows = self.snapshot.raw_iterator_cf_opt(rows, read);
        // The upper bound is where it begins, and is not visited itself.
        rows.seek_to_last();
        while let Some((key, value)) = rows.item() {
            if !visit(key, value) {
                return Ok(());
            }
            rows.prev();
        }
        rows.status().map_err(failed)
    }

    fn get_many(&self, table: Table, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        let Some(rows) = self.db.readable(table) else {
            return Ok(vec![None; keys.len()]);
        };
        let mut read = ReadOptions::default();
        read.set_snapshot(&self.snapshot);
        let values = self
            .db
            .rocks()
            .batched_multi_get_cf_opt(rows, keys, keys.is_sorted(), &read);
        let value = |read: Result<Option<DBPinnableSlice<'_>>, _>| Ok(read.map_err(failed)?.map(|row| row.to_vec()));
        values.into_iter().map(value).collect()
    }
}

pub(super) fn failed(error: rocksdb::Error) -> KvError {
    KvError(format!("RocksDB: {error}"))
}

fn bounds(end: Option<&[u8]>) -> ReadOptions {
    let mut read = ReadOptions::default();
    // Read-ahead grows by itself with the length of the scan, so a short one does not pay for a long one.
    read.set_auto_readahead_size(true);
    if let Some(end) = end {
        read.set_iterate_upper_bound(end);
    }
    read
}

fn walk<D: DBAccess>(
    mut rows: DBRawIteratorWithThreadMode<'_, D>,
    start: &[u8],
    visit: Visit<'_>,
) -> Result<(), KvError> {
    rows.seek(start);
    while let Some((key, value)) = rows.item() {
        if !visit(key, value) {
            return Ok(());
        }
        rows.next();
    }
    rows.status().map_err(failed)
}

/// Looks into the options that RocksDB wrote down when it opened the database: a state whose tables are not flushed
/// together is lost at the first crash, and nothing else would tell.
/// Whether the rows are laid out as this version has them; an empty state is marked so. The mark lies in RocksDB's own table,
/// so that it is no part of what peers compare, and goes with every checkpoint.
fn check_form(rocks: &Rocks, folder: &Path) -> Result<(), StoreError> {
    let found = match rocks.get(FORM_KEY)? {
        Some(form) => {
            let form = <[u8; 4]>::try_from(form.as_slice());
            form.map(u32::from_be_bytes)
                .map_err(|_| StoreError::Corrupt(format!("{}: its form is no number", folder.display())))?
        }
        None => {
            let meta = rocks.cf_handle(Table::Meta.name());
            let mut rows = meta.map(|meta| rocks.raw_iterator_cf(meta));
            if let Some(rows) = &mut rows {
                rows.seek_to_first();
                rows.status()?;
            }
            if rows.is_none_or(|rows| !rows.valid()) {
                rocks.put_opt(FORM_KEY, FORM.to_be_bytes(), &super::unlogged())?;
                // Before any row: flushes of the tables leave RocksDB's own out, and rows without the mark would be taken
                // for those of another version.
                return Ok(rocks.flush()?);
            }
            UNMARKED
        }
    };
    if found == FORM {
        return Ok(());
    }
    Err(StoreError::Form {
        folder: folder.to_owned(),
        found,
        known: FORM,
    })
}

fn check_atomic_flush(folder: &Path) -> Result<(), StoreError> {
    let latest = files::names(folder)?
        .into_iter()
        .rfind(|name| name.starts_with("OPTIONS-") && !name.ends_with("dbtmp"));
    let Some(latest) = latest else {
        return Err(StoreError::Corrupt(format!(
            "{}: RocksDB wrote no OPTIONS file",
            folder.display()
        )));
    };
    let path = folder.join(latest);
    let text = fs::read_to_string(&path).map_err(StoreError::io(&path))?;
    if text.lines().any(|line| line.trim() == "atomic_flush=true") {
        Ok(())
    } else {
        Err(StoreError::Corrupt(format!(
            "{}: the tables are not flushed together",
            path.display()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Overlay, StateStore};
    use super::*;
    use node_core::pinset::KvWrite;

    #[test]
    fn rows_are_read_backwards_and_many_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = StateStore::open(&folder.path().join("state"), StateOptions::default()).expect("opened");
        let db = store.current();
        let mut overlay = Overlay::new(&db);
        for number in 0..10_u8 {
            overlay.put(Table::ByCreated, vec![1, number], vec![number]);
        }
        overlay.put(Table::ByCreated, vec![0], vec![99]);
        overlay.put(Table::ByCreated, vec![2], vec![99]);
        store.write(overlay.into_batch()).expect("written");
        let back = |start: &[u8], end: Option<&[u8]>, limit: usize| {
            let mut found = Vec::new();
            store.current().walk_view(|kv| {
                kv.scan_back(Table::ByCreated, start, end, &mut |_, value| {
                    found.push(value[0]);
                    found.len() < limit
                })
                .expect("read");
            });
            found
        };
        assert_eq!(back(&[1], Some(&[2]), 3), [9, 8, 7]);
        assert_eq!(
            back(&[1, 3], Some(&[1, 6]), 9),
            [5, 4, 3],
            "from the start up to the end"
        );
        assert_eq!(back(&[1, 8], None, 9), [99, 9, 8]);
        assert!(back(&[1, 6], Some(&[1, 6]), 9).is_empty());
        assert!(back(&[1, 6], Some(&[1, 3]), 9).is_empty());
        assert!(back(&[3], None, 9).is_empty());
        for keys in [
            vec![vec![1, 3], vec![1, 77], vec![1, 4]],
            vec![vec![1, 4], vec![0]],
            vec![],
        ] {
            store.current().walk_view(|kv| {
                let many = kv.get_many(Table::ByCreated, &keys).expect("read");
                let one: Vec<_> = keys
                    .iter()
                    .map(|key| kv.get(Table::ByCreated, key).expect("read"))
                    .collect();
                assert_eq!(many, one);
            });
        }
    }

    /// What a peer of an earlier version sends, or has left on this disk.
    #[test]
    fn a_state_without_the_latest_table_is_read_and_completed() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = StateStore::open(&folder.path().join("state"), StateOptions::default()).expect("opened");
        let db = store.current();
        let mut overlay = Overlay::new(&db);
        overlay.put(Table::Pins, b"a pin".to_vec(), vec![1]);
        store.write(overlay.into_batch()).expect("written");
        let old = folder.path().join("old");
        store.checkpoint(&old).expect("a checkpoint");
        let tables = || {
            let cache = options::cache(&StateOptions::default());
            options::tables(&StateOptions::default(), &cache)
        };
        let database = options::database(&StateOptions::default());
        let mut rocks = Rocks::open_cf_descriptors(&database, &old, tables()).expect("opened");
        rocks.drop_cf(Table::Credentials.name()).expect("it was there");
        drop(rocks);

        let checkpoint = StateDb::open_checkpoint(&old).expect("it can be read");
        let read = |kv: &dyn KvRead| {
            assert_eq!(kv.get(Table::Pins, b"a pin"), Ok(Some(vec![1])));
            assert_eq!(kv.get(Table::Credentials, b"a"), Ok(None));
            kv.scan(Table::Credentials, &[], None, &mut |_, _| panic!("there are none"))
                .expect("an empty table");
        };
        read(&checkpoint);
        checkpoint.read_view(read);
        drop(checkpoint);
        let cache = options::cache(&StateOptions::default());
        let completed = StateDb::open(&old, 1, &StateOptions::default(), &cache).expect("completed");
        read(&completed);
        assert!(completed.readable(Table::Credentials).is_some());
    }

    #[test]
    fn a_state_of_another_form_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        let cache = options::cache(&StateOptions::default());
        let open = || StateDb::open(&state, 1, &StateOptions::default(), &cache);

        let db = open().expect("a new one");
        let meta = db.table(Table::Meta);
        db.rocks().put_cf(meta, b"header", b"row").expect("written");
        drop(db);
        drop(open().expect("its own"));

        for (form, found) in [(Some(1_u32), 1), (Some(FORM + 1), FORM + 1), (None, UNMARKED)] {
            let tables = options::tables(&StateOptions::default(), &cache);
            let rocks = Rocks::open_cf_descriptors(&options::database(&StateOptions::default()), &state, tables);
            let rocks = rocks.expect("opened");
            match form {
                Some(form) => rocks.put(FORM_KEY, form.to_be_bytes()).expect("written"),
                None => rocks.delete(FORM_KEY).expect("written"),
            }
            drop(rocks);
            let refused = open().err().expect("refused");
            assert!(
                matches!(refused, StoreError::Form { found: told, known: FORM, .. } if told == found),
                "{refused}"
            );
        }
    }
}
