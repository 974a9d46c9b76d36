//! Request IDs: what was done under one is not done again, and its first answer is given again.

use std::time::Duration;

use super::apply::Applier;
use super::command_codec::{decode_stored_result, encode_stored_result};
use super::keys;
use super::view::{KvError, Table};
use crate::command::{Op, OpResult, Refusal, RefusalKind};
use crate::{PinKey, RequestId, Timestamp};

/// How long a request ID protects against repetition. A client that has not repeated by then has given up.
pub const REQUESTS_KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// Most request IDs that are remembered, which bounds the disk: beyond it the oldest go before their time. At 1,000
/// protected writes a second it is reached after a few hours; a client repeats within minutes.
pub const REQUESTS_KEPT_MAX: u64 = 10_000_000;

/// Rows that one entry removes more than it may have added: the rest of an earlier burst goes at this pace.
const FORGET_AHEAD: usize = 64;

impl Applier<'_> {
    /// The first answer under this ID. An ID that was used for something else is refused: its user would take that answer
    /// for its own.
    pub(super) fn remembered(&self, id: &RequestId, op: &Op) -> Result<Option<OpResult>, KvError> {
        let Some(row) = self.kv.get(Table::Requests, id.as_str().as_bytes())? else {
            return Ok(None);
        };
        let (about, answer) = row
            .split_first_chunk::<8>()
            .ok_or_else(|| KvError("a remembered answer is damaged".into()))?;
        if u64::from_be_bytes(*about) != fingerprint(op) {
            let message = format!(
                "request_id {:?}: it was used for another request within the last 24 hours; use a new one for each request",
                id.as_str()
            );
            return Ok(Some(OpResult::Refused(Refusal::new(RefusalKind::Invalid, message))));
        }
        decode_stored_result(answer).map(Some)
    }

    /// Remembers what was done.
    pub(super) fn remember(&mut self, id: &RequestId, op: &Op, result: &OpResult) {
        let mut row = fingerprint(op).to_be_bytes().to_vec();
        row.extend_from_slice(&encode_stored_result(result));
        self.kv.put(Table::Requests, id.as_str().as_bytes().to_vec(), row);
        self.kv.put(
            Table::RequestTimes,
            keys::request_time(self.time, id.as_str()),
            Vec::new(),
        );
        self.header.requests += 1;
        // A new leader's clock may be behind the old one's.
        self.header.requests_from = self.header.requests_from.min(self.time);
    }

    /// Forgets what is too old or too much, about as many as an entry of `requests` adds.
    pub(super) fn forget_requests(&mut self, requests: usize) -> Result<(), KvError> {
        let kept = u64::try_from(REQUESTS_KEPT_FOR.as_millis()).unwrap_or(u64::MAX);
        let cut = Timestamp::from_millis(self.time.as_millis().saturating_sub(kept));
        let surplus = usize::try_from(self.header.requests.saturating_sub(REQUESTS_KEPT_MAX)).unwrap_or(usize::MAX);
        if self.header.requests == 0 || (surplus == 0 && self.header.requests_from >= cut) {
            return Ok(());
        }
        let limit = 2 * requests + FORGET_AHEAD;
        let start = keys::number(self.header.requests_from.as_millis());
        let mut old = Vec::new();
        let mut next = self.time;
        self.kv.scan(Table::RequestTimes, &start, None, &mut |key, _| {
            let time = key.first_chunk::<8>().map_or(0, |time| u64::from_be_bytes(*time));
            let time = Timestamp::from_millis(time);
            if old.len() >= limit || (time >= cut && old.len() >= surplus) {
                next = time;
                return false;
            }
            old.push(key.to_vec());
            true
        })?;
        self.header.requests = self.header.requests.saturating_sub(old.len() as u64);
        self.header.requests_from = next;
        for key in old {
            self.kv
                .delete(Table::Requests, key.get(8..).unwrap_or_default().to_vec());
            self.kv.delete(Table::RequestTimes, key);
        }
        Ok(())
    }
}

/// What a request is about: the kind of its operation and what it names. Not its options: a time that is given as «in an
/// hour» differs when the same request is sent again.
fn fingerprint(op: &Op) -> u64 {
    let mut about = op.name().as_bytes().to_vec();
    about.push(0);
    let pin = |about: &mut Vec<u8>, key: &PinKey| about.extend_from_slice(&keys::pin(key));
    match op {
        Op::PutPin { key, from, .. } => {
            pin(&mut about, key);
            if let Some(from) = from {
                about.push(0);
                pin(&mut about, from);
            }
        }
        Op::RemovePin { key } => pin(&mut about, key),
        Op::PutNode { node } => about.extend_from_slice(node.name.as_bytes()),
        Op::SetNodeState { node, .. } => about.extend_from_slice(&node.0.to_be_bytes()),
        Op::AdmitPeer { peer, .. } | Op::UpdatePeer { peer } | Op::InitCluster { peer, .. } => {
            about.extend_from_slice(&peer.id.to_bytes());
        }
        Op::RemovePeer { peer } => about.extend_from_slice(&peer.to_bytes()),
        Op::Place { cid, .. } => about.extend_from_slice(&cid.to_bytes()),
        Op::Release { cid, by, .. } => about.extend_from_slice(&keys::kept(cid, by)),
        Op::CreateToken { hash, .. } => about.extend_from_slice(hash),
        Op::CreateCredential { credential } => {
            about.extend_from_slice(credential.id.as_str().as_bytes());
            about.extend_from_slice(credential.name.as_bytes());
        }
        Op::RevokeCredential { id } => about.extend_from_slice(id.as_str().as_bytes()),
        Op::Expire { .. } | Op::PutSettings { .. } => {}
    }
    xxhash_rust::xxh3::xxh3_64(&about)
}
