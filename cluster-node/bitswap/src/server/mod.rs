//! The side that has blocks.
//!
//! A peer's want is looked up first (one question for many wants), so that who asks for what is not there is told at
//! once, and what is there is served in order of priority, in turns with other peers:
//!
//! ```text
//!            ┌── absent ──► Absent ──── Stored ───┐
//!  Fresh ─► Looking                               ▼
//!            ├── want-block, or small ────────► Ready ─► Reading ─► sent, forgotten
//!            └── want-have ───► Answered ─► HAVE sent, forgotten
//! ```

mod bucket;
mod ledger;
mod schedule;
mod wants;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use cid::Cid;
use cid::multihash::Multihash;

use crate::api::{Action, Peer, Ticket};
use crate::message::Version;
use bucket::Bucket;
use ledger::Ledger;

/// How the server behaves. Every number bounds something.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// Wants that are kept of one peer. Beyond, the one with the lowest priority is dropped, of several the oldest; that
    /// may be the new one. A peer that wants to be told is told DONT_HAVE. Kubo keeps as many.
    pub wants_per_peer: usize,
    /// Wants that are kept of all peers. Beyond, a new one takes the place of another of the peer with the most wants, at
    /// first of one for a block that is not there; but it is dropped when its own peer has as many. So an equal share of
    /// this is every peer's. If new ones were always dropped, a few hundred peers that want what nobody has would keep
    /// all others from being served.
    pub wants_max: usize,
    /// HAVE and DONT_HAVE that wait for one peer. Beyond, they are dropped, and the peer has to ask again.
    pub answers_per_peer: usize,
    /// Blocks up to this size, in bytes, are sent in answer to a want-have. Kubo does the same.
    pub have_replaced_max: usize,
    /// Bytes of blocks per second that all peers together are sent; 0 = without a limit.
    pub bytes_per_second: u64,
    /// Bytes that are being read or written for one peer. One turn may exceed it.
    pub peer_bytes: usize,
    /// Bytes that are being read or written for all peers. One turn may exceed it. One peer gets a quarter of what is
    /// left of it at most. Who does not read keeps its share until the caller gives up writing to it.
    pub total_bytes: usize,
    /// Target size of a message in bytes, and what a peer is sent in one turn.
    pub message_bytes: usize,
    /// Messages that are being read from the store or written for one peer.
    pub messages_per_peer: usize,
    /// Blocks in one question to the store.
    pub batch_max: usize,
    /// Questions about sizes that are open at a time; one for each peer.
    pub look_ups_max: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            wants_per_peer: 1_024,
            wants_max: 262_144,
            answers_per_peer: 2_048,
            have_replaced_max: 1_024,
            bytes_per_second: 0,
            peer_bytes: 2 << 20,
            total_bytes: 64 << 20,
            message_bytes: 512 << 10,
            messages_per_peer: 8,
            batch_max: 256,
            look_ups_max: 16,
        }
    }
}

/// Says whether the operator denies a block to a peer. Asked when a want is looked up, again before the block is read,
/// and again before it is sent.
pub type Deny = Box<dyn Fn(Peer, &Cid) -> bool + Send + Sync>;

/// A question to the store that is open.
#[derive(Debug)]
enum Question {
    LookUp { peer: Peer, cids: Vec<Cid> },
    Read { peer: Peer, blocks: Vec<(Cid, usize)> },
}

pub(crate) struct Server {
    config: ServerConfig,
    deny: Deny,
    ledgers: BTreeMap<Peer, Ledger>,
    /// Who wants which block. By multihash, so that a block is found under whatever CID it was stored.
    interest: BTreeMap<Multihash<64>, BTreeSet<(Peer, Cid)>>,
    wants: usize,
    /// Peers with wants: those that wait for what is not there last, and of either kind those with the most wants last.
    loads: BTreeSet<(bool, usize, Peer)>,
    order: u64,
    /// Peers with wants to be looked up, in order of their turns.
    look_ups: VecDeque<Peer>,
    look_ups_open: usize,
    /// Peers with blocks to be sent, in order of their turns.
    turns: VecDeque<Peer>,
    /// Who is in `look_ups` and `turns`.
    in_look_ups: BTreeSet<Peer>,
    in_turns: BTreeSet<Peer>,
    /// Peers that may have to be told something.
    dirty: BTreeSet<Peer>,
    questions: BTreeMap<Ticket, Question>,
    tickets: u64,
    bucket: Bucket,
    reading_bytes: usize,
    writing_bytes: usize,
    pub(crate) out: VecDeque<Action>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("config", &self.config)
            .field("ledgers", &self.ledgers)
            .finish_non_exhaustive()
    }
}

/// What is held, for watching over the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerUsage {
    /// Wants of all peers.
    pub wants: usize,
    /// HAVE and DONT_HAVE that wait to be sent.
    pub answers: usize,
    /// Questions to the store that are open.
    pub questions: usize,
    /// Bytes of blocks that are being read.
    pub reading_bytes: usize,
    /// Bytes of messages that are being written.
    pub writing_bytes: usize,
}

impl Server {
    pub(crate) fn new(mut config: ServerConfig, deny: Deny) -> Self {
        // With any of these at zero nothing would ever be served.
        for bound in [
            &mut config.message_bytes,
            &mut config.messages_per_peer,
            &mut config.batch_max,
            &mut config.look_ups_max,
            &mut config.total_bytes,
        ] {
            *bound = (*bound).max(1);
        }
        let bucket = Bucket::new(config.bytes_per_second);
        Self {
            config,
            deny,
            ledgers: BTreeMap::new(),
            interest: BTreeMap::new(),
            wants: 0,
            loads: BTreeSet::new(),
            order: 0,
            look_ups: VecDeque::new(),
            look_ups_open: 0,
            turns: VecDeque::new(),
            in_look_ups: BTreeSet::new(),
            in_turns: BTreeSet::new(),
            dirty: BTreeSet::new(),
            questions: BTreeMap::new(),
            tickets: 0,
            bucket,
            reading_bytes: 0,
            writing_bytes: 0,
            out: VecDeque::new(),
        }
    }

    pub(crate) fn connected(&mut self, peer: Peer, version: Version) {
        self.ledgers.insert(peer, Ledger::new(version));
    }

    pub(crate) fn disconnected(&mut self, peer: Peer) {
        let Some(ledger) = self.ledgers.get(&peer) else {
            return;
        };
        for cid in ledger.cids().copied().collect::<Vec<_>>() {
            self.forget(peer, &cid);
        }
        if let Some(ledger) = self.ledgers.remove(&peer) {
            self.writing_bytes -= ledger.writing_bytes;
        }
        self.dirty.remove(&peer);
    }

    /// The oldest message to a peer is written, or lost.
    pub(crate) fn sent(&mut self, peer: Peer) {
        let Some(ledger) = self.ledgers.get_mut(&peer) else {
            return;
        };
        if let Some(bytes) = ledger.writing.pop_front() {
            ledger.writing_bytes -= bytes;
            self.writing_bytes -= bytes;
        }
        self.dirty.insert(peer);
        self.enqueue(peer);
    }

    /// When something may go out that may not now.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        if self.turns.is_empty() {
            return None;
        }
        self.bucket.next()
    }

    pub(crate) fn usage(&self) -> ServerUsage {
        ServerUsage {
            wants: self.wants,
            answers: self.ledgers.values().map(Ledger::answers).sum(),
            questions: self.questions.len(),
            reading_bytes: self.reading_bytes,
            writing_bytes: self.writing_bytes,
        }
    }

    /// The most that [`Self::usage`] can say with so many peers.
    pub(crate) fn usage_max(&self, peers: usize) -> ServerUsage {
        use crate::limits::{BLOCK_BYTES_MAX, MESSAGE_BYTES_MAX};
        let config = &self.config;
        let turn = config.message_bytes + BLOCK_BYTES_MAX;
        let bytes = config.total_bytes + turn;
        ServerUsage {
            wants: config.wants_max.min(peers * config.wants_per_peer),
            answers: peers * config.answers_per_peer,
            questions: config.look_ups_max + bytes / schedule::COST_MIN,
            reading_bytes: bytes,
            writing_bytes: bytes + MESSAGE_BYTES_MAX * peers,
        }
    }

    fn ticket(&mut self, question: Question) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.questions.insert(ticket, question);
        ticket
    }

    /// Takes a want off a peer's list.
    fn forget(&mut self, peer: Peer, cid: &Cid) -> Option<ledger::Wanted> {
        let wanted = self.ledgers.get_mut(&peer)?.remove(cid)?;
        self.wants -= 1;
        if let Some(interested) = self.interest.get_mut(cid.hash()) {
            interested.remove(&(peer, *cid));
            if interested.is_empty() {
                self.interest.remove(cid.hash());
            }
        }
        self.weigh(peer);
        Some(wanted)
    }

    /// Keeps `loads` in line with a peer's wants. To be called whenever one comes or goes, or becomes absent or is that no
    /// more; otherwise wants would be taken from the wrong peer.
    fn weigh(&mut self, peer: Peer) {
        let Some(ledger) = self.ledgers.get_mut(&peer) else {
            return;
        };
        let weight = ledger.weight();
        let before = std::mem::replace(&mut ledger.load, weight);
        if before == weight {
            return;
        }
        if let Some((absent, wants)) = before {
            self.loads.remove(&(absent, wants, peer));
        }
        if let Some((absent, wants)) = weight {
            self.loads.insert((absent, wants, peer));
        }
    }
}
