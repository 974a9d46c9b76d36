//! Changes of members.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError};
use openraft::raft::ClientWriteResponse;

use crate::errors::{MemberError, leader_of};
use crate::types::{C, Raft, RaftPeer};

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

/// Carries out a request, trying again while another change is under way.
pub(crate) async fn change(raft: &Raft, id: u64, request: Request, timeout: Duration) -> Result<(), MemberError> {
    let attempts = async {
        loop {
            match change_once(raft, id, &request).await {
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

async fn change_once(raft: &Raft, id: u64, request: &Request) -> Result<(), MemberError> {
    let status = crate::status::status(raft, 0);
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
                return Ok(());
            }
            if known.peer_id != peer.peer_id {
                return Err(MemberError::Refused(format!(
                    "Raft number {id} is that of {}",
                    known.peer_id
                )));
            }
            (ChangeMembers::SetNodes(BTreeMap::from([(id, peer.clone())])), true)
        }
        Request::Promote if voter => return Ok(()),
        Request::Demote if member && !voter => return Ok(()),
        Request::Promote | Request::Demote if !member => return not_here(raft, id).await,
        Request::Remove if !member => return Ok(()),
        Request::Demote | Request::Remove if voter && status.voters.len() == 1 => {
            return Err(MemberError::LastVoter(id));
        }
        Request::Promote => (ChangeMembers::AddVoterIds(ids()), true),
        Request::Demote => (ChangeMembers::RemoveVoters(ids()), true),
        Request::Remove if voter => (ChangeMembers::RemoveVoters(ids()), false),
        Request::Remove => (ChangeMembers::RemoveNodes(ids()), false),
    };
    outcome(raft.change_membership(change, retain).await)
}

/// What this peer does not know as a member may yet be one, if it is not the leader.
async fn not_here(raft: &Raft, id: u64) -> Result<(), MemberError> {
    let view = crate::status::leader_view(raft);
    if view.is_self {
        Err(MemberError::NotAMember(id))
    } else {
        Err(MemberError::NotLeader { leader: view.leader })
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
