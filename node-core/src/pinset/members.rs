//! Applying what concerns peers, storage nodes, tokens and settings.

use super::apply::{Applier, Stop, refuse};
use super::codec;
use super::read::{node, nodes, peer, peers};
use super::records::{Settings, Token};
use super::view::{KvError, Table};
use crate::command::{NewPeer, Op, OpResult, RefusalKind};
use crate::{NodeId, NodeState, Peer, PeerId, StorageNode, check_name};

/// Most storage nodes in one cluster, gone ones not counted. Every list of nodes is held in memory.
pub const NODES_MAX: usize = 10_000;

/// Most peers in one cluster, removed ones not counted.
pub const PEERS_MAX: usize = 1_000;

/// Most unexpired join tokens.
pub const TOKENS_MAX: usize = 1_000;

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
        Op::PutSettings { settings } => put_settings(applier, settings),
        Op::PutPin { .. } | Op::RemovePin { .. } | Op::Place { .. } | Op::Expire { .. } => {
            // Applied by the caller; said here so that a new operation can't be forgotten in silence.
            Err(Stop::Failed(KvError(format!(
                "{} is no operation on members",
                op.name()
            ))))
        }
    }
}

fn put_node(applier: &mut Applier<'_>, wanted: &StorageNode) -> Result<OpResult, Stop> {
    if let Err(error) = check_name("node name", &wanted.name) {
        return refuse(RefusalKind::Invalid, error.to_string());
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

fn create_token(applier: &mut Applier<'_>, hash: &[u8], expires: crate::Timestamp) -> Result<OpResult, Stop> {
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
    const DENIED: RefusalKind = RefusalKind::Denied;
    let Some(row) = applier.kv.get(Table::Tokens, token_hash)? else {
        return refuse(
            DENIED,
            "the join token is unknown or expired; make a new one with `cluster-ctl peer join-token`",
        );
    };
    let token = codec::decode_token(&row)?;
    let old = peer(applier.kv, new.id)?;
    if let Some(used_by) = token.used_by {
        // The answer to this very attempt was lost: give it again.
        if let Some(old) = old
            && used_by == new.id
            && token.attempt == attempt
            && !old.removed
        {
            return Ok(OpResult::Admitted {
                raft_id: old.raft_id,
                replaces: None,
            });
        }
        return refuse(
            DENIED,
            "the join token was used before; make a new one with `cluster-ctl peer join-token`",
        );
    }
    if token.expires <= applier.time {
        return refuse(
            DENIED,
            "the join token has expired; make a new one with `cluster-ctl peer join-token`",
        );
    }
    if old.as_ref().is_some_and(|old| old.removed) {
        let message = format!(
            "peer {} was removed for good; let it join under a new identity (`cluster-node init`)",
            new.id
        );
        return refuse(DENIED, message);
    }
    if applier.admitted {
        return refuse(RefusalKind::Conflict, "another peer was admitted by the same log entry");
    }
    let present = peers(applier.kv)?.into_iter().filter(|peer| !peer.removed).count();
    if old.is_none() && present >= PEERS_MAX {
        return refuse(
            RefusalKind::Precondition,
            format!("there are {PEERS_MAX} peers, the most there can be"),
        );
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

fn update_peer(applier: &mut Applier<'_>, new: &NewPeer) -> Result<OpResult, Stop> {
    let old = present_peer(applier, new.id)?;
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

fn put_settings(applier: &mut Applier<'_>, settings: &Settings) -> Result<OpResult, Stop> {
    check_settings(settings)?;
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
        joined: crate::Timestamp::ZERO,
        removed: false,
    }
}

fn put_peer(applier: &mut Applier<'_>, peer: &Peer) {
    applier
        .kv
        .put(Table::Peers, peer.id.to_bytes(), codec::encode_peer(peer));
    applier.effects.members_changed = true;
}
