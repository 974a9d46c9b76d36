//! What is known of one CID at one node: the ledger, and what is running now.

use cluster_ipfs::Progress;
use node_core::reconcile::Entry;
use node_core::{ErrorClass, PinMode, Status, Timestamp};

use crate::{Kind, Live};

/// Where one CID stands at one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The state, `pinning` included.
    pub status: Status,
    /// The mode wanted or held.
    pub mode: PinMode,
    /// Tries so far.
    pub attempts: u32,
    /// How far a running pin is.
    pub progress: Option<Progress>,
    /// When it was first asked for.
    pub first_queued: Timestamp,
    /// When it is tried next, if it is.
    pub next_due: Option<Timestamp>,
    /// The daemon's words for the last failure.
    pub error: Option<String>,
    /// The class of the last failure.
    pub class: Option<ErrorClass>,
    /// Blocks that the last try walked.
    pub blocks: u64,
    /// Bytes that the last try walked, as far as the daemon reports them.
    pub bytes: u64,
    /// When the node was last seen to hold it.
    pub pinned_at: Option<Timestamp>,
    /// When the status last changed.
    pub changed: Timestamp,
    /// The revision of the pinset that it follows.
    pub revision: u64,
}

impl View {
    /// Merges an entry with what is running.
    pub fn new(entry: Entry, live: Option<Live>) -> Self {
        let next_due = entry.lane().map(|_| entry.next_due);
        let mut view = Self {
            status: entry.status,
            mode: entry.mode,
            attempts: entry.attempts,
            progress: None,
            first_queued: entry.first_queued,
            next_due,
            error: Some(entry.error).filter(|error| !error.is_empty()),
            class: entry.class,
            blocks: entry.blocks,
            bytes: entry.bytes,
            pinned_at: entry.pinned_at,
            changed: entry.changed,
            revision: entry.revision,
        };
        // An unpin that runs looks like one that waits. A pin that runs beside another state was overtaken and is about
        // to be cut off: the ledger says what counts.
        if let Some(live) = live
            && live.kind == Kind::Pin
            && matches!(view.status, Status::Queued | Status::Retrying)
        {
            view.status = Status::Pinning;
            view.changed = live.since;
            view.progress = Some(live.progress);
            view.next_due = None;
        }
        view
    }
}
