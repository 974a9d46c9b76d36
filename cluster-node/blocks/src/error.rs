//! What can go wrong in the block store.

use std::io;
use std::path::PathBuf;

use cluster_dag::DagError;
use node_core::Cid;

/// Why the block store did not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// RocksDB failed: usually the disk. After a failed write nothing more is written; see [`Error::Broken`].
    #[error("the block store's database failed: {0}")]
    Database(String),
    /// A write failed earlier, so what is on disk may lag behind what was asked. The store takes no more writes until
    /// it is opened anew; reads go on.
    #[error(
        "the block store takes no writes since one of them failed: {reason}; make room or repair the disk, then start \
         this node again"
    )]
    Broken {
        /// What the failed write said.
        reason: String,
    },
    /// What was read is not what was written.
    #[error("the block store is damaged: {0}")]
    Damaged(String),
    /// The folder was written by a version that knows more than this one.
    #[error(
        "the block store was written in form {found}, this version knows forms up to {known}; start a newer version"
    )]
    Newer {
        /// What was found.
        found: u32,
        /// The newest known here.
        known: u32,
    },
    /// The folder could not be made or read.
    #[error("{path}: {reason}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the file system said.
        reason: String,
    },
    /// The writer's thread could not be started.
    #[error("the thread of the block store could not be started: {0}")]
    Thread(String),
    /// The store is closed, or is being closed.
    #[error("the block store is closed")]
    Closed,
    /// The links of a block can't be read: permanent, and named.
    #[error(transparent)]
    Content(#[from] DagError),
    /// A note's name or value is longer than what is taken.
    #[error("a note's {field} has {bytes} bytes, and at most {max} are taken")]
    NoteTooLong {
        /// `name` or `value`.
        field: &'static str,
        /// Its length.
        bytes: usize,
        /// The longest taken.
        max: usize,
    },
    /// A pin's name is longer than what is taken.
    #[error("the name of the pin of {cid} has {bytes} bytes, and at most {max} are taken")]
    NameTooLong {
        /// The pin.
        cid: Box<Cid>,
        /// Length of its name.
        bytes: usize,
        /// The longest taken.
        max: usize,
    },
    /// The pin's walk is in other hands: each has one [`crate::Walk`] at a time.
    #[error("the pin of {0} is being walked already; drop that walk first")]
    WalkInUse(Box<Cid>),
    /// The pin was removed, was begun anew in another mode, or one of its blocks was lost, while it was walked. The
    /// walk is over; look at the pin again.
    #[error("the pin of {0} was removed or changed while it was walked")]
    WalkEnded(Box<Cid>),
}

impl Error {
    pub(crate) fn folder(path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Folder {
            path,
            reason: error.to_string(),
        }
    }
}

impl From<rocksdb::Error> for Error {
    fn from(error: rocksdb::Error) -> Self {
        Self::Database(error.to_string())
    }
}
