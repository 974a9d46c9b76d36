//! Passing requests of others on to a daemon, and its answers back, as they come.
//!
//! Nothing is collected in either direction: a piece of a body is read when there was room for the last one. A call may take as
//! long as it moves, or as its client waits: only the connection, and the head of the answer, have a time.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::KuboClient;
use crate::answer::chain;

/// Headers that belong to one connection (RFC 9110, section 7.6.1), and those that speak of the way here.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    // Answered on the way here already.
    header::EXPECT,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Why a request has no answer. The words never hold credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// Nobody answers there, or what answers is no HTTP.
    #[error("{0}")]
    Down(String),
    /// It took longer than it may until the answer began.
    #[error("{0}")]
    Late(String),
    /// The request can't be asked of anybody.
    #[error("{0}")]
    Invalid(String),
}

/// The body of a daemon's answer, with its trailers.
pub struct PassedBody(reqwest::Body);

impl http_body::Body for PassedBody {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.get_mut().0).poll_frame(cx);
        frame.map(|frame| frame.map(|frame| frame.map_err(|error| chain(error).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl KuboClient {
    /// Passes a request on. Its path and query are sent as they are, its headers without those of one connection and without
    /// `Authorization`, since who may ask this peer is another than who may ask the daemon; the daemon is shown the
    /// credentials that it was attached with. The answer comes back with status, headers and trailers as they were.
    ///
    /// `head_limit` is how long the answer may take to begin, from the last piece of the request that went out.
    ///
    /// # Errors
    /// When there is no answer. One that says that something went wrong is an answer.
    pub async fn pass<S, E>(
        &self,
        head: http::request::Parts,
        body: Option<S>,
        head_limit: Duration,
    ) -> Result<http::Response<PassedBody>, PassError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + 'static,
    {
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let url = self.address().at(target).map_err(PassError::Invalid)?;
        let mut headers = head.headers;
        drop_hop_by_hop(&mut headers);
        headers.remove(header::AUTHORIZATION);
        // Kubo checks it against nothing, and the connection knows where it leads.
        headers.remove(header::HOST);
        if body.is_some() {
            // The body is sent in chunks; what its length was is true of the client's connection only.
            headers.remove(header::CONTENT_LENGTH);
        }
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let mut request = self.http().request(head.method, url).headers(headers);
        if let Some(credentials) = self.credentials() {
            request = credentials.apply(request);
        }
        let moved = Arc::new(Mutex::new(Instant::now()));
        if let Some(body) = body {
            let moved = moved.clone();
            let noted = body.inspect(move |_| *moved.lock() = Instant::now());
            request = request.body(reqwest::Body::wrap_stream(noted));
        }
        let mut sending = Box::pin(request.send());
        let sent = loop {
            let until = *moved.lock() + head_limit;
            match timeout_at(until, &mut sending).await {
                Ok(sent) => break Some(sent),
                // More of the body went out meanwhile.
                Err(_) if *moved.lock() + head_limit > Instant::now() => {}
                Err(_) => break None,
            }
        };
        let response = match sent {
            Some(Ok(response)) => response,
            Some(Err(error)) => {
                let words = format!("the IPFS node at {} does not answer: {}", self.address(), chain(error));
                return Err(PassError::Down(words));
            }
            None => {
                let words = format!(
                    "the IPFS node at {} did not answer within {head_limit:?}",
                    self.address()
                );
                return Err(PassError::Late(words));
            }
        };
        let (mut head, body) = http::Response::<reqwest::Body>::from(response).into_parts();
        drop_hop_by_hop(&mut head.headers);
        if head.headers.contains_key(header::CONTENT_LENGTH) {
            // Only chunks have trailers behind them.
            head.headers.remove(header::TRAILER);
        }
        Ok(http::Response::from_parts(head, PassedBody(body)))
    }
}

/// Takes the headers out that belong to one connection, and those that it names as its own.
fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_connection_are_dropped() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, x-mine"),
            ("keep-alive", "timeout=5"),
            ("x-mine", "1"),
            ("x-theirs", "2"),
            ("transfer-encoding", "chunked"),
            ("trailer", "X-Stream-Error"),
            ("te", "trailers"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        drop_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["trailer", "x-theirs"]);
    }
}
