//! Calls about blocks and DAGs of them.

use std::sync::Arc;

use async_stream::try_stream;
use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use cluster_content::{Content, ContentError, Scope, Sink, WalkOptions};
use cluster_dag::codec::{DAG_CBOR, DAG_JSON, DAG_PB, RAW};
use cluster_dag::{BLOCK_BYTES_MAX, Block, HashFunction, value};
use cluster_http::Limits;
use cluster_http::multipart::Parts;
use futures::{StreamExt as _, TryStreamExt as _};
use node_core::{Cid, PinMode};
use serde_json::{Value, json};

use super::answer::{Failure, Permit, line};
use super::content::argument;
use super::files::{answer, chunked};
use super::{Arguments, Rpc, all, flag, paths, value as option};

/// Bytes of a block that is sent as JSON, which is longer than what it becomes.
const INPUT_BYTES_MAX: usize = 4 * BLOCK_BYTES_MAX;

pub(super) async fn block_get(State(rpc): State<Arc<Rpc>>, arguments: Arguments) -> Result<Response, Failure> {
    let content = rpc.view(&arguments)?;
    let cid = paths::block(&content, argument(&arguments)?).await?;
    let block = content.block(&cid).await?;
    Ok(answer(Body::from(block.bytes().clone()), "application/vnd.ipld.raw"))
}

pub(super) async fn block_stat(State(rpc): State<Arc<Rpc>>, arguments: Arguments) -> Result<Json<Value>, Failure> {
    let content = rpc.view(&arguments)?;
    let cid = paths::block(&content, argument(&arguments)?).await?;
    let known = match &rpc.inside {
        Some(inside) => inside.size(&cid).await?,
        None => None,
    };
    let size = match known {
        Some(size) => size,
        None => content.block(&cid).await?.bytes().len() as u64,
    };
    Ok(Json(json!({ "Key": cid.to_string(), "Size": size })))
}

/// How the blocks of one call are named.
struct Naming {
    version: u64,
    codec: u64,
    hash: HashFunction,
}

fn codec(name: &str) -> Result<u64, Failure> {
    let numbered = name
        .strip_prefix("0x")
        .and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let named = value::codec(name).or(match name {
        "cbor" => Some(DAG_CBOR),
        "json" => Some(DAG_JSON),
        _ => numbered,
    });
    let known = [RAW, DAG_PB, DAG_CBOR, DAG_JSON];
    named.filter(|code| known.contains(code)).ok_or_else(|| {
        Failure::client(format!(
            "codec {:?} is not known: take raw, dag-pb, dag-cbor or dag-json",
            paths::cut(name)
        ))
    })
}

fn hash(name: Option<&str>) -> Result<HashFunction, Failure> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(HashFunction::default());
    };
    let parsed = name.to_ascii_lowercase().parse();
    parsed.map_err(|error: cluster_dag::UnknownHashFunction| Failure::client(error.to_string()))
}

/// Takes blocks as they are, one a part, and names them.
pub(super) async fn block_put(State(rpc): State<Arc<Rpc>>, request: Request) -> Result<Response, Failure> {
    let arguments = super::arguments(&request);
    let cid_codec = option(&arguments, "cid-codec").filter(|codec| !codec.is_empty());
    let format = option(&arguments, "format").filter(|format| !format.is_empty());
    let naming = Naming {
        version: u64::from(format != Some("v0")),
        codec: match (format, cid_codec) {
            (Some("v0" | "protobuf"), _) => DAG_PB,
            (Some(format), _) => codec(format)?,
            (None, named) => codec(named.unwrap_or("raw"))?,
        },
        hash: hash(option(&arguments, "mhtype"))?,
    };
    if naming.version == 0 && naming.hash != HashFunction::Sha2_256 {
        return Err(Failure::client("only sha2-256 is allowed with CIDv0"));
    }
    match option(&arguments, "mhlen") {
        None | Some("" | "-1") => {}
        Some(_) => return Err(Failure::client("mhlen: digests are not cut here; leave it out")),
    }
    let pin = flag(&arguments, "pin", false)?;
    let sink = (rpc.sink)();
    let blocks = take(&*sink, request, |bytes| {
        Block::seal(naming.version, naming.codec, naming.hash, bytes)
            .map_err(|error| Failure::normal(error.to_string()))
    })
    .await?;
    let mut lines = BytesMut::new();
    for (cid, size) in blocks {
        if pin {
            rpc.node.pin_add(&cid, PinMode::Recursive, "", &|_| ()).await?;
        }
        lines.extend_from_slice(&line(&json!({ "Key": cid.to_string(), "Size": size })));
    }
    Ok(chunked(Body::from(lines.freeze())))
}

/// Takes values in one codec and stores them in another.
pub(super) async fn dag_put(State(rpc): State<Arc<Rpc>>, request: Request) -> Result<Response, Failure> {
    let arguments = super::arguments(&request);
    let input = codec(
        option(&arguments, "input-codec")
            .filter(|codec| !codec.is_empty())
            .unwrap_or("dag-json"),
    )?;
    let store = codec(
        option(&arguments, "store-codec")
            .filter(|codec| !codec.is_empty())
            .unwrap_or("dag-cbor"),
    )?;
    let hash = hash(option(&arguments, "hash"))?;
    let pin = flag(&arguments, "pin", false)?;
    let sink = (rpc.sink)();
    let blocks = take(&*sink, request, |bytes| {
        let failed = |error: value::ValueError| Failure::normal(error.to_string());
        let read = value::decode(input, &bytes).map_err(failed)?;
        let written = value::encode(store, &read).map_err(failed)?;
        Block::seal(1, store, hash, written.into()).map_err(|error| Failure::normal(error.to_string()))
    })
    .await?;
    let mut lines = BytesMut::new();
    for (cid, _) in blocks {
        if pin {
            rpc.node.pin_add(&cid, PinMode::Recursive, "", &|_| ()).await?;
        }
        lines.extend_from_slice(&line(&json!({ "Cid": { "/": cid.to_string() } })));
    }
    Ok(chunked(Body::from(lines.freeze())))
}

/// Stores what each part becomes, one after another; a part is held whole.
async fn take(
    sink: &dyn Sink,
    request: Request,
    make: impl Fn(Bytes) -> Result<Block, Failure>,
) -> Result<Vec<(Cid, usize)>, Failure> {
    let (head, body) = request.into_parts();
    let limits = Limits {
        parts_max: super::PARTS_MAX,
        ..Limits::default()
    };
    let bad = |failure: cluster_http::Failure| Failure::client(failure.message);
    let mut parts = Parts::new(&head.headers, body, &limits).map_err(bad)?;
    let mut made = Vec::new();
    while parts.next().await.map_err(bad)?.is_some() {
        let mut whole = BytesMut::new();
        while let Some(piece) = parts.chunk().await.map_err(bad)? {
            if whole.len() + piece.len() > INPUT_BYTES_MAX {
                return Err(Failure::normal(format!(
                    "a block is longer than the {BLOCK_BYTES_MAX} bytes that IPFS nodes exchange"
                )));
            }
            whole.extend_from_slice(&piece);
        }
        let block = make(whole.freeze())?;
        // What can't be read can't be kept: its links would not be counted.
        block.links().map_err(|error| Failure::normal(error.to_string()))?;
        made.push((block.cid(), block.bytes().len()));
        if Block::inline(block.cid()).is_none() {
            sink.put(vec![block]).await.map_err(ContentError::from)?;
        }
    }
    match made.is_empty() {
        true => Err(Failure::client("argument \"data\" is required")),
        false => Ok(made),
    }
}

/// A block, or what stands in it, in the codec that is asked for.
pub(super) async fn dag_get(State(rpc): State<Arc<Rpc>>, arguments: Arguments) -> Result<Response, Failure> {
    let content = rpc.view(&arguments)?;
    let output = option(&arguments, "output-codec").filter(|codec| !codec.is_empty());
    let output = codec(output.unwrap_or("dag-json"))?;
    let place = paths::follow(&content, argument(&arguments)?).await?;
    let block = content.block(&place.cid).await?;
    let failed = |error: value::ValueError| Failure::normal(error.to_string());
    let whole = value::decode(place.cid.codec(), block.bytes()).map_err(failed)?;
    let (found, _) = value::step(&whole, &place.rest).map_err(failed)?;
    let written = value::encode(output, found).map_err(failed)?;
    Ok(answer(Body::from(written), "text/plain"))
}

pub(super) async fn dag_resolve(State(rpc): State<Arc<Rpc>>, arguments: Arguments) -> Result<Json<Value>, Failure> {
    let content = rpc.view(&arguments)?;
    let place = paths::follow(&content, argument(&arguments)?).await?;
    Ok(Json(json!({
        "Cid": { "/": place.cid.to_string() },
        "RemPath": place.rest.join("/"),
    })))
}

/// A DAG as a CAR file.
pub(super) async fn dag_export(
    State(rpc): State<Arc<Rpc>>,
    Extension(permit): Extension<Permit>,
    arguments: Arguments,
) -> Result<Response, Failure> {
    let content = rpc.view(&arguments)?;
    let cid = paths::block(&content, argument(&arguments)?).await?;
    let mut bytes = content.car(vec![cid], WalkOptions::default());
    // That it can't begin has a status of its own.
    let first = bytes.try_next().await?;
    let bytes = futures::stream::iter(first.map(Ok)).chain(bytes).map(move |bytes| {
        let _held = &permit;
        bytes
    });
    Ok(answer(Body::from_stream(bytes), "application/vnd.ipld.car"))
}

/// How large DAGs are, each by itself and together.
pub(super) async fn dag_stat(
    State(rpc): State<Arc<Rpc>>,
    Extension(permit): Extension<Permit>,
    arguments: Arguments,
) -> Result<Response, Failure> {
    let content = rpc.view(&arguments)?;
    let mut roots: Vec<Cid> = Vec::new();
    for text in all(&arguments, "arg") {
        roots.push(paths::block(&content, text).await?);
    }
    argument(&arguments)?;
    let lines = try_stream! {
        let _held = permit;
        let (mut stats, mut summed) = (Vec::new(), 0_u64);
        for root in &roots {
            let (blocks, bytes) = measure(&content, vec![*root]).await?;
            summed += bytes;
            stats.push(json!({ "Cid": root.to_string(), "Size": bytes, "NumBlocks": blocks }));
        }
        let (unique, total) = match roots.len() {
            1 => (stats[0]["NumBlocks"].as_u64().unwrap_or_default(), summed),
            _ => measure(&content, roots.clone()).await?,
        };
        let shared = summed.saturating_sub(total);
        let ratio = if total == 0 { 1.0 } else { summed as f64 / total as f64 };
        yield line(&json!({
            "UniqueBlocks": unique,
            "TotalSize": total,
            "SharedSize": shared,
            "Ratio": ratio,
            "DagStats": stats,
        }));
    };
    let lines: futures::stream::BoxStream<'static, Result<Bytes, ContentError>> = Box::pin(lines);
    Ok(chunked(Body::from_stream(lines)))
}

/// Blocks and bytes below these roots, each block once.
async fn measure(content: &Content, roots: Vec<Cid>) -> Result<(u64, u64), ContentError> {
    let options = WalkOptions {
        scope: Scope::All,
        duplicates: false,
    };
    let mut blocks = content.walk(roots, options);
    let (mut count, mut bytes) = (0, 0);
    while let Some(block) = blocks.try_next().await? {
        count += 1;
        bytes += block.bytes().len() as u64;
    }
    Ok((count, bytes))
}

/// Only garbage collection deletes.
pub(super) async fn block_rm() -> Response {
    Failure::normal("blocks of the embedded node go by garbage collection only: unpin what holds them, then repo/gc")
        .into_response()
}
