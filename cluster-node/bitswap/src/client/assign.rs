//! Whom to ask for what.
//!
//! Of the peers that may have a block, the one that would have sent it first is asked for it, by its latency, its rate
//! and what it is asked for already; one that often lacked what it was asked for counts as slower. So peers share the
//! work by their speed without anybody dividing it. Others are asked whether they have the block (want-have) only as
//! long as it is not known that the chosen one has what the session wants.

use std::time::Duration;

use cid::Cid;

use crate::api::{Peer, Served, SessionId};
use crate::client::session::Session;
use crate::client::want::{FACTS_MAX, Fact, Phase, Want};
use crate::client::{Client, mix};
use crate::message::WantKind;

/// Wants of a session that are looked at when those before them have to wait for their peers.
const SCAN_MAX: usize = 16;

/// Sessions whose candidates are asked for a block that they all want.
const SHARED_MAX: usize = 4;

/// Peers that are asked whether they have a block while another one is asked for it.
const HAVES_MAX: usize = 3;

/// A peer that is so many times slower than the best one waits for when the best one is busy…
const SLOWER_MAX: f64 = 4.0;
/// …provided that it also makes a difference, in seconds.
const SLOWER_SECONDS: f64 = 0.5;

/// Wants that are sought elsewhere while a peer that may have them has stalled. The others wait for what becomes of these.
const STARVED_BY_STALL_MAX: usize = 256;

/// The longest time that is waited for a block because its peer is slow, in seconds.
const ESTIMATE_SECONDS_MAX: f64 = 60.0;

/// How often the time that a block is waited for is doubled.
const DOUBLINGS_MAX: u32 = 3;

/// Whom to ask.
enum Choice {
    Ask(Peer),
    /// Somebody who is busy.
    Wait,
    /// Somebody who has stalled, and nobody else.
    Stalled,
    Nobody,
}

enum Turn {
    Asked,
    Over,
}

impl Client {
    /// Gives out wants as long as there is room, one of each session in turn.
    pub(super) fn assign(&mut self, now: Duration) {
        let mut over = Vec::new();
        while self.in_flight < self.config.in_flight_total
            && let Some(id) = self.next_session()
        {
            self.turn = Some(id);
            if let Turn::Over = self.assign_one(id, now) {
                self.ready.remove(&id);
                over.push(id);
            }
        }
        // What could not go on now may go on after the next event.
        for id in over {
            let waits = self.sessions.get(&id).is_some_and(|session| !session.queue.is_empty());
            if waits {
                self.ready.insert(id);
            }
        }
    }

    fn next_session(&self) -> Option<SessionId> {
        let after = self.turn.map_or(0, |turn| turn.0.wrapping_add(1));
        let next = self.ready.range(SessionId(after)..).next();
        next.or_else(|| self.ready.first()).copied()
    }

    fn assign_one(&mut self, id: SessionId, now: Duration) -> Turn {
        let Some(session) = self.sessions.get(&id) else {
            return Turn::Over;
        };
        if session.in_flight >= session.window(&self.config) {
            return Turn::Over;
        }
        if self.all_are_busy(session) {
            return Turn::Over;
        }
        let mut waiting = Vec::new();
        let mut turn = Turn::Over;
        while waiting.len() < SCAN_MAX {
            let session = self.sessions.get_mut(&id);
            let Some(cid) = session.and_then(|session| session.queue.pop_front()) else {
                break;
            };
            let Some(want) = self.wants.get_mut(&cid) else { continue };
            if want.owner() != Some(id) {
                continue;
            }
            want.queued = false;
            if want.phase != Phase::Queued {
                continue;
            }
            match self.choose(&cid) {
                Choice::Ask(peer) => {
                    self.ask(&cid, peer, now);
                    turn = Turn::Asked;
                    break;
                }
                Choice::Wait => waiting.push(cid),
                Choice::Stalled if self.starved(id) >= STARVED_BY_STALL_MAX => waiting.push(cid),
                Choice::Stalled | Choice::Nobody => {
                    self.seek(&cid, now);
                    turn = Turn::Asked;
                    break;
                }
            }
        }
        // Behind the others: somebody who can serve those has nothing to do.
        for cid in waiting {
            self.queue(&cid, false);
        }
        turn
    }

    /// Whether a session has peers to ask, and none that may be asked for more now.
    fn all_are_busy(&self, session: &Session) -> bool {
        let remotes = session.candidates.keys().filter_map(|peer| self.remotes.get(peer));
        let mut usable = remotes.filter(|remote| !remote.shunned && !remote.stalled).peekable();
        usable.peek().is_some() && usable.all(|remote| !remote.has_room(session.average))
    }

    fn starved(&self, id: SessionId) -> usize {
        self.sessions.get(&id).map_or(0, |session| session.starved.len())
    }

    /// Whether anybody may have a block but those who are slow or lack it.
    pub(super) fn has_alternative(&self, cid: &Cid) -> bool {
        let Some(want) = self.wants.get(cid) else { return false };
        self.candidates_of(want)
            .any(|(peer, _, fact)| fact != Some(Fact::Slow) && self.remotes.get(&peer).is_some_and(|r| !r.stalled))
    }

    /// All connected peers that may have a block, what they did so far, and what is known of them and the block.
    fn candidates_of<'a>(&'a self, want: &'a Want) -> impl Iterator<Item = (Peer, Served, Option<Fact>)> + 'a {
        let sessions = want.sessions.iter().take(SHARED_MAX);
        let candidates = sessions
            .filter_map(|id| self.sessions.get(id))
            .flat_map(|session| session.candidates.iter().map(|(peer, served)| (*peer, *served)));
        let known = want
            .facts
            .iter()
            .filter(|(peer, fact)| {
                let is_candidate = want
                    .sessions
                    .iter()
                    .take(SHARED_MAX)
                    .filter_map(|id| self.sessions.get(id));
                let mut is_candidate = is_candidate.map(|session| session.candidates.contains_key(peer));
                matches!(fact, Fact::Has | Fact::Slow) && !is_candidate.any(|is| is)
            })
            .map(|(peer, _)| (*peer, Served::default()));
        candidates.chain(known).filter_map(|(peer, served)| {
            let fact = want.facts.get(&peer).copied();
            let usable = !matches!(fact, Some(Fact::Lacks | Fact::Silent))
                && self.remotes.get(&peer).is_some_and(|remote| !remote.shunned);
            usable.then_some((peer, served, fact))
        })
    }

    fn choose(&self, cid: &Cid) -> Choice {
        let Some(want) = self.wants.get(cid) else {
            return Choice::Nobody;
        };
        let session = want.owner().and_then(|owner| self.sessions.get(&owner));
        let average = session.map_or(1.0, |session| session.average);
        // Those that stall are asked only when nobody else is left, those that were too slow with this block only when
        // everybody else was asked whether they have it.
        let mut stalled = false;
        let mut best: Option<(u8, f64)> = None;
        let mut free: Option<(u8, f64, Peer)> = None;
        for (peer, served, fact) in self.candidates_of(want) {
            let Some(remote) = self.remotes.get(&peer) else {
                continue;
            };
            let has_room = remote.has_room(average) && (want.facts.len() < FACTS_MAX || fact.is_some());
            let tier = match fact {
                Some(Fact::Slow) if !want.broadcast || want.is_awaited() => continue,
                // One block at a time finds out whether it is back, and nothing else is to wait for that.
                _ if remote.stalled && !has_room => {
                    stalled = true;
                    continue;
                }
                Some(Fact::Slow) => 2,
                _ if remote.stalled => 1,
                _ => 0,
            };
            let estimate = remote.estimate(average) / likelihood(&served, fact);
            if best.is_none_or(|best| (tier, estimate) < best) {
                best = Some((tier, estimate));
            }
            if has_room && free.is_none_or(|(t, e, _)| (tier, estimate) < (t, e)) {
                free = Some((tier, estimate, peer));
            }
        }
        match (best, free) {
            (None, _) if stalled => Choice::Stalled,
            (None, _) => Choice::Nobody,
            (Some((best_tier, best)), Some((tier, estimate, peer)))
                if tier == best_tier && estimate <= best * SLOWER_MAX + SLOWER_SECONDS =>
            {
                Choice::Ask(peer)
            }
            _ => Choice::Wait,
        }
    }

    fn ask(&mut self, cid: &Cid, peer: Peer, now: Duration) {
        let Some(want) = self.wants.get_mut(cid) else { return };
        let Some(remote) = self.remotes.get_mut(&peer) else {
            return;
        };
        let owner = want.owner().and_then(|owner| self.sessions.get(&owner));
        let (average, served) = owner.map_or((1.0, None), |session| {
            (session.average, session.candidates.get(&peer).copied())
        });
        let estimate = remote.estimate(average);
        let alone = remote.asked == 0;
        let priority = *want.priority.get_or_insert_with(|| {
            // Starts again from the top before it would become negative, which some take for invalid.
            self.order = if self.order <= 1 { i32::MAX } else { self.order - 1 };
            self.order
        });
        if !remote.ask(cid, WantKind::Block, priority) {
            // Its list is full, which `choose` has looked at before.
            self.queue(cid, true);
            return;
        }
        if alone {
            remote.speed.begin(now);
            remote.seen = now;
        }
        let fact = want.facts.insert(peer, Fact::AskedBlock { at: now, alone });
        let patience = self.config.patience + Duration::from_secs_f64((estimate * 4.0).min(ESTIMATE_SECONDS_MAX));
        want.patience = patience * 2u32.pow(want.rounds.min(DOUBLINGS_MAX));
        let deadline = now + want.patience;
        self.dirty.insert(peer);
        self.enter(cid, Phase::Asked(peer), Some(deadline));
        self.watch(peer, now);
        if fact != Some(Fact::Has) && !served.as_ref().is_some_and(is_trusted) {
            self.ask_others(cid, now);
        }
    }

    /// Finds out who else has a block, so that it is known whom to ask if the chosen peer doesn't.
    fn ask_others(&mut self, cid: &Cid, now: Duration) {
        let Some(want) = self.wants.get(cid) else { return };
        let others: Vec<_> = self
            .candidates_of(want)
            .filter(|(peer, _, fact)| fact.is_none() && self.remotes.get(peer).is_some_and(|r| !r.stalled))
            .map(|(peer, ..)| peer)
            .take(HAVES_MAX)
            .collect();
        for peer in others {
            self.ask_have(cid, peer, now);
        }
    }

    /// Asks a peer whether it has a block. `false` when it can't be asked.
    fn ask_have(&mut self, cid: &Cid, peer: Peer, now: Duration) -> bool {
        let (Some(want), Some(remote)) = (self.wants.get_mut(cid), self.remotes.get_mut(&peer)) else {
            return false;
        };
        if want.facts.len() >= FACTS_MAX || want.facts.contains_key(&peer) || !remote.can_be_asked_have() {
            return false;
        }
        if !remote.ask(cid, WantKind::Have, want.priority.unwrap_or(self.order)) {
            return false;
        }
        want.facts.insert(peer, Fact::AskedHave(now));
        self.dirty.insert(peer);
        true
    }

    /// Asks peers that are no candidates whether they have a block.
    pub(super) fn broadcast(&mut self, cid: &Cid, now: Duration) {
        let Some(want) = self.wants.get_mut(cid) else { return };
        want.broadcast = true;
        // Everybody in turn, beginning at a place that differs from node to node.
        let start = match self.broadcast_last {
            Some(Peer(last)) => Peer(last.wrapping_add(1)),
            None => {
                let place = mix(self.seed) % self.remotes.len().max(1) as u64;
                self.remotes.keys().nth(place as usize).copied().unwrap_or(Peer(0))
            }
        };
        let peers = self.remotes.range(start..).chain(self.remotes.range(..start));
        let peers: Vec<_> = peers
            .filter(|(_, remote)| remote.can_be_asked_have())
            .map(|(peer, _)| *peer)
            // Some of them may be known to have it or not.
            .take(self.config.broadcast_max + FACTS_MAX)
            .collect();
        let mut asked = 0;
        for peer in peers {
            if asked == self.config.broadcast_max {
                break;
            }
            if self.ask_have(cid, peer, now) {
                asked += 1;
                self.broadcast_last = Some(peer);
            }
        }
    }

    /// Nobody who may have it is left.
    fn seek(&mut self, cid: &Cid, now: Duration) {
        let Some(want) = self.wants.get(cid) else { return };
        if !want.broadcast {
            self.broadcast(cid, now);
        }
        let Some(want) = self.wants.get(cid) else { return };
        if want.is_awaited() {
            self.enter(cid, Phase::Seeking, Some(now + self.config.seek));
            return;
        }
        let owner = want.owner();
        if matches!(self.choose(cid), Choice::Ask(_) | Choice::Wait) {
            // Those that were too slow with it are asked again, now that everybody else was.
            self.queue(cid, true);
            return;
        }
        self.enter(cid, Phase::Starved, None);
        if let Some(owner) = owner {
            self.report(owner, cid);
        }
    }
}

/// How likely a peer sends a block, by what is known of both. Waiting in vain costs much more than being told no, and who
/// lets others wait may say HAVE all the same.
fn likelihood(served: &Served, fact: Option<Fact>) -> f64 {
    let sent = served.blocks as f64 + 1.0;
    let lacked = if fact == Some(Fact::Has) { 0 } else { served.lacked };
    (sent / (sent + lacked as f64 + 4.0 * served.timeouts as f64)).max(0.05)
}

/// Whether a peer has shown that it has what a session wants.
fn is_trusted(served: &Served) -> bool {
    served.blocks >= 4 && (served.lacked + served.timeouts) * 8 < served.blocks
}
