//! What one peer wants of us.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cid::Cid;

use crate::message::{Presence, Version, WantKind};

/// Where a peer's want stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It was not looked up yet.
    Fresh,
    /// It is being looked up.
    Looking,
    /// The block, of this size, waits for its turn.
    Ready(usize),
    /// The block, of this size, is being read.
    Reading(usize),
    /// It is not in the store, or denied; the peer waits for it.
    Absent,
    /// HAVE waits to be sent.
    Answered,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) kind: WantKind,
    pub(crate) priority: i32,
    pub(crate) send_dont_have: bool,
    /// Counts the wants of all peers; smaller = older.
    pub(crate) order: u64,
    pub(crate) state: State,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) version: Version,
    wants: BTreeMap<Cid, Wanted>,
    /// Least important first: lowest priority, then oldest.
    rank: BTreeSet<(i32, u64, Cid)>,
    fresh: BTreeSet<(Reverse<i32>, u64, Cid)>,
    ready: BTreeSet<(Reverse<i32>, u64, Cid)>,
    ready_bytes: u64,
    /// What is not there, least important first.
    absent: BTreeSet<(i32, u64, Cid)>,
    answers: BTreeMap<Cid, Presence>,
    /// A look-up is under way.
    pub(crate) looking: bool,
    /// Sizes of the messages that are being written, the oldest first.
    pub(crate) writing: VecDeque<usize>,
    pub(crate) writing_bytes: usize,
    /// Questions to the store that are open for it, and what they cost.
    pub(crate) reading: usize,
    pub(crate) reading_bytes: usize,
    /// Bytes that it may be sent before it is another peer's turn; negative when it had more.
    pub(crate) credit: i64,
    /// Where it stands in the server's order of whom to take a want from.
    pub(crate) load: Option<Load>,
}

/// Whether a peer waits for what is not there, and how many wants it has.
pub(crate) type Load = (bool, usize);

impl Ledger {
    pub(crate) fn new(version: Version) -> Self {
        Self {
            version,
            wants: BTreeMap::new(),
            rank: BTreeSet::new(),
            fresh: BTreeSet::new(),
            ready: BTreeSet::new(),
            ready_bytes: 0,
            absent: BTreeSet::new(),
            answers: BTreeMap::new(),
            looking: false,
            writing: VecDeque::new(),
            writing_bytes: 0,
            reading: 0,
            reading_bytes: 0,
            credit: 0,
            load: None,
        }
    }

    pub(crate) fn get(&self, cid: &Cid) -> Option<&Wanted> {
        self.wants.get(cid)
    }

    pub(crate) fn len(&self) -> usize {
        self.wants.len()
    }

    pub(crate) fn cids(&self) -> impl Iterator<Item = &Cid> {
        self.wants.keys()
    }

    /// The want that would be dropped for another one, and its rank.
    pub(crate) fn least(&self) -> Option<(i32, u64, Cid)> {
        self.rank.first().copied()
    }

    /// The least important of the wants that are not there.
    pub(crate) fn least_absent(&self) -> Option<Cid> {
        self.absent.first().map(|(.., cid)| *cid)
    }

    /// What [`Self::load`] should be; none without wants.
    pub(crate) fn weight(&self) -> Option<Load> {
        (!self.wants.is_empty()).then_some((!self.absent.is_empty(), self.wants.len()))
    }

    pub(crate) fn insert(&mut self, cid: Cid, wanted: Wanted) {
        self.remove(&cid);
        self.rank.insert((wanted.priority, wanted.order, cid));
        self.wants.insert(cid, wanted);
        self.index(&cid, true);
    }

    pub(crate) fn remove(&mut self, cid: &Cid) -> Option<Wanted> {
        self.index(cid, false);
        let wanted = self.wants.remove(cid)?;
        self.rank.remove(&(wanted.priority, wanted.order, *cid));
        if wanted.state == State::Answered {
            self.answers.remove(cid);
        }
        Some(wanted)
    }

    pub(crate) fn set_state(&mut self, cid: &Cid, state: State) {
        self.index(cid, false);
        if let Some(wanted) = self.wants.get_mut(cid) {
            if wanted.state == State::Answered && state != State::Answered {
                self.answers.remove(cid);
            }
            wanted.state = state;
        }
        self.index(cid, true);
    }

    /// Keeps the queues in line with the state of a want.
    fn index(&mut self, cid: &Cid, add: bool) {
        let Some(wanted) = self.wants.get(cid) else { return };
        let place = (Reverse(wanted.priority), wanted.order, *cid);
        match (wanted.state, add) {
            (State::Fresh, true) => {
                self.fresh.insert(place);
            }
            (State::Fresh, false) => {
                self.fresh.remove(&place);
            }
            (State::Ready(size), true) => {
                self.ready.insert(place);
                self.ready_bytes += size as u64;
            }
            (State::Ready(size), false) => {
                self.ready.remove(&place);
                self.ready_bytes -= size as u64;
            }
            (State::Absent, true) => {
                self.absent.insert((wanted.priority, wanted.order, *cid));
            }
            (State::Absent, false) => {
                self.absent.remove(&(wanted.priority, wanted.order, *cid));
            }
            _ => {}
        }
    }

    /// The most important wants that were not looked up yet; they are being looked up now.
    pub(crate) fn take_fresh(&mut self, max: usize) -> Vec<Cid> {
        let cids: Vec<_> = self.fresh.iter().take(max).map(|(.., cid)| *cid).collect();
        for cid in &cids {
            self.set_state(cid, State::Looking);
        }
        cids
    }

    pub(crate) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// The most important block that waits for its turn, and its size.
    pub(crate) fn first_ready(&self) -> Option<(Cid, usize)> {
        let (.., cid) = self.ready.first()?;
        match self.wants.get(cid)?.state {
            State::Ready(size) => Some((*cid, size)),
            _ => None,
        }
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Bytes of blocks that wait for their turn.
    pub(crate) fn ready_bytes(&self) -> u64 {
        self.ready_bytes
    }

    /// Notes an answer; dropped when there are too many that the peer does not take.
    pub(crate) fn answer(&mut self, cid: Cid, presence: Presence, max: usize) {
        if !self.version.has_presences() {
            return;
        }
        if self.answers.len() < max || self.answers.contains_key(&cid) {
            self.answers.insert(cid, presence);
        }
    }

    pub(crate) fn first_answer(&self) -> Option<(Cid, Presence)> {
        self.answers.first_key_value().map(|(cid, presence)| (*cid, *presence))
    }

    pub(crate) fn unanswer(&mut self, cid: &Cid) {
        self.answers.remove(cid);
    }

    pub(crate) fn answers(&self) -> usize {
        self.answers.len()
    }
}
