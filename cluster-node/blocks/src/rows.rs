//! What stands in the rows of the tables.

use node_core::{Cid, Timestamp};
use rocksdb::MergeOperands;

use crate::key::Left;
use crate::{Error, Mode, Pin, Progress, State};

/// The row of a block in `meta`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    /// The block is gone because its bytes were corrupt. What it links to is still counted, since that can't be read
    /// any more; the next put of it brings it back.
    pub(crate) lost: bool,
    /// Codecs under which its links are counted; see `key::codecs`.
    pub(crate) counted: u8,
    /// Its length in bytes.
    pub(crate) size: u32,
    /// The add under which it was put last, or the time between adds; only blocks older than every open add are
    /// collected.
    pub(crate) epoch: u64,
}

impl Meta {
    /// Whether it gives references.
    pub(crate) fn has_links(self) -> bool {
        self.counted & !crate::key::RAW_BIT != 0
    }

    pub(crate) fn encode(self) -> [u8; 14] {
        let mut row = [0; 14];
        row[0] = u8::from(self.lost);
        row[1] = self.counted;
        row[2..6].copy_from_slice(&self.size.to_le_bytes());
        row[6..].copy_from_slice(&self.epoch.to_le_bytes());
        row
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Self, Error> {
        let wrong = || Error::Damaged(format!("the row of a block has {} bytes", row.len()));
        let row: &[u8; 14] = row.try_into().map_err(|_| wrong())?;
        Ok(Self {
            lost: row[0] != 0,
            counted: row[1],
            size: u32::from_le_bytes([row[2], row[3], row[4], row[5]]),
            epoch: number(&row[6..]),
        })
    }
}

/// The row of a block in `refs`. Also what is merged into it: a change of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Refs {
    /// Recursive and depth-limited pins of it, and stored blocks with counted links to it.
    pub(crate) hard: i64,
    /// Pins of it that hold nothing below it.
    pub(crate) direct: i64,
}

impl Refs {
    pub(crate) fn hard(change: i64) -> [u8; 16] {
        Self {
            hard: change,
            direct: 0,
        }
        .encode()
    }

    pub(crate) fn direct(change: i64) -> [u8; 16] {
        Self {
            hard: 0,
            direct: change,
        }
        .encode()
    }

    pub(crate) fn encode(self) -> [u8; 16] {
        let mut row = [0; 16];
        row[..8].copy_from_slice(&self.hard.to_le_bytes());
        row[8..].copy_from_slice(&self.direct.to_le_bytes());
        row
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Self, Error> {
        Self::read(row).ok_or_else(|| Error::Damaged(format!("a row of references has {} bytes", row.len())))
    }

    fn read(row: &[u8]) -> Option<Self> {
        let row: &[u8; 16] = row.try_into().ok()?;
        Some(Self {
            hard: number(&row[..8]).cast_signed(),
            direct: number(&row[8..]).cast_signed(),
        })
    }

    pub(crate) fn is_zero(self) -> bool {
        self == Self::default()
    }
}

/// The merge operator of `refs`: changes add up. Also joins changes that have no row yet. None, which RocksDB reports as
/// corruption, when a row is not of this form.
pub(crate) fn merge(_key: &[u8], row: Option<&[u8]>, changes: &MergeOperands) -> Option<Vec<u8>> {
    let mut sum = Refs::default();
    for change in row.into_iter().chain(changes) {
        let change = Refs::read(change)?;
        sum.hard = sum.hard.checked_add(change.hard)?;
        sum.direct = sum.direct.checked_add(change.direct)?;
    }
    Some(sum.encode().to_vec())
}

/// The row of a pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) mode: Mode,
    pub(crate) state: State,
    /// Under which number its walk has its rows.
    pub(crate) walk: u64,
    /// Rows of its frontier.
    pub(crate) frontier: u64,
    /// Rows of what it visited.
    pub(crate) visited: u64,
    pub(crate) progress: Progress,
    pub(crate) begun: Timestamp,
    pub(crate) completed: Timestamp,
    pub(crate) name: String,
}

const RECORD_FORM: u8 = 1;
const RECORD_HEAD: usize = 1 + 1 + 4 + 1 + 7 * 8;

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(RECORD_HEAD + self.name.len());
        let (mode, depth) = match self.mode {
            Mode::Recursive => (0, 0),
            Mode::Direct => (1, 0),
            Mode::Depth(depth) => (2, depth),
        };
        row.extend([RECORD_FORM, mode]);
        row.extend(depth.to_le_bytes());
        row.push(u8::from(self.state == State::Complete));
        for number in [
            self.walk,
            self.frontier,
            self.visited,
            self.progress.blocks,
            self.progress.bytes,
            self.begun.as_millis(),
            self.completed.as_millis(),
        ] {
            row.extend(number.to_le_bytes());
        }
        row.extend(self.name.as_bytes());
        row
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Damaged(format!("the row of a pin has {what}"));
        let Some((head, name)) = row.split_at_checked(RECORD_HEAD) else {
            return Err(wrong("too few bytes"));
        };
        if head[0] != RECORD_FORM {
            return Err(wrong("an unknown form"));
        }
        let depth = u32::from_le_bytes([head[2], head[3], head[4], head[5]]);
        let mode = match head[1] {
            0 => Mode::Recursive,
            1 => Mode::Direct,
            2 => Mode::Depth(depth),
            _ => return Err(wrong("an unknown mode")),
        };
        let field = |place: usize| number(&head[7 + 8 * place..]);
        Ok(Self {
            mode,
            state: if head[6] == 0 { State::Walking } else { State::Complete },
            walk: field(0),
            frontier: field(1),
            visited: field(2),
            progress: Progress {
                blocks: field(3),
                bytes: field(4),
            },
            begun: Timestamp::from_millis(field(5)),
            completed: Timestamp::from_millis(field(6)),
            name: String::from_utf8(name.to_vec()).map_err(|_| wrong("a name that is no text"))?,
        })
    }

    pub(crate) fn to_pin(&self, cid: Cid) -> Pin {
        Pin {
            cid,
            mode: self.mode,
            name: self.name.clone(),
            state: self.state,
            progress: self.progress,
            begun: self.begun,
            completed: self.completed,
        }
    }
}

/// What is counted of the whole store, written with every batch that changes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
    pub(crate) pins: u64,
    pub(crate) walking: u64,
    pub(crate) lost: u64,
}

impl Counters {
    pub(crate) fn encode(self) -> Vec<u8> {
        let fields = [self.blocks, self.bytes, self.pins, self.walking, self.lost];
        fields.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Self, Error> {
        if row.len() != 40 {
            return Err(Error::Damaged(format!("the row of counts has {} bytes", row.len())));
        }
        let field = |place: usize| number(&row[8 * place..]);
        Ok(Self {
            blocks: field(0),
            bytes: field(1),
            pins: field(2),
            walking: field(3),
            lost: field(4),
        })
    }
}

/// Until when a root is kept.
pub(crate) fn kept_row(until: Timestamp) -> [u8; 8] {
    until.as_millis().to_le_bytes()
}

pub(crate) fn read_kept(row: &[u8]) -> Result<Timestamp, Error> {
    let millis = row.try_into().map(u64::from_le_bytes);
    let millis = millis.map_err(|_| Error::Damaged(format!("the row of a kept root has {} bytes", row.len())))?;
    Ok(Timestamp::from_millis(millis))
}

const FRONTIER: u8 = b'f';
const VISITED: u8 = b'v';

/// Beginning of all rows of a walk; that of the next number is where they end.
pub(crate) fn walk_rows(walk: u64) -> [u8; 8] {
    walk.to_be_bytes()
}

/// Row of a walk's frontier. What came last has the largest number and is taken first, so the walk goes down before it
/// goes on and few rows wait.
pub(crate) fn frontier_key(walk: u64, place: u64) -> [u8; 17] {
    let mut key = [0; 17];
    key[..8].copy_from_slice(&walk.to_be_bytes());
    key[8] = FRONTIER;
    key[9..].copy_from_slice(&place.to_be_bytes());
    key
}

pub(crate) fn frontier_row(cid: &Cid, left: Left) -> Vec<u8> {
    let mut row = left.to_le_bytes().to_vec();
    row.extend(cid.to_bytes());
    row
}

/// Place, CID and depth of a frontier row; none for rows of what was visited.
pub(crate) fn read_frontier(key: &[u8], row: &[u8]) -> Result<Option<(u64, Cid, Left)>, Error> {
    if key.len() != 17 || key[8] != FRONTIER {
        return Ok(None);
    }
    let wrong = || Error::Damaged("a row of a walk's frontier is cut".into());
    let (left, cid) = row.split_first_chunk::<4>().ok_or_else(wrong)?;
    let cid = Cid::from_bytes(cid).map_err(|_| wrong())?;
    let place = key.last_chunk::<8>().map_or(0, |place| u64::from_be_bytes(*place));
    Ok(Some((place, cid, Left::from_le_bytes(*left))))
}

pub(crate) fn visited_key(walk: u64, target: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + target.len());
    key.extend(walk.to_be_bytes());
    key.push(VISITED);
    key.extend(target);
    key
}

/// The depth with which it was visited, and whether what is below it was skipped, being a complete pin of its own.
pub(crate) fn visited_row(left: Left, skipped: bool) -> [u8; 5] {
    let [a, b, c, d] = left.to_le_bytes();
    [a, b, c, d, u8::from(skipped)]
}

pub(crate) fn read_visited(row: &[u8]) -> Result<(Left, bool), Error> {
    match row {
        [a, b, c, d, skipped] => Ok((Left::from_le_bytes([*a, *b, *c, *d]), *skipped != 0)),
        _ => Err(Error::Damaged("a row of what a walk visited is cut".into())),
    }
}

/// The target of a visited row; none for rows of the frontier.
pub(crate) fn read_visited_key(key: &[u8]) -> Option<&[u8]> {
    (key.get(8) == Some(&VISITED)).then(|| &key[9..])
}

/// The number in the first eight bytes of a part whose length was checked.
fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
