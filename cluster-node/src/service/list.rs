//! Listing pins: along the index that fits the filter, in chunks, from one point in time.
//!
//! [`walk`](super::walk) knows the indexes and their orders; here a list is cut into chunks and resumed.

use std::collections::{BTreeMap, HashMap};

use node_core::pinset::{self, KvError, KvRead, Table, keys};
use node_core::{Cid, Namespace, NodeId, Pin, PinKey, Placement, Timestamp};

use super::walk::{Place, Walk, after, make_cursor, scan};
use super::{Error, PinView};

/// Pins in one chunk: large enough that the cost of a message is spread, small enough that the first comes at once.
pub const LIST_CHUNK: usize = 1_000;

/// Bytes of one chunk, about: a thousand pins with the longest metadata would be 50 MiB, more than clients take in one
/// message and more than a peer should hold for each of its lists.
pub const LIST_CHUNK_BYTES: usize = 1 << 20;

/// Which pins are wanted. All conditions given must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PinFilter {
    /// Of this namespace.
    pub namespace: Option<Namespace>,
    /// Whose name begins so.
    pub name_prefix: String,
    /// Who have all of these pairs.
    pub metadata: BTreeMap<String, String>,
    /// That this node shall hold.
    pub node: Option<NodeId>,
    /// Recorded later than this.
    pub created_after: Option<Timestamp>,
    /// Recorded before this.
    pub created_before: Option<Timestamp>,
    /// Who go by themselves before this.
    pub expires_before: Option<Timestamp>,
    /// That lack nodes.
    pub unplaced: bool,
    /// Of these CIDs.
    pub cids: Vec<Cid>,
}

impl PinFilter {
    /// Whether every pin is wanted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn wants(&self, pin: &Pin, placement: Option<&Placement>) -> bool {
        let options = &pin.options;
        self.namespace
            .as_ref()
            .is_none_or(|namespace| pin.key.namespace == *namespace)
            && options.name.starts_with(&self.name_prefix)
            && self
                .metadata
                .iter()
                .all(|(key, value)| options.metadata.get(key) == Some(value))
            && self.created_after.is_none_or(|after| pin.created > after)
            && self.created_before.is_none_or(|before| pin.created < before)
            && self
                .expires_before
                .is_none_or(|before| options.expire_at.is_some_and(|at| at < before))
            && self
                .node
                .is_none_or(|node| placement.is_some_and(|placement| shall_hold(placement, node)))
            && (!self.unplaced || placement.is_some_and(|placement| placement.unplaced.is_some()))
    }
}

fn shall_hold(placement: &Placement, node: NodeId) -> bool {
    placement.replication.is_everywhere() || placement.nodes.contains(&node)
}

/// A list as asked for.
#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// Which pins.
    pub filter: PinFilter,
    /// At most so many; 0 = all.
    pub limit: u64,
    /// Behind this place.
    pub cursor: String,
}

/// A piece of a list.
#[derive(Debug)]
pub struct ListChunk {
    /// In the order of the list.
    pub pins: Vec<PinView>,
    /// Where to go on.
    pub cursor: String,
    /// The revision that the list shows.
    pub revision: u64,
    table: Table,
    /// Where each pin lies in the index.
    places: Vec<Vec<u8>>,
}

impl ListChunk {
    /// Where to go on behind the pin at this position of the chunk.
    pub fn cursor_behind(&self, position: usize) -> String {
        let place = self.places.get(position);
        place.map_or_else(|| self.cursor.clone(), |place| make_cursor(self.table, place))
    }
}

/// Lists pins; `emit` takes chunks and returns whether more are wanted. At least one chunk comes, so that the revision is
/// known of an empty list too. Runs on the caller's thread.
pub fn list(kv: &dyn KvRead, request: &ListRequest, emit: &mut dyn FnMut(ListChunk) -> bool) -> Result<(), Error> {
    let revision = pinset::header(kv)?.revision;
    let walk = Walk::of(&request.filter);
    let mut lister = Lister {
        kv,
        filter: &request.filter,
        place: walk.place(&request.cursor)?,
        walk: &walk,
    };
    let mut left = if request.limit == 0 { u64::MAX } else { request.limit };
    let mut cursor = request.cursor.clone();
    let mut is_first = true;
    // A filter that hardly anything passes would otherwise collect for minutes before it emits: an empty chunk carries
    // the cursor on and shows that the list lives.
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(LIST_CHUNK);
        let page = lister.page(room)?;
        if page.last.is_none() && !is_first {
            break;
        }
        is_first = false;
        if let Some(last) = &page.last {
            cursor = make_cursor(walk.table, last);
        }
        left -= page.pins.len() as u64;
        let chunk = ListChunk {
            pins: page.pins,
            cursor: cursor.clone(),
            revision,
            table: walk.table,
            places: page.places,
        };
        if !emit(chunk) || page.is_last {
            break;
        }
    }
    Ok(())
}

/// What was found in one go.
#[derive(Default)]
struct Page {
    pins: Vec<PinView>,
    places: Vec<Vec<u8>>,
    /// The place of the last row that was looked at; none when there was none.
    last: Option<Vec<u8>>,
    /// Nothing lies behind it.
    is_last: bool,
    bytes: usize,
}

impl Page {
    fn push(&mut self, place: Vec<u8>, view: PinView) {
        self.bytes += size_of(&view);
        self.pins.push(view);
        self.places.push(place);
    }

    fn is_full(&self, room: usize) -> bool {
        self.pins.len() >= room || self.bytes >= LIST_CHUNK_BYTES
    }
}

/// About what a pin takes in a message. Texts dominate; times, numbers and the CID are below the constant.
fn size_of(view: &PinView) -> usize {
    const REST: usize = 256;
    /// Of a node's name, which most of the time is short.
    const NAME: usize = 24;
    let PinView { pin, placement } = view;
    let options = &pin.options;
    let pairs = options.metadata.iter().map(|(key, value)| key.len() + value.len() + 8);
    let origins = options.origins.iter().map(|origin| origin.len() + 4);
    let nodes = placement.as_ref().map_or(0, |placement| placement.nodes.len()) + options.nodes.len();
    REST + pin.key.slot.len() + options.name.len() + pairs.sum::<usize>() + origins.sum::<usize>() + NAME * nodes
}

struct Lister<'a> {
    kv: &'a dyn KvRead,
    filter: &'a PinFilter,
    walk: &'a Walk,
    place: Place,
}

impl Lister<'_> {
    /// The next pins that pass, at most `room`, and how far the index was read for them.
    fn page(&mut self, room: usize) -> Result<Page, Error> {
        match self.walk.table {
            Table::Pins => self.page_of_pins(room),
            Table::ByNode | Table::Unsettled | Table::CidPins => self.page_by_cid(room),
            _ => self.page_by_index(room),
        }
    }

    /// Pins lie there whole, and their placements in the same order.
    fn page_of_pins(&mut self, room: usize) -> Result<Page, Error> {
        let mut page = Page::default();
        let (rows, is_end) = self.walk.rows(self.kv, &mut self.place)?;
        let count = rows.len();
        let mut pins = Vec::with_capacity(count);
        for row in rows {
            let pin = pinset::decode_pin(keys::read_pin(&row.key)?, &row.value)?;
            pins.push((row.key, pin));
        }
        let mut placements = placements_of(self.kv, &pins)?;
        let last = pins.last().map(|(place, _)| place.clone());
        for (at, (place, pin)) in pins.into_iter().enumerate() {
            let placement = match placements.remove(&pin.key.cid) {
                Some(placement) => Some(placement),
                None => pinset::placement(self.kv, &pin.key.cid)?,
            };
            if self.filter.wants(&pin, placement.as_ref()) {
                page.push(place, PinView { pin, placement });
                if page.is_full(room) {
                    page.last = page.places.last().cloned();
                    page.is_last = is_end && at + 1 == count;
                    return self.went_to(page);
                }
            }
        }
        page.last = last;
        page.is_last = is_end;
        self.went_to(page)
    }

    /// Each row names one pin.
    fn page_by_index(&mut self, room: usize) -> Result<Page, Error> {
        let mut page = Page::default();
        let (rows, is_end) = self.walk.rows(self.kv, &mut self.place)?;
        let count = rows.len();
        let last = rows.last().map(|row| row.key.clone());
        for (at, row) in rows.into_iter().enumerate() {
            let key = self.walk.read_pin(&row.key)?;
            let Some(pin) = pinset::pin(self.kv, &key)? else {
                continue;
            };
            let placement = pinset::placement(self.kv, &key.cid)?;
            if self.filter.wants(&pin, placement.as_ref()) {
                page.push(row.key, PinView { pin, placement });
                if page.is_full(room) {
                    page.last = page.places.last().cloned();
                    page.is_last = is_end && at + 1 == count;
                    return self.went_to(page);
                }
            }
        }
        // Namespaces that have nothing of it were passed over: that is a place too.
        page.last = last.or_else(|| self.place.passed.clone());
        page.is_last = is_end;
        self.went_to(page)
    }

    /// Each row names one CID, and any number of pins may want it: a chunk may end between two of them.
    fn page_by_cid(&mut self, room: usize) -> Result<Page, Error> {
        let mut page = Page::default();
        let (rows, is_end) = self.walk.rows(self.kv, &mut self.place)?;
        let mut looked_at = 0;
        for row in rows {
            let (cid, prefix) = self.walk.read_cid(&row.key)?;
            // Only of that CID: its row may have gone since the cursor was made.
            let behind = self.place.within.take();
            let behind = behind.filter(|behind| behind.starts_with(&keys::cid(&cid)));
            let keys = pins_of(self.kv, &cid, behind.as_deref(), LIST_CHUNK - looked_at)?;
            let may_have_more = keys.len() == LIST_CHUNK - looked_at;
            looked_at += keys.len();
            let placement = pinset::placement(self.kv, &cid)?;
            for key in keys {
                let place = [prefix, &keys::cid_pin(&key)].concat();
                page.last = Some(place.clone());
                if let Some(pin) = pinset::pin(self.kv, &key)?
                    && self.filter.wants(&pin, placement.as_ref())
                {
                    let placement = placement.clone();
                    page.push(place, PinView { pin, placement });
                }
                if page.is_full(room) {
                    return self.went_to(page);
                }
            }
            if may_have_more {
                return self.went_to(page);
            }
            page.last = Some(row.key);
        }
        page.is_last = is_end;
        self.went_to(page)
    }

    fn went_to(&mut self, page: Page) -> Result<Page, Error> {
        if let Some(last) = &page.last {
            self.place = self.walk.behind(last)?;
        }
        Ok(page)
    }
}

/// The next pins of a CID in order, behind a key of `CidPins`.
fn pins_of(kv: &dyn KvRead, cid: &Cid, behind: Option<&[u8]>, limit: usize) -> Result<Vec<PinKey>, KvError> {
    let prefix = keys::cid(cid);
    let start = behind.map_or_else(|| prefix.clone(), after);
    let mut found = Vec::new();
    for row in scan(
        kv,
        Table::CidPins,
        &start,
        keys::after_prefix(&prefix).as_deref(),
        limit,
    )?
    .0
    {
        found.push(keys::read_cid_pin(&row.key)?);
    }
    Ok(found)
}

/// The placements of a run of pins in one scan: pins and placements lie in the same order, so this reads each once.
/// Gives up when other namespaces' CIDs lie thick between them; the caller looks the rest up.
fn placements_of(kv: &dyn KvRead, pins: &[(Vec<u8>, Pin)]) -> Result<HashMap<Cid, Placement>, KvError> {
    let mut found = HashMap::with_capacity(pins.len());
    let (Some((_, first)), Some((_, last))) = (pins.first(), pins.last()) else {
        return Ok(found);
    };
    if first.key.namespace != last.key.namespace {
        return Ok(found);
    }
    let mut budget = 2 * pins.len();
    let mut failed = None;
    let end = after(&last.key.cid.to_bytes());
    kv.scan(
        Table::Placements,
        &first.key.cid.to_bytes(),
        Some(&end),
        &mut |key, value| {
            match keys::read_whole_cid(key).and_then(|cid| pinset::decode_placement(cid, value)) {
                Ok(placement) => {
                    found.insert(placement.cid, placement);
                }
                Err(error) => failed = Some(error),
            }
            budget -= 1;
            failed.is_none() && budget > 0
        },
    )?;
    failed.map_or(Ok(found), Err)
}

#[cfg(test)]
mod tests;
