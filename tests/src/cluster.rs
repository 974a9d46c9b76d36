//! A whole cluster: real peers on free loopback ports, each with a storage node.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_proto::v1;
use tempfile::TempDir;
use toml::{Table, Value};

use crate::client::Client;
use crate::fake_kubo::FakeKubo;
use crate::kubo::KuboDaemon;
use crate::node::{Node, NodeKind, connect_all};
use crate::peer::Peer;
use crate::ports::free_address;
use crate::wait::wait_until;

/// How long a cluster may take to agree on something on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// What cluster to start.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// How many peers.
    pub peers: usize,
    /// What they drive.
    pub node: NodeKind,
    /// What each drives besides.
    pub beside: NodeKind,
    /// Where everything is kept; a folder with a cluster in it goes on with that. None: a folder that goes at the end.
    pub dir: Option<PathBuf>,
    /// Options of all peers, `section.key` and value.
    pub set: Vec<(String, String)>,
    /// Tags of the node of each peer.
    pub tags: Vec<Vec<(String, String)>>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            peers: 3,
            node: NodeKind::Fake,
            beside: NodeKind::None,
            dir: None,
            set: Vec::new(),
            tags: Vec::new(),
        }
    }
}

/// Reads `section.key=value` from a command line.
///
/// # Errors
/// When it is not of this form.
pub fn option_of_peers(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if key.contains('.') => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("must be section.key=value, such as raft.heartbeat=100ms".into()),
    }
}

impl ClusterOptions {
    /// So many peers with a fake Kubo each.
    pub fn fakes(peers: usize) -> Self {
        Self {
            peers,
            ..Self::default()
        }
    }

    /// The same with an option of all peers set.
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.set.push((key.to_owned(), value.to_string()));
        self
    }
}

/// A running cluster. Everything it started ends when it is dropped.
pub struct Cluster {
    // Dropped in this order: processes before the folder that they write to.
    peers: Vec<Peer>,
    nodes: Vec<(String, Node)>,
    root: PathBuf,
    _temporary: Option<TempDir>,
    options: ClusterOptions,
}

impl Cluster {
    /// Starts a cluster and waits until all peers are ready and vote, as far as they may, and all nodes are heard of.
    pub async fn start(options: ClusterOptions) -> anyhow::Result<Self> {
        let cluster = Self::start_unsettled(options).await?;
        cluster.settled().await?;
        Ok(cluster)
    }

    /// The same without waiting for more than that each peer said that it is ready.
    pub async fn start_unsettled(options: ClusterOptions) -> anyhow::Result<Self> {
        ensure!(options.peers > 0, "a cluster has at least one peer");
        let (root, temporary) = match &options.dir {
            Some(dir) => {
                std::fs::create_dir_all(dir)?;
                (std::fs::canonicalize(dir)?, None)
            }
            None => {
                let folder = tempfile::Builder::new().prefix("pinfleet-").tempdir()?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        let mut cluster = Self {
            peers: Vec::new(),
            nodes: Vec::new(),
            root,
            _temporary: temporary,
            options,
        };
        cluster.start_nodes().await?;
        cluster.start_peers().await?;
        Ok(cluster)
    }

    /// Three peers with a fake Kubo each.
    pub async fn three() -> anyhow::Result<Self> {
        Self::start(ClusterOptions::default()).await
    }

    async fn start_nodes(&mut self) -> anyhow::Result<()> {
        let count = |kind: &NodeKind| match kind {
            NodeKind::Urls(urls) => urls.len(),
            NodeKind::None => 0,
            _ => self.options.peers,
        };
        let of = |kind: &NodeKind, prefix: &'static str| {
            let kind = kind.clone();
            (0..count(&kind)).map(move |index| (kind.clone(), index, format!("{prefix}-{}", index + 1)))
        };
        let wanted = of(&self.options.node, "node").chain(of(&self.options.beside, "beside"));
        // Side by side, since a real daemon takes a second or two.
        let starts = wanted.map(|(kind, index, name)| {
            let root = self.root.clone();
            async move {
                let node = Node::start(&kind, &root, &name, index).await?;
                anyhow::Ok(node.map(|node| (name, node)))
            }
        });
        self.nodes = futures::future::try_join_all(starts)
            .await?
            .into_iter()
            .flatten()
            .collect();
        connect_all(&self.nodes).await
    }

    async fn start_peers(&mut self) -> anyhow::Result<()> {
        for index in 0..self.options.peers {
            self.peers.push(Peer::new(&self.root, &format!("peer-{}", index + 1))?);
        }
        // Those of before need each other to be ready.
        let old: Vec<usize> = (0..self.peers.len())
            .filter(|index| self.peers[*index].is_made())
            .collect();
        for &index in &old {
            self.configure(index)?;
            self.peers[index].launch()?;
        }
        for &index in &old {
            self.peers[index].ready().await?;
        }
        for index in (0..self.peers.len()).filter(|index| !old.contains(index)) {
            self.begin(index).await?;
        }
        Ok(())
    }

    /// Makes the folder of a new peer, and starts it.
    async fn begin(&self, index: usize) -> anyhow::Result<()> {
        let token = match index {
            0 => None,
            _ => {
                let token = self.wait_until("a join token is given", LIMIT, async || self.any()?.join_token().await);
                Some(token.await?)
            }
        };
        self.peers[index].init(token.as_deref()).await?;
        self.configure(index)?;
        self.peers[index].start().await
    }

    /// Adds one more peer, without a storage node, and returns its index.
    pub async fn add_peer(&mut self) -> anyhow::Result<usize> {
        let index = self.peers.len();
        self.peers.push(Peer::new(&self.root, &format!("peer-{}", index + 1))?);
        self.begin(index).await?;
        Ok(index)
    }

    /// Makes one more peer that joins with this token and runs, and does not wait until it is ready. It is not one of
    /// [`Cluster::peers`], since it may never be.
    pub async fn try_join(&self, name: &str, token: &str) -> anyhow::Result<Peer> {
        let peer = Peer::new(&self.root, name)?;
        peer.init(Some(token)).await?;
        self.configure_peer(&peer, Vec::new(), None)?;
        peer.launch()?;
        Ok(peer)
    }

    /// Writes the configuration of a peer: addresses that stay, its nodes, and what was set for all.
    pub fn configure(&self, index: usize) -> anyhow::Result<()> {
        self.configure_peer(
            &self.peers[index],
            self.node_entries(index),
            self.embedded_address(index),
        )
    }

    /// Sets an option of all peers. It is in the file after [`Cluster::configure`], and in effect after a restart.
    pub fn set(&mut self, key: &str, value: &str) {
        self.options.set.retain(|(known, _)| known != key);
        self.options.set.push((key.to_owned(), value.to_owned()));
    }

    fn configure_peer(&self, peer: &Peer, nodes: Vec<Value>, embedded: Option<&str>) -> anyhow::Result<()> {
        let mut config = peer.configuration()?;
        // The file of `init` names the usual ports, which are for one peer on a machine.
        let fresh = !peer.dir().join("cluster").exists();
        let listens = [("peer", "listen"), ("api", "grpc_listen"), ("telemetry", "http_listen")];
        for (name, key) in listens {
            let section = section(&mut config, name)?;
            if fresh || !section.contains_key(key) {
                section.insert(key.into(), Value::String(free_address()?.to_string()));
            }
        }
        for name in ["rest", "proxy", "pinning"] {
            let server = section(&mut config, name)?;
            if fresh || !server.contains_key("listen") {
                let address = Value::String(free_address()?.to_string());
                server.insert("listen".into(), Value::Array(vec![address]));
            }
        }
        section(&mut config, "peer")?.insert("name".into(), Value::String(peer.name().to_owned()));
        if let Some(listen) = embedded.and_then(embedded_listen) {
            let section = section(&mut config, "embedded")?;
            section.insert("listen".into(), listen);
            // Nothing outside of this machine is known or asked.
            section.insert("bootstrap".into(), Value::Array(Vec::new()));
            section.insert("dht".into(), Value::String("lan".into()));
            for key in ["gateway_listen", "rpc_listen"] {
                if fresh || !section.contains_key(key) {
                    section.insert(key.into(), Value::String(free_address()?.to_string()));
                }
            }
        }
        for (key, value) in &self.options.set {
            let (name, key) = key
                .split_once('.')
                .with_context(|| format!("{key} is no option; an option is SECTION.KEY"))?;
            section(&mut config, name)?.insert(key.to_owned(), parse_value(value));
        }
        if !nodes.is_empty() {
            config.insert("node".into(), Value::Array(nodes));
        }
        peer.configure(&config)
    }

    /// Where the embedded node of a peer is reached; none for a peer that has none.
    pub fn embedded_address(&self, index: usize) -> Option<&str> {
        let own = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(at, _)| at % self.options.peers == index);
        own.map(|(_, (_, node))| node).find_map(|node| match node {
            Node::Embedded(address) => Some(address.as_str()),
            _ => None,
        })
    }

    /// Where the gateway of the embedded node of a peer listens, `http://…`.
    pub fn gateway(&self, index: usize) -> anyhow::Result<String> {
        self.embedded_listener(index, "gateway_listen")
    }

    /// Where the embedded node of a peer serves its part of Kubo's RPC, `http://…`.
    pub fn embedded_rpc(&self, index: usize) -> anyhow::Result<String> {
        self.embedded_listener(index, "rpc_listen")
    }

    fn embedded_listener(&self, index: usize, key: &str) -> anyhow::Result<String> {
        let config = self.peers[index].configuration()?;
        let section = config.get("embedded").and_then(Value::as_table);
        let address = section.and_then(|section| section.get(key)?.as_str());
        Ok(format!("http://{}", address.context("the peer has no embedded node")?))
    }

    /// The nodes that a peer drives, as its configuration names them.
    fn node_entries(&self, index: usize) -> Vec<Value> {
        self.nodes
            .iter()
            .enumerate()
            .filter(|(at, _)| at % self.options.peers == index)
            .map(|(at, (name, node))| {
                let mut entry = Table::new();
                entry.insert("name".into(), Value::String(name.clone()));
                if let Node::Embedded(_) = node {
                    entry.insert("kind".into(), Value::String("embedded".into()));
                } else {
                    entry.insert("api".into(), Value::String(node.address().to_owned()));
                }
                if let Some(tags) = self.options.tags.get(at) {
                    let tags = tags
                        .iter()
                        .map(|(key, value)| (key.clone(), Value::String(value.clone())));
                    entry.insert("tags".into(), Value::Table(tags.collect()));
                }
                Value::Table(entry)
            })
            .collect()
    }

    /// Waits until the cluster is whole: as many voters as there may be, every node heard of.
    pub async fn settled(&self) -> anyhow::Result<()> {
        let voters = self.peers.len().min(5);
        let nodes = self.nodes.len();
        self.wait_until("all peers vote and all nodes are heard of", LIMIT, async || {
            let status = self.any()?.cluster_status().await?;
            let voting = status
                .peers
                .iter()
                .filter(|peer| peer.role() == v1::PeerRole::Voter)
                .count();
            ensure!(voting >= voters, "{voting} of {voters} vote");
            ensure!(
                status.peers.iter().all(|peer| peer.reachable),
                "a peer is silent: {:?}",
                status.problems
            );
            let reporting = status
                .nodes
                .iter()
                .filter(|node| node.report.as_ref().is_some_and(|report| report.reachable));
            let heard = reporting.count();
            ensure!(
                heard >= nodes,
                "{heard} of {nodes} nodes are heard of: {:?}",
                status.problems
            );
            Ok(())
        })
        .await
    }

    /// A client of the first peer that runs and has been ready.
    pub fn any(&self) -> anyhow::Result<Client> {
        let peer = self.peers.iter().find(|peer| peer.runs()).context("no peer runs")?;
        Ok(peer.client())
    }

    /// Awaits a condition; a failure says why and shows the ends of the logs.
    pub async fn wait_until<T>(
        &self,
        what: &str,
        limit: Duration,
        condition: impl AsyncFnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let waited = wait_until(what, limit, condition).await;
        waited.map_err(|error| {
            let logs: Vec<_> = self
                .peers
                .iter()
                .map(|peer| format!("--- the log of {} ends with:\n{}", peer.name(), peer.log_tail()))
                .collect();
            // In one text, since a test prints the whole chain.
            anyhow::anyhow!("{error:#}\n{}", logs.join("\n"))
        })
    }

    /// The index of the peer that all running peers hold for the leader.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        self.wait_until("the running peers agree on a leader", LIMIT, async || {
            let mut agreed = None;
            for peer in self.peers.iter().filter(|peer| peer.runs()) {
                let status = peer.client().cluster_status().await?;
                let at = self
                    .peers
                    .iter()
                    .position(|peer| peer.runs() && peer.id() == status.leader);
                let at = at.with_context(|| format!("{} follows {:?}", peer.name(), status.leader))?;
                ensure!(*agreed.get_or_insert(at) == at, "peers follow different leaders");
            }
            agreed.context("no peer runs")
        })
        .await
    }

    /// The index of a running peer that does not lead.
    pub async fn follower(&self) -> anyhow::Result<usize> {
        let leader = self.leader().await?;
        let follower = (0..self.peers.len()).find(|index| *index != leader && self.peers[*index].runs());
        follower.context("only the leader runs")
    }

    /// Waits until all running peers have applied what the leader has committed by now.
    pub async fn caught_up(&self) -> anyhow::Result<()> {
        let leader = self.leader().await?;
        let target = self.peers[leader].client().cluster_status().await?.revision;
        self.wait_until("all running peers have caught up", LIMIT, async || {
            for peer in self.peers.iter().filter(|peer| peer.runs()) {
                let revision = peer.client().cluster_status().await?.revision;
                ensure!(revision >= target, "{} stands at {revision} of {target}", peer.name());
            }
            Ok(())
        })
        .await
    }

    /// A peer, counted from 0.
    pub fn peer(&self, index: usize) -> &Peer {
        &self.peers[index]
    }

    /// All peers.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// A client of a peer, counted from 0.
    pub fn client(&self, index: usize) -> Client {
        self.peers[index].client()
    }

    /// Names and handles of all storage nodes.
    pub fn nodes(&self) -> &[(String, Node)] {
        &self.nodes
    }

    /// The fake Kubo of a peer.
    pub fn fake(&self, index: usize) -> &FakeKubo {
        match &self.nodes[index].1 {
            Node::Fake(fake) => fake,
            _ => panic!("node {index} is no fake inside this process"),
        }
    }

    /// The fake Kubo of this name.
    pub fn fake_named(&self, name: &str) -> &FakeKubo {
        let at = self.nodes.iter().position(|(node, _)| node == name);
        self.fake(at.unwrap_or_else(|| panic!("there is no node {name}")))
    }

    /// The real daemon of this name.
    pub fn kubo_named(&self, name: &str) -> &KuboDaemon {
        match self.nodes.iter().find(|(node, _)| node == name) {
            Some((_, Node::Kubo(daemon))) => daemon,
            _ => panic!("there is no daemon {name}"),
        }
    }

    /// The same, to be killed and started again.
    pub fn kubo_named_mut(&mut self, name: &str) -> &mut KuboDaemon {
        match self.nodes.iter_mut().find(|(node, _)| node == name) {
            Some((_, Node::Kubo(daemon))) => daemon,
            _ => panic!("there is no daemon {name}"),
        }
    }

    /// Where everything is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Comma-separated gRPC addresses of the running peers, as `cluster-ctl --api` takes them.
    pub fn api(&self) -> String {
        let running = self.peers.iter().filter(|peer| peer.runs());
        running.map(|peer| peer.info().grpc).collect::<Vec<_>>().join(",")
    }

    /// Stops peers, then nodes, in good order. All that runs must end with exit code 0.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let stops = self.peers.iter().map(Peer::stop);
        let mut ended = futures::future::join_all(stops).await;
        for (name, node) in &mut self.nodes {
            ended.push(node.stop(&self.root, name).await);
        }
        ended.into_iter().collect()
    }
}

fn section<'a>(config: &'a mut Table, name: &str) -> anyhow::Result<&'a mut Table> {
    let entry = config.entry(name).or_insert_with(|| Value::Table(Table::new()));
    entry.as_table_mut().with_context(|| format!("[{name}] is no section"))
}

/// What a person writes behind `=`: a TOML value, or text without its quotes.
fn parse_value(text: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {text}")).ok();
    parsed
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Where an embedded node at this address listens: TCP and QUIC at the same port.
fn embedded_listen(address: &str) -> Option<Value> {
    let port = address.rsplit('/').next()?;
    let quic = format!("/ip4/127.0.0.1/udp/{port}/quic-v1");
    Some(Value::Array(vec![
        Value::String(address.to_owned()),
        Value::String(quic),
    ]))
}
