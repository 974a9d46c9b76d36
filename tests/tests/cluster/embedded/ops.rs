//! Sight of a node and a hand on it, asked of whichever peer.

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_proto::v1::collect_garbage_response::Message;
use cluster_tests::client::{Client, pin_replicas, replicas_of};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::fresh_bytes;
use cluster_tests::ctl::Ctl;
use cluster_tests::node::NodeKind;
use node_core::Cid;
use tonic::Code;

use super::{has, options, pinned};
use crate::reason;

async fn details(client: &Client, name: &str) -> anyhow::Result<v1::NodeDetails> {
    let request = v1::NodeRequest { name: name.into() };
    Ok(client.cluster.clone().node(request).await?.into_inner())
}

pub(super) async fn store(client: &Client, name: &str) -> anyhow::Result<v1::BlockStoreDetails> {
    let embedded = details(client, name).await?.embedded.context("an embedded node")?;
    embedded.store.context("it has a store")
}

/// All that a collection or an estimate says.
pub(super) async fn collect(client: &Client, node: &str, estimate_only: bool) -> Result<Vec<Message>, tonic::Status> {
    let request = v1::CollectGarbageRequest {
        node: node.into(),
        estimate_only,
    };
    let mut steps = client.cluster.clone().collect_garbage(request).await?.into_inner();
    let mut messages = Vec::new();
    while let Some(step) = steps.message().await? {
        messages.extend(step.message);
    }
    Ok(messages)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_seen_and_its_garbage_collected_from_another_peer() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(options()).await?;
    // The node of the first peer, asked of the second.
    let (node, other) = ("node-1", cluster.client(1));
    let on_it = v1::AddStart {
        options: Some(v1::PinOptions {
            nodes: vec!["node-2".into()],
            ..replicas_of(1)
        }),
        ..v1::AddStart::default()
    };
    let (stays, goes) = (fresh_bytes(2 << 20), fresh_bytes(8 << 20));
    let stays = other.add(on_it.clone(), &[("stays", Some(&stays))]).await?;
    let stays_cid: Cid = stays.cid.parse()?;
    // The node itself fetches it: what is handed over by an add is kept for some minutes, whatever becomes of its pin.
    other.pin_as(pin_replicas(&stays_cid, 3)).await?;
    pinned(&cluster, &stays_cid, 3).await?;
    let first = store(&other, node).await?;
    let goes = other.add(on_it, &[("goes", Some(&goes))]).await?;
    let goes_cid: Cid = goes.cid.parse()?;
    other.pin_as(pin_replicas(&goes_cid, 3)).await?;
    pinned(&cluster, &goes_cid, 3).await?;

    let shown = cluster
        .wait_until("both others are connected and the pins announced", LIMIT, async || {
            let shown = details(&other, node).await?;
            let embedded = shown.embedded.as_ref().context("an embedded node")?;
            ensure!(
                (embedded.fellows_count, embedded.fellows_connected) == (2, 2),
                "fellows: {:?}",
                embedded.fellows
            );
            let network = embedded.network.as_ref().context("a network")?;
            let ours: Vec<_> = network.peers.iter().filter(|peer| peer.fellow).collect();
            ensure!(
                ours.len() == 2 && ours.iter().all(|peer| peer.agent.starts_with("pinfleet/")),
                "connected: {:?}",
                network.peers
            );
            let announcing = embedded.announcing.as_ref().context("it announces")?;
            ensure!(announcing.told >= 2, "{announcing:?}");
            Ok(shown)
        })
        .await?;
    ensure!(shown.error.is_empty() && !shown.addresses.is_empty(), "{shown:?}");
    let recorded = shown.node.context("as recorded")?;
    assert_eq!((recorded.name.as_str(), recorded.kind.as_str()), (node, "embedded"));
    assert_eq!(recorded.peer, cluster.peer(0).id());
    let report = recorded.report.context("its worker reports")?;
    ensure!(report.reachable && report.pinned == 2, "{report:?}");
    let embedded = shown.embedded.context("an embedded node")?;
    let before = embedded.store.context("a store")?;
    assert_eq!(
        (first.blocks, before.blocks),
        (stays.blocks, stays.blocks + goes.blocks)
    );
    // What an add says are bytes of content; those of the blocks are a few more.
    let garbage = (goes.blocks, before.bytes - first.bytes);
    ensure!((8 << 20..9 << 20).contains(&garbage.1), "{garbage:?}");
    assert_eq!((before.pins, before.incomplete_pins), (2, 0));
    ensure!(
        before.disk_max_bytes > 0 && before.free_min_bytes == 1 << 20,
        "{before:?}"
    );
    let announcing = embedded.announcing.context("it announces")?;
    ensure!(
        announcing.strategy == "roots" && announcing.behind == 0 && announcing.interval_ms == 22 * 3_600_000,
        "{announcing:?}"
    );

    // What is pinned is no garbage.
    let nothing = collect(&other, node, true).await?;
    let [Message::Estimate(nothing)] = nothing[..] else {
        anyhow::bail!("an estimate is one message: {nothing:?}");
    };
    assert_eq!((nothing.blocks, nothing.looked_at), (0, 1.0));

    other.unpin(&goes_cid).await?;
    cluster
        .wait_until("the node has let go of it", LIMIT, async || {
            let pins = store(&other, node).await?.pins;
            ensure!(pins == 1, "{pins} pins");
            Ok(())
        })
        .await?;
    let estimate = collect(&other, node, true).await?;
    let [Message::Estimate(estimate)] = estimate[..] else {
        anyhow::bail!("an estimate is one message: {estimate:?}");
    };
    // The store is small enough to be looked at as a whole, so it is exact.
    assert_eq!(((estimate.blocks, estimate.bytes), estimate.looked_at), (garbage, 1.0));
    let still = store(&other, node).await?;
    assert_eq!((still.blocks, still.bytes), (before.blocks, before.bytes));

    let messages = collect(&other, node, false).await?;
    let Some((Message::Done(done), progress)) = messages.split_last() else {
        anyhow::bail!("the last word is missing: {messages:?}");
    };
    assert_eq!((done.deleted_blocks, done.deleted_bytes), garbage);
    let in_between = |message: &Message| matches!(message, Message::Progress(step) if (0.0..=1.0).contains(&step.done));
    ensure!(progress.iter().all(in_between), "{progress:?}");
    let after = store(&other, node).await?;
    assert_eq!((after.blocks, after.bytes), (first.blocks, first.bytes));
    ensure!(
        !has(&cluster, 0, &goes_cid).await? && has(&cluster, 0, &stays_cid).await?,
        "the wrong ones went"
    );
    let told = details(&cluster.client(2), node).await?.embedded.context("embedded")?;
    let told = told.garbage.context("it tells of it")?;
    let last = told.progress.context("of the last one")?;
    ensure!(
        !told.running && last.done == 1.0 && (last.deleted_blocks, last.deleted_bytes) == garbage,
        "{told:?}"
    );
    cluster
        .wait_until("the metrics show it", LIMIT, async || {
            let (_, metrics) = cluster.peer(0).http_get("/metrics").await?;
            let value = |name: &str| {
                let start = format!("pinfleet_embedded_{name}{{node=\"{node}\"}} ");
                let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
                line.map(str::to_owned).with_context(|| format!("{name} is missing"))
            };
            let shown = (
                value("gc_progress")?.parse::<f64>()?,
                value("collected_bytes")?.parse::<f64>()?,
            );
            ensure!(shown == (1.0, garbage.1 as f64), "{shown:?}");
            Ok(())
        })
        .await?;

    // As a user runs it, with the ID instead of the name.
    let ctl = Ctl::new(cluster.peer(2).info().grpc)?;
    let screen = ctl.run(&["node", "show", node, "--width", "100"]).await?;
    for words in [
        "STORE",
        "ANNOUNCING",
        "connected to 2 of the 2 other IPFS nodes",
        "pinfleet/",
    ] {
        ensure!(screen.contains(words), "{words:?} is missing:\n{screen}");
    }
    let collected = ctl.json(&["node", "gc", &recorded.id]).await?;
    assert_eq!(collected[0]["blocks"], 0);
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_asked_of_a_node_is_said() -> anyhow::Result<()> {
    let options = ClusterOptions {
        peers: 2,
        beside: NodeKind::Fake,
        ..options()
    };
    let mut cluster = Cluster::start(options).await?;
    let client = cluster.client(0);
    for estimate in [false, true] {
        let unknown = collect(&client, "node-9", estimate).await.expect_err("there is none");
        ensure!(
            unknown.code() == Code::NotFound && unknown.message().contains("node-9"),
            "{unknown:?}"
        );
        let kubo = collect(&client, "beside-2", estimate)
            .await
            .expect_err("it is no embedded one");
        ensure!(
            kubo.code() == Code::FailedPrecondition && kubo.message().contains("ipfs repo gc"),
            "{kubo:?}"
        );
    }
    let unknown = client.cluster.clone().node(v1::NodeRequest::default()).await;
    assert_eq!(unknown.expect_err("there is none").code(), Code::NotFound);

    // Little is known of a daemon, and the same from both peers.
    for index in 0..2 {
        let kubo = details(&cluster.client(index), "beside-2").await?;
        ensure!(
            kubo.embedded.is_none()
                && kubo.error.is_empty()
                && !kubo.version.is_empty()
                && !kubo.ipfs_peer_id.is_empty(),
            "{kubo:?}"
        );
    }

    // The driver is gone: said at once, by its name.
    cluster.peer(1).kill9()?;
    let silent = collect(&client, "node-2", false).await.expect_err("its peer is gone");
    ensure!(
        silent.code() == Code::Unavailable && reason(&silent) == "DRIVER_SILENT" && silent.message().contains("peer-2"),
        "{silent:?}"
    );
    let silent = client
        .cluster
        .clone()
        .node(v1::NodeRequest { name: "node-2".into() })
        .await;
    assert_eq!(reason(&silent.expect_err("its peer is gone")), "DRIVER_SILENT");
    let ctl = Ctl::new(cluster.peer(0).info().grpc)?;
    let ran = ctl.try_run(&["node", "show", "node-2"]).await?;
    ensure!(ran.code == 5 && ran.stderr.contains("peer-2"), "{ran:?}");
    cluster.peer(1).start().await?;
    cluster.settled().await?;
    cluster.stop().await
}
