//! The PyPI packages `ipfscluster` 0.2.0 and `asyncipfscluster` 0.1.2: every method that they offer.

use anyhow::{Context, ensure};
use cluster_tests::clients::{ASYNC_IPFS_CLUSTER, IPFS_CLUSTER, Libraries, Outcome, bytes};
use cluster_tests::content::{fresh_bytes, fresh_cid};
use cluster_tests::node::NodeKind;
use serde_json::json;

use super::{Fleet, cid, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_clients_over_embedded_nodes() -> anyhow::Result<()> {
    over(NodeKind::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_clients_over_kubo() -> anyhow::Result<()> {
    over(NodeKind::Kubo).await
}

async fn over(node: NodeKind) -> anyhow::Result<()> {
    let (fleet, libraries) = tokio::try_join!(Fleet::start(node, 2), Libraries::python())?;
    ipfscluster(&fleet, &libraries).await.context(IPFS_CLUSTER)?;
    asyncipfscluster(&fleet, &libraries).await.context(ASYNC_IPFS_CLUSTER)?;
    fleet.stop().await
}

/// It says `stream-channels=true` with every request, names no field in its parts, and gives the first object of a list.
async fn ipfscluster(fleet: &Fleet, libraries: &Libraries) -> anyhow::Result<()> {
    // Looks for a version by itself.
    let client = libraries.open(IPFS_CLUSTER, &fleet.rest(0)).await?;
    let id = fleet.cluster.peer(0).id();
    let version = client.gives("version", json!([])).await?;
    ensure!(text(&version, "version")?.starts_with("1.1.6"), "{version}");
    let own = client.gives("id", json!([])).await?;
    ensure!(own["id"] == *id && own["peername"] == "node-1", "{own}");
    let first = client.gives("peers.ls", json!([])).await?;
    ensure!(
        own["cluster_peers"]
            .as_array()
            .is_some_and(|ids| ids.contains(&first["id"])),
        "{first}"
    );
    let graph = client.gives("health.graph", json!([])).await?;
    ensure!(graph["cluster_id"] == *id, "{graph}");
    // An empty list is more than it can take, from IPFS Cluster too.
    for method in ["pins.ls", "allocations.ls", "pins.recover"] {
        ensure!(client.throws(method, json!([])).await?.name == "IndexError", "{method}");
    }

    // Adds, the CIDs being those that `ipfs add` always made.
    let added = client
        .gives("add_bytes", json!([bytes("$bytes", b"hello world\n")]))
        .await?;
    ensure!(
        added["cid"] == "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o" && added["name"] == "bytes",
        "{added}"
    );
    let hello = cid(&added, "cid")?;
    ensure!(fleet.pin(&hello).await?.name == "bytes", "the name of the part");
    let named = client
        .gives("add_bytes", json!([bytes("$bytes", b"named"), "a name"]))
        .await?;
    let pin = fleet.pin(&cid(&named, "cid")?).await?;
    ensure!(named["name"] == "a name", "{named}");
    ensure!(["", "a name", "a%20name"].contains(&pin.name.as_str()), "{pin:?}");
    let added = client.gives("add_str", json!(["text, größer"])).await?;
    ensure!(fleet.client().cat(cid(&added, "cid")?).await? == "text, größer".as_bytes());
    let added = client.gives("add_json", json!([{ "one": 1, "two": [2] }])).await?;
    let content: serde_json::Value = serde_json::from_slice(&fleet.client().cat(cid(&added, "cid")?).await?)?;
    ensure!(content == json!({ "one": 1, "two": [2] }));
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("file with spaces.bin");
    let content = fresh_bytes(700_000);
    std::fs::write(&path, &content)?;
    let options = json!({ "$add": { "pinopts": { "$pin": { "replication_factor_min": 2, "replication_factor_max": 2,
        "name": "the file", "shard_size": 7 } }, "raw_leaves": true, "cid_version": 1, "layout": "trickle",
        "chunker": "size-65536", "hashfun": "sha2-256", "recursive": false, "hidden": false, "wrap": false,
        "shard": false, "nocopy": false, "progress": false } });
    let added = client
        .call_named("add_files", json!([path]), json!({ "addopts": options }))
        .await?;
    let Outcome::Value(added) = added else {
        anyhow::bail!("{added:?}");
    };
    let big = cid(&added, "cid")?;
    ensure!(
        added["name"] == "file with spaces.bin" && added["allocations"].as_array().map(Vec::len) == Some(2),
        "{added}"
    );
    let pin = fleet.pin(&big).await?;
    ensure!(pin.name == "the file" && pin.replication_min == 2, "{pin:?}");
    fleet.pinned_on(&big, 2).await?;
    ensure!(fleet.client().cat(big).await? == content);

    // Pins.
    let held = fleet.hold(&fresh_bytes(1_000)).await?;
    let pinned = client.gives("pins.add", json!([held.to_string()])).await?;
    ensure!(
        pinned[0]["cid"] == held.to_string() && pinned[0]["type"] == "pin",
        "{pinned}"
    );
    fleet.pinned_on(&held, 2).await?;
    let allocation = client.gives("allocations.ls", json!([held.to_string()])).await?;
    ensure!(allocation["cid"] == held.to_string() && allocation["allocations"].as_array().map(Vec::len) == Some(2));
    let status = client.gives("pins.ls", json!([held.to_string()])).await?;
    ensure!(status["peer_map"][&id]["status"] == "pinned", "{status}");
    for (method, field) in [("pins.ls", "peer_map"), ("allocations.ls", "allocations")] {
        let first = client.gives(method, json!([])).await?;
        ensure!(!first[field].is_null() && !first["cid"].is_null(), "{method}: {first}");
    }
    let recovered = client.gives("pins.recover", json!([held.to_string()])).await?;
    ensure!(
        recovered["peer_map"].as_object().map(serde_json::Map::len) == Some(1),
        "it asks for this peer: {recovered}"
    );
    let path = format!("ipfs/{hello}");
    client.gives("pins.rm", json!([path])).await?;
    fleet.has_no_pin(&hello).await?;
    let removed = client.gives("pins.rm", json!([held.to_string()])).await?;
    ensure!(removed[0]["cid"] == held.to_string(), "{removed}");
    fleet.has_no_pin(&held).await?;

    // What is wrong has the status of the answer.
    for (method, args, status) in [
        ("pins.add", json!(["abcd"]), 400),
        ("pins.rm", json!([fresh_cid().to_string()]), 404),
        ("allocations.ls", json!([fresh_cid().to_string()]), 404),
        ("pins.ls", json!(["abcd"]), 400),
        ("pins.recover", json!([fresh_cid().to_string()]), 404),
        // Gone since IPFS Cluster 0.12.
        ("pins.sync", json!([]), 400),
        ("pins.sync", json!([fresh_cid().to_string()]), 404),
        ("peers.rm", json!(["abcd"]), 400),
        (
            "peers.rm",
            json!(["12D3KooWSmEVZm81CvvWEbnUgnJ6CYLvtnXyTsCqyHXi7K5aG7zY"]),
            404,
        ),
    ] {
        let thrown = client.throws(method, args.clone()).await?;
        ensure!(
            thrown.name == "StatusError" && thrown.status == Some(status),
            "{method} {args}: {thrown:?}"
        );
    }
    let options = json!({ "$add": { "chunker": "size-0" } });
    let refused = client
        .call_named("add_str", json!(["x"]), json!({ "addopts": options }))
        .await?;
    ensure!(
        matches!(&refused, Outcome::Thrown(thrown) if thrown.status == Some(400)),
        "{refused:?}"
    );
    Ok(())
}

/// It adds and removes.
async fn asyncipfscluster(fleet: &Fleet, libraries: &Libraries) -> anyhow::Result<()> {
    let client = libraries.open(ASYNC_IPFS_CLUSTER, &fleet.rest(0)).await?;
    let added = client
        .gives("add_bytes", json!([bytes("$bytes", b"hello world\n"), "text/plain"]))
        .await?;
    ensure!(added == "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o", "{added}");
    let content = fresh_bytes(500_000);
    let args = json!([
        bytes("$bytes", &content),
        "application/octet-stream",
        "file.bin",
        "a pin"
    ]);
    let added = client.gives("add_bytes", args).await?;
    let root = added.as_str().context("a CID")?.parse()?;
    ensure!(fleet.pin(&root).await?.name == "a pin");
    ensure!(fleet.client().cat(root).await? == content);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("file");
    std::fs::write(&path, b"in a file")?;
    let args = json!([path, "text/plain", "name.txt", "from a file"]);
    let added = client.gives("add_file", args).await?;
    let file = added.as_str().context("a CID")?.parse()?;
    ensure!(fleet.pin(&file).await?.name == "from a file");
    ensure!(fleet.client().cat(file).await? == b"in a file");

    for cid in [root, file] {
        client.gives("remove", json!([cid.to_string()])).await?;
        fleet.has_no_pin(&cid).await?;
    }
    // Twice is once.
    client.gives("remove", json!([root.to_string()])).await?;
    ensure!(
        client.throws("remove", json!(["abcd"])).await?.name == "InvalidCIDException",
        "by itself"
    );
    let refused = client.throws("remove", json!(["x".repeat(59)])).await?;
    ensure!(refused.name == "IPFSException", "{refused:?}");
    let auth = json!({ "auth": ["nobody", "nothing"] });
    let shown = libraries.open_with(ASYNC_IPFS_CLUSTER, &fleet.rest(0), auth).await?;
    let refused = shown
        .throws("add_bytes", json!([bytes("$bytes", b"x"), "text/plain"]))
        .await?;
    ensure!(
        refused.name == "IPFSException",
        "wrong credentials are wrong: {refused:?}"
    );
    Ok(())
}
