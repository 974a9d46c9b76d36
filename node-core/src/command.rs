//! What enters the Raft log, and what applying it answers.

use std::collections::BTreeMap;

use crate::pinset::Settings;
use crate::{
    Cid, Credential, CredentialId, NodeId, NodeState, PeerId, PinKey, PinOptions, RequestId, StorageNode, Timestamp,
};

/// What the leader decided for a CID, from the state of which revision.
///
/// Several operations on one CID can be in flight, each planned without the others. Applying checks that the plan still
/// fits and answers [`RefusalKind::Conflict`] when it does not; the leader then plans anew.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// [`crate::Placement::revision`] that the plan was made for; 0 when there was no placement.
    pub based_on: u64,
    /// Who shall hold the CID, ascending. Ignored when the CID is to be held everywhere.
    pub nodes: Vec<NodeId>,
    /// Why `nodes` are fewer than the minimum. Only set when the caller takes that.
    pub unplaced: Option<String>,
}

/// One change of the replicated state.
// Pins are nearly all of the operations there are: boxing the largest variant would cost each an allocation to save
// space in the rare ones.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Records or replaces a pin.
    PutPin {
        /// Which pin.
        key: PinKey,
        /// With the default replication filled in.
        options: PinOptions,
        /// Where its CID shall be held.
        plan: Plan,
        /// Refused unless this pin exists; it is what the new one was made from.
        from: Option<PinKey>,
        /// Remove `from` in the same step. Its content is kept until this pin's is held ([`Op::Release`]).
        unpin_from: bool,
        /// When it was made, if that was in another cluster; none: now. A pin that is here already keeps its time.
        created: Option<Timestamp>,
    },
    /// Removes a pin.
    RemovePin {
        /// Which pin.
        key: PinKey,
    },
    /// Changes where a CID is held, without a change of its pins.
    Place {
        /// Which CID.
        cid: Cid,
        /// Where it shall be held.
        plan: Plan,
    },
    /// Lets go of what was kept for `by` to take its place: it is held now, or wanted no more.
    Release {
        /// What was kept.
        cid: Cid,
        /// For the sake of which.
        by: Cid,
        /// Revision of `by`'s placement when that was seen; 0 = it had none. Nothing is done once it has another: what
        /// was seen of its nodes may hold no more. None: logs of before, which say nothing of it.
        based_on: Option<u64>,
    },
    /// Removes up to `limit` pins whose time has come.
    Expire {
        /// Bounds the work of one entry.
        limit: u32,
    },
    /// Adds a storage node, or changes one of the same name and peer.
    PutNode {
        /// As wanted; its ID and state are ignored.
        node: StorageNode,
    },
    /// Changes whether a node takes and keeps pins.
    SetNodeState {
        /// Which node.
        node: NodeId,
        /// From now on.
        state: NodeState,
    },
    /// Names the cluster and its first peer. Refused when that was done before.
    InitCluster {
        /// Random, chosen once.
        cluster_id: String,
        /// To begin with.
        settings: Settings,
        /// The peer that begins.
        peer: NewPeer,
    },
    /// Makes a token with which one peer can join.
    CreateToken {
        /// Of its secret.
        hash: Vec<u8>,
        /// Refused from then on.
        expires: Timestamp,
    },
    /// Admits a peer. Its Raft ID is the index of the log entry.
    AdmitPeer {
        /// Of the secret it brought.
        token_hash: Vec<u8>,
        /// Random, made by the peer on its disk: the same attempt is answered with the same Raft ID, and a peer that
        /// lost its disk can't get its old one back.
        attempt: Vec<u8>,
        /// How it introduced itself.
        peer: NewPeer,
    },
    /// Changes what is known of a peer.
    UpdatePeer {
        /// As it introduces itself now.
        peer: NewPeer,
    },
    /// Removes a peer for good; its nodes are gone with it.
    RemovePeer {
        /// Which peer.
        peer: PeerId,
    },
    /// Replaces the cluster's settings.
    PutSettings {
        /// From now on.
        settings: Settings,
        /// As they were when the change was made of them. Refused as a conflict once they are others, so that of two
        /// changes made at once neither undoes the other. None: replaces whatever they are.
        based_on: Option<Settings>,
    },
    /// Makes a credential of a client.
    CreateCredential {
        /// As wanted; when it was made is decided by the entry. Boxed: it is rare, and larger than most.
        credential: Box<Credential>,
    },
    /// Makes a credential worth nothing, for good.
    RevokeCredential {
        /// Which one.
        id: CredentialId,
    },
}

/// How a peer introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPeer {
    /// Identity.
    pub id: PeerId,
    /// For tables.
    pub name: String,
    /// Where other peers reach it.
    pub addresses: Vec<String>,
    /// Where clients reach it.
    pub api_address: String,
    /// Of its software.
    pub version: String,
}

/// An operation, protected against repetition when it has an ID.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Within [`crate::pinset::REQUESTS_KEPT_FOR`] it is carried out once.
    pub id: Option<RequestId>,
    /// What to do.
    pub op: Op,
}

/// One log entry: many operations, each answered on its own.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandBatch {
    /// The leader's clock when it made the entry. Peers have no other time while applying.
    pub time: Timestamp,
    /// In order.
    pub requests: Vec<Request>,
}

/// What became of a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinOutcome {
    /// It is new.
    Created,
    /// It had other options before.
    Updated,
    /// It was there with the same options.
    Unchanged,
}

/// What an operation came to.
#[derive(Debug, Clone, PartialEq)]
pub enum OpResult {
    /// A pin is recorded.
    Pinned(Pinned),
    /// A pin was removed.
    Unpinned(Box<crate::Pin>),
    /// Done, with nothing to tell.
    Done,
    /// So many pins expired; equal to the limit when there may be more.
    Expired(u32),
    /// The node as recorded.
    Node(StorageNode),
    /// The peer as admitted.
    Admitted {
        /// Its number in Raft.
        raft_id: u64,
        /// The number it had before it lost its disk.
        replaces: Option<u64>,
    },
    /// Nothing was changed.
    Refused(Refusal),
}

/// A pin as recorded, without what the caller knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// What became of it.
    pub outcome: PinOutcome,
    /// When it was first recorded.
    pub created: Timestamp,
    /// Which pin of that millisecond it was.
    pub ordinal: u32,
    /// When its options last changed.
    pub modified: Timestamp,
    /// The revision of the pinset at which it last changed.
    pub revision: u64,
    /// Who shall hold it.
    pub nodes: Vec<NodeId>,
    /// Every node shall.
    pub everywhere: bool,
    /// Why it is not placed.
    pub unplaced: Option<String>,
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of reason.
    pub kind: RefusalKind,
    /// For people: what is wrong and what to do.
    pub message: String,
}

/// Kinds of [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalKind {
    /// What it is about does not exist.
    NotFound,
    /// A value breaks a rule.
    Invalid,
    /// The plan no longer fits the state; plan anew.
    Conflict,
    /// Too few nodes can take it.
    NotPlaceable,
    /// There is another of that name.
    AlreadyExists,
    /// The state forbids it.
    Precondition,
    /// The token or the peer is not accepted.
    Denied,
}

impl Refusal {
    /// A refusal.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

impl Op {
    /// A name for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PutPin { .. } => "put_pin",
            Self::RemovePin { .. } => "remove_pin",
            Self::Place { .. } => "place",
            Self::Release { .. } => "release",
            Self::Expire { .. } => "expire",
            Self::PutNode { .. } => "put_node",
            Self::SetNodeState { .. } => "set_node_state",
            Self::InitCluster { .. } => "init_cluster",
            Self::CreateToken { .. } => "create_token",
            Self::AdmitPeer { .. } => "admit_peer",
            Self::UpdatePeer { .. } => "update_peer",
            Self::RemovePeer { .. } => "remove_peer",
            Self::PutSettings { .. } => "put_settings",
            Self::CreateCredential { .. } => "create_credential",
            Self::RevokeCredential { .. } => "revoke_credential",
        }
    }
}

/// Tags as written on a node: `key=value` pairs.
pub type Tags = BTreeMap<String, String>;
