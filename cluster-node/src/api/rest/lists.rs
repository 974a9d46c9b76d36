//! Lists: one object a line as they are found, or a page.
//!
//! Lists come from the indexes in their order, chunk by chunk, and nothing is collected but a page. One that is read slowly is
//! begun anew behind what was read, so that it holds a snapshot for a bounded time; it then shows what is there by then. In the order by CID a CID
//! that has several pins in the namespace comes once.

use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use axum::extract::State;
use axum::response::IntoResponse as _;
use cluster_http::{Failure, ndjson, ndjson_pieces, pieces};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use http::{HeaderName, HeaderValue, header};
use node_core::{Cid, Status};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::narrowed::Narrowed;
use super::options::{given, read_cid};
use super::pin_info::GlobalPinInfo;
use super::tracker::Filter;
use super::types::Pin;
use super::{Answer, Call, Rest};
use crate::api::failure::failure;
use crate::service::{Error, ListRequest, PinView, ShowRequest, Shown, ShownChunk, WAIT_DEFAULT};

/// Where the next page begins; absent when there is none.
pub const NEXT_CURSOR: HeaderName = HeaderName::from_static("x-next-cursor");

/// CIDs that are looked up side by side for one answer. Look-ups that wait for the same peer share a call to it.
const LOOK_UPS: usize = 32;

/// How long a list waits to see all that was acknowledged before. It then shows what this peer knows: a list without a
/// majority is better than none.
const FRESH_WITHIN: Duration = Duration::from_secs(2);

/// Bytes after which a page ends early: what is known of a thousand pins is mostly a fraction of it. The item that reaches it
/// is whole.
const PAGE_BYTES: usize = 4 << 20;

/// Pages at once that may be larger than [`SMALL_PAGE_BYTES`], from when they are to when their client has taken them: 32 MiB.
/// Where all of these places are taken, as by clients that read slowly, a page ends early as a large one does; its reader
/// goes on from its cursor.
pub const LARGE_PAGES_MAX: usize = 8;

/// Bytes that a page may have without such a place. One for each of `requests_max` are 64 MiB.
const SMALL_PAGE_BYTES: usize = 64 << 10;

/// The words of `filter` on `GET /allocations`.
const TYPES: [&str; 5] = ["pin", "meta-pin", "clusterdag-pin", "shard-pin", "all"];

/// A piece of a list.
struct Piece<T> {
    /// What is shown.
    items: Vec<T>,
    /// How much of the limit it took; fewer are shown when some did not pass.
    used: u64,
    /// Where to go on.
    cursor: String,
    /// Where to go on behind each item; empty where only the end of the piece is a place, and of a list that is no page.
    behind: Vec<String>,
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
    let places = rest.large_pages.clone();
    if narrowed.states.is_all() {
        let list = move |cursor, limit| rest.listed(&call, &narrowed, cursor, limit);
        return answer(&places, list, limit, cursor).await;
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
    answer(&places, list, limit, cursor).await
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
    let places = rest.large_pages.clone();
    let list = move |cursor, limit| {
        let view = view.clone();
        let make = move |shown| GlobalPinInfo::of(&view, shown, states);
        rest.shown(&call, &narrowed, states, cursor, limit, local, make)
    };
    answer(&places, list, limit, cursor).await
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
        let is_paged = limit > 0;
        let mut request = ListRequest { filter, limit, cursor };
        let (pins, members) = (self.pins.clone(), self.pins.members());
        Ok(Box::pin(try_stream! {
            let mut chunks = pins.list(request.clone(), false, WAIT_DEFAULT).await.map_err(failure)?;
            let mut last = None;
            while let Some(chunk) = chunks.next().await {
                if goes_on(&chunk, is_paged) {
                    chunks = pins.list(request.clone(), false, WAIT_DEFAULT).await.map_err(failure)?;
                    continue;
                }
                let chunk = chunk.map_err(failure)?;
                request.cursor.clone_from(&chunk.cursor);
                let used = chunk.pins.len() as u64;
                let mut items = Vec::with_capacity(chunk.pins.len());
                let mut behind = Vec::new();
                for (position, view) in chunk.pins.iter().enumerate() {
                    let is_another = last.replace(view.pin.key.cid) != Some(view.pin.key.cid);
                    if is_another {
                        items.push(Pin::of(view, &members));
                    }
                    if is_paged {
                        // Behind all pins of a CID: it comes once.
                        let place = chunk.cursor_behind(position);
                        match behind.last_mut().filter(|_| !is_another) {
                            Some(before) => *before = place,
                            None if is_another => behind.push(place),
                            None => {}
                        }
                    }
                }
                yield Piece { items, used, cursor: chunk.cursor, behind };
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
        let is_paged = limit > 0;
        let mut request = ShowRequest {
            namespace: call.namespace().clone(),
            filter: narrowed.filter.clone(),
            statuses,
            limit,
            cursor,
            local,
            leaving: call.sees_leaving(),
        };
        let pins = self.pins.clone();
        let mut chunks = pins.shown(request.clone()).map_err(failure)?.boxed();
        Ok(Box::pin(try_stream! {
            while let Some(chunk) = chunks.next().await {
                if goes_on(&chunk, is_paged) {
                    chunks = pins.shown(request.clone()).map_err(failure)?.boxed();
                    continue;
                }
                let mut chunk = chunk.map_err(failure)?;
                request.cursor.clone_from(&chunk.cursor);
                let rows = std::mem::take(&mut chunk.rows);
                let mut behind = Vec::new();
                let items = rows.into_iter().filter_map(|row| {
                    let cid = row.status.cid;
                    let item = make(row)?;
                    if is_paged {
                        behind.extend(chunk.cursor_behind(&cid));
                    }
                    Some(item)
                });
                let items = items.collect();
                let ShownChunk { used, cursor, .. } = chunk;
                yield Piece { items, used, cursor, behind };
            }
        }))
    }
}

/// Whether a list that was given up is begun anew behind what came of it: its reader took nothing for as long as it may hold
/// a snapshot, and yet the connection says that it reads. Whoever does not read at all is ended by `stall_timeout`. A page is
/// collected without its reader.
fn goes_on<T>(chunk: &Result<T, Error>, is_paged: bool) -> bool {
    matches!(chunk, Err(Error::ClientTooSlow { .. })) && !is_paged
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
    places: &Arc<Semaphore>,
    mut list: impl FnMut(String, u64) -> Result<Pieces<T>, Failure>,
    limit: Option<u64>,
    cursor: String,
) -> Answer {
    let Some(limit) = limit else {
        return Ok(ndjson_pieces(list(cursor, 0)?.map_ok(|piece| piece.items)).await);
    };
    let mut page = page(places, list, limit, cursor).await?;
    page.shrink();
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut answer = ([content_type], pieces(page.lines, page.place)).into_response();
    // Hexadecimal digits always fit into a header.
    if let Some(next) = page.next.and_then(|next| HeaderValue::try_from(next).ok()) {
        answer.headers_mut().insert(NEXT_CURSOR, next);
    }
    Ok(answer)
}

/// A page.
struct Page {
    /// One object a line, in pieces of about [`SMALL_PAGE_BYTES`], so that a client which has taken most of it holds little.
    lines: Vec<Vec<u8>>,
    bytes: usize,
    count: u64,
    /// No more is to be written.
    is_full: bool,
    /// Where the next one begins.
    next: Option<String>,
    /// Among those that may be large.
    place: Option<OwnedSemaphorePermit>,
    places: Arc<Semaphore>,
}

/// What a page held before a piece was written to it.
struct Mark {
    pieces: usize,
    /// Bytes of the last of them.
    within: usize,
    bytes: usize,
    count: u64,
}

impl Page {
    fn new(places: &Arc<Semaphore>) -> Self {
        Self {
            lines: Vec::new(),
            bytes: 0,
            count: 0,
            is_full: false,
            next: None,
            place: None,
            places: places.clone(),
        }
    }

    /// Writes items until there are so many or the page is full, one at least, and answers how many of them.
    fn write<T: Serialize>(&mut self, items: &[T], limit: u64) -> Result<usize, Failure> {
        let mut written = 0;
        for item in items {
            if self.is_full || self.count >= limit {
                break;
            }
            if self.lines.last().is_none_or(|piece| piece.len() >= SMALL_PAGE_BYTES) {
                self.shrink();
                self.lines.push(Vec::new());
            }
            if let Some(piece) = self.lines.last_mut() {
                let before = piece.len();
                let line = serde_json::to_writer(&mut *piece, item);
                line.map_err(|error| failure(Error::Internal(error.to_string())))?;
                piece.push(b'\n');
                self.bytes += piece.len() - before;
            }
            self.count += 1;
            written += 1;
            self.is_full = self.bytes >= PAGE_BYTES || (self.bytes >= SMALL_PAGE_BYTES && !self.may_be_large());
        }
        Ok(written)
    }

    /// Nobody waits for a place: those who have one keep it as long as their clients like.
    fn may_be_large(&mut self) -> bool {
        if self.place.is_none() {
            self.place = self.places.clone().try_acquire_owned().ok();
        }
        self.place.is_some()
    }

    /// Lets go what a piece took to grow: as much as it holds, at worst.
    fn shrink(&mut self) {
        if let Some(piece) = self.lines.last_mut() {
            piece.shrink_to_fit();
        }
    }

    fn mark(&self) -> Mark {
        Mark {
            pieces: self.lines.len(),
            within: self.lines.last().map_or(0, Vec::len),
            bytes: self.bytes,
            count: self.count,
        }
    }

    fn back_to(&mut self, mark: &Mark) {
        self.lines.truncate(mark.pieces);
        if let Some(piece) = self.lines.last_mut() {
            piece.truncate(mark.within);
        }
        (self.bytes, self.count, self.is_full) = (mark.bytes, mark.count, false);
    }

    fn with_next(mut self, next: String) -> Self {
        self.next = Some(next);
        self
    }
}

/// Collects a page. Whatever does not pass is made up for, until the list has ended or the page is full. The next one begins
/// behind the last item that was written, wherever in a piece of the list that is.
async fn page<T: Serialize + Send + 'static>(
    places: &Arc<Semaphore>,
    mut list: impl FnMut(String, u64) -> Result<Pieces<T>, Failure>,
    limit: u64,
    mut cursor: String,
) -> Result<Page, Failure> {
    let mut page = Page::new(places);
    // Fewer than are asked for, once it is known that more do not fit.
    let mut most = limit;
    'asked: loop {
        let wanted = most.min(limit - page.count);
        let mut pieces = list(cursor.clone(), wanted)?;
        let mut used = 0;
        while let Some(piece) = pieces.try_next().await? {
            used += piece.used;
            let mark = page.mark();
            let written = page.write(&piece.items, limit)?;
            if written == piece.items.len() {
                cursor = piece.cursor;
                if page.is_full || page.count >= limit {
                    return Ok(page.with_next(cursor));
                }
                continue;
            }
            if let Some(place) = piece.behind.into_iter().nth(written.saturating_sub(1)) {
                return Ok(page.with_next(place));
            }
            // Only the end of a piece is a place: this one is left to the next page, or asked for shorter.
            page.back_to(&mark);
            if page.count > 0 {
                return Ok(page.with_next(cursor));
            }
            most = (written as u64).max(1);
            continue 'asked;
        }
        if used < wanted {
            return Ok(page);
        }
        if page.count >= limit || (most < limit && page.count > 0) {
            return Ok(page.with_next(cursor));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(count: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(count))
    }

    fn text(page: &Page) -> String {
        String::from_utf8(page.lines.concat()).expect("text")
    }

    /// Numbers from 0 to 99, of which the odd ones do not pass.
    fn numbers(cursor: String, limit: u64) -> Result<Pieces<u64>, Failure> {
        let from = cursor.parse().unwrap_or(0);
        let end = (from + limit).min(100);
        let pieces = (from..end).step_by(7).map(move |start| {
            let numbers = start..(start + 7).min(end);
            Ok(Piece {
                used: numbers.end - numbers.start,
                cursor: numbers.end.to_string(),
                items: numbers.filter(|number| number % 2 == 0).collect(),
                behind: Vec::new(),
            })
        });
        Ok(futures::stream::iter(pieces.collect::<Vec<_>>()).boxed())
    }

    /// The same of a list that goes through everything, whatever the limit.
    fn through(cursor: String, _: u64) -> Result<Pieces<u64>, Failure> {
        let from = cursor.parse().unwrap_or(0);
        let pieces = (from..100).step_by(7).map(move |start| {
            let numbers = start..(start + 7).min(100);
            let even = || numbers.clone().filter(|number| number % 2 == 0);
            Ok(Piece {
                used: 0,
                cursor: numbers.end.to_string(),
                items: even().collect(),
                behind: even().map(|number| (number + 1).to_string()).collect(),
            })
        });
        Ok(futures::stream::iter(pieces.collect::<Vec<_>>()).boxed())
    }

    #[tokio::test]
    async fn pages_hold_what_passes_and_lead_to_the_end() {
        type List = fn(String, u64) -> Result<Pieces<u64>, Failure>;
        let kinds: [(List, bool); 2] = [(numbers, false), (through, true)];
        for (kind, goes_through_all) in kinds {
            for limit in [1, 3, 7, 50, 1_000] {
                let (mut seen, mut cursor, mut asked) = (Vec::new(), String::new(), 0);
                loop {
                    let list = |cursor, limit| {
                        asked += 1;
                        kind(cursor, limit)
                    };
                    let page = page(&places(1), list, limit, cursor).await.expect("a page");
                    assert!(page.count <= limit);
                    assert!(
                        page.next.is_none() || page.count == limit,
                        "a page that is not the last is full"
                    );
                    seen.extend(text(&page).lines().map(|line| line.parse::<u64>().expect("a number")));
                    match page.next {
                        Some(next) => cursor = next,
                        None => break,
                    }
                }
                assert_eq!(seen, (0..100).step_by(2).collect::<Vec<_>>(), "pages of {limit}");
                // What goes through everything is begun once a page.
                let pages = 50 / limit + 1;
                assert!(!goes_through_all || asked <= pages, "{asked} for pages of {limit}");
            }
        }
    }

    /// Large items in pieces of 20, with a place behind each or none.
    fn large(has_places: bool) -> impl Fn(String, u64) -> Result<Pieces<String>, Failure> {
        const COUNT: u64 = 100;
        move |cursor, limit| {
            let from: u64 = cursor.parse().unwrap_or(0);
            let end = (from + limit).min(COUNT);
            let pieces = (from..end).step_by(20).map(move |start| {
                let numbers = start..(start + 20).min(end);
                let behind = numbers.clone().map(|number| (number + 1).to_string());
                Ok(Piece {
                    used: numbers.end - numbers.start,
                    cursor: numbers.end.to_string(),
                    items: numbers
                        .clone()
                        .map(|number| "0".repeat(200_000) + &number.to_string())
                        .collect(),
                    behind: behind.filter(|_| has_places).collect(),
                })
            });
            Ok(futures::stream::iter(pieces.collect::<Vec<_>>()).boxed())
        }
    }

    #[tokio::test]
    async fn a_page_ends_with_the_item_that_fills_it_and_the_next_begins_behind_that() {
        for has_places in [true, false] {
            for free in [1, 0] {
                let most = if free == 1 { PAGE_BYTES } else { SMALL_PAGE_BYTES } + 200_005;
                let (mut seen, mut cursor) = (Vec::new(), String::new());
                loop {
                    let page = page(&places(free), large(has_places), 1_000, cursor)
                        .await
                        .expect("a page");
                    let text = text(&page);
                    assert!(text.len() <= most, "{} bytes", text.len());
                    assert_eq!(page.bytes, text.len());
                    assert_eq!(page.place.is_some(), free == 1 && text.len() >= SMALL_PAGE_BYTES);
                    seen.extend(
                        text.lines()
                            .map(|line| line.trim_matches('"').parse::<u64>().expect("a number")),
                    );
                    match page.next {
                        Some(next) => cursor = next,
                        None => break,
                    }
                }
                assert_eq!(seen, (0..100).collect::<Vec<_>>());
            }
        }
    }
}
