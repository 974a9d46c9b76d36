//! Drives one node: takes what is due, as fast as the node can and may.
//!
//! ```text
//! ledger queues ─▶ Queue (fresh, retry, unpin) ─▶ breaker, token, permit ─▶ attempt ─▶ Finished ─▶ permits, breaker
//!       ▲                                                                   │
//!       └──────────────────────── outcome, next due time ◀──────────────────┘
//! ```
//! Nodes share nothing but the ledger, so a node that hangs delays no other. The loop sleeps until an operation ends, a
//! hint arrives, or the earliest of due time, token and breaker; it never polls.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster_ipfs::IpfsNode;
use cluster_storage::ledger::Ledger;
use node_core::reconcile::Lane;
use node_core::{Cid, ErrorClass, NodeId};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::attempt::{self, Finished, Outcome};
use crate::flow::{Flow, Start};
use crate::gate::Gate;
use crate::live::LiveMap;
use crate::probe::Health;
use crate::queue::Queue;
use crate::{Clock, Kind, NodeSettings, Observer, WantedSource, WorkerConfig};

/// The longest sleep. Due times are of the wall clock, which can be set forward while the monotonic one sleeps.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Pause after a fault of our own, such as a ledger that can't be written: doing more would lose more.
const FAULT_PAUSE: Duration = Duration::from_secs(1);

/// Of this many pins begun while both queues have some, one is a repeated one.
const RETRY_SHARE: u32 = 4;

/// What all tasks of one node share.
pub(crate) struct Context {
    pub settings: NodeSettings,
    pub node: Arc<dyn IpfsNode>,
    pub config: Arc<WorkerConfig>,
    pub ledger: Arc<Ledger>,
    pub source: Arc<dyn WantedSource>,
    pub clock: Arc<dyn Clock>,
    pub observer: Arc<dyn Observer>,
    pub live: LiveMap,
    /// Permits of pins that the node works on.
    pub pins: Gate,
    /// Something may be due that was not, or the node answers again.
    pub hint: Notify,
    pub health: Mutex<Health>,
    pub flow: Mutex<Flow>,
    /// Ends everything at this node.
    pub cancel: CancellationToken,
    /// Seeds of jitter: the start, and how many were given out.
    pub seed: u64,
    pub seeds: AtomicU64,
}

impl Context {
    pub(crate) fn id(&self) -> NodeId {
        self.settings.id
    }

    /// The node answered while an operation goes on. What was held back until it does can begin.
    pub(crate) fn answered(&self) {
        if self.flow.lock().answered() {
            self.hint.notify_one();
        }
    }

    /// A number that differs from try to try, and is the same in a run with the same seed and order.
    pub(crate) fn seed(&self) -> u64 {
        let n = self.seeds.fetch_add(1, Ordering::Relaxed);
        // SplitMix64: neighbouring inputs give unrelated outputs.
        let mut z = self
            .seed
            .wrapping_add(n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

struct Driver {
    context: Arc<Context>,
    queues: HashMap<Lane, Queue>,
    /// CIDs being worked on, and the lane they were taken from.
    in_flight: HashMap<Cid, Lane>,
    /// How many of them per lane.
    busy: [usize; Lane::ALL.len()],
    tasks: JoinSet<Finished>,
    ids: HashMap<tokio::task::Id, Cid>,
    /// Until when nothing begins, after a fault of our own.
    paused_until: Option<Instant>,
    /// Pins begun from the fresh queue since the last one from the retry queue.
    fresh_in_row: u32,
}

/// Runs until the node is not driven any more. What runs then is cut off and stays queued.
pub(crate) async fn drive(context: Arc<Context>) {
    let cancel = context.cancel.clone();
    let mut driver = Driver::new(Arc::clone(&context));
    loop {
        driver.refill().await;
        let wait = driver.start();
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            Some(ended) = driver.tasks.join_next_with_id() => {
                driver.ended(ended);
                // All that ended meanwhile, before looking what can begin.
                while let Some(ended) = driver.tasks.try_join_next_with_id() {
                    driver.ended(ended);
                }
            }
            () = context.hint.notified() => driver.queues.values_mut().for_each(Queue::set_stale),
            () = tokio::time::sleep(wait) => {}
        }
    }
    // Each operation sees the cancellation by itself; waiting lets those that are writing their outcome finish.
    while let Some(ended) = driver.tasks.join_next_with_id().await {
        driver.ended(ended);
    }
}

impl Driver {
    fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            queues: Lane::ALL.map(|lane| (lane, Queue::new())).into(),
            in_flight: HashMap::new(),
            busy: [0; Lane::ALL.len()],
            tasks: JoinSet::new(),
            ids: HashMap::new(),
            paused_until: None,
            fresh_in_row: 0,
        }
    }

    /// Reads the queues that are nearly used up.
    async fn refill(&mut self) {
        let now = self.context.clock.now();
        for lane in Lane::ALL {
            let picks_max = self.context.config.picks_max.max(1);
            let Some(limit) = self.queue(lane).wants(now, picks_max) else {
                continue;
            };
            let (ledger, id) = (Arc::clone(&self.context.ledger), self.context.id());
            // What is here already is skipped; the sets are bounded by permits and by what is read at a time.
            let mut skip: HashSet<Cid> = self.in_flight.keys().copied().collect();
            skip.extend(self.queue(lane).iter());
            let read = tokio::task::spawn_blocking(move || ledger.due(id, lane, now, limit, |cid| skip.contains(cid)));
            match read.await {
                Ok(Ok(due)) => self.queue(lane).fill(due, limit),
                Ok(Err(error)) => self.fault(&error),
                Err(error) => self.fault(&error),
            }
        }
    }

    fn queue(&mut self, lane: Lane) -> &mut Queue {
        self.queues.entry(lane).or_insert_with(Queue::new)
    }

    /// Begins what can begin, and says how long to sleep if nothing happens.
    fn start(&mut self) -> Duration {
        let now = Instant::now();
        if let Some(until) = self.paused_until {
            if until > now {
                return until - now;
            }
            self.paused_until = None;
        }
        let unpins = self.start_unpins(now);
        let pins = self.start_pins(now);
        unpins.min(pins)
    }

    fn start_unpins(&mut self, now: Instant) -> Duration {
        let max = self.context.settings.unpin_concurrency.max(1) as usize;
        while self.busy[Lane::Unpin as usize] < max {
            if self.queue(Lane::Unpin).is_empty() {
                return self.until_due(Lane::Unpin);
            }
            let start = self.context.flow.lock().may_unpin(now);
            if let Start::After(wait) = start {
                return wait;
            }
            match self.pop(Lane::Unpin) {
                Some(cid) => self.spawn(cid, Lane::Unpin),
                None => self.context.flow.lock().give_back(Kind::Unpin),
            }
        }
        SLEEP_MAX
    }

    fn start_pins(&mut self, now: Instant) -> Duration {
        loop {
            let limit = self.context.pins.limit();
            // Twice the permits: one half works at the node, the other looks and notes down meanwhile, so that a permit
            // that becomes free is taken at once.
            if self.busy[Lane::Fresh as usize] + self.busy[Lane::Retry as usize] >= 2 * limit {
                return SLEEP_MAX;
            }
            let Some(lane) = self.choose(limit) else {
                return self.until_due(Lane::Fresh).min(self.until_due(Lane::Retry));
            };
            let start = self.context.flow.lock().may_pin(now);
            if let Start::After(wait) = start {
                return wait;
            }
            match self.pop(lane) {
                Some(cid) => {
                    self.fresh_in_row = if lane == Lane::Fresh {
                        self.fresh_in_row.saturating_add(1)
                    } else {
                        0
                    };
                    self.spawn(cid, lane);
                }
                None => self.context.flow.lock().give_back(Kind::Pin),
            }
        }
    }

    /// Fresh work goes first, but of every few pins one is a repeated one. Repeated ones hold at most half of the
    /// permits, because they are the ones that tend to stall.
    fn choose(&mut self, limit: usize) -> Option<Lane> {
        let retries = self.busy[Lane::Retry as usize];
        let fresh = !self.queue(Lane::Fresh).is_empty();
        let retry = !self.queue(Lane::Retry).is_empty() && retries < limit.div_ceil(2);
        match (fresh, retry) {
            (true, true) if self.fresh_in_row + 1 >= RETRY_SHARE => Some(Lane::Retry),
            (true, _) => Some(Lane::Fresh),
            (false, true) => Some(Lane::Retry),
            (false, false) => None,
        }
    }

    fn pop(&mut self, lane: Lane) -> Option<Cid> {
        let in_flight = &self.in_flight;
        self.queues.get_mut(&lane)?.pop(|cid| !in_flight.contains_key(cid))
    }

    /// How long until there may be something to begin from a queue. One that has something waits for a permit, which
    /// comes with the end of an operation and not with time.
    fn until_due(&self, lane: Lane) -> Duration {
        let next = self
            .queues
            .get(&lane)
            .filter(|queue| queue.is_empty())
            .and_then(Queue::next);
        next.map_or(SLEEP_MAX, |at| at.since(self.context.clock.now()).min(SLEEP_MAX))
    }

    fn spawn(&mut self, cid: Cid, lane: Lane) {
        let kind = if lane == Lane::Unpin { Kind::Unpin } else { Kind::Pin };
        let context = Arc::clone(&self.context);
        let running = context
            .live
            .enter(cid, kind, context.clock.now(), context.cancel.child_token());
        self.in_flight.insert(cid, lane);
        self.busy[lane as usize] += 1;
        let task = self.tasks.spawn(attempt::run(context, cid, running));
        self.ids.insert(task.id(), cid);
    }

    fn ended(&mut self, ended: Result<(tokio::task::Id, Finished), JoinError>) {
        let finished = match ended {
            Ok((id, finished)) => {
                self.ids.remove(&id);
                finished
            }
            Err(error) => {
                if let Some(cid) = self.ids.remove(&error.id()) {
                    self.release(&cid);
                }
                return self.fault(&error);
            }
        };
        self.release(&finished.cid);
        if let Some((lane, due)) = finished.waits {
            self.queue(lane).expect(due);
        }
        let now = Instant::now();
        match finished.outcome {
            Outcome::Done => self.flow(finished.kind, Ok(()), now),
            Outcome::Failed(class) => self.flow(finished.kind, Err(class), now),
            // It waits somewhere else now, or for somebody who asks for something else.
            Outcome::Moot | Outcome::Cut => {
                self.context.flow.lock().untried();
                self.queues.values_mut().for_each(Queue::set_stale);
            }
            Outcome::Ledger(error) => {
                self.queues.values_mut().for_each(Queue::set_stale);
                self.fault(&error);
            }
        }
    }

    fn release(&mut self, cid: &Cid) {
        if let Some(lane) = self.in_flight.remove(cid) {
            self.busy[lane as usize] -= 1;
        }
    }

    fn flow(&mut self, kind: Kind, outcome: Result<(), ErrorClass>, now: Instant) {
        let mut flow = self.context.flow.lock();
        let seed = self.context.seed();
        flow.ended(kind, outcome, now, seed);
        let limit = flow.concurrency();
        drop(flow);
        self.context.pins.set_limit(limit);
    }

    fn fault(&mut self, error: &dyn std::fmt::Display) {
        tracing::error!(node = %self.context.id(), %error, "the worker can't go on at this node, trying again soon");
        self.paused_until = Some(Instant::now() + FAULT_PAUSE);
        self.queues.values_mut().for_each(Queue::set_stale);
    }
}
