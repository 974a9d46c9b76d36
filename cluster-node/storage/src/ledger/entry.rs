//! One record of the ledger and its form on disk.
//!
//! ```text
//! value := form (1 byte, now 1) | prost message
//! ```
//! Tens of millions of entries are `pinned`, so that case is what the form is made for: fields at their default take no
//! byte, and times are kept as distances from `changed`, which for a pinned entry are small or zero.

use node_core::{ErrorClass, PinMode, Status, Timestamp};
use prost::Message;

use super::Error;

/// Bytes of an error text that are kept. The daemon's first words say what went wrong; a million failures must not
/// fill a disk with the rest.
pub const ERROR_BYTES_MAX: usize = 512;

/// The form written by this version.
const FORM: u8 = 1;

/// What a node holds of one CID, as far as this peer saw it, and what is still to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `queued`, `pinned`, `retrying`, `gave_up` or `unpinning`. The other states are never stored: `pinning` is only
    /// true while a request runs.
    pub status: Status,
    /// The mode wanted; once pinned, the mode it was pinned with.
    pub mode: PinMode,
    /// A request that pins it was sent or is about to be: only such a pin is ever removed from the node.
    pub ours: bool,
    /// What the node already held before this peer first touched the CID: a pin made by hand, which stays.
    pub found: Option<PinMode>,
    /// The placement names addresses to connect to or an older version of the content, worth a look before pinning.
    pub hints: bool,
    /// Tries since it was queued or last recovered.
    pub attempts: u32,
    /// When it was first asked for.
    pub first_queued: Timestamp,
    /// When to try next; meaningless for `pinned` and `gave_up`.
    pub next_due: Timestamp,
    /// When the status last changed.
    pub changed: Timestamp,
    /// When the node was last seen to hold it.
    pub pinned_at: Option<Timestamp>,
    /// The daemon's words for the last failure.
    pub error: String,
    /// The class of the last failure.
    pub class: Option<ErrorClass>,
    /// Blocks that the last try walked.
    pub blocks: u64,
    /// Bytes that the last try walked, as far as the daemon reports them.
    pub bytes: u64,
    /// The revision of the pinset whose wish this entry follows.
    pub revision: u64,
}

/// Which queue an entry waits in. Each node serves the lanes side by side, so none holds up another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Never tried.
    Fresh,
    /// Tried and failed.
    Retry,
    /// To be let go of.
    Unpin,
}

impl Lane {
    /// All lanes, in the order of their codes.
    pub const ALL: [Self; 3] = [Self::Fresh, Self::Retry, Self::Unpin];
}

impl Entry {
    /// A CID to be pinned as soon as possible.
    pub fn queued(mode: PinMode, revision: u64, now: Timestamp) -> Self {
        Self {
            status: Status::Queued,
            mode,
            ours: false,
            found: None,
            hints: false,
            attempts: 0,
            first_queued: now,
            next_due: now,
            changed: now,
            pinned_at: None,
            error: String::new(),
            class: None,
            blocks: 0,
            bytes: 0,
            revision,
        }
    }

    /// The queue it waits in; none when nothing is to be done.
    pub fn lane(&self) -> Option<Lane> {
        match self.status {
            Status::Queued => Some(Lane::Fresh),
            Status::Retrying => Some(Lane::Retry),
            Status::Unpinning => Some(Lane::Unpin),
            _ => None,
        }
    }

    /// Whether `status` can be stored.
    pub fn can_store(status: Status) -> bool {
        matches!(
            status,
            Status::Queued | Status::Pinned | Status::Retrying | Status::GaveUp | Status::Unpinning
        )
    }

    /// Cuts the error text to what is kept.
    pub(super) fn normalise(&mut self) {
        if self.error.len() > ERROR_BYTES_MAX {
            self.error.truncate(self.error.floor_char_boundary(ERROR_BYTES_MAX));
            self.error.shrink_to_fit();
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let base = self.changed.as_millis();
        let stored = Stored {
            status: self.status as u32,
            flags: self.flags(),
            changed: base,
            first_queued: distance(self.first_queued, base),
            next_due: if self.lane().is_some() {
                distance(self.next_due, base)
            } else {
                0
            },
            pinned_at: self.pinned_at.map(|at| distance(at, base)),
            attempts: self.attempts,
            class: self.class.map_or(0, |class| class as u32 + 1),
            error: self.error.clone(),
            blocks: self.blocks,
            bytes: self.bytes,
            revision: self.revision,
        };
        out.clear();
        out.push(FORM);
        stored.encode_raw(out);
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, Error> {
        let (&form, rest) = value
            .split_first()
            .ok_or_else(|| Error::Damaged("an entry is empty".into()))?;
        if form != FORM {
            return Err(Error::Newer {
                found: u32::from(form),
                known: u32::from(FORM),
            });
        }
        let stored = Stored::decode(rest).map_err(|error| Error::Damaged(error.to_string()))?;
        let status = usize::try_from(stored.status)
            .ok()
            .and_then(|code| Status::ALL.get(code))
            .copied();
        let status = status
            .filter(|status| Self::can_store(*status))
            .ok_or_else(|| Error::Damaged(format!("status {} is not known", stored.status)))?;
        let class = match stored.class {
            0 => None,
            code => Some(
                ErrorClass::ALL
                    .get(code as usize - 1)
                    .copied()
                    .ok_or_else(|| Error::Damaged(format!("error class {code} is not known")))?,
            ),
        };
        let at = |distance: i64| Timestamp::from_millis(stored.changed.saturating_add_signed(distance));
        let has = |flag: u32| stored.flags & flag != 0;
        let changed = Timestamp::from_millis(stored.changed);
        Ok(Self {
            status,
            mode: if has(DIRECT) {
                PinMode::Direct
            } else {
                PinMode::Recursive
            },
            ours: has(OURS),
            found: match (has(FOUND_RECURSIVE), has(FOUND_DIRECT)) {
                (true, _) => Some(PinMode::Recursive),
                (false, true) => Some(PinMode::Direct),
                (false, false) => None,
            },
            hints: has(HINTS),
            attempts: stored.attempts,
            first_queued: at(stored.first_queued),
            next_due: at(stored.next_due),
            changed,
            pinned_at: stored.pinned_at.map(at),
            class,
            error: stored.error,
            blocks: stored.blocks,
            bytes: stored.bytes,
            revision: stored.revision,
        })
    }

    fn flags(&self) -> u32 {
        let mut flags = 0;
        let mut set = |flag, on| flags |= if on { flag } else { 0 };
        set(DIRECT, self.mode == PinMode::Direct);
        set(OURS, self.ours);
        set(FOUND_RECURSIVE, self.found == Some(PinMode::Recursive));
        set(FOUND_DIRECT, self.found == Some(PinMode::Direct));
        set(HINTS, self.hints);
        flags
    }
}

const DIRECT: u32 = 1;
const OURS: u32 = 2;
const FOUND_RECURSIVE: u32 = 4;
const FOUND_DIRECT: u32 = 8;
const HINTS: u32 = 16;

/// Signed milliseconds from `base` to `at`. Times beyond the range of a signed number do not occur: clocks give
/// milliseconds since 1970.
fn distance(at: Timestamp, base: u64) -> i64 {
    let at = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
    at.saturating_sub(i64::try_from(base).unwrap_or(i64::MAX))
}

#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(uint32, tag = "1")]
    status: u32,
    #[prost(uint32, tag = "2")]
    flags: u32,
    #[prost(uint64, tag = "3")]
    changed: u64,
    #[prost(sint64, tag = "4")]
    first_queued: i64,
    #[prost(sint64, tag = "5")]
    next_due: i64,
    #[prost(sint64, optional, tag = "6")]
    pinned_at: Option<i64>,
    #[prost(uint32, tag = "7")]
    attempts: u32,
    #[prost(uint32, tag = "8")]
    class: u32,
    #[prost(string, tag = "9")]
    error: String,
    #[prost(uint64, tag = "10")]
    blocks: u64,
    #[prost(uint64, tag = "11")]
    bytes: u64,
    #[prost(uint64, tag = "12")]
    revision: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn a_pinned_entry_is_small() {
        let now = 1_790_000_000_000;
        let mut entry = Entry::queued(PinMode::Recursive, 123_456_789, at(now));
        entry.status = Status::Pinned;
        entry.ours = true;
        entry.attempts = 1;
        entry.changed = at(now + 90_000);
        entry.pinned_at = Some(at(now + 90_000));
        entry.next_due = entry.changed;
        (entry.blocks, entry.bytes) = (4_000, 1 << 30);
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        assert!(bytes.len() <= 40, "{} bytes", bytes.len());
        assert_eq!(Entry::decode(&bytes).expect("reads back"), entry);
    }

    #[test]
    fn long_errors_are_cut_between_characters() {
        let mut entry = Entry::queued(PinMode::Direct, 1, at(5));
        entry.error = "ä".repeat(400);
        entry.normalise();
        assert!(entry.error.len() <= ERROR_BYTES_MAX && entry.error.chars().all(|c| c == 'ä'));
    }

    #[test]
    fn damage_and_newer_forms_are_told_apart() {
        assert!(matches!(Entry::decode(&[]), Err(Error::Damaged(_))));
        assert!(matches!(Entry::decode(&[9, 1]), Err(Error::Newer { found: 9, .. })));
        assert!(matches!(Entry::decode(&[1, 8, 6]), Err(Error::Damaged(_))));
        assert!(matches!(Entry::decode(&[1, 64, 99]), Err(Error::Damaged(_))));
    }
}
