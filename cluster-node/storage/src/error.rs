//! What can go wrong in a store.

use std::io;
use std::path::{Path, PathBuf};

use node_core::pinset::KvError;

/// A store failed, or holds what this version can't read. The peer must leave service: none of these is retried.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// RocksDB reported an error.
    #[error("RocksDB: {0}")]
    Rocks(#[from] rocksdb::Error),
    /// The file system reported an error.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was reported.
        source: io::Error,
    },
    /// Another version wrote it, in a way that this one does not read.
    #[error(
        "{folder}: the state is laid out in form {found}, and this version reads form {known}; run the version that wrote it, \
         or begin with an empty folder and let the peer join anew"
    )]
    Form {
        /// Of the state.
        folder: PathBuf,
        /// What it has.
        found: u32,
        /// What is understood.
        known: u32,
    },
    /// What is on disk breaks its own rules.
    #[error("{0}")]
    Corrupt(String),
}

impl StoreError {
    /// Attaches the path that an I/O error lacks.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

impl From<StoreError> for KvError {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

impl From<KvError> for StoreError {
    fn from(error: KvError) -> Self {
        Self::Corrupt(error.0)
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io { path, source } => Self::new(source.kind(), format!("{}: {source}", path.display())),
            other => Self::other(other),
        }
    }
}
