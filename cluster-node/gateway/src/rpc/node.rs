//! Calls about the node itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use serde_json::{Value, json};

use super::answer::Failure;
use super::{Arguments, Rpc, all};

/// Kubo's word for no limit: the largest number.
const NO_LIMIT: u64 = u64::MAX;

/// Addresses of one call. Each is tried, and a call that names more was not written by hand.
const ADDRESSES_MAX: usize = 64;

pub(super) async fn id(State(rpc): State<Arc<Rpc>>) -> Result<Json<Value>, Failure> {
    let identity = rpc.node.id().await?;
    Ok(Json(json!({
        "ID": identity.peer_id,
        "Addresses": identity.addresses,
        "AgentVersion": identity.agent,
        "Protocols": [],
    })))
}

pub(super) async fn version(State(rpc): State<Arc<Rpc>>) -> Result<Json<Value>, Failure> {
    let version = rpc.node.version().await?;
    Ok(Json(json!({ "Version": version })))
}

pub(super) async fn repo_stat(State(rpc): State<Arc<Rpc>>) -> Result<Json<Value>, Failure> {
    let stat = rpc.node.repo_stat().await?;
    Ok(Json(json!({
        "RepoSize": stat.used_bytes,
        "StorageMax": stat.max_bytes.unwrap_or(NO_LIMIT),
        "NumObjects": 0,
    })))
}

pub(super) async fn swarm_connect(
    State(rpc): State<Arc<Rpc>>,
    Query(arguments): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, Failure> {
    let arguments: Arguments = Query(arguments);
    let addresses: Vec<String> = all(&arguments, "arg").map(str::to_owned).collect();
    if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
        return Err(Failure::client("argument \"address\" is required, 64 times at most"));
    }
    let connected = rpc.node.swarm_connect(&addresses).await;
    match connected.failures.into_iter().next() {
        Some(mut error) => {
            error.message = format!("connect failure: {}", error.message);
            Err(error.into())
        }
        None => {
            let lines: Vec<String> = addresses
                .iter()
                .map(|address| format!("connect {address} success"))
                .collect();
            Ok(Json(json!({ "Strings": lines })))
        }
    }
}
