//! Writes that are not yet in the database, and reads that see them.

use std::cell::RefCell;
use std::collections::btree_map;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use node_core::pinset::{KvError, KvRead, KvWrite, Table, Visit};
use rocksdb::{DBRawIteratorWithThreadMode, WriteBatch};

use super::db::{Rocks, StateDb, failed};

/// A row to be written, or `None` to be deleted.
type Pending = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// What the database says of a key.
type Stored = HashMap<Vec<u8>, Option<Vec<u8>>>;

type Rows<'a> = DBRawIteratorWithThreadMode<'a, Rocks>;

/// Rows that are asked for at a time: RocksDB looks at each filter and index block once for all of them.
const PREFETCH_ROWS: usize = 512;

/// Writes over one generation of the state, kept in memory until [`Overlay::into_batch`]. Reads see them.
///
/// It relies on being the only one that writes these tables: what it read from the database must still hold when the
/// batch is written. That is also why it may keep what it read, and go through a table with one iterator again and again.
pub struct Overlay<'a> {
    db: &'a StateDb,
    pending: [Pending; Table::ALL.len()],
    bytes: usize,
    /// What was read ahead, and the storage nodes: each pin looks at those it is placed on. Bounded by what one overlay is
    /// given to do, and by the number of nodes.
    stored: RefCell<[Stored; Table::ALL.len()]>,
    /// Making one costs more than a seek. Not here while it is in use.
    iterators: RefCell<[Option<Rows<'a>>; Table::ALL.len()]>,
}

/// What [`crate::StateStore::write`] writes at once.
pub struct StateBatch {
    pub(super) batch: WriteBatch,
    pub(super) generation: u64,
}

impl<'a> Overlay<'a> {
    /// Nothing pending yet.
    pub fn new(db: &'a StateDb) -> Self {
        Self {
            db,
            pending: Default::default(),
            bytes: 0,
            stored: Default::default(),
            iterators: Default::default(),
        }
    }

    /// Reads ahead what will be asked for one by one. For many rows that is several times as fast.
    pub fn prefetch(&self, table: Table, mut keys: Vec<Vec<u8>>) -> Result<(), KvError> {
        keys.sort_unstable();
        keys.dedup();
        let mut stored = self.stored.borrow_mut();
        let stored = &mut stored[table as usize];
        keys.retain(|key| !stored.contains_key(key));
        stored.reserve(keys.len());
        for some in keys.chunks(PREFETCH_ROWS) {
            let values = self.db.get_sorted(table, some);
            for (key, value) in some.iter().zip(values) {
                stored.insert(key.clone(), value?);
            }
        }
        Ok(())
    }

    /// Bytes of keys and values put so far: what decides when to write.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.pending.iter().all(BTreeMap::is_empty)
    }

    /// All writes, to be written together.
    pub fn into_batch(self) -> StateBatch {
        let mut batch = WriteBatch::with_capacity_bytes(self.bytes + self.bytes / 4);
        for (table, rows) in Table::ALL.into_iter().zip(self.pending) {
            if rows.is_empty() {
                continue;
            }
            let table = self.db.table(table);
            for (key, value) in rows {
                match value {
                    Some(value) => batch.put_cf(&table, key, value),
                    None => batch.delete_cf(&table, key),
                }
            }
        }
        StateBatch {
            batch,
            generation: self.db.generation(),
        }
    }

    fn rows(&self, table: Table) -> &Pending {
        &self.pending[table as usize]
    }

    fn get_stored(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        if let Some(value) = self.stored.borrow()[table as usize].get(key) {
            return Ok(value.clone());
        }
        let value = self.db.get(table, key)?;
        if table == Table::Nodes {
            self.stored.borrow_mut()[table as usize].insert(key.to_vec(), value.clone());
        }
        Ok(value)
    }
}

impl KvRead for Overlay<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match self.rows(table).get(key) {
            Some(value) => Ok(value.clone()),
            None => self.get_stored(table, key),
        }
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), KvError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let upper = end.map_or(Bound::Unbounded, Bound::Excluded);
        let mut pending: btree_map::Range<'_, _, _> =
            self.rows(table).range::<[u8], _>((Bound::Included(start), upper));
        let mut next_pending = pending.next();
        // A scan within the visit of another one of the same table makes an iterator of its own.
        let kept = self.iterators.borrow_mut()[table as usize].take();
        let mut stored = kept.unwrap_or_else(|| self.db.all_rows(table));
        stored.seek(start);
        let mut merge = || loop {
            // Of both sides the smaller key comes next; a pending row hides the stored one of the same key.
            let stored_row = stored.item().filter(|(key, _)| end.is_none_or(|end| *key < end));
            match (next_pending, stored_row) {
                (None, None) => return stored.status().map_err(failed),
                (Some((key, value)), row) if row.is_none_or(|(stored_key, _)| key.as_slice() <= stored_key) => {
                    let hides = row.is_some_and(|(stored_key, _)| key.as_slice() == stored_key);
                    if let Some(value) = value
                        && !visit(key, value)
                    {
                        return Ok(());
                    }
                    if hides {
                        stored.next();
                    }
                    next_pending = pending.next();
                }
                (_, Some((key, value))) => {
                    if !visit(key, value) {
                        return Ok(());
                    }
                    stored.next();
                }
                (Some(_), None) => unreachable!("without a stored row the pending one comes next"),
            }
        };
        let merged = merge();
        if merged.is_ok() {
            self.iterators.borrow_mut()[table as usize] = Some(stored);
        }
        merged
    }
}

impl KvWrite for Overlay<'_> {
    fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.pending[table as usize].insert(key, Some(value));
    }

    fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.bytes += key.len();
        self.pending[table as usize].insert(key, None);
    }
}
