//! What can go wrong with a request, by what the caller can do about it. The APIs translate it, each into its own codes.

use std::time::Duration;

use node_core::command::{Refusal, RefusalKind};
use node_core::pinset::KvError;
use node_core::{CidError, Invalid, InvalidId, PeerIdError};

/// Why a request was not answered as asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A value breaks a rule. Nothing was done.
    #[error("{0}")]
    Invalid(Invalid),
    /// The cluster refused it. Nothing was done.
    #[error("{0}")]
    Refused(Refusal),
    /// There is no leader, or no majority, for as long as the caller waited. Nothing was done.
    #[error("no leader could be reached: {0}; at least a majority of the voters must be running and see each other")]
    NoLeader(String),
    /// The queue is full. Nothing was done.
    #[error("the cluster takes no more at the moment; try again in {} ms", retry_after.as_millis())]
    Overloaded {
        /// When it is worth trying.
        retry_after: Duration,
    },
    /// It may have been done or not.
    #[error("the outcome is unknown: {0}; repeat it under the same request ID, or look whether it was done")]
    Unknown(String),
    /// The deadline passed before anything was done.
    #[error("the deadline passed before it could be done; nothing was changed")]
    Deadline,
    /// The history does not reach back so far.
    #[error(
        "revision {asked} is older than the kept history, which begins at {oldest}; list anew and watch from the \
         list's revision"
    )]
    HistoryGone {
        /// Asked for.
        asked: u64,
        /// The oldest there is.
        oldest: u64,
    },
    /// Nothing of a stream was read for so long that it was ended.
    #[error(
        "nothing of the answer was read for {} s, so it was ended to free its place; go on from the last cursor or \
         revision received", limit.as_secs()
    )]
    ClientTooSlow {
        /// How long a chunk waits.
        limit: Duration,
    },
    /// The peer that drives a storage node does not answer, so nobody can say or do what only it can.
    #[error("peer {peer}, which drives the node, does not answer: {reason}")]
    DriverSilent {
        /// Its name, or its ID.
        peer: String,
        /// What was heard instead.
        reason: String,
    },
    /// This peer is stopping; another one takes the request.
    #[error("this peer is stopping; ask another one")]
    Stopping,
    /// The store or the consensus failed. The peer leaves service.
    #[error("this peer failed: {0}; see its log")]
    Internal(String),
}

impl Error {
    /// A broken rule.
    pub fn invalid(field: impl Into<String>, value: impl AsRef<str>, remedy: impl Into<String>) -> Self {
        Self::Invalid(Invalid::new(field, value, remedy))
    }

    /// Something that does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::Refused(Refusal::new(RefusalKind::NotFound, message))
    }

    /// Whether it says that something does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.kind == RefusalKind::NotFound)
    }

    /// Something that the state forbids.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::Refused(Refusal::new(RefusalKind::Precondition, message))
    }
}

impl From<KvError> for Error {
    fn from(error: KvError) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<CidError> for Error {
    fn from(error: CidError) -> Self {
        let text = error.to_string();
        let (value, reason) = text.split_once(" is not a CID: ").unwrap_or((&text, "it is not a CID"));
        Self::invalid("cid", value.trim_matches('"'), format!("it is not a CID: {reason}"))
    }
}

impl From<InvalidId> for Error {
    fn from(error: InvalidId) -> Self {
        Self::invalid(error.field(), error.given(), error.rule())
    }
}

impl From<PeerIdError> for Error {
    fn from(error: PeerIdError) -> Self {
        Self::invalid("peer_id", error.given(), "it is not a peer ID; it looks like 12D3KooW…")
    }
}
