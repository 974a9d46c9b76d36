//! `pin`, `status` and `recover`.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use cluster_proto::v1;
use cluster_tests::content::{cid_of, fresh_bytes, fresh_cid};
use cluster_tests::node::Node;
use cluster_tests::reference_ctl::ReferenceCtl;
use node_core::Cid;
use serde_json::{Value, json};

use super::super::{FETCH_LIMIT, Fleet, cid};
use super::has;

/// Waits until a command shows some words.
async fn shows(fleet: &Fleet, ctl: &ReferenceCtl, arguments: &[&str], words: &str) -> anyhow::Result<String> {
    let what = format!("`{}` shows {words}", arguments.join(" "));
    let waited = fleet.cluster.wait_until(&what, FETCH_LIMIT, async || {
        let told = ctl.run(arguments).await?;
        has(&told, words)?;
        Ok(told)
    });
    waited.await
}

/// In and out, by CID and by path.
pub async fn one(fleet: &Fleet, ctl: &ReferenceCtl) -> anyhow::Result<()> {
    let held = fleet.hold(&fresh_bytes(1_000)).await?;
    let key = held.to_string();
    let told = ctl.run(&["pin", "add", "--name", "holiday", &key]).await?;
    ensure!(told.starts_with(&format!("{key} | holiday:\n    > node-")), "{told}");
    for node in ["node-1", "node-2"] {
        shows(
            fleet,
            ctl,
            &["status", &key],
            &format!("{node}               : PINNED | 20"),
        )
        .await?;
    }
    let line = ctl.run(&["pin", "ls", &key]).await?;
    for words in [
        &format!("{key} | holiday | PIN | Repl. Factor: 1--2 | Allocations: [")[..],
        "| Recursive | Metadata: no | Exp: ∞ | Added: 20",
        &fleet.cluster.peer(0).id(),
        &fleet.cluster.peer(1).id(),
    ] {
        has(&line, words)?;
    }
    let pin = ctl.one(&["pin", "ls", &key]).await?;
    let known = fleet.pin(&held).await?;
    ensure!(
        pin["name"] == "holiday" && known.name == "holiday" && pin["cid"] == *key,
        "{pin}"
    );
    let status = ctl.one(&["status", &key]).await?;
    for index in 0..2 {
        let shown = &status["peer_map"][fleet.cluster.peer(index).id()];
        ensure!(
            shown["status"] == "pinned" && shown["peername"] == format!("node-{}", index + 1),
            "{status}"
        );
    }
    let own = ctl.one(&["status", "--local", &key]).await?;
    ensure!(
        own["peer_map"].as_object().map(serde_json::Map::len) == Some(1),
        "{own}"
    );
    has(&ctl.run(&["recover", &key]).await?, "PINNED")?;
    let own = ctl.one(&["recover", "--local", &key]).await?;
    ensure!(
        own["peer_map"].as_object().map(serde_json::Map::len) == Some(1),
        "{own}"
    );

    // It waits a second by itself, and shows the status then.
    let removed = ctl.run(&["pin", "rm", &key]).await?;
    ensure!(removed.starts_with(&key), "{removed}");
    fleet.has_no_pin(&held).await?;
    ctl.fails(2, &["pin", "ls", &key]).await?;
    shows(fleet, ctl, &["status", &key], ": UNPINNED |").await?;

    // By a path, which leads to what lies below it.
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("dir"))?;
    std::fs::write(folder.path().join("dir/file name"), b"at the end of a path")?;
    let source = folder.path().join("dir");
    let added = ctl
        .run(&["add", "-r", "-Q", "--raw-leaves", source.to_str().context("a path")?])
        .await?;
    let path = format!("/ipfs/{}/file name", added.trim());
    let leaf = cid_of(0x55, b"at the end of a path");
    let told = ctl.run(&["pin", "add", "--wait", &path]).await?;
    ensure!(told.starts_with(&leaf.to_string()) && told.contains("PINNED"), "{told}");
    let removed = ctl.run(&["pin", "rm", &path]).await?;
    ensure!(removed.starts_with(&leaf.to_string()), "{removed}");
    fleet.has_no_pin(&leaf).await?;
    let told = ctl.fails(2, &["pin", "add", "/ipns/docs.ipfs.tech"]).await?;
    has(&told, "Code: 400")?;
    Ok(())
}

/// Under a new CID: name and expiry may change, all else stays, and so does the old pin.
pub async fn update(fleet: &Fleet, ctl: &ReferenceCtl) -> anyhow::Result<()> {
    let held = fleet.hold(&fresh_bytes(1_000)).await?;
    let key = held.to_string();
    let options = ["--name", "first", "--metadata", "kind=text", "-r", "1"];
    let (old, new) = (
        fleet.hold(&fresh_bytes(1_000)).await?,
        fleet.hold(&fresh_bytes(1_000)).await?,
    );
    ctl.run(&[&["pin", "add", "--no-status"][..], &options, &[&old.to_string()]].concat())
        .await?;
    let told = ctl
        .run(&[
            "pin",
            "update",
            "--no-status",
            "--name",
            "second",
            "--expire-in",
            "24h",
            &old.to_string(),
            &new.to_string(),
        ])
        .await?;
    has(&told, &format!("{new} | second | PIN | Repl. Factor: 1--1"))?;
    let pin = ctl.one(&["pin", "ls", &new.to_string()]).await?;
    ensure!(
        pin["pin_update"] == old.to_string() && pin["metadata"]["kind"] == "text",
        "{pin}"
    );
    ensure!(fleet.pin(&new).await?.expire_at.is_some() && fleet.pin(&old).await?.expire_at.is_none());
    let told = ctl
        .run(&["pin", "update", "--wait", &new.to_string(), &held.to_string()])
        .await?;
    has(&told, "PINNED")?;
    let missing = fresh_cid().to_string();
    let told = ctl.fails(2, &["pin", "update", &missing, &key]).await?;
    has(&told, "Code: 404")
}

/// Everything that a pin can be told.
pub async fn options(fleet: &Fleet, ctl: &ReferenceCtl) -> anyhow::Result<()> {
    let held = fleet.hold(&fresh_bytes(1_000)).await?;
    let (key, second) = (held.to_string(), fleet.cluster.peer(1).id());
    let pin = ctl
        .one(&[
            "pin",
            "add",
            "--no-status",
            "--allocations",
            &second,
            "-r",
            "1",
            "--name",
            "all of them",
            "--mode",
            "recursive",
            "--expire-in",
            "2h30m",
            "--metadata",
            "kind=text",
            "--metadata",
            "team=a b&c=d",
            &key,
        ])
        .await?;
    ensure!(
        pin["allocations"] == json!([second]) && pin["user_allocations"] == json!([second]),
        "{pin}"
    );
    let known = fleet.pin(&held).await?;
    ensure!(
        known.name == "all of them" && known.nodes == ["node-2"] && known.replication_max == 1,
        "{known:?}"
    );
    ensure!(
        known.metadata.get("team").is_some_and(|team| team == "a b&c=d") && known.metadata.len() == 2,
        "{known:?}"
    );
    ensure!(known.expire_at.is_some(), "{known:?}");
    let line = ctl.run(&["pin", "ls", &key]).await?;
    has(&line, "Metadata: yes")?;
    ensure!(!line.contains("Exp: ∞"), "{line}");
    fleet.pinned_on(&held, 1).await?;
    has(&ctl.run(&["status", &key]).await?, "REMOTE")?;

    // Again with other factors: the same pin, changed.
    let pin = ctl
        .one(&["pin", "add", "--no-status", "--rmin", "2", "--rmax", "2", &key])
        .await?;
    ensure!(
        pin["replication_factor_min"] == 2 && pin["allocations"].as_array().map(Vec::len) == Some(2),
        "{pin}"
    );
    let pin = ctl.one(&["pin", "add", "--no-status", "-r", "-1", &key]).await?;
    ensure!(pin["allocations"] == json!([]), "everywhere: {pin}");
    has(
        &ctl.run(&["pin", "ls", &key]).await?,
        "Repl. Factor: -1 | Allocations: [everywhere]",
    )?;
    fleet.pinned_on(&held, 2).await?;
    Ok(())
}

/// The one block; where Kubo holds it, it holds it so. Then all below, and not back. And what can't be.
pub async fn modes(fleet: &Fleet, ctl: &ReferenceCtl) -> anyhow::Result<()> {
    let direct = fleet.hold(&fresh_bytes(1_000)).await?;
    let key = direct.to_string();
    has(
        &ctl.run(&["pin", "add", "--wait", "--mode", "direct", &key]).await?,
        "PINNED",
    )?;
    has(&ctl.run(&["pin", "ls", &key]).await?, "| PIN-DIRECT |")?;
    let pin = ctl.one(&["pin", "ls", &key]).await?;
    ensure!(pin["mode"] == "direct" && pin["max_depth"] == 0, "{pin}");
    ensure!(fleet.pin(&direct).await?.mode() == v1::PinMode::Direct);
    let kinds = async |kind: &str| {
        for (_, node) in fleet.cluster.nodes() {
            if let Node::Kubo(daemon) = node {
                let found = daemon.pin_kind(&direct).await?;
                ensure!(found.as_deref() == Some(kind), "{found:?}");
            }
        }
        Ok(())
    };
    kinds("direct").await?;
    ctl.run(&["pin", "add", "--wait", &key]).await?;
    fleet
        .cluster
        .wait_until("it is whole", FETCH_LIMIT, async || kinds("recursive").await)
        .await?;
    let told = ctl.fails(2, &["pin", "add", "--mode", "direct", &key]).await?;
    has(&told, "Code: 409")?;

    // What can't be.
    let key = fresh_cid().to_string();
    let told = ctl.fails(2, &["pin", "add", "-r", "3", &key]).await?;
    has(&told, "Code: 409")?;
    let told = ctl
        .fails(2, &["pin", "add", "--rmin", "2", "--rmax", "1", &key])
        .await?;
    has(&told, "Code: 400")?;
    ctl.fails(1, &["pin", "add", "--allocations", "nobody", &key]).await?;
    ctl.fails(1, &["pin", "add", "--expire-in", "soon", &key]).await?;
    let told = ctl.fails(2, &["pin", "add", "--expire-in", "1ms", &key]).await?;
    has(&told, "expire_at")?;
    fleet.has_no_pin(&key.parse::<Cid>()?).await
}

fn keys(values: &[Value]) -> Vec<&str> {
    values.iter().filter_map(|value| value["cid"].as_str()).collect()
}

/// `pin ls` and `status` of many, and their filters.
pub async fn lists(fleet: &Fleet, ctl: &ReferenceCtl) -> anyhow::Result<()> {
    let all = fleet.client().list_all().await?;
    ensure!(all.len() > 5, "the parts before left some");
    let listed = ctl.json(&["pin", "ls"]).await?;
    ensure!(listed.len() == all.len() && ctl.run(&["pin", "ls"]).await?.lines().count() == all.len());
    for pin in &all {
        ensure!(keys(&listed).contains(&pin.cid.as_str()), "{} is missing", pin.cid);
    }
    for filter in ["all", "pin", "pin,meta-pin", "clusterdag-pin,pin"] {
        ensure!(
            ctl.json(&["pin", "ls", "--filter", filter]).await?.len() == all.len(),
            "{filter}"
        );
    }
    for filter in ["meta-pin", "shard-pin", "clusterdag-pin"] {
        ensure!(
            ctl.run(&["pin", "ls", "--filter", filter]).await?.is_empty(),
            "{filter}"
        );
    }

    let waited = fleet.cluster.wait_until("all are pinned", FETCH_LIMIT, async || {
        let pinned = ctl.json(&["status", "--filter", "pinned"]).await?;
        ensure!(pinned.len() == all.len(), "{} of {} are", pinned.len(), all.len());
        Ok(())
    });
    waited.await?;
    ensure!(ctl.json(&["status"]).await?.len() == all.len());
    for filter in ["error", "pin_error", "queued", "unpinning", "cluster_error,pin_error"] {
        ensure!(ctl.run(&["status", "--filter", filter]).await?.is_empty(), "{filter}");
    }
    let own = ctl.json(&["status", "--local", "--filter", "pinned,remote"]).await?;
    ensure!(own.len() == all.len(), "{} of {}", own.len(), all.len());
    for status in &own {
        ensure!(
            status["peer_map"].as_object().map(serde_json::Map::len) == Some(1),
            "{status}"
        );
    }
    // Several by name, in one request.
    let unknown = fresh_cid().to_string();
    let some = ctl.json(&["status", &all[0].cid, &unknown, &all[1].cid]).await?;
    ensure!(keys(&some) == [&all[0].cid, &unknown, &all[1].cid], "{some:?}");
    has(&ctl.run(&["status", &all[0].cid, &unknown]).await?, "UNPINNED")?;
    ensure!(ctl.run(&["recover"]).await?.is_empty(), "there is nothing to recover");
    ensure!(ctl.json(&["recover", "--local"]).await?.is_empty());
    Ok(())
}

/// `--wait` and what bounds it.
pub async fn waiting(fleet: &Fleet, ctl: &ReferenceCtl) -> anyhow::Result<()> {
    let held = fleet.hold(&fresh_bytes(1_000)).await?;
    let key = held.to_string();
    let told = ctl
        .run(&["pin", "add", "--wait", "--wait-timeout", "60s", &key])
        .await?;
    has(&told, ": PINNED |")?;
    let told = ctl
        .run(&["pin", "add", "--wait", "--wait-limit", "1", "--no-status", &key])
        .await?;
    has(&told, &format!("{key} |  | PIN |"))?;
    let told = ctl.run(&["pin", "rm", "--wait", &key]).await?;
    has(&told, ": UNPINNED |")?;
    fleet.has_no_pin(&held).await?;
    let object = ctl.json(&["pin", "add", "--wait", &key]).await?;
    let status = object.last().context("a status")?;
    ensure!(cid(status, "cid")? == held, "{status}");
    ctl.run(&["pin", "rm", "--wait", "--no-status", "--wait-timeout", "60s", &key])
        .await?;

    // What nobody has is not pinned in time, and the exit code says so.
    let nowhere = fresh_cid().to_string();
    let begun = Instant::now();
    ctl.fails(62, &["pin", "add", "--wait", "--wait-timeout", "3s", &nowhere])
        .await?;
    ensure!(begun.elapsed().as_secs() >= 2);
    let told = ctl.run(&["status", &nowhere]).await?;
    ensure!(
        ["PINNING", "PIN_QUEUED", "PIN_ERROR"]
            .iter()
            .any(|word| told.contains(word)),
        "{told}"
    );
    ctl.run(&["pin", "rm", "--wait", &nowhere]).await?;
    // A limit for each request, which none needs.
    ctl.run(&["--timeout", "20", "status", &nowhere]).await.map(drop)
}
