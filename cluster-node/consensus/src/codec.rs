//! What Raft writes to disk and sends: a version byte, then Protocol Buffers. openraft's own serialization is not used,
//! because it may change from one version to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use node_core::PeerId;
use openraft::entry::RaftEntry;
use openraft::vote::RaftVote;
use openraft::{EntryPayload, vote::RaftLeaderId};
use prost::Message;

use crate::types::{Command, Entry, LeaderId, LogId, Membership, RaftPeer, SnapshotMeta, StoredMembership, Vote};

const VERSION: u8 = 1;

#[derive(Clone, PartialEq, Message)]
struct LogIdRow {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    leader: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
}

#[derive(Clone, PartialEq, Message)]
struct VoteRow {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    node: u64,
    #[prost(bool, tag = "3")]
    committed: bool,
}

#[derive(Clone, PartialEq, Message)]
struct EntryRow {
    #[prost(message, required, tag = "1")]
    log_id: LogIdRow,
    #[prost(oneof = "PayloadRow", tags = "2, 3")]
    payload: Option<PayloadRow>,
}

/// None of them: a blank entry.
#[derive(Clone, PartialEq, prost::Oneof)]
enum PayloadRow {
    #[prost(bytes = "bytes", tag = "2")]
    Command(Bytes),
    #[prost(message, tag = "3")]
    Membership(MembershipRow),
}

#[derive(Clone, PartialEq, Message)]
struct MembershipRow {
    #[prost(message, repeated, tag = "1")]
    voters: Vec<VotersRow>,
    #[prost(message, repeated, tag = "2")]
    peers: Vec<PeerRow>,
}

#[derive(Clone, PartialEq, Message)]
struct VotersRow {
    #[prost(uint64, repeated, tag = "1")]
    ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct PeerRow {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(bytes = "bytes", tag = "2")]
    peer_id: Bytes,
    #[prost(string, repeated, tag = "3")]
    addresses: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredMembershipRow {
    #[prost(message, optional, tag = "1")]
    log_id: Option<LogIdRow>,
    #[prost(message, required, tag = "2")]
    membership: MembershipRow,
}

#[derive(Clone, PartialEq, Message)]
struct SnapshotMetaRow {
    #[prost(message, optional, tag = "1")]
    last: Option<LogIdRow>,
    #[prost(message, required, tag = "2")]
    membership: StoredMembershipRow,
}

fn encode(row: &impl Message) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + row.encoded_len());
    out.put_u8(VERSION);
    row.encode_raw(&mut out);
    out.freeze()
}

fn decode<R: Message + Default>(what: &str, bytes: &Bytes) -> io::Result<R> {
    match bytes.first() {
        Some(&VERSION) => R::decode(bytes.slice(1..)).map_err(|error| damaged(what, &error.to_string())),
        Some(other) => Err(damaged(
            what,
            &format!("it has version {other}, this software reads version {VERSION}"),
        )),
        None => Err(damaged(what, "it is empty")),
    }
}

fn damaged(what: &str, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} can't be read: {why}"))
}

pub(crate) fn encode_log_id(log_id: &LogId) -> Bytes {
    encode(&log_id_row(log_id))
}

pub(crate) fn decode_log_id(bytes: &Bytes) -> io::Result<LogId> {
    decode("a log position", bytes).map(read_log_id)
}

/// On the wire no bytes stand for none.
pub(crate) fn encode_optional_log_id(log_id: Option<&LogId>) -> Bytes {
    log_id.map(encode_log_id).unwrap_or_default()
}

pub(crate) fn decode_optional_log_id(bytes: &Bytes) -> io::Result<Option<LogId>> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        decode_log_id(bytes).map(Some)
    }
}

pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    let leader = vote.leader_id();
    encode(&VoteRow {
        term: leader.term,
        node: leader.node_id,
        committed: vote.is_committed(),
    })
}

pub(crate) fn decode_vote(bytes: &Bytes) -> io::Result<Vote> {
    let row: VoteRow = decode("a vote", bytes)?;
    Ok(Vote::from_leader_id(LeaderId::new(row.term, row.node), row.committed))
}

pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    let payload = match &entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(command) => Some(PayloadRow::Command(command.0.clone())),
        EntryPayload::Membership(membership) => Some(PayloadRow::Membership(membership_row(membership))),
    };
    encode(&EntryRow {
        log_id: log_id_row(&entry.log_id),
        payload,
    })
}

/// A command is not copied: it stays part of `bytes`.
pub(crate) fn decode_entry(bytes: &Bytes) -> io::Result<Entry> {
    let row: EntryRow = decode("a log entry", bytes)?;
    let payload = match row.payload {
        None => EntryPayload::Blank,
        Some(PayloadRow::Command(command)) => EntryPayload::Normal(Command(command)),
        Some(PayloadRow::Membership(membership)) => EntryPayload::Membership(read_membership(membership)?),
    };
    Ok(Entry::new(read_log_id(row.log_id), payload))
}

pub(crate) fn encode_membership(membership: &StoredMembership) -> Bytes {
    encode(&stored_membership_row(membership))
}

pub(crate) fn decode_membership(bytes: &Bytes) -> io::Result<StoredMembership> {
    read_stored_membership(decode("a membership", bytes)?)
}

pub(crate) fn encode_snapshot_meta(meta: &SnapshotMeta) -> Bytes {
    encode(&SnapshotMetaRow {
        last: meta.last_log_id.as_ref().map(log_id_row),
        membership: stored_membership_row(&meta.last_membership),
    })
}

pub(crate) fn decode_snapshot_meta(bytes: &Bytes) -> io::Result<SnapshotMeta> {
    let row: SnapshotMetaRow = decode("a snapshot's description", bytes)?;
    Ok(SnapshotMeta {
        last_log_id: row.last.map(read_log_id),
        last_membership: read_stored_membership(row.membership)?,
    })
}

fn log_id_row(log_id: &LogId) -> LogIdRow {
    LogIdRow {
        term: log_id.leader_id.term,
        leader: log_id.leader_id.node_id,
        index: log_id.index,
    }
}

fn read_log_id(row: LogIdRow) -> LogId {
    LogId::new(LeaderId::new(row.term, row.leader), row.index)
}

fn membership_row(membership: &Membership) -> MembershipRow {
    let voters = membership.get_joint_config().iter();
    let peers = membership.nodes().map(|(id, peer)| PeerRow {
        id: *id,
        peer_id: peer.peer_id.to_bytes().into(),
        addresses: peer.addresses.clone(),
    });
    MembershipRow {
        voters: voters
            .map(|ids| VotersRow {
                ids: ids.iter().copied().collect(),
            })
            .collect(),
        peers: peers.collect(),
    }
}

fn read_membership(row: MembershipRow) -> io::Result<Membership> {
    let mut peers = BTreeMap::new();
    for peer in row.peers {
        let peer_id = PeerId::from_bytes(&peer.peer_id).map_err(|e| damaged("a membership", &e.to_string()))?;
        peers.insert(
            peer.id,
            RaftPeer {
                peer_id,
                addresses: peer.addresses,
            },
        );
    }
    let voters: Vec<BTreeSet<u64>> = row
        .voters
        .into_iter()
        .map(|voters| voters.ids.into_iter().collect())
        .collect();
    if voters.is_empty() && peers.is_empty() {
        // A peer that belongs to no cluster yet.
        return Ok(Membership::default());
    }
    Membership::new(voters, peers).map_err(|error| damaged("a membership", &error.to_string()))
}

fn stored_membership_row(membership: &StoredMembership) -> StoredMembershipRow {
    StoredMembershipRow {
        log_id: membership.log_id().as_ref().map(log_id_row),
        membership: membership_row(membership.membership()),
    }
}

fn read_stored_membership(row: StoredMembershipRow) -> io::Result<StoredMembership> {
    Ok(StoredMembership::new(
        row.log_id.map(read_log_id),
        read_membership(row.membership)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_id(index: u64) -> LogId {
        LogId::new(LeaderId::new(7, 3), index)
    }

    fn membership() -> Membership {
        let peer = RaftPeer {
            addresses: vec!["127.0.0.1:1".into(), "h:2".into()],
            ..RaftPeer::default()
        };
        let peers: BTreeMap<_, _> = (1..=4).map(|id| (id, peer.clone())).collect();
        Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])], peers).expect("valid")
    }

    #[test]
    fn all_round_trip() {
        let command = Command(Bytes::from_static(b"what to do"));
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(command),
            EntryPayload::Membership(membership()),
        ] {
            let entry = Entry::new(log_id(9), payload);
            assert_eq!(decode_entry(&encode_entry(&entry)).expect("valid"), entry);
        }
        for vote in [Vote::new(2, 5), Vote::new_committed(u64::MAX, 0)] {
            assert_eq!(decode_vote(&encode_vote(&vote)).expect("valid"), vote);
        }
        for membership in [
            StoredMembership::default(),
            StoredMembership::new(Some(log_id(4)), membership()),
        ] {
            assert_eq!(
                decode_membership(&encode_membership(&membership)).expect("valid"),
                membership
            );
            let meta = SnapshotMeta {
                last_log_id: Some(log_id(8)),
                last_membership: membership,
            };
            assert_eq!(decode_snapshot_meta(&encode_snapshot_meta(&meta)).expect("valid"), meta);
        }
        assert_eq!(
            decode_optional_log_id(&encode_optional_log_id(None)).expect("valid"),
            None
        );
        // All numbers zero: not to be taken for none.
        let zero = LogId::new(LeaderId::new(0, 0), 0);
        assert_eq!(
            decode_optional_log_id(&encode_optional_log_id(Some(&zero))).expect("valid"),
            Some(zero)
        );
    }

    #[test]
    fn another_version_and_damage_are_refused() {
        let mut bytes = encode_vote(&Vote::new(2, 5)).to_vec();
        bytes[0] = 2;
        let error = decode_vote(&bytes.clone().into())
            .expect_err("another version")
            .to_string();
        assert!(error.contains("version 2"), "{error}");
        assert!(decode_vote(&Bytes::new()).is_err());
        assert!(decode_entry(&Bytes::from_static(&[1, 0xff, 0xff])).is_err());
    }
}
