//! A store in memory, for tests and simulation.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::view::{KvError, KvRead, KvWalk, KvWrite, Table, Visit};

/// A store in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryKv {
    rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

impl MemoryKv {
    /// All rows, in order of table and key.
    pub fn rows(&self) -> impl Iterator<Item = (Table, &[u8], &[u8])> {
        self.rows
            .iter()
            .map(|((table, key), value)| (*table, key.as_slice(), value.as_slice()))
    }
}

impl KvRead for MemoryKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.rows.get(&(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), KvError> {
        let first = Bound::Included((table, start.to_vec()));
        for ((found, key), value) in self.rows.range((first, Bound::Unbounded)) {
            let past_end = *found != table || end.is_some_and(|end| key.as_slice() >= end);
            if past_end || !visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}

impl KvWalk for MemoryKv {
    fn scan_back(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), KvError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let first = Bound::Included((table, start.to_vec()));
        let last = end.map_or(Bound::Unbounded, |end| Bound::Excluded((table, end.to_vec())));
        let rows = self.rows.range((first, last)).rev();
        for ((_, key), value) in rows.skip_while(|((found, _), _)| *found != table) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn get_many(&self, table: Table, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        keys.iter().map(|key| self.get(table, key)).collect()
    }
}

impl KvWrite for MemoryKv {
    fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.rows.insert((table, key), value);
    }

    fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.rows.remove(&(table, key));
    }
}
