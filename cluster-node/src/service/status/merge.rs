//! Side by side through the placements and all ledgers, in CID order.

use std::collections::{BTreeSet, VecDeque};

use cluster_proto::peer::v1::ScanEntriesRequest;
use cluster_worker::Worker;
use node_core::pinset::{self, KvRead, Table, keys};
use node_core::{Cid, Namespace, NodeId, PeerId, Placement, Status};
use tokio::sync::mpsc;

use super::{Sources, StatusAllRequest, name_of};
use crate::service::gather::{Rows, entry_of, scan_peer};
use crate::service::list::{LIST_CHUNK, LIST_CHUNK_BYTES};
use crate::service::walk::{bad_cursor, read_cursor};
use crate::service::{Error, NodeEntry};

/// Rows of the first page of every source, ours and other peers': the first answer waits for all of them. What follows is
/// read in pages of [`LIST_CHUNK`].
pub const FIRST_PAGE: usize = 100;

/// What was found about one CID.
pub(super) struct Found {
    pub cid: Cid,
    pub name: String,
    pub placement: Option<Placement>,
    pub entries: Vec<NodeEntry>,
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
    /// Rows of the next page.
    page: usize,
}

/// The sources, side by side.
pub(super) struct Merge<'a> {
    /// What is read.
    pub sources: &'a Sources,
    statuses: Vec<Status>,
    open: Vec<Source>,
    /// Names are wanted.
    names: bool,
    /// Peers that did not answer.
    pub silent: BTreeSet<PeerId>,
}

impl<'a> Merge<'a> {
    /// Everything when `full`, otherwise only what is in one of the wanted states.
    pub(super) fn begin(sources: &'a Sources, request: &StatusAllRequest, full: bool) -> Result<Self, Error> {
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
                page: FIRST_PAGE,
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
    pub(super) fn step(&mut self) -> Result<Option<Vec<Found>>, Error> {
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
                one.name = name_of(&*self.sources.state, &cid, None)?;
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
            let page = std::mem::replace(&mut self.page, LIST_CHUNK);
            match &mut self.kind {
                Kind::Placements => {
                    (self.rows, self.ended) = read_page(kv, Table::Placements, self.after, page, |key, value| {
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
                    (self.rows, self.ended) =
                        scan_page(kv, Table::Unsettled, (&start, end.as_deref()), page, |key, _| {
                            Ok(Some((keys::read_unsettled(key)?, Piece::Mark)))
                        })?;
                }
                Kind::Names => (self.rows, self.ended) = read_names(kv, self.after, page)?,
                Kind::Own(node) => {
                    let rows = own_page(&sources.worker, *node, self.after, statuses, page)?;
                    self.ended = rows.len() < page;
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
    page: usize,
    read: impl Fn(&[u8], &[u8]) -> Result<Option<(Cid, Piece)>, pinset::KvError>,
) -> Result<PiecePage, Error> {
    let start = after
        .map(|cid| [cid.to_bytes().as_slice(), &[0]].concat())
        .unwrap_or_default();
    scan_page(kv, table, (&start, None), page, read)
}

/// Names of the default namespace, whose pins lie in CID order.
fn read_names(kv: &dyn KvRead, after: Option<Cid>, page: usize) -> Result<PiecePage, Error> {
    let prefix = keys::namespace(&Namespace::default());
    // Behind all slots of the last CID.
    let behind = after.and_then(|cid| keys::after_prefix(&[prefix.as_slice(), &cid.to_bytes()].concat()));
    let start = behind.unwrap_or_else(|| prefix.clone());
    let end = keys::after_prefix(&prefix);
    scan_page(kv, Table::Pins, (&start, end.as_deref()), page, |key, value| {
        let name = pinset::decode_pin_name(value)?;
        Ok(Some((keys::read_pin(key)?.cid, Piece::Name(name))))
    })
}

/// By count and bytes: a row may carry 32 KiB of metadata.
fn scan_page(
    kv: &dyn KvRead,
    table: Table,
    (start, end): (&[u8], Option<&[u8]>),
    page: usize,
    read: impl Fn(&[u8], &[u8]) -> Result<Option<(Cid, Piece)>, pinset::KvError>,
) -> Result<PiecePage, Error> {
    let mut rows = VecDeque::with_capacity(page);
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
        is_end = failed.is_none() && rows.len() < page && bytes < LIST_CHUNK_BYTES;
        is_end
    })?;
    failed.map_or(Ok((rows, is_end)), |error| Err(error.into()))
}

/// A page of one own node's ledger, of `page` rows at most; of some states only when `statuses` names any. It has fewer
/// only when nothing lies behind it, whatever changes meanwhile: callers take a short page for the end.
pub fn own_page(
    worker: &Worker,
    node: NodeId,
    after: Option<Cid>,
    statuses: &[Status],
    page: usize,
) -> Result<Vec<(Cid, NodeEntry)>, Error> {
    let rows = if statuses.is_empty() {
        worker.page(node, after.as_ref(), page)
    } else {
        worker.page_of(node, statuses, after.as_ref(), page)
    };
    let rows = rows.map_err(Error::Internal)?;
    Ok(rows
        .into_iter()
        .map(|(cid, view)| (cid, entry_of(node, &view)))
        .collect())
}
