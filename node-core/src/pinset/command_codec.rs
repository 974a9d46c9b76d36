//! Operations and their answers as bytes: in the log, and between peers.

use prost::{Message, Oneof};

use super::codec::{
    NodeV1, OptionsV1, SettingsV1, by_code, decode_pin, encode_pin, ids, node_ids, open, read_cid, read_peer, seal,
};
use super::credentials::{CredentialV1, read_id};
use super::keys;
use super::records::Settings;
use super::view::KvError;
use crate::command::{CommandBatch, NewPeer, Op, OpResult, PinOutcome, Pinned, Plan, Refusal, RefusalKind, Request};
use crate::{NodeId, NodeState, PinKey, Replication, RequestId, Timestamp};

#[derive(Clone, PartialEq, Message)]
struct BatchV1 {
    #[prost(uint64, tag = "1")]
    time: u64,
    #[prost(message, repeated, tag = "2")]
    requests: Vec<RequestV1>,
}

#[derive(Clone, PartialEq, Message)]
struct RequestV1 {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(oneof = "OpV1", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17")]
    op: Option<OpV1>,
}

#[derive(Clone, PartialEq, Oneof)]
enum OpV1 {
    #[prost(message, tag = "2")]
    PutPin(PutPinV1),
    /// A key of `Pins`.
    #[prost(bytes = "vec", tag = "3")]
    RemovePin(Vec<u8>),
    #[prost(message, tag = "4")]
    Place(PlaceV1),
    #[prost(uint32, tag = "5")]
    Expire(u32),
    #[prost(message, tag = "6")]
    PutNode(NodeV1),
    #[prost(message, tag = "7")]
    SetNodeState(SetNodeStateV1),
    #[prost(message, tag = "8")]
    InitCluster(InitClusterV1),
    #[prost(message, tag = "9")]
    CreateToken(CreateTokenV1),
    #[prost(message, tag = "10")]
    AdmitPeer(AdmitPeerV1),
    #[prost(message, tag = "11")]
    UpdatePeer(NewPeerV1),
    #[prost(bytes = "vec", tag = "12")]
    RemovePeer(Vec<u8>),
    #[prost(message, tag = "13")]
    PutSettings(PutSettingsV1),
    #[prost(message, tag = "14")]
    CreateCredential(CredentialV1),
    /// An ID.
    #[prost(string, tag = "15")]
    RevokeCredential(String),
    /// A key of `Kept`: what a peer wrote before there was field 17. Done whatever has changed since.
    #[prost(bytes = "vec", tag = "16")]
    ReleaseAnyhow(Vec<u8>),
    #[prost(message, tag = "17")]
    Release(ReleaseV1),
}

#[derive(Clone, PartialEq, Message)]
struct ReleaseV1 {
    /// A key of `Kept`.
    #[prost(bytes = "vec", tag = "1")]
    kept: Vec<u8>,
    #[prost(uint64, tag = "2")]
    based_on: u64,
}

#[derive(Clone, PartialEq, Message)]
struct PlanV1 {
    #[prost(uint64, tag = "1")]
    based_on: u64,
    #[prost(uint32, repeated, tag = "2")]
    nodes: Vec<u32>,
    #[prost(string, optional, tag = "3")]
    unplaced: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct PutPinV1 {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    options: Option<OptionsV1>,
    #[prost(message, optional, tag = "3")]
    plan: Option<PlanV1>,
    #[prost(bytes = "vec", optional, tag = "4")]
    from: Option<Vec<u8>>,
    #[prost(bool, tag = "5")]
    unpin_from: bool,
    #[prost(uint64, optional, tag = "6")]
    created: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct PlaceV1 {
    #[prost(bytes = "vec", tag = "1")]
    cid: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    plan: Option<PlanV1>,
}

#[derive(Clone, PartialEq, Message)]
struct SetNodeStateV1 {
    #[prost(uint32, tag = "1")]
    node: u32,
    #[prost(uint32, tag = "2")]
    state: u32,
}

#[derive(Clone, PartialEq, Message)]
struct InitClusterV1 {
    #[prost(string, tag = "1")]
    cluster_id: String,
    #[prost(message, optional, tag = "2")]
    settings: Option<SettingsV1>,
    #[prost(message, optional, tag = "3")]
    peer: Option<NewPeerV1>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateTokenV1 {
    #[prost(bytes = "vec", tag = "1")]
    hash: Vec<u8>,
    #[prost(uint64, tag = "2")]
    expires: u64,
}

#[derive(Clone, PartialEq, Message)]
struct AdmitPeerV1 {
    #[prost(bytes = "vec", tag = "1")]
    token_hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    attempt: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    peer: Option<NewPeerV1>,
}

/// The first fields are those of [`SettingsV1`], which was all there was once.
#[derive(Clone, PartialEq, Message)]
struct PutSettingsV1 {
    #[prost(sint32, tag = "1")]
    min: i32,
    #[prost(sint32, tag = "2")]
    max: i32,
    #[prost(string, repeated, tag = "3")]
    spread_by: Vec<String>,
    #[prost(message, optional, tag = "4")]
    based_on: Option<SettingsV1>,
}

#[derive(Clone, PartialEq, Message)]
struct NewPeerV1 {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, repeated, tag = "3")]
    addresses: Vec<String>,
    #[prost(string, tag = "4")]
    api_address: String,
    #[prost(string, tag = "5")]
    version: String,
}

fn put_plan(plan: &Plan) -> PlanV1 {
    PlanV1 {
        based_on: plan.based_on,
        nodes: ids(&plan.nodes),
        unplaced: plan.unplaced.clone(),
    }
}

fn read_release(kept: &[u8], based_on: Option<u64>) -> Result<Op, KvError> {
    let (cid, by) = keys::read_kept(kept)?;
    Ok(Op::Release { cid, by, based_on })
}

fn read_plan(plan: Option<PlanV1>) -> Plan {
    let plan = plan.unwrap_or_default();
    Plan {
        based_on: plan.based_on,
        nodes: node_ids(plan.nodes),
        unplaced: plan.unplaced,
    }
}

fn put_new_peer(peer: &NewPeer) -> NewPeerV1 {
    NewPeerV1 {
        id: peer.id.to_bytes(),
        name: peer.name.clone(),
        addresses: peer.addresses.clone(),
        api_address: peer.api_address.clone(),
        version: peer.version.clone(),
    }
}

fn read_new_peer(peer: Option<NewPeerV1>) -> Result<NewPeer, KvError> {
    let peer = peer.unwrap_or_default();
    Ok(NewPeer {
        id: read_peer(&peer.id)?,
        name: peer.name,
        addresses: peer.addresses,
        api_address: peer.api_address,
        version: peer.version,
    })
}

fn put_request(request: &Request) -> RequestV1 {
    let op = match &request.op {
        Op::PutPin {
            key,
            options,
            plan,
            from,
            unpin_from,
            created,
        } => OpV1::PutPin(PutPinV1 {
            key: keys::pin(key),
            options: Some(options.into()),
            plan: Some(put_plan(plan)),
            from: from.as_ref().map(keys::pin),
            unpin_from: *unpin_from,
            created: created.map(Timestamp::as_millis),
        }),
        Op::RemovePin { key } => OpV1::RemovePin(keys::pin(key)),
        Op::Place { cid, plan } => OpV1::Place(PlaceV1 {
            cid: cid.to_bytes(),
            plan: Some(put_plan(plan)),
        }),
        Op::Release { cid, by, based_on } => {
            let kept = keys::kept(cid, by);
            match *based_on {
                None => OpV1::ReleaseAnyhow(kept),
                Some(based_on) => OpV1::Release(ReleaseV1 { kept, based_on }),
            }
        }
        Op::Expire { limit } => OpV1::Expire(*limit),
        Op::PutNode { node } => OpV1::PutNode(node.into()),
        Op::SetNodeState { node, state } => OpV1::SetNodeState(SetNodeStateV1 {
            node: node.0,
            state: *state as u32,
        }),
        Op::InitCluster {
            cluster_id,
            settings,
            peer,
        } => OpV1::InitCluster(InitClusterV1 {
            cluster_id: cluster_id.clone(),
            settings: Some(settings.into()),
            peer: Some(put_new_peer(peer)),
        }),
        Op::CreateToken { hash, expires } => OpV1::CreateToken(CreateTokenV1 {
            hash: hash.clone(),
            expires: expires.as_millis(),
        }),
        Op::AdmitPeer {
            token_hash,
            attempt,
            peer,
        } => OpV1::AdmitPeer(AdmitPeerV1 {
            token_hash: token_hash.clone(),
            attempt: attempt.clone(),
            peer: Some(put_new_peer(peer)),
        }),
        Op::UpdatePeer { peer } => OpV1::UpdatePeer(put_new_peer(peer)),
        Op::RemovePeer { peer } => OpV1::RemovePeer(peer.to_bytes()),
        Op::PutSettings { settings, based_on } => OpV1::PutSettings(PutSettingsV1 {
            min: settings.replication.min,
            max: settings.replication.max,
            spread_by: settings.spread_by.clone(),
            based_on: based_on.as_ref().map(Into::into),
        }),
        Op::CreateCredential { credential } => OpV1::CreateCredential((&**credential).into()),
        Op::RevokeCredential { id } => OpV1::RevokeCredential(id.as_str().to_owned()),
    };
    RequestV1 {
        id: request.id.as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default(),
        op: Some(op),
    }
}

fn read_request(request: RequestV1) -> Result<Request, KvError> {
    let id = if request.id.is_empty() {
        None
    } else {
        Some(RequestId::new(&request.id).map_err(|error| KvError(error.to_string()))?)
    };
    let unknown = || KvError("an operation is unknown to this version; run the newer version".into());
    let op = match request.op.ok_or_else(unknown)? {
        OpV1::PutPin(put) => Op::PutPin {
            key: keys::read_pin(&put.key)?,
            options: put.options.unwrap_or_default().read()?,
            plan: read_plan(put.plan),
            from: put.from.as_deref().map(keys::read_pin).transpose()?,
            unpin_from: put.unpin_from,
            created: put.created.map(Timestamp::from_millis),
        },
        OpV1::RemovePin(key) => Op::RemovePin {
            key: keys::read_pin(&key)?,
        },
        OpV1::Place(place) => Op::Place {
            cid: read_cid(&place.cid)?,
            plan: read_plan(place.plan),
        },
        OpV1::ReleaseAnyhow(kept) => read_release(&kept, None)?,
        OpV1::Release(release) => read_release(&release.kept, Some(release.based_on))?,
        OpV1::Expire(limit) => Op::Expire { limit },
        OpV1::PutNode(node) => Op::PutNode { node: node.read()? },
        OpV1::SetNodeState(set) => Op::SetNodeState {
            node: NodeId(set.node),
            state: by_code(&NodeState::ALL, set.state, "a node's state")?,
        },
        OpV1::InitCluster(init) => Op::InitCluster {
            cluster_id: init.cluster_id,
            settings: init.settings.unwrap_or_default().read(),
            peer: read_new_peer(init.peer)?,
        },
        OpV1::CreateToken(token) => Op::CreateToken {
            hash: token.hash,
            expires: Timestamp::from_millis(token.expires),
        },
        OpV1::AdmitPeer(admit) => Op::AdmitPeer {
            token_hash: admit.token_hash,
            attempt: admit.attempt,
            peer: read_new_peer(admit.peer)?,
        },
        OpV1::UpdatePeer(peer) => Op::UpdatePeer {
            peer: read_new_peer(Some(peer))?,
        },
        OpV1::RemovePeer(peer) => Op::RemovePeer {
            peer: read_peer(&peer)?,
        },
        OpV1::PutSettings(put) => Op::PutSettings {
            settings: Settings {
                replication: Replication {
                    min: put.min,
                    max: put.max,
                },
                spread_by: put.spread_by,
            },
            based_on: put.based_on.map(SettingsV1::read),
        },
        OpV1::CreateCredential(credential) => Op::CreateCredential {
            credential: Box::new(credential.read()?),
        },
        OpV1::RevokeCredential(id) => Op::RevokeCredential { id: read_id(&id)? },
    };
    Ok(Request { id, op })
}

impl CommandBatch {
    /// The form in the log.
    pub fn encode(&self) -> Vec<u8> {
        seal(&BatchV1 {
            time: self.time.as_millis(),
            requests: self.requests.iter().map(put_request).collect(),
        })
    }

    /// Reads the form in the log.
    pub fn decode(bytes: &[u8]) -> Result<Self, KvError> {
        let batch: BatchV1 = open("a log entry", bytes)?;
        let requests = batch.requests.into_iter().map(read_request).collect::<Result<_, _>>()?;
        Ok(Self {
            time: Timestamp::from_millis(batch.time),
            requests,
        })
    }
}

/// Requests on their way to the leader. They carry no time and no plan: those are the leader's.
pub fn encode_requests(requests: &[Request]) -> Vec<u8> {
    seal(&BatchV1 {
        time: 0,
        requests: requests.iter().map(put_request).collect(),
    })
}

/// Reads requests on their way to the leader.
pub fn decode_requests(bytes: &[u8]) -> Result<Vec<Request>, KvError> {
    CommandBatch::decode(bytes).map(|batch| batch.requests)
}

#[derive(Clone, PartialEq, Message)]
struct ResultsV1 {
    #[prost(message, repeated, tag = "1")]
    results: Vec<ResultV1>,
}

#[derive(Clone, PartialEq, Message)]
struct ResultV1 {
    #[prost(oneof = "AnswerV1", tags = "1, 2, 3, 4, 5, 6, 7")]
    answer: Option<AnswerV1>,
}

#[derive(Clone, PartialEq, Oneof)]
enum AnswerV1 {
    #[prost(message, tag = "1")]
    Pinned(PinnedV1),
    #[prost(message, tag = "2")]
    Unpinned(KeyedPinV1),
    #[prost(bool, tag = "3")]
    Done(bool),
    #[prost(uint32, tag = "4")]
    Expired(u32),
    #[prost(message, tag = "5")]
    Node(NodeV1),
    #[prost(message, tag = "6")]
    Admitted(AdmittedV1),
    #[prost(message, tag = "7")]
    Refused(RefusalV1),
}

#[derive(Clone, PartialEq, Message)]
struct PinnedV1 {
    #[prost(uint32, tag = "1")]
    outcome: u32,
    #[prost(uint64, tag = "2")]
    created: u64,
    #[prost(uint64, tag = "3")]
    modified: u64,
    #[prost(uint64, tag = "4")]
    revision: u64,
    #[prost(uint32, repeated, tag = "5")]
    nodes: Vec<u32>,
    #[prost(bool, tag = "6")]
    everywhere: bool,
    #[prost(string, optional, tag = "7")]
    unplaced: Option<String>,
    #[prost(uint32, tag = "8")]
    ordinal: u32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyedPinV1 {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pin: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct AdmittedV1 {
    #[prost(uint64, tag = "1")]
    raft_id: u64,
    #[prost(uint64, optional, tag = "2")]
    replaces: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct RefusalV1 {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    message: String,
}

const OUTCOMES: [PinOutcome; 3] = [PinOutcome::Created, PinOutcome::Updated, PinOutcome::Unchanged];

const REFUSALS: [RefusalKind; 7] = [
    RefusalKind::NotFound,
    RefusalKind::Invalid,
    RefusalKind::Conflict,
    RefusalKind::NotPlaceable,
    RefusalKind::AlreadyExists,
    RefusalKind::Precondition,
    RefusalKind::Denied,
];

fn put_result(result: &OpResult) -> ResultV1 {
    let answer = match result {
        OpResult::Pinned(pinned) => AnswerV1::Pinned(PinnedV1 {
            outcome: pinned.outcome as u32,
            created: pinned.created.as_millis(),
            modified: pinned.modified.as_millis(),
            revision: pinned.revision,
            nodes: ids(&pinned.nodes),
            everywhere: pinned.everywhere,
            unplaced: pinned.unplaced.clone(),
            ordinal: pinned.ordinal,
        }),
        OpResult::Unpinned(pin) => AnswerV1::Unpinned(KeyedPinV1 {
            key: keys::pin(&pin.key),
            pin: encode_pin(pin),
        }),
        OpResult::Done => AnswerV1::Done(true),
        OpResult::Expired(count) => AnswerV1::Expired(*count),
        OpResult::Node(node) => AnswerV1::Node(node.into()),
        OpResult::Admitted { raft_id, replaces } => AnswerV1::Admitted(AdmittedV1 {
            raft_id: *raft_id,
            replaces: *replaces,
        }),
        OpResult::Refused(refusal) => AnswerV1::Refused(RefusalV1 {
            kind: refusal.kind as u32,
            message: refusal.message.clone(),
        }),
    };
    ResultV1 { answer: Some(answer) }
}

fn read_result(result: ResultV1) -> Result<OpResult, KvError> {
    let unknown = || KvError("an answer is unknown to this version; run the newer version".into());
    Ok(match result.answer.ok_or_else(unknown)? {
        AnswerV1::Pinned(pinned) => OpResult::Pinned(Pinned {
            outcome: by_code(&OUTCOMES, pinned.outcome, "the outcome of a pin")?,
            created: Timestamp::from_millis(pinned.created),
            ordinal: pinned.ordinal,
            modified: Timestamp::from_millis(pinned.modified),
            revision: pinned.revision,
            nodes: node_ids(pinned.nodes),
            everywhere: pinned.everywhere,
            unplaced: pinned.unplaced,
        }),
        AnswerV1::Unpinned(keyed) => {
            let key: PinKey = keys::read_pin(&keyed.key)?;
            OpResult::Unpinned(Box::new(decode_pin(key, &keyed.pin)?))
        }
        AnswerV1::Done(_) => OpResult::Done,
        AnswerV1::Expired(count) => OpResult::Expired(count),
        AnswerV1::Node(node) => OpResult::Node(node.read()?),
        AnswerV1::Admitted(admitted) => OpResult::Admitted {
            raft_id: admitted.raft_id,
            replaces: admitted.replaces,
        },
        AnswerV1::Refused(refusal) => OpResult::Refused(Refusal {
            kind: by_code(&REFUSALS, refusal.kind, "the kind of a refusal")?,
            message: refusal.message,
        }),
    })
}

/// Answers on their way back from the leader.
pub fn encode_results(results: &[OpResult]) -> Vec<u8> {
    seal(&ResultsV1 {
        results: results.iter().map(put_result).collect(),
    })
}

/// Reads answers on their way back from the leader.
pub fn decode_results(bytes: &[u8]) -> Result<Vec<OpResult>, KvError> {
    open::<ResultsV1>("the answers", bytes)?
        .results
        .into_iter()
        .map(read_result)
        .collect()
}

pub(super) fn encode_stored_result(result: &OpResult) -> Vec<u8> {
    seal(&put_result(result))
}

pub(super) fn decode_stored_result(bytes: &[u8]) -> Result<OpResult, KvError> {
    read_result(open("a remembered answer", bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PeerId;

    #[test]
    fn codes_are_positions() {
        for (code, outcome) in OUTCOMES.into_iter().enumerate() {
            assert_eq!(outcome as usize, code);
        }
        for (code, kind) in REFUSALS.into_iter().enumerate() {
            assert_eq!(kind as usize, code);
        }
    }

    #[test]
    fn what_a_newer_version_wrote_is_refused_and_not_misread() {
        let mut bytes = CommandBatch {
            time: Timestamp::ZERO,
            requests: Vec::new(),
        }
        .encode();
        bytes[0] = 2;
        let error = CommandBatch::decode(&bytes).expect_err("refused").to_string();
        assert!(error.contains("form 2"), "{error}");
        assert!(CommandBatch::decode(&[]).is_err());
    }

    #[test]
    fn a_peer_id_survives() {
        let id: PeerId = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"
            .parse()
            .expect("valid");
        assert_eq!(read_peer(&id.to_bytes()), Ok(id));
    }
}
