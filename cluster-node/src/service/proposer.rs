//! Brings operations into the log: batches them, plans them on the leader, hands them to the leader elsewhere.
//!
//! ```text
//! submit ─► queue of calls   ─┐
//!                             ├─► driver ─┬─ leader here: plan, one entry, several in flight ─► answers
//! streams ─► queue of streams ┘           └─ elsewhere: one call with many operations        ─► answers
//! ```
//!
//! Both queues are bounded by bytes. What somebody waits for at the moment comes first; a stream of a million pins fills
//! the rest of each batch, and never stands before a single call.
//!
//! What is certain not to have been done is tried again until its deadline. What may have been done is tried again
//! only under a request ID; without one the caller is told that the outcome is unknown. So is a caller whose time is up
//! while its operation is on its way: only what never left the queue is called not done.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_consensus::{Consensus, LeaderView, ProposeError};
use cluster_proto::peer::v1::{ForwardFailure, ForwardRequest, ForwardResponse, forward_failure::Kind};
use cluster_storage::state::StateStore;
use cluster_worker::Clock;
use node_core::command::{CommandBatch, Op, OpResult, Plan, Refusal, RefusalKind, Request};
use node_core::pinset::{self, KvError, KvRead, Step, Table};
use node_core::{PeerId, PinKey, PinOptions, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::Status;

use super::fleet::{NOTHING_KNOWN, Wish};
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
    /// Bytes of all operations that wait or are in flight: half for calls, half for streams.
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

/// Operations in each queue at most, however small they are.
const QUEUE_OPERATIONS_MAX: usize = 65_536;

/// Operations of streams that wait here at most. Enough to fill the next batches; a sender further ahead only waits in
/// another place.
const STREAM_OPERATIONS_MAX: usize = 8_192;

/// How often an operation whose plan no longer fitted is planned anew before the caller hears of it.
const CONFLICTS_MAX: u32 = 8;

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
    calls: Lane,
    streams: Lane,
    consensus: Consensus,
    shared: Arc<Shared>,
}

/// A queue with the room that its operations take until they are answered.
#[derive(Clone)]
struct Lane {
    queue: mpsc::Sender<Item>,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
}

impl Lane {
    fn new(bytes_max: usize, operations_max: usize) -> (Self, mpsc::Receiver<Item>) {
        let (queue, items) = mpsc::channel(operations_max);
        let lane = Self {
            queue,
            bytes: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
        };
        (lane, items)
    }

    fn queued_bytes(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes.available_permits())
    }
}

/// The driver's ends of both queues.
struct Incoming {
    calls: mpsc::Receiver<Item>,
    streams: mpsc::Receiver<Item>,
}

impl Incoming {
    /// The next operation, calls first; none when all proposers are gone.
    async fn next(&mut self) -> Option<Item> {
        tokio::select! {
            biased;
            item = self.calls.recv() => item,
            Some(item) = self.streams.recv() => Some(item),
        }
    }

    fn next_now(&mut self) -> Option<Item> {
        self.calls.try_recv().or_else(|_| self.streams.try_recv()).ok()
    }
}

/// Where an operation is, seen from its caller and from the driver at the same time. Whoever moves it first decides:
/// a caller that gave up in time is certain that nothing will be done.
#[derive(Clone)]
struct Stage(Arc<AtomicU8>);

impl Stage {
    const WAITING: u8 = 0;
    const UNDER_WAY: u8 = 1;
    const GIVEN_UP: u8 = 2;

    fn new() -> Self {
        Self(Arc::new(AtomicU8::new(Self::WAITING)))
    }

    fn moves(&self, from: u8, to: u8) -> Result<u8, u8> {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
    }

    /// The driver takes it up. False when its caller has given it up.
    fn take_up(&self) -> bool {
        self.moves(Self::WAITING, Self::UNDER_WAY) != Err(Self::GIVEN_UP)
    }

    /// It certainly was not done, and waits again.
    fn put_back(&self) {
        // It was under way, so nobody has given it up.
        let _ = self.moves(Self::UNDER_WAY, Self::WAITING);
    }

    /// The caller gives it up. False when that is too late.
    fn give_up(&self) -> bool {
        self.moves(Self::WAITING, Self::GIVEN_UP).is_ok()
    }
}

/// An answer on its way.
pub struct Answer {
    reply: oneshot::Receiver<Result<OpResult, Error>>,
    stage: Stage,
    deadline: Instant,
}

impl Answer {
    /// Waits for it, whatever the caller's deadline: for those who hold many and give each its own time.
    pub async fn wait(self) -> Result<OpResult, Error> {
        self.reply.await.unwrap_or(Err(Error::Stopping))
    }

    /// Waits for it until the caller's deadline.
    async fn wait_in_time(mut self, has_leader: impl Fn() -> bool) -> Result<OpResult, Error> {
        if let Ok(answer) = tokio::time::timeout_at(self.deadline.into(), &mut self.reply).await {
            return answer.unwrap_or(Err(Error::Stopping));
        }
        if !self.stage.give_up() {
            return Err(Error::Unknown("the time was up while it was written".into()));
        }
        Err(if has_leader() {
            Error::Deadline
        } else {
            Error::NoLeader("none was elected in time".into())
        })
    }
}

struct Item {
    request: Request,
    size: usize,
    /// How often it was put back into the queue.
    tries: u32,
    /// How often its plan no longer fitted.
    conflicts: u32,
    deadline: Instant,
    /// Another peer handed it over: it goes no further.
    handed_over: bool,
    /// An earlier try may have been carried out.
    uncertain: bool,
    stage: Stage,
    reply: oneshot::Sender<Result<OpResult, Error>>,
    /// Given back when the item is answered, so what is in flight counts too.
    _room: OwnedSemaphorePermit,
}

impl Item {
    fn answer(self, result: Result<OpResult, Error>) {
        let result = match result {
            // These say that nothing was done, which an earlier try makes doubtful.
            Err(error @ (Error::NoLeader(_) | Error::Deadline | Error::Overloaded { .. } | Error::Stopping))
                if self.uncertain =>
            {
                Err(Error::Unknown(format!(
                    "an earlier try may have been carried out, and then: {error}"
                )))
            }
            result => result,
        };
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
        let (calls, call_items) = Lane::new(limits.queue_bytes_max / 2, QUEUE_OPERATIONS_MAX);
        let (streams, stream_items) = Lane::new(limits.queue_bytes_max / 2, STREAM_OPERATIONS_MAX);
        let incoming = Incoming {
            calls: call_items,
            streams: stream_items,
        };
        let again = calls.queue.downgrade();
        let proposer = Self {
            calls,
            streams,
            consensus: consensus.clone(),
            shared: shared.clone(),
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
            again,
            flying: AtomicUsize::new(0),
        });
        tokio::spawn(driver.run(incoming, in_flight));
        proposer
    }

    /// Brings one operation into the log and waits for its answer.
    pub async fn submit(&self, request: Request, wait: Duration) -> Result<OpResult, Error> {
        let answer = self.enqueue(request, wait, WhenFull::Refuse).await?;
        match answer.wait_in_time(|| self.consensus.leader().leader.is_some()).await? {
            OpResult::Refused(refusal) => Err(Error::Refused(refusal)),
            result => Ok(result),
        }
    }

    /// Bytes of all operations that wait or are in flight.
    pub fn queued_bytes(&self) -> usize {
        self.calls.queued_bytes() + self.streams.queued_bytes()
    }

    /// Puts one operation into the queue. Operations of one caller are carried out in the order they were put in, as
    /// long as the leader stays.
    pub async fn enqueue(&self, request: Request, wait: Duration, when_full: WhenFull) -> Result<Answer, Error> {
        self.put(request, wait, when_full, false).await
    }

    async fn put(
        &self,
        request: Request,
        wait: Duration,
        when_full: WhenFull,
        handed_over: bool,
    ) -> Result<Answer, Error> {
        // Who waits for room is a stream; what another peer hands over was told apart there, and somebody may wait for it.
        let lane = if when_full == WhenFull::Wait && !handed_over {
            &self.streams
        } else {
            &self.calls
        };
        let size = size_of(&request.op);
        let permits = u32::try_from(size.min(lane.bytes_max)).unwrap_or(u32::MAX);
        let full = || {
            self.shared.metrics.proposal("overloaded", 1);
            Error::Overloaded {
                retry_after: Duration::from_millis(100),
            }
        };
        let room = match when_full {
            WhenFull::Refuse => lane.bytes.clone().try_acquire_many_owned(permits).map_err(|_| full())?,
            WhenFull::Wait => lane
                .bytes
                .clone()
                .acquire_many_owned(permits)
                .await
                .map_err(|_| Error::Stopping)?,
        };
        let (sender, reply) = oneshot::channel();
        let (stage, deadline) = (Stage::new(), Instant::now() + wait);
        let item = Item {
            request,
            size,
            tries: 0,
            conflicts: 0,
            deadline,
            handed_over,
            uncertain: false,
            stage: stage.clone(),
            reply: sender,
            _room: room,
        };
        match when_full {
            WhenFull::Refuse => lane.queue.try_send(item).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => full(),
                mpsc::error::TrySendError::Closed(_) => Error::Stopping,
            })?,
            WhenFull::Wait => lane.queue.send(item).await.map_err(|_| Error::Stopping)?,
        }
        Ok(Answer { reply, stage, deadline })
    }

    /// Takes operations that another peer hands over.
    pub async fn take_forwarded(&self, request: ForwardRequest) -> Result<ForwardResponse, Error> {
        let requests = pinset::decode_requests(&request.requests)?;
        let wait = Duration::from_millis(u64::from(request.deadline_ms));
        let mut answers = Vec::with_capacity(requests.len());
        let until = tokio::time::Instant::now() + wait;
        for request in requests {
            // The peer that hands over bounds what it takes; here its call waits for room, and with it its batches, so
            // that a stream through a follower is paced and not refused.
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let put = self.put(request, left, WhenFull::Wait, true);
            let answer = tokio::time::timeout_at(until, put).await;
            answers.push(answer.unwrap_or_else(|_| {
                Err(Error::Overloaded {
                    retry_after: Duration::from_millis(100),
                })
            }));
        }
        let mut results = Vec::with_capacity(answers.len());
        let mut failures = Vec::new();
        for (position, answer) in answers.into_iter().enumerate() {
            let result = match answer {
                Ok(answer) => answer.wait().await,
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
    async fn run(self: Arc<Self>, mut incoming: Incoming, in_flight: Arc<Semaphore>) {
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
            }) if item.conflicts < CONFLICTS_MAX => {
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
        let items: Vec<_> = items.into_iter().filter(|item| item.stage.take_up()).collect();
        if items.is_empty() {
            return;
        }
        let term = view.term;
        let Some(leader) = view.leader else {
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
        // Without a placement there is no pin of the CID, and the most frequent case costs no further look.
        let step = if placement.is_some() && pinset::pin(kv, key)?.is_some() {
            Step::Replace(key, options)
        } else {
            Step::Add(options)
        };
        let demand = pinset::demand(kv, &key.cid, placement.as_ref(), step)?;
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
            // Asking the ledgers would hold every pin up; who is to let go does so when the settling loop has asked.
            holds: NOTHING_KNOWN,
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
