//! A fetch: blocks that are wanted together, for example those of one pin.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cid::Cid;
use cluster_bitswap::{Refusal, SessionId, SessionReport};
use libp2p::PeerId;
use multiaddr::Multiaddr;
use tokio::sync::{mpsc, oneshot};

use crate::driver::Command;
use crate::error::Closed;
use crate::host::Call;

/// A peer that may have something, and where it may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Who it is.
    pub peer: PeerId,
    /// Where it may be reached; may be empty when it is connected already.
    pub addresses: Vec<Multiaddr>,
}

/// What happened in a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchEvent {
    /// A wanted block came. Its bytes are those that the CID names.
    Block {
        /// The CID under which it was wanted.
        cid: Cid,
        /// Its content. Shares the memory of the message that it came in (up to 4 MiB): copy it to keep a small one.
        data: Bytes,
        /// Who sent it.
        peer: PeerId,
    },
    /// A wanted block came into the store another way, as [`crate::Swarm::stored`] told.
    Held(Cid),
    /// No peer that was asked has these blocks, or none delivers them: time to look for providers. They stay wanted and
    /// are asked for again by and by, and this comes again, at longer and longer intervals.
    NobodyHas(Vec<Cid>),
    /// These wants were not taken; try again when blocks have come.
    Refused {
        /// The wants.
        cids: Vec<Cid>,
        /// Why.
        reason: Refusal,
    },
}

/// Bytes of blocks that lie ready in a [`Fetch`] before no more are asked for.
pub const UNREAD_BYTES_MAX: usize = 16 << 20;

/// Wants of a fetch that are not done, at most; what is beyond comes back as [`FetchEvent::Refused`].
pub const FETCH_WANTS_MAX: usize = 4_096;

/// What a fetch and the driver of the engine both see.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    /// Bytes of blocks that were sent to the fetch and not yet taken.
    pub(crate) bytes: AtomicUsize,
    /// Whether the driver holds back wants until they are taken.
    pub(crate) holding: std::sync::atomic::AtomicBool,
}

/// Blocks that are wanted together, for example those of one pin: who has one of them is asked for the others first.
///
/// Events must be taken ([`Self::next`]): as long as more than [`UNREAD_BYTES_MAX`] bytes of blocks lie unread, no more
/// are asked for. Ends when it is dropped; then what it still wants is cancelled.
#[derive(Debug)]
pub struct Fetch {
    pub(crate) session: SessionId,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) calls: mpsc::Sender<Call>,
    pub(crate) closings: mpsc::UnboundedSender<SessionId>,
    pub(crate) events: mpsc::UnboundedReceiver<FetchEvent>,
    pub(crate) unread: Arc<Unread>,
}

/// The half of a [`Fetch`] that asks, so that one task may ask while another takes what comes.
#[derive(Debug, Clone)]
pub struct FetchControl {
    session: SessionId,
    commands: mpsc::Sender<Command>,
    calls: mpsc::Sender<Call>,
}

impl Fetch {
    /// A handle to ask by, for other tasks. It is of no use once the fetch is dropped.
    pub fn control(&self) -> FetchControl {
        FetchControl {
            session: self.session,
            commands: self.commands.clone(),
            calls: self.calls.clone(),
        }
    }

    /// See [`FetchControl::want`].
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn want(&self, cids: Vec<Cid>, roots: bool) -> Result<(), Closed> {
        self.control().want(cids, roots).await
    }

    /// See [`FetchControl::unwant`].
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn unwant(&self, cids: Vec<Cid>) -> Result<(), Closed> {
        self.control().unwant(cids).await
    }

    /// See [`FetchControl::candidates`].
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn candidates(&self, candidates: Vec<Candidate>) -> Result<(), Closed> {
        self.control().candidates(candidates).await
    }

    /// See [`FetchControl::report`].
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn report(&self) -> Result<FetchReport, Closed> {
        self.control().report().await
    }

    /// The next event. None when the node has been shut down. Loses nothing when it is dropped while it waits.
    pub async fn next(&mut self) -> Option<FetchEvent> {
        let event = self.events.recv().await;
        if let Some(event) = &event {
            self.taken(std::slice::from_ref(event));
        }
        event
    }

    /// The next events, at least one and at most `max`, appended to `events`; gives their number, which is 0 when the node
    /// has been shut down. Saves a turn of the scheduler per block where blocks are small.
    pub async fn next_many(&mut self, events: &mut Vec<FetchEvent>, max: usize) -> usize {
        let before = events.len();
        let count = self.events.recv_many(events, max).await;
        self.taken(&events[before..]);
        count
    }

    fn taken(&self, events: &[FetchEvent]) {
        let bytes: usize = events.iter().map(FetchEvent::bytes).sum();
        if bytes == 0 {
            return;
        }
        let left = self.unread.bytes.fetch_sub(bytes, Ordering::AcqRel) - bytes;
        // Half of the bound, so that the driver is not woken for each block. When its queue is full it is awake anyway,
        // and looks at all fetches that it holds back.
        if left < UNREAD_BYTES_MAX / 2 && self.unread.holding.swap(false, Ordering::AcqRel) {
            let _ = self.commands.try_send(Command::Resume(self.session));
        }
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        // Fails only when the driver is gone, and the session with it.
        let _ = self.closings.send(self.session);
    }
}

impl FetchControl {
    /// Wants these blocks, the first ones first. With `roots`, all connected peers are asked whether they have them, and
    /// not only the candidates: for the first blocks of a fetch, that nobody is known to have.
    ///
    /// Identity CIDs hold their block themselves and must not be wanted. Blocks that are wanted already are not wanted
    /// twice, and each is delivered once.
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn want(&self, cids: Vec<Cid>, roots: bool) -> Result<(), Closed> {
        let session = self.session;
        self.send(Command::Want { session, cids, roots }).await
    }

    /// Does not want these blocks any more.
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn unwant(&self, cids: Vec<Cid>) -> Result<(), Closed> {
        let session = self.session;
        self.send(Command::Unwant { session, cids }).await
    }

    /// More peers that may have what is wanted. They are connected to in the background where that is not done yet. A fetch has
    /// 64 of them at most; the engine lets the worst ones go.
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn candidates(&self, candidates: Vec<Candidate>) -> Result<(), Closed> {
        let session = self.session;
        let peers = peers_of(&candidates);
        self.calls.send(Call::Dial(candidates)).await.map_err(|_| Closed)?;
        self.send(Command::Candidates {
            session,
            candidates: peers,
        })
        .await
    }

    /// How it is getting on.
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn report(&self) -> Result<FetchReport, Closed> {
        let (answer, report) = oneshot::channel();
        let session = self.session;
        self.send(Command::FetchReport { session, answer }).await?;
        report.await.map_err(|_| Closed)
    }

    async fn send(&self, command: Command) -> Result<(), Closed> {
        self.commands.send(command).await.map_err(|_| Closed)
    }
}

/// The peers among candidates, without their addresses.
pub(crate) fn peers_of(candidates: &[Candidate]) -> Vec<PeerId> {
    candidates.iter().map(|candidate| candidate.peer).collect()
}

impl FetchEvent {
    /// Bytes of the block in it.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Block { data, .. } => data.len(),
            Self::Held(_) | Self::NobodyHas(_) | Self::Refused { .. } => 0,
        }
    }
}

/// How a fetch is getting on.
#[derive(Debug, Clone, Default)]
pub struct FetchReport {
    /// The engine's numbers; `served` has the peers by their numbers there, `peers` by their IDs.
    pub session: SessionReport,
    /// What each connected peer did for it.
    pub peers: Vec<(PeerId, cluster_bitswap::Served)>,
}
