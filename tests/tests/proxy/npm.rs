//! The npm package `kubo-rpc-client` 7, unmodified.

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::kubo_clients::npm_client;
use node_core::Cid;
use serde_json::{Map, Value, json};

use super::{Proxy, embedded, kubo};

const HELLO: &str = "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o";

/// Collects garbage once all is held where it shall be.
async fn collect(cluster: &Cluster) -> anyhow::Result<u64> {
    for pin in cluster.any()?.list_all().await? {
        let cid: Cid = pin.cid.parse()?;
        cluster
            .wait_until("it is held", LIMIT, async || {
                let status = cluster.any()?.status(&cid).await?;
                ensure!(status.status() == v1::Status::Pinned, "{status:?}");
                Ok(())
            })
            .await?;
    }
    let said = npm_client("gc.mjs", &Proxy::of(cluster, 0).0).await?;
    assert_eq!(said["cat-after-gc"], "hello world\n");
    said["repo-gc"].as_u64().context("a number")
}

async fn drive(options: ClusterOptions) -> anyhow::Result<(Cluster, Map<String, Value>)> {
    let cluster = Cluster::start(options).await?;
    let proxy = Proxy::of(&cluster, 0);
    let said = npm_client("drive.mjs", &proxy.0).await?;
    Ok((cluster, said))
}

/// What holds whatever node answers what is not the cluster's.
async fn check(cluster: &Cluster, said: &Map<String, Value>) -> anyhow::Result<()> {
    let of = |name: &str| said.get(name).with_context(|| format!("{name} was not told"));
    let hash = |name: &str| -> anyhow::Result<&str> { of(name)?["cid"].as_str().context("a CID") };
    assert_eq!(of("add")?, &json!({ "path": HELLO, "cid": HELLO, "size": 20 }));
    assert_eq!(of("add-named")?["path"], "note.txt");
    let tree = of("add-tree")?.as_array().context("an array")?;
    let paths: Vec<_> = tree.iter().filter_map(|entry| entry["path"].as_str()).collect();
    assert_eq!(paths.last(), Some(&"tree"), "{paths:?}");
    assert_eq!(paths.len(), 5, "{paths:?}");
    let progress = of("add-progress")?.as_array().context("an array")?;
    assert!(
        progress.iter().any(|step| step == &json!(["tree/large", 600_000])),
        "{progress:?}"
    );
    let wrapped = of("add-wrapped")?.as_array().context("an array")?;
    assert_eq!(wrapped.last().map(|entry| &entry["path"]), Some(&json!("")));
    let message = of("add-failed")?["message"].as_str().context("it failed")?;
    assert!(message.contains("chunker"), "{message}");

    assert_eq!(of("cat")?, "hello world\n");
    assert_eq!(of("cat-range")?, "world");
    assert_eq!(of("cat-path")?, "b");
    assert!(of("get")?.as_u64().is_some_and(|bytes| bytes > 600_000));
    assert_eq!(of("get-gzip")?, "1f8b");
    let listed = of("ls")?.as_array().context("an array")?;
    let kinds: Vec<_> = listed
        .iter()
        .map(|entry| (&entry["name"], &entry["type"], &entry["size"]))
        .collect();
    assert_eq!(kinds.len(), 3, "{listed:?}");
    assert!(kinds.contains(&(&json!("sub"), &json!("dir"), &json!(0))), "{listed:?}");
    assert!(
        kinds.contains(&(&json!("large"), &json!("file"), &json!(600_000))),
        "{listed:?}"
    );
    assert!(of("cat-missing")?["message"].is_string());
    assert!(
        of("resolve")?.as_str().is_some_and(|path| path.starts_with("/ipfs/")),
        "{}",
        of("resolve")?
    );
    // Two of the chunks are the same.
    assert_eq!(of("refs")?, 6);

    let pinned = of("pin-ls")?.as_array().context("an array")?;
    for name in ["add", "add-named"] {
        let cid = hash(name)?;
        assert!(
            pinned.contains(&json!({ "cid": cid, "type": "recursive" })),
            "{name}: {pinned:?}"
        );
    }
    for entry in of("add-two-roots")?.as_array().context("an array")? {
        assert!(
            pinned.contains(&json!({ "cid": entry["cid"], "type": "recursive" })),
            "{entry}"
        );
    }
    for name in ["add-only-hash", "add-unpinned"] {
        let cid = hash(name)?;
        assert!(!pinned.iter().any(|pin| pin["cid"] == cid), "{name}");
    }
    assert_eq!(of("pin-ls-one")?, &json!([{ "cid": HELLO, "type": "recursive" }]));
    assert_eq!(of("pin-ls-direct")?, 0);
    assert_eq!((of("pin-rm")?, of("pin-add")?), (&json!(HELLO), &json!(HELLO)));
    for (name, words) in [("pin-ls-gone", "is not pinned"), ("pin-rm-gone", "not pinned")] {
        let message = of(name)?["message"].as_str().context("it failed")?;
        assert!(message.contains(words), "{name}: {message}");
    }
    let both: Vec<Value> = wrapped.iter().take(2).map(|entry| entry["cid"].clone()).collect();
    assert_eq!((of("pin-add-all")?, of("pin-rm-all")?), (&json!(both), &json!(both)));

    assert_eq!(of("block-get")?, "a block");
    assert_eq!(of("block-stat")?["size"], 7);
    assert_eq!(of("dag-get")?["list"], json!([1, 2, { "deep": true }]));
    assert_eq!(of("dag-get-path")?, true);
    assert_eq!(of("dag-resolve")?["cid"], *of("block-put")?);
    assert!(of("dag-export")?.as_u64().is_some_and(|bytes| bytes > 300_000));
    let root = tree.last().map(|entry| entry["cid"].clone());
    assert_eq!(of("dag-import")?, &json!([{ "cid": root, "error": "" }]));

    let stat = of("repo-stat")?;
    assert!(
        stat["repoSize"].as_u64().is_some_and(|bytes| bytes > 0) && stat["numObjects"].is_u64(),
        "{stat}"
    );
    assert!(
        of("swarm-local-addrs")?
            .as_array()
            .is_some_and(|addresses| !addresses.is_empty())
    );
    // What the cluster says of it.
    for cid in [
        of("block-put-pinned")?,
        of("dag-put-pinned")?,
        of("pin-add")?,
        of("pin-add-path")?,
        &tree[4]["cid"],
    ] {
        let cid: Cid = cid.as_str().context("a CID")?.parse()?;
        cluster.any()?.get(&cid, v1::Consistency::Linearizable).await?;
    }
    for cid in [of("block-put")?, of("dag-put")?, &both[0]] {
        let cid: Cid = cid.as_str().context("a CID")?.parse()?;
        let found = cluster.any()?.get(&cid, v1::Consistency::Linearizable).await;
        ensure!(found.is_err(), "{cid} is pinned");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_embedded_nodes() -> anyhow::Result<()> {
    let (cluster, said) = drive(embedded(2)).await?;
    check(&cluster, &said).await?;
    // It says that it has none, and not that it is broken.
    let message = said["files-ls"]["message"].as_str().context("it failed")?;
    assert!(message.contains("no mutable file system"), "{message}");
    assert!(
        said["repo-stat"]["numObjects"]
            .as_u64()
            .is_some_and(|blocks| blocks > 10)
    );
    assert_eq!(said["swarm-peers"], 1);
    // Which keys went is not told.
    assert_eq!(collect(&cluster).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_kubo() -> anyhow::Result<()> {
    let (cluster, said) = drive(kubo(1)).await?;
    check(&cluster, &said).await?;
    assert_eq!(said["version"], "0.43.0");
    assert_eq!(said["id"], cluster.kubo_named("node-1").peer_id());
    assert_eq!(said["files-ls"], Value::Null);
    // Garbage is collected at the daemon.
    assert!(collect(&cluster).await? > 0);
    Ok(())
}
