//! Kubo's own command line over a cluster without Kubo: the embedded node answers what is not the cluster's.

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::cluster::{Cluster, LIMIT};
use cluster_tests::content::fresh_bytes;
use cluster_tests::kubo_clients::Ipfs;
use serde_json::Value;

use super::{Proxy, embedded, kubo, kubo_error};

/// What a person does in a day.
async fn day(cluster: &Cluster, ipfs: &Ipfs) -> anyhow::Result<()> {
    let folder = ipfs.folder().join("site");
    std::fs::create_dir_all(folder.join("img"))?;
    std::fs::write(folder.join("index.html"), "<h1>hello</h1>")?;
    let image = fresh_bytes(1_000_000);
    std::fs::write(folder.join("img/a.bin"), &image)?;

    let root = ipfs
        .run(&["add", "-r", "-Q", "--cid-version=1", "site"])
        .await?
        .trim()
        .to_owned();
    let cid = root.parse()?;
    cluster.any()?.get(&cid, v1::Consistency::Linearizable).await?;
    // The same as without any daemon.
    let stdin = ipfs.feed(&["add", "-q"], b"hello world\n").await?;
    assert_eq!(stdin, b"QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o\n");
    let hashed = ipfs
        .run(&["add", "-r", "-Q", "--only-hash", "--cid-version=1", "site"])
        .await?;
    assert_eq!(hashed.trim(), root);

    assert_eq!(
        ipfs.run(&["cat", &format!("{root}/index.html")]).await?,
        "<h1>hello</h1>"
    );
    let part = ipfs
        .feed(
            &["cat", "--offset=10", "--length=20", &format!("/ipfs/{root}/img/a.bin")],
            b"",
        )
        .await?;
    assert_eq!(part, image[10..30]);
    let listed = ipfs.run(&["ls", &root]).await?;
    assert!(listed.contains("index.html") && listed.contains("img/"), "{listed}");
    ipfs.run(&["get", &root, "-o", "back"]).await?;
    assert_eq!(std::fs::read(ipfs.folder().join("back/img/a.bin"))?, image);
    ipfs.run(&["get", &root, "-a", "-C", "-o", "packed"]).await?;
    assert_eq!(&std::fs::read(ipfs.folder().join("packed.tar.gz"))?[..2], [0x1f, 0x8b]);
    let below = ipfs.run(&["refs", "-r", "-u", &root]).await?;
    assert_eq!(below.lines().count(), 7, "{below}");
    let path = ipfs.run(&["resolve", &format!("/ipfs/{root}/img")]).await?;
    assert!(path.starts_with("/ipfs/bafy"), "{path}");

    let pins = ipfs.run(&["pin", "ls", "--type=recursive", "--quiet"]).await?;
    assert!(pins.lines().any(|line| line == root), "{pins}");
    let named = ipfs
        .run(&["pin", "add", "--name", "a site", "--progress", &format!("{root}/img")])
        .await?;
    assert!(
        named.starts_with("pinned bafy") && named.contains("recursively"),
        "{named}"
    );
    let named = ipfs.run(&["pin", "ls", "--names"]).await?;
    assert!(named.contains("recursive a site"), "{named}");
    let removed = ipfs.run(&["pin", "rm", &root]).await?;
    assert_eq!(removed.trim(), format!("unpinned {root}"));
    let failed = ipfs.try_run(&["pin", "rm", &root], b"").await?;
    assert!(!failed.status.success() && String::from_utf8_lossy(&failed.stderr).contains("not pinned"));
    let failed = ipfs.try_run(&["pin", "ls", &root], b"").await?;
    assert!(!failed.status.success() && String::from_utf8_lossy(&failed.stderr).contains("is not pinned"));
    // Arguments by stdin.
    let again = ipfs.feed(&["pin", "add"], format!("{root}\n").as_bytes()).await?;
    assert_eq!(String::from_utf8(again)?.trim(), format!("pinned {root} recursively"));

    let block = ipfs.feed(&["block", "put"], b"a block").await?;
    let block = String::from_utf8(block)?.trim().to_owned();
    assert_eq!(ipfs.run(&["block", "get", &block]).await?, "a block");
    assert!(ipfs.run(&["block", "stat", &block]).await?.contains("Size: 7"));
    let value = ipfs.feed(&["dag", "put", "--pin"], br#"{"a":{"b":[1,2]}}"#).await?;
    let value = String::from_utf8(value)?.trim().to_owned();
    cluster
        .any()?
        .get(&value.parse()?, v1::Consistency::Linearizable)
        .await?;
    assert_eq!(ipfs.run(&["dag", "get", &format!("{value}/a/b/1")]).await?.trim(), "2");
    let stat = ipfs.run(&["dag", "stat", "--progress=false", &root]).await?;
    assert!(stat.contains(&root), "{stat}");
    let car = ipfs.feed(&["dag", "export", &root], b"").await?;
    std::fs::write(ipfs.folder().join("site.car"), &car)?;
    let imported = ipfs.run(&["dag", "import", "--stats", "site.car"]).await?;
    assert!(imported.contains(&root), "{imported}");

    let stat = ipfs.run(&["repo", "stat"]).await?;
    assert!(stat.contains("NumObjects:") && stat.contains("RepoSize:"), "{stat}");
    cluster
        .wait_until("the site is held", LIMIT, async || {
            let status = cluster.any()?.status(&cid).await?;
            ensure!(status.status() == v1::Status::Pinned, "{status:?}");
            Ok(())
        })
        .await?;
    ipfs.run(&["repo", "gc"]).await?;
    assert_eq!(
        ipfs.run(&["cat", &format!("{root}/index.html")]).await?,
        "<h1>hello</h1>"
    );
    let who: Value = serde_json::from_str(&ipfs.run(&["id"]).await?)?;
    ensure!(who["ID"].as_str().is_some_and(|id| id.starts_with("12D3KooW")), "{who}");
    ipfs.run(&["swarm", "peers"]).await?;
    ipfs.run(&["stats", "bw"]).await?;
    ipfs.run(&["bitswap", "stat"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_without_kubo() -> anyhow::Result<()> {
    let cluster = Cluster::start(embedded(2)).await?;
    let proxy = Proxy::of(&cluster, 0);
    let ipfs = Ipfs::new(&proxy.0)?;
    day(&cluster, &ipfs).await?;

    // What it has not, it says in Kubo's form, and what is no call at all is not found.
    let message = kubo_error(&proxy.call("files/ls").await?, 500)?;
    assert!(message.contains("MFS"), "{message}");
    let answer = proxy.call("no/such/call").await?;
    assert_eq!((answer.status, answer.text().as_str()), (404, "404 page not found\n"));
    let message = kubo_error(&proxy.call("cat?arg=/ipns/example.org").await?, 500)?;
    assert!(message.contains("names"), "{message}");
    let message = kubo_error(&proxy.call("pin/add?arg=/ipns/example.org").await?, 500)?;
    assert!(message.contains("names"), "{message}");
    // The listener of the node's own RPC still lets no page ask.
    let rpc = cluster.embedded_rpc(0)?;
    let rpc = rpc.trim_start_matches("http://");
    let page = [("Origin", "http://127.0.0.1:1")];
    let answer = cluster_tests::raw_http::request_with(rpc, "POST", "/api/v0/version", &page, b"").await?;
    assert_eq!(answer.status, 403);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_over_kubo() -> anyhow::Result<()> {
    let cluster = Cluster::start(kubo(1)).await?;
    let ipfs = Ipfs::new(&Proxy::of(&cluster, 0).0)?;
    day(&cluster, &ipfs).await
}

/// Peers fetch from each other what the proxy of one of them was given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_peer_was_given_the_other_shows() -> anyhow::Result<()> {
    let cluster = Cluster::start(embedded(2)).await?;
    let (here, there) = (Proxy::of(&cluster, 0), Proxy::of(&cluster, 1));
    let bytes = fresh_bytes(300_000);
    let lines = here
        .upload("add?replication=1&local=true", &[("x", &bytes)])
        .await?
        .lines()?;
    let cid = lines[0]["Hash"].as_str().context("a CID")?.to_owned();
    let waited = cluster.wait_until("the other node finds it", LIMIT, async || {
        let answer = there.call(&format!("cat?arg={cid}")).await?;
        ensure!(answer.status == 200 && answer.body == bytes, "{}", answer.status);
        Ok(())
    });
    waited.await
}
