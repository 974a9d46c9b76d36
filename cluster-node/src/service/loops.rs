//! What a peer does without being asked: keeps its views fresh, reports to the leader, and, as the leader, lets pins
//! expire, settles placements and keeps enough voters.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_consensus::RaftPeer;
use cluster_proto::peer::v1::ReportRequest;
use futures::FutureExt;
use node_core::command::{NewPeer, Op, OpResult, Request};
use node_core::pinset::{self, EXPIRE_LIMIT_MAX, KvError};
use node_core::{Peer, PeerId, StorageNode};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;

use super::members::CAUGHT_UP_ENTRIES;
use super::release;
use super::report::{own_nodes, put_item};
use super::settle::Settler;
use super::{Error, Heard, Pins, WAIT_DEFAULT};

/// Settings of the loops.
#[derive(Clone)]
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
    /// The embedded node, if there is one.
    pub fellows: Option<Arc<dyn Fellows>>,
}

/// What wants to know where the other IPFS nodes of the cluster are.
pub trait Fellows: Send + Sync {
    /// Multiaddrs of all of them, instead of what was told before.
    fn told(&self, addresses: Vec<String>);
}

/// How often the addresses of the other nodes are asked for. They change when nodes come, go or move.
const FELLOWS_EVERY: Duration = Duration::from_secs(10);

/// The same while none is known: a node that has just begun is to fetch from the others at once.
const FELLOWS_SOON: Duration = Duration::from_millis(500);

/// Told when a loop ends that should run until the peer stops: which one, and why.
pub type OnEnd = Arc<dyn Fn(&'static str, String) + Send + Sync>;

/// How long a loop of the leader waits for a majority to confirm that it leads.
const CONFIRM_WAIT: Duration = Duration::from_secs(2);

/// Starts all loops; they end when `stop` is cancelled.
pub struct Loops {
    pins: Arc<Pins>,
    settings: LoopSettings,
    stop: CancellationToken,
    on_end: OnEnd,
}

impl Loops {
    /// Starts them on the current runtime. `on_end` hears of each that panics or ends by itself.
    pub fn start(pins: Arc<Pins>, settings: LoopSettings, stop: CancellationToken, tasks: &TaskTracker, on_end: OnEnd) {
        let loops = Arc::new(Self {
            pins,
            settings,
            stop,
            on_end,
        });
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
        loops.spawn(tasks, "release", |this| async move {
            release::run(this.pins.clone()).await;
        });
        loops.spawn(tasks, "voters", |this| async move { this.keep_voters().await });
        if let Some(fellows) = loops.settings.fellows.clone() {
            loops.spawn(
                tasks,
                "fellows",
                |this| async move { this.tell_fellows(&*fellows).await },
            );
        }
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        name: &'static str,
        run: impl FnOnce(Arc<Self>) -> F,
    ) {
        let (stop, on_end, work) = (self.stop.clone(), self.on_end.clone(), run(self.clone()));
        tasks.spawn(async move {
            let reason = match AssertUnwindSafe(stop.run_until_cancelled(work)).catch_unwind().await {
                Ok(None) => return,
                Ok(Some(())) => "it has ended".to_owned(),
                Err(panic) => format!("it panicked: {}", super::panic_text(&*panic)),
            };
            tracing::error!(task = name, %reason, "a task that should run until the end has ended");
            on_end(name, reason);
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
        let mut refused = None;
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
                if let Err(error) = self.pins.introduce(&self.settings.introduce).await {
                    complain(&mut refused, self.pins.directory.own(), &error);
                }
            } else if let Some(leader) = view.leader
                && let Err(error) = self.report_to(leader.peer.peer_id).await
            {
                complain(&mut refused, leader.peer.peer_id, &error);
            }
        }
    }

    /// Tells the embedded node where the cluster's other nodes are, attached ones too: what they hold is had from them.
    async fn tell_fellows(&self, fellows: &dyn Fellows) {
        let mut told = Vec::new();
        loop {
            let leader = self.pins.consensus.leader().leader.map(|leader| leader.peer.peer_id);
            let (seen, _) = self.pins.fleet_seen(leader).await;
            let own = self.pins.directory.own();
            let others = seen.into_iter().filter(|(peer, _)| *peer != own);
            let nodes = others.flat_map(|(_, seen)| seen.nodes);
            let mut addresses: Vec<String> = nodes.flat_map(|node| node.addresses).collect();
            addresses.sort_unstable();
            addresses.dedup();
            if addresses != told {
                told.clone_from(&addresses);
                fellows.told(addresses);
            }
            let pause = if told.is_empty() { FELLOWS_SOON } else { FELLOWS_EVERY };
            tokio::time::sleep(pause).await;
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
        link.report(call).await.map_err(|status| match status.code() {
            Code::InvalidArgument => Error::precondition(status.message()),
            _ => Error::NoLeader(status.message().to_owned()),
        })?;
        Ok(())
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
        self.remove_absent().await?;
        let consensus = &self.pins.consensus;
        let status = consensus.metrics();
        let own = self.pins.directory.own();
        let silent_for = |raft_id: &u64| match self.pins.directory.by_raft_id(*raft_id) {
            Some(peer) if peer.id == own => Duration::ZERO,
            Some(peer) => self.pins.fleet.silent_for(peer.id),
            None => Duration::MAX,
        };
        let lost = status
            .voters
            .keys()
            .copied()
            .find(|raft_id| silent_for(raft_id) > self.settings.voter_lost_after);
        if status.voters.len() > self.settings.voters_max {
            // Its replacement votes already; who made it a voter did not get to this.
            let Some(lost) = lost else { return Ok(()) };
            return self.demote(lost).await;
        }
        let ready = status.learners.keys().copied().find(|raft_id| {
            let near = status
                .followers
                .get(raft_id)
                .is_some_and(|follower| follower.matched.is_some() && follower.lag <= CAUGHT_UP_ENTRIES);
            near && silent_for(raft_id) < super::fleet::SILENT_AFTER
        });
        let Some(ready) = ready else { return Ok(()) };
        if status.voters.len() < self.settings.voters_max {
            tracing::info!(raft_id = ready, "a learner has caught up and becomes a voter");
            return consensus.promote(ready).await.map_err(|error| error.to_string());
        }
        let Some(lost) = lost else { return Ok(()) };
        tracing::warn!(
            lost,
            replacement = ready,
            "a voter was silent for too long; a learner takes its place"
        );
        consensus.promote(ready).await.map_err(|error| error.to_string())?;
        self.demote(lost).await
    }

    async fn demote(&self, lost: u64) -> Result<(), String> {
        tracing::warn!(lost, "a voter that was silent for too long votes no longer");
        let demoted = self.pins.consensus.demote(lost).await;
        demoted.map_err(|error| error.to_string())
    }

    /// Takes out of Raft who belongs to no peer: a wiped peer's old number, or a removed peer. Whoever began that may
    /// not have come to its end, and until then the number counts for the majority and can never vote.
    async fn remove_absent(&self) -> Result<(), String> {
        let consensus = &self.pins.consensus;
        let own = consensus.raft_id();
        // In this order: a peer's admission is committed before Raft hears of its number, so a state that is newer than
        // the membership names everybody in it.
        let status = consensus.metrics();
        let members = || status.voters.keys().chain(status.learners.keys());
        let missing = |raft_id: &&u64| self.pins.directory.by_raft_id(**raft_id).is_none();
        if members().find(missing).is_none() {
            return Ok(());
        }
        let state = self.pins.reads.linearizable(CONFIRM_WAIT).await;
        let state = state.map_err(|error| error.to_string())?;
        let present: BTreeSet<u64> = pinset::peers(&*state)
            .map_err(|error| error.to_string())?
            .into_iter()
            .filter(|peer| !peer.removed)
            .map(|peer| peer.raft_id)
            .collect();
        // A cluster that has not been named yet knows no peers.
        if !present.contains(&own) {
            return Ok(());
        }
        for absent in members().filter(|raft_id| !present.contains(raft_id)) {
            tracing::info!(
                raft_id = absent,
                "a number that is no peer's any more is taken out of Raft"
            );
            consensus.remove(*absent).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// Says why the leader does not take this peer's report. What only somebody can change is said once: it comes again with
/// every report until then.
fn complain(said: &mut Option<String>, leader: PeerId, error: &Error) {
    let text = error.to_string();
    let for_somebody = matches!(error, Error::Invalid(_) | Error::Refused(_));
    if for_somebody && said.as_ref() != Some(&text) {
        tracing::warn!(peer = %leader, %error, "the leader does not take this peer's report");
        *said = Some(text);
    } else {
        tracing::debug!(peer = %leader, %error, "the leader did not take this peer's report");
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
        let header = pinset::header(&*state)?;
        self.nodes.drive(&self.worker, &header.cluster_id, own);
        Ok(())
    }

    /// Records how a peer introduces itself, when that changed. On the leader.
    pub async fn introduce(&self, new: &NewPeer) -> Result<(), Error> {
        let Some(known) = self.directory.get(new.id).filter(|peer| !peer.removed) else {
            return Ok(());
        };
        let same = |other: &NewPeer| {
            known.name == other.name
                && known.addresses == other.addresses
                && known.api_address == other.api_address
                && known.version == other.version
        };
        // Asked here and not only while applying, because a peer introduces itself with every report. A name that is
        // taken must not keep others from reaching the peer at its new address.
        let of_another = |other: &Peer| other.id != new.id && other.name == new.name;
        let taken = (known.name != new.name)
            .then(|| self.directory.present().into_iter().find(of_another))
            .flatten();
        let mut wanted = new.clone();
        if taken.is_some() {
            wanted.name.clone_from(&known.name);
        }
        if !same(&wanted) {
            let op = Op::UpdatePeer { peer: wanted };
            self.proposer.submit(Request { id: None, op }, WAIT_DEFAULT).await?;
            self.set_raft_addresses(&known, new).await?;
        }
        match taken {
            Some(other) => Err(Error::invalid(
                "peer.name",
                &new.name,
                format!("it is the name of peer {}; give this peer another one", other.id),
            )),
            None => Ok(()),
        }
    }

    async fn set_raft_addresses(&self, known: &Peer, new: &NewPeer) -> Result<(), Error> {
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
