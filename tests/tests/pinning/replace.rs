//! Replacing a pin: no block that both need is without a pin for a moment.

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::client::Client;
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::{fresh_bytes, fresh_cid};
use cluster_tests::fake_kubo::{Call, FakeKubo, Fault, Rule};
use cluster_tests::node::NodeKind;
use cluster_tests::raw_http::{request, request_with};
use node_core::Cid;
use serde_json::{Value, json};

use super::{ALL, Api, body, cids, quick, reason, text};

/// A node that can't get some content, by pinning it or by updating another pin to it.
fn nobody_has(node: &FakeKubo, cid: &Cid, fault: &Fault) {
    node.fail_pin(cid, fault.clone());
    node.add_rule(Rule::new(fault.clone()).of_call(Call::PinUpdate));
}

/// Waits until the leader has looked at what was replaced: it looks at all of it together, and something else, whose new
/// content nobody wants any more, is let go of by that.
async fn the_leader_looks(cluster: &Cluster, api: &Api) -> anyhow::Result<()> {
    let old = fresh_cid();
    let pin = api.pin(body(old)).await?;
    let id = text(&pin, "requestid");
    api.wait_for(cluster, id, "pinned").await?;
    replaced_in_vain(api, id).await?;
    let nodes = cluster.nodes().len();
    cluster
        .wait_until("what nobody waits for is let go of", LIMIT, async || {
            ensure!((0..nodes).all(|node| cluster.fake(node).pin(&old).is_none()));
            Ok(())
        })
        .await
}

/// The same over an embedded node, which is given a block for it by `rest`.
async fn the_leader_looks_embedded(cluster: &Cluster, api: &Api, rest: &str) -> anyhow::Result<()> {
    let block = fresh_bytes(100);
    let added = add(rest, &[("block", &block)], true).await?;
    let old = &added.last().context("a root")?.1;
    api.wait_for(cluster, old, "pinned").await?;
    replaced_in_vain(api, old).await?;
    cluster
        .wait_until("what nobody waits for is let go of", LIMIT, async || {
            let held = cluster.client(0).status_all(v1::StatusAllRequest::default()).await?;
            ensure!(held.iter().all(|status| status.cid != *old), "{held:?}");
            Ok(())
        })
        .await
}

/// Puts what nobody has into the place of a pin, and takes that back.
async fn replaced_in_vain(api: &Api, id: &str) -> anyhow::Result<()> {
    let replaced = api.post(&format!("/pins/{id}"), &body(fresh_cid())).await?.json(202)?;
    let id = text(&replaced, "requestid");
    ensure!(api.delete(&format!("/pins/{id}")).await?.status == 202);
    Ok(())
}

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
        nobody_has(cluster.fake(node), &new, &Fault::NotFound);
    }
    let sent = json!({"cid": new.to_string(), "name": "v2", "meta": {"v": "2"}});
    let replaced = other.post(&format!("/pins/{id}"), &sent).await?.json(202)?;
    assert_eq!(replaced["pin"], sent);
    let new_id = text(&replaced, "requestid");
    assert_ne!(new_id, id);
    reason(&api.get(&format!("/pins/{id}")).await?, 404)?;
    assert_eq!(cids(&api.list(ALL).await?.1), [new.to_string()]);
    api.wait_for(&cluster, new_id, "failed").await?;
    for _ in 0..2 {
        let before = api.list(ALL).await?.0;
        assert_eq!(before, 1);
        the_leader_looks(&cluster, &api).await?;
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
    request(&rest, "POST", &format!("/pins/{cid}")).await?.json(200)?;
    api.wait_for(&cluster, &cid.to_string(), "pinned").await?;
    for (sent, name) in [
        (json!({"cid": cid.to_string(), "name": "a"}), Some("a")),
        (body(cid), None),
    ] {
        let changed = api.post(&format!("/pins/{cid}"), &sent).await?.json(202)?;
        assert_eq!(text(&changed, "requestid"), cid.to_string());
        assert_eq!(changed["pin"]["name"].as_str(), name);
    }
    let removals = cluster.fake(0).calls(Call::PinRm);
    assert_eq!(removals, 0);
    assert_eq!(api.list(ALL).await?.0, 1);
    // A failed replacement changes nothing.
    reason(&api.post(&format!("/pins/{cid}"), &json!({})).await?, 400)?;
    api.wait_for(&cluster, &cid.to_string(), "pinned").await?;
    Ok(())
}

/// Adds files as a directory; answers names and CIDs, the root last.
async fn add(rest: &str, files: &[(&str, &[u8])], pin: bool) -> anyhow::Result<Vec<(String, String)>> {
    let mut form = Vec::new();
    for (name, bytes) in files {
        let head = format!(
            "--B\r\nContent-Disposition: form-data; filename=\"d/{name}\"\r\nContent-Type: application/octet-stream\r\n\r\n"
        );
        form.extend(head.into_bytes());
        form.extend(*bytes);
        form.extend(b"\r\n");
    }
    form.extend(b"--B--\r\n");
    let target = format!("/add?stream-channels=false&cid-version=1&no-pin={}", !pin);
    let headers = [("Content-Type", "multipart/form-data; boundary=B")];
    let answer = request_with(rest, "POST", &target, &headers, &form).await?;
    let rows = answer.json(200)?;
    let row = |row: &Value| Some((row["name"].as_str()?.to_owned(), row["cid"].as_str()?.to_owned()));
    let rows = rows.as_array().context("a list")?.iter();
    rows.map(|found| row(found).context("a row")).collect()
}

/// Collects the garbage of the first node, and answers how many blocks went.
async fn collect(client: &Client) -> anyhow::Result<u64> {
    use v1::collect_garbage_response::Message;
    let request = v1::CollectGarbageRequest {
        node: "node-1".into(),
        estimate_only: false,
    };
    let mut steps = client.cluster.clone().collect_garbage(request).await?.into_inner();
    let mut last = None;
    while let Some(step) = steps.message().await? {
        last = step.message;
    }
    match last {
        Some(Message::Done(done)) => Ok(done.deleted_blocks),
        other => anyhow::bail!("the last word is missing: {other:?}"),
    }
}

/// How often the leader looks while the new one is not there.
const LOOKS: u64 = 2;
/// What is added for one look: a file of one block, and the directory around it.
const LOOK_BLOCKS: u64 = 2;

/// Over an embedded node, whose collector takes what has no pin: what both share is there at every moment, although nobody has
/// the rest of the new one for a long time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_that_both_share_are_never_collected() -> anyhow::Result<()> {
    let options = ClusterOptions {
        peers: 1,
        node: NodeKind::Embedded,
        ..ClusterOptions::default()
    };
    let options = options
        .with("embedded.free_min", "1MiB")
        .with("worker.stall_timeout", "1s")
        .with("worker.backoff_base", "100ms")
        .with("worker.backoff_max", "200ms");
    let mut cluster = Cluster::start(options.clone()).await?;
    let api = Api::of(&cluster, 0);
    let rest = cluster.peer(0).info().rest.context("an address")?;
    let (shared, more) = (fresh_bytes(700_000), fresh_bytes(1_000));
    let old = add(&rest, &[("shared", &shared)], true).await?;
    let (file, old) = (old[0].1.clone(), old.last().context("a root")?.1.clone());
    api.wait_for(&cluster, &old, "pinned").await?;
    // What was just added is kept for a while without a pin, but not over a restart.
    cluster.peer(0).restart().await?;
    cluster.settled().await?;
    // The new one is known by its CID alone: another cluster, of which this one does not know, made it.
    let files: [(&str, &[u8]); 2] = [("more", &more), ("shared", &shared)];
    let mut elsewhere = Cluster::start(options).await?;
    let other = elsewhere.peer(0).info().rest.context("an address")?;
    let new = add(&other, &files, false).await?.last().context("a root")?.1.clone();
    elsewhere.stop().await?;
    let replaced = api.post(&format!("/pins/{old}"), &body(&new)).await?.json(202)?;
    let id = text(&replaced, "requestid");
    assert_eq!(cids(&api.list(ALL).await?.1), [new.as_str()]);
    let client = cluster.client(0);
    for _ in 0..LOOKS {
        the_leader_looks_embedded(&cluster, &api, &rest).await?;
        ensure!(collect(&client).await? == 0, "something went");
        ensure!(client.cat(format!("/ipfs/{file}")).await? == shared);
        ensure!(api.get(&format!("/pins/{id}")).await?.json(200)?["status"] != "pinned");
    }
    // Now somebody has the rest.
    add(&rest, &files, false).await?;
    api.wait_for(&cluster, id, "pinned").await?;
    cluster
        .wait_until("the old one is let go of", LIMIT, async || {
            let held = client.status_all(v1::StatusAllRequest::default()).await?;
            let held: Vec<&str> = held.iter().map(|status| status.cid.as_str()).collect();
            ensure!(held == [new.as_str()], "{held:?}");
            Ok(())
        })
        .await?;
    // What was put by the add is kept as above, and with it what has become garbage since.
    cluster.peer(0).restart().await?;
    cluster.settled().await?;
    let client = cluster.client(0);
    let gone = collect(&client).await?;
    ensure!(
        gone == 1 + LOOKS * LOOK_BLOCKS,
        "the old root alone goes, with what was added for the leader to look, and not {gone} blocks"
    );
    ensure!(client.cat(format!("/ipfs/{new}/shared")).await? == shared);
    ensure!(client.cat(format!("/ipfs/{new}/more")).await? == more);
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
    nobody_has(cluster.fake(0), &new, &Fault::Hang);
    let update = v1::UpdateRequest {
        from: old.to_string(),
        to: new.to_string(),
        unpin_from: true,
        ..Default::default()
    };
    client.pins.clone().update(update).await?;
    the_leader_looks(&cluster, &Api::of(&cluster, 0)).await?;
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
