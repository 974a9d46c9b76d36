//! Peers and storage nodes: who belongs to the cluster, and whether it is well.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster_consensus::{RaftPeer, RaftStatus};
use cluster_proto::peer::v1::change_member_request::Change;
use cluster_proto::peer::v1::{
    ChangeMemberRequest, FleetRequest, JoinRequest, MemberAddress, PeerSeen, ProbeNodeRequest,
};
use cluster_security::{JoinToken, PeerAddress, TokenSecret};
use node_core::command::{NewPeer, Op, OpResult, Refusal, RefusalKind, Request};
use node_core::pinset::{self, Header, Settings};
use node_core::{NodeState, Peer, PeerId, RequestId, StorageNode};

use super::health::{self, Facts};
use super::{Error, HeardNode, Pins};

pub use super::health::{Problem, Severity};

/// How long a cluster status waits for the leader before it answers with what this peer knows.
const STATUS_WAIT: Duration = Duration::from_millis(900);

/// A learner this close to the leader's log has caught up: it replicates so many entries in a moment.
pub(super) const CAUGHT_UP_ENTRIES: u64 = 1_000;

/// What a peer is to Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRole {
    /// Votes.
    Voter,
    /// Only replicates.
    Learner,
    /// Admitted and not yet replicating.
    Joining,
}

/// A peer as tables show it.
#[derive(Debug, Clone)]
pub struct PeerView {
    /// As recorded.
    pub peer: Peer,
    /// What it is to Raft.
    pub role: PeerRole,
    /// Whether it leads.
    pub leader: bool,
    /// Whether the leader hears it.
    pub reachable: bool,
    /// The last log entry it said it had applied.
    pub applied_index: u64,
}

/// The whole cluster, for one screen.
#[derive(Debug, Clone)]
pub struct ClusterView {
    /// Counters and settings.
    pub header: Header,
    /// Raft, as this peer sees it.
    pub raft: RaftStatus,
    /// Who leads.
    pub leader: Option<PeerId>,
    /// All members.
    pub peers: Vec<PeerView>,
    /// All storage nodes that are not gone, with what was heard of them.
    pub nodes: Vec<(StorageNode, Option<(HeardNode, Duration)>)>,
    /// What is wrong, worst first.
    pub problems: Vec<Problem>,
}

/// A storage node to attach.
#[derive(Debug, Clone)]
pub struct NodeWish {
    /// As wanted; ID and state are given by the cluster.
    pub node: StorageNode,
    /// Makes repetition safe.
    pub request_id: Option<RequestId>,
}

/// What a peer that joins is told.
#[derive(Debug, Clone)]
pub enum JoinAnswer {
    /// Ask the leader.
    Ask(MemberAddress),
    /// It belongs to the cluster now.
    Admitted {
        /// Which cluster.
        cluster_id: String,
        /// Its number in Raft.
        raft_id: u64,
        /// Everybody.
        members: Vec<MemberAddress>,
    },
}

impl Pins {
    /// Whether this peer leads.
    pub fn leads(&self) -> bool {
        self.consensus.leader().is_self
    }

    /// Whether the cluster is well, with every write that was acknowledged before the call as long as a majority answers.
    pub async fn cluster(&self) -> Result<ClusterView, Error> {
        let own = self.directory.own();
        let leader = self.consensus.leader().leader.map(|leader| leader.peer.peer_id);
        let ((seen, asked_leader), state) = tokio::join!(self.fleet_seen(leader), self.reads.linearizable(STATUS_WAIT));
        // A peer that hears nobody goes on naming the last leader, be it itself, since it can't have another one elected.
        // What counts is whether a majority still confirms one, or another peer says that it leads.
        let confirmed = state.is_ok() || (asked_leader && leader != Some(own));
        let leader = leader.filter(|_| confirmed);
        let state = state.unwrap_or_else(|_| self.reads.stale());
        let header = pinset::header(&*state)?;
        let raft = self.consensus.metrics();
        let peers: Vec<_> = self
            .directory
            .present()
            .into_iter()
            .map(|peer| peer_view(peer, leader, &raft, &seen))
            .collect();
        let nodes: Vec<_> = self
            .names()
            .present()
            .cloned()
            .map(|node| {
                let heard = seen.get(&node.peer).and_then(|seen| {
                    let said = seen.nodes.iter().find(|said| said.node == node.id.0)?;
                    Some((heard_node(said), Duration::from_millis(seen.age_ms)))
                });
                (node, heard)
            })
            .collect();
        let facts = Facts {
            header: &header,
            leader,
            asked_leader,
            voters: raft.voters.len(),
            peers: &peers,
            nodes: &nodes,
            fatal: raft.fatal.as_deref(),
            now: self.clock.now(),
        };
        let problems = health::problems(&facts);
        Ok(ClusterView {
            header,
            raft,
            leader,
            peers,
            nodes,
            problems,
        })
    }

    /// What the leader has heard; what this peer knows of itself when the leader does not answer.
    pub(super) async fn fleet_seen(&self, leader: Option<PeerId>) -> (BTreeMap<PeerId, PeerSeen>, bool) {
        let own = self.directory.own();
        let by_id = |peers: Vec<PeerSeen>| {
            peers
                .into_iter()
                .filter_map(|seen| Some((seen.peer_id.parse().ok()?, seen)))
                .collect()
        };
        match leader {
            Some(leader) if leader != own => {
                let ask = async {
                    let mut link = self.directory.link(leader).await.ok()?;
                    link.fleet(FleetRequest {}).await.ok()
                };
                match tokio::time::timeout(STATUS_WAIT, ask).await {
                    Ok(Some(answer)) => (by_id(answer.into_inner().peers), true),
                    _ => (by_id(vec![self.own_seen()]), false),
                }
            }
            Some(_) => (by_id(self.seen()), true),
            None => (by_id(vec![self.own_seen()]), false),
        }
    }

    /// What this peer has heard as the leader.
    pub fn seen(&self) -> Vec<PeerSeen> {
        let own = self.directory.own();
        let mut seen: Vec<_> = self
            .fleet
            .snapshot()
            .into_iter()
            .filter(|(peer, _)| *peer != own)
            .map(|(peer, (heard, reachable))| PeerSeen {
                peer_id: peer.to_string(),
                reachable,
                applied_index: heard.applied_index,
                version: heard.version,
                age_ms: u64::try_from(heard.at.elapsed().as_millis()).unwrap_or(u64::MAX),
                nodes: heard.nodes.iter().map(super::report::put_item).collect(),
            })
            .collect();
        seen.push(self.own_seen());
        seen
    }

    fn own_seen(&self) -> PeerSeen {
        PeerSeen {
            peer_id: self.directory.own().to_string(),
            reachable: true,
            applied_index: self.consensus.applied().borrow().index,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            age_ms: 0,
            nodes: super::report::own_items(&self.worker),
        }
    }

    /// Makes a join token.
    pub async fn create_join_token(
        &self,
        valid_for: Duration,
        wait: Duration,
    ) -> Result<(JoinToken, node_core::Timestamp), Error> {
        const VALID_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
        let valid_for = if valid_for.is_zero() {
            Duration::from_secs(3600)
        } else {
            valid_for
        };
        if valid_for > VALID_MAX {
            return Err(Error::invalid(
                "valid_for_ms",
                valid_for.as_millis().to_string(),
                "at most 7 days, 604800000",
            ));
        }
        let cluster_id = pinset::header(&*self.reads.stale())?.cluster_id;
        let members = self.directory.present();
        // Enough to find one that lives; a token is typed or pasted by people.
        let peers = members.into_iter().take(5).map(|peer| PeerAddress {
            peer: peer.id,
            addresses: peer.addresses,
        });
        let token = JoinToken {
            cluster_id,
            peers: peers.collect(),
            secret: TokenSecret::generate(),
        };
        let expires = self.clock.now().plus(valid_for);
        let op = Op::CreateToken {
            hash: token.secret.hash().to_vec(),
            expires,
        };
        self.proposer.submit(Request { id: None, op }, wait).await?;
        Ok((token, expires))
    }

    /// A peer asks to be admitted.
    pub async fn join(&self, id: PeerId, request: JoinRequest, wait: Duration) -> Result<JoinAnswer, Error> {
        check_wire_version(request.wire_version)?;
        let leader = self.consensus.leader();
        if !leader.is_self {
            let leader = leader.leader.ok_or_else(|| Error::NoLeader("none is elected".into()))?;
            return Ok(JoinAnswer::Ask(MemberAddress {
                peer_id: leader.peer.peer_id.to_string(),
                addresses: leader.peer.addresses,
                raft_id: leader.raft_id,
            }));
        }
        let peer = NewPeer {
            id,
            name: request.name,
            addresses: request.addresses.clone(),
            api_address: request.api_address,
            version: request.version,
        };
        let secret = TokenSecret::from_bytes(&request.token_secret);
        let token_hash = secret.map_err(|error| denied(error.to_string()))?.hash().to_vec();
        self.check_admission(&token_hash, &request.attempt, &peer, wait).await?;
        let op = Op::AdmitPeer {
            token_hash,
            attempt: request.attempt.to_vec(),
            peer,
        };
        let OpResult::Admitted { raft_id, replaces } = self.proposer.submit(Request { id: None, op }, wait).await?
        else {
            return Err(Error::Internal("an admission was answered with something else".into()));
        };
        if let Some(old) = replaces {
            self.change(self.consensus.remove(old)).await?;
        }
        let raft_peer = RaftPeer {
            peer_id: id,
            addresses: request.addresses,
        };
        self.change(self.consensus.admit_learner(raft_id, raft_peer)).await?;
        tracing::info!(peer = %id, raft_id, "a peer was admitted");
        let state = self.reads.stale();
        let cluster_id = pinset::header(&*state)?.cluster_id;
        let members = pinset::peers(&*state)?
            .into_iter()
            .filter(|peer| !peer.removed)
            .map(|peer| MemberAddress {
                peer_id: peer.id.to_string(),
                addresses: peer.addresses,
                raft_id: peer.raft_id,
            });
        Ok(JoinAnswer::Admitted {
            cluster_id,
            raft_id,
            members: members.collect(),
        })
    }

    /// Asks the state what applying would say, so that a wrong token costs no log entry.
    async fn check_admission(&self, hash: &[u8], attempt: &[u8], peer: &NewPeer, wait: Duration) -> Result<(), Error> {
        let now = self.clock.now();
        if pinset::check_admission(&*self.reads.stale(), now, hash, attempt, peer)?.is_ok() {
            return Ok(());
        }
        // A leader that was just elected may not have applied yet that the token was made.
        let state = self.reads.linearizable(wait).await?;
        Ok(pinset::check_admission(&*state, now, hash, attempt, peer)??)
    }

    async fn change<E: std::fmt::Display>(&self, change: impl Future<Output = Result<(), E>>) -> Result<(), Error> {
        change
            .await
            .map_err(|error| Error::NoLeader(format!("the membership could not be changed: {error}")))
    }

    /// Makes a learner a voter.
    pub async fn promote_peer(&self, id: PeerId, wait: Duration) -> Result<(), Error> {
        let peer = self.member(id)?;
        if !self.leads() {
            return self.ask_leader(Change::Promote, id, wait).await;
        }
        let status = self.consensus.metrics();
        if status.voters.contains_key(&peer.raft_id) {
            return Ok(());
        }
        // An entry needs a majority of the voters: one that lacks most of the log, or is not there, would hold up all of
        // them until it has caught up.
        let follower = status.followers.get(&peer.raft_id);
        let lacks = match follower {
            _ if self.fleet.silent_for(peer.id) > super::fleet::SILENT_AFTER => "does not answer".to_owned(),
            Some(follower) if follower.matched.is_some() && follower.lag <= CAUGHT_UP_ENTRIES => {
                return self.change(self.consensus.promote(peer.raft_id)).await;
            }
            Some(follower) if follower.matched.is_some() => format!("lacks {} log entries", follower.lag),
            _ => "has not begun to replicate".to_owned(),
        };
        Err(Error::precondition(format!(
            "peer {} {lacks}, so it can't vote yet; it may when it lacks {CAUGHT_UP_ENTRIES} entries at most: try again then",
            peer.name
        )))
    }

    /// Removes a peer for good.
    pub async fn remove_peer(&self, id: PeerId, wait: Duration) -> Result<(), Error> {
        let peer = self.member(id)?;
        if self.leads() && id == self.directory.own() {
            // A leader can't see its own removal through; its successor does.
            let leader = self.consensus.transfer_leadership(None, wait).await;
            leader.map_err(|error| Error::precondition(format!("no other peer could take the lead: {error}")))?;
        }
        if !self.leads() {
            return self.ask_leader(Change::Remove, id, wait).await;
        }
        let status = self.consensus.metrics();
        if status.voters.contains_key(&peer.raft_id) {
            let others = status.voters.keys().copied().filter(|voter| *voter != peer.raft_id);
            self.check_majority(&others.collect::<Vec<_>>(), wait).await?;
        }
        self.change(self.consensus.remove(peer.raft_id)).await?;
        self.proposer
            .submit(
                Request {
                    id: None,
                    op: Op::RemovePeer { peer: id },
                },
                wait,
            )
            .await?;
        tracing::info!(peer = %id, name = %peer.name, "a peer was removed for good");
        Ok(())
    }

    /// Whether these voters can go on by themselves. A leader that has just taken over, as when its predecessor is what
    /// is removed, has heard of nobody yet: it waits for the first reports before it calls anybody silent.
    async fn check_majority(&self, voters: &[u64], wait: Duration) -> Result<(), Error> {
        if voters.is_empty() {
            return Err(Error::precondition(
                "it is the only voter; a cluster of one can't remove itself",
            ));
        }
        let own = self.directory.own();
        let peers: Vec<_> = voters.iter().map(|voter| self.directory.by_raft_id(*voter)).collect();
        let until = tokio::time::Instant::now() + wait;
        loop {
            let heard = self.fleet.snapshot();
            let lives = |peer: &Peer| peer.id == own || heard.get(&peer.id).is_some_and(|(_, reachable)| *reachable);
            let alive = peers.iter().flatten().filter(|peer| lives(peer)).count();
            if alive > voters.len() / 2 {
                return Ok(());
            }
            let may_report = |peer: &Peer| !lives(peer) && self.fleet.silent_for(peer.id) < super::fleet::SILENT_AFTER;
            if !peers.iter().flatten().any(may_report) || tokio::time::Instant::now() >= until {
                return Err(Error::precondition(format!(
                    "of the other {} voters only {alive} are reachable, which is no majority; bring them back first",
                    voters.len()
                )));
            }
            // Reports announce themselves to nobody; each peer sends one as soon as it knows the leader.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ask_leader(&self, change: Change, id: PeerId, wait: Duration) -> Result<(), Error> {
        let deadline = tokio::time::Instant::now() + wait;
        let mut view = self.consensus.watch_leader();
        let leader = loop {
            let leader = view.borrow_and_update().clone();
            match leader.leader {
                Some(leader) if !self.consensus.leader().is_self => break leader,
                _ => {
                    let changed = tokio::time::timeout_at(deadline, view.changed()).await;
                    changed
                        .map_err(|_| Error::NoLeader("none was elected in time".into()))?
                        .map_err(|_| Error::Stopping)?;
                }
            }
        };
        let mut link = self.directory.link(leader.peer.peer_id).await?;
        let mut call = tonic::Request::new(ChangeMemberRequest {
            change: change.into(),
            peer_id: id.to_string(),
        });
        call.set_timeout(wait);
        match link.change_member(call).await {
            Ok(_) => Ok(()),
            Err(status) => Err(match status.code() {
                tonic::Code::FailedPrecondition => Error::precondition(status.message()),
                tonic::Code::NotFound => Error::not_found(status.message()),
                _ => Error::Unknown(format!("the leader's answer was lost: {}", status.message())),
            }),
        }
    }

    fn member(&self, id: PeerId) -> Result<Peer, Error> {
        match self.directory.get(id) {
            Some(peer) if !peer.removed => Ok(peer),
            Some(_) => Err(Error::not_found(format!("peer {id} was removed before"))),
            None => Err(Error::not_found(format!(
                "{id} is not a peer of this cluster; `cluster-ctl peer ls` shows them"
            ))),
        }
    }

    /// Attaches a storage node, after its peer has reached it.
    pub async fn add_node(&self, wish: NodeWish, wait: Duration) -> Result<StorageNode, Error> {
        let node = wish.node;
        let driver = self.member(node.peer)?;
        let probe = ProbeNodeRequest {
            api: node.api.clone(),
            auth_file: node.auth_file.clone(),
        };
        let probed = if node.peer == self.directory.own() {
            self.nodes.probe(&probe).await?
        } else {
            let mut link = self.directory.link(node.peer).await?;
            let mut call = tonic::Request::new(probe);
            call.set_timeout(wait);
            let answer = link.probe_node(call).await;
            let answer = answer.map_err(|status| match status.code() {
                tonic::Code::InvalidArgument => Error::invalid("api", &node.api, status.message()),
                _ => Error::precondition(format!("peer {}: {}", driver.name, status.message())),
            });
            answer?.into_inner()
        };
        self.check_daemon(&node, &probed.ipfs_peer_id).await?;
        self.put_node(node, wish.request_id, wait).await
    }

    /// One daemon behind two nodes would hold both replicas of a pin once, and an unpin at one node would take it from
    /// the other.
    async fn check_daemon(&self, node: &StorageNode, ipfs_peer_id: &str) -> Result<(), Error> {
        if ipfs_peer_id.is_empty() {
            return Ok(());
        }
        let leader = self.consensus.leader().leader.map(|leader| leader.peer.peer_id);
        let (seen, _) = self.fleet_seen(leader).await;
        let names = self.names();
        let same = seen.values().flat_map(|seen| &seen.nodes).find_map(|said| {
            let other = names.present().find(|other| other.id.0 == said.node)?;
            (said.ipfs_peer_id == ipfs_peer_id && other.name != node.name).then_some(other)
        });
        match same {
            Some(other) => Err(Error::invalid(
                "api",
                &node.api,
                format!(
                    "the IPFS daemon there, {ipfs_peer_id}, is that of the storage node {:?} already; name another \
                     daemon, or take that node out first with `cluster-ctl node rm {}`",
                    other.name, other.name
                ),
            )),
            None => Ok(()),
        }
    }

    /// Records a storage node without asking it.
    pub async fn put_node(
        &self,
        node: StorageNode,
        request_id: Option<RequestId>,
        wait: Duration,
    ) -> Result<StorageNode, Error> {
        match self
            .proposer
            .submit(
                Request {
                    id: request_id,
                    op: Op::PutNode { node },
                },
                wait,
            )
            .await?
        {
            OpResult::Node(node) => Ok(node),
            other => Err(Error::Internal(format!("a storage node was answered with {other:?}"))),
        }
    }

    /// Changes whether a node takes and keeps pins.
    pub async fn set_node_state(&self, name: &str, state: NodeState, wait: Duration) -> Result<StorageNode, Error> {
        let current = self.reads.linearizable(wait).await?;
        let node = pinset::find_node(&*current, name)?.ok_or_else(|| {
            Error::not_found(format!(
                "there is no storage node {name:?}; `cluster-ctl node ls` shows them"
            ))
        })?;
        let op = Op::SetNodeState { node: node.id, state };
        match self.proposer.submit(Request { id: None, op }, wait).await? {
            OpResult::Node(node) => Ok(node),
            other => Err(Error::Internal(format!("a node's state was answered with {other:?}"))),
        }
    }

    /// Reads the settings, changed by `edit` when it returns whether anything is to change. It is called again when others
    /// changed them meanwhile.
    pub async fn settings(
        &self,
        edit: impl Fn(&mut Settings) -> Result<bool, Error>,
        wait: Duration,
    ) -> Result<Arc<Settings>, Error> {
        let deadline = tokio::time::Instant::now() + wait;
        let left = || deadline.saturating_duration_since(tokio::time::Instant::now());
        let read = || async {
            let state = self.reads.linearizable(left()).await?;
            Ok(pinset::header(&*state)?.settings)
        };
        let put = |op| async {
            let put = self.proposer.submit(Request { id: None, op }, left()).await;
            put.map(drop)
        };
        edited(edit, read, put).await.map(Arc::new)
    }
}

/// How often a change of the settings is made anew, because they were changed by somebody else between reading and
/// writing, before the caller hears of it.
const SETTINGS_TRIES_MAX: u32 = 8;

/// The settings as `edit` leaves those that `read` finds. What is written replaces all of them, so it says of which it was
/// made: else a change of another part that was acknowledged meanwhile would be undone.
async fn edited<Read, Put>(
    edit: impl Fn(&mut Settings) -> Result<bool, Error>,
    read: impl Fn() -> Read,
    put: impl Fn(Op) -> Put,
) -> Result<Settings, Error>
where
    Read: Future<Output = Result<Settings, Error>>,
    Put: Future<Output = Result<(), Error>>,
{
    let mut tries = 0;
    loop {
        let before = read().await?;
        let mut settings = before.clone();
        if !edit(&mut settings)? {
            return Ok(settings);
        }
        let op = Op::PutSettings {
            settings: settings.clone(),
            based_on: Some(before),
        };
        tries += 1;
        match put(op).await {
            Ok(()) => return Ok(settings),
            Err(Error::Refused(refusal)) if refusal.kind == RefusalKind::Conflict && tries < SETTINGS_TRIES_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

fn peer_view(peer: Peer, leader: Option<PeerId>, raft: &RaftStatus, seen: &BTreeMap<PeerId, PeerSeen>) -> PeerView {
    let heard = seen.get(&peer.id);
    let role = if raft.voters.contains_key(&peer.raft_id) {
        PeerRole::Voter
    } else if raft.learners.contains_key(&peer.raft_id) {
        PeerRole::Learner
    } else {
        PeerRole::Joining
    };
    PeerView {
        role,
        leader: leader == Some(peer.id),
        reachable: heard.is_some_and(|heard| heard.reachable),
        applied_index: heard.map_or(0, |heard| heard.applied_index),
        peer,
    }
}

fn heard_node(item: &cluster_proto::peer::v1::NodeReportItem) -> HeardNode {
    super::report::read_item(item)
}

/// Checks that this version understands what another peer says.
pub fn check_wire_version(spoken: u32) -> Result<(), Error> {
    let (oldest, newest) = (cluster_proto::WIRE_VERSION_OLDEST, cluster_proto::WIRE_VERSION);
    if (oldest..=newest).contains(&spoken) {
        return Ok(());
    }
    let remedy = format!("this peer speaks {oldest}..={newest}; update the older one");
    Err(Error::invalid("wire_version", spoken.to_string(), remedy))
}

/// A refusal by a rule of membership.
pub fn denied(message: impl Into<String>) -> Error {
    Error::Refused(Refusal::new(RefusalKind::Denied, message))
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use node_core::command::CommandBatch;
    use node_core::pinset::{Effects, MemoryKv};
    use node_core::{Replication, Timestamp};

    use super::*;

    /// Settings that entries are applied to.
    struct Replicated {
        kv: RefCell<MemoryKv>,
        index: Cell<u64>,
    }

    impl Replicated {
        fn new() -> Self {
            let new = Self {
                kv: RefCell::default(),
                index: Cell::new(0),
            };
            let id = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5";
            new.apply(Op::InitCluster {
                cluster_id: "test".into(),
                settings: Settings::default(),
                peer: NewPeer {
                    id: id.parse().expect("valid"),
                    name: "peer-1".into(),
                    addresses: Vec::new(),
                    api_address: String::new(),
                    version: String::new(),
                },
            })
            .expect("a new cluster");
            new
        }

        fn settings(&self) -> Settings {
            pinset::header(&*self.kv.borrow()).expect("in memory").settings
        }

        fn apply(&self, op: Op) -> Result<(), Error> {
            self.index.set(self.index.get() + 1);
            let batch = CommandBatch {
                time: Timestamp::ZERO,
                requests: vec![Request { id: None, op }],
            };
            let kv = &mut *self.kv.borrow_mut();
            let mut results = pinset::apply(kv, self.index.get(), &batch, &mut Effects::default()).expect("in memory");
            match results.remove(0) {
                OpResult::Refused(refusal) => Err(Error::Refused(refusal)),
                _ => Ok(()),
            }
        }
    }

    const FACTORS: Replication = Replication { min: 2, max: 3 };

    fn set_factors(settings: &mut Settings) -> Result<bool, Error> {
        settings.replication = FACTORS;
        Ok(true)
    }

    #[tokio::test]
    async fn a_change_that_came_between_stays() {
        let replicated = Replicated::new();
        let puts = Cell::new(0);
        let settings = edited(
            set_factors,
            || async { Ok(replicated.settings()) },
            |op| {
                puts.set(puts.get() + 1);
                if puts.get() == 1 {
                    let mut settings = replicated.settings();
                    settings.spread_by = vec!["rack".into()];
                    let based_on = Some(replicated.settings());
                    replicated
                        .apply(Op::PutSettings { settings, based_on })
                        .expect("the first");
                }
                std::future::ready(replicated.apply(op))
            },
        )
        .await
        .expect("it is made anew");
        assert_eq!(puts.get(), 2);
        assert_eq!(settings, replicated.settings());
        assert_eq!(
            (settings.replication, settings.spread_by),
            (FACTORS, vec!["rack".to_owned()])
        );
    }

    #[tokio::test]
    async fn a_change_that_never_fits_is_given_up() {
        let replicated = Replicated::new();
        let puts = Cell::new(0);
        let refused = edited(
            set_factors,
            || async { Ok(replicated.settings()) },
            |op| {
                puts.set(puts.get() + 1);
                let mut settings = replicated.settings();
                settings.spread_by = vec![puts.get().to_string()];
                let other = Op::PutSettings {
                    settings,
                    based_on: None,
                };
                replicated.apply(other).expect("always another");
                std::future::ready(replicated.apply(op))
            },
        )
        .await
        .expect_err("given up");
        assert!(
            matches!(&refused, Error::Refused(refusal) if refusal.kind == RefusalKind::Conflict),
            "{refused}"
        );
        assert_eq!(puts.get(), SETTINGS_TRIES_MAX);
    }
}
