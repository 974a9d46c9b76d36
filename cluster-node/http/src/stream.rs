//! Streams of objects, one a line, with what went wrong at the end in a trailer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::{Frame, SizeHint};
use serde::Serialize;

use crate::failure::header_text;
use crate::server::Life;
use crate::{Failure, answer};

/// The trailer that says why a stream ended early; empty when it did not.
pub const STREAM_ERROR: HeaderName = HeaderName::from_static("x-stream-error");
/// What is put together into one frame when it is ready at the same time.
const FRAME_BYTES: usize = 64 * 1024;
/// Most lines are shorter, and need not be moved while they grow.
const LINE_BYTES: usize = 1024;
/// Of an error's text.
const ERROR_BYTES_MAX: usize = 4 * 1024;

/// Answers objects as they come, one a line. Waits for the first: if that is an error, it is answered with its own status;
/// if there is none, the answer is 200 with an empty body. Otherwise 200 goes out with the first object, and the trailer
/// `X-Stream-Error` says at the end why there are no more, or nothing if these were all. Where a client takes no trailers the
/// stream is broken off instead (see [`crate::serve`]).
///
/// Nothing is collected: the next object is asked for when there is room for it. Those that are ready together share a frame
/// of about 64 KiB, and nothing that is ready waits for what is not.
pub async fn ndjson<T, S>(items: S) -> Response
where
    T: Serialize,
    S: Stream<Item = Result<T, Failure>> + Send + 'static,
{
    lines(items.map(|item| item.and_then(|item| line(&item))).boxed()).await
}

/// The same of objects that come many at a time: what is done for each of millions is then only to write it.
pub async fn ndjson_pieces<T, S>(pieces: S) -> Response
where
    T: Serialize + Send + 'static,
    S: Stream<Item = Result<Vec<T>, Failure>> + Send + 'static,
{
    let written = pieces.map_ok(|items| stream::iter(Written::new(items))).try_flatten();
    lines(written.boxed()).await
}

async fn lines(mut items: Items) -> Response {
    let first = match items.next().await {
        Some(Ok(first)) => first,
        Some(Err(failure)) => return failure.into_response(),
        None => return answer::of(StatusCode::OK, Body::empty()),
    };
    let lines = Lines {
        items: Some(items),
        held: first,
        ended: None,
    };
    let mut response = answer::of(StatusCode::OK, Body::new(lines));
    let trailer = HeaderValue::from_static("X-Stream-Error");
    response.headers_mut().insert(header::TRAILER, trailer);
    response
}

/// Some whole lines at a time.
type Items = Pin<Box<dyn Stream<Item = Result<Vec<u8>, Failure>> + Send>>;

fn line<T: Serialize>(item: &T) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::with_capacity(LINE_BYTES);
    write_line(&mut text, item)?;
    Ok(text)
}

fn write_line<T: Serialize>(text: &mut Vec<u8>, item: &T) -> Result<(), Failure> {
    serde_json::to_writer(&mut *text, item).map_err(|error| Failure::internal(error.to_string()))?;
    text.push(b'\n');
    Ok(())
}

/// Objects as lines, about a frame of them at a time.
struct Written<T> {
    items: std::vec::IntoIter<T>,
    /// Of the object behind the lines that were handed out last.
    failed: Option<Failure>,
}

impl<T> Written<T> {
    fn new(items: Vec<T>) -> Self {
        Self {
            items: items.into_iter(),
            failed: None,
        }
    }
}

impl<T: Serialize> Iterator for Written<T> {
    type Item = Result<Vec<u8>, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut text = Vec::new();
        while self.failed.is_none() && text.len() < FRAME_BYTES {
            let Some(item) = self.items.next() else { break };
            if text.is_empty() {
                text.reserve(FRAME_BYTES + LINE_BYTES);
            }
            let written = text.len();
            if let Err(failure) = write_line(&mut text, &item) {
                text.truncate(written);
                self.failed = Some(failure);
            }
        }
        if text.is_empty() {
            return self.failed.take().map(Err);
        }
        Some(Ok(text))
    }
}

/// The body of a stream: lines, then the trailer.
struct Lines {
    /// `None` when no more is to be asked for.
    items: Option<Items>,
    /// Lines that were not sent yet.
    held: Vec<u8>,
    /// How it ended, until that was told.
    ended: Option<Result<(), Failure>>,
}

impl Lines {
    /// Adds what is ready, up to a frame. Pending if something may still come.
    fn gather(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.held.len() < FRAME_BYTES {
            let Some(items) = &mut self.items else {
                return Poll::Ready(());
            };
            match items.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(lines))) if self.held.is_empty() => self.held = lines,
                Poll::Ready(Some(Ok(lines))) => self.held.extend_from_slice(&lines),
                Poll::Ready(Some(Err(failure))) => self.end(Err(failure)),
                Poll::Ready(None) => self.end(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    fn end(&mut self, how: Result<(), Failure>) {
        // What made the items is let go before the last of them are sent.
        self.items = None;
        self.ended = Some(how);
    }
}

impl http_body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let gathered = this.gather(cx);
        if !this.held.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.held).into()))));
        }
        if gathered.is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(this.ended.take().map(|how| {
            let text = match how {
                Ok(()) => HeaderValue::from_static(""),
                Err(failure) => {
                    tracing::debug!(error = %failure, "a stream ended early");
                    header_text(&failure.message, ERROR_BYTES_MAX)
                }
            };
            Ok(Frame::trailers(HeaderMap::from_iter([(STREAM_ERROR, text)])))
        }))
    }
}

/// A body for a client that takes no trailers: one that says that something went wrong breaks the stream off, since a stream
/// that ends well would say that these were all.
pub(crate) struct Untrailed {
    body: Body,
    /// The connection to break as well, where the end of the body is only that of the connection.
    life: Option<Arc<Life>>,
    /// What is wrong. It is told one turn later, so that what came before it gets on its way.
    failed: Option<String>,
}

impl Untrailed {
    pub fn new(body: Body, life: Option<Arc<Life>>) -> Self {
        Self {
            body,
            life,
            failed: None,
        }
    }
}

impl http_body::Body for Untrailed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if let Some(text) = this.failed.take() {
            if let Some(life) = &this.life {
                life.break_off();
            }
            return Poll::Ready(Some(Err(axum::Error::new(BrokenOff(text)))));
        }
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => {
                if let Some(life) = &this.life {
                    life.break_off();
                }
                return Poll::Ready(Some(Err(error)));
            }
            other => return other,
        };
        let trailers = match frame.into_trailers() {
            Ok(trailers) => trailers,
            Err(data) => return Poll::Ready(Some(Ok(data))),
        };
        let mut texts = trailers.get_all(STREAM_ERROR).iter();
        let Some(text) = texts.find(|text| !text.is_empty()) else {
            return Poll::Ready(None);
        };
        this.failed = Some(String::from_utf8_lossy(text.as_bytes()).into_owned());
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Why a stream was broken off.
#[derive(Debug, thiserror::Error)]
#[error("broken off: {0}")]
struct BrokenOff(String);

/// A body with something that is let go when it is over.
pub(crate) struct Held<T> {
    body: Body,
    _held: T,
}

impl<T> Held<T> {
    pub fn new(body: Body, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<T: Unpin> http_body::Body for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
