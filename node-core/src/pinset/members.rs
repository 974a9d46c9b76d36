//! Applying what concerns peers, storage nodes, tokens and settings.

use super::apply::{Applier, Stop, refuse};
use super::codec;
use super::read::{node, nodes, peer, peers};
use super::records::{Settings, Token};
use super::view::{KvError, KvRead, Table};
use crate::command::{NewPeer, Op, OpResult, Refusal, RefusalKind};
use crate::{NodeId, NodeState, Peer, PeerId, StorageNode, Timestamp, check_name};

/// Most storage nodes in one cluster, gone ones not counted. Every list of nodes is held in memory.
pub const NODES_MAX: usize = 10_000;

/// Most peers in one cluster, removed ones not counted.
pub const PEERS_MAX: usize = 1_000;

/// Most unexpired join tokens.
pub const TOKENS_MAX: usize = 1_000;

/// Bounds of what peers and nodes say about themselves. Every peer holds all of it in memory, and a new peer says it
/// before anybody has reason to trust it. An address is a host name of 253 bytes, a colon and a port.
const ADDRESSES_MAX: usize = 16;
const ADDRESS_BYTES_MAX: usize = 259;
const VERSION_BYTES_MAX: usize = 64;
const ATTEMPT_BYTES_MAX: usize = 64;
const API_BYTES_MAX: usize = 1_024;
const FILE_BYTES_MAX: usize = 4_096;
const KIND_BYTES_MAX: usize = 32;
const TAGS_MAX: usize = 32;
const TAG_NAME_BYTES_MAX: usize = 64;
const TAG_VALUE_BYTES_MAX: usize = 256;

pub(super) fn apply(applier: &mut Applier<'_>, op: &Op) -> Result<OpResult, Stop> {
    match op {
        Op::PutNode { node } => put_node(applier, node),
        Op::SetNodeState { node, state } => set_node_state(applier, *node, *state),
        Op::InitCluster {
            cluster_id,
            settings,
            peer,
        } => init_cluster(applier, cluster_id, settings, peer),
        Op::CreateToken { hash, expires } => create_token(applier, hash, *expires),
        Op::AdmitPeer {
            token_hash,
            attempt,
            peer,
        } => admit_peer(applier, token_hash, attempt, peer),
        Op::UpdatePeer { peer } => update_peer(applier, peer),
        Op::RemovePeer { peer } => remove_peer(applier, *peer),
        Op::PutSettings { settings, based_on } => put_settings(applier, settings, based_on.as_ref()),
        Op::PutPin { .. }
        | Op::RemovePin { .. }
        | Op::Place { .. }
        | Op::Release { .. }
        | Op::Expire { .. }
        | Op::CreateCredential { .. }
        | Op::RevokeCredential { .. } => {
            // Applied by the caller; said here so that a new operation can't be forgotten in silence.
            Err(Stop::Failed(KvError(format!(
                "{} is no operation on members",
                op.name()
            ))))
        }
    }
}

fn put_node(applier: &mut Applier<'_>, wanted: &StorageNode) -> Result<OpResult, Stop> {
    if let Err(invalid) = check_node(wanted) {
        return refuse(RefusalKind::Invalid, invalid);
    }
    if !(wanted.weight.is_finite() && wanted.weight > 0.0) {
        return refuse(
            RefusalKind::Invalid,
            format!("weight {}: it must be above 0", wanted.weight),
        );
    }
    match peer(applier.kv, wanted.peer)? {
        Some(peer) if !peer.removed => {}
        _ => {
            return refuse(
                RefusalKind::NotFound,
                format!("{} is not a peer of this cluster", wanted.peer),
            );
        }
    }
    let all = nodes(applier.kv)?;
    let mut present = all.iter().filter(|node| node.state != NodeState::Gone);
    let same_name = present.clone().find(|node| node.name == wanted.name);
    let node = match same_name {
        Some(old) if old.peer != wanted.peer => {
            let message = format!(
                "the name {:?} is taken by {} of peer {}; choose another",
                old.name, old.id, old.peer
            );
            return refuse(RefusalKind::AlreadyExists, message);
        }
        Some(old) => StorageNode {
            id: old.id,
            state: old.state,
            ..wanted.clone()
        },
        None if present.by_ref().count() >= NODES_MAX => {
            return refuse(
                RefusalKind::Precondition,
                format!("there are {NODES_MAX} storage nodes, the most there can be"),
            );
        }
        None => {
            let id = NodeId(applier.header.next_node);
            applier.header.next_node += 1;
            StorageNode {
                id,
                state: NodeState::Active,
                ..wanted.clone()
            }
        }
    };
    if same_name != Some(&node) {
        applier.put_node(&node);
        applier.effects.resync.push(node.id);
    }
    Ok(OpResult::Node(node))
}

fn set_node_state(applier: &mut Applier<'_>, id: NodeId, state: NodeState) -> Result<OpResult, Stop> {
    let Some(mut node) = node(applier.kv, id)? else {
        return refuse(RefusalKind::NotFound, format!("there is no storage node {id}"));
    };
    if node.state == NodeState::Gone && state != NodeState::Gone {
        let message = format!(
            "node {} ({id}) was taken out for good; add it again to get a new one",
            node.name
        );
        return refuse(RefusalKind::Precondition, message);
    }
    if node.state != state {
        node.state = state;
        applier.put_node(&node);
    }
    Ok(OpResult::Node(node))
}

fn init_cluster(
    applier: &mut Applier<'_>,
    cluster_id: &str,
    settings: &Settings,
    peer: &NewPeer,
) -> Result<OpResult, Stop> {
    if !applier.header.cluster_id.is_empty() {
        return refuse(
            RefusalKind::Precondition,
            format!("the cluster is named {} already", applier.header.cluster_id),
        );
    }
    check_settings(settings)?;
    if let Err(invalid) = check_new_peer(peer) {
        return refuse(RefusalKind::Invalid, invalid);
    }
    applier.header.cluster_id = cluster_id.to_owned();
    applier.header.settings = settings.clone();
    put_peer(
        applier,
        &Peer {
            joined: applier.time,
            ..as_peer(peer, FIRST_RAFT_ID)
        },
    );
    Ok(OpResult::Admitted {
        raft_id: FIRST_RAFT_ID,
        replaces: None,
    })
}

/// The Raft ID of the peer that begins a cluster. Those that join get the index of a log entry, and the first entry
/// after the one that begins the log has index 2 or more, so none gets this one.
pub const FIRST_RAFT_ID: u64 = 1;

fn create_token(applier: &mut Applier<'_>, hash: &[u8], expires: Timestamp) -> Result<OpResult, Stop> {
    if hash.len() != 32 {
        return refuse(RefusalKind::Invalid, "a token's hash has 32 bytes");
    }
    let mut expired = Vec::new();
    let mut kept = 0;
    super::apply::each_row(applier.kv, Table::Tokens, |key, value| {
        if codec::decode_token(value)?.expires <= applier.time {
            expired.push(key.to_vec());
        } else {
            kept += 1;
        }
        Ok(())
    })?;
    if kept >= TOKENS_MAX {
        return refuse(
            RefusalKind::Precondition,
            format!("there are {TOKENS_MAX} join tokens; wait until some expire"),
        );
    }
    for key in expired {
        applier.kv.delete(Table::Tokens, key);
    }
    let token = Token {
        expires,
        used_by: None,
        attempt: Vec::new(),
    };
    applier
        .kv
        .put(Table::Tokens, hash.to_vec(), codec::encode_token(&token));
    Ok(OpResult::Done)
}

fn admit_peer(applier: &mut Applier<'_>, token_hash: &[u8], attempt: &[u8], new: &NewPeer) -> Result<OpResult, Stop> {
    let (token, old) = match admission(applier.kv, applier.time, token_hash, attempt, new)? {
        Ok(Admission::Repeated(old)) => {
            return Ok(OpResult::Admitted {
                raft_id: old.raft_id,
                replaces: None,
            });
        }
        Ok(Admission::New { token, old }) => (token, old),
        Err(refusal) => return Err(Stop::Refused(refusal)),
    };
    if applier.admitted {
        return refuse(RefusalKind::Conflict, "another peer was admitted by the same log entry");
    }
    applier.admitted = true;
    let used = Token {
        used_by: Some(new.id),
        attempt: attempt.to_vec(),
        ..token
    };
    applier
        .kv
        .put(Table::Tokens, token_hash.to_vec(), codec::encode_token(&used));
    let raft_id = applier.log_index;
    put_peer(
        applier,
        &Peer {
            joined: applier.time,
            ..as_peer(new, raft_id)
        },
    );
    Ok(OpResult::Admitted {
        raft_id,
        replaces: old.map(|old| old.raft_id),
    })
}

enum Admission {
    /// The answer to this very attempt was lost: it is given again.
    Repeated(Peer),
    /// The token is good, and the peer may come in; `old` is what it was before it lost its disk.
    New { token: Token, old: Option<Peer> },
}

/// Whether a peer may be admitted at `time`, by the state as it is. Applying asks the same again; a leader that asks
/// before it proposes spends no log entry on a wrong token.
pub fn check_admission(
    kv: &dyn KvRead,
    time: Timestamp,
    token_hash: &[u8],
    attempt: &[u8],
    new: &NewPeer,
) -> Result<Result<(), Refusal>, KvError> {
    Ok(admission(kv, time, token_hash, attempt, new)?.map(drop))
}

fn admission(
    kv: &dyn KvRead,
    time: Timestamp,
    token_hash: &[u8],
    attempt: &[u8],
    new: &NewPeer,
) -> Result<Result<Admission, Refusal>, KvError> {
    let denied = |message: String| Ok(Err(Refusal::new(RefusalKind::Denied, message)));
    // Held with the token until that expires.
    if attempt.is_empty() || attempt.len() > ATTEMPT_BYTES_MAX {
        let message = format!("attempt of {} bytes: 1 to {ATTEMPT_BYTES_MAX} are taken", attempt.len());
        return Ok(Err(Refusal::new(RefusalKind::Invalid, message)));
    }
    let Some(row) = kv.get(Table::Tokens, token_hash)? else {
        return denied(
            "the join token is unknown or expired; make a new one with `cluster-ctl peer join-token`".to_owned(),
        );
    };
    let token = codec::decode_token(&row)?;
    let old = peer(kv, new.id)?;
    if let Some(used_by) = token.used_by {
        return match old {
            Some(old) if used_by == new.id && token.attempt == attempt && !old.removed => {
                Ok(Ok(Admission::Repeated(old)))
            }
            _ => denied("the join token was used before; make a new one with `cluster-ctl peer join-token`".to_owned()),
        };
    }
    if token.expires <= time {
        return denied("the join token has expired; make a new one with `cluster-ctl peer join-token`".to_owned());
    }
    if old.as_ref().is_some_and(|old| old.removed) {
        return denied(format!(
            "peer {} was removed for good; let it join under a new identity (`cluster-node init`)",
            new.id
        ));
    }
    // Only now, so that who has no token learns nothing of the members.
    if let Err(invalid) = check_new_peer(new) {
        return Ok(Err(Refusal::new(RefusalKind::Invalid, invalid)));
    }
    let peers = peers(kv)?;
    if let Some(taken) = name_taken(&peers, new) {
        return Ok(Err(taken));
    }
    if old.is_none() && peers.iter().filter(|peer| !peer.removed).count() >= PEERS_MAX {
        let message = format!("there are {PEERS_MAX} peers, the most there can be");
        return Ok(Err(Refusal::new(RefusalKind::Precondition, message)));
    }
    Ok(Ok(Admission::New { token, old }))
}

fn update_peer(applier: &mut Applier<'_>, new: &NewPeer) -> Result<OpResult, Stop> {
    let old = present_peer(applier, new.id)?;
    if let Err(invalid) = check_new_peer(new) {
        return refuse(RefusalKind::Invalid, invalid);
    }
    if old.name != new.name
        && let Some(taken) = name_taken(&peers(applier.kv)?, new)
    {
        return Err(Stop::Refused(taken));
    }
    let updated = Peer {
        joined: old.joined,
        ..as_peer(new, old.raft_id)
    };
    if updated != old {
        put_peer(applier, &updated);
    }
    Ok(OpResult::Done)
}

fn remove_peer(applier: &mut Applier<'_>, id: PeerId) -> Result<OpResult, Stop> {
    let old = present_peer(applier, id)?;
    put_peer(applier, &Peer { removed: true, ..old });
    for node in applier.nodes_of(id)? {
        applier.put_node(&StorageNode {
            state: NodeState::Gone,
            ..node
        });
    }
    Ok(OpResult::Done)
}

fn put_settings(applier: &mut Applier<'_>, settings: &Settings, based_on: Option<&Settings>) -> Result<OpResult, Stop> {
    check_settings(settings)?;
    if based_on.is_some_and(|based_on| applier.header.settings != *based_on) {
        return refuse(
            RefusalKind::Conflict,
            "the cluster's settings were changed by somebody else at the same time; try again",
        );
    }
    if applier.header.settings != *settings {
        applier.header.settings = settings.clone();
        applier.effects.nodes_changed = true;
    }
    Ok(OpResult::Done)
}

fn check_settings(settings: &Settings) -> Result<(), Stop> {
    let replication = settings.replication;
    if replication.min == 0 || replication.max == 0 {
        return refuse(
            RefusalKind::Invalid,
            "the cluster's default replication must be 1 or more, or -1 for every node",
        );
    }
    if let Err(invalid) = replication.resolve(replication) {
        return refuse(RefusalKind::Invalid, invalid.to_string());
    }
    if settings.spread_by.len() > 4 {
        return refuse(RefusalKind::Invalid, "spread_by takes at most 4 tag names");
    }
    Ok(())
}

/// A peer's name belongs to one peer: tables and messages name peers by it.
fn name_taken(peers: &[Peer], new: &NewPeer) -> Option<Refusal> {
    let other = peers
        .iter()
        .find(|peer| !peer.removed && peer.id != new.id && peer.name == new.name)?;
    let message = format!(
        "peer name {:?} is that of peer {}; give this one another (`peer.name`, or `cluster-node init --name`)",
        new.name, other.id
    );
    Some(Refusal::new(RefusalKind::AlreadyExists, message))
}

/// Checks how a peer introduces itself. An error says what is wrong and what is allowed.
fn check_new_peer(new: &NewPeer) -> Result<(), String> {
    check_name("peer name", &new.name).map_err(|error| error.to_string())?;
    if new.addresses.len() > ADDRESSES_MAX {
        return Err(format!(
            "addresses: {} of them, at most {ADDRESSES_MAX} are taken",
            new.addresses.len()
        ));
    }
    for address in &new.addresses {
        check_text("addresses", address, ADDRESS_BYTES_MAX)?;
    }
    check_text("api_address", &new.api_address, ADDRESS_BYTES_MAX)?;
    check_text("version", &new.version, VERSION_BYTES_MAX)
}

fn check_node(node: &StorageNode) -> Result<(), String> {
    check_name("node name", &node.name).map_err(|error| error.to_string())?;
    check_text("kind", &node.kind, KIND_BYTES_MAX)?;
    check_text("api", &node.api, API_BYTES_MAX)?;
    check_text("auth_file", &node.auth_file, FILE_BYTES_MAX)?;
    if node.tags.len() > TAGS_MAX {
        return Err(format!(
            "tags: {} of them, at most {TAGS_MAX} are taken",
            node.tags.len()
        ));
    }
    for (name, value) in &node.tags {
        if name.is_empty() {
            return Err("tags: a tag has no name; give it 1 to 64 bytes".to_owned());
        }
        check_text("tags", name, TAG_NAME_BYTES_MAX)?;
        check_text("tags", value, TAG_VALUE_BYTES_MAX)?;
    }
    Ok(())
}

fn check_text(field: &str, text: &str, bytes_max: usize) -> Result<(), String> {
    if text.len() <= bytes_max {
        return Ok(());
    }
    let begin: String = text.chars().take(32).collect();
    Err(format!(
        "{field} {begin:?}…: it has {} bytes, at most {bytes_max} are taken",
        text.len()
    ))
}

fn present_peer(applier: &Applier<'_>, id: PeerId) -> Result<Peer, Stop> {
    match peer(applier.kv, id)? {
        Some(peer) if !peer.removed => Ok(peer),
        Some(_) => refuse(RefusalKind::Precondition, format!("peer {id} was removed before")),
        None => refuse(RefusalKind::NotFound, format!("{id} is not a peer of this cluster")),
    }
}

fn as_peer(new: &NewPeer, raft_id: u64) -> Peer {
    Peer {
        id: new.id,
        raft_id,
        name: new.name.clone(),
        addresses: new.addresses.clone(),
        api_address: new.api_address.clone(),
        version: new.version.clone(),
        joined: Timestamp::ZERO,
        removed: false,
    }
}

fn put_peer(applier: &mut Applier<'_>, peer: &Peer) {
    applier
        .kv
        .put(Table::Peers, peer.id.to_bytes(), codec::encode_peer(peer));
    applier.effects.members_changed = true;
}
