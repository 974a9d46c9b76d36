//! Members, and what they tell of themselves.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::node::NodeKind;
use serde_json::{Value, json};

use super::{Api, keys};

const ID: [&str; 10] = [
    "addresses",
    "cluster_peers",
    "cluster_peers_addresses",
    "commit",
    "error",
    "id",
    "ipfs",
    "peername",
    "rpc_protocol_version",
    "version",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_storage_node_is_a_member() -> anyhow::Result<()> {
    let options = ClusterOptions {
        beside: NodeKind::Fake,
        ..ClusterOptions::fakes(2)
    };
    let cluster = Cluster::start(options).await?;
    let api = Api::of(&cluster, 0);

    let peers = api.get("/peers").await?.lines()?;
    assert_eq!(peers.len(), 4);
    let ids: BTreeSet<&str> = peers.iter().filter_map(|peer| peer["id"].as_str()).collect();
    assert_eq!(ids.len(), 4, "each has an ID of its own");
    let names: BTreeSet<&str> = peers.iter().filter_map(|peer| peer["peername"].as_str()).collect();
    assert_eq!(
        names.into_iter().collect::<Vec<_>>(),
        ["beside-1", "beside-2", "node-1", "node-2"]
    );
    for index in 0..2 {
        let id = cluster.peer(index).id();
        assert!(ids.contains(id.as_str()), "the first node of a peer bears its ID");
    }
    for peer in &peers {
        assert_eq!(keys(peer), ID);
        assert_eq!(peer["error"], "");
        assert_eq!(peer["ipfs"]["error"], "", "{peer}");
        assert!(peer["ipfs"]["id"].as_str().is_some_and(|id| !id.is_empty()), "{peer}");
        assert_eq!(peer["cluster_peers"].as_array().map(Vec::len), Some(4));
        let addresses = peer["addresses"].as_array().expect("a list");
        assert!(
            !addresses.is_empty()
                && addresses.iter().all(|address| {
                    address
                        .as_str()
                        .is_some_and(|address| address.starts_with("/ip4/127.0.0.1/tcp/") && address.contains("/p2p/"))
                })
        );
        assert_eq!(peer["rpc_protocol_version"], "/ipfscluster/1.0/rpc");
    }

    let id = api.get("/id").await?.json(200)?;
    assert_eq!((&id["id"], keys(&id)), (&json!(cluster.peer(0).id()), ID.to_vec()));
    let version = api.get("/version").await?.json(200)?;
    assert!(
        version["version"]
            .as_str()
            .is_some_and(|version| version.starts_with("1.1.6")),
        "{version}"
    );

    // Who is a member already is answered as if it had been added; anybody else is told how to join.
    let body = json!({"peer_id": cluster.peer(1).id()}).to_string();
    let added = api
        .post_body("/peers", "text/plain", body.as_bytes())
        .await?
        .json(200)?;
    assert_eq!(
        (&added["id"], &added["error"]),
        (&json!(cluster.peer(1).id()), &json!(""))
    );
    for (body, words) in [
        (&b"garbage"[..], "error decoding request body"),
        (br#"{"peer_id":"me"}"#, "error decoding peer_id"),
        (
            br#"{"peer_id":"12D3KooWBhV9dp6GQkvFYdvCpwWkRxgnYC4UHPBGtKaqxbxn3Kmr"}"#,
            "join-token",
        ),
    ] {
        let message = api.post_body("/peers", "application/json", body).await?.error(400)?;
        assert!(message.contains(words), "{message}");
    }

    // A further node of a peer goes alone, and its pins with it to others.
    let made = ids.iter().find(|id| id.starts_with("Qm")).context("a made ID")?;
    let removed = api.delete(&format!("/peers/{made}")).await?;
    assert_eq!(
        (removed.status, removed.header("content-type"), removed.body.len()),
        (204, Some("application/json"), 0)
    );
    let gone = cluster.wait_until("the node is gone", LIMIT, async || {
        let peers = api.get("/peers").await?.lines()?;
        ensure!(
            peers.len() == 3 && peers.iter().all(|peer| peer["id"] != **made),
            "{peers:?}"
        );
        Ok(())
    });
    gone.await?;
    api.delete(&format!("/peers/{made}")).await?.error(404)?;
    let message = api.delete("/peers/abc").await?.error(400)?;
    assert!(message.starts_with("error decoding Peer ID: "), "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_taken_out_with_its_nodes() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let leader = cluster.leader().await?;
    let removed = (leader + 1) % 3;
    let api = Api::of(&cluster, leader);
    let answer = api.delete(&format!("/peers/{}", cluster.peer(removed).id())).await?;
    assert_eq!(answer.status, 204, "{}", answer.text());
    let left = cluster.wait_until("it is gone", LIMIT, async || {
        let peers = api.get("/peers").await?.lines()?;
        ensure!(peers.len() == 2, "{peers:?}");
        Ok(())
    });
    left.await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_metrics_and_a_peer_without_nodes() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::fakes(2)).await?;
    let bare = cluster.add_peer().await?;
    let api = Api::of(&cluster, 0);

    let alive = api.get("/health").await?;
    assert_eq!(
        (alive.status, alive.header("content-type"), alive.body.len()),
        (204, Some("application/json"), 0)
    );

    let id = cluster.peer(bare).id();
    let shown = cluster.wait_until("the bare peer is a member", LIMIT, async || {
        let peers = api.get("/peers").await?.lines()?;
        let bare = peers
            .iter()
            .find(|peer| peer["id"] == *id && peer["error"] == "")
            .cloned();
        bare.context("it does not answer yet")
    });
    let shown = shown.await?;
    assert!(
        shown["ipfs"]["error"]
            .as_str()
            .is_some_and(|error| error.contains("no storage node")),
        "{shown}"
    );
    assert!(shown["ipfs"].get("id").is_none(), "left out rather than empty");
    assert_eq!(Api::of(&cluster, bare).get("/id").await?.json(200)?["id"], *id);

    let graph = api.get("/health/graph").await?.json(200)?;
    assert_eq!(
        keys(&graph),
        [
            "cluster_id",
            "cluster_links",
            "cluster_to_ipfs",
            "cluster_trust_links",
            "id_to_peername",
            "ipfs_links"
        ]
    );
    assert_eq!(graph["cluster_id"], cluster.peer(0).id());
    assert_eq!(
        graph["cluster_links"][cluster.peer(1).id()].as_array().map(Vec::len),
        Some(2),
        "{graph}"
    );
    for ipfs in graph["cluster_to_ipfs"].as_object().expect("an object").values() {
        assert!(
            graph["ipfs_links"].get(ipfs.as_str().expect("text")).is_some(),
            "{graph}"
        );
    }

    assert_eq!(api.get("/health/alerts").await?.json(200)?, json!([]));
    assert!(api.get("/health/bandwidth").await?.json(200)?.is_object());
    let names = api.get("/monitor/metrics").await?.json(200)?;
    for name in ["ping", "freespace", "pinqueue", "numpin"] {
        assert!(
            names.as_array().is_some_and(|names| names.contains(&json!(name))),
            "{names}"
        );
        let metrics = api.get(&format!("/monitor/metrics/{name}")).await?.json(200)?;
        let metrics = metrics.as_array().expect("a list").clone();
        assert_eq!(metrics.len(), 2, "{name}: {metrics:?}");
        for metric in &metrics {
            assert_eq!(
                keys(metric),
                [
                    "expire",
                    "name",
                    "partitionable",
                    "peer",
                    "received_at",
                    "valid",
                    "value",
                    "weight"
                ]
            );
            assert_eq!((&metric["name"], &metric["valid"]), (&json!(name), &json!(true)));
            assert!(metric["expire"].as_i64() > metric["received_at"].as_i64(), "{metric}");
        }
    }
    let ping = api.get("/monitor/metrics/ping").await?.json(200)?;
    let value: Value = serde_json::from_str(ping[0]["value"].as_str().context("text")?)?;
    assert_eq!(keys(&value), ["ipfs_addresses", "ipfs_id", "peer_name"]);
    assert_eq!(api.get("/monitor/metrics/nonsense").await?.json(200)?, json!([]));

    // Kubo collects its garbage by itself; what can't be done is said, with 200.
    let gc = api.post("/ipfs/gc?local=true").await?.json(200)?;
    let own = &gc["peer_map"][cluster.peer(0).id()];
    assert_eq!((&own["keys"], keys(&gc["peer_map"]).len()), (&json!([]), 1), "{gc}");
    assert!(
        own["error"].as_str().is_some_and(|error| error.contains("kubo")),
        "{gc}"
    );
    Ok(())
}
