//! The form of an entry on disk.
//!
//! ```text
//! value := form (1 byte, now 1) | prost message
//! ```
//! Tens of millions of entries are `pinned`, so that case is what the form is made for: fields at their default take no
//! byte, and times are kept as distances from `changed`, which for a pinned entry are small or zero.

use node_core::reconcile::Entry;
use node_core::{ErrorClass, PinMode, Status, Timestamp};
use prost::Message;

use super::Error;

/// Bytes of an error text that are kept. The daemon's first words say what went wrong; a million failures must not
/// fill a disk with the rest.
pub const ERROR_BYTES_MAX: usize = 512;

/// The form written by this version.
const FORM: u8 = 1;

/// Cuts the error text to what is kept.
pub(super) fn normalise(entry: &mut Entry) {
    if entry.error.len() > ERROR_BYTES_MAX {
        entry.error.truncate(entry.error.floor_char_boundary(ERROR_BYTES_MAX));
        entry.error.shrink_to_fit();
    }
}

pub(super) fn encode(entry: &Entry, out: &mut Vec<u8>) {
    let base = entry.changed.as_millis();
    let stored = Stored {
        status: entry.status as u32,
        flags: flags(entry),
        changed: base,
        first_queued: distance(entry.first_queued, base),
        next_due: if entry.lane().is_some() {
            distance(entry.next_due, base)
        } else {
            0
        },
        pinned_at: entry.pinned_at.map(|at| distance(at, base)),
        attempts: entry.attempts,
        class: entry.class.map_or(0, |class| class as u32 + 1),
        error: entry.error.clone(),
        blocks: entry.blocks,
        bytes: entry.bytes,
        revision: entry.revision,
        first_failed: entry.first_failed.map(|at| distance(at, base)),
    };
    out.clear();
    out.push(FORM);
    stored.encode_raw(out);
}

pub(super) fn decode(value: &[u8]) -> Result<Entry, Error> {
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
        .filter(|status| Entry::can_store(*status))
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
    Ok(Entry {
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
        look_again: has(LOOK_AGAIN),
        attempts: stored.attempts,
        first_queued: at(stored.first_queued),
        first_failed: stored.first_failed.map(at),
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

fn flags(entry: &Entry) -> u32 {
    let mut flags = 0;
    let mut set = |flag, on| flags |= if on { flag } else { 0 };
    set(DIRECT, entry.mode == PinMode::Direct);
    set(OURS, entry.ours);
    set(FOUND_RECURSIVE, entry.found == Some(PinMode::Recursive));
    set(FOUND_DIRECT, entry.found == Some(PinMode::Direct));
    set(HINTS, entry.hints);
    set(LOOK_AGAIN, entry.look_again);
    flags
}
const DIRECT: u32 = 1;
const OURS: u32 = 2;
const FOUND_RECURSIVE: u32 = 4;
const FOUND_DIRECT: u32 = 8;
const HINTS: u32 = 16;
const LOOK_AGAIN: u32 = 32;

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
    // Absent in entries written before it was known.
    #[prost(sint64, optional, tag = "13")]
    first_failed: Option<i64>,
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
        encode(&entry, &mut bytes);
        assert!(bytes.len() <= 40, "{} bytes", bytes.len());
        assert_eq!(decode(&bytes).expect("reads back"), entry);
    }

    #[test]
    fn what_a_failed_entry_remembers_reads_back_and_old_entries_lack_it() {
        let mut entry = Entry::queued(PinMode::Recursive, 1, at(7_000));
        let mut bytes = Vec::new();
        encode(&entry, &mut bytes);
        assert_eq!(decode(&bytes).expect("reads back").first_failed, None);
        entry.status = Status::Retrying;
        entry.look_again = true;
        entry.first_failed = Some(at(6_000));
        encode(&entry, &mut bytes);
        assert_eq!(decode(&bytes).expect("reads back"), entry);
    }

    #[test]
    fn long_errors_are_cut_between_characters() {
        let mut entry = Entry::queued(PinMode::Direct, 1, at(5));
        entry.error = "ä".repeat(400);
        normalise(&mut entry);
        assert!(entry.error.len() <= ERROR_BYTES_MAX && entry.error.chars().all(|c| c == 'ä'));
    }

    #[test]
    fn damage_and_newer_forms_are_told_apart() {
        assert!(matches!(decode(&[]), Err(Error::Damaged(_))));
        assert!(matches!(decode(&[9, 1]), Err(Error::Newer { found: 9, .. })));
        assert!(matches!(decode(&[1, 8, 6]), Err(Error::Damaged(_))));
        assert!(matches!(decode(&[1, 64, 99]), Err(Error::Damaged(_))));
    }
}
