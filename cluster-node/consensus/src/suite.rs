//! openraft's own test suite, on both log engines.

use std::sync::Arc;

use cluster_storage::raft_log::{LogEngine, LogOptions, MemoryLogEngine, RaftLog, RaftLogOptions, RocksLogEngine};
use cluster_storage::{StateOptions, StateStore};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;

use crate::log_store::LogStore;
use crate::state_machine::StateMachine;
use crate::types::{C, RaftPeer};

struct Builder {
    memory: bool,
    inline: bool,
}

impl StoreBuilder<C, LogStore, StateMachine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<C>> {
        let build = || -> std::io::Result<_> {
            let folder = tempfile::tempdir()?;
            let engine: Arc<dyn LogEngine> = if self.memory {
                Arc::new(MemoryLogEngine::new())
            } else {
                Arc::new(RocksLogEngine::open(
                    &folder.path().join("log"),
                    &LogOptions::default(),
                )?)
            };
            let options = RaftLogOptions {
                inline: self.inline,
                ..RaftLogOptions::default()
            };
            let log = LogStore::open(RaftLog::open(engine, &options)?, 1 << 20, 1 << 30)?;
            let state = Arc::new(StateStore::open(&folder.path().join("state"), StateOptions::default())?);
            // The suite applies entries from the middle of logs that never were.
            let machine = StateMachine::open_for_suite(state, RaftPeer::default().peer_id)?;
            Ok((folder, log, machine))
        };
        build().map_err(|error| StorageError::read(C::err_from_error(&error)))
    }
}

#[tokio::test]
async fn openraft_suite_on_rocksdb() {
    Suite::test_all(Builder {
        memory: false,
        inline: false,
    })
    .await
    .expect("the suite passes");
}

#[tokio::test]
async fn openraft_suite_on_memory() {
    Suite::test_all(Builder {
        memory: true,
        inline: true,
    })
    .await
    .expect("the suite passes");
}
