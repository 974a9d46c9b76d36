//! Members, health, garbage, and what the command does by itself.

use anyhow::{Context as _, ensure};
use cluster_tests::cluster::LIMIT;
use cluster_tests::ports::free_address;
use cluster_tests::reference_ctl::ReferenceCtl;
use serde_json::json;

use super::super::{Fleet, text};
use super::has;

/// What holds of a pinset without pins, and of arguments that are none.
pub async fn empty(ctl: &ReferenceCtl) -> anyhow::Result<()> {
    for arguments in [
        &["status"][..],
        &["pin", "ls"],
        &["recover"],
        &["recover", "--local"],
        &["health", "alerts"],
    ] {
        ensure!(ctl.run(arguments).await?.is_empty(), "{arguments:?}");
    }
    ensure!(ctl.json(&["status"]).await?.is_empty());
    ensure!(ctl.json(&["pin", "ls"]).await?.is_empty());
    ensure!(ctl.one(&["health", "alerts"]).await? == json!([]));
    for arguments in [
        &["status", "notacid"][..],
        &["recover", "notacid"],
        &["pin", "ls", "notacid"],
        &["pin", "rm", ""],
        &["pin", "add", "/nothing/known"],
        &["pin", "update", "notacid", "notacid"],
        &["peers", "rm"],
        &["peers", "rm", "nobody"],
        &["status", "--filter", "nonsense"],
        &["add", "/no/such/file"],
        &["--enc", "xml", "id"],
    ] {
        let told = ctl.fails(1, arguments).await?;
        ensure!(!told.is_empty(), "{arguments:?}");
    }
    // What only the server can tell.
    let unpinned = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    let told = ctl.fails(2, &["pin", "ls", unpinned]).await?;
    has(&told, "Code: 404")?;
    has(&told, "pin is not part of the pinset")?;
    let told = ctl.fails(2, &["--enc=json", "pin", "rm", unpinned]).await?;
    let error: serde_json::Value = serde_json::from_str(&told)?;
    ensure!(
        error == json!({ "code": 404, "message": "pin is not part of the pinset" }),
        "{error}"
    );
    ensure!(
        ctl.try_run(&["peers", "add"]).await?.code != 0,
        "there is no such command"
    );
    has(&ctl.run(&["status", unpinned]).await?, "UNPINNED")
}

/// `id`, `peers ls`, `version`.
pub async fn members(fleet: &Fleet, ctl: &ReferenceCtl) -> anyhow::Result<()> {
    let version = ctl.run(&["version"]).await?;
    ensure!(version.trim().starts_with("1.1.6"), "{version}");
    ensure!(text(&ctl.one(&["version"]).await?, "version")? == version.trim());

    let status = fleet.client().cluster_status().await?;
    let own = ctl.one(&["id"]).await?;
    ensure!(
        own["id"] == fleet.cluster.peer(0).id() && own["cluster_peers"].as_array().map(Vec::len) == Some(2),
        "{own}"
    );
    let shown = ctl.run(&["id"]).await?;
    has(
        &shown,
        &format!("{} | node-1 | Sees 1 other peers", fleet.cluster.peer(0).id()),
    )?;
    let list = ctl.run(&["peers", "ls"]).await?;
    let objects = ctl.json(&["peers", "ls"]).await?;
    ensure!(objects.len() == 2, "{objects:?}");
    for (index, node) in status.nodes.iter().enumerate() {
        let report = node.report.as_ref().context("a report")?;
        let name = format!("node-{}", index + 1);
        let peer = objects.iter().find(|peer| peer["peername"] == *name);
        let peer = peer.with_context(|| format!("{name} is missing"))?;
        ensure!(
            peer["id"] == fleet.cluster.peer(index).id() && peer["ipfs"]["id"] == *report.ipfs_peer_id,
            "{peer}"
        );
        has(
            &list,
            &format!("{} | {name} | Sees 1 other peers", fleet.cluster.peer(index).id()),
        )?;
        has(&list, &format!("  > IPFS: {}", report.ipfs_peer_id))?;
        let port = fleet.cluster.peer(index).info().peer;
        let port = port.rsplit(':').next().context("a port")?;
        has(&list, &format!("/tcp/{port}/p2p/{}", fleet.cluster.peer(index).id()))?;
    }
    ensure!(list.contains("  > Addresses:\n    - /ip4/"), "{list}");
    Ok(())
}

/// `health graph`, `metrics`, `alerts`, `bandwidth`.
pub async fn health(fleet: &Fleet, ctl: &ReferenceCtl) -> anyhow::Result<()> {
    // Each peer sees the other, and the node that it drives.
    let graph = ctl.run(&["health", "graph"]).await?;
    for words in ["digraph cluster", "node-1", "node-2"] {
        has(&graph, words)?;
    }
    let edges: Vec<(&str, &str)> = graph
        .lines()
        .filter_map(|line| line.trim().split_once(" -> "))
        .collect();
    for kinds in [["C", "T"], ["T", "C"], ["C", "I"], ["T", "I"]] {
        let is_there = |(from, to): &(&str, &str)| from.starts_with(kinds[0]) && to.starts_with(kinds[1]);
        ensure!(
            edges.iter().filter(|edge| is_there(edge)).count() == 1,
            "{kinds:?}: {graph}"
        );
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("graph.dot");
    let path = file.to_str().context("a path")?;
    ctl.run(&["health", "graph", "--file", path, "--all-ipfs-peers"])
        .await?;
    has(&std::fs::read_to_string(&file)?, "digraph cluster")?;

    let names = ctl.run(&["health", "metrics"]).await?;
    for name in ["ping", "freespace", "numpin", "pinqueue"] {
        ensure!(names.lines().any(|line| line == name), "{names}");
        let lines = ctl.run(&["health", "metrics", name]).await?;
        let metrics = ctl.one(&["health", "metrics", name]).await?;
        for index in 0..2 {
            let id = fleet.cluster.peer(index).id();
            has(&lines, &format!("{id} | {name}"))?;
            let metrics = metrics.as_array().context("a list")?;
            ensure!(
                metrics
                    .iter()
                    .any(|metric| metric["peer"] == *id && metric["name"] == *name),
                "{metrics:?}"
            );
        }
    }
    // As people read it, and still good for a while.
    for line in ctl.run(&["health", "metrics", "freespace"]).await?.lines() {
        let (_, told) = line
            .split_once(" | freespace: ")
            .with_context(|| format!("no metric: {line}"))?;
        let (size, expires) = told
            .split_once(" | Expires in: ")
            .with_context(|| format!("no metric: {line}"))?;
        let (number, unit) = size.split_once(' ').with_context(|| format!("no size: {size}"))?;
        ensure!(
            number.parse::<f64>().is_ok() && ["KB", "kB", "MB", "GB", "TB"].contains(&unit),
            "{line}"
        );
        ensure!(expires.ends_with(" from now"), "{line}");
    }
    let listed = ctl.one(&["health", "metrics"]).await?;
    ensure!(
        listed.as_array().is_some_and(|names| names.contains(&json!("ping"))),
        "{listed}"
    );
    ctl.run(&["health", "metrics", "nonsense"]).await?;

    let bandwidth = ctl.run(&["health", "bandwidth"]).await?;
    let object = ctl.one(&["health", "bandwidth"]).await?;
    for protocol in object.as_object().context("an object")?.keys() {
        has(&bandwidth, &format!("{protocol}: In: "))?;
    }
    Ok(())
}

/// What asks nobody.
pub async fn local(ctl: &ReferenceCtl) -> anyhow::Result<()> {
    has(&ctl.run(&["--version"]).await?, "1.1.6")?;
    let commands = ctl.run(&["commands"]).await?;
    for command in [
        "id",
        "peers ls",
        "pin add",
        "status",
        "recover",
        "version",
        "health graph",
        "ipfs gc",
    ] {
        has(&commands, command)?;
    }
    for arguments in [&["--help"][..], &["help"], &["pin", "--help"], &["help", "add"]] {
        has(&ctl.run(arguments).await?.to_lowercase(), "usage")?;
    }
    Ok(())
}

/// `ipfs gc`. Kubo daemons collect by themselves, which is said at each.
pub async fn collect(fleet: &Fleet, ctl: &ReferenceCtl) -> anyhow::Result<()> {
    let told = ctl.run(&["ipfs", "gc"]).await?;
    has(&told, "node-1")?;
    has(&told, "node-2")?;
    let all = ctl.one(&["ipfs", "gc"]).await?;
    ensure!(
        all["peer_map"].as_object().map(serde_json::Map::len) == Some(2),
        "{all}"
    );
    let own = ctl.one(&["ipfs", "gc", "--local"]).await?;
    let own = own["peer_map"].as_object().context("an object")?;
    ensure!(
        own.len() == 1 && own.contains_key(&fleet.cluster.peer(0).id()),
        "{own:?}"
    );
    Ok(())
}

/// A host that does not answer is passed over; errors that were answered are not.
pub async fn fail_over(fleet: &Fleet) -> anyhow::Result<()> {
    let nobody = free_address()?.to_string();
    let both = ReferenceCtl::new(&[&nobody, &fleet.rest(1)]).await?;
    has(&both.run(&["id"]).await?, &fleet.cluster.peer(1).id())?;
    ensure!(both.json(&["peers", "ls"]).await?.len() == 2);
    both.fails(
        2,
        &[
            "pin",
            "rm",
            "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e",
        ],
    )
    .await?;
    let alone = ReferenceCtl::new(&[&nobody]).await?;
    alone.fails(1, &["id"]).await?;
    // Connection refused, of a stream too, and a plain server that is asked over TLS.
    alone.fails(1, &["peers", "ls"]).await?;
    let secure = ReferenceCtl::new(&[&fleet.rest(0)]).await?.with(&["--https"]);
    secure.fails(1, &["id"]).await.map(drop)
}

/// `peers rm`, of the peer that does not lead.
pub async fn removal(fleet: &Fleet) -> anyhow::Result<()> {
    let leader = fleet.cluster.leader().await?;
    let (id, stays) = (fleet.cluster.peer(1 - leader).id(), fleet.cluster.peer(leader).id());
    let asks = ReferenceCtl::new(&[&fleet.rest(leader)]).await?;
    let told = asks
        .fails(
            2,
            &["peers", "rm", "12D3KooWSmEVZm81CvvWEbnUgnJ6CYLvtnXyTsCqyHXi7K5aG7zY"],
        )
        .await?;
    has(&told, "Code: 404")?;
    ensure!(
        asks.run(&["peers", "rm", &id]).await?.is_empty(),
        "nothing is told when it is done"
    );
    let gone = fleet.cluster.wait_until("it is gone", LIMIT, async || {
        let peers = asks.json(&["peers", "ls"]).await?;
        ensure!(peers.len() == 1 && peers[0]["id"] == *stays, "{peers:?}");
        Ok(())
    });
    gone.await
}
