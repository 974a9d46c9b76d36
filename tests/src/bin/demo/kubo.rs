//! The story with a Kubo daemon beside each peer: content is added to one of them and pinned by the cluster.

use anyhow::{Context, ensure};
use cluster_tests::cluster::Cluster;
use cluster_tests::content::fresh_bytes;
use cluster_tests::ctl::Ctl;
use cluster_tests::kubo::KuboDaemon;
use cluster_tests::node::Node;
use node_core::Cid;

use crate::{Asked, Story};

fn asked(cid: Cid) -> Asked {
    Asked { cid, bytes: None }
}

/// A file and a folder.
pub async fn first(story: &mut Story, cluster: &Cluster, ctl: &Ctl, size: usize) -> anyhow::Result<Vec<Asked>> {
    let source = daemon(cluster, 0)?;
    let file = source.add(&fresh_bytes(size)).await?;
    let folder = add_folder(source).await?;
    story.done(&format!(
        "a file of {} MiB and a folder of three files were added to one Kubo",
        size >> 20
    ));
    for (cid, name) in [(&file, "demo-file"), (&folder, "demo-folder")] {
        pin(ctl, cid, name).await?;
    }
    story.done("`cluster-ctl pin add --replicas 2 --wait` ended: both are pinned");
    Ok(vec![asked(file), asked(folder)])
}

/// Adds so many small files to one daemon.
pub async fn prepare(cluster: &Cluster, index: usize, count: usize) -> anyhow::Result<Vec<Prepared>> {
    let survivor = daemon(cluster, index)?;
    let mut prepared = Vec::new();
    for _ in 0..count {
        prepared.push(Prepared::OnKubo(survivor.add(&fresh_bytes(512 << 10)).await?));
    }
    Ok(prepared)
}

/// Content that is to be pinned while the leader is down.
pub enum Prepared {
    /// Bytes that are to be added.
    Bytes(Vec<u8>),
    /// What a daemon has already.
    OnKubo(Cid),
}

/// Pins and waits for the acknowledgement only.
pub async fn record(ctl: &Ctl, content: Prepared, name: &str) -> anyhow::Result<Asked> {
    let Prepared::OnKubo(cid) = content else {
        anyhow::bail!("the content is not on a Kubo");
    };
    let text = cid.to_string();
    let line = ["pin", "add", &text, "--name", name, "--replicas", "2", "--quiet"];
    ctl.run(&line).await?;
    Ok(asked(cid))
}

/// What the daemons say.
pub async fn verify(cluster: &Cluster, cid: &Cid, holders: &[String]) -> anyhow::Result<()> {
    for (name, node) in cluster.nodes() {
        let Node::Kubo(daemon) = node else { continue };
        let kind = daemon.pin_kind(cid).await?;
        let wanted = holders.contains(name).then(|| "recursive".to_owned());
        ensure!(
            kind == wanted,
            "{name} holds {cid} as {kind:?}, and should as {wanted:?}"
        );
    }
    Ok(())
}

fn daemon(cluster: &Cluster, index: usize) -> anyhow::Result<&KuboDaemon> {
    match cluster.nodes().get(index) {
        Some((_, Node::Kubo(daemon))) => Ok(daemon),
        _ => anyhow::bail!("node {index} is no Kubo"),
    }
}

/// A folder of three files, made by Kubo itself.
async fn add_folder(daemon: &KuboDaemon) -> anyhow::Result<Cid> {
    daemon.call("files/mkdir?arg=/demo&cid-version=1").await?;
    for name in ["one", "two", "three"] {
        let cid = daemon.add(&fresh_bytes(100 << 10)).await?;
        daemon
            .call(&format!("files/cp?arg=/ipfs/{cid}&arg=/demo/{name}"))
            .await?;
    }
    let answer: serde_json::Value = serde_json::from_str(&daemon.call("files/stat?arg=/demo").await?)?;
    let cid = answer["Hash"].as_str().context("the answer has no Hash")?;
    Ok(cid.parse()?)
}

/// Pins and waits until the nodes hold it.
async fn pin(ctl: &Ctl, cid: &Cid, name: &str) -> anyhow::Result<()> {
    let cid = cid.to_string();
    let line = [
        "pin",
        "add",
        &cid,
        "--name",
        name,
        "--replicas",
        "2",
        "--wait",
        "--wait-timeout",
        "2m",
        "--quiet",
    ];
    ctl.run(&line).await.map(drop)
}
