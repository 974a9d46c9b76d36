//! Adding one large file through the cluster, beside adding it to its node without one.

use std::path::Path;

use anyhow::{Context, ensure};
use futures::{StreamExt as _, stream};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;

use super::tell;
use crate::bench::Options;
use crate::bench::embedded::Sizes;
use crate::bench::embedded::data;
use crate::bench::embedded::work::{Rounds, Work, measured, row};
use crate::bench::report::{Report, Row, Target, Unit};
use crate::cluster::{Cluster, ClusterOptions};
use crate::ipfs_cluster;
use crate::kubo::{KuboDaemon, KuboOptions};
use crate::node::NodeKind;

/// What is asked of both: the same CIDs.
const UNIXFS: &str = "cid-version=1&raw-leaves=true&chunker=size-262144";
const BOUNDARY: &str = "pinfleet-bench";
/// Pieces of a file as they are sent.
const PIECE: usize = 256 << 10;
/// The share of the direct way that the way through the cluster must reach.
const SHARE: f64 = 0.9;

/// One way of one side, and what it is held against.
#[derive(Default)]
struct Ways {
    through: Rounds,
    direct: Rounds,
}

impl Ways {
    /// The middle of one way as a share of the other's.
    fn share(&self) -> Option<f64> {
        Some(self.direct.median()?.seconds / self.through.median()?.seconds)
    }
}

/// All ways, in turn, each from an empty folder.
pub async fn measure(options: &Options, folder: &Path, report: &mut Report) -> anyhow::Result<()> {
    let mebibytes = Sizes::of(options.short, options.percent).file_mebibytes;
    tell("add", &format!("a file of {mebibytes} MiB is made"));
    let bench = Bench::new(options, folder, mebibytes)?;
    let (mut embedded, mut kubo, mut theirs) = (Ways::default(), Ways::default(), Ways::default());
    for _ in 0..options.rounds {
        bench.embedded(&mut embedded).await?;
        bench.kubo(&mut kubo).await?;
        if options.against_ipfs_cluster {
            bench.reference(&mut theirs).await?;
        }
        if [&embedded, &kubo, &theirs].iter().any(|ways| ways.through.is_long()) {
            break;
        }
    }
    let amount = mebibytes as f64;
    for (over, ours, reference) in [("the node inside", &embedded, None), ("Kubo", &kubo, Some(&theirs))] {
        let what = format!("POST /add of {mebibytes} MiB over {over}");
        let none = Rounds::default();
        let through = reference.map_or(&none, |theirs| &theirs.through);
        if let Some(row) = row(&what, Unit::MebiBytesPerSecond, amount, &ours.through, through) {
            report.add(row);
        }
        if let Some(share) = ours.share() {
            let direct = ours.direct.median().map_or(0.0, |work| amount / work.seconds);
            report.add(
                Row::new(format!("{what}: share of the direct way"), Unit::Share, share)
                    .detail(format!("without the cluster {direct:.0} MiB/s"))
                    .reference(reference.and_then(Ways::share).map(|share| (share, String::new())))
                    .target(Target::Value(SHARE)),
            );
        }
    }
    Ok(())
}

struct Bench<'a> {
    options: &'a Options,
    folder: &'a Path,
    what: String,
    http: reqwest::Client,
}

impl<'a> Bench<'a> {
    fn new(options: &'a Options, folder: &'a Path, mebibytes: usize) -> anyhow::Result<Self> {
        data::file(&folder.join("to-add"), 1, mebibytes << 20)?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            options,
            folder,
            what: format!("add of {mebibytes} MiB"),
            http: reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?,
        })
    }

    /// Sends a file as a form, and gives the last line of the answer.
    async fn send(&self, url: &str, file: &Path) -> anyhow::Result<Value> {
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"file\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        let end = format!("\r\n--{BOUNDARY}--\r\n");
        let pieces = ReaderStream::with_capacity(tokio::fs::File::open(file).await?, PIECE);
        let body = stream::iter([Ok(head.into())])
            .chain(pieces)
            .chain(stream::iter([Ok(end.into())]));
        let request = self
            .http
            .post(url)
            .header("content-type", format!("multipart/form-data; boundary={BOUNDARY}"))
            .body(reqwest::Body::wrap_stream(body));
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{url}: {status}: {text}");
        let last = text.lines().last().with_context(|| format!("{url}: an empty answer"))?;
        Ok(serde_json::from_str(last)?)
    }

    async fn timed(&self, pids: &[u32], url: String, file: &Path) -> anyhow::Result<(Value, Work)> {
        let groups = vec![("servers", pids.to_vec()), ("load", vec![std::process::id()])];
        let watched = pids.first().copied().context("no process")?;
        measured(groups, watched, self.send(&url, file)).await
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.join("to-add")
    }

    async fn cluster(&self, folder: &Path, node: NodeKind) -> anyhow::Result<Cluster> {
        let options = ClusterOptions {
            peers: 1,
            node,
            dir: Some(folder.to_owned()),
            set: self.options.set.clone(),
            ..ClusterOptions::default()
        };
        Cluster::start(options).await
    }

    /// A Kubo that syncs its blocks, as the node inside does.
    async fn daemon(&self, folder: &Path) -> anyhow::Result<KuboDaemon> {
        let options = KuboOptions {
            sync: !self.options.kubo_unsynced,
            ..KuboOptions::default()
        };
        KuboDaemon::start_with(folder, options).await
    }

    /// The node inside a peer. Its own way in is an import of blocks: the same are hashed and stored.
    async fn embedded(&self, ways: &mut Ways) -> anyhow::Result<()> {
        let folder = self.folder.join("embedded");
        let mut cluster = self.cluster(&folder, NodeKind::Embedded).await?;
        let pids = [cluster.peer(0).pid().context("the peer runs")?];
        let url = format!("{}/add?{UNIXFS}&replication=1", rest(&cluster)?);
        let (added, work) = self.timed(&pids, url, &self.file()).await?;
        ways.through.add("Pinfleet, the node inside", &self.what, work);
        let cid = added["cid"].as_str().context("no CID")?.to_owned();
        let car = self.folder.join("to-import");
        self.fetch(&format!("{}/ipfs/{cid}?format=car", cluster.gateway(0)?), &car)
            .await?;
        cluster.stop().await?;
        std::fs::remove_dir_all(&folder)?;

        let mut cluster = self.cluster(&folder, NodeKind::Embedded).await?;
        let pids = [cluster.peer(0).pid().context("the peer runs")?];
        let url = format!("{}/api/v0/dag/import?pin-roots=true", cluster.embedded_rpc(0)?);
        let (_, work) = self.timed(&pids, url, &car).await?;
        ways.direct
            .add("the node inside, without the cluster", &self.what, work);
        cluster.stop().await?;
        std::fs::remove_file(&car)?;
        Ok(std::fs::remove_dir_all(&folder)?)
    }

    async fn fetch(&self, url: &str, to: &Path) -> anyhow::Result<()> {
        let answer = self
            .http
            .get(url)
            .header("accept", "application/vnd.ipld.car")
            .send()
            .await?;
        let mut body = answer.error_for_status()?.bytes_stream();
        let mut file = tokio::fs::File::create(to).await?;
        while let Some(piece) = body.next().await {
            file.write_all(&piece?).await?;
        }
        // Its writing back shall not fall into what is measured next.
        Ok(file.sync_data().await?)
    }

    /// A Kubo behind a peer, and the same Kubo alone.
    async fn kubo(&self, ways: &mut Ways) -> anyhow::Result<()> {
        let folder = self.folder.join("kubo");
        let mut daemon = self.daemon(&folder.join("daemon")).await?;
        let node = NodeKind::Urls(vec![daemon.address().to_owned()]);
        let mut cluster = self.cluster(&folder.join("cluster"), node).await?;
        let pids = [
            cluster.peer(0).pid().context("the peer runs")?,
            daemon.pid().context("it runs")?,
        ];
        let url = format!("{}/add?{UNIXFS}&replication=1", rest(&cluster)?);
        let (added, work) = self.timed(&pids, url, &self.file()).await?;
        ways.through.add("Pinfleet over Kubo", &self.what, work);
        cluster.stop().await?;
        daemon.stop().await?;
        std::fs::remove_dir_all(&folder)?;
        self.alone(&folder, ways, &added).await
    }

    /// The same daemon, new, without anything before it.
    async fn alone(&self, folder: &Path, ways: &mut Ways, added: &Value) -> anyhow::Result<()> {
        let mut daemon = self.daemon(&folder.join("daemon")).await?;
        let pids = [daemon.pid().context("it runs")?];
        let url = format!(
            "{}/api/v0/add?{UNIXFS}&max-file-links=174&progress=false",
            daemon.address()
        );
        let (alone, work) = self.timed(&pids, url, &self.file()).await?;
        ensure!(alone["Hash"] == added["cid"], "not the same work: {alone} and {added}");
        ways.direct.add("Kubo alone", &self.what, work);
        daemon.stop().await?;
        Ok(std::fs::remove_dir_all(folder)?)
    }

    /// IPFS Cluster before the same daemon.
    async fn reference(&self, ways: &mut Ways) -> anyhow::Result<()> {
        let folder = self.folder.join("reference-add");
        let mut daemon = self.daemon(&folder.join("daemon")).await?;
        let cluster = ipfs_cluster::Cluster::start(&folder, &[daemon.address()]).await?;
        let pids = [
            cluster.peers[0].pid().context("the peer runs")?,
            daemon.pid().context("it runs")?,
        ];
        let url = format!("{}/add?{UNIXFS}", cluster.rest(0));
        let (added, work) = self.timed(&pids, url, &self.file()).await?;
        ways.through.add("IPFS Cluster over Kubo", &self.what, work);
        drop(cluster);
        daemon.stop().await?;
        std::fs::remove_dir_all(&folder)?;
        self.alone(&folder, ways, &added).await
    }
}

fn rest(cluster: &Cluster) -> anyhow::Result<String> {
    let rest = cluster.peer(0).info().rest;
    Ok(format!("http://{}", rest.context("the peer has no REST API")?))
}
