//! IPFS Cluster 1.1.6 in Raft mode: real peers, for comparison and for migration.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::kubo::ipfs_cluster_binaries;
use crate::ports::free_address;
use crate::wait::wait_until;

/// All peers of one cluster share this; it protects nothing here.
const SECRET: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// One of its peers. Killed when dropped.
pub struct Peer {
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

    /// Starts it; without an address to begin from, with what it knows.
    pub fn launch(&mut self, bootstrap: Option<String>) -> anyhow::Result<()> {
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

    /// Peer ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// Ends it cleanly and waits for that.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let pid = Pid::from_raw(child.id().cast_signed()).context("a process has an ID")?;
        kill_process(pid, Signal::TERM)?;
        let ended = wait_until("a peer of IPFS Cluster ends", Duration::from_secs(60), async || {
            child.try_wait()?.context("it still runs")
        });
        ended
            .await
            .with_context(|| format!("its log ends with:\n{}", self.log_tail()))?;
        Ok(())
    }

    /// What `ipfs-cluster-service` says when it is run with this peer's folder.
    pub async fn service(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = tokio::process::Command::new(&self.service)
            .args(arguments)
            .env("IPFS_CLUSTER_PATH", &self.folder)
            .env("CLUSTER_SECRET", SECRET)
            .stdin(Stdio::null())
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "ipfs-cluster-service {} ended with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended before.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Resident memory.
    pub fn resident_mebibytes(&self) -> anyhow::Result<f64> {
        let pid = self.child.as_ref().context("it does not run")?.id();
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|line| line.trim().strip_suffix("kB"))
            .context("no VmRSS")?;
        Ok(kib.trim().parse::<f64>()? / 1024.0)
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
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

/// Peers that know each other.
pub struct Cluster {
    /// In the order of the nodes.
    pub peers: Vec<Peer>,
    /// For its REST API.
    pub http: reqwest::Client,
}

impl Cluster {
    /// A peer for each of these nodes (URLs of their RPC), each in a folder of its own below `folder`. Two replicas of each
    /// pin, or one where there is one node.
    pub async fn start(folder: &Path, nodes: &[&str]) -> anyhow::Result<Self> {
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
            http,
        };
        let replicas = nodes.len().min(2);
        for (number, node) in (1..).zip(nodes) {
            let name = format!("reference-{number}");
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

    /// Waits until a peer answers.
    pub async fn answers(&self, number: usize) -> anyhow::Result<()> {
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

    /// Waits until a pin is taken.
    pub async fn takes_a_pin(&self, cid: &node_core::Cid) -> anyhow::Result<()> {
        wait_until("IPFS Cluster takes a pin", Duration::from_secs(120), async || {
            pin(&self.http, &self.peers[0].rest, cid).await
        })
        .await
        .with_context(|| format!("its log ends with:\n{}", self.peers[0].log_tail()))
    }

    /// URL of the REST API of a peer; numbers beyond the last begin anew.
    pub fn rest(&self, number: usize) -> String {
        self.peers[number % self.peers.len()].rest.clone()
    }
}

/// Pins a CID with the default options.
pub async fn pin(http: &reqwest::Client, rest: &str, cid: &node_core::Cid) -> anyhow::Result<()> {
    let answer = http.post(format!("{rest}/pins/{cid}")).send().await?;
    let (status, body) = (answer.status(), answer.text().await?);
    ensure!(status.is_success(), "{status}: {body}");
    Ok(())
}
