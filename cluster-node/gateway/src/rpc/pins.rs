//! Calls about pins.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_stream::stream;
use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use cluster_ipfs::{Held, IpfsNode, Listed, LookFor, Progress, Updated};
use futures::Stream;
use http::header::{self, HeaderValue};
use node_core::{Cid, PinMode};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::answer::{Failure, Permit, line};
use super::{Arguments, Rpc, cids, flag, value};

/// How often a pin tells its progress, moved or not: as often as Kubo's, so that silence means that the node is gone.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// CIDs of one call: each is a pin of its own, one after another.
const CIDS_MAX: usize = 1024;

pub(super) async fn add(
    State(rpc): State<Arc<Rpc>>,
    Extension(permit): Extension<Permit>,
    arguments: Arguments,
) -> Result<Response, Failure> {
    let mode = match flag(&arguments, "recursive", true)? {
        true => PinMode::Recursive,
        false => PinMode::Direct,
    };
    let pin = Pin {
        node: rpc.node.clone(),
        cids: some(&arguments)?,
        mode,
        name: value(&arguments, "name").unwrap_or_default().to_owned(),
    };
    if !flag(&arguments, "progress", false)? {
        let pins = pin.run(&|_| ()).await?;
        return Ok(Json(json!({ "Pins": pins })).into_response());
    }
    let mut lines = Box::pin(pin.lines());
    // What is over at once, and most failures are, has the status that it deserves. Later there is only a line to say it.
    let first = match futures::StreamExt::next(&mut lines).await {
        Some(Err(failure)) => return Err(failure),
        first => first,
    };
    let body = stream! {
        let _held = permit;
        if let Some(Ok(first)) = first {
            yield Ok::<Bytes, std::convert::Infallible>(first);
        }
        while let Some(part) = futures::StreamExt::next(&mut lines).await {
            yield Ok(part.unwrap_or_else(|failure| failure.line()));
        }
    };
    let mut response = Response::new(Body::from_stream(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

fn some(arguments: &Arguments) -> Result<Vec<Cid>, Failure> {
    match cids(arguments)? {
        cids if cids.len() > CIDS_MAX => Err(Failure::client("at most 1024 CIDs can be given at once")),
        cids => Ok(cids),
    }
}

/// Pins that one call asks for. Dropping what comes of it cancels them.
struct Pin {
    node: Arc<dyn IpfsNode>,
    cids: Vec<Cid>,
    mode: PinMode,
    name: String,
}

impl Pin {
    async fn run(&self, progress: &(dyn Fn(Progress) + Send + Sync)) -> Result<Vec<String>, Failure> {
        let (mut pins, mut before) = (Vec::new(), Progress::default());
        for cid in &self.cids {
            let sink = |now: Progress| {
                progress(Progress {
                    blocks: before.blocks + now.blocks,
                    bytes: before.bytes + now.bytes,
                });
            };
            let added = self.node.pin_add(cid, self.mode, &self.name, &sink).await?;
            if self.mode == PinMode::Direct && added.held == PinMode::Recursive {
                return Err(Failure::normal(format!("pin: {cid} already pinned recursively")));
            }
            before.blocks += added.progress.blocks;
            before.bytes += added.progress.bytes;
            pins.push(cid.to_string());
        }
        // The last step may not have been told of.
        progress(before);
        Ok(pins)
    }

    /// The lines of the answer. An error is the last thing.
    fn lines(self) -> impl Stream<Item = Result<Bytes, Failure>> + Send {
        let reached = Arc::new(Mutex::new(Progress::default()));
        stream! {
            let told = reached.clone();
            let progress = move |now| *told.lock().unwrap_or_else(PoisonError::into_inner) = now;
            let mut running = Box::pin(self.run(&progress));
            let mut ticks = interval_at(Instant::now() + PROGRESS_EVERY, PROGRESS_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let result = loop {
                tokio::select! {
                    biased;
                    result = &mut running => break result,
                    _ = ticks.tick() => {
                        let now = *reached.lock().unwrap_or_else(PoisonError::into_inner);
                        yield Ok(progress_line(now));
                    }
                }
            };
            match result {
                Ok(pins) => {
                    let now = *reached.lock().unwrap_or_else(PoisonError::into_inner);
                    yield Ok(progress_line(now));
                    yield Ok(line(&json!({ "Pins": pins })));
                }
                Err(failure) => yield Err(failure),
            }
        }
    }
}

fn progress_line(progress: Progress) -> Bytes {
    line(&json!({ "Progress": progress.blocks, "Bytes": progress.bytes }))
}

pub(super) async fn remove(State(rpc): State<Arc<Rpc>>, arguments: Arguments) -> Result<Json<Value>, Failure> {
    let mut pins = Vec::new();
    for cid in some(&arguments)? {
        if !rpc.node.pin_rm(&cid).await? {
            return Err(Failure::normal("not pinned or pinned indirectly"));
        }
        pins.push(cid.to_string());
    }
    Ok(Json(json!({ "Pins": pins })))
}

pub(super) async fn update(State(rpc): State<Arc<Rpc>>, arguments: Arguments) -> Result<Json<Value>, Failure> {
    let cids = cids(&arguments)?;
    let [from, to] = cids[..] else {
        return Err(Failure::client(
            "two arguments are required: the old CID and the new one",
        ));
    };
    let unpin = flag(&arguments, "unpin", true)?;
    match rpc.node.pin_update(&from, &to, &|_| ()).await? {
        Updated::Done(_) => {}
        Updated::SourceNotPinned => {
            return Err(Failure::normal("'from' cid was not recursively pinned already"));
        }
    }
    if unpin && from != to {
        rpc.node.pin_rm(&from).await?;
    }
    Ok(Json(json!({ "Pins": [from.to_string(), to.to_string()] })))
}

pub(super) async fn list(State(rpc): State<Arc<Rpc>>, arguments: Arguments) -> Result<Json<Value>, Failure> {
    let kind = value(&arguments, "type").unwrap_or("all");
    let look_for = match kind {
        "recursive" => LookFor::Recursive,
        "direct" | "indirect" | "all" => LookFor::Any,
        _ => return Err(Failure::client("type is recursive, direct, indirect or all")),
    };
    if value(&arguments, "arg").is_none() {
        return all(&rpc, kind).await;
    }
    let mut keys = serde_json::Map::new();
    for cid in some(&arguments)? {
        let listed = rpc.node.pin_ls(&cid, look_for).await?;
        let found = listed.filter(|listed| kind == "all" || kind == word(listed.held));
        let Some(listed) = found else {
            return Err(Failure::normal(format!("path '{cid}' is not pinned")));
        };
        keys.insert(cid.to_string(), key(listed));
    }
    Ok(Json(json!({ "Keys": keys })))
}

/// As Kubo shows a pin: with its name also where that is empty, by which who drives this node sees that it knows names.
fn key(listed: Listed) -> Value {
    json!({ "Type": word(listed.held), "Name": listed.name.unwrap_or_default() })
}

/// Pins of an answer: what has more is told by `pin/ls` of single CIDs.
const PINS_MAX: usize = 100_000;

/// Pins read at a time.
const PAGE: usize = 4096;

async fn all(rpc: &Rpc, kind: &str) -> Result<Json<Value>, Failure> {
    let Some(inside) = &rpc.inside else {
        return Err(Failure::client(
            "this node lists no pins, it tells of single ones: give the CID as an argument",
        ));
    };
    let (mut keys, mut after) = (serde_json::Map::new(), None);
    loop {
        let (page, next) = inside.pins(after, PAGE).await?;
        for (cid, listed) in page {
            if kind == "all" || kind == word(listed.held) {
                keys.insert(cid.to_string(), key(listed));
            }
        }
        if keys.len() > PINS_MAX {
            return Err(Failure::normal("there are more than 100000 pins: ask for single ones"));
        }
        if next.is_none() {
            return Ok(Json(json!({ "Keys": keys })));
        }
        after = next;
    }
}

fn word(held: Held) -> &'static str {
    match held {
        Held::Recursive => "recursive",
        Held::Direct => "direct",
        Held::Indirect => "indirect",
    }
}
