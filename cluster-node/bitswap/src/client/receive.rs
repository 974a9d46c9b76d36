//! What peers say.

use std::time::Duration;

use cid::Cid;

use crate::api::{Action, Offence, Peer};
use crate::client::Client;
use crate::client::want::{Fact, Phase};
use crate::hash::Block;
use crate::message::Presence;

impl Client {
    /// Takes the client's part of a message.
    pub(crate) fn received(
        &mut self,
        peer: Peer,
        blocks: Vec<Block>,
        presences: &[(Cid, Presence)],
        nameless: (usize, usize),
        now: Duration,
    ) {
        if !self.remotes.contains_key(&peer) {
            return;
        }
        if !blocks.is_empty() || !presences.is_empty() {
            self.sign_of_life(peer, now);
        }
        for block in blocks {
            self.block(peer, &block, now);
        }
        if let Some(remote) = self.remotes.get_mut(&peer) {
            remote.speed.settle(now);
        }
        for (cid, presence) in presences {
            match presence {
                Presence::Have => self.have(peer, cid, now),
                Presence::DontHave => self.dont_have(peer, cid, now),
            }
        }
        if nameless.0 > 0 {
            let (blocks, bytes) = nameless;
            self.offended(peer, Offence::UnknownHash { blocks, bytes });
        }
    }

    /// The peer lives. If it was believed to have stalled, it gets something to do again.
    pub(super) fn sign_of_life(&mut self, peer: Peer, now: Duration) {
        let Some(remote) = self.remotes.get_mut(&peer) else {
            return;
        };
        remote.seen = now;
        if std::mem::replace(&mut remote.stalled, false) {
            self.revive_all(peer);
        }
    }

    fn block(&mut self, peer: Peer, block: &Block, now: Duration) {
        let bytes = block.data().len();
        for cid in block.names() {
            let asked = self.wants.get(&cid).map(|want| want.facts.get(&peer).copied());
            // A peer that was asked once and then given up may still send it; one that is yet to be asked may not.
            let Some(remote) = self.remotes.get_mut(&peer) else {
                return;
            };
            match asked {
                Some(fact) if remote.may_send(&cid) => {
                    self.deliver(peer, &cid, block, fact, now);
                    return;
                }
                Some(_) => {}
                None => {
                    if let Some(session) = remote.take_late(&cid) {
                        if let Some(session) = self.sessions.get_mut(&session) {
                            session.duplicate(bytes);
                        }
                        return;
                    }
                }
            }
        }
        let cid = *block.cid();
        self.offended(peer, Offence::UnaskedBlock { cid, bytes });
    }

    fn deliver(&mut self, peer: Peer, cid: &Cid, block: &Block, fact: Option<Fact>, now: Duration) {
        let bytes = block.data().len();
        if let Some(remote) = self.remotes.get_mut(&peer) {
            if let Some(Fact::AskedBlock { at, alone: true }) = fact {
                remote.speed.answered(now.saturating_sub(at));
            }
            remote.delivered(bytes, self.config.in_flight_max, now);
        }
        let Some(want) = self.drop_want(cid, Some(peer)) else {
            return;
        };
        for id in &want.sessions {
            let Some(session) = self.sessions.get_mut(id) else {
                continue;
            };
            if session.wants.remove(cid) {
                self.wanted -= 1;
            }
            // Who has one block of it may have more.
            session.add_candidate(peer, &self.config);
            session.received(peer, bytes, now);
        }
        self.out.push_back(Action::Block {
            sessions: want.sessions,
            cid: *cid,
            data: block.data().clone(),
            peer,
        });
    }

    fn have(&mut self, peer: Peer, cid: &Cid, now: Duration) {
        let Some(want) = self.wants.get_mut(cid) else { return };
        // What it was not asked is of no weight.
        let Some(fact) = want.facts.get_mut(&peer) else { return };
        match *fact {
            Fact::AskedBlock { .. } => return,
            Fact::AskedHave(at) => {
                if let Some(remote) = self.remotes.get_mut(&peer) {
                    remote.speed.answered(now.saturating_sub(at));
                }
            }
            Fact::Has | Fact::Lacks | Fact::Silent | Fact::Slow => {}
        }
        *fact = Fact::Has;
        let phase = want.phase;
        if let Some(session) = want.owner().and_then(|owner| self.sessions.get_mut(&owner)) {
            session.add_candidate(peer, &self.config);
        }
        if matches!(phase, Phase::Seeking | Phase::Starved) {
            self.queue(cid, true);
        }
    }

    fn dont_have(&mut self, peer: Peer, cid: &Cid, now: Duration) {
        let Some(want) = self.wants.get_mut(cid) else { return };
        let owner = want.owner();
        let Some(fact) = want.facts.get_mut(&peer) else { return };
        let before = std::mem::replace(fact, Fact::Lacks);
        let (Some(owner), Some(remote)) = (owner, self.remotes.get_mut(&peer)) else {
            return;
        };
        match before {
            Fact::AskedHave(at) | Fact::AskedBlock { at, alone: true } => {
                remote.speed.answered(now.saturating_sub(at));
            }
            _ => {}
        }
        remote.lacks(cid, owner);
        self.dirty.insert(peer);
        let session = self.sessions.get_mut(&owner);
        if let Some(served) = session.and_then(|session| session.candidates.get_mut(&peer)) {
            served.lacked += 1;
        }
        self.answered_without_block(cid, peer);
    }

    /// A peer does not have a block, or is gone: the want goes on without it.
    pub(super) fn answered_without_block(&mut self, cid: &Cid, peer: Peer) {
        let Some(want) = self.wants.get(cid) else { return };
        let over = match want.phase {
            Phase::Asked(asked) => asked == peer,
            Phase::Seeking => !want.is_awaited(),
            Phase::Queued | Phase::Starved => false,
        };
        if over {
            self.queue(cid, true);
        }
    }

    fn offended(&mut self, peer: Peer, offence: Offence) {
        let Some(remote) = self.remotes.get_mut(&peer) else {
            return;
        };
        let was_shunned = remote.shunned;
        let shunned = remote.strike();
        self.out.push_back(Action::Misbehaved { peer, offence, shunned });
        if shunned && !was_shunned {
            for cid in self.asked_of(peer) {
                if let Some(want) = self.wants.get_mut(&cid) {
                    want.facts.insert(peer, Fact::Slow);
                }
                self.queue(&cid, true);
            }
        }
    }
}
