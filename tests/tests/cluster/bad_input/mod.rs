//! Bad input on every entry: refused with the field's name, and nothing changed.

mod changes;
mod lists;

use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::client::{Client, pin_request, replicas_of};
use cluster_tests::cluster::{Cluster, LIMIT};
use cluster_tests::content::{cid, fresh_cid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{Bytes, reason};

/// What must not move.
async fn standing(client: &Client) -> anyhow::Result<String> {
    let status = client.cluster_status().await?;
    let nodes: Vec<_> = status
        .nodes
        .iter()
        .map(|node| (&node.name, node.state, node.weight))
        .collect();
    let settings = client
        .cluster
        .clone()
        .update_settings(v1::UpdateSettingsRequest::default())
        .await?
        .into_inner();
    let counts = (status.revision, status.pins, status.cids, status.unplaced);
    Ok(format!(
        "{counts:?} {nodes:?} {} peers {settings:?}",
        status.peers.len()
    ))
}

/// Checks a refusal: the code, the field, a text that names both value and remedy.
fn refused<T: std::fmt::Debug>(what: &str, result: Result<T, Status>, field: &str) -> anyhow::Result<()> {
    let Err(status) = result else {
        anyhow::bail!("{what} was taken: {result:?}");
    };
    ensure!(status.code() == Code::InvalidArgument, "{what}: {status:?}");
    ensure!(reason(&status) == "INVALID", "{what}: {status:?}");
    let details = status.get_error_details();
    let violations = &details
        .bad_request()
        .with_context(|| format!("{what}: no BadRequest"))?
        .field_violations;
    let named = violations.first().map(|violation| violation.field.as_str());
    ensure!(
        named == Some(field),
        "{what} names {named:?}, not {field:?}: {}",
        status.message()
    );
    ensure!(
        status.message().len() > field.len() + 10,
        "{what}: {:?} says too little",
        status.message()
    );
    Ok(())
}

fn timestamp(seconds: i64, nanos: i32) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos }
}

/// Options that break one rule, and the field that is to be named.
fn bad_options() -> Vec<(&'static str, &'static str, v1::PinOptions)> {
    let none = v1::PinOptions::default;
    let meta = |pairs: Vec<(String, String)>| v1::PinOptions {
        metadata: pairs.into_iter().collect(),
        ..none()
    };
    let replication = |min, max| v1::PinOptions {
        replication_min: min,
        replication_max: max,
        ..none()
    };
    let origin = |origin: &str| v1::PinOptions {
        origins: vec![origin.into()],
        ..none()
    };
    let expiry = |expiry| v1::PinOptions {
        expiry: Some(expiry),
        ..none()
    };
    let good_origin = "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5";
    vec![
        (
            "a long name",
            "name",
            v1::PinOptions {
                name: "x".repeat(1_025),
                ..none()
            },
        ),
        (
            "a name with NUL",
            "name",
            v1::PinOptions {
                name: "a\0b".into(),
                ..none()
            },
        ),
        ("an unknown mode", "mode", v1::PinOptions { mode: 9, ..none() }),
        ("a negative minimum", "replication", replication(-2, 1)),
        ("a negative maximum", "replication", replication(1, -2)),
        ("everywhere for one of two", "replication", replication(-1, 2)),
        ("more at least than at most", "replication", replication(3, 2)),
        ("too many replicas", "replication", replication(1, 1_001)),
        (
            "an unknown node",
            "nodes",
            v1::PinOptions {
                nodes: vec!["nowhere".into()],
                ..none()
            },
        ),
        (
            "too many nodes",
            "nodes",
            v1::PinOptions {
                nodes: vec!["node-1".into(); 101],
                ..none()
            },
        ),
        (
            "too many pairs",
            "metadata",
            meta((0..65).map(|number| (number.to_string(), String::new())).collect()),
        ),
        ("an empty key", "metadata", meta(vec![(String::new(), "x".into())])),
        (
            "a long key",
            "metadata key",
            meta(vec![("k".repeat(257), String::new())]),
        ),
        (
            "a long value",
            "metadata.k",
            meta(vec![("k".into(), "v".repeat(4_097))]),
        ),
        ("a value with NUL", "metadata.k", meta(vec![("k".into(), "\0".into())])),
        (
            "much metadata",
            "metadata",
            meta((0..9).map(|number| (number.to_string(), "v".repeat(4_000))).collect()),
        ),
        ("an origin that is none", "origins", origin("http://example.com")),
        (
            "an origin without a peer ID",
            "origins",
            origin("/ip4/127.0.0.1/tcp/4001"),
        ),
        (
            "a long origin",
            "origins",
            origin(&format!("/dns4/{}/tcp/1", "x".repeat(600))),
        ),
        (
            "too many origins",
            "origins",
            v1::PinOptions {
                origins: vec![good_origin.into(); 33],
                ..none()
            },
        ),
        (
            "an expiry in the past",
            "expire_at",
            expiry(v1::pin_options::Expiry::ExpireAt(timestamp(1_000, 0))),
        ),
        (
            "an expiry that is no time",
            "expire_at",
            expiry(v1::pin_options::Expiry::ExpireAt(timestamp(4_000_000_000, -1))),
        ),
        (
            "an expiry after all time",
            "expire_at",
            expiry(v1::pin_options::Expiry::ExpireAt(timestamp(i64::MAX, 0))),
        ),
        (
            "an expiry at once",
            "expire_in_ms",
            expiry(v1::pin_options::Expiry::ExpireInMs(999)),
        ),
    ]
}

/// CIDs that are none.
fn bad_cids() -> Vec<String> {
    let good = fresh_cid().to_string();
    let cut = &good[..good.len() - 1];
    ["", "Qm", "hello", "bafy\0", "/ipfs/bafy", cut, "é", "Qmé", "b"]
        .into_iter()
        .map(str::to_owned)
        .chain(["b".repeat(5_000)])
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_that_break_a_rule_are_refused() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    // Through a peer that does not lead: refused where it comes in.
    let client = cluster.client(cluster.follower().await?);
    client.pin(&cid(1)).await?;
    let before = standing(&client).await?;
    let with = |options| v1::PinRequest {
        options: Some(options),
        ..pin_request(&cid(1))
    };

    for text in bad_cids() {
        let what = format!("the CID {text:.20?}");
        let request = v1::PinRequest {
            cid: text.clone(),
            ..v1::PinRequest::default()
        };
        refused(&what, client.pin_as(request).await, "cid")?;
        let unpin = v1::UnpinRequest {
            cid: text.clone(),
            ..v1::UnpinRequest::default()
        };
        refused(&what, client.pins.clone().unpin(unpin).await, "cid")?;
        let get = v1::GetRequest {
            cid: text.clone(),
            ..v1::GetRequest::default()
        };
        refused(&what, client.pins.clone().get(get).await, "cid")?;
        let status = v1::StatusRequest {
            cid: text.clone(),
            ..v1::StatusRequest::default()
        };
        refused(&what, client.pins.clone().status(status).await, "cid")?;
        let explain = v1::ExplainRequest {
            cid: text.clone(),
            ..v1::ExplainRequest::default()
        };
        refused(&what, client.pins.clone().explain(explain).await, "cid")?;
        let update = |from: &str, to: &str| v1::UpdateRequest {
            from: from.into(),
            to: to.into(),
            ..v1::UpdateRequest::default()
        };
        let good = cid(1).to_string();
        refused(&what, client.pins.clone().update(update(&text, &good)).await, "from")?;
        refused(&what, client.pins.clone().update(update(&good, &text)).await, "to")?;
        if !text.is_empty() {
            let recover = v1::RecoverRequest {
                cid: text,
                ..v1::RecoverRequest::default()
            };
            refused(&what, client.pins.clone().recover(recover).await, "cid")?;
        }
    }

    let mut items = Vec::new();
    for (what, field, options) in bad_options() {
        refused(what, client.pin_as(with(options.clone())).await, field)?;
        items.push(v1::BulkPinItem {
            cid: cid(1).to_string(),
            options: Some(options),
            ..v1::BulkPinItem::default()
        });
    }
    // In a stream each is refused on its own, and what is right between them is not.
    let good = v1::BulkPinItem {
        cid: cid(1).to_string(),
        ..v1::BulkPinItem::default()
    };
    items.push(good.clone());
    let results = client.bulk(items, 5).await?;
    let (last, refusals) = results.split_last().context("results")?;
    assert_eq!((last.code, last.outcome()), (0, v1::PinOutcome::Unchanged));
    for (result, (what, field, _)) in refusals.iter().zip(bad_options()) {
        ensure!(
            result.code == Code::InvalidArgument as i32 && result.error.contains(field),
            "{what}: {result:?}"
        );
    }

    for (what, field, request) in [
        (
            "a namespace with capitals",
            "namespace",
            v1::PinRequest {
                namespace: "Team".into(),
                ..pin_request(&cid(1))
            },
        ),
        (
            "a long namespace",
            "namespace",
            v1::PinRequest {
                namespace: "a".repeat(64),
                ..pin_request(&cid(1))
            },
        ),
        (
            "a namespace with NUL",
            "namespace",
            v1::PinRequest {
                namespace: "a\0".into(),
                ..pin_request(&cid(1))
            },
        ),
        (
            "a long slot",
            "slot",
            v1::PinRequest {
                slot: "s".repeat(129),
                ..pin_request(&cid(1))
            },
        ),
        (
            "a slot with NUL",
            "slot",
            v1::PinRequest {
                slot: "\0".into(),
                ..pin_request(&cid(1))
            },
        ),
        (
            "a long request ID",
            "request_id",
            v1::PinRequest {
                request_id: "r".repeat(65),
                ..pin_request(&cid(1))
            },
        ),
    ] {
        refused(what, client.pin_as(request).await, field)?;
    }
    let update = v1::UpdateRequest {
        from: cid(1).to_string(),
        to: cid(2).to_string(),
        ..v1::UpdateRequest::default()
    };
    for (what, field, request) in [
        (
            "a long name",
            "name",
            v1::UpdateRequest {
                name: "x".repeat(1_025),
                ..update.clone()
            },
        ),
        (
            "an expiry in the past",
            "expire_at",
            v1::UpdateRequest {
                expire_at: Some(timestamp(1, 0)),
                ..update.clone()
            },
        ),
        (
            "a long request ID",
            "request_id",
            v1::UpdateRequest {
                request_id: "r".repeat(65),
                ..update.clone()
            },
        ),
    ] {
        refused(what, client.pins.clone().update(request).await, field)?;
    }

    // More items than a message may hold end the stream, before any of them was looked at.
    let items = vec![
        v1::BulkPinItem {
            cid: fresh_cid().to_string(),
            ..good
        };
        1_001
    ];
    refused("1,001 items", client.bulk(items, 2_000).await, "items")?;
    assert_eq!(standing(&client).await?, before);
    Ok(())
}

/// What is no message at all, or too much of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_oversized_messages_are_refused() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let client = cluster.client(0);
    client.pin(&cid(1)).await?;
    let before = standing(&client).await?;

    // 5 MiB, where 4 are allowed.
    let large = "x".repeat(5 << 20);
    let request = v1::PinRequest {
        cid: large.clone(),
        ..v1::PinRequest::default()
    };
    refused("a large message", client.pin_as(request).await, "message")?;
    let items = vec![v1::BulkPinItem {
        cid: large.clone(),
        ..v1::BulkPinItem::default()
    }];
    refused("a large message in a stream", client.bulk(items, 1).await, "message")?;
    let add = v1::AddNodeRequest {
        api: large,
        ..v1::AddNodeRequest::default()
    };
    refused("a large message", client.cluster.clone().add_node(add).await, "message")?;

    // A method that does not exist, and bytes that are no protobuf, on one that does.
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await?;
    let path = |path| tonic::codegen::http::uri::PathAndQuery::from_static(path);
    let answer: Result<tonic::Response<Vec<u8>>, _> = grpc
        .unary(tonic::Request::new(Vec::new()), path("/pinfleet.v1.Pins/NoSuch"), Bytes)
        .await;
    let status = answer.expect_err("there is no such method");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unimplemented, "UNIMPLEMENTED")
    );
    grpc.ready().await?;
    let garbage = tonic::Request::new(vec![0xFF; 64]);
    let answer: Result<tonic::Response<Vec<u8>>, _> = grpc.unary(garbage, path("/pinfleet.v1.Pins/Pin"), Bytes).await;
    refused("garbage in a frame", answer, "message")?;

    // Bytes that are no HTTP/2, no TLS: the connection ends, and nobody else notices.
    for address in [cluster.peer(0).info().grpc, cluster.peer(0).info().peer] {
        for bytes in [
            &b"\0\x01\x02garbage\xFF\xFF"[..],
            b"GET / HTTP/1.1\r\n\r\n",
            &[0x16; 70_000],
        ] {
            let mut stream = TcpStream::connect(&address).await?;
            // The other side may have hung up before all is sent.
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
            ensure!(ended.is_ok(), "{address} keeps a connection of garbage");
        }
    }
    // The peers' port speaks to members only.
    let stranger = tonic::transport::Endpoint::from_shared(format!("http://{}", cluster.peer(0).info().peer))?;
    let mut peers = cluster_proto::peer::v1::peers_client::PeersClient::new(stranger.connect_lazy());
    let answer = peers.fleet(cluster_proto::peer::v1::FleetRequest {}).await;
    ensure!(answer.is_err(), "a stranger without TLS was answered: {answer:?}");

    cluster.settled().await?;
    assert_eq!(standing(&client).await?, before);
    cluster
        .wait_until("the pin is held as before", LIMIT, async || {
            client.pinned_on(&cid(1), 2).await
        })
        .await?;
    client
        .pin_as(v1::PinRequest {
            options: Some(replicas_of(2)),
            ..pin_request(&fresh_cid())
        })
        .await?;
    Ok(())
}
