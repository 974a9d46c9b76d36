//! Log, state and snapshots on a real disk.

mod crash;
mod log;
mod overlay;
mod snapshot;

use cluster_storage::StateStore;
use node_core::pinset::{KvRead, Table};

/// All rows of some tables.
fn rows(kv: &dyn KvRead, tables: &[Table]) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    for table in tables {
        kv.scan(*table, &[], None, &mut |key, value| {
            rows.push((*table, key.to_vec(), value.to_vec()));
            true
        })
        .expect("read");
    }
    rows
}

fn open(folder: &std::path::Path) -> StateStore {
    StateStore::open(folder, cluster_storage::StateOptions::default()).expect("the state opens")
}
