//! Web pages, and the headers of the node that the cluster's answers have too. Over a real Kubo: it is the one to agree with.

use anyhow::ensure;
use cluster_tests::cluster::{Cluster, LIMIT};
use cluster_tests::content::cid;
use cluster_tests::raw_http::{Answer, request_with};

use super::{Proxy, embedded, kubo, kubo_error};

const BROWSER: (&str, &str) = ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) Firefox/130.0");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_may_do_what_kubo_lets_them() -> anyhow::Result<()> {
    let cluster = Cluster::start(kubo(1)).await?;
    let proxy = Proxy::of(&cluster, 0);
    let daemon = cluster.kubo_named("node-1");
    let port = daemon.address().rsplit(':').next().unwrap_or_default();
    // Kubo lets pages of its own address ask.
    let own = format!("http://127.0.0.1:{port}");
    let call = format!("pin/ls?arg={}", cid(1));
    let kubo_at = daemon.address().trim_start_matches("http://").to_owned();

    for headers in [
        &[("Origin", "https://evil.example")][..],
        &[("Referer", "https://evil.example/page")],
        &[("Origin", own.as_str()), ("Referer", "https://evil.example/")],
        &[("Origin", "null")],
        &[BROWSER],
    ] {
        // The cluster's calls and the node's alike.
        for call in ["pin/ls", "repo/stat", "add", "version", "id"] {
            let ours = proxy.call_with(call, headers).await?;
            assert_eq!(ours.status, 403, "{call} with {headers:?}: {}", ours.text());
        }
        let theirs = request_with(&kubo_at, "POST", "/api/v0/version", headers, b"").await?;
        assert_eq!(theirs.status, 403, "{headers:?}");
    }
    for headers in [
        &[("Origin", own.as_str())][..],
        &[("Referer", format!("{own}/webui").leak()), BROWSER],
        &[("User-Agent", "Mozilla/5.0 Electron/30.0")],
        &[("User-Agent", "curl/8.5")],
        &[],
    ] {
        for call in ["pin/ls", "version"] {
            assert_eq!(
                proxy.call_with(call, headers).await?.status,
                200,
                "{call} with {headers:?}"
            );
        }
        let theirs = request_with(&kubo_at, "POST", "/api/v0/version", headers, b"").await?;
        assert_eq!(theirs.status, 200, "{headers:?}");
    }

    // What Kubo says to the page, the cluster's answers say too, errors included.
    let allowed = |answer: &Answer| {
        let of = |name| answer.header(name).map(str::to_owned);
        (
            of("access-control-allow-origin"),
            of("access-control-allow-credentials"),
        )
    };
    let passed = proxy.call_with("version", &[("Origin", &own)]).await?;
    for call in ["pin/ls", call.as_str()] {
        let ours = proxy.call_with(call, &[("Origin", &own)]).await?;
        assert_eq!(allowed(&ours), allowed(&passed), "{call}");
        assert_eq!(allowed(&ours).0.as_deref(), Some(own.as_str()));
        assert!(
            ours.headers
                .iter()
                .any(|(name, value)| name == "vary" && value.contains("Origin"))
        );
        assert!(
            ours.header("access-control-expose-headers")
                .is_some_and(|names| names.contains("X-Stream-Output"))
        );
        assert!(
            ours.header("server")
                .is_some_and(|server| server.starts_with("ipfs-cluster"))
        );
    }
    // A browser's question is Kubo's to answer.
    let question = [("Origin", own.as_str()), ("Access-Control-Request-Method", "POST")];
    let answer = request_with(&proxy.0, "OPTIONS", "/api/v0/pin/add", &question, b"").await?;
    assert_eq!(allowed(&answer).0.as_deref(), Some(own.as_str()));
    let question = [
        ("Origin", "https://evil.example"),
        ("Access-Control-Request-Method", "POST"),
    ];
    let answer = request_with(&proxy.0, "OPTIONS", "/api/v0/pin/add", &question, b"").await?;
    assert_eq!(allowed(&answer).0, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_the_node_are_mirrored_and_asked_for_once_in_a_while() -> anyhow::Result<()> {
    let options = kubo(1)
        .with("proxy.mirror_headers", "[\"x-custom-for-test\"]")
        .with("proxy.mirror_ttl", "2s");
    let mut cluster = Cluster::start(options).await?;
    let set = |value: &str| format!("[\"{value}\"]");
    let daemon = cluster.kubo_named("node-1");
    daemon
        .run(&["config", "--json", "API.HTTPHeaders.X-Custom-For-Test", &set("first")])
        .await?;
    cluster.kubo_named_mut("node-1").restart().await?;
    let proxy = Proxy::of(&cluster, 0);
    let mirrored = async || -> anyhow::Result<Option<String>> {
        let answer = proxy.call("pin/ls").await?;
        ensure!(answer.status == 200);
        Ok(answer.header("x-custom-for-test").map(str::to_owned))
    };
    cluster
        .wait_until("the header is mirrored", LIMIT, async || {
            ensure!(mirrored().await?.as_deref() == Some("first"));
            Ok(())
        })
        .await?;
    // While the node is down, what it said last is said.
    cluster.kubo_named_mut("node-1").stop().await?;
    // Longer than a header is taken for new, with a question every now and then.
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_millis(2_500) {
        assert_eq!(mirrored().await?.as_deref(), Some("first"));
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let message = kubo_error(&proxy.call("version").await?, 502)?;
    assert!(message.contains("does not answer"), "{message}");
    let daemon = cluster.kubo_named("node-1");
    daemon
        .run(&["config", "--json", "API.HTTPHeaders.X-Custom-For-Test", &set("second")])
        .await?;
    cluster.kubo_named_mut("node-1").restart().await?;
    cluster
        .wait_until("the new header is mirrored", LIMIT, async || {
            ensure!(mirrored().await?.as_deref() == Some("second"));
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_the_configuration_allows_may_ask() -> anyhow::Result<()> {
    // As a browser sends it: Kubo itself refuses one that it does not know the page of.
    let page = [("Origin", "https://app.example"), BROWSER];
    let question = [page[0], ("Access-Control-Request-Method", "POST")];
    let evil = [("Origin", "https://evil.example")];
    for options in [embedded(1), kubo(1)] {
        let cluster = Cluster::start(options.with("proxy.cors_origins", "[\"https://app.example\"]")).await?;
        let proxy = Proxy::of(&cluster, 0);
        for call in ["pin/ls", "version", "repo/stat"] {
            let answer = proxy.call_with(call, &page).await?;
            assert_eq!(answer.status, 200, "{call}: {}", answer.text());
            assert_eq!(
                answer.header("access-control-allow-origin"),
                Some("https://app.example"),
                "{call}"
            );
            assert_eq!(proxy.call_with(call, &evil).await?.status, 403, "{call}");
        }
        let answer = request_with(&proxy.0, "OPTIONS", "/api/v0/pin/add", &question, b"").await?;
        assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
        let answer = request_with(&proxy.0, "OPTIONS", "/api/v0/pin/add", &evil, b"").await?;
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    Ok(())
}
