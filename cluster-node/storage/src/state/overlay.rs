//! Writes that are not yet in the database, and reads that see them.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;

use node_core::pinset::{KvError, KvRead, KvWrite, Table, Visit};
use rocksdb::WriteBatch;

use super::db::{StateDb, failed};

/// A row to be written, or `None` to be deleted.
type Pending = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Writes over one generation of the state, kept in memory until [`Overlay::into_batch`]. Reads see them.
///
/// It relies on being the only one that writes these tables: what it read from the database must still hold when the
/// batch is written.
pub struct Overlay<'a> {
    db: &'a StateDb,
    pending: [Pending; Table::ALL.len()],
    bytes: usize,
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
        }
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
}

impl KvRead for Overlay<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match self.rows(table).get(key) {
            Some(value) => Ok(value.clone()),
            None => self.db.get(table, key),
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
        let mut stored = self.db.rows(table, end);
        stored.seek(start);
        loop {
            // Of both sides the smaller key comes next; a pending row hides the stored one of the same key.
            let stored_row = stored.item();
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
        }
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
