//! Listing pins: from the index that fits the filter, in chunks, from one point in time.

use std::collections::{BTreeMap, HashMap};

use node_core::pinset::{self, KvError, KvRead, Table, Unsettled, keys};
use node_core::{Cid, Namespace, NodeId, Pin, PinKey, Placement, Timestamp};

use super::{Error, PinView};

/// Pins in one chunk: large enough that the cost of a message is spread, small enough that the first comes at once.
pub const LIST_CHUNK: usize = 1_000;

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
}

/// The index that a list walks along, and between which keys.
struct Walk {
    table: Table,
    start: Vec<u8>,
    end: Option<Vec<u8>>,
}

/// Lists pins; `emit` takes chunks and returns whether more are wanted. Runs on the caller's thread.
pub fn list(kv: &dyn KvRead, request: &ListRequest, emit: &mut dyn FnMut(ListChunk) -> bool) -> Result<(), Error> {
    let revision = pinset::header(kv)?.revision;
    let filter = &request.filter;
    let walk = choose(filter);
    let mut from = match request.cursor.as_str() {
        "" => walk.start.clone(),
        cursor => after(&read_cursor(cursor, walk.table)?),
    };
    if from < walk.start {
        return Err(bad_cursor(&request.cursor));
    }
    let mut left = if request.limit == 0 { u64::MAX } else { request.limit };
    // A filter that hardly anything passes would otherwise collect for minutes before it emits: an empty chunk carries
    // the cursor on and shows that the list lives.
    while left > 0 {
        let rows = read_rows(kv, &walk, &from)?;
        let Some(last) = rows.last().map(|row| row.key.clone()) else {
            break;
        };
        let whole_chunk = rows.len() == LIST_CHUNK;
        let mut pins = Vec::with_capacity(rows.len());
        let mut cursor = make_cursor(walk.table, &last);
        for (row_key, view) in resolve(kv, walk.table, rows)? {
            if !filter.cids.is_empty() && !filter.cids.contains(&view.pin.key.cid) {
                continue;
            }
            if filter.wants(&view.pin, view.placement.as_ref()) {
                pins.push(view);
                left -= 1;
                if left == 0 {
                    cursor = make_cursor(walk.table, &row_key);
                    break;
                }
            }
        }
        from = after(&last);
        if !emit(ListChunk { pins, cursor, revision }) || !whole_chunk {
            break;
        }
    }
    Ok(())
}

/// Looks single CIDs up; used when a filter names them.
pub fn list_cids(kv: &dyn KvRead, request: &ListRequest, emit: &mut dyn FnMut(ListChunk) -> bool) -> Result<(), Error> {
    let revision = pinset::header(kv)?.revision;
    let filter = PinFilter {
        cids: Vec::new(),
        ..request.filter.clone()
    };
    let mut cids = request.filter.cids.clone();
    cids.sort_unstable();
    cids.dedup();
    let mut rest = cids.as_slice();
    if !request.cursor.is_empty() {
        let last = keys::read_whole_cid(&read_cursor(&request.cursor, Table::CidPins)?)
            .map_err(|_| bad_cursor(&request.cursor))?;
        rest = &rest[rest.partition_point(|cid| *cid <= last)..];
    }
    let mut left = if request.limit == 0 { u64::MAX } else { request.limit };
    for some in rest.chunks(LIST_CHUNK) {
        let mut pins = Vec::new();
        let mut cursor = String::new();
        for cid in some {
            let placement = pinset::placement(kv, cid)?;
            for key in pinset::pins_of(kv, cid)? {
                let Some(pin) = pinset::pin(kv, &key)? else { continue };
                if left > 0 && filter.wants(&pin, placement.as_ref()) {
                    pins.push(PinView {
                        pin,
                        placement: placement.clone(),
                    });
                    left -= 1;
                }
            }
            cursor = make_cursor(Table::CidPins, &cid.to_bytes());
            if left == 0 {
                break;
            }
        }
        if !emit(ListChunk { pins, cursor, revision }) || left == 0 {
            break;
        }
    }
    Ok(())
}

fn choose(filter: &PinFilter) -> Walk {
    let within = |table, prefix: Vec<u8>| Walk {
        table,
        end: keys::after_prefix(&prefix),
        start: prefix,
    };
    if filter.unplaced {
        return within(Table::Unsettled, vec![Unsettled::TooFew.code()]);
    }
    if let Some(namespace) = &filter.namespace {
        if let Some((name, value)) = filter.metadata.iter().next() {
            return within(Table::ByMetadata, keys::metadata_pair(namespace, name, value));
        }
        if !filter.name_prefix.is_empty() {
            return within(Table::ByName, keys::name_prefix(namespace, &filter.name_prefix));
        }
    }
    if let Some(node) = filter.node {
        return within(Table::ByNode, keys::node(node));
    }
    if let Some(before) = filter.expires_before {
        return Walk {
            table: Table::ByExpiry,
            start: Vec::new(),
            end: Some(keys::number(before.as_millis())),
        };
    }
    if let Some(namespace) = &filter.namespace {
        if filter.created_after.is_some() || filter.created_before.is_some() {
            let start = keys::created_from(namespace, filter.created_after.unwrap_or(Timestamp::ZERO));
            let end = match filter.created_before {
                Some(before) => Some(keys::created_from(namespace, before)),
                None => keys::after_prefix(&keys::namespace(namespace)),
            };
            return Walk {
                table: Table::ByCreated,
                start,
                end,
            };
        }
        return within(Table::Pins, keys::namespace(namespace));
    }
    Walk {
        table: Table::Pins,
        start: Vec::new(),
        end: None,
    }
}

struct Row {
    key: Vec<u8>,
    value: Vec<u8>,
}

/// The next rows of the index. A node's own index lacks what is held everywhere; both lie in CID order, so they merge.
fn read_rows(kv: &dyn KvRead, walk: &Walk, from: &[u8]) -> Result<Vec<Row>, KvError> {
    let mut rows = scan(kv, walk.table, from, walk.end.as_deref())?;
    if walk.table == Table::ByNode {
        let prefix = &walk.start[..4];
        let everywhere = scan(kv, Table::Everywhere, from.get(4..).unwrap_or_default(), None)?;
        rows.extend(everywhere.into_iter().map(|row| Row {
            key: [prefix, &row.key].concat(),
            value: row.value,
        }));
        rows.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        rows.truncate(LIST_CHUNK);
    }
    Ok(rows)
}

fn scan(kv: &dyn KvRead, table: Table, from: &[u8], end: Option<&[u8]>) -> Result<Vec<Row>, KvError> {
    let mut rows = Vec::with_capacity(LIST_CHUNK);
    kv.scan(table, from, end, &mut |key, value| {
        rows.push(Row {
            key: key.to_vec(),
            value: value.to_vec(),
        });
        rows.len() < LIST_CHUNK
    })?;
    Ok(rows)
}

/// Turns rows of an index into pins with their placements; each carries the key of its row for the cursor.
fn resolve(kv: &dyn KvRead, table: Table, rows: Vec<Row>) -> Result<Vec<(Vec<u8>, PinView)>, KvError> {
    let mut out = Vec::with_capacity(rows.len());
    match table {
        Table::Pins => {
            let mut pins = Vec::with_capacity(rows.len());
            for row in rows {
                let pin = pinset::decode_pin(keys::read_pin(&row.key)?, &row.value)?;
                pins.push((row.key, pin));
            }
            let mut placements = placements_of(kv, &pins)?;
            for (key, pin) in pins {
                let placement = match placements.remove(&pin.key.cid) {
                    Some(placement) => Some(placement),
                    None => pinset::placement(kv, &pin.key.cid)?,
                };
                out.push((key, PinView { pin, placement }));
            }
        }
        Table::ByNode | Table::Unsettled => {
            for row in rows {
                let cid = if table == Table::ByNode {
                    keys::read_by_node(&row.key)?
                } else {
                    keys::read_unsettled(&row.key)?
                };
                let placement = pinset::placement(kv, &cid)?;
                for key in pinset::pins_of(kv, &cid)? {
                    if let Some(pin) = pinset::pin(kv, &key)? {
                        out.push((
                            row.key.clone(),
                            PinView {
                                pin,
                                placement: placement.clone(),
                            },
                        ));
                    }
                }
            }
        }
        _ => {
            for row in rows {
                let key: PinKey = match table {
                    Table::ByExpiry => keys::read_by_expiry(&row.key)?.1,
                    Table::ByCreated => keys::read_indexed(&row.key, 0, 1)?,
                    Table::ByName => keys::read_indexed(&row.key, 1, 0)?,
                    _ => keys::read_indexed(&row.key, 2, 0)?,
                };
                if let Some(pin) = pinset::pin(kv, &key)? {
                    let placement = pinset::placement(kv, &key.cid)?;
                    out.push((row.key, PinView { pin, placement }));
                }
            }
        }
    }
    Ok(out)
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

/// The first key behind `key`.
fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// A cursor is the index and the last row read, in hexadecimal.
pub(super) fn make_cursor(table: Table, key: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(2 + 2 * key.len());
    // Writing to a String can't fail.
    let _ = write!(out, "{:02x}", table as u8);
    for byte in key {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

pub(super) fn read_cursor(cursor: &str, table: Table) -> Result<Vec<u8>, Error> {
    const CURSOR_CHARS_MAX: usize = 16_384;
    if cursor.len() > CURSOR_CHARS_MAX || !cursor.is_ascii() || !cursor.len().is_multiple_of(2) {
        return Err(bad_cursor(cursor));
    }
    let byte = |at: usize| u8::from_str_radix(&cursor[at..at + 2], 16).map_err(|_| bad_cursor(cursor));
    let bytes = (0..cursor.len()).step_by(2).map(byte).collect::<Result<Vec<_>, _>>()?;
    match bytes.split_first() {
        Some((first, key)) if *first == table as u8 => Ok(key.to_vec()),
        _ => Err(bad_cursor(cursor)),
    }
}

fn bad_cursor(cursor: &str) -> Error {
    Error::invalid(
        "cursor",
        cursor,
        "use the cursor of an earlier answer to the same filter, unchanged",
    )
}
