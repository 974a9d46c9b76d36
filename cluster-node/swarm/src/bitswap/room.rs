//! Who may hold a large message, and who has to wait for it.
//!
//! A large message holds a [`Place`] from its 16th KiB until the engine has it. Peers that wait take turns, so that one with
//! many streams is no sooner served than one with a single one. And nobody keeps the places from others by using them
//! slowly:
//!
//! | what | why |
//! |---|---|
//! | a peer has at most [`PLACES_OF_PEER`], by however many connections | more connections get it nothing |
//! | peers that are asked for nothing have at most [`PLACES_UNASKED`] together | what was asked for can always come |
//! | a place on which too little comes goes to another peer that waits ([`Place::give_way`]) | trickling holds it for seconds only |

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::PeerId;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// Large messages that are being received, hashed, or wait for the engine, of all peers; each has up to 4 MiB. Others are
/// not read on until one is done.
pub(crate) const PLACES: usize = 64;

/// The same of those peers that were not asked for blocks lately. Large messages of theirs are long lists of wants, or
/// blocks that come very late; or they hold up others on purpose.
pub(crate) const PLACES_UNASKED: usize = 32;

/// The same of one peer. Kubo writes to a peer with eight workers, each in a stream of its own.
pub(crate) const PLACES_OF_PEER: usize = 8;

/// So long after it was asked for a block a peer counts as asked. The engine gives a block up sooner than it comes from a
/// slow peer; it comes nevertheless, and is of use.
const ASKED: Duration = Duration::from_secs(60);

/// The places of a node.
#[derive(Debug)]
pub(crate) struct Room {
    state: Mutex<State>,
    /// Changes when somebody waits who may not have waited before.
    waits: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Places that are taken.
    held: usize,
    /// Of those, the ones that were given to peers that had not been asked.
    held_unasked: usize,
    /// Peers that have places or wait.
    peers: HashMap<PeerId, OfPeer>,
    /// Peers that wait, in order of their turns.
    turns: VecDeque<PeerId>,
    /// Until when peers count as asked. Those whose time is over go with [`Room::tidy`].
    asked: HashMap<PeerId, Instant>,
    /// Counts those that wait.
    number: u64,
}

#[derive(Debug, Default)]
struct OfPeer {
    held: usize,
    /// At most one for each stream that is read.
    waiting: VecDeque<(u64, oneshot::Sender<bool>)>,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            waits: watch::Sender::new(()),
        }
    }

    /// Asks for a place. Dropping what is returned gives it up.
    pub(crate) fn enter(self: &Arc<Self>, peer: PeerId) -> Waiting {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        state.number += 1;
        let number = state.number;
        let of_peer = state.peers.entry(peer).or_default();
        of_peer.waiting.push_back((number, sender));
        if of_peer.waiting.len() == 1 {
            state.turns.push_back(peer);
        }
        self.settle(&mut state);
        Waiting {
            room: self.clone(),
            peer,
            number,
            receiver,
            taken: false,
        }
    }

    /// A peer is asked for blocks now.
    pub(crate) fn asked(&self, peer: PeerId) {
        let mut state = self.state.lock();
        state.asked.insert(peer, Instant::now() + ASKED);
        if state
            .peers
            .get(&peer)
            .is_some_and(|of_peer| !of_peer.waiting.is_empty())
        {
            self.settle(&mut state);
        }
    }

    /// Forgets peers that were asked long ago. To be called now and then: without it, every peer that was ever asked would
    /// be kept.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        self.state.lock().asked.retain(|_, until| *until > now);
    }

    /// Gives places to all that may have one.
    fn settle(&self, state: &mut State) {
        let now = Instant::now();
        while let Some(turn) = state.whose_turn(now, None) {
            state.grant(turn, now);
        }
        if !state.turns.is_empty() {
            self.waits.send_replace(());
        }
    }
}

impl State {
    fn is_asked(&self, peer: &PeerId, now: Instant) -> bool {
        self.asked.get(peer).is_some_and(|until| *until > now)
    }

    /// Whose turn it is, as a place in `turns`. Looks at each peer that waits at most once, so at no more than there are
    /// connections.
    fn whose_turn(&self, now: Instant, except: Option<PeerId>) -> Option<usize> {
        if self.held >= PLACES {
            return None;
        }
        self.turns.iter().position(|peer| {
            Some(*peer) != except
                && self.peers.get(peer).is_none_or(|of_peer| of_peer.held < PLACES_OF_PEER)
                && (self.held_unasked < PLACES_UNASKED || self.is_asked(peer, now))
        })
    }

    fn grant(&mut self, turn: usize, now: Instant) {
        let Some(peer) = self.turns.remove(turn) else { return };
        let Some(of_peer) = self.peers.get_mut(&peer) else {
            return;
        };
        let Some((_, sender)) = of_peer.waiting.pop_front() else {
            return;
        };
        if !of_peer.waiting.is_empty() {
            self.turns.push_back(peer);
        }
        let unasked = !self.is_asked(&peer, now);
        self.take(peer, unasked);
        // Fails never: who does not wait any more has taken itself off the list. If it has not, it gives the place back.
        let _ = sender.send(unasked);
    }

    fn take(&mut self, peer: PeerId, unasked: bool) {
        self.held += 1;
        self.held_unasked += usize::from(unasked);
        self.peers.entry(peer).or_default().held += 1;
    }

    fn give_back(&mut self, peer: PeerId, unasked: bool) {
        self.held -= 1;
        self.held_unasked -= usize::from(unasked);
        if let Some(of_peer) = self.peers.get_mut(&peer) {
            of_peer.held -= 1;
        }
        self.forget(peer);
    }

    fn forget(&mut self, peer: PeerId) {
        let idle = |of_peer: &OfPeer| of_peer.held == 0 && of_peer.waiting.is_empty();
        if self.peers.get(&peer).is_some_and(idle) {
            self.peers.remove(&peer);
        }
    }
}

/// Becomes a place.
#[derive(Debug)]
pub(crate) struct Waiting {
    room: Arc<Room>,
    peer: PeerId,
    number: u64,
    /// Whether the place counts among the unasked ones.
    receiver: oneshot::Receiver<bool>,
    taken: bool,
}

impl Future for Waiting {
    type Output = Place;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Place> {
        match Pin::new(&mut self.receiver).poll(context) {
            Poll::Ready(Ok(unasked)) => {
                self.taken = true;
                Poll::Ready(Place {
                    room: self.room.clone(),
                    peer: self.peer,
                    unasked,
                    left: false,
                })
            }
            // The sender is with the room, until it is used.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut state = self.room.state.lock();
        if let Ok(unasked) = self.receiver.try_recv() {
            state.give_back(self.peer, unasked);
            self.room.settle(&mut state);
            return;
        }
        if let Some(of_peer) = state.peers.get_mut(&self.peer) {
            of_peer.waiting.retain(|(number, _)| *number != self.number);
            if of_peer.waiting.is_empty() {
                state.turns.retain(|peer| *peer != self.peer);
            }
        }
        state.forget(self.peer);
    }
}

/// The right to hold one large message.
#[derive(Debug)]
pub(crate) struct Place {
    room: Arc<Room>,
    peer: PeerId,
    unasked: bool,
    /// It is another's already.
    left: bool,
}

impl Place {
    /// Waits until another peer waits that may have this place, and gives it to that. What was held in it has to go now.
    pub(crate) async fn give_way(&mut self) {
        let mut waits = self.room.waits.subscribe();
        loop {
            waits.borrow_and_update();
            if self.pass_on() {
                return;
            }
            // The sender is in the room, which this holds.
            let _ = waits.changed().await;
        }
    }

    /// Whether the place went to another peer. Not to one's own: a peer with a slow line and many streams would else lose
    /// each message to the next one.
    fn pass_on(&mut self) -> bool {
        if self.left {
            return true;
        }
        let now = Instant::now();
        let mut state = self.room.state.lock();
        state.give_back(self.peer, self.unasked);
        match state.whose_turn(now, Some(self.peer)) {
            Some(turn) => {
                state.grant(turn, now);
                self.left = true;
                self.room.settle(&mut state);
            }
            None => state.take(self.peer, self.unasked),
        }
        self.left
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.left {
            let mut state = self.room.state.lock();
            state.give_back(self.peer, self.unasked);
            self.room.settle(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn room() -> Arc<Room> {
        Arc::new(Room::new())
    }

    /// As many places as a peer gets at once, of so many that it asks for, and what is left of its asking.
    fn enter(room: &Arc<Room>, peer: PeerId, count: usize) -> (Vec<Place>, Vec<Waiting>) {
        let (mut places, mut waiting) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let mut asking = room.enter(peer);
            match (&mut asking).now_or_never() {
                Some(place) => places.push(place),
                None => waiting.push(asking),
            }
        }
        (places, waiting)
    }

    fn is_empty(room: &Room) -> bool {
        let state = room.state.lock();
        state.held + state.held_unasked + state.peers.len() + state.turns.len() == 0
    }

    #[tokio::test]
    async fn a_peer_has_its_share_whatever_it_opens_and_the_unasked_half_together() {
        let room = room();
        let (mut places, mut waiting) = (Vec::new(), Vec::new());
        for _ in 0..8 {
            let (got, rest) = enter(&room, PeerId::random(), 40);
            assert!(got.len() <= PLACES_OF_PEER);
            places.extend(got);
            waiting.extend(rest);
        }
        assert_eq!(places.len(), PLACES_UNASKED);
        // Who was asked has room, and no more of it than others.
        for _ in 0..4 {
            let peer = PeerId::random();
            room.asked(peer);
            let (got, rest) = enter(&room, peer, 40);
            assert_eq!(got.len(), PLACES_OF_PEER);
            places.extend(got);
            waiting.extend(rest);
        }
        assert_eq!(places.len(), PLACES);
        let last = PeerId::random();
        room.asked(last);
        let (none, asking) = enter(&room, last, 1);
        assert!(none.is_empty());
        drop((places, asking, waiting));
        assert!(is_empty(&room));
    }

    #[tokio::test]
    async fn peers_that_wait_take_turns_and_who_gives_up_is_passed_over() {
        let room = room();
        let mut places = Vec::new();
        for _ in 0..4 {
            places.extend(enter(&room, PeerId::random(), 8).0);
        }
        assert_eq!(places.len(), PLACES_UNASKED);
        let (_, mut many) = enter(&room, PeerId::random(), 20);
        let (_, mut gone) = enter(&room, PeerId::random(), 1);
        let (_, mut one) = enter(&room, PeerId::random(), 1);
        gone.clear();
        places.truncate(PLACES_UNASKED - 2);
        let first = (&mut many[0]).now_or_never().expect("it came first");
        assert!((&mut many[1]).now_or_never().is_none());
        let second = (&mut one[0]).now_or_never().expect("it is the next one's turn");
        // A place that was given and never looked at is free again.
        drop(first);
        many.remove(1);
        assert!((&mut many[1]).now_or_never().is_some());
        drop((places, many, one, second));
        assert!(is_empty(&room));
    }

    #[tokio::test]
    async fn who_is_asked_while_it_waits_waits_no_more() {
        let room = room();
        let mut places = Vec::new();
        for _ in 0..4 {
            places.extend(enter(&room, PeerId::random(), 8).0);
        }
        let peer = PeerId::random();
        let (_, mut waiting) = enter(&room, peer, 1);
        room.asked(peer);
        assert!((&mut waiting[0]).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_asked_long_ago_counts_as_any_other_and_is_forgotten() {
        let room = room();
        let peer = PeerId::random();
        room.asked(peer);
        tokio::time::advance(ASKED / 2).await;
        room.tidy();
        assert_eq!(room.state.lock().asked.len(), 1);
        tokio::time::advance(ASKED / 2).await;
        let places = enter(&room, peer, 1);
        assert_eq!(room.state.lock().held_unasked, 1);
        room.tidy();
        assert!(room.state.lock().asked.is_empty());
        drop(places);
    }

    #[tokio::test]
    async fn a_place_is_given_to_others_that_may_have_it_and_to_no_more_than_wait() {
        let room = room();
        let slow = PeerId::random();
        let (mut places, own) = enter(&room, slow, 10);
        for _ in 0..3 {
            places.extend(enter(&room, PeerId::random(), 8).0);
        }
        // Its own streams are no reason, and neither is nobody.
        assert!(places[0].give_way().now_or_never().is_none());
        drop(own);
        assert!(places[0].give_way().now_or_never().is_none());
        let (_, mut other) = enter(&room, PeerId::random(), 1);
        assert!(places[0].give_way().now_or_never().is_some());
        let place = (&mut other[0]).now_or_never().expect("it is its own now");
        assert!(places[1].give_way().now_or_never().is_none());
        // Who waits later is heard of.
        let mut given = places.pop().expect("many");
        let giving = tokio::spawn(async move { given.give_way().await });
        let (_, mut late) = enter(&room, PeerId::random(), 1);
        giving.await.expect("no panic");
        assert!((&mut late[0]).now_or_never().is_some());
        drop((places, place, late, other));
        assert!(is_empty(&room));
    }

    #[tokio::test]
    async fn a_place_of_the_asked_is_of_no_use_to_the_unasked() {
        let room = room();
        let mut places = Vec::new();
        for _ in 0..4 {
            places.extend(enter(&room, PeerId::random(), 8).0);
        }
        let asked = PeerId::random();
        room.asked(asked);
        let (mut of_asked, _) = enter(&room, asked, 1);
        let (_, mut waiting) = enter(&room, PeerId::random(), 1);
        assert!(of_asked[0].give_way().now_or_never().is_none());
        assert!(places[0].give_way().now_or_never().is_some());
        assert!((&mut waiting[0]).now_or_never().is_some());
    }
}
