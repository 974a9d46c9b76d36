//! What a peer does without being asked: keeps its views fresh, reports to the leader, and, as the leader, lets pins
//! expire, settles placements and keeps enough voters.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_consensus::RaftPeer;
use cluster_proto::peer::v1::ReportRequest;
use node_core::command::{NewPeer, Op, OpResult, Request};
use node_core::pinset::{self, EXPIRE_LIMIT_MAX, KvError};
use node_core::{PeerId, StorageNode};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::report::{own_nodes, put_item};
use super::settle::Settler;
use super::{Error, Heard, Pins, WAIT_DEFAULT};

/// Settings of the loops.
#[derive(Debug, Clone)]
pub struct LoopSettings {
    /// How this peer introduces itself.
    pub introduce: NewPeer,
    /// Storage nodes that the configuration names.
    pub configured_nodes: Vec<StorageNode>,
    /// How often a peer reports to the leader.
    pub report_interval: Duration,
    /// Voters at most.
    pub voters_max: usize,
    /// A voter that is silent for so long is replaced by a learner.
    pub voter_lost_after: Duration,
}

/// A learner this close to the leader's log has caught up.
const CAUGHT_UP_ENTRIES: u64 = 1_000;

/// Starts all loops; they end when `stop` is cancelled.
pub struct Loops {
    pins: Arc<Pins>,
    settings: LoopSettings,
    stop: CancellationToken,
}

impl Loops {
    /// Starts them on the current runtime.
    pub fn start(pins: Arc<Pins>, settings: LoopSettings, stop: CancellationToken, tasks: &TaskTracker) {
        let loops = Arc::new(Self { pins, settings, stop });
        loops.spawn(tasks, "refresh", |this| async move { this.refresh().await });
        loops.spawn(tasks, "wake", |this| async move { this.wake().await });
        loops.spawn(tasks, "report", |this| async move { this.report().await });
        loops.spawn(
            tasks,
            "register nodes",
            |this| async move { this.register_nodes().await },
        );
        loops.spawn(tasks, "expire", |this| async move { this.expire().await });
        loops.spawn(tasks, "settle", |this| async move {
            Settler::new(this.pins.clone()).run().await
        });
        loops.spawn(tasks, "voters", |this| async move { this.keep_voters().await });
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        name: &'static str,
        run: impl FnOnce(Arc<Self>) -> F,
    ) {
        let (stop, work) = (self.stop.clone(), run(self.clone()));
        tasks.spawn(async move {
            if stop.run_until_cancelled(work).await.is_some() {
                tracing::error!(task = name, "a task that should run until the end has ended");
            }
        });
    }

    /// Keeps the views of members, nodes and settings, and the worker's list of nodes.
    async fn refresh(&self) {
        let mut effects = self.pins.consensus.changes();
        loop {
            effects.mark_unchanged();
            if let Err(error) = self.pins.refresh() {
                tracing::error!(%error, "the state can't be read");
            }
            if effects.changed().await.is_err() {
                return;
            }
        }
    }

    /// Tells the worker of what was applied.
    async fn wake(&self) {
        let mut applied = self.pins.consensus.applied();
        while applied.changed().await.is_ok() {
            self.pins.worker.wake();
        }
    }

    async fn report(&self) {
        let mut ticks = tokio::time::interval(self.settings.report_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut leader = self.pins.consensus.watch_leader();
        loop {
            // A new leader hears of everybody at once, not after an interval.
            tokio::select! {
                _ = ticks.tick() => {}
                changed = leader.changed() => if changed.is_err() { return },
            }
            let view = leader.borrow_and_update().clone();
            if view.is_self {
                let heard = Heard {
                    at: Instant::now(),
                    applied_index: self.pins.consensus.applied().borrow().index,
                    version: self.settings.introduce.version.clone(),
                    nodes: own_nodes(&self.pins.worker),
                };
                self.pins.fleet.hear(self.pins.directory.own(), heard);
                self.introduce(&self.settings.introduce.clone()).await;
            } else if let Some(leader) = view.leader
                && let Err(error) = self.report_to(leader.peer.peer_id).await
            {
                tracing::debug!(peer = %leader.peer.peer_id, %error, "the leader did not take this peer's report");
            }
        }
    }

    async fn report_to(&self, leader: PeerId) -> Result<(), Error> {
        let mut link = self.pins.directory.link(leader).await?;
        let introduce = &self.settings.introduce;
        let mut call = tonic::Request::new(ReportRequest {
            name: introduce.name.clone(),
            addresses: introduce.addresses.clone(),
            api_address: introduce.api_address.clone(),
            version: introduce.version.clone(),
            applied_index: self.pins.consensus.applied().borrow().index,
            nodes: own_nodes(&self.pins.worker).iter().map(put_item).collect(),
            wire_version: cluster_proto::WIRE_VERSION,
        });
        call.set_timeout(self.settings.report_interval.max(Duration::from_secs(1)));
        link.report(call)
            .await
            .map_err(|status| Error::NoLeader(status.message().to_owned()))?;
        Ok(())
    }

    /// Records this peer's own name and addresses when they changed since it was admitted.
    async fn introduce(&self, new: &NewPeer) {
        if let Err(error) = self.pins.introduce(new).await {
            tracing::debug!(%error, "this peer's addresses could not be recorded yet");
        }
    }

    /// Records the storage nodes of the configuration, until it has worked once.
    async fn register_nodes(&self) {
        for node in &self.settings.configured_nodes {
            loop {
                match self.pins.put_node(node.clone(), None, WAIT_DEFAULT).await {
                    Ok(node) => {
                        tracing::info!(node = %node.name, id = %node.id, api = %node.api, "storage node of the configuration");
                        break;
                    }
                    Err(Error::Refused(refusal)) => {
                        tracing::error!(node = %node.name, error = %refusal, "a storage node of the configuration is refused");
                        break;
                    }
                    Err(error) => {
                        tracing::debug!(node = %node.name, %error, "a storage node could not be recorded yet");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                }
            }
        }
        std::future::pending().await
    }

    /// As the leader, removes pins whose time has come.
    async fn expire(&self) {
        loop {
            if self.pins.leads() && self.is_expiry_due() {
                let op = Op::Expire {
                    limit: EXPIRE_LIMIT_MAX,
                };
                match self.pins.proposer.submit(Request { id: None, op }, WAIT_DEFAULT).await {
                    Ok(OpResult::Expired(count)) => {
                        tracing::info!(count, "pins expired");
                        if count == EXPIRE_LIMIT_MAX {
                            continue;
                        }
                    }
                    Ok(_) => {}
                    Err(error) => tracing::debug!(%error, "pins could not be let expire yet"),
                }
            }
            // Expiry is promised to the second; the look itself is one key of an index.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn is_expiry_due(&self) -> bool {
        let next = pinset::next_expiry(&*self.pins.reads.stale());
        matches!(next, Ok(Some(at)) if at <= self.pins.clock.now())
    }

    /// As the leader, keeps as many voters as configured out of those that live.
    async fn keep_voters(&self) {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if !self.pins.leads() {
                continue;
            }
            if let Err(error) = self.keep_voters_once().await {
                tracing::warn!(%error, "the set of voters could not be changed; it is tried again");
            }
        }
    }

    async fn keep_voters_once(&self) -> Result<(), String> {
        self.pins.fleet.lead(self.pins.consensus.leader().term);
        let consensus = &self.pins.consensus;
        let status = consensus.metrics();
        let ready = status.learners.keys().copied().find(|raft_id| {
            let known = self.pins.directory.by_raft_id(*raft_id);
            let near = status
                .followers
                .get(raft_id)
                .is_some_and(|follower| follower.lag <= CAUGHT_UP_ENTRIES);
            near && known.is_some_and(|peer| self.pins.fleet.silent_for(peer.id) < super::fleet::SILENT_AFTER)
        });
        let Some(ready) = ready else { return Ok(()) };
        if status.voters.len() < self.settings.voters_max {
            tracing::info!(raft_id = ready, "a learner has caught up and becomes a voter");
            return consensus.promote(ready).await.map_err(|error| error.to_string());
        }
        let own = self.pins.directory.own();
        let lost = status
            .voters
            .keys()
            .copied()
            .find(|raft_id| match self.pins.directory.by_raft_id(*raft_id) {
                Some(peer) => peer.id != own && self.pins.fleet.silent_for(peer.id) > self.settings.voter_lost_after,
                None => true,
            });
        let Some(lost) = lost else { return Ok(()) };
        tracing::warn!(
            lost,
            replacement = ready,
            "a voter was silent for too long; a learner takes its place"
        );
        consensus.promote(ready).await.map_err(|error| error.to_string())?;
        consensus.demote(lost).await.map_err(|error| error.to_string())
    }
}

impl Pins {
    /// Reads members, nodes and settings anew, and gives the worker its nodes.
    pub fn refresh(&self) -> Result<(), KvError> {
        let state = self.reads.stale();
        self.directory.refresh(&*state)?;
        self.shared.refresh(&*state)?;
        self.fleet.forget_candidates();
        // Those that are gone included: what the ledger knows of them is to be forgotten.
        let mut own = pinset::nodes(&*state)?;
        own.retain(|node| node.peer == self.directory.own());
        self.nodes.drive(&self.worker, own);
        Ok(())
    }

    /// Records how a peer introduces itself, when that changed. On the leader.
    pub async fn introduce(&self, new: &NewPeer) -> Result<(), Error> {
        let Some(known) = self.directory.get(new.id).filter(|peer| !peer.removed) else {
            return Ok(());
        };
        let same = known.name == new.name
            && known.addresses == new.addresses
            && known.api_address == new.api_address
            && known.version == new.version;
        if same {
            return Ok(());
        }
        let op = Op::UpdatePeer { peer: new.clone() };
        self.proposer.submit(Request { id: None, op }, WAIT_DEFAULT).await?;
        if known.addresses != new.addresses {
            let peer = RaftPeer {
                peer_id: new.id,
                addresses: new.addresses.clone(),
            };
            let changed = self.consensus.set_peer(known.raft_id, peer).await;
            changed.map_err(|error| Error::NoLeader(error.to_string()))?;
        }
        Ok(())
    }
}
