//! IPFS Cluster in Raft mode over the same fake nodes, asked the same questions over its REST API.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::load::{Listed, closed_loops};
use super::pinfleet::{Fresh, longest_gap};
use super::{Options, tell};
use crate::content;
use crate::kubo::ipfs_cluster_binaries;
use crate::node::FakeProcess;
use crate::ports::free_address;
use crate::wait::wait_until;

/// All peers of one cluster share this; it protects nothing here.
const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A figure and words about it, by name.
#[derive(Debug, Clone, Default)]
pub struct Reference {
    figures: BTreeMap<String, (f64, String)>,
}

impl Reference {
    /// A figure, if it was measured.
    pub fn get(&self, name: &str) -> Option<(f64, String)> {
        self.figures.get(name).cloned()
    }

    fn add(&mut self, name: &str, value: f64, words: String) {
        eprintln!("bench:   IPFS Cluster {name}: {value:.1}; {words}");
        self.figures.insert(name.to_owned(), (value, words));
    }
}

/// One of its peers. Killed when dropped.
struct Peer {
    folder: PathBuf,
    service: PathBuf,
    rest: String,
    swarm_port: u16,
    id: String,
    child: Option<Child>,
}

impl Peer {
    fn new(service: &Path, folder: PathBuf, name: &str, node: &str, replicas: usize) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder)?;
        let output = Command::new(service)
            .args(["init", "--consensus", "raft", "--force"])
            .env("IPFS_CLUSTER_PATH", &folder)
            .env("CLUSTER_SECRET", SECRET)
            .stdin(Stdio::null())
            .output()
            .context("cannot run ipfs-cluster-service")?;
        ensure!(
            output.status.success(),
            "ipfs-cluster-service init ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let (rest, swarm) = (free_address()?, free_address()?);
        let path = folder.join("service.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        let node: std::net::SocketAddr = node.trim_start_matches("http://").parse()?;
        let cluster = &mut config["cluster"];
        cluster["peername"] = json!(name);
        cluster["listen_multiaddress"] = json!([format!("/ip4/127.0.0.1/tcp/{}", swarm.port())]);
        cluster["mdns_interval"] = json!("0s");
        cluster["replication_factor_min"] = json!(replicas);
        cluster["replication_factor_max"] = json!(replicas);
        config["ipfs_connector"]["ipfshttp"]["node_multiaddress"] =
            json!(format!("/ip4/127.0.0.1/tcp/{}", node.port()));
        let api = config["api"]
            .as_object_mut()
            .context("service.json has no section api")?;
        // Only REST is asked here, and the other two would want ports of their own.
        api.retain(|name, _| name == "restapi");
        config["api"]["restapi"]["http_listen_multiaddress"] = json!(format!("/ip4/127.0.0.1/tcp/{}", rest.port()));
        fs::write(&path, serde_json::to_string_pretty(&config)?)?;
        let identity: Value = serde_json::from_str(&fs::read_to_string(folder.join("identity.json"))?)?;
        Ok(Self {
            id: identity["id"].as_str().context("identity.json has no id")?.to_owned(),
            folder,
            service: service.to_owned(),
            rest: format!("http://{rest}"),
            swarm_port: swarm.port(),
            child: None,
        })
    }

    fn launch(&mut self, bootstrap: Option<String>) -> anyhow::Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))?;
        let mut command = Command::new(&self.service);
        command.arg("daemon");
        if let Some(address) = bootstrap {
            command.args(["--bootstrap", &address]);
        }
        let child = command
            .env("IPFS_CLUSTER_PATH", &self.folder)
            .env("CLUSTER_SECRET", SECRET)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    fn address(&self) -> String {
        format!("/ip4/127.0.0.1/tcp/{}/p2p/{}", self.swarm_port, self.id)
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended before.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn resident_mebibytes(&self) -> anyhow::Result<f64> {
        let pid = self.child.as_ref().context("it does not run")?.id();
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|line| line.trim().strip_suffix("kB"))
            .context("no VmRSS")?;
        Ok(kib.trim().parse::<f64>()? / 1024.0)
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(super) struct Cluster {
    peers: Vec<Peer>,
    // After the peers: nodes end when nobody asks them any more.
    _nodes: Vec<FakeProcess>,
    http: reqwest::Client,
}

impl Cluster {
    /// Three peers with a fake node each, two replicas.
    pub(super) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let nodes: Vec<_> = (0..3)
            .map(|_| FakeProcess::start(free_address()?))
            .collect::<anyhow::Result<_>>()?;
        let addresses: Vec<_> = nodes.iter().map(|node| node.address().to_owned()).collect();
        let mut cluster = Self::start_over(folder, &addresses, 2).await?;
        cluster._nodes = nodes;
        Ok(cluster)
    }

    /// A peer for each of these nodes.
    pub(super) async fn start_over(folder: &Path, nodes: &[String], replicas: usize) -> anyhow::Result<Self> {
        let (service, _) = tokio::task::spawn_blocking(ipfs_cluster_binaries).await??;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .pool_max_idle_per_host(1_024)
            .tcp_nodelay(true)
            .build()?;
        let mut cluster = Self {
            peers: Vec::new(),
            _nodes: Vec::new(),
            http,
        };
        for (number, node) in nodes.iter().enumerate() {
            let name = format!("reference-{}", number + 1);
            cluster
                .peers
                .push(Peer::new(&service, folder.join(&name), &name, node, replicas)?);
        }
        let first = cluster.peers[0].address();
        for number in 0..nodes.len() {
            cluster.peers[number].launch((number > 0).then(|| first.clone()))?;
            cluster.answers(number).await?;
        }
        for number in 0..nodes.len() {
            cluster.is_ready(number).await?;
        }
        Ok(cluster)
    }

    /// Where the peers answer.
    pub(super) fn addresses(&self) -> Vec<String> {
        let hosts = self.peers.iter().map(|peer| peer.rest.trim_start_matches("http://"));
        hosts.map(str::to_owned).collect()
    }

    /// Its processes, in the groups that processor time is told for.
    pub(super) fn groups(&self) -> Vec<(&'static str, Vec<u32>)> {
        let peers = self.peers.iter().filter_map(|peer| peer.child.as_ref());
        vec![
            ("peers", peers.map(Child::id).collect()),
            ("nodes", self._nodes.iter().map(FakeProcess::pid).collect()),
            ("load", vec![std::process::id()]),
        ]
    }

    /// Waits until a peer says that it is ready. It answers before; under load from then on it may not come so far within
    /// its 30 seconds, and ends itself.
    async fn is_ready(&self, number: usize) -> anyhow::Result<()> {
        let peer = &self.peers[number];
        let said = async || {
            let log = fs::read_to_string(peer.folder.join("log"))?;
            ensure!(log.contains("IPFS Cluster is READY"), "it has not said so");
            Ok(())
        };
        wait_until("a peer of IPFS Cluster is ready", Duration::from_secs(60), said)
            .await
            .with_context(|| format!("its log ends with:\n{}", peer.log_tail()))
    }

    async fn answers(&self, number: usize) -> anyhow::Result<()> {
        let peer = &self.peers[number];
        wait_until("a peer of IPFS Cluster answers", Duration::from_secs(120), async || {
            self.http
                .get(format!("{}/id", peer.rest))
                .send()
                .await?
                .error_for_status()?;
            Ok(())
        })
        .await
        .with_context(|| format!("its log ends with:\n{}", peer.log_tail()))
    }

    async fn takes_a_pin(&self, cid: &node_core::Cid) -> anyhow::Result<()> {
        wait_until("IPFS Cluster takes a pin", Duration::from_secs(120), async || {
            pin(&self.http, &self.peers[0].rest, cid).await
        })
        .await
        .with_context(|| format!("its log ends with:\n{}", self.peers[0].log_tail()))
    }

    fn rest(&self, number: usize) -> String {
        self.peers[number % self.peers.len()].rest.clone()
    }

    /// Reads a streamed list; every item is a line.
    async fn lines(&self, path: &str) -> anyhow::Result<Listed> {
        let begun = Instant::now();
        let answer = self
            .http
            .get(format!("{}{path}", self.rest(0)))
            .send()
            .await?
            .error_for_status()?;
        let mut body = answer.bytes_stream();
        let (mut items, mut first) = (0u64, None);
        while let Some(piece) = body.next().await {
            let piece = piece?;
            first.get_or_insert_with(|| begun.elapsed());
            items += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
        }
        Ok(Listed {
            items,
            first: first.context("the list was empty")?,
            all: begun.elapsed(),
        })
    }
}

async fn pin(http: &reqwest::Client, rest: &str, cid: &node_core::Cid) -> anyhow::Result<()> {
    let answer = http.post(format!("{rest}/pins/{cid}")).send().await?;
    let (status, body) = (answer.status(), answer.text().await?);
    ensure!(status.is_success(), "{status}: {body}");
    Ok(())
}

/// It was seen to end under load. A second try is fair, and the figures of Pinfleet are worth having without it.
const ATTEMPTS: usize = 2;

/// Measures everything that it can do too. What fails is told on stderr, and left out when it fails again.
pub async fn measure(options: &Options, scratch: &Path) -> anyhow::Result<Reference> {
    let mut reference = Reference::default();
    for attempt in 1..=ATTEMPTS {
        tell("IPFS Cluster", "starting three peers in Raft mode");
        let mut cluster = Cluster::start(&scratch.join(format!("reference-{attempt}"))).await?;
        let Err(error) = measure_on(options, &mut cluster, &mut reference).await else {
            break;
        };
        tell(
            "IPFS Cluster",
            &format!("attempt {attempt} of {ATTEMPTS} failed: {error}"),
        );
        for (number, peer) in cluster.peers.iter_mut().enumerate() {
            if let Some(ended) = peer.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                let number = number + 1;
                tell(
                    "IPFS Cluster",
                    &format!("peer {number} {ended}; its log ends with:\n{}", peer.log_tail()),
                );
            }
        }
    }
    Ok(reference)
}

async fn measure_on(options: &Options, cluster: &mut Cluster, reference: &mut Reference) -> anyhow::Result<()> {
    let fresh = Arc::new(Fresh::default());
    if options.wants("small") {
        for clients in [1, 64, 512] {
            let seen = adds(cluster, &fresh, clients, options.time).await?;
            reference.add(&format!("add-{clients}"), seen.rate, seen.words());
        }
        status_of_one(options, cluster, &fresh, reference).await?;
    }
    if options.wants("large") {
        tell(
            "IPFS Cluster",
            &format!("adding up to {} pins one by one", options.reference_pins),
        );
        while fresh.count() < options.reference_pins {
            adds(cluster, &fresh, 512, Duration::from_secs(5)).await?;
        }
        for (name, path) in [("list", "/allocations"), ("status-all", "/pins")] {
            let listed = cluster.lines(path).await?;
            let words = format!("{} in {:.1} s", listed.items, listed.all.as_secs_f64());
            reference.add(name, listed.rate(), words);
            let first = listed.first.as_secs_f64() * 1e3;
            reference.add(&format!("{name}-first"), first, format!("at {} pins", listed.items));
        }
        let mut largest = 0.0f64;
        for peer in &cluster.peers {
            largest = largest.max(peer.resident_mebibytes()?);
        }
        reference.add("memory", largest, format!("at {} pins, after the lists", fresh.count()));
    }
    if options.wants("small") {
        leader_gap(cluster, &fresh, reference).await?;
    }
    if options.wants("large") {
        restart(cluster, &fresh, reference).await?;
    }
    Ok(())
}

async fn adds(
    cluster: &Cluster,
    fresh: &Arc<Fresh>,
    clients: usize,
    time: Duration,
) -> anyhow::Result<super::load::Seen> {
    closed_loops(clients, Duration::from_secs(1), time, |number| {
        let (http, rest, fresh) = (cluster.http.clone(), cluster.rest(number), fresh.clone());
        Ok(move || {
            let (http, rest, cid) = (http.clone(), rest.clone(), fresh.cid());
            async move { pin(&http, &rest, &cid).await }
        })
    })
    .await
}

async fn status_of_one(
    options: &Options,
    cluster: &Cluster,
    fresh: &Fresh,
    reference: &mut Reference,
) -> anyhow::Result<()> {
    let known = fresh.count().max(1);
    for clients in [1, 64] {
        let next = Arc::new(AtomicU64::new(0));
        let seen = closed_loops(clients, Duration::from_millis(500), options.time, |number| {
            let (http, rest, next) = (cluster.http.clone(), cluster.rest(number), next.clone());
            Ok(move || {
                let cid = content::cid(next.fetch_add(7_919, Ordering::Relaxed) % known);
                let url = format!("{rest}/pins/{cid}");
                let http = http.clone();
                async move {
                    http.get(url).send().await?.error_for_status()?.bytes().await?;
                    Ok(())
                }
            })
        })
        .await?;
        reference.add(&format!("status-{clients}"), seen.rate, seen.words());
    }
    Ok(())
}

/// How long is waited for writes after the loss of the leader.
const GAP_LIMIT: Duration = Duration::from_secs(60);

/// The first peer began the cluster and leads as long as nobody else was elected, which takes its loss.
async fn leader_gap(cluster: &mut Cluster, fresh: &Arc<Fresh>, reference: &mut Reference) -> anyhow::Result<()> {
    tell("IPFS Cluster", "killing the leader");
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for number in [1, 1, 1, 1, 2, 2, 2, 2] {
        let (http, rest, fresh) = (cluster.http.clone(), cluster.rest(number), fresh.clone());
        let (acknowledged, stop) = (acknowledged.clone(), stop.clone());
        writers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                match pin(&http, &rest, &fresh.cid()).await {
                    Ok(()) => acknowledged.lock().push(Instant::now()),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        });
    }
    let count = |at_least: usize| {
        let acknowledged = acknowledged.clone();
        wait_until("writes are acknowledged", GAP_LIMIT, async move || {
            let now = acknowledged.lock().len();
            ensure!(now >= at_least, "{now} of {at_least}");
            Ok(())
        })
    };
    count(100).await?;
    let killed = Instant::now();
    cluster.peers[0].kill();
    let at_kill = acknowledged.lock().len();
    let words = match count(at_kill + 100).await {
        Ok(()) => "one kill".to_owned(),
        // Seen after heavy load. It is a figure too, and the others are worth having.
        Err(_) => format!("one kill; it had not recovered after {} s", GAP_LIMIT.as_secs()),
    };
    stop.store(true, Ordering::Relaxed);
    let mut seen = acknowledged.lock().clone();
    seen.push(Instant::now());
    // What still waits for an answer may do so for ever.
    writers.shutdown().await;
    let gap = longest_gap(&mut seen, killed);
    reference.add("gap", gap.as_secs_f64(), words);
    cluster.peers[0].launch(None)?;
    cluster.answers(0).await
}

async fn restart(cluster: &mut Cluster, fresh: &Fresh, reference: &mut Reference) -> anyhow::Result<()> {
    tell("IPFS Cluster", "killing and restarting all peers");
    for peer in &mut cluster.peers {
        peer.kill();
    }
    let begun = Instant::now();
    for peer in &mut cluster.peers {
        peer.launch(None)?;
    }
    let mut words = format!("at {} pins", fresh.count());
    if let Err(error) = cluster.takes_a_pin(&fresh.cid()).await {
        // Seen when a peer that was killed before did not come back. A figure too, and the others are worth having.
        tell("IPFS Cluster", &format!("it does not come back: {error:#}"));
        words.push_str("; it had not come back by then");
    }
    reference.add("restart", begun.elapsed().as_secs_f64(), words);
    Ok(())
}
