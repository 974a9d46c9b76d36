//! `pin/ls` and `repo/stat`.

use anyhow::ensure;
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::cid;
use serde_json::{Value, json};

use super::{Proxy, kubo_error};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_are_listed_in_every_form() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let proxy = Proxy::of(&cluster, 0);
    // An empty pinset.
    assert_eq!(proxy.call("pin/ls").await?.json(200)?, json!({ "Keys": {} }));
    let answer = proxy.call("pin/ls?stream=true").await?;
    assert!(answer.status == 200 && answer.body.is_empty());

    let (whole, block) = (cid(1), cid(2));
    proxy
        .call(&format!("pin/add?arg={whole}&name=site-a"))
        .await?
        .json(200)?;
    proxy
        .call(&format!("pin/add?arg={block}&recursive=false"))
        .await?
        .json(200)?;
    let keys = |pairs: &[&(String, Value)]| {
        let pairs = pairs.iter().map(|pair| (*pair).clone());
        json!({ "Keys": pairs.collect::<serde_json::Map<_, _>>() })
    };
    let recursive = (whole.to_string(), json!({ "Type": "recursive", "Name": "" }));
    let direct = (block.to_string(), json!({ "Type": "direct", "Name": "" }));
    let named = (whole.to_string(), json!({ "Type": "recursive", "Name": "site-a" }));
    for (call, expected) in [
        ("pin/ls", keys(&[&recursive, &direct])),
        ("pin/ls?type=all&quiet=true", keys(&[&recursive, &direct])),
        ("pin/ls?type=recursive", keys(&[&recursive])),
        ("pin/ls?type=direct", keys(&[&direct])),
        ("pin/ls?type=indirect", keys(&[])),
        ("pin/ls?names=true&type=recursive", keys(&[&named])),
        ("pin/ls?name=ite-", keys(&[&named])),
        ("pin/ls?name=other", keys(&[])),
    ] {
        assert_eq!(proxy.call(call).await?.json(200)?, expected, "{call}");
    }
    for form in [
        format!("pin/ls?arg={whole}"),
        format!("pin/ls/{whole}"),
        format!("pin/ls/ipfs/{whole}/"),
    ] {
        assert_eq!(proxy.call(&form).await?.json(200)?, keys(&[&recursive]), "{form}");
    }
    let both = proxy.call(&format!("pin/ls?arg={whole}&arg={block}")).await?;
    assert_eq!(both.json(200)?, keys(&[&recursive, &direct]));

    let lines = proxy.call("pin/ls?stream=true&names=true").await?.lines()?;
    assert_eq!(lines.len(), 2);
    assert!(lines.contains(&json!({ "Cid": whole.to_string(), "Name": "site-a", "Type": "recursive" })));
    assert!(lines.contains(&json!({ "Cid": block.to_string(), "Type": "direct" })));
    let one = proxy.call(&format!("pin/ls?arg={block}&s=true")).await?.lines()?;
    assert_eq!(one, [json!({ "Cid": block.to_string(), "Type": "direct" })]);

    for call in [
        format!("pin/ls?arg={}", cid(3)),
        format!("pin/ls?stream=true&arg={}", cid(3)),
        format!("pin/ls?arg={whole}&arg={}", cid(3)),
        format!("pin/ls?arg={whole}&type=direct"),
        format!("pin/ls?arg={whole}&type=indirect"),
    ] {
        let message = kubo_error(&proxy.call(&call).await?, 500)?;
        assert!(message.contains("is not pinned"), "{call}: {message}");
    }
    let message = kubo_error(&proxy.call("pin/ls?type=sideways").await?, 500)?;
    assert!(message.contains("invalid type 'sideways'"), "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_list_comes_whole() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let proxy = Proxy::of(&cluster, 0);
    // More than one chunk of a list.
    let items = (0..2_500).map(|number| cluster_proto::v1::BulkPinItem {
        cid: cid(number).to_string(),
        ..Default::default()
    });
    cluster.any()?.bulk(items.collect(), 500).await?;
    let listed = proxy.call("pin/ls").await?.json(200)?;
    assert_eq!(listed["Keys"].as_object().map(serde_json::Map::len), Some(2_500));
    assert_eq!(proxy.call("pin/ls?stream=true").await?.lines()?.len(), 2_500);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_repositories_of_all_members_are_summed() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(3)).await?;
    for (node, used) in [(0, 100), (1, 20), (2, 3)] {
        cluster.fake(node).set(|settings| {
            settings.used_bytes = used;
            settings.max_bytes = 1_000;
        });
    }
    let proxy = Proxy::of(&cluster, 0);
    let stat = proxy.call("repo/stat").await?.json(200)?;
    assert_eq!((&stat["RepoSize"], &stat["StorageMax"]), (&json!(123), &json!(3_000)));
    // Clients throw without it.
    assert!(
        stat["NumObjects"].is_u64() && stat["RepoPath"].is_string() && stat["Version"].is_string(),
        "{stat}"
    );
    // A member that says nothing is passed over.
    cluster.fake(1).down().await;
    let waited = cluster.wait_until("the others are summed", LIMIT, async || {
        let stat = proxy.call("repo/stat").await?.json(200)?;
        ensure!(stat["RepoSize"] == 103 && stat["StorageMax"] == 2_000, "{stat}");
        Ok(())
    });
    waited.await
}
