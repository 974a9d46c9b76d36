//! What takes blocks away.

use super::group::Group;
use super::{Candidate, Collected};
use crate::db::LOST_PREFIX;
use crate::key::Key;
use crate::options::{BLOCKS, PINS, REFS};
use crate::rows::{Meta, Record, Refs};
use crate::{Error, Progress, State};

impl Group<'_> {
    /// Deletes the candidates that are still garbage. Must be the first of its group: it reads references, which do not
    /// show what a group adds. A reference that an earlier candidate takes from a later one is seen by the next step.
    pub(super) fn collect(&mut self, candidates: Vec<Candidate>) -> Result<(Vec<Collected>, Progress), Error> {
        let keys: Vec<Key> = candidates.iter().map(|candidate| candidate.key.clone()).collect();
        let refs = self.shared.refs(&keys)?;
        let metas = self.shared.metas(&keys)?;
        // Adds that begin from here on find gone what goes here, and put it again.
        let floor = self.shared.epoch_floor();
        let mut deleted = Progress::default();
        let mut out = Vec::with_capacity(candidates.len());
        for ((candidate, refs), meta) in candidates.into_iter().zip(refs).zip(metas) {
            // A candidate may be there twice.
            let meta = self.changed(&candidate.key).unwrap_or(meta);
            let result = if meta != candidate.meta || refs.hard != 0 {
                Collected::Kept
            } else {
                self.collect_one(&candidate, refs, floor)
            };
            if result == Collected::Deleted
                && let Some(meta) = meta.filter(|meta| !meta.lost)
            {
                deleted.blocks += 1;
                deleted.bytes += u64::from(meta.size);
            }
            out.push(result);
        }
        Ok((out, deleted))
    }

    fn collect_one(&mut self, candidate: &Candidate, refs: Refs, floor: u64) -> Collected {
        let (blocks, rows) = (self.shared.table(BLOCKS), self.shared.table(REFS));
        let Some(meta) = candidate.meta else {
            if !refs.is_zero() {
                return Collected::Kept;
            }
            self.batch.delete_cf(rows, &candidate.key);
            return Collected::Cleaned;
        };
        if meta.epoch >= floor || (meta.lost && meta.has_links()) {
            return Collected::Kept;
        }
        if refs.direct != 0 {
            if !meta.has_links() {
                return Collected::Kept;
            }
            self.refer(&candidate.keys, Refs::hard(-1));
            self.set_meta(&candidate.key, Some(Meta { counted: 0, ..meta }));
            return Collected::Uncounted;
        }
        self.refer(&candidate.keys, Refs::hard(-1));
        self.set_meta(&candidate.key, None);
        self.batch.delete_cf(rows, &candidate.key);
        if meta.lost {
            self.counters.lost = self.counters.lost.saturating_sub(1);
        } else {
            self.batch.delete_cf(blocks, &candidate.key);
            self.counters.blocks = self.counters.blocks.saturating_sub(1);
            self.counters.bytes = self.counters.bytes.saturating_sub(u64::from(meta.size));
        }
        Collected::Deleted
    }

    /// Takes a block whose bytes are corrupt for absent. Its row stays, for what it links to is counted. Walks may have
    /// seen it, so all that run begin anew; the complete pins with it are looked for afterwards, and a note of that stays
    /// until it is done.
    pub(super) fn lose(&mut self, key: &Key) -> Result<(), Error> {
        let Some(meta) = self.meta(key)?.filter(|meta| !meta.lost) else {
            return Ok(());
        };
        self.batch.delete_cf(self.shared.table(BLOCKS), key);
        self.set_meta(key, Some(Meta { lost: true, ..meta }));
        self.counters.lost += 1;
        self.counters.blocks = self.counters.blocks.saturating_sub(1);
        self.counters.bytes = self.counters.bytes.saturating_sub(u64::from(meta.size));
        self.note(&[LOST_PREFIX, key.as_ref()].concat(), Some(&[]));
        let mut walking = Vec::new();
        let mut rows = self.shared.rows(PINS, None);
        rows.seek_to_first();
        while let Some((cid, row)) = rows.item() {
            if Record::decode(row)?.state == State::Walking {
                walking.push(crate::store::read_cid(cid)?);
            }
            rows.next();
        }
        rows.status()?;
        for cid in walking {
            self.rewalk(&cid)?;
        }
        Ok(())
    }
}
