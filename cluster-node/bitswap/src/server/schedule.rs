//! Whose turn it is.
//!
//! Peers with blocks to be sent take turns. In its turn a peer is sent what its credit allows, block by block, as long as
//! the credit is positive; a block may overdraw it, and then the peer sits out until its turns have made up for it. So all
//! peers that want more than they get are sent the same number of bytes, whatever the sizes of their blocks.

use std::time::Duration;

use bytes::Bytes;

use crate::api::{Action, Lane, Peer, Ticket};
use crate::builder::MessageBuilder;
use crate::hash::Prefix;
use crate::limits::BLOCK_BYTES_MAX;
use crate::message::Presence;
use crate::server::ledger::State;
use crate::server::{Question, Server};

/// What a block costs at least, in bytes: reading an empty one is work as well.
pub(super) const COST_MIN: usize = 256;

impl Server {
    /// Lets a peer take its turns, if it has anything to do.
    pub(super) fn enqueue(&mut self, peer: Peer) {
        let Some(ledger) = self.ledgers.get(&peer) else { return };
        if ledger.has_fresh() && !ledger.looking && self.in_look_ups.insert(peer) {
            self.look_ups.push_back(peer);
        }
        if ledger.has_ready() && self.has_room(peer) && self.in_turns.insert(peer) {
            self.turns.push_back(peer);
        }
    }

    fn has_room(&self, peer: Peer) -> bool {
        // The less is left for all, the less one peer may take of it: peers that do not read leave room for others.
        let used = self.reading_bytes + self.writing_bytes;
        let share = self.config.total_bytes.saturating_sub(used) / 4;
        self.ledgers.get(&peer).is_some_and(|ledger| {
            let own = ledger.reading_bytes + ledger.writing_bytes;
            (own == 0 || own < self.config.peer_bytes.min(share))
                && ledger.reading + ledger.writing.len() < self.config.messages_per_peer
        })
    }

    /// Does all that has become possible.
    pub(crate) fn pump(&mut self, now: Duration) {
        self.look_up();
        self.read(now);
        for peer in std::mem::take(&mut self.dirty) {
            self.say(peer, Vec::new());
        }
    }

    fn look_up(&mut self) {
        while self.look_ups_open < self.config.look_ups_max
            && let Some(peer) = self.look_ups.pop_front()
        {
            self.in_look_ups.remove(&peer);
            let Some(ledger) = self.ledgers.get_mut(&peer) else {
                continue;
            };
            let cids = ledger.take_fresh(self.config.batch_max);
            if cids.is_empty() {
                continue;
            }
            ledger.looking = true;
            self.look_ups_open += 1;
            let ticket = self.ticket(Question::LookUp {
                peer,
                cids: cids.clone(),
            });
            self.out.push_back(Action::LookUp { ticket, cids });
        }
    }

    fn read(&mut self, now: Duration) {
        while self.reading_bytes + self.writing_bytes < self.config.total_bytes && self.bucket.has_tokens(now) {
            let Some(peer) = self.turns.pop_front() else { break };
            self.in_turns.remove(&peer);
            let blocks = self.take_turn(peer, now);
            let goes_on = self
                .ledgers
                .get(&peer)
                .is_some_and(|ledger| ledger.credit > 0 && ledger.has_ready());
            if goes_on && self.has_room(peer) {
                // It was cut short by what all share, not by its own share: it is still its turn.
                self.in_turns.insert(peer);
                self.turns.push_front(peer);
            } else {
                self.enqueue(peer);
            }
            if blocks.is_empty() {
                continue;
            }
            let cids = blocks.iter().map(|(cid, _)| *cid).collect();
            let ticket = self.ticket(Question::Read { peer, blocks });
            self.out.push_back(Action::Read { ticket, cids });
        }
    }

    /// What a peer is sent in its turn.
    fn take_turn(&mut self, peer: Peer, now: Duration) -> Vec<(cid::Cid, usize)> {
        let mut blocks = Vec::new();
        let mut bytes = 0;
        if !self.has_room(peer) {
            return blocks;
        }
        let turn = i64::try_from(self.config.message_bytes).unwrap_or(i64::MAX).max(1);
        match self.ledgers.get_mut(&peer) {
            Some(ledger) if ledger.credit <= 0 => ledger.credit = ledger.credit.saturating_add(turn),
            Some(_) => {}
            None => return blocks,
        }
        while blocks.len() < self.config.batch_max && bytes < self.config.message_bytes && self.bucket.has_tokens(now) {
            let Some(ledger) = self.ledgers.get_mut(&peer) else {
                break;
            };
            if ledger.credit <= 0 {
                break;
            }
            let Some((cid, size)) = ledger.first_ready() else {
                // Who has nothing to do saves nothing up.
                ledger.credit = ledger.credit.min(0);
                break;
            };
            if (self.deny)(peer, &cid) {
                self.decide(peer, &cid, None);
                self.dirty.insert(peer);
                continue;
            }
            ledger.set_state(&cid, State::Reading(size));
            let cost = size.max(COST_MIN);
            ledger.credit -= cost as i64;
            ledger.reading_bytes += cost;
            self.reading_bytes += cost;
            self.bucket.take(cost);
            bytes += cost;
            blocks.push((cid, size));
        }
        if let Some(ledger) = self.ledgers.get_mut(&peer)
            && !blocks.is_empty()
        {
            ledger.reading += 1;
        }
        blocks
    }

    /// The store has read what it was asked for.
    pub(crate) fn blocks_read(&mut self, ticket: Ticket, data: &[Option<Bytes>]) {
        let (peer, blocks) = match self.questions.remove(&ticket) {
            Some(Question::Read { peer, blocks }) => (peer, blocks),
            Some(question) => {
                // A number of another question: that one stays open.
                self.questions.insert(ticket, question);
                return;
            }
            None => return,
        };
        if let Some(ledger) = self.ledgers.get_mut(&peer) {
            ledger.reading = ledger.reading.saturating_sub(1);
        }
        let mut ready = Vec::new();
        for (place, (cid, size)) in blocks.into_iter().enumerate() {
            let cost = size.max(COST_MIN);
            self.reading_bytes -= cost;
            let Some(ledger) = self.ledgers.get_mut(&peer) else {
                continue;
            };
            ledger.reading_bytes = ledger.reading_bytes.saturating_sub(cost);
            // Cancelled meanwhile, or cancelled and wanted anew.
            if ledger.get(&cid).map(|wanted| wanted.state) != Some(State::Reading(size)) {
                self.refund(peer, size);
                continue;
            }
            let data = data.get(place).cloned().flatten();
            match data.filter(|data| data.len() <= BLOCK_BYTES_MAX && !(self.deny)(peer, &cid)) {
                Some(data) => ready.push((cid, data)),
                None => {
                    self.refund(peer, size);
                    self.decide(peer, &cid, None);
                }
            }
        }
        self.say(peer, ready);
        self.enqueue(peer);
    }

    /// A block was not sent after all.
    fn refund(&mut self, peer: Peer, size: usize) {
        let cost = size.max(COST_MIN);
        self.bucket.give_back(cost);
        if let Some(ledger) = self.ledgers.get_mut(&peer) {
            ledger.credit = ledger.credit.saturating_add(cost as i64);
        }
    }

    /// Sends blocks and whatever answers wait.
    fn say(&mut self, peer: Peer, blocks: Vec<(cid::Cid, Bytes)>) {
        let Some(ledger) = self.ledgers.get(&peer) else { return };
        let mut builder = MessageBuilder::new(ledger.version, self.config.message_bytes);
        let pending = ledger.ready_bytes();
        builder.pending_bytes(pending);
        for (cid, data) in blocks {
            self.forget(peer, &cid);
            // Only a block that is too large is refused, and those were sorted out.
            while let Ok(false) = builder.block(&Prefix::of(&cid), &data) {
                self.send(peer, &mut builder);
                builder.pending_bytes(pending);
            }
        }
        // Answers go along with blocks, and alone only as long as the peer takes them.
        while let Some(ledger) = self.ledgers.get(&peer)
            && (!builder.is_empty() || self.may_write(peer))
            && let Some((cid, presence)) = ledger.first_answer()
        {
            match builder.presence(&cid, presence) {
                Ok(false) => {
                    self.send(peer, &mut builder);
                    builder.pending_bytes(pending);
                }
                Ok(true) | Err(_) => self.said(peer, &cid, presence),
            }
        }
        if !builder.is_empty() {
            self.send(peer, &mut builder);
        }
    }

    /// An answer is on its way. HAVE is all that a want-have wanted; who was told DONT_HAVE still waits for the block.
    fn said(&mut self, peer: Peer, cid: &cid::Cid, presence: Presence) {
        if let Some(ledger) = self.ledgers.get_mut(&peer) {
            ledger.unanswer(cid);
        }
        if presence == Presence::Have {
            self.forget(peer, cid);
        }
    }

    fn may_write(&self, peer: Peer) -> bool {
        self.ledgers.get(&peer).is_some_and(|ledger| {
            ledger.writing.len() < self.config.messages_per_peer && ledger.writing_bytes < self.config.peer_bytes
        })
    }

    fn send(&mut self, peer: Peer, builder: &mut MessageBuilder) {
        let frame = builder.take_frame();
        let Some(ledger) = self.ledgers.get_mut(&peer) else {
            return;
        };
        ledger.writing.push_back(frame.len());
        ledger.writing_bytes += frame.len();
        self.writing_bytes += frame.len();
        self.out.push_back(Action::Send {
            peer,
            lane: Lane::Answers,
            frame,
        });
    }
}
