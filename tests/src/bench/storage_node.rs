//! How fast one peer drives one storage node.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cluster_proto::v1;
use node_core::Cid;

use super::machine::Usage;
use super::pinfleet::groups;
use super::report::{Report, Row, Target, Unit};
use super::{Options, tell};
use crate::client::replicas_of;
use crate::cluster::{Cluster, ClusterOptions};
use crate::content;
use crate::kubo::KuboDaemon;
use crate::node::{Node, NodeKind};
use crate::wait::wait_until;

/// Pins at the same time, for the direct calls and for the worker.
const CONCURRENCY: usize = 32;

/// Long enough that nothing is begun while the pins are recorded.
pub(super) const HELD_BACK: &str = "0.001";

/// One peer with one fake node that answers at once, limits off.
pub async fn at_once(options: &Options, scratch: &Path, report: &mut Report) -> anyhow::Result<()> {
    let pins: u64 = if options.short { 10_000 } else { 100_000 };
    tell("node", &format!("{pins} pins wait for one fake node"));
    let cluster = ClusterOptions {
        peers: 1,
        node: NodeKind::FakeProcess,
        dir: Some(scratch.join("node")),
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(cluster.with("worker.pins_per_second", HELD_BACK)).await?;
    let cids: Vec<Cid> = (0..pins).map(content::cid).collect();
    let (rate, limit) = drive(&mut cluster, &cids, &[]).await?;
    report.add(
        Row::new("pins driven to a node that answers at once", Unit::PerSecond, rate)
            .detail(format!(
                "{pins} pins, limits off; from the restart with all of them queued"
            ))
            .target(Target::Value(3_000.0))
            .limit(limit),
    );
    cluster.stop().await
}

/// One peer with one real Kubo that has the blocks, beside direct calls at the same concurrency.
pub async fn kubo(options: &Options, scratch: &Path, report: &mut Report) -> anyhow::Result<()> {
    let pins = if options.short { 500 } else { 5_000 };
    tell("kubo", &format!("{pins} blocks go into one Kubo"));
    let cluster = ClusterOptions {
        peers: 1,
        node: NodeKind::Kubo,
        dir: Some(scratch.join("kubo")),
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(cluster.with("worker.pins_per_second", HELD_BACK)).await?;
    let mut cids = Vec::new();
    {
        let daemon = daemon(&cluster)?;
        for _ in 0..pins {
            cids.push(daemon.add(&content::fresh_bytes(64)).await?);
        }
    }
    let direct_before = direct(&cluster, &cids).await?;
    let set = [
        ("worker.concurrency_start", CONCURRENCY.to_string()),
        ("worker.concurrency_max", CONCURRENCY.to_string()),
    ];
    let (rate, limit) = drive(&mut cluster, &cids, &set).await?;
    unpin_all(&cluster, &cids).await?;
    // Before and after, since the machine's speed drifts.
    let direct_after = direct(&cluster, &cids).await?;
    let direct = (direct_before + direct_after) / 2.0;
    report.add(
        Row::new("pins driven to one real Kubo: share of direct calls", Unit::Share, rate / direct)
            .detail(format!(
                "{rate:.0}/s, direct pin/add {direct_before:.0}/s before and {direct_after:.0}/s after; {CONCURRENCY} at a time, \
                 blocks already there"
            ))
            .target(Target::Value(0.9))
            .limit(limit),
    );
    cluster.stop().await
}

fn daemon(cluster: &Cluster) -> anyhow::Result<&KuboDaemon> {
    match cluster.nodes().first() {
        Some((_, Node::Kubo(daemon))) => Ok(daemon),
        _ => anyhow::bail!("the node is no Kubo"),
    }
}

/// Records the pins while the worker is held back, lets it loose by a restart, and measures it between the first and the
/// last twentieth of them.
async fn drive(cluster: &mut Cluster, cids: &[Cid], set: &[(&str, String)]) -> anyhow::Result<(f64, String)> {
    let items = cids
        .iter()
        .map(|cid| v1::BulkPinItem {
            cid: cid.to_string(),
            options: Some(replicas_of(1)),
            ..v1::BulkPinItem::default()
        })
        .collect();
    let results = cluster.client(0).bulk(items, 1_000).await?;
    let refused = results.iter().find(|result| result.code != 0);
    ensure!(refused.is_none(), "a pin was refused: {refused:?}");
    let all = cids.len() as u64;
    cluster.set("worker.pins_per_second", "0");
    for (key, value) in set {
        cluster.set(key, value);
    }
    cluster.peer(0).stop().await?;
    cluster.configure(0)?;
    cluster.peer(0).start().await?;
    let at = |share: f64| (all as f64 * share) as u64;
    let reached = async |count: u64| {
        wait_until("the node has taken its pins", Duration::from_secs(900), async || {
            let pinned = pinned(cluster).await?;
            ensure!(pinned >= count, "{pinned} of {count}");
            Ok((pinned, Instant::now()))
        })
        .await
    };
    let (first, begun) = reached(at(0.05)).await?;
    let before = Usage::now(&groups(cluster));
    let (last, ended) = reached(at(0.95)).await?;
    let share = Usage::now(&groups(cluster)).since(&before);
    reached(all).await?;
    let cores = std::thread::available_parallelism()?.get();
    let rate = (last - first) as f64 / (ended - begun).as_secs_f64().max(1e-6);
    Ok((rate, share.limit(cores, "the node's answers")))
}

/// Pins that the node holds by the peer's ledger, from its metrics.
async fn pinned(cluster: &Cluster) -> anyhow::Result<u64> {
    let (status, text) = cluster.peer(0).http_get("/metrics").await?;
    ensure!(status == 200, "/metrics answers {status}");
    let line = text
        .lines()
        .find(|line| line.starts_with("pinfleet_queue_pins{") && line.contains("status=\"pinned\""));
    // Not there before the node is driven.
    let Some(line) = line else { return Ok(0) };
    let value = line.rsplit(' ').next().context("a metric without a value")?;
    Ok(value.parse::<f64>()? as u64)
}

/// `pin/add` straight at the daemon, and unpinned again. Answers the rate.
async fn direct(cluster: &Cluster, cids: &[Cid]) -> anyhow::Result<f64> {
    let address = daemon(cluster)?.address().to_owned();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
    let next = std::sync::Arc::new(parking_lot::Mutex::new(cids.to_vec()));
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (http, address, next) = (http.clone(), address.clone(), next.clone());
        tasks.spawn(async move {
            loop {
                let Some(cid) = next.lock().pop() else {
                    return anyhow::Ok(());
                };
                let url = format!("{address}/api/v0/pin/add?arg={cid}&progress=true");
                let answer = http.post(url).send().await?.error_for_status()?;
                answer.bytes().await?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let rate = cids.len() as f64 / begun.elapsed().as_secs_f64();
    unpin_all_directly(cluster, cids).await?;
    Ok(rate)
}

async fn unpin_all_directly(cluster: &Cluster, cids: &[Cid]) -> anyhow::Result<()> {
    let daemon = daemon(cluster)?;
    for chunk in cids.chunks(100) {
        let arguments: Vec<_> = chunk.iter().map(|cid| format!("arg={cid}")).collect();
        daemon.call(&format!("pin/rm?{}", arguments.join("&"))).await?;
    }
    Ok(())
}

/// Unpins through the cluster, so that the daemon is as it was.
async fn unpin_all(cluster: &Cluster, cids: &[Cid]) -> anyhow::Result<()> {
    let client = cluster.client(0);
    let next = std::sync::Arc::new(parking_lot::Mutex::new(cids.to_vec()));
    // Closed loops without an end of their own: each stops when there is nothing left.
    let all = cids.len();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (client, next) = (client.clone(), next.clone());
        tasks.spawn(async move {
            loop {
                let Some(cid) = next.lock().pop() else {
                    return anyhow::Ok(());
                };
                client.unpin(&cid).await?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    wait_until("the daemon has let go of all", Duration::from_secs(300), async || {
        let left = daemon(cluster)?.pins().await?.len();
        // What the daemon pinned itself when it was made stays.
        ensure!(left < all / 10 + 10, "{left} pins are left");
        Ok(())
    })
    .await
}
