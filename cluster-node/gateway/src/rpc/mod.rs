//! The part of Kubo's RPC that Pinfleet drives a node by, so that an embedded node of one cluster can be an attached node
//! of another: <https://docs.ipfs.tech/reference/kubo/rpc/>.
//!
//! | call | of it |
//! |---|---|
//! | `id`, `version`, `repo/{stat,version,gc}`, `stats/*`, `bitswap/stat` | what the node knows; rates are 0, and `repo/gc` names no keys |
//! | `pin/{add,rm,update,ls}` | CIDs, no paths; `pin/ls` names no indirect pins unless they are asked for one by one |
//! | `swarm/{connect,disconnect,peers,addrs,addrs/local}`, `routing/findprovs` | whole |
//! | `cat`, `get`, `ls`, `refs`, `resolve` | whole, but for options that only a terminal needs; `/ipns/` is not resolved |
//! | `block/{get,put,stat}`, `dag/{get,put,stat,export,import,resolve}` | raw, dag-pb, dag-cbor and dag-json; digests are not cut (`mhlen`) |
//!
//! `block/rm`, `add` and the mutable file system (`files/*`) are refused with the reason; what is not there at all is 404, as in
//! Kubo.
//!
//! Errors are Kubo's JSON with words that Pinfleet's driver sorts into the class which they had here. Calls are `POST`
//! only, and none that a browser sends for a page is answered, as in Kubo: a page could otherwise drive a node on
//! loopback, where there are no credentials.

mod answer;
mod auth;
mod blocks;
mod content;
mod files;
mod inside;
mod node;
mod paths;
mod pins;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use cluster_content::{Content, Sink, Source};
use cluster_ipfs::IpfsNode;
use http::StatusCode;
use node_core::Cid;
use tokio::sync::Semaphore;

pub use auth::RpcCredential;
pub use inside::{Inside, Peer, Traffic};

use answer::Failure;

/// Makes what one call reads from or puts to, and is done with at its end: who had one block of some content is asked for
/// the next ones, and what was put is kept as long as more of it comes.
pub type PerCall<T> = Arc<dyn Fn() -> Arc<T> + Send + Sync>;

/// Where a node that is driven has its parts.
#[derive(Clone)]
pub struct RpcNode {
    /// The node.
    pub node: Arc<dyn IpfsNode>,
    /// What it holds, or finds.
    pub source: PerCall<dyn Source>,
    /// What it holds, for calls that are to ask nobody else (`offline=true`); none where that is all there is.
    pub held: Option<Arc<dyn Source>>,
    /// Where `dag/import`, `dag/put` and `block/put` put blocks. They stay at least until it is dropped.
    pub sink: PerCall<dyn Sink>,
    /// More of the node; without it the calls that need it are refused.
    pub inside: Option<Arc<dyn Inside>>,
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
    source: PerCall<dyn Source>,
    held: Option<Content>,
    sink: PerCall<dyn Sink>,
    inside: Option<Arc<dyn Inside>>,
    options: RpcOptions,
    calls: Arc<Semaphore>,
    /// Whether who asks is checked here.
    guarded: bool,
}

/// Blocks of one `block/put` or `dag/put`: their CIDs are answered when the last is stored.
const PARTS_MAX: usize = 65_536;

/// The routes of the RPC, under `/api/v0`, for a listener: credentials are checked, and pages are let in nowhere.
pub fn router(node: RpcNode, options: RpcOptions) -> Router {
    routes(node, options, true)
}

/// The same for a caller in this process that has checked who asks.
pub fn inner_router(node: RpcNode, options: RpcOptions) -> Router {
    routes(node, options, false)
}

fn routes(node: RpcNode, options: RpcOptions, guarded: bool) -> Router {
    let rpc = Arc::new(Rpc {
        node: node.node,
        held: node.held.map(Content::new),
        source: node.source,
        sink: node.sink,
        inside: node.inside,
        calls: Arc::new(Semaphore::new(options.calls_max)),
        options,
        guarded,
    });
    let calls = Router::new()
        .route("/id", post(node::id))
        .route("/version", post(node::version))
        .route("/repo/stat", post(node::repo_stat))
        .route("/repo/version", post(node::repo_version))
        .route("/repo/gc", post(node::repo_gc))
        .route("/stats/repo", post(node::repo_stat))
        .route("/stats/bw", post(node::traffic))
        .route("/stats/bitswap", post(node::bitswap))
        .route("/bitswap/stat", post(node::bitswap))
        .route("/swarm/connect", post(node::swarm_connect))
        .route("/swarm/disconnect", post(node::swarm_disconnect))
        .route("/swarm/peers", post(node::swarm_peers))
        .route("/swarm/addrs", post(node::swarm_addrs))
        .route("/swarm/addrs/local", post(node::swarm_addrs_local))
        .route("/routing/findprovs", post(node::find_providers))
        .route("/pin/add", post(pins::add))
        .route("/pin/rm", post(pins::remove))
        .route("/pin/update", post(pins::update))
        .route("/pin/ls", post(pins::list))
        .route("/cat", post(files::cat))
        .route("/get", post(files::get))
        .route("/ls", post(files::ls))
        .route("/refs", post(files::refs))
        .route("/resolve", post(files::resolve))
        .route("/block/get", post(blocks::block_get))
        .route("/block/stat", post(blocks::block_stat))
        .route("/block/put", post(blocks::block_put))
        .route("/block/rm", post(blocks::block_rm))
        .route("/dag/get", post(blocks::dag_get))
        .route("/dag/put", post(blocks::dag_put))
        .route("/dag/resolve", post(blocks::dag_resolve))
        .route("/dag/export", post(blocks::dag_export))
        .route("/dag/stat", post(blocks::dag_stat))
        .route("/add", post(no_add))
        .route("/files/{*call}", post(no_files))
        // A CAR file is as long as it is; it is read piece by piece.
        .route(
            "/dag/import",
            post(content::dag_import).layer(DefaultBodyLimit::disable()),
        );
    Router::new()
        .nest("/api/v0", calls)
        .fallback(not_there)
        .layer(from_fn_with_state(rpc.clone(), admit))
        .with_state(rpc)
}

/// As Kubo says it.
async fn not_there() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

async fn no_files() -> Failure {
    Failure::normal(
        "the embedded node has no mutable file system (MFS), so files/* can't be used: add what you need and keep its CID",
    )
}

async fn no_add() -> Failure {
    Failure::normal("the embedded node takes content through its cluster: add it by one of the cluster's APIs")
}

/// Lets a call in, or not.
async fn admit(State(rpc): State<Arc<Rpc>>, mut request: Request, next: Next) -> Response {
    if rpc.guarded
        && let Err(failure) = auth::check(&rpc.options.credentials, request.headers())
    {
        return failure.into_response();
    }
    let Ok(permit) = rpc.calls.clone().try_acquire_owned() else {
        return Failure::overloaded("too many calls are being answered: try again later").into_response();
    };
    request.extensions_mut().insert(answer::Permit::new(permit));
    next.run(request).await
}

impl Rpc {
    /// Content as a call may see it.
    fn view(&self, arguments: &Arguments) -> Result<Content, Failure> {
        Ok(match &self.held {
            Some(held) if flag(arguments, "offline", false)? => held.clone(),
            _ => Content::new((self.source)()),
        })
    }
}

/// Arguments of a call, in order.
type Arguments = Query<Vec<(String, String)>>;

/// Those of a request whose body is read elsewhere. What can't be read is left out, as by the extractor.
fn arguments(request: &Request) -> Arguments {
    Query::try_from_uri(request.uri()).unwrap_or_else(|_| Query(Vec::new()))
}

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
