//! The IPFS proxy: Kubo's RPC, whose calls about pins, new content and the repository are calls to the cluster, and whose other
//! calls reach an IPFS node of this peer, as in IPFS Cluster 1.1.6. Clients of Kubo 0.43 need nothing but another address.
//!
//! | file | what |
//! |---|---|
//! | `table.rs` | which call is the cluster's, and which right a call takes |
//! | `guard.rs` | web pages: who may ask from one, as Kubo has it |
//! | `mirror.rs` | headers of the node's answers that the cluster's answers have too |
//! | `upstream.rs` | the node, and passing on to it |
//! | `args.rs` | arguments, and where paths lead |
//! | `pins.rs`, `pin_list.rs`, `waiting.rs` | `pin/{add,rm,update,ls}` |
//! | `add.rs`, `add_options.rs` | `add` |
//! | `put.rs` | `block/put`, `dag/put` and `dag/import` that pin |
//! | `repo.rs` | `repo/{stat,gc}` |
//! | `answer.rs` | errors as Kubo's clients read them |
//!
//! # What differs from the reference
//!
//! Only `POST` is answered (`OPTIONS` for pages), as by Kubo: a page that makes a browser send `GET` changes nothing. Who may ask
//! is checked by the cluster's credentials when there are any, and by Kubo's rule for pages always. All arguments count, not
//! the first alone; `recursive=false` pins directly; `only-hash` stores nothing; `block/put?pin=true` leaves no pin of its own
//! at the node; `dag/import` pins its roots in the cluster. Paths that a router might read otherwise (`//`, `..`) are
//! redirected, those with a slash at the end or an encoded one mean what they say.
//!
//! # When `pin/add` answers
//!
//! As IPFS Cluster's proxy, when the pin is recorded. With `progress=true` lines tell how far the nodes are, and the last
//! comes when enough of them hold it; with `proxy.wait` an answer without lines waits for that too. A client that leaves
//! leaves the pin.

mod add;
mod add_options;
mod answer;
mod args;
mod guard;
mod mirror;
mod pin_list;
mod pins;
mod put;
mod repo;
mod table;
mod upstream;
mod waiting;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse as _, Response};
use cluster_http::{AsIs, Cors, Failure, Principal, Query};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use node_core::{Namespace, Timestamp};
use tokio::sync::Semaphore;

use self::guard::Page;
use self::mirror::Mirror;
use self::table::{Act, Look};
use super::adding::Adds;
use crate::service::Pins;

/// Paths that are resolved at once on one peer. Each holds a few blocks.
const RESOLVES_MAX: usize = 64;

/// Calls that wait for pins at once on one peer: each asks the peers in question where they stand, every second or so.
const WAITS_MAX: usize = 256;

/// What answers, in the words that clients look for, and what it really is.
const SERVER: &str = concat!("ipfs-cluster/ipfsproxy/1.1.6 pinfleet/", env!("CARGO_PKG_VERSION"));

/// Choices of the proxy.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    /// Name or ID of the node that calls are passed on to, one of this peer's; empty for its first attached one, else the
    /// embedded one.
    pub node: String,
    /// Whether `pin/add` answers when the content is held, and not when the pin is recorded.
    pub wait: bool,
    /// How long a passed-on call may keep silent before its answer begins.
    pub answer_limit: Duration,
    /// What pages may do, beside what the node itself lets pages do.
    pub cors: Cors,
    /// The node's call whose answer has the headers to be mirrored.
    pub mirror_path: String,
    /// Which of them, beside what pages may read.
    pub mirror_headers: Vec<HeaderName>,
    /// How long mirrored headers are taken for true.
    pub mirror_ttl: Duration,
}

/// What all calls share.
pub struct Proxy {
    pins: Arc<Pins>,
    /// The RPC of the node inside this peer.
    embedded: Option<Router>,
    options: ProxyOptions,
    adds: Adds,
    resolves: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    mirror: Mirror,
}

/// What a call is told of its request.
struct Call {
    principal: Principal,
    query: Query,
    /// What the path names behind the call itself.
    argument: Option<String>,
    headers: http::HeaderMap,
}

impl Call {
    fn namespace(&self) -> &Namespace {
        &self.principal.namespace
    }
}

type Answer = Result<Response, Failure>;

impl Proxy {
    /// Calls over the service. `embedded` is the RPC of the node inside this peer, if there is one.
    pub fn new(pins: Arc<Pins>, embedded: Option<Router>, options: ProxyOptions) -> Self {
        Self {
            pins,
            embedded,
            options,
            adds: Adds::default(),
            resolves: Arc::new(Semaphore::new(RESOLVES_MAX)),
            waits: Arc::new(Semaphore::new(WAITS_MAX)),
            mirror: Mirror::default(),
        }
    }

    /// All calls. Paths are looked at as they are when they come in, so the server has to clean them
    /// ([`Paths::Cleaned`](cluster_http::Paths::Cleaned)).
    pub fn router(self) -> Router {
        Router::new().fallback(handle).with_state(Arc::new(self))
    }

    fn now(&self) -> Timestamp {
        self.pins.clock.now()
    }
}

async fn handle(
    State(proxy): State<Arc<Proxy>>,
    ConnectInfo(remote): ConnectInfo<SocketAddr>,
    principal: Principal,
    request: Request,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let page = Page::of(&parts.headers, &proxy.options.cors);
    match parts.method {
        Method::POST => {}
        Method::OPTIONS => return proxy.options(parts, body, remote, &page).await,
        _ => return not_allowed(),
    }
    let path = parts.uri.path().to_owned();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let Look { act, scope, argument } = table::look(&path, &query);
    if let Err(failure) = principal.require(scope) {
        return answer::as_kubo(failure).into_response();
    }
    if act == Act::Blocks {
        match put::unpinned(&parts.uri, &query) {
            Ok(uri) => parts.uri = uri,
            Err(failure) => return answer::as_kubo(failure).into_response(),
        }
    }
    if matches!(act, Act::Pass | Act::Blocks) {
        return proxy.passed(parts, body, remote, &page).await;
    }
    let allowed = proxy.allows(&page, &path).await;
    let answered = if allowed {
        let call = Call {
            principal,
            query,
            argument,
            headers: std::mem::take(&mut parts.headers),
        };
        let request = Request::from_parts(parts, body);
        proxy.act(act, call, request).await
    } else {
        Err(guard::refused())
    };
    let mut response = answered.unwrap_or_else(|failure| failure.into_response());
    // Also of a stream that failed before it began.
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        response = answer::as_kubo(failure).into_response();
    }
    proxy.mirror_onto(&page, &path, &mut response).await;
    response
}

impl Proxy {
    async fn act(self: &Arc<Self>, act: Act, call: Call, request: Request) -> Answer {
        let (parts, body) = request.into_parts();
        match act {
            Act::PinAdd => self.pin_add(&call, body).await,
            Act::PinRm => self.pin_rm(&call, body).await,
            Act::PinUpdate => self.pin_update(&call).await,
            Act::PinLs => self.pin_ls(&call).await,
            Act::Add => self.add(&call, body, &parts.extensions).await,
            Act::BlockPut | Act::DagPut => self.put(&call, parts, body).await,
            Act::DagImport => self.import(&call, body, &parts.extensions).await,
            Act::RepoStat => self.repo_stat(&call).await,
            Act::RepoGc => self.repo_gc(&call).await,
            // What is passed on was passed on before.
            Act::Pass | Act::Blocks => Err(Failure::not_found("404 page not found")),
        }
    }

    /// A call for the node.
    async fn passed(self: &Arc<Self>, mut parts: Parts, body: Body, remote: SocketAddr, page: &Page) -> Response {
        let own = page.own().cloned();
        if own.is_some() {
            // Allowed here, so the node is not asked: it knows origins of its own address only.
            guard::hide_page(&mut parts.headers);
        }
        let passed = self.pass(parts, body, Some(remote), page).await;
        let mut response = passed.unwrap_or_else(|failure| answer::as_kubo(failure).into_response());
        if let Some(origin) = own {
            guard::let_read(&self.options.cors, &origin, response.headers_mut());
        }
        response
    }

    /// What a browser asks before it sends a call for a page, and what anybody may ask.
    async fn options(self: &Arc<Self>, parts: Parts, body: Body, remote: SocketAddr, page: &Page) -> Response {
        if page.own().is_some() {
            return guard::preflight(&self.options.cors, &parts.headers);
        }
        // An embedded node lets no other pages ask.
        if let Ok(true) = self.is_attached().await
            && let Ok(response) = self.pass(parts, body, Some(remote), page).await
        {
            return response;
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(header::ALLOW, HeaderValue::from_static("OPTIONS, POST"));
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        response.extensions_mut().insert(AsIs);
        response
    }
}

/// In Kubo's words.
fn not_allowed() -> Response {
    let failure = Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "405 - Method Not Allowed: Kubo's RPC is POST only",
    );
    let mut response = failure.into_response();
    let allow = HeaderValue::from_static("OPTIONS, POST");
    response.headers_mut().insert(header::ALLOW, allow);
    response
}
