//! `cluster-ctl` against real peers: what a person types, and a long list whose cluster and whose own process die.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::binaries::binary;
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::cid;
use cluster_tests::ctl::Ctl;
use tokio::process::{Child, Command};

/// The addresses of all peers.
fn addresses(cluster: &Cluster) -> String {
    let all: Vec<_> = cluster.peers().iter().map(|peer| peer.info().grpc).collect();
    all.join(",")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_a_day() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let ctl = Ctl::new(addresses(&cluster))?;
    let (first, second) = (cid(1).to_string(), cid(2).to_string());

    let added = ctl
        .json(&["pin", "add", &first, "--name", "photos", "--replicas", "2", "--wait"])
        .await?;
    ensure!(!added.is_empty(), "an object comes out");
    let again = ctl
        .try_run(&["pin", "add", &first, "--name", "photos", "--replicas", "2"])
        .await?;
    assert_eq!(again.code, 0, "{again:?}");
    let listed = ctl.json(&["pin", "ls", "--name", "pho"]).await?;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["cid"], first.as_str());
    let status = ctl.run(&["pin", "status", &first]).await?;
    assert_eq!(status.matches("pinned").count(), 2, "{status}");
    let explained = ctl.run(&["pin", "explain", &first]).await?;
    for node in ["node-1", "node-2", "node-3"] {
        ensure!(explained.contains(node), "{explained}");
    }
    ctl.run(&["pin", "update", &first, &second, "--unpin", "--wait"])
        .await?;
    let missing = ctl.try_run(&["pin", "rm", &first]).await?;
    assert_eq!(missing.code, 3, "{missing:?}");
    ensure!(missing.stderr.contains("is not pinned"), "{missing:?}");
    ctl.run(&["pin", "rm", &second]).await?;
    let bad = ctl.try_run(&["pin", "add", "nonsense"]).await?;
    assert_eq!(bad.code, 2, "{bad:?}");

    // The list that the help itself shows.
    let queued = ctl
        .try_run(&[
            "pin", "status", "--node", "node-2", "--filter", "queued", "--limit", "20",
        ])
        .await?;
    assert_eq!(queued.code, 0, "{queued:?}");

    for (arguments, expected) in [
        (&["status"][..], "node-3"),
        (&["peer", "ls"], "peer-2"),
        (&["node", "ls"], "node-1"),
        (&["pin", "recover", "--all"], ""),
        (&["completion", "bash"], "cluster-ctl"),
        (&["completion", "zsh"], "#compdef cluster-ctl"),
        (&["completion", "fish"], "complete"),
    ] {
        let output = ctl.try_run(arguments).await?;
        ensure!(
            output.code == 0 && output.stdout.contains(expected),
            "{arguments:?}: {output:?}"
        );
    }
    let cordoned = ctl.try_run(&["node", "cordon", "node-1"]).await?;
    assert_eq!(cordoned.code, 0, "{cordoned:?}");
    let nobody = Ctl::new("127.0.0.1:1")?.try_run(&["--timeout", "2s", "status"]).await?;
    ensure!(nobody.code != 0 && nobody.stderr.contains("127.0.0.1:1"), "{nobody:?}");
    Ok(())
}

/// A list cut by its limit goes on at the cursor that is shown, through another peer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_goes_on_at_the_cursor_shown() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    crate::bulk(&cluster.client(0), 0..50, 2).await?;
    cluster.caught_up().await?;
    for command in ["ls", "status"] {
        let mut cursor = String::new();
        let mut seen = std::collections::BTreeSet::new();
        for round in 0..10 {
            let ctl = Ctl::new(cluster.peer(round % 3).info().grpc)?;
            let mut arguments = vec!["--output", "json", "pin", command, "--limit", "20"];
            if command == "status" {
                arguments.extend(["--node", "node-1"]);
            } else {
                arguments.extend(["--node", "node-2"]);
            }
            if !cursor.is_empty() {
                arguments.extend(["--cursor", &cursor]);
            }
            let output = ctl.try_run(&arguments).await?;
            ensure!(output.code == 0, "{output:?}");
            for line in output.stdout.lines() {
                let object: serde_json::Value = serde_json::from_str(line)?;
                let cid = object["cid"].as_str().context("a CID")?.to_owned();
                ensure!(seen.insert(cid), "{line} came twice");
            }
            let Some((_, rest)) = output.stderr.split_once("--cursor ") else {
                break;
            };
            rest.split_whitespace()
                .next()
                .context("a cursor")?
                .clone_into(&mut cursor);
        }
        let filter = v1::PinFilter {
            node: if command == "status" { "node-1" } else { "node-2" }.into(),
            ..v1::PinFilter::default()
        };
        let request = v1::ListRequest {
            filter: Some(filter),
            ..v1::ListRequest::default()
        };
        let whole = cluster.client(0).list(request).await?;
        assert_eq!(seen.len(), whole.len(), "pin {command}");
    }
    Ok(())
}

fn import(cluster: &Cluster, list: &Path, journal: &Path) -> anyhow::Result<Child> {
    let child = Command::new(binary("cluster-ctl")?)
        .args(["--api", &addresses(cluster), "pin", "import"])
        .arg(list)
        .arg("--journal")
        .arg(journal)
        .args(["--replicas", "2"])
        .env_remove("PINFLEET_API")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_outlives_the_leader_and_itself() -> anyhow::Result<()> {
    const LINES: u64 = 20_000;
    // The queue may stand still: it is the import that is looked at.
    let options = ClusterOptions::default().with("worker.pins_per_second", 1.0);
    let cluster = Cluster::start(options).await?;
    let folder = tempfile::tempdir()?;
    let (list, journal) = (folder.path().join("cids.txt"), folder.path().join("journal"));
    let mut text = String::new();
    for number in 0..LINES {
        writeln!(text, "{}", cid(number))?;
    }
    std::fs::write(&list, text)?;

    let mut running = import(&cluster, &list, &journal)?;
    let recorded = async |peer: usize, at_least: u64| {
        let client = cluster.client(peer);
        cluster
            .wait_until("the import gets on", LIMIT, async || {
                let pins = client.cluster_status().await?.pins;
                ensure!(pins >= at_least, "{pins} of {at_least}");
                Ok(pins)
            })
            .await
    };
    let leader = cluster.leader().await?;
    let other = (leader + 1) % 3;
    recorded(other, 2_000).await?;
    cluster.peer(leader).kill9()?;
    let before = cluster.client(other).cluster_status().await?.pins;
    recorded(other, (before + 2_000).min(LINES)).await?;
    // The same command goes on where the killed one was.
    running.start_kill()?;
    running.wait().await?;
    cluster.peer(leader).start().await?;
    let output = import(&cluster, &list, &journal)?.wait_with_output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    ensure!(said.contains("going on behind line"), "it began anew: {said}");
    cluster.caught_up().await?;
    for at in 0..3 {
        assert_eq!(cluster.client(at).cluster_status().await?.pins, LINES, "on peer {at}");
    }
    // And once more finds nothing to do, or changes nothing.
    let output = import(&cluster, &list, &journal)?.wait_with_output().await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(cluster.client(0).cluster_status().await?.pins, LINES);
    Ok(())
}
