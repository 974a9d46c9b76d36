//! One batch in the making.

use std::collections::{BTreeMap, HashMap};

use cluster_dag::{Block, DagError};
use node_core::{Cid, Timestamp};
use rocksdb::WriteBatch;
use tokio::sync::OwnedSemaphorePermit;

use super::{Counted, Incoming, Reply, Seen, Visit};
use crate::db::{COUNTERS_KEY, Shared};
use crate::key::{ALL, Key, Left, Links};
use crate::options::{BLOCKS, KEPT, META, NOTES, PINS, REFS, WALKS};
use crate::rows::{self, Counters, Meta, Record, Refs};
use crate::{Error, Mode, Pin, Progress, State};

/// Rows of a walk up to which they are deleted one by one. A mark that deletes a range is cheaper to write and dearer to
/// read across, and must not be left behind by each of a million small pins.
const ROWS_DELETED_ONE_BY_ONE: u64 = 1_024;

type Then = Box<dyn FnOnce(Result<(), Error>)>;

pub(super) struct Group<'a> {
    pub(super) shared: &'a Shared,
    pub(super) batch: WriteBatch,
    /// Rows already changed by this group: the tables do not show them yet.
    metas: HashMap<Key, Option<Meta>>,
    pins: BTreeMap<Cid, Option<Record>>,
    kept: BTreeMap<Cid, Option<Timestamp>>,
    /// Rows of walks that this group adds.
    walk_rows: HashMap<u64, Vec<Vec<u8>>>,
    pub(super) counters: Counters,
    then: Vec<Then>,
    /// Somebody was promised that it is on disk.
    sync: bool,
    room: Vec<OwnedSemaphorePermit>,
}

/// What a pin refers to, and where its walk begins.
pub(super) struct Roots {
    pub(super) keys: Vec<Key>,
    pub(super) is_direct: bool,
    rows: Vec<(Cid, Left)>,
}

impl Roots {
    /// A pin whose root is an identity CID holds what stands in it.
    pub(super) fn of(cid: &Cid, mode: Mode) -> Result<Self, DagError> {
        let left = match mode {
            Mode::Recursive => ALL,
            Mode::Direct => 0,
            Mode::Depth(depth) => depth,
        };
        let Some(block) = Block::inline(*cid) else {
            return Ok(Self {
                keys: vec![Key::of(cid)],
                is_direct: left == 0,
                rows: vec![(*cid, left)],
            });
        };
        let links = if left == 0 {
            Links::default()
        } else {
            Links::read(cid, block.bytes(), left)?
        };
        Ok(Self {
            keys: links.keys,
            is_direct: left == 0,
            rows: links.children,
        })
    }
}

impl<'a> Group<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            batch: WriteBatch::default(),
            metas: HashMap::new(),
            pins: BTreeMap::new(),
            kept: BTreeMap::new(),
            walk_rows: HashMap::new(),
            counters: *shared.counters.lock(),
            then: Vec::new(),
            sync: false,
            room: Vec::new(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.batch.size_in_bytes()
    }

    /// Called once the group is written, which the next sync makes last.
    pub(super) fn then(&mut self, then: Then) {
        self.then.push(then);
    }

    pub(super) fn hold(&mut self, room: OwnedSemaphorePermit) {
        self.room.push(room);
    }

    /// Answers once the group is on disk.
    pub(super) fn answer<T: 'static>(&mut self, reply: Reply<T>, result: Result<T, Error>) {
        self.sync = true;
        self.tell(reply, result);
    }

    /// Answers once the group is written.
    pub(super) fn tell<T: 'static>(&mut self, reply: Reply<T>, result: Result<T, Error>) {
        // A caller that went away does not undo what it asked for.
        self.then(Box::new(move |written| drop(reply.send(written.and(result)))));
    }

    pub(super) fn commit(mut self) {
        let result = self.write();
        if let Err(error) = &result {
            // The database may or may not have what was in the batch: what is in memory can't be trusted to match, so
            // nothing more is written.
            tracing::error!(%error, "the block store can't write and takes no more");
            *self.shared.fault.lock() = Some(error.to_string());
        }
        // Whoever is answered may look at once, and whoever waits for room may go on.
        self.room.clear();
        for then in self.then.drain(..) {
            then(result.clone());
        }
    }

    fn write(&mut self) -> Result<(), Error> {
        let shared = self.shared;
        let (metas, pins, notes) = (shared.table(META), shared.table(PINS), shared.table(NOTES));
        for (key, meta) in self.metas.drain() {
            match meta {
                Some(meta) => self.batch.put_cf(metas, key, meta.encode()),
                None => self.batch.delete_cf(metas, key),
            }
        }
        for (cid, record) in std::mem::take(&mut self.pins) {
            match record {
                Some(record) => self.batch.put_cf(pins, cid.to_bytes(), record.encode()),
                None => self.batch.delete_cf(pins, cid.to_bytes()),
            }
        }
        for (root, until) in std::mem::take(&mut self.kept) {
            let kept = shared.table(KEPT);
            match until {
                Some(until) => self.batch.put_cf(kept, root.to_bytes(), rows::kept_row(until)),
                None => self.batch.delete_cf(kept, root.to_bytes()),
            }
        }
        if self.batch.is_empty() {
            // What was promised may have been written, unsynced, by a group before.
            return if self.sync { shared.sync() } else { Ok(()) };
        }
        let before = *shared.counters.lock();
        if self.counters != before {
            self.batch.put_cf(notes, COUNTERS_KEY, self.counters.encode());
        }
        shared.write(std::mem::take(&mut self.batch), self.sync)?;
        *shared.counters.lock() = self.counters;
        Ok(())
    }

    pub(super) fn meta(&self, key: &Key) -> Result<Option<Meta>, Error> {
        match self.metas.get(key) {
            Some(meta) => Ok(*meta),
            None => self.shared.meta(key),
        }
    }

    /// The row of a block, when this group has changed it.
    pub(super) fn changed(&self, key: &Key) -> Option<Option<Meta>> {
        self.metas.get(key).copied()
    }

    pub(super) fn set_meta(&mut self, key: &Key, meta: Option<Meta>) {
        self.metas.insert(key.clone(), meta);
    }

    fn record(&self, cid: &Cid) -> Result<Option<Record>, Error> {
        match self.pins.get(cid) {
            Some(record) => Ok(record.clone()),
            None => self.shared.record(cid),
        }
    }

    pub(super) fn refer(&mut self, keys: &[Key], change: [u8; 16]) {
        let refs = self.shared.table(REFS);
        for key in keys {
            self.batch.merge_cf(refs, key, change);
        }
    }

    pub(super) fn note(&mut self, key: &[u8], value: Option<&[u8]>) {
        let notes = self.shared.table(NOTES);
        match value {
            Some(value) => self.batch.put_cf(notes, key, value),
            None => self.batch.delete_cf(notes, key),
        }
    }

    pub(super) fn put(&mut self, blocks: Vec<Incoming>, epoch: Option<u64>) -> Result<(), Error> {
        let keys: Vec<Key> = blocks.iter().map(|block| block.key.clone()).collect();
        let stored = self.shared.metas(&keys)?;
        for (block, stored) in blocks.into_iter().zip(stored) {
            let stored = self.changed(&block.key).unwrap_or(stored);
            self.put_one(block, stored, epoch);
        }
        Ok(())
    }

    fn put_one(&mut self, block: Incoming, stored: Option<Meta>, epoch: Option<u64>) {
        let mut meta = match stored {
            Some(meta) if !meta.lost => meta,
            _ => {
                self.batch.put_cf(self.shared.table(BLOCKS), &block.key, &block.bytes);
                if stored.is_some() {
                    self.counters.lost = self.counters.lost.saturating_sub(1);
                }
                // A block has at most two mebibytes.
                let size = u32::try_from(block.bytes.len()).unwrap_or(u32::MAX);
                self.counters.blocks += 1;
                self.counters.bytes += u64::from(size);
                Meta {
                    lost: false,
                    counted: stored.map_or(0, |meta| meta.counted),
                    size,
                    epoch: epoch.unwrap_or_else(|| self.shared.epoch_now()),
                }
            }
        };
        // Also when something refers to it now: that may be gone before the add is through.
        if let Some(epoch) = epoch {
            meta.epoch = meta.epoch.max(epoch);
        }
        self.count(&mut meta, block.counted);
        if stored != Some(meta) {
            self.set_meta(&block.key, Some(meta));
        }
    }

    /// Counts the links of a block under a codec, unless they are.
    fn count(&mut self, meta: &mut Meta, counted: Option<Counted>) {
        if let Some(Counted { bit, keys }) = counted
            && meta.counted & bit == 0
        {
            meta.counted |= bit;
            self.refer(&keys, Refs::hard(1));
        }
    }

    pub(super) fn pin_begin(&mut self, cid: Cid, mode: Mode, name: String, now: Timestamp) -> Result<Pin, Error> {
        let before = self.record(&cid)?;
        if let Some(record) = &before
            && record.mode == mode
        {
            let mut record = record.clone();
            if record.name != name {
                record.name = name;
                self.pins.insert(cid, Some(record.clone()));
            }
            return Ok(record.to_pin(cid));
        }
        let roots = Roots::of(&cid, mode)?;
        if let Some(before) = &before {
            self.let_go(&cid, before)?;
        }
        self.refer(
            &roots.keys,
            if roots.is_direct {
                Refs::direct(1)
            } else {
                Refs::hard(1)
            },
        );
        let mut record = Record {
            mode,
            state: State::Walking,
            walk: 0,
            frontier: 0,
            visited: 0,
            progress: Progress::default(),
            begun: now,
            completed: Timestamp::ZERO,
            name,
        };
        self.counters.pins += 1;
        self.begin_walk(&mut record, &roots);
        let pin = record.to_pin(cid);
        self.pins.insert(cid, Some(record));
        Ok(pin)
    }

    /// Gives the record a walk that begins at the roots. The caller has cleared the one before.
    fn begin_walk(&mut self, record: &mut Record, roots: &Roots) {
        record.state = State::Walking;
        record.walk = self.shared.id();
        record.progress = Progress::default();
        record.visited = 0;
        record.frontier = roots.rows.len() as u64;
        self.counters.walking += 1;
        let first = self.shared.ids(record.frontier);
        for (place, (cid, left)) in (first..).zip(roots.rows.iter().rev()) {
            self.add_frontier(record.walk, place, cid, *left);
        }
    }

    fn add_frontier(&mut self, walk: u64, place: u64, cid: &Cid, left: Left) {
        let key = rows::frontier_key(walk, place);
        self.batch
            .put_cf(self.shared.table(WALKS), key, rows::frontier_row(cid, left));
        self.walk_rows.entry(walk).or_default().push(key.to_vec());
    }

    pub(super) fn unpin(&mut self, cid: &Cid) -> Result<bool, Error> {
        let Some(record) = self.record(cid)? else {
            return Ok(false);
        };
        self.let_go(cid, &record)?;
        self.pins.insert(*cid, None);
        Ok(true)
    }

    /// Takes back what a pin refers to, and its walk.
    fn let_go(&mut self, cid: &Cid, record: &Record) -> Result<(), Error> {
        let roots = Roots::of(cid, record.mode)?;
        self.refer(
            &roots.keys,
            if roots.is_direct {
                Refs::direct(-1)
            } else {
                Refs::hard(-1)
            },
        );
        self.counters.pins = self.counters.pins.saturating_sub(1);
        self.end_walk(record)
    }

    fn end_walk(&mut self, record: &Record) -> Result<(), Error> {
        if record.state == State::Complete {
            return Ok(());
        }
        self.counters.walking = self.counters.walking.saturating_sub(1);
        let (from, end) = (rows::walk_rows(record.walk), rows::walk_rows(record.walk + 1));
        let added = self.walk_rows.remove(&record.walk).unwrap_or_default();
        let walks = self.shared.table(WALKS);
        if record.frontier + record.visited > ROWS_DELETED_ONE_BY_ONE {
            self.batch.delete_range_cf(walks, from, end);
            return Ok(());
        }
        let mut rows = self.shared.rows_of_walk(&from, &end);
        rows.seek_to_first();
        while let Some(key) = rows.key() {
            self.batch.delete_cf(walks, key);
            rows.next();
        }
        rows.status()?;
        for key in added {
            self.batch.delete_cf(walks, key);
        }
        Ok(())
    }

    /// The record of a pin whose walk has this number.
    fn walked(&self, cid: &Cid, walk: u64) -> Result<Record, Error> {
        match self.record(cid)? {
            Some(record) if record.state == State::Walking && record.walk == walk => Ok(record),
            _ => Err(Error::WalkEnded(Box::new(*cid))),
        }
    }

    /// Returns the places that stay as they are, because what was seen there is not there now.
    pub(super) fn visit(&mut self, cid: &Cid, walk: u64, visits: Vec<Visit>) -> Result<Vec<u64>, Error> {
        let mut record = self.walked(cid, walk)?;
        let keys: Vec<Key> = visits.iter().filter_map(Visit::key).cloned().collect();
        let mut metas = self.shared.metas(&keys)?.into_iter();
        let mut gone = Vec::new();
        for visit in visits {
            let stored = visit.key().and_then(|key| {
                let stored = metas.next().flatten();
                self.changed(key).unwrap_or(stored)
            });
            let (mut skipped, before) = (false, matches!(visit.what, Seen::Before));
            let seen = match visit.what {
                Seen::Fetched(block) => {
                    let bytes = block.bytes.len() as u64;
                    self.put_one(block, stored, None);
                    Progress { blocks: 1, bytes }
                }
                Seen::Present(key, counted) => {
                    let Some(before) = stored.filter(|meta| !meta.lost) else {
                        gone.push(visit.place);
                        continue;
                    };
                    let mut meta = before;
                    self.count(&mut meta, counted);
                    if meta != before {
                        self.set_meta(&key, Some(meta));
                    }
                    Progress {
                        blocks: 1,
                        bytes: u64::from(meta.size),
                    }
                }
                Seen::Pinned(cid) => {
                    let pin = self.record(&cid)?;
                    let complete = pin.filter(|pin| pin.mode == Mode::Recursive && pin.state == State::Complete);
                    let Some(pin) = complete.filter(|_| self.counters.lost == 0) else {
                        gone.push(visit.place);
                        continue;
                    };
                    skipped = true;
                    pin.progress
                }
                Seen::Before => Progress::default(),
            };
            let walks = self.shared.table(WALKS);
            self.batch.delete_cf(walks, rows::frontier_key(walk, visit.place));
            record.frontier = record.frontier.saturating_sub(1);
            if before {
                continue;
            }
            let row = rows::visited_key(walk, &visit.target);
            self.batch.put_cf(walks, &row, rows::visited_row(visit.left, skipped));
            self.walk_rows.entry(walk).or_default().push(row);
            if visit.first {
                record.visited += 1;
                record.progress.blocks += seen.blocks;
                record.progress.bytes += seen.bytes;
            }
            record.frontier += visit.children.len() as u64;
            for (place, child, left) in &visit.children {
                self.add_frontier(walk, *place, child, *left);
            }
        }
        self.pins.insert(*cid, Some(record));
        Ok(gone)
    }

    pub(super) fn finish(&mut self, cid: &Cid, walk: u64, now: Timestamp) -> Result<Pin, Error> {
        let mut record = self.walked(cid, walk)?;
        if record.frontier > 0 {
            return Err(Error::Damaged(format!(
                "the walk of {cid} was called finished with {} rows to go",
                record.frontier
            )));
        }
        self.end_walk(&record)?;
        record.state = State::Complete;
        record.completed = now;
        record.visited = 0;
        let pin = record.to_pin(*cid);
        self.pins.insert(*cid, Some(record));
        // It was kept for this.
        self.keep_no_more(cid)?;
        Ok(pin)
    }

    /// Refers to a root until a time; to one that is kept already for longer.
    pub(super) fn keep(&mut self, root: &Cid, until: Timestamp) -> Result<(), Error> {
        let before = self.kept(root)?;
        if before.is_none() {
            self.refer(&Roots::of(root, Mode::Recursive)?.keys, Refs::hard(1));
        }
        self.kept.insert(*root, Some(before.unwrap_or_default().max(until)));
        Ok(())
    }

    pub(super) fn expire(&mut self, root: &Cid, now: Timestamp) -> Result<(), Error> {
        match self.kept(root)? {
            Some(until) if until <= now => self.keep_no_more(root),
            _ => Ok(()),
        }
    }

    fn keep_no_more(&mut self, root: &Cid) -> Result<(), Error> {
        if self.kept(root)?.is_some() {
            self.refer(&Roots::of(root, Mode::Recursive)?.keys, Refs::hard(-1));
            self.kept.insert(*root, None);
        }
        Ok(())
    }

    fn kept(&self, root: &Cid) -> Result<Option<Timestamp>, Error> {
        match self.kept.get(root) {
            Some(until) => Ok(*until),
            None => self.shared.kept(root),
        }
    }

    /// Lets a pin be walked from its root again. False: there is none.
    pub(super) fn rewalk(&mut self, cid: &Cid) -> Result<bool, Error> {
        let Some(mut record) = self.record(cid)? else {
            return Ok(false);
        };
        self.end_walk(&record)?;
        let roots = Roots::of(cid, record.mode)?;
        self.begin_walk(&mut record, &roots);
        self.pins.insert(*cid, Some(record));
        Ok(true)
    }
}

impl Visit {
    /// The block that is looked up for it.
    fn key(&self) -> Option<&Key> {
        match &self.what {
            Seen::Fetched(block) => Some(&block.key),
            Seen::Present(key, _) => Some(key),
            Seen::Pinned(_) | Seen::Before => None,
        }
    }
}
