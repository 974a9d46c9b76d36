//! Storage nodes as this peer drives them: how to reach a daemon, and under what settings its worker runs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cluster_ipfs::{
    Added, Connected, Identity, Intake, IpfsNode, Listed, LookFor, Operation, ProgressSink, RepoStat, Updated,
};
use cluster_kubo::{Address, CallObserver, Credentials, KuboClient, KuboOptions, masked};
use cluster_proto::peer::v1::{ProbeNodeRequest, ProbeNodeResponse};
use cluster_worker::{NodeSettings, Worker};
use node_core::{Cid, ErrorClass, NodeId, NodeState, PeerId, PinMode, StorageNode};
use parking_lot::Mutex;

use super::{Error, Operated};

/// The kind of the node inside a peer.
pub(super) const EMBEDDED: &str = "embedded";

/// Whether it is the node inside a peer.
pub fn is_embedded(node: &StorageNode) -> bool {
    node.kind == EMBEDDED
}

/// What a peer says of a node that was inside it once.
pub(super) const NOT_CONFIGURED: &str = "the configuration of the peer has no [[node]] section of the kind \"embedded\" any more; put it back and restart the \
     peer, or take the node out with `cluster-ctl node rm`";

/// Settings and limits of nodes, from this peer's configuration.
pub trait NodeLimits: Send + Sync + 'static {
    /// The worker's settings for a node of this cluster.
    fn settings(&self, node: &StorageNode, cluster_id: &str) -> NodeSettings;
    /// The client's options for a node.
    fn client(&self, node: &StorageNode) -> KuboOptions;
}

/// Observes the calls to one node.
pub type ObserverOf = Arc<dyn Fn(&StorageNode) -> Arc<dyn CallObserver> + Send + Sync>;

/// A node and the client that was built for it.
pub type Known = (StorageNode, Arc<dyn IpfsNode>);

/// The node inside this peer.
#[derive(Clone)]
pub struct OwnNode {
    /// As something to drive.
    pub driven: Arc<dyn IpfsNode>,
    /// As something to look into.
    pub operated: Arc<dyn Operated>,
}

/// Builds clients and keeps those that are in use.
pub struct NodeFactory {
    limits: Arc<dyn NodeLimits>,
    observer: ObserverOf,
    own: PeerId,
    embedded: Option<OwnNode>,
    known: Mutex<HashMap<NodeId, Known>>,
    /// Those of them that are daemons, to speak with them directly.
    attached: Mutex<HashMap<NodeId, Arc<AttachedNode>>>,
}

impl NodeFactory {
    /// Nothing built yet.
    pub fn new(own: PeerId, limits: Arc<dyn NodeLimits>, observer: ObserverOf, embedded: Option<OwnNode>) -> Self {
        Self {
            embedded,
            limits,
            observer,
            own,
            known: Mutex::default(),
            attached: Mutex::default(),
        }
    }

    /// Gives the worker the nodes of this peer. Those that are gone are not driven any more, and the ledger forgets
    /// them; what the cluster pinned there stays on the daemon, which is not the cluster's any more, under the cluster's
    /// name, by which it is recognised when the daemon is added again.
    pub fn drive(&self, worker: &Worker, cluster_id: &str, nodes: Vec<StorageNode>) {
        let (gone, nodes): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|node| node.state == NodeState::Gone);
        let mut known = self.known.lock();
        let mut attached = self.attached.lock();
        let mut driven = Vec::with_capacity(nodes.len());
        let mut kept = HashMap::with_capacity(nodes.len());
        for node in nodes {
            let same =
                |old: &StorageNode| (&old.api, &old.auth_file, &old.kind) == (&node.api, &node.auth_file, &node.kind);
            let client = match known.remove(&node.id).filter(|(old, _)| same(old)) {
                Some((_, client)) => client,
                None => match &self.embedded {
                    Some(embedded) if node.kind == EMBEDDED => embedded.driven.clone(),
                    _ => {
                        let made = Arc::new(self.attach(&node));
                        attached.insert(node.id, made.clone());
                        made
                    }
                },
            };
            driven.push((self.limits.settings(&node, cluster_id), client.clone()));
            kept.insert(node.id, (node, client));
        }
        attached.retain(|id, _| kept.contains_key(id));
        *known = kept;
        drop((known, attached));
        worker.set_nodes(driven);
        // After that: what still runs at them finds nothing to write to.
        worker.forget_nodes(gone.into_iter().map(|node| node.id));
    }

    /// A node that this peer drives.
    pub fn client(&self, node: NodeId) -> Option<Arc<dyn IpfsNode>> {
        self.known.lock().get(&node).map(|(_, client)| client.clone())
    }

    /// The same with what is recorded of it.
    pub fn known(&self, node: NodeId) -> Option<Known> {
        self.known.lock().get(&node).cloned()
    }

    /// The client of a daemon that this peer drives, to speak with it as others do; none of another node.
    ///
    /// # Errors
    /// While the daemon can't be driven, for example because its credentials can't be read.
    pub async fn daemon(&self, node: NodeId) -> Result<Option<Arc<KuboClient>>, cluster_ipfs::Error> {
        let attached = self.attached.lock().get(&node).cloned();
        match attached {
            Some(attached) => attached.client(Operation::Id).await.map(Some),
            None => Ok(None),
        }
    }

    /// The node inside this peer.
    pub fn operated(&self) -> Option<Arc<dyn Operated>> {
        self.embedded.as_ref().map(|embedded| embedded.operated.clone())
    }

    /// All nodes that this peer drives.
    pub fn clients(&self) -> Vec<Known> {
        self.known.lock().values().cloned().collect()
    }

    fn attach(&self, node: &StorageNode) -> AttachedNode {
        let plan = Plan {
            kind: node.kind.clone(),
            api: node.api.clone(),
            auth_file: node.auth_file.clone(),
            options: self.limits.client(node),
            observer: (self.observer)(node),
        };
        AttachedNode::new(&node.name, plan)
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
            state: NodeState::Active,
            auth_file: request.auth_file.clone(),
        };
        let client = self.attach(&node).plan.build().await?;
        let refused = |error: cluster_ipfs::Error| {
            let api = masked(&request.api);
            Error::precondition(format!("the IPFS daemon at {api} can't be used: {error}"))
        };
        let identity = client.id().await.map_err(refused)?;
        Ok(ProbeNodeResponse {
            ipfs_peer_id: identity.peer_id,
            version: identity.agent,
        })
    }
}

/// All that a client is made of.
struct Plan {
    kind: String,
    api: String,
    auth_file: String,
    options: KuboOptions,
    observer: Arc<dyn CallObserver>,
}

impl Plan {
    async fn build(&self) -> Result<KuboClient, Error> {
        if self.kind == EMBEDDED {
            return Err(Error::precondition(NOT_CONFIGURED));
        }
        if self.kind != "kubo" {
            return Err(Error::invalid(
                "kind",
                &self.kind,
                "this version drives nodes of the kind kubo",
            ));
        }
        let bad_api = |reason: String| Error::invalid("api", masked(&self.api), reason);
        let address: Address = self
            .api
            .parse()
            .map_err(|error: cluster_kubo::AddressError| bad_api(error.to_string()))?;
        let credentials = match self.auth_file.as_str() {
            "" => None,
            file => {
                let path = PathBuf::from(file);
                let read = tokio::task::spawn_blocking(move || Credentials::read(&path)).await;
                let read = read.map_err(|error| Error::Internal(error.to_string()))?;
                Some(read.map_err(|error| Error::invalid("auth_file", file, error.to_string()))?)
            }
        };
        KuboClient::new(&address, credentials, self.options, self.observer.clone())
            .map_err(|error| bad_api(error.to_string()))
    }
}

/// A daemon whose client is made when it is first asked something. Until that works each question is answered by why it
/// does not, so the node is reported as not reachable with that reason, and the worker's next probe tries again. So
/// credentials that can't be read when the peer starts need a hand for the file, and none for the peer; and those that
/// the daemon refuses are read anew, in case they were changed.
struct AttachedNode {
    name: String,
    plan: Plan,
    client: tokio::sync::Mutex<Option<Arc<KuboClient>>>,
}

impl AttachedNode {
    fn new(name: &str, plan: Plan) -> Self {
        Self {
            name: name.to_owned(),
            plan,
            client: tokio::sync::Mutex::default(),
        }
    }

    async fn client(&self, operation: Operation) -> Result<Arc<KuboClient>, cluster_ipfs::Error> {
        let mut client = self.client.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        match self.plan.build().await {
            Ok(built) => Ok(client.insert(Arc::new(built)).clone()),
            Err(error) => {
                tracing::debug!(node = %self.name, %error, "the storage node can't be driven yet");
                Err(cluster_ipfs::Error {
                    operation,
                    class: ErrorClass::Unauthorized,
                    message: error.to_string(),
                    status: None,
                })
            }
        }
    }

    /// Lets the next question read the credentials anew after a refusal.
    async fn renew(&self, used: &Arc<KuboClient>) {
        let mut client = self.client.lock().await;
        if client.as_ref().is_some_and(|client| Arc::ptr_eq(client, used)) {
            *client = None;
        }
    }
}

#[async_trait]
impl IpfsNode for AttachedNode {
    async fn id(&self) -> Result<Identity, cluster_ipfs::Error> {
        let client = self.client(Operation::Id).await?;
        let answer = client.id().await;
        if answer
            .as_ref()
            .is_err_and(|error| error.class == ErrorClass::Unauthorized)
            && !self.plan.auth_file.is_empty()
        {
            self.renew(&client).await;
        }
        answer
    }

    async fn version(&self) -> Result<String, cluster_ipfs::Error> {
        self.client(Operation::Version).await?.version().await
    }

    async fn repo_stat(&self) -> Result<RepoStat, cluster_ipfs::Error> {
        self.client(Operation::RepoStat).await?.repo_stat().await
    }

    async fn pin_add(
        &self,
        cid: &Cid,
        mode: PinMode,
        name: &str,
        progress: ProgressSink<'_>,
    ) -> Result<Added, cluster_ipfs::Error> {
        let client = self.client(Operation::PinAdd).await?;
        client.pin_add(cid, mode, name, progress).await
    }

    async fn pin_update(
        &self,
        from: &Cid,
        to: &Cid,
        progress: ProgressSink<'_>,
    ) -> Result<Updated, cluster_ipfs::Error> {
        let client = self.client(Operation::PinUpdate).await?;
        client.pin_update(from, to, progress).await
    }

    async fn pin_rm(&self, cid: &Cid) -> Result<bool, cluster_ipfs::Error> {
        self.client(Operation::PinRm).await?.pin_rm(cid).await
    }

    async fn pin_ls(&self, cid: &Cid, look_for: LookFor) -> Result<Option<Listed>, cluster_ipfs::Error> {
        self.client(Operation::PinLs).await?.pin_ls(cid, look_for).await
    }

    async fn swarm_connect(&self, origins: &[String]) -> Connected {
        match self.client(Operation::SwarmConnect).await {
            Ok(client) => client.swarm_connect(origins).await,
            Err(error) => Connected {
                connected: 0,
                failures: vec![error],
            },
        }
    }

    async fn blocks(&self, cids: &[Cid]) -> Result<Vec<Option<Bytes>>, cluster_ipfs::Error> {
        self.client(Operation::Blocks).await?.blocks(cids).await
    }

    async fn intake(&self) -> Result<Box<dyn Intake>, cluster_ipfs::Error> {
        self.client(Operation::Intake).await?.intake().await
    }
}
