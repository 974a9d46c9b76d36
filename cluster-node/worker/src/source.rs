//! What the worker needs from outside: what is wanted, the time, and somebody to tell how it went.

use std::time::{Duration, SystemTime};

use node_core::reconcile::{Kind, Wanted};
use node_core::{Cid, ErrorClass, NodeId, Timestamp};

/// A note left by the pinset: something changed for this CID at this node, look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TodoRow {
    /// Names the row. A change made after the row was read must leave a row with another key, or it would be forgotten
    /// together with this one.
    pub key: Vec<u8>,
    /// The node; 0 stands for all nodes of this peer.
    pub node: NodeId,
    /// The CID; none means that everything of the node is to be compared.
    pub cid: Option<Cid>,
}

/// The node of a [`TodoRow`] that concerns all nodes.
pub const ALL_NODES: NodeId = NodeId(0);

/// Where wishes come from: the replicated state. Called on threads that may wait.
pub trait WantedSource: Send + Sync + 'static {
    /// The oldest notes, at most `limit`.
    fn todo(&self, limit: usize) -> Result<Vec<TodoRow>, String>;

    /// Removes these notes: what they led to is safely in the ledger.
    fn forget_todo(&self, keys: &[Vec<u8>]) -> Result<(), String>;

    /// The nodes of this peer, as the state says that the notes are read from. Not the nodes that the worker was told: it
    /// hears of them a moment later, and a note that was expanded before would be lost for them.
    fn nodes(&self) -> Result<Vec<NodeId>, String>;

    /// What the node shall hold of this CID now.
    fn wanted(&self, node: NodeId, cid: &Cid) -> Result<Option<Wanted>, String>;

    /// Everything the node shall hold behind `after`, in CID order, at most `limit`; empty only at the end.
    fn scan_wanted(&self, node: NodeId, after: Option<&Cid>, limit: usize) -> Result<Vec<(Cid, Wanted)>, String>;
}

/// The wall clock, by which retries are planned: it must go on while the process is not running.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Is told what happens, for metrics. Called on the worker's tasks: it must be quick.
pub trait Observer: Send + Sync + 'static {
    /// A try ended by itself. Tries that were cut off (unwanted, stopping) are not reported.
    fn attempt(&self, _node: NodeId, _kind: Kind, _outcome: Result<(), ErrorClass>, _took: Duration) {}

    /// A CID is not tried any more.
    fn gave_up(&self, _node: NodeId, _class: ErrorClass) {}

    /// A node was asked how it is.
    fn probe(&self, _node: NodeId, _outcome: Result<(), ErrorClass>, _took: Duration) {}
}

/// Observes nothing.
impl Observer for () {}
