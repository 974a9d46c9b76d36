//! Resting blocks: are they still what they were.

use std::collections::HashSet;
use std::time::Instant;

use bytes::Bytes;
use cluster_dag::Block;
use node_core::Cid;

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
}

impl BlockStore {
    /// Re-hashes blocks behind that of `after`, from the beginning when there is none. Blocks the thread.
    ///
    /// Reads of RocksDB are checked against its own checksums besides; what fails there is corrupt too.
    pub fn scrub_step(&self, after: Option<&Cid>, budget: Budget) -> Result<ScrubStep, Error> {
        if after.is_none() {
            self.finish_repairs()?;
        }
        let begun = Instant::now();
        let shared = self.shared();
        let mut step = ScrubStep {
            next: None,
            checked: Progress::default(),
            corrupt: Vec::new(),
        };
        let mut rows = shared.rows(META, None);
        crate::store::seek_behind(&mut rows, after.map(Key::of).as_ref().map(AsRef::as_ref));
        let mut looked_at = 0;
        while let Some((key, row)) = rows.item() {
            let (key, meta) = (Key::from_row(key), Meta::decode(row)?);
            let cid = key.to_cid()?;
            if !meta.lost {
                match verify(shared, &key, cid)? {
                    Verdict::Sound(bytes) => {
                        step.checked.blocks += 1;
                        step.checked.bytes += bytes;
                    }
                    Verdict::Corrupt => step.corrupt.push(cid),
                    Verdict::Gone => {}
                }
            }
            looked_at += 1;
            rows.next();
            let is_spent =
                looked_at >= budget.keys || step.checked.bytes >= budget.bytes || begun.elapsed() >= budget.time;
            if is_spent && rows.valid() {
                step.next = Some(cid);
                break;
            }
        }
        rows.status()?;
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

fn verify(shared: &Shared, key: &Key, cid: Cid) -> Result<Verdict, Error> {
    let row = shared.rocks.get_cf(shared.table(crate::options::BLOCKS), key);
    let stored = match row {
        Ok(Some(bytes)) => {
            let size = bytes.len() as u64;
            if Block::new(cid, Bytes::from(bytes)).is_ok() {
                return Ok(Verdict::Sound(size));
            }
            Verdict::Corrupt
        }
        Ok(None) => Verdict::Corrupt,
        Err(error) if error.kind() == rocksdb::ErrorKind::Corruption => Verdict::Corrupt,
        Err(error) => return Err(error.into()),
    };
    // It may have been deleted since its row was read.
    Ok(match shared.meta(key)? {
        Some(meta) if !meta.lost => stored,
        _ => Verdict::Gone,
    })
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
