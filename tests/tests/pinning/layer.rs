//! What all HTTP servers have in common, as this one answers it.

use cluster_tests::cluster::{Cluster, ClusterOptions};
use cluster_tests::raw_http::request_with;

use super::{Api, bare, reason};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_methods_and_headers() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let api = Api::of(&cluster, 0);
    let alive = bare(&api, "GET", "/health").await?;
    assert_eq!((alive.status, alive.body.len()), (204, 0));
    assert_eq!(alive.header("content-type"), Some("application/json"));
    for (method, target) in [
        ("GET", "/nothing"),
        ("POST", "/nothing"),
        ("GET", "/"),
        ("GET", "/pins/a/b"),
    ] {
        reason(&bare(&api, method, target).await?, 404)?;
    }
    for (method, target, allow) in [
        ("PUT", "/pins", "GET,POST"),
        ("DELETE", "/pins", "GET,POST"),
        ("PATCH", "/pins/x", "GET,POST,DELETE"),
        ("POST", "/health", "GET"),
    ] {
        let answer = bare(&api, method, target).await?;
        reason(&answer, 405)?;
        let mut allowed: Vec<&str> = answer
            .header("allow")
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .collect();
        allowed.retain(|method| *method != "HEAD");
        allowed.sort_unstable();
        let mut expected: Vec<&str> = allow.split(',').collect();
        expected.sort_unstable();
        assert_eq!(allowed, expected, "{method} {target}");
    }
    assert_eq!(bare(&api, "HEAD", "/pins").await?.status, 405);
    let moved = bare(&api, "GET", "/pins/?limit=1").await?;
    assert_eq!((moved.status, moved.header("location")), (307, Some("/pins?limit=1")));
    let document = bare(&api, "GET", "/openapi.json").await?.json(200)?;
    assert_eq!(document["paths"]["/pins"]["get"]["operationId"], "listPins");
    // Nobody has credentials, so nobody gets a token for them.
    reason(&bare(&api, "POST", "/token").await?, 401)?;

    let preflight = request_with(
        &api.address,
        "OPTIONS",
        "/pins",
        &[
            ("Origin", "https://app.example.org"),
            ("Access-Control-Request-Method", "GET"),
            ("Access-Control-Request-Headers", "content-type"),
        ],
        b"",
    )
    .await?;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    // A head that is too long.
    let long = "a".repeat(200_000);
    let answer = request_with(&api.address, "GET", "/pins", &[("X-Long", &long)], b"").await?;
    assert_eq!(answer.status, 431);
    Ok(())
}
