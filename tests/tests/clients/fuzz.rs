//! schemathesis: it asks for all that `/openapi.json` says there is, well and badly, and holds each answer against it.

use std::time::Duration;

use anyhow::ensure;
use cluster_tests::node::NodeKind;
use cluster_tests::raw_http::request;
use cluster_tests::schemathesis::{Document, Schemathesis};

use super::Fleet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_answered_that_the_document_does_not_say() -> anyhow::Result<()> {
    let fleet = Fleet::start(NodeKind::Embedded, 1).await?;
    for number in 0..5u8 {
        let held = fleet.hold(&[number; 100]).await?;
        let target = format!("/pins/{held}?name=pin-{number}");
        request(&fleet.rest(0), "POST", &target).await?.json(200)?;
    }
    let url = format!("http://{}", fleet.rest(0));
    let run = Schemathesis {
        time: Duration::from_secs(60),
        ..Schemathesis::new(Document::Url(format!("{url}/openapi.json")), url)
    };
    let told = run.run().await?;
    ensure!(told.contains("No issues found"), "{told}");
    // The peer has come through it, and remembers.
    ensure!(fleet.cluster.peer(0).runs());
    ensure!(fleet.get("/id").await?.json(200)?["id"] == fleet.cluster.peer(0).id());
    fleet.stop().await
}

/// A fuzzer that finds nothing anywhere proves nothing: a document that is wrong in one thing is found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_is_not_true_is_found_out() -> anyhow::Result<()> {
    let fleet = Fleet::start(NodeKind::Embedded, 1).await?;
    let mut document = fleet.get("/openapi.json").await?.json(200)?;
    document["components"]["schemas"]["Version"]["properties"]["version"] = serde_json::json!({ "type": "integer" });
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("openapi.json");
    std::fs::write(&file, document.to_string())?;
    let run = Schemathesis {
        examples: 1,
        time: Duration::from_secs(20),
        ..Schemathesis::new(Document::File(file), format!("http://{}", fleet.rest(0)))
    };
    let found = run.run().await.expect_err("the version is no number");
    let found = format!("{found:#}");
    ensure!(found.contains("GET /version") && found.contains("1.1.6"), "{found}");
    fleet.stop().await
}
