//! Storage nodes as this peer drives them: how to reach a daemon, and under what settings its worker runs.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use cluster_kubo::{Address, CallObserver, Credentials, IpfsNode, KuboClient, KuboOptions};
use cluster_proto::peer::v1::{ProbeNodeRequest, ProbeNodeResponse};
use cluster_worker::{NodeSettings, Worker};
use node_core::{NodeId, PeerId, StorageNode};
use parking_lot::Mutex;

use super::Error;

/// Settings and limits of nodes, from this peer's configuration.
pub trait NodeLimits: Send + Sync + 'static {
    /// The worker's settings for a node.
    fn settings(&self, node: &StorageNode) -> NodeSettings;
    /// The client's options for a node.
    fn client(&self, node: &StorageNode) -> KuboOptions;
}

/// Observes the calls to one node.
pub type ObserverOf = Arc<dyn Fn(&StorageNode) -> Arc<dyn CallObserver> + Send + Sync>;

/// A node and the client that was built for it.
type Built = (StorageNode, Arc<dyn IpfsNode>);

/// Builds clients and keeps those that are in use.
pub struct NodeFactory {
    limits: Arc<dyn NodeLimits>,
    observer: ObserverOf,
    own: PeerId,
    built: Mutex<HashMap<NodeId, Built>>,
}

impl NodeFactory {
    /// Nothing built yet.
    pub fn new(own: PeerId, limits: Arc<dyn NodeLimits>, observer: ObserverOf) -> Self {
        Self {
            limits,
            observer,
            own,
            built: Mutex::default(),
        }
    }

    /// Gives the worker the nodes that this peer drives now. A node whose address is not valid is left out and logged:
    /// it was checked when it was added, so only a change of the credentials' file leads here.
    pub fn drive(&self, worker: &Worker, nodes: Vec<StorageNode>) {
        let mut built = self.built.lock();
        let mut driven = Vec::with_capacity(nodes.len());
        let mut kept = HashMap::with_capacity(nodes.len());
        for node in nodes {
            let same =
                |old: &StorageNode| (&old.api, &old.auth_file, &old.kind) == (&node.api, &node.auth_file, &node.kind);
            let client = match built.remove(&node.id).filter(|(old, _)| same(old)) {
                Some((_, client)) => client,
                None => match self.client(&node) {
                    Ok(client) => client,
                    Err(error) => {
                        tracing::error!(node = %node.name, %error, "the storage node can't be driven");
                        continue;
                    }
                },
            };
            driven.push((self.limits.settings(&node), client.clone()));
            kept.insert(node.id, (node, client));
        }
        *built = kept;
        drop(built);
        worker.set_nodes(driven);
    }

    fn client(&self, node: &StorageNode) -> Result<Arc<dyn IpfsNode>, Error> {
        if node.kind != "kubo" {
            return Err(Error::invalid(
                "kind",
                &node.kind,
                "this version drives nodes of the kind kubo",
            ));
        }
        let address: Address = node
            .api
            .parse()
            .map_err(|error: cluster_kubo::AddressError| Error::invalid("api", &node.api, error.to_string()))?;
        let credentials = match node.auth_file.as_str() {
            "" => None,
            file => Some(
                Credentials::read(Path::new(file))
                    .map_err(|error| Error::invalid("auth_file", file, error.to_string()))?,
            ),
        };
        let client = KuboClient::new(&address, credentials, self.limits.client(node), (self.observer)(node));
        client
            .map(|client| Arc::new(client) as Arc<dyn IpfsNode>)
            .map_err(|error| Error::invalid("api", &node.api, error.to_string()))
    }

    /// Tries a daemon before it becomes a storage node.
    pub async fn probe(&self, request: &ProbeNodeRequest) -> Result<ProbeNodeResponse, Error> {
        let node = StorageNode {
            id: NodeId(0),
            name: "probe".into(),
            peer: self.own,
            kind: "kubo".into(),
            api: request.api.clone(),
            tags: Default::default(),
            weight: 1.0,
            state: node_core::NodeState::Active,
            auth_file: request.auth_file.clone(),
        };
        let client = self.client(&node)?;
        let refused = |error: cluster_kubo::Error| {
            Error::precondition(format!("the IPFS daemon at {} can't be used: {error}", request.api))
        };
        let identity = client.id().await.map_err(refused)?;
        Ok(ProbeNodeResponse {
            ipfs_peer_id: identity.peer_id,
            version: identity.agent,
        })
    }
}
