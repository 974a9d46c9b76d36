//! A request lasts as long as what its client showed: when that is revoked or expires, what is still sent of the request is
//! not taken any more, and what is left of its answer is not given.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use http::{HeaderMap, HeaderValue, header};
use http_body::{Frame, SizeHint};

use crate::STREAM_ERROR;
use crate::auth::{NoLongerGranted, OVER};

/// Done when the credential of a request is worth nothing any more. Waited for by both bodies and the handler's future.
#[derive(Clone)]
pub struct Over(Shared<BoxFuture<'static, ()>>);

impl Over {
    pub fn new(over: BoxFuture<'static, ()>) -> Self {
        Self(over.shared())
    }

    pub async fn wait(self) {
        self.0.await;
    }

    /// The body of a request, which fails from then on: whoever reads it must not take what came later for granted.
    pub fn asked(self, body: Body) -> Body {
        Body::new(Asked {
            body,
            over: Some(self.0),
        })
    }

    /// An answer, which is broken off then.
    pub fn answered(self, response: Response) -> Response {
        let trailed = response.headers().contains_key(header::TRAILER);
        response.map(|body| {
            Body::new(Answered {
                body,
                over: Some(self.0),
                trailed,
            })
        })
    }
}

/// Whether it is over. Not asked again after it was: a shared future may not be.
fn is_over(over: &mut Option<Shared<BoxFuture<'static, ()>>>, cx: &mut Context<'_>) -> bool {
    let is_over = over.as_mut().is_none_or(|over| over.poll_unpin(cx).is_ready());
    if is_over {
        *over = None;
    }
    is_over
}

struct Asked {
    body: Body,
    /// None when it is over.
    over: Option<Shared<BoxFuture<'static, ()>>>,
}

impl http_body::Body for Asked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        // Asked first: a client that always sends more would never be found waiting.
        if is_over(&mut this.over, cx) {
            return Poll::Ready(Some(Err(axum::Error::new(NoLongerGranted))));
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Answered {
    body: Body,
    /// None when it is over, and that was told.
    over: Option<Shared<BoxFuture<'static, ()>>>,
    /// Its client is told in a trailer why it ends early.
    trailed: bool,
}

impl http_body::Body for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.over.is_none() {
            return Poll::Ready(None);
        }
        // Where the body has ended already, its last frame is not withheld.
        if !this.body.is_end_stream() && is_over(&mut this.over, cx) {
            return Poll::Ready(Some(if this.trailed {
                let told = HeaderMap::from_iter([(STREAM_ERROR, HeaderValue::from_static(OVER))]);
                Ok(Frame::trailers(told))
            } else {
                Err(axum::Error::new(NoLongerGranted))
            }));
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.over.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
