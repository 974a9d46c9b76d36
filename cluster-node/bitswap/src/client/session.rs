//! A fetch: what it wants, whom it may ask, how it is getting on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use cid::Cid;

use crate::api::{Peer, Served, SessionReport};
use crate::client::ClientConfig;

/// Size of a block before any has come, in bytes: what most adders cut files into.
const AVERAGE_START: f64 = 256.0 * 1024.0;

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) candidates: BTreeMap<Peer, Served>,
    /// Wants whose turn is to come. May name some that are not wanted any more.
    pub(crate) queue: VecDeque<Cid>,
    /// All that it wants.
    pub(crate) wants: BTreeSet<Cid>,
    /// Of those that it pays for, the ones that nobody has.
    pub(crate) starved: BTreeSet<Cid>,
    /// Wants that it pays for and that are asked for.
    pub(crate) in_flight: usize,
    /// To be reported as held by nobody.
    pub(crate) news: Vec<Cid>,
    /// Average size of its blocks in bytes.
    pub(crate) average: f64,
    /// When a block last came, or one was wanted after nothing was.
    pub(crate) moved: Duration,
    /// How often it was tried again since.
    pub(crate) retries: u32,
    pub(crate) timer: Option<Duration>,
    /// Where the last retry and the last report of a stuck session ended.
    retried: Option<Cid>,
    reported: Option<Cid>,
    report: SessionReport,
}

impl Session {
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            candidates: BTreeMap::new(),
            queue: VecDeque::new(),
            wants: BTreeSet::new(),
            starved: BTreeSet::new(),
            in_flight: 0,
            news: Vec::new(),
            average: AVERAGE_START,
            moved: now,
            retries: 0,
            timer: None,
            retried: None,
            reported: None,
            report: SessionReport::default(),
        }
    }

    /// How many blocks it may be asking for now.
    pub(crate) fn window(&self, config: &ClientConfig) -> usize {
        let blocks = config.in_flight_bytes as f64 / self.average.max(1.0);
        (blocks as usize).clamp(config.in_flight_min.max(1), config.in_flight_max.max(1))
    }

    /// Adds a candidate; one that never served anything makes room if there is none.
    pub(crate) fn add_candidate(&mut self, peer: Peer, config: &ClientConfig) {
        if self.candidates.contains_key(&peer) {
            return;
        }
        if self.candidates.len() >= config.candidates_max {
            let idle = self.candidates.iter().find(|(_, served)| served.blocks == 0);
            let Some(idle) = idle.map(|(peer, _)| *peer) else {
                return;
            };
            self.candidates.remove(&idle);
        }
        self.candidates.insert(peer, Served::default());
    }

    /// Clears the queue of what is not wanted any more, or stands in it twice, once that is most of it.
    pub(crate) fn tidy(&mut self) {
        if self.queue.len() > 2 * self.wants.len() + 64 {
            let mut seen = BTreeSet::new();
            self.queue.retain(|cid| self.wants.contains(cid) && seen.insert(*cid));
        }
    }

    /// Some of the starved wants; others each time, until it was every one's turn.
    pub(crate) fn next_retried(&mut self, max: usize) -> Vec<Cid> {
        next(&self.starved, &mut self.retried, max)
    }

    /// Some of the wants; others each time, until it was every one's turn.
    pub(crate) fn next_reported(&mut self, max: usize) -> Vec<Cid> {
        next(&self.wants, &mut self.reported, max)
    }

    pub(crate) fn received(&mut self, peer: Peer, bytes: usize, now: Duration) {
        self.report.blocks += 1;
        self.report.bytes += bytes as u64;
        // The first ones count more, because what was assumed before them may be far off.
        let weight = (1.0 / self.report.blocks as f64).max(0.125);
        self.average += (bytes as f64 - self.average) * weight;
        if let Some(served) = self.candidates.get_mut(&peer) {
            served.blocks += 1;
            served.bytes += bytes as u64;
        }
        self.moved = now;
        self.retries = 0;
    }

    pub(crate) fn duplicate(&mut self, bytes: usize) {
        self.report.duplicates += 1;
        self.report.duplicate_bytes += bytes as u64;
    }

    pub(crate) fn report(&self) -> SessionReport {
        SessionReport {
            wanted: self.wants.len(),
            in_flight: self.in_flight,
            starved: self.starved.len(),
            served: self.candidates.iter().map(|(peer, served)| (*peer, *served)).collect(),
            ..self.report.clone()
        }
    }
}

/// At most `max` of these, beginning behind `last`, and around to it.
fn next(wants: &BTreeSet<Cid>, last: &mut Option<Cid>, max: usize) -> Vec<Cid> {
    let after = last.map_or(Bound::Unbounded, Bound::Excluded);
    let behind = wants.range((after, Bound::Unbounded));
    let before = wants.iter().take_while(|cid| last.is_some_and(|last| **cid <= last));
    let cids: Vec<_> = behind.chain(before).take(max).copied().collect();
    *last = cids.last().copied().or(*last);
    cids
}
