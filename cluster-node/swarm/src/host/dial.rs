//! Connecting to peers, a bounded number at a time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::swarm::DialError;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use multiaddr::{Multiaddr, Protocol};
use tokio::sync::oneshot;

use super::{ADDRESSES_MAX, Host};
use crate::error::ConnectError;
use crate::fetch::Candidate;

/// Peers that are being dialled at a time, on behalf of fetches and callers. Half of what may be pending by default, so
/// that the DHT can dial as well.
const DIALLING_MAX: usize = 32;

/// Peers that wait for that; more are not dialled.
const QUEUED_MAX: usize = 1_024;

/// Callers that wait for one peer.
const WAITING_MAX: usize = 256;

/// A peer that was to be dialled while it was connected, and is not any more within this, is dialled after all: its
/// connection was about to end, and whoever wants the peer may have heard of that before.
const CLOSING: Duration = Duration::from_secs(5);

type Waiting = oneshot::Sender<Result<(), ConnectError>>;

#[derive(Debug, Default)]
pub(super) struct Dials {
    queue: VecDeque<Candidate>,
    dialling: HashSet<PeerId>,
    waiting: HashMap<PeerId, Vec<Waiting>>,
    /// Those that were not dialled because they are connected; at most [`QUEUED_MAX`].
    connected: HashMap<PeerId, (Instant, Candidate)>,
}

impl Dials {
    pub(super) fn succeeded(&mut self, peer: PeerId) {
        self.dialling.remove(&peer);
        for answer in self.waiting.remove(&peer).into_iter().flatten() {
            let _ = answer.send(Ok(()));
        }
    }

    pub(super) fn failed(&mut self, peer: PeerId, error: &DialError) {
        // Another dial of the same peer, by the DHT for example, may still be under way.
        if matches!(error, DialError::DialPeerConditionFalse(_)) {
            return;
        }
        self.dialling.remove(&peer);
        self.give_up(peer, &error.to_string());
    }

    fn give_up(&mut self, peer: PeerId, reason: &str) {
        tracing::debug!(%peer, reason, "not connected");
        for answer in self.waiting.remove(&peer).into_iter().flatten() {
            let reason = reason.to_owned();
            let _ = answer.send(Err(ConnectError::Failed { peer, reason }));
        }
    }
}

/// The peer at the end of an address.
pub(crate) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

impl Host {
    pub(super) fn connect(&mut self, candidate: Candidate, answer: Waiting) {
        let peer = candidate.peer;
        let failed = |reason: &str| ConnectError::Failed {
            peer,
            reason: reason.to_owned(),
        };
        if self.swarm.is_connected(&peer) {
            let _ = answer.send(Ok(()));
        } else if self.is_shunned(&peer) {
            let _ = answer.send(Err(ConnectError::Shunned(peer)));
        } else if peer == *self.swarm.local_peer_id() {
            let _ = answer.send(Err(failed("it is this node itself")));
        } else {
            let waiting = self.dials.waiting.entry(peer).or_default();
            if waiting.len() >= WAITING_MAX {
                let _ = answer.send(Err(failed("too many callers wait for it already")));
                return;
            }
            waiting.push(answer);
            if !self.dial(candidate) {
                self.dials.give_up(peer, "too many peers wait to be dialled");
            }
        }
    }

    /// The last connection with a peer is gone.
    pub(super) fn gone(&mut self, peer: PeerId) {
        if let Some((at, candidate)) = self.dials.connected.remove(&peer)
            && at.elapsed() < CLOSING
        {
            self.dial(candidate);
        }
    }

    /// Queues a dial. False when there is no room for it.
    pub(super) fn dial(&mut self, mut candidate: Candidate) -> bool {
        let peer = candidate.peer;
        if self.is_shunned(&peer) || peer == *self.swarm.local_peer_id() {
            return true;
        }
        candidate.addresses.truncate(ADDRESSES_MAX);
        if self.swarm.is_connected(&peer) {
            let connected = &mut self.dials.connected;
            if connected.len() >= QUEUED_MAX {
                connected.retain(|_, (at, _)| at.elapsed() < CLOSING);
            }
            if connected.len() < QUEUED_MAX {
                connected.insert(peer, (Instant::now(), candidate));
            }
            return true;
        }
        if let Some(queued) = self.dials.queue.iter_mut().find(|queued| queued.peer == peer) {
            // The newer addresses are the better ones.
            if !candidate.addresses.is_empty() {
                *queued = candidate;
            }
            return true;
        }
        if self.dials.queue.len() >= QUEUED_MAX {
            return false;
        }
        self.dials.queue.push_back(candidate);
        true
    }

    /// Dials those that wait, as far as there may be more.
    pub(super) fn dial_queued(&mut self) {
        while self.dials.dialling.len() < DIALLING_MAX
            && let Some(candidate) = self.dials.queue.pop_front()
        {
            let Candidate { peer, addresses } = candidate;
            if self.swarm.is_connected(&peer) {
                self.dials.succeeded(peer);
                continue;
            }
            let options = DialOpts::peer_id(peer)
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .addresses(addresses)
                .extend_addresses_through_behaviour()
                .build();
            self.dials.dialling.insert(peer);
            match self.swarm.dial(options) {
                Ok(()) => {}
                // Somebody else dials it, and what comes of that is heard of as well.
                Err(DialError::DialPeerConditionFalse(_)) => {}
                Err(error) => self.dials.failed(peer, &error),
            }
        }
    }
}
