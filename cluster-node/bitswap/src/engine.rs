//! Client and server together.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::{Action, Event, Lane, Peer, PeerReport, SessionId, SessionReport};
use crate::client::{Client, ClientConfig, ClientUsage};
use crate::message::Version;
use crate::server::{Deny, Server, ServerConfig, ServerUsage};

/// How the engine behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Connected peers that are known at a time.
    pub peers_max: usize,
    /// The side that wants blocks.
    pub client: ClientConfig,
    /// The side that has blocks.
    pub server: ServerConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            peers_max: 4_096,
            client: ClientConfig::default(),
            server: ServerConfig::default(),
        }
    }
}

/// What the engine holds, or may hold at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Connected peers.
    pub peers: usize,
    /// The client's part.
    pub client: ClientUsage,
    /// The server's part.
    pub server: ServerUsage,
}

impl Usage {
    /// Whether nothing in it exceeds `max`.
    pub fn is_within(&self, max: &Self) -> bool {
        let (client, server) = (&self.client, &self.server);
        self.peers <= max.peers
            && client.sessions <= max.client.sessions
            && client.wants <= max.client.wants
            && client.facts <= max.client.facts
            && client.told <= max.client.told
            && client.in_flight <= max.client.in_flight
            && client.timers <= max.client.timers
            && server.wants <= max.server.wants
            && server.answers <= max.server.answers
            && server.questions <= max.server.questions
            && server.reading_bytes <= max.server.reading_bytes
            && server.writing_bytes <= max.server.writing_bytes
    }
}

/// Bitswap, decided and not done. See the documentation of the crate for how it is driven.
#[derive(Debug)]
pub struct Engine {
    peers_max: usize,
    peers: BTreeMap<Peer, Version>,
    client: Client,
    server: Server,
}

impl Engine {
    /// An engine without peers. `deny` says what is never served; `seed` is any number that differs from node to node.
    pub fn new(config: Config, seed: u64, deny: Deny) -> Self {
        Self {
            peers_max: config.peers_max,
            peers: BTreeMap::new(),
            client: Client::new(config.client, seed),
            server: Server::new(config.server, deny),
        }
    }

    /// Takes note of what happened. `now` is the time since any fixed moment, by a clock that never goes back.
    ///
    /// What is to be done about it waits in [`Self::poll_action`]; take all of it before the next event.
    pub fn handle(&mut self, event: Event, now: Duration) {
        match event {
            Event::Connected { peer, version } => self.connected(peer, version, now),
            Event::Disconnected { peer } => self.disconnected(peer),
            Event::Received { peer, message } => {
                if self.peers.contains_key(&peer) {
                    // An answer with an empty wantlist does not mean that its sender wants nothing any more.
                    let answers = !message.blocks.is_empty() || !message.presences.is_empty();
                    let full = message.full && !(message.entries.is_empty() && answers);
                    self.server.received(peer, full, &message.entries);
                    let (blocks, presences) = (message.blocks, message.presences);
                    self.client.received(peer, blocks, &presences, message.nameless, now);
                }
            }
            Event::Arriving { peer } => self.client.arriving(peer, now),
            Event::Sent { peer, lane } => match lane {
                Lane::Wants => self.client.sent(peer),
                Lane::Answers => self.server.sent(peer),
            },
            Event::Failed { peer, lane } => match lane {
                Lane::Wants => self.client.failed(peer),
                Lane::Answers => self.server.sent(peer),
            },
            Event::Open { session, candidates } => self.client.open(session, candidates, now),
            Event::Candidates { session, peers } => self.client.candidates(session, peers),
            Event::Want { session, cids, roots } => self.client.want(session, cids, roots, now),
            Event::Unwant { session, cids } => self.client.unwant(session, &cids),
            Event::Close { session } => self.client.close(session),
            Event::Stored { blocks } => {
                for (cid, size) in &blocks {
                    self.server.stored(cid, *size);
                    self.client.stored(cid, now);
                }
            }
            Event::LookedUp { ticket, sizes } => self.server.looked_up(ticket, &sizes),
            Event::Read { ticket, blocks } => self.server.blocks_read(ticket, &blocks),
            Event::Tick => {}
        }
        self.client.tick(now);
        self.client.pump(now);
        self.server.pump(now);
    }

    /// The next thing to do, if any.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.client.out.pop_front().or_else(|| self.server.out.pop_front())
    }

    /// When [`Event::Tick`] is due, if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Duration> {
        let (client, server) = (self.client.next_deadline(), self.server.next_deadline());
        client.into_iter().chain(server).min()
    }

    /// How a fetch is getting on; none when it is not open.
    pub fn session(&self, session: SessionId) -> Option<SessionReport> {
        self.client.session(session)
    }

    /// How many more blocks a fetch may want now without being refused.
    pub fn room(&self, session: SessionId) -> usize {
        self.client.room(session)
    }

    /// How a peer answers; none when it is not connected.
    pub fn peer(&self, peer: Peer) -> Option<PeerReport> {
        self.client.peer(peer)
    }

    /// What is held now. Walks over everything: for tests and rare looks.
    pub fn usage(&self) -> Usage {
        Usage {
            peers: self.peers.len(),
            client: self.client.usage(),
            server: self.server.usage(),
        }
    }

    /// What can be held at most with the peers that are connected now.
    pub fn usage_max(&self) -> Usage {
        Usage {
            peers: self.peers_max,
            client: self.client.usage_max(self.peers.len()),
            server: self.server.usage_max(self.peers.len()),
        }
    }

    fn connected(&mut self, peer: Peer, version: Version, now: Duration) {
        // Whoever is connected already comes anew.
        self.disconnected(peer);
        if self.peers.len() >= self.peers_max {
            self.client.out.push_back(Action::PeerRefused { peer });
            return;
        }
        self.peers.insert(peer, version);
        self.client.connected(peer, version, now);
        self.server.connected(peer, version);
    }

    fn disconnected(&mut self, peer: Peer) {
        if self.peers.remove(&peer).is_some() {
            self.client.disconnected(peer);
            self.server.disconnected(peer);
        }
    }
}
