//! Changes of members.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, ReadPolicy};

use crate::errors::{MemberError, ReadError, leader_of};
use crate::types::{C, Membership, Raft, RaftPeer};

/// Waited before a change is tried again that met another one.
const RETRY: Duration = Duration::from_millis(50);

type Change = ChangeMembers<u64, RaftPeer>;
type Outcome = Result<ClientWriteResponse<C>, RaftError<C, ClientWriteError<C>>>;

pub(crate) async fn bootstrap(raft: &Raft, raft_id: u64, own: RaftPeer) -> Result<(), MemberError> {
    match raft.initialize(BTreeMap::from([(raft_id, own)])).await {
        Ok(()) => Ok(()),
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Err(MemberError::AlreadyInitialized),
        Err(RaftError::APIError(error)) => Err(MemberError::Refused(error.to_string())),
        Err(RaftError::Fatal(fatal)) => Err(fatal.into()),
    }
}

/// What shall become of a member.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Admit(RaftPeer),
    Promote,
    Demote,
    Remove,
    SetPeer(RaftPeer),
}

/// Carries out a request, trying again while another change is under way. A peer that lacks more than `lag_max` entries
/// is not made a voter.
pub(crate) async fn change(
    raft: &Raft,
    id: u64,
    request: Request,
    timeout: Duration,
    lag_max: u64,
) -> Result<(), MemberError> {
    let attempts = async {
        loop {
            match change_once(raft, id, &request, lag_max).await {
                Err(MemberError::InProgress) => tokio::time::sleep(RETRY).await,
                other => return other,
            }
        }
    };
    match tokio::time::timeout(timeout, attempts).await {
        Ok(outcome) => outcome,
        Err(_) => Err(MemberError::Unknown),
    }
}

async fn change_once(raft: &Raft, id: u64, request: &Request, lag_max: u64) -> Result<(), MemberError> {
    let status = crate::status::status(raft, lag_max);
    let voter = status.voters.contains_key(&id);
    let member = voter || status.learners.contains_key(&id);
    let ids = || BTreeSet::from([id]);
    let (change, retain): (Change, bool) = match request {
        Request::Admit(peer) if !member => {
            // Does not wait until it has caught up: that may take a snapshot.
            return outcome(raft.add_learner(id, peer.clone(), false).await);
        }
        Request::Admit(peer) | Request::SetPeer(peer) => {
            let known = status.voters.get(&id).or_else(|| status.learners.get(&id));
            let Some(known) = known else {
                return not_here(raft, id).await;
            };
            if known == peer {
                return already(raft, id, request).await;
            }
            if known.peer_id != peer.peer_id {
                return Err(MemberError::Refused(format!(
                    "Raft number {id} is that of {}",
                    known.peer_id
                )));
            }
            (ChangeMembers::SetNodes(BTreeMap::from([(id, peer.clone())])), true)
        }
        Request::Promote if voter => return already(raft, id, request).await,
        Request::Demote if member && !voter => return already(raft, id, request).await,
        Request::Promote | Request::Demote if !member => return not_here(raft, id).await,
        Request::Remove if !member => return already(raft, id, request).await,
        Request::Demote | Request::Remove if voter && status.voters.len() == 1 => {
            return Err(MemberError::LastVoter(id));
        }
        Request::Promote => {
            // A voter that lacks much of the log counts in every majority and helps in none: until it has caught up,
            // the loss of one other could stop the cluster.
            if let Some(follower) = status.followers.get(&id).filter(|follower| follower.lagging) {
                return Err(MemberError::Lagging {
                    raft_id: id,
                    lag: follower.lag,
                    allowed: lag_max,
                });
            }
            (ChangeMembers::AddVoterIds(ids()), true)
        }
        Request::Demote => (ChangeMembers::RemoveVoters(ids()), true),
        Request::Remove if voter => (ChangeMembers::RemoveVoters(ids()), false),
        Request::Remove => (ChangeMembers::RemoveNodes(ids()), false),
    };
    outcome(raft.change_membership(change, retain).await)
}

/// Nothing seems to be left to do. What this peer sees may be old, or new and not agreed yet, and may then be taken back:
/// it counts only when a majority has confirmed this leader and the members that it sees are committed.
async fn already(raft: &Raft, id: u64, request: &Request) -> Result<(), MemberError> {
    confirm(raft).await?;
    let metrics = raft.metrics().borrow_watched().clone();
    let (effective, committed) = (&metrics.membership_config, &metrics.committed_membership_config);
    let settled = effective.log_id() == committed.log_id() && committed.membership().get_joint_config().len() <= 1;
    if settled && holds(committed.membership(), id, request) {
        Ok(())
    } else {
        Err(MemberError::InProgress)
    }
}

/// Whether a request is fulfilled.
fn holds(membership: &Membership, id: u64, request: &Request) -> bool {
    let member = membership.get_node(&id);
    let voter = membership.voter_ids().any(|voter| voter == id);
    match request {
        Request::Admit(peer) | Request::SetPeer(peer) => member == Some(peer),
        Request::Promote => voter,
        Request::Demote => member.is_some() && !voter,
        Request::Remove => member.is_none(),
    }
}

/// What this peer does not know as a member may yet be one, if it is not the leader.
async fn not_here(raft: &Raft, id: u64) -> Result<(), MemberError> {
    confirm(raft).await?;
    Err(MemberError::NotAMember(id))
}

/// Makes sure that this peer leads.
async fn confirm(raft: &Raft) -> Result<(), MemberError> {
    match raft
        .get_read_log_id(ReadPolicy::ReadIndex)
        .await
        .map_err(ReadError::from)
    {
        Ok(_) => Ok(()),
        Err(ReadError::NotLeader { leader }) => Err(MemberError::NotLeader { leader }),
        // A majority may answer yet; until then nothing is known.
        Err(ReadError::NoQuorum) => Err(MemberError::InProgress),
        Err(ReadError::Fatal(reason)) => Err(MemberError::Fatal(reason)),
    }
}

fn outcome(result: Outcome) -> Result<(), MemberError> {
    let error = match result {
        Ok(_) => return Ok(()),
        Err(RaftError::Fatal(fatal)) => return Err(fatal.into()),
        Err(RaftError::APIError(error)) => error,
    };
    match error {
        ClientWriteError::ForwardToLeader(forward) => Err(MemberError::NotLeader {
            leader: leader_of(forward),
        }),
        ClientWriteError::LogEntryDiscarded(_) => Err(MemberError::Unknown),
        // A leader that has not committed its first entry yet can't change members either; that is soon over.
        ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
        ) => Err(MemberError::InProgress),
        other => Err(MemberError::Refused(other.to_string())),
    }
}
