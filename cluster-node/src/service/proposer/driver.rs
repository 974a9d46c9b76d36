//! What becomes of the queues: batches, that are proposed on the leader and handed over elsewhere, and what follows from
//! how that ended.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_consensus::{Consensus, LeaderView, ProposeError};
use cluster_proto::peer::v1::{ForwardRequest, forward_failure::Kind};
use cluster_storage::state::StateStore;
use cluster_worker::Clock;
use node_core::command::{CommandBatch, Op, OpResult, Refusal, RefusalKind, Request};
use node_core::{PeerId, Timestamp, pinset};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

use super::{CONFLICTS_MAX, Incoming, Item, ProposerLimits};
use crate::service::{Error, FleetView, PeerDirectory, reads::Shared};

/// Whether a call failed before anything of it left this peer: no connection could be made. A connection that was lost says
/// nothing, also where it has the same code.
fn was_never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Whether another try would be another operation: what the leader adds is made anew. What the caller made, of what it has
/// read, is for the caller to make anew.
fn is_planned(op: &Op) -> bool {
    !matches!(op, Op::PutSettings { .. })
}

/// Takes operations from the queues until the last proposer goes.
pub(super) struct Driver {
    pub(super) limits: ProposerLimits,
    pub(super) consensus: Consensus,
    pub(super) state: Arc<StateStore>,
    pub(super) fleet: Arc<FleetView>,
    pub(super) directory: Arc<PeerDirectory>,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) again: mpsc::WeakSender<Item>,
    pub(super) flying: AtomicUsize,
}

impl Driver {
    pub(super) async fn run(self: Arc<Self>, mut incoming: Incoming, in_flight: Arc<Semaphore>) {
        let mut last_time = Timestamp::ZERO;
        loop {
            // The slot first: while all are taken, operations gather and the next batch is the larger for it.
            let Ok(slot) = in_flight.clone().acquire_owned().await else {
                return;
            };
            let Some(batch) = self.collect(&mut incoming).await else {
                return;
            };
            let Some((batch, leader)) = self.wait_for_leader(batch).await else {
                continue;
            };
            let driver = self.clone();
            let batch: Vec<_> = if leader.is_self {
                batch
            } else {
                // A batch that two peers hand to and fro would go on until its deadline: whoever handed it over asks
                // again where the leader is now.
                let (handed_over, own): (Vec<_>, Vec<_>) = batch.into_iter().partition(|item| item.handed_over);
                for item in handed_over {
                    item.answer(Err(Error::NoLeader("the peer asked does not lead any more".into())));
                }
                own
            };
            if batch.is_empty() {
                continue;
            }
            if leader.is_self {
                self.fleet.lead(leader.term);
                last_time = last_time.max(self.clock.now());
                self.propose(batch, last_time, slot).await;
            } else {
                self.flying.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    driver.forward(batch, leader).await;
                    driver.flying.fetch_sub(1, Ordering::Relaxed);
                    drop(slot);
                });
            }
        }
    }

    /// The next batch: at once when nothing is in flight, otherwise when it is full or has waited long enough.
    async fn collect(&self, incoming: &mut Incoming) -> Option<Vec<Item>> {
        let first = incoming.next().await?;
        let mut bytes = first.size;
        let mut batch = vec![first];
        let full = |batch: &Vec<Item>, bytes: usize| {
            batch.len() >= self.limits.operations_max || bytes >= self.limits.bytes_max
        };
        let until = tokio::time::Instant::now() + self.limits.linger;
        while !full(&batch, bytes) {
            let next = match incoming.next_now() {
                Some(item) => Some(item),
                None if self.flying.load(Ordering::Relaxed) == 0 => break,
                None => tokio::time::timeout_at(until, incoming.next()).await.ok().flatten(),
            };
            let Some(item) = next else { break };
            bytes += item.size;
            batch.push(item);
        }
        Some(batch)
    }

    /// Waits until somebody leads; answers what can't wait so long.
    async fn wait_for_leader(&self, mut batch: Vec<Item>) -> Option<(Vec<Item>, LeaderView)> {
        let mut view = self.consensus.watch_leader();
        loop {
            let now = Instant::now();
            let (alive, late): (Vec<_>, Vec<_>) = batch.into_iter().partition(|item| item.deadline > now);
            for item in late {
                // It waited here for a leader, or came too late: either way it was not done.
                let error = if item.tries == 0 && view.borrow().leader.is_some() {
                    Error::Deadline
                } else {
                    Error::NoLeader("none was elected in time".into())
                };
                item.answer(Err(error));
            }
            batch = alive;
            let until = batch.iter().map(|item| item.deadline).min()?;
            let leader = view.borrow_and_update().clone();
            if leader.is_self || leader.leader.is_some() {
                return Some((batch, leader));
            }
            if let Ok(Err(_)) = tokio::time::timeout_at(until.into(), view.changed()).await {
                for item in batch {
                    item.answer(Err(Error::Stopping));
                }
                return None;
            }
        }
    }

    async fn propose(self: &Arc<Self>, batch: Vec<Item>, time: Timestamp, slot: OwnedSemaphorePermit) {
        let mut items = Vec::with_capacity(batch.len());
        let mut requests = Vec::with_capacity(batch.len());
        for item in batch.into_iter().filter(|item| item.stage.take_up()) {
            match self.planned(&item.request) {
                Ok(Ok(request)) => {
                    requests.push(request);
                    items.push(item);
                }
                Ok(Err(refusal)) => {
                    self.shared.metrics.proposal("refused", 1);
                    item.answer(Ok(OpResult::Refused(refusal)));
                }
                Err(error) => item.answer(Err(error.into())),
            }
        }
        if items.is_empty() {
            return;
        }
        let count = items.len();
        let bytes = Bytes::from(CommandBatch { time, requests }.encode());
        self.flying.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        // Submitting in order here keeps the order of operations; only the waiting happens elsewhere.
        let proposal = self.consensus.submit(bytes, count).await;
        let driver = self.clone();
        tokio::spawn(async move {
            let outcome = match proposal {
                Ok(proposal) => proposal.wait().await,
                Err(error) => Err(error),
            };
            driver.flying.fetch_sub(1, Ordering::Relaxed);
            drop(slot);
            match outcome {
                Ok(proposed) => {
                    driver.shared.metrics.committed(count, begun.elapsed());
                    driver.shared.metrics.proposal("committed", count);
                    for (item, result) in items.into_iter().zip(proposed.results) {
                        driver.answer(item, result);
                    }
                }
                Err(error) => driver.failed(items, error),
            }
        });
    }

    fn answer(&self, mut item: Item, result: OpResult) {
        match &result {
            OpResult::Refused(Refusal {
                kind: RefusalKind::Conflict,
                ..
            }) if item.conflicts < CONFLICTS_MAX && is_planned(&item.request.op) => {
                item.conflicts += 1;
                self.repeat(item);
            }
            _ => item.answer(Ok(result)),
        }
    }

    fn failed(self: &Arc<Self>, items: Vec<Item>, error: ProposeError) {
        let outcome = match &error {
            ProposeError::NotLeader { .. } => "not_leader",
            ProposeError::Unknown => "unknown",
            ProposeError::Overloaded => "overloaded",
            ProposeError::TooLarge { .. } | ProposeError::Fatal(_) => "failed",
        };
        self.shared.metrics.proposal(outcome, items.len());
        if matches!(error, ProposeError::NotLeader { .. }) {
            // Not at once: a leader that has lost its majority for a moment goes on refusing, and a loop without a pause
            // would take the time that its heartbeats need.
            return self.not_sent_later(items);
        }
        for item in items {
            match &error {
                ProposeError::Unknown if item.is_repeatable() => self.repeat(Item {
                    uncertain: true,
                    ..item
                }),
                ProposeError::Unknown => {
                    item.answer(Err(Error::Unknown("the leader changed while it was written".into())));
                }
                ProposeError::Overloaded => {
                    item.answer(Err(Error::Overloaded {
                        retry_after: Duration::from_millis(200),
                    }));
                }
                ProposeError::NotLeader { .. } => self.repeat(item),
                ProposeError::TooLarge { .. } => item.answer(Err(Error::Internal(error.to_string()))),
                ProposeError::Fatal(reason) => item.answer(Err(Error::Internal(reason.clone()))),
            }
        }
    }

    /// Puts an item back into the queue, unless its time is up or the queue is full.
    fn repeat(&self, mut item: Item) {
        item.tries += 1;
        if !item.uncertain {
            item.stage.put_back();
        }
        if item.deadline <= Instant::now() {
            return item.answer(Err(Error::NoLeader("none was elected in time".into())));
        }
        let Some(queue) = self.again.upgrade() else {
            return item.answer(Err(Error::Stopping));
        };
        if let Err(error) = queue.try_send(item) {
            let item = match error {
                mpsc::error::TrySendError::Full(item) | mpsc::error::TrySendError::Closed(item) => item,
            };
            item.answer(Err(Error::Overloaded {
                retry_after: Duration::from_millis(100),
            }));
        }
    }

    async fn forward(self: &Arc<Self>, items: Vec<Item>, view: LeaderView) {
        let term = view.term;
        let Some(leader) = view.leader else {
            return self.failed(items, ProposeError::NotLeader { leader: None });
        };
        let peer: PeerId = leader.peer.peer_id;
        let mut link = match self.directory.link_at(peer, &leader.peer.addresses).await {
            Ok(link) => link,
            Err(_) => return self.not_sent(items).await,
        };
        // Only now: who gives up while the leader is looked for is certain that nothing was done.
        let items: Vec<_> = items.into_iter().filter(|item| item.stage.take_up()).collect();
        if items.is_empty() {
            return;
        }
        let requests: Vec<Request> = items.iter().map(|item| item.request.clone()).collect();
        let wait = items
            .iter()
            .map(|item| item.deadline)
            .max()
            .unwrap_or_else(Instant::now);
        let wait = wait.saturating_duration_since(Instant::now());
        let mut call = tonic::Request::new(ForwardRequest {
            requests: pinset::encode_requests(&requests).into(),
            deadline_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        });
        call.set_timeout(wait + Duration::from_millis(500));
        // A leader that hangs must not hold what another one could do by now.
        let mut views = self.consensus.watch_leader();
        let superseded = views.wait_for(|now| now.term > term && (now.is_self || now.leader.is_some()));
        let answer = tokio::select! {
            answer = link.forward(call) => answer,
            _ = superseded => Err(Status::unknown("another leader was elected meanwhile")),
        };
        let response = match answer {
            Ok(response) => response.into_inner(),
            Err(status) if was_never_sent(&status) => return self.not_sent(items).await,
            Err(status) => {
                tracing::debug!(peer = %peer, error = %status, "the leader's answer to handed over operations was lost");
                return self.failed(items, ProposeError::Unknown);
            }
        };
        let results = match pinset::decode_results(&response.answers) {
            Ok(results) if results.len() == items.len() => results,
            _ => return self.failed(items, ProposeError::Unknown),
        };
        self.shared.metrics.proposal("forwarded", items.len());
        let mut failures = response.failures.into_iter().peekable();
        let mut not_led = Vec::new();
        for (position, (item, result)) in items.into_iter().zip(results).enumerate() {
            match failures.next_if(|failure| failure.position as usize == position) {
                None => item.answer(Ok(result)),
                Some(failure) => match failure.kind() {
                    Kind::NoLeader => not_led.push(item),
                    Kind::Unknown if item.is_repeatable() => self.repeat(Item {
                        uncertain: true,
                        ..item
                    }),
                    Kind::Unknown => item.answer(Err(Error::Unknown(failure.message))),
                    Kind::Overloaded => {
                        item.answer(Err(Error::Overloaded {
                            retry_after: Duration::from_millis(100),
                        }));
                    }
                    Kind::Deadline => item.answer(Err(Error::Deadline)),
                    Kind::Internal | Kind::Unspecified => item.answer(Err(Error::Internal(failure.message))),
                },
            }
        }
        if !not_led.is_empty() {
            self.not_sent(not_led).await;
        }
    }

    /// The same on a task of its own.
    fn not_sent_later(self: &Arc<Self>, items: Vec<Item>) {
        let driver = self.clone();
        tokio::spawn(async move { driver.not_sent(items).await });
    }

    /// The leader can't be reached or does not lead any more: waits a moment for another to be elected, and tries again.
    async fn not_sent(&self, items: Vec<Item>) {
        // Before the wait: whoever gives up in it is certain that nothing was done.
        for item in items.iter().filter(|item| !item.uncertain) {
            item.stage.put_back_leaderless();
        }
        let mut view = self.consensus.watch_leader();
        view.mark_unchanged();
        // Not longer than an election takes: the same leader may be reachable again without any change.
        let _ = tokio::time::timeout(Duration::from_millis(50), view.changed()).await;
        for item in items {
            self.repeat(item);
        }
    }
}
