//! Lists: filters, order, pages and counts.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::{cid, fresh_cid};
use cluster_tests::fake_kubo::Fault;
use serde_json::{Value, json};

use super::{ALL, Api, body, cids, quick, reason, states, text};

/// Three pins: one is pinned, one hangs, one fails.
async fn three_states(cluster: &Cluster, api: &Api) -> anyhow::Result<[(String, &'static str); 3]> {
    let made = [("aaa", "pinned"), ("bbb", "pinning"), ("ccc", "failed")];
    let mut ids = Vec::new();
    for (number, (name, state)) in made.iter().enumerate() {
        let cid = cid(100 + number as u64);
        match *state {
            "pinning" => cluster.fake(0).fail_pin(
                &cid,
                Fault::Drip {
                    blocks: 1_000_000,
                    blocks_per_tick: 1,
                    bytes_per_block: 1,
                    tick_millis: 100,
                },
            ),
            "failed" => cluster.fake(0).fail_pin(&cid, Fault::NotFound),
            _ => {}
        }
        let meta = json!({name.to_string(): format!("{}{}", number + 1, &name[..1])});
        let pin = api
            .pin(json!({"cid": cid.to_string(), "name": name, "meta": meta}))
            .await?;
        ids.push((text(&pin, "requestid").to_owned(), *state));
    }
    for (id, state) in &ids {
        api.wait_for(cluster, id, state).await?;
    }
    ids.try_into().map_err(|_| anyhow::anyhow!("three"))
}

/// What the tests of IPFS Cluster ask of its Pinning Services API, with the answers of the specification.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_find_what_they_say() -> anyhow::Result<()> {
    let cluster = Cluster::start(quick(1)).await?;
    let api = Api::of(&cluster, 0);
    let three = three_states(&cluster, &api).await?;
    let (count, results) = api.list(ALL).await?;
    assert_eq!((count, results.len()), (3, 3));
    let expected: Vec<&str> = three.iter().rev().map(|(id, _)| id.as_str()).collect();
    let found: Vec<&str> = results.iter().map(|result| text(result, "requestid")).collect();
    assert_eq!(found, expected, "the newest first");
    assert_eq!(text(&results[1], "status"), "pinning");
    for (query, expected) in [
        ("", 1),
        ("status=pinning", 1),
        ("status=queued", 0),
        ("status=pinned", 1),
        ("status=failed", 1),
        ("status=failed,pinned", 2),
        ("status=failed&status=pinned", 2),
    ] {
        let (count, results) = api.list(query).await?;
        assert_eq!((count, results.len()), (expected, expected as usize), "{query}");
    }
    let (first, second) = (cid(100), cid(101));
    // The other filters count beside CIDs too.
    assert_eq!(api.list(&format!("{ALL}&cid={first},{second}")).await?.0, 2);
    let (count, results) = api.list(&format!("{ALL}&cid={first},{second}&limit=1")).await?;
    assert_eq!((count, cids(&results)), (2, vec![second.to_string().as_str()]));
    assert_eq!(
        api.list(&format!("cid={first},{second}")).await?.0,
        1,
        "one of them is pinned"
    );
    assert_eq!(api.list(&format!("{ALL}&cid={first},{second}&name=bbb")).await?.0, 1);
    assert_eq!(api.list(&format!("{ALL}&cid={}", fresh_cid())).await?.0, 0);
    let (count, results) = api.list(&format!("{ALL}&limit=1")).await?;
    assert_eq!((count, results.len()), (3, 1));
    for (query, expected) in [
        ("name=C&match=ipartial", 1),
        ("name=C&match=partial", 0),
        ("name=c&match=partial", 1),
        ("name=CCC&match=iexact", 1),
        ("name=CC&match=iexact", 0),
        ("name=ccc", 1),
        ("name=ccc&match=exact", 1),
        ("name=cc", 0),
        ("name=B&match=ipartial", 1),
        // As it stands in a shell, and escaped.
        (r#"meta={"ccc":"3c"}"#, 1),
        ("meta=%7B%22ccc%22%3A%223c%22%7D", 1),
        (r#"meta={"ccc":"3d"}"#, 0),
        (r#"meta={"ccc":"3c","bbb":"2b"}"#, 0),
        (r#"meta={"ccc":"3c"}&name=ccc"#, 1),
        (r#"meta={"ccc":"3c"}&name=aaa"#, 0),
        ("meta={}", 3),
        // No pin has such a name.
        ("name=a%00b", 0),
    ] {
        assert_eq!(api.list(&format!("{ALL}&{query}")).await?.0, expected, "{query}");
    }
    // Both bounds are not among what they bound.
    let (_, results) = api.list(ALL).await?;
    let created: Vec<&str> = results.iter().map(|result| text(result, "created")).collect();
    for (query, expected) in [
        (format!("before={}", created[0]), vec![1, 2]),
        (format!("after={}", created[2]), vec![0, 1]),
        (format!("after={}&before={}", created[2], created[0]), vec![1]),
        (format!("after={}", created[0]), vec![]),
        (format!("before={}", created[2]), vec![]),
        ("after=2001-01-01T00:00:00%2B02:00".to_owned(), vec![0, 1, 2]),
    ] {
        let (count, found) = api.list(&format!("{ALL}&{query}")).await?;
        let expected: Vec<&str> = expected.iter().map(|at| text(&results[*at], "requestid")).collect();
        let found: Vec<&str> = found.iter().map(|result| text(result, "requestid")).collect();
        assert_eq!(found, expected, "{query}");
        assert_eq!(count, expected.len() as u64);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_that_make_no_sense_are_refused() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let api = Api::of(&cluster, 0);
    let eleven: Vec<String> = (0..11).map(|number| cid(number).to_string()).collect();
    for (query, words) in [
        ("status=invalid".to_owned(), "invalid"),
        ("match=some&name=a".to_owned(), "match"),
        (format!("name={}", "a".repeat(256)), "255"),
        ("limit=0".to_owned(), "limit"),
        ("limit=1001".to_owned(), "1001"),
        ("before=now".to_owned(), "before"),
        ("after=2026-01-01".to_owned(), "after"),
        (r#"meta={"a":1}"#.to_owned(), "meta"),
        ("meta=a".to_owned(), "meta"),
        ("cid=abcd".to_owned(), "abcd"),
        // A bad one is not missed behind the limit.
        (format!("limit=1&cid={},abcd", cid(1)), "abcd"),
        (format!("cid={}", eleven.join(",")), "10"),
    ] {
        let found = reason(&api.get(&format!("/pins?{query}")).await?, 400)?;
        assert!(found.contains(words), "{query}: {found}");
    }
    Ok(())
}

/// Pins by one stream, which takes them in few entries: thousands of one millisecond.
async fn bulk(cluster: &Cluster, from: u64, count: u64) -> anyhow::Result<()> {
    let items = (from..from + count).map(|number| v1::BulkPinItem {
        cid: cid(number).to_string(),
        options: Some(v1::PinOptions {
            name: format!("name-{}", number % 2),
            metadata: [("app".to_owned(), (number % 3).to_string())].into(),
            ..v1::PinOptions::default()
        }),
        allow_unplaced: true,
        ..v1::BulkPinItem::default()
    });
    let results = cluster.client(0).bulk(items.collect(), 1_000).await?;
    ensure!(results.len() as u64 == count);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_miss_nothing_and_double_nothing_while_pins_arrive() -> anyhow::Result<()> {
    const PINS: u64 = 5_000;
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    // Nothing is in a hurry: only the list counts.
    cluster.fake(0).fail(Fault::Hang);
    let api = Api::of(&cluster, 0);
    bulk(&cluster, 0, PINS).await?;
    let moments: BTreeSet<String> = {
        let all = api.list_all(&format!("{ALL}&limit=1000")).await?;
        let millis = |result: &Value| text(result, "created")[..23].to_owned();
        assert_eq!(all.len() as u64, PINS);
        all.iter().map(millis).collect()
    };
    assert!(
        (moments.len() as u64) < PINS / 20,
        "hundreds share a millisecond: {}",
        moments.len()
    );

    let arriving = async {
        for from in (PINS..PINS + 1_000).step_by(50) {
            bulk(&cluster, from, 50).await?;
        }
        anyhow::Ok(())
    };
    let query = format!("{ALL}&limit=137");
    let (paged, arrived) = tokio::join!(api.list_all(&query), arriving);
    arrived?;
    let paged = paged?;
    let ids: BTreeSet<&str> = paged.iter().map(|result| text(result, "requestid")).collect();
    assert_eq!(ids.len(), paged.len(), "none comes twice");
    for number in 0..PINS {
        ensure!(ids.contains(cid(number).to_string().as_str()), "{number} is missing");
    }
    let created: Vec<&str> = paged.iter().map(|result| text(result, "created")).collect();
    assert!(
        created.is_sorted_by(|a, b| a > b),
        "strictly from the newest to the oldest"
    );

    // By name, by metadata and by both, and each count is exact or at least one more than the page.
    for (filter, expected) in [
        ("name=name-1", 3_000),
        (r#"meta={"app":"2"}"#, 2_000),
        (r#"name=name-1&meta={"app":"2"}"#, 1_000),
        ("name=NAME&match=ipartial", 6_000),
    ] {
        let query = format!("{ALL}&{filter}&limit=1000");
        let (count, page) = api.list(&query).await?;
        assert!(count >= page.len() as u64 && count <= expected, "{filter}: {count}");
        assert_eq!(count > page.len() as u64, expected > 1_000, "{filter}: {count}");
        assert_eq!(api.list_all(&query).await?.len() as u64, expected, "{filter}");
    }
    // Where rows of an index tell it, all are counted.
    assert_eq!(api.list(&format!("{ALL}&name=name-1&limit=1")).await?.0, 3_000);
    assert_eq!(api.list(&format!("{ALL}&limit=10")).await?.0, 6_000);
    Ok(())
}

/// What is rare is found behind thousands of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rare_states_are_found_behind_many_others() -> anyhow::Result<()> {
    const PINS: u64 = 6_000;
    let cluster = Cluster::start(quick(1)).await?;
    let api = Api::of(&cluster, 0);
    let lost: Vec<_> = (0..3).map(|_| fresh_cid()).collect();
    for cid in &lost {
        cluster.fake(0).fail_pin(cid, Fault::NotFound);
        let pin = api.pin(body(cid)).await?;
        api.wait_for(&cluster, text(&pin, "requestid"), "failed").await?;
    }
    bulk(&cluster, 0, PINS).await?;
    let found = cluster
        .wait_until("all others are pinned", LIMIT * 4, async || {
            let all = api.list_all(&format!("{ALL}&limit=1000")).await?;
            let states = states(&all);
            ensure!(states.get("pinned") == Some(&(PINS as usize)), "{states:?}");
            Ok(all.len() as u64)
        })
        .await?;
    assert_eq!(found, PINS + 3);
    let (count, results) = api.list("status=failed").await?;
    let expected: Vec<String> = lost.iter().rev().map(ToString::to_string).collect();
    assert_eq!(cids(&results), expected);
    assert_eq!(count, 3);
    let (count, results) = api.list("status=failed&limit=1").await?;
    assert_eq!((count, cids(&results)), (3, vec![expected[0].as_str()]));
    let before = text(&results[0], "created");
    let (count, results) = api.list(&format!("status=failed&before={before}")).await?;
    assert_eq!(
        (count, cids(&results)),
        (2, vec![expected[1].as_str(), expected[2].as_str()])
    );
    assert_eq!(api.list("status=queued,pinning").await?.0, 0);
    let page = api.list("status=pinned&limit=1000").await?;
    ensure!(page.0 > 1_000, "there are more");
    page.1.first().context("a page")?;
    Ok(())
}
