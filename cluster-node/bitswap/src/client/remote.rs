//! What the client knows of a connected peer: what it was told that we want, and how it answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;

use crate::api::{PeerReport, SessionId};
use crate::builder::MessageBuilder;
use crate::client::speed::Speed;
use crate::message::{Ask, Entry, Version, WantKind};

/// Most wants that a peer is told at a time. Kubo keeps 1,024 of a peer and drops what is beyond.
const TOLD_MAX: usize = 1_024;

/// Beyond so many no more want-haves are told, so that those for blocks which nobody has leave room for want-blocks.
const TOLD_HAVES_MAX: usize = 512;

/// Blocks that a peer may have been asked for and still send although they came from elsewhere.
const LATE_MAX: usize = 1_024;

/// Blocks that a new peer, or one that has stalled, is asked for at a time; one more with each that it sends.
const LIMIT_START: usize = 8;

/// A peer is asked for no more than it sends within this time, or [`LIMIT_START`] blocks, so that little is lost when it
/// stops.
const HORIZON_SECONDS: f64 = 4.0;

/// Offences before a peer is shunned, if they are also more than one for each so many good blocks.
const STRIKES_MAX: u64 = 4;
const GOOD_PER_STRIKE: u64 = 16;

#[derive(Debug, Clone, Copy)]
struct Told {
    kind: WantKind,
    priority: i32,
    /// How often it was told: so many blocks it may send, if it answers each time.
    times: u32,
}

/// A block that may still come, although it is not wanted any more, or is here already.
#[derive(Debug, Clone, Copy)]
struct Late {
    session: SessionId,
    times: u32,
}

#[derive(Debug)]
pub(crate) struct Remote {
    version: Version,
    told: BTreeMap<Cid, Told>,
    unsent: BTreeSet<Cid>,
    cancels: BTreeSet<Cid>,
    /// The next message replaces what the peer believes that we want.
    full: bool,
    /// Even if we want nothing.
    resend: bool,
    /// A message is being written.
    busy: bool,
    late: BTreeMap<Cid, Late>,
    late_order: VecDeque<Cid>,
    pub(crate) speed: Speed,
    /// Blocks that it is asked for and has neither sent nor denied.
    pub(crate) asked: usize,
    limit: usize,
    /// The last sign of life.
    pub(crate) seen: Duration,
    pub(crate) timer: Option<Duration>,
    pub(crate) stalled: bool,
    pub(crate) shunned: bool,
    strikes: u64,
    good: u64,
}

impl Remote {
    pub(crate) fn new(version: Version, now: Duration) -> Self {
        Self {
            version,
            told: BTreeMap::new(),
            unsent: BTreeSet::new(),
            cancels: BTreeSet::new(),
            full: true,
            resend: false,
            busy: false,
            late: BTreeMap::new(),
            late_order: VecDeque::new(),
            speed: Speed::default(),
            asked: 0,
            limit: LIMIT_START,
            seen: now,
            timer: None,
            stalled: false,
            shunned: false,
            strikes: 0,
            good: 0,
        }
    }

    /// Whether it may be asked for one more block of about this size.
    pub(crate) fn has_room(&self, average: f64) -> bool {
        if self.told.len() >= TOLD_MAX {
            return false;
        }
        let limit = if self.stalled { 1 } else { self.limit };
        let limit = match self.speed.rate() {
            Some(rate) => limit.min(((rate * HORIZON_SECONDS / average.max(1.0)) as usize).max(LIMIT_START)),
            None => limit,
        };
        self.asked < limit
    }

    /// Seconds until it would have sent one more block of about this size.
    pub(crate) fn estimate(&self, average: f64) -> f64 {
        self.speed.estimate((self.asked + 1) as f64 * average)
    }

    pub(crate) fn can_be_asked_have(&self) -> bool {
        self.version.has_presences() && !self.shunned && self.told.len() < TOLD_HAVES_MAX
    }

    /// Puts a want on its list, or makes a want-have of it a want-block, or repeats it. `false` when the list is full.
    pub(crate) fn ask(&mut self, cid: &Cid, kind: WantKind, priority: i32) -> bool {
        if kind == WantKind::Have && !self.version.has_presences() {
            return false;
        }
        if let Some(told) = self.told.get_mut(cid) {
            told.kind = told.kind.max(kind);
            told.priority = priority;
            self.unsent.insert(*cid);
            return true;
        }
        if self.told.len() >= TOLD_MAX {
            return false;
        }
        let told = Told {
            kind,
            priority,
            times: 0,
        };
        self.told.insert(*cid, told);
        self.cancels.remove(cid);
        self.unsent.insert(*cid);
        true
    }

    /// Takes a want off its list. `session` is whose it was, for the case that the block comes nevertheless.
    pub(crate) fn cancel(&mut self, cid: &Cid, session: SessionId) {
        let Some(told) = self.told.remove(cid) else {
            return;
        };
        self.unsent.remove(cid);
        if told.times > 0 {
            self.cancels.insert(*cid);
            self.note_late(cid, session, told.times);
        }
    }

    /// It sent this block, so it does not believe any more that we want it.
    pub(crate) fn sent_block(&mut self, cid: &Cid, session: SessionId) {
        let Some(told) = self.told.remove(cid) else {
            // It was cancelled, and comes nevertheless.
            self.take_late(cid);
            return;
        };
        self.unsent.remove(cid);
        // A want-have that was answered with the block and a want-block behind it make it come twice.
        self.note_late(cid, session, told.times.saturating_sub(1));
    }

    /// It doesn't have the block. It will tell when it gets it, as long as its list has room for that.
    pub(crate) fn lacks(&mut self, cid: &Cid, session: SessionId) {
        if self.told.len() >= TOLD_HAVES_MAX {
            self.cancel(cid, session);
        }
    }

    /// Whether it was asked for this block, and the block came from elsewhere or was given up. Each time that it was asked
    /// excuses one block.
    pub(crate) fn take_late(&mut self, cid: &Cid) -> Option<SessionId> {
        let late = self.late.get_mut(cid)?;
        let session = late.session;
        late.times -= 1;
        if late.times == 0 {
            self.late.remove(cid);
        }
        Some(session)
    }

    /// Whether it was ever told that we want this block, and has not sent one for each time.
    pub(crate) fn may_send(&self, cid: &Cid) -> bool {
        self.told.get(cid).is_some_and(|told| told.times > 0) || self.late.contains_key(cid)
    }

    fn note_late(&mut self, cid: &Cid, session: SessionId, times: u32) {
        if times == 0 {
            return;
        }
        if let Some(late) = self.late.get_mut(cid) {
            late.session = session;
            late.times = late.times.saturating_add(times);
            return;
        }
        self.late.insert(*cid, Late { session, times });
        self.late_order.push_back(*cid);
        if self.late_order.len() > LATE_MAX
            && let Some(oldest) = self.late_order.pop_front()
        {
            self.late.remove(&oldest);
        }
    }

    /// One block more is here.
    pub(crate) fn delivered(&mut self, bytes: usize, limit_max: usize, now: Duration) {
        // What comes late, or in answer to a want-have, says nothing about its rate.
        if self.asked > 0 {
            self.speed.received(bytes, now);
        }
        self.limit = (self.limit + 1).min(limit_max.max(LIMIT_START));
        self.good += 1;
    }

    /// It did not send a block in time: it is asked for less.
    pub(crate) fn timed_out(&mut self) {
        self.limit = (self.limit / 2).max(1);
    }

    pub(crate) fn stall(&mut self) {
        self.stalled = true;
        self.limit = LIMIT_START;
    }

    /// Counts an offence; whether the peer is shunned now.
    pub(crate) fn strike(&mut self) -> bool {
        self.strikes += 1;
        self.shunned |= self.strikes >= STRIKES_MAX && self.strikes * GOOD_PER_STRIKE > self.good;
        self.shunned
    }

    pub(crate) fn has_news(&self) -> bool {
        self.resend || !self.unsent.is_empty() || !self.cancels.is_empty()
    }

    /// The next message, of about `target` bytes.
    pub(crate) fn take_message(&mut self, target: usize) -> Option<Bytes> {
        if self.busy || !self.has_news() {
            return None;
        }
        let mut builder = MessageBuilder::new(self.version, target);
        if self.full {
            builder.full();
            self.cancels.clear();
        }
        // Cancels first: they make room on the peer's list.
        while let Some(cid) = self.cancels.first().copied() {
            let entry = Entry { cid, ask: Ask::Cancel };
            match builder.entry(&entry) {
                Ok(false) => break,
                Ok(true) | Err(_) => self.cancels.pop_first(),
            };
        }
        while let Some(cid) = self.unsent.first().copied() {
            if let Some(told) = self.told.get_mut(&cid) {
                let ask = Ask::Want {
                    kind: told.kind,
                    priority: told.priority,
                    send_dont_have: true,
                };
                match builder.entry(&Entry { cid, ask }) {
                    Ok(false) => break,
                    Ok(true) => told.times = told.times.saturating_add(1),
                    // Unsayable: it stays on the list as one that the peer does not answer.
                    Err(_) => {}
                }
            }
            self.unsent.pop_first();
        }
        (self.full, self.resend) = (false, false);
        self.busy = true;
        Some(builder.take_frame())
    }

    /// The message is written.
    pub(crate) fn sent(&mut self) {
        self.busy = false;
    }

    /// The message is lost: all wants are told again.
    pub(crate) fn failed(&mut self) {
        self.busy = false;
        (self.full, self.resend) = (true, true);
        self.unsent = self.told.keys().copied().collect();
    }

    /// All blocks of which it believes that we want them, or want to know of them.
    pub(crate) fn told(&self) -> impl Iterator<Item = &Cid> {
        self.told.keys()
    }

    /// Entries in all lists.
    pub(crate) fn entries(&self) -> usize {
        self.told.len() + self.unsent.len() + self.cancels.len() + self.late.len() + self.late_order.len()
    }

    /// The most that [`Self::entries`] can be.
    pub(crate) const ENTRIES_MAX: usize = 3 * TOLD_MAX + 2 * LATE_MAX;

    pub(crate) fn report(&self) -> PeerReport {
        PeerReport {
            latency: self.speed.latency(),
            rate: self.speed.rate(),
            asked: self.asked,
            stalled: self.stalled,
            shunned: self.shunned,
        }
    }
}
