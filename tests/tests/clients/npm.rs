//! The npm packages `@nftstorage/ipfs-cluster` 5.0.1 and `ipfs-cluster-api` 0.0.9: every method that they offer.

use anyhow::{Context, ensure};
use cluster_tests::car::iroh_make;
use cluster_tests::clients::{IPFS_CLUSTER_API, Libraries, NFT_STORAGE, bytes, file};
use cluster_tests::content::{cid_of, fresh_bytes, fresh_cid};
use cluster_tests::node::NodeKind;
use node_core::Cid;
use serde_json::{Value, json};

use super::{FETCH_LIMIT, Fleet, cid, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn npm_clients_over_embedded_nodes() -> anyhow::Result<()> {
    over(NodeKind::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn npm_clients_over_kubo() -> anyhow::Result<()> {
    over(NodeKind::Kubo).await
}

/// One member: the older client takes no list of several.
async fn over(node: NodeKind) -> anyhow::Result<()> {
    let (fleet, libraries) = tokio::try_join!(Fleet::start(node, 1), Libraries::npm())?;
    nft_storage_content(&fleet, &libraries).await.context(NFT_STORAGE)?;
    nft_storage_pins(&fleet, &libraries).await.context(NFT_STORAGE)?;
    nft_storage_errors(&fleet, &libraries).await.context(NFT_STORAGE)?;
    ipfs_cluster_api(&fleet, &libraries).await.context(IPFS_CLUSTER_API)?;
    fleet.stop().await
}

/// What is added, and how.
async fn nft_storage_content(fleet: &Fleet, libraries: &Libraries) -> anyhow::Result<()> {
    let client = libraries.open(NFT_STORAGE, &fleet.rest(0)).await?;
    let id = fleet.cluster.peer(0).id();

    // One file: raw leaves and version 1 unless told otherwise.
    let hello = b"hello world\n";
    let options = json!({ "name": "hello", "metadata": { "team": "web" }, "replicationFactorMin": 1, "replicationFactorMax": 1,
        "wrap": false, "noCopy": false, "recursive": true, "hidden": true, "local": true });
    let added = client.gives("add", json!([file("hello.txt", hello), options])).await?;
    let root = cid_of(0x55, hello);
    ensure!(
        cid(&added, "cid")? == root && added["name"] == "hello.txt" && added["size"] == 12,
        "{added}"
    );
    ensure!(added["allocations"] == json!([id]), "{added}");
    let pin = fleet.pin(&root).await?;
    ensure!(
        pin.name == "hello" && pin.metadata.get("team").is_some_and(|team| team == "web"),
        "{pin:?}"
    );
    fleet.pinned_on(&root, 1).await?;
    ensure!(fleet.client().cat(root).await? == hello);

    // A blob without a name; version 0 as in old times, trickled; and the answer as lines, of which this client takes one.
    let content = fresh_bytes(300_000);
    let blob = client.gives("add", json!([bytes("$blob", &content)])).await?;
    ensure!(fleet.client().cat(cid(&blob, "cid")?).await? == content);
    let options = json!({ "cidVersion": 0, "rawLeaves": false, "layout": "trickle", "chunker": "size-1024", "hashFun": "sha2-256" });
    let old = client.gives("add", json!([file("old", &content), options])).await?;
    ensure!(text(&old, "cid")?.starts_with("Qm"), "{old}");
    ensure!(fleet.client().cat(cid(&old, "cid")?).await? == content);
    let lines = client
        .gives("add", json!([file("one", b"one"), { "streamChannels": true }]))
        .await?;
    ensure!(cid(&lines, "cid")? == cid_of(0x55, b"one"), "{lines}");

    // A directory of files with paths, all around it.
    let files = [file("a.txt", b"a"), file("dir/b.txt", b"b"), file("dir/x y.txt", b"c")];
    let all = client.gives("addDirectory", json!([files, { "name": "site" }])).await?;
    let all = all.as_array().context("a list")?;
    let names: Vec<&str> = all.iter().filter_map(|entry| entry["name"].as_str()).collect();
    ensure!(names == ["a.txt", "dir/b.txt", "dir/x y.txt", "dir", ""], "{names:?}");
    let site = cid(all.last().context("the root")?, "cid")?;
    ensure!(fleet.pin(&site).await?.name == "site");
    for (path, content) in [("a.txt", "a"), ("dir/b.txt", "b"), ("dir/x y.txt", "c")] {
        ensure!(
            fleet.client().cat(format!("{site}/{path}")).await? == content.as_bytes(),
            "{path}"
        );
    }

    // A CAR file.
    let block = fresh_bytes(1_000);
    let root = cid_of(0x55, &block);
    let car = iroh_make(&[root], &vec![(root, block.clone())]).await?;
    let added = client
        .gives("addCAR", json!([bytes("$blob", &car), { "name": "archive" }]))
        .await?;
    ensure!(cid(&added, "cid")? == root && added["bytes"] == 1_000, "{added}");
    ensure!(fleet.pin(&root).await?.name == "archive");
    ensure!(fleet.client().cat(root).await? == block);
    Ok(())
}

/// Pins, their states, and who holds them.
async fn nft_storage_pins(fleet: &Fleet, libraries: &Libraries) -> anyhow::Result<()> {
    let client = libraries.open(NFT_STORAGE, &fleet.rest(0)).await?;
    let id = fleet.cluster.peer(0).id();
    let version = client.gives("version", json!([])).await?;
    ensure!(
        version.as_str().is_some_and(|version| version.starts_with("1.1.6")),
        "{version}"
    );
    let info = client.gives("info", json!([])).await?;
    ensure!(
        info["id"] == *id && info["peerName"] == "node-1" && info["clusterPeers"] == json!([id]),
        "{info}"
    );
    let status = fleet.client().cluster_status().await?;
    let report = status
        .nodes
        .first()
        .and_then(|node| node.report.as_ref())
        .context("a report")?;
    ensure!(info["ipfs"]["id"] == *report.ipfs_peer_id, "{info}");
    ensure!(client.gives("peerList", json!([])).await? == json!([info]));
    let names = client.gives("metricNames", json!([])).await?;
    ensure!(
        names
            .as_array()
            .is_some_and(|names| names.contains(&json!("freespace"))),
        "{names}"
    );

    let held = fleet.hold(&fresh_bytes(2_000)).await?;
    let origin = format!("/ip4/127.0.0.1/tcp/4001/p2p/{}", report.ipfs_peer_id);
    let options = json!({ "name": "a name", "mode": "recursive", "replicationFactorMin": 1, "replicationFactorMax": 1,
        "shardSize": 7, "userAllocations": [id], "expireAt": { "$date": "2099-01-02T03:04:05.678Z" },
        "metadata": { "kind": "test" }, "origins": [origin] });
    let pin = client.gives("pin", json!([held.to_string(), options])).await?;
    for (field, value) in [
        ("cid", json!(held.to_string())),
        ("name", json!("a name")),
        ("mode", json!("recursive")),
        ("type", json!("pin")),
        ("replicationFactorMin", json!(1)),
        ("replicationFactorMax", json!(1)),
        ("shardSize", json!(7)),
        ("userAllocations", json!([id])),
        ("allocations", json!([id])),
        ("metadata", json!({ "kind": "test" })),
        ("maxDepth", json!(-1)),
        ("reference", Value::Null),
        ("pinUpdate", Value::Null),
    ] {
        ensure!(pin[field] == value, "{field}: {pin}");
    }
    ensure!(text(&pin, "expireAt")?.starts_with("2099-01-02T03:04:05"), "{pin}");
    let known = fleet.pin(&held).await?;
    ensure!(
        known.name == "a name" && known.origins == [origin] && known.nodes == ["node-1"],
        "{known:?}"
    );
    ensure!(
        known.expire_at.is_some_and(|at| at.seconds == 4_071_006_245),
        "{known:?}"
    );
    fleet.pinned_on(&held, 1).await?;
    let allocation = client.gives("allocation", json!([held.to_string()])).await?;
    ensure!(
        allocation["name"] == pin["name"] && allocation["expireAt"] == pin["expireAt"],
        "{allocation}"
    );

    for options in [json!({}), json!({ "local": true }), json!({ "local": false })] {
        let status = client.gives("status", json!([held.to_string(), options])).await?;
        let shown = &status["peerMap"][&id];
        ensure!(
            status["cid"] == held.to_string() && status["name"] == "a name",
            "{status}"
        );
        ensure!(
            shown["status"] == "pinned" && shown["peerName"] == "node-1" && shown["error"] == "",
            "{status}"
        );
        ensure!(
            shown["ipfsPeerId"] == *report.ipfs_peer_id && !shown["timestamp"].is_null(),
            "{status}"
        );
    }
    let all = fleet.client().list_all().await?.len();
    for options in [
        json!({}),
        json!({ "filter": "pinned" }),
        json!({ "filter": ["pinned", "error"], "local": true }),
    ] {
        let waited = fleet.cluster.wait_until("all are listed", FETCH_LIMIT, async || {
            let listed = client.gives("statusAll", json!([options])).await?;
            ensure!(listed.as_array().map(Vec::len) == Some(all), "{options}: {listed}");
            Ok(())
        });
        waited.await?;
    }
    let some = client
        .gives(
            "statusAll",
            json!([{ "cids": [held.to_string(), fresh_cid().to_string()] }]),
        )
        .await?;
    ensure!(
        some[0]["peerMap"][&id]["status"] == "pinned" && some[1]["peerMap"][&id]["status"] == "unpinned",
        "{some}"
    );
    // An empty list of this client is one that has a body.
    ensure!(client.gives("statusAll", json!([{ "filter": "pin_error" }])).await? == json!([]));

    for options in [json!({}), json!({ "local": true })] {
        let recovered = client.gives("recover", json!([held.to_string(), options])).await?;
        ensure!(recovered["cid"] == held.to_string(), "{recovered}");
    }

    // A path; another pin's options under a new CID; and out again.
    let site = client
        .gives("addDirectory", json!([[file("dir/leaf", b"a leaf")]]))
        .await?;
    let site = cid(site.as_array().and_then(|all| all.last()).context("a root")?, "cid")?;
    let path = format!("/ipfs/{site}/dir/leaf");
    let leaf = client.gives("pin", json!([path, { "name": "leaf" }])).await?;
    ensure!(cid(&leaf, "cid")? == cid_of(0x55, b"a leaf"), "{leaf}");
    let other = fleet.hold(&fresh_bytes(2_000)).await?;
    let updated = client
        .gives("pin", json!([other.to_string(), { "pinUpdate": held.to_string() }]))
        .await?;
    ensure!(
        updated["metadata"] == json!({ "kind": "test" }) && updated["pinUpdate"] == held.to_string(),
        "{updated}"
    );
    fleet.pinned_on(&other, 1).await?;
    let direct = fleet.hold(&fresh_bytes(2_000)).await?;
    let pin = client
        .gives("pin", json!([direct.to_string(), { "mode": "direct" }]))
        .await?;
    ensure!(pin["mode"] == "direct" && pin["maxDepth"] == 0, "{pin}");
    fleet.pinned_on(&direct, 1).await?;
    if let Some((_, cluster_tests::node::Node::Kubo(daemon))) = fleet.cluster.nodes().first() {
        ensure!(
            daemon.pin_kind(&direct).await?.as_deref() == Some("direct"),
            "asked directly"
        );
        ensure!(daemon.pin_kind(&other).await?.as_deref() == Some("recursive"));
    }
    let removed = client.gives("unpin", json!([path])).await?;
    ensure!(removed["name"] == "leaf", "{removed}");
    let removed = client.gives("unpin", json!([held.to_string()])).await?;
    ensure!(removed["name"] == "a name", "as it was: {removed}");
    fleet.has_no_pin(&held).await?;
    let waited = fleet.cluster.wait_until("it is unpinned", FETCH_LIMIT, async || {
        let status = client.gives("status", json!([held.to_string()])).await?;
        ensure!(status["peerMap"][&id]["status"] == "unpinned", "{status}");
        Ok(())
    });
    waited.await
}

/// This client shows the status of an error, and keeps the answer.
async fn nft_storage_errors(fleet: &Fleet, libraries: &Libraries) -> anyhow::Result<()> {
    let client = libraries.open(NFT_STORAGE, &fleet.rest(0)).await?;
    let unknown = fresh_cid().to_string();
    let past = json!({ "expireAt": { "$date": "2001-01-01T00:00:00Z" } });
    let cases = [
        ("allocation", json!([unknown]), 404, "pin is not part of the pinset"),
        ("unpin", json!([unknown]), 404, "pin is not part of the pinset"),
        ("pin", json!(["abcd"]), 400, "error decoding Cid"),
        ("pin", json!(["/ipfs/invalidhash"]), 400, "error parsing path"),
        ("pin", json!(["/ipns/docs.ipfs.tech"]), 400, "names"),
        (
            "pin",
            json!([unknown, { "replicationFactorMin": 3, "replicationFactorMax": 3 }]),
            409,
            "3",
        ),
        ("pin", json!([unknown, past]), 400, "expire_at"),
        (
            "pin",
            json!([unknown, { "pinUpdate": fresh_cid().to_string() }]),
            404,
            "pin is not part of the pinset",
        ),
        ("status", json!(["abcd"]), 400, "error decoding Cid"),
        (
            "recover",
            json!([unknown, { "local": true }]),
            404,
            "pin is not part of the pinset",
        ),
        (
            "statusAll",
            json!([{ "filter": "nonsense" }]),
            400,
            "invalid filter value",
        ),
        ("add", json!([file("x", b"x"), { "chunker": "size-0" }]), 400, "chunker"),
        ("add", json!([file("x", b"x"), { "shard": true }]), 400, "shard"),
        ("addCAR", json!([bytes("$blob", b"no CAR")]), 400, "CAR"),
        ("addDirectory", json!([[]]), 400, ""),
    ];
    for (method, args, status, words) in cases {
        let thrown = client.throws(method, args.clone()).await?;
        ensure!(thrown.status == Some(status), "{method} {args}: {thrown:?}");
        let body: Value = serde_json::from_str(thrown.body.as_deref().context("a body")?)?;
        ensure!(
            body["code"] == status && text(&body, "message")?.contains(words),
            "{method} {args}: {body}"
        );
        ensure!(thrown.message.starts_with(&status.to_string()), "{thrown:?}");
    }
    ensure!(
        client.throws("add", json!(["text"])).await?.message == "invalid file",
        "by itself"
    );
    fleet.has_no_pin(&unknown.parse::<Cid>()?).await?;
    // Nobody asks for credentials here, and nobody minds them either.
    let headers = json!({ "headers": { "Authorization": "Basic bm9ib2R5Om5vdGhpbmc=" } });
    let shown = libraries.open_with(NFT_STORAGE, &fleet.rest(0), headers).await?;
    ensure!(
        shown.throws("version", json!([])).await?.status == Some(401),
        "wrong credentials are wrong"
    );
    Ok(())
}

/// The older client. It reads one object of a list, and throws at two; what it makes of an add lacks the CID, which it looks
/// for where IPFS Cluster had it before 1.0. Both are so with IPFS Cluster 1.1.6 too.
async fn ipfs_cluster_api(fleet: &Fleet, libraries: &Libraries) -> anyhow::Result<()> {
    let client = libraries.open(IPFS_CLUSTER_API, &fleet.rest(0)).await?;
    let id = fleet.cluster.peer(0).id();
    let mut pins = fleet.client().list_all().await?;
    let version = client.gives("version", json!([])).await?;
    ensure!(text(&version, "version")?.starts_with("1.1.6"), "{version}");
    let own = client.gives("id", json!([])).await?;
    ensure!(own["id"] == *id && own["peername"] == "node-1", "{own}");
    ensure!(client.gives("peers.ls", json!([])).await? == own);
    let graph = client.gives("health.graph", json!([])).await?;
    ensure!(
        graph["cluster_id"] == *id && graph["id_to_peername"][&id] == "node-1",
        "{graph}"
    );
    // Without a name it takes its own callback for one, so the name is empty.
    let names = client.gives("health.metrics", json!([""])).await?;
    ensure!(
        names.as_array().is_some_and(|names| names.contains(&json!("ping"))),
        "{names}"
    );
    let metrics = client.gives("health.metrics", json!(["freespace"])).await?;
    ensure!(
        metrics[0]["peer"] == *id && metrics[0]["name"] == "freespace",
        "{metrics}"
    );

    ensure!(pins.len() > 1, "the tests before left some");
    for method in ["pin.ls", "status"] {
        let thrown = client.throws(method, json!([{}])).await?;
        ensure!(thrown.name == "SyntaxError", "{method}: {thrown:?}");
    }
    for pin in pins.drain(..) {
        client.gives("pin.rm", json!([pin.cid])).await?;
    }
    ensure!(
        client.gives("pin.ls", json!([{}])).await?.is_null(),
        "nothing of an empty list"
    );

    let held = fleet.hold(&fresh_bytes(2_000)).await?;
    let options = json!({ "name": "by hand", "replication-min": 1, "replication-max": 1, "meta-team": "web" });
    let pin = client.gives("pin.add", json!([held.to_string(), options])).await?;
    ensure!(pin["name"] == "by hand" && pin["metadata"]["team"] == "web", "{pin}");
    fleet.pinned_on(&held, 1).await?;
    for filter in [json!({}), json!({ "filter": "pin" }), json!({ "filter": "all" })] {
        let listed = client.gives("pin.ls", json!([filter])).await?;
        ensure!(listed["cid"] == held.to_string(), "{listed}");
    }
    for args in [
        json!([]),
        json!([held.to_string()]),
        json!([held.to_string(), { "local": true }]),
        json!([{ "filter": "pinned", "local": true }]),
    ] {
        let status = client.gives("status", args.clone()).await?;
        ensure!(status["peer_map"][&id]["status"] == "pinned", "{args}: {status}");
    }
    let recovered = client.gives("recover", json!([held.to_string()])).await?;
    ensure!(recovered["cid"] == held.to_string(), "{recovered}");
    let nothing = client.gives("recover", json!([])).await?;
    ensure!(nothing.is_null(), "there is nothing to do: {nothing}");
    // There is no such thing any more, and not in IPFS Cluster either.
    client.throws("sync", json!([])).await?;
    client.throws("sync", json!([held.to_string()])).await?;

    // A buffer, a file with a path, and directories, which it names by itself.
    let content = fresh_bytes(400_000);
    let files = json!([{ "path": "top/inner/big", "content": bytes("$buffer", &content) }, { "path": "top/empty" }]);
    let added = client
        .gives("add", json!([files, { "raw-leaves": true, "cid-version": 1 }]))
        .await?;
    let names: Vec<&str> = added
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|one| one["path"].as_str())
        .collect();
    ensure!(
        names.contains(&"top/inner/big") && names.contains(&"top/inner") && names.last() == Some(&"top"),
        "{added}"
    );
    let root = fleet
        .client()
        .list_all()
        .await?
        .into_iter()
        .find(|pin| pin.cid != held.to_string());
    let root = root.context("the directory is pinned")?.cid;
    ensure!(fleet.client().cat(format!("{root}/inner/big")).await? == content);
    let wrapped = json!([{ "path": "x.txt", "content": bytes("$buffer", b"x") }]);
    client
        .gives("add", json!([wrapped, { "wrap-with-directory": true }]))
        .await?;
    client
        .gives("add", json!([bytes("$buffer", b"without a name")]))
        .await?;

    // What it shows of an error is not much, but it is one.
    for (method, args) in [
        ("pin.add", json!(["abcd", {}])),
        ("pin.rm", json!([fresh_cid().to_string()])),
        ("peers.rm", json!(["abcd"])),
        ("status", json!(["abcd"])),
        ("add", json!([bytes("$buffer", b"x"), { "chunker": "size-0" }])),
    ] {
        client.throws(method, args).await?;
    }
    let removed = client.gives("pin.rm", json!([held.to_string()])).await?;
    ensure!(removed["name"] == "by hand", "{removed}");
    fleet.has_no_pin(&held).await
}
