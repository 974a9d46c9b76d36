//! What goes into the engine and what comes out of it.

use std::time::Duration;

use bytes::Bytes;
use cid::Cid;

use crate::message::{Incoming, Version};

/// A connected peer: a number that the caller gives it, and never to another as long as the engine knows it. Eight bytes
/// instead of a peer ID, because wants name their peers often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer(pub u64);

/// A fetch, for example of one pin: a number that the caller gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A question to the block store. The answer bears the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

/// Wants and answers go to a peer in streams of their own, so that what we want does not wait behind the megabytes that
/// we serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// The client's side: wants and cancels. One message at a time.
    Wants,
    /// The server's side: blocks, HAVE, DONT_HAVE. Some messages at a time, bounded by bytes.
    Answers,
}

/// What happened. Times are those at which [`crate::Engine::handle`] is called.
#[derive(Debug, Clone)]
pub enum Event {
    /// A peer is connected and speaks this version.
    Connected {
        /// The peer.
        peer: Peer,
        /// The best version that both sides speak.
        version: Version,
    },
    /// The last connection to a peer is gone, and with it everything that was under way.
    Disconnected {
        /// The peer.
        peer: Peer,
    },
    /// A message came, in any stream.
    Received {
        /// Who sent it.
        peer: Peer,
        /// The message, with its blocks identified.
        message: Incoming,
    },
    /// Part of a message came: the peer is alive, however slow. Worth telling about once per 64 KiB.
    Arriving {
        /// Who sends it.
        peer: Peer,
    },
    /// The oldest message of this lane is written out; the engine may send more.
    Sent {
        /// To whom.
        peer: Peer,
        /// In which lane.
        lane: Lane,
    },
    /// The oldest message of this lane was not, or not certainly, written out: the stream broke. Wants are sent again as
    /// a full wantlist. Answers are lost; the peer will ask again.
    Failed {
        /// To whom.
        peer: Peer,
        /// In which lane.
        lane: Lane,
    },
    /// A fetch begins.
    Open {
        /// Its number; one that is open already goes on with more candidates.
        session: SessionId,
        /// Peers that may have what it will want, connected or not.
        candidates: Vec<Peer>,
    },
    /// There are more peers that may have what a fetch wants.
    Candidates {
        /// The fetch.
        session: SessionId,
        /// The peers, connected or not.
        peers: Vec<Peer>,
    },
    /// A fetch wants blocks, the first ones first.
    Want {
        /// The fetch.
        session: SessionId,
        /// The blocks.
        cids: Vec<Cid>,
        /// Whether they are roots: all connected peers are asked whether they have them, and not only the candidates.
        roots: bool,
    },
    /// A fetch does not want these blocks any more.
    Unwant {
        /// The fetch.
        session: SessionId,
        /// The blocks.
        cids: Vec<Cid>,
    },
    /// A fetch ends; what it still wants is cancelled.
    Close {
        /// The fetch.
        session: SessionId,
    },
    /// Blocks are in the store now, wherever they came from: peers that wait for them are served, and sessions that want
    /// them are told by [`Action::Held`].
    Stored {
        /// The blocks and their sizes in bytes.
        blocks: Vec<(Cid, usize)>,
    },
    /// The answer to [`Action::LookUp`].
    LookedUp {
        /// The question's number.
        ticket: Ticket,
        /// The size in bytes of each block asked for, in the same order; none for those that are not in the store.
        sizes: Vec<Option<usize>>,
    },
    /// The answer to [`Action::Read`].
    Read {
        /// The question's number.
        ticket: Ticket,
        /// Each block asked for, in the same order; none for those that are not in the store any more.
        blocks: Vec<Option<Bytes>>,
    },
    /// [`crate::Engine::next_deadline`] has come.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Action {
    /// Send a frame to a peer; answered by [`Event::Sent`] or [`Event::Failed`]. Frames of one lane go out in order.
    Send {
        /// To whom.
        peer: Peer,
        /// In which lane.
        lane: Lane,
        /// The message with its length in front.
        frame: Bytes,
    },
    /// A wanted block arrived.
    Block {
        /// All fetches that wanted it.
        sessions: Vec<SessionId>,
        /// The CID under which they wanted it.
        cid: Cid,
        /// Its content. Shares the memory of its message (up to 4 MiB): copy it if a small one is kept for long.
        data: Bytes,
        /// Who sent it.
        peer: Peer,
    },
    /// A wanted block came into the store another way ([`Event::Stored`]).
    Held {
        /// All fetches that wanted it.
        sessions: Vec<SessionId>,
        /// The block.
        cid: Cid,
    },
    /// No connected peer that was asked has these blocks, or none delivers them: time to look for providers. Asking goes
    /// on in the meantime, and this comes again, at longer and longer intervals.
    NobodyHas {
        /// The fetch that wants them.
        session: SessionId,
        /// The blocks; at most [`crate::ClientConfig::report_max`] at a time.
        cids: Vec<Cid>,
    },
    /// The engine did not take these wants.
    Refused {
        /// The fetch.
        session: SessionId,
        /// The wants that it may try again later.
        cids: Vec<Cid>,
        /// Why.
        reason: Refusal,
    },
    /// The engine has no room for this peer and ignores it.
    PeerRefused {
        /// The peer.
        peer: Peer,
    },
    /// A peer did what no honest peer does.
    Misbehaved {
        /// The peer.
        peer: Peer,
        /// What it did.
        offence: Offence,
        /// Whether it is asked for nothing any more until it connects again.
        shunned: bool,
    },
    /// Say which of these blocks are in the store, and how large they are; answered by [`Event::LookedUp`].
    LookUp {
        /// To be given back with the answer.
        ticket: Ticket,
        /// The blocks.
        cids: Vec<Cid>,
    },
    /// Read these blocks; answered by [`Event::Read`].
    Read {
        /// To be given back with the answer.
        ticket: Ticket,
        /// The blocks.
        cids: Vec<Cid>,
    },
}

/// Why wants were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The fetch is not open, or there are too many of them.
    NoSession,
    /// The fetch wants as much as one may; go on when blocks have come.
    SessionFull,
    /// All fetches together want as much as they may.
    EngineFull,
}

/// What a peer did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// It sent a block that it was not asked for. A block that is not what was asked for is one of these: a block has no
    /// name but the hash of what is in it.
    UnaskedBlock {
        /// The block.
        cid: Cid,
        /// Its size in bytes.
        bytes: usize,
    },
    /// It sent blocks with a hash function that is not known here, so that can't have been asked for.
    UnknownHash {
        /// How many.
        blocks: usize,
        /// Their size in bytes.
        bytes: usize,
    },
}

/// How a fetch is getting on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionReport {
    /// Blocks that arrived.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks that arrived once more.
    pub duplicates: u64,
    /// Their bytes.
    pub duplicate_bytes: u64,
    /// Blocks that are wanted: queued, asked for, or held by nobody.
    pub wanted: usize,
    /// Of those, the ones that are asked for now.
    pub in_flight: usize,
    /// Of those, the ones that nobody has.
    pub starved: usize,
    /// What each candidate did, by its number.
    pub served: Vec<(Peer, Served)>,
}

/// What a peer did for a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// Blocks that it sent.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks that it was asked for and did not have.
    pub lacked: u64,
    /// Blocks that it was asked for and did not send in time.
    pub timeouts: u64,
}

/// How a peer answers, as far as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PeerReport {
    /// Time from a question to its answer.
    pub latency: Option<Duration>,
    /// Bytes of blocks per second while it was asked for any.
    pub rate: Option<f64>,
    /// Blocks that it is asked for now.
    pub asked: usize,
    /// It is asked for blocks and does not answer.
    pub stalled: bool,
    /// It sent what it was not asked for.
    pub shunned: bool,
}
