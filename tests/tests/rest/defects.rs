//! What was seen to go wrong with a running IPFS Cluster 1.1.6, and must not go wrong here.

use anyhow::{Context as _, ensure};
use cluster_tests::car::iroh_make;
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::{cid_of, fresh_bytes, fresh_cid};
use cluster_tests::node::{Node, NodeKind};
use serde_json::json;

use super::Api;

const PARTS: &str = "multipart/form-data; boundary=b";

fn part(content: &[u8]) -> Vec<u8> {
    let head = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n";
    [&head[..], content, b"\r\n--b--\r\n"].concat()
}

/// A CAR file without its root, and a form without parts, ended the whole process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_car_without_its_root_and_an_empty_form_are_errors_and_no_more() -> anyhow::Result<()> {
    let options = ClusterOptions {
        peers: 1,
        node: NodeKind::Embedded,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options.with("embedded.free_min", "1MiB")).await?;
    let api = Api::of(&cluster, 0);
    let pid = cluster.peer(0).pid();
    let block = fresh_bytes(500);
    let (held, root) = (cid_of(0x55, &block), fresh_cid());
    let car = part(&iroh_make(&[root], &vec![(held, block)]).await?);
    let no_blocks = part(&iroh_make(&[root], &Vec::new()).await?);
    for stream in ["stream-channels=false", "stream-channels=true"] {
        for body in [&car, &no_blocks] {
            let answer = api.post_body(&format!("/add?format=car&{stream}"), PARTS, body).await?;
            let message = answer.error(400)?;
            ensure!(
                message.contains(&root.to_string()),
                "it names what is missing: {message}"
            );
        }
        for form in ["", "--b--\r\n", "--b--", "\r\n--b--\r\n\r\n"] {
            for format in ["unixfs", "car"] {
                let target = format!("/add?format={format}&{stream}");
                let answer = api.post_body(&target, PARTS, form.as_bytes()).await?;
                answer.error(400).with_context(|| format!("{form:?}"))?;
            }
        }
        api.get(&format!("/allocations/{root}")).await?.error(404)?;
    }
    // Blocks alone are taken where nothing shall be pinned: the rest may come in other files.
    let loose = api.post_body("/add?format=car&no-pin=true", PARTS, &car).await?;
    ensure!(loose.lines()?.len() == 1, "{}", loose.text());
    ensure!(
        cluster.peer(0).runs() && cluster.peer(0).pid() == pid,
        "the same process"
    );
    api.get("/id").await?.json(200)?;
    Ok(())
}

/// Options that can't be read were told with 400, and the pin was made all the same, with a second answer behind the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_not_done() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let api = Api::of(&cluster, 0);
    for query in [
        "expire-at=garbage",
        "replication-min=x",
        "shard-size=-1",
        "pin-update=x",
        "origins=x",
    ] {
        let cid = fresh_cid();
        for path in ["/pins", "/pins/ipfs", "/pins/ipld"] {
            // One value, one line, and the connection ends behind it.
            api.post(&format!("{path}/{cid}?{query}")).await?.error(400)?;
        }
        api.get(&format!("/allocations/{cid}")).await?.error(404)?;
        ensure!(
            !cluster.fake(0).pins().contains_key(&cid),
            "{query}: no node was asked to pin it"
        );
    }
    Ok(())
}

/// `mode=direct` was echoed, and the whole was pinned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_directly_is_pinned_directly() -> anyhow::Result<()> {
    let options = ClusterOptions {
        peers: 1,
        node: NodeKind::Kubo,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options).await?;
    let Some((_, Node::Kubo(daemon))) = cluster.nodes().first() else {
        anyhow::bail!("there is no Kubo");
    };
    let api = Api::of(&cluster, 0);
    for path in ["/pins", "/pins/ipfs"] {
        // Two blocks: what is pinned directly leaves one of them unpinned.
        let cid = daemon.add(&fresh_bytes(300_000)).await?;
        let pin = api.post(&format!("{path}/{cid}?mode=direct")).await?.json(200)?;
        ensure!(
            (&pin["mode"], &pin["max_depth"]) == (&json!("direct"), &json!(0)),
            "{pin}"
        );
        api.wait_for(&cluster, &cid.to_string(), "pinned", 1).await?;
        ensure!(daemon.pin_kind(&cid).await?.as_deref() == Some("direct"), "{path}");
        api.post(&format!("{path}/{cid}")).await?.json(200)?;
        let whole = cluster.wait_until("the whole is pinned", LIMIT, async || {
            let kind = daemon.pin_kind(&cid).await?;
            ensure!(kind.as_deref() == Some("recursive"), "{kind:?}");
            Ok(())
        });
        whole.await?;
    }
    Ok(())
}

/// Right after the start there were no metrics, and an add was a 500. Ready means that it works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_soon_as_a_peer_is_ready_an_add_works() -> anyhow::Result<()> {
    for peers in [1, 3] {
        let options = ClusterOptions {
            peers,
            node: NodeKind::Embedded,
            ..ClusterOptions::default()
        };
        let cluster = Cluster::start_unsettled(options.with("embedded.free_min", "1MiB")).await?;
        for index in 0..peers {
            let answer = Api::of(&cluster, index)
                .post_body("/add", PARTS, &part(&fresh_bytes(1_000)))
                .await?;
            ensure!(answer.lines()?.len() == 1, "{peers} peers, {index}: {}", answer.text());
        }
        // The same after all of them were away.
        for peer in cluster.peers() {
            peer.stop().await?;
        }
        for peer in cluster.peers() {
            peer.launch()?;
        }
        for (index, peer) in cluster.peers().iter().enumerate() {
            peer.ready().await?;
            let answer = Api::of(&cluster, index)
                .post_body("/add", PARTS, &part(&fresh_bytes(1_000)))
                .await?;
            ensure!(answer.lines()?.len() == 1, "{peers} peers, {index}: {}", answer.text());
            let pin = Api::of(&cluster, index).post(&format!("/pins/{}", fresh_cid())).await?;
            pin.json(200)?;
        }
    }
    Ok(())
}
