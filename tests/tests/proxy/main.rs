//! The IPFS proxy over whole clusters: what clients of Kubo and IPFS Cluster's own tests rely on, read as bytes, and by clients
//! that nobody here wrote.

mod access;
mod add;
mod embedded;
mod hostile;
mod kubo;
mod large;
mod lists;
mod npm;
mod pages;
mod pins;
mod upstream;

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::node::NodeKind;
use cluster_tests::raw_http::{Answer, request, request_with};
use node_core::Cid;
use serde_json::{Value, json};

const BOUNDARY: &str = "a-boundary";

/// The proxy of a peer.
#[derive(Debug, Clone)]
struct Proxy(String);

impl Proxy {
    /// Of a peer of a cluster, counted from 0.
    fn of(cluster: &Cluster, index: usize) -> Self {
        let proxy = cluster.peer(index).info().proxy;
        Self(proxy.expect("the harness gives every peer an address for it"))
    }

    /// A call without a body.
    async fn call(&self, call: &str) -> anyhow::Result<Answer> {
        request(&self.0, "POST", &format!("/api/v0/{call}")).await
    }

    async fn call_with(&self, call: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        request_with(&self.0, "POST", &format!("/api/v0/{call}"), headers, b"").await
    }

    /// A call with parts, by name and content.
    async fn upload(&self, call: &str, parts: &[(&str, &[u8])]) -> anyhow::Result<Answer> {
        let mut body = Vec::new();
        for (name, bytes) in parts {
            let head = format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n"
            );
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(bytes);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
        let headers = [("Content-Type", content_type.as_str())];
        request_with(&self.0, "POST", &format!("/api/v0/{call}"), &headers, &body).await
    }
}

/// The message of an error in Kubo's form, answered with this status.
fn kubo_error(answer: &Answer, status: u16) -> anyhow::Result<String> {
    ensure!(answer.status == status, "{}: {}", answer.status, answer.text());
    ensure!(
        answer.header("content-type") == Some("application/json"),
        "{:?}",
        answer.headers
    );
    let error: Value = serde_json::from_slice(&answer.body)?;
    ensure!(error["Code"] == 0 && error["Type"] == "error", "{error}");
    Ok(error["Message"].as_str().context("it has no message")?.to_owned())
}

/// `{"Pins":[…]}` of these CIDs.
fn pins(cids: &[impl ToString]) -> Value {
    json!({ "Pins": cids.iter().map(ToString::to_string).collect::<Vec<_>>() })
}

/// Waits until so many nodes hold it.
async fn held(cluster: &Cluster, cid: &Cid, nodes: usize) -> anyhow::Result<()> {
    cluster
        .wait_until(&format!("{cid} is held"), LIMIT, async || {
            cluster.any()?.pinned_on(cid, nodes).await?;
            Ok(())
        })
        .await
}

fn embedded(peers: usize) -> ClusterOptions {
    let options = ClusterOptions {
        peers,
        node: NodeKind::Embedded,
        ..ClusterOptions::default()
    };
    options.with("embedded.free_min", "1MiB")
}

fn kubo(peers: usize) -> ClusterOptions {
    ClusterOptions {
        peers,
        node: NodeKind::Kubo,
        ..ClusterOptions::default()
    }
}
