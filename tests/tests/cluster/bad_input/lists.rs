//! Lists, statuses, watches and recovers that break a rule.

use std::collections::HashMap;

use anyhow::Context;
use cluster_proto::v1;
use cluster_tests::cluster::Cluster;
use cluster_tests::content::cid;
use tokio_stream::StreamExt as _;

use super::{refused, standing, timestamp};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_recovers_that_break_a_rule_are_refused() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let client = cluster.client(1);
    for number in 0..3 {
        client.pin(&cid(number)).await?;
    }
    cluster.caught_up().await?;
    let before = standing(&client).await?;
    let none = v1::PinFilter::default;
    let bad_time = || Some(timestamp(-1, 0));
    let filters = [
        (
            "a namespace",
            "filter.namespace",
            v1::PinFilter {
                namespace: "No Such".into(),
                ..none()
            },
        ),
        (
            "a name prefix with NUL",
            "filter.name_prefix",
            v1::PinFilter {
                name_prefix: "a\0".into(),
                ..none()
            },
        ),
        (
            "a long name prefix",
            "filter.name_prefix",
            v1::PinFilter {
                name_prefix: "a".repeat(1_025),
                ..none()
            },
        ),
        (
            "an empty metadata key",
            "filter.metadata",
            v1::PinFilter {
                metadata: HashMap::from([(String::new(), "x".into())]),
                ..none()
            },
        ),
        (
            "a metadata value with NUL",
            "filter.metadata.k",
            v1::PinFilter {
                metadata: HashMap::from([("k".into(), "\0".into())]),
                ..none()
            },
        ),
        (
            "a node",
            "filter.node",
            v1::PinFilter {
                node: "nowhere".into(),
                ..none()
            },
        ),
        (
            "a time",
            "filter.created_after",
            v1::PinFilter {
                created_after: bad_time(),
                ..none()
            },
        ),
        (
            "a time",
            "filter.created_before",
            v1::PinFilter {
                created_before: bad_time(),
                ..none()
            },
        ),
        (
            "a time",
            "filter.expires_before",
            v1::PinFilter {
                expires_before: bad_time(),
                ..none()
            },
        ),
        (
            "a CID",
            "filter.cids",
            v1::PinFilter {
                cids: vec![cid(1).to_string(), "nonsense".into()],
                ..none()
            },
        ),
        (
            "too many CIDs",
            "filter.cids",
            v1::PinFilter {
                cids: vec![cid(1).to_string(); 10_001],
                ..none()
            },
        ),
    ];
    for (what, field, filter) in filters {
        let list = v1::ListRequest {
            filter: Some(filter.clone()),
            ..v1::ListRequest::default()
        };
        refused(what, client.list(list).await, field)?;
        let statuses = v1::StatusAllRequest {
            filter: Some(filter),
            ..v1::StatusAllRequest::default()
        };
        refused(what, client.status_all(statuses).await, field)?;
    }

    // Cursors: made up, damaged, of another list.
    let cursor_of = async |filter: v1::PinFilter| -> anyhow::Result<String> {
        let request = v1::ListRequest {
            filter: Some(filter),
            limit: 1,
            ..v1::ListRequest::default()
        };
        let mut stream = client.pins.clone().list(request).await?.into_inner();
        Ok(stream.next().await.context("a chunk")??.cursor)
    };
    let whole = cursor_of(none()).await?;
    let named = cursor_of(v1::PinFilter {
        cids: vec![cid(1).to_string()],
        ..none()
    })
    .await?;
    let long = "00".repeat(20_000);
    for cursor in ["x", "zz", "é0", "ff", "0", &named, &whole[..whole.len() - 1], &long] {
        let list = v1::ListRequest {
            cursor: cursor.to_owned(),
            ..v1::ListRequest::default()
        };
        refused(&format!("the cursor {cursor:.20}"), client.list(list).await, "cursor")?;
        let statuses = v1::StatusAllRequest {
            cursor: cursor.to_owned(),
            ..v1::StatusAllRequest::default()
        };
        refused(
            &format!("the cursor {cursor:.20}"),
            client.status_all(statuses).await,
            "cursor",
        )?;
    }
    for statuses in [vec![0], vec![9], vec![3, -1]] {
        let request = v1::StatusAllRequest {
            statuses,
            ..v1::StatusAllRequest::default()
        };
        refused("a status", client.status_all(request).await, "statuses")?;
    }
    let list = v1::ListRequest {
        consistency: 7,
        ..v1::ListRequest::default()
    };
    refused("a consistency", client.list(list).await, "consistency")?;

    let recover = v1::RecoverRequest::default;
    for (what, field, request) in [
        (
            "a node",
            "node",
            v1::RecoverRequest {
                node: "nowhere".into(),
                ..recover()
            },
        ),
        (
            "a status",
            "statuses",
            v1::RecoverRequest {
                statuses: vec![42],
                ..recover()
            },
        ),
        (
            "a status that can't be",
            "statuses",
            v1::RecoverRequest {
                statuses: vec![v1::Status::Pinned.into()],
                ..recover()
            },
        ),
        (
            "an error class",
            "error_class",
            v1::RecoverRequest {
                error_class: "bad luck".into(),
                ..recover()
            },
        ),
    ] {
        refused(what, client.pins.clone().recover(request).await, field)?;
    }
    let watch = v1::WatchRequest {
        namespace: "No Such".into(),
        ..v1::WatchRequest::default()
    };
    refused("a namespace", client.pins.clone().watch(watch).await, "namespace")?;
    assert_eq!(standing(&client).await?, before);
    Ok(())
}
