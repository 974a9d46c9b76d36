//! The types that openraft is told to use.

use std::fmt;

use bytes::Bytes;
use node_core::PeerId;
use node_core::command::OpResult;

openraft::declare_raft_types!(
    /// The types of Pinfleet's Raft group.
    ///
    /// A leader is known by term and number, so that two candidates of one term do not block each other.
    pub TypeConfig:
        D = Command,
        R = Answer,
        NodeId = u64,
        Node = RaftPeer,
);

/// What becomes of a command: an answer for each of its operations. Empty for entries of Raft itself.
pub type Answer = Vec<OpResult>;

pub(crate) type C = TypeConfig;
pub(crate) type LogId = openraft::alias::LogIdOf<C>;
pub(crate) type Vote = openraft::alias::VoteOf<C>;
pub(crate) type Entry = openraft::alias::EntryOf<C>;
pub(crate) type LeaderId = openraft::alias::LeaderIdOf<C>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<C>;
pub(crate) type Membership = openraft::Membership<u64, RaftPeer>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<C>;
pub(crate) type Raft = openraft::Raft<C, crate::state_machine::StateMachine>;

/// A peer as the Raft group knows it, beside its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftPeer {
    /// Whom to expect at the other end of a connection.
    pub peer_id: PeerId,
    /// Where to reach it, `host:port`.
    pub addresses: Vec<String>,
}

/// openraft's own test suite makes memberships out of nothing.
#[cfg(test)]
impl Default for RaftPeer {
    fn default() -> Self {
        let peer_id = PeerId::from_bytes(&[0, 0]).expect("an identity multihash of nothing");
        Self {
            peer_id,
            addresses: Vec::new(),
        }
    }
}

/// An encoded batch of operations. Encoded once: the same bytes go to the log, to the followers and to the state.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(pub Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
