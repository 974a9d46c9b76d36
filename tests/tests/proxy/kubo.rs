//! What reaches a real Kubo, and what comes back: nothing is lost on the way.

use anyhow::Context;
use cluster_tests::cluster::{Cluster, ClusterOptions};
use cluster_tests::content::{cid_of, fresh_bytes};
use cluster_tests::kubo::{KuboDaemon, KuboOptions};
use cluster_tests::node::NodeKind;
use cluster_tests::raw_http::{request, request_with};

use super::{Proxy, held, kubo, kubo_error};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_answers_are_passed_on_as_they_are() -> anyhow::Result<()> {
    let cluster = Cluster::start(kubo(1)).await?;
    let daemon = cluster.kubo_named("node-1");
    let proxy = Proxy::of(&cluster, 0);
    let direct = Proxy(daemon.address().trim_start_matches("http://").to_owned());

    let bytes = fresh_bytes(600_000);
    let cid = daemon.add(&bytes).await?;
    for call in [
        "version".to_owned(),
        "version?number=true&encoding=json".to_owned(),
        format!("cat?arg={cid}"),
        format!("cat?arg={cid}&offset=5&length=100"),
        format!("block/stat?arg={cid}"),
        format!("dag/get?arg={cid}"),
        format!("ls?arg=/ipfs/{cid}"),
        "cat".to_owned(),
        "cat?arg=nonsense".to_owned(),
        "no/such/call".to_owned(),
        "pin/remote/service/ls".to_owned(),
        "files/ls?arg=/&long=true".to_owned(),
    ] {
        let (ours, theirs) = (proxy.call(&call).await?, direct.call(&call).await?);
        assert_eq!((ours.status, &ours.body), (theirs.status, &theirs.body), "{call}");
        for name in [
            "content-type",
            "x-stream-output",
            "x-chunked-output",
            "x-content-length",
            "server",
            "access-control-expose-headers",
        ] {
            assert_eq!(ours.header(name), theirs.header(name), "{call}: {name}");
        }
        assert_eq!(
            ours.trailer("x-stream-error"),
            theirs.trailer("x-stream-error"),
            "{call}"
        );
    }
    // Writes too.
    let content = fresh_bytes(1_000);
    let answer = proxy
        .upload("files/write?arg=/a&create=true", &[("x", &content)])
        .await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(proxy.call("files/read?arg=/a").await?.body, content);
    // What is said late is said: the trailer of a stream that breaks off.
    let call = format!("dag/export?arg={cid}&progress=false");
    assert_eq!(proxy.call(&call).await?.body, direct.call(&call).await?.body);
    let missing = cid_of(0x55, b"nobody has it");
    let call = format!("refs?arg={missing}&offline=true&recursive=true");
    let (ours, theirs) = (proxy.call(&call).await?, direct.call(&call).await?);
    assert_eq!((ours.status, &ours.body), (theirs.status, &theirs.body));
    assert_eq!(ours.trailer("x-stream-error"), theirs.trailer("x-stream-error"));

    // Outside of the RPC.
    let (ours, theirs) = (
        request(&proxy.0, "POST", "/webui").await?,
        request(&direct.0, "POST", "/webui").await?,
    );
    assert_eq!(
        (ours.status, ours.header("location")),
        (theirs.status, theirs.header("location"))
    );
    // A path that only the daemon knows can be pinned.
    let hidden = daemon
        .add_directory(&[("inside".to_owned(), b"only at the daemon".to_vec())])
        .await?;
    let inside = cid_of(0x55, b"only at the daemon");
    let answer = proxy.call(&format!("pin/add?arg=/ipfs/{hidden}/inside")).await?;
    assert_eq!(answer.json(200)?, super::pins(&[inside]));
    held(&cluster, &inside, 1).await?;
    let message = kubo_error(&proxy.call(&format!("pin/add?arg=/ipfs/{hidden}/nothing")).await?, 500)?;
    assert!(message.contains("nothing"), "{message}");
    Ok(())
}

/// The daemon is shown what it was attached with, and never what the client showed the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_those_of_the_node_over_a_socket_too() -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("api.sock");
    let options = KuboOptions {
        authorizations: vec![("bearer:s3cret".to_owned(), vec!["/api/v0".to_owned()])],
        socket: Some(socket.clone()),
        ..KuboOptions::default()
    };
    let daemon = KuboDaemon::start_with(&folder.path().join("kubo"), options).await?;
    let file = folder.path().join("auth");
    std::fs::write(&file, "bearer:s3cret\n")?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    let cluster = Cluster::start(ClusterOptions {
        peers: 1,
        node: NodeKind::None,
        ..ClusterOptions::default()
    })
    .await?;
    let proxy = Proxy::of(&cluster, 0);
    // Without any node.
    let message = kubo_error(&proxy.call("version").await?, 502)?;
    assert!(message.contains("no IPFS node"), "{message}");

    let ctl = cluster_tests::ctl::Ctl::new(cluster.api())?;
    let api = format!("unix://{}", socket.display());
    let auth = file.display().to_string();
    let name = cluster.peer(0).name().to_owned();
    ctl.run(&["node", "add", "sealed", &api, "--auth-file", &auth, "--peer", &name])
        .await?;
    let waited = cluster.wait_until("the daemon answers", cluster_tests::cluster::LIMIT, async || {
        let answer = proxy.call("id").await?;
        anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        Ok(answer.text())
    });
    let who = waited.await?;
    assert!(who.contains(daemon.peer_id()), "{who}");
    // The daemon itself lets nobody in who shows less.
    let direct = daemon.address().trim_start_matches("http://");
    assert_eq!(request(direct, "POST", "/api/v0/id").await?.status, 403);
    let shown = [("Authorization", "Basic dXNlcjpwYXNz")];
    let answer = request_with(&proxy.0, "POST", "/api/v0/id", &shown, b"").await?;
    // Credentials that nobody knows are refused by the cluster, before the daemon hears of them.
    assert_eq!(answer.status, 401, "{}", answer.text());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_can_be_chosen() -> anyhow::Result<()> {
    let options = ClusterOptions {
        peers: 1,
        node: NodeKind::Embedded,
        beside: NodeKind::Kubo,
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(options.with("embedded.free_min", "1MiB")).await?;
    let daemon = cluster.kubo_named("beside-1").peer_id().to_owned();
    let who = async |cluster: &Cluster| -> anyhow::Result<String> {
        let answer = Proxy::of(cluster, 0).call("id").await?;
        let id: serde_json::Value = serde_json::from_slice(&answer.body)?;
        Ok(id["ID"].as_str().context("an ID")?.to_owned())
    };
    // An attached one comes first.
    assert_eq!(who(&cluster).await?, daemon);
    cluster.set("proxy.node", "node-1");
    cluster.configure(0)?;
    cluster.peer(0).restart().await?;
    assert_ne!(who(&cluster).await?, daemon);
    cluster.set("proxy.node", "nobody");
    cluster.configure(0)?;
    cluster.peer(0).restart().await?;
    let message = kubo_error(&Proxy::of(&cluster, 0).call("id").await?, 502)?;
    assert!(
        message.contains("\"nobody\"") && message.contains("proxy.node"),
        "{message}"
    );
    Ok(())
}
