//! Lists: every filter, cut and resumed anywhere; first answers early, in bounded memory, whatever the peers do.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::client::{Client, replicas_of};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::cid;
use cluster_tests::fake_kubo::{Call, Fault, Rule};
use tokio_stream::StreamExt as _;

use crate::bulk;

/// What names a pin.
type Key = (String, String, String);

fn key(pin: &v1::Pin) -> Key {
    (pin.namespace.clone(), pin.cid.clone(), pin.slot.clone())
}

/// A pinset in which every filter finds some and not all, with several pins a CID.
async fn fill(client: &Client) -> anyhow::Result<()> {
    let mut items = Vec::new();
    for number in 0..60 {
        for (at, namespace) in ["", "alpha", "zeta"].into_iter().enumerate() {
            for slot in ["", "second"] {
                if (number + at as u64).is_multiple_of(3) || (slot == "second" && number % 4 != 0) {
                    continue;
                }
                // Some need more nodes than there are, some go everywhere.
                let replicas = match number % 6 {
                    4 => 4,
                    5 => -1,
                    _ => 1 + (number % 2) as i32,
                };
                let owner = if number % 4 == 0 { "ann" } else { "bob" };
                let expiry = v1::pin_options::Expiry::ExpireInMs(3_600_000 * (1 + number));
                items.push(v1::BulkPinItem {
                    namespace: namespace.into(),
                    cid: cid(number).to_string(),
                    slot: slot.into(),
                    options: Some(v1::PinOptions {
                        name: format!("{}/{number:03}", if number < 30 { "low" } else { "high" }),
                        metadata: HashMap::from([("owner".into(), owner.into()), ("all".into(), "yes".into())]),
                        expiry: (number % 2 == 0).then_some(expiry),
                        ..replicas_of(replicas)
                    }),
                    allow_unplaced: true,
                    former: None,
                });
            }
        }
    }
    let results = client.bulk(items, 7).await?;
    let refused = results.iter().find(|result| result.code != 0);
    ensure!(refused.is_none(), "{refused:?}");
    Ok(())
}

/// Every index, alone and together with others, with and without a namespace.
fn filters(middle: prost_types::Timestamp) -> Vec<v1::PinFilter> {
    let in_a_day = prost_types::Timestamp {
        seconds: middle.seconds + 24 * 3_600,
        nanos: 0,
    };
    let none = v1::PinFilter::default;
    let base = vec![
        none(),
        v1::PinFilter {
            name_prefix: "low/0".into(),
            ..none()
        },
        v1::PinFilter {
            metadata: HashMap::from([("owner".into(), "ann".into()), ("all".into(), "yes".into())]),
            ..none()
        },
        v1::PinFilter {
            node: "node-2".into(),
            ..none()
        },
        v1::PinFilter {
            created_after: Some(middle),
            ..none()
        },
        v1::PinFilter {
            created_before: Some(middle),
            ..none()
        },
        v1::PinFilter {
            expires_before: Some(in_a_day),
            ..none()
        },
        v1::PinFilter {
            unplaced: true,
            ..none()
        },
        v1::PinFilter {
            cids: (10..30).map(|number| cid(number).to_string()).collect(),
            ..none()
        },
        v1::PinFilter {
            node: "node-1".into(),
            name_prefix: "high".into(),
            metadata: HashMap::from([("owner".into(), "bob".into())]),
            ..none()
        },
    ];
    let with_namespace = base.clone().into_iter().map(|filter| v1::PinFilter {
        namespace: "alpha".into(),
        ..filter
    });
    base.iter().cloned().chain(with_namespace).collect()
}

/// What a filter means, said once more.
fn wants(filter: &v1::PinFilter, pin: &v1::Pin) -> bool {
    let before = |a: &Option<prost_types::Timestamp>, b: &Option<prost_types::Timestamp>| {
        let of = |time: &prost_types::Timestamp| (time.seconds, time.nanos);
        a.as_ref().map(of) < b.as_ref().map(of)
    };
    (filter.namespace.is_empty() || filter.namespace == pin.namespace)
        && pin.name.starts_with(&filter.name_prefix)
        && filter
            .metadata
            .iter()
            .all(|(key, value)| pin.metadata.get(key) == Some(value))
        && (filter.node.is_empty() || pin.everywhere || pin.nodes.contains(&filter.node))
        && (filter.created_after.is_none() || before(&filter.created_after, &pin.created))
        && (filter.created_before.is_none() || before(&pin.created, &filter.created_before))
        && (filter.expires_before.is_none()
            || (pin.expire_at.is_some() && before(&pin.expire_at, &filter.expires_before)))
        && (!filter.unplaced || !pin.unplaced.is_empty())
        && (filter.cids.is_empty() || filter.cids.contains(&pin.cid))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_filter_finds_the_same_whole_or_in_pieces_on_any_peer() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    fill(&cluster.client(0)).await?;
    cluster.caught_up().await?;
    let everything = cluster.client(0).list_all().await?;
    let mut times: Vec<_> = everything.iter().filter_map(|pin| pin.created).collect();
    times.sort_by_key(|time| (time.seconds, time.nanos));
    for filter in filters(times[times.len() / 2]) {
        let whole = cluster
            .client(1)
            .list(v1::ListRequest {
                filter: Some(filter.clone()),
                ..v1::ListRequest::default()
            })
            .await?;
        let whole: Vec<_> = whole.iter().map(key).collect();
        let mut sorted = whole.clone();
        sorted.sort();
        let mut expected: Vec<_> = everything.iter().filter(|pin| wants(&filter, pin)).map(key).collect();
        expected.sort();
        ensure!(sorted == expected, "{filter:?}: {sorted:?}, not {expected:?}");
        let is_timed = filter.created_before.is_some() || filter.created_after.is_some();
        ensure!(
            !whole.is_empty() || is_timed,
            "{filter:?} finds nothing and proves nothing"
        );
        for limit in [1, 4, 25] {
            let mut pieces = Vec::new();
            let mut request = v1::ListRequest {
                filter: Some(filter.clone()),
                limit,
                ..v1::ListRequest::default()
            };
            for round in 0.. {
                // A cursor holds on every peer.
                let mut stream = cluster
                    .client(round % 3)
                    .pins
                    .clone()
                    .list(request.clone())
                    .await?
                    .into_inner();
                let mut count = 0;
                while let Some(chunk) = stream.next().await.transpose()? {
                    count += chunk.pins.len() as u64;
                    pieces.extend(chunk.pins.iter().map(key));
                    request.cursor = chunk.cursor;
                }
                ensure!(count <= limit, "{count} pins came of {limit}");
                if count < limit {
                    break;
                }
            }
            ensure!(
                pieces == whole,
                "{limit} at a time of {filter:?}: {pieces:?}, not {whole:?}"
            );
        }
    }
    Ok(())
}

/// The CIDs and states of a list of statuses, in order, cut every `limit`.
async fn statuses(
    cluster: &Cluster,
    filter: &v1::PinFilter,
    statuses: &[v1::Status],
    limit: u64,
) -> anyhow::Result<Vec<(String, i32)>> {
    let mut request = v1::StatusAllRequest {
        filter: Some(filter.clone()),
        statuses: statuses.iter().map(|status| (*status).into()).collect(),
        limit,
        ..v1::StatusAllRequest::default()
    };
    let mut found = Vec::new();
    for round in 0.. {
        let client = cluster.client(round % 3);
        let mut stream = client.pins.clone().status_all(request.clone()).await?.into_inner();
        let mut count = 0;
        while let Some(chunk) = stream.next().await.transpose()? {
            ensure!(chunk.unreachable_nodes.is_empty(), "{:?}", chunk.unreachable_nodes);
            count += chunk.statuses.len() as u64;
            found.extend(chunk.statuses.iter().map(|status| (status.cid.clone(), status.status)));
            request.cursor = chunk.cursor;
        }
        if limit == 0 || count < limit {
            break;
        }
        ensure!(count == limit, "{count} came of {limit}");
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_by_state_are_found_and_resumed() -> anyhow::Result<()> {
    let options = ClusterOptions::default()
        // A try each, so that what fails stands still.
        .with("worker.backoff_base", "1h")
        .with("worker.backoff_max", "2h");
    let cluster = Cluster::start(options).await?;
    let client = cluster.client(0);
    for at in 0..3 {
        let fake = cluster.fake(at);
        for number in 0..10 {
            fake.fail_pin(&cid(number), Fault::NotFound);
        }
        // Fewer than a node pins at a time, or the rest would wait for the stall timeout.
        for number in 10..13 {
            fake.fail_pin(
                &cid(number),
                Fault::Stall {
                    after_blocks: 1,
                    tick_millis: 200,
                },
            );
        }
    }
    let stalled: Vec<String> = (10..13).map(|number| cid(number).to_string()).collect();
    fill(&client).await?;
    let everything = client.list_all().await?;
    let mut nodes = BTreeMap::new();
    for pin in &everything {
        nodes.insert(
            pin.cid.clone(),
            (pin.everywhere, !pin.unplaced.is_empty(), pin.nodes.clone()),
        );
    }
    cluster
        .wait_until("nothing changes any more", LIMIT, async || {
            for status in client.status_all(v1::StatusAllRequest::default()).await? {
                for node in &status.nodes {
                    let settled = match node.status() {
                        v1::Status::Queued => false,
                        v1::Status::Pinning => stalled.contains(&status.cid),
                        _ => true,
                    };
                    ensure!(settled, "{} is {:?} on {}", status.cid, node.status(), node.node);
                }
            }
            Ok(())
        })
        .await?;
    let all = statuses(&cluster, &v1::PinFilter::default(), &[], 0).await?;
    assert_eq!(all.len(), nodes.len(), "every CID once");
    ensure!(
        all.is_sorted_by_key(|(cid, _)| cid.parse::<node_core::Cid>().ok()),
        "in CID order"
    );
    let of = |status: v1::Status| all.iter().filter(|(_, found)| *found == i32::from(status)).count();
    for status in [
        v1::Status::Pinned,
        v1::Status::Pinning,
        v1::Status::Retrying,
        v1::Status::Unplaced,
    ] {
        ensure!(of(status) > 0, "none is {status:?}: {all:?}");
    }

    let none = v1::PinFilter::default;
    let by_node = v1::PinFilter {
        node: "node-2".into(),
        ..none()
    };
    let by_name = v1::PinFilter {
        name_prefix: "low".into(),
        ..none()
    };
    let named: Vec<String> = (0..40).map(|number| cid(number).to_string()).collect();
    let by_cids = v1::PinFilter { cids: named, ..none() };
    for filter in [none(), by_node, by_name, by_cids] {
        for states in [
            vec![],
            vec![v1::Status::Pinned],
            vec![v1::Status::Pinning],
            vec![v1::Status::Retrying, v1::Status::Pinning],
            vec![v1::Status::Unplaced],
            vec![v1::Status::Retrying, v1::Status::Pinned],
            vec![v1::Status::GaveUp],
        ] {
            let whole = statuses(&cluster, &filter, &states, 0).await?;
            for limit in [1, 3, 20] {
                let pieces = statuses(&cluster, &filter, &states, limit).await?;
                ensure!(
                    pieces == whole,
                    "{limit} at a time of {states:?} in {filter:?}: {pieces:?}, not {whole:?}"
                );
            }
            let nothing = states == [v1::Status::GaveUp];
            ensure!(whole.is_empty() == nothing, "{states:?} in {filter:?}: {whole:?}");
        }
    }
    Ok(())
}

/// A name that only a pin of another namespace has is shown in a list as well as for the single CID.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_show_names_of_other_namespaces_and_slots() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let client = cluster.client(0);
    let pin = |number: u64, namespace: &str, slot: &str, name: &str| v1::PinRequest {
        namespace: namespace.into(),
        cid: cid(number).to_string(),
        slot: slot.into(),
        options: Some(v1::PinOptions {
            name: name.into(),
            ..replicas_of(1)
        }),
        ..v1::PinRequest::default()
    };
    client.pin_as(pin(1, "team", "", "only there")).await?;
    client.pin_as(pin(2, "", "", "")).await?;
    client.pin_as(pin(2, "", "second", "in a slot")).await?;
    client.pin_as(pin(3, "", "", "at home")).await?;
    client.pin_as(pin(3, "team", "", "elsewhere")).await?;
    client.pin_as(pin(4, "", "", "")).await?;
    let all = client.status_all(v1::StatusAllRequest::default()).await?;
    for (number, name) in [(1, "only there"), (2, "in a slot"), (3, "at home"), (4, "")] {
        let listed = all.iter().find(|status| status.cid == cid(number).to_string());
        assert_eq!(listed.context("it is listed")?.name, name);
        assert_eq!(client.status(&cid(number)).await?.name, name);
    }
    Ok(())
}

/// A peer that hangs, with all its connections open, costs its time once and not for every chunk or call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_peer_costs_its_time_once() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let (leader, hung) = (cluster.leader().await?, cluster.follower().await?);
    let client = cluster.client(leader);
    // More than two chunks.
    let cids = bulk(&client, 0..2_400, 3).await?;
    let name = format!("node-{}", hung + 1);
    let process =
        rustix::process::Pid::from_raw(cluster.peer(hung).pid().context("it runs")? as i32).context("a pid")?;
    rustix::process::kill_process(process, rustix::process::Signal::STOP)?;

    let began = Instant::now();
    let status = client.status(&cids[0]).await?;
    let first = began.elapsed();
    let of_hung = status
        .nodes
        .iter()
        .find(|node| node.node == name)
        .context("it is shown")?;
    assert_eq!(of_hung.status(), v1::Status::Unreachable);
    ensure!(first < Duration::from_secs(4), "the first look-up took {first:?}");
    let began = Instant::now();
    for cid in &cids[..10] {
        // What this peer has applied: it is the ledgers' answer that is looked at, not the majority's.
        let request = v1::StatusRequest {
            cid: cid.to_string(),
            consistency: v1::Consistency::Stale.into(),
        };
        client.pins.clone().status(request).await?;
    }
    ensure!(
        began.elapsed() < Duration::from_secs(3),
        "ten look-ups took {:?}",
        began.elapsed()
    );

    // By pins, and of everything: the time that the caller allows, once.
    for node in ["", "node-1"] {
        let request = v1::StatusAllRequest {
            filter: Some(v1::PinFilter {
                node: node.into(),
                ..v1::PinFilter::default()
            }),
            peer_timeout_ms: 300,
            brief: true,
            ..v1::StatusAllRequest::default()
        };
        let began = Instant::now();
        let mut stream = client.pins.clone().status_all(request).await?.into_inner();
        let (mut count, mut chunks) = (0, 0);
        while let Some(chunk) = stream.next().await.transpose()? {
            assert_eq!(chunk.unreachable_nodes, [name.as_str()]);
            count += chunk.statuses.len();
            chunks += 1;
        }
        assert_eq!(count, cids.len());
        ensure!(chunks >= 3, "{chunks} chunks");
        ensure!(
            began.elapsed() < Duration::from_secs(3),
            "the list took {:?}",
            began.elapsed()
        );
    }

    rustix::process::kill_process(process, rustix::process::Signal::CONT)?;
    cluster
        .wait_until("the peer is heard again", LIMIT, async || {
            let status = client.status(&cids[1]).await?;
            let unreachable = status
                .nodes
                .iter()
                .find(|node| node.status() == v1::Status::Unreachable);
            ensure!(unreachable.is_none(), "{unreachable:?}");
            Ok(())
        })
        .await
}

/// 60,000 pins: what the reference answered after seconds and with gigabytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lists_begin_at_once_and_take_no_memory() -> anyhow::Result<()> {
    const PINS: u64 = 60_000;
    let options = ClusterOptions::default()
        // The queue shall stay: it is the lists that are looked at, not the work.
        .with("worker.pins_per_second", 1.0)
        .with("worker.pins_burst", 1);
    let cluster = Cluster::start(options).await?;
    for at in 0..3 {
        cluster.fake(at).add_rule(Rule::new(Fault::Hang).of_call(Call::PinAdd));
    }
    let client = cluster.client(cluster.leader().await?);
    bulk(&client, 0..PINS, 2).await?;
    cluster.caught_up().await?;
    let asked = cluster.peer(cluster.follower().await?);
    let client = asked.client();
    cluster
        .wait_until("all ledgers know their queues", LIMIT, async || {
            let status = client.cluster_status().await?;
            let reports = status.nodes.iter().filter_map(|node| node.report.as_ref());
            let known: u64 = reports
                .map(|report| report.queued + report.pinning + report.retrying)
                .sum();
            ensure!(known >= 2 * PINS, "{known} of {}", 2 * PINS);
            Ok(())
        })
        .await?;
    let before = asked.resident_bytes()?;

    let began = Instant::now();
    let mut stream = client.pins.clone().list(v1::ListRequest::default()).await?.into_inner();
    let (mut first, mut count, mut revision) = (None, 0, 0);
    while let Some(chunk) = stream.next().await.transpose()? {
        first.get_or_insert(began.elapsed());
        count += chunk.pins.len();
        revision = chunk.revision;
    }
    let (first, whole) = (first.context("a chunk")?, began.elapsed());
    println!("list of {count}: first chunk after {first:?}, all after {whole:?}");
    assert_eq!(
        (count as u64, revision),
        (PINS, client.cluster_status().await?.revision)
    );
    // A tenth would do on a quiet machine; what must not be is that the first waits for the rest.
    ensure!(
        first < whole / 4 && first < Duration::from_secs(1),
        "the first came after {first:?}"
    );

    let began = Instant::now();
    let mut stream = client
        .pins
        .clone()
        .status_all(v1::StatusAllRequest::default())
        .await?
        .into_inner();
    let (mut first, mut count) = (None, 0);
    while let Some(chunk) = stream.next().await.transpose()? {
        first.get_or_insert(began.elapsed());
        count += chunk.statuses.len();
    }
    let (first, whole) = (first.context("a chunk")?, began.elapsed());
    println!("status of {count}: first chunk after {first:?}, all after {whole:?}");
    assert_eq!(count as u64, PINS);
    ensure!(
        first < whole / 4 && first < Duration::from_secs(1),
        "the first came after {first:?}"
    );

    // Clients that stop reading after the first chunk: each holds a chunk or two, not the list.
    let mut idle = Vec::new();
    for _ in 0..10 {
        // Each over a connection of its own, whose window it fills.
        let client = Client::new(&asked.info().grpc, LIMIT)?;
        let mut stream = client.pins.clone().list(v1::ListRequest::default()).await?.into_inner();
        stream.next().await.context("a chunk")??;
        idle.push(stream);
    }
    let after = asked.resident_bytes()?;
    println!("resident: {} MiB before, {} MiB after", before >> 20, after >> 20);
    ensure!(
        after < before + (96 << 20),
        "resident memory grew from {} to {} MiB",
        before >> 20,
        after >> 20
    );
    Ok(())
}
