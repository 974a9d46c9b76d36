//! The REST API of IPFS Cluster over whole clusters, read as bytes: what its clients and its own tests rely on.

mod access;
mod add;
mod checklist;
mod defects;
mod hostile;
mod layer;
mod lists;
mod members;
mod pins;
mod tls;

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, LIMIT};
use cluster_tests::raw_http::{Answer, request, request_with};
use serde_json::Value;

/// The REST API of a peer.
#[derive(Debug, Clone)]
struct Api(String);

impl Api {
    /// Of a peer of a cluster, counted from 0.
    fn of(cluster: &Cluster, index: usize) -> Self {
        let rest = cluster.peer(index).info().rest;
        Self(rest.expect("the harness gives every peer an address for it"))
    }

    async fn get(&self, target: &str) -> anyhow::Result<Answer> {
        request(&self.0, "GET", target).await
    }

    async fn post(&self, target: &str) -> anyhow::Result<Answer> {
        request(&self.0, "POST", target).await
    }

    async fn post_body(&self, target: &str, content_type: &str, body: &[u8]) -> anyhow::Result<Answer> {
        request_with(&self.0, "POST", target, &[("Content-Type", content_type)], body).await
    }

    async fn delete(&self, target: &str) -> anyhow::Result<Answer> {
        request(&self.0, "DELETE", target).await
    }

    /// Waits until a CID has this status at so many members, and answers its whole status.
    async fn wait_for(&self, cluster: &Cluster, cid: &str, status: &str, members: usize) -> anyhow::Result<Value> {
        let what = format!("{cid} is {status}");
        let waited = cluster.wait_until(&what, LIMIT, async || {
            let info = self.get(&format!("/pins/{cid}")).await?.json(200)?;
            let count = statuses(&info)?.iter().filter(|found| *found == status).count();
            ensure!(count == members, "{info}");
            Ok(info)
        });
        waited.await
    }
}

/// The statuses of a CID at all members that are shown.
fn statuses(info: &Value) -> anyhow::Result<Vec<String>> {
    let map = info["peer_map"].as_object().context("an object")?;
    let status = |short: &Value| short["status"].as_str().map(str::to_owned).context("a status");
    map.values().map(status).collect()
}

/// The names of the fields of an object, in order.
fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .map_or(Vec::new(), |object| object.keys().map(String::as_str).collect());
    keys.sort_unstable();
    keys
}
