//! Replacing a pin: no block that both need is without a pin for a moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::{fresh_bytes, fresh_cid};
use cluster_tests::fake_kubo::Fault;
use cluster_tests::node::NodeKind;
use serde_json::json;

use super::{ALL, Api, body, cids, quick, reason, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_pin_is_gone_and_its_content_stays_until_the_new_one_is_held() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(quick(3)).await?;
    let (api, other) = (Api::of(&cluster, 0), Api::of(&cluster, 2));
    let (old, new) = (fresh_cid(), fresh_cid());
    let pin = api
        .pin(json!({"cid": old.to_string(), "name": "v1", "meta": {"v": "1"}}))
        .await?;
    let id = text(&pin, "requestid");
    api.wait_for(&cluster, id, "pinned").await?;
    cluster
        .wait_until("both nodes hold it", LIMIT, async || {
            ensure!((0..3).filter(|node| cluster.fake(*node).pin(&old).is_some()).count() == 2);
            Ok(())
        })
        .await?;
    let holders: Vec<usize> = (0..3).filter(|node| cluster.fake(*node).pin(&old).is_some()).collect();
    // Nobody has the new one yet.
    for node in 0..3 {
        cluster.fake(node).fail_pin(&new, Fault::NotFound);
    }
    let sent = json!({"cid": new.to_string(), "name": "v2", "meta": {"v": "2"}});
    let replaced = other.post(&format!("/pins/{id}"), &sent).await?.json(202)?;
    assert_eq!(replaced["pin"], sent);
    let new_id = text(&replaced, "requestid");
    assert_ne!(new_id, id);
    reason(&api.get(&format!("/pins/{id}")).await?, 404)?;
    assert_eq!(cids(&api.list(ALL).await?.1), [new.to_string()]);
    api.wait_for(&cluster, new_id, "failed").await?;
    // Long enough for the leader to have looked more than once.
    cluster.leader().await?;
    for _ in 0..3 {
        let before = api.list(ALL).await?.0;
        assert_eq!(before, 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        for node in &holders {
            assert!(cluster.fake(*node).pin(&old).is_some(), "node {node} let go of it");
        }
    }
    // Now somebody has it, and it is asked for once more.
    for node in 0..3 {
        cluster.fake(node).clear_rules();
    }
    let again = json!({"cid": new.to_string(), "name": "v3"});
    let again = api.post(&format!("/pins/{new_id}"), &again).await?.json(202)?;
    assert_eq!(
        text(&again, "requestid"),
        new_id,
        "a pin of the same CID is changed where it is"
    );
    assert_eq!(text(&again, "created"), text(&replaced, "created"));
    assert_eq!(
        again["pin"],
        json!({"cid": new.to_string(), "name": "v3"}),
        "as the new one says, to the last field"
    );
    api.wait_for(&cluster, new_id, "pinned").await?;
    cluster
        .wait_until("nobody holds the old one any more", LIMIT, async || {
            ensure!((0..3).all(|node| cluster.fake(node).pin(&old).is_none()));
            Ok(())
        })
        .await?;
    assert!((0..3).any(|node| cluster.fake(node).pin(&new).is_some()));
    cluster.stop().await
}

/// IPFS Cluster 1.1.6 unpins what it is told to replace by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_a_pin_by_the_same_content_never_lets_go_of_it() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let api = Api::of(&cluster, 0);
    let cid = fresh_cid();
    let rest = cluster.peer(0).info().rest.context("an address")?;
    cluster_tests::raw_http::request(&rest, "POST", &format!("/pins/{cid}"))
        .await?
        .json(200)?;
    api.wait_for(&cluster, &cid.to_string(), "pinned").await?;
    for (sent, name) in [
        (json!({"cid": cid.to_string(), "name": "a"}), Some("a")),
        (body(cid), None),
    ] {
        let changed = api.post(&format!("/pins/{cid}"), &sent).await?.json(202)?;
        assert_eq!(text(&changed, "requestid"), cid.to_string());
        assert_eq!(changed["pin"]["name"].as_str(), name);
    }
    let removals = cluster.fake(0).calls(cluster_tests::fake_kubo::Call::PinRm);
    assert_eq!(removals, 0);
    assert_eq!(api.list(ALL).await?.0, 1);
    // A failed replacement changes nothing.
    reason(&api.post(&format!("/pins/{cid}"), &json!({})).await?, 400)?;
    api.wait_for(&cluster, &cid.to_string(), "pinned").await?;
    Ok(())
}

/// Over an embedded node, whose collector takes what has no pin: shared blocks are there at every moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_that_both_share_are_never_collected() -> anyhow::Result<()> {
    let options = ClusterOptions {
        peers: 1,
        node: NodeKind::Embedded,
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(options.with("embedded.free_min", "1MiB")).await?;
    let api = Api::of(&cluster, 0);
    let rest = cluster.peer(0).info().rest.context("an address")?;
    let shared = fresh_bytes(700_000);
    // A directory of one large file, and another one with a second file beside it.
    let add = async |files: &[(&str, &[u8])], pin: bool| -> anyhow::Result<Vec<(String, String)>> {
        let mut form = Vec::new();
        for (name, bytes) in files {
            form.extend(format!("--B\r\nContent-Disposition: form-data; filename=\"d/{name}\"\r\nContent-Type: application/octet-stream\r\n\r\n").into_bytes());
            form.extend(*bytes);
            form.extend(b"\r\n");
        }
        form.extend(b"--B--\r\n");
        let target = format!("/add?stream-channels=false&cid-version=1&no-pin={}", !pin);
        let headers = [("Content-Type", "multipart/form-data; boundary=B")];
        let answer = cluster_tests::raw_http::request_with(&rest, "POST", &target, &headers, &form).await?;
        let rows = answer.json(200)?;
        let rows = rows.as_array().context("a list")?;
        let row = |row: &serde_json::Value| Some((row["name"].as_str()?.to_owned(), row["cid"].as_str()?.to_owned()));
        rows.iter().map(|found| row(found).context("a row")).collect()
    };
    let old = add(&[("shared", &shared)], true).await?;
    let root = old.last().context("a root")?.1.clone();
    let file = old.first().context("a file")?.1.clone();
    api.wait_for(&cluster, &root, "pinned").await?;

    let stop = Arc::new(AtomicBool::new(false));
    let watch = {
        let (stop, client, file) = (stop.clone(), cluster.client(0), file.clone());
        let shared = shared.clone();
        tokio::spawn(async move {
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                let read = client
                    .cat(format!("/ipfs/{file}"))
                    .await
                    .context("the shared file is gone")?;
                ensure!(read == shared);
                looks += 1;
            }
            anyhow::Ok(looks)
        })
    };
    let collect = {
        let (stop, rest) = (stop.clone(), rest.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                cluster_tests::raw_http::request(&rest, "POST", "/ipfs/gc")
                    .await?
                    .json(200)?;
            }
            anyhow::Ok(())
        })
    };
    let mut id = root.clone();
    let mut last = String::new();
    for round in 0..4_u8 {
        let new = add(&[("shared", &shared), ("version", &[round; 10])], false).await?;
        let new = new.last().context("a root")?.1.clone();
        let replaced = api.post(&format!("/pins/{id}"), &body(&new)).await?.json(202)?;
        id = text(&replaced, "requestid").to_owned();
        if round % 2 == 0 {
            api.wait_for(&cluster, &id, "pinned").await?;
        }
        last = new;
    }
    api.wait_for(&cluster, &id, "pinned").await?;
    // What was replaced goes in the end.
    cluster
        .wait_until("only the last is held", LIMIT, async || {
            let status = cluster
                .client(0)
                .status_all(cluster_proto::v1::StatusAllRequest::default())
                .await?;
            let held: Vec<&str> = status.iter().map(|status| status.cid.as_str()).collect();
            ensure!(held == [last.as_str()], "{held:?}");
            Ok(())
        })
        .await?;
    stop.store(true, Ordering::Relaxed);
    assert!(watch.await?? > 5);
    collect.await??;
    cluster.stop().await
}

/// Over gRPC too: what is updated with its source unpinned is never without blocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_over_grpc_keeps_the_old_content_too() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let (old, new) = (fresh_cid(), fresh_cid());
    let client = cluster.client(0);
    client.pin(&old).await?;
    cluster
        .wait_until("it is pinned", LIMIT, async || client.pinned_on(&old, 1).await)
        .await?;
    cluster.fake(0).fail_pin(&new, Fault::Hang);
    let update = cluster_proto::v1::UpdateRequest {
        from: old.to_string(),
        to: new.to_string(),
        unpin_from: true,
        ..Default::default()
    };
    client.pins.clone().update(update).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(cluster.fake(0).pin(&old).is_some(), "until the new one is held");
    // Nobody wants the new one any more: nothing is kept for it.
    client.unpin(&new).await?;
    cluster
        .wait_until("it is let go of", LIMIT, async || {
            ensure!(cluster.fake(0).pin(&old).is_none());
            Ok(())
        })
        .await
}
