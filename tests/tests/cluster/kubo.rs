//! A cluster over real Kubo daemons: real content, from where it is added to where it is gone again.

use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::client::{pin_request, replicas_of};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::fresh_bytes;
use cluster_tests::kubo::KuboDaemon;
use cluster_tests::node::NodeKind;
use node_core::Cid;

/// Real blocks travel one round trip after the other, which takes its time on a busy machine.
const FETCH_LIMIT: Duration = Duration::from_secs(90);

fn pin_with(cid: &Cid, options: v1::PinOptions) -> v1::PinRequest {
    v1::PinRequest {
        options: Some(options),
        ..pin_request(cid)
    }
}

async fn is_pinned(cluster: &Cluster, cid: &Cid, nodes: usize) -> anyhow::Result<v1::PinStatus> {
    let client = cluster.any()?;
    cluster
        .wait_until("it is pinned", FETCH_LIMIT, async || client.pinned_on(cid, nodes).await)
        .await
}

async fn is_gone(cluster: &Cluster, cid: &Cid, node: &str) -> anyhow::Result<()> {
    cluster
        .wait_until("the daemon has let go of it", LIMIT, async || {
            let kind = cluster.kubo_named(node).pin_kind(cid).await?;
            ensure!(kind.is_none(), "it is {kind:?}");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_content_lives_and_goes() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let options = ClusterOptions {
        node: NodeKind::Kubo,
        ..ClusterOptions::default()
    };
    let options = options
        .with("worker.backoff_base", "200ms")
        .with("worker.backoff_max", "1s");
    // One more daemon, outside of the cluster, of which the others know nothing.
    let source = folder.path().join("source");
    let (cluster, source) = tokio::join!(Cluster::start(options), KuboDaemon::start(&source));
    let (mut cluster, source) = (cluster?, source?);
    let client = cluster.client(0);

    // Content that only its origin has; on two nodes, with all its blocks and bytes.
    const BLOCK_BYTES: usize = 16 * 1024;
    let mut bytes = fresh_bytes(6 << 20);
    let blocks = (bytes.len() / BLOCK_BYTES) as u64;
    let first = source.add_in_chunks(&bytes, BLOCK_BYTES).await?;
    let options = v1::PinOptions {
        origins: vec![source.swarm_address().to_owned()],
        ..replicas_of(2)
    };
    let pin = client
        .pin_as(pin_with(&first, options.clone()))
        .await?
        .pin
        .context("a pin")?;
    cluster
        .wait_until("it is seen on its way, or pinned", LIMIT, async || {
            let status = client.status(&first).await?;
            let moved = status.nodes.iter().all(|node| {
                matches!(node.status(), v1::Status::Pinning | v1::Status::Pinned) && node.blocks > 0 && node.bytes > 0
            });
            ensure!(status.nodes.len() == 2 && moved, "{status:?}");
            Ok(())
        })
        .await?;
    let status = is_pinned(&cluster, &first, 2).await?;
    for node in &status.nodes {
        ensure!(node.blocks > blocks && node.bytes > bytes.len() as u64, "{node:?}");
        let daemon = cluster.kubo_named(&node.node);
        assert_eq!(daemon.pin_kind(&first).await?.as_deref(), Some("recursive"));
        assert!(daemon.block_size(&first).await?.is_some(), "it is all there");
    }

    // The next version of it, from the last one, on the same nodes.
    let changed = bytes.len() - BLOCK_BYTES;
    bytes[changed..].copy_from_slice(&fresh_bytes(BLOCK_BYTES));
    let second = source.add_in_chunks(&bytes, BLOCK_BYTES).await?;
    let update = v1::UpdateRequest {
        from: first.to_string(),
        to: second.to_string(),
        unpin_from: true,
        ..v1::UpdateRequest::default()
    };
    let updated = client
        .pins
        .clone()
        .update(update)
        .await?
        .into_inner()
        .pin
        .context("a pin")?;
    assert_eq!(updated.nodes, pin.nodes);
    is_pinned(&cluster, &second, 2).await?;
    for node in &pin.nodes {
        is_gone(&cluster, &first, node).await?;
        assert_eq!(
            cluster.kubo_named(node).pin_kind(&second).await?.as_deref(),
            Some("recursive")
        );
    }

    // A pin made by hand is used, and stays.
    let by_hand = cluster.kubo_named("node-2").add(&fresh_bytes(5_000)).await?;
    cluster
        .kubo_named("node-2")
        .call(&format!("pin/add?arg={by_hand}&name=mine"))
        .await?;
    let on_second = v1::PinOptions {
        nodes: vec!["node-2".into()],
        ..replicas_of(1)
    };
    client.pin_as(pin_with(&by_hand, on_second.clone())).await?;
    is_pinned(&cluster, &by_hand, 1).await?;
    client.unpin(&by_hand).await?;
    client.unpin(&second).await?;
    for node in &pin.nodes {
        is_gone(&cluster, &second, node).await?;
    }
    let missing = client.status(&by_hand).await;
    ensure!(
        missing.as_ref().is_err() || missing.as_ref().is_ok_and(|status| status.nodes.is_empty()),
        "{missing:?}"
    );
    assert_eq!(
        cluster.kubo_named("node-2").pin_kind(&by_hand).await?.as_deref(),
        Some("recursive")
    );

    // A daemon that is killed while it is asked for something, and comes back.
    let late = source.add(&fresh_bytes(5_000)).await?;
    cluster.kubo_named_mut("node-2").kill()?;
    let options = v1::PinOptions {
        nodes: vec!["node-2".into()],
        ..options
    };
    let options = v1::PinOptions {
        replication_min: 1,
        replication_max: 1,
        ..options
    };
    let pinned = cluster
        .wait_until("it is placed on the dead node", LIMIT, async || {
            Ok(client.pin_as(pin_with(&late, options.clone())).await?)
        })
        .await?;
    let placed = pinned.pin.context("a pin")?.nodes;
    if placed == ["node-2"] {
        let status = client.status(&late).await?;
        assert_eq!(status.nodes.len(), 1);
        assert_ne!(status.status(), v1::Status::Pinned);
    }
    cluster.kubo_named_mut("node-2").restart().await?;
    is_pinned(&cluster, &late, 1).await?;
    assert_eq!(
        cluster.kubo_named(&placed[0]).pin_kind(&late).await?.as_deref(),
        Some("recursive")
    );
    cluster.stop().await
}
