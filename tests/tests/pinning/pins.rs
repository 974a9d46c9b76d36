//! One pin at a time.

use anyhow::ensure;
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::{cid_v0, fresh_cid};
use cluster_tests::fake_kubo::Fault;
use cluster_tests::node::NodeKind;
use cluster_tests::raw_http::request;
use serde_json::{Value, json};

use super::{ALL, Api, body, cids, quick, reason, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_go_in_show_and_go_out() -> anyhow::Result<()> {
    let mut cluster = Cluster::three().await?;
    let (api, other) = (Api::of(&cluster, 0), Api::of(&cluster, 1));
    let cid = fresh_cid().to_string();
    let origin = format!("/ip4/203.0.113.7/tcp/4001/ipfs/{}", cluster.peer(1).id());
    let sent = json!({
        "cid": cid, "name": "my site", "meta": {"app": "x"}, "origins": [origin], "unknown": 1,
    });
    let first = api.pin(sent).await?;
    let shown = json!({
        "cid": cid, "name": "my site", "meta": {"app": "x"},
        "origins": [origin.replace("/ipfs/", "/p2p/")],
    });
    assert_eq!(first["pin"], shown);
    // The nodes that fetch it, by addresses that they told; nothing but loopback is there.
    assert!(!first["delegates"].as_array().expect("a list").is_empty(), "{first}");

    // The same CID again is another pin.
    let second = api.pin(body(&cid)).await?;
    assert_eq!(second["pin"], body(&cid), "nothing leaks from one into the other");
    let (first_id, second_id) = (text(&first, "requestid"), text(&second, "requestid"));
    assert_ne!(first_id, second_id);
    assert!(text(&first, "created") < text(&second, "created"));

    // Seen at once through another peer, the same to the last field but its state.
    let read = other.get(&format!("/pins/{first_id}")).await?.json(200)?;
    for field in ["requestid", "created", "pin", "delegates"] {
        assert_eq!(read[field], first[field], "{field}");
    }
    let pinned = other.wait_for(&cluster, first_id, "pinned").await?;
    assert!(text(&pinned["info"], "status_details").contains("held by"), "{pinned}");
    let (count, results) = other.list("").await?;
    assert_eq!((count, results.len()), (2, 2), "without a status what is pinned");
    assert_eq!(text(&results[0], "requestid"), second_id, "the newest first");

    // One goes, the other stays, and so does the content.
    let gone = other.delete(&format!("/pins/{first_id}")).await?;
    assert_eq!((gone.status, gone.body.len()), (202, 0));
    assert_eq!(gone.header("content-type"), Some("application/json"));
    for id in [first_id, "00000000-0000-4000-8000-000000000000"] {
        let words = reason(&other.get(&format!("/pins/{id}")).await?, 404)?;
        assert!(words.contains(id), "{words}");
        reason(&other.delete(&format!("/pins/{id}")).await?, 404)?;
        reason(&other.post(&format!("/pins/{id}"), &body(fresh_cid())).await?, 404)?;
    }
    assert_eq!(api.list("").await?.0, 1);
    api.delete(&format!("/pins/{second_id}")).await?;
    cluster
        .wait_until("nobody holds it any more", LIMIT, async || {
            let cid = cid.parse()?;
            ensure!((0..3).all(|node| cluster.fake(node).pin(&cid).is_none()));
            Ok(())
        })
        .await?;
    cluster.stop().await
}

/// Of the defects of IPFS Cluster 1.1.6 those that one request shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_refused_before_anything_is_done() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let api = Api::of(&cluster, 0);
    let cid = fresh_cid();
    for (sent, words) in [
        ("".to_owned(), "JSON"),
        ("{".to_owned(), "JSON"),
        ("[]".to_owned(), "object"),
        ("{}".to_owned(), "cid"),
        (r#"{"cid":null}"#.to_owned(), "cid"),
        (r#"{"cid":"abcd"}"#.to_owned(), "abcd"),
        (
            json!({"cid": cid.to_string(), "name": "a".repeat(256)}).to_string(),
            "255",
        ),
        (
            json!({"cid": cid.to_string(), "origins": ["/ip4/1.2.3.4/tcp/1"]}).to_string(),
            "origins",
        ),
        (json!({"cid": cid.to_string(), "meta": {"a": 1}}).to_string(), "meta.a"),
        (
            json!({"cid": cid.to_string(), "meta": {"": "x"}}).to_string(),
            "meta \"\"",
        ),
    ] {
        let words_of = reason(&api.ask("POST", "/pins", &[], &sent).await?, 400)?;
        assert!(words_of.contains(words), "{sent}: {words_of}");
    }
    // A filter that was left out would find more than was asked for.
    for query in ["name=a;b", "meta=%zz", "cid=,", "status=%2C,"] {
        reason(&api.get(&format!("/pins?{query}")).await?, 400)?;
    }
    for id in ["abcd", "0", &format!("{cid}.zz")] {
        for method in ["GET", "DELETE", "POST"] {
            let sent = if method == "POST" {
                body(cid).to_string()
            } else {
                String::new()
            };
            let words = reason(&api.ask(method, &format!("/pins/{id}"), &[], &sent).await?, 400)?;
            assert!(words.contains("requestid"), "{words}");
        }
    }
    assert_eq!(api.list(ALL).await?.0, 0, "nothing was pinned");
    // Characters count, not bytes.
    let name = "ä".repeat(255);
    let pinned = api.pin(json!({"cid": cid.to_string(), "name": name})).await?;
    assert_eq!(pinned["pin"]["name"], name);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_is_carried_out_once() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(2)).await?;
    let (api, other) = (Api::of(&cluster, 0), Api::of(&cluster, 1));
    let sent = body(fresh_cid()).to_string();
    let named = [("Idempotency-Key", "a4c1")];
    let first = api.ask("POST", "/pins", &named, &sent).await?.json(202)?;
    let again = other.ask("POST", "/pins", &named, &sent).await?.json(202)?;
    for field in ["requestid", "created", "pin"] {
        assert_eq!(again[field], first[field], "{field}");
    }
    assert_eq!(api.list(ALL).await?.0, 1);
    // Used for something else.
    let refused = api.ask("POST", "/pins", &named, &body(fresh_cid()).to_string()).await?;
    assert!(reason(&refused, 400)?.contains("request"));
    // A replacement too: the second finds that the first has removed the old pin.
    let id = text(&first, "requestid");
    let sent = body(fresh_cid()).to_string();
    let named = [("Idempotency-Key", "a4c2")];
    let target = format!("/pins/{id}");
    let new = api.ask("POST", &target, &named, &sent).await?.json(202)?;
    let again = other.ask("POST", &target, &named, &sent).await?.json(202)?;
    assert_eq!(again["requestid"], new["requestid"]);
    assert_eq!(cids(&api.list(ALL).await?.1), [text(&new["pin"], "cid")]);
    // Once removed it stays so.
    api.delete(&format!("/pins/{}", text(&new, "requestid"))).await?;
    api.ask("POST", &target, &named, &sent).await?;
    assert_eq!(api.list(ALL).await?.0, 0);
    Ok(())
}

/// Pins that were made by other APIs have their CID for a request ID.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_of_other_apis_are_here_too() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(2)).await?;
    let api = Api::of(&cluster, 0);
    let rest = cluster.peer(0).info().rest.expect("an address");
    let (v1, v0) = (fresh_cid().to_string(), cid_v0(7).to_string());
    for cid in [&v1, &v0] {
        let pinned = request(
            &rest,
            "POST",
            &format!("/pins/{cid}?name=by-rest&meta-a=b&expire-in=1h"),
        )
        .await?;
        pinned.json(200)?;
        let found = api.get(&format!("/pins/{cid}")).await?.json(200)?;
        assert_eq!(found["requestid"], **cid);
        assert_eq!(found["pin"], json!({"cid": cid, "name": "by-rest", "meta": {"a": "b"}}));
        assert!(found["info"]["pinned_until"].is_string(), "{found}");
    }
    // Under a slot of its own.
    let slotted = cluster_proto::v1::PinRequest {
        cid: v1.clone(),
        slot: "second/1".into(),
        ..Default::default()
    };
    cluster.client(0).pin_as(slotted).await?;
    let (count, results) = api.list(&format!("{ALL}&cid={v1}")).await?;
    assert_eq!(count, 2);
    let id = text(&results[0], "requestid");
    assert!(id.starts_with(&format!("{v1}.")), "{id}");
    assert_eq!(api.get(&format!("/pins/{id}")).await?.json(200)?["requestid"], id);

    // And pins of this API are there, as the reference shows them.
    let own = api.pin(body(fresh_cid())).await?;
    let cid = text(&own["pin"], "cid");
    request(&rest, "GET", &format!("/allocations/{cid}")).await?.json(200)?;

    for id in [id, v1.as_str(), v0.as_str()] {
        assert_eq!(api.delete(&format!("/pins/{id}")).await?.status, 202);
        reason(&api.get(&format!("/pins/{id}")).await?, 404)?;
    }
    assert_eq!(cids(&api.list(ALL).await?.1), [cid]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_fails_only_when_no_node_can_help() -> anyhow::Result<()> {
    let cluster = Cluster::start(quick(2)).await?;
    let api = Api::of(&cluster, 0);
    let permanent = || Fault::Error {
        status: 500,
        message: "pin: potentially insecure hash functions not allowed".into(),
    };
    // One of two nodes can't: it is held as often as it must be.
    let (half, lost) = (fresh_cid(), fresh_cid());
    cluster.fake(0).fail_pin(&half, permanent());
    let pin = api.pin(body(half)).await?;
    api.wait_for(&cluster, text(&pin, "requestid"), "pinned").await?;
    for node in 0..2 {
        cluster.fake(node).fail_pin(&lost, permanent());
    }
    let pin = api.pin(body(lost)).await?;
    let id = text(&pin, "requestid");
    let failed = api.wait_for(&cluster, id, "failed").await?;
    let details = text(&failed["info"], "status_details");
    assert!(
        details.contains("insecure hash") && details.contains("node-1"),
        "{details}"
    );
    for (states, expected) in [
        ("failed", &[lost][..]),
        ("pinned", &[half]),
        ("queued", &[]),
        ("pinning", &[]),
        ("failed,pinned", &[lost, half]),
    ] {
        let (count, results) = api.list(&format!("status={states}")).await?;
        let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        assert_eq!(cids(&results), expected, "{states}");
        assert_eq!(count, expected.len() as u64);
    }
    // Another pin of it is in the same state; without the CID's last pin it is gone.
    let again = api.pin(body(lost)).await?;
    for node in 0..2 {
        cluster.fake(node).clear_rules();
    }
    // Asking for it anew tries it anew, wherever it stood.
    let moved = api
        .post(
            &format!("/pins/{id}"),
            &json!({"cid": lost.to_string(), "name": "renamed"}),
        )
        .await?;
    moved.json(202)?;
    for id in [id, text(&again, "requestid")] {
        api.wait_for(&cluster, id, "pinned").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_take_waits_and_says_so() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        peers: 1,
        node: NodeKind::None,
        ..ClusterOptions::default()
    })
    .await?;
    let api = Api::of(&cluster, 0);
    let pin = api.pin(body(fresh_cid())).await?;
    assert_eq!(pin["status"], "queued");
    assert!(text(&pin["info"], "status_details").contains("no room"), "{pin}");
    let (count, results) = api.list("status=queued").await?;
    assert_eq!((count, text(&results[0], "requestid")), (1, text(&pin, "requestid")));
    Ok(())
}

/// Where the content is said to be, a node connects to before it pins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn origins_are_used() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let api = Api::of(&cluster, 0);
    let origin = |port: u16| format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", cluster.peer(0).id());
    let pin = api
        .pin(json!({"cid": fresh_cid().to_string(), "origins": [origin(1)]}))
        .await?;
    api.wait_for(&cluster, text(&pin, "requestid"), "pinned").await?;
    let asked: Vec<String> = cluster.fake(0).origins();
    assert!(asked.contains(&origin(1)), "{asked:?}");
    let new = json!({"cid": fresh_cid().to_string(), "origins": [origin(2)], "meta": {"v": "2"}});
    let new = api
        .post(&format!("/pins/{}", text(&pin, "requestid")), &new)
        .await?
        .json(202)?;
    assert_eq!(new["pin"]["origins"], json!([origin(2)]), "those of the new pin");
    assert_eq!(new["pin"]["meta"], json!({"v": "2"}));
    api.wait_for(&cluster, text(&new, "requestid"), "pinned").await?;
    let asked: Vec<String> = cluster.fake(0).origins();
    assert!(asked.contains(&origin(2)), "{asked:?}");
    let missing: Value = api.get("/pins?cid=&limit=1").await?.json(200)?;
    assert_eq!(missing["count"], 1);
    Ok(())
}

/// Where every node holds every pin, all of them can be fetched through, and all must hold it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_everywhere_names_all_nodes() -> anyhow::Result<()> {
    let everywhere = ClusterOptions::fakes(3)
        .with("replication.min", -1)
        .with("replication.max", -1);
    let cluster = Cluster::start(everywhere).await?;
    let api = Api::of(&cluster, 0);
    let ids: Vec<String> = (0..3).map(|node| cluster.fake(node).peer_id()).collect();
    let cid = fresh_cid();
    cluster.fake(2).fail_pin(&cid, Fault::Hang);
    let pin = api.pin(body(cid)).await?;
    let id = text(&pin, "requestid");
    cluster
        .wait_until("all nodes are named, and two hold it", LIMIT, async || {
            let found = api.get(&format!("/pins/{id}")).await?.json(200)?;
            let delegates: Vec<&str> = found["delegates"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let named = |id: &String| delegates.iter().any(|address| address.ends_with(&format!("/p2p/{id}")));
            ensure!(delegates.len() == 3 && ids.iter().all(named), "{found}");
            ensure!((0..2).all(|node| cluster.fake(node).pin(&cid).is_some()));
            ensure!(found["status"] == "pinning", "{found}");
            Ok(())
        })
        .await?;
    assert_eq!(api.list("").await?.0, 0, "one of three lacks it");
    let held = api.pin(body(fresh_cid())).await?;
    api.wait_for(&cluster, text(&held, "requestid"), "pinned").await?;
    Ok(())
}
