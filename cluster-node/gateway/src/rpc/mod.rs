//! The part of Kubo's RPC that Pinfleet drives a node by, so that an embedded node of one cluster can be an attached node
//! of another: <https://docs.ipfs.tech/reference/kubo/rpc/>.
//!
//! | call | of it |
//! |---|---|
//! | `id`, `version`, `repo/stat` | what Pinfleet reads of the answers; `repo/stat` never counts objects |
//! | `pin/add`, `pin/rm`, `pin/update`, `pin/ls` | CIDs, no paths; `pin/ls` of one CID at a time |
//! | `swarm/connect` | whole |
//! | `block/get`, `cat`, `dag/import` | whole, but for options that only a terminal needs |
//!
//! Errors are Kubo's JSON with words that Pinfleet's driver sorts into the class which they had here. Calls are `POST`
//! only, and none that a browser sends for a page is answered, as in Kubo: a page could otherwise drive a node on
//! loopback, where there are no credentials.

mod answer;
mod auth;
mod content;
mod node;
mod pins;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use cluster_content::{Content, Sink, Source};
use cluster_ipfs::IpfsNode;
use node_core::Cid;
use tokio::sync::Semaphore;

pub use auth::RpcCredential;

use answer::Failure;

/// Where a node that is driven has its parts.
#[derive(Clone)]
pub struct RpcNode {
    /// The node.
    pub node: Arc<dyn IpfsNode>,
    /// What it holds, or finds.
    pub source: Arc<dyn Source>,
    /// Where `dag/import` puts blocks.
    pub sink: Arc<dyn Sink>,
}

/// Choices and bounds of the RPC.
#[derive(Debug, Clone)]
pub struct RpcOptions {
    /// Who may call; with none, whoever reaches the address.
    pub credentials: Vec<RpcCredential>,
    /// Calls answered at the same time; beyond it the answer is 429. A pin is a call until it is done.
    pub calls_max: usize,
}

impl Default for RpcOptions {
    fn default() -> Self {
        Self {
            credentials: Vec::new(),
            calls_max: 256,
        }
    }
}

struct Rpc {
    node: Arc<dyn IpfsNode>,
    content: Content,
    sink: Arc<dyn Sink>,
    options: RpcOptions,
    calls: Arc<Semaphore>,
}

/// The routes of the RPC, under `/api/v0`.
pub fn router(node: RpcNode, options: RpcOptions) -> Router {
    let rpc = Arc::new(Rpc {
        node: node.node,
        content: Content::new(node.source),
        sink: node.sink,
        calls: Arc::new(Semaphore::new(options.calls_max)),
        options,
    });
    let calls = Router::new()
        .route("/id", post(node::id))
        .route("/version", post(node::version))
        .route("/repo/stat", post(node::repo_stat))
        .route("/swarm/connect", post(node::swarm_connect))
        .route("/pin/add", post(pins::add))
        .route("/pin/rm", post(pins::remove))
        .route("/pin/update", post(pins::update))
        .route("/pin/ls", post(pins::list))
        .route("/block/get", post(content::block_get))
        .route("/cat", post(content::cat))
        // A CAR file is as long as it is; it is read piece by piece.
        .route(
            "/dag/import",
            post(content::dag_import).layer(DefaultBodyLimit::disable()),
        );
    Router::new()
        .nest("/api/v0", calls)
        .layer(from_fn_with_state(rpc.clone(), admit))
        .with_state(rpc)
}

/// Lets a call in, or not.
async fn admit(State(rpc): State<Arc<Rpc>>, mut request: Request, next: Next) -> Response {
    if let Err(failure) = auth::check(&rpc.options.credentials, request.headers()) {
        return failure.into_response();
    }
    let Ok(permit) = rpc.calls.clone().try_acquire_owned() else {
        return Failure::overloaded("too many calls are being answered: try again later").into_response();
    };
    request.extensions_mut().insert(answer::Permit::new(permit));
    next.run(request).await
}

/// Arguments of a call, in order.
type Arguments = Query<Vec<(String, String)>>;

fn value<'a>(arguments: &'a Arguments, name: &str) -> Option<&'a str> {
    let found = arguments.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.as_str())
}

fn all<'a>(arguments: &'a Arguments, name: &'a str) -> impl Iterator<Item = &'a str> {
    arguments
        .iter()
        .filter(move |(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

/// An option that is on or off.
fn flag(arguments: &Arguments, name: &str, default: bool) -> Result<bool, Failure> {
    match value(arguments, name) {
        None => Ok(default),
        Some("true" | "1" | "") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(Failure::client(format!("{name} is true or false, and no {other:?}"))),
    }
}

/// The CIDs that a call is about: at least one, each bare or as `/ipfs/CID`.
fn cids(arguments: &Arguments) -> Result<Vec<Cid>, Failure> {
    let cids: Result<Vec<Cid>, Failure> = all(arguments, "arg").map(cid).collect();
    match cids? {
        cids if cids.is_empty() => Err(Failure::client("argument \"ipfs-path\" is required")),
        cids => Ok(cids),
    }
}

fn cid(text: &str) -> Result<Cid, Failure> {
    let bare = text.strip_prefix("/ipfs/").unwrap_or(text);
    bare.parse()
        .map_err(|error| Failure::client(format!("invalid path: {error}")))
}
