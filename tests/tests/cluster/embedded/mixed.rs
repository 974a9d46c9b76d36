//! Embedded nodes beside real Kubo daemons, and one embedded node attached to another cluster.

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::client::{pin_replicas, replicas_of};
use cluster_tests::cluster::{Cluster, ClusterOptions};
use cluster_tests::content::fresh_bytes;
use cluster_tests::node::NodeKind;
use node_core::Cid;

use super::{has, options, pinned, start_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_nodes_and_kubo_hold_the_same_content_side_by_side() -> anyhow::Result<()> {
    let options = ClusterOptions {
        beside: NodeKind::Kubo,
        ..options()
    };
    let mut cluster = Cluster::start(options).await?;
    let client = cluster.client(0);

    // From a daemon to all: the embedded nodes fetch it from Kubo over Bitswap.
    let bytes = fresh_bytes(3 << 20);
    let kubo = cluster.kubo_named("beside-1");
    let cid = kubo.add(&bytes).await?;
    client.pin_as(pin_replicas(&cid, 6)).await?;
    pinned(&cluster, &cid, 6).await?;
    for index in 0..3 {
        ensure!(has(&cluster, index, &cid).await?, "the embedded node of peer {index}");
        ensure!(cluster.client(index).cat(cid).await? == bytes, "peer {index}");
    }

    // Straight into the cluster: to both kinds of nodes at once.
    let bytes = fresh_bytes(3 << 20);
    let done = client.add(start_of(6), &[("file", Some(&bytes))]).await?;
    ensure!(done.failures.is_empty() && done.nodes.len() == 6, "{done:?}");
    let cid: Cid = done.cid.parse()?;
    pinned(&cluster, &cid, 6).await?;
    for number in 1..=3 {
        let kubo = cluster.kubo_named(&format!("beside-{number}"));
        assert_eq!(kubo.pin_kind(&cid).await?.as_deref(), Some("recursive"));
        ensure!(kubo.read(&format!("cat?arg={cid}")).await? == bytes, "what Kubo reads");
    }

    // Kubo alone gives content back too.
    let only = v1::PinOptions {
        nodes: vec!["beside-2".into()],
        ..replicas_of(1)
    };
    let start = v1::AddStart {
        options: Some(only),
        ..v1::AddStart::default()
    };
    let small = fresh_bytes(100_000);
    let done = client.add(start, &[("file", Some(&small))]).await?;
    assert_eq!(done.nodes, ["beside-2"]);
    for index in 0..3 {
        ensure!(cluster.client(index).cat(&done.cid).await? == small, "peer {index}");
    }
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_pinfleet_node_is_attached_to_another_cluster() -> anyhow::Result<()> {
    let mut inner = Cluster::start(ClusterOptions { peers: 1, ..options() }).await?;
    let mut outer = Cluster::start(ClusterOptions {
        peers: 1,
        node: NodeKind::Urls(vec![inner.embedded_rpc(0)?]),
        ..ClusterOptions::default()
    })
    .await?;
    let bytes = fresh_bytes(1 << 20);
    let done = outer.client(0).add(start_of(1), &[("file", Some(&bytes))]).await?;
    let cid: Cid = done.cid.parse()?;
    let status = pinned(&outer, &cid, 1).await?;
    let node = status.nodes.first().context("one node")?;
    ensure!(
        node.blocks > 0 && node.bytes >= bytes.len() as u64,
        "progress came through: {node:?}"
    );
    ensure!(has(&inner, 0, &cid).await?, "the node of the other cluster has it");
    ensure!(outer.client(0).cat(cid).await? == bytes, "and gives it back");
    outer.stop().await?;
    inner.stop().await
}
