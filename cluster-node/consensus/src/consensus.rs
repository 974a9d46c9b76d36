//! The handle to Raft.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use cluster_proto::peer::v1::raft_server::RaftServer;
use cluster_storage::StateStore;
use cluster_storage::raft_log::RaftLog;
use node_core::command::OpResult;
use node_core::{NodeId, PeerId};
use openraft::async_runtime::WatchReceiver;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use openraft::{Instant as _, ReadPolicy};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::channel::ChannelProvider;
use crate::config::ConsensusConfig;
use crate::errors::{Behind, MemberError, OpenError, ProposeError, ReadError, TransferError};
use crate::lease;
use crate::log_store::LogStore;
use crate::members::{self, Request};
use crate::network::{MESSAGE_BYTES_MAX, Network};
use crate::runtime::{OwnRuntime, RuntimeOptions};
use crate::server::RaftService;
use crate::state_machine::{Applied, Changes, SnapshotCounts, StateMachine};
use crate::status::{self, LeaderView, RaftStatus};
use crate::types::{C, Command, Raft, RaftPeer};
use crate::upkeep;

/// Largest command. Half of what a peer takes in one message: one entry is never cut in two, and must reach followers.
const COMMAND_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;

/// Threads for applying, reading old entries, building, sending and receiving snapshots.
const BLOCKING_THREADS_MAX: usize = 16;

/// Raft of this peer. Clones are handles to the same.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    raft_id: u64,
    config: Arc<ConsensusConfig>,
    raft: Raft,
    log: LogStore,
    state: Arc<StateStore>,
    machine: StateMachine,
    leader: watch::Receiver<LeaderView>,
    /// The last term in which the lead was to be handed over; 0 = none.
    handed_over_in: AtomicU64,
    inflight_bytes: Arc<Semaphore>,
    inflight_entries: Arc<Semaphore>,
    /// Ends the tasks beside Raft: they keep hold of log and state.
    stopped: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<Option<()>>>>,
    handle: Handle,
    /// Its own runtime, unless it runs on the caller's.
    runtime: OwnRuntime,
}

/// What became of a proposal.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposed {
    /// Its index in the log.
    pub index: u64,
    /// An answer for each operation.
    pub results: Vec<OpResult>,
}

/// A proposal that is in the hands of Raft.
#[must_use = "the answer is what matters"]
pub struct Proposal {
    answer: oneshot::Receiver<ClientWriteResult<C>>,
    operations: usize,
    timeout: Duration,
    /// Given back with the answer.
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Consensus {
    /// Starts Raft on a log and a state. `raft_id` is this peer's number; a peer whose disk was lost gets a new one.
    ///
    /// # Errors
    /// Also when log and state are not those of this number: see [`ConsensusConfig::started`].
    pub async fn open(
        raft_id: u64,
        own_peer: PeerId,
        config: ConsensusConfig,
        log: RaftLog,
        state: Arc<StateStore>,
        channels: Arc<dyn ChannelProvider>,
    ) -> Result<Self, OpenError> {
        config.validate()?;
        let begun = tokio::time::Instant::now();
        let config = Arc::new(config);
        let runtime = OwnRuntime::start(RuntimeOptions {
            name: "raft",
            threads: config.runtime_threads,
            blocking_max: BLOCKING_THREADS_MAX,
            on_thread_start: || {},
        })?;
        let handle = runtime.handle();

        claim(&log, raft_id, config.started).await?;
        let log = LogStore::open(log, config.append_bytes_max, config.log_bytes_kept)?;
        let opening = {
            let (log, state) = (log.clone(), Arc::clone(&state));
            move || open_machine(&log, state, own_peer)
        };
        let machine = handle.spawn_blocking(opening).await.map_err(io::Error::other)??;

        let raft_config = config
            .openraft()
            .validate()
            .map_err(|error| OpenError::Raft(error.to_string()))?;
        tokio::time::sleep(lease::wait_after_start(&config, begun.elapsed())).await;
        let network = Network::new(raft_id, channels, Arc::clone(&config));
        let sending = network.sending();
        let starting = Raft::new(raft_id, Arc::new(raft_config), network, log.clone(), machine.clone());
        let raft = handle.spawn(starting).await.map_err(io::Error::other)?;
        let raft = raft.map_err(|fatal| OpenError::Raft(fatal.to_string()))?;

        let (view, leader) = watch::channel(status::leader_view(&raft));
        let stopped = CancellationToken::new();
        let following = status::follow_leader(raft.clone(), view);
        let following = stopped.clone().run_until_cancelled_owned(following);
        let snapshots = upkeep::take_snapshots(raft.clone(), machine.clone(), Arc::clone(&config));
        let snapshots = stopped.clone().run_until_cancelled_owned(snapshots);
        let purges = upkeep::purge_log(raft.clone(), log.clone(), sending, Arc::clone(&config));
        let purges = stopped.clone().run_until_cancelled_owned(purges);
        let tasks = vec![handle.spawn(following), handle.spawn(snapshots), handle.spawn(purges)];
        let inner = Inner {
            raft_id,
            inflight_bytes: Arc::new(Semaphore::new(config.inflight_bytes_max)),
            inflight_entries: Arc::new(Semaphore::new(config.inflight_entries_max)),
            config,
            raft,
            log,
            state,
            machine,
            leader,
            handed_over_in: AtomicU64::new(0),
            stopped,
            tasks: Mutex::new(tasks),
            handle,
            runtime,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// This peer's number.
    pub fn raft_id(&self) -> u64 {
        self.inner.raft_id
    }

    /// The runtime that Raft runs on. The server that takes other peers' requests belongs on it too.
    pub fn runtime(&self) -> Handle {
        self.inner.handle.clone()
    }

    /// The service for other peers' requests, to be put behind a check of who calls.
    pub fn raft_service(&self) -> RaftServer<RaftService> {
        let inner = &self.inner;
        let service = RaftService::new(
            inner.raft_id,
            inner.raft.clone(),
            &inner.state,
            Arc::clone(&inner.config),
        );
        RaftServer::new(service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Makes this peer a cluster of one. Once in the life of a cluster.
    pub async fn bootstrap(&self, own: RaftPeer) -> Result<(), MemberError> {
        members::bootstrap(&self.inner.raft, self.inner.raft_id, own).await
    }

    /// Whether this peer belongs to a cluster: it was bootstrapped, or a leader has reached it.
    pub async fn is_initialized(&self) -> Result<bool, MemberError> {
        Ok(self.inner.raft.is_initialized().await?)
    }

    /// Proposes a batch of operations and waits for the answers. Many may be in flight. Leader only.
    pub async fn propose(&self, command: Bytes, operations: usize) -> Result<Vec<OpResult>, ProposeError> {
        let proposal = self.submit(command, operations).await?;
        Ok(proposal.wait().await?.results)
    }

    /// Hands a batch of operations to Raft; those of one caller come into the log in this order. Waits while too much
    /// is in flight.
    pub async fn submit(&self, command: Bytes, operations: usize) -> Result<Proposal, ProposeError> {
        let inner = &self.inner;
        if command.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge {
                bytes: command.len(),
                allowed: COMMAND_BYTES_MAX,
            });
        }
        let room = async {
            let bytes = command.len().clamp(1, inner.config.inflight_bytes_max);
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            let bytes = Arc::clone(&inner.inflight_bytes).acquire_many_owned(bytes).await;
            (bytes, Arc::clone(&inner.inflight_entries).acquire_owned().await)
        };
        let room = match timeout(inner.config.propose_wait, room).await {
            Ok((Ok(bytes), Ok(entry))) => (bytes, entry),
            Ok(_) => return Err(ProposeError::Fatal("it was shut down".into())),
            Err(_) => return Err(ProposeError::Overloaded),
        };
        self.until_confirmed().await;
        let (responder, answer) = ProgressResponder::complete_only();
        let handed = inner.raft.client_write_ff(Command(command), Some(responder)).await;
        handed.map_err(|fatal| ProposeError::Fatal(fatal.to_string()))?;
        Ok(Proposal {
            answer,
            operations,
            timeout: inner.config.propose_timeout,
            _room: room,
        })
    }

    /// A leader refuses everything until a majority has answered it, and again when none has answered for as long as
    /// an election takes: that is over in milliseconds when a pause of the machine or of the network was the reason, and
    /// no caller should have to know of it. Without this wait callers would ask again as fast as they can.
    async fn until_confirmed(&self) {
        let raft = &self.inner.raft;
        let lease = self.inner.config.election_max;
        let waits = |metrics: &openraft::RaftMetrics<C>| {
            metrics.state.is_leader()
                && metrics
                    .last_quorum_acked
                    .is_none_or(|acked| acked.into_inner().elapsed() >= lease)
                && metrics.running_state.is_ok()
                && metrics.membership_config.voter_ids().nth(1).is_some()
        };
        if !waits(&raft.metrics().borrow_watched()) {
            return;
        }
        let wait = raft.wait(Some(self.inner.config.propose_wait));
        // When nobody answers, the proposal is refused with the right reason.
        let _ = wait.metrics(|metrics| !waits(metrics), "confirmed as leader").await;
    }

    /// The index that a linearizable read must have applied: a majority has confirmed that this peer leads, so shortly
    /// ago that there can be no other leader, or now. Leader only.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        if let Some(index) = self.leased_index() {
            return Ok(index);
        }
        let (read, _) = self.inner.raft.get_read_log_id(ReadPolicy::ReadIndex).await?;
        Ok(read.index())
    }

    /// What this peer has applied, if it leads and nobody else can. What openraft tells of itself may be old: then the
    /// lease only seems to be shorter than it is.
    fn leased_index(&self) -> Option<u64> {
        let inner = &self.inner;
        let applied = inner.machine.applied_id();
        let standing = {
            let watched = inner.raft.metrics();
            let metrics = watched.borrow_watched();
            if !metrics.state.is_leader() {
                return None;
            }
            lease::Standing {
                term: metrics.current_term,
                quorum_acked: metrics.last_quorum_acked?.into_inner().elapsed(),
                applied_own: applied.is_some_and(|id| {
                    let leader = id.committed_leader_id();
                    leader.term == metrics.current_term && leader.node_id == inner.raft_id
                }),
                handed_over_in: inner.handed_over_in.load(Ordering::SeqCst),
            }
        };
        lease::covers(&standing, lease::lease(&inner.config)).then(|| applied.map_or(0, |id| id.index))
    }

    /// Waits until the entry at `index` is applied here.
    pub async fn wait_applied(&self, index: u64, limit: Duration) -> Result<Applied, Behind> {
        let mut applied = self.applied();
        let reached = applied.wait_for(|applied| applied.index >= index);
        if let Ok(Ok(applied)) = timeout(limit, reached).await {
            return Ok(*applied);
        }
        let applied = self.applied().borrow().index;
        Err(Behind { wanted: index, applied })
    }

    /// How far the state is. Changes with each batch that is applied and when a snapshot is installed.
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.inner.machine.applied()
    }

    /// Counters of what few care for.
    pub fn changes(&self) -> watch::Receiver<Changes> {
        self.inner.machine.changes()
    }

    /// Tells each time credentials of clients were made or revoked, after that is in the state.
    pub fn credentials(&self) -> watch::Receiver<()> {
        self.inner.machine.credentials()
    }

    /// Snapshots since the start of this peer.
    pub fn snapshot_counts(&self) -> SnapshotCounts {
        self.inner.machine.snapshot_counts()
    }

    /// The storage nodes that this peer drives, kept up to date while applying.
    pub fn own_nodes(&self) -> Arc<ArcSwap<BTreeSet<NodeId>>> {
        self.inner.machine.own_nodes()
    }

    /// Who leads, as far as this peer knows.
    pub fn leader(&self) -> LeaderView {
        self.inner.leader.borrow().clone()
    }

    /// Follows who leads.
    pub fn watch_leader(&self) -> watch::Receiver<LeaderView> {
        self.inner.leader.clone()
    }

    /// How Raft is doing.
    pub fn metrics(&self) -> RaftStatus {
        status::status(&self.inner.raft, self.inner.config.lagging_entries)
    }

    /// Adds a peer that replicates and does not vote. Returns when that is agreed, not when it has caught up.
    pub async fn admit_learner(&self, raft_id: u64, peer: RaftPeer) -> Result<(), MemberError> {
        self.change(raft_id, Request::Admit(peer)).await
    }

    /// Makes a learner a voter. Refused while it lacks more than [`ConsensusConfig::lagging_entries`].
    pub async fn promote(&self, raft_id: u64) -> Result<(), MemberError> {
        self.change(raft_id, Request::Promote).await
    }

    /// Makes a voter a learner.
    pub async fn demote(&self, raft_id: u64) -> Result<(), MemberError> {
        self.change(raft_id, Request::Demote).await
    }

    /// Takes a peer out of the group. Its number must never be used again.
    pub async fn remove(&self, raft_id: u64) -> Result<(), MemberError> {
        self.change(raft_id, Request::Remove).await
    }

    /// Changes where a peer is reached.
    pub async fn set_peer(&self, raft_id: u64, peer: RaftPeer) -> Result<(), MemberError> {
        self.change(raft_id, Request::SetPeer(peer)).await
    }

    async fn change(&self, raft_id: u64, request: Request) -> Result<(), MemberError> {
        let config = &self.inner.config;
        members::change(
            &self.inner.raft,
            raft_id,
            request,
            config.member_timeout,
            config.lagging_entries,
        )
        .await
    }

    /// Hands leadership to another voter, the one with the longest log when none is named, and waits until it leads.
    pub async fn transfer_leadership(&self, to: Option<u64>, limit: Duration) -> Result<u64, TransferError> {
        let status = self.metrics();
        if !self.leader().is_self {
            return Err(TransferError::NotLeader);
        }
        let voters = status.voters.keys().filter(|id| **id != status.raft_id);
        let longest = || {
            let matched = |id: &&u64| status.followers.get(id).and_then(|follower| follower.matched);
            voters.clone().max_by_key(matched).copied()
        };
        let target = match to {
            Some(to) => voters.clone().any(|id| *id == to).then_some(to),
            None => longest(),
        };
        let target = target.ok_or(TransferError::NoCandidate)?;
        // Before it is tried: from then on another peer may lead at any time.
        self.inner.handed_over_in.store(status.term, Ordering::SeqCst);
        let asked = self.inner.raft.trigger().transfer_leader(target).await;
        asked.map_err(|fatal| TransferError::Fatal(fatal.to_string()))?;
        let mut view = self.watch_leader();
        let taken =
            view.wait_for(|view| !view.is_self && view.leader.as_ref().is_some_and(|l| l.raft_id != status.raft_id));
        match timeout(limit, taken).await {
            Ok(Ok(view)) => view
                .leader
                .as_ref()
                .map(|leader| leader.raft_id)
                .ok_or(TransferError::Timeout),
            Ok(Err(_)) => Err(TransferError::Fatal("it was shut down".into())),
            Err(_) => Err(TransferError::Timeout),
        }
    }

    /// Takes a snapshot soon.
    pub async fn trigger_snapshot(&self) -> Result<(), MemberError> {
        Ok(self.inner.raft.trigger().snapshot().await?)
    }

    /// Waits until this peer has applied everything that it may have applied before it was restarted: until then its
    /// state may be older than what it once showed.
    pub async fn recovered(&self, limit: Duration) -> Result<(), Behind> {
        match self.inner.raft.wait_for_recovery(Some(limit)).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let status = self.metrics();
                Err(Behind {
                    wanted: status.last_log.unwrap_or(0),
                    applied: status.applied.unwrap_or(0),
                })
            }
        }
    }

    /// Stops Raft, closes the log and writes the state out. Afterwards nothing works any more, and no task of this layer
    /// holds on to log or state: they are closed when the caller lets go of them. Each step may take as long as `limit`.
    pub async fn shutdown(&self, limit: Duration) {
        let inner = &self.inner;
        if timeout(limit, inner.raft.shutdown()).await.is_err() {
            tracing::warn!("Raft did not stop in time");
        }
        inner.stopped.cancel();
        inner.inflight_bytes.close();
        inner.inflight_entries.close();
        let tasks = std::mem::take(&mut *inner.tasks.lock());
        let left = async {
            futures::future::join_all(tasks).await;
            // Applying, replication and building of snapshots run on for a moment when the Raft core has ended.
            inner.machine.alone().await;
            inner.log.alone().await;
        };
        if timeout(limit, left).await.is_err() {
            tracing::warn!("what Raft was doing with its log and state did not end in time");
        }
        inner.log.close().await;
        let state = Arc::clone(&inner.state);
        // Not needed for safety: it spares the next start to apply the end of the log again.
        match timeout(limit, inner.handle.spawn_blocking(move || state.flush())).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the state was not written out"),
            Ok(Err(_)) | Err(_) => tracing::warn!("the state was not written out in time"),
        }
        inner.runtime.stop(limit).await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stopped.cancel();
        // Before the fields go: then whoever drops this is the last to hold log and state.
        self.runtime.stop_now();
    }
}

impl Proposal {
    /// Waits until the operations are applied here.
    pub async fn wait(self) -> Result<Proposed, ProposeError> {
        match timeout(self.timeout, self.answer).await {
            Ok(Ok(Ok(response))) => {
                let (index, results) = (response.log_id.index, response.data);
                if results.len() != self.operations {
                    let message = format!("{} operations got {} answers", self.operations, results.len());
                    return Err(ProposeError::Fatal(message));
                }
                Ok(Proposed { index, results })
            }
            Ok(Ok(Err(error))) => Err(error.into()),
            // Raft went down with it, or has no majority.
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }
}

/// Whether this log may be gone on with under this number.
async fn claim(log: &RaftLog, raft_id: u64, started: bool) -> io::Result<()> {
    if started && log.head().owner.is_none() {
        let message = format!(
            "this peer has run as Raft number {raft_id} before, but its Raft log is gone, and with it how it voted; \
             remove the peer from the cluster, delete its data and let it join anew"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    log.claim(raft_id).await
}

fn open_machine(log: &LogStore, state: Arc<StateStore>, own_peer: PeerId) -> Result<StateMachine, OpenError> {
    let machine = StateMachine::open(state, own_peer)?;
    let applied = *machine.applied().borrow();
    if applied.index > 0 && log.is_empty() {
        // Its votes are gone with its log: it could vote twice in one term.
        let message =
            "there is a state but no Raft log: the log was lost, so this peer has to be removed and join anew";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message).into());
    }
    machine.cover(log.purged(), log.last())?;
    Ok(machine)
}
