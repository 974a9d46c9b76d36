//! The indexes that lists walk along: which one fits a filter, between which keys, and where a cursor points.
//!
//! | filter (the first that is given counts) | index | order of the list |
//! |---|---|---|
//! | CIDs | pins by CID | CID, namespace, slot |
//! | unplaced | unsettled CIDs | CID, namespace, slot |
//! | metadata | one of the pairs | namespace, time of creation, CID, slot |
//! | name prefix | names | namespace, name, time of creation, CID, slot |
//! | node | CIDs by node | CID, namespace, slot |
//! | expiry | expiries | expiry, namespace, CID, slot |
//! | created | times of creation | namespace, time, CID, slot |
//! | namespace, or none | pins | namespace, CID, slot |
//!
//! Names, metadata and times of creation are indexed by namespace. Without one the walk goes from namespace to namespace
//! and seeks in each, so it reads what matches and one row a namespace, never every pin.

use node_core::pinset::{KvError, KvRead, Table, Unsettled, keys};
use node_core::{Cid, Created, Namespace, PinKey, Timestamp};

use super::list::{LIST_CHUNK, LIST_CHUNK_BYTES};
use super::{Error, PinFilter};

/// Namespaces passed over in one go before the list shows that it lives.
const HOPS_MAX: usize = 1_000;

/// A row of an index.
pub struct Row {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

type Bounds = (Vec<u8>, Option<Vec<u8>>);

/// Which keys of the index.
enum Ranges {
    /// From one key up to another.
    One(Bounds),
    /// In every namespace those that this tells.
    Each(Box<dyn Fn(&Namespace) -> Bounds>),
    /// These CIDs, in order.
    Cids(Vec<Cid>),
}

/// Where a walk goes on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Place {
    /// The first key that is read.
    from: Vec<u8>,
    /// Pins of the CID there that were read already: up to this key of `CidPins`.
    pub within: Option<Vec<u8>>,
    /// Behind the namespaces that the last read passed over in vain.
    pub passed: Option<Vec<u8>>,
}

/// The index that a list walks along, and between which keys.
pub struct Walk {
    /// The index.
    pub table: Table,
    ranges: Ranges,
}

impl Walk {
    /// The index that fits a filter best.
    pub fn of(filter: &PinFilter) -> Self {
        let one = |table, start, end| Self {
            table,
            ranges: Ranges::One((start, end)),
        };
        if !filter.cids.is_empty() {
            let mut cids = filter.cids.clone();
            cids.sort_unstable();
            cids.dedup();
            return Self {
                table: Table::CidPins,
                ranges: Ranges::Cids(cids),
            };
        }
        if filter.unplaced {
            let (start, end) = within(vec![Unsettled::TooFew.code()]);
            return one(Table::Unsettled, start, end);
        }
        if let Some((name, value)) = filter.metadata.iter().next() {
            let (name, value) = (name.clone(), value.clone());
            return Self::in_namespace(filter, Table::ByMetadata, move |namespace| {
                within(keys::metadata_pair(namespace, &name, &value))
            });
        }
        if !filter.name_prefix.is_empty() {
            let prefix = filter.name_prefix.clone();
            return Self::in_namespace(filter, Table::ByName, move |namespace| {
                within(keys::name_prefix(namespace, &prefix))
            });
        }
        if let Some(node) = filter.node {
            let (start, end) = within(keys::node(node));
            return one(Table::ByNode, start, end);
        }
        if let Some(before) = filter.expires_before {
            return one(Table::ByExpiry, Vec::new(), Some(keys::number(before.as_millis())));
        }
        if filter.created_after.is_some() || filter.created_before.is_some() {
            let (after, before) = (filter.created_after.unwrap_or(Timestamp::ZERO), filter.created_before);
            return Self::in_namespace(filter, Table::ByCreated, move |namespace| {
                let from = |at| keys::created_at(keys::namespace(namespace), Created { at, ordinal: 0 });
                let end = match before {
                    Some(before) => Some(from(before)),
                    None => keys::after_prefix(&keys::namespace(namespace)),
                };
                (from(after), end)
            });
        }
        let (start, end) = filter
            .namespace
            .as_ref()
            .map_or((Vec::new(), None), |namespace| within(keys::namespace(namespace)));
        one(Table::Pins, start, end)
    }

    fn in_namespace(filter: &PinFilter, table: Table, bounds: impl Fn(&Namespace) -> Bounds + 'static) -> Self {
        let ranges = match &filter.namespace {
            Some(namespace) => Ranges::One(bounds(namespace)),
            None => Ranges::Each(Box::new(bounds)),
        };
        Self { table, ranges }
    }

    /// Where a cursor points; the empty one to the start. One of another filter is refused as far as it can be told.
    pub fn place(&self, cursor: &str) -> Result<Place, Error> {
        let start = match &self.ranges {
            Ranges::One((start, _)) => start.clone(),
            Ranges::Each(_) | Ranges::Cids(_) => Vec::new(),
        };
        if cursor.is_empty() {
            return Ok(Place {
                from: start,
                ..Place::default()
            });
        }
        let key = read_cursor(cursor, self.table)?;
        let fits = match &self.ranges {
            Ranges::One((start, end)) => key >= *start && end.as_ref().is_none_or(|end| key < *end),
            Ranges::Each(_) => namespace_of(&key).is_ok(),
            Ranges::Cids(_) => true,
        };
        if !fits {
            return Err(bad_cursor(cursor));
        }
        self.behind(&key).map_err(|_| bad_cursor(cursor))
    }

    /// Behind a place that a cursor names: a key of the index, for an index of CIDs with one of its pins or none.
    pub fn behind(&self, key: &[u8]) -> Result<Place, KvError> {
        let mut place = Place {
            from: after(key),
            ..Place::default()
        };
        if self.is_by_cid() {
            let (cid, rest) = self.split(key)?;
            if !rest.is_empty() {
                let whole = &key[..key.len() - rest.len()];
                place.from = whole.to_vec();
                place.within = Some([cid.to_bytes().as_slice(), rest].concat());
            }
        }
        Ok(place)
    }

    /// The CID at the place that a cursor names, if it names one.
    pub fn cid_at(&self, cursor: &str) -> Option<Cid> {
        let key = read_cursor(cursor, self.table).ok()?;
        if self.is_by_cid() {
            self.split(&key).ok().map(|(cid, _)| cid)
        } else {
            self.read_pin(&key).ok().map(|key| key.cid)
        }
    }

    fn is_by_cid(&self) -> bool {
        matches!(self.table, Table::ByNode | Table::Unsettled | Table::CidPins)
    }

    /// The CID of a key in an index of CIDs, and what follows it.
    fn split<'a>(&self, key: &'a [u8]) -> Result<(Cid, &'a [u8]), KvError> {
        let from = self.prefix_len();
        Cid::read(key.get(from..).unwrap_or_default())
            .map_err(|error| KvError(format!("a key in the state is damaged: {error}")))
    }

    fn prefix_len(&self) -> usize {
        match self.table {
            Table::ByNode => 4,
            Table::Unsettled => 1,
            _ => 0,
        }
    }

    /// The CID of a row in an index of CIDs, and what its key begins with.
    pub fn read_cid<'a>(&self, key: &'a [u8]) -> Result<(Cid, &'a [u8]), KvError> {
        let (cid, _) = self.split(key)?;
        Ok((cid, &key[..self.prefix_len()]))
    }

    /// The pin of a row in an index of pins.
    pub fn read_pin(&self, key: &[u8]) -> Result<PinKey, KvError> {
        match self.table {
            Table::Pins => keys::read_pin(key),
            Table::ByExpiry => Ok(keys::read_by_expiry(key)?.1),
            Table::ByCreated => Ok(keys::read_indexed(key, 0)?.1),
            Table::ByName => Ok(keys::read_indexed(key, 1)?.1),
            _ => Ok(keys::read_indexed(key, 2)?.1),
        }
    }

    /// The next rows from a place on, and whether nothing lies behind them.
    pub fn rows(&self, kv: &dyn KvRead, place: &mut Place) -> Result<(Vec<Row>, bool), KvError> {
        place.passed = None;
        match &self.ranges {
            Ranges::One((start, end)) if self.table == Table::ByNode => {
                // A node's own index lacks what is held everywhere; both lie in CID order, so they merge.
                let (mut rows, own_ends) = scan(kv, self.table, &place.from, end.as_deref(), LIST_CHUNK)?;
                let prefix = &start[..self.prefix_len()];
                let from = place.from.get(prefix.len()..).unwrap_or_default();
                let (everywhere, ends) = scan(kv, Table::Everywhere, from, None, LIST_CHUNK)?;
                rows.extend(everywhere.into_iter().map(|row| Row {
                    key: [prefix, &row.key].concat(),
                    value: row.value,
                }));
                rows.sort_unstable_by(|a, b| a.key.cmp(&b.key));
                let is_end = own_ends && ends && rows.len() <= LIST_CHUNK;
                rows.truncate(LIST_CHUNK);
                Ok((rows, is_end))
            }
            Ranges::One((_, end)) => scan(kv, self.table, &place.from, end.as_deref(), LIST_CHUNK),
            Ranges::Cids(cids) => {
                let from = cids.partition_point(|cid| cid.to_bytes() < place.from);
                let rest = &cids[from..];
                let some = rest.iter().take(LIST_CHUNK);
                let row = |cid: &Cid| Row {
                    key: keys::cid(cid),
                    value: Vec::new(),
                };
                Ok((some.map(row).collect(), rest.len() <= LIST_CHUNK))
            }
            Ranges::Each(bounds) => self.rows_of_each(kv, place, bounds),
        }
    }

    fn rows_of_each(
        &self,
        kv: &dyn KvRead,
        place: &mut Place,
        bounds: &dyn Fn(&Namespace) -> Bounds,
    ) -> Result<(Vec<Row>, bool), KvError> {
        let mut rows = Vec::new();
        let mut from = place.from.clone();
        for _ in 0..HOPS_MAX {
            let (next, _) = scan(kv, self.table, &from, None, 1)?;
            let Some(next) = next.first() else {
                return Ok((rows, true));
            };
            let namespace = namespace_of(&next.key)?;
            let (start, end) = bounds(&namespace);
            let (found, is_end) = scan(
                kv,
                self.table,
                &start.max(from),
                end.as_deref(),
                LIST_CHUNK - rows.len(),
            )?;
            rows.extend(found);
            // Cut by count or by bytes: the rest of the namespace comes first, so none is passed over yet.
            if !is_end {
                return Ok((rows, false));
            }
            let prefix = keys::namespace(&namespace);
            let Some(behind) = keys::after_prefix(&prefix) else {
                return Ok((rows, true));
            };
            from = behind;
            // No key is greater within the namespace: texts hold no such byte, and times begin with a zero.
            place.passed = Some([prefix.as_slice(), &[u8::MAX]].concat());
        }
        Ok((rows, false))
    }
}

fn within(prefix: Vec<u8>) -> Bounds {
    let end = keys::after_prefix(&prefix);
    (prefix, end)
}

fn namespace_of(key: &[u8]) -> Result<Namespace, KvError> {
    let end = key.iter().position(|byte| *byte == 0);
    let text = end.and_then(|end| std::str::from_utf8(&key[..end]).ok());
    let namespace = text.filter(|text| !text.is_empty()).map(Namespace::new);
    match namespace {
        Some(Ok(namespace)) => Ok(namespace),
        _ => Err(KvError("a key in the state is damaged: it names no namespace".into())),
    }
}

/// The next rows of a table, by count and bytes, and whether nothing lies behind them.
pub fn scan(
    kv: &dyn KvRead,
    table: Table,
    from: &[u8],
    end: Option<&[u8]>,
    limit: usize,
) -> Result<(Vec<Row>, bool), KvError> {
    let mut rows = Vec::with_capacity(limit.min(LIST_CHUNK));
    if limit == 0 || end.is_some_and(|end| from >= end) {
        return Ok((rows, limit > 0));
    }
    let (mut bytes, mut is_end) = (0, true);
    kv.scan(table, from, end, &mut |key, value| {
        bytes += key.len() + value.len();
        rows.push(Row {
            key: key.to_vec(),
            value: value.to_vec(),
        });
        is_end = rows.len() < limit && bytes < LIST_CHUNK_BYTES;
        is_end
    })?;
    Ok((rows, is_end))
}

/// The first key behind `key`.
pub fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// A cursor is the index and the last place read, in hexadecimal.
pub fn make_cursor(table: Table, key: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(2 + 2 * key.len());
    for byte in std::iter::once(&(table as u8)).chain(key) {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

/// The place that a cursor of this index names.
pub fn read_cursor(cursor: &str, table: Table) -> Result<Vec<u8>, Error> {
    /// The longest keys are those of metadata: a pair of 4,352 bytes, names, and a slot; two digits a byte.
    const CURSOR_CHARS_MAX: usize = 16_384;
    if cursor.len() > CURSOR_CHARS_MAX || !cursor.len().is_multiple_of(2) {
        return Err(bad_cursor(cursor));
    }
    let digit = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let byte = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    let bytes: Option<Vec<u8>> = cursor.as_bytes().chunks_exact(2).map(byte).collect();
    match bytes.as_deref().and_then(<[u8]>::split_first) {
        Some((first, key)) if *first == table as u8 => Ok(key.to_vec()),
        _ => Err(bad_cursor(cursor)),
    }
}

/// The refusal of a cursor.
pub fn bad_cursor(cursor: &str) -> Error {
    Error::invalid(
        "cursor",
        cursor,
        "use the cursor of an earlier answer to the same filter, unchanged",
    )
}
