//! Storage nodes that misbehave in every way: what is pinned there gets pinned in the end, the reason is shown meanwhile,
//! and nobody else waits for it.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::client::{Client, pin_replicas, pin_request, replicas_of};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::fresh_cid;
use cluster_tests::fake_kubo::{Call, Fault, PinKind, Rule};
use node_core::Cid;

/// Quick retries and a short stall timeout, so that a fault is over soon.
fn quick() -> ClusterOptions {
    ClusterOptions::default()
        .with("worker.stall_timeout", "1s")
        .with("worker.backoff_base", "100ms")
        .with("worker.backoff_max", "300ms")
}

/// A pin on this node alone.
fn on_node(cid: &Cid, node: &str) -> v1::PinRequest {
    v1::PinRequest {
        options: Some(v1::PinOptions {
            nodes: vec![node.into()],
            ..replicas_of(1)
        }),
        ..pin_request(cid)
    }
}

/// How the CID stands on its only node.
async fn only_node(client: &Client, cid: &Cid) -> anyhow::Result<v1::NodeStatus> {
    let status = client.status(cid).await?;
    let [node] = &status.nodes[..] else {
        anyhow::bail!("{status:?}")
    };
    Ok(node.clone())
}

/// Well when its only node is in this state after a failure of this class, and says these words.
async fn failing(client: &Client, cid: &Cid, status: v1::Status, class: &str, words: &str) -> anyhow::Result<()> {
    let node = only_node(client, cid).await?;
    ensure!(
        node.status() == status && node.error_class == class && node.error.contains(words),
        "{node:?} instead of {status:?}, {class}, {words:?}"
    );
    Ok(())
}

async fn recover(client: &Client, request: v1::RecoverRequest) -> anyhow::Result<u64> {
    let answer = client.pins.clone().recover(request).await?.into_inner();
    ensure!(answer.unreachable_nodes.is_empty(), "{answer:?}");
    Ok(answer.recovered)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_is_named_and_outlived() -> anyhow::Result<()> {
    let cluster = Cluster::start(quick()).await?;
    // Asked through a peer that does not drive the node.
    let client = cluster.client(1);
    let fake = cluster.fake_named("node-1");
    let error = |message: &str| Fault::Error {
        status: 500,
        message: message.into(),
    };
    let late = Fault::LateError {
        message: "pinner closed".into(),
    };
    let stall = Fault::Stall {
        after_blocks: 2,
        tick_millis: 100,
    };
    let faults = [
        (error("something went wrong"), "temporary", "something went wrong"),
        (Fault::Malformed, "temporary", "not what Kubo sends"),
        (Fault::Truncated, "temporary", "without saying"),
        (Fault::Reset { after_blocks: 3 }, "temporary", "connection was lost"),
        (late, "temporary", "pinner closed"),
        (stall, "stalled", "no progress"),
        (Fault::NotFound, "not_found", "could not find"),
    ];
    let mut cids = Vec::new();
    for (fault, class, words) in faults {
        let cid = fresh_cid();
        fake.fail_pin(&cid, fault);
        client.pin_as(on_node(&cid, "node-1")).await?;
        cids.push((cid, class, words));
    }
    for (cid, class, words) in &cids {
        cluster
            .wait_until("the reason is shown", LIMIT, async || {
                failing(&client, cid, v1::Status::Retrying, class, words).await
            })
            .await?;
    }
    // A connection that is cut before the first word is the node's fault and not the pin's.
    let cut = fresh_cid();
    fake.add_rule(
        Rule::new(Fault::Reset { after_blocks: 0 })
            .of_call(Call::PinAdd)
            .of_cid(&cut)
            .times(3),
    );
    client.pin_as(on_node(&cut, "node-1")).await?;
    cluster
        .wait_until("it is pinned", LIMIT, async || client.pinned_on(&cut, 1).await)
        .await?;
    assert_eq!(only_node(&client, &cut).await?.attempts, 1);
    // What fails there fails nowhere else.
    let well = fresh_cid();
    client.pin_as(on_node(&well, "node-2")).await?;
    cluster
        .wait_until("another node pins", LIMIT, async || client.pinned_on(&well, 1).await)
        .await?;

    fake.clear_rules();
    let name = format!("pinfleet:{}", client.cluster_status().await?.cluster_id);
    for (cid, ..) in &cids {
        cluster
            .wait_until("it is pinned in the end", LIMIT, async || {
                client.pinned_on(cid, 1).await
            })
            .await?;
        let node = only_node(&client, cid).await?;
        ensure!(node.error.is_empty() && node.attempts > 1, "{node:?}");
        assert_eq!(
            fake.pin_name(cid),
            Some(name.clone()),
            "by it the cluster knows its own"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_pin_shows_how_far_it_is_and_a_full_disk_stops_only_pins() -> anyhow::Result<()> {
    let cluster = Cluster::start(quick()).await?;
    let client = cluster.client(2);
    let slow = fresh_cid();
    const BLOCKS: u64 = 60;
    const BLOCK_BYTES: u64 = 1_000;
    cluster.fake_named("node-1").fail_pin(
        &slow,
        Fault::Drip {
            blocks: BLOCKS,
            blocks_per_tick: 1,
            bytes_per_block: BLOCK_BYTES,
            tick_millis: 50,
        },
    );
    client.pin_as(on_node(&slow, "node-1")).await?;
    let beyond = async |blocks: u64| {
        let node = only_node(&client, &slow).await?;
        ensure!(
            node.status() == v1::Status::Pinning && node.blocks > blocks && node.bytes == node.blocks * BLOCK_BYTES,
            "{node:?}"
        );
        anyhow::Ok(node.blocks)
    };
    let first = cluster.wait_until("it moves", LIMIT, async || beyond(0).await).await?;
    cluster
        .wait_until("it moves on", LIMIT, async || beyond(first).await)
        .await?;

    // Meanwhile, at another node.
    let full = cluster.fake_named("node-3");
    let (held, refused) = (fresh_cid(), fresh_cid());
    client.pin_as(on_node(&held, "node-3")).await?;
    full.wait("pin", LIMIT, |fake| fake.pin(&held).is_some()).await?;
    full.add_rule(Rule::new(Fault::DiskFull).of_call(Call::PinAdd));
    client.pin_as(on_node(&refused, "node-3")).await?;
    cluster
        .wait_until("the disk is full", LIMIT, async || {
            failing(&client, &refused, v1::Status::Queued, "disk_full", "no space left").await
        })
        .await?;
    client.unpin(&held).await?;
    full.wait("let go of it", LIMIT, |fake| fake.pin(&held).is_none())
        .await?;

    let status = cluster
        .wait_until("the slow one is pinned", LIMIT, async || {
            client.pinned_on(&slow, 1).await
        })
        .await?;
    assert_eq!(
        (status.nodes[0].blocks, status.nodes[0].bytes),
        (BLOCKS, BLOCKS * BLOCK_BYTES)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_is_recovered_by_cid_node_and_filter() -> anyhow::Result<()> {
    let cluster = Cluster::start(quick().with("worker.give_up_attempts", 3)).await?;
    let client = cluster.client(0);
    let permanent = Fault::Error {
        status: 500,
        message: "pin: potentially insecure hash functions not allowed".into(),
    };
    // On each of two nodes: two that can never be pinned, and one that nobody has.
    let mut cids = Vec::new();
    for node in ["node-2", "node-3"] {
        for fault in [permanent.clone(), permanent.clone(), Fault::NotFound] {
            let cid = fresh_cid();
            cluster.fake_named(node).fail_pin(&cid, fault);
            client.pin_as(on_node(&cid, node)).await?;
            cids.push(cid);
        }
    }
    for (at, cid) in cids.iter().enumerate() {
        let (class, words) = match at % 3 {
            2 => ("not_found", "3 attempts failed: "),
            _ => ("permanent", "insecure hash"),
        };
        cluster
            .wait_until("it is given up", LIMIT, async || {
                failing(&client, cid, v1::Status::GaveUp, class, words).await
            })
            .await?;
    }
    for node in ["node-2", "node-3"] {
        cluster.fake_named(node).clear_rules();
    }
    let all_but = |statuses: &[v1::Status]| v1::RecoverRequest {
        statuses: statuses.iter().map(|status| i32::from(*status)).collect(),
        ..v1::RecoverRequest::default()
    };
    // States that nothing is in.
    assert_eq!(recover(&client, all_but(&[v1::Status::Retrying])).await?, 0);
    // By CID.
    let by_cid = v1::RecoverRequest {
        cid: cids[0].to_string(),
        ..v1::RecoverRequest::default()
    };
    assert_eq!(recover(&client, by_cid.clone()).await?, 1);
    cluster
        .wait_until("it is pinned", LIMIT, async || client.pinned_on(&cids[0], 1).await)
        .await?;
    assert_eq!(
        recover(&client, by_cid).await?,
        0,
        "there is nothing to recover any more"
    );
    // By class of error, on all nodes.
    let by_class = v1::RecoverRequest {
        error_class: "not_found".into(),
        ..v1::RecoverRequest::default()
    };
    assert_eq!(recover(&client, by_class).await?, 2);
    // By node.
    let by_node = v1::RecoverRequest {
        node: "node-3".into(),
        ..v1::RecoverRequest::default()
    };
    assert_eq!(recover(&client, by_node).await?, 2);
    for cid in [cids[2], cids[3], cids[4], cids[5]] {
        cluster
            .wait_until("it is pinned", LIMIT, async || client.pinned_on(&cid, 1).await)
            .await?;
    }
    failing(&client, &cids[1], v1::Status::GaveUp, "permanent", "insecure hash").await?;
    // By state, and nothing else is left.
    assert_eq!(recover(&client, all_but(&[v1::Status::GaveUp])).await?, 1);
    cluster
        .wait_until("it is pinned", LIMIT, async || client.pinned_on(&cids[1], 1).await)
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_node_delays_neither_adds_nor_other_nodes() -> anyhow::Result<()> {
    let cluster = Cluster::start(quick()).await?;
    let hung = cluster.fake_named("node-1");
    hung.fail(Fault::Hang);
    hung.add_rule(Rule::new(Fault::Hang).of_call(Call::Id));
    // Through the peer that drives it, too.
    let client = cluster.client(0);
    let cids: Vec<Cid> = (0..60).map(|_| fresh_cid()).collect();
    let mut slowest = Duration::ZERO;
    for cid in &cids {
        let begun = Instant::now();
        client.pin_as(pin_replicas(cid, 3)).await?;
        slowest = slowest.max(begun.elapsed());
    }
    ensure!(slowest < Duration::from_secs(2), "an add took {slowest:?}");
    for name in ["node-2", "node-3"] {
        let fake = cluster.fake_named(name);
        fake.wait("hold all", LIMIT, |fake| fake.pins().len() == cids.len())
            .await?;
    }
    let begun = Instant::now();
    let status = client.status(&cids[0]).await?;
    ensure!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let of = |name: &str| {
        let node = status.nodes.iter().find(|node| node.node == name);
        node.map(v1::NodeStatus::status).context("it is on all nodes")
    };
    assert_eq!(of("node-2")?, v1::Status::Pinned);
    assert!(of("node-1")? != v1::Status::Pinned);
    let report = cluster
        .wait_until("it is seen", LIMIT, async || {
            let status = client.cluster_status().await?;
            let node = status.nodes.into_iter().find(|node| node.name == "node-1");
            let report = node.and_then(|node| node.report).context("no report")?;
            ensure!(!report.reachable, "{report:?}");
            Ok(report)
        })
        .await?;
    assert_eq!(
        report.queued,
        cids.len() as u64,
        "none is given up for the node's fault"
    );

    // Its end is that of the process: connections are cut, and it starts anew.
    hung.clear_rules();
    hung.down().await;
    hung.up().await?;
    hung.wait("hold all", LIMIT, |fake| fake.pins().len() == cids.len())
        .await?;
    Ok(())
}

/// Another daemon at the address of a node holds nothing, whatever the cluster remembers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_replaced_or_emptied_gets_its_pins_again() -> anyhow::Result<()> {
    let cluster = Cluster::start(quick().with("worker.audit_per_minute", 6_000)).await?;
    let client = cluster.client(1);
    let cids: Vec<Cid> = (0..20).map(|_| fresh_cid()).collect();
    for cid in &cids {
        client.pin_as(on_node(cid, "node-1")).await?;
    }
    let fake = cluster.fake_named("node-1");
    let holds_all = |fake: &cluster_tests::fake_kubo::FakeKubo| fake.pins().len() == cids.len();
    fake.wait("hold all", LIMIT, holds_all).await?;
    fake.down().await;
    fake.replace();
    fake.up().await?;
    fake.wait("hold all again", LIMIT, holds_all).await?;
    cluster
        .wait_until("the ledger says so", LIMIT, async || {
            client.pinned_on(&cids[7], 1).await
        })
        .await?;
    // A person takes one away: an audit finds it.
    fake.unpin_by_hand(&cids[7]);
    fake.wait("hold it again", LIMIT, |fake| {
        fake.pin(&cids[7]) == Some(PinKind::Recursive)
    })
    .await
}
