//! What holds when peers with embedded nodes die.

use std::time::Duration;

use anyhow::ensure;
use cluster_proto::v1;
use cluster_tests::client::{pin_replicas, replicas_of};
use cluster_tests::cluster::{Cluster, LIMIT};
use cluster_tests::content::fresh_bytes;
use node_core::Cid;

use super::ops::{collect, store};
use super::{has, options, pinned, start_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_add_goes_around_a_dead_node_and_a_killed_peer_keeps_what_it_had() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(options()).await?;
    let before = fresh_bytes(2 << 20);
    let done = cluster.client(0).add(start_of(3), &[("before", Some(&before))]).await?;
    let before_cid: Cid = done.cid.parse()?;
    pinned(&cluster, &before_cid, 3).await?;

    let victim = cluster.leader().await?;
    cluster.peer(victim).kill9()?;
    let survivor = cluster.client((victim + 1) % 3);
    // At once: nobody has noticed yet that the node is gone.
    let while_down = fresh_bytes(1 << 20);
    let done = cluster
        .wait_until("an add succeeds", LIMIT, async || {
            Ok(survivor.add(start_of(2), &[("x", Some(&while_down))]).await?)
        })
        .await?;
    let dead = &cluster.nodes()[victim].0;
    ensure!(!done.nodes.contains(dead), "{done:?}");
    let down_cid: Cid = done.cid.parse()?;
    pinned(&cluster, &down_cid, 2).await?;

    cluster.peer(victim).start().await?;
    cluster.settled().await?;
    ensure!(has(&cluster, victim, &before_cid).await?, "what it had is there");
    for index in 0..3 {
        let client = cluster.client(index);
        ensure!(client.cat(before_cid).await? == before, "peer {index}");
        ensure!(client.cat(down_cid).await? == while_down, "peer {index}");
    }
    cluster.stop().await
}

/// Peers are killed while content goes in: what was acknowledged is there, and what was not is nowhere called pinned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_killed_while_content_goes_in_lose_nothing_that_was_acknowledged() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(options()).await?;
    let mut acknowledged: Vec<(Cid, Vec<u8>)> = Vec::new();
    for round in 0..6 {
        let victim = round % 3;
        let client = cluster.client((victim + 1) % 3);
        let contents: Vec<Vec<u8>> = (0..4).map(|_| fresh_bytes(700_000)).collect();
        let adds = contents.iter().map(|bytes| {
            let client = client.clone();
            async move { client.add(start_of(2), &[("x", Some(bytes))]).await }
        });
        let adding = futures::future::join_all(adds);
        tokio::pin!(adding);
        // In the middle of it, at another moment each time.
        let pause = Duration::from_millis(15 * (round as u64 + 1));
        let early = tokio::time::timeout(pause, &mut adding).await;
        cluster.peer(victim).kill9()?;
        let outcomes = match early {
            Ok(outcomes) => outcomes,
            Err(_) => adding.await,
        };
        for (outcome, bytes) in outcomes.into_iter().zip(&contents) {
            if let Ok(done) = outcome {
                acknowledged.push((done.cid.parse()?, bytes.clone()));
            }
        }
        cluster.peer(victim).start().await?;
        cluster.settled().await?;
    }
    ensure!(!acknowledged.is_empty(), "some adds came through");
    for (cid, bytes) in &acknowledged {
        pinned(&cluster, cid, 2).await?;
        ensure!(cluster.client(0).cat(cid).await? == *bytes, "{cid}");
    }
    // All that the cluster calls pinned can be read, whatever was acknowledged of it.
    for pin in cluster.client(0).list_all().await? {
        let cid: Cid = pin.cid.parse()?;
        pinned(&cluster, &cid, 2).await?;
        ensure!(cluster.client(1).cat(cid).await?.len() == 700_000, "{cid}");
    }
    cluster.stop().await
}

/// A peer is killed while it collects what was unpinned, which shares blocks with what stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_killed_while_it_collects_garbage_keeps_every_pinned_block() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(options()).await?;
    let (node, driver) = ("node-1", 0);
    let other = cluster.client(1);
    // Small blocks, so that there is something to be killed in the middle of. They come from another node: what an add hands
    // over is kept for some minutes.
    let start = v1::AddStart {
        options: Some(v1::PinOptions {
            nodes: vec!["node-2".into()],
            ..replicas_of(1)
        }),
        format: Some(v1::add_start::Format::Unixfs(v1::UnixFsOptions {
            chunker: "size-4096".into(),
            ..v1::UnixFsOptions::default()
        })),
        ..v1::AddStart::default()
    };
    let content = fresh_bytes(12 << 20);
    let stays_bytes = &content[..2 << 20];
    let stays = other.add(start.clone(), &[("stays", Some(stays_bytes))]).await?;
    let stays_cid: Cid = stays.cid.parse()?;
    other.pin_as(pin_replicas(&stays_cid, 3)).await?;
    pinned(&cluster, &stays_cid, 3).await?;
    let kept = store(&other, node).await?;

    let mut cut_short = 0;
    for round in 0..4_u64 {
        let goes = other.add(start.clone(), &[("goes", Some(&content))]).await?;
        let goes_cid: Cid = goes.cid.parse()?;
        other.pin_as(pin_replicas(&goes_cid, 3)).await?;
        pinned(&cluster, &goes_cid, 3).await?;
        other.unpin(&goes_cid).await?;
        cluster
            .wait_until("the node has let go of it", LIMIT, async || {
                let pins = store(&other, node).await?.pins;
                ensure!(pins == 1, "{pins} pins");
                Ok(())
            })
            .await?;
        // At another moment each time; the first while it has hardly begun.
        let collecting =
            tokio::time::timeout(Duration::from_millis(5 + 30 * round), collect(&other, node, false)).await;
        cut_short += usize::from(collecting.is_err());
        cluster.peer(driver).kill9()?;
        cluster.peer(driver).start().await?;
        cluster.settled().await?;
    }
    ensure!(cut_short > 0, "every collection was through before the peer was killed");

    collect(&other, node, false).await?;
    let left = store(&other, node).await?;
    ensure!(
        (left.blocks, left.bytes) == (kept.blocks, kept.bytes) && (left.pins, left.incomplete_pins) == (1, 0),
        "{left:?} instead of {kept:?}"
    );
    ensure!(cluster.client(driver).cat(stays_cid).await? == stays_bytes);
    cluster.stop().await
}
