//! The Pinning Services API over whole clusters, read as bytes: what the specification says, and what Kubo relies on.

mod access;
mod kubo;
mod layer;
mod lists;
mod pins;
mod replace;

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::raw_http::{Answer, request, request_with};
use serde_json::{Value, json};

/// The Pinning Services API of a peer.
#[derive(Debug, Clone)]
struct Api {
    address: String,
    token: Option<String>,
}

impl Api {
    /// Of a peer of a cluster, counted from 0.
    fn of(cluster: &Cluster, index: usize) -> Self {
        let pinning = cluster.peer(index).info().pinning;
        Self {
            address: pinning.expect("the harness gives every peer an address for it"),
            token: None,
        }
    }

    /// The same, asked with a token.
    fn with(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Answer> {
        let mut headers = headers.to_vec();
        let shown = self.token.as_ref().map(|token| format!("Bearer {token}"));
        if let Some(shown) = &shown {
            headers.push(("Authorization", shown));
        }
        if !body.is_empty() {
            headers.push(("Content-Type", "application/json"));
        }
        request_with(&self.address, method, target, &headers, body.as_bytes()).await
    }

    async fn get(&self, target: &str) -> anyhow::Result<Answer> {
        self.ask("GET", target, &[], "").await
    }

    async fn delete(&self, target: &str) -> anyhow::Result<Answer> {
        self.ask("DELETE", target, &[], "").await
    }

    async fn post(&self, target: &str, body: &Value) -> anyhow::Result<Answer> {
        self.ask("POST", target, &[], &body.to_string()).await
    }

    /// Pins, and answers the status.
    async fn pin(&self, body: Value) -> anyhow::Result<Value> {
        status(self.post("/pins", &body).await?.json(202)?)
    }

    /// A list: the count and the results.
    async fn list(&self, query: &str) -> anyhow::Result<(u64, Vec<Value>)> {
        let page = self.get(&format!("/pins?{query}")).await?.json(200)?;
        let count = page["count"].as_u64().context("a count")?;
        let results = page["results"].as_array().context("results")?.clone();
        ensure!(page.as_object().is_some_and(|fields| fields.len() == 2), "{page}");
        let results: anyhow::Result<Vec<Value>> = results.into_iter().map(status).collect();
        Ok((count, results?))
    }

    /// Everything that a query finds, page by page, as Kubo's client asks: behind the oldest until there are as many as counted.
    async fn list_all(&self, query: &str) -> anyhow::Result<Vec<Value>> {
        let (mut all, mut before): (Vec<Value>, Option<String>) = (Vec::new(), None);
        loop {
            let behind = before.as_ref().map(|before| format!("&before={before}"));
            let (count, results) = self.list(&format!("{query}{}", behind.unwrap_or_default())).await?;
            let is_last = count == results.len() as u64;
            ensure!(is_last || !results.is_empty(), "{count} are counted, and none is shown");
            before = results
                .last()
                .and_then(|last| Some(last["created"].as_str()?.to_owned()));
            all.extend(results);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Waits until a pin is in a state, and answers it.
    async fn wait_for(&self, cluster: &Cluster, id: &str, state: &str) -> anyhow::Result<Value> {
        let what = format!("{id} is {state}");
        let waited = cluster.wait_until(&what, LIMIT, async || {
            let found = status(self.get(&format!("/pins/{id}")).await?.json(200)?)?;
            ensure!(found["status"] == state, "{found}");
            Ok(found)
        });
        waited.await
    }
}

/// A value that is a `PinStatus` of the specification.
fn status(value: Value) -> anyhow::Result<Value> {
    for field in ["requestid", "status", "created"] {
        ensure!(
            value[field].as_str().is_some_and(|text| !text.is_empty()),
            "{field}: {value}"
        );
    }
    let state = value["status"].as_str().unwrap_or_default();
    ensure!(["queued", "pinning", "pinned", "failed"].contains(&state), "{value}");
    ensure!(value["pin"]["cid"].is_string(), "{value}");
    let delegates = value["delegates"].as_array().context("delegates")?;
    ensure!(delegates.len() <= 20, "{value}");
    for delegate in delegates {
        ensure!(
            delegate.as_str().is_some_and(|address| address.contains("/p2p/")),
            "{value}"
        );
    }
    let info = value["info"].as_object().context("info")?;
    ensure!(info.values().all(Value::is_string), "{value}");
    Ok(value)
}

/// The reason of an error, answered with this status.
fn reason(answer: &Answer, status: u16) -> anyhow::Result<String> {
    let error = answer.json(status)?;
    ensure!(error.as_object().is_some_and(|fields| fields.len() == 1), "{error}");
    let reason = error["error"]["reason"].as_str().context("a reason")?;
    ensure!(!reason.is_empty(), "{error}");
    Ok(reason.to_owned())
}

/// The text of a field.
fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} of {value}"))
}

/// CIDs of results in their order.
fn cids(results: &[Value]) -> Vec<&str> {
    results.iter().map(|result| text(&result["pin"], "cid")).collect()
}

/// How many results are in which state.
fn states(results: &[Value]) -> BTreeMap<&str, usize> {
    let mut states = BTreeMap::new();
    for result in results {
        *states.entry(text(result, "status")).or_default() += 1;
    }
    states
}

/// A cluster whose nodes give up after a few tries.
fn quick(peers: usize) -> ClusterOptions {
    ClusterOptions::fakes(peers)
        .with("worker.give_up_attempts", 2)
        .with("worker.backoff_base", "100ms")
        .with("worker.backoff_max", "200ms")
}

const ALL: &str = "status=queued,pinning,pinned,failed";

fn body(cid: impl ToString) -> Value {
    json!({ "cid": cid.to_string() })
}

/// A request without anything else.
async fn bare(api: &Api, method: &str, target: &str) -> anyhow::Result<Answer> {
    request(&api.address, method, target).await
}
