//! What is wanted of a node for one CID, what was seen of it, and what follows.
//!
//! ```text
//!                follow(wish)                    look(seen)
//! wish ─────────▶ Entry ─────────▶ attempt ─────────▶ act at the node
//!                   ▲                                    │
//!                   └── pinned · unpinned · failed ◀─────┘
//! ```
//! An [`Entry`] is all that a peer remembers of a CID at a node. Everything that changes one is a pure function here:
//! storage keeps entries, the worker carries out what they ask for, and neither decides anything.
//!
//! What always holds, whatever the order of wishes and outcomes (`tests/reconcile.rs`):
//!
//! 1. Following a wish twice is following it once.
//! 2. An entry says `pinned` only after the node was seen to hold it, or said so, since the entry was last reset.
//! 3. A pin that no Pinfleet made is never removed from a node.
//! 4. What is wanted is `pinned`, waits in a queue, or was given up; what is not wanted is let go of or unknown.

mod diff;
mod entry;
mod follow;
mod outcome;

pub use diff::{diff, stretch_end};
pub use entry::{Change, Entry, Kind, Lane};
pub use follow::{Asked, follow, rearmed, requeued};
pub use outcome::{Failure, Looked, Named, Pinned, Seen, Step, Unpin, failed, look, marked, pinned, unpin, unpinned};

use crate::{Cid, PinMode};

/// How a node shall hold a CID: the part of its placement that matters to the one who brings it about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// How much of the graph.
    pub mode: PinMode,
    /// Multiaddrs of IPFS nodes that have the content.
    pub origins: Vec<String>,
    /// A CID that the node may hold already and that shares blocks with this one.
    pub updated_from: Option<Cid>,
    /// The revision of the pinset at which the placement last changed.
    pub revision: u64,
}

impl Wanted {
    /// Whether there is something worth a look before pinning: addresses to connect to, or an older version.
    pub fn has_hints(&self) -> bool {
        !self.origins.is_empty() || self.updated_from.is_some()
    }
}
