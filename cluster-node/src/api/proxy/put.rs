//! `block/put`, `dag/put` and `dag/import` that pin.
//!
//! Blocks that are put are stored by the node, which pins nothing, and then pinned in the cluster, with that node as the first
//! to hold them. A CAR file goes to the nodes that the cluster chooses for it, as in an add.

use std::pin::Pin;
use std::time::Duration;

use async_stream::try_stream;
use axum::body::{Body, BodyDataStream};
use axum::response::Response;
use bytes::BytesMut;
use cluster_http::multipart::{PartKind, Parts};
use cluster_http::{Failure, ndjson};
use futures::{Stream, StreamExt as _};
use http::Extensions;
use http::request::Parts as Head;
use node_core::{Cid, NodeId, PinMode, PinOptions};
use serde_json::{Value, json};

use super::add::limits;
use super::guard::Page;
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
        head.uri = without_pin(&head.uri)?;
        // Pages were judged before: the cluster's call is not to fail for what the node makes of them.
        head.headers.remove(http::header::ORIGIN);
        head.headers.remove(http::header::REFERER);
        let answer = self.pass_to(&upstream, head, body, None, &Page::None).await?;
        if !answer.status().is_success() {
            return Ok(answer);
        }
        let lines = lines(answer.into_body().into_data_stream());
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
        let mut parts = Parts::new(&call.headers, body, &limits(extensions))?;
        let place = self.adds.place()?;
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

/// The same target, by which the node pins nothing.
fn without_pin(uri: &http::Uri) -> Result<http::Uri, Failure> {
    let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let kept = pairs.filter(|(key, _)| key != "pin");
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(kept).append_pair("pin", "false");
    let target = format!("{}?{}", uri.path(), query.finish());
    target.parse().map_err(|_| Failure::bad("the query can't be passed on"))
}

/// A line for the client, and why it is not pinned.
struct Line {
    value: Value,
    failed: Option<String>,
}

/// The lines of an answer.
pub fn lines(mut data: BodyDataStream) -> Pin<Box<dyn Stream<Item = Result<Value, Failure>> + Send>> {
    Box::pin(try_stream! {
        let mut buffer = BytesMut::new();
        let mut ended = false;
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
                break;
            }
            if buffer.len() > LINE_BYTES_MAX {
                Err(Failure::internal("the node's answer has a line that is too long"))?;
            }
            match data.next().await {
                Some(Ok(piece)) => buffer.extend_from_slice(&piece),
                Some(Err(error)) => Err(Failure::internal(format!("the node's answer broke off: {error}")))?,
                None => ended = true,
            }
        }
    })
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
            let uri = without_pin(&target.parse().expect("a target")).expect("a target");
            assert_eq!(uri.to_string(), told);
        }
    }

    #[tokio::test]
    async fn lines_are_read_however_they_come() {
        let of = |pieces: &[&'static str]| {
            let pieces: Vec<Result<&str, std::io::Error>> = pieces.iter().map(|piece| Ok(*piece)).collect();
            lines(Body::from_stream(futures::stream::iter(pieces)).into_data_stream()).collect::<Vec<_>>()
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
}
