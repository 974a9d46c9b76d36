//! What peers ask for, and what is said to it.

use cid::Cid;

use crate::api::{Peer, Ticket};
use crate::limits::BLOCK_BYTES_MAX;
use crate::message::{Ask, Entry, Presence, WantKind};
use crate::server::ledger::{State, Wanted};
use crate::server::{Question, Server};

impl Server {
    /// Takes the server's part of a message.
    pub(crate) fn received(&mut self, peer: Peer, full: bool, entries: &[Entry]) {
        let Some(ledger) = self.ledgers.get(&peer) else { return };
        if full {
            // What is repeated keeps its place; what is not is cancelled.
            let kept: std::collections::BTreeSet<_> = entries.iter().map(|entry| entry.cid).collect();
            let gone: Vec<_> = ledger.cids().filter(|cid| !kept.contains(cid)).copied().collect();
            for cid in gone {
                self.forget(peer, &cid);
            }
        }
        for entry in entries {
            match entry.ask {
                Ask::Cancel => self.cancelled(peer, &entry.cid),
                Ask::Want {
                    kind,
                    priority,
                    send_dont_have,
                } => self.wanted(peer, entry.cid, kind, priority, send_dont_have),
            }
        }
        self.enqueue(peer);
        self.dirty.insert(peer);
    }

    fn cancelled(&mut self, peer: Peer, cid: &Cid) {
        if self.forget(peer, cid).is_none()
            && let Some(ledger) = self.ledgers.get_mut(&peer)
        {
            // An answer to a want that was dropped.
            ledger.unanswer(cid);
        }
    }

    fn wanted(&mut self, peer: Peer, cid: Cid, kind: WantKind, priority: i32, send_dont_have: bool) {
        let Some(ledger) = self.ledgers.get_mut(&peer) else {
            return;
        };
        self.order += 1;
        let order = self.order;
        if let Some(before) = ledger.get(&cid).copied() {
            // A want-have does not take back a want-block. What has its answer under way only changes its priority;
            // what was answered before, or is asked for in another way, is looked up again.
            let again = before.state == State::Absent || kind > before.kind;
            let state = match before.state {
                State::Looking | State::Ready(_) | State::Reading(_) | State::Fresh => before.state,
                State::Absent | State::Answered if again => State::Fresh,
                state => state,
            };
            let answered = state == State::Answered;
            let wanted = Wanted {
                kind: kind.max(before.kind),
                priority,
                send_dont_have: send_dont_have || before.send_dont_have,
                order: before.order,
                state,
            };
            ledger.insert(cid, wanted);
            if answered {
                ledger.answer(cid, Presence::Have, self.config.answers_per_peer);
            }
            self.weigh(peer);
            return;
        }
        let fits = if ledger.len() >= self.config.wants_per_peer {
            let dropped = ledger.least().filter(|(least, ..)| *least <= priority);
            if let Some((.., least)) = dropped {
                let wanted = self.forget(peer, &least);
                if wanted.is_some_and(|wanted| wanted.send_dont_have) {
                    self.deny_answer(peer, &least);
                }
            }
            dropped.is_some()
        } else {
            self.wants < self.config.wants_max || self.make_room(peer)
        };
        if !fits {
            if send_dont_have {
                self.deny_answer(peer, &cid);
            }
            return;
        }
        let Some(ledger) = self.ledgers.get_mut(&peer) else {
            return;
        };
        ledger.unanswer(&cid);
        let wanted = Wanted {
            kind,
            priority,
            send_dont_have,
            order,
            state: State::Fresh,
        };
        ledger.insert(cid, wanted);
        self.wants += 1;
        self.interest.entry(*cid.hash()).or_default().insert((peer, cid));
        self.weigh(peer);
    }

    /// Makes room for one more want of a peer, when all peers together want as much as they may. False when nobody has to
    /// give way to it. The work grows with the logarithm of what is held only: a peer can make it happen with every want.
    fn make_room(&mut self, peer: Peer) -> bool {
        let Some(ledger) = self.ledgers.get(&peer) else {
            return false;
        };
        let own = ledger.len();
        let (idle, busy) = ((true, 0, Peer(0)), ..(true, 0, Peer(0)));
        // Nobody gives way to a peer that has as many then: two peers would push out each other's wants for ever.
        let larger =
            |load: Option<&(bool, usize, Peer)>| load.filter(|(_, wants, _)| *wants > own + 1).map(|load| load.2);
        // What is not there costs its peer the least: it has been told so, and would only miss that the block comes.
        let victim = larger(self.loads.range(idle..).next_back())
            .or_else(|| ledger.least_absent().map(|_| peer))
            .or_else(|| larger(self.loads.range(busy).next_back()));
        let cid = victim.and_then(|victim| {
            let ledger = self.ledgers.get(&victim)?;
            let least = || ledger.least().map(|(.., cid)| cid);
            Some((victim, ledger.least_absent().or_else(least)?))
        });
        let Some((victim, cid)) = cid else { return false };
        let wanted = self.forget(victim, &cid);
        if wanted.is_some_and(|wanted| wanted.send_dont_have && wanted.state != State::Absent) {
            self.deny_answer(victim, &cid);
            self.dirty.insert(victim);
        }
        true
    }

    fn deny_answer(&mut self, peer: Peer, cid: &Cid) {
        if let Some(ledger) = self.ledgers.get_mut(&peer) {
            ledger.answer(*cid, Presence::DontHave, self.config.answers_per_peer);
        }
    }

    /// The store says what it has.
    pub(crate) fn looked_up(&mut self, ticket: Ticket, sizes: &[Option<usize>]) {
        let (peer, cids) = match self.questions.remove(&ticket) {
            Some(Question::LookUp { peer, cids }) => (peer, cids),
            Some(question) => {
                // A number of another question: that one stays open.
                self.questions.insert(ticket, question);
                return;
            }
            None => return,
        };
        self.look_ups_open = self.look_ups_open.saturating_sub(1);
        let Some(ledger) = self.ledgers.get_mut(&peer) else {
            return;
        };
        ledger.looking = false;
        for (place, cid) in cids.iter().enumerate() {
            // A want that was cancelled meanwhile, and perhaps came anew, waits for its own answer.
            if self.state(peer, cid) == Some(State::Looking) {
                self.decide(peer, cid, sizes.get(place).copied().flatten());
            }
        }
        self.enqueue(peer);
        self.dirty.insert(peer);
    }

    /// Blocks are in the store now.
    pub(crate) fn stored(&mut self, cid: &Cid, size: usize) {
        let Some(interested) = self.interest.get(cid.hash()) else {
            return;
        };
        if size > BLOCK_BYTES_MAX {
            return;
        }
        for (peer, cid) in interested.clone() {
            if (self.deny)(peer, &cid) {
                // Saying DONT_HAVE once more would tell that it came.
                continue;
            }
            // What is being looked up may be looked up before the block was there.
            if matches!(self.state(peer, &cid), Some(State::Absent | State::Looking)) {
                self.decide(peer, &cid, Some(size));
                self.enqueue(peer);
                self.dirty.insert(peer);
            }
        }
    }

    fn state(&self, peer: Peer, cid: &Cid) -> Option<State> {
        self.ledgers.get(&peer)?.get(cid).map(|wanted| wanted.state)
    }

    /// It is known whether a block is there; none = it is not.
    pub(super) fn decide(&mut self, peer: Peer, cid: &Cid, size: Option<usize>) {
        let denied = (self.deny)(peer, cid);
        let Some(ledger) = self.ledgers.get_mut(&peer) else {
            return;
        };
        let Some(wanted) = ledger.get(cid).copied() else { return };
        match size.filter(|size| !denied && *size <= BLOCK_BYTES_MAX) {
            None => {
                ledger.set_state(cid, State::Absent);
                if wanted.send_dont_have {
                    ledger.answer(*cid, Presence::DontHave, self.config.answers_per_peer);
                }
            }
            Some(size) => {
                // What was said before does not hold any more.
                ledger.unanswer(cid);
                if wanted.kind == WantKind::Block || size <= self.config.have_replaced_max {
                    ledger.set_state(cid, State::Ready(size));
                } else {
                    ledger.set_state(cid, State::Answered);
                    ledger.answer(*cid, Presence::Have, self.config.answers_per_peer);
                }
            }
        }
        self.weigh(peer);
    }
}
