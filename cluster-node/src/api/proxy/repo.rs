//! `repo/stat` and `repo/gc`: the repositories of all nodes as one.

use std::time::Duration;

use async_stream::try_stream;
use axum::body::Body;
use cluster_http::{Failure, json, ndjson};
use cluster_proto::v1::collect_garbage_response::Message;
use futures::StreamExt as _;
use http::Request;
use node_core::StorageNode;
use serde::Serialize;
use serde_json::Value;

use super::guard::Page;
use super::upstream::Upstream;
use super::{Answer, Arc, Call, Proxy};
use crate::api::failure::failure;
use crate::service::{Error, WAIT_DEFAULT, is_embedded};

/// Nodes that are asked at once.
const ASKED_AT_ONCE: usize = 32;

/// How long a node may take to say how full it is.
const STAT_TIME: Duration = Duration::from_secs(8);

/// Bytes of errors that are told at the end.
const ERRORS_BYTES: usize = 4 * 1024;

/// A key that went, or why one did not.
type Gone = Result<Value, String>;

/// Kubo's word for no limit: the largest number.
const NO_LIMIT: u64 = u64::MAX;

/// What Kubo says of a repository. Clients throw when a number is missing.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Stat {
    repo_size: u64,
    storage_max: u64,
    /// Blocks of the embedded nodes: daemons would have to read all of their repositories to count theirs.
    num_objects: u64,
    repo_path: &'static str,
    version: &'static str,
}

/// A key that was collected, or a member whose garbage could not be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Collected {
    key: Option<Value>,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

impl Proxy {
    /// Sums what the nodes say; those that say nothing are passed over.
    pub(super) async fn repo_stat(self: &Arc<Self>, _: &Call) -> Answer {
        let names = self.pins.names();
        let ids: Vec<String> = names.present().map(|node| node.id.to_string()).collect();
        let mut asked = futures::stream::iter(ids)
            .map(|id| {
                let pins = self.pins.clone();
                async move { tokio::time::timeout(STAT_TIME, pins.node(&id, STAT_TIME)).await }
            })
            .buffer_unordered(ASKED_AT_ONCE);
        let mut stat = Stat {
            repo_path: "pinfleet",
            version: concat!("pinfleet@", env!("CARGO_PKG_VERSION")),
            ..Stat::default()
        };
        while let Some(answer) = asked.next().await {
            let Ok(Ok(view)) = answer else { continue };
            let details = view.details;
            if details.repo_bytes == 0 && details.repo_max_bytes.is_none() && !details.error.is_empty() {
                continue;
            }
            stat.repo_size = stat.repo_size.saturating_add(details.repo_bytes);
            let max = details.repo_max_bytes.unwrap_or(NO_LIMIT);
            stat.storage_max = stat.storage_max.saturating_add(max);
            let blocks = details
                .embedded
                .and_then(|embedded| embedded.store)
                .map(|store| store.blocks);
            stat.num_objects = stat.num_objects.saturating_add(blocks.unwrap_or_default());
        }
        Ok(json(&stat))
    }

    /// Collects at one node after another. Embedded nodes don't tell which keys went; daemons of this peer do, and those of other
    /// peers collect by themselves.
    pub(super) async fn repo_gc(self: &Arc<Self>, call: &Call) -> Answer {
        let stream_errors = call.query.bool("stream-errors")?.unwrap_or_default();
        let silent = call.query.bool("silent")?.unwrap_or_default();
        let nodes: Vec<StorageNode> = self.pins.names().present().cloned().collect();
        let proxy = self.clone();
        let lines = try_stream! {
            let mut errors = String::new();
            for node in nodes {
                let mut keys = Box::pin(proxy.clone().collect(node.clone()));
                while let Some(key) = keys.next().await {
                    let key = key.unwrap_or_else(|failure| Err(failure.message));
                    let line = match key {
                        Ok(key) => Collected { key: Some(key), error: String::new() },
                        Err(words) => {
                            let words = format!("{}: {words}", node.name);
                            if !stream_errors && errors.len() < ERRORS_BYTES {
                                errors.push_str(&words);
                                errors.push_str("; ");
                            }
                            Collected { key: None, error: if stream_errors { words } else { String::new() } }
                        }
                    };
                    if !silent {
                        yield line;
                    }
                }
            }
            if !errors.is_empty() {
                Err(Failure::internal(errors.trim_end().to_owned()))?;
            }
        };
        let lines: futures::stream::BoxStream<'static, Result<Collected, Failure>> = Box::pin(lines);
        let mut response = ndjson(lines).await;
        let chunked = http::HeaderName::from_static("x-chunked-output");
        response
            .headers_mut()
            .insert(chunked, http::HeaderValue::from_static("1"));
        Ok(response)
    }

    /// The keys that go from one node, and what is said of those that can't go; behind them it goes on.
    fn collect(self: Arc<Self>, node: StorageNode) -> impl futures::Stream<Item = Result<Gone, Failure>> + Send {
        try_stream! {
            if is_embedded(&node) {
                self.collect_embedded(&node).await?;
                return;
            }
            let daemon = match node.peer == self.pins.directory.own() {
                true => self.pins.nodes.daemon(node.id).await.map_err(|error| Failure::internal(error.message))?,
                false => None,
            };
            let Some(daemon) = daemon else {
                Err(Failure::internal(
                    "a daemon behind another peer: run `ipfs repo gc` on its machine, or start it with --enable-gc",
                ))?;
                return;
            };
            let upstream = Upstream::Attached(node.id, daemon);
            let request = Request::post("/api/v0/repo/gc?stream-errors=true").body(Body::empty());
            let (parts, body) = request.map_err(|error| Failure::internal(error.to_string()))?.into_parts();
            let answer = self.pass_to(&upstream, parts, body, None, &Page::None).await?;
            if !answer.status().is_success() {
                Err(Failure::internal(format!("the daemon answers {}", answer.status())))?;
                return;
            }
            let mut lines = super::put::lines(answer.into_body());
            while let Some(line) = lines.next().await {
                let line = line?;
                match line["Error"].as_str() {
                    Some(words) if !words.is_empty() => yield Err(words.to_owned()),
                    _ => yield Ok(line["Key"].clone()),
                }
            }
        }
    }

    async fn collect_embedded(self: &Arc<Self>, node: &StorageNode) -> Result<(), Failure> {
        let begun = self
            .pins
            .collect_garbage(&node.id.to_string(), false, WAIT_DEFAULT)
            .await;
        let mut steps = begun.map_err(failure)?;
        while let Some(step) = steps.next().await {
            if matches!(step.map_err(failure)?.message, Some(Message::Done(_))) {
                return Ok(());
            }
        }
        Err(failure(Error::precondition("the collection ended before its time")))
    }
}
