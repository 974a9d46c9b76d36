//! How sessions and their wants come and go.

use std::time::Duration;

use cid::Cid;

use crate::api::{Action, Peer, Refusal, SessionId};
use crate::client::session::Session;
use crate::client::timers::Timer;
use crate::client::want::{Fact, Phase, Want};
use crate::client::{Client, ClientConfig};

impl Client {
    pub(crate) fn open(&mut self, id: SessionId, candidates: Vec<Peer>, now: Duration) {
        if !self.sessions.contains_key(&id) {
            if self.sessions.len() >= self.config.sessions_max {
                self.refuse(id, Vec::new(), Refusal::NoSession);
                return;
            }
            self.sessions.insert(id, Session::new(now));
        }
        self.candidates(id, candidates);
    }

    pub(crate) fn candidates(&mut self, id: SessionId, peers: Vec<Peer>) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        for peer in &peers {
            session.add_candidate(*peer, &self.config);
        }
        self.revive(id, None);
        // They are an alternative to those that have stalled.
        for peer in self.stalled(id) {
            self.move_away_from(peer);
        }
    }

    fn stalled(&self, id: SessionId) -> Vec<Peer> {
        let Some(session) = self.sessions.get(&id) else {
            return Vec::new();
        };
        let stalled = |peer: &Peer| self.remotes.get(peer).is_some_and(|remote| remote.stalled);
        session.candidates.keys().copied().filter(stalled).collect()
    }

    /// There is somebody new to ask for what nobody had, or what others are being asked about.
    pub(super) fn revive(&mut self, id: SessionId, peer: Option<Peer>) {
        let Some(session) = self.sessions.get(&id) else { return };
        let is_sought = |cid: &&Cid| {
            let want = self.wants.get(cid).filter(|want| want.owner() == Some(id));
            want.is_some_and(|want| matches!(want.phase, Phase::Starved | Phase::Seeking))
        };
        for cid in session.wants.iter().filter(is_sought).copied().collect::<Vec<_>>() {
            self.queue(&cid, false);
            // That it said nothing so far means nothing.
            if let (Some(peer), Some(want)) = (peer, self.wants.get_mut(&cid))
                && want.facts.get(&peer) == Some(&Fact::Silent)
            {
                want.facts.remove(&peer);
                if let Some(remote) = self.remotes.get_mut(&peer) {
                    remote.cancel(&cid, id);
                    self.dirty.insert(peer);
                }
            }
        }
    }

    /// A peer is there, or there again: what nobody had is tried again by all that have it as a candidate.
    pub(super) fn revive_all(&mut self, peer: Peer) {
        let has_it = |(_, session): &(&SessionId, &Session)| session.candidates.contains_key(&peer);
        let sessions: Vec<_> = self.sessions.iter().filter(has_it).map(|(id, _)| *id).collect();
        for id in sessions {
            self.revive(id, Some(peer));
        }
    }

    pub(crate) fn want(&mut self, id: SessionId, cids: Vec<Cid>, roots: bool, now: Duration) {
        if !self.sessions.contains_key(&id) {
            self.refuse(id, cids, Refusal::NoSession);
            return;
        }
        let mut refused = Vec::new();
        let mut reason = Refusal::SessionFull;
        for cid in cids {
            match self.want_one(id, &cid) {
                Ok(true) if roots => self.broadcast(&cid, now),
                Ok(_) => {}
                Err(why) => {
                    reason = why;
                    refused.push(cid);
                }
            }
        }
        if !refused.is_empty() {
            self.refuse(id, refused, reason);
        }
        self.attend(id, now);
    }

    /// Whether nobody wanted it before.
    fn want_one(&mut self, id: SessionId, cid: &Cid) -> Result<bool, Refusal> {
        let ClientConfig {
            session_wants_max,
            wants_max,
            ..
        } = self.config;
        let session = self.sessions.get_mut(&id).ok_or(Refusal::NoSession)?;
        if session.wants.contains(cid) {
            return Ok(false);
        }
        if session.wants.len() >= session_wants_max {
            return Err(Refusal::SessionFull);
        }
        if self.wanted >= wants_max {
            return Err(Refusal::EngineFull);
        }
        session.wants.insert(*cid);
        self.wanted += 1;
        if let Some(want) = self.wants.get_mut(cid) {
            want.sessions.push(id);
            if want.phase == Phase::Starved {
                // This session's candidates may have it.
                self.queue(cid, false);
            }
            return Ok(false);
        }
        self.wants.insert(*cid, Want::new(id));
        self.queue(cid, false);
        Ok(true)
    }

    pub(crate) fn unwant(&mut self, id: SessionId, cids: &[Cid]) {
        for cid in cids {
            let Some(session) = self.sessions.get_mut(&id) else {
                return;
            };
            if session.wants.remove(cid) {
                self.wanted -= 1;
                self.detach(id, cid);
            }
        }
    }

    /// A session does not want a block any more; others may.
    fn detach(&mut self, id: SessionId, cid: &Cid) {
        let Some(want) = self.wants.get(cid) else { return };
        if want.sessions == [id] {
            self.drop_want(cid, None);
            return;
        }
        // It is counted for another session from now on.
        let (phase, deadline) = (want.phase, want.deadline);
        self.leave(cid);
        let Some(want) = self.wants.get_mut(cid) else { return };
        let was_owner = want.owner() == Some(id);
        want.sessions.retain(|session| *session != id);
        if was_owner {
            want.queued = false;
        }
        match phase {
            Phase::Queued => self.queue(cid, false),
            phase => self.enter(cid, phase, deadline),
        }
    }

    /// Forgets a want and cancels it with everybody but `sender`, from whom it came.
    pub(super) fn drop_want(&mut self, cid: &Cid, sender: Option<Peer>) -> Option<Want> {
        self.leave(cid);
        let want = self.wants.remove(cid)?;
        let owner = want.owner()?;
        if let Some(remote) = sender.and_then(|sender| self.remotes.get_mut(&sender)) {
            remote.sent_block(cid, owner);
        }
        for peer in want.facts.keys().filter(|peer| Some(**peer) != sender) {
            if let Some(remote) = self.remotes.get_mut(peer) {
                remote.cancel(cid, owner);
                self.dirty.insert(*peer);
            }
        }
        Some(want)
    }

    /// What came into the store another way needs no fetching.
    pub(crate) fn stored(&mut self, cid: &Cid, now: Duration) {
        let Some(want) = self.drop_want(cid, None) else {
            return;
        };
        for id in &want.sessions {
            if let Some(session) = self.sessions.get_mut(id)
                && session.wants.remove(cid)
            {
                self.wanted -= 1;
                session.moved = now;
            }
        }
        self.out.push_back(Action::Held {
            sessions: want.sessions,
            cid: *cid,
        });
    }

    pub(crate) fn close(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        let wants: Vec<_> = session.wants.iter().copied().collect();
        self.unwant(id, &wants);
        if let Some(session) = self.sessions.remove(&id) {
            self.timers.clear(Timer::Session(id), session.timer);
        }
        self.ready.remove(&id);
        self.news.remove(&id);
    }

    fn refuse(&mut self, session: SessionId, cids: Vec<Cid>, reason: Refusal) {
        self.out.push_back(Action::Refused { session, cids, reason });
    }
}
