//! The pin engine: walks what a pin holds, and fetches what is missing.
//!
//! ```text
//!  advance: the store visits what it has ──▶ missing CIDs ──▶ gather: peers, providers, gateways
//!      ▲                                                           │
//!      └──────────── links of what came ◀── store ◀── blocks ◀─────┘
//! ```
//! The frontier is the store's and durable: a walk that is cut, by its caller, an error or a crash, goes on where it was
//! when somebody asks for the pin again. *Pinned* means that every block was seen in the store and all of it is synced.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use cluster_blocks::{BlockStore, Mode, Next, Pin, State, Step, Walk};
use cluster_dag::{Block, DagError};
use cluster_ipfs::{Progress, ProgressSink};
use cluster_swarm::to_wire;
use futures::FutureExt as _;
use node_core::{Cid, ErrorClass};
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::error::Failure;
use crate::fetch::{Gather, GatherError, Got, WANTS_MAX};
use crate::inner::Inner;
use crate::{blocking, now};

/// How far a walk under way has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalkReport {
    /// The pin.
    pub cid: Cid,
    /// Blocks that were found or fetched, over all tries.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks that were fetched in this try.
    pub fetched: u64,
    /// Blocks that are being fetched now.
    pub in_flight: usize,
    /// How long this try has been running.
    pub running: std::time::Duration,
}

/// The walks under way.
#[derive(Default)]
pub(crate) struct Walks {
    running: Mutex<HashMap<Cid, Running>>,
}

#[derive(Default)]
struct Running {
    /// Held by the one that walks; others wait for it.
    turn: Arc<tokio::sync::Mutex<()>>,
    users: usize,
    seen: Option<Arc<Seen>>,
}

/// What a walk shows of itself.
struct Seen {
    begun: Instant,
    blocks: AtomicU64,
    bytes: AtomicU64,
    fetched: AtomicU64,
    in_flight: AtomicUsize,
}

impl Walks {
    /// Waits until nobody else walks this pin.
    async fn enter(self: &Arc<Self>, cid: Cid) -> Turn {
        let turn = {
            let mut running = self.running.lock();
            let entry = running.entry(cid).or_default();
            entry.users += 1;
            Arc::clone(&entry.turn)
        };
        let leave = Leave {
            walks: Arc::clone(self),
            cid,
        };
        let guard = turn.lock_owned().await;
        let seen = Arc::new(Seen {
            begun: Instant::now(),
            blocks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
        });
        if let Some(entry) = self.running.lock().get_mut(&cid) {
            entry.seen = Some(Arc::clone(&seen));
        }
        Turn {
            seen,
            _guard: guard,
            _leave: leave,
        }
    }

    pub(crate) fn report(&self) -> Vec<WalkReport> {
        let running = self.running.lock();
        let mut report: Vec<WalkReport> = running
            .iter()
            .filter_map(|(cid, running)| {
                let seen = running.seen.as_ref()?;
                Some(WalkReport {
                    cid: *cid,
                    blocks: seen.blocks.load(Ordering::Relaxed),
                    bytes: seen.bytes.load(Ordering::Relaxed),
                    fetched: seen.fetched.load(Ordering::Relaxed),
                    in_flight: seen.in_flight.load(Ordering::Relaxed),
                    running: seen.begun.elapsed(),
                })
            })
            .collect();
        report.sort_unstable_by_key(|walk| walk.cid);
        report
    }
}

/// The right to walk a pin.
struct Turn {
    seen: Arc<Seen>,
    // Dropped in this order: the turn is given on, then the entry goes when nobody waits for it.
    _guard: OwnedMutexGuard<()>,
    _leave: Leave,
}

struct Leave {
    walks: Arc<Walks>,
    cid: Cid,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let mut running = self.walks.running.lock();
        if let Some(entry) = running.get_mut(&self.cid) {
            entry.users -= 1;
            if entry.users == 0 {
                running.remove(&self.cid);
            }
        }
    }
}

/// A walk with the right to it. Calls of the store that were begun keep it alive until they end, though the future that
/// began them is dropped: the next one waits for that.
struct Held {
    walk: Walk,
    turn: Arc<Turn>,
}

/// Fetches and holds.
pub(crate) async fn pin(
    inner: &Arc<Inner>,
    cid: Cid,
    mode: Mode,
    name: &str,
    sink: ProgressSink<'_>,
) -> Result<Pin, Failure> {
    fetchable(&cid, mode)?;
    let turn = inner.walks.enter(cid).await;
    let pin = inner.store.pin_begin(cid, mode, name, now()).await?;
    finish(inner, pin, turn, sink).await
}

/// Goes on with a pin that is recorded and not complete; none when there is no such pin any more.
pub(crate) async fn resume(inner: &Arc<Inner>, cid: Cid, sink: ProgressSink<'_>) -> Result<Option<Pin>, Failure> {
    let turn = inner.walks.enter(cid).await;
    let store = inner.store.clone();
    match blocking(move || store.pin(&cid)).await? {
        Some(pin) => finish(inner, pin, turn, sink).await.map(Some),
        None => Ok(None),
    }
}

/// How often a walk begins anew within one call, when blocks that it has seen turn out to be corrupt.
const REWALKS_MAX: usize = 8;

async fn finish(inner: &Arc<Inner>, pin: Pin, turn: Turn, sink: ProgressSink<'_>) -> Result<Pin, Failure> {
    let turn = Arc::new(turn);
    let mut told = Told {
        sink,
        last: Progress::default(),
    };
    let (cid, mode, mut pin) = (pin.cid, pin.mode, pin);
    for _ in 0..=REWALKS_MAX {
        if pin.state == State::Complete {
            sink(progress(pin.progress));
            return Ok(pin);
        }
        match once(inner, &pin, &turn, &mut told).await {
            Ok(pin) => {
                sink(progress(pin.progress));
                inner.announce_soon(cid);
                return Ok(pin);
            }
            Err(Stop::Failed(failure)) => return Err(failure),
            Err(Stop::Ended) => {}
        }
        // A block was lost while it was walked, and the walk has to see it again; or somebody let go of the pin.
        let store = inner.store.clone();
        pin = match blocking(move || store.pin(&cid)).await? {
            Some(pin) if pin.mode == mode => pin,
            _ => {
                let words = format!("the pin of {cid} was removed or changed while its blocks were fetched");
                return Err(Failure::new(ErrorClass::Temporary, words));
            }
        };
    }
    let words = format!("blocks of {cid} were found to be corrupt again and again while it was walked");
    Err(Failure::new(ErrorClass::Temporary, words))
}

/// Why a walk stops short.
enum Stop {
    /// The store has ended it; the pin says what is left to do.
    Ended,
    /// It failed.
    Failed(Failure),
}

impl From<cluster_blocks::Error> for Stop {
    fn from(error: cluster_blocks::Error) -> Self {
        match error {
            cluster_blocks::Error::WalkEnded(_) => Self::Ended,
            error => Self::Failed(error.into()),
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<GatherError> for Stop {
    fn from(error: GatherError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<DagError> for Stop {
    fn from(error: DagError) -> Self {
        Self::Failed(error.into())
    }
}

/// One walk, up to its end.
async fn once(inner: &Arc<Inner>, pin: &Pin, turn: &Arc<Turn>, told: &mut Told<'_>) -> Result<Pin, Stop> {
    let (store, cid, turn) = (inner.store.clone(), pin.cid, Arc::clone(turn));
    let held = blocking(move || Ok(store.walk(&cid)?.map(|walk| Held { walk, turn }))).await?;
    // None: completed or removed in this very moment.
    let held = Arc::new(held.ok_or(Stop::Ended)?);
    // Of a depth-limited pin the last blocks need no links, so only the store can say which codecs it has to know.
    let mode = if pin.mode == Mode::Recursive {
        Mode::Recursive
    } else {
        Mode::Direct
    };
    let mut fresh = Fresh::default();
    tokio::select! {
        biased;
        () = inner.stop.cancelled() => Err(Stop::Failed(Failure::stopping())),
        walked = walk(inner, &held, mode, told, &mut fresh) => walked,
    }?;
    let pin = held.walk.finish(now()).await?;
    fresh.tell(inner, Vec::new()).await;
    Ok(pin)
}

fn progress(progress: cluster_blocks::Progress) -> Progress {
    Progress {
        blocks: progress.blocks,
        bytes: progress.bytes,
    }
}

/// Refuses what could never be verified.
pub(crate) fn verifiable(cid: &Cid) -> Result<(), DagError> {
    // What it says of no bytes tells whether it could verify any.
    match Block::new(*cid, bytes::Bytes::new()) {
        Err(error @ (DagError::UnknownHash { .. } | DagError::DigestLength { .. })) => Err(error),
        _ => Ok(()),
    }
}

/// Refuses what could never be verified or walked, before anybody is asked for it.
fn fetchable(cid: &Cid, mode: Mode) -> Result<(), DagError> {
    verifiable(cid)?;
    if matches!(mode, Mode::Direct | Mode::Depth(0)) {
        return Ok(());
    }
    match cluster_dag::links(cid, &[]) {
        Err(error @ DagError::UnknownCodec { .. }) => Err(error),
        _ => Ok(()),
    }
}

/// Tells the caller when there is more.
struct Told<'a> {
    sink: ProgressSink<'a>,
    last: Progress,
}

impl Told<'_> {
    /// Whether there was more.
    fn tell(&mut self, held: &Held) -> bool {
        let now = progress(held.walk.progress());
        let seen = &held.turn.seen;
        seen.blocks.store(now.blocks, Ordering::Relaxed);
        seen.bytes.store(now.bytes, Ordering::Relaxed);
        let more = now.is_beyond(self.last);
        if more {
            self.last = now;
            (self.sink)(now);
        }
        more
    }
}

/// Walks until all was seen.
async fn walk(
    inner: &Arc<Inner>,
    held: &Arc<Held>,
    mode: Mode,
    told: &mut Told<'_>,
    fresh: &mut Fresh,
) -> Result<(), Stop> {
    let cid = held.walk.cid();
    let in_flight_max = inner.config.fetch.blocks_in_flight;
    let mut gather: Option<Gather> = None;
    let mut look = true;
    loop {
        let free = gather
            .as_ref()
            .map_or(in_flight_max, |gather| room(gather, in_flight_max));
        let mut more_to_see = false;
        if look && free > 0 {
            let step = advance(held, free).await?;
            let moved = told.tell(held);
            if let (true, Some(gather)) = (moved, &mut gather) {
                gather.moved();
            }
            if !step.missing.is_empty() {
                inner.gate.enter().await?;
                for missing in &step.missing {
                    fetchable(missing, mode)?;
                }
                if gather.is_none() {
                    gather = Some(Gather::begin(&inner.network, cid, Vec::new()).await?);
                }
                if let Some(gather) = &mut gather {
                    gather.want(&step.missing).await?;
                }
            }
            match step.next {
                Next::Finish => return Ok(()),
                Next::Advance => more_to_see = true,
                Next::Wait => look = false,
            }
        }
        let Some(gather) = gather
            .as_mut()
            .filter(|gather| gather.wanted() > 0 || gather.has_ready())
        else {
            if !look {
                // The store waits for nobody and has not finished either: that would spin, or hang.
                let words = format!("the walk of {cid} waits for blocks that nobody fetches");
                return Err(Failure::new(ErrorClass::Temporary, words).into());
            }
            continue;
        };
        held.turn.seen.in_flight.store(gather.live(), Ordering::Relaxed);
        let got = if more_to_see && room(gather, in_flight_max) > 0 {
            // There is work at hand: what has come is taken on the way.
            match gather.next().now_or_never() {
                Some(got) => got?,
                None => continue,
            }
        } else {
            gather.next().await?
        };
        if got.is_empty() {
            continue;
        }
        // Also here: what was asked for while there was room may be more than there is room for now.
        inner.gate.enter().await?;
        take(inner, held, got, fresh).await?;
        told.tell(held);
        look = true;
    }
}

/// How many more may be wanted.
fn room(gather: &Gather, in_flight_max: usize) -> usize {
    let live = in_flight_max.saturating_sub(gather.live());
    live.min(WANTS_MAX.saturating_sub(gather.wanted()))
}

/// Lets the store visit what it has.
async fn advance(held: &Arc<Held>, missing_max: usize) -> Result<Step, Stop> {
    let held = Arc::clone(held);
    let step = tokio::task::spawn_blocking(move || held.walk.advance(missing_max)).await;
    Ok(step.map_err(Failure::from)??)
}

/// Blocks that were handed to the store and are to be told to the network: peers may wait for them. A batch is told when
/// the next one is handed in, for the store hands back before it has written; who asks a moment too early is told that
/// it is not there, and asks again by itself.
#[derive(Default)]
struct Fresh(Vec<(cluster_swarm::Cid, usize)>);

impl Fresh {
    async fn tell(&mut self, inner: &Inner, next: Vec<(cluster_swarm::Cid, usize)>) {
        let before = std::mem::replace(&mut self.0, next);
        if !before.is_empty() {
            // A swarm that is gone shows itself in the next call.
            let _ = inner.network.swarm.stored(before).await;
        }
    }
}

/// Hands what came to the store.
async fn take(inner: &Inner, held: &Held, got: Vec<Got>, fresh: &mut Fresh) -> Result<(), cluster_blocks::Error> {
    let (mut blocks, mut elsewhere) = (Vec::with_capacity(got.len()), Vec::new());
    let mut stored = Vec::with_capacity(got.len());
    let mut bytes = 0;
    for got in got {
        match got {
            Got::Block(block) => {
                bytes += block.bytes().len() as u64;
                stored.extend(to_wire(&block.cid()).map(|wire| (wire, block.bytes().len())));
                blocks.push(block);
            }
            Got::Held(cid) => elsewhere.push(cid),
        }
    }
    if !elsewhere.is_empty() {
        // They will be found in the store.
        held.walk.give_back(&elsewhere);
    }
    if blocks.is_empty() {
        return Ok(());
    }
    inner.gate.took(bytes);
    held.turn.seen.fetched.fetch_add(blocks.len() as u64, Ordering::Relaxed);
    held.walk.store(blocks).await?;
    fresh.tell(inner, stored).await;
    Ok(())
}

/// Looks whether a pin is there and complete.
pub(crate) async fn look_up(store: &BlockStore, cid: Cid) -> Result<Option<Pin>, Failure> {
    let store = store.clone();
    Ok(blocking(move || store.pin(&cid))
        .await?
        .filter(|pin| pin.state == State::Complete))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cid(codec: u8, hash: &[u8]) -> Cid {
        let mut binary = vec![1, codec];
        binary.extend(hash);
        Cid::from_bytes(&binary).expect("valid")
    }

    #[test]
    fn what_can_never_be_pinned_is_refused_and_named() {
        let sha = [&[0x12, 32][..], &[7; 32]].concat();
        let sha1 = [&[0x11, 20][..], &[7; 20]].concat();
        let short = [&[0x12, 4][..], &[7; 4]].concat();
        for codec in [0x55, 0x70, 0x71] {
            assert_eq!(fetchable(&cid(codec, &sha), Mode::Recursive), Ok(()));
        }
        let git = cid(0x78, &sha);
        let error = fetchable(&git, Mode::Recursive).expect_err("unknown").to_string();
        assert!(error.contains("git-raw"), "{error}");
        assert_eq!(fetchable(&git, Mode::Direct), Ok(()), "one block needs no links");
        for bad in [&sha1, &short] {
            assert!(fetchable(&cid(0x55, bad), Mode::Direct).is_err());
        }
        let inline = cid(0x55, &[0, 1, 7]);
        assert_eq!(fetchable(&inline, Mode::Recursive), Ok(()));
    }
}
