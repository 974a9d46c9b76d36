//! What holds of every path: redirects, errors, methods, the document.

use cluster_tests::cluster::{Cluster, ClusterOptions};
use cluster_tests::content::fresh_cid;
use cluster_tests::raw_http::{request, request_with};
use serde_json::Value;

use super::Api;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_methods_and_errors() -> anyhow::Result<()> {
    let cluster =
        Cluster::start(ClusterOptions::fakes(1).with("rest.headers", "{ X-Served-By = \"pinfleet\" }")).await?;
    let api = Api::of(&cluster, 0);
    let address = api.0.clone();

    for (method, target) in [
        ("GET", "/nothing"),
        ("POST", "/nothing"),
        ("GET", "/"),
        ("GET", "/pins/ipfs/a/b"),
    ] {
        let answer = request(&address, method, target).await?;
        // The path form of a pin exists for other methods.
        let status = if target.starts_with("/pins") { 405 } else { 404 };
        answer.error(status)?;
        assert_eq!(answer.header("x-served-by"), Some("pinfleet"));
    }
    for (method, target, allow) in [
        ("PUT", "/id", "GET"),
        ("POST", "/id", "GET"),
        ("HEAD", "/health", "GET"),
        ("DELETE", "/pins", "GET"),
        ("GET", "/add", "POST"),
        ("PATCH", "/token", "POST"),
    ] {
        let answer = request(&address, method, target).await?;
        assert_eq!(answer.status, 405, "{method} {target}");
        assert!(
            answer.header("allow").is_some_and(|methods| methods.contains(allow)),
            "{:?}",
            answer.headers
        );
        if method != "HEAD" {
            answer.error(405)?;
        }
    }
    // One slash at the end goes, and so does what is no clean path; the query stays.
    let redirected = api.get("/pins/?filter=pinned").await?;
    assert_eq!(
        (redirected.status, redirected.header("location")),
        (307, Some("/pins?filter=pinned"))
    );
    let cleaned = api.get("/health/../pins?filter=pinned").await?;
    assert_eq!(
        (cleaned.status, cleaned.header("location")),
        (301, Some("/pins?filter=pinned"))
    );

    // A browser's question is answered for any path; pages of any origin may read.
    let question = [
        ("Origin", "https://example.org"),
        ("Access-Control-Request-Method", "GET"),
    ];
    let answer = request_with(&address, "OPTIONS", "/anything", &question, b"").await?;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let answer = request_with(&address, "GET", "/id", &[("Origin", "https://example.org")], b"").await?;
    answer.json(200)?;
    assert!(
        answer
            .header("access-control-expose-headers")
            .is_some_and(|names| !names.is_empty())
    );

    // Nobody asks for credentials, so there is nothing to get a token for.
    assert_eq!(api.post("/token").await?.error(401)?, "unauthorized");

    // The head of a request is bounded, the query too.
    let long = format!("/pins?cids={}", "x".repeat(100_000));
    let answer = api.get(&long).await?;
    assert!(matches!(answer.status, 414 | 431), "{}", answer.status);

    let document = api.get("/openapi.json").await?.json(200)?;
    assert!(document["paths"]["/pins/{hash}"]["post"].is_object());
    assert_eq!(document["openapi"], "3.1.0");
    Ok(())
}

/// Errors of a stream that come behind its first line are told in its trailer, though no client says `TE: trailers`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_announces_its_trailer_and_sends_it() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let api = Api::of(&cluster, 0);
    for _ in 0..3 {
        api.post(&format!("/pins/{}", fresh_cid())).await?.json(200)?;
    }
    for target in ["/pins", "/allocations", "/peers"] {
        let answer = api.get(target).await?;
        assert_eq!(
            answer.header("trailer").map(str::to_ascii_lowercase).as_deref(),
            Some("x-stream-error"),
            "{target}"
        );
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        assert_eq!(answer.trailer("x-stream-error"), Some(""), "sent, and empty");
        let lines: Vec<Value> = answer.lines()?;
        assert!(!lines.is_empty());
    }
    Ok(())
}
