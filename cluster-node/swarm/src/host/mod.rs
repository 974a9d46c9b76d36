//! The task that owns libp2p's swarm: connections, the DHT, and how the node is reached.

mod behaviour;
mod dht;
mod dial;
mod reach;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::core::transport::ListenerId;
use libp2p::identity::Keypair;
use libp2p::swarm::{ConnectionId, Swarm, SwarmEvent};
use libp2p::{PeerId, identify, ping};
use multiaddr::{Multiaddr, Protocol};
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::bitswap::Shared;
use crate::config::SwarmConfig;
use crate::error::{ConnectError, DhtError, StartError};
use crate::fetch::Candidate;
use crate::report::NatStatus;
use crate::transport;
use behaviour::{Behaviour, BehaviourEvent};
use dht::Dht;
use dial::Dials;
use reach::Reach;

/// How long a connection is kept that nothing uses. Those of peers that speak Bitswap are in use always.
const IDLE: Duration = Duration::from_secs(30);

/// How long the system may take to listen.
const LISTEN: Duration = Duration::from_secs(10);

/// How often what is missing is looked for: bootstrap peers, relays, shunned ones whose time is over.
const UPKEEP: Duration = Duration::from_secs(5);

/// How often expired records of the DHT are dropped.
const SWEEP: Duration = Duration::from_secs(600);

/// Peers that are shunned at a time; then the oldest is forgiven.
const SHUNNED_MAX: usize = 4_096;

/// Addresses of a peer that are believed. Honest ones have a dozen.
const ADDRESSES_MAX: usize = 16;

/// Longest agent version that is kept, in bytes.
const AGENT_BYTES_MAX: usize = 64;

/// Streams of one connection that are agreeing on a protocol at a time; what is beyond is reset.
const NEGOTIATING_MAX: usize = 64;

/// What the handle asks of the swarm. 256 of them wait at most, then whoever asks waits too.
#[derive(Debug)]
pub(crate) enum Call {
    Connect {
        candidate: Candidate,
        answer: oneshot::Sender<Result<(), ConnectError>>,
    },
    Dial(Vec<Candidate>),
    Disconnect(PeerId),
    FindProviders {
        cid: cid::Cid,
        answer: oneshot::Sender<Result<mpsc::Receiver<Candidate>, DhtError>>,
    },
    Provide {
        cid: cid::Cid,
        answer: oneshot::Sender<Result<usize, DhtError>>,
    },
    Report(oneshot::Sender<HostReport>),
}

/// What the driver orders.
#[derive(Debug)]
pub(crate) enum Order {
    Disconnect(PeerId),
    Shun(PeerId),
}

/// The swarm's part of the report.
#[derive(Debug, Default)]
pub(crate) struct HostReport {
    pub(crate) peers: Vec<(PeerId, Vec<Multiaddr>, String, Option<Duration>)>,
    pub(crate) nat: NatStatus,
    pub(crate) dht_server: bool,
    pub(crate) dht_peers: usize,
    pub(crate) shunned: Vec<(PeerId, Duration)>,
}

/// Where the node is, for everybody to read.
#[derive(Debug, Default)]
pub(crate) struct Whereabouts {
    pub(crate) listeners: Vec<Multiaddr>,
    pub(crate) external: Vec<Multiaddr>,
}

/// The receiving ends of the swarm's channels.
pub(crate) struct Inbox {
    pub(crate) calls: mpsc::Receiver<Call>,
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
}

#[derive(Debug, Default)]
struct HostPeer {
    connections: HashMap<ConnectionId, Multiaddr>,
    agent: String,
    latency: Option<Duration>,
    /// Whether it offers to be a relay.
    relays: bool,
}

pub(crate) struct Host {
    swarm: Swarm<Behaviour>,
    config: SwarmConfig,
    stop: CancellationToken,
    whereabouts: Arc<RwLock<Whereabouts>>,
    peers: HashMap<PeerId, HostPeer>,
    /// The oldest first.
    shunned: Vec<(PeerId, Instant)>,
    dials: Dials,
    dht: Dht,
    reach: Reach,
}

impl Host {
    /// Sets up the swarm, and listens.
    pub(crate) async fn start(
        config: SwarmConfig,
        key: &Keypair,
        shared: Arc<Shared>,
        whereabouts: Arc<RwLock<Whereabouts>>,
    ) -> Result<Self, StartError> {
        check(&config)?;
        let (transport, relay) = transport::build(&config, key)?;
        let stop = shared.stop.clone();
        let behaviour = Behaviour::new(&config, key, relay, shared);
        let options = libp2p::swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(IDLE)
            .with_max_negotiating_inbound_streams(NEGOTIATING_MAX)
            .with_smart_dial();
        let swarm = Swarm::new(transport, behaviour, key.public().to_peer_id(), options);
        let mut host = Self {
            swarm,
            stop,
            whereabouts,
            peers: HashMap::new(),
            shunned: Vec::new(),
            dials: Dials::default(),
            dht: Dht::default(),
            reach: Reach::default(),
            config,
        };
        host.listen().await?;
        for address in host.config.announce.clone() {
            host.swarm.add_external_address(address);
        }
        host.refresh_whereabouts();
        Ok(host)
    }

    async fn listen(&mut self) -> Result<(), StartError> {
        let failed = |address: &Multiaddr, reason: String| StartError::Listen {
            address: address.clone(),
            reason,
        };
        for address in &self.config.listen {
            is_free(address).map_err(|e| failed(address, e.to_string()))?;
        }
        let mut pending = HashMap::<ListenerId, Multiaddr>::new();
        for address in self.config.listen.clone() {
            let id = self.swarm.listen_on(address.clone());
            let id = id.map_err(|e| failed(&address, e.to_string()))?;
            pending.insert(id, address);
        }
        let deadline = tokio::time::Instant::now() + LISTEN;
        while let Some(address) = pending.values().next().cloned() {
            let event = tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await;
            let event = event.map_err(|_| failed(&address, "the system does not answer".into()))?;
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => {
                    pending.remove(listener_id);
                }
                SwarmEvent::ListenerClosed {
                    listener_id, reason, ..
                } => {
                    if let Some(address) = pending.get(listener_id) {
                        return Err(failed(address, format!("{reason:?}")));
                    }
                }
                _ => {}
            }
            self.event(event);
        }
        Ok(())
    }

    /// Runs until the node stops; then all connections are closed.
    pub(crate) async fn run(mut self, mut inbox: Inbox) {
        let mut upkeep = tokio::time::interval(UPKEEP);
        upkeep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sweep = tokio::time::interval(SWEEP);
        let stop = self.stop.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                event = self.swarm.select_next_some() => self.event(event),
                Some(call) = inbox.calls.recv() => self.call(call),
                Some(order) = inbox.orders.recv() => match order {
                    Order::Disconnect(peer) => self.disconnect(peer),
                    Order::Shun(peer) => self.shun(peer),
                },
                _ = upkeep.tick() => self.upkeep(),
                _ = sweep.tick() => {
                    if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                        kad.store_mut().sweep(Instant::now());
                    }
                }
            }
        }
        self.close().await;
    }

    /// Says goodbye to everybody, for a second at most.
    async fn close(mut self) {
        for peer in self.peers.keys().copied().collect::<Vec<_>>() {
            self.disconnect(peer);
        }
        let goodbye = async {
            while self.swarm.network_info().connection_counters().num_connections() > 0 {
                self.swarm.select_next_some().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
    }

    fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.behaviour_event(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                let address = endpoint.get_remote_address().clone();
                let peer = self.peers.entry(peer_id).or_default();
                peer.connections.insert(connection_id, address);
                self.dials.succeeded(peer_id);
            }
            SwarmEvent::ConnectionClosed {
                peer_id, connection_id, ..
            } => {
                if let Some(peer) = self.peers.get_mut(&peer_id) {
                    peer.connections.remove(&connection_id);
                    if peer.connections.is_empty() {
                        self.peers.remove(&peer_id);
                        self.gone(peer_id);
                    }
                }
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                error,
                ..
            } => self.dials.failed(peer, &error),
            SwarmEvent::IncomingConnectionError {
                send_back_addr, error, ..
            } => tracing::debug!(from = %send_back_addr, %error, "a connection was not taken"),
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::debug!(%address, "listening");
                if self.config.lan {
                    // Nobody could confirm it, and everybody who can use it is near.
                    self.swarm.add_external_address(address);
                }
                self.refresh_whereabouts();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                if self.config.lan {
                    self.swarm.remove_external_address(&address);
                }
                self.refresh_whereabouts();
            }
            SwarmEvent::ListenerClosed {
                listener_id, reason, ..
            } => {
                self.reach.listener_closed(listener_id);
                if let Err(error) = reason {
                    tracing::warn!(%error, "a listener was closed");
                }
                self.refresh_whereabouts();
            }
            SwarmEvent::ExternalAddrConfirmed { .. } | SwarmEvent::ExternalAddrExpired { .. } => {
                self.refresh_whereabouts();
            }
            _ => {}
        }
        self.dial_queued();
    }

    fn behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => self.identified(peer_id, info),
            BehaviourEvent::Ping(ping::Event { peer, result, .. }) => {
                if let (Ok(latency), Some(peer)) = (result, self.peers.get_mut(&peer)) {
                    peer.latency = Some(latency);
                }
            }
            BehaviourEvent::Kad(event) => self.dht_event(event),
            BehaviourEvent::AutonatClient(event) => {
                tracing::debug!(address = %event.tested_addr, server = %event.server, result = ?event.result, "tested");
                self.reach.tested(event.result.is_ok());
            }
            BehaviourEvent::Relay(event) => tracing::debug!(?event, "relay"),
            BehaviourEvent::Dcutr(event) => {
                tracing::debug!(peer = %event.remote_peer_id, ok = event.result.is_ok(), "hole punching");
            }
            _ => {}
        }
    }

    fn identified(&mut self, peer_id: PeerId, info: identify::Info) {
        let dht = behaviour::dht_protocol(self.config.lan);
        if let Some(peer) = self.peers.get_mut(&peer_id) {
            peer.relays = info.protocols.contains(&libp2p::relay::HOP_PROTOCOL_NAME);
            let mut agent = info.agent_version;
            let cut = agent.floor_char_boundary(AGENT_BYTES_MAX);
            agent.truncate(cut);
            peer.agent = agent;
        }
        let lan = self.config.lan;
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut()
            && info.protocols.contains(&dht)
        {
            for address in info.listen_addrs.into_iter().take(ADDRESSES_MAX) {
                // Private addresses are of no use to anybody in a public DHT.
                if lan || reach::is_global(&address) {
                    kad.add_address(&peer_id, address);
                }
            }
        }
    }

    fn call(&mut self, call: Call) {
        match call {
            Call::Connect { candidate, answer } => self.connect(candidate, answer),
            Call::Dial(candidates) => {
                for candidate in candidates {
                    self.dial(candidate);
                }
            }
            Call::Disconnect(peer) => self.disconnect(peer),
            Call::FindProviders { cid, answer } => {
                let _ = answer.send(self.find_providers(&cid));
            }
            Call::Provide { cid, answer } => self.provide(&cid, answer),
            Call::Report(answer) => {
                let _ = answer.send(self.report());
            }
        }
        self.dial_queued();
    }

    fn disconnect(&mut self, peer: PeerId) {
        // An error means that it is not connected.
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    fn shun(&mut self, peer: PeerId) {
        let now = Instant::now();
        self.shunned.retain(|(other, _)| *other != peer);
        if self.shunned.len() >= SHUNNED_MAX {
            let (forgiven, _) = self.shunned.remove(0);
            self.swarm.behaviour_mut().shunned.unblock_peer(forgiven);
        }
        self.shunned.push((peer, now + self.config.shun));
        // Also ends its connections.
        self.swarm.behaviour_mut().shunned.block_peer(peer);
        tracing::warn!(%peer, seconds = self.config.shun.as_secs(), "shunned");
    }

    fn is_shunned(&self, peer: &PeerId) -> bool {
        self.swarm.behaviour().shunned.blocked_peers().contains(peer)
    }

    fn upkeep(&mut self) {
        let now = Instant::now();
        let behaviour = self.swarm.behaviour_mut();
        self.shunned.retain(|(peer, until)| {
            let over = *until <= now;
            if over {
                behaviour.shunned.unblock_peer(*peer);
            }
            !over
        });
        self.bootstrap(now);
        self.seek_relays(now);
        self.dial_queued();
    }

    fn refresh_whereabouts(&mut self) {
        let mut whereabouts = self.whereabouts.write();
        whereabouts.listeners = self.swarm.listeners().cloned().collect();
        whereabouts.external = self.swarm.external_addresses().cloned().collect();
    }

    fn report(&mut self) -> HostReport {
        let now = Instant::now();
        let peers = self.peers.iter().map(|(id, peer)| {
            let addresses: HashSet<_> = peer.connections.values().cloned().collect();
            (*id, addresses.into_iter().collect(), peer.agent.clone(), peer.latency)
        });
        let peers = peers.collect();
        let shunned = self.shunned.iter();
        let shunned = shunned.map(|(peer, until)| (*peer, until.saturating_duration_since(now)));
        let shunned = shunned.collect();
        HostReport {
            peers,
            nat: self.nat(),
            dht_server: self.dht_server(),
            dht_peers: self.dht_peers(),
            shunned,
        }
    }
}

/// Whether the configuration is usable.
fn check(config: &SwarmConfig) -> Result<(), StartError> {
    let bad = |field, address: &Multiaddr, reason: &str| StartError::Address {
        field,
        address: address.clone(),
        reason: reason.to_owned(),
    };
    for address in &config.listen {
        if config.swarm_key.is_some()
            && address
                .iter()
                .any(|part| matches!(part, Protocol::QuicV1 | Protocol::Udp(_)))
        {
            let reason = "is not TCP, and a private network has no other transport; listen at /ip4/…/tcp/… only";
            return Err(bad("listen", address, reason));
        }
    }
    for (field, addresses) in [("bootstrap", &config.bootstrap), ("relays", &config.relays)] {
        for address in addresses {
            if dial::peer_of(address).is_none() {
                let reason = "does not say whose it is; put /p2p/PEER_ID at its end";
                return Err(bad(field, address, reason));
            }
        }
    }
    Ok(())
}

/// Whether a TCP port is free. libp2p shares its ports between sockets, so that connections can go out from the port that
/// it listens at; so a second node at the same port would go unnoticed, and each would get some of the other's peers.
fn is_free(address: &Multiaddr) -> std::io::Result<()> {
    let mut parts = address.iter();
    let ip: std::net::IpAddr = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => std::net::TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}
