//! Answers that are no streams.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body::{Frame, SizeHint};
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

/// A body that is there as a whole, so that its length is told, and in pieces: each is let go when the connection has taken it,
/// and `held` behind the last. A slow client then holds no more than it has not taken.
pub fn pieces<T: Send + Unpin + 'static>(pieces: Vec<Vec<u8>>, held: T) -> Body {
    let left = pieces.iter().map(|piece| piece.len() as u64).sum();
    Body::new(Pieces {
        pieces: pieces.into_iter(),
        left,
        _held: held,
    })
}

struct Pieces<T> {
    pieces: std::vec::IntoIter<Vec<u8>>,
    /// Bytes that were not taken yet.
    left: u64,
    _held: T,
}

impl<T: Unpin> http_body::Body for Pieces<T> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let next = this.pieces.find(|piece| !piece.is_empty());
        Poll::Ready(next.map(|piece| {
            this.left -= piece.len() as u64;
            Ok(Frame::data(piece.into()))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

pub(crate) fn of(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
