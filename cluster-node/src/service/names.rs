//! Names of storage nodes and who drives them, kept beside the state because every answer shows them.

use std::collections::BTreeMap;
use std::sync::Arc;

use node_core::pinset::{self, KvError, KvRead};
use node_core::{NodeId, NodeState, PeerId, StorageNode};

/// All storage nodes at one moment.
#[derive(Debug, Clone, Default)]
pub struct NodeNames {
    nodes: Arc<BTreeMap<NodeId, Named>>,
}

/// A node and what is shown of it.
#[derive(Debug, Clone)]
struct Named {
    node: StorageNode,
    /// Its peer's ID as text. It stands in every line of a list of statuses, and making base58 took a quarter of their time.
    peer: String,
}

impl NodeNames {
    /// Reads them.
    pub fn read(kv: &dyn KvRead) -> Result<Self, KvError> {
        let named = pinset::nodes(kv)?.into_iter().map(|node| {
            let peer = node.peer.to_string();
            (node.id, Named { node, peer })
        });
        Ok(Self {
            nodes: Arc::new(named.collect()),
        })
    }

    /// A node's name; its ID when it is unknown.
    pub fn name(&self, id: NodeId) -> String {
        self.nodes
            .get(&id)
            .map_or_else(|| id.to_string(), |named| named.node.name.clone())
    }

    /// The peer ID of who drives it.
    pub fn peer(&self, id: NodeId) -> String {
        self.nodes.get(&id).map(|named| named.peer.clone()).unwrap_or_default()
    }

    /// Who drives it.
    pub fn driver(&self, id: NodeId) -> Option<PeerId> {
        self.nodes.get(&id).map(|named| named.node.peer)
    }

    /// The node with this name or ID that is not gone.
    pub fn find(&self, name_or_id: &str) -> Option<&StorageNode> {
        let id = name_or_id.parse().ok();
        self.present()
            .find(|node| id.map_or(node.name == name_or_id, |id| node.id == id))
    }

    /// All that there ever were, in order of ID.
    pub fn ever(&self) -> impl Iterator<Item = &StorageNode> {
        self.nodes.values().map(|named| &named.node)
    }

    /// Whether both were read from the same state.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.nodes, &other.nodes)
    }

    /// The nodes of one peer alone: what it answers when only it is asked.
    pub fn only(&self, peer: PeerId) -> Self {
        let own = self.nodes.iter().filter(|(_, named)| named.node.peer == peer);
        let own = own.map(|(id, named)| (*id, named.clone())).collect();
        Self { nodes: Arc::new(own) }
    }

    /// All that are not gone, in order of ID.
    pub fn present(&self) -> impl Iterator<Item = &StorageNode> {
        let nodes = self.nodes.values().map(|named| &named.node);
        nodes.filter(|node| node.state != NodeState::Gone)
    }

    /// The IDs of all that are not gone, in order.
    pub fn everyone(&self) -> Vec<NodeId> {
        self.present().map(|node| node.id).collect()
    }

    /// The nodes that a peer drives.
    pub fn of_peer(&self, peer: PeerId) -> impl Iterator<Item = &StorageNode> {
        self.present().filter(move |node| node.peer == peer)
    }
}
