//! What the tests of IPFS Cluster 1.1.6 assert of its REST API and is in no other file here.

use anyhow::{Context as _, ensure};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::{fresh_bytes, fresh_cid};
use cluster_tests::ctl::Ctl;
use cluster_tests::node::NodeKind;
use cluster_tests::raw_http::{Answer, request, request_with};
use serde_json::{Value, json};

use super::{Api, statuses};

async fn restarted(cluster: &mut Cluster, options: &[(&str, &str)]) -> anyhow::Result<()> {
    for (key, value) in options {
        cluster.set(key, value);
    }
    cluster.configure(0)?;
    cluster.peer(0).restart().await
}

/// Configured headers and the type of JSON are on every answer, 204 and streams included; a browser's question is answered
/// as configured; the head of a request has its bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_configured_shows_in_answers() -> anyhow::Result<()> {
    let options = ClusterOptions::fakes(1)
        .with("rest.headers", "{ X-Served-By = \"pinfleet\", Another = \"one\" }")
        .with("rest.cors_origins", "[\"myorigin\"]")
        .with("rest.cors_methods", "[\"GET\", \"POST\"]")
        .with("rest.cors_credentials", "yes")
        .with("rest.cors_max_age", "10m")
        .with("rest.head_bytes_max", "8KiB")
        .with("rest.target_bytes_max", "4KiB")
        .with("telemetry.log_level", "info,cluster_http::access=debug");
    let mut cluster = Cluster::start(options).await?;
    let api = Api::of(&cluster, 0);
    let cid = fresh_cid();
    for (method, target, status) in [
        ("POST", format!("/pins/{cid}"), 200),
        ("GET", "/id".into(), 200),
        ("GET", "/health".into(), 204),
        ("GET", "/allocations".into(), 200),
        ("GET", "/pins?filter=pin_error".into(), 200),
        ("GET", "/pins/abcd".into(), 400),
        ("GET", format!("/allocations/{}", fresh_cid()), 404),
        ("POST", "/nothing".into(), 404),
        ("DELETE", "/id".into(), 405),
        ("POST", "/token".into(), 401),
        (
            "DELETE",
            "/peers/12D3KooWSmEVZm81CvvWEbnUgnJ6CYLvtnXyTsCqyHXi7K5aG7zY".into(),
            404,
        ),
        ("DELETE", format!("/pins/{cid}"), 200),
    ] {
        let answer = request(&api.0, method, &target).await?;
        ensure!(
            answer.status == status,
            "{method} {target}: {} {}",
            answer.status,
            answer.text()
        );
        for (name, value) in [
            ("content-type", "application/json"),
            ("x-served-by", "pinfleet"),
            ("another", "one"),
        ] {
            ensure!(
                answer.header(name) == Some(value),
                "{method} {target}: {:?}",
                answer.headers
            );
        }
    }

    let question = [
        ("Origin", "myorigin"),
        ("Access-Control-Request-Method", "GET"),
        ("Access-Control-Request-Headers", "content-type"),
    ];
    let answer = request_with(&api.0, "OPTIONS", "/pins", &question, b"").await?;
    ensure!(answer.status == 204, "{}", answer.status);
    for (name, value) in [
        ("access-control-allow-origin", "myorigin"),
        ("access-control-allow-methods", "GET"),
        ("access-control-allow-headers", "content-type"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "600"),
    ] {
        ensure!(answer.header(name) == Some(value), "{name}: {:?}", answer.headers);
    }
    let answer = request_with(&api.0, "GET", "/pins", &[("Origin", "elsewhere")], b"").await?;
    ensure!(
        answer.header("access-control-allow-origin").is_none(),
        "{:?}",
        answer.headers
    );

    // Twice the bound is too much, half of it is not.
    for (bytes, status) in [(16 << 10, 431), (4 << 10, 200)] {
        let answer = request_with(&api.0, "GET", "/id", &[("X-Filling", &"x".repeat(bytes))], b"").await?;
        ensure!(answer.status == status, "{bytes}: {}", answer.status);
    }
    let answer = api.get(&format!("/pins?cids={}", "x".repeat(5_000))).await?;
    ensure!(answer.status == 414, "{}", answer.status);

    // The log of requests grows, and goes on after a restart.
    let logged = |cluster: &Cluster| cluster.peer(0).log().matches("cluster_http::access").count();
    let before = logged(&cluster);
    ensure!(before >= 12, "{before} requests were logged");
    restarted(&mut cluster, &[]).await?;
    api.get("/version").await?.json(200)?;
    let written = cluster.wait_until("the request is logged", LIMIT, async || {
        ensure!(logged(&cluster) > before, "it is not there yet");
        Ok(())
    });
    written.await
}

async fn with(api: &Api, method: &str, target: &str, authorization: Option<&str>) -> anyhow::Result<Answer> {
    let headers: Vec<(&str, &str)> = authorization.iter().map(|value| ("Authorization", *value)).collect();
    request_with(&api.0, method, target, &headers, b"").await
}

fn basic(user: &str, password: &str) -> String {
    format!(
        "Basic {}",
        multibase::Base::Base64Pad.encode(format!("{user}:{password}"))
    )
}

/// A web token whose signature is of somebody else, or none at all.
fn forged(algorithm: &str, user: &str) -> String {
    let text = |value: Value| multibase::Base::Base64Url.encode(value.to_string());
    let head = text(json!({ "alg": algorithm, "typ": "JWT" }));
    let signature = multibase::Base::Base64Url.encode([7; 32]);
    format!("Bearer {head}.{}.{signature}", text(json!({ "iss": user })))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_credentials_nothing_is_done_on_any_path() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    restarted(&mut cluster, &[("api.auth", "required")]).await?;
    let api = Api::of(&cluster, 0);
    let owner = Ctl::new(format!("unix:{}", cluster.peer(0).dir().join("admin.sock").display()))?;
    for (name, password) in [("alice", "wonderland"), ("bob", "builder")] {
        let file = cluster.root().join(name);
        std::fs::write(&file, password)?;
        let file = file.to_str().context("a path")?;
        owner
            .run(&[
                "credential",
                "create",
                name,
                "--scope",
                "admin",
                "--password-file",
                file,
            ])
            .await?;
    }
    let right = basic("alice", "wonderland");
    let known = cluster.wait_until("the credential is known", LIMIT, async || {
        with(&api, "GET", "/id", Some(&right)).await?.json(200)
    });
    known.await?;
    let methods = ["GET", "POST", "DELETE", "PUT", "PATCH", "TRACE", "MADEUP"];
    for method in methods {
        for target in [
            "/id",
            "/pins",
            "/add",
            "/nothing",
            "/",
            "/pins/",
            "/token",
            "/health/graph",
            "/openapi.json",
        ] {
            let answer = with(&api, method, target, None).await?;
            ensure!(answer.status == 401, "{method} {target}: {}", answer.status);
            ensure!(
                answer.error(401)? == "unauthorized: no auth provided",
                "{method} {target}"
            );
            let asked: Vec<&str> = answer
                .headers
                .iter()
                .filter(|(name, _)| name == "www-authenticate")
                .map(|(_, value)| value.as_str())
                .collect();
            ensure!(asked.iter().any(|value| value.starts_with("Basic ")), "{asked:?}");
            ensure!(asked.iter().any(|value| value.starts_with("Bearer ")), "{asked:?}");
            // With the right pair it is anything else.
            let answer = with(&api, method, target, Some(&right)).await?;
            ensure!(answer.status != 401, "{method} {target}: {}", answer.text());
        }
    }
    ensure!(with(&api, "HEAD", "/id", None).await?.status == 401);
    ensure!(
        with(&api, "OPTIONS", "/nothing", None).await?.status != 401,
        "a browser can't show any then"
    );
    ensure!(with(&api, "GET", "/health", None).await?.status == 204);

    for wrong in [
        basic("alice", "builder"),
        basic("bob", "wonderland"),
        basic("carol", "wonderland"),
        basic("alice", ""),
        basic("", "wonderland"),
        "Basic nonsense".into(),
        "Digest alice".into(),
        forged("HS256", "alice"),
        forged("HS256", "carol"),
        forged("none", "alice"),
        forged("RS256", "alice"),
        "Bearer ".into(),
        "Bearer a.b.c".into(),
    ] {
        let answer = with(&api, "GET", "/id", Some(&wrong)).await?;
        ensure!(answer.status == 401, "{wrong}: {}", answer.status);
        answer.error(401)?;
    }
    // A token stands for the credentials that it was given for, with every method.
    let token = with(&api, "POST", "/token", Some(&right)).await?.json(200)?;
    let token = format!("Bearer {}", token["token"].as_str().context("a token")?);
    for method in methods {
        let answer = with(&api, method, "/pins", Some(&token)).await?;
        ensure!(answer.status != 401, "{method}: {}", answer.status);
    }
    owner.run(&["credential", "revoke", "alice"]).await?;
    for shown in [&right, &token] {
        with(&api, "GET", "/id", Some(shown)).await?.error(401)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_go_when_their_time_has_come_and_nodes_that_are_named_are_used() -> anyhow::Result<()> {
    let options = ClusterOptions {
        peers: 2,
        node: NodeKind::Embedded,
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options.with("embedded.free_min", "1MiB")).await?;
    let api = Api::of(&cluster, 0);
    let body = |content: &[u8]| {
        let head = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n";
        [&head[..], content, b"\r\n--b--\r\n"].concat()
    };
    for index in 0..2 {
        let id = cluster.peer(index).id();
        let target = format!("/add?user-allocations={id}&replication=1&name=named+{index}&meta-team=web&expire-in=24h");
        let parts = "multipart/form-data; boundary=b";
        let lines = api.post_body(&target, parts, &body(&fresh_bytes(100))).await?.lines()?;
        ensure!(lines[0]["allocations"] == json!([id]), "{lines:?}");
        let cid = lines[0]["cid"].as_str().context("a CID")?;
        let pin = api.get(&format!("/allocations/{cid}")).await?.json(200)?;
        ensure!(
            pin["allocations"] == json!([id]) && pin["name"] == format!("named {index}"),
            "{pin}"
        );
        ensure!(
            pin["metadata"] == json!({ "team": "web" }) && pin["expire_at"] != "0001-01-01T00:00:00Z",
            "{pin}"
        );
    }

    let cid = fresh_cid();
    api.post(&format!("/pins/{cid}?expire-in=1s")).await?.json(200)?;
    let gone = cluster.wait_until("it has expired", LIMIT, async || {
        api.get(&format!("/allocations/{cid}")).await?.error(404).map(drop)
    });
    gone.await?;
    let waited = cluster.wait_until("it is unpinned", LIMIT, async || {
        let status = api.get(&format!("/pins/{cid}")).await?.json(200)?;
        ensure!(statuses(&status)? == ["unpinned", "unpinned"], "{status}");
        Ok(())
    });
    waited.await?;
    for past in ["expire-at=2001-01-01T00:00:00Z", "expire-in=-1h"] {
        api.post(&format!("/pins/{}?{past}", fresh_cid())).await?.error(400)?;
    }
    Ok(())
}

/// Who does not answer keeps the name and the IPFS ID that it told before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_answer_is_shown_as_it_was() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let leader = cluster.leader().await?;
    let (asked, silent) = (leader, (leader + 1) % 3);
    let api = Api::of(&cluster, asked);
    let cid = fresh_cid().to_string();
    api.post(&format!("/pins/{cid}?replication=-1&name=everywhere"))
        .await?
        .json(200)?;
    let before = api.wait_for(&cluster, &cid, "pinned", 3).await?;
    let id = cluster.peer(silent).id();
    cluster.peer(silent).freeze()?;
    let info = api.get(&format!("/pins/{cid}")).await?.json(200)?;
    let (was, is) = (&before["peer_map"][&id], &info["peer_map"][&id]);
    ensure!(is["status"] == "cluster_error" && is["error"] != "", "{info}");
    for field in ["peername", "ipfs_peer_id", "ipfs_peer_addresses"] {
        ensure!(is[field] == was[field], "{field}: {is} was {was}");
    }
    ensure!(
        (&info["name"], &info["cid"]) == (&json!("everywhere"), &json!(cid)),
        "{info}"
    );
    // Among several asked for, those of who answers are whole.
    let lines = api.get(&format!("/pins?cids={cid},{}", fresh_cid())).await?.lines()?;
    ensure!(
        lines.len() == 2 && lines[0]["peer_map"][&id]["status"] == "cluster_error",
        "{lines:?}"
    );
    cluster.peer(silent).thaw()?;
    api.wait_for(&cluster, &cid, "pinned", 3).await.map(drop)
}
