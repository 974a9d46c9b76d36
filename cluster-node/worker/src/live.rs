//! What is running now at one node. Bounded by the number of permits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cluster_ipfs::Progress;
use node_core::reconcile::Entry;
use node_core::{Cid, PinMode, Timestamp};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::Kind;

/// A running operation, as seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// What is being done.
    pub kind: Kind,
    /// How far it is.
    pub progress: Progress,
    /// When it began.
    pub since: Timestamp,
}

/// A running operation.
pub(crate) struct Running {
    pub kind: Kind,
    pub since: Timestamp,
    pub cancel: CancellationToken,
    /// The mode it was started for, once that is known.
    mode: Mutex<Option<PinMode>>,
    /// The node is really working on it; before, only preparations are made.
    at_node: AtomicBool,
    blocks: AtomicU64,
    bytes: AtomicU64,
}

impl Running {
    pub(crate) fn set_mode(&self, mode: PinMode) {
        *self.mode.lock() = Some(mode);
    }

    pub(crate) fn set_at_node(&self) {
        self.at_node.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set_progress(&self, progress: Progress) {
        self.blocks.store(progress.blocks, Ordering::Relaxed);
        self.bytes.store(progress.bytes, Ordering::Relaxed);
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            blocks: self.blocks.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn view(&self) -> Option<Live> {
        let live = Live {
            kind: self.kind,
            progress: self.progress(),
            since: self.since,
        };
        self.at_node.load(Ordering::Relaxed).then_some(live)
    }

    /// Whether it is a pin that the entry does not ask for any more. A running unpin is never cut off: the daemon might
    /// carry it out all the same, after the entry was found pinned. It ends by itself, and what is wanted by then is
    /// looked at anew.
    fn is_overtaken(&self, entry: Option<&Entry>) -> bool {
        self.kind == Kind::Pin
            && !entry
                .is_some_and(|entry| entry.wants(Kind::Pin) && self.mode.lock().is_none_or(|mode| mode == entry.mode))
    }
}

/// All running operations of a node, at most one per CID.
#[derive(Default)]
pub(crate) struct LiveMap(Mutex<HashMap<Cid, Arc<Running>>>);

impl LiveMap {
    /// Enters an operation. It must be entered before its entry is read from the ledger: whoever changes the entry
    /// afterwards then finds the operation here, and whoever changed it before is seen by the operation.
    pub(crate) fn enter(&self, cid: Cid, kind: Kind, since: Timestamp, cancel: CancellationToken) -> Arc<Running> {
        let running = Arc::new(Running {
            kind,
            since,
            cancel,
            mode: Mutex::new(None),
            at_node: AtomicBool::new(false),
            blocks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        self.0.lock().insert(cid, Arc::clone(&running));
        running
    }

    pub(crate) fn leave(&self, cid: &Cid) {
        self.0.lock().remove(cid);
    }

    /// Cuts off the pin that runs for a CID when it is not what the entry asks for any more.
    pub(crate) fn recheck(&self, cid: &Cid, entry: Option<&Entry>) {
        if let Some(running) = self.0.lock().get(cid)
            && running.is_overtaken(entry)
        {
            running.cancel.cancel();
        }
    }

    pub(crate) fn get(&self, cid: &Cid) -> Option<Live> {
        self.0.lock().get(cid).and_then(|running| running.view())
    }

    pub(crate) fn all(&self) -> HashMap<Cid, Live> {
        self.0
            .lock()
            .iter()
            .filter_map(|(cid, running)| Some((*cid, running.view()?)))
            .collect()
    }

    /// Whether anything is being done to a CID.
    pub(crate) fn has(&self, cid: &Cid) -> bool {
        self.0.lock().contains_key(cid)
    }

    /// How many operations of this kind the node is working on.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.0
            .lock()
            .values()
            .filter(|running| running.kind == kind && running.view().is_some())
            .count()
    }
}
