//! Clusters whose nodes are inside the peers: content in, content out, and what holds when something fails.

mod faults;
mod mixed;
mod ops;
mod pieces;

use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::client::{Client, replicas_of};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::fresh_bytes;
use cluster_tests::node::NodeKind;
use node_core::Cid;
use tonic::Code;

use super::reason;

/// Blocks travel between processes on a busy machine.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

fn options() -> ClusterOptions {
    let options = ClusterOptions {
        node: NodeKind::Embedded,
        ..ClusterOptions::default()
    };
    options
        .with("worker.backoff_base", "200ms")
        .with("worker.backoff_max", "1s")
        .with("embedded.free_min", "1MiB")
}

fn start_of(replicas: i32) -> v1::AddStart {
    v1::AddStart {
        options: Some(replicas_of(replicas)),
        ..v1::AddStart::default()
    }
}

/// How many pins there are, with all that was acknowledged.
async fn count(client: &Client) -> anyhow::Result<usize> {
    let request = v1::ListRequest {
        consistency: v1::Consistency::Linearizable.into(),
        ..v1::ListRequest::default()
    };
    Ok(client.list(request).await?.len())
}

async fn pinned(cluster: &Cluster, cid: &Cid, nodes: usize) -> anyhow::Result<v1::PinStatus> {
    let client = cluster.any()?;
    cluster
        .wait_until("it is pinned", FETCH_LIMIT, async || client.pinned_on(cid, nodes).await)
        .await
}

/// Whether the gateway of a peer, which shows what its node has itself, has a block.
async fn has(cluster: &Cluster, index: usize, cid: &Cid) -> anyhow::Result<bool> {
    let url = format!("{}/ipfs/{cid}?format=raw", cluster.gateway(index)?);
    let answer = reqwest::get(url).await?;
    match answer.status().as_u16() {
        200 => Ok(true),
        404 => Ok(false),
        other => anyhow::bail!("{other}: {}", answer.text().await?),
    }
}

async fn holders(cluster: &Cluster, cid: &Cid) -> anyhow::Result<Vec<usize>> {
    let mut holders = Vec::new();
    for index in 0..cluster.peers().len() {
        if has(cluster, index, cid).await? {
            holders.push(index);
        }
    }
    Ok(holders)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_goes_in_and_comes_back_from_every_peer() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(options()).await?;
    let client = cluster.client(0);
    let bytes = fresh_bytes(5 << 20);
    let done = client.add(start_of(2), &[("file", Some(&bytes))]).await?;
    let cid: Cid = done.cid.parse()?;
    ensure!(done.nodes.len() == 2 && done.failures.is_empty(), "{done:?}");
    let pin = done.pin.clone().context("it was pinned")?.pin.context("a pin")?;
    let mut nodes = done.nodes.clone();
    nodes.sort();
    ensure!(pin.nodes == nodes, "the nodes that have it hold it: {pin:?}");
    let status = pinned(&cluster, &cid, 2).await?;
    for node in &status.nodes {
        ensure!(
            node.bytes >= bytes.len() as u64 && node.blocks == done.blocks,
            "{node:?} of {done:?}"
        );
    }
    ensure!(holders(&cluster, &cid).await?.len() == 2, "two nodes have it");

    // Any peer gives it back, also the one whose node lacks it; a part of it too.
    for index in 0..3 {
        let client = cluster.client(index);
        ensure!(client.cat(cid).await? == bytes, "peer {index} gave other bytes");
        let part = client
            .fetch(v1::FetchRequest {
                path: cid.to_string(),
                offset: (1 << 20) - 7,
                length: 20,
                ..v1::FetchRequest::default()
            })
            .await?;
        ensure!(part == bytes[(1 << 20) - 7..][..20], "a range over two blocks");
    }

    // The same again changes nothing; one more replica is fetched from the other nodes.
    let again = client.add(start_of(2), &[("file", Some(&bytes))]).await?;
    let outcome = again.pin.context("it was pinned")?.outcome;
    assert_eq!(
        (again.cid.as_str(), outcome),
        (done.cid.as_str(), v1::PinOutcome::Unchanged.into())
    );
    let all = v1::PinRequest {
        cid: cid.to_string(),
        options: Some(replicas_of(3)),
        ..v1::PinRequest::default()
    };
    client.pin_as(all).await?;
    pinned(&cluster, &cid, 3).await?;
    ensure!(holders(&cluster, &cid).await?.len() == 3, "the third has fetched it");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_and_car_files_go_in_and_out() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(options()).await?;
    let client = cluster.client(1);
    let (one, two) = (fresh_bytes(300_000), b"two".to_vec());
    let entries: &[(&str, Option<&[u8]>)] = &[
        ("tree", None),
        ("tree/one", Some(&one)),
        ("tree/sub", None),
        ("tree/sub/two", Some(&two)),
    ];
    let done = client.add(start_of(2), entries).await?;
    let cid: Cid = done.cid.parse()?;
    pinned(&cluster, &cid, 2).await?;
    ensure!(client.cat(format!("/ipfs/{cid}/sub/two")).await? == two, "by path");
    let tar = client
        .fetch(v1::FetchRequest {
            path: cid.to_string(),
            format: v1::FetchFormat::Tar.into(),
            ..v1::FetchRequest::default()
        })
        .await?;
    ensure!(
        tar.windows(one.len()).any(|part| part == one),
        "the archive holds the file"
    );

    // Out as a CAR file, and, under another name, in again.
    let car = client
        .fetch(v1::FetchRequest {
            path: cid.to_string(),
            format: v1::FetchFormat::Car.into(),
            ..v1::FetchRequest::default()
        })
        .await?;
    let start = |slot: &str| v1::AddStart {
        slot: slot.into(),
        format: Some(v1::add_start::Format::Car(v1::CarOptions {})),
        ..start_of(1)
    };
    let data = |bytes: &[u8]| v1::add_request::Message::Data(bytes.to_vec().into());
    let begin = |slot: &str| v1::add_request::Message::Start(start(slot));
    let back = client.add_messages(vec![begin("again"), data(&car)]).await?;
    assert_eq!((back.cid.as_str(), back.roots.len()), (done.cid.as_str(), 1));

    // A CAR file that is cut, or in which a byte is another one, pins nothing.
    let pins = count(&client).await?;
    let mut flipped = car.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    for broken in [&car[..car.len() - 1], &flipped[..], &b"no CAR at all"[..]] {
        let refused = client.add_messages(vec![begin("broken"), data(broken)]).await;
        let refused = refused.expect_err("it is broken");
        ensure!(
            refused.code() == Code::InvalidArgument && reason(&refused) == "INVALID",
            "{refused:?}"
        );
    }
    ensure!(count(&client).await? == pins, "nothing was pinned");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_an_add_is_said_and_nothing_is_pinned() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(options()).await?;
    let client = cluster.client(0);
    let unixfs = |change: fn(&mut v1::UnixFsOptions)| {
        let mut options = v1::UnixFsOptions::default();
        change(&mut options);
        v1::AddStart {
            format: Some(v1::add_start::Format::Unixfs(options)),
            ..start_of(1)
        }
    };
    let direct = v1::AddStart {
        options: Some(v1::PinOptions {
            mode: v1::PinMode::Direct.into(),
            ..replicas_of(1)
        }),
        ..v1::AddStart::default()
    };
    type Case<'a> = (v1::AddStart, Vec<(&'a str, Option<&'a [u8]>)>, &'a str);
    let cases: Vec<Case<'_>> = vec![
        (start_of(1), vec![], ""),
        (start_of(1), vec![("a", Some(b"a")), ("b", Some(b"b"))], "path"),
        (start_of(1), vec![("../a", Some(b"a"))], "path"),
        (direct, vec![("a", Some(b"a"))], "options.mode"),
        (
            unixfs(|o| o.profile = "newest".into()),
            vec![("a", Some(b"a"))],
            "unixfs.profile",
        ),
        (
            unixfs(|o| o.chunker = "size-0".into()),
            vec![("a", Some(b"a"))],
            "unixfs.chunker",
        ),
        (
            unixfs(|o| o.hash = "md5".into()),
            vec![("a", Some(b"a"))],
            "unixfs.hash",
        ),
        (
            unixfs(|o| o.cid_version = Some(2)),
            vec![("a", Some(b"a"))],
            "unixfs.cid_version",
        ),
        (unixfs(|o| o.hamt_fanout = Some(100)), vec![("a", Some(b"a"))], "unixfs"),
    ];
    for (start, entries, field) in cases {
        let refused = client.add(start, &entries).await.expect_err("it is wrong");
        ensure!(refused.code() == Code::InvalidArgument, "{entries:?}: {refused:?}");
        ensure!(refused.message().contains(field), "{field}: {refused:?}");
    }
    let too_many = client
        .add(start_of(4), &[("a", Some(b"a"))])
        .await
        .expect_err("three nodes");
    ensure!(
        too_many.code() == Code::FailedPrecondition && too_many.message().contains("3 of the 4 nodes"),
        "{too_many:?}"
    );
    // An add that its client gives up on leaves no pin.
    let messages = [v1::add_request::Message::Data(vec![1, 2, 3].into())];
    let refused = client.add_messages(messages.to_vec()).await.expect_err("no start");
    ensure!(refused.message().contains("start"), "{refused:?}");
    // A client that cancels in the middle looks to the server like one that has sent all.
    let cut = vec![
        v1::add_request::Message::Start(start_of(1)),
        v1::add_request::Message::Entry(v1::AddEntry {
            path: "half".into(),
            ..v1::AddEntry::default()
        }),
        v1::add_request::Message::Data(vec![1, 2, 3].into()),
    ];
    let refused = client
        .add_cut(cut)
        .await
        .expect_err("it did not say that it is the end");
    ensure!(
        refused.code() == Code::InvalidArgument && refused.message().contains("broken off"),
        "{refused:?}"
    );
    ensure!(count(&client).await? == 0, "nothing was pinned");

    // What nobody has is said so, and by its name.
    let missing = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";
    let absent = client.cat(missing).await.expect_err("nobody has it");
    ensure!(
        absent.code() == Code::NotFound && absent.message().contains(missing),
        "{absent:?}"
    );
    for (path, code) in [("nonsense", Code::InvalidArgument), ("", Code::InvalidArgument)] {
        assert_eq!(client.cat(path).await.expect_err("no path").code(), code, "{path:?}");
    }
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_unpinned_goes_and_what_is_shared_stays() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(options().with("embedded.storage_max", "64MiB")).await?;
    let client = cluster.client(2);
    let shared = fresh_bytes(1 << 20);
    let first = client
        .add(start_of(3), &[("d", None), ("d/shared", Some(&shared))])
        .await?;
    let own = fresh_bytes(1 << 20);
    let second = client
        .add(
            start_of(3),
            &[("d", None), ("d/own", Some(&own)), ("d/shared", Some(&shared))],
        )
        .await?;
    let (first, second): (Cid, Cid) = (first.cid.parse()?, second.cid.parse()?);
    pinned(&cluster, &first, 3).await?;
    pinned(&cluster, &second, 3).await?;
    client.unpin(&second).await?;
    cluster
        .wait_until("the nodes have let go of it", LIMIT, async || {
            let status = client.status(&second).await;
            ensure!(status.is_err(), "{status:?}");
            Ok(())
        })
        .await?;
    ensure!(
        client.cat(format!("{first}/shared")).await? == shared,
        "the other pin has it"
    );
    cluster.stop().await
}
