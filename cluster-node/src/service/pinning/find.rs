//! Which pins a filter of the Pinning Services API finds in the state, from the newest to the oldest. Where they stand is not
//! looked at here.
//!
//! | filter (the first that is given counts) | what is read |
//! |---|---|
//! | CIDs | all pins of these, at most [`LISTED_MAX`] |
//! | a name as it is, metadata | the index of one of them: the shortest, if one of them is short |
//! | else | the pins by time of creation |
//!
//! All indexes have the time of creation behind what they are about, so each gives its pins in the order of the list and a
//! bound in time is a bound of the walk. The pins themselves are read from the table by time, in which the pins of one page lie
//! close to each other.

use std::collections::BTreeMap;

use node_core::pinset::{self, KvError, KvRead, KvWalk, Table, keys};
use node_core::{Cid, Created, Namespace, Pin, PinKey, PinningStatus};

/// Most results of one page.
pub const PINNING_PAGE_MAX: usize = 1_000;

/// Pins that are listed one by one, by their keys: as many as ten CIDs can have.
pub const LISTED_MAX: usize = 10 * pinset::PINS_PER_CID_MAX as usize;

/// Bytes of rows after which a step ends early: pins have up to 48 KiB, and most a few hundred bytes.
const STEP_BYTES: usize = 4 << 20;

/// Pins that are read at a time.
const READ_TOGETHER: usize = 128;

/// Rows of an index that are counted to find out whether it is the short one. Reading them costs less than a millisecond.
const PROBED: usize = 1_000;

/// How a name is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Match {
    /// The whole of it, case counts.
    #[default]
    Exact,
    /// The whole of it, in any case.
    IExact,
    /// A part of it, case counts.
    Partial,
    /// A part of it, in any case.
    IPartial,
}

impl Match {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Exact, Self::IExact, Self::Partial, Self::IPartial];

    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::IExact => "iexact",
            Self::Partial => "partial",
            Self::IPartial => "ipartial",
        }
    }

    /// The kind of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Which names are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameFilter {
    kind: Match,
    /// In lower case where case does not count.
    text: String,
}

impl NameFilter {
    /// Names that match so.
    pub fn new(kind: Match, text: &str) -> Self {
        let text = match kind {
            Match::Exact | Match::Partial => text.to_owned(),
            Match::IExact | Match::IPartial => text.to_lowercase(),
        };
        Self { kind, text }
    }

    /// Whether this name is wanted.
    pub fn wants(&self, name: &str) -> bool {
        match self.kind {
            Match::Exact => name == self.text,
            Match::Partial => name.contains(&self.text),
            Match::IExact => name.to_lowercase() == self.text,
            Match::IPartial => name.to_lowercase().contains(&self.text),
        }
    }
}

/// Which pins of a namespace are wanted. All conditions given must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinningFilter {
    /// Whose.
    pub namespace: Namespace,
    /// Of these CIDs; empty = any.
    pub cids: Vec<Cid>,
    /// Called so.
    pub name: Option<NameFilter>,
    /// With all of these pairs.
    pub metadata: BTreeMap<String, String>,
    /// In one of these states; empty = any.
    pub statuses: Vec<PinningStatus>,
    /// Older than this.
    pub before: Option<Created>,
    /// Newer than this.
    pub after: Option<Created>,
}

impl PinningFilter {
    /// All pins of a namespace.
    pub fn of(namespace: Namespace) -> Self {
        Self {
            namespace,
            cids: Vec::new(),
            name: None,
            metadata: BTreeMap::new(),
            statuses: Vec::new(),
            before: None,
            after: None,
        }
    }

    /// Whether pins in this state are wanted.
    pub fn wants_status(&self, status: PinningStatus) -> bool {
        self.statuses.is_empty() || self.statuses.contains(&status)
    }

    /// Whether the state of a pin decides anything.
    pub fn asks_for_statuses(&self) -> bool {
        !self.statuses.is_empty() && !PinningStatus::ALL.iter().all(|status| self.statuses.contains(status))
    }

    /// Whether a pin is wanted, whatever its state.
    pub fn wants(&self, pin: &Pin) -> bool {
        let created = pin.created();
        pin.key.namespace == self.namespace
            && (self.cids.is_empty() || self.cids.contains(&pin.key.cid))
            && self.name.as_ref().is_none_or(|name| name.wants(&pin.options.name))
            && self
                .metadata
                .iter()
                .all(|(key, value)| pin.options.metadata.get(key) == Some(value))
            && self.before.is_none_or(|before| created < before)
            && self.after.is_none_or(|after| created > after)
    }

    /// The exact name that is asked for.
    fn exact_name(&self) -> Option<&str> {
        let name = self.name.as_ref()?;
        // Pins without a name are in no index of names.
        (name.kind == Match::Exact && !name.text.is_empty()).then_some(name.text.as_str())
    }
}

/// Where pins are looked for.
#[derive(Debug)]
enum Source {
    /// Along an index: what its keys begin with, and how many texts that are.
    Index {
        table: Table,
        prefix: Vec<u8>,
        texts: usize,
    },
    /// These, the newest last.
    Listed(Vec<(Created, PinKey)>),
}

/// A walk from the newest to the oldest pin that a filter finds.
#[derive(Debug)]
pub struct Finder {
    filter: PinningFilter,
    source: Source,
    /// Where the walk ends.
    start: Vec<u8>,
    /// Behind what is read next.
    end: Option<Vec<u8>>,
    /// Nothing is left.
    ended: bool,
}

/// What a step of a walk found.
#[derive(Debug, Default)]
pub struct Step {
    /// In the order of the list.
    pub pins: Vec<Pin>,
    /// Rows that were looked at.
    pub looked_at: usize,
}

impl Finder {
    /// The walk for a filter.
    pub fn new(kv: &dyn KvWalk, filter: PinningFilter) -> Result<Self, KvError> {
        // No pin has it in a name or a pair, and in a key of an index it ends a text.
        let has_nul = |text: &str| text.contains('\0');
        let pairs = filter.metadata.iter().flat_map(|(key, value)| [key, value]);
        if filter
            .name
            .iter()
            .map(|name| &name.text)
            .chain(pairs)
            .any(|text| has_nul(text))
        {
            return Ok(Self::listed(filter, Vec::new()));
        }
        if filter.cids.is_empty() {
            let source = index_for(kv, &filter)?;
            return Ok(Self::along(filter, source));
        }
        let mut pins = Vec::new();
        let mut cids = filter.cids.clone();
        cids.sort_unstable();
        cids.dedup();
        for cid in &cids {
            keys_of(kv, &filter, cid, &mut pins)?;
        }
        Ok(Self::listed(filter, pins))
    }

    /// A walk over pins that are known.
    pub fn listed(filter: PinningFilter, mut pins: Vec<(Created, PinKey)>) -> Self {
        pins.sort_unstable_by(|(a, one), (b, other)| (a, &one.cid).cmp(&(b, &other.cid)));
        Self {
            filter,
            source: Source::Listed(pins),
            start: Vec::new(),
            end: None,
            ended: false,
        }
    }

    fn along(filter: PinningFilter, source: Source) -> Self {
        let (start, end) = match &source {
            Source::Index { prefix, .. } => bounds(&filter, prefix),
            Source::Listed(_) => (Vec::new(), None),
        };
        Self {
            filter,
            source,
            start,
            end,
            ended: false,
        }
    }

    /// Whether nothing is left.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// When the pin was recorded that was looked at last; everything that is left is older.
    pub fn reached(&self) -> Option<Created> {
        let Source::Index { texts, prefix, .. } = &self.source else {
            return None;
        };
        // At the beginning the end is no key of a pin, and does not read as one of this index.
        let key = self.end.as_ref().filter(|key| key.starts_with(prefix))?;
        keys::read_indexed(key, *texts).ok().map(|(created, _)| created)
    }

    /// What is looked for.
    pub fn filter(&self) -> &PinningFilter {
        &self.filter
    }

    /// How many pins are left, if that is known by counting rows of the index, of which at most `most` are looked at; `None` if
    /// there are more, or rows alone do not tell.
    pub fn count_left(&self, kv: &dyn KvWalk, most: usize) -> Result<Option<usize>, KvError> {
        let Source::Index { table, .. } = &self.source else {
            return Ok(None);
        };
        let named = usize::from(self.filter.name.is_some());
        let told = match table {
            Table::ByName => named,
            Table::ByMetadata => 1,
            _ => 0,
        };
        if self.filter.asks_for_statuses() || named + self.filter.metadata.len() > told {
            return Ok(None);
        }
        if self.ended {
            return Ok(Some(0));
        }
        let count = count(kv, *table, &self.start, self.end.as_deref(), most + 1)?;
        Ok((count <= most).then_some(count))
    }

    /// Looks at the next `rows` rows and answers what is wanted among them.
    pub fn step(&mut self, kv: &dyn KvWalk, rows: usize) -> Result<Step, KvError> {
        if self.ended {
            return Ok(Step::default());
        }
        match &mut self.source {
            Source::Listed(keys) => {
                let from = keys.len().saturating_sub(rows);
                let found: Vec<(Created, PinKey)> = keys[from..].iter().rev().cloned().collect();
                let (pins, looked_at) = read_pins(kv, &self.filter, &found)?;
                keys.truncate(keys.len() - looked_at);
                self.ended = keys.is_empty();
                Ok(Step { pins, looked_at })
            }
            Source::Index { table, texts, .. } => {
                let (table, texts) = (*table, *texts);
                self.step_along(kv, table, texts, rows)
            }
        }
    }

    fn step_along(&mut self, kv: &dyn KvWalk, table: Table, texts: usize, rows: usize) -> Result<Step, KvError> {
        let (filter, by_time) = (&self.filter, table == Table::ByCreated);
        let mut step = Step::default();
        let (mut found, mut last, mut failed) = (Vec::new(), None, None);
        let (mut rows_of_index, mut bytes) = (Vec::new(), 0);
        kv.scan_back(table, &self.start, self.end.as_deref(), &mut |key, value| {
            step.looked_at += 1;
            bytes += value.len();
            let is_last = step.looked_at == rows || bytes > STEP_BYTES;
            if is_last {
                last = Some(key.to_vec());
            }
            let read = match by_time {
                true => read_wanted(filter, key, value).map(|pin| step.pins.extend(pin)),
                false => keys::read_indexed(key, texts).map(|of| {
                    found.push(of);
                    rows_of_index.push(key.to_vec());
                }),
            };
            failed = read.err();
            failed.is_none() && !is_last
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if !by_time {
            let (pins, looked_at) = read_pins(kv, filter, &found)?;
            step.pins = pins;
            if looked_at < found.len() {
                last = rows_of_index.into_iter().nth(looked_at - 1);
                step.looked_at = looked_at;
            }
        }
        self.ended = last.is_none();
        // The next walk ends where this one did, with what was read last left out.
        self.end = last.or(self.end.take());
        Ok(step)
    }
}

/// Of a row by time the pin, if it is wanted. Its name is looked at first: of most rows that a part of a name does not fit,
/// nothing else is read.
fn read_wanted(filter: &PinningFilter, key: &[u8], value: &[u8]) -> Result<Option<Pin>, KvError> {
    if let Some(name) = &filter.name
        && !name.wants(&pinset::decode_pin_name(value)?)
    {
        return Ok(None);
    }
    let (_, key) = keys::read_indexed(key, 0)?;
    let pin = pinset::decode_pin(key, value)?;
    Ok(filter.wants(&pin).then_some(pin))
}

/// Of these, in the order of the list, the pins that are wanted, and how many were looked at: not all if the rows are long, at
/// least some if there are any.
fn read_pins(
    kv: &dyn KvWalk,
    filter: &PinningFilter,
    found: &[(Created, PinKey)],
) -> Result<(Vec<Pin>, usize), KvError> {
    let (mut pins, mut looked_at, mut bytes) = (Vec::new(), 0, 0);
    for some in found.chunks(READ_TOGETHER) {
        bytes += pins_at(kv, filter, some, &mut pins)?;
        looked_at += some.len();
        if bytes > STEP_BYTES {
            break;
        }
    }
    Ok((pins, looked_at))
}

/// The pins themselves, from the table in which they lie by time; the bytes of their rows. One that was removed a moment ago is
/// left out.
fn pins_at(
    kv: &dyn KvWalk,
    filter: &PinningFilter,
    found: &[(Created, PinKey)],
    pins: &mut Vec<Pin>,
) -> Result<usize, KvError> {
    // RocksDB finds keys faster in its own order, which is the other way round.
    let rows: Vec<Vec<u8>> = found
        .iter()
        .rev()
        .map(|(created, key)| keys::by_created(key, *created))
        .collect();
    let values = kv.get_many(Table::ByCreated, &rows)?;
    let mut bytes = 0;
    for ((_, key), value) in found.iter().zip(values.into_iter().rev()) {
        let Some(value) = value else { continue };
        bytes += value.len();
        let pin = pinset::decode_pin(key.clone(), &value)?;
        if filter.wants(&pin) {
            pins.push(pin);
        }
    }
    Ok(bytes)
}

/// Adds the pins of a CID in the namespace that are wanted, by their keys; bounded by [`pinset::PINS_PER_CID_MAX`].
pub fn keys_of(
    kv: &dyn KvRead,
    filter: &PinningFilter,
    cid: &Cid,
    found: &mut Vec<(Created, PinKey)>,
) -> Result<(), KvError> {
    let prefix = keys::pin(&PinKey {
        namespace: filter.namespace.clone(),
        cid: *cid,
        slot: String::new(),
    });
    let mut failed = None;
    kv.scan(
        Table::Pins,
        &prefix,
        keys::after_prefix(&prefix).as_deref(),
        &mut |key, value| {
            match keys::read_pin(key).and_then(|key| pinset::decode_pin(key, value)) {
                Ok(pin) if filter.wants(&pin) => found.push((pin.created(), pin.key)),
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
            failed.is_none()
        },
    )?;
    failed.map_or(Ok(()), Err)
}

/// The index to walk along.
fn index_for(kv: &dyn KvWalk, filter: &PinningFilter) -> Result<Source, KvError> {
    let namespace = &filter.namespace;
    let name = filter.exact_name().map(|name| Source::Index {
        table: Table::ByName,
        prefix: keys::named(namespace, name),
        texts: 1,
    });
    let pairs = filter.metadata.iter().map(|(key, value)| Source::Index {
        table: Table::ByMetadata,
        prefix: keys::metadata_pair(namespace, key, value),
        texts: 2,
    });
    let mut candidates: Vec<Source> = name.into_iter().chain(pairs).collect();
    if candidates.len() > 1 {
        let mut best = (PROBED, 0);
        for (at, candidate) in candidates.iter().enumerate() {
            if let Source::Index { table, prefix, .. } = candidate {
                let (start, end) = bounds(filter, prefix);
                best = best.min((count(kv, *table, &start, end.as_deref(), PROBED)?, at));
            }
        }
        return Ok(candidates.swap_remove(best.1));
    }
    let by_time = || Source::Index {
        table: Table::ByCreated,
        prefix: keys::namespace(namespace),
        texts: 0,
    };
    Ok(candidates.pop().unwrap_or_else(by_time))
}

/// Between which keys the pins of the right age lie.
fn bounds(filter: &PinningFilter, prefix: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let start = match filter.after {
        Some(after) => keys::created_at(prefix.to_vec(), Created::from_nanos(after.as_nanos() + 1)),
        None => prefix.to_vec(),
    };
    let end = match filter.before {
        Some(before) => Some(keys::created_at(prefix.to_vec(), before)),
        None => keys::after_prefix(prefix),
    };
    (start, end)
}

/// How many rows there are, at most `most`.
fn count(kv: &dyn KvWalk, table: Table, start: &[u8], end: Option<&[u8]>, most: usize) -> Result<usize, KvError> {
    let mut count = 0;
    kv.scan_back(table, start, end, &mut |_, _| {
        count += 1;
        count < most
    })?;
    Ok(count)
}
