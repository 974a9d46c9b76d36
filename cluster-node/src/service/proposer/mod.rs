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

mod driver;
mod planner;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cluster_consensus::Consensus;
use cluster_proto::peer::v1::{ForwardFailure, ForwardRequest, ForwardResponse, forward_failure::Kind};
use cluster_storage::state::StateStore;
use cluster_worker::Clock;
use node_core::command::{Op, OpResult, Request};
use node_core::pinset;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Error, FleetView, PeerDirectory, reads::Shared};
use driver::Driver;

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
            in_flight_max: 2,
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
    ended: CancellationToken,
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
    /// Waiting, because the last try reached no leader.
    const LEADERLESS: u8 = 3;

    fn new() -> Self {
        Self(Arc::new(AtomicU8::new(Self::WAITING)))
    }

    /// Moves on, and answers where it was; none where `next` lets it stay.
    fn moves(&self, next: impl Fn(u8) -> Option<u8>) -> Option<u8> {
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).ok()
    }

    /// The driver takes it up. False when its caller has given it up.
    fn take_up(&self) -> bool {
        self.moves(|now| (now != Self::GIVEN_UP).then_some(Self::UNDER_WAY))
            .is_some()
    }

    /// It certainly was not done, and waits again.
    fn put_back(&self) {
        self.moves(|now| (now == Self::UNDER_WAY).then_some(Self::WAITING));
    }

    /// The same, for want of a leader.
    fn put_back_leaderless(&self) {
        self.moves(|now| (now != Self::GIVEN_UP).then_some(Self::LEADERLESS));
    }

    /// The caller gives it up, and learns what it waited for. None when it is too late for that.
    fn give_up(&self) -> Option<WaitedFor> {
        let was = self.moves(|now| matches!(now, Self::WAITING | Self::LEADERLESS).then_some(Self::GIVEN_UP))?;
        Some(if was == Self::LEADERLESS {
            WaitedFor::Leader
        } else {
            WaitedFor::Turn
        })
    }
}

/// What an operation waited for that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitedFor {
    Turn,
    Leader,
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
        // A follower goes on naming a leader that is gone, so what counts is whether the last try reached one.
        Err(match self.stage.give_up() {
            None => Error::Unknown("the time was up while it was written".into()),
            Some(WaitedFor::Turn) if has_leader() => Error::Deadline,
            Some(_) => Error::NoLeader("none was elected in time".into()),
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
                Op::Place { .. } | Op::Release { .. } | Op::Expire { .. } | Op::UpdatePeer { .. }
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
            ended: CancellationToken::new(),
        };
        // Also when it panics.
        let ended = proposer.ended.clone().drop_guard();
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
        tokio::spawn(async move {
            let _ended = ended;
            driver.run(incoming, in_flight).await;
        });
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

    /// Ends when no operation is taken from the queues any more: the last proposer is gone, or the driver panicked. Holds
    /// no proposer.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.ended.clone().cancelled_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_became_of_is_told_from_what_something_may_have() {
        let stage = Stage::new();
        assert!(stage.take_up());
        assert_eq!(stage.give_up(), None, "it may be done any moment");
        stage.put_back();
        assert_eq!(stage.give_up(), Some(WaitedFor::Turn));
        assert!(!stage.take_up(), "its caller counts on its not being done");

        let stage = Stage::new();
        stage.put_back_leaderless();
        stage.put_back();
        assert!(stage.take_up());
        stage.put_back_leaderless();
        assert_eq!(stage.give_up(), Some(WaitedFor::Leader));
        stage.put_back_leaderless();
        assert!(!stage.take_up());
    }
}
