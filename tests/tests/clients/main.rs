//! The REST API asked by what nobody here wrote: the client libraries of npm and PyPI, the command line of IPFS Cluster 1.1.6
//! and a fuzzer that reads our own description, all as they come. What they say is held against what gRPC says.
//!
//! Each runs over nodes inside the peers and over real Kubo daemons, since an answer can be right in form and wrong in what
//! was done.

mod ctl;
mod fuzz;
mod npm;
mod python;

use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::client::Client;
use cluster_tests::cluster::{Cluster, ClusterOptions};
use cluster_tests::node::NodeKind;
use cluster_tests::raw_http::{Answer, request, request_with};
use node_core::Cid;
use serde_json::Value;

/// Content travels between processes on a busy machine.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

/// A cluster whose nodes hold real content.
struct Fleet {
    cluster: Cluster,
}

impl Fleet {
    async fn start(node: NodeKind, peers: usize) -> anyhow::Result<Self> {
        let options = ClusterOptions {
            peers,
            node,
            ..ClusterOptions::default()
        };
        let options = match options.node {
            NodeKind::Embedded => options.with("embedded.free_min", "1MiB"),
            _ => options,
        };
        Ok(Self {
            cluster: Cluster::start(options).await?,
        })
    }

    /// Where the REST API of a peer is, counted from 0.
    fn rest(&self, index: usize) -> String {
        let rest = self.cluster.peer(index).info().rest;
        rest.expect("the harness gives every peer an address for it")
    }

    /// gRPC of the first peer.
    fn client(&self) -> Client {
        self.cluster.client(0)
    }

    async fn get(&self, target: &str) -> anyhow::Result<Answer> {
        request(&self.rest(0), "GET", target).await
    }

    /// Puts a file of one block on every node, and pins it nowhere.
    async fn hold(&self, content: &[u8]) -> anyhow::Result<Cid> {
        let head = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"held\"\r\n\r\n";
        let body = [head.as_bytes(), content, b"\r\n--b--\r\n"].concat();
        let target = "/add?no-pin=true&cid-version=1&replication=-1";
        let kind = [("Content-Type", "multipart/form-data; boundary=b")];
        let answer = request_with(&self.rest(0), "POST", target, &kind, &body).await?;
        let lines = answer.lines()?;
        let cid = lines.last().and_then(|line| line["cid"].as_str());
        Ok(cid.context("no CID was told")?.parse()?)
    }

    /// The pin of a CID as gRPC knows it.
    async fn pin(&self, cid: &Cid) -> anyhow::Result<v1::Pin> {
        Ok(self.client().get(cid, v1::Consistency::Linearizable).await?)
    }

    /// That gRPC knows no pin of a CID.
    async fn has_no_pin(&self, cid: &Cid) -> anyhow::Result<()> {
        match self.client().get(cid, v1::Consistency::Linearizable).await {
            Ok(pin) => anyhow::bail!("it is pinned: {pin:?}"),
            Err(status) => ensure!(status.code() == tonic::Code::NotFound, "{status}"),
        }
        Ok(())
    }

    /// Waits until gRPC says that so many nodes hold a CID, and no others shall.
    async fn pinned_on(&self, cid: &Cid, nodes: usize) -> anyhow::Result<v1::PinStatus> {
        let what = format!("{cid} is pinned");
        let client = self.client();
        self.cluster
            .wait_until(&what, FETCH_LIMIT, async || client.pinned_on(cid, nodes).await)
            .await
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.cluster.stop().await
    }
}

/// A field of an object as text.
fn text<'a>(value: &'a Value, field: &str) -> anyhow::Result<&'a str> {
    value[field]
        .as_str()
        .with_context(|| format!("no text {field} in {value}"))
}

/// A field of an object as a CID.
fn cid(value: &Value, field: &str) -> anyhow::Result<Cid> {
    Ok(text(value, field)?.parse()?)
}
