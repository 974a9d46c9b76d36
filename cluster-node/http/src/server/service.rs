//! One request of a connection: from hyper to who answers it, and its answer back.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::access::Access;
use super::life::{Answering, Life};
use crate::stream::Untrailed;
use crate::{ErrorForm, Failure};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Who answers the requests of a server.
pub trait Answer: Send + Sync + 'static {
    /// The answer; what goes wrong is one too.
    fn answer(self: Arc<Self>, request: Request) -> BoxFuture<'static, Response>;
    /// What the server is called in logs.
    fn name(&self) -> &'static str;
    /// How errors are written that come about outside of it.
    fn form(&self) -> ErrorForm;
    /// A request was answered: with which status, and how long it took until the head of the answer was there.
    fn answered(&self, status: StatusCode, took: Duration) {
        let _ = (status, took);
    }
}

/// What hyper calls.
pub struct Service {
    pub answer: Arc<dyn Answer>,
    pub life: Arc<Life>,
    pub remote: SocketAddr,
    pub body_idle_timeout: Duration,
}

impl hyper::service::Service<http::Request<Incoming>> for Service {
    type Response = http::Response<Sent>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let answering = self.life.begin();
        let access = Access::new(self.answer.name(), self.remote, &request);
        let limit = self.body_idle_timeout;
        let left = Arc::new(AtomicBool::new(false));
        let mut request = request.map(|body| Body::new(Timed::new(body, limit, left.clone())));
        let version = request.version();
        let trailed = version == Version::HTTP_11 && takes_trailers(request.headers());
        // It is a header for this connection alone, and most often it was put there on the way.
        request.headers_mut().remove(header::TE);
        request.extensions_mut().insert(ConnectInfo(self.remote));
        let answer = self.answer.clone();
        let teller = answer.clone();
        let begun = Instant::now();
        Box::pin(async move {
            let form = teller.form();
            let answered = AssertUnwindSafe(async move { answer.answer(request).await }).catch_unwind();
            let mut response = answered.await.unwrap_or_else(|_| {
                tracing::error!("a request made its handler panic");
                Failure::internal("this request met an error in the server; its log says more").respond(form)
            });
            if left.load(Ordering::Acquire) {
                // What is left of the body is thrown away, and for that there is a bound: better to begin anew.
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
            let closes = version < Version::HTTP_11;
            if !trailed && (response.headers_mut().remove(header::TRAILER).is_some() || closes) {
                // Chunks that don't come to their end tell of an error; without chunks only a reset does.
                let life = closes.then(|| answering.0.clone());
                response = response.map(|body| Body::new(Untrailed::new(body, life)));
            }
            teller.answered(response.status(), begun.elapsed());
            let access = access.map(|access| access.answered(&response));
            Ok(response.map(|body| Sent {
                body,
                access,
                _answering: answering,
            }))
        })
    }
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let mut tokens = headers
        .get_all(header::TE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    tokens.any(|value| {
        value
            .split(',')
            .any(|token| token.trim().eq_ignore_ascii_case("trailers"))
    })
}

/// The body of an answer, which is over when hyper lets it go.
pub struct Sent {
    body: Body,
    access: Option<Access>,
    _answering: Answering,
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.body).poll_frame(cx);
        if let (Some(access), Poll::Ready(frame)) = (&mut this.access, &poll) {
            match frame {
                Some(Ok(frame)) => access.saw(Some(frame), this.body.is_end_stream()),
                None => access.saw(None, true),
                Some(Err(_)) => {}
            }
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request, which breaks when it does not go on.
struct Timed {
    body: Incoming,
    limit: Duration,
    /// Runs while more is waited for.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    /// All of it was read.
    over: bool,
    /// Set when it is let go before that.
    left: Arc<AtomicBool>,
}

impl Timed {
    fn new(body: Incoming, limit: Duration, left: Arc<AtomicBool>) -> Self {
        Self {
            over: body.is_end_stream(),
            body,
            limit,
            timer: None,
            waiting: false,
            left,
        }
    }
}

impl Drop for Timed {
    fn drop(&mut self) {
        if !self.over && !self.body.is_end_stream() {
            self.left.store(true, Ordering::Release);
        }
    }
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.waiting = false;
            this.over |= frame.is_none();
            return Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)));
        }
        let limit = this.limit;
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !this.waiting {
            this.waiting = true;
            timer.as_mut().reset(Instant::now() + limit);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let words = format!("nothing came for {limit:?}");
        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, words).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
