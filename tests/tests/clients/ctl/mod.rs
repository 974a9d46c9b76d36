//! `ipfs-cluster-ctl` 1.1.6: its whole list of commands, as text and as JSON.

mod access;
mod add;
mod cluster;
mod pins;

use anyhow::{Context as _, ensure};
use cluster_tests::kubo::KuboDaemon;
use cluster_tests::node::{Node, NodeKind};
use cluster_tests::reference_ctl::ReferenceCtl;
use tempfile::TempDir;

use super::Fleet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_over_embedded_nodes() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let beside = KuboDaemon::start(folder.path()).await?;
    over(Fleet::start(NodeKind::Embedded, 2).await?, Some((folder, beside))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_over_kubo() -> anyhow::Result<()> {
    over(Fleet::start(NodeKind::Kubo, 2).await?, None).await
}

/// `beside` says which CIDs Kubo makes, where no node of the cluster is one.
async fn over(fleet: Fleet, beside: Option<(TempDir, KuboDaemon)>) -> anyhow::Result<()> {
    let ctl = ReferenceCtl::new(&[&fleet.rest(0)]).await?;
    let kubo = match (&beside, &fleet.cluster.nodes()[0].1) {
        (Some((_, daemon)), _) => daemon,
        (None, Node::Kubo(daemon)) => daemon.as_ref(),
        _ => anyhow::bail!("there is no Kubo"),
    };
    cluster::empty(&ctl).await.context("nothing pinned")?;
    cluster::members(&fleet, &ctl).await.context("members")?;
    cluster::health(&fleet, &ctl).await.context("health")?;
    cluster::local(&ctl).await.context("local commands")?;
    add::as_kubo_does(&fleet, &ctl, kubo).await.context("add, the CIDs")?;
    add::options(&fleet, &ctl, kubo).await.context("add, its options")?;
    pins::one(&fleet, &ctl).await.context("pins")?;
    pins::options(&fleet, &ctl).await.context("pin add, its options")?;
    pins::lists(&fleet, &ctl).await.context("lists")?;
    pins::waiting(&fleet, &ctl).await.context("waiting")?;
    cluster::collect(&fleet, &ctl).await.context("ipfs gc")?;
    cluster::fail_over(&fleet).await.context("several hosts")?;
    cluster::removal(&fleet).await.context("peers rm")?;
    fleet.stop().await
}

/// That some text is there.
fn has(text: &str, words: &str) -> anyhow::Result<()> {
    ensure!(text.contains(words), "{words:?} is missing in:\n{text}");
    Ok(())
}
