//! The two that are compared, each in a folder of its own, new for each piece of work.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use cluster_proto::v1;
use node_core::Cid;
use serde_json::Value;

use super::work::{Groups, Work, measured};
use crate::bench::Options;
use crate::bench::machine::resident_mebibytes;
use crate::client::{pin_request, replicas_of};
use crate::cluster::{Cluster, ClusterOptions};
use crate::ctl::Ctl;
use crate::kubo::{KuboDaemon, KuboOptions};
use crate::node::NodeKind;
use crate::wait::wait_until;

/// How long a piece of work may take.
pub const LIMIT: Duration = Duration::from_secs(600);

/// How long one is left alone before its memory at rest is looked at.
const REST: Duration = Duration::from_secs(3);

/// A Kubo that content comes from. It has not to sync, which would only take time before anything is measured.
pub async fn source(folder: &Path) -> anyhow::Result<KuboDaemon> {
    KuboDaemon::start(folder).await
}

/// A Kubo that is measured.
pub struct Theirs {
    daemon: KuboDaemon,
}

impl Theirs {
    /// A new one.
    pub async fn start(options: &Options, folder: &Path) -> anyhow::Result<Self> {
        let kubo = KuboOptions {
            sync: !options.kubo_unsynced,
            ..KuboOptions::default()
        };
        Ok(Self {
            daemon: KuboDaemon::start_with(folder, kubo).await?,
        })
    }

    /// Its process.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.daemon.pid().context("the daemon does not run")
    }

    /// Fetches from whoever is at these addresses. `others` are their processes.
    pub async fn fetch(&self, cid: &Cid, from: &[String], others: Groups) -> anyhow::Result<Work> {
        for address in from {
            self.daemon.connect_to(address).await?;
        }
        let pid = self.pid()?;
        let groups = [vec![("node", vec![pid])], others].concat();
        let ((), work) = measured(groups, pid, self.daemon.pin(cid, LIMIT)).await?;
        Ok(work)
    }

    /// Adds what lies at this path, with its own command and the options of `unixfs-v1-2025`.
    pub async fn add(&self, path: &Path) -> anyhow::Result<(String, Work)> {
        let path = path.to_str().context("the path is no text")?;
        let pid = self.pid()?;
        let arguments = [
            "add",
            "-r",
            "-Q",
            "--progress=false",
            "--cid-version=1",
            "--raw-leaves",
            "--chunker=size-1048576",
            "--max-file-links=1024",
            path,
        ];
        let (cid, work) = measured(vec![("node", vec![pid])], pid, self.daemon.run(&arguments)).await?;
        Ok((cid.trim().to_owned(), work))
    }

    /// Its memory when it has nothing to do.
    pub async fn rest(&self) -> anyhow::Result<f64> {
        rest(self.pid()?).await
    }

    /// Ends it, and removes what it has written.
    pub async fn end(mut self, folder: &Path) -> anyhow::Result<()> {
        self.daemon.stop().await?;
        Ok(std::fs::remove_dir_all(folder)?)
    }
}

/// A cluster of one peer with its node inside.
pub struct Ours {
    cluster: Cluster,
}

impl Ours {
    /// A new one.
    pub async fn start(options: &Options, folder: &Path) -> anyhow::Result<Self> {
        let cluster = ClusterOptions {
            peers: 1,
            node: NodeKind::Embedded,
            dir: Some(folder.to_owned()),
            set: options.set.clone(),
            ..ClusterOptions::default()
        };
        Ok(Self {
            cluster: Cluster::start(cluster).await?,
        })
    }

    /// Its process.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.cluster.peer(0).pid().context("the peer does not run")
    }

    /// Where other nodes reach it.
    pub async fn address(&self) -> anyhow::Result<String> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
        let url = format!("{}/api/v0/id", self.cluster.embedded_rpc(0)?);
        let id = http.post(url).send().await?.error_for_status()?.text().await?;
        let id: Value = serde_json::from_str(&id)?;
        let id = id["ID"].as_str().context("the answer to id has no ID")?;
        let address = self.cluster.embedded_address(0).context("the node has no address")?;
        Ok(format!("{address}/p2p/{id}"))
    }

    /// Fetches from whoever is at these addresses. `others` are their processes.
    pub async fn fetch(&self, cid: &Cid, from: &[String], others: Groups) -> anyhow::Result<Work> {
        let pid = self.pid()?;
        let groups = [vec![("node", vec![pid])], others].concat();
        let client = self.cluster.client(0);
        let work = async {
            let mut request = pin_request(cid);
            request.options = Some(v1::PinOptions {
                origins: from.to_vec(),
                ..replicas_of(1)
            });
            client.pin_as(request).await?;
            self.cluster
                .wait_until("the content is pinned", LIMIT, async || client.pinned_on(cid, 1).await)
                .await
                .map(drop)
        };
        let ((), work) = measured(groups, pid, work).await?;
        Ok(work)
    }

    /// Adds what lies at this path, with the command.
    pub async fn add(&self, path: &Path) -> anyhow::Result<(String, Work)> {
        let path = path.to_str().context("the path is no text")?;
        let pid = self.pid()?;
        let ctl = Ctl::new(self.cluster.api())?;
        let arguments = ["--quiet", "add", "--cid-only", "--replicas", "1", path];
        let (cid, work) = measured(vec![("node", vec![pid])], pid, ctl.run(&arguments)).await?;
        Ok((cid.trim().to_owned(), work))
    }

    /// Its memory when it has nothing to do.
    pub async fn rest(&self) -> anyhow::Result<f64> {
        rest(self.pid()?).await
    }

    /// Ends it, and removes what it has written.
    pub async fn end(mut self, folder: &Path) -> anyhow::Result<()> {
        self.cluster.stop().await?;
        Ok(std::fs::remove_dir_all(folder)?)
    }
}

/// Memory once it has stayed the same for a while, or after a minute.
async fn rest(pid: u32) -> anyhow::Result<f64> {
    let now = || resident_mebibytes(pid).context("the process is gone");
    let mut last = now()?;
    for _ in 0..20 {
        tokio::time::sleep(REST).await;
        let next = now()?;
        if (next - last).abs() < 1.0 {
            return Ok(next);
        }
        last = next;
    }
    Ok(last)
}

/// A source that has what is fetched, ready for it.
pub async fn ready(daemon: &KuboDaemon, cid: &Cid) -> anyhow::Result<()> {
    wait_until("the source has the root", Duration::from_secs(10), async || {
        let size = daemon.block_size(cid).await?;
        size.context("it does not").map(drop)
    })
    .await
}
