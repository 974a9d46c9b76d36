//! What the log needs of a disk.

use std::io;

use bytes::Bytes;

/// One write. What the bytes mean is the consensus layer's business; each value begins with a version byte of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOp {
    /// Sets the entry at `index`.
    Put {
        /// Position in the log.
        index: u64,
        /// The encoded entry.
        value: Bytes,
    },
    /// Removes the entries from `from` on.
    Truncate {
        /// The first that goes.
        from: u64,
    },
    /// Removes the entries up to `upto`, which may be beyond the last one.
    Purge {
        /// The last that goes.
        upto: u64,
        /// Kept as [`LogHead::purged`].
        marker: Bytes,
    },
    /// Sets the vote.
    Vote(Bytes),
    /// Sets how far the log is known to be committed.
    Committed(Bytes),
    /// Sets whose log it is.
    Owner(u64),
}

/// What a log begins with after a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogHead {
    /// The last vote that was saved.
    pub vote: Option<Bytes>,
    /// How far the log was known to be committed.
    pub committed: Option<Bytes>,
    /// Index and marker of the last purge.
    pub purged: Option<(u64, Bytes)>,
    /// The last entry, if there is any beyond the purge.
    pub last: Option<(u64, Bytes)>,
    /// The Raft number whose log it is, once that was recorded.
    pub owner: Option<u64>,
    /// What the entries weigh, roughly: files are counted as they are, with what is deleted in them but not yet gone.
    pub bytes: u64,
}

/// A disk under the log: RocksDB, or memory with the manners of a disk.
pub trait LogEngine: Send + Sync + 'static {
    /// What the log begins with. Takes the same time however long the log is.
    fn load(&self) -> io::Result<LogHead>;

    /// Entries from `start` to before `end` in order, without gaps; stops early after `bytes_max`, but not before the
    /// first entry. Entries that were purged or are not there end the answer.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Bytes>>;

    /// Carries out the operations in order. With `sync`, they and all before them are durable at return.
    fn write(&self, ops: Vec<LogOp>, sync: bool) -> io::Result<()>;
}
