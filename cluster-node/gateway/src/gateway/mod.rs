//! A trustless gateway: <https://specs.ipfs.tech/http-gateways/trustless-gateway/>.
//!
//! `GET` and `HEAD` of `/ipfs/CID` (`?format=raw`) and `/ipfs/CID[/PATH]` (`?format=car`), and nothing that a client would
//! have to believe: no files as such, no listings, no IPNS. It serves what [`Blocks`] has and fetches nothing. CAR files
//! are of version 1, depth first, and the same each time; duplicates come with `dups=y`, and of `dag-scope=entity` never.
//!
//! Blocks, roots and their order are those of Kubo 0.43; `tests/kubo.rs` asks it. Where it differs from the specification,
//! the specification counts: `entity-bytes` alone implies `dag-scope=entity`, and the name of a file is `CID.car`. A path
//! that leads nowhere is a 404 here, found out before anything is sent; Kubo sends a CAR file that ends there.

mod answer;
mod request;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use cluster_content::{ByteStream, Content, Scope, WalkOptions};
use cluster_dag::Block;
use cluster_dag::unixfs::Node;
use futures::StreamExt as _;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use node_core::Cid;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Blocks;
use crate::blocks::{Guarded, denial};
use answer::{Part, Refusal, etag, head, is_known, part};
use request::{CarShape, Format, Wanted};

/// Bounds of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayOptions {
    /// Requests answered at the same time.
    pub requests_max: usize,
    /// Blocks that a request for a CAR file reads before they are sent.
    pub blocks_ahead: usize,
}

impl Default for GatewayOptions {
    /// Enough for the disk to be busy. 64 requests for the largest blocks hold 512 MiB at worst, usual ones a tenth of it.
    fn default() -> Self {
        Self {
            requests_max: 64,
            blocks_ahead: 4,
        }
    }
}

struct Gateway {
    blocks: Arc<dyn Blocks>,
    content: Content,
    requests: Arc<Semaphore>,
}

/// The routes of a gateway.
pub fn router(blocks: Arc<dyn Blocks>, options: GatewayOptions) -> Router {
    let source = Arc::new(Guarded(blocks.clone()));
    let gateway = Gateway {
        blocks,
        content: Content::new(source).ahead(options.blocks_ahead),
        requests: Arc::new(Semaphore::new(options.requests_max)),
    };
    Router::new()
        // `HEAD` comes here too; its body is dropped before anything is read for it.
        .route("/ipfs/{*path}", get(answer))
        .route("/ipns/{*path}", get(no_names))
        .with_state(Arc::new(gateway))
}

async fn no_names() -> Response {
    let words = "names are not resolved here: ask for the CID that the name leads to, under /ipfs/";
    Refusal::new(StatusCode::NOT_IMPLEMENTED, words).into_response()
}

async fn answer(
    State(gateway): State<Arc<Gateway>>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Response {
    let Ok(permit) = gateway.requests.clone().try_acquire_owned() else {
        let words = "too many requests are being answered: try again later";
        return Refusal::new(StatusCode::TOO_MANY_REQUESTS, words).into_response();
    };
    let (parts, _) = request.into_parts();
    let accept = joined(&parts.headers, header::ACCEPT);
    let wanted = match Wanted::parse(parts.uri.path(), &query, accept.as_deref()) {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal.into_response(),
    };
    let asked = Asked {
        wanted,
        is_head: parts.method == Method::HEAD,
        headers: parts.headers,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().map(str::to_owned),
    };
    match gateway.respond(asked, permit).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

/// All values of a header, joined as HTTP has it.
fn joined(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    let values: Vec<&str> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

struct Asked {
    wanted: Wanted,
    is_head: bool,
    headers: HeaderMap,
    path: String,
    query: Option<String>,
}

impl Gateway {
    async fn respond(&self, asked: Asked, permit: OwnedSemaphorePermit) -> Result<Response, Refusal> {
        let Asked { wanted, headers, .. } = &asked;
        if headers.get("service-worker").is_some_and(|value| value == "script") {
            let words = "nothing here is a script, so nothing is registered as a service worker";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, words));
        }
        self.allow(&wanted.root)?;
        let etag = etag(wanted);
        if is_known(headers, &etag) {
            let mut response = head(wanted, &asked.path, asked.query.as_deref(), &etag);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response.headers_mut().remove(header::CONTENT_TYPE);
            response.headers_mut().remove(header::CONTENT_DISPOSITION);
            return Ok(response);
        }
        let Some(bytes) = self.size(&wanted.root).await? else {
            let cached = joined(headers, header::CACHE_CONTROL);
            let status = match cached.is_some_and(|value| value.to_ascii_lowercase().contains("only-if-cached")) {
                true => StatusCode::PRECONDITION_FAILED,
                false => StatusCode::NOT_FOUND,
            };
            return Err(Refusal::new(status, format!("{} is not held here", wanted.root)));
        };
        match wanted.format {
            Format::Raw => self.raw(&asked, bytes, &etag).await,
            Format::Car(shape) => self.car(&asked, shape, &etag, permit).await,
        }
    }

    fn allow(&self, cid: &Cid) -> Result<(), Refusal> {
        match self.blocks.denied(cid) {
            Some(reason) => Err(Refusal::new(StatusCode::GONE, denial(cid, &reason))),
            None => Ok(()),
        }
    }

    async fn size(&self, cid: &Cid) -> Result<Option<u64>, Refusal> {
        match Block::inline(*cid) {
            Some(block) => Ok(Some(block.bytes().len() as u64)),
            None => Ok(self.blocks.size(cid).await?),
        }
    }

    async fn raw(&self, asked: &Asked, bytes: u64, etag: &str) -> Result<Response, Refusal> {
        let mut response = head(&asked.wanted, &asked.path, asked.query.as_deref(), etag);
        // The tag stays that of the block: a client puts parts of one tag together.
        let (start, end) = match part(&asked.headers, bytes, etag) {
            Part::Whole => (0, bytes),
            Part::Range(start, end) => {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let range = format!("bytes {start}-{}/{bytes}", end - 1);
                insert(&mut response, header::CONTENT_RANGE, &range);
                (start, end)
            }
            Part::Unsatisfiable => {
                let words = format!("the block has {bytes} bytes, and none of them is in the range");
                let mut response = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, words).into_response();
                insert(&mut response, header::CONTENT_RANGE, &format!("bytes */{bytes}"));
                return Ok(response);
            }
        };
        insert(&mut response, header::CONTENT_LENGTH, &(end - start).to_string());
        if !asked.is_head {
            let block = self.content.block(&asked.wanted.root).await?;
            let content = block.bytes();
            // What the store said of the length may have been wrong, and a slice beyond the end panics.
            let end = (end as usize).min(content.len());
            *response.body_mut() = Body::from(content.slice((start as usize).min(end)..end));
        }
        Ok(response)
    }

    async fn car(
        &self,
        asked: &Asked,
        shape: CarShape,
        etag: &str,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response, Refusal> {
        let wanted = &asked.wanted;
        // Found out before the first byte, while the status can still say so.
        let resolved = self.content.resolve(wanted.root, &wanted.path).await?;
        self.allow(&resolved.cid)?;
        let end = self.content.block(&resolved.cid).await?;
        if let (true, Scope::Entity { from, .. }, Ok(Node::File { bytes, .. })) =
            (shape.ranged, shape.scope, Node::decode(&end))
            && u64::try_from(from).is_ok_and(|from| from > 0 && from >= bytes)
        {
            let words = format!("entity-bytes begins at {from}, and the file has {bytes} bytes");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, words));
        }
        let mut response = head(wanted, &asked.path, asked.query.as_deref(), etag);
        if !asked.is_head {
            let options = WalkOptions {
                scope: shape.scope,
                duplicates: shape.duplicates,
            };
            let car = self.content.car_of_path(&resolved, options);
            *response.body_mut() = body(car, wanted.root, permit);
        }
        Ok(response)
    }
}

/// A body that holds its place among the requests until it is sent or dropped. An error cuts it off, which the client sees
/// as a connection that broke.
fn body(car: ByteStream, root: Cid, permit: OwnedSemaphorePermit) -> Body {
    Body::from_stream(car.map(move |part| -> Result<Bytes, cluster_content::ContentError> {
        let _held = &permit;
        part.inspect_err(|error| tracing::debug!(%root, %error, "a CAR file was cut off"))
    }))
}

fn insert(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
