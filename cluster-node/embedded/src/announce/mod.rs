//! Announcing: tells the DHT what this node has, evenly spread, and goes on after a restart.

mod news;
mod schedule;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster_blocks::State;
use cluster_swarm::{DhtError, to_wire};
use futures::StreamExt as _;
use node_core::{Cid, Invalid, Timestamp};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use self::news::News;
use self::schedule::{Round, rows_for};
use crate::config::between;
use crate::error::Failure;
use crate::inner::Inner;
use crate::{blocking, now};

/// The note that says where the round stands.
const NOTE: &str = "embedded.announce";

/// Announcements under way at a time, at most. Each asks some twenty peers.
pub const CONCURRENT_MAX: usize = 64;

/// New pins that wait to be announced at once. What does not fit is looked for among all pins afterwards.
pub(crate) const FRESH_MAX: usize = 1_024;

/// Pause when there is nobody to tell.
const NOBODY_PAUSE: Duration = Duration::from_secs(10);

/// Pause when the network takes no more at the moment.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// Pause when the store can't be read. To end would let everything announced be forgotten.
const FAILED_PAUSE: Duration = Duration::from_secs(60);

/// How often it is looked whether more came, while nothing is due: that makes the next one due earlier.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Pins read at a time, for those of them that are to be announced: rows of a few hundred bytes.
const ROWS_MAX: usize = 256;

/// How often the position is written down: what was announced since is announced again after a crash.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// What is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The roots of pins: who looks for the rest comes by the root. One node manages some ten thousand in a day.
    #[default]
    Roots,
    /// Every block. For few blocks only.
    All,
    /// Nothing: for clusters whose nodes are found otherwise.
    None,
}

/// How it is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnnounceConfig {
    /// What.
    pub strategy: Strategy,
    /// How often each is told. The DHT forgets after 48 hours; Kubo tells after 22.
    pub interval: Duration,
    /// How many are told at a time, 1 to [`CONCURRENT_MAX`].
    pub concurrent: usize,
}

impl Default for AnnounceConfig {
    fn default() -> Self {
        Self {
            strategy: Strategy::Roots,
            interval: Duration::from_secs(22 * 3600),
            concurrent: 8,
        }
    }
}

impl AnnounceConfig {
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(30 * 24 * 3600));
        between("announce.interval", self.interval, min, max)?;
        if !(1..=CONCURRENT_MAX).contains(&self.concurrent) {
            return Err(Invalid::new(
                "announce.concurrent",
                self.concurrent.to_string(),
                "give 1 to 64",
            ));
        }
        Ok(())
    }
}

/// How announcing gets on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnnounceReport {
    /// When the present round began; zero before the first.
    pub begun: Timestamp,
    /// How many there were then, or since then if those were more.
    pub total: u64,
    /// How many of them it has dealt with.
    pub done: u64,
    /// How many of those nobody could be told of.
    pub failed: u64,
    /// How many are overdue.
    pub behind: u64,
    /// For how long the next one has been due.
    pub late: Duration,
    /// New pins that wait to be told.
    pub fresh: usize,
    /// Announcements that succeeded since the start.
    pub told: u64,
    /// Why the last one did not; empty when it did.
    pub problem: String,
}

#[derive(Default)]
pub(crate) struct Announcer {
    state: Mutex<(Round, AnnounceReport)>,
}

impl Announcer {
    pub(crate) fn report(&self, inner: &Inner) -> AnnounceReport {
        let (now, interval) = (now(), inner.config.announce.interval);
        let state = self.state.lock();
        let (round, report) = &*state;
        AnnounceReport {
            begun: Timestamp::from_millis(round.begun_at),
            total: round.total,
            done: round.done,
            failed: round.failed,
            behind: round.behind(now, interval),
            late: round.late(now, interval),
            fresh: inner.fresh.max_capacity() - inner.fresh.capacity(),
            ..report.clone()
        }
    }
}

/// What came of one announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Yes,
    No,
    /// Later, after this pause.
    Wait(Duration),
    Closed,
}

/// Announces until the node ends: new pins at once, and all of them in their rounds.
pub(crate) async fn run(inner: Arc<Inner>, fresh: mpsc::Receiver<Cid>) {
    if inner.config.announce.strategy == Strategy::None || !inner.network.dht {
        return;
    }
    tokio::join!(rounds(&inner), at_once(&inner, fresh));
}

/// New pins: somebody may be waiting for them.
async fn at_once(inner: &Inner, fresh: mpsc::Receiver<Cid>) {
    let news = futures::stream::unfold(News::begin(inner, fresh).await, |mut news| async move {
        Some((news.next().await?, news))
    });
    let told = news.for_each_concurrent(inner.config.announce.concurrent, |cid| async move {
        while let Told::Wait(pause) = one(inner, cid).await {
            sleep(pause).await;
        }
    });
    tokio::select! {
        () = inner.stop.cancelled() => {}
        () = told => {}
    }
}

async fn rounds(inner: &Arc<Inner>) {
    let interval = inner.config.announce.interval;
    let mut round: Round = noted(inner, NOTE)
        .await
        .unwrap_or_else(|| Round::begin(now(), total(inner)));
    let (mut saved, mut saved_at) = (round.clone(), Instant::now());
    loop {
        let total = total(inner);
        if round.is_over(now(), interval) || round.is_outgrown(total) {
            round = Round::begin(now(), total);
        }
        round.settle(now());
        round.grow(total);
        inner.announcer.state.lock().0 = round.clone();
        let told = tokio::select! {
            biased;
            () = inner.stop.cancelled() => return save(inner, NOTE, Some(&round)).await,
            told = due(inner, &mut round) => told.unwrap_or_else(|failure| {
                tracing::warn!(reason = failure.words, "what is to be announced can't be read");
                Told::Wait(FAILED_PAUSE)
            }),
        };
        match told {
            Told::Closed => return,
            Told::Wait(pause) => tokio::select! {
                () = inner.stop.cancelled() => {}
                () = sleep(pause) => {}
            },
            Told::Yes | Told::No => {}
        }
        if saved_at.elapsed() >= SAVE_EVERY && saved != round {
            save(inner, NOTE, Some(&round)).await;
            (saved, saved_at) = (round.clone(), Instant::now());
        }
    }
}

/// What was written down; none, too, when it can't be read: it begins anew then.
async fn noted<T: DeserializeOwned>(inner: &Inner, name: &'static str) -> Option<T> {
    let store = inner.store.clone();
    let noted = blocking(move || store.note(name)).await;
    let noted = noted.unwrap_or_else(|failure| {
        tracing::warn!(
            name,
            reason = failure.words,
            "where announcing stood is not known: it begins anew"
        );
        None
    });
    serde_json::from_slice(&noted?).ok()
}

/// Writes down where it stands. What fails costs some announcements twice after a restart, and a store that takes no
/// writes makes itself heard elsewhere.
async fn save<T: Serialize>(inner: &Inner, name: &'static str, value: Option<&T>) {
    let value = value.and_then(|value| serde_json::to_vec(value).ok());
    if let Err(error) = inner.store.set_note(name, value.map(Bytes::from)).await {
        tracing::debug!(name, %error, "where announcing stands is not written down");
    }
}

fn total(inner: &Inner) -> u64 {
    let usage = inner.store.usage();
    match inner.config.announce.strategy {
        Strategy::Roots => usage.pins.saturating_sub(usage.walking),
        Strategy::All => usage.blocks,
        Strategy::None => 0,
    }
}

/// Announces what of the round is due; when nothing is, says how long to wait at most. The round moves on only behind what
/// was dealt with, so being dropped repeats some of it at worst.
async fn due(inner: &Arc<Inner>, round: &mut Round) -> Result<Told, Failure> {
    let config = inner.config.announce;
    let wait = round.wait(now(), config.interval);
    if !wait.is_zero() || round.ended {
        return Ok(Told::Wait(wait.min(LOOK_EVERY)));
    }
    let count = round.side_by_side(now(), config.interval, config.concurrent);
    let after = Cid::from_bytes(&round.position).ok();
    let (next, ended) = following(inner, after, count).await?;
    let told = futures::future::join_all(
        next.iter()
            .map(|(cid, wanted)| async move { if *wanted { one(inner, *cid).await } else { Told::Yes } }),
    )
    .await;
    for ((cid, wanted), told) in next.iter().zip(&told) {
        match told {
            Told::Yes | Told::No if *wanted => round.passed(cid.to_bytes(), *told == Told::Yes),
            Told::Yes | Told::No => round.skipped(cid.to_bytes()),
            wait_or_closed => return Ok(*wait_or_closed),
        }
    }
    round.ended = ended;
    Ok(Told::Yes)
}

/// The next ones in the order of the store, each with whether it is to be announced, and whether those are the last. As
/// many of them are to be announced as asked for, unless there are many between them that are not: were rows counted and
/// not those, a round among many unfinished pins would tell one at a time, however late it is.
async fn following(inner: &Inner, after: Option<Cid>, count: usize) -> Result<(Vec<(Cid, bool)>, bool), Failure> {
    let store = inner.store.clone();
    let all = inner.config.announce.strategy == Strategy::All;
    let limit = if all { count } else { count.max(ROWS_MAX) };
    let mut next: Vec<(Cid, bool)> = blocking(move || {
        Ok(if all {
            let blocks = store.blocks(after.as_ref(), limit)?;
            blocks.into_iter().map(|(cid, _)| (cid, true)).collect()
        } else {
            let pins = store.pins(after.as_ref(), limit)?;
            pins.into_iter()
                .map(|pin| (pin.cid, pin.state == State::Complete))
                .collect()
        })
    })
    .await?;
    let taken = rows_for(next.iter().map(|(_, wanted)| *wanted), count);
    let ended = next.len() < limit && taken == next.len();
    next.truncate(taken);
    Ok((next, ended))
}

/// Announces one.
async fn one(inner: &Inner, cid: Cid) -> Told {
    // Identity CIDs of long digests: who has the CID has the block.
    let Some(wire) = to_wire(&cid) else {
        return Told::Yes;
    };
    if inner.denied.contains(&cid) {
        return Told::Yes;
    }
    let (told, problem) = match inner.network.swarm.provide(wire).await {
        Ok(0) => (Told::No, "nobody took it".to_owned()),
        Ok(_) => (Told::Yes, String::new()),
        Err(error) => {
            let told = match error {
                DhtError::Closed(_) | DhtError::Off => Told::Closed,
                DhtError::NoPeers => Told::Wait(NOBODY_PAUSE),
                DhtError::Busy(_) => Told::Wait(BUSY_PAUSE),
                DhtError::Timeout => Told::No,
            };
            (told, error.to_string())
        }
    };
    tracing::debug!(%cid, ?told, problem, "announced");
    let mut state = inner.announcer.state.lock();
    state.1.told += u64::from(told == Told::Yes);
    state.1.problem = problem;
    told
}
