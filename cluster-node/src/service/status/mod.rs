//! Status of many CIDs: what is wanted and what all ledgers say, merged in CID order in bounded memory.
//!
//! ```text
//! placements ─┐
//! pins (names)┤
//! own ledgers ┼─► page by page, up to the smallest CID that every source has reached ─► fold ─► chunk
//! other peers ┘
//! ```
//!
//! No source is read further than a page ahead of the others, whatever the size of the pinset.

mod merge;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use cluster_storage::state::StateDb;
use cluster_worker::Worker;
use node_core::pinset::{self, KvRead, Table};
use node_core::{Cid, Namespace, NodeId, PeerId, PinKey, Status};

use super::gather::{Entries, Gather};
use super::list::{self, LIST_CHUNK_BYTES, ListRequest, PinFilter};
use super::walk::{Walk, make_cursor};
use super::{ChunkSender, Error, NodeNames, PeerDirectory, StatusView};
pub use merge::{FIRST_PAGE, own_page};
use merge::{Found, Merge};

/// Which statuses are wanted.
#[derive(Debug, Clone, Default)]
pub struct StatusAllRequest {
    /// Of the CIDs of these pins.
    pub filter: PinFilter,
    /// That at least one node reports so; empty = all.
    pub statuses: Vec<Status>,
    /// At most so many; 0 = all.
    pub limit: u64,
    /// Behind this place.
    pub cursor: String,
    /// Node and state only.
    pub brief: bool,
    /// How long a silent peer is waited for.
    pub peer_timeout: Duration,
}

/// A piece of the answer.
#[derive(Debug)]
pub struct StatusChunk {
    /// In order.
    pub views: Vec<StatusView>,
    /// Where to go on.
    pub cursor: String,
    /// Nodes whose peer did not answer.
    pub unreachable: Vec<NodeId>,
}

/// Everything a status list reads from.
pub struct Sources {
    /// Wanted.
    pub state: Arc<StateDb>,
    /// Seen here.
    pub worker: Worker,
    /// Seen elsewhere.
    pub directory: Arc<PeerDirectory>,
    /// For look-ups of single CIDs.
    pub gather: Arc<Gather>,
    /// At the time of the call.
    pub names: NodeNames,
}

/// Streams the status of many CIDs into `out`. Blocks: runs on a thread of its own, inside a runtime.
pub fn status_all(sources: &Sources, request: &StatusAllRequest, mut out: ChunkSender<StatusChunk>) {
    let mut emitter = Emitter::new(request, &mut out);
    let result = if !request.filter.is_empty() {
        by_pins(sources, request, &mut emitter)
    } else if is_indexed(&request.statuses) {
        by_state(sources, request, &mut emitter)
    } else {
        merged(sources, request, &mut emitter)
    };
    if let Err(error) = result {
        out.send_blocking(Err(error));
    }
}

/// States that ledgers find by an index. `queued` is not among them: what was not yet looked at is queued too.
fn is_indexed(statuses: &[Status]) -> bool {
    use Status::{GaveUp, Pinning, Retrying, Unpinning, Unplaced};
    !statuses.is_empty()
        && statuses
            .iter()
            .all(|status| matches!(status, GaveUp | Pinning | Retrying | Unplaced | Unpinning))
}

fn passes(view: &StatusView, statuses: &[Status]) -> bool {
    statuses.is_empty()
        || statuses.contains(&view.status)
        || view.entries.iter().any(|entry| statuses.contains(&entry.status))
}

/// About what the status of a CID takes in a message.
fn size_of(view: &StatusView, brief: bool) -> usize {
    /// The CID, its name's frame and numbers.
    const REST: usize = 128;
    /// Of a node: its name, and unless only that is asked for its ID, its peer's, times and numbers.
    const BRIEF: usize = 32;
    const FULL: usize = 160;
    let unplaced = view
        .placement
        .as_ref()
        .and_then(|placement| placement.unplaced.as_ref());
    let texts = view.name.len() + unplaced.map_or(0, String::len);
    let entries = view.entries.iter();
    let entries = entries.map(|entry| if brief { BRIEF } else { FULL + entry.error.len() });
    REST + texts + entries.sum::<usize>()
}

/// Sends views in chunks, up to the limit.
struct Emitter<'a> {
    request: &'a StatusAllRequest,
    out: &'a mut ChunkSender<StatusChunk>,
    left: u64,
    /// Where the last chunk ended.
    cursor: String,
    /// Peers that did not answer.
    silent: BTreeSet<PeerId>,
    /// So many of them were told in a chunk.
    told: usize,
}

impl<'a> Emitter<'a> {
    fn new(request: &'a StatusAllRequest, out: &'a mut ChunkSender<StatusChunk>) -> Self {
        let left = if request.limit == 0 { u64::MAX } else { request.limit };
        Self {
            request,
            out,
            left,
            cursor: request.cursor.clone(),
            silent: BTreeSet::new(),
            told: 0,
        }
    }

    /// Sends what passes; breaks when the limit is reached or nobody listens. `cursor_behind` tells where to go on behind
    /// a view, `end` behind everything that was looked at for these views, whether it passed or not.
    fn send(
        &mut self,
        names: &NodeNames,
        views: Vec<(usize, StatusView)>,
        cursor_behind: impl Fn(usize, &StatusView) -> String,
        end: String,
    ) -> ControlFlow<()> {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        for (position, view) in views {
            if !passes(&view, &self.request.statuses) {
                continue;
            }
            bytes += size_of(&view, self.request.brief);
            self.left -= 1;
            let cursor = (self.left == 0 || bytes >= LIST_CHUNK_BYTES).then(|| cursor_behind(position, &view));
            chunk.push(view);
            if let Some(cursor) = cursor {
                bytes = 0;
                self.emit(names, std::mem::take(&mut chunk), cursor)?;
                if self.left == 0 {
                    return ControlFlow::Break(());
                }
            }
        }
        self.emit(names, chunk, end)
    }

    fn emit(&mut self, names: &NodeNames, views: Vec<StatusView>, cursor: String) -> ControlFlow<()> {
        self.cursor.clone_from(&cursor);
        self.told = self.silent.len();
        let chunk = StatusChunk {
            views,
            cursor,
            unreachable: nodes_of(names, &self.silent),
        };
        if self.out.send_blocking(Ok(chunk)) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }

    /// The last chunk: tells of peers that fell silent after the last one was sent, or nothing was found.
    fn finish(&mut self, names: &NodeNames) {
        if self.silent.len() > self.told {
            let cursor = self.cursor.clone();
            // It was the last one anyhow.
            let _ = self.emit(names, Vec::new(), cursor);
        }
    }
}

fn nodes_of(names: &NodeNames, peers: &BTreeSet<PeerId>) -> Vec<NodeId> {
    names
        .present()
        .filter(|node| peers.contains(&node.peer))
        .map(|node| node.id)
        .collect()
}

/// Looks up CIDs one by one, on all peers but those that are silent. Views carry the position of their CID.
fn look_up(
    sources: &Sources,
    request: &StatusAllRequest,
    cids: &[Cid],
    silent: &mut BTreeSet<PeerId>,
) -> Result<Vec<(usize, StatusView)>, Error> {
    let runtime = tokio::runtime::Handle::current();
    let asked = sources.gather.all(&sources.names, cids, request.peer_timeout, silent);
    let entries: Entries = runtime.block_on(asked)?;
    let everyone = sources.names.everyone();
    let unreachable = nodes_of(&sources.names, silent);
    let mut views = Vec::with_capacity(cids.len());
    for (position, cid) in cids.iter().enumerate() {
        let placement = pinset::placement(&*sources.state, cid)?;
        // A CID may stand in a list twice, each time with another of its pins.
        let rows = entries.get(cid).cloned().unwrap_or_default();
        if placement.is_none() && rows.is_empty() {
            continue;
        }
        let name = name_of(&*sources.state, cid, request.filter.namespace.as_ref())?;
        let is_silent = |node| unreachable.contains(&node);
        let view = StatusView::fold(*cid, name, placement, rows, &everyone, &is_silent);
        views.push((position, view));
    }
    Ok(views)
}

/// The CIDs that ledgers list in some states, and those that lack nodes if that is one of them, in order; at most about
/// `limit`. None: there are more, or a peer does not answer and what its ledger lists is not known.
pub fn cids_in(
    sources: &Sources,
    statuses: &[Status],
    limit: usize,
    timeout: Duration,
) -> Result<Option<Vec<Cid>>, Error> {
    let request = StatusAllRequest {
        statuses: statuses.to_vec(),
        brief: true,
        peer_timeout: timeout,
        ..StatusAllRequest::default()
    };
    let mut merge = Merge::begin(sources, &request, false)?;
    let mut cids = Vec::new();
    while let Some(step) = merge.step()? {
        cids.extend(step.into_iter().map(|found| found.cid));
        if cids.len() > limit {
            return Ok(None);
        }
    }
    Ok(merge.silent.is_empty().then_some(cids))
}

/// The name of the first pin of a CID that has one; in one namespace, where only that is asked about.
pub fn name_of(kv: &dyn KvRead, cid: &Cid, namespace: Option<&Namespace>) -> Result<String, Error> {
    let is_asked_about = |key: &PinKey| namespace.is_none_or(|namespace| key.namespace == *namespace);
    for key in pinset::pins_of(kv, cid)?.into_iter().filter(is_asked_about) {
        if let Some(pin) = pinset::pin(kv, &key)?.filter(|pin| !pin.options.name.is_empty()) {
            return Ok(pin.options.name);
        }
    }
    Ok(String::new())
}

/// The CIDs of the pins that a filter finds, in the order of the list.
fn by_pins(sources: &Sources, request: &StatusAllRequest, emitter: &mut Emitter<'_>) -> Result<(), Error> {
    let listing = ListRequest {
        filter: request.filter.clone(),
        limit: 0,
        cursor: request.cursor.clone(),
    };
    let mut silent = BTreeSet::new();
    let mut failed = None;
    // A list that is resumed knows the CID that it ended with as the whole one does.
    let mut last = Walk::of(&request.filter).cid_at(&request.cursor);
    let mut emit = |chunk: list::ListChunk| {
        // Several pins of one CID lie together in every index by CID; elsewhere a CID may come again, with its pin.
        let mut cids = Vec::with_capacity(chunk.pins.len());
        // The position in the chunk of the last pin of each.
        let mut ends = Vec::with_capacity(chunk.pins.len());
        for (position, view) in chunk.pins.iter().enumerate() {
            let cid = view.pin.key.cid;
            if last == Some(cid) {
                if let Some(end) = ends.last_mut() {
                    *end = position;
                }
                continue;
            }
            last = Some(cid);
            cids.push(cid);
            ends.push(position);
        }
        match look_up(sources, request, &cids, &mut silent) {
            Ok(views) => {
                emitter.silent.clone_from(&silent);
                let behind = |position: usize, _: &StatusView| chunk.cursor_behind(ends[position]);
                let sent = emitter.send(&sources.names, views, behind, chunk.cursor.clone());
                sent.is_continue()
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    };
    list::list(&*sources.state, &listing, &mut emit)?;
    failed.map_or(Ok(()), Err)
}

/// Where a list by CID goes on behind a CID.
fn behind(cid: &Cid) -> String {
    make_cursor(Table::Placements, &cid.to_bytes())
}

/// CIDs in states that are rare: ledgers find them by index, and only those are looked up.
fn by_state(sources: &Sources, request: &StatusAllRequest, emitter: &mut Emitter<'_>) -> Result<(), Error> {
    let merge = Merge::begin(sources, request, false)?;
    send_merged(merge, emitter, |step, silent| {
        let cids: Vec<Cid> = step.into_iter().map(|found| found.cid).collect();
        look_up(sources, request, &cids, silent)
    })
}

/// Everything.
fn merged(sources: &Sources, request: &StatusAllRequest, emitter: &mut Emitter<'_>) -> Result<(), Error> {
    let merge = Merge::begin(sources, request, true)?;
    let everyone = sources.names.everyone();
    send_merged(merge, emitter, |step, silent| {
        let unreachable = nodes_of(&sources.names, silent);
        let is_silent = |node| unreachable.contains(&node);
        let fold = |found: Found| {
            let Found {
                cid,
                name,
                placement,
                entries,
            } = found;
            StatusView::fold(cid, name, placement, entries, &everyone, &is_silent)
        };
        Ok(step.into_iter().map(fold).enumerate().collect())
    })
}

/// Sends what `views` makes of each step, which may find further peers silent.
fn send_merged(
    mut merge: Merge<'_>,
    emitter: &mut Emitter<'_>,
    views: impl Fn(Vec<Found>, &mut BTreeSet<PeerId>) -> Result<Vec<(usize, StatusView)>, Error>,
) -> Result<(), Error> {
    while let Some(step) = merge.step()? {
        let end = step.last().map(|found| behind(&found.cid));
        let end = end.unwrap_or_else(|| emitter.cursor.clone());
        let views = views(step, &mut merge.silent)?;
        emitter.silent.clone_from(&merge.silent);
        let sent = emitter.send(&merge.sources.names, views, |_, view| behind(&view.cid), end);
        if sent.is_break() {
            return Ok(());
        }
    }
    emitter.silent.clone_from(&merge.silent);
    emitter.finish(&merge.sources.names);
    Ok(())
}
