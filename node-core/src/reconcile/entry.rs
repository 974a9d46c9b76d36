//! What a peer remembers of one CID at one node.

use crate::{ErrorClass, PinMode, Status, Timestamp};

/// What a node holds of one CID, as far as this peer saw it, and what is still to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `queued`, `pinned`, `retrying`, `gave_up` or `unpinning`. The other states are never stored: `pinning` is only
    /// true while a request runs.
    pub status: Status,
    /// The mode wanted; once pinned, the mode it was pinned with.
    pub mode: PinMode,
    /// A request that pins it was sent or is about to be, or the node holds it under our name: only such a pin is ever
    /// removed from the node.
    pub ours: bool,
    /// What the node already held before this peer first touched the CID: a pin made by hand, which stays.
    pub found: Option<PinMode>,
    /// The placement names addresses to connect to or an older version of the content, worth a look before pinning.
    pub hints: bool,
    /// A request of the opposite kind may still be under way at the node, so what is seen there may be undone: once it
    /// is as it should be, the node is looked at once more some time later.
    pub look_again: bool,
    /// Tries since it was queued or last recovered.
    pub attempts: u32,
    /// When it was first asked for.
    pub first_queued: Timestamp,
    /// When it first failed by a fault of its own since it was queued or last recovered. Waiting for a turn or for a
    /// node that is away does not age a pin; this does.
    pub first_failed: Option<Timestamp>,
    /// When to try next; meaningless for `pinned` and `gave_up`.
    pub next_due: Timestamp,
    /// When the status last changed.
    pub changed: Timestamp,
    /// When the node was last seen to hold it.
    pub pinned_at: Option<Timestamp>,
    /// The daemon's words for the last failure.
    pub error: String,
    /// The class of the last failure.
    pub class: Option<ErrorClass>,
    /// Blocks that the last try walked.
    pub blocks: u64,
    /// Bytes that the last try walked, as far as the daemon reports them.
    pub bytes: u64,
    /// The revision of the pinset whose wish this entry follows.
    pub revision: u64,
}

/// What is being done to a CID at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It is being pinned.
    Pin,
    /// It is being let go of.
    Unpin,
}

impl Kind {
    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::Unpin => "unpin",
        }
    }
}

/// Which queue an entry waits in. Each node serves the lanes side by side, so none holds up another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Never tried.
    Fresh,
    /// Tried and failed.
    Retry,
    /// To be let go of.
    Unpin,
}

impl Lane {
    /// All lanes, in the order of their codes.
    pub const ALL: [Self; 3] = [Self::Fresh, Self::Retry, Self::Unpin];
}

/// What becomes of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It stays as it is.
    Keep,
    /// It is replaced or created.
    Put(Entry),
    /// It is removed.
    Delete,
}

impl Entry {
    /// A CID to be pinned as soon as possible.
    pub fn queued(mode: PinMode, revision: u64, now: Timestamp) -> Self {
        Self {
            status: Status::Queued,
            mode,
            ours: false,
            found: None,
            hints: false,
            look_again: false,
            attempts: 0,
            first_queued: now,
            first_failed: None,
            next_due: now,
            changed: now,
            pinned_at: None,
            error: String::new(),
            class: None,
            blocks: 0,
            bytes: 0,
            revision,
        }
    }

    /// The queue it waits in; none when nothing is to be done.
    pub fn lane(&self) -> Option<Lane> {
        match self.status {
            Status::Queued => Some(Lane::Fresh),
            Status::Retrying => Some(Lane::Retry),
            Status::Unpinning => Some(Lane::Unpin),
            _ => None,
        }
    }

    /// Whether it asks for this kind of work.
    pub fn wants(&self, kind: Kind) -> bool {
        match kind {
            Kind::Pin => matches!(self.status, Status::Queued | Status::Retrying),
            Kind::Unpin => self.status == Status::Unpinning,
        }
    }

    /// Whether `status` is one of those that an entry can be in.
    pub fn can_store(status: Status) -> bool {
        matches!(
            status,
            Status::Queued | Status::Pinned | Status::Retrying | Status::GaveUp | Status::Unpinning
        )
    }

    /// The same with tries, times and errors counted from the beginning. What is on the node (`ours`, `found`) stays
    /// known.
    pub(super) fn begun(self, now: Timestamp) -> Self {
        Self {
            attempts: 0,
            first_queued: now,
            first_failed: None,
            next_due: now,
            changed: now,
            error: String::new(),
            class: None,
            ..self
        }
    }
}
