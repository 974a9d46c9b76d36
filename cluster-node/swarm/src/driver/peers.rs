//! Who is connected, and which frames are under way to whom.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cluster_bitswap::{Lane, Peer, Version};
use libp2p::PeerId;

use crate::bitswap::{LaneQueue, LinkId, Opener, Shared};

/// Numbers for peers. A keyed hash: every peer ID has its number at any time, and none needs to be kept. Nobody can choose
/// IDs with the same number, because nobody knows the key; by chance two of a million peers have one with a probability
/// of 1 to 30 million, and then the second of them is not spoken to.
#[derive(Debug, Default)]
pub(super) struct Numbers(RandomState);

impl Numbers {
    pub(super) fn of(&self, peer: &PeerId) -> Peer {
        Peer(self.0.hash_one(peer.to_bytes()))
    }
}

/// The frames of one lane that go by one connection.
#[derive(Debug, Default)]
struct Way {
    /// Once it is used.
    queue: Option<LaneQueue>,
    /// Those that are not known to be written, or lost.
    frames: usize,
}

/// A connection.
#[derive(Debug)]
struct Link {
    id: LinkId,
    relayed: bool,
    opener: Opener,
    wants: Way,
    answers: Way,
}

impl Link {
    fn way(&mut self, lane: Lane) -> &mut Way {
        match lane {
            Lane::Wants => &mut self.wants,
            Lane::Answers => &mut self.answers,
        }
    }
}

/// A connected peer that speaks Bitswap.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) id: PeerId,
    pub(super) version: Version,
    /// When blocks or wants went to or fro last.
    pub(super) active: Instant,
    pub(super) offences: u64,
    /// The best ones first.
    links: Vec<Link>,
}

/// What became of a link that is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// Nothing was known of it.
    Unknown,
    /// The peer has other links. So many frames of each lane are lost.
    Partly { peer: Peer, wants: usize, answers: usize },
    /// It was the last one.
    Wholly { peer: Peer },
}

/// What a new link means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// The peer is new.
    New(Peer),
    /// It had a link already.
    Another,
    /// Its number is another peer's.
    Taken,
}

/// All connected peers that speak Bitswap, bounded by the limits of connections.
#[derive(Debug, Default)]
pub(super) struct Peers {
    pub(super) numbers: Numbers,
    pub(super) remotes: HashMap<Peer, Remote>,
    links: HashMap<LinkId, Peer>,
}

impl Peers {
    pub(super) fn up(&mut self, link: LinkId, id: PeerId, version: Version, relayed: bool, opener: Opener) -> Came {
        let peer = self.numbers.of(&id);
        let new = !self.remotes.contains_key(&peer);
        let remote = self.remotes.entry(peer).or_insert_with(|| Remote {
            id,
            version,
            active: Instant::now(),
            offences: 0,
            links: Vec::new(),
        });
        if remote.id != id {
            return Came::Taken;
        }
        // The newest first: when a peer comes back, its old connection may be dead without anybody having noticed, and what
        // it asks for by the new one must not be answered by that.
        let link_of_peer = Link {
            id: link,
            relayed,
            opener,
            wants: Way::default(),
            answers: Way::default(),
        };
        remote.links.insert(0, link_of_peer);
        // Stable.
        remote.links.sort_by_key(|link| link.relayed);
        self.links.insert(link, peer);
        if new { Came::New(peer) } else { Came::Another }
    }

    pub(super) fn down(&mut self, link: LinkId) -> Gone {
        let Some(peer) = self.links.remove(&link) else {
            return Gone::Unknown;
        };
        let Some(remote) = self.remotes.get_mut(&peer) else {
            return Gone::Unknown;
        };
        let Some(place) = remote.links.iter().position(|other| other.id == link) else {
            return Gone::Unknown;
        };
        let lost = remote.links.remove(place);
        if remote.links.is_empty() {
            self.remotes.remove(&peer);
            return Gone::Wholly { peer };
        }
        Gone::Partly {
            peer,
            wants: lost.wants.frames,
            answers: lost.answers.frames,
        }
    }

    /// Sends a frame by the best connection. False when the peer is not connected.
    pub(super) fn send(&mut self, peer: Peer, lane: Lane, frame: Bytes, shared: &Arc<Shared>) -> bool {
        let Some(remote) = self.remotes.get_mut(&peer) else {
            return false;
        };
        let Some(link) = remote.links.first_mut() else {
            return false;
        };
        let (peer_id, link_id, opener) = (remote.id, link.id, link.opener.clone());
        let way = link.way(lane);
        way.frames += 1;
        way.queue
            .get_or_insert_with(|| LaneQueue::start(link_id, peer_id, lane, opener, shared))
            .send(frame);
        true
    }

    /// A frame of a lane is done with, well or not. None when nothing was under way by that link.
    ///
    /// Frames that go by different connections may be done in another order than they were sent in; the engine only counts
    /// them.
    pub(super) fn done(&mut self, link: LinkId, lane: Lane) -> Option<Peer> {
        let peer = *self.links.get(&link)?;
        let links = &mut self.remotes.get_mut(&peer)?.links;
        let way = links.iter_mut().find(|other| other.id == link)?.way(lane);
        way.frames = way.frames.checked_sub(1)?;
        Some(peer)
    }

    pub(super) fn id(&self, peer: Peer) -> Option<PeerId> {
        self.remotes.get(&peer).map(|remote| remote.id)
    }

    pub(super) fn of_link(&self, link: LinkId) -> Option<Peer> {
        self.links.get(&link).copied()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::*;

    fn shared() -> Arc<Shared> {
        let (control, _) = mpsc::unbounded_channel();
        let (messages, _) = mpsc::channel(1);
        let shared = Shared::new(control, messages, TaskTracker::new(), CancellationToken::new());
        Arc::new(shared)
    }

    fn up(peers: &mut Peers, link: u64, id: PeerId, relayed: bool) -> Came {
        peers.up(LinkId(link), id, Version::V1_2, relayed, Opener::of_nothing())
    }

    fn send(peers: &mut Peers, peer: Peer, lane: Lane) -> bool {
        peers.send(peer, lane, Bytes::from_static(b"frame"), &shared())
    }

    #[tokio::test]
    async fn frames_that_are_lost_with_a_link_are_counted() {
        let mut peers = Peers::default();
        let id = PeerId::random();
        let Came::New(peer) = up(&mut peers, 1, id, false) else {
            panic!("new")
        };
        for _ in 0..3 {
            assert!(send(&mut peers, peer, Lane::Answers));
        }
        assert!(send(&mut peers, peer, Lane::Wants));
        assert_eq!(peers.done(LinkId(1), Lane::Answers), Some(peer));
        // It comes back, and is answered by the new connection from then on.
        assert_eq!(up(&mut peers, 2, id, false), Came::Another);
        assert_eq!(peers.done(LinkId(2), Lane::Answers), None);
        assert!(send(&mut peers, peer, Lane::Answers));
        let gone = Gone::Partly {
            peer,
            wants: 1,
            answers: 2,
        };
        assert_eq!(peers.down(LinkId(1)), gone);
        // Word of a frame that was counted as lost comes too late.
        assert_eq!(peers.done(LinkId(1), Lane::Answers), None);
        assert_eq!(peers.done(LinkId(2), Lane::Answers), Some(peer));
        assert_eq!(peers.done(LinkId(2), Lane::Answers), None);
        assert_eq!(peers.down(LinkId(2)), Gone::Wholly { peer });
        assert_eq!(peers.down(LinkId(2)), Gone::Unknown);
        assert!(!send(&mut peers, peer, Lane::Wants));
        assert!(peers.remotes.is_empty() && peers.links.is_empty());
    }

    #[tokio::test]
    async fn a_relay_is_not_used_when_there_is_a_direct_link() {
        let mut peers = Peers::default();
        let id = PeerId::random();
        let Came::New(peer) = up(&mut peers, 1, id, true) else {
            panic!("new")
        };
        assert!(send(&mut peers, peer, Lane::Wants));
        assert_eq!(up(&mut peers, 2, id, false), Came::Another);
        assert_eq!(up(&mut peers, 3, id, true), Came::Another);
        assert_eq!(peers.done(LinkId(1), Lane::Wants), Some(peer));
        assert!(send(&mut peers, peer, Lane::Wants));
        assert_eq!(peers.done(LinkId(2), Lane::Wants), Some(peer));
        // The relays going is no loss.
        let gone = Gone::Partly {
            peer,
            wants: 0,
            answers: 0,
        };
        assert_eq!(peers.down(LinkId(1)), gone);
        assert_eq!(peers.down(LinkId(3)), gone);
        assert_eq!(peers.id(peer), Some(id));
        assert_eq!(peers.of_link(LinkId(2)), Some(peer));
    }

    #[test]
    fn a_number_belongs_to_one_peer() {
        let mut peers = Peers::default();
        let (first, second) = (PeerId::random(), PeerId::random());
        assert_ne!(peers.numbers.of(&first), peers.numbers.of(&second));
        let Came::New(peer) = up(&mut peers, 1, first, false) else {
            panic!("new")
        };
        // As if both had the same number.
        if let Some(remote) = peers.remotes.get_mut(&peer) {
            remote.id = second;
        }
        assert_eq!(up(&mut peers, 2, first, false), Came::Taken);
        assert_eq!(peers.of_link(LinkId(2)), None);
    }
}
