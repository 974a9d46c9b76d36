//! Calls about the node itself.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::Response;
use bytes::BytesMut;
use serde_json::{Value, json};

use super::answer::{Failure, line};
use super::files::chunked;
use super::{Arguments, Inside, Rpc, all};

/// Kubo's form of a repository at the time; clients only show it.
const REPO_VERSION: &str = "18";

/// What a search is asked for at most: each is a peer that somebody may dial.
const PROVIDERS_MAX: usize = 32;

/// Kubo's number of the event that tells of a provider.
const PROVIDER: u8 = 4;

/// Kubo's word for no limit: the largest number.
const NO_LIMIT: u64 = u64::MAX;

/// Addresses of one call. Each is tried, and a call that names more was not written by hand.
const ADDRESSES_MAX: usize = 64;

pub(super) async fn id(State(rpc): State<Arc<Rpc>>) -> Result<Json<Value>, Failure> {
    let identity = rpc.node.id().await?;
    Ok(Json(json!({
        "ID": identity.peer_id,
        "PublicKey": "",
        "Addresses": identity.addresses,
        "AgentVersion": identity.agent,
        "Protocols": [],
    })))
}

pub(super) async fn version(State(rpc): State<Arc<Rpc>>) -> Result<Json<Value>, Failure> {
    let version = rpc.node.version().await?;
    Ok(Json(json!({
        "Version": version,
        "Commit": "",
        "Repo": REPO_VERSION,
        "System": format!("{}/{}", std::env::consts::ARCH, std::env::consts::OS),
        "Golang": "",
    })))
}

pub(super) async fn repo_version() -> Json<Value> {
    Json(json!({ "Version": REPO_VERSION }))
}

pub(super) async fn repo_stat(
    State(rpc): State<Arc<Rpc>>,
    Query(arguments): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, Failure> {
    let stat = rpc.node.repo_stat().await?;
    let size_only = super::flag(&Query(arguments), "size-only", false)?;
    let objects = match &rpc.inside {
        Some(inside) if !size_only => inside.objects().await?,
        _ => 0,
    };
    Ok(Json(json!({
        "RepoSize": stat.used_bytes,
        "StorageMax": stat.max_bytes.unwrap_or(NO_LIMIT),
        "NumObjects": objects,
        "RepoPath": "blocks",
        "Version": format!("pinfleet@{REPO_VERSION}"),
    })))
}

/// Which keys it deletes it does not say: they are counted, and not kept.
pub(super) async fn repo_gc(State(rpc): State<Arc<Rpc>>) -> Result<Response, Failure> {
    inside(&rpc)?.collect_garbage().await?;
    Ok(chunked(Body::empty()))
}

pub(super) async fn traffic(State(rpc): State<Arc<Rpc>>) -> Result<Json<Value>, Failure> {
    let traffic = inside(&rpc)?.traffic().await?;
    Ok(Json(json!({
        "TotalIn": traffic.bytes_in,
        "TotalOut": traffic.bytes_out,
        "RateIn": 0.0,
        "RateOut": 0.0,
    })))
}

pub(super) async fn bitswap(State(rpc): State<Arc<Rpc>>) -> Result<Json<Value>, Failure> {
    let inside = inside(&rpc)?;
    let traffic = inside.traffic().await?;
    let peers = inside.peers().await?;
    let peers: Vec<&str> = peers.iter().map(|peer| peer.id.as_str()).collect();
    Ok(Json(json!({
        "ProvideBufLen": 0,
        "Wantlist": [],
        "Peers": peers,
        "BlocksReceived": traffic.blocks_in,
        "DataReceived": traffic.block_bytes_in,
        "DupBlksReceived": 0,
        "DupDataReceived": 0,
        "MessagesReceived": 0,
        "BlocksSent": 0,
        "DataSent": traffic.bytes_out,
    })))
}

pub(super) async fn swarm_peers(State(rpc): State<Arc<Rpc>>) -> Result<Json<Value>, Failure> {
    let mut peers = Vec::new();
    for peer in inside(&rpc)?.peers().await? {
        for address in &peer.addresses {
            peers.push(json!({
                "Addr": address,
                "Peer": peer.id,
                "Identify": {
                    "ID": peer.id, "PublicKey": "", "Addresses": [], "AgentVersion": peer.agent, "Protocols": [],
                },
            }));
        }
    }
    Ok(Json(json!({ "Peers": peers })))
}

pub(super) async fn swarm_addrs(State(rpc): State<Arc<Rpc>>) -> Result<Json<Value>, Failure> {
    let peers = inside(&rpc)?.peers().await?;
    let addresses: serde_json::Map<String, Value> =
        peers.into_iter().map(|peer| (peer.id, peer.addresses.into())).collect();
    Ok(Json(json!({ "Addrs": addresses })))
}

pub(super) async fn swarm_addrs_local(
    State(rpc): State<Arc<Rpc>>,
    Query(arguments): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, Failure> {
    let with_id = super::flag(&Query(arguments), "id", false)?;
    let identity = rpc.node.id().await?;
    let suffix = format!("/p2p/{}", identity.peer_id);
    let addresses = identity.addresses.into_iter().map(|address| {
        let bare = address.strip_suffix(&suffix).unwrap_or(&address).to_owned();
        if with_id { format!("{bare}{suffix}") } else { bare }
    });
    Ok(Json(json!({ "Strings": addresses.collect::<Vec<_>>() })))
}

pub(super) async fn swarm_disconnect(
    State(rpc): State<Arc<Rpc>>,
    Query(arguments): Query<Vec<(String, String)>>,
) -> Result<Json<Value>, Failure> {
    let arguments: Arguments = Query(arguments);
    let mut lines = Vec::new();
    for address in all(&arguments, "arg").take(ADDRESSES_MAX) {
        let id = address.rsplit("/p2p/").next().unwrap_or_default();
        inside(&rpc)?.disconnect(id).await?;
        lines.push(format!("disconnect {id} success"));
    }
    match lines.is_empty() {
        true => Err(Failure::client("argument \"address\" is required")),
        false => Ok(Json(json!({ "Strings": lines }))),
    }
}

/// Peers that have a block, one a line.
pub(super) async fn find_providers(
    State(rpc): State<Arc<Rpc>>,
    Query(arguments): Query<Vec<(String, String)>>,
) -> Result<Response, Failure> {
    let arguments: Arguments = Query(arguments);
    let wanted = super::content::number(&arguments, "num-providers")?.unwrap_or(20);
    let wanted = usize::try_from(wanted).unwrap_or(PROVIDERS_MAX).clamp(1, PROVIDERS_MAX);
    let (cid, _) = super::paths::split(super::content::argument(&arguments)?)?;
    let found = inside(&rpc)?.providers(&cid, wanted).await?;
    let mut lines = BytesMut::new();
    for peer in found {
        lines.extend_from_slice(&line(&json!({
            "Extra": "",
            "ID": "",
            "Responses": [{ "Addrs": peer.addresses, "ID": peer.id }],
            "Type": PROVIDER,
        })));
    }
    Ok(chunked(Body::from(lines.freeze())))
}

fn inside(rpc: &Rpc) -> Result<&Arc<dyn Inside>, Failure> {
    let words = "this node does not tell that";
    rpc.inside.as_ref().ok_or_else(|| Failure::normal(words))
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
