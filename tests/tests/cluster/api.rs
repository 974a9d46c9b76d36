//! The rest of the API as a client meets it: watching, recovering, settings, nodes, and what every gRPC server has.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::client::{Client, pin_replicas, pin_request, replicas_of};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::{cid, fresh_cid};
use cluster_tests::fake_kubo::{Call, Fault, Rule};
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::{Bytes, bulk, reason};

type Watch = tonic::Streaming<v1::WatchResponse>;

async fn watch(client: &Client, after_revision: u64, namespace: &str) -> anyhow::Result<Watch> {
    let request = v1::WatchRequest {
        after_revision,
        namespace: namespace.into(),
    };
    // Not the client's own channel: its limit for a call would end the stream.
    Ok(client.pins.clone().watch(request).await?.into_inner())
}

async fn next(stream: &mut Watch) -> anyhow::Result<v1::WatchResponse> {
    let message = tokio::time::timeout(LIMIT, stream.next())
        .await
        .context("the watch is silent")?;
    Ok(message.context("the watch ended")??)
}

/// Reads until this revision was seen.
async fn until(stream: &mut Watch, revision: u64) -> anyhow::Result<Vec<v1::Change>> {
    let mut changes = Vec::new();
    let mut at = 0;
    while at < revision {
        let message = next(stream).await?;
        ensure!(message.revision >= at, "the revision goes back");
        let last = message.changes.last().map_or(0, |change| change.revision);
        ensure!(
            last <= message.revision,
            "a change stands behind the revision of its message"
        );
        at = message.revision;
        changes.extend(message.changes);
    }
    Ok(changes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_resumed_on_any_peer_without_a_gap() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let client = cluster.client(0);
    client.pin(&fresh_cid()).await?;
    cluster.caught_up().await?;
    let start = client.cluster_status().await?.revision;

    // It says at once where it stands, also when nothing has happened and nothing was asked for.
    let mut stream = watch(&client, 0, "").await?;
    let began = Instant::now();
    let hello = next(&mut stream).await?;
    assert_eq!((hello.changes.len(), hello.revision), (0, start));
    ensure!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let mut quiet = watch(&cluster.client(2), 0, "nobody").await?;
    assert_eq!(next(&mut quiet).await?.revision, start);

    let mut expected = Vec::new();
    for round in 0..30 {
        let mut request = pin_replicas(&cid(round), 2);
        request.namespace = if round % 3 == 0 { "team".into() } else { String::new() };
        client.pin_as(request).await?;
        expected.push(cid(round).to_string());
    }
    let end = client.cluster_status().await?.revision;

    // In pieces, each on another peer.
    let mut seen = Vec::new();
    let mut after = start;
    for round in 0.. {
        let mut stream = watch(&cluster.client(round % 3), after, "").await?;
        let changes = until(&mut stream, end.min(after + 7)).await?;
        ensure!(
            changes.iter().all(|change| change.revision > after),
            "a change came twice"
        );
        after = changes.last().map_or(after, |change| change.revision);
        seen.extend(changes);
        if after >= end {
            break;
        }
    }
    let created = |changes: &[v1::Change]| -> Vec<String> {
        let of = changes
            .iter()
            .filter(|change| change.kind() == v1::ChangeKind::PinCreated);
        of.map(|change| change.cid.clone()).collect()
    };
    assert_eq!(created(&seen), expected);
    // The one that has watched all the time saw the same.
    assert_eq!(created(&until(&mut stream, end).await?), expected);
    // Of one namespace only its own.
    let mut team = watch(&cluster.client(1), start, "team").await?;
    let mut of_team = Vec::new();
    while of_team.len() < 10 {
        of_team.extend(next(&mut team).await?.changes);
    }
    ensure!(of_team.iter().all(|change| change.namespace == "team"), "{of_team:?}");

    // A watcher of a namespace in which nothing happens still hears how far it has seen everything.
    let began = Instant::now();
    assert_eq!(until(&mut quiet, end).await?, []);
    ensure!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_given_again_shows_what_is_recorded() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let cid = fresh_cid();
    let named = |name: &str| v1::PinRequest {
        request_id: "once".into(),
        options: Some(v1::PinOptions {
            name: name.into(),
            ..replicas_of(2)
        }),
        ..pin_request(&cid)
    };
    let first = cluster.client(0).pin_as(named("first")).await?;
    for at in 0..3 {
        let again = cluster.client(at).pin_as(named("second")).await?;
        assert_eq!(again.outcome(), v1::PinOutcome::Created);
        assert_eq!(again.pin, first.pin, "on peer {at}");
    }
    // Removed since: nothing is made up.
    cluster.client(0).unpin(&cid).await?;
    let again = cluster.client(1).pin_as(named("third")).await?.pin.context("a pin")?;
    assert_eq!((again.cid, again.name.as_str()), (cid.to_string(), ""));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recover_takes_exactly_what_is_named_on_all_peers() -> anyhow::Result<()> {
    let options = ClusterOptions::default()
        .with("worker.backoff_base", "1h")
        .with("worker.backoff_max", "2h");
    let cluster = Cluster::start(options).await?;
    for at in 0..3 {
        cluster
            .fake(at)
            .add_rule(Rule::new(Fault::NotFound).of_call(Call::PinAdd));
    }
    let client = cluster.client(0);
    let cids = bulk(&client, 0..20, 3).await?;
    let count = async |status: v1::Status| -> anyhow::Result<usize> {
        let all = client.status_all(v1::StatusAllRequest::default()).await?;
        let nodes = all.iter().flat_map(|one| &one.nodes);
        Ok(nodes.filter(|node| node.status() == status).count())
    };
    cluster
        .wait_until("all wait for a second try", LIMIT, async || {
            let (retrying, gave_up) = (count(v1::Status::Retrying).await?, count(v1::Status::GaveUp).await?);
            ensure!(retrying + gave_up == 60, "{retrying} are retrying, {gave_up} given up");
            Ok(())
        })
        .await?;
    let retrying = count(v1::Status::Retrying).await? as u64;
    let recover = async |request: v1::RecoverRequest| -> anyhow::Result<u64> {
        let answer = client.pins.clone().recover(request).await?.into_inner();
        ensure!(answer.unreachable_nodes.is_empty(), "{answer:?}");
        Ok(answer.recovered)
    };
    let none = v1::RecoverRequest::default;
    let of = |statuses: &[v1::Status]| v1::RecoverRequest {
        statuses: statuses.iter().map(|status| (*status).into()).collect(),
        ..none()
    };
    assert_eq!(recover(of(&[v1::Status::GaveUp])).await?, 60 - retrying);
    assert_eq!(recover(of(&[v1::Status::Unpinning])).await?, 0);
    let other_class = v1::RecoverRequest {
        error_class: "stalled".into(),
        ..none()
    };
    assert_eq!(recover(other_class).await?, 0);

    for at in 0..3 {
        cluster.fake(at).clear_rules();
    }
    let one = v1::RecoverRequest {
        cid: cids[0].to_string(),
        node: "node-3".into(),
        ..none()
    };
    assert_eq!(recover(one).await?, 1);
    assert_eq!(
        recover(v1::RecoverRequest {
            node: "node-2".into(),
            ..of(&[v1::Status::Retrying])
        })
        .await?,
        20
    );
    assert_eq!(recover(none()).await?, 39);
    cluster
        .wait_until("all are pinned", LIMIT, async || {
            let pinned = count(v1::Status::Pinned).await?;
            ensure!(pinned == 60, "{pinned} of 60");
            Ok(())
        })
        .await?;

    // A peer that is gone is named, and holds nobody up.
    cluster.peer(2).kill9()?;
    let answer = client.pins.clone().recover(none()).await?.into_inner();
    assert_eq!(answer.unreachable_nodes, ["node-3"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_drain_and_removal_of_nodes() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let client = cluster.client(1);
    let update = async |settings: v1::Settings| {
        let request = v1::UpdateSettingsRequest {
            settings: Some(settings),
        };
        client
            .cluster
            .clone()
            .update_settings(request)
            .await
            .map(tonic::Response::into_inner)
    };
    let changed = update(v1::Settings {
        replication_min: Some(2),
        replication_max: Some(2),
        spread_by: vec!["zone".into(), "host".into()],
    })
    .await?;
    assert_eq!(changed.spread_by, ["zone", "host"]);
    // What is not named stays.
    let kept = update(v1::Settings {
        replication_min: Some(1),
        ..v1::Settings::default()
    })
    .await?;
    assert_eq!((kept.replication_min, kept.replication_max), (Some(1), Some(2)));
    assert_eq!(kept.spread_by, ["zone", "host"]);
    let cleared = update(v1::Settings {
        replication_min: Some(2),
        spread_by: vec![String::new()],
        ..v1::Settings::default()
    })
    .await?;
    assert_eq!(cleared.spread_by, Vec::<String>::new());
    let pin = cluster.client(0).pin(&fresh_cid()).await?.pin.context("a pin")?;
    assert_eq!((pin.replication_min, pin.replication_max, pin.nodes.len()), (2, 2, 2));

    // A node that drains is emptied; one that is removed is gone, and what it held goes elsewhere.
    let cids = bulk(&client, 0..30, 2).await?;
    let off = async |node: &str| -> anyhow::Result<()> {
        let what = format!("{node} holds nothing");
        cluster
            .wait_until(&what, LIMIT, async || {
                for cid in &cids {
                    let status = client.pinned_on(cid, 2).await?;
                    ensure!(status.nodes.iter().all(|one| one.node != node), "{cid} is there");
                }
                Ok(())
            })
            .await
    };
    let state = |state: v1::NodeState| v1::SetNodeStateRequest {
        node: "node-2".into(),
        state: state.into(),
    };
    let drained = client
        .cluster
        .clone()
        .set_node_state(state(v1::NodeState::Draining))
        .await?;
    assert_eq!(drained.into_inner().state(), v1::NodeState::Draining);
    off("node-2").await?;
    cluster
        .fake(1)
        .wait("be empty", LIMIT, |fake| fake.pins().is_empty())
        .await?;
    client
        .cluster
        .clone()
        .set_node_state(state(v1::NodeState::Active))
        .await?;

    let remove = |node: &str| v1::RemoveNodeRequest { node: node.into() };
    let missing = client.cluster.clone().remove_node(remove("nowhere")).await;
    assert_eq!(missing.expect_err("there is no such node").code(), Code::NotFound);
    client.cluster.clone().remove_node(remove("node-3")).await?;
    off("node-3").await?;
    let nodes = client
        .cluster
        .clone()
        .list_nodes(v1::ListNodesRequest {})
        .await?
        .into_inner()
        .nodes;
    ensure!(
        nodes
            .iter()
            .all(|node| node.name != "node-3" || node.state() == v1::NodeState::Gone),
        "{nodes:?}"
    );
    Ok(())
}

/// What the server answers to a question about its services, as it is on the wire.
async fn reflected(grpc: &mut tonic::client::Grpc<Channel>, question: Vec<u8>) -> anyhow::Result<String> {
    grpc.ready().await?;
    let ask = tokio_stream::once(question);
    let path = PathAndQuery::from_static("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    let answer: tonic::Response<tonic::Streaming<Vec<u8>>> =
        grpc.streaming(tonic::Request::new(ask), path, Bytes).await?;
    let answer = answer.into_inner().next().await.context("an answer")??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_every_grpc_server_has_and_what_is_measured() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let client = cluster.client(0);
    let held = fresh_cid();
    client.pin_as(pin_replicas(&held, 3)).await?;
    cluster
        .wait_until("it is pinned", LIMIT, async || client.pinned_on(&held, 3).await)
        .await?;

    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await?;
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let health: tonic::Response<Vec<u8>> = grpc.unary(tonic::Request::new(Vec::new()), path, Bytes).await?;
    // Field 1: SERVING.
    assert_eq!(health.into_inner(), [8, 1]);
    // Field 7: the list of services; field 4: the file in which a name stands.
    let services = reflected(&mut grpc, vec![0x3A, 1, b'*']).await?;
    for service in ["pinfleet.v1.Pins", "pinfleet.v1.Cluster", "grpc.health.v1.Health"] {
        ensure!(services.contains(service), "{services:?} lacks {service}");
    }
    for name in ["google.rpc.BadRequest", "google.rpc.ErrorInfo"] {
        let question = [&[0x22, u8::try_from(name.len())?], name.as_bytes()].concat();
        let file = reflected(&mut grpc, question).await?;
        ensure!(file.contains("error_details.proto"), "{name}: {file:?}");
    }
    ensure!(
        !services.contains("pinfleet.peer"),
        "what peers ask of each other is not for clients: {services:?}"
    );

    let leader = cluster.leader().await?;
    let (code, metrics) = cluster.peer(leader).http_get("/metrics").await?;
    assert_eq!(code, 200);
    for series in [
        "pinfleet_build_info{",
        "pinfleet_queue_pins{",
        "pinfleet_queue_oldest_seconds{",
        "pinfleet_node_reachable{",
        "pinfleet_attempts_total{",
        "pinfleet_kubo_call_seconds_bucket{",
        "pinfleet_raft_commit_seconds_bucket{",
        "pinfleet_raft_batch_operations_bucket{",
        "pinfleet_raft_proposals_total{",
        "pinfleet_raft_apply_lag_entries",
        "pinfleet_raft_applied_index",
        "pinfleet_raft_term",
        "pinfleet_raft_is_leader",
        "pinfleet_raft_queue_bytes",
        "pinfleet_raft_snapshots_built_total",
        "pinfleet_raft_snapshot_installs_total",
        "pinfleet_rocksdb_memtable_bytes{",
        "pinfleet_rocksdb_sst_bytes{",
        "pinfleet_rocksdb_pending_compaction_bytes{",
        "pinfleet_rocksdb_block_cache_bytes{",
        "pinfleet_grpc_requests_total{",
        "pinfleet_grpc_request_seconds_bucket{",
        "pinfleet_grpc_requests_in_flight",
    ] {
        ensure!(
            metrics.lines().any(|line| line.starts_with(series)),
            "/metrics lacks {series}:\n{metrics}"
        );
    }
    Ok(())
}

/// Streams last, so there is a bound on how many run; beyond it a client is told when to come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beyond_the_bound_are_told_to_come_again() -> anyhow::Result<()> {
    const BULKS_MAX: usize = 256;
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let address = cluster.peer(0).info().grpc;
    let mut open = Vec::new();
    let mut refused = None;
    for number in 0..=BULKS_MAX {
        // A connection takes no more than so many streams.
        let client = Client::new(&address, LIMIT)?;
        let (keep, items) = tokio::sync::mpsc::channel::<v1::BulkPinRequest>(1);
        let stream = client
            .pins
            .clone()
            .bulk_pin(tokio_stream::wrappers::ReceiverStream::new(items))
            .await;
        match stream {
            Ok(stream) => open.push((keep, stream)),
            Err(status) => {
                ensure!(number == BULKS_MAX, "the {number}th was refused: {status}");
                refused = Some(status);
            }
        }
    }
    let refused = refused.context("there is no bound")?;
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::ResourceExhausted, "OVERLOADED")
    );
    ensure!(refused.get_error_details().retry_info().is_some(), "{refused:?}");
    // A place that is given back is there for the next.
    drop(open.pop());
    let client = cluster.client(0);
    cluster
        .wait_until("one more is taken", LIMIT, async || {
            bulk(&client, 0..1, 1).await.map(drop)
        })
        .await
}
