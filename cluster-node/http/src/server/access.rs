//! The log of requests: one event each, at debug, when its answer is over. Its target is `cluster_http::access`, so that an
//! operator can ask for it alone; answers of 5xx are at warn.

use std::net::SocketAddr;
use std::time::Instant;

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame};
use tracing::Level;

/// Of path and query.
const TARGET_BYTES_MAX: usize = 512;

/// A request until its answer is over.
pub struct Access {
    server: &'static str,
    remote: SocketAddr,
    method: http::Method,
    target: String,
    began: Instant,
    /// Who asked, as far as they had to say.
    user: Option<String>,
    status: StatusCode,
    bytes: u64,
    /// Whether nothing was left to send.
    whole: bool,
}

/// Who asked: beside an answer, for the log.
#[derive(Debug, Clone)]
pub struct User(pub String);

impl Access {
    /// `None` if nobody wants to read it.
    pub fn new<B>(server: &'static str, remote: SocketAddr, request: &http::Request<B>) -> Option<Self> {
        if !tracing::enabled!(target: "cluster_http::access", Level::WARN) {
            return None;
        }
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        let cut = target
            .char_indices()
            .map(|(at, _)| at)
            .find(|at| *at >= TARGET_BYTES_MAX);
        Some(Self {
            server,
            remote,
            method: request.method().clone(),
            target: target[..cut.unwrap_or(target.len())].to_owned(),
            began: Instant::now(),
            user: None,
            status: StatusCode::OK,
            bytes: 0,
            whole: false,
        })
    }

    pub fn answered(mut self, response: &Response) -> Self {
        self.whole = response.body().is_end_stream();
        self.status = response.status();
        self.user = response.extensions().get().map(|User(name)| name.clone());
        self
    }

    /// Something was sent, or nothing is left; `last` if nothing follows.
    pub fn saw(&mut self, frame: Option<&Frame<Bytes>>, last: bool) {
        self.bytes += frame.and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
        self.whole = last || frame.is_none_or(Frame::is_trailers);
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        macro_rules! tell {
            ($level:expr) => {
                tracing::event!(
                    target: "cluster_http::access",
                    $level,
                    server = self.server,
                    remote = %self.remote,
                    user = self.user.as_deref().unwrap_or("-"),
                    method = %self.method,
                    target = self.target,
                    status = self.status.as_u16(),
                    bytes = self.bytes,
                    whole = self.whole,
                    took_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
                )
            };
        }
        if self.status.is_server_error() {
            tell!(Level::WARN);
        } else {
            tell!(Level::DEBUG);
        }
    }
}
