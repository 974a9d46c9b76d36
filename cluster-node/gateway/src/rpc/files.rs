//! Calls that show content: files, directories, links.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::Arc;

use async_stream::try_stream;
use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use cluster_content::{ByteStream, Content, ContentError};
use cluster_dag::codec::RAW;
use cluster_dag::unixfs::{DirectoryEntry, Node};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use http::header::{self, HeaderName, HeaderValue};
use node_core::Cid;
use serde_json::{Value, json};

use super::answer::{Failure, Permit, line};
use super::content::{argument, number};
use super::{Arguments, Rpc, all, flag, paths, value};

/// Entries of an answer that is one object: 30 MiB of them. What is larger is told line by line.
const ENTRIES_MAX: usize = 100_000;

/// Entries of a directory whose kind is looked up at once.
const KINDS_AT_ONCE: usize = 16;

/// CIDs that are known again, and links that wait to be followed, in a list of links: 170 bytes each.
const LINKS_MAX: usize = 262_144;

/// The numbers of UnixFS types (`unixfs.proto`).
const DIRECTORY: u8 = 1;
const FILE: u8 = 2;
const SYMLINK: u8 = 4;

pub(super) async fn cat(
    State(rpc): State<Arc<Rpc>>,
    Extension(permit): Extension<Permit>,
    arguments: Arguments,
) -> Result<Response, Failure> {
    let content = rpc.view(&arguments)?;
    let mut start = number(&arguments, "offset")?.unwrap_or(0);
    let mut length = number(&arguments, "length")?;
    let roots: Vec<Cid> = roots(&content, &arguments).await?;
    let mut files: Vec<ByteStream> = Vec::new();
    let (mut total, mut whole) = (0_u64, 0_u64);
    for root in roots {
        // As in Kubo the range counts over all files.
        if length == Some(0) && total > 0 {
            break;
        }
        let bytes = match content.node(&root).await? {
            Node::File { bytes, .. } => bytes,
            _ if start > 0 || total > 0 => return Err(Failure::normal(format!("{root} is no file"))),
            // The reader says what it is.
            _ => 0,
        };
        whole = whole.saturating_add(bytes);
        if start > bytes {
            start -= bytes;
            continue;
        }
        let file = content.cat(root, start, length).await?;
        let sent = (bytes - start).min(length.unwrap_or(u64::MAX));
        start = 0;
        length = length.map(|length| length - sent);
        total += sent;
        files.push(file.bytes);
    }
    if start > 0 {
        return Err(Failure::normal(format!(
            "the range of bytes begins behind the end: there are {whole}"
        )));
    }
    let bytes = futures::stream::iter(files).flatten().map(move |bytes| {
        let _held = &permit;
        bytes
    });
    // The length is not said: what a client takes as the end of the body is then the end, and not a broken connection.
    let mut answer = answer(Body::from_stream(bytes), "text/plain");
    // Kubo's own command wants it for its progress bar, and for nothing else.
    with(&mut answer, "x-content-length", &total.to_string());
    with(&mut answer, "x-stream-output", "1");
    Ok(answer)
}

async fn roots(content: &Content, arguments: &Arguments) -> Result<Vec<Cid>, Failure> {
    argument(arguments)?;
    let mut roots = Vec::new();
    for text in all(arguments, "arg") {
        roots.push(paths::block(content, text).await?);
    }
    Ok(roots)
}

/// A tar archive, or one file by itself where it is only compressed.
pub(super) async fn get(
    State(rpc): State<Arc<Rpc>>,
    Extension(permit): Extension<Permit>,
    arguments: Arguments,
) -> Result<Response, Failure> {
    let content = rpc.view(&arguments)?;
    let text = argument(&arguments)?;
    let level = number(&arguments, "compression-level")?;
    let level = match (flag(&arguments, "compress", false)?, level) {
        (false, _) | (true, Some(0)) => None,
        (true, None) => Some(Compression::default()),
        (true, Some(level @ 1..=9)) => Some(Compression::new(level as u32)),
        (true, Some(_)) => return Err(Failure::client("compression level must be between 1 and 9")),
    };
    let archive = flag(&arguments, "archive", false)?;
    let cid = paths::block(&content, text).await?;
    let node = content.node(&cid).await?;
    let name = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let bytes = match (&level, archive, &node) {
        (Some(_), false, Node::File { .. }) => content.cat(cid, 0, None).await?.bytes,
        _ => content.tar(cid, name),
    };
    let (bytes, kind) = match level {
        None => (bytes, "application/x-tar"),
        Some(level) => (gzip(bytes, level).boxed(), "application/gzip"),
    };
    let bytes = bytes.map(move |bytes| {
        let _held = &permit;
        bytes
    });
    let mut answer = answer(Body::from_stream(bytes), kind);
    if let Node::File { bytes, .. } = node {
        with(&mut answer, "x-content-length", &bytes.to_string());
    }
    with(&mut answer, "x-stream-output", "1");
    Ok(answer)
}

fn gzip(bytes: ByteStream, level: Compression) -> impl Stream<Item = Result<Bytes, ContentError>> + Send {
    try_stream! {
        let mut encoder = GzEncoder::new(Vec::new(), level);
        let failed = |error: std::io::Error| ContentError::Failed(error.to_string());
        let mut bytes = bytes;
        while let Some(piece) = bytes.next().await {
            encoder.write_all(&piece?).map_err(failed)?;
            let made = std::mem::take(encoder.get_mut());
            if !made.is_empty() {
                yield Bytes::from(made);
            }
        }
        yield Bytes::from(encoder.finish().map_err(failed)?);
    }
}

/// Entries of directories, one object for all or one line for each.
pub(super) async fn ls(
    State(rpc): State<Arc<Rpc>>,
    Extension(permit): Extension<Permit>,
    arguments: Arguments,
) -> Result<Response, Failure> {
    let content = rpc.view(&arguments)?;
    argument(&arguments)?;
    let kinds = flag(&arguments, "resolve-type", true)? || flag(&arguments, "size", true)?;
    let mut places = Vec::new();
    for text in all(&arguments, "arg") {
        let cid = paths::block(&content, text).await?;
        let is_directory = matches!(content.node(&cid).await?, Node::Directory { .. });
        places.push((text.to_owned(), cid, is_directory));
    }
    if flag(&arguments, "stream", false)? {
        let lines = try_stream! {
            let _held = permit;
            for (text, cid, is_directory) in places {
                let mut links = links(&content, cid, is_directory, kinds);
                while let Some(link) = links.try_next().await? {
                    yield line(&json!({ "Objects": [{ "Hash": text, "Links": [link] }] }));
                }
            }
        };
        let lines: futures::stream::BoxStream<'static, Result<Bytes, ContentError>> = Box::pin(lines);
        return Ok(chunked(Body::from_stream(lines)));
    }
    let (mut objects, mut count) = (Vec::new(), 0);
    for (text, cid, is_directory) in places {
        let mut found = Vec::new();
        let mut links = links(&content, cid, is_directory, kinds);
        while let Some(link) = links.try_next().await? {
            count += 1;
            if count > ENTRIES_MAX {
                return Err(Failure::normal(
                    "there are more than 100000 entries: ask with stream=true",
                ));
            }
            found.push(link);
        }
        found.sort_by(|a, b| a["Name"].as_str().cmp(&b["Name"].as_str()));
        objects.push(json!({ "Hash": text, "Links": found }));
    }
    Ok(Json(json!({ "Objects": objects })).into_response())
}

/// What stands in a directory; of a file nothing.
fn links(
    content: &Content,
    cid: Cid,
    is_directory: bool,
    kinds: bool,
) -> futures::stream::BoxStream<'static, Result<Value, ContentError>> {
    if !is_directory {
        return futures::stream::empty().boxed();
    }
    let entries = content.list(cid);
    let content = content.clone();
    let looked_up = entries.map(move |entry| {
        let content = content.clone();
        async move { link(&content, entry?, kinds).await }
    });
    looked_up.buffered(KINDS_AT_ONCE).boxed()
}

async fn link(content: &Content, entry: DirectoryEntry, kinds: bool) -> Result<Value, ContentError> {
    let mut link = json!({
        "Name": String::from_utf8_lossy(&entry.name),
        "Hash": entry.cid.to_string(),
        "Size": entry.tsize,
        "Type": 0,
        "Target": "",
    });
    let metadata = match entry.cid.codec() {
        // A chunk by itself: nothing of it needs to be read.
        RAW => {
            link["Type"] = FILE.into();
            return Ok(link);
        }
        _ if !kinds => return Ok(link),
        _ => match content.node(&entry.cid).await? {
            Node::File { bytes, metadata } => {
                link["Type"] = FILE.into();
                link["Size"] = bytes.into();
                metadata
            }
            Node::Directory { metadata, .. } => {
                link["Type"] = DIRECTORY.into();
                link["Size"] = 0.into();
                metadata
            }
            Node::Symlink { target, metadata } => {
                link["Type"] = SYMLINK.into();
                link["Target"] = String::from_utf8_lossy(&target).into();
                metadata
            }
        },
    };
    if let Some(mode) = metadata.mode {
        link["Mode"] = mode.into();
    }
    if let Some(mtime) = metadata.mtime {
        // Go's JSON of a time.
        link["ModTime"] = rfc3339(mtime.seconds, mtime.nanos).into();
    }
    Ok(link)
}

/// A time in RFC 3339; the year 1, which is Go's zero, for what no such time can tell.
fn rfc3339(seconds: i64, nanos: u32) -> String {
    let millis = u64::try_from(seconds)
        .ok()
        .and_then(|seconds| seconds.checked_mul(1000));
    match millis {
        Some(millis) if seconds < 253_402_300_800 => {
            let whole = cluster_http::time::rfc3339(node_core::Timestamp::from_millis(millis));
            match nanos {
                0 => whole,
                nanos => format!("{}.{nanos:09}Z", whole.trim_end_matches('Z')),
            }
        }
        _ => cluster_http::time::ZERO.to_owned(),
    }
}

/// The links of blocks, and with `recursive` those of the blocks below them.
pub(super) async fn refs(
    State(rpc): State<Arc<Rpc>>,
    Extension(permit): Extension<Permit>,
    arguments: Arguments,
) -> Result<Response, Failure> {
    let content = rpc.view(&arguments)?;
    let recursive = flag(&arguments, "recursive", false)?;
    let unique = flag(&arguments, "unique", false)?;
    let edges = flag(&arguments, "edges", false)?;
    let format = value(&arguments, "format").filter(|format| *format != "<dst>" && !format.is_empty());
    let format = match (edges, format) {
        (true, Some(_)) => return Err(Failure::client("using format argument with edges is not allowed")),
        (true, None) => "<src> -> <dst>".to_owned(),
        (false, format) => format.unwrap_or("<dst>").to_owned(),
    };
    let depth_max = match value(&arguments, "max-depth") {
        None | Some("" | "-1") if recursive => usize::MAX,
        None | Some(_) if !recursive => 1,
        Some(text) => text
            .parse()
            .map_err(|_| Failure::client(format!("max-depth is a number, and no {text:?}")))?,
        None => usize::MAX,
    };
    let roots = roots(&content, &arguments).await?;
    let lines = try_stream! {
        let _held = permit;
        let mut seen = HashSet::new();
        for root in roots {
            let mut open = vec![(root, 0)];
            while let Some((from, depth)) = open.pop() {
                if depth >= depth_max {
                    continue;
                }
                let links = content.block(&from).await?.links()?;
                for to in links.iter().rev() {
                    if depth + 1 < depth_max && open.len() < LINKS_MAX && to.codec() != RAW {
                        open.push((*to, depth + 1));
                    }
                }
                for to in links {
                    if unique && !seen.insert(to) {
                        continue;
                    }
                    if seen.len() > LINKS_MAX {
                        Err(ContentError::Failed("there are more links than are told apart: leave out unique".into()))?;
                    }
                    let told = format.replace("<src>", &from.to_string()).replace("<dst>", &to.to_string());
                    yield line(&json!({ "Ref": told.replace("<linkname>", ""), "Err": "" }));
                }
            }
        }
    };
    let lines: futures::stream::BoxStream<'static, Result<Bytes, ContentError>> = Box::pin(lines);
    Ok(chunked(Body::from_stream(lines)))
}

pub(super) async fn resolve(State(rpc): State<Arc<Rpc>>, arguments: Arguments) -> Result<Json<Value>, Failure> {
    let content = rpc.view(&arguments)?;
    let place = paths::follow(&content, argument(&arguments)?).await?;
    let mut path = format!("/ipfs/{}", place.cid);
    for name in place.rest {
        path.push('/');
        path.push_str(&name);
    }
    Ok(Json(json!({ "Path": path })))
}

fn with(answer: &mut Response, name: &'static str, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        answer.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

pub(super) fn answer(body: Body, kind: &'static str) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Lines of JSON.
pub(super) fn chunked(body: Body) -> Response {
    let mut response = answer(body, "application/json");
    with(&mut response, "x-chunked-output", "1");
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_go_tells_them() {
        assert_eq!(rfc3339(1_700_000_000, 0), "2023-11-14T22:13:20Z");
        assert_eq!(rfc3339(1_700_000_000, 5), "2023-11-14T22:13:20.000000005Z");
        for seconds in [-1, i64::MAX] {
            assert_eq!(rfc3339(seconds, 0), "0001-01-01T00:00:00Z");
        }
    }
}
