//! `block/put`, `dag/put` and `dag/import` that pin.
//!
//! Blocks that are put are stored by the node, which pins nothing, and then pinned in the cluster, with that node as the first
//! to hold them. A CAR file goes to the nodes that the cluster chooses for it, as in an add.

use std::pin::Pin;
use std::time::Duration;

use async_stream::try_stream;
use axum::body::Body;
use axum::response::Response;
use bytes::BytesMut;
use cluster_http::multipart::{PartKind, Parts};
use cluster_http::{Failure, Query, STREAM_ERROR, ndjson};
use futures::{Stream, StreamExt as _};
use http::Extensions;
use http::request::Parts as Head;
use http_body_util::BodyExt as _;
use node_core::{Cid, NodeId, PinMode, PinOptions};
use serde_json::{Value, json};

use super::add::limits;
use super::guard::{self, Page};
use super::{Answer, Arc, Call, Proxy};
use crate::api::failure::failure;
use crate::service::{AddWish, Format, WAIT_DEFAULT};

/// Bytes of a line of the node's answer; its own are below 200.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Roots of all files of one import.
const ROOTS_MAX: usize = 65_536;

/// How long what a client still sends is read after an import has failed.
const DRAIN_TIME: Duration = Duration::from_secs(30);

impl Proxy {
    pub(super) async fn put(self: &Arc<Self>, call: &Call, mut head: Head, body: Body) -> Answer {
        let upstream = self.upstream().await?;
        head.headers = call.headers.clone();
        head.uri = without(&head.uri, "pin")?;
        // Pages were judged before: the cluster's call is not to fail for what the node makes of them.
        guard::hide_page(&mut head.headers);
        let answer = self.pass_to(&upstream, head, body, None, &Page::None).await?;
        if !answer.status().is_success() {
            return Ok(answer);
        }
        let lines = lines(answer.into_body());
        let (proxy, node) = (self.clone(), upstream.node());
        let call = Arc::new(Call {
            principal: call.principal.clone(),
            query: call.query.clone(),
            argument: None,
            headers: http::HeaderMap::new(),
        });
        let pinned = lines.then(move |line| {
            let (proxy, call) = (proxy.clone(), call.clone());
            async move { proxy.pin_line(&call, node, line?).await }
        });
        Ok(told(collect_failures(pinned)).await)
    }

    /// Pins what a line of the node's answer names, and hands it on.
    async fn pin_line(self: &Arc<Self>, call: &Call, node: NodeId, line: Value) -> Result<Line, Failure> {
        let text = line["Key"].as_str().or_else(|| line["Cid"]["/"].as_str());
        let cid: Option<Cid> = text.and_then(|text| text.parse().ok());
        let cid = cid.ok_or_else(|| Failure::internal("the node's answer names no block"))?;
        let pinned = self.pin(call, cid, PinOptions::default(), vec![node]).await;
        Ok(Line {
            value: line,
            failed: pinned.err().map(|failure| format!("{cid}: {}", failure.message)),
        })
    }

    /// Takes CAR files in, and pins the roots that they name.
    pub(super) async fn import(self: &Arc<Self>, call: &Call, body: Body, extensions: &Extensions) -> Answer {
        let stats = call.query.bool("stats")?.unwrap_or_default();
        let silent = call.query.bool("silent")?.unwrap_or_default();
        let limits = limits(extensions);
        let mut parts = Parts::new(&call.headers, body, &limits)?;
        let place = self.adds.place(limits.stall_timeout).await?;
        let taken = self.take(call, &mut parts).await;
        drop(place);
        let (roots, blocks, bytes) = match taken {
            Ok(taken) => taken,
            Err(failure) => {
                // Most clients read the answer only when they have sent all.
                let rest = async { while let Ok(Some(_)) = parts.next().await {} };
                let _ = tokio::time::timeout(DRAIN_TIME, rest).await;
                return Err(failure);
            }
        };
        let mut lines: Vec<Result<Value, Failure>> = Vec::new();
        if !silent {
            let root = |root: &Cid| Ok(json!({ "Root": { "Cid": { "/": root.to_string() }, "PinErrorMsg": "" } }));
            lines.extend(roots.iter().map(root));
        }
        if stats && !silent {
            lines.push(Ok(
                json!({ "Stats": { "BlockCount": blocks, "BlockBytesCount": bytes } }),
            ));
        }
        Ok(told(futures::stream::iter(lines)).await)
    }

    async fn take(self: &Arc<Self>, call: &Call, parts: &mut Parts) -> Result<(Vec<Cid>, u64, u64), Failure> {
        let (mut roots, mut blocks, mut bytes) = (Vec::new(), 0, 0);
        let mut files = 0;
        while let Some(part) = parts.next().await? {
            if part.kind != PartKind::File {
                continue;
            }
            files += 1;
            let wish = AddWish {
                namespace: call.namespace().clone(),
                slot: String::new(),
                options: PinOptions {
                    mode: PinMode::Recursive,
                    ..PinOptions::default()
                },
                request_id: None,
                format: Format::Car,
                without_pin: false,
                every_root: true,
                prefer: Vec::new(),
            };
            let mut adding = self.pins.begin_add(wish, |_| (), WAIT_DEFAULT).await.map_err(failure)?;
            while let Some(piece) = parts.chunk().await? {
                adding.data(piece).await.map_err(failure)?;
            }
            let added = adding.finish(WAIT_DEFAULT).await.map_err(failure)?;
            blocks += added.blocks;
            bytes += added.bytes;
            roots.extend(added.roots);
            if roots.len() > ROOTS_MAX {
                return Err(Failure::bad(
                    "the CAR files name more than 65536 roots: import them in several calls",
                ));
            }
        }
        match files {
            0 => Err(Failure::bad("argument \"path\" is required: a CAR file")),
            _ => Ok((roots, blocks, bytes)),
        }
    }
}

/// The target of a call that only takes blocks in, by which the node pins nothing: one that does not know `local-only` would
/// pin what is not the cluster's, and never let go of it.
pub fn unpinned(uri: &http::Uri, query: &Query) -> Result<http::Uri, Failure> {
    if let Ok(Some(true)) = query.bool("pin-roots") {
        return Err(Failure::bad(
            "local-only implies pin-roots=false and cannot be combined with pin-roots=true; drop one of them",
        ));
    }
    without(uri, "pin-roots")
}

/// The same target with this flag off.
fn without(uri: &http::Uri, flag: &str) -> Result<http::Uri, Failure> {
    let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let kept = pairs.filter(|(key, _)| key != flag);
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(kept).append_pair(flag, "false");
    let target = format!("{}?{}", uri.path(), query.finish());
    target.parse().map_err(|_| Failure::bad("the query can't be passed on"))
}

/// A line for the client, and why it is not pinned.
struct Line {
    value: Value,
    failed: Option<String>,
}

/// The lines of an answer. One that says in its trailer that it failed behind them ends with that.
pub fn lines(mut body: Body) -> Pin<Box<dyn Stream<Item = Result<Value, Failure>> + Send>> {
    Box::pin(try_stream! {
        let mut buffer = BytesMut::new();
        let (mut ended, mut failed) = (false, None);
        loop {
            if let Some(at) = memchr::memchr(b'\n', &buffer) {
                let line = buffer.split_to(at + 1);
                if !line.trim_ascii().is_empty() {
                    yield read(&line)?;
                }
                continue;
            }
            if ended {
                if !buffer.trim_ascii().is_empty() {
                    yield read(&buffer)?;
                }
                if let Some(words) = failed {
                    Err(Failure::internal(words))?;
                }
                break;
            }
            if buffer.len() > LINE_BYTES_MAX {
                Err(Failure::internal("the node's answer has a line that is too long"))?;
            }
            match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => buffer.extend_from_slice(&piece),
                    Err(frame) => failed = frame.trailers_ref().and_then(told_failure),
                },
                Some(Err(error)) => Err(Failure::internal(format!("the node's answer broke off: {error}")))?,
                None => ended = true,
            }
        }
    })
}

/// What a trailer says of why there are no more lines.
fn told_failure(trailers: &http::HeaderMap) -> Option<String> {
    let words = trailers.get(STREAM_ERROR)?;
    let words = String::from_utf8_lossy(words.as_bytes()).trim().to_owned();
    (!words.is_empty()).then_some(words)
}

fn read(line: &[u8]) -> Result<Value, Failure> {
    let value: Value =
        serde_json::from_slice(line).map_err(|error| Failure::internal(format!("the node's answer: {error}")))?;
    match value["Message"].as_str() {
        Some(words) => Err(Failure::internal(words)),
        None => Ok(value),
    }
}

/// Words of pins that failed, together: further ones are counted.
const FAILURES_TOLD: usize = 10;

/// Goes on behind a pin that fails, and says at the end which did.
fn collect_failures(
    lines: impl Stream<Item = Result<Line, Failure>> + Send + 'static,
) -> Pin<Box<dyn Stream<Item = Result<Value, Failure>> + Send>> {
    Box::pin(try_stream! {
        let mut lines = Box::pin(lines);
        let (mut failures, mut more) = (Vec::new(), 0);
        while let Some(line) = lines.next().await {
            let Line { value, failed } = line?;
            match failed {
                Some(words) if failures.len() < FAILURES_TOLD => failures.push(words),
                Some(_) => more += 1,
                None => {}
            }
            yield value;
        }
        if more > 0 {
            failures.push(format!("and {more} more"));
        }
        if !failures.is_empty() {
            Err(Failure::internal(failures.join("; ")))?;
        }
    })
}

async fn told(lines: impl Stream<Item = Result<Value, Failure>> + Send + 'static) -> Response {
    let mut response = ndjson(lines).await;
    let chunked = http::HeaderName::from_static("x-chunked-output");
    response
        .headers_mut()
        .insert(chunked, http::HeaderValue::from_static("1"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_told_not_to_pin() {
        for (target, told) in [
            ("/api/v0/block/put?pin=true", "/api/v0/block/put?pin=false"),
            (
                "/api/v0/dag/put?a=b%26c&pin=1&pin=true&d",
                "/api/v0/dag/put?a=b%26c&d=&pin=false",
            ),
            ("/api/v0/dag/put", "/api/v0/dag/put?pin=false"),
        ] {
            let uri = without(&target.parse().expect("a target"), "pin").expect("a target");
            assert_eq!(uri.to_string(), told);
        }
    }

    #[test]
    fn a_node_that_only_takes_blocks_in_pins_none() {
        let of = |target: &str| {
            let uri: http::Uri = target.parse().expect("a target");
            let query = Query::parse(uri.query().unwrap_or_default());
            unpinned(&uri, &query).map(|uri| uri.to_string())
        };
        let told = of("/api/v0/dag/import?local-only=true&stats=true").expect("taken in");
        assert_eq!(told, "/api/v0/dag/import?local-only=true&stats=true&pin-roots=false");
        assert_eq!(
            of("/api/v0/dag/import?pin-roots=false").expect("taken in"),
            "/api/v0/dag/import?pin-roots=false"
        );
        of("/api/v0/dag/import?local-only=true&pin-roots=true").expect_err("both can't be");
    }

    #[tokio::test]
    async fn lines_are_read_however_they_come() {
        let of = |pieces: &[&'static str]| {
            let pieces: Vec<Result<&str, std::io::Error>> = pieces.iter().map(|piece| Ok(*piece)).collect();
            lines(Body::from_stream(futures::stream::iter(pieces))).collect::<Vec<_>>()
        };
        let read = of(&["{\"Ke", "y\":\"a\"}\n\n{\"Key\":", "\"b\"}"]).await;
        assert_eq!(read, [Ok(json!({ "Key": "a" })), Ok(json!({ "Key": "b" }))]);
        for broken in [
            &["{\"Message\":\"no room\",\"Code\":0,\"Type\":\"error\"}\n"][..],
            &["<html>\n"],
            &["{"],
        ] {
            let read = of(broken).await;
            assert!(matches!(&read[..], [Err(_)]), "{read:?}");
        }
    }
    #[tokio::test]
    async fn what_failed_behind_the_lines_is_told() {
        for (trailer, words) in [("", None), ("the block is too big", Some("the block is too big"))] {
            let trailers = http::HeaderMap::from_iter([(STREAM_ERROR, http::HeaderValue::from_static(trailer))]);
            let body = http_body_util::Full::<bytes::Bytes>::from("{\"Key\":\"a\"}\n");
            let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
            let read = lines(Body::new(body)).collect::<Vec<_>>().await;
            let mut expected = vec![Ok(json!({ "Key": "a" }))];
            expected.extend(words.map(|words| Err(Failure::internal(words))));
            assert_eq!(read, expected);
        }
    }
}
