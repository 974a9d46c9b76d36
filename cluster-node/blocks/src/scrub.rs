//! Resting blocks: are they still what they were.

use std::collections::HashSet;
use std::time::Instant;

use bytes::Bytes;
use cluster_dag::Block;
use node_core::Cid;
use rocksdb::ErrorKind;

use crate::db::{LOST_PREFIX, Shared};
use crate::key::{Key, RAW_BIT, codec_bit, counted_keys};
use crate::options::{META, NOTES};
use crate::rows::Meta;
use crate::writer::Command;
use crate::{BlockStore, Budget, Error, Progress, State};

/// Blocks of which it is kept in mind that a lost one is not below them: about 60 MB. Beyond that all are forgotten, and
/// looked at again when they are met again.
const CLEARED_MAX: usize = 500_000;

/// Pins read at a time.
const PINS_PAGE: usize = 256;

/// How the system names that a disk can't read a sector, or that a file system found it spoilt: what RocksDB gives as an
/// error of input or output, and not as a failed checksum. Other such errors are of the process or of the moment, as when
/// no more files may be open: to take those for corrupt blocks would throw away sound ones.
const UNREADABLE: [&str; 5] = [
    "Input/output error",
    // The same word of musl.
    "I/O error",
    // What Linux says of a medium when nothing lies between, and of checksums of file systems.
    "No data available",
    "Structure needs cleaning",
    "Bad message",
];

/// What a step of scrubbing found.
#[derive(Debug, Clone)]
pub struct ScrubStep {
    /// Behind which block to go on; none: all were looked at.
    pub next: Option<Cid>,
    /// What was re-hashed in this step.
    pub checked: Progress,
    /// Blocks that are not what they were, or can't be read, as CIDv1 of codec raw; for
    /// [`BlockStore::remove_corrupt`].
    pub corrupt: Vec<Cid>,
    /// What could not be looked at, and was passed over until the next pass; at most one for each row of the budget, and
    /// two.
    pub problems: Vec<Error>,
}

impl BlockStore {
    /// Re-hashes blocks behind that of `after`, from the beginning when there is none. Blocks the thread.
    ///
    /// Reads of RocksDB are checked against its own checksums besides; what fails there is corrupt too, and so is what the
    /// disk can't read twice in a row. One place that can't be read never keeps the rest from being looked at: it is told
    /// in [`ScrubStep::problems`]. Only when nothing behind it can be read either, that is an error.
    pub fn scrub_step(&self, after: Option<&Cid>, budget: Budget) -> Result<ScrubStep, Error> {
        let begun = Instant::now();
        let shared = self.shared();
        let mut step = ScrubStep {
            next: None,
            checked: Progress::default(),
            corrupt: Vec::new(),
            problems: Vec::new(),
        };
        if after.is_none()
            && let Err(error) = self.finish_repairs()
        {
            step.problems.push(error);
        }
        let mut reached = after.map(Key::of);
        let mut rows = shared.rows(META, None);
        crate::store::seek_behind(&mut rows, reached.as_ref().map(AsRef::as_ref));
        let mut looked_at = 0;
        while let Some((key, row)) = rows.item() {
            let key = Key::from_row(key);
            match look(shared, &key, row) {
                Ok((_, Verdict::Sound(bytes))) => {
                    step.checked.blocks += 1;
                    step.checked.bytes += bytes;
                }
                Ok((cid, Verdict::Corrupt)) => step.corrupt.push(cid),
                Ok((_, Verdict::Gone)) => {}
                Err(error) => step.problems.push(error),
            }
            looked_at += 1;
            rows.next();
            let is_spent =
                looked_at >= budget.keys || step.checked.bytes >= budget.bytes || begun.elapsed() >= budget.time;
            // A row without a name is no place to go on behind.
            let next = if is_spent && rows.valid() {
                key.to_cid().ok()
            } else {
                None
            };
            reached = Some(key);
            if next.is_some() {
                step.next = next;
                return Ok(step);
            }
        }
        if let Err(error) = rows.status() {
            step.problems.push(error.into());
            step.next = behind_unreadable(shared, reached.as_ref())?;
        }
        Ok(step)
    }

    /// Removes a block whose bytes are corrupt, so that it is fetched again, and returns the pins that it belongs to: they
    /// are not complete any more, and their walks find it missing. Does nothing to a block that is as it should be, and then
    /// returns none. Blocks the thread, and takes as long as reading every block with links that lies below a pin.
    ///
    /// What the block links to stays counted until it is back. When it never comes back and its pins go, those
    /// references are left over: what it linked to is not collected.
    pub fn remove_corrupt(&self, cid: &Cid) -> Result<Vec<Cid>, Error> {
        let key = Key::of(cid);
        if !matches!(verify(self.shared(), &key, key.to_cid()?)?, Verdict::Corrupt) {
            return Ok(Vec::new());
        }
        tracing::error!(block = %cid, "a stored block is corrupt; it is removed, to be fetched again");
        self.ask_blocking(|reply| Command::Lose { key, reply })?;
        self.finish_repairs()
    }

    /// Finds the pins of lost blocks, also of those lost before a crash.
    fn finish_repairs(&self) -> Result<Vec<Cid>, Error> {
        let shared = self.shared();
        let _one_at_a_time = shared.repairing.lock();
        let mut lost = HashSet::new();
        let mut rows = shared.rows(NOTES, None);
        rows.seek(LOST_PREFIX);
        while let Some(key) = rows.key()
            && let Some(key) = key.strip_prefix(LOST_PREFIX)
        {
            lost.insert(Key::from_row(key));
            rows.next();
        }
        rows.status()?;
        drop(rows);
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        let mut search = Search {
            shared,
            lost: &lost,
            cleared: HashSet::new(),
        };
        let (mut after, mut hit) = (None, Vec::new());
        loop {
            let page = self.pins(after.as_ref(), PINS_PAGE)?;
            for pin in &page {
                if pin.state == State::Complete && search.is_below(&pin.cid)? {
                    let cid = pin.cid;
                    if self.ask_blocking(|reply| Command::Rewalk { cid, reply })? {
                        hit.push(cid);
                    }
                }
            }
            match page.last() {
                Some(last) => after = Some(last.cid),
                None => break,
            }
        }
        for key in lost {
            let key = [LOST_PREFIX, key.as_ref()].concat();
            self.ask_blocking(|reply| Command::Note {
                key,
                value: None,
                reply,
            })?;
        }
        Ok(hit)
    }
}

enum Verdict {
    Sound(u64),
    Corrupt,
    Gone,
}

/// What is to be said of a block by its row.
fn look(shared: &Shared, key: &Key, row: &[u8]) -> Result<(Cid, Verdict), Error> {
    let (cid, meta) = (key.to_cid()?, Meta::decode(row)?);
    let verdict = if meta.lost {
        Verdict::Gone
    } else {
        verify(shared, key, cid)?
    };
    Ok((cid, verdict))
}

fn verify(shared: &Shared, key: &Key, cid: Cid) -> Result<Verdict, Error> {
    // Twice: a cable or a controller may have hiccuped, and a sector that is gone stays gone.
    let row = match read(shared, key) {
        Err(unread) if unread.is_of_the_disk() => read(shared, key),
        row => row,
    };
    let stored = match row {
        Ok(Some(bytes)) => {
            let size = bytes.len() as u64;
            if Block::new(cid, Bytes::from(bytes)).is_ok() {
                return Ok(Verdict::Sound(size));
            }
            Verdict::Corrupt
        }
        Ok(None) => Verdict::Corrupt,
        Err(unread) if unread.kind == ErrorKind::Corruption => Verdict::Corrupt,
        Err(unread) if unread.is_of_the_disk() => {
            tracing::error!(block = %cid, reason = unread.words, "the disk can't read a stored block");
            Verdict::Corrupt
        }
        Err(unread) => return Err(Error::Database(unread.words)),
    };
    // It may have been deleted since its row was read.
    Ok(match shared.meta(key)? {
        Some(meta) if !meta.lost => stored,
        _ => Verdict::Gone,
    })
}

/// Why a block could not be read: RocksDB's error, in parts that a test can make.
#[derive(Debug, Clone)]
pub(crate) struct Unread {
    pub(crate) kind: ErrorKind,
    pub(crate) words: String,
}

impl Unread {
    /// Whether it is of the bytes on the disk, and not of the process or of the moment.
    fn is_of_the_disk(&self) -> bool {
        self.kind == ErrorKind::IOError && UNREADABLE.iter().any(|words| self.words.contains(words))
    }
}

/// The bytes of a block as they lie on the disk.
fn read(shared: &Shared, key: &Key) -> Result<Option<Vec<u8>>, Unread> {
    #[cfg(test)]
    if let Some(unread) = tests::next_failure(key) {
        return Err(unread);
    }
    let row = shared.rocks.get_cf(shared.table(crate::options::BLOCKS), key);
    row.map_err(|error| Unread {
        kind: error.kind(),
        words: error.to_string(),
    })
}

/// The next row that can be read behind some that can't: looked for in steps that double, since how far it is to the next
/// page of the file is not known. Passes over at most twice as many rows as can't be read, and that row itself. None: that
/// was the end of the table.
fn behind_unreadable(shared: &Shared, reached: Option<&Key>) -> Result<Option<Cid>, Error> {
    /// The front of a key that is counted with: two bytes of function and length, and eight of the digest.
    const FRONT: usize = 10;
    const END: u128 = 1 << (8 * FRONT);
    let mut front = [0; 16];
    let known = reached.map(AsRef::as_ref).unwrap_or_default();
    for (to, from) in front[16 - FRONT..].iter_mut().zip(known) {
        *to = *from;
    }
    let begin = u128::from_be_bytes(front);
    // Digests are spread evenly: the first step is over one row.
    let mut jump = u128::from(u64::MAX / shared.usage().blocks.saturating_add(1)).max(1);
    let mut failed = None;
    loop {
        let target = begin + jump;
        if target >= END {
            // Every step failed, or the first one led beyond all keys.
            return failed.map_or(Ok(None), Err);
        }
        let mut rows = shared.rows(META, None);
        rows.seek(&target.to_be_bytes()[16 - FRONT..]);
        if let Some(key) = rows.key() {
            return Ok(Some(Key::from_row(key).to_cid()?));
        }
        match rows.status() {
            Ok(()) => return Ok(None),
            Err(error) => failed = Some(error.into()),
        }
        jump *= 2;
    }
}

/// Looks for lost blocks below roots.
struct Search<'a> {
    shared: &'a Shared,
    lost: &'a HashSet<Key>,
    /// Blocks with links that no lost one is below.
    cleared: HashSet<Key>,
}

impl Search<'_> {
    /// Whether a lost block is, or is below, this one. Goes by the links that are counted, so it may find one below the limit of
    /// a depth-limited pin.
    fn is_below(&mut self, root: &Cid) -> Result<bool, Error> {
        // An open level is a block and what of its children is still to be looked at.
        let mut levels: Vec<(Option<Key>, Vec<Key>)> = Vec::new();
        match Block::inline(*root) {
            None => levels.push((None, vec![Key::of(root)])),
            Some(block) => {
                let bit = codec_bit(root.codec()).unwrap_or(RAW_BIT);
                levels.push((None, counted_keys(&Key::of(root), block.bytes(), bit)?));
            }
        }
        while let Some((_, children)) = levels.last_mut() {
            let Some(key) = children.pop() else {
                if let Some((Some(key), _)) = levels.pop() {
                    if self.cleared.len() >= CLEARED_MAX {
                        self.cleared.clear();
                    }
                    self.cleared.insert(key);
                }
                continue;
            };
            if self.lost.contains(&key) {
                return Ok(true);
            }
            if self.cleared.contains(&key) {
                continue;
            }
            let Some(meta) = self.shared.meta(&key)? else {
                continue;
            };
            if meta.lost {
                // Lost since this search began; it will have one of its own.
                continue;
            }
            if !meta.has_links() {
                continue;
            }
            let keys = match self.shared.bytes(std::slice::from_ref(&key)) {
                Ok(mut bytes) => match bytes.pop().flatten() {
                    Some(bytes) => counted_keys(&key, &bytes, meta.counted),
                    None => Ok(Vec::new()),
                },
                Err(error) => Err(error),
            };
            match keys {
                Ok(keys) => levels.push((Some(key), keys)),
                // Another one that is corrupt: what is below it is not known, and a walk more does no harm.
                Err(error) => {
                    tracing::warn!(block = %key.to_cid()?, %error, "a block can't be read; scrub the store");
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;

    use super::*;

    thread_local! {
        /// How often reads of these blocks fail that scrubbing does on this thread, and as what.
        static FAILURES: RefCell<HashMap<Key, (usize, Unread)>> = RefCell::default();
    }

    /// Lets the next reads of a block by this thread fail as a disk would let them fail.
    pub(crate) fn fail_reads(cid: &Cid, times: usize, words: &str) {
        let unread = Unread {
            kind: ErrorKind::IOError,
            words: format!("IO error: While pread offset 4096 len 8192: /x/000012.sst: {words}"),
        };
        FAILURES.with_borrow_mut(|failures| failures.insert(Key::of(cid), (times, unread)));
    }

    pub(super) fn next_failure(key: &Key) -> Option<Unread> {
        FAILURES.with_borrow_mut(|failures| {
            let (left, unread) = failures.get_mut(key)?;
            *left = left.checked_sub(1)?;
            Some(unread.clone())
        })
    }
}
