//! The side that wants blocks.
//!
//! A want goes through phases:
//!
//! ```text
//!            a peer has room                block
//!  Queued ───────────────────► Asked ──────────────────► gone
//!    ▲ │                         │
//!    │ │ no candidate left       │ DONT_HAVE, too slow while others may have it, gone
//!    │ ▼                         │
//!    ├─Seeking ◄─────────────────┘ (by way of Queued)
//!    │ │ nobody says HAVE
//!    │ ▼
//!    └─Starved ──► reported; tried again by and by, or when there are new candidates, or when somebody says HAVE
//! ```
//!
//! Only what is asked or sought takes up the session's window, so wants that nobody has hold up no others.

mod assign;
mod lifecycle;
mod receive;
mod remote;
mod session;
mod speed;
mod timers;
mod want;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use cid::Cid;

use crate::api::{Action, Lane, Peer, PeerReport, SessionId, SessionReport};
use crate::message::Version;
use remote::Remote;
use session::Session;
use timers::{Timer, Timers};
use want::{FACTS_MAX, Phase, Want};

/// How the client behaves. Every number bounds something.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientConfig {
    /// Bytes of blocks that a session is asking for at a time, as far as the two bounds in blocks allow.
    pub in_flight_bytes: usize,
    /// Blocks that a session may always be asking for at a time, however large they are.
    pub in_flight_min: usize,
    /// Blocks that a session may be asking for at a time, however small they are.
    pub in_flight_max: usize,
    /// Blocks that all sessions together are asking for at a time.
    pub in_flight_total: usize,
    /// Fetches that are open at a time.
    pub sessions_max: usize,
    /// Blocks that one session wants at a time.
    pub session_wants_max: usize,
    /// Blocks that all sessions together want at a time, counted once for each session.
    pub wants_max: usize,
    /// Candidates of a session.
    pub candidates_max: usize,
    /// Peers that are asked whether they have a block when no candidate is known to.
    pub broadcast_max: usize,
    /// Blocks in one [`Action::NobodyHas`].
    pub report_max: usize,
    /// A peer that is asked for blocks and gives no sign of life for so long (and eight times its latency) has stalled:
    /// what it was asked for is asked of others.
    pub stall: Duration,
    /// A block that was not sent within this (and four times the time that was estimated) is asked of another peer.
    pub patience: Duration,
    /// How long answers to want-haves are waited for.
    pub seek: Duration,
    /// A session to which no block comes for so long is reported and tries again; twice as long each time, up to a
    /// minute.
    pub retry: Duration,
    /// Target size of a message in bytes.
    pub message_bytes: usize,
}

impl Default for ClientConfig {
    /// 64 blocks of 256 KiB in flight fill a link of 1 Gbit/s with a latency of 130 ms. Blocks of 64 KiB and less are
    /// asked for in larger numbers, because 64 of them would leave such a link idle.
    fn default() -> Self {
        Self {
            in_flight_bytes: 16 << 20,
            in_flight_min: 32,
            in_flight_max: 256,
            in_flight_total: 2_048,
            sessions_max: 1_024,
            session_wants_max: 4_096,
            wants_max: 65_536,
            candidates_max: 64,
            broadcast_max: 32,
            report_max: 256,
            stall: Duration::from_secs(3),
            patience: Duration::from_secs(5),
            seek: Duration::from_secs(2),
            retry: Duration::from_secs(10),
            message_bytes: 512 << 10,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Client {
    config: ClientConfig,
    seed: u64,
    /// Who was asked last in a broadcast.
    broadcast_last: Option<Peer>,
    remotes: BTreeMap<Peer, Remote>,
    sessions: BTreeMap<SessionId, Session>,
    wants: BTreeMap<Cid, Want>,
    /// Wants of all sessions, counted once for each.
    wanted: usize,
    in_flight: usize,
    /// The priority that was given last; the earlier ones are more urgent.
    order: i32,
    /// Sessions with something in their queues.
    ready: BTreeSet<SessionId>,
    /// The session whose turn it was last.
    turn: Option<SessionId>,
    /// Peers that may have to be told something.
    dirty: BTreeSet<Peer>,
    /// Sessions that have something to report.
    news: BTreeSet<SessionId>,
    timers: Timers,
    pub(crate) out: VecDeque<Action>,
}

/// What is held, for watching over the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientUsage {
    /// Fetches that are open.
    pub sessions: usize,
    /// Blocks that are wanted, counted once for each session.
    pub wants: usize,
    /// Facts about peers and wants.
    pub facts: usize,
    /// Entries in the lists of all peers.
    pub told: usize,
    /// Blocks that are asked for.
    pub in_flight: usize,
    /// Deadlines that are pending.
    pub timers: usize,
}

impl Client {
    pub(crate) fn new(config: ClientConfig, seed: u64) -> Self {
        Self {
            config,
            seed,
            broadcast_last: None,
            remotes: BTreeMap::new(),
            sessions: BTreeMap::new(),
            wants: BTreeMap::new(),
            wanted: 0,
            in_flight: 0,
            order: i32::MAX,
            ready: BTreeSet::new(),
            turn: None,
            dirty: BTreeSet::new(),
            news: BTreeSet::new(),
            timers: Timers::default(),
            out: VecDeque::new(),
        }
    }

    pub(crate) fn connected(&mut self, peer: Peer, version: Version, now: Duration) {
        self.remotes.insert(peer, Remote::new(version, now));
        self.revive_all(peer);
    }

    pub(crate) fn disconnected(&mut self, peer: Peer) {
        let Some(remote) = self.remotes.remove(&peer) else {
            return;
        };
        self.dirty.remove(&peer);
        self.timers.clear(Timer::Peer(peer), remote.timer);
        for cid in remote.told().copied().collect::<Vec<_>>() {
            let Some(want) = self.wants.get_mut(&cid) else { continue };
            want.facts.remove(&peer);
            self.answered_without_block(&cid, peer);
        }
    }

    pub(crate) fn arriving(&mut self, peer: Peer, now: Duration) {
        self.sign_of_life(peer, now);
    }

    pub(crate) fn sent(&mut self, peer: Peer) {
        if let Some(remote) = self.remotes.get_mut(&peer) {
            remote.sent();
            self.dirty.insert(peer);
        }
    }

    pub(crate) fn failed(&mut self, peer: Peer) {
        if let Some(remote) = self.remotes.get_mut(&peer) {
            remote.failed();
            self.dirty.insert(peer);
        }
    }

    /// Does all that has become possible.
    pub(crate) fn pump(&mut self, now: Duration) {
        self.assign(now);
        for id in std::mem::take(&mut self.news) {
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            let news = std::mem::take(&mut session.news);
            for cids in news.chunks(self.config.report_max.max(1)) {
                self.out.push_back(Action::NobodyHas {
                    session: id,
                    cids: cids.to_vec(),
                });
            }
        }
        for peer in std::mem::take(&mut self.dirty) {
            let Some(remote) = self.remotes.get_mut(&peer) else {
                continue;
            };
            if let Some(frame) = remote.take_message(self.config.message_bytes) {
                self.out.push_back(Action::Send {
                    peer,
                    lane: Lane::Wants,
                    frame,
                });
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.timers.first()
    }

    pub(crate) fn session(&self, session: SessionId) -> Option<SessionReport> {
        self.sessions.get(&session).map(Session::report)
    }

    /// How many more blocks a session may want now.
    pub(crate) fn room(&self, session: SessionId) -> usize {
        let Some(session) = self.sessions.get(&session) else {
            return 0;
        };
        let own = self.config.session_wants_max.saturating_sub(session.wants.len());
        own.min(self.config.wants_max.saturating_sub(self.wanted))
    }

    pub(crate) fn peer(&self, peer: Peer) -> Option<PeerReport> {
        self.remotes.get(&peer).map(Remote::report)
    }

    pub(crate) fn usage(&self) -> ClientUsage {
        ClientUsage {
            sessions: self.sessions.len(),
            wants: self.wanted,
            facts: self.wants.values().map(|want| want.facts.len()).sum(),
            told: self.remotes.values().map(Remote::entries).sum(),
            in_flight: self.in_flight,
            timers: self.timers.len(),
        }
    }

    /// The most that [`Self::usage`] can say with so many peers.
    pub(crate) fn usage_max(&self, peers: usize) -> ClientUsage {
        let config = &self.config;
        ClientUsage {
            sessions: config.sessions_max,
            wants: config.wants_max,
            facts: config.wants_max * FACTS_MAX,
            told: peers * Remote::ENTRIES_MAX,
            in_flight: config.in_flight_total,
            timers: config.wants_max + config.sessions_max + peers,
        }
    }

    /// Moves a want to another phase, and counts.
    fn enter(&mut self, cid: &Cid, phase: Phase, deadline: Option<Duration>) {
        self.leave(cid);
        let Some(want) = self.wants.get_mut(cid) else { return };
        want.phase = phase;
        want.deadline = deadline;
        self.timers.set(Timer::Want(*cid), deadline);
        let Some(owner) = want.owner() else { return };
        let Some(session) = self.sessions.get_mut(&owner) else {
            return;
        };
        match phase {
            Phase::Queued => {}
            Phase::Starved => {
                session.starved.insert(*cid);
            }
            Phase::Asked(_) | Phase::Seeking => {
                session.in_flight += 1;
                self.in_flight += 1;
            }
        }
        if let Phase::Asked(peer) = phase
            && let Some(remote) = self.remotes.get_mut(&peer)
        {
            remote.asked += 1;
        }
    }

    /// Undoes what [`Self::enter`] counted.
    fn leave(&mut self, cid: &Cid) {
        let Some(want) = self.wants.get_mut(cid) else { return };
        self.timers.clear(Timer::Want(*cid), want.deadline.take());
        let phase = std::mem::replace(&mut want.phase, Phase::Queued);
        let owner = want.owner();
        if let Phase::Asked(peer) = phase
            && let Some(remote) = self.remotes.get_mut(&peer)
        {
            remote.asked = remote.asked.saturating_sub(1);
        }
        let Some(session) = owner.and_then(|owner| self.sessions.get_mut(&owner)) else {
            return;
        };
        match phase {
            Phase::Queued => {}
            Phase::Starved => {
                session.starved.remove(cid);
            }
            Phase::Asked(_) | Phase::Seeking => {
                session.in_flight = session.in_flight.saturating_sub(1);
                self.in_flight = self.in_flight.saturating_sub(1);
            }
        }
    }

    /// Puts a want into its queue, at the front when it has waited already.
    fn queue(&mut self, cid: &Cid, front: bool) {
        self.enter(cid, Phase::Queued, None);
        let Some(want) = self.wants.get_mut(cid) else { return };
        let Some(owner) = want.owner() else { return };
        let Some(session) = self.sessions.get_mut(&owner) else {
            return;
        };
        if !std::mem::replace(&mut want.queued, true) {
            match front {
                true => session.queue.push_front(*cid),
                false => session.queue.push_back(*cid),
            }
            session.tidy();
        }
        self.ready.insert(owner);
    }
}

/// Every bit of the result depends on every bit of the value (the finalizer of SplitMix64).
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
