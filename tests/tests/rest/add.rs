//! Adding content.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use cluster_tests::car::iroh_make;
use cluster_tests::cluster::{Cluster, ClusterOptions};
use cluster_tests::content::{cid_of, fresh_bytes, fresh_cid};
use cluster_tests::node::NodeKind;
use cluster_tests::raw_http::statuses;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Api;

/// Blocks travel between processes on a busy machine.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

const BOUNDARY: &str = "a-boundary";
const DIRECTORY: &str = "application/x-directory";
const BYTES: &str = "application/octet-stream";

fn embedded(peers: usize) -> ClusterOptions {
    let options = ClusterOptions {
        peers,
        node: NodeKind::Embedded,
        ..ClusterOptions::default()
    };
    options.with("embedded.free_min", "1MiB")
}

/// Parts as the Go client writes them: names escaped as in a query.
fn body(parts: &[(&str, &str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, kind, bytes) in parts {
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: {kind}\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

fn content_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

impl Api {
    async fn add(&self, query: &str, parts: &[(&str, &str, &[u8])]) -> anyhow::Result<cluster_tests::raw_http::Answer> {
        self.post_body(&format!("/add?{query}"), &content_type(), &body(parts))
            .await
    }
}

fn last(lines: &[Value]) -> String {
    let cid = lines.last().and_then(|line| line["cid"].as_str());
    cid.unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_and_directories_become_pins_that_kubo_would_make() -> anyhow::Result<()> {
    let cluster = Cluster::start(embedded(2)).await?;
    let api = Api::of(&cluster, 0);

    // `echo hello world | ipfs add`, as it has always been.
    let hello = b"hello world\n";
    let answer = api.add("name=hello&repl_min=2", &[("hello.txt", BYTES, hello)]).await?;
    assert_eq!(answer.header("x-chunked-output"), Some("1"));
    assert_eq!(answer.header("cache-control"), Some("no-cache"));
    assert_eq!(answer.header("connection"), Some("close"));
    let lines = answer.lines()?;
    assert_eq!(lines.len(), 1);
    let root = "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o";
    assert_eq!(
        (&lines[0]["name"], &lines[0]["cid"], &lines[0]["size"]),
        (&json!("hello.txt"), &json!(root), &json!(20))
    );
    assert_eq!(lines[0]["allocations"].as_array().map(Vec::len), Some(2), "{lines:?}");
    let pin = api.get(&format!("/allocations/{root}")).await?.json(200)?;
    assert_eq!((&pin["name"], &pin["mode"]), (&json!("hello"), &json!("recursive")));
    api.wait_for(&cluster, root, "pinned", 2).await?;

    // Version 1 means raw leaves unless told otherwise.
    let raw = cid_of(0x55, hello).to_string();
    let file = [("hello.txt", BYTES, &hello[..])];
    assert_eq!(last(&api.add("cid-version=1", &file).await?.lines()?), raw);
    assert_eq!(last(&api.add("raw-leaves=true", &file).await?.lines()?), raw);
    let framed = last(&api.add("cid-version=1&raw-leaves=false", &file).await?.lines()?);
    assert!(framed.starts_with("bafybei"), "{framed}");

    // A directory: explicit, with escaped names, in a directory that no part names; the root comes last.
    let parts: [(&str, &str, &[u8]); 4] = [
        ("d", DIRECTORY, b""),
        ("d%2Fx+y.txt", BYTES, b"hello"),
        ("d%2Fsub%2Fdeep.txt", "text/plain", b"deep"),
        ("d%2Flink", "application/symlink", b"x y.txt"),
    ];
    let lines = api.add("stream-channels=true&cid-version=1", &parts).await?.lines()?;
    let names: Vec<&str> = lines.iter().filter_map(|line| line["name"].as_str()).collect();
    assert_eq!(names, ["d/x y.txt", "d/sub/deep.txt", "d/sub", "d/link", "d"]);
    let root = last(&lines);
    // The same as one array at the end.
    let answer = api.add("stream-channels=false&cid-version=1", &parts).await?;
    let array = answer.json(200)?;
    assert_eq!(array.as_array(), Some(&lines));
    assert_eq!(answer.header("x-chunked-output"), None);

    // Paths below it are found in what the cluster holds.
    let leaf = cid_of(0x55, b"deep").to_string();
    let pin = api
        .post(&format!("/pins/ipfs/{root}/sub/deep.txt?name=leaf"))
        .await?
        .json(200)?;
    assert_eq!((&pin["cid"], &pin["name"]), (&json!(leaf), &json!("leaf")));
    let removed = api.delete(&format!("/pins/ipfs/{root}/sub/deep.txt/")).await;
    // One slash at the end is redirected away, as everywhere.
    assert_eq!(removed?.status, 307);
    assert_eq!(
        api.delete(&format!("/pins/ipfs/{root}/sub/deep.txt"))
            .await?
            .json(200)?["cid"],
        *leaf
    );
    let pin = api.post(&format!("/pins/ipfs/{root}/x%20y.txt")).await?.json(200)?;
    assert_eq!(pin["cid"], cid_of(0x55, b"hello").to_string());
    api.post(&format!("/pins/ipfs/{root}/nothing")).await?.error(400)?;
    let message = api.post(&format!("/pins/ipfs/{}/below", fresh_cid())).await?;
    assert!(matches!(message.status, 400 | 404), "{}", message.text());

    // Around everything, with files of no directory: what the npm client sends.
    let parts: [(&str, &str, &[u8]); 2] = [("a.txt", BYTES, b"a"), ("dir/b.txt", BYTES, b"b")];
    let array = api
        .add("stream-channels=false&wrap-with-directory=true", &parts)
        .await?
        .json(200)?;
    let objects = array.as_array().context("an array")?;
    assert_eq!(
        objects.last().map(|object| &object["name"]),
        Some(&json!("")),
        "{array}"
    );
    let wrapped = last(objects);
    assert_eq!(
        api.get(&format!("/allocations/{wrapped}")).await?.json(200)?["cid"],
        *wrapped
    );
    // Without it there are two roots, and a pin has one.
    let message = api.add("stream-channels=false", &parts).await?.error(400)?;
    assert!(message.contains("wrap"), "{message}");

    // Progress has no CID; all of a file is told at its end.
    let big = fresh_bytes(1 << 20);
    let lines = api.add("progress=true", &[("top/big", BYTES, &big)]).await?.lines()?;
    let progress: Vec<&Value> = lines.iter().filter(|line| line["cid"].is_null()).collect();
    assert!(
        progress.len() > 1 && progress.iter().all(|line| line["name"] == "big"),
        "{lines:?}"
    );
    assert_eq!(progress.last().map(|line| &line["bytes"]), Some(&json!(1 << 20)));

    // Only handed over.
    let loose = fresh_bytes(100);
    let root = last(&api.add("no-pin=true", &[("loose", BYTES, &loose)]).await?.lines()?);
    api.get(&format!("/allocations/{root}")).await?.error(404)?;

    // To the peer that was asked.
    for index in 0..2 {
        let api = Api::of(&cluster, index);
        let bytes = fresh_bytes(100);
        let root = last(
            &api.add("local=true&replication=1", &[("near", BYTES, &bytes)])
                .await?
                .lines()?,
        );
        let pin = api.get(&format!("/allocations/{root}")).await?.json(200)?;
        assert_eq!(pin["allocations"], json!([cluster.peer(index).id()]), "{pin}");
    }

    // Garbage is collected where the node is ours.
    let gc = api.post("/ipfs/gc").await?.json(200)?;
    let map = gc["peer_map"].as_object().context("an object")?;
    assert_eq!(map.len(), 2);
    for (id, one) in map {
        assert_eq!(
            (&one["peer"], &one["keys"], one.get("error")),
            (&json!(id), &json!([]), None),
            "{gc}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn car_files_and_what_is_refused() -> anyhow::Result<()> {
    let cluster = Cluster::start(embedded(1)).await?;
    let api = Api::of(&cluster, 0);
    let block = fresh_bytes(1_000);
    let root = cid_of(0x55, &block);
    let car = iroh_make(&[root], &vec![(root, block.clone())]).await?;
    let lines = api
        .add("format=car&name=archive", &[("undefined", BYTES, &car)])
        .await?
        .lines()?;
    assert_eq!(lines.len(), 1);
    assert_eq!(
        (&lines[0]["name"], &lines[0]["cid"], &lines[0]["bytes"]),
        (&json!("undefined"), &json!(root.to_string()), &json!(1_000))
    );
    let waited = cluster.wait_until("it is pinned", FETCH_LIMIT, async || {
        let info = api.get(&format!("/pins/{root}")).await?.json(200)?;
        ensure!(super::statuses(&info)? == ["pinned"], "{info}");
        Ok(())
    });
    waited.await?;
    let other = cid_of(0x55, b"other");
    for file in [
        iroh_make(&[root, other], &vec![(root, block.clone())]).await?,
        iroh_make(&[root], &vec![(root, b"not what it says".to_vec())]).await?,
        b"no CAR at all".to_vec(),
    ] {
        for query in ["format=car", "format=car&stream-channels=false"] {
            let answer = api.add(query, &[("x", BYTES, &file)]).await?;
            answer.error(400)?;
        }
    }

    for query in [
        "format=tar",
        "format=car&wrap-with-directory=true",
        "shard=true&shard-size=1000000",
        "nocopy=true",
        "cid-version=2",
        "hash=md5",
        "chunker=size-0",
        "raw-leaves=x",
        "replication-min=x",
        "expire-in=0s",
    ] {
        let message = api.add(query, &[("x", BYTES, b"x")]).await?.error(400)?;
        assert!(message.len() > 10, "{query}: {message}");
    }
    let message = api.post_body("/add", "application/json", b"{}").await?.error(400)?;
    assert!(message.contains("multipart"), "{message}");
    // No parts, a directory that comes twice, more replicas than there are nodes.
    api.add("", &[]).await?.error(400)?;
    api.add("format=car", &[]).await?.error(400)?;
    api.add("", &[("d", DIRECTORY, b""), ("d", DIRECTORY, b"")])
        .await?
        .error(400)?;
    api.add("replication=5", &[("x", BYTES, b"x")]).await?.error(409)?;
    // None of it left a pin.
    assert_eq!(api.get("/allocations").await?.lines()?.len(), 1);
    Ok(())
}

/// Twice as many as run at once: those that find no place wait for one, and their clients with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adds_beyond_those_that_run_at_once_wait_for_their_turn() -> anyhow::Result<()> {
    const ADDS: usize = 64;
    let cluster = Cluster::start(embedded(1)).await?;
    let api = Api::of(&cluster, 0);
    let mut begun = Vec::new();
    for number in 0..ADDS {
        let content = format!("content {number}");
        let whole = body(&[("x", BYTES, content.as_bytes())]);
        let head = format!(
            "POST /add HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
            content_type(),
            whole.len()
        );
        let (first, rest) = whole.split_at(whole.len() / 2);
        let mut stream = TcpStream::connect(&api.0).await?;
        stream.write_all(&[head.as_bytes(), first].concat()).await?;
        begun.push((stream, rest.to_vec()));
    }
    // All of them are there before the first ends.
    let ended = begun.into_iter().map(|(mut stream, rest)| async move {
        stream.write_all(&rest).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(statuses(&answer))
    });
    let ended = tokio::time::timeout(FETCH_LIMIT, futures::future::try_join_all(ended));
    for (number, found) in ended.await.context("they did not end")??.into_iter().enumerate() {
        assert_eq!(found, [200], "{number}");
    }
    assert_eq!(api.get("/allocations").await?.lines()?.len(), ADDS);
    Ok(())
}
