//! Bitswap over libp2p: how messages come and go.
//!
//! ```text
//!  a connection's task               tasks of its streams                        the driver's task
//!  ───────────────────               ────────────────────                        ─────────────────
//!  Handler ── inbound stream ──────► reader: frames, parsed, hashed ─ messages ─► Engine::handle
//!     ▲ └──── outbound stream ─────► lane: writes frames ◄─────────── frames ──── Action::Send
//!     └── "open a stream" ────────── lane ───────── sent, failed ──── control ──► Engine::handle
//! ```
//!
//! Nothing of it goes through the task of the swarm, which all connections share.

mod handler;
mod lane;
mod reader;
mod room;
mod upgrade;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use cluster_bitswap::{Incoming, Lane, Version};
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, multiaddr};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::hasher::Hasher;
pub(crate) use handler::{Handler, Opener};
pub(crate) use lane::LaneQueue;
use room::{Place, Room};

/// Messages that wait for the engine; large ones among them hold a place in the [`Room`] as well.
pub(crate) const MESSAGES_WAITING: usize = 64;

/// A connection with a peer that speaks Bitswap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkId(pub(crate) u64);

/// What the driver must hear of, and in order. At most a few for each connection and each frame under way.
#[derive(Debug)]
pub(crate) enum Control {
    /// A connection is ready for Bitswap.
    Up {
        link: LinkId,
        peer: PeerId,
        version: Version,
        /// Whether it goes through a relay, so that any other is better.
        relayed: bool,
        opener: Opener,
    },
    /// It is gone.
    Down { link: LinkId },
    /// The oldest frame of a lane is written.
    Sent { link: LinkId, lane: Lane },
    /// The oldest frame of a lane is not, or not certainly, written.
    Failed {
        link: LinkId,
        lane: Lane,
        /// Whether the lane can't be used at all, as it seems.
        hopeless: bool,
    },
    /// A peer broke the protocol.
    Broke { link: LinkId, peer: PeerId, how: String },
}

/// A message that came.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) link: LinkId,
    pub(crate) peer: PeerId,
    /// None: part of one came.
    pub(crate) message: Option<Incoming>,
    /// Its memory, until the engine has it.
    pub(crate) _large: Option<Place>,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) control: mpsc::UnboundedSender<Control>,
    pub(crate) messages: mpsc::Sender<Arrived>,
    /// Who may hold large messages.
    pub(crate) room: Arc<Room>,
    /// Messages that are being hashed on blocking threads: as many as there are processors.
    pub(crate) hashing: Arc<Semaphore>,
    pub(crate) hasher: Hasher,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    links: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        control: mpsc::UnboundedSender<Control>,
        messages: mpsc::Sender<Arrived>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            control,
            messages,
            room: Arc::new(Room::new()),
            hashing: Arc::new(Semaphore::new(processors)),
            hasher: Hasher,
            tasks,
            stop,
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            links: AtomicU64::new(0),
        }
    }

    /// Tells the driver. When that is gone, nobody needs to know.
    fn tell(&self, control: Control) {
        let _ = self.control.send(control);
    }
}

/// The behaviour has nothing to decide: it gives every connection its handler.
#[derive(Debug)]
pub(crate) struct Behaviour {
    shared: Arc<Shared>,
}

impl Behaviour {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn handler(&self, peer: PeerId, address: &Multiaddr) -> Handler {
        let link = LinkId(self.shared.links.fetch_add(1, Ordering::Relaxed));
        Handler::new(link, peer, is_relayed(address), self.shared.clone())
    }
}

/// Whether an address leads through a relay.
pub(crate) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == multiaddr::Protocol::P2pCircuit)
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = std::convert::Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, local))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, address))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
