//! `add`, `block/put`, `dag/put` and `dag/import`: content into the cluster.

use anyhow::{Context as _, ensure};
use cluster_proto::v1;
use cluster_tests::car::iroh_make;
use cluster_tests::cluster::{Cluster, LIMIT};
use cluster_tests::content::{cid_of, fresh_bytes};
use cluster_tests::kubo::KuboDaemon;
use cluster_tests::raw_http::request_with;
use node_core::Cid;
use serde_json::{Value, json};

use super::{Proxy, embedded, held, kubo, kubo_error};

/// `echo hello world | ipfs add`, as it has always been.
const HELLO: &str = "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o";

async fn is_pinned(cluster: &Cluster, cid: &str) -> anyhow::Result<bool> {
    let cid: Cid = cid.parse()?;
    match cluster.any()?.get(&cid, v1::Consistency::Linearizable).await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == tonic::Code::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn last(lines: &[Value]) -> &str {
    lines.last().and_then(|line| line["Hash"].as_str()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_added_as_kubo_adds_it() -> anyhow::Result<()> {
    let cluster = Cluster::start(embedded(2)).await?;
    let folder = tempfile::tempdir()?;
    let reference = KuboDaemon::start(folder.path()).await?;
    let proxy = Proxy::of(&cluster, 0);

    let answer = proxy.upload("add", &[("hello.txt", b"hello world\n")]).await?;
    assert_eq!(answer.header("x-chunked-output"), Some("1"));
    assert_eq!(
        answer.lines()?,
        [json!({ "Name": "hello.txt", "Hash": HELLO, "Size": "20" })]
    );
    assert!(is_pinned(&cluster, HELLO).await?);

    let big = fresh_bytes(700_000);
    let parts: Vec<(&str, &[u8])> = vec![("d%2Fbig", &big), ("d%2Fsub%2Fsmall", b"small"), ("d%2Fx+y", b"")];
    for options in [
        "",
        "cid-version=1",
        "trickle=true",
        "raw-leaves=true",
        "hash=blake2b-256",
        "chunker=size-1000",
        "chunker=rabin-512-1024-2048",
        "inline=true&inline-limit=64",
        "max-file-links=20&chunker=size-5000",
        "max-directory-links=1&max-hamt-fanout=16",
        "mode=0640&mtime=1700000000&mtime-nsecs=5",
        "wrap-with-directory=true",
        "wrap-with-directory=true&cid-version=1&mode=0600",
    ] {
        let theirs = reference.add_with(options, &parts);
        let theirs = theirs.await.with_context(|| options.to_owned())?.to_string();
        let ours = proxy.upload(&format!("add?{options}"), &parts).await?.lines()?;
        assert_eq!(last(&ours), theirs, "{options}");
        assert!(is_pinned(&cluster, &theirs).await?, "{options}");
        // The same without storing anything.
        let hashed = proxy
            .upload(&format!("add?only-hash=true&{options}"), &parts)
            .await?
            .lines()?;
        assert_eq!(hashed, ours, "{options}");
    }

    // Lines of files as they are done, the directories above them last.
    let lines = proxy.upload("add?progress=true", &parts).await?.lines()?;
    let named: Vec<_> = lines.iter().filter(|line| line["Hash"].is_string()).collect();
    let names: Vec<_> = named.iter().filter_map(|line| line["Name"].as_str()).collect();
    assert_eq!(names, ["d/big", "d/sub/small", "d/sub", "d/x y", "d"]);
    assert!(named.iter().all(|line| line["Size"].is_string()), "{named:?}");
    let progress: Vec<_> = lines.iter().filter(|line| line["Hash"].is_null()).collect();
    assert!(
        progress
            .iter()
            .all(|line| line["Bytes"].is_u64() && line["Name"].as_str().is_some_and(|name| name.starts_with("d/")))
    );
    assert!(
        progress
            .iter()
            .any(|line| line["Name"] == "d/big" && line["Bytes"] == 700_000),
        "{progress:?}"
    );

    // One array.
    let array = proxy
        .upload("add?stream-channels=false", &[("hello.txt", b"hello world\n")])
        .await?;
    assert_eq!(
        array.json(200)?,
        json!([{ "Name": "hello.txt", "Hash": HELLO, "Size": "20" }])
    );
    // What has no name is called by its CID.
    let lines = proxy.upload("add", &[("", b"hello world\n")]).await?.lines()?;
    assert_eq!(lines, [json!({ "Name": HELLO, "Hash": HELLO, "Size": "20" })]);
    let lines = proxy.upload("add?silent=true", &[("x", b"silent")]).await?;
    assert!(lines.status == 200 && lines.body.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pinned_of_an_add() -> anyhow::Result<()> {
    let cluster = Cluster::start(embedded(2)).await?;
    let proxy = Proxy::of(&cluster, 0);
    // Each entry at the top is a pin, with the name of the pin and the options of IPFS Cluster.
    let (one, two) = (fresh_bytes(100), fresh_bytes(100));
    let lines = proxy
        .upload(
            "add?pin-name=both&meta-team=web&replication=1",
            &[("one", &one), ("two", &two)],
        )
        .await?
        .lines()?;
    assert_eq!(lines.len(), 2);
    for line in &lines {
        let cid: Cid = line["Hash"].as_str().context("a CID")?.parse()?;
        let pin = cluster.any()?.get(&cid, v1::Consistency::Linearizable).await?;
        assert_eq!((pin.name.as_str(), pin.metadata["team"].as_str()), ("both", "web"));
    }
    // None.
    for option in ["pin=false", "no-pin=true"] {
        let lines = proxy
            .upload(&format!("add?{option}"), &[("x", &fresh_bytes(100))])
            .await?
            .lines()?;
        assert!(!is_pinned(&cluster, last(&lines)).await?, "{option}");
    }
    // Only the CID: nothing is pinned, and nothing is stored.
    let bytes = fresh_bytes(100);
    let lines = proxy
        .upload("add?only-hash=true&raw-leaves=true", &[("x", &bytes)])
        .await?
        .lines()?;
    assert_eq!(last(&lines), cid_of(0x55, &bytes).to_string());
    assert!(!is_pinned(&cluster, last(&lines)).await?);
    let missing = proxy
        .call(&format!("block/get?arg={}&offline=true", last(&lines)))
        .await;
    // Nobody has it: the node looks for it as long as it may, or says so.
    assert!(missing.is_err() || missing.is_ok_and(|answer| answer.status >= 400));

    for (call, parts) in [
        ("add?nocopy=true", &[("x", &b"x"[..])][..]),
        ("add?to-files=/x", &[("x", b"x")]),
        ("add?chunker=size-0", &[("x", b"x")]),
        ("add?hash=md5", &[("x", b"x")]),
        ("add?cid-version=0&hash=sha2-512", &[("x", b"x")]),
        ("add?replication=9", &[("x", b"x")]),
        ("add?pin-name=x&pin=false", &[("x", b"x")]),
        ("add", &[]),
        ("add?stream-channels=false", &[]),
    ] {
        let message = kubo_error(&proxy.upload(call, parts).await?, 500)?;
        assert!(message.len() > 10, "{call}: {message}");
    }
    let answer = request_with(
        &proxy.0,
        "POST",
        "/api/v0/add",
        &[("Content-Type", "application/json")],
        b"{}",
    )
    .await?;
    assert!(kubo_error(&answer, 500)?.contains("multipart"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_and_values_are_put_and_pinned() -> anyhow::Result<()> {
    for (name, options) in [("embedded", embedded(2)), ("kubo", kubo(2))] {
        let cluster = Cluster::start(options).await.context(name)?;
        let proxy = Proxy::of(&cluster, 0);
        let (one, two) = (fresh_bytes(100), fresh_bytes(100));
        let cids = [cid_of(0x55, &one), cid_of(0x55, &two)];
        let parts: [(&str, &[u8]); 2] = [("a", &one), ("b", &two)];

        let lines = proxy.upload("block/put", &parts).await?.lines()?;
        let expected = cids.map(|cid| json!({ "Key": cid.to_string(), "Size": 100 }));
        assert_eq!(lines, expected, "{name}");
        for cid in cids {
            assert!(!is_pinned(&cluster, &cid.to_string()).await?, "{name}");
        }
        let lines = proxy.upload("block/put?pin=true", &parts).await?.lines()?;
        assert_eq!(lines, expected, "{name}");
        for cid in cids {
            held(&cluster, &cid, 2).await?;
        }
        // Several codecs.
        for (codec, code) in [("raw", 0x55), ("dag-pb", 0x70), ("dag-cbor", 0x71)] {
            // The empty node, and the number 1.
            let bytes: &[u8] = if codec == "dag-cbor" { &[1] } else { b"" };
            let call = format!("block/put?cid-codec={codec}&pin=true");
            let lines = proxy.upload(&call, &[("x", bytes)]).await?.lines()?;
            assert_eq!(lines[0]["Key"], cid_of(code, bytes).to_string(), "{name}");
            assert!(is_pinned(&cluster, &cid_of(code, bytes).to_string()).await?);
        }
        let message = proxy.upload("block/put?pin=true&cid-codec=nonsense", &parts).await?;
        assert!(message.status >= 400, "{name}: {}", message.text());

        let value = br#"{"hello":"world"}"#;
        for pin in [false, true] {
            let call = format!("dag/put?pin={pin}");
            let lines = proxy
                .upload(&call, &[("v", value), ("w", br#"[1,{"/":{"bytes":"AQ"}}]"#)])
                .await?
                .lines()?;
            // `ipfs dag put` of the same, as it has always been.
            assert_eq!(
                lines[0],
                json!({ "Cid": { "/": "bafyreidykglsfhoixmivffc5uwhcgshx4j465xwqntbmu43nb2dzqwfvae" } }),
                "{name}"
            );
            for line in &lines {
                let cid = line["Cid"]["/"].as_str().context("a CID")?;
                assert_eq!(is_pinned(&cluster, cid).await?, pin, "{name}: {cid}");
            }
        }
        // The node itself holds no pin of its own for them: those that it has bear the name of the cluster.
        if name == "kubo" {
            let daemon = cluster.kubo_named("node-1");
            cluster
                .wait_until("the cluster pins at the node", LIMIT, async || {
                    let listed: Value = serde_json::from_str(&daemon.call("pin/ls?names=true&type=recursive").await?)?;
                    let keys = listed["Keys"].as_object().context("keys")?;
                    ensure!(cids.iter().all(|cid| keys.contains_key(&cid.to_string())), "{listed}");
                    for cid in &cids {
                        let key = &keys[&cid.to_string()];
                        ensure!(
                            key["Name"].as_str().is_some_and(|name| name.starts_with("pinfleet")),
                            "{cid}: {key}"
                        );
                    }
                    Ok(())
                })
                .await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn car_files_are_imported_and_their_roots_pinned() -> anyhow::Result<()> {
    let cluster = Cluster::start(embedded(2)).await?;
    let proxy = Proxy::of(&cluster, 0);
    let blocks: Vec<(Cid, Vec<u8>)> = (0..3)
        .map(|_| fresh_bytes(100))
        .map(|bytes| (cid_of(0x55, &bytes), bytes))
        .collect();
    let roots = [blocks[0].0, blocks[1].0];
    let car = iroh_make(&roots, &blocks).await?;
    let lines = proxy
        .upload("dag/import?stats=true", &[("f.car", &car)])
        .await?
        .lines()?;
    let root = |cid: &Cid| json!({ "Root": { "Cid": { "/": cid.to_string() }, "PinErrorMsg": "" } });
    assert_eq!(
        lines,
        [
            root(&roots[0]),
            root(&roots[1]),
            json!({ "Stats": { "BlockCount": 3, "BlockBytesCount": 300 } })
        ]
    );
    for cid in roots {
        held(&cluster, &cid, 2).await?;
    }
    assert!(!is_pinned(&cluster, &blocks[2].0.to_string()).await?);
    // Only taken in.
    let loose = fresh_bytes(100);
    let cid = cid_of(0x55, &loose);
    let car = iroh_make(&[cid], &vec![(cid, loose)]).await?;
    let answer = proxy.upload("dag/import?pin-roots=false", &[("f.car", &car)]).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!is_pinned(&cluster, &cid.to_string()).await?);
    for broken in [&b"no CAR"[..], &car[..car.len() - 1], b""] {
        kubo_error(&proxy.upload("dag/import", &[("f.car", broken)]).await?, 500)?;
    }
    kubo_error(&proxy.upload("dag/import", &[]).await?, 500)?;
    Ok(())
}
