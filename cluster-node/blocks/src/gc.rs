//! Garbage collection: deletes what nothing refers to, a step at a time.
//!
//! ```text
//! step: rows of `meta` and `refs` side by side ─▶ candidates, and what they link to ─▶ writer: still garbage? delete
//!                                     ▲                                                            │
//!                                     └──────── children that nothing refers to any more ◀─────────┘
//! ```
//! There is no mark phase and nothing is locked: a step reads beside all else, and only the writer, which sees all
//! changes in order, decides. So a block is safe from the moment in which something refers to it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use cluster_dag::BLOCK_BYTES_MAX;

use crate::db::{Rows, Shared};
use crate::key::{Key, counted_keys};
use crate::options::{META, REFS};
use crate::rows::{Meta, Refs};
use crate::writer::{Candidate, Collected, Command};
use crate::{BlockStore, Error, Progress};

/// Candidates handed to the writer at a time, and links of them after which no more are added: what it does with them
/// takes it a few milliseconds. One block may have more links by itself, up to 65,536.
const CANDIDATES_MAX: usize = 256;
const LINKS_MAX: usize = 4_096;

/// Children that are to be looked at: about 10 MB. Those beyond are found by going over the rows again.
const FOLLOW_MAX: usize = 100_000;

/// How long a step waits before it looks again whether RocksDB has caught up; longer than a step it does not wait.
const BEHIND_PAUSE: Duration = Duration::from_millis(2);

/// Blocks of which an estimate keeps in mind how many references it has taken away: about 100 MB at most.
const SIMULATED_MAX: usize = 1_000_000;

/// How much one step of upkeep may do. It ends with what is reached first, and does a
/// little in any case; a collection only where RocksDB keeps up with it.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Rows looked at.
    pub keys: usize,
    /// Bytes of blocks read.
    pub bytes: u64,
    /// Time that it takes.
    pub time: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            keys: 20_000,
            bytes: 32 << 20,
            time: Duration::from_millis(50),
        }
    }
}

/// Where a collection is. The default is its beginning.
#[derive(Debug, Clone, Default)]
pub struct GcCursor {
    /// The last row looked at.
    after: Option<Key>,
    follow: Vec<Key>,
    scanned: u64,
    /// Rows were left out because there were too many to follow: another pass is needed.
    again: bool,
    at_end: bool,
}

/// What a step of garbage collection did.
#[derive(Debug, Clone)]
pub struct GcStep {
    /// Where to go on; none: the collection is through.
    pub next: Option<GcCursor>,
    /// How much of the store was gone through since the beginning, from 0 to 1.
    pub done: f64,
    /// Rows looked at in this step.
    pub scanned: u64,
    /// What was deleted in this step.
    pub deleted: Progress,
}

/// What a collection would free.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GcEstimate {
    /// Blocks that nothing refers to, directly or once the others are gone.
    pub garbage: Progress,
    /// How much of the store was looked at, from 0 to 1; the rest is taken to be alike. At 1 the figures are those of this
    /// moment.
    pub looked_at: f64,
}

/// A row in one of the two tables.
struct Row {
    key: Key,
    meta: Option<Meta>,
    refs: Refs,
}

/// Both tables side by side, in order.
struct Scan<'a> {
    metas: Rows<'a>,
    refs: Rows<'a>,
}

impl<'a> Scan<'a> {
    fn new(shared: &'a Shared, after: Option<&Key>) -> Self {
        let [metas, refs] = [META, REFS].map(|table| {
            let mut rows = shared.rows(table, None);
            crate::store::seek_behind(&mut rows, after.map(AsRef::as_ref));
            rows
        });
        Self { metas, refs }
    }

    fn next(&mut self) -> Result<Option<Row>, Error> {
        let (meta, refs) = (self.metas.key(), self.refs.key());
        let Some(key) = meta.into_iter().chain(refs).min() else {
            self.metas.status()?;
            self.refs.status()?;
            return Ok(None);
        };
        let mut row = Row {
            key: Key::from_row(key),
            meta: None,
            refs: Refs::default(),
        };
        if meta == Some(row.key.as_ref()) {
            row.meta = self.metas.value().map(Meta::decode).transpose()?;
            self.metas.next();
        }
        if self.refs.key() == Some(row.key.as_ref()) {
            row.refs = self.refs.value().map(Refs::decode).transpose()?.unwrap_or_default();
            self.refs.next();
        }
        Ok(Some(row))
    }
}

impl Row {
    /// Whether the writer might take something away here.
    fn is_candidate(&self, floor: u64) -> bool {
        let Some(meta) = self.meta else {
            return self.refs.is_zero();
        };
        let idle = self.refs.hard == 0 && meta.epoch < floor && !(meta.lost && meta.has_links());
        idle && (self.refs.direct == 0 || meta.has_links())
    }
}

/// Candidates that are handed in together.
#[derive(Default)]
struct Batch {
    candidates: Vec<Candidate>,
    links: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.candidates.len() >= CANDIDATES_MAX || self.links >= LINKS_MAX
    }
}

impl BlockStore {
    /// One step of garbage collection, from the default cursor on with the `next` of the step before. Blocks the thread.
    ///
    /// A step that is through a part leaves nothing in it that was garbage when it got there, down to the last
    /// descendant. Runs beside adds, walks and other steps; a put waits for one batch of it at most. Blocks whose bytes can't be
    /// read stay, with a log line: a scrub finds them.
    pub fn gc_step(&self, cursor: GcCursor, budget: Budget) -> Result<GcStep, Error> {
        let shared = self.shared();
        let begun = Instant::now();
        let floor = shared.epoch_floor();
        let mut cursor = cursor;
        let (mut scanned, mut read) = (0, 0);
        let mut deleted = Progress::default();
        let mut scan = None;
        let is_spent = |scanned: u64, read: u64| {
            scanned >= budget.keys as u64 || read >= budget.bytes || begun.elapsed() >= budget.time
        };
        loop {
            // Deleting is writing, and more of it than adds do. Where RocksDB can't keep up it makes all writers wait, for
            // seconds; so the collection waits instead.
            while shared.is_behind() && begun.elapsed() < budget.time {
                std::thread::sleep(BEHIND_PAUSE);
            }
            if shared.is_behind() {
                break;
            }
            let mut batch = Batch::default();
            // What was just set free goes first, so that little has to be kept in mind.
            if cursor.follow.is_empty() {
                let rows = scan.get_or_insert_with(|| Scan::new(shared, cursor.after.as_ref()));
                loop {
                    let Some(row) = rows.next()? else {
                        cursor.at_end = true;
                        break;
                    };
                    scanned += 1;
                    cursor.scanned += 1;
                    if row.is_candidate(floor) {
                        read += batch.add(shared, &row)?;
                    }
                    cursor.after = Some(row.key);
                    if batch.is_full() || is_spent(scanned, read) {
                        break;
                    }
                }
            } else {
                let left = usize::try_from((budget.keys as u64).saturating_sub(scanned)).unwrap_or(usize::MAX);
                let from = cursor.follow.len().saturating_sub(left.clamp(1, CANDIDATES_MAX));
                let keys = cursor.follow.split_off(from);
                let (refs, metas) = (shared.refs(&keys)?, shared.metas(&keys)?);
                let mut rows = keys.into_iter().zip(refs).zip(metas);
                for ((key, refs), meta) in rows.by_ref() {
                    scanned += 1;
                    let row = Row { key, meta, refs };
                    if row.is_candidate(floor) {
                        read += batch.add(shared, &row)?;
                    }
                    if batch.is_full() {
                        break;
                    }
                }
                cursor.follow.extend(rows.map(|((key, _), _)| key));
            }
            self.collect(batch, &mut cursor, &mut deleted)?;
            if (cursor.at_end && cursor.follow.is_empty()) || is_spent(scanned, read) {
                break;
            }
        }
        let total = shared.counters.lock().blocks.max(cursor.scanned).max(1);
        let mut done = cursor.scanned as f64 / total as f64;
        let mut next = Some(cursor);
        if let Some(cursor) = next.take_if(|cursor| cursor.at_end && cursor.follow.is_empty()) {
            done = 1.0;
            next = cursor.again.then(GcCursor::default);
        }
        Ok(GcStep {
            next,
            done,
            scanned,
            deleted,
        })
    }

    fn collect(&self, batch: Batch, cursor: &mut GcCursor, deleted: &mut Progress) -> Result<(), Error> {
        if batch.candidates.is_empty() {
            return Ok(());
        }
        let candidates = batch.candidates;
        let freed: Vec<Vec<Key>> = candidates.iter().map(|candidate| candidate.keys.clone()).collect();
        let (results, sum) = self.ask_blocking(|reply| Command::Collect { candidates, reply })?;
        deleted.blocks += sum.blocks;
        deleted.bytes += sum.bytes;
        for (keys, result) in freed.into_iter().zip(results) {
            if !matches!(result, Collected::Deleted | Collected::Uncounted) {
                continue;
            }
            let room = FOLLOW_MAX.saturating_sub(cursor.follow.len());
            // What lies behind the cursor will be come to anyway.
            cursor.again |= keys.len() > room;
            cursor.follow.extend(keys.into_iter().take(room));
        }
        Ok(())
    }

    /// What a collection would free now: a dry run as long as `time` allows, and for the rest of the store the same again.
    /// Keys are hashes, so any part of the store is like the whole. Blocks the thread, changes nothing.
    ///
    /// Of garbage of more than a million blocks it loses track of what is held by several of them, and says too little.
    pub fn gc_estimate(&self, time: Duration) -> Result<GcEstimate, Error> {
        let shared = self.shared();
        let begun = Instant::now();
        let floor = shared.epoch_floor();
        let mut taken: HashMap<Key, i64> = HashMap::new();
        let mut garbage = Progress::default();
        let mut scan = Scan::new(shared, None);
        let (mut scanned, mut through) = (0u64, false);
        while begun.elapsed() < time {
            let Some(row) = scan.next()? else {
                through = true;
                break;
            };
            scanned += u64::from(row.meta.is_some());
            if row.refs.direct != 0 {
                continue;
            }
            let mut stack = vec![row];
            while let Some(row) = stack.pop()
                && begun.elapsed() < time
            {
                let Some(meta) = row.meta.filter(|meta| !meta.lost) else {
                    continue;
                };
                if !row.is_candidate(floor) || row.refs.direct != 0 {
                    continue;
                }
                garbage.blocks += 1;
                garbage.bytes += u64::from(meta.size);
                let mut keys = Vec::new();
                if meta.has_links()
                    && let Some(bytes) = shared.bytes(std::slice::from_ref(&row.key))?.pop().flatten()
                {
                    keys = counted_keys(&row.key, &bytes, meta.counted).unwrap_or_default();
                }
                let (refs, metas) = (shared.refs(&keys)?, shared.metas(&keys)?);
                for ((key, mut refs), meta) in keys.into_iter().zip(refs).zip(metas) {
                    if refs.hard > 1 && taken.len() >= SIMULATED_MAX && !taken.contains_key(&key) {
                        continue;
                    }
                    refs.hard -= if refs.hard == 1 {
                        1
                    } else {
                        let taken = taken.entry(key.clone()).or_default();
                        *taken += 1;
                        *taken
                    };
                    stack.push(Row { key, meta, refs });
                }
            }
        }
        let blocks = shared.counters.lock().blocks.max(1);
        let looked_at = if through {
            1.0
        } else {
            (scanned as f64 / blocks as f64).min(1.0)
        };
        if looked_at > 0.0 && looked_at < 1.0 {
            garbage.blocks = (garbage.blocks as f64 / looked_at) as u64;
            garbage.bytes = (garbage.bytes as f64 / looked_at) as u64;
        }
        Ok(GcEstimate { garbage, looked_at })
    }
}

impl Batch {
    /// Takes a row in, having found what it links to. Returns the bytes read for that.
    fn add(&mut self, shared: &Shared, row: &Row) -> Result<u64, Error> {
        let mut keys = Vec::new();
        let mut read = 0;
        if let Some(meta) = row.meta
            && meta.has_links()
        {
            let bytes = match shared.bytes(std::slice::from_ref(&row.key)) {
                Ok(mut bytes) => bytes.pop().flatten(),
                Err(error) => return unreadable(&row.key, &error),
            };
            // Gone since it was looked at.
            let Some(bytes) = bytes else { return Ok(0) };
            read = bytes.len().min(BLOCK_BYTES_MAX) as u64;
            keys = match counted_keys(&row.key, &bytes, meta.counted) {
                Ok(keys) => keys,
                Err(error) => return unreadable(&row.key, &error),
            };
        }
        self.links += keys.len();
        self.candidates.push(Candidate {
            key: row.key.clone(),
            meta: row.meta,
            keys,
        });
        Ok(read)
    }
}

fn unreadable(key: &Key, error: &Error) -> Result<u64, Error> {
    tracing::warn!(block = %key.to_cid()?, %error, "garbage that can't be read is not collected; scrub the store");
    Ok(0)
}
