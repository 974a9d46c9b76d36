//! Lists: what they hold, in which states, in pages.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::ensure;
use cluster_proto::v1;
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::{cid, fresh_cid};
use cluster_tests::ctl::Ctl;
use cluster_tests::fake_kubo::{Call, Fault, Rule};
use cluster_tests::raw_http::request_with;
use serde_json::Value;

use super::{Api, statuses};

/// The CIDs of the lines of a list, in their order.
fn cids(lines: &[Value]) -> Vec<String> {
    lines
        .iter()
        .filter_map(|line| line["cid"].as_str().map(str::to_owned))
        .collect()
}

fn set(cids: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    cids.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_hold_what_was_pinned_and_filters_narrow_them() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(2)).await?;
    let (api, other) = (Api::of(&cluster, 0), Api::of(&cluster, 1));

    // An empty list: 200 without a body, which all clients take.
    for target in ["/allocations", "/pins", "/pins?local=true", "/pins?filter=queued"] {
        let answer = api.get(target).await?;
        assert!(
            answer.lines()?.is_empty() && answer.status == 200,
            "{target}: {answer:?}"
        );
    }

    let all: BTreeSet<String> = set((0..30).map(|number| cid(number).to_string()));
    for (number, cid) in all.iter().enumerate() {
        let team = if number % 3 == 0 { "web" } else { "data" };
        let replicas = 1 + number % 2;
        let query = format!("name=pin-{number:02}&meta-team={team}&replication={replicas}");
        api.post(&format!("/pins/{cid}?{query}")).await?.json(200)?;
    }
    let odd = format!("{}", fresh_cid());
    other.post(&format!("/pins/{odd}?name=odd")).await?.json(200)?;
    let everything: BTreeSet<String> = all.iter().cloned().chain([odd.clone()]).collect();

    // Through any peer, with all that was acknowledged, each once.
    for api in [&api, &other] {
        for target in [
            "/allocations",
            "/allocations?filter=all",
            "/allocations?filter=pin,meta-pin",
            "/allocations?filter=pin%2Cnonsense",
            "/pins",
            "/pins?local=false&filter=&cids=",
        ] {
            let lines = api.get(target).await?.lines()?;
            assert_eq!(lines.len(), everything.len(), "{target}");
            assert_eq!(set(cids(&lines)), everything, "{target}");
        }
    }
    for (target, words) in [
        ("/allocations?filter=invalid", "invalid filter value"),
        ("/pins?filter=invalid", "invalid filter value"),
        ("/pins?cids=abcd", "error decoding Cid: "),
        ("/pins?local=perhaps", "parameter local invalid"),
        ("/pins?limit=0", "parameter limit invalid"),
        ("/allocations?cursor=zz&limit=5", "cursor"),
    ] {
        let message = api.get(target).await?.error(400)?;
        assert!(message.contains(words), "{target}: {message}");
    }
    assert!(api.get("/allocations?filter=shard-pin").await?.lines()?.is_empty());

    let pinned = cluster.wait_until("all are pinned", LIMIT, async || {
        let lines = api.get("/pins?filter=pinned").await?.lines()?;
        ensure!(lines.len() == everything.len(), "{} are", lines.len());
        Ok(lines)
    });
    for line in pinned.await? {
        assert!(
            statuses(&line)?.iter().all(|status| status == "pinned"),
            "only what passes: {line}"
        );
    }
    for target in [
        "/pins?filter=pin_error",
        "/pins?filter=error",
        "/pins?filter=queued",
        "/pins?filter=sharded",
    ] {
        assert!(api.get(target).await?.lines()?.is_empty(), "{target}");
    }
    assert_eq!(
        api.get("/pins?filter=error,pinned").await?.lines()?.len(),
        everything.len()
    );
    // Only what the peer's own node says.
    for line in api.get("/pins?local=true").await?.lines()? {
        assert_eq!(super::keys(&line["peer_map"]), [cluster.peer(0).id()]);
    }

    // Some CIDs, in the order asked for, also of what is not pinned; the Go tests ask with a slash and follow.
    let asked: Vec<String> = vec![odd.clone(), fresh_cid().to_string(), cid(3).to_string(), odd.clone()];
    let redirected = api.get(&format!("/pins/?cids={}", asked.join(","))).await?;
    assert_eq!(redirected.status, 307);
    let target = redirected.header("location").expect("where to").to_owned();
    assert_eq!(target, format!("/pins?cids={}", asked.join(",")));
    assert_eq!(cids(&api.get(&target).await?.lines()?), asked);
    assert_eq!(cids(&api.get(&format!("{target}&local=true")).await?.lines()?), asked);

    // What narrows beyond the reference.
    let web = api.get("/allocations?meta-team=web").await?.lines()?;
    assert_eq!(web.len(), 10);
    assert!(web.iter().all(|pin| pin["metadata"]["team"] == "web"));
    assert_eq!(api.get("/pins?name=pin-1").await?.lines()?.len(), 10);
    assert_eq!(
        cids(&api.get("/pins?name=odd").await?.lines()?),
        std::slice::from_ref(&odd)
    );
    assert!(
        api.get("/allocations?created-before=2020-01-01T00:00:00Z")
            .await?
            .lines()?
            .is_empty()
    );
    assert_eq!(
        api.get("/allocations?created-after=2020-01-01T00:00:00Z")
            .await?
            .lines()?
            .len(),
        everything.len()
    );
    let id = cluster.peer(0).id();
    for pin in api.get(&format!("/allocations?peer={id}")).await?.lines()? {
        assert!(
            pin["allocations"]
                .as_array()
                .is_some_and(|list| list.contains(&id.clone().into())),
            "{pin}"
        );
    }
    assert_eq!(
        api.get("/allocations?status=pinned").await?.lines()?.len(),
        everything.len()
    );
    assert!(api.get("/allocations?status=pin_error").await?.lines()?.is_empty());

    // Pages lead through everything, whatever narrows them.
    for (target, expected) in [
        ("/allocations?limit=7", everything.len()),
        ("/pins?limit=7", everything.len()),
        ("/pins?limit=4&filter=pinned", everything.len()),
        ("/allocations?limit=3&name=pin-", all.len()),
        ("/pins?limit=3&meta-team=web", 10),
        ("/allocations?limit=1000", everything.len()),
    ] {
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let page = match &cursor {
                None => api.get(target).await?,
                Some(cursor) => other.get(&format!("{target}&cursor={cursor}")).await?,
            };
            seen.extend(cids(&page.lines()?));
            cursor = page.header("x-next-cursor").map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), expected, "{target}");
        assert_eq!(set(seen).len(), expected, "{target}: none comes twice");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_is_found_and_recovered() -> anyhow::Result<()> {
    let options = ClusterOptions::fakes(2)
        .with("worker.backoff_base", "10m")
        .with("worker.backoff_max", "10m");
    let cluster = Cluster::start(options).await?;
    let api = Api::of(&cluster, 0);
    let failing = Rule::new(Fault::NotFound).of_call(Call::PinAdd);
    for index in 0..2 {
        cluster.fake(index).add_rule(failing.clone());
    }
    let (first, second) = (fresh_cid().to_string(), fresh_cid().to_string());
    for cid in [&first, &second] {
        api.post(&format!("/pins/{cid}?replication=-1")).await?.json(200)?;
        let info = api.wait_for(&cluster, cid, "pin_error", 2).await?;
        assert_eq!(info["allocations"].as_array().map(Vec::len), Some(0), "everywhere");
        for short in info["peer_map"].as_object().expect("an object").values() {
            assert!(
                short["attempt_count"].as_u64() >= Some(1) && short["error"] != "",
                "{info}"
            );
        }
    }
    for filter in ["pin_error", "error", "error,pinned"] {
        let lines = api.get(&format!("/pins?filter={filter}")).await?.lines()?;
        assert_eq!(set(cids(&lines)), set([first.clone(), second.clone()]), "{filter}");
    }
    assert!(api.get("/pins?filter=pinned").await?.lines()?.is_empty());

    for index in 0..2 {
        cluster.fake(index).clear_rules();
    }
    let recovered = api.post(&format!("/pins/{first}/recover")).await?.json(200)?;
    assert_eq!(recovered["cid"], *first);
    api.wait_for(&cluster, &first, "pinned", 2).await?;
    // Only this peer's own, and told is only what was tried again.
    let lines = api.post("/pins/recover?local=true").await?.lines()?;
    assert_eq!(cids(&lines), std::slice::from_ref(&second));
    assert_eq!(super::keys(&lines[0]["peer_map"]), [cluster.peer(0).id()]);
    api.wait_for(&cluster, &second, "pinned", 1).await?;
    assert_eq!(
        cids(&api.post("/pins/recover").await?.lines()?),
        std::slice::from_ref(&second)
    );
    api.wait_for(&cluster, &second, "pinned", 2).await?;
    assert!(
        api.post("/pins/recover").await?.lines()?.is_empty(),
        "there is nothing to do"
    );

    let unknown = fresh_cid();
    let info = api.post(&format!("/pins/{unknown}/recover")).await?.json(200)?;
    assert_eq!(statuses(&info)?, ["unpinned", "unpinned"]);
    let message = api
        .post(&format!("/pins/{unknown}/recover?local=true"))
        .await?
        .error(404)?;
    assert_eq!(message, "pin is not part of the pinset");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_is_an_error_where_it_is_needed_and_nowhere_else() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let leader = cluster.leader().await?;
    let silent = (0..3).find(|index| *index != leader).expect("three peers");
    let asked = (0..3)
        .find(|index| *index != leader && *index != silent)
        .expect("three peers");
    let api = Api::of(&cluster, asked);
    let everywhere = fresh_cid().to_string();
    api.post(&format!("/pins/{everywhere}?replication=-1&name=all"))
        .await?
        .json(200)?;
    api.wait_for(&cluster, &everywhere, "pinned", 3).await?;
    cluster.peer(silent).freeze()?;
    let (id, name) = (cluster.peer(silent).id(), "cluster_error");
    let info = api.get(&format!("/pins/{everywhere}")).await?.json(200)?;
    assert_eq!(info["peer_map"][&id]["status"], name, "{info}");
    assert_eq!(info["name"], "all");
    let lines = api.get("/pins").await?.lines()?;
    assert_eq!(lines[0]["peer_map"][&id]["status"], name, "{lines:?}");
    assert_eq!(api.get("/pins?filter=cluster_error").await?.lines()?.len(), 1);
    // The members show it too, as soon as the leader misses it.
    let told = cluster.wait_until("the silent peer is missed", LIMIT, async || {
        let peers = api.get("/peers").await?.lines()?;
        let silent = peers.iter().find(|peer| peer["id"] == *id).cloned();
        ensure!(silent.as_ref().is_some_and(|peer| peer["error"] != ""), "{peers:?}");
        let alerts = api.get("/health/alerts").await?.json(200)?;
        ensure!(
            alerts
                .as_array()
                .is_some_and(|alerts| alerts.iter().any(|alert| alert["peer"] == *id)),
            "{alerts}"
        );
        Ok(silent)
    });
    let told = told.await?.expect("it was found");
    assert_eq!(told["ipfs"]["addresses"].as_array().map(Vec::len), Some(0));
    cluster.peer(silent).thaw()?;
    api.wait_for(&cluster, &everywhere, "pinned", 3).await?;
    Ok(())
}

/// A merge of everything for each few CIDs of others would take minutes here, and days in a large pinset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_a_few_pins_among_many_of_others_come_soon() -> anyhow::Result<()> {
    const OTHERS: u64 = 20_000;
    const SOON: Duration = Duration::from_secs(20);
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let api = Api::of(&cluster, 0);
    let pin = |number: u64| v1::BulkPinItem {
        namespace: "team-a".to_owned(),
        cid: cid(number).to_string(),
        ..v1::BulkPinItem::default()
    };
    cluster.client(0).bulk((0..OTHERS).map(pin).collect(), 1_000).await?;
    let own = [fresh_cid().to_string(), fresh_cid().to_string()];
    for cid in &own {
        api.post(&format!("/pins/{cid}")).await?.json(200)?;
    }
    let printed = Ctl::new(cluster.api())?
        .run(&["token", "create", "reads", "--scope", "read"])
        .await?;
    let reader = format!("Bearer {}", printed.trim());
    // As anybody, who sees what is let go of too, and as somebody who does not.
    for headers in [&[][..], &[("Authorization", reader.as_str())]] {
        let begun = Instant::now();
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let target = format!("/pins?limit=1&cursor={cursor}");
            let page = request_with(&api.0, "GET", &target, headers, b"").await?;
            seen.extend(cids(&page.lines()?));
            match page.header("x-next-cursor") {
                Some(next) => next.clone_into(&mut cursor),
                None => break,
            }
        }
        assert_eq!(seen.len(), 2);
        assert_eq!(set(seen), set(own.clone()));
        assert!(begun.elapsed() < SOON, "{headers:?}: {:?}", begun.elapsed());
    }
    Ok(())
}
