//! Lists: one object a line as they are found, or a page.
//!
//! Lists come from the indexes in their order, chunk by chunk, and nothing is collected but a page. In the order by CID a CID
//! that has several pins in the namespace comes once.

use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use axum::extract::State;
use axum::response::IntoResponse as _;
use cluster_http::{Failure, ndjson, ndjson_pieces};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use http::{HeaderName, HeaderValue, header};
use node_core::{Cid, Status};
use serde::Serialize;

use super::narrowed::Narrowed;
use super::options::{given, read_cid};
use super::pin_info::GlobalPinInfo;
use super::tracker::Filter;
use super::types::Pin;
use super::{Answer, Call, Rest};
use crate::api::failure::failure;
use crate::service::{Error, ListRequest, PinView, ShowRequest, Shown, WAIT_DEFAULT};

/// Where the next page begins; absent when there is none.
pub const NEXT_CURSOR: HeaderName = HeaderName::from_static("x-next-cursor");

/// CIDs that are looked up side by side for one answer. Look-ups that wait for the same peer share a call to it.
const LOOK_UPS: usize = 32;

/// How long a list waits to see all that was acknowledged before. It then shows what this peer knows: a list without a
/// majority is better than none.
const FRESH_WITHIN: Duration = Duration::from_secs(2);

/// Bytes after which a page ends early, about: what is known of a thousand pins is mostly a fraction of it.
const PAGE_BYTES: usize = 4 << 20;

/// The words of `filter` on `GET /allocations`.
const TYPES: [&str; 5] = ["pin", "meta-pin", "clusterdag-pin", "shard-pin", "all"];

/// A piece of a list.
struct Piece<T> {
    /// What is shown.
    items: Vec<T>,
    /// How many were found for it; fewer are shown when some did not pass.
    found: u64,
    /// Where to go on.
    cursor: String,
}

type Pieces<T> = BoxStream<'static, Result<Piece<T>, Failure>>;

/// `GET /allocations`
pub async fn allocations(State(rest): State<Arc<Rest>>, call: Call) -> Answer {
    let types = call.query.get("filter").unwrap_or("all");
    let types: Vec<&str> = types.split(',').filter(|word| TYPES.contains(word)).collect();
    if types.is_empty() {
        return Err(Failure::bad("invalid filter value"));
    }
    let narrowed = Narrowed::read(&call.query, &rest.pins.members())?;
    // There are no pins of the other types.
    if narrowed.is_empty || !types.iter().any(|word| matches!(*word, "pin" | "all")) {
        return none::<Pin>().await;
    }
    rest.freshen().await;
    let (limit, cursor) = (narrowed.limit, narrowed.cursor.clone());
    if narrowed.states.is_all() {
        let list = move |cursor, limit| rest.listed(&call, &narrowed, cursor, limit);
        return answer(list, limit, cursor).await;
    }
    let view = rest.view(false).await;
    let list = move |cursor, limit| {
        let states = narrowed.states;
        let view = view.clone();
        rest.shown(&call, &narrowed, states, cursor, limit, false, move |shown| {
            let pin = shown.pin.clone()?;
            let placement = shown.status.placement.clone();
            GlobalPinInfo::of(&view, shown, states)?;
            Some(Pin::of(&PinView { pin, placement }, &view.members))
        })
    };
    answer(list, limit, cursor).await
}

/// `GET /pins`
pub async fn statuses(State(rest): State<Arc<Rest>>, call: Call) -> Answer {
    let local = call.is_local()?;
    let cids: Vec<Cid> = given(&call.query, "cids").map(read_cid).collect::<Result<_, _>>()?;
    if !cids.is_empty() {
        let found = futures::stream::iter(cids).map(move |cid| {
            let (rest, call) = (rest.clone(), call.clone());
            async move { rest.status(&call, cid, local).await }
        });
        return Ok(ndjson(found.buffered(LOOK_UPS)).await);
    }
    let narrowed = Narrowed::read(&call.query, &rest.pins.members())?;
    let filter = call.query.get("filter").map(Filter::read).transpose()?;
    let states = narrowed.states.and(filter.unwrap_or_default());
    if narrowed.is_empty {
        return none::<GlobalPinInfo>().await;
    }
    rest.freshen().await;
    let view = rest.view(local).await;
    let (limit, cursor) = (narrowed.limit, narrowed.cursor.clone());
    let list = move |cursor, limit| {
        let view = view.clone();
        let make = move |shown| GlobalPinInfo::of(&view, shown, states);
        rest.shown(&call, &narrowed, states, cursor, limit, local, make)
    };
    answer(list, limit, cursor).await
}

/// `POST /pins/recover`
pub async fn recover(State(rest): State<Arc<Rest>>, call: Call) -> Answer {
    let local = call.is_local()?;
    let narrowed = Narrowed::read(&call.query, &rest.pins.members())?;
    if narrowed.is_empty {
        return none::<GlobalPinInfo>().await;
    }
    rest.freshen().await;
    let states = Filter::read("pin_error,unpin_error")?;
    let view = rest.view(local).await;
    let failed = rest.shown(&call, &narrowed, states, String::new(), 0, local, move |shown| {
        let cid = shown.status.cid;
        GlobalPinInfo::of(&view, shown, states).map(|_| cid)
    })?;
    let recovered = flat(failed).map(move |cid| {
        let (rest, call) = (rest.clone(), call.clone());
        async move {
            let cid = cid?;
            // What came right by itself in between is not told of.
            match rest.pins.recover_cid(cid, local).await.map_err(failure)? {
                0 => Ok(None),
                _ => rest.status(&call, cid, local).await.map(Some),
            }
        }
    });
    let recovered = recovered.buffered(LOOK_UPS);
    Ok(ndjson(recovered.try_filter_map(|info| std::future::ready(Ok(info)))).await)
}

impl Rest {
    /// Waits a moment for all that was acknowledged before.
    async fn freshen(&self) {
        if let Err(error) = self.pins.reads.linearizable(FRESH_WITHIN).await {
            tracing::debug!(%error, "a list shows what this peer knows");
        }
    }

    /// Pins as recorded.
    fn listed(&self, call: &Call, narrowed: &Narrowed, cursor: String, limit: u64) -> Result<Pieces<Pin>, Failure> {
        let mut filter = narrowed.filter.clone();
        filter.namespace = Some(call.namespace().clone());
        let request = ListRequest { filter, limit, cursor };
        let (pins, members) = (self.pins.clone(), self.pins.members());
        Ok(Box::pin(try_stream! {
            let mut chunks = pins.list(request, false, WAIT_DEFAULT).await.map_err(failure)?;
            let mut last = None;
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(failure)?;
                let found = chunk.pins.len() as u64;
                let mut items = Vec::with_capacity(chunk.pins.len());
                for view in &chunk.pins {
                    if last.replace(view.pin.key.cid) != Some(view.pin.key.cid) {
                        items.push(Pin::of(view, &members));
                    }
                }
                yield Piece { items, found, cursor: chunk.cursor };
            }
        }))
    }

    /// What `make` shows of CIDs with their statuses.
    #[allow(clippy::too_many_arguments)]
    fn shown<T: Send + 'static>(
        &self,
        call: &Call,
        narrowed: &Narrowed,
        states: Filter,
        cursor: String,
        limit: u64,
        local: bool,
        make: impl Fn(Shown) -> Option<T> + Send + 'static,
    ) -> Result<Pieces<T>, Failure> {
        let statuses: Vec<Status> = match states.statuses() {
            // No node is ever in such a state.
            Some(statuses) if statuses.is_empty() => return Ok(futures::stream::empty().boxed()),
            statuses => statuses.unwrap_or_default(),
        };
        let request = ShowRequest {
            namespace: call.namespace().clone(),
            filter: narrowed.filter.clone(),
            statuses,
            limit,
            cursor,
            local,
            leaving: call.sees_leaving(),
        };
        let chunks = self.pins.shown(request).map_err(failure)?;
        let pieces = chunks.map(move |chunk| {
            let chunk = chunk.map_err(failure)?;
            Ok(Piece {
                items: chunk.rows.into_iter().filter_map(&make).collect(),
                found: chunk.found,
                cursor: chunk.cursor,
            })
        });
        Ok(pieces.boxed())
    }
}

/// An empty list.
async fn none<T: Serialize + Send + 'static>() -> Answer {
    Ok(ndjson(futures::stream::empty::<Result<T, Failure>>()).await)
}

fn flat<T: Send + 'static>(pieces: Pieces<T>) -> impl Stream<Item = Result<T, Failure>> + Send + 'static {
    pieces
        .map_ok(|piece| futures::stream::iter(piece.items.into_iter().map(Ok)))
        .try_flatten()
}

/// The whole list as it comes, or a page of it.
async fn answer<T: Serialize + Send + 'static>(
    mut list: impl FnMut(String, u64) -> Result<Pieces<T>, Failure>,
    limit: Option<u64>,
    cursor: String,
) -> Answer {
    let Some(limit) = limit else {
        return Ok(ndjson_pieces(list(cursor, 0)?.map_ok(|piece| piece.items)).await);
    };
    let page = page(list, limit, cursor).await?;
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut answer = ([content_type], page.lines).into_response();
    // Hexadecimal digits always fit into a header.
    if let Some(next) = page.next.and_then(|next| HeaderValue::try_from(next).ok()) {
        answer.headers_mut().insert(NEXT_CURSOR, next);
    }
    Ok(answer)
}

/// A page.
#[derive(Default)]
struct Page {
    /// One object a line.
    lines: Vec<u8>,
    count: u64,
    /// Where the next one begins.
    next: Option<String>,
}

/// Collects a page. Whatever does not pass is made up for, until the list has ended or the page is large.
async fn page<T: Serialize + Send + 'static>(
    mut list: impl FnMut(String, u64) -> Result<Pieces<T>, Failure>,
    limit: u64,
    mut cursor: String,
) -> Result<Page, Failure> {
    let mut page = Page::default();
    loop {
        let wanted = limit - page.count;
        let mut pieces = list(cursor.clone(), wanted)?;
        let mut found = 0;
        while let Some(piece) = pieces.try_next().await? {
            found += piece.found;
            cursor = piece.cursor;
            for item in &piece.items {
                let written = serde_json::to_writer(&mut page.lines, item);
                written.map_err(|error| failure(Error::Internal(error.to_string())))?;
                page.lines.push(b'\n');
                page.count += 1;
            }
            if page.lines.len() >= PAGE_BYTES {
                page.next = Some(cursor);
                return Ok(page);
            }
        }
        if found < wanted {
            return Ok(page);
        }
        if page.count >= limit {
            page.next = Some(cursor);
            return Ok(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers from 0 to 99, of which the odd ones do not pass.
    fn numbers(cursor: String, limit: u64) -> Result<Pieces<u64>, Failure> {
        let from = cursor.parse().unwrap_or(0);
        let end = (from + limit).min(100);
        let pieces = (from..end).step_by(7).map(move |start| {
            let numbers = start..(start + 7).min(end);
            Ok(Piece {
                found: numbers.end - numbers.start,
                cursor: numbers.end.to_string(),
                items: numbers.filter(|number| number % 2 == 0).collect(),
            })
        });
        Ok(futures::stream::iter(pieces.collect::<Vec<_>>()).boxed())
    }

    #[tokio::test]
    async fn pages_hold_what_passes_and_lead_to_the_end() {
        for limit in [1, 3, 7, 50, 1_000] {
            let (mut seen, mut cursor) = (Vec::new(), String::new());
            loop {
                let Page { lines, count, next } = page(numbers, limit, cursor).await.expect("a page");
                assert!(count <= limit);
                assert!(next.is_none() || count == limit, "a page that is not the last is full");
                let lines = String::from_utf8(lines).expect("text");
                seen.extend(lines.lines().map(|line| line.parse::<u64>().expect("a number")));
                match next {
                    Some(next) => cursor = next,
                    None => break,
                }
            }
            assert_eq!(seen, (0..100).step_by(2).collect::<Vec<_>>(), "pages of {limit}");
        }
    }
}
