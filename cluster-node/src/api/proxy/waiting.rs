//! Waiting for pins until enough nodes hold them.

use std::time::Duration;

use async_stream::try_stream;
use axum::response::Response;
use cluster_http::{Failure, json, ndjson};
use futures::{Stream, StreamExt as _};
use node_core::{Cid, Status};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::pins::Pinned;
use super::{Arc, Proxy};
use crate::api::failure::failure;
use crate::service::{StatusView, WAIT_DEFAULT};

/// How often it is looked at first, as often as Kubo tells of progress.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often later: each look asks the peers in question, and what takes minutes is not told by the half second.
const LOOK_EVERY_LATER: Duration = Duration::from_secs(2);

/// Looks until then.
const LATER: u32 = 20;

/// A line.
#[derive(Serialize)]
#[serde(untagged)]
enum Line {
    /// Blocks and bytes that the nodes have fetched.
    #[serde(rename_all = "PascalCase")]
    Progress {
        progress: u64,
        bytes: u64,
    },
    Pinned(Pinned),
}

/// A place among those who wait.
pub fn place(proxy: &Proxy) -> Result<OwnedSemaphorePermit, Failure> {
    let place = proxy.waits.clone().try_acquire_owned();
    place.map_err(|_| {
        Failure::busy(
            "too many calls wait for pins at this peer; ask without progress",
            LOOK_EVERY,
        )
    })
}

/// Lines of progress until all are held.
pub async fn told(proxy: Arc<Proxy>, cids: Vec<Cid>, place: OwnedSemaphorePermit) -> Response {
    let mut response = ndjson(lines(proxy, cids, place)).await;
    let chunked = http::HeaderName::from_static("x-chunked-output");
    response
        .headers_mut()
        .insert(chunked, http::HeaderValue::from_static("1"));
    response
}

/// One answer when all are held.
pub async fn waited(proxy: &Arc<Proxy>, cids: Vec<Cid>, place: OwnedSemaphorePermit) -> Result<Response, Failure> {
    let answer = json(&Pinned::of(&cids));
    let mut lines = Box::pin(lines(proxy.clone(), cids, place));
    while let Some(line) = lines.next().await {
        line?;
    }
    Ok(answer)
}

fn lines(
    proxy: Arc<Proxy>,
    cids: Vec<Cid>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Line, Failure>> + Send {
    try_stream! {
        let _place = place;
        // What is not there from here on was unpinned.
        proxy.pins.reads.linearizable(WAIT_DEFAULT).await.map_err(failure)?;
        let mut left = cids.clone();
        // Of those that are held already.
        let mut held = (0_u64, 0_u64);
        let mut looks = 0;
        loop {
            let (mut blocks, mut bytes) = held;
            let mut open = Vec::new();
            for cid in left {
                let (is_held, fetched) = look(&proxy, cid).await?;
                blocks += fetched.0;
                bytes += fetched.1;
                match is_held {
                    true => held = (held.0 + fetched.0, held.1 + fetched.1),
                    false => open.push(cid),
                }
            }
            left = open;
            yield Line::Progress { progress: blocks, bytes };
            if left.is_empty() {
                yield Line::Pinned(Pinned::of(&cids));
                break;
            }
            looks += 1;
            sleep(if looks < LATER { LOOK_EVERY } else { LOOK_EVERY_LATER }).await;
        }
    }
}

/// Whether enough nodes hold it, and what all have fetched.
async fn look(proxy: &Proxy, cid: Cid) -> Result<(bool, (u64, u64)), Failure> {
    let status = match proxy.pins.status(cid, false, WAIT_DEFAULT).await {
        Ok(status) => status,
        Err(error) if error.is_not_found() => return Err(unpinned(cid)),
        Err(error) => return Err(failure(error)),
    };
    let fetched = status.entries.iter().fold((0_u64, 0_u64), |(blocks, bytes), entry| {
        (blocks.saturating_add(entry.blocks), bytes.saturating_add(entry.bytes))
    });
    match status.status {
        Status::Pinned => Ok((true, fetched)),
        Status::GaveUp => Err(given_up(&status)),
        Status::Unpinning => Err(unpinned(cid)),
        _ => Ok((false, fetched)),
    }
}

fn unpinned(cid: Cid) -> Failure {
    Failure::internal(format!("{cid} was unpinned meanwhile"))
}

fn given_up(status: &StatusView) -> Failure {
    let why = status.entries.iter().find(|entry| !entry.error.is_empty());
    let why = why.map_or("no reason is known", |entry| entry.error.as_str());
    Failure::internal(format!(
        "{}: the nodes gave up: {why}; `cluster-ctl pin recover` tries again",
        status.cid
    ))
}
