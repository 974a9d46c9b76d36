//! What callers are told.

use openraft::errors::{ClientWriteError, Fatal, ForwardToLeader, LinearizableReadError, RaftError};

use crate::types::{C, RaftPeer};

/// The leader and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its number in Raft.
    pub raft_id: u64,
    /// Who and where it is.
    pub peer: RaftPeer,
}

/// Raft could not be started.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting can't work.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// Log or state failed, or don't belong together.
    #[error(transparent)]
    Store(#[from] std::io::Error),
    /// openraft refused.
    #[error("Raft did not start: {0}")]
    Raft(String),
}

/// A proposal has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was changed; another peer has to be asked.
    #[error("this peer is not the leader")]
    NotLeader {
        /// Who is, if that is known.
        leader: Option<Leader>,
    },
    /// It may have been carried out or may yet be. Only with request IDs it can be repeated safely.
    #[error("the outcome is unknown: leadership changed, or no majority answered in time")]
    Unknown,
    /// Nothing was changed; there is too much to do already.
    #[error("too many proposals are waiting")]
    Overloaded,
    /// Nothing was changed; it has to be cut into several.
    #[error("the command has {bytes} bytes, at most {allowed} are allowed: send fewer operations at a time")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest one.
        allowed: usize,
    },
    /// This peer's Raft is out of service.
    #[error("Raft of this peer is out of service: {0}")]
    Fatal(String),
}

/// There is no index to read at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Another peer has to be asked.
    #[error("this peer is not the leader")]
    NotLeader {
        /// Who is, if that is known.
        leader: Option<Leader>,
    },
    /// No majority confirmed that this peer leads.
    #[error("no majority of the peers answers")]
    NoQuorum,
    /// This peer's Raft is out of service.
    #[error("Raft of this peer is out of service: {0}")]
    Fatal(String),
}

/// The members were not changed, or it is not known whether they were.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Another peer has to be asked.
    #[error("this peer is not the leader")]
    NotLeader {
        /// Who is, if that is known.
        leader: Option<Leader>,
    },
    /// The cluster was bootstrapped already, or this peer has joined one.
    #[error("this peer belongs to a cluster already")]
    AlreadyInitialized,
    /// The number is not that of a member.
    #[error("Raft number {0} is no member")]
    NotAMember(u64),
    /// It would leave no voter.
    #[error("Raft number {0} is the last voter")]
    LastVoter(u64),
    /// It would make a voter of a peer that can't help yet.
    #[error(
        "Raft number {raft_id} lacks {lag} entries of the log, at most {allowed} are allowed for a voter: try again when \
         it has caught up"
    )]
    Lagging {
        /// The peer.
        raft_id: u64,
        /// What it lacks.
        lag: u64,
        /// What it may lack.
        allowed: u64,
    },
    /// Another change did not end in time.
    #[error("another change of members is under way")]
    InProgress,
    /// It may have been carried out or may yet be; look at the members.
    #[error("the outcome is unknown: leadership changed, or no majority answered in time")]
    Unknown,
    /// The change is not allowed.
    #[error("{0}")]
    Refused(String),
    /// This peer's Raft is out of service.
    #[error("Raft of this peer is out of service: {0}")]
    Fatal(String),
}

/// Leadership was not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Someone else leads already.
    #[error("this peer is not the leader")]
    NotLeader,
    /// There is no other voter, or not the one that was named.
    #[error("there is no other voter that could lead")]
    NoCandidate,
    /// Nobody took over.
    #[error("nobody took over in time")]
    Timeout,
    /// This peer's Raft is out of service.
    #[error("Raft of this peer is out of service: {0}")]
    Fatal(String),
}

/// The state did not get so far in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {wanted} was not applied in time, this peer is at {applied}")]
pub struct Behind {
    /// What was waited for.
    pub wanted: u64,
    /// How far it got.
    pub applied: u64,
}

pub(crate) fn leader_of(forward: ForwardToLeader<C>) -> Option<Leader> {
    match (forward.leader_id, forward.leader_node) {
        (Some(raft_id), Some(peer)) => Some(Leader { raft_id, peer }),
        _ => None,
    }
}

impl From<ClientWriteError<C>> for ProposeError {
    fn from(error: ClientWriteError<C>) -> Self {
        match error {
            ClientWriteError::ForwardToLeader(forward) => Self::NotLeader {
                leader: leader_of(forward),
            },
            ClientWriteError::LogEntryDiscarded(_) => Self::Unknown,
            other => Self::Fatal(other.to_string()),
        }
    }
}

impl From<RaftError<C, LinearizableReadError<C>>> for ReadError {
    fn from(error: RaftError<C, LinearizableReadError<C>>) -> Self {
        match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => Self::NotLeader {
                leader: leader_of(forward),
            },
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => Self::NoQuorum,
            RaftError::Fatal(fatal) => Self::Fatal(fatal.to_string()),
        }
    }
}

impl From<Fatal<C>> for MemberError {
    fn from(fatal: Fatal<C>) -> Self {
        Self::Fatal(fatal.to_string())
    }
}
