//! The three RocksDB instances of a peer, and nothing else that names RocksDB.
//!
//! - [`raft_log`]: the Raft log. It has a WAL, one writer thread and one sync for everything that waited.
//! - [`state`]: what the log has made of the pinset. It has no WAL; the log is one.
//! - [`ledger`]: what the storage nodes of this peer really hold. Local, and it survives every snapshot.
//!
//! [`snapshot`] turns the state into files for another peer, and such files into the state.

mod error;
mod files;
pub mod ledger;
pub mod raft_log;
pub mod snapshot;
pub mod state;
mod threads;

pub use error::StoreError;
pub use state::{Overlay, StateBatch, StateDb, StateOptions, StateStats, StateStore, TodoRow};
pub use threads::lower_priority;
