//! Pins: recording, removing, reading, explaining, recovering.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cluster_consensus::Consensus;
use cluster_proto::peer::v1::{ExplainPlacementRequest, Verdict};
use cluster_worker::{Clock, Worker};
use node_core::command::{Op, OpResult, PinOutcome, Pinned, Plan, Request};
use node_core::pinset::{self, KvRead};
use node_core::{Cid, NodeId, PeerId, Pin, PinKey, PinOptions, Placement, Replication, RequestId, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::chunks::{ChunkSender, Chunks, chunks};
use super::compat_members::MemberCache;
use super::fleet::Wish;
use super::gather::{Gather, PEER_TIMEOUT};
use super::list::{self, ListChunk, ListRequest};
use super::member_views::IpfsCache;
use super::operate::COLLECTIONS_MAX;
use super::proposer::{Answer, WhenFull};
use super::reads::Shared;
use super::status::{Sources, StatusAllRequest, StatusChunk, name_of, status_all};
use super::{Error, FleetView, NodeFactory, NodeNames, PeerDirectory, PinView, Proposer, Reads, StatusView};

/// Lists that run at once on one peer. Each holds a thread and a few chunks.
const LISTS_MAX: usize = 64;

/// Pages that are read at once on one peer. Each holds a thread for some milliseconds, and about 3 MiB; more wait for their turn.
const PAGES_MAX: usize = 32;

/// Watches that run at once on one peer. Each holds a task and at most three chunks of changes, 200 KiB in all.
const WATCHES_MAX: usize = 1_024;

/// Bulk streams that run at once on one peer. Each holds up to 16,000 answers that are on their way; the operations
/// themselves are bounded by the proposer.
const BULKS_MAX: usize = 256;

/// How long a follower that has committed an operation waits until it has applied it too, to show it as recorded: apply
/// follows commit within a heartbeat or two.
const SHOW_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// Nodes that hold the content already: they are taken before others that are as good.
    pub held_by: Vec<NodeId>,
    /// When it was made, if that was in another cluster.
    pub created: Option<Timestamp>,
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
    pub(super) pages: Arc<Semaphore>,
    pub(super) watches: Arc<Semaphore>,
    bulks: Arc<Semaphore>,
    pub(super) collections: Arc<Semaphore>,
    pub(super) members: MemberCache,
    pub(super) ipfs: IpfsCache,
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
        let slots = |count| Arc::new(Semaphore::new(count));
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
            lists: slots(LISTS_MAX),
            pages: slots(PAGES_MAX),
            watches: slots(WATCHES_MAX),
            bulks: slots(BULKS_MAX),
            collections: slots(COLLECTIONS_MAX),
            members: MemberCache::default(),
            ipfs: IpfsCache::default(),
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
        let (key, options, is_named) = (wish.key.clone(), wish.options.clone(), wish.request_id.is_some());
        let result = self.proposer.submit(request_of(wish), wait).await?;
        self.recorded(key, options, result, is_named).await
    }

    /// Puts a pin into the queue without waiting for its answer. Waits for room.
    pub async fn pin_queued(&self, wish: PinWish, wait: Duration) -> Result<Answer, Error> {
        self.proposer.enqueue(request_of(wish), wait, WhenFull::Wait).await
    }

    /// The answer to a recorded pin. Without a request ID the options are those of the call. Under one the answer may be
    /// that of an earlier call with other options, so what is recorded is shown.
    pub(super) async fn recorded(
        &self,
        key: PinKey,
        options: PinOptions,
        result: OpResult,
        is_named: bool,
    ) -> Result<(PinOutcome, PinView), Error> {
        let OpResult::Pinned(pinned) = result else {
            return Err(Error::Internal(format!("a pin was answered with {result:?}")));
        };
        let outcome = pinned.outcome;
        if is_named && self.has_applied(pinned.revision).await {
            let state = self.reads.stale();
            let view = match pinset::pin(&*state, &key)? {
                Some(pin) => PinView {
                    pin,
                    placement: pinset::placement(&*state, &key.cid)?,
                },
                // Removed since: what the first answer told is all that is left of it.
                None => made_view(key, PinOptions::default(), pinned),
            };
            return Ok((outcome, view));
        }
        let replication = options.replication.resolve(self.shared.settings().replication)?;
        Ok((outcome, made_view(key, PinOptions { replication, ..options }, pinned)))
    }

    /// Waits until this peer has applied a revision, but not for long.
    async fn has_applied(&self, revision: u64) -> bool {
        let mut applied = self.consensus.applied();
        let applied = applied.wait_for(|applied| applied.revision >= revision);
        matches!(tokio::time::timeout(SHOW_TIMEOUT, applied).await, Ok(Ok(_)))
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
            created: None,
        };
        let is_named = wish.request_id.is_some();
        let request = Request {
            id: wish.request_id,
            op,
        };
        let result = self.proposer.submit(request, wait).await?;
        self.recorded(wish.to, options, result, is_named).await
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
    ) -> Result<Chunks<ListChunk>, Error> {
        let state = self.reads.with(linearizable, wait).await?;
        self.on_thread(move |mut out| {
            let mut emit = |chunk| out.send_blocking(Ok(chunk));
            let result = state.read_view(|kv| list::list(kv, &request, &mut emit));
            if let Err(error) = result {
                out.send_blocking(Err(error));
            }
        })
    }

    /// Runs a list on a thread of its own; it ends when nobody listens, or reads.
    fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(ChunkSender<T>) + Send + 'static,
    ) -> Result<Chunks<T>, Error> {
        let slot = slot_of(&self.lists)?;
        let (out, chunks) = chunks();
        tokio::task::spawn_blocking(move || {
            work(out);
            drop(slot);
        });
        Ok(chunks)
    }

    /// A place for one more bulk stream, given back when it is dropped.
    pub fn bulk_slot(&self) -> Result<OwnedSemaphorePermit, Error> {
        slot_of(&self.bulks)
    }

    /// The status of one CID.
    pub async fn status(&self, cid: Cid, linearizable: bool, wait: Duration) -> Result<StatusView, Error> {
        let names = self.names();
        let mut silent = BTreeSet::new();
        // What the drivers hold is no part of the replicated state, so they are asked while the state is made sure of,
        // by where it last said that they are: mostly that is still so.
        let guessed = drivers(&names, pinset::placement(&*self.reads.stale(), &cid)?.as_ref());
        let asked = [cid];
        let (state, gathered) = tokio::join!(
            self.reads.with(linearizable, wait),
            self.gather
                .from(&names, guessed.clone(), &asked, PEER_TIMEOUT, &mut silent)
        );
        let (state, mut entries) = (state?, gathered?);
        let placement = pinset::placement(&*state, &cid)?;
        let names = self.names();
        let drivers = drivers(&names, placement.as_ref());
        if drivers != guessed {
            silent.clear();
            entries = self
                .gather
                .from(&names, drivers, &[cid], PEER_TIMEOUT, &mut silent)
                .await?;
        }
        let rows = entries.remove(&cid).unwrap_or_default();
        if placement.is_none() && rows.is_empty() {
            return Err(Error::not_found(format!(
                "{cid} is not pinned; `cluster-ctl pin add {cid}` pins it"
            )));
        }
        let name = name_of(&*state, &cid, None)?;
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
    pub fn status_all(&self, request: StatusAllRequest) -> Result<Chunks<StatusChunk>, Error> {
        self.status_of(request, self.names())
    }

    /// The same of these nodes alone; no others are asked.
    pub(super) fn status_of(&self, request: StatusAllRequest, names: NodeNames) -> Result<Chunks<StatusChunk>, Error> {
        let sources = Sources {
            state: self.reads.stale(),
            worker: self.worker.clone(),
            directory: self.directory.clone(),
            gather: self.gather.clone(),
            names,
        };
        self.on_thread(move |out| status_all(&sources, &request, out))
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

/// Whom to ask about a CID: only who shall hold it; for one that nobody wants any more, everybody.
fn drivers(names: &NodeNames, placement: Option<&Placement>) -> BTreeSet<PeerId> {
    match placement {
        Some(placement) if !placement.replication.is_everywhere() => {
            placement.nodes.iter().filter_map(|node| names.driver(*node)).collect()
        }
        _ => names.present().map(|node| node.peer).collect(),
    }
}

fn request_of(wish: PinWish) -> Request {
    // What is wished travels in the plan, which the leader replaces by its own.
    let plan = Plan {
        unplaced: wish.allow_unplaced.then(String::new),
        nodes: wish.held_by,
        based_on: 0,
    };
    let op = Op::PutPin {
        key: wish.key,
        options: wish.options,
        plan,
        from: None,
        unpin_from: false,
        created: wish.created,
    };
    Request {
        id: wish.request_id,
        op,
    }
}

fn made_view(key: PinKey, options: PinOptions, pinned: Pinned) -> PinView {
    let Pinned {
        outcome: _,
        created,
        ordinal,
        modified,
        revision,
        nodes,
        everywhere,
        unplaced,
    } = pinned;
    let placement = Placement {
        cid: key.cid,
        mode: options.mode,
        replication: if everywhere {
            Replication::EVERYWHERE
        } else {
            options.replication
        },
        nodes,
        unplaced,
        pins: 1,
        origins: Vec::new(),
        updated_from: None,
        revision,
        changed: modified,
    };
    PinView {
        pin: Pin {
            key,
            options,
            created,
            ordinal,
            modified,
            revision,
        },
        placement: Some(placement),
    }
}

/// One of a bounded number of places, or the hint to come again: they are taken by streams, which last.
pub(super) fn slot_of(slots: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Error> {
    let slot = slots.clone().try_acquire_owned();
    slot.map_err(|_| Error::Overloaded {
        retry_after: Duration::from_secs(1),
    })
}

pub(super) fn not_pinned(key: &PinKey) -> Error {
    let PinKey { namespace, cid, slot } = key;
    let slot = if slot.is_empty() {
        String::new()
    } else {
        format!(" under the slot {slot:?}")
    };
    Error::not_found(format!("{cid} is not pinned in the namespace {namespace}{slot}"))
}
