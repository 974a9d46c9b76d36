//! The IPFS Pinning Services API 1.0.0, so that Kubo's `ipfs pin remote` and everything else that speaks it pins at the cluster.
//!
//! | file | what |
//! |---|---|
//! | `routes.rs` | every path with its method, right, handler and description; the router and the document come from it |
//! | `query.rs`, `body.rs` | what is asked: filters of a list, and pins |
//! | `pins.rs` | the handlers |
//! | `types.rs`, `delegates.rs`, `details.rs`, `failures.rs` | what is answered |
//! | `openapi.rs`, `schemas.rs` | `/openapi.json` |
//!
//! A credential sees the pins of its namespace, those made by other APIs too: their request ID is their CID, as with IPFS Cluster
//! 1.1.6 (see [`RequestName`](crate::service::RequestName)). Where that differs from the specification, the specification is
//! followed.

mod body;
mod delegates;
mod details;
mod failures;
mod openapi;
mod pins;
mod query;
mod routes;
mod schemas;
mod types;

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::response::Response;
use cluster_http::Failure;
use http::request::Parts;

use super::rest::TokenIssuer;
use crate::service::{Pins, RequestName};
use failures::failure;

/// What all handlers share.
pub struct Pinning {
    pins: Arc<Pins>,
    tokens: Option<Arc<dyn TokenIssuer>>,
}

impl Pinning {
    /// Handlers over the service. Without an issuer nobody gets a token.
    pub fn new(pins: Arc<Pins>, tokens: Option<Arc<dyn TokenIssuer>>) -> Self {
        Self { pins, tokens }
    }

    /// All routes.
    pub fn router(self) -> Router {
        routes::router(Arc::new(self))
    }
}

/// The request ID of a path.
struct Named(RequestName);

impl FromRequestParts<Arc<Pinning>> for Named {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, pinning: &Arc<Pinning>) -> Result<Self, Failure> {
        let text = Path::<String>::from_request_parts(parts, pinning).await;
        let text = text.map_err(|error| Failure::bad(format!("requestid: {}", error.body_text())))?;
        let name = RequestName::parse(&text.0).map_err(|invalid| failure(invalid.into()))?;
        Ok(Self(name))
    }
}

type Answer = Result<Response, Failure>;
