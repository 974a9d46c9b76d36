//! Compares the tables of the ledger with each other.

use std::collections::HashMap;

use node_core::NodeId;
use rocksdb::IteratorMode;

use super::{Counts, DUE, ENTRIES, Error, Ledger, STATUS, entry, keys};

/// What a check went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Entries in the main table.
    pub entries: u64,
    /// Keys in the due index.
    pub due: u64,
    /// Keys in the status index.
    pub status: u64,
}

impl Ledger {
    /// Walks all tables and says how they contradict each other, if they do. Takes as long as reading everything;
    /// memory stays constant. No edit may run meanwhile: the counts in memory are of now, the tables of the beginning.
    pub fn check(&self) -> Result<Checked, Error> {
        let shared = &self.shared;
        let [entries, due, status] = [ENTRIES, DUE, STATUS].map(|name| shared.column(name));
        let snapshot = shared.db.snapshot();
        let mut counts: HashMap<NodeId, Counts> = HashMap::new();
        let mut expected = Checked::default();
        for row in snapshot.iterator_cf(&entries, IteratorMode::Start) {
            let (key, value) = row?;
            let (node, cid) = keys::read_entry(&key)?;
            let entry = entry::decode(&value)?;
            expected.entries += 1;
            counts.entry(node).or_default().0[entry.status as usize] += 1;
            let wrong = |what: &str| {
                Error::Damaged(format!(
                    "{cid} at {node} is {} but not in the {what} index",
                    entry.status.as_str()
                ))
            };
            if let Some(lane) = entry.lane() {
                expected.due += 1;
                snapshot
                    .get_cf(&due, keys::due(&key, lane, entry.next_due))?
                    .ok_or_else(|| wrong("due"))?;
            }
            if super::is_indexed(entry.status) {
                expected.status += 1;
                snapshot
                    .get_cf(&status, keys::status(&key, entry.status))?
                    .ok_or_else(|| wrong("status"))?;
            }
        }
        // Every entry has its index keys; as many keys as entries that have one means that there is none too many.
        let count = |table| {
            snapshot
                .iterator_cf(table, IteratorMode::Start)
                .try_fold(0, |n, row| row.map(|_| n + 1))
        };
        let found = Checked {
            entries: expected.entries,
            due: count(&due)?,
            status: count(&status)?,
        };
        if found != expected {
            return Err(Error::Damaged(format!(
                "the indexes hold {found:?}, the entries ask for {expected:?}"
            )));
        }
        let known = shared.counts.read();
        for node in known.keys().chain(counts.keys()) {
            let (known, counted) = (known.get(node).copied(), counts.get(node).copied());
            if known.unwrap_or_default() != counted.unwrap_or_default() {
                return Err(Error::Damaged(format!(
                    "{node} is counted as {known:?} and has {counted:?}"
                )));
            }
        }
        Ok(found)
    }
}
