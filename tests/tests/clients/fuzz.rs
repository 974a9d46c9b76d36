//! schemathesis: it asks for all that `/openapi.json` says there is, well and badly, and holds each answer against it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use cluster_tests::node::NodeKind;
use cluster_tests::raw_http::request;
use cluster_tests::schemathesis::{Document, Schemathesis, published};

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
    // Not those of what has been removed: a CID that is not pinned has a status, which clients wait for.
    let more = [
        "unsupported_method",
        "allow_header_conformance",
        "missing_required_header",
    ];
    let run = Schemathesis {
        time: Duration::from_secs(60),
        more_checks: more.map(str::to_owned).to_vec(),
        ..Schemathesis::new(Document::Url(format!("{url}/openapi.json")), url)
    };
    let told = run.run().await?;
    ensure!(told.contains("No issues found"), "{told}");
    // All of it was asked for.
    let document = fleet.get("/openapi.json").await?.json(200)?;
    let paths = document["paths"].as_object().context("paths")?;
    // It does not ask for the document that it was loaded from.
    let asked = paths.iter().filter(|(path, _)| *path != "/openapi.json");
    let operations: usize = asked.filter_map(|(_, path)| Some(path.as_object()?.len())).sum();
    ensure!(told.contains(&format!("Tested: {operations}\n")), "{told}");
    // The peer has come through it, and remembers.
    ensure!(fleet.cluster.peer(0).runs());
    ensure!(fleet.get("/id").await?.json(200)?["id"] == fleet.cluster.peer(0).id());
    fleet.stop().await
}

/// The Pinning Services API, by what was published of it, where that lies beside the repository.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pinning_services_api_is_as_it_was_published() -> anyhow::Result<()> {
    let Some(document) = published("ipfs-pinning-service-v1.0.0.yaml") else {
        eprintln!("the document is not there, so nothing was asked");
        return Ok(());
    };
    let fleet = Fleet::start(NodeKind::Embedded, 1).await?;
    let address = fleet.cluster.peer(0).info().pinning;
    let address = address.context("the harness gives every peer an address for it")?;
    let told = Schemathesis::new(document, format!("http://{address}")).run().await?;
    ensure!(told.contains("No issues found"), "{told}");
    ensure!(fleet.cluster.peer(0).runs());
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
