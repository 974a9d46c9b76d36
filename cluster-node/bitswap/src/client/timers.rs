//! What happens when nothing happens.

use std::collections::BTreeSet;
use std::time::Duration;

use cid::Cid;

use crate::api::{Action, Peer, SessionId};
use crate::client::Client;
use crate::client::want::{Fact, Phase};
use crate::message::WantKind;

/// Wants that a session tries again at a time.
const RETRY_WANTS_MAX: usize = 64;

/// The longest interval at which a stuck session tries again.
const RETRY_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Want(Cid),
    Peer(Peer),
    Session(SessionId),
}

/// At most one deadline for each want, peer and session; its owner remembers when.
#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeSet<(Duration, Timer)>);

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Option<Duration>) {
        if let Some(at) = at {
            self.0.insert((at, timer));
        }
    }

    pub(crate) fn clear(&mut self, timer: Timer, at: Option<Duration>) {
        if let Some(at) = at {
            self.0.remove(&(at, timer));
        }
    }

    pub(crate) fn first(&self) -> Option<Duration> {
        self.0.first().map(|(at, _)| *at)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn take_due(&mut self, now: Duration) -> Option<Timer> {
        if self.first()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }
}

impl Client {
    pub(crate) fn tick(&mut self, now: Duration) {
        // What is set anew lies in the future, so this ends.
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                Timer::Want(cid) => self.want_is_due(&cid, now),
                Timer::Peer(peer) => self.peer_is_due(peer, now),
                Timer::Session(session) => self.session_is_due(session, now),
            }
        }
    }

    fn want_is_due(&mut self, cid: &Cid, now: Duration) {
        let Some(want) = self.wants.get_mut(cid) else { return };
        want.deadline = None;
        match want.phase {
            Phase::Asked(peer) => self.wait_or_rotate(cid, peer, now),
            Phase::Seeking => {
                // Who says nothing doesn't have it, until it says otherwise.
                for fact in want.facts.values_mut() {
                    if matches!(fact, Fact::AskedHave(_)) {
                        *fact = Fact::Silent;
                    }
                }
                self.queue(cid, true);
            }
            Phase::Queued | Phase::Starved => {}
        }
    }

    /// A peer takes too long with a block: another one is asked, if there is any that may have it.
    fn wait_or_rotate(&mut self, cid: &Cid, peer: Peer, now: Duration) {
        if self.rotate(cid, peer) {
            return;
        }
        let Some(want) = self.wants.get_mut(cid) else { return };
        let Some(owner) = want.owner() else { return };
        if !std::mem::replace(&mut want.broadcast, true) {
            // Nobody else is known to have it, but somebody may. The question may also have been lost, or the answer.
            let deadline = now + want.patience;
            want.deadline = Some(deadline);
            self.timers.set(Timer::Want(*cid), want.deadline);
            if let Some(remote) = self.remotes.get_mut(&peer) {
                remote.ask(cid, WantKind::Block, want.priority.unwrap_or(self.order));
                self.dirty.insert(peer);
            }
            self.broadcast(cid, now);
            return;
        }
        // Whoever said no may have been too busy to say yes, or has it by now. This one keeps the want on its list.
        want.rounds = want.rounds.saturating_add(1);
        self.forget_answers(cid, owner);
        if let Some(want) = self.wants.get_mut(cid) {
            want.facts.insert(peer, Fact::Slow);
        }
        self.report(owner, cid);
        self.queue(cid, true);
    }

    /// Nobody has a block, or nobody sends it.
    pub(super) fn report(&mut self, owner: SessionId, cid: &Cid) {
        if let Some(session) = self.sessions.get_mut(&owner) {
            session.news.push(*cid);
            self.news.insert(owner);
        }
    }

    /// Takes a want away from a peer if anybody else may have it. What comes from the peer after all is still taken.
    fn rotate(&mut self, cid: &Cid, peer: Peer) -> bool {
        let Some(want) = self.wants.get_mut(cid) else {
            return false;
        };
        let before = want.facts.insert(peer, Fact::Slow);
        if !self.has_alternative(cid) {
            if let (Some(before), Some(want)) = (before, self.wants.get_mut(cid)) {
                want.facts.insert(peer, before);
            }
            return false;
        }
        self.queue(cid, true);
        let Some(owner) = self.wants.get(cid).and_then(|want| want.owner()) else {
            return true;
        };
        if let Some(remote) = self.remotes.get_mut(&peer) {
            remote.timed_out();
            remote.cancel(cid, owner);
            self.dirty.insert(peer);
        }
        let session = self.sessions.get_mut(&owner);
        if let Some(served) = session.and_then(|session| session.candidates.get_mut(&peer)) {
            served.timeouts += 1;
        }
        true
    }

    /// Wants that are asked of this peer now.
    pub(super) fn asked_of(&self, peer: Peer) -> Vec<Cid> {
        let Some(remote) = self.remotes.get(&peer) else {
            return Vec::new();
        };
        let is_asked = |cid: &&Cid| {
            let want = self.wants.get(cid);
            want.is_some_and(|want| want.phase == Phase::Asked(peer))
        };
        remote.told().filter(is_asked).copied().collect()
    }

    /// Asks others for what a peer that has stalled, or is shunned, was asked for.
    pub(super) fn move_away_from(&mut self, peer: Peer) {
        for cid in self.asked_of(peer) {
            self.rotate(&cid, peer);
        }
    }

    /// Sees to it that a peer which is asked for something is looked after.
    pub(super) fn watch(&mut self, peer: Peer, now: Duration) {
        let stall = self.stall_after(peer);
        let Some(remote) = self.remotes.get_mut(&peer) else {
            return;
        };
        if remote.timer.is_none() {
            remote.timer = Some(now + stall);
            self.timers.set(Timer::Peer(peer), remote.timer);
        }
    }

    fn stall_after(&self, peer: Peer) -> Duration {
        let latency = self.remotes.get(&peer).and_then(|remote| remote.speed.latency());
        self.config.stall + latency.unwrap_or_default() * 8
    }

    fn peer_is_due(&mut self, peer: Peer, now: Duration) {
        let stall = self.stall_after(peer);
        let Some(remote) = self.remotes.get_mut(&peer) else {
            return;
        };
        remote.timer = None;
        if remote.asked == 0 {
            return;
        }
        let due = remote.seen + stall;
        if due > now {
            remote.timer = Some(due);
            self.timers.set(Timer::Peer(peer), remote.timer);
            return;
        }
        remote.stall();
        self.move_away_from(peer);
        self.watch(peer, now);
    }

    /// Sees to it that a session which wants something is looked after.
    pub(super) fn attend(&mut self, id: SessionId, now: Duration) {
        let retry = self.config.retry;
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.timer.is_none() {
            session.moved = now;
            session.timer = Some(now + retry);
            self.timers.set(Timer::Session(id), session.timer);
        }
    }

    fn session_is_due(&mut self, id: SessionId, now: Duration) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.timer = None;
        if session.wants.is_empty() {
            return;
        }
        let retry = |retries: u32| (self.config.retry * 2u32.saturating_pow(retries.min(16))).min(RETRY_MAX);
        let quiet = session.moved + retry(0);
        let next = if session.starved.is_empty() && quiet > now {
            quiet
        } else {
            session.retries = session.retries.saturating_add(1);
            now + retry(session.retries)
        };
        session.timer = Some(next);
        self.timers.set(Timer::Session(id), Some(next));
        let starved = session.next_retried(RETRY_WANTS_MAX);
        if quiet <= now {
            // Whatever is asked for does not come, and what waits behind it is no better off.
            let stuck = session.next_reported(self.config.report_max.max(1));
            self.out.push_back(Action::NobodyHas {
                session: id,
                cids: stuck,
            });
        }
        for cid in starved {
            self.forget_answers(&cid, id);
            self.queue(&cid, false);
        }
    }

    /// Everybody may be asked again.
    fn forget_answers(&mut self, cid: &Cid, owner: SessionId) {
        let Some(want) = self.wants.get_mut(cid) else { return };
        want.broadcast = false;
        let gone: Vec<_> = want
            .facts
            .iter()
            .filter(|(_, fact)| matches!(fact, Fact::Lacks | Fact::Silent | Fact::Slow))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in gone {
            want.facts.remove(&peer);
            if let Some(remote) = self.remotes.get_mut(&peer) {
                remote.cancel(cid, owner);
                self.dirty.insert(peer);
            }
        }
    }
}
