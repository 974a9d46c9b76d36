//! What went wrong, sorted.

use std::path::PathBuf;

use cluster_content::StoreError as ContentStoreError;
use cluster_dag::DagError;
use cluster_ipfs::{Error, Operation};
use node_core::{ErrorClass, Invalid};

use crate::fetch::GatherError;
use crate::key::KeyError;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A value of the configuration.
    #[error(transparent)]
    Config(#[from] Invalid),
    /// The key file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The block store.
    #[error(transparent)]
    Store(#[from] cluster_blocks::Error),
    /// The network.
    #[error(transparent)]
    Swarm(#[from] cluster_swarm::StartError),
    /// The client for gateways and routers.
    #[error("no HTTP client can be made: {0}")]
    Http(String),
    /// The folder.
    #[error("the node's folder {path:?} can't be made or looked at: {reason}", path = .path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
}

/// Why something was not done: a class and words, before it is known which call it was part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) class: ErrorClass,
    pub(crate) words: String,
}

impl Failure {
    pub(crate) fn new(class: ErrorClass, words: impl Into<String>) -> Self {
        Self {
            class,
            words: words.into(),
        }
    }

    /// The node is being shut down.
    pub(crate) fn stopping() -> Self {
        Self::new(ErrorClass::Unreachable, "the node shuts down")
    }

    /// As the outcome of a call.
    pub(crate) fn of(self, operation: Operation) -> Error {
        Error::new(operation, self.class, self.words, None)
    }
}

impl From<cluster_blocks::Error> for Failure {
    fn from(error: cluster_blocks::Error) -> Self {
        use cluster_blocks::Error as Store;
        let words = error.to_string();
        let class = match &error {
            Store::Content(dag) => return Self::from(dag.clone()),
            // The system's words for a full disk, as they stand in RocksDB's.
            Store::Database(said) | Store::Broken { reason: said } if is_full(said) => ErrorClass::DiskFull,
            // Reads may go on, but nothing can be pinned until somebody has looked at the disk.
            Store::Broken { .. } | Store::Closed => ErrorClass::Unreachable,
            Store::NoteTooLong { .. } | Store::NameTooLong { .. } => ErrorClass::Permanent,
            _ => ErrorClass::Temporary,
        };
        Self { class, words }
    }
}

fn is_full(words: &str) -> bool {
    let words = words.to_lowercase();
    words.contains("no space left") || words.contains("quota exceeded")
}

impl From<DagError> for Failure {
    fn from(error: DagError) -> Self {
        let class = match error {
            // Of who sent it; another sender may have the right bytes.
            DagError::HashMismatch { .. } => ErrorClass::Temporary,
            _ => ErrorClass::Permanent,
        };
        Self::new(class, error.to_string())
    }
}

impl From<GatherError> for Failure {
    fn from(error: GatherError) -> Self {
        let class = match error {
            GatherError::NotFound { .. } => ErrorClass::NotFound,
            GatherError::Stalled { .. } => ErrorClass::Stalled,
            GatherError::Closed => ErrorClass::Unreachable,
        };
        Self::new(class, error.to_string())
    }
}

impl From<tokio::task::JoinError> for Failure {
    fn from(error: tokio::task::JoinError) -> Self {
        // The runtime ends, or there is a bug whose backtrace is in the log.
        Self::new(ErrorClass::Temporary, format!("a task of the node ended: {error}"))
    }
}

impl From<Failure> for ContentStoreError {
    fn from(failure: Failure) -> Self {
        Self::new(failure.class, failure.words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_store_are_sorted() {
        use cluster_blocks::Error as Store;
        let class = |error: Store| Failure::from(error).class;
        let full = "IO error: No space left on device: While appending to file: /x/1.log";
        assert_eq!(class(Store::Database(full.into())), ErrorClass::DiskFull);
        assert_eq!(class(Store::Broken { reason: full.into() }), ErrorClass::DiskFull);
        assert_eq!(class(Store::Broken { reason: "x".into() }), ErrorClass::Unreachable);
        assert_eq!(class(Store::Database("x".into())), ErrorClass::Temporary);
        assert_eq!(class(Store::Closed), ErrorClass::Unreachable);
        let cid: node_core::Cid = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
            .parse()
            .expect("cid");
        let dag = DagError::TooManyLinks {
            cid: Box::new(cid),
            max: 1,
        };
        assert_eq!(class(Store::Content(dag)), ErrorClass::Permanent);
        let lie = DagError::HashMismatch { cid: Box::new(cid) };
        assert_eq!(Failure::from(lie).class, ErrorClass::Temporary);
    }
}
