//! `ipfs-cluster-ctl` 1.1.6: its whole list of commands, as text and as JSON.

mod access;
mod add;
mod cluster;
mod pins;

use anyhow::ensure;
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
    // Each as far as it goes, so that one run tells of all of them.
    let mut problems = Vec::new();
    let mut note = |part: &str, outcome: anyhow::Result<()>| {
        problems.extend(outcome.err().map(|error| format!("{part}: {error:#}")));
    };
    note("nothing pinned", cluster::empty(&ctl).await);
    note("members", cluster::members(&fleet, &ctl).await);
    note("health", cluster::health(&fleet, &ctl).await);
    note("local commands", cluster::local(&ctl).await);
    note("add, the CIDs", add::as_kubo_does(&fleet, &ctl, kubo).await);
    note("add, what is told", add::output(&ctl).await);
    note("add, its options", add::options(&fleet, &ctl).await);
    note("add, CAR files", add::car_files(&fleet, &ctl, kubo).await);
    note("add, what is refused", add::refusals(&ctl).await);
    note("pins", pins::one(&fleet, &ctl).await);
    note("pin update", pins::update(&fleet, &ctl).await);
    note("pin add, its options", pins::options(&fleet, &ctl).await);
    note("pin add, modes", pins::modes(&fleet, &ctl).await);
    note("lists", pins::lists(&fleet, &ctl).await);
    note("waiting", pins::waiting(&fleet, &ctl).await);
    note("ipfs gc", cluster::collect(&fleet, &ctl).await);
    note("several hosts", cluster::fail_over(&fleet).await);
    note("peers rm", cluster::removal(&fleet).await);
    ensure!(problems.is_empty(), "{}", problems.join("\n\n"));
    fleet.stop().await
}

/// That some text is there.
fn has(text: &str, words: &str) -> anyhow::Result<()> {
    ensure!(text.contains(words), "{words:?} is missing in:\n{text}");
    Ok(())
}
