//! Answers that are no streams.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::Failure;

/// An answer that a server sends as it is: no form of errors, no CORS and no configured headers are put onto it. For what was
/// answered by somebody else and is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsIs;

/// 200 with one value: compact, a newline behind it, `application/json`.
pub fn json<T: Serialize + ?Sized>(value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut text) => {
            text.push(b'\n');
            of(StatusCode::OK, Body::from(text))
        }
        // A map with keys that are no texts, which no type of an API has.
        Err(error) => Failure::internal(format!("the answer can't be written: {error}")).into_response(),
    }
}

/// A status without a body: 204, or 202 where nothing is to be told. With a content type all the same, as IPFS Cluster has it.
pub fn empty(status: StatusCode) -> Response {
    of(status, Body::empty())
}

pub(crate) fn of(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
