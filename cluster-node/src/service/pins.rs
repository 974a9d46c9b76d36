//! Pins: recording, removing, reading, explaining, recovering.

use std::sync::Arc;
use std::time::Duration;

use cluster_consensus::Consensus;
use cluster_proto::peer::v1::{ExplainPlacementRequest, RecoverEntriesRequest, Verdict};
use cluster_storage::state::StateDb;
use cluster_worker::{Clock, Worker};
use node_core::command::{Op, OpResult, PinOutcome, Pinned, Plan, Request};
use node_core::pinset::{self, Change, KvRead};
use node_core::{
    Cid, ErrorClass, NodeId, Pin, PinKey, PinOptions, Placement, Replication, RequestId, Status, Timestamp,
};
use tokio::sync::{Semaphore, mpsc};

use super::fleet::Wish;
use super::gather::Gather;
use super::list::{self, ListChunk, ListRequest};
use super::proposer::{Answer, WhenFull};
use super::reads::Shared;
use super::status::{Sources, StatusAllRequest, StatusChunk, name_of, status_all};
use super::{Error, FleetView, NodeFactory, NodeNames, PeerDirectory, PinView, Proposer, Reads, StatusView};

/// Lists that run at once on one peer. Each holds a thread and a few chunks.
const LISTS_MAX: usize = 64;

/// Chunks that wait for a client: one being sent and one on its way.
const CHUNKS_AHEAD: usize = 2;

/// Changes in one message of a watch.
const WATCH_CHUNK: usize = 1_000;

/// Peers that a recover or a scan is asked of wait so long.
const RECOVER_TIMEOUT: Duration = Duration::from_secs(10);

/// A pin to record.
#[derive(Debug, Clone)]
pub struct PinWish {
    /// Which pin.
    pub key: PinKey,
    /// Zeros in the replication stand for the cluster's default.
    pub options: PinOptions,
    /// Makes repetition safe.
    pub request_id: Option<RequestId>,
    /// Record it even when no node can take it now.
    pub allow_unplaced: bool,
}

/// A pin to make from another.
#[derive(Debug, Clone)]
pub struct UpdateWish {
    /// The pin whose options are taken over.
    pub from: PinKey,
    /// The pin to record.
    pub to: PinKey,
    /// Replaces the name when not empty.
    pub name: String,
    /// Replaces the expiry.
    pub expire_at: Option<Timestamp>,
    /// Remove the old pin in the same step.
    pub unpin_from: bool,
    /// Makes repetition safe.
    pub request_id: Option<RequestId>,
}

/// Which entries are re-armed.
#[derive(Debug, Clone, Default)]
pub struct RecoverFilter {
    /// Of this CID.
    pub cid: Option<Cid>,
    /// Of this node.
    pub node: Option<NodeId>,
    /// In these states; empty = given up and retrying.
    pub statuses: Vec<Status>,
    /// Whose last error is of this class.
    pub class: Option<ErrorClass>,
}

/// Why a CID is held where it is.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// Whether it is pinned.
    pub pinned: bool,
    /// One sentence.
    pub summary: String,
    /// Every node.
    pub verdicts: Vec<Verdict>,
}

/// The pins of the cluster, as this peer serves them.
pub struct Pins {
    /// The way into the log.
    pub proposer: Proposer,
    /// Reads of the state.
    pub reads: Reads,
    /// Names and settings.
    pub shared: Arc<Shared>,
    /// Other peers.
    pub directory: Arc<PeerDirectory>,
    /// What ledgers say.
    pub gather: Arc<Gather>,
    /// This peer's own worker.
    pub worker: Worker,
    /// Raft.
    pub consensus: Consensus,
    /// The leader's view of nodes.
    pub fleet: Arc<FleetView>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Daemons.
    pub nodes: Arc<NodeFactory>,
    lists: Arc<Semaphore>,
}

impl Pins {
    /// Wires the parts together.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        proposer: Proposer,
        reads: Reads,
        shared: Arc<Shared>,
        directory: Arc<PeerDirectory>,
        gather: Arc<Gather>,
        worker: Worker,
        consensus: Consensus,
        fleet: Arc<FleetView>,
        clock: Arc<dyn Clock>,
        nodes: Arc<NodeFactory>,
    ) -> Self {
        let lists = Arc::new(Semaphore::new(LISTS_MAX));
        Self {
            proposer,
            reads,
            shared,
            directory,
            gather,
            worker,
            consensus,
            fleet,
            clock,
            nodes,
            lists,
        }
    }

    /// The storage nodes by name, for answers.
    pub fn names(&self) -> NodeNames {
        self.shared.names()
    }

    /// The names to look a user's nodes up in: from a fresh read when any are named, because a node may have been added
    /// through another peer a moment ago.
    pub async fn names_for(&self, named: bool, wait: Duration) -> Result<NodeNames, Error> {
        if named {
            Ok(NodeNames::read(&*self.reads.linearizable(wait).await?)?)
        } else {
            Ok(self.names())
        }
    }

    /// Records a pin.
    pub async fn pin(&self, wish: PinWish, wait: Duration) -> Result<(PinOutcome, PinView), Error> {
        let (key, options) = (wish.key.clone(), wish.options.clone());
        let result = self.proposer.submit(request_of(wish), wait).await?;
        self.recorded(key, options, result)
    }

    /// Puts a pin into the queue without waiting for its answer. Waits for room.
    pub async fn pin_queued(&self, wish: PinWish, wait: Duration) -> Result<Answer, Error> {
        self.proposer.enqueue(request_of(wish), wait, WhenFull::Wait).await
    }

    fn recorded(&self, key: PinKey, options: PinOptions, result: OpResult) -> Result<(PinOutcome, PinView), Error> {
        let OpResult::Pinned(Pinned {
            outcome,
            created,
            modified,
            revision,
            nodes,
            everywhere,
            unplaced,
        }) = result
        else {
            return Err(Error::Internal(format!("a pin was answered with {result:?}")));
        };
        let default = self.shared.settings().replication;
        let replication = options.replication.resolve(default)?;
        let placement = Placement {
            cid: key.cid,
            mode: options.mode,
            replication: if everywhere {
                Replication::EVERYWHERE
            } else {
                replication
            },
            nodes,
            unplaced,
            pins: 1,
            origins: Vec::new(),
            updated_from: None,
            revision,
            changed: modified,
        };
        let options = PinOptions { replication, ..options };
        let pin = Pin {
            key,
            options,
            created,
            modified,
            revision,
        };
        Ok((
            outcome,
            PinView {
                pin,
                placement: Some(placement),
            },
        ))
    }

    /// Removes a pin.
    pub async fn unpin(&self, key: PinKey, request_id: Option<RequestId>, wait: Duration) -> Result<PinView, Error> {
        let request = Request {
            id: request_id,
            op: Op::RemovePin { key },
        };
        match self.proposer.submit(request, wait).await? {
            OpResult::Unpinned(pin) => Ok(PinView {
                pin: *pin,
                placement: None,
            }),
            other => Err(Error::Internal(format!("an unpin was answered with {other:?}"))),
        }
    }

    /// Makes a pin from another.
    pub async fn update(&self, wish: UpdateWish, wait: Duration) -> Result<(PinOutcome, PinView), Error> {
        let state = self.reads.linearizable(wait).await?;
        let source = pinset::pin(&*state, &wish.from)?;
        // Under a request ID the source may be gone because this very request removed it: the log knows, so let it say.
        let mut options = match (source, &wish.request_id) {
            (Some(source), _) => source.options,
            (None, Some(_)) => PinOptions::default(),
            (None, None) => return Err(not_pinned(&wish.from)),
        };
        if !wish.name.is_empty() {
            options.name = wish.name;
        }
        options.expire_at = wish.expire_at.or(options.expire_at);
        options.updated_from = Some(wish.from.cid);
        options.check()?;
        options.check_expiry(self.clock.now())?;
        let op = Op::PutPin {
            key: wish.to.clone(),
            options: options.clone(),
            plan: Plan::default(),
            from: Some(wish.from),
            unpin_from: wish.unpin_from,
        };
        let result = self
            .proposer
            .submit(
                Request {
                    id: wish.request_id,
                    op,
                },
                wait,
            )
            .await?;
        self.recorded(wish.to, options, result)
    }

    /// One pin.
    pub async fn get(&self, key: &PinKey, linearizable: bool, wait: Duration) -> Result<PinView, Error> {
        let state = self.reads.with(linearizable, wait).await?;
        let pin = pinset::pin(&*state, key)?.ok_or_else(|| not_pinned(key))?;
        let placement = pinset::placement(&*state, &key.cid)?;
        Ok(PinView { pin, placement })
    }

    /// Lists pins in chunks.
    pub async fn list(
        &self,
        request: ListRequest,
        linearizable: bool,
        wait: Duration,
    ) -> Result<mpsc::Receiver<Result<ListChunk, Error>>, Error> {
        let state = self.reads.with(linearizable, wait).await?;
        self.on_thread(move |out| {
            let mut emit = |chunk| out.blocking_send(Ok(chunk)).is_ok();
            let result = state.read_view(|kv| {
                if request.filter.cids.is_empty() {
                    list::list(kv, &request, &mut emit)
                } else {
                    list::list_cids(kv, &request, &mut emit)
                }
            });
            if let Err(error) = result {
                // Nobody listens any more: the caller went away.
                let _ = out.blocking_send(Err(error));
            }
        })
    }

    /// Runs a list on a thread of its own; it ends when nobody listens.
    fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(mpsc::Sender<Result<T, Error>>) + Send + 'static,
    ) -> Result<mpsc::Receiver<Result<T, Error>>, Error> {
        let slot = self.lists.clone().try_acquire_owned();
        let slot = slot.map_err(|_| Error::Overloaded {
            retry_after: Duration::from_secs(1),
        })?;
        let (out, chunks) = mpsc::channel(CHUNKS_AHEAD);
        tokio::task::spawn_blocking(move || {
            work(out);
            drop(slot);
        });
        Ok(chunks)
    }

    /// The status of one CID.
    pub async fn status(&self, cid: Cid, linearizable: bool, wait: Duration) -> Result<StatusView, Error> {
        let state = self.reads.with(linearizable, wait).await?;
        let placement = pinset::placement(&*state, &cid)?;
        let names = self.names();
        // Only who shall hold it is asked; for a CID that nobody wants any more, everybody.
        let drivers = match &placement {
            Some(placement) if !placement.replication.is_everywhere() => {
                placement.nodes.iter().filter_map(|node| names.driver(*node)).collect()
            }
            _ => names.present().map(|node| node.peer).collect(),
        };
        let (mut entries, silent) = self.gather.from(&names, drivers, vec![cid]).await?;
        let rows = entries.remove(&cid).unwrap_or_default();
        if placement.is_none() && rows.is_empty() {
            return Err(Error::not_found(format!(
                "{cid} is not pinned; `cluster-ctl pin add {cid}` pins it"
            )));
        }
        let name = name_of(&*state, &cid)?;
        let is_silent = |node| names.driver(node).is_some_and(|peer| silent.contains(&peer));
        Ok(StatusView::fold(
            cid,
            name,
            placement,
            rows,
            &names.everyone(),
            &is_silent,
        ))
    }

    /// The status of many CIDs, in chunks.
    pub fn status_all(&self, request: StatusAllRequest) -> Result<mpsc::Receiver<Result<StatusChunk, Error>>, Error> {
        let sources = Sources {
            state: self.reads.stale(),
            worker: self.worker.clone(),
            directory: self.directory.clone(),
            gather: self.gather.clone(),
            names: self.names(),
        };
        self.on_thread(move |out| status_all(&sources, &request, &out))
    }

    /// Streams changes after a revision until nobody listens.
    pub fn watch(&self, after: u64) -> Result<mpsc::Receiver<Result<Vec<Change>, Error>>, Error> {
        let header = pinset::header(&*self.reads.stale())?;
        let mut after = if after == 0 { header.revision } else { after };
        if after.saturating_add(1) < header.changes_from {
            return Err(Error::HistoryGone {
                asked: after,
                oldest: header.changes_from,
            });
        }
        let mut applied = self.consensus.applied();
        let reads = self.reads.clone();
        let (out, changes) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(async move {
            loop {
                applied.mark_unchanged();
                let state = reads.stale();
                // At most a chunk of rows that lie together: short enough for this thread.
                let next = read_changes(&state, after);
                let idle = matches!(&next, Ok(changes) if changes.is_empty());
                if !idle {
                    let failed = next.is_err();
                    if let Some(last) = next.as_ref().ok().and_then(|changes| changes.last()) {
                        after = last.revision;
                    }
                    if out.send(next).await.is_err() || failed {
                        return;
                    }
                    continue;
                }
                tokio::select! {
                    changed = applied.changed() => if changed.is_err() { return },
                    () = out.closed() => return,
                }
            }
        });
        Ok(changes)
    }

    /// Re-arms entries on all peers. Answers how many, and the nodes of peers that did not answer.
    pub async fn recover(&self, filter: &RecoverFilter) -> Result<(u64, Vec<NodeId>), Error> {
        let names = self.names();
        let nodes: Vec<_> = names
            .present()
            .filter(|node| filter.node.is_none_or(|wanted| node.id == wanted))
            .cloned()
            .collect();
        let mut drivers: Vec<_> = nodes.iter().map(|node| node.peer).collect();
        drivers.sort_unstable();
        drivers.dedup();
        let calls = drivers.into_iter().map(|peer| {
            let of_peer: Vec<NodeId> = nodes
                .iter()
                .filter(|node| node.peer == peer)
                .map(|node| node.id)
                .collect();
            async move { (self.recover_at(peer, filter, &of_peer).await, of_peer) }
        });
        let mut recovered = 0;
        let mut unreachable = Vec::new();
        for (result, of_peer) in futures::future::join_all(calls).await {
            match result {
                Ok(count) => recovered += count,
                Err(error) => {
                    tracing::warn!(%error, "a peer could not be asked to recover");
                    unreachable.extend(of_peer);
                }
            }
        }
        Ok((recovered, unreachable))
    }

    async fn recover_at(
        &self,
        peer: node_core::PeerId,
        filter: &RecoverFilter,
        nodes: &[NodeId],
    ) -> Result<u64, Error> {
        if peer == self.directory.own() {
            return self.recover_here(filter, nodes).await;
        }
        let code = |position: usize| u32::try_from(position + 1).unwrap_or_default();
        let mut call = tonic::Request::new(RecoverEntriesRequest {
            cid: filter.cid.map(|cid| cid.to_bytes().into()).unwrap_or_default(),
            nodes: nodes.iter().map(|node| node.0).collect(),
            statuses: filter.statuses.iter().map(|status| code(*status as usize)).collect(),
            error_class: filter.class.map_or(0, |class| code(class as usize)),
        });
        call.set_timeout(RECOVER_TIMEOUT);
        let mut link = self.directory.link(peer).await?;
        let answer = link
            .recover(call)
            .await
            .map_err(|status| Error::NoLeader(status.message().to_owned()))?;
        Ok(answer.into_inner().recovered)
    }

    /// Re-arms entries of this peer's own nodes.
    pub async fn recover_here(&self, filter: &RecoverFilter, nodes: &[NodeId]) -> Result<u64, Error> {
        let mut recovered = 0;
        for node in nodes {
            let recover = cluster_worker::Recover {
                node: Some(*node),
                cid: filter.cid,
                class: filter.class,
                statuses: filter.statuses.clone(),
            };
            recovered += self.worker.recover(recover).await.map_err(Error::Internal)?;
        }
        Ok(recovered)
    }

    /// Why a CID is held where it is, or where it would go. Asked of the leader, who has heard of the nodes.
    pub async fn explain(&self, cid: Cid, options: &PinOptions, wait: Duration) -> Result<Explanation, Error> {
        let state = self.reads.linearizable(wait).await?;
        let pinned = pinset::placement(&*state, &cid)?.is_some();
        let leader = self.consensus.leader();
        let answer = match leader.leader {
            Some(leader) if leader.peer.peer_id != self.directory.own() => {
                let mut link = self.directory.link(leader.peer.peer_id).await?;
                let mut call = tonic::Request::new(ExplainPlacementRequest {
                    cid: cid.to_bytes().into(),
                    replication_min: options.replication.min,
                    replication_max: options.replication.max,
                    preferred: options.nodes.iter().map(|node| node.0).collect(),
                });
                call.set_timeout(wait);
                let answer = link
                    .explain(call)
                    .await
                    .map_err(|status| Error::NoLeader(status.message().to_owned()))?;
                let answer = answer.into_inner();
                (answer.summary, answer.verdicts)
            }
            _ => self.explain_here(&*state, cid, options.replication, &options.nodes)?,
        };
        Ok(Explanation {
            pinned,
            summary: answer.0,
            verdicts: answer.1,
        })
    }

    /// The leader's own answer.
    pub fn explain_here(
        &self,
        kv: &dyn KvRead,
        cid: Cid,
        replication: Replication,
        preferred: &[NodeId],
    ) -> Result<(String, Vec<Verdict>), Error> {
        let names = self.names();
        let settings = self.shared.settings();
        let placement = pinset::placement(kv, &cid)?;
        let replication = match &placement {
            Some(placement) => placement.replication,
            None => replication.resolve(settings.replication)?,
        };
        if replication.is_everywhere() {
            let verdict = |node: &node_core::StorageNode| Verdict {
                node: node.id.0,
                name: node.name.clone(),
                chosen: true,
                rank: 0,
                score: 0.0,
                reason: "the pin is held everywhere".into(),
            };
            return Ok((
                "held by every node, present and future".into(),
                names.present().map(verdict).collect(),
            ));
        }
        let wish = Wish {
            cid: &cid,
            replication,
            placement: placement.as_ref(),
            preferred,
            spread_by: &settings.spread_by,
            allow_unplaced: true,
            holds: super::fleet::NOTHING_KNOWN,
        };
        let verdicts = self.fleet.explain(&names, &wish);
        let chosen = verdicts.iter().filter(|verdict| verdict.chosen).count();
        let Replication { min, max } = replication;
        let summary = match placement.as_ref().and_then(|placement| placement.unplaced.clone()) {
            Some(why) => format!("not placed: {why}"),
            None if chosen < usize::try_from(min).unwrap_or(0) => {
                format!("{chosen} of the {min} nodes needed can take it, so it would be refused")
            }
            None => format!("{chosen} nodes chosen; at least {min} and up to {max} are wanted"),
        };
        let verdicts = verdicts.into_iter().map(|verdict| Verdict {
            node: verdict.node.0,
            name: verdict.name,
            chosen: verdict.chosen,
            rank: u32::try_from(verdict.rank).unwrap_or(u32::MAX),
            score: verdict.score,
            reason: verdict.reason,
        });
        Ok((summary, verdicts.collect()))
    }
}

fn request_of(wish: PinWish) -> Request {
    // The marker travels in the plan, which the leader replaces by its own.
    let plan = Plan {
        unplaced: wish.allow_unplaced.then(String::new),
        ..Plan::default()
    };
    let op = Op::PutPin {
        key: wish.key,
        options: wish.options,
        plan,
        from: None,
        unpin_from: false,
    };
    Request {
        id: wish.request_id,
        op,
    }
}

fn read_changes(state: &StateDb, after: u64) -> Result<Vec<Change>, Error> {
    let changes = pinset::changes_after(state, after, WATCH_CHUNK)?;
    // A watcher that fell behind the kept history must not miss a change in silence.
    if let Some(first) = changes.first().filter(|first| first.revision > after + 1) {
        return Err(Error::HistoryGone {
            asked: after,
            oldest: first.revision,
        });
    }
    Ok(changes)
}

fn not_pinned(key: &PinKey) -> Error {
    let PinKey { namespace, cid, slot } = key;
    let slot = if slot.is_empty() {
        String::new()
    } else {
        format!(" under the slot {slot:?}")
    };
    Error::not_found(format!("{cid} is not pinned in the namespace {namespace}{slot}"))
}
