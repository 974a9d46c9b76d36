//! The front of one queue of the ledger, in memory.

use std::collections::{HashSet, VecDeque};

use cluster_storage::ledger::Due;
use node_core::{Cid, Timestamp};

/// What was read from a queue and not begun yet. Bounded by what is read at a time.
pub(crate) struct Queue {
    ready: VecDeque<Cid>,
    known: HashSet<Cid>,
    /// When the next item that was not due at the last look will be.
    next: Option<Timestamp>,
    /// The ledger may hold due items that are not here.
    stale: bool,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            known: HashSet::new(),
            next: None,
            stale: true,
        }
    }

    /// Something may have been added: look again.
    pub(crate) fn set_stale(&mut self) {
        self.stale = true;
    }

    /// An item will be due at `at`.
    pub(crate) fn expect(&mut self, at: Timestamp) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// How many items to read now, or none. A queue is read again when it is nearly used up, not for each item.
    pub(crate) fn wants(&self, now: Timestamp, picks_max: usize) -> Option<usize> {
        let look = self.stale || self.next.is_some_and(|next| next <= now);
        (look && self.ready.len() <= picks_max / 4).then(|| picks_max - self.ready.len())
    }

    /// What is here.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Cid> {
        self.known.iter()
    }

    /// Takes in what was read with the given limit.
    pub(crate) fn fill(&mut self, due: Due, limit: usize) {
        // As many as asked for means that there may be more.
        self.stale = due.items.len() >= limit;
        self.next = due.next;
        for (_, cid) in due.items {
            if self.known.insert(cid) {
                self.ready.push_back(cid);
            }
        }
    }

    /// The first item that `free` does not refuse. A refused one is dropped: it is found again at the next look, which
    /// whoever occupies it causes at its end.
    pub(crate) fn pop(&mut self, free: impl Fn(&Cid) -> bool) -> Option<Cid> {
        while let Some(cid) = self.ready.pop_front() {
            self.known.remove(&cid);
            if free(&cid) {
                return Some(cid);
            }
            self.stale = true;
        }
        None
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// When to look again: now, later, or when somebody says so.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        if self.stale { Some(Timestamp::ZERO) } else { self.next }
    }
}
