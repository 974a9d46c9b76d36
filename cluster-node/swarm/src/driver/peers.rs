//! Who is connected, and which frames are under way to whom.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_bitswap::{Lane, Peer, Version};
use libp2p::PeerId;

use crate::bitswap::{LaneQueue, LinkId, Opener, Shared};

/// How long a peer may be without a connection until the engine is told that it is gone. A peer that comes back within that
/// goes on where it stopped; without it, what it still sends of what it was asked before would be taken for what it was
/// never asked, which is an offence. The engine finds somebody else for a peer that says nothing for as long as this anyway.
pub(super) const AWAY: Duration = Duration::from_secs(3);

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
    /// The one by which it spoke last.
    spoke: Option<LinkId>,
    /// Since when it has none.
    away: Option<Instant>,
    /// Frames that were lost in the meantime, of wants and of answers; at most as many as the engine has under way.
    lost: (usize, usize),
}

impl Remote {
    fn new(id: PeerId, version: Version) -> Self {
        Self {
            id,
            version,
            active: Instant::now(),
            offences: 0,
            links: Vec::new(),
            spoke: None,
            away: None,
            lost: (0, 0),
        }
    }

    /// The connection for the next frame. Answers go where the peer spoke last: when it comes back, its old connection may
    /// be dead without anybody having noticed, and what is answered to what it asked by that is of no use to it.
    fn best(&mut self, lane: Lane) -> Option<&mut Link> {
        let spoke = self.spoke.filter(|_| lane == Lane::Answers);
        let place = spoke.and_then(|spoke| self.links.iter().position(|link| link.id == spoke));
        self.links.get_mut(place.unwrap_or(0))
    }
}

/// What became of a link that is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// Nothing was known of it.
    Unknown,
    /// The peer has other links. So many frames of each lane are lost.
    Partly { peer: Peer, wants: usize, answers: usize },
    /// It was the last one. The peer may come back, or be reported by [`Peers::take_gone`].
    Away { peer: Peer },
}

/// What a new link means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// The peer is new.
    New(Peer),
    /// It was away. So many frames of each lane were lost.
    Back { peer: Peer, wants: usize, answers: usize },
    /// It had a link already.
    Another,
    /// Its number is another peer's.
    Taken,
}

/// All connected peers that speak Bitswap, and those that are away; bounded by the limits of connections and how fast they
/// come.
#[derive(Debug, Default)]
pub(super) struct Peers {
    pub(super) numbers: Numbers,
    pub(super) remotes: HashMap<Peer, Remote>,
    links: HashMap<LinkId, Peer>,
    /// Those that went away, in order.
    away: VecDeque<(Instant, Peer)>,
}

impl Peers {
    pub(super) fn up(&mut self, link: LinkId, id: PeerId, version: Version, relayed: bool, opener: Opener) -> Came {
        let peer = self.numbers.of(&id);
        let known = self.remotes.contains_key(&peer);
        let remote = self.remotes.entry(peer).or_insert_with(|| Remote::new(id, version));
        if remote.id != id {
            return Came::Taken;
        }
        let link_of_peer = Link {
            id: link,
            relayed,
            opener,
            wants: Way::default(),
            answers: Way::default(),
        };
        // The newest first, but none that goes through a relay before one that does not.
        remote.links.insert(0, link_of_peer);
        remote.links.sort_by_key(|link| link.relayed);
        self.links.insert(link, peer);
        if !known {
            return Came::New(peer);
        }
        if remote.away.take().is_none() {
            return Came::Another;
        }
        let (wants, answers) = std::mem::take(&mut remote.lost);
        if remote.version != version {
            // It is another program now, and knows nothing of what was before.
            remote.version = version;
            return Came::New(peer);
        }
        Came::Back { peer, wants, answers }
    }

    pub(super) fn down(&mut self, link: LinkId, now: Instant) -> Gone {
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
        let (wants, answers) = (lost.wants.frames, lost.answers.frames);
        if remote.links.is_empty() {
            remote.away = Some(now);
            remote.lost = (wants, answers);
            self.away.push_back((now, peer));
            return Gone::Away { peer };
        }
        Gone::Partly { peer, wants, answers }
    }

    /// When the next of those that are away is to be given up.
    pub(super) fn next_gone(&self) -> Option<Instant> {
        self.away.front().map(|(since, _)| *since + AWAY)
    }

    /// One that did not come back in time.
    pub(super) fn take_gone(&mut self, now: Instant) -> Option<Peer> {
        while self.next_gone().is_some_and(|due| due <= now) {
            let (since, peer) = self.away.pop_front()?;
            // It may have come back, and even gone again.
            if self.remotes.get(&peer).is_some_and(|remote| remote.away == Some(since)) {
                self.remotes.remove(&peer);
                return Some(peer);
            }
        }
        None
    }

    /// A peer spoke.
    pub(super) fn heard(&mut self, peer: Peer, link: LinkId) {
        if let Some(remote) = self.remotes.get_mut(&peer) {
            remote.active = Instant::now();
            remote.spoke = Some(link);
        }
    }

    /// Sends a frame by the best connection. False when the peer is not connected.
    pub(super) fn send(&mut self, peer: Peer, lane: Lane, frame: Bytes, shared: &Arc<Shared>) -> bool {
        let Some(remote) = self.remotes.get_mut(&peer) else {
            return false;
        };
        let peer_id = remote.id;
        let Some(link) = remote.best(lane) else {
            // Lost at once; it is told when the peer is back, because the engine would try again at once.
            match lane {
                Lane::Wants => remote.lost.0 += 1,
                Lane::Answers => remote.lost.1 += 1,
            }
            return true;
        };
        let (link_id, opener) = (link.id, link.opener.clone());
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
        // It has another connection, by which it is asked from now on, and answered once it speaks there.
        assert_eq!(up(&mut peers, 2, id, false), Came::Another);
        peers.heard(peer, LinkId(2));
        assert_eq!(peers.done(LinkId(2), Lane::Answers), None);
        assert!(send(&mut peers, peer, Lane::Answers));
        let now = Instant::now();
        let (wants, answers) = (1, 2);
        assert_eq!(peers.down(LinkId(1), now), Gone::Partly { peer, wants, answers });
        // Word of a frame that was counted as lost comes too late.
        assert_eq!(peers.done(LinkId(1), Lane::Answers), None);
        assert_eq!(peers.done(LinkId(2), Lane::Answers), Some(peer));
        assert_eq!(peers.done(LinkId(2), Lane::Answers), None);
    }

    #[tokio::test]
    async fn who_comes_back_goes_on_and_who_does_not_is_gone() {
        let mut peers = Peers::default();
        let id = PeerId::random();
        let Came::New(peer) = up(&mut peers, 1, id, false) else {
            panic!("new")
        };
        assert!(send(&mut peers, peer, Lane::Answers));
        let now = Instant::now();
        assert_eq!(peers.down(LinkId(1), now), Gone::Away { peer });
        // What is sent in the meantime is lost as well.
        assert!(send(&mut peers, peer, Lane::Answers));
        assert!(send(&mut peers, peer, Lane::Wants));
        let (wants, answers) = (1, 2);
        assert_eq!(up(&mut peers, 2, id, false), Came::Back { peer, wants, answers });
        assert_eq!(peers.take_gone(now + AWAY), None);
        let later = now + Duration::from_secs(1);
        assert_eq!(peers.down(LinkId(2), later), Gone::Away { peer });
        assert_eq!(peers.next_gone(), Some(later + AWAY));
        assert_eq!(peers.take_gone(later), None);
        assert_eq!(peers.take_gone(later + AWAY), Some(peer));
        assert_eq!(peers.take_gone(later + AWAY), None);
        assert_eq!(peers.down(LinkId(2), later), Gone::Unknown);
        assert!(!send(&mut peers, peer, Lane::Wants));
        assert!(peers.remotes.is_empty() && peers.links.is_empty() && peers.away.is_empty());
        // Another program at the same peer begins anew.
        assert_eq!(up(&mut peers, 3, id, false), Came::New(peer));
        assert_eq!(peers.down(LinkId(3), later), Gone::Away { peer });
        let other = peers.up(LinkId(4), id, Version::V1_0, false, Opener::of_nothing());
        assert_eq!(other, Came::New(peer));
    }

    #[tokio::test]
    async fn answers_go_where_the_peer_spoke_last_and_wants_not_by_a_relay() {
        let mut peers = Peers::default();
        let id = PeerId::random();
        let Came::New(peer) = up(&mut peers, 1, id, true) else {
            panic!("new")
        };
        assert!(send(&mut peers, peer, Lane::Wants));
        peers.heard(peer, LinkId(1));
        assert_eq!(up(&mut peers, 2, id, false), Came::Another);
        assert_eq!(up(&mut peers, 3, id, true), Came::Another);
        assert_eq!(peers.done(LinkId(1), Lane::Wants), Some(peer));
        for lane in [Lane::Wants, Lane::Answers] {
            assert!(send(&mut peers, peer, lane));
        }
        assert_eq!(peers.done(LinkId(2), Lane::Wants), Some(peer));
        assert_eq!(peers.done(LinkId(1), Lane::Answers), Some(peer));
        peers.heard(peer, LinkId(3));
        assert!(send(&mut peers, peer, Lane::Answers));
        assert_eq!(peers.done(LinkId(3), Lane::Answers), Some(peer));
        // The relays going is no loss, and answers go by what is left.
        let (wants, answers) = (0, 0);
        for relay in [LinkId(1), LinkId(3)] {
            assert_eq!(peers.down(relay, Instant::now()), Gone::Partly { peer, wants, answers });
        }
        assert!(send(&mut peers, peer, Lane::Answers));
        assert_eq!(peers.done(LinkId(2), Lane::Answers), Some(peer));
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
