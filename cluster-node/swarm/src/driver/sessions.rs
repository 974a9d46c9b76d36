//! The fetches that are open, and what of their wants the engine knows.
//!
//! The engine asks for all that it is told, as fast as it can. So it is told only as much as the fetch can hold until
//! somebody takes it: whoever fetches slowly holds up itself, and no memory.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cid::Cid;
use cluster_bitswap::{Event, Refusal, SessionId};
use tokio::sync::mpsc;

use crate::fetch::{FETCH_WANTS_MAX, FetchEvent, UNREAD_BYTES_MAX, Unread};

/// Wants of a fetch that the engine always knows, however large the blocks are: as many as it asks for at a time.
const TOLD_MIN: usize = 64;

/// Wants of a fetch that the engine knows, however small the blocks are: so many that it never runs out of them.
const TOLD_MAX: usize = 1_024;

/// What a block is taken to have before any has come, in bytes: what most have.
const BLOCK_GUESS: usize = 256 << 10;

#[derive(Debug)]
struct Session {
    events: mpsc::UnboundedSender<FetchEvent>,
    unread: Arc<Unread>,
    /// All wants, and whether the engine knows them.
    wants: HashMap<Cid, bool>,
    /// Those that it does not know yet, in order. One that was given up may still stand here.
    waiting: VecDeque<(Cid, bool)>,
    /// How many it knows.
    told: usize,
    blocks: u64,
    bytes: u64,
}

impl Session {
    /// How many wants the engine may know now.
    fn room(&self) -> usize {
        let average = match self.blocks {
            0 => BLOCK_GUESS,
            blocks => usize::try_from(self.bytes / blocks).unwrap_or(usize::MAX).max(1),
        };
        (UNREAD_BYTES_MAX / average)
            .clamp(TOLD_MIN, TOLD_MAX)
            .saturating_sub(self.told)
    }

    fn over(&mut self, cid: &Cid) -> bool {
        match self.wants.remove(cid) {
            Some(told) => {
                self.told -= usize::from(told);
                true
            }
            None => false,
        }
    }

    fn send(&self, event: FetchEvent) {
        let bytes = event.bytes();
        self.unread.bytes.fetch_add(bytes, Ordering::AcqRel);
        if self.events.send(event).is_err() {
            // The fetch has ended; word of it is under way.
            self.unread.bytes.fetch_sub(bytes, Ordering::AcqRel);
        }
    }
}

/// All fetches; the engine bounds their number by not taking wants of any more.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: HashMap<SessionId, Session>,
    /// Those that may have something to tell to the engine.
    hungry: BTreeSet<SessionId>,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn wanted(&self) -> usize {
        self.open.values().map(|session| session.wants.len()).sum()
    }

    pub(super) fn open(&mut self, id: SessionId, events: mpsc::UnboundedSender<FetchEvent>, unread: Arc<Unread>) {
        let session = Session {
            events,
            unread,
            wants: HashMap::new(),
            waiting: VecDeque::new(),
            told: 0,
            blocks: 0,
            bytes: 0,
        };
        self.open.insert(id, session);
    }

    /// Whether it was open.
    pub(super) fn close(&mut self, id: SessionId) -> bool {
        self.hungry.remove(&id);
        self.open.remove(&id).is_some()
    }

    pub(super) fn want(&mut self, id: SessionId, cids: Vec<Cid>, roots: bool) {
        let Some(session) = self.open.get_mut(&id) else { return };
        let mut refused = Vec::new();
        for cid in cids {
            let full = session.wants.len() >= FETCH_WANTS_MAX;
            match session.wants.entry(cid) {
                Entry::Occupied(_) => {}
                Entry::Vacant(_) if full => refused.push(cid),
                Entry::Vacant(entry) => {
                    entry.insert(false);
                    session.waiting.push_back((cid, roots));
                }
            }
        }
        if !refused.is_empty() {
            let reason = Refusal::SessionFull;
            session.send(FetchEvent::Refused { cids: refused, reason });
        }
        self.hungry.insert(id);
    }

    /// Those of the wants that the engine knows, and has to be told.
    pub(super) fn unwant(&mut self, id: SessionId, cids: Vec<Cid>) -> Vec<Cid> {
        let Some(session) = self.open.get_mut(&id) else {
            return Vec::new();
        };
        let mut known = Vec::new();
        for cid in cids {
            if session.wants.get(&cid) == Some(&true) {
                known.push(cid);
            }
            session.over(&cid);
        }
        // What was given up before it was told would pile up otherwise.
        if session.waiting.len() > 2 * FETCH_WANTS_MAX {
            let wants = &session.wants;
            session.waiting.retain(|(cid, _)| wants.get(cid) == Some(&false));
        }
        self.hungry.insert(id);
        known
    }

    /// Something of a fetch was taken, or may have been.
    pub(super) fn resume(&mut self, id: SessionId) {
        self.hungry.insert(id);
    }

    /// All fetches that wait for what they hold to be taken.
    pub(super) fn resume_held(&mut self) {
        let held = self.open.iter().filter(|(_, session)| !session.waiting.is_empty());
        self.hungry.extend(held.map(|(id, _)| *id));
    }

    pub(super) fn block(&mut self, ids: &[SessionId], event: &FetchEvent, cid: &Cid) {
        for id in ids {
            let Some(session) = self.open.get_mut(id) else { continue };
            if session.over(cid) {
                session.blocks += u64::from(event.bytes() > 0);
                session.bytes += event.bytes() as u64;
                session.send(event.clone());
                self.hungry.insert(*id);
            }
        }
    }

    pub(super) fn nobody_has(&mut self, id: SessionId, cids: Vec<Cid>) {
        if let Some(session) = self.open.get(&id) {
            session.send(FetchEvent::NobodyHas(cids));
        }
    }

    pub(super) fn refused(&mut self, id: SessionId, cids: Vec<Cid>, reason: Refusal) {
        let Some(session) = self.open.get_mut(&id) else { return };
        for cid in &cids {
            session.over(cid);
        }
        session.send(FetchEvent::Refused { cids, reason });
    }

    /// What the engine is to be told next, if anything.
    pub(super) fn feed(&mut self) -> Option<Event> {
        while let Some(id) = self.hungry.pop_first() {
            let Some(session) = self.open.get_mut(&id) else {
                continue;
            };
            if session.unread.bytes.load(Ordering::Acquire) > UNREAD_BYTES_MAX {
                session.unread.holding.store(true, Ordering::Release);
                // It may all have been taken just before that was set.
                if session.unread.bytes.load(Ordering::Acquire) > UNREAD_BYTES_MAX / 2 {
                    continue;
                }
            }
            let room = session.room();
            let mut cids = Vec::new();
            let mut flag = None;
            while cids.len() < room
                && let Some((cid, roots)) = session.waiting.front().copied()
            {
                // One event has one flag.
                if *flag.get_or_insert(roots) != roots {
                    self.hungry.insert(id);
                    break;
                }
                session.waiting.pop_front();
                // Not when it was given up, or was told as another entry.
                if let Some(told) = session.wants.get_mut(&cid)
                    && !std::mem::replace(told, true)
                {
                    cids.push(cid);
                }
            }
            if !cids.is_empty() {
                session.told += cids.len();
                return Some(Event::Want {
                    session: id,
                    cids,
                    roots: flag.unwrap_or(false),
                });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cluster_bitswap::{BlockHasher as _, Sha2Hasher};
    use libp2p::PeerId;

    use super::*;

    const ID: SessionId = SessionId(1);

    fn cid(number: usize) -> Cid {
        let digest = Sha2Hasher.digest(0x12, 32, &number.to_be_bytes()).expect("known");
        Cid::new_v1(0x55, digest)
    }

    fn block(cid: Cid, bytes: usize) -> FetchEvent {
        let data = Bytes::from(vec![0; bytes]);
        FetchEvent::Block {
            cid,
            data,
            peer: PeerId::random(),
        }
    }

    fn open() -> (Sessions, mpsc::UnboundedReceiver<FetchEvent>, Arc<Unread>) {
        let mut sessions = Sessions::default();
        let (events, receiver) = mpsc::unbounded_channel();
        let unread = Arc::new(Unread::default());
        sessions.open(ID, events, unread.clone());
        (sessions, receiver, unread)
    }

    fn fed(sessions: &mut Sessions) -> Vec<(Cid, bool)> {
        let mut all = Vec::new();
        while let Some(event) = sessions.feed() {
            let Event::Want { cids, roots, .. } = event else {
                panic!("{event:?}")
            };
            all.extend(cids.into_iter().map(|cid| (cid, roots)));
        }
        all
    }

    #[test]
    fn who_does_not_take_what_came_gets_no_more() {
        let (mut sessions, mut events, unread) = open();
        sessions.want(ID, (0..4000).map(cid).collect(), false);
        let mut asked = VecDeque::from(fed(&mut sessions));
        assert_eq!(asked.len(), UNREAD_BYTES_MAX / BLOCK_GUESS);
        let mut came = 0;
        while let Some((cid, _)) = asked.pop_front() {
            sessions.block(&[ID], &block(cid, 2 << 20), &cid);
            came += 1;
            asked.extend(fed(&mut sessions));
        }
        let held = unread.bytes.load(Ordering::Acquire);
        assert!(held > UNREAD_BYTES_MAX);
        assert!(
            held <= UNREAD_BYTES_MAX + (UNREAD_BYTES_MAX / BLOCK_GUESS) * (2 << 20),
            "{held} bytes"
        );
        assert!(unread.holding.load(Ordering::Acquire));
        // Taking it lets it go on, with as many as fit now.
        while let Ok(event) = events.try_recv() {
            unread.bytes.fetch_sub(event.bytes(), Ordering::AcqRel);
        }
        sessions.resume(ID);
        assert_eq!(fed(&mut sessions).len(), TOLD_MIN);
        assert_eq!(sessions.wanted(), 4000 - came);
    }

    #[test]
    fn small_blocks_are_asked_for_in_large_numbers() {
        let (mut sessions, _events, _) = open();
        sessions.want(ID, (0..4000).map(cid).collect(), false);
        for (cid, _) in fed(&mut sessions) {
            sessions.block(&[ID], &block(cid, 4096), &cid);
        }
        assert_eq!(fed(&mut sessions).len(), TOLD_MAX);
    }

    #[test]
    fn wants_keep_order_and_flags_and_are_told_once() {
        let (mut sessions, mut events, _) = open();
        sessions.want(ID, vec![cid(1), cid(2)], true);
        sessions.want(ID, vec![cid(2), cid(3), cid(4)], false);
        assert_eq!(sessions.unwant(ID, vec![cid(3)]), []);
        let told = fed(&mut sessions);
        assert_eq!(told, [(cid(1), true), (cid(2), true), (cid(4), false)]);
        assert_eq!(sessions.unwant(ID, vec![cid(1), cid(9)]), [cid(1)]);
        // What is not wanted any more is not delivered, and what is wanted is delivered once.
        sessions.block(&[ID], &block(cid(1), 1), &cid(1));
        sessions.block(&[ID], &block(cid(2), 1), &cid(2));
        sessions.block(&[ID], &block(cid(2), 1), &cid(2));
        assert!(matches!(events.try_recv(), Ok(FetchEvent::Block { cid: came, .. }) if came == cid(2)));
        assert!(events.try_recv().is_err());
        // Given up and wanted again.
        sessions.want(ID, vec![cid(1)], false);
        assert_eq!(fed(&mut sessions), [(cid(1), false)]);
    }

    #[test]
    fn too_many_wants_come_back() {
        let (mut sessions, mut events, _) = open();
        sessions.want(ID, (0..FETCH_WANTS_MAX + 5).map(cid).collect(), false);
        let Ok(FetchEvent::Refused { cids, reason }) = events.try_recv() else {
            panic!("nothing was refused")
        };
        assert_eq!((cids.len(), reason), (5, Refusal::SessionFull));
        for round in 0..20 {
            let some: Vec<_> = (0..FETCH_WANTS_MAX).map(|n| cid(n + round)).collect();
            sessions.unwant(ID, some.clone());
            sessions.want(ID, some, false);
        }
        assert!(sessions.open[&ID].waiting.len() <= 4 * FETCH_WANTS_MAX);
    }
}
