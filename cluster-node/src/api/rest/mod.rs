//! The REST API of IPFS Cluster 1.1.6, so that its clients need nothing but another address.
//!
//! | file | what |
//! |---|---|
//! | `routes.rs` | every path with its method, right, handler and description; the router and the document come from it |
//! | `options.rs`, `narrowed.rs` | queries: options of a pin, and what narrows a list |
//! | `pins.rs`, `paths.rs` | one pin at a time |
//! | `lists.rs` | lists, streamed or page by page |
//! | `tracker.rs`, `pin_info.rs`, `types.rs` | what is answered |
//! | `peers.rs`, `health.rs` | members, and what they tell of themselves |
//! | `gate.rs` | until when a request may go on |
//! | `gc.rs` | collecting garbage |
//! | `add.rs`, `add_options.rs` | adding content |
//! | `openapi.rs`, `schemas.rs` | `/openapi.json` |
//!
//! Storage nodes show as members, since there a peer is what a pin is counted at; see
//! [`Members`](crate::service::Members). A credential sees the pins of its namespace. Where the reference has a defect, the
//! sane answer is given: one error and no second value after it, 405 with `Allow`, statuses that say whose fault it was.
//!
//! Left out on purpose: content is not sharded over members (`shard=true`), files are not referred to where they lie
//! (`nocopy=true`), and names (`/ipns/…`) are not resolved; each is refused with a reason.

mod add;
mod add_options;
mod gate;
mod gc;
mod health;
mod lists;
mod narrowed;
mod openapi;
pub(super) mod options;
pub(super) mod paths;
mod peers;
mod pin_info;
mod pins;
mod routes;
pub(super) mod schemas;
mod tracker;
mod types;

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::response::Response;
use cluster_http::{Failure, Principal, Query};
use http::StatusCode;
use http::request::Parts;
use node_core::{Namespace, Timestamp};
use tokio::sync::Semaphore;

use super::adding::Adds;
use super::failure::failure;
use crate::service::{Gatekeeper, Pins};
use pin_info::View;

/// Paths that are resolved at once on one peer. Each holds a few blocks.
const RESOLVES_MAX: usize = 64;

/// Gives out tokens for who has credentials.
#[async_trait]
pub trait TokenIssuer: Send + Sync + 'static {
    /// A token that stands for these credentials from now on.
    async fn issue(&self, principal: &Principal) -> Result<String, Failure>;
}

#[async_trait]
impl TokenIssuer for Gatekeeper {
    async fn issue(&self, principal: &Principal) -> Result<String, Failure> {
        let name = principal.name.as_deref();
        let name = name.ok_or_else(|| Failure::new(StatusCode::UNAUTHORIZED, "unauthorized"))?;
        self.access.issue_jwt(name, None).map_err(failure)
    }
}

/// What all handlers share.
pub struct Rest {
    pins: Arc<Pins>,
    tokens: Option<Arc<dyn TokenIssuer>>,
    adds: Adds,
    resolves: Arc<Semaphore>,
    large_pages: Arc<Semaphore>,
}

impl Rest {
    /// Handlers over the service. Without an issuer nobody gets a token.
    pub fn new(pins: Arc<Pins>, tokens: Option<Arc<dyn TokenIssuer>>) -> Self {
        Self {
            pins,
            tokens,
            adds: Adds::default(),
            resolves: Arc::new(Semaphore::new(RESOLVES_MAX)),
            large_pages: Arc::new(Semaphore::new(lists::LARGE_PAGES_MAX)),
        }
    }

    /// All routes.
    pub fn router(self) -> Router {
        routes::router(Arc::new(self))
    }

    /// Who there is, for one answer.
    async fn view(&self, local: bool) -> View {
        View {
            members: self.pins.members(),
            ipfs: self.pins.ipfs_seen().await,
            only: local.then(|| self.pins.directory.own()),
            now: self.now(),
        }
    }

    fn now(&self) -> Timestamp {
        self.pins.clock.now()
    }
}

/// What every handler is told of its request: who asks, and what stands in the query.
#[derive(Clone)]
struct Call {
    principal: Principal,
    query: Query,
}

impl Call {
    fn namespace(&self) -> &Namespace {
        &self.principal.namespace
    }

    /// Whether only this peer is to be asked.
    fn is_local(&self) -> Result<bool, Failure> {
        Ok(self.query.bool("local")?.unwrap_or_default())
    }

    /// Whether what belongs to no namespace any more may be seen: by who looks after everything. It may have been any
    /// namespace's, so it is not for those of the default one either.
    fn sees_leaving(&self) -> bool {
        self.principal.scopes.contains(cluster_http::Scope::Admin)
    }
}

impl FromRequestParts<Arc<Rest>> for Call {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, rest: &Arc<Rest>) -> Result<Self, Failure> {
        let principal = Principal::from_request_parts(parts, rest).await?;
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        Ok(Self { principal, query })
    }
}

/// The variable part of a path, decoded.
struct Segment(String);

impl FromRequestParts<Arc<Rest>> for Segment {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, rest: &Arc<Rest>) -> Result<Self, Failure> {
        let text = Path::<String>::from_request_parts(parts, rest).await;
        let text = text.map_err(|error| Failure::bad(format!("error parsing path: {}", error.body_text())))?;
        Ok(Self(text.0))
    }
}

type Answer = Result<Response, Failure>;

/// The answer where there is nothing to say.
fn nothing() -> Response {
    cluster_http::empty(StatusCode::NO_CONTENT)
}
