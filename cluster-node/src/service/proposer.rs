//! Brings operations into the log: batches them, plans them on the leader, hands them to the leader elsewhere.
//!
//! ```text
//! submit ─► queue (bounded by bytes) ─► driver ─┬─ leader here: plan, one entry, several in flight ─► answers
//!                                               └─ elsewhere: one call with many operations        ─► answers
//! ```
//!
//! What is certain not to have been done is tried again until its deadline. What may have been done is tried again
//! only under a request ID; without one the caller is told that the outcome is unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_consensus::{Consensus, LeaderView, ProposeError};
use cluster_proto::peer::v1::{ForwardFailure, ForwardRequest, ForwardResponse, forward_failure::Kind};
use cluster_storage::state::StateStore;
use cluster_worker::Clock;
use node_core::command::{CommandBatch, Op, OpResult, Plan, Refusal, RefusalKind, Request};
use node_core::pinset::{self, KvError, KvRead, Table};
use node_core::{PeerId, PinKey, PinOptions, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::Code;

use super::fleet::Wish;
use super::{Error, FleetView, PeerDirectory, reads::Shared};

/// Bounds of the queue and of a batch.
#[derive(Debug, Clone)]
pub struct ProposerLimits {
    /// Operations of one entry.
    pub operations_max: usize,
    /// Bytes of one entry, about.
    pub bytes_max: usize,
    /// How long a batch waits for more while others are in flight.
    pub linger: Duration,
    /// Bytes of all operations that wait or are in flight.
    pub queue_bytes_max: usize,
    /// Batches in flight.
    pub in_flight_max: usize,
}

impl Default for ProposerLimits {
    fn default() -> Self {
        Self {
            operations_max: 1_024,
            bytes_max: 512 << 10,
            linger: Duration::from_millis(2),
            queue_bytes_max: 64 << 20,
            in_flight_max: 8,
        }
    }
}

/// Operations in the queue at most, however small they are.
const QUEUE_OPERATIONS_MAX: usize = 65_536;

/// How often an operation whose plan no longer fitted is planned anew before the caller hears of it.
const TRIES_MAX: u32 = 8;

/// What a full queue does with one more operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuse it with a hint when to try again.
    Refuse,
    /// Let the caller wait: for streams, whose sender then waits too.
    Wait,
}

/// The way into the log.
#[derive(Clone)]
pub struct Proposer {
    queue: mpsc::Sender<Item>,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
}

/// An answer on its way.
pub type Answer = oneshot::Receiver<Result<OpResult, Error>>;

struct Item {
    request: Request,
    size: usize,
    tries: u32,
    deadline: Instant,
    reply: oneshot::Sender<Result<OpResult, Error>>,
    /// Given back when the item is answered, so what is in flight counts too.
    _room: OwnedSemaphorePermit,
}

impl Item {
    fn answer(self, result: Result<OpResult, Error>) {
        // Nobody waits any more: the caller went away.
        let _ = self.reply.send(result);
    }

    /// Whether doing it twice is the same as doing it once.
    fn is_repeatable(&self) -> bool {
        self.request.id.is_some()
            || matches!(
                self.request.op,
                Op::Place { .. } | Op::Expire { .. } | Op::UpdatePeer { .. }
            )
    }
}

impl Proposer {
    /// Starts the driver on the current runtime.
    pub fn start(
        limits: ProposerLimits,
        consensus: Consensus,
        state: Arc<StateStore>,
        fleet: Arc<FleetView>,
        directory: Arc<PeerDirectory>,
        shared: Arc<Shared>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (queue, items) = mpsc::channel(QUEUE_OPERATIONS_MAX);
        let bytes_max = limits.queue_bytes_max;
        let proposer = Self {
            queue: queue.clone(),
            bytes: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
        };
        let in_flight = Arc::new(Semaphore::new(limits.in_flight_max));
        let driver = Arc::new(Driver {
            limits,
            consensus,
            state,
            fleet,
            directory,
            shared,
            clock,
            // Weak, so that the driver ends when the last proposer goes.
            again: queue.downgrade(),
            flying: AtomicUsize::new(0),
        });
        tokio::spawn(driver.run(items, in_flight));
        proposer
    }

    /// Brings one operation into the log and waits for its answer.
    pub async fn submit(&self, request: Request, wait: Duration) -> Result<OpResult, Error> {
        let answer = self.enqueue(request, wait, WhenFull::Refuse).await?;
        match answer.await {
            Ok(Ok(OpResult::Refused(refusal))) => Err(Error::Refused(refusal)),
            Ok(result) => result,
            Err(_) => Err(Error::Stopping),
        }
    }

    /// Puts one operation into the queue. Operations of one caller are carried out in the order they were put in, as
    /// long as the leader stays.
    pub async fn enqueue(&self, request: Request, wait: Duration, when_full: WhenFull) -> Result<Answer, Error> {
        let size = size_of(&request.op);
        let permits = u32::try_from(size.min(self.bytes_max)).unwrap_or(u32::MAX);
        let full = || Error::Overloaded {
            retry_after: Duration::from_millis(100),
        };
        let room = match when_full {
            WhenFull::Refuse => self.bytes.clone().try_acquire_many_owned(permits).map_err(|_| full())?,
            WhenFull::Wait => self
                .bytes
                .clone()
                .acquire_many_owned(permits)
                .await
                .map_err(|_| Error::Stopping)?,
        };
        let (reply, answer) = oneshot::channel();
        let item = Item {
            request,
            size,
            tries: 0,
            deadline: Instant::now() + wait,
            reply,
            _room: room,
        };
        match when_full {
            WhenFull::Refuse => self.queue.try_send(item).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => full(),
                mpsc::error::TrySendError::Closed(_) => Error::Stopping,
            })?,
            WhenFull::Wait => self.queue.send(item).await.map_err(|_| Error::Stopping)?,
        }
        Ok(answer)
    }

    /// Takes operations that another peer hands over.
    pub async fn take_forwarded(&self, request: ForwardRequest) -> Result<ForwardResponse, Error> {
        let requests = pinset::decode_requests(&request.requests)?;
        let wait = Duration::from_millis(u64::from(request.deadline_ms));
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            answers.push(self.enqueue(request, wait, WhenFull::Refuse).await);
        }
        let mut results = Vec::with_capacity(answers.len());
        let mut failures = Vec::new();
        for (position, answer) in answers.into_iter().enumerate() {
            let result = match answer {
                Ok(answer) => answer.await.unwrap_or(Err(Error::Stopping)),
                Err(error) => Err(error),
            };
            results.push(result.unwrap_or_else(|error| {
                let position = u32::try_from(position).unwrap_or(u32::MAX);
                let kind = failure_kind(&error);
                failures.push(ForwardFailure {
                    position,
                    kind: kind.into(),
                    message: error.to_string(),
                });
                OpResult::Done
            }));
        }
        Ok(ForwardResponse {
            answers: pinset::encode_results(&results).into(),
            failures,
        })
    }
}

fn failure_kind(error: &Error) -> Kind {
    match error {
        Error::NoLeader(_) | Error::Stopping => Kind::NoLeader,
        Error::Overloaded { .. } => Kind::Overloaded,
        Error::Deadline => Kind::Deadline,
        Error::Unknown(_) => Kind::Unknown,
        _ => Kind::Internal,
    }
}

/// About what an operation takes in the log, for the bounds. Texts dominate; the rest is below the constant.
fn size_of(op: &Op) -> usize {
    const REST: usize = 160;
    REST + match op {
        Op::PutPin { key, options, .. } => {
            let metadata: usize = options
                .metadata
                .iter()
                .map(|(key, value)| key.len() + value.len() + 8)
                .sum();
            let origins: usize = options.origins.iter().map(|origin| origin.len() + 4).sum();
            key.slot.len() + options.name.len() + metadata + origins + 4 * options.nodes.len()
        }
        _ => 512,
    }
}

struct Driver {
    limits: ProposerLimits,
    consensus: Consensus,
    state: Arc<StateStore>,
    fleet: Arc<FleetView>,
    directory: Arc<PeerDirectory>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    again: mpsc::WeakSender<Item>,
    flying: AtomicUsize,
}

impl Driver {
    async fn run(self: Arc<Self>, mut items: mpsc::Receiver<Item>, in_flight: Arc<Semaphore>) {
        let mut last_time = Timestamp::ZERO;
        loop {
            // The slot first: while all are taken, operations gather and the next batch is the larger for it.
            let Ok(slot) = in_flight.clone().acquire_owned().await else {
                return;
            };
            let Some(batch) = self.collect(&mut items).await else {
                return;
            };
            let Some((batch, leader)) = self.wait_for_leader(batch).await else {
                continue;
            };
            let driver = self.clone();
            if leader.is_self {
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
    async fn collect(&self, items: &mut mpsc::Receiver<Item>) -> Option<Vec<Item>> {
        let first = items.recv().await?;
        let mut bytes = first.size;
        let mut batch = vec![first];
        let full = |batch: &Vec<Item>, bytes: usize| {
            batch.len() >= self.limits.operations_max || bytes >= self.limits.bytes_max
        };
        let until = tokio::time::Instant::now() + self.limits.linger;
        while !full(&batch, bytes) {
            let next = match items.try_recv() {
                Ok(item) => Some(item),
                Err(_) if self.flying.load(Ordering::Relaxed) == 0 => break,
                Err(_) => tokio::time::timeout_at(until, items.recv()).await.ok().flatten(),
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
        for item in batch {
            match self.planned(&item.request) {
                Ok(Ok(request)) => {
                    requests.push(request);
                    items.push(item);
                }
                Ok(Err(refusal)) => item.answer(Ok(OpResult::Refused(refusal))),
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
            }) if item.tries < TRIES_MAX => {
                item.tries += 1;
                self.repeat(item);
            }
            _ => item.answer(Ok(result)),
        }
    }

    fn failed(&self, items: Vec<Item>, error: ProposeError) {
        let outcome = match &error {
            ProposeError::NotLeader { .. } => "not_leader",
            ProposeError::Unknown => "unknown",
            ProposeError::Overloaded => "overloaded",
            ProposeError::TooLarge { .. } | ProposeError::Fatal(_) => "failed",
        };
        self.shared.metrics.proposal(outcome, items.len());
        for item in items {
            match &error {
                ProposeError::NotLeader { .. } => self.repeat(item),
                ProposeError::Unknown if item.is_repeatable() => self.repeat(item),
                ProposeError::Unknown => {
                    item.answer(Err(Error::Unknown("the leader changed while it was written".into())));
                }
                ProposeError::Overloaded => {
                    item.answer(Err(Error::Overloaded {
                        retry_after: Duration::from_millis(200),
                    }));
                }
                ProposeError::TooLarge { .. } => item.answer(Err(Error::Internal(error.to_string()))),
                ProposeError::Fatal(reason) => item.answer(Err(Error::Internal(reason.clone()))),
            }
        }
    }

    /// Puts an item back into the queue, unless its time is up or the queue is full.
    fn repeat(&self, mut item: Item) {
        item.tries += 1;
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

    async fn forward(&self, items: Vec<Item>, leader: LeaderView) {
        let Some(leader) = leader.leader else {
            return self.failed(items, ProposeError::NotLeader { leader: None });
        };
        let peer: PeerId = leader.peer.peer_id;
        let mut link = match self.directory.link_at(peer, &leader.peer.addresses).await {
            Ok(link) => link,
            Err(_) => return self.not_sent(items).await,
        };
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
        let response = match link.forward(call).await {
            Ok(response) => response.into_inner(),
            // Only a connection that was never made is answered with this code without details.
            Err(status) if status.code() == Code::Unavailable => return self.not_sent(items).await,
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
        for (position, (item, result)) in items.into_iter().zip(results).enumerate() {
            match failures.next_if(|failure| failure.position as usize == position) {
                None => item.answer(Ok(result)),
                Some(failure) => match failure.kind() {
                    Kind::NoLeader => self.repeat(item),
                    Kind::Unknown if item.is_repeatable() => self.repeat(item),
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
    }

    /// The leader can't be reached: waits a moment for another to be elected, and tries again.
    async fn not_sent(&self, items: Vec<Item>) {
        let mut view = self.consensus.watch_leader();
        view.mark_unchanged();
        // Not longer than an election takes: the same leader may be reachable again without any change.
        let _ = tokio::time::timeout(Duration::from_millis(50), view.changed()).await;
        for item in items {
            self.repeat(item);
        }
    }

    /// Fills in what only the leader decides. The inner error is a refusal that needs no entry.
    fn planned(&self, request: &Request) -> Result<Result<Request, Refusal>, KvError> {
        let state = self.state.current();
        let kv: &dyn KvRead = &*state;
        let op = match &request.op {
            Op::PutPin {
                key,
                options,
                plan,
                from,
                unpin_from,
            } => {
                let mut options = options.clone();
                options.replication = match options.replication.resolve(self.shared.settings().replication) {
                    Ok(replication) => replication,
                    Err(invalid) => return Ok(Err(Refusal::new(RefusalKind::Invalid, invalid.to_string()))),
                };
                let plan = match self.plan(kv, key, &options, plan.unplaced.is_some(), from.as_ref())? {
                    Ok(plan) => plan,
                    Err(refusal) => match self.known_anyway(kv, request, key, &options)? {
                        Some(plan) => plan,
                        None => return Ok(Err(refusal)),
                    },
                };
                Op::PutPin {
                    key: key.clone(),
                    options,
                    plan,
                    from: from.clone(),
                    unpin_from: *unpin_from,
                }
            }
            other => other.clone(),
        };
        Ok(Ok(Request {
            id: request.id.clone(),
            op,
        }))
    }

    fn plan(
        &self,
        kv: &dyn KvRead,
        key: &PinKey,
        options: &PinOptions,
        allow_unplaced: bool,
        from: Option<&PinKey>,
    ) -> Result<Result<Plan, Refusal>, KvError> {
        let placement = pinset::placement(kv, &key.cid)?;
        let demand = pinset::demand(kv, &key.cid, placement.as_ref(), Some((key, options)), None)?;
        let mut preferred = options.nodes.clone();
        if let Some(from) = from {
            // Where the old content is, most of the new one's blocks are.
            let source = pinset::placement(kv, &from.cid)?;
            preferred.extend(source.map(|source| source.nodes).unwrap_or_default());
        }
        let settings = self.shared.settings();
        let wish = Wish {
            cid: &key.cid,
            replication: demand.replication,
            placement: placement.as_ref(),
            preferred: &preferred,
            spread_by: &settings.spread_by,
            allow_unplaced,
        };
        Ok(self.fleet.plan(&self.shared.names(), &wish))
    }

    /// What can't be placed now may have been recorded before: the same pin, or the same request. Then the entry only
    /// confirms it.
    fn known_anyway(
        &self,
        kv: &dyn KvRead,
        request: &Request,
        key: &PinKey,
        options: &PinOptions,
    ) -> Result<Option<Plan>, KvError> {
        let repeated = match &request.id {
            Some(id) => kv.get(Table::Requests, id.as_str().as_bytes())?.is_some(),
            None => false,
        };
        let same = pinset::pin(kv, key)?.is_some_and(|pin| pin.options == *options);
        if !repeated && !same {
            return Ok(None);
        }
        let placement = pinset::placement(kv, &key.cid)?;
        Ok(Some(placement.map_or_else(Plan::default, |placement| Plan {
            based_on: placement.revision,
            nodes: placement.nodes,
            unplaced: placement.unplaced,
        })))
    }
}
