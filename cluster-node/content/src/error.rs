//! What can go wrong with content.

use cluster_dag::DagError;
use cluster_dag::car::{CarError, CarFault};
use cluster_dag::unixfs::InvalidOptions;
use node_core::ErrorClass;

/// A store or the network did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// What kind of failure it is; decides when it is tried again.
    pub class: ErrorClass,
    /// What happened, to which block, and what helps.
    pub message: String,
}

impl StoreError {
    /// An error of this class.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
        }
    }
}

/// Why content could not be added or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// The content itself, or what was asked of it.
    #[error(transparent)]
    Dag(#[from] DagError),
    /// A CAR file.
    #[error(transparent)]
    Car(#[from] CarError),
    /// A CAR file that was to be written; the one reason is that it has too many roots.
    #[error(transparent)]
    CarFault(#[from] CarFault),
    /// Options for adding that make no DAG.
    #[error(transparent)]
    Options(#[from] InvalidOptions),
    /// The store that blocks come from or go to.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Entries came in an order, or with a value, that can't be added.
    #[error("{field} {value:?} {reason}")]
    BadEntry {
        /// What is wrong: `path`, `bytes`, …
        field: &'static str,
        /// The value, shortened, with what is not UTF-8 in it replaced.
        value: String,
        /// Why, and what would be right.
        reason: &'static str,
    },
    /// A range of a file that does not lie in it.
    #[error("the range of bytes begins at {start}, and {cid} has only {bytes}")]
    Range {
        /// The file.
        cid: Box<node_core::Cid>,
        /// First byte asked for.
        start: u64,
        /// Length of the file.
        bytes: u64,
    },
    /// The input broke off.
    #[error("the content to be added broke off: {0}")]
    Input(String),
    /// It failed before, and is of no use any more.
    #[error("adding has failed before: {0}")]
    Failed(String),
}

impl ContentError {
    /// What kind of failure it is. Content that is not what it should be stays so; the store knows of itself.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Store(error) => error.class,
            // Another sender may have the right bytes.
            Self::Dag(DagError::HashMismatch { .. }) | Self::Input(_) | Self::Failed(_) => ErrorClass::Temporary,
            _ => ErrorClass::Permanent,
        }
    }
}
