//! The handle of a running node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cid::Cid;
use cluster_bitswap::{Config, SessionId};
use libp2p::PeerId;
use libp2p::identity::Keypair;
use multiaddr::{Multiaddr, Protocol};
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bitswap::{MESSAGES_WAITING, Shared};
use crate::blocks::Blocks;
use crate::config::SwarmConfig;
use crate::driver::{self, Command, Driver};
use crate::error::{Closed, ConnectError, DhtError, StartError};
use crate::fetch::{Candidate, Fetch, Unread, peers_of};
use crate::host::{self, Call, Host, Whereabouts};
use crate::report::{PeerInfo, Report};

/// Calls that wait for the driver, and as many for the swarm.
const CALLS_WAITING: usize = 256;

/// Streams end with their connections; what does not end within this is left to the runtime.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// A running node of the IPFS network. Clones are handles of the same one. It runs until [`Swarm::shutdown`], or until the
/// last handle and the last [`Fetch`] are dropped.
#[derive(Debug, Clone)]
pub struct Swarm {
    peer_id: PeerId,
    commands: mpsc::Sender<Command>,
    calls: mpsc::Sender<Call>,
    closings: mpsc::UnboundedSender<SessionId>,
    sessions: Arc<AtomicU64>,
    shared: Arc<Shared>,
    whereabouts: Arc<RwLock<Whereabouts>>,
}

impl Swarm {
    /// Starts a node on the tokio runtime that this is called on. It listens when this returns, and dials its bootstrap
    /// peers from then on.
    ///
    /// # Errors
    /// When the configuration is not usable, or an address is taken.
    pub async fn start(config: SwarmConfig, key: Keypair, blocks: Arc<dyn Blocks>) -> Result<Self, StartError> {
        let (control, control_inbox) = mpsc::unbounded_channel();
        let (messages, messages_inbox) = mpsc::channel(MESSAGES_WAITING);
        let (commands, commands_inbox) = mpsc::channel(CALLS_WAITING);
        let (calls, calls_inbox) = mpsc::channel(CALLS_WAITING);
        let (closings, closings_inbox) = mpsc::unbounded_channel();
        let (orders, orders_inbox) = mpsc::unbounded_channel();
        let tasks = TaskTracker::new();
        let shared = Shared::new(control, messages, tasks.clone(), CancellationToken::new());
        let shared = Arc::new(shared);
        let whereabouts = Arc::new(RwLock::new(Whereabouts::default()));
        let connections = config.connections;
        let engine = Config {
            // Those that went away a moment ago are known as well.
            peers_max: 2 * connections.established as usize,
            client: config.client.clone(),
            server: config.server.clone(),
        };
        let high_water = connections.high_water.min(connections.established) as usize;
        let host = Host::start(config, &key, shared.clone(), whereabouts.clone()).await?;
        let driver = Driver::new(engine, high_water, blocks, shared.clone(), orders);
        let inbox = driver::Inbox {
            control: control_inbox,
            messages: messages_inbox,
            commands: commands_inbox,
            closings: closings_inbox,
        };
        tasks.spawn(driver.run(inbox));
        let inbox = host::Inbox {
            calls: calls_inbox,
            orders: orders_inbox,
        };
        tasks.spawn(host.run(inbox));
        Ok(Self {
            peer_id: key.public().to_peer_id(),
            commands,
            calls,
            closings,
            sessions: Arc::default(),
            shared,
            whereabouts,
        })
    }

    /// Its ID: the multihash of its public key.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Where it listens now, without `/p2p`. Ports are those that were taken, never 0.
    pub fn listeners(&self) -> Vec<Multiaddr> {
        self.whereabouts.read().listeners.clone()
    }

    /// Where others may reach it, each with `/p2p/PEER_ID`: its listeners, its confirmed and configured external
    /// addresses, and its relays.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        let whereabouts = self.whereabouts.read();
        let all = whereabouts.listeners.iter().chain(&whereabouts.external);
        let mut addresses: Vec<_> = all
            .map(|address| {
                let own = address.iter().last() == Some(Protocol::P2p(self.peer_id));
                match own {
                    true => address.clone(),
                    false => address.clone().with(Protocol::P2p(self.peer_id)),
                }
            })
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Connects to the peer at this address, which must end in `/p2p/PEER_ID`; see [`Self::connect_to`].
    ///
    /// # Errors
    /// When nobody answers there, or somebody else.
    pub async fn connect(&self, address: Multiaddr) -> Result<PeerId, ConnectError> {
        let Some(Protocol::P2p(peer)) = address.iter().last() else {
            return Err(ConnectError::NoPeerId(address));
        };
        let addresses = vec![address];
        self.connect_to(Candidate { peer, addresses }).await?;
        Ok(peer)
    }

    /// Connects to a peer at any of these addresses, or, without any, at those that are known of it. Returns when it is
    /// connected and has said what it speaks (or has not for some seconds), so that what a fetch wants from then on is
    /// asked of it.
    ///
    /// # Errors
    /// When it can't be reached.
    pub async fn connect_to(&self, candidate: Candidate) -> Result<(), ConnectError> {
        let (answer, connected) = oneshot::channel();
        self.call(Call::Connect { candidate, answer }).await?;
        connected.await.map_err(|_| Closed)?
    }

    /// Ends all connections with a peer. It may come back.
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn disconnect(&self, peer: PeerId) -> Result<(), Closed> {
        self.call(Call::Disconnect(peer)).await
    }

    /// Begins a fetch. The candidates are connected to in the background, as far as they are not. What is wanted before
    /// any is connected is reported as [`crate::FetchEvent::NobodyHas`], and asked for as soon as one is: to hear that
    /// only when it means something, call [`Self::connect_to`] before. A peer that connects later and is no candidate is
    /// asked only when the fetch tries again, which is after ten seconds and more.
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn fetch(&self, candidates: Vec<Candidate>) -> Result<Fetch, Closed> {
        let session = SessionId(self.sessions.fetch_add(1, Ordering::Relaxed));
        let (events, receiver) = mpsc::unbounded_channel();
        let unread = Arc::new(Unread::default());
        let peers = peers_of(&candidates);
        self.call(Call::Dial(candidates)).await?;
        // From here on the session is closed when this is dropped, also in the midst of it.
        let fetch = Fetch {
            session,
            commands: self.commands.clone(),
            calls: self.calls.clone(),
            closings: self.closings.clone(),
            events: receiver,
            unread: unread.clone(),
        };
        let open = Command::Open {
            session,
            candidates: peers,
            events,
            unread,
        };
        self.commands.send(open).await.map_err(|_| Closed)?;
        Ok(fetch)
    }

    /// Tells that blocks are in the store now, with their sizes in bytes, wherever they came from: peers that wait for them
    /// are served, and fetches that want them are told ([`crate::FetchEvent::Held`]).
    ///
    /// To be called for fetched blocks too, after they were stored. Best in batches.
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn stored(&self, blocks: Vec<(Cid, usize)>) -> Result<(), Closed> {
        self.commands.send(Command::Stored(blocks)).await.map_err(|_| Closed)
    }

    /// Looks for peers in the DHT that say they have a block. They come as they are found, each once, without this node
    /// itself, and 64 of them at most. Dropping the receiver ends the query; the channel ends when the query does, after
    /// a minute at most.
    ///
    /// # Errors
    /// When nobody can be asked.
    pub async fn find_providers(&self, cid: Cid) -> Result<mpsc::Receiver<Candidate>, DhtError> {
        let (answer, found) = oneshot::channel();
        self.call(Call::FindProviders { cid, answer }).await?;
        found.await.map_err(|_| Closed)?
    }

    /// Tells the DHT once that this node has a block: the (up to 20) peers closest to it are found and told. They forget
    /// it after 48 hours; tell them again in time (Kubo does after 22). Gives the number of peers that were told; they
    /// don't answer, so it is not known whether they heard it.
    ///
    /// Whoever asks this node itself is told as well, for 48 hours.
    ///
    /// # Errors
    /// When nobody can be told.
    pub async fn provide(&self, cid: Cid) -> Result<usize, DhtError> {
        let (answer, told) = oneshot::channel();
        self.call(Call::Provide { cid, answer }).await?;
        told.await.map_err(|_| Closed)?
    }

    /// How the node stands in the network.
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn report(&self) -> Result<Report, Closed> {
        let (answer, of_driver) = oneshot::channel();
        self.commands.send(Command::Report(answer)).await.map_err(|_| Closed)?;
        let of_driver = of_driver.await.map_err(|_| Closed)?;
        let (answer, of_host) = oneshot::channel();
        self.call(Call::Report(answer)).await?;
        let of_host = of_host.await.map_err(|_| Closed)?;
        let mut remotes: std::collections::HashMap<_, _> = of_driver.peers.into_iter().collect();
        let peers = of_host.peers.into_iter().map(|(peer, addresses, agent, ping)| {
            let remote = remotes.remove(&peer);
            let remote = remote.as_ref();
            PeerInfo {
                peer,
                addresses,
                agent,
                bitswap: remote.map(|remote| remote.version.protocol()),
                latency: ping.or(remote.and_then(|remote| remote.latency)),
                rate: remote.and_then(|remote| remote.rate),
                offences: remote.map_or(0, |remote| remote.offences),
            }
        });
        let whereabouts = self.whereabouts.read();
        Ok(Report {
            peers: peers.collect(),
            listeners: whereabouts.listeners.clone(),
            external: whereabouts.external.clone(),
            nat: of_host.nat,
            dht_server: of_host.dht_server,
            dht_peers: of_host.dht_peers,
            bytes_in: self.shared.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.shared.bytes_out.load(Ordering::Relaxed),
            shunned: of_host.shunned,
            offences: of_driver.offences,
            fetches: of_driver.fetches,
            wanted: of_driver.wanted,
            wants_of_others: of_driver.wants_of_others,
        })
    }

    /// Ends all fetches and connections, and returns when that is done. Further calls of any handle fail.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(SHUTDOWN, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!("some streams did not end in time");
        }
    }

    async fn call(&self, call: Call) -> Result<(), Closed> {
        self.calls.send(call).await.map_err(|_| Closed)
    }
}
