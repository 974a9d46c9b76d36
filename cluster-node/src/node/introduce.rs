//! How a peer introduces itself, and the storage nodes that its configuration names.

use std::net::SocketAddr;

use node_core::command::NewPeer;
use node_core::{NodeId, NodeState, PeerId, StorageNode};

use crate::config::Config;

/// What others are told of this peer.
pub fn introduction(own: PeerId, config: &Config, peer: SocketAddr, grpc: SocketAddr) -> NewPeer {
    let addresses = if config.peer.advertise.is_empty() {
        vec![peer.to_string()]
    } else {
        config.peer.advertise.clone()
    };
    let api_address = if config.api.grpc_advertise.is_empty() {
        grpc.to_string()
    } else {
        config.api.grpc_advertise.clone()
    };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    NewPeer {
        id: own,
        name: config.peer.name.clone(),
        addresses,
        api_address,
        version,
    }
}

/// The nodes of the configuration; the cluster gives them their numbers.
pub fn configured_nodes(config: &Config, own: PeerId) -> Vec<StorageNode> {
    let node = |section: &crate::config::Node| StorageNode {
        id: NodeId(0),
        name: section.name.clone(),
        peer: own,
        kind: section.kind.as_str().to_owned(),
        api: section.api.clone(),
        tags: section.tags.clone(),
        weight: section.weight,
        state: NodeState::Active,
        auth_file: section.auth_file.display().to_string(),
    };
    config.nodes.iter().map(node).collect()
}
