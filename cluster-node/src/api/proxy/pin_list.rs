//! `pin/ls`.

use std::collections::BTreeMap;

use async_stream::try_stream;
use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use cluster_http::{Failure, STREAM_ERROR, json, ndjson};
use futures::{Stream, StreamExt as _};
use http::{HeaderName, HeaderValue, header};
use http_body::Frame;
use http_body_util::StreamBody;
use node_core::{Cid, Pin, PinMode};
use serde::Serialize;

use super::{Answer, Arc, Call, Proxy};
use crate::api::failure::failure;
use crate::service::{Error, ListRequest, PinFilter, WAIT_DEFAULT};

/// What is wanted.
#[derive(Debug, Clone)]
struct Wanted {
    /// None for all.
    mode: Option<PinMode>,
    /// Pins that lie below others: the cluster does not keep them, so there are none.
    indirect: bool,
    /// A part of the name.
    name: String,
    /// Whether names are told.
    names: bool,
    stream: bool,
}

impl Wanted {
    fn read(call: &Call) -> Result<Self, Failure> {
        let kind = call.query.get("type").unwrap_or("all");
        let (mode, indirect) = match kind {
            "all" => (None, false),
            "recursive" => (Some(PinMode::Recursive), false),
            "direct" => (Some(PinMode::Direct), false),
            "indirect" => (None, true),
            other => {
                let shown: String = other.chars().take(40).collect();
                return Err(Failure::bad(format!(
                    "invalid type '{shown}', must be one of {{direct, indirect, recursive, all}}"
                )));
            }
        };
        let name = call.query.get("name").unwrap_or_default().to_owned();
        let stream = call.query.bool("stream")?.or(call.query.bool("s")?);
        Ok(Self {
            mode,
            indirect,
            names: call.query.bool("names")?.unwrap_or_default() || !name.is_empty(),
            name,
            stream: stream.unwrap_or_default(),
        })
    }

    fn takes(&self, pin: &Pin) -> bool {
        !self.indirect && self.mode.is_none_or(|mode| mode == pin.options.mode) && pin.options.name.contains(&self.name)
    }

    fn name_of(&self, pin: &Pin) -> String {
        match self.names {
            true => pin.options.name.clone(),
            false => String::new(),
        }
    }
}

/// A pin as a line of its own.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    cid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    r#type: &'static str,
}

/// A pin in the map of all.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    r#type: &'static str,
    name: String,
}

fn word(mode: PinMode) -> &'static str {
    match mode {
        PinMode::Recursive => "recursive",
        PinMode::Direct => "direct",
    }
}

impl Proxy {
    pub(super) async fn pin_ls(self: &Arc<Self>, call: &Call) -> Answer {
        let wanted = Wanted::read(call)?;
        let arguments: Vec<String> = call
            .argument
            .iter()
            .cloned()
            .chain(call.given().map(str::to_owned))
            .collect();
        if !arguments.is_empty() {
            return self.pin_ls_of(call, &wanted, &arguments).await;
        }
        let stream = wanted.stream;
        let pins = self.all_pins(call, wanted.clone()).await?;
        let mut response = match stream {
            true => ndjson(pins.map(move |pin| pin.map(|pin| line(&wanted, &pin)))).await,
            false => object(pins, wanted).await?,
        };
        let chunked = HeaderName::from_static("x-chunked-output");
        response.headers_mut().insert(chunked, HeaderValue::from_static("1"));
        Ok(response)
    }

    async fn pin_ls_of(self: &Arc<Self>, call: &Call, wanted: &Wanted, arguments: &[String]) -> Answer {
        let mut found: Vec<(Cid, Pin)> = Vec::new();
        for argument in arguments {
            let cid = self.resolve(argument).await?;
            let pin = self.pins.first_pin(call.namespace(), &cid, true, WAIT_DEFAULT).await;
            let pin = pin.map_err(failure)?.map(|view| view.pin);
            let pin = pin.filter(|pin| !wanted.indirect && wanted.mode.is_none_or(|mode| mode == pin.options.mode));
            let missing = || {
                let shown: String = argument.chars().take(200).collect();
                Failure::not_found(format!("path '{shown}' is not pinned"))
            };
            found.push((cid, pin.ok_or_else(missing)?));
        }
        if wanted.stream {
            let lines: Vec<_> = found.iter().map(|(_, pin)| Ok(line(wanted, pin))).collect();
            return Ok(ndjson(futures::stream::iter(lines)).await);
        }
        let keys: BTreeMap<String, Entry> = found
            .iter()
            .map(|(cid, pin)| (cid.to_string(), entry(wanted, pin)))
            .collect();
        Ok(json(&serde_json::json!({ "Keys": keys })))
    }

    /// The pins of the caller's namespace, one of each CID.
    async fn all_pins(
        &self,
        call: &Call,
        wanted: Wanted,
    ) -> Result<impl Stream<Item = Result<Pin, Failure>> + Send + use<>, Failure> {
        let mut request = ListRequest {
            filter: PinFilter {
                namespace: Some(call.namespace().clone()),
                ..PinFilter::default()
            },
            ..ListRequest::default()
        };
        let pins = self.pins.clone();
        let mut chunks = pins.list(request.clone(), true, WAIT_DEFAULT).await.map_err(failure)?;
        Ok(Box::pin(try_stream! {
            // Pins of one CID stand side by side.
            let mut last = None;
            while let Some(chunk) = chunks.next().await {
                // A client that reads slowly gets the rest all the same; one that does not read is ended by `stall_timeout`.
                if let Err(Error::ClientTooSlow { .. }) = chunk {
                    chunks = pins.list(request.clone(), true, WAIT_DEFAULT).await.map_err(failure)?;
                    continue;
                }
                let chunk = chunk.map_err(failure)?;
                request.cursor = chunk.cursor;
                for view in chunk.pins {
                    let cid = view.pin.key.cid;
                    if wanted.takes(&view.pin) && last != Some(cid) {
                        last = Some(cid);
                        yield view.pin;
                    }
                }
            }
        }))
    }
}

fn line(wanted: &Wanted, pin: &Pin) -> Line {
    Line {
        cid: pin.key.cid.to_string(),
        name: wanted.name_of(pin),
        r#type: word(pin.options.mode),
    }
}

fn entry(wanted: &Wanted, pin: &Pin) -> Entry {
    Entry {
        r#type: word(pin.options.mode),
        name: wanted.name_of(pin),
    }
}

/// Bytes of the map that are sent in one frame.
const FRAME_BYTES: usize = 16 * 1024;

/// One object of all pins, written as they come: it may be as large as the pinset. Where it breaks off, the trailer says why,
/// and what was sent is no object.
async fn object(
    mut pins: impl Stream<Item = Result<Pin, Failure>> + Send + Unpin + 'static,
    wanted: Wanted,
) -> Result<Response, Failure> {
    // What fails at once has a status of its own.
    let first = pins.next().await.transpose()?;
    let frames = async_stream::stream! {
        let mut text = BytesMut::from(&b"{\"Keys\":{"[..]);
        let mut is_first = true;
        let mut pins = futures::stream::iter(first.map(Ok)).chain(pins);
        let mut failed = None;
        while let Some(pin) = pins.next().await {
            let written = pin.and_then(|pin| {
                let entry = serde_json::to_string(&entry(&wanted, &pin));
                let entry = entry.map_err(|error| Failure::internal(error.to_string()))?;
                Ok(format!("\"{}\":{entry}", pin.key.cid))
            });
            match written {
                Ok(written) => {
                    if !std::mem::take(&mut is_first) {
                        text.extend_from_slice(b",");
                    }
                    text.extend_from_slice(written.as_bytes());
                }
                Err(failure) => {
                    failed = Some(failure);
                    break;
                }
            }
            if text.len() >= FRAME_BYTES {
                yield Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(text.split())));
            }
        }
        if failed.is_none() {
            text.extend_from_slice(b"}}\n");
        }
        yield Ok(Frame::data(Bytes::from(text)));
        let words = failed.map(|failure| failure.message.replace(['\r', '\n'], " ")).unwrap_or_default();
        let words = HeaderValue::from_bytes(words.as_bytes()).unwrap_or(HeaderValue::from_static("it broke off"));
        yield Ok(Frame::trailers(http::HeaderMap::from_iter([(STREAM_ERROR, words)])));
    };
    let mut response = Response::new(Body::new(StreamBody::new(Box::pin(frames))));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::TRAILER, HeaderValue::from_static("X-Stream-Error"));
    Ok(response)
}
