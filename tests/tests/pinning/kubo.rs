//! Kubo's own `ipfs pin remote` against the cluster, over embedded nodes: content goes from that Kubo to them.

use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::fresh_bytes;
use cluster_tests::ctl::Ctl;
use cluster_tests::kubo::KuboDaemon;
use cluster_tests::node::NodeKind;
use serde_json::Value;

use super::{ALL, Api, text};

/// The lines that Kubo prints, as `CID state name`.
fn rows(printed: &str) -> Vec<Vec<&str>> {
    printed.lines().map(|line| line.split('\t').collect()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubo_pins_lists_and_removes() -> anyhow::Result<()> {
    let options = ClusterOptions {
        peers: 1,
        node: NodeKind::Embedded,
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(options.with("embedded.free_min", "1MiB")).await?;
    let folder = tempfile::tempdir()?;
    let mut kubo = KuboDaemon::start(folder.path()).await?;
    let ctl = Ctl::new(cluster.api())?;
    let token = ctl
        .run(&["token", "create", "kubo", "--namespace", "team-a", "--scope", "pin"])
        .await?;
    let api = Api::of(&cluster, 0).with(token.trim());
    cluster
        .wait_until("the token is known", LIMIT, async || api.list("").await.map(drop))
        .await?;
    let endpoint = format!("http://{}", api.address);
    let remote = async |arguments: &[&str]| kubo.run(&[&["pin", "remote"], arguments].concat()).await;

    remote(&["service", "add", "ours", &endpoint, token.trim()]).await?;
    let listed = remote(&["service", "ls", "--enc=json"]).await?;
    assert!(listed.contains(&endpoint), "{listed}");
    let counts = remote(&["service", "ls", "--stat"]).await?;
    assert!(counts.contains("0/0/0/0"), "{counts}");

    // Content that only this Kubo has: it names itself as an origin, and connects to the delegates.
    let content = fresh_bytes(700_000);
    let cid = kubo.add(&content).await?;
    let name = "my site";
    let printed = remote(&["add", "--service=ours", &format!("--name={name}"), &cid.to_string()]).await?;
    assert!(printed.contains("pinned") && printed.contains(name), "{printed}");
    let sent = api.list(ALL).await?.1.pop().context("one pin")?;
    assert!(
        sent["pin"]["origins"]
            .as_array()
            .is_some_and(|origins| !origins.is_empty()),
        "{sent}"
    );
    ensure!(cluster.client(0).cat(format!("/ipfs/{cid}")).await? == content);
    // Without waiting, by path, and a second pin of the same CID.
    let second = kubo.add(&fresh_bytes(10)).await?;
    let printed = remote(&[
        "add",
        "--service=ours",
        "--name=two",
        "--background",
        &format!("/ipfs/{second}"),
    ])
    .await?;
    assert!(printed.contains(&second.to_string()), "{printed}");
    remote(&["add", "--service=ours", "--name=again", &cid.to_string()]).await?;
    let all = "--status=queued,pinning,pinned,failed";
    cluster
        .wait_until("all are pinned", LIMIT, async || {
            let printed = remote(&["ls", "--service=ours"]).await?;
            ensure!(rows(&printed).len() == 3, "{printed}");
            Ok(())
        })
        .await?;
    let printed = remote(&["ls", "--service=ours", all]).await?;
    let names: Vec<&str> = rows(&printed).iter().map(|row| row[2]).collect();
    assert_eq!(names, ["again", "two", name], "the newest first");
    for (flags, expected) in [
        (vec![format!("--name={name}")], 1),
        (vec!["--name=my".to_owned()], 0),
        (vec![format!("--cid={cid}")], 2),
        (vec![format!("--cid={cid},{second}")], 3),
        (vec![format!("--cid={cid}"), format!("--name={name}")], 1),
        (vec!["--status=failed".to_owned()], 0),
        (vec!["--status=failed,pinned".to_owned()], 3),
    ] {
        let mut arguments = vec!["ls", "--service=ours"];
        arguments.extend(flags.iter().map(String::as_str));
        let printed = remote(&arguments).await?;
        assert_eq!(rows(&printed).len(), expected, "{flags:?}: {printed}");
    }
    let counts = remote(&["service", "ls", "--stat"]).await?;
    assert!(counts.contains("0/0/3/0"), "{counts}");

    // More than one of its pages, of ten.
    for number in 0..23 {
        let cid = kubo.add(format!("page {number}").as_bytes()).await?;
        remote(&["add", "--service=ours", "--background", "--name=page", &cid.to_string()]).await?;
    }
    let printed = remote(&["ls", "--service=ours", "--name=page", all, "--enc=json"]).await?;
    let found: Vec<Value> = printed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let distinct: std::collections::BTreeSet<&str> = found.iter().map(|row| text(row, "Cid")).collect();
    assert_eq!((found.len(), distinct.len()), (23, 23));

    remote(&["rm", "--service=ours", "--name=two"]).await?;
    // More than one matches: only with force.
    let refused = remote(&["rm", "--service=ours", all, "--name=page"]).await;
    assert!(refused.is_err(), "{refused:?}");
    remote(&["rm", "--service=ours", all, "--name=page", "--force"]).await?;
    remote(&["rm", "--service=ours", &format!("--cid={cid}"), "--force"]).await?;
    assert_eq!(remote(&["ls", "--service=ours", all]).await?, "");
    assert_eq!(api.list(ALL).await?.0, 0);
    remote(&["service", "rm", "ours"]).await?;
    assert!(!remote(&["service", "ls"]).await?.contains("ours"));
    // A token that is wrong is told as such.
    remote(&["service", "add", "wrong", &endpoint, "pft_nonsense"]).await?;
    let refused = remote(&["ls", "--service=wrong"])
        .await
        .expect_err("no right")
        .to_string();
    assert!(refused.contains("invalid token"), "{refused}");
    tokio::time::timeout(Duration::from_secs(60), kubo.stop()).await??;
    cluster.stop().await
}
