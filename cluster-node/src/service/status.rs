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

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use cluster_proto::peer::v1::ScanEntriesRequest;
use cluster_storage::state::StateDb;
use cluster_worker::Worker;
use node_core::pinset::{self, KvRead, Table, keys};
use node_core::{Cid, Namespace, NodeId, PeerId, Placement, Status};
use tokio::sync::mpsc;

use super::gather::{Entries, Gather, Rows, entry_of, scan_peer};
use super::list::{self, LIST_CHUNK, LIST_CHUNK_BYTES, ListRequest, PinFilter};
use super::walk::{Walk, bad_cursor, make_cursor, read_cursor};
use super::{ChunkSender, Error, NodeEntry, NodeNames, PeerDirectory, StatusView};

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
        let name = name_of(&*sources.state, cid)?;
        let is_silent = |node| unreachable.contains(&node);
        let view = StatusView::fold(*cid, name, placement, rows, &everyone, &is_silent);
        views.push((position, view));
    }
    Ok(views)
}

/// The name of the first pin of a CID that has one.
pub fn name_of(kv: &dyn KvRead, cid: &Cid) -> Result<String, Error> {
    for key in pinset::pins_of(kv, cid)? {
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
    let mut merge = Merge::begin(sources, request, false)?;
    while let Some(step) = merge.step()? {
        let cids: Vec<Cid> = step.into_iter().map(|found| found.cid).collect();
        let views = look_up(sources, request, &cids, &mut merge.silent)?;
        emitter.silent.clone_from(&merge.silent);
        let end = cids.last().map_or_else(|| emitter.cursor.clone(), behind);
        if emitter
            .send(&sources.names, views, |_, view| behind(&view.cid), end)
            .is_break()
        {
            return Ok(());
        }
    }
    emitter.silent.clone_from(&merge.silent);
    emitter.finish(&sources.names);
    Ok(())
}

/// Everything.
fn merged(sources: &Sources, request: &StatusAllRequest, emitter: &mut Emitter<'_>) -> Result<(), Error> {
    let mut merge = Merge::begin(sources, request, true)?;
    let everyone = sources.names.everyone();
    while let Some(step) = merge.step()? {
        let unreachable = nodes_of(&sources.names, &merge.silent);
        let is_silent = |node| unreachable.contains(&node);
        let end = step.last().map(|found| behind(&found.cid));
        let fold = |found: Found| {
            let Found {
                cid,
                name,
                placement,
                entries,
            } = found;
            StatusView::fold(cid, name, placement, entries, &everyone, &is_silent)
        };
        let views = step.into_iter().map(fold).enumerate().collect();
        emitter.silent.clone_from(&merge.silent);
        let end = end.unwrap_or_else(|| emitter.cursor.clone());
        if emitter
            .send(&sources.names, views, |_, view| behind(&view.cid), end)
            .is_break()
        {
            return Ok(());
        }
    }
    emitter.silent.clone_from(&merge.silent);
    emitter.finish(&sources.names);
    Ok(())
}

/// What was found about one CID.
struct Found {
    cid: Cid,
    name: String,
    placement: Option<Placement>,
    entries: Vec<NodeEntry>,
}

/// One piece that a source has about a CID.
enum Piece {
    Placement(Box<Placement>),
    Name(String),
    Entry(NodeEntry),
    /// Only that it is there.
    Mark,
}

enum Kind {
    Placements,
    Names,
    Unplaced,
    Own(NodeId),
    Other(PeerId, mpsc::Receiver<Result<Rows, Error>>),
}

struct Source {
    kind: Kind,
    rows: VecDeque<(Cid, Piece)>,
    after: Option<Cid>,
    ended: bool,
}

struct Merge<'a> {
    sources: &'a Sources,
    statuses: Vec<Status>,
    open: Vec<Source>,
    /// Names are wanted.
    names: bool,
    silent: BTreeSet<PeerId>,
}

impl<'a> Merge<'a> {
    fn begin(sources: &'a Sources, request: &StatusAllRequest, full: bool) -> Result<Self, Error> {
        let after = match request.cursor.as_str() {
            "" => None,
            cursor => {
                let bytes = read_cursor(cursor, Table::Placements)?;
                Some(Cid::from_bytes(&bytes).map_err(|_| bad_cursor(cursor))?)
            }
        };
        let mut kinds = Vec::new();
        if full {
            kinds.push(Kind::Placements);
            if !request.brief {
                kinds.push(Kind::Names);
            }
        } else if request.statuses.contains(&Status::Unplaced) {
            kinds.push(Kind::Unplaced);
        }
        let own = sources.directory.own();
        kinds.extend(sources.names.of_peer(own).map(|node| Kind::Own(node.id)));
        let others: BTreeSet<PeerId> = sources
            .names
            .present()
            .map(|node| node.peer)
            .filter(|peer| *peer != own)
            .collect();
        let statuses = if full { Vec::new() } else { request.statuses.clone() };
        for peer in others {
            // Two messages: one being merged and one on its way.
            let (sender, receiver) = mpsc::channel(2);
            let scan = ScanEntriesRequest {
                after: after.map(|cid| cid.to_bytes().into()).unwrap_or_default(),
                brief: request.brief || !full,
                statuses: statuses.iter().map(|status| *status as u32 + 1).collect(),
            };
            tokio::runtime::Handle::current().spawn(scan_peer(
                peer,
                sources.directory.clone(),
                scan,
                request.peer_timeout,
                sender,
            ));
            kinds.push(Kind::Other(peer, receiver));
        }
        let open = kinds
            .into_iter()
            .map(|kind| Source {
                kind,
                rows: VecDeque::new(),
                after,
                ended: false,
            })
            .collect();
        Ok(Self {
            sources,
            statuses,
            open,
            names: full && !request.brief,
            silent: BTreeSet::new(),
        })
    }

    /// All that is known of the next CIDs; none at the end.
    fn step(&mut self) -> Result<Option<Vec<Found>>, Error> {
        for source in &mut self.open {
            source.refill(self.sources, &self.statuses, &mut self.silent)?;
        }
        // Up to where every source has told all it has.
        let bound = self
            .open
            .iter()
            .filter(|source| !source.ended)
            .filter_map(Source::last)
            .min();
        let mut found: Vec<Found> = Vec::new();
        loop {
            let next = self.open.iter().filter_map(Source::first).min();
            let Some(cid) = next.filter(|cid| bound.is_none_or(|bound| *cid <= bound)) else {
                break;
            };
            if found.len() >= LIST_CHUNK {
                break;
            }
            let mut one = Found {
                cid,
                name: String::new(),
                placement: None,
                entries: Vec::new(),
            };
            // Pins of the default namespace, whose names came by.
            let mut in_passing = 0;
            for source in &mut self.open {
                while let Some(piece) = source.take(&cid) {
                    match piece {
                        Piece::Placement(placement) => one.placement = Some(*placement),
                        Piece::Name(name) => {
                            in_passing += 1;
                            if one.name.is_empty() {
                                one.name = name;
                            }
                        }
                        Piece::Entry(entry) => one.entries.push(entry),
                        Piece::Mark => {}
                    }
                }
            }
            // Names come from the default namespace in passing; those of others, and of further slots, are looked up.
            let pins = one.placement.as_ref().map_or(0, |placement| placement.pins);
            if self.names && one.name.is_empty() && pins > in_passing {
                one.name = name_of(&*self.sources.state, &cid)?;
            }
            found.push(one);
        }
        if found.is_empty() && self.open.iter().all(|source| source.ended && source.rows.is_empty()) {
            return Ok(None);
        }
        Ok(Some(found))
    }
}

impl Source {
    fn first(&self) -> Option<Cid> {
        self.rows.front().map(|(cid, _)| *cid)
    }

    fn last(&self) -> Option<Cid> {
        self.rows.back().map(|(cid, _)| *cid)
    }

    fn take(&mut self, cid: &Cid) -> Option<Piece> {
        if self.rows.front().is_some_and(|(first, _)| first == cid) {
            return self.rows.pop_front().map(|(_, piece)| piece);
        }
        None
    }

    /// Reads the next page when nothing is left of the last one. A message of another peer may hold no rows that pass;
    /// then the next one is awaited.
    fn refill(&mut self, sources: &Sources, statuses: &[Status], silent: &mut BTreeSet<PeerId>) -> Result<(), Error> {
        while self.rows.is_empty() && !self.ended {
            let kv: &dyn KvRead = &*sources.state;
            match &mut self.kind {
                Kind::Placements => {
                    (self.rows, self.ended) = read_page(kv, Table::Placements, self.after, |key, value| {
                        let cid = keys::read_whole_cid(key)?;
                        Ok(Some((
                            cid,
                            Piece::Placement(Box::new(pinset::decode_placement(cid, value)?)),
                        )))
                    })?;
                }
                Kind::Unplaced => {
                    let kind = pinset::Unsettled::TooFew;
                    let start = match self.after {
                        Some(cid) => [keys::unsettled(kind, &cid).as_slice(), &[0]].concat(),
                        None => vec![kind.code()],
                    };
                    let end = keys::after_prefix(&[kind.code()]);
                    (self.rows, self.ended) = scan_page(kv, Table::Unsettled, &start, end.as_deref(), |key, _| {
                        Ok(Some((keys::read_unsettled(key)?, Piece::Mark)))
                    })?;
                }
                Kind::Names => (self.rows, self.ended) = read_names(kv, self.after)?,
                Kind::Own(node) => {
                    let rows = own_page(&sources.worker, *node, self.after, statuses)?;
                    self.ended = rows.len() < LIST_CHUNK;
                    self.rows = rows
                        .into_iter()
                        .map(|(cid, entry)| (cid, Piece::Entry(entry)))
                        .collect();
                }
                Kind::Other(peer, receiver) => match receiver.blocking_recv() {
                    Some(Ok(rows)) => {
                        self.rows = rows
                            .into_iter()
                            .map(|(cid, entry)| (cid, Piece::Entry(entry)))
                            .collect();
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%peer, %error, "a peer's part of a status list is missing");
                        silent.insert(*peer);
                        self.ended = true;
                    }
                    None => self.ended = true,
                },
            }
            self.after = self.last().or(self.after);
        }
        Ok(())
    }
}

type PieceRows = VecDeque<(Cid, Piece)>;

/// Rows, and whether nothing lies behind them.
type PiecePage = (PieceRows, bool);

/// A page of a table that is ordered by CID.
fn read_page(
    kv: &dyn KvRead,
    table: Table,
    after: Option<Cid>,
    read: impl Fn(&[u8], &[u8]) -> Result<Option<(Cid, Piece)>, pinset::KvError>,
) -> Result<PiecePage, Error> {
    let start = after
        .map(|cid| [cid.to_bytes().as_slice(), &[0]].concat())
        .unwrap_or_default();
    scan_page(kv, table, &start, None, read)
}

/// Names of the default namespace, whose pins lie in CID order.
fn read_names(kv: &dyn KvRead, after: Option<Cid>) -> Result<PiecePage, Error> {
    let prefix = keys::namespace(&Namespace::default());
    // Behind all slots of the last CID.
    let behind = after.and_then(|cid| keys::after_prefix(&[prefix.as_slice(), &cid.to_bytes()].concat()));
    let start = behind.unwrap_or_else(|| prefix.clone());
    scan_page(
        kv,
        Table::Pins,
        &start,
        keys::after_prefix(&prefix).as_deref(),
        |key, value| {
            let key = keys::read_pin(key)?;
            let cid = key.cid;
            Ok(Some((cid, Piece::Name(pinset::decode_pin(key, value)?.options.name))))
        },
    )
}

/// By count and bytes: what is read is decoded whole, and a pin may carry 32 KiB of metadata.
fn scan_page(
    kv: &dyn KvRead,
    table: Table,
    start: &[u8],
    end: Option<&[u8]>,
    read: impl Fn(&[u8], &[u8]) -> Result<Option<(Cid, Piece)>, pinset::KvError>,
) -> Result<PiecePage, Error> {
    let mut rows = VecDeque::with_capacity(LIST_CHUNK);
    let (mut failed, mut bytes, mut is_end) = (None, 0, true);
    kv.scan(table, start, end, &mut |key, value| {
        match read(key, value) {
            Ok(Some(row)) => {
                bytes += key.len() + value.len();
                rows.push_back(row);
            }
            Ok(None) => {}
            Err(error) => failed = Some(error),
        }
        is_end = failed.is_none() && rows.len() < LIST_CHUNK && bytes < LIST_CHUNK_BYTES;
        is_end
    })?;
    failed.map_or(Ok((rows, is_end)), |error| Err(error.into()))
}

/// A page of one own node's ledger; of some states only when `statuses` names any.
pub fn own_page(
    worker: &Worker,
    node: NodeId,
    after: Option<Cid>,
    statuses: &[Status],
) -> Result<Vec<(Cid, NodeEntry)>, Error> {
    let page = if statuses.is_empty() {
        worker.page(node, after.as_ref(), LIST_CHUNK)
    } else {
        worker.page_of(node, statuses, after.as_ref(), LIST_CHUNK)
    };
    let rows = page.map_err(Error::Internal)?;
    Ok(rows
        .into_iter()
        .map(|(cid, view)| (cid, entry_of(node, &view)))
        .collect())
}
