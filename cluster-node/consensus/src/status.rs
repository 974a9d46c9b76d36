//! How Raft is doing.

use std::collections::BTreeMap;

use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, ServerState};
use tokio::sync::watch;

use crate::errors::Leader;
use crate::types::{C, Raft, RaftPeer};

/// What this peer is in Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Replicates, does not vote.
    Learner,
    /// Votes.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
    /// Is stopping.
    Shutdown,
}

impl Role {
    /// The word used in tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Learner => "learner",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Who leads, as far as this peer knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderView {
    /// The term it knows of.
    pub term: u64,
    /// Whom it takes for the leader.
    pub leader: Option<Leader>,
    /// It is this peer.
    pub is_self: bool,
}

/// A peer that this leader replicates to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follower {
    /// The last entry it is known to have.
    pub matched: Option<u64>,
    /// How many entries it lacks.
    pub lag: u64,
    /// It lacks more than it should.
    pub lagging: bool,
}

/// How Raft is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftStatus {
    /// This peer's number.
    pub raft_id: u64,
    /// The term it knows of.
    pub term: u64,
    /// Whom it takes for the leader.
    pub leader: Option<u64>,
    /// What it is itself.
    pub role: Role,
    /// Index of the last entry of its log.
    pub last_log: Option<u64>,
    /// Up to where it knows the log to be committed.
    pub committed: Option<u64>,
    /// Up to where it has applied it.
    pub applied: Option<u64>,
    /// Index of its newest snapshot.
    pub snapshot: Option<u64>,
    /// Up to where its log was removed.
    pub purged: Option<u64>,
    /// Who votes.
    pub voters: BTreeMap<u64, RaftPeer>,
    /// Who only replicates.
    pub learners: BTreeMap<u64, RaftPeer>,
    /// Voters are being exchanged: old and new majority are both needed.
    pub in_transition: bool,
    /// On the leader: the others.
    pub followers: BTreeMap<u64, Follower>,
    /// On the leader: how long ago a majority last answered.
    pub millis_since_quorum_ack: Option<u64>,
    /// Why it is out of service.
    pub fatal: Option<String>,
}

pub(crate) fn status(raft: &Raft, lagging_entries: u64) -> RaftStatus {
    // Cloned at once: whoever keeps the guard stops the Raft core.
    let metrics = raft.metrics().borrow_watched().clone();
    let membership = metrics.membership_config.membership();
    let (mut voters, mut learners) = (BTreeMap::new(), BTreeMap::new());
    let voting: std::collections::BTreeSet<u64> = membership.voter_ids().collect();
    for (id, peer) in membership.nodes() {
        let list = if voting.contains(id) {
            &mut voters
        } else {
            &mut learners
        };
        list.insert(*id, peer.clone());
    }
    let next = metrics.last_log_index.map_or(0, |last| last + 1);
    let follower = |matched: Option<u64>| {
        let lag = next.saturating_sub(matched.map_or(0, |matched| matched + 1));
        Follower {
            matched,
            lag,
            lagging: lag > lagging_entries,
        }
    };
    let replication = metrics
        .replication
        .iter()
        .flatten()
        .filter(|(id, _)| **id != metrics.id);
    RaftStatus {
        raft_id: metrics.id,
        term: metrics.current_term,
        leader: metrics.current_leader,
        role: role(metrics.state),
        last_log: metrics.last_log_index,
        committed: metrics.local_committed.map(|log_id| log_id.index),
        applied: metrics.last_applied.map(|log_id| log_id.index),
        snapshot: metrics.snapshot.map(|log_id| log_id.index),
        purged: metrics.purged.map(|log_id| log_id.index),
        in_transition: membership.get_joint_config().len() > 1,
        followers: replication
            .map(|(id, matched)| (*id, follower(matched.map(|log_id| log_id.index))))
            .collect(),
        millis_since_quorum_ack: metrics
            .last_quorum_acked
            .map(|at| u64::try_from(at.into_inner().elapsed().as_millis()).unwrap_or(u64::MAX)),
        fatal: metrics.running_state.err().map(|fatal| fatal.to_string()),
        voters,
        learners,
    }
}

fn role(state: ServerState) -> Role {
    match state {
        ServerState::Learner => Role::Learner,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Leader => Role::Leader,
        ServerState::Shutdown => Role::Shutdown,
    }
}

pub(crate) fn leader_view(raft: &Raft) -> LeaderView {
    let metrics = raft.server_metrics().borrow_watched().clone();
    let leader = metrics.current_leader.and_then(|raft_id| {
        let peer = metrics.membership_config.membership().get_node(&raft_id)?.clone();
        Some(Leader { raft_id, peer })
    });
    LeaderView {
        term: metrics.vote.leader_id().term,
        is_self: metrics.current_leader == Some(metrics.id) && metrics.state == ServerState::Leader,
        leader,
    }
}

/// Passes on who leads, until Raft stops.
pub(crate) async fn follow_leader(raft: Raft, view: watch::Sender<LeaderView>) {
    let mut metrics = raft.server_metrics();
    loop {
        let now = leader_view(&raft);
        view.send_if_modified(|seen| {
            let changed = *seen != now;
            *seen = now;
            changed
        });
        if WatchReceiver::<openraft::alias::WatchOf<C>, _>::changed(&mut metrics)
            .await
            .is_err()
        {
            view.send_modify(|seen| {
                seen.leader = None;
                seen.is_self = false;
            });
            return;
        }
    }
}
