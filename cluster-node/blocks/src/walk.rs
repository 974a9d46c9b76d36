//! The walk of a pin: what of its DAG is still to be seen, kept in rows so that a restart goes on where it was.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use cluster_dag::Block;
use node_core::{Cid, Timestamp};
use parking_lot::Mutex;

use crate::key::{ALL, Key, Left, Links, RAW_BIT, codec_bit, target};
use crate::options::{PINS, WALKS};
use crate::rows::{self, Meta, Record};
use crate::store::counted;
use crate::writer::{Command, Counted, Incoming, Seen, Visit};
use crate::{BlockStore, Error, Mode, Pin, Progress, State};

/// Rows of the frontier that are kept in memory: twice this, and what was handed in since. The rest is read when its
/// turn comes.
const HOT_MAX: usize = 2_048;

/// Rows looked at together: enough to share look-ups and a sync, few enough to hold up no other write.
const BATCH: usize = 256;

/// And at least so many, for what is in the store is quickly seen.
const BATCH_MIN: usize = 16;

/// Rows looked at in one call of [`Walk::advance`], so that a caller is not gone for long.
const ADVANCE_MAX: usize = 4_096;

/// Links in a batch after which no more rows are taken into it. One block may have as many by itself.
const BATCH_LINKS_MAX: usize = 8_192;

/// Bytes of blocks read together for their links.
const BATCH_READ_BYTES_MAX: usize = 8 << 20;

/// What [`Walk::advance`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Blocks that are not in the store and have to be fetched. Each is returned once, until it is given back.
    pub missing: Vec<Cid>,
    /// What to do then.
    pub next: Next,
}

/// What to do with a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There is more to look at now: call [`Walk::advance`] again, as soon as more blocks can be fetched.
    Advance,
    /// Nothing can be done before blocks that are out are handed in or given back.
    Wait,
    /// All was seen: call [`Walk::finish`].
    Finish,
}

/// The hold of one pin's walk; each pin has one at a time. It may be used from several threads at once. Dropping it loses
/// nothing: what was handed in is written, and the rest is found again by the next.
///
/// The order is depth-first, in the order of the links, so that few rows wait and a file comes from front to back.
pub struct Walk {
    store: BlockStore,
    cid: Cid,
    walk: u64,
    limited: bool,
    /// One call of `advance` at a time.
    turn: Mutex<()>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Clone, Copy)]
struct Item {
    cid: Cid,
    left: Left,
}

struct Out {
    place: u64,
    item: Item,
    first: bool,
}

struct Inner {
    /// Rows to look at, by place; the last comes first.
    hot: BTreeMap<u64, Item>,
    /// Blocks that the caller fetches, by target.
    out: HashMap<Vec<u8>, Out>,
    /// Targets handed in and not yet on disk, with the depth of their visit, and the places of their rows.
    written: HashMap<Vec<u8>, Left>,
    written_places: HashSet<u64>,
    /// How many visits of what was handed in have reached the disk.
    told: u64,
    /// Rows of places below this may be on disk and not in `hot`; none: there are no such.
    cold: Option<u64>,
    progress: Progress,
    failed: Option<Error>,
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.store.shared().walks.lock().remove(&self.walk);
    }
}

impl BlockStore {
    /// The walk of a pin that is not complete. None: there is no such pin, or it is complete.
    /// [`Error::WalkInUse`] while another has it.
    pub fn walk(&self, cid: &Cid) -> Result<Option<Walk>, Error> {
        let Some(record) = self.shared().record(cid)? else {
            return Ok(None);
        };
        if record.state == State::Complete {
            return Ok(None);
        }
        if !self.shared().walks.lock().insert(record.walk) {
            return Err(Error::WalkInUse(Box::new(*cid)));
        }
        Ok(Some(Walk {
            store: self.clone(),
            cid: *cid,
            walk: record.walk,
            limited: record.mode != Mode::Recursive,
            turn: Mutex::default(),
            inner: Arc::new(Mutex::new(Inner {
                hot: BTreeMap::new(),
                out: HashMap::new(),
                written: HashMap::new(),
                written_places: HashSet::new(),
                told: 0,
                cold: Some(u64::MAX),
                progress: record.progress,
                failed: None,
            })),
        }))
    }
}

impl Walk {
    /// The pin's root.
    pub fn cid(&self) -> Cid {
        self.cid
    }

    /// What was seen so far, with what is on its way to the disk.
    pub fn progress(&self) -> Progress {
        self.inner.lock().progress
    }

    /// Goes on: visits what is in the store, reading links itself, and returns up to `missing_max` blocks (at least one)
    /// that have to be fetched. Looks at a bounded number of rows, so call it again while it says [`Next::Advance`].
    /// Blocks the thread.
    ///
    /// [`Error::Content`] is permanent: a block of this DAG can't be read, or has an unknown codec.
    pub fn advance(&self, missing_max: usize) -> Result<Step, Error> {
        let _turn = self.turn.lock();
        let mut missing = Vec::new();
        let mut looked_at = 0;
        while missing.len() < missing_max.max(1) && looked_at < ADVANCE_MAX {
            self.check()?;
            self.trim()?;
            let batch = self.take(4 * (missing_max.max(1) - missing.len()));
            if batch.is_empty() {
                if self.refill()? {
                    continue;
                }
                break;
            }
            looked_at += batch.len();
            self.look_at(batch, missing_max.max(1), &mut missing)?;
        }
        let inner = self.inner.lock();
        let next = if !inner.hot.is_empty() || inner.cold.is_some() {
            Next::Advance
        } else if inner.out.is_empty() {
            Next::Finish
        } else {
            Next::Wait
        };
        Ok(Step { missing, next })
    }

    /// Hands in fetched blocks. Waits for room in the writer's queue and not for the disk; the next `advance` goes on below
    /// them at once. A write that fails shows in the next call. Blocks that are not out are ignored.
    ///
    /// [`Error::Content`], when the links of a block can't be read, is permanent; the blocks in front of it are taken.
    pub async fn store(&self, blocks: Vec<Block>) -> Result<(), Error> {
        self.check()?;
        for block in blocks {
            let (cid, bytes) = block.into_parts();
            let target = target(&cid);
            let wanted = self.inner.lock().out.get(&target).map(|out| out.item.left);
            let Some(left) = wanted else {
                continue;
            };
            let size = bytes.len() as u64;
            let (counted, children) = links(&cid, &bytes, left)?;
            let block = Incoming {
                key: Key::of(&cid),
                bytes,
                counted,
            };
            let room = self.store.room(std::slice::from_ref(&block)).await?;
            let sender = self.store.sender()?;
            let permit = sender.reserve().await.map_err(|_| self.store.shared().gone())?;
            // Under one lock, so that rows are in memory exactly when they are on their way to the disk, in this order.
            let mut inner = self.inner.lock();
            let Some(Out { place, item, first }) = inner.out.remove(&target) else {
                // Somebody handed it in or gave it back meanwhile.
                continue;
            };
            if item.left != left {
                // Wanted deeper since its links were read. The caller is asked for it again, which is rare and costs little.
                inner.hot.insert(place, item);
                continue;
            }
            if first {
                inner.progress.blocks += 1;
                inner.progress.bytes += size;
            }
            inner.written.insert(target.clone(), item.left);
            inner.written_places.insert(place);
            let children = self.places(children);
            inner.hot.extend(items(&children));
            let shared = Arc::clone(&self.inner);
            let written = target.clone();
            permit.send(Command::Visit {
                cid: self.cid,
                walk: self.walk,
                visits: vec![Visit {
                    place,
                    target,
                    left: item.left,
                    first,
                    what: Seen::Fetched(block),
                    children,
                }],
                room: Some(room),
                told: Box::new(move |result| {
                    let mut inner = shared.lock();
                    inner.written.remove(&written);
                    inner.written_places.remove(&place);
                    inner.told += 1;
                    if let Err(error) = result {
                        inner.failed.get_or_insert(error);
                    }
                }),
            });
        }
        Ok(())
    }

    /// Gives back what could not be fetched: `advance` will return it again.
    pub fn give_back(&self, cids: &[Cid]) {
        let mut inner = self.inner.lock();
        for cid in cids {
            if let Some(out) = inner.out.remove(&target(cid)) {
                inner.hot.insert(out.place, out.item);
            }
        }
    }

    /// Records that the pin is complete, once [`Walk::advance`] said [`Next::Finish`]. When it returns, that and every
    /// block of the pin is synced.
    pub async fn finish(&self, now: Timestamp) -> Result<Pin, Error> {
        self.check()?;
        let (cid, walk) = (self.cid, self.walk);
        self.store.ask(|reply| Command::Finish { cid, walk, now, reply }).await
    }

    fn check(&self) -> Result<(), Error> {
        if let Some(error) = &self.inner.lock().failed {
            return Err(error.clone());
        }
        self.store.sender().map(drop)
    }

    /// Gives rows places behind all others, such that the first is looked at first.
    fn places(&self, children: Vec<(Cid, Left)>) -> Vec<(u64, Cid, Left)> {
        let count = children.len() as u64;
        let end = self.store.shared().ids(count) + count;
        let places = (1..).map(|back| end - back);
        places
            .zip(children)
            .map(|(place, (cid, left))| (place, cid, left))
            .collect()
    }

    /// The rows to look at next. Not many more than are asked for: what turns out to be missing beyond that is looked at
    /// again.
    fn take(&self, wanted: usize) -> Vec<(u64, Item)> {
        let mut inner = self.inner.lock();
        let mut batch = Vec::new();
        while batch.len() < wanted.clamp(BATCH_MIN, BATCH)
            && let Some(row) = inner.hot.pop_last()
        {
            batch.push(row);
        }
        batch
    }

    /// Keeps memory bounded: the rows whose turn comes last stay on disk.
    fn trim(&self) -> Result<(), Error> {
        let last = {
            let inner = self.inner.lock();
            match inner.hot.last_key_value() {
                Some((last, _)) if inner.hot.len() > 2 * HOT_MAX => *last,
                _ => return Ok(()),
            }
        };
        // Only what is on disk may be dropped.
        self.store.ask_blocking(|reply| Command::Barrier { reply })?;
        let mut inner = self.inner.lock();
        let excess = inner.hot.len().saturating_sub(HOT_MAX);
        let mut cold = inner.cold;
        for _ in 0..excess {
            match inner.hot.first_key_value() {
                Some((place, _)) if *place <= last => {
                    cold = Some(cold.unwrap_or(0).max(place + 1));
                    inner.hot.pop_first();
                }
                _ => break,
            }
        }
        inner.cold = cold;
        Ok(())
    }

    /// Reads rows from disk, the last first. False: there are none, and nothing came meanwhile.
    fn refill(&self) -> Result<bool, Error> {
        let (cold, busy) = {
            let inner = self.inner.lock();
            if !inner.hot.is_empty() {
                return Ok(true);
            }
            let Some(cold) = inner.cold else {
                return Ok(false);
            };
            let out = inner.out.values().map(|out| out.place);
            // Taken before the rows are read: what is written in between is not read, or is in here.
            let busy: HashSet<u64> = out.chain(inner.written_places.iter().copied()).collect();
            (cold, busy)
        };
        let (from, end) = (rows::frontier_key(self.walk, 0), rows::frontier_key(self.walk, cold));
        let mut rows = self.store.shared().rows_of_walk(&from, &end);
        rows.seek_to_last();
        let mut found = BTreeMap::new();
        let mut lowest = None;
        while found.len() < HOT_MAX
            && let Some((key, row)) = rows.item()
        {
            if let Some((place, cid, left)) = rows::read_frontier(key, row)? {
                lowest = Some(place);
                if !busy.contains(&place) {
                    found.insert(place, Item { cid, left });
                }
            }
            rows.prev();
        }
        rows.status()?;
        let more = rows.valid();
        let mut inner = self.inner.lock();
        inner.cold = lowest.filter(|_| more);
        // What was given back meanwhile may be among them; it is the same.
        inner.hot.extend(found);
        Ok(!inner.hot.is_empty())
    }

    fn look_at(&self, batch: Vec<(u64, Item)>, missing_max: usize, missing: &mut Vec<Cid>) -> Result<(), Error> {
        let result = self.try_look_at(&batch, missing_max, missing);
        if result.is_err() {
            // The walk goes on where it was, should the caller try again.
            let mut inner = self.inner.lock();
            let out: HashSet<u64> = inner.out.values().map(|out| out.place).collect();
            inner
                .hot
                .extend(batch.into_iter().filter(|(place, _)| !out.contains(place)));
        }
        result
    }

    fn try_look_at(&self, batch: &[(u64, Item)], missing_max: usize, missing: &mut Vec<Cid>) -> Result<(), Error> {
        let shared = self.store.shared();
        let mut look = Look::new(self, batch)?;
        for (at, (place, item)) in batch.iter().enumerate() {
            let before = look.before(at);
            if before.is_some_and(|left| left >= item.left) {
                look.push(at, Seen::Before, Vec::new(), Progress::default());
                continue;
            }
            if let Some(progress) = look.pinned[at] {
                look.push(at, Seen::Pinned(item.cid), Vec::new(), progress);
                continue;
            }
            let Some(meta) = look.metas[at].filter(|meta| !meta.lost) else {
                self.look_for_missing(&mut look, at, missing_max, missing)?;
                continue;
            };
            if look.links >= BATCH_LINKS_MAX || look.read >= BATCH_READ_BYTES_MAX {
                look.back.push((*place, *item));
                continue;
            }
            let size = Progress {
                blocks: 1,
                bytes: u64::from(meta.size),
            };
            let (counted, children) = if item.left == 0 {
                (None, Vec::new())
            } else if codec_bit(item.cid.codec()) == Some(RAW_BIT) {
                (counted(&item.cid, Vec::new()), Vec::new())
            } else {
                look.read += meta.size as usize;
                let key = &look.keys[at];
                let Some(bytes) = shared.bytes(std::slice::from_ref(key))?.pop().flatten() else {
                    if shared.meta(key)? == Some(meta) {
                        return Err(Error::Damaged(format!("{} has a row and no bytes", item.cid)));
                    }
                    look.back.push((*place, *item));
                    continue;
                };
                links(&item.cid, &bytes, item.left)?
            };
            let seen = Seen::Present(look.keys[at].clone(), counted);
            look.push(at, seen, self.places(children), size);
        }
        self.inner.lock().hot.append(&mut look.back.drain(..).collect());
        self.send(look)
    }

    /// A row whose block is not stored: it is returned to the caller, is out already, or has been handed in just now.
    fn look_for_missing(
        &self,
        look: &mut Look<'_>,
        at: usize,
        missing_max: usize,
        missing: &mut Vec<Cid>,
    ) -> Result<(), Error> {
        let (place, item) = look.batch[at];
        let target = &look.targets[at];
        let mut inner = self.inner.lock();
        let mut handed_in = inner.written.get(target).copied();
        if handed_in.is_none() && inner.told != look.told {
            let row = rows::visited_key(self.walk, target);
            let row = self.store.shared().many(WALKS, &[row], rows::read_visited)?;
            handed_in = row[0].map(|(left, _)| left);
        }
        // A visit that goes deeper than the one before is not the first.
        let known = look.before(at);
        if let Some(left) = handed_in
            && known.is_none_or(|known| known < left)
        {
            drop(inner);
            if left >= item.left {
                look.push(at, Seen::Before, Vec::new(), Progress::default());
            } else {
                look.back.push((place, item));
            }
            return Ok(());
        }
        if let Some(out) = inner.out.get_mut(target) {
            // One row is enough for both: the one that goes deeper.
            let mut other = (place, item);
            if item.left > out.item.left {
                other = (out.place, out.item);
                (out.place, out.item.left) = (place, item.left);
            }
            drop(inner);
            look.push_before(at, other);
        } else if missing.len() < missing_max {
            missing.push(item.cid);
            let first = known.is_none();
            inner.out.insert(target.clone(), Out { place, item, first });
        } else {
            drop(inner);
            look.back.push((place, item));
        }
        Ok(())
    }

    /// What complete recursive pins hold whose roots are among the rows.
    fn pinned(&self, batch: &[(u64, Item)]) -> Result<Vec<Option<Progress>>, Error> {
        let shared = self.store.shared();
        let mut pinned = vec![None; batch.len()];
        let counters = *shared.counters.lock();
        // While blocks are lost, a pin that is called complete may not be.
        if self.limited || counters.lost > 0 || counters.pins <= 1 {
            return Ok(pinned);
        }
        let worth = |item: &Item| item.left == ALL && codec_bit(item.cid.codec()) != Some(RAW_BIT);
        let asked: Vec<usize> = (0..batch.len()).filter(|at| worth(&batch[*at].1)).collect();
        let keys: Vec<Vec<u8>> = asked.iter().map(|at| batch[*at].1.cid.to_bytes()).collect();
        for (at, record) in asked.into_iter().zip(shared.many(PINS, &keys, Record::decode)?) {
            pinned[at] = record
                .filter(|record| record.mode == Mode::Recursive && record.state == State::Complete)
                .map(|record| record.progress);
        }
        Ok(pinned)
    }

    /// Writes visits of what was in the store, and waits for it: the next look goes to the disk.
    fn send(&self, look: Look<'_>) -> Result<(), Error> {
        if look.visits.is_empty() {
            return Ok(());
        }
        let found = look.found;
        let (cid, walk) = (self.cid, self.walk);
        let gone = self.store.ask_blocking(|reply| Command::Visit {
            cid,
            walk,
            visits: look.visits,
            room: None,
            told: Box::new(move |result| drop(reply.send(result))),
        })?;
        let mut inner = self.inner.lock();
        for (place, found) in found {
            if gone.contains(&place) {
                inner.hot.insert(place, found.item);
                continue;
            }
            inner.hot.extend(found.children);
            inner.progress.blocks += found.progress.blocks;
            inner.progress.bytes += found.progress.bytes;
        }
        Ok(())
    }
}

/// One look at a batch of rows.
struct Look<'a> {
    batch: &'a [(u64, Item)],
    keys: Vec<Key>,
    targets: Vec<Vec<u8>>,
    /// How many visits had been told of when it began.
    told: u64,
    written: Vec<Option<Left>>,
    visited: Vec<Option<Left>>,
    metas: Vec<Option<Meta>>,
    pinned: Vec<Option<Progress>>,
    visits: Vec<Visit>,
    found: Vec<(u64, Found)>,
    /// Rows for another time.
    back: Vec<(u64, Item)>,
    /// With which depth targets are among the visits.
    seen: HashMap<Vec<u8>, Left>,
    links: usize,
    read: usize,
}

/// What a visit changes in memory once it is written.
struct Found {
    item: Item,
    children: Vec<(u64, Item)>,
    progress: Progress,
}

impl<'a> Look<'a> {
    fn new(walk: &Walk, batch: &'a [(u64, Item)]) -> Result<Self, Error> {
        let shared = walk.store.shared();
        let keys: Vec<Key> = batch.iter().map(|(_, item)| Key::of(&item.cid)).collect();
        let targets: Vec<Vec<u8>> = batch.iter().map(|(_, item)| target(&item.cid)).collect();
        // What is handed in is looked up before what is on disk: in between it may move from the one to the other.
        let (told, written) = {
            let inner = walk.inner.lock();
            let written = targets.iter().map(|target| inner.written.get(target).copied());
            (inner.told, written.collect())
        };
        let rows: Vec<Vec<u8>> = targets
            .iter()
            .map(|target| rows::visited_key(walk.walk, target))
            .collect();
        let visited = shared.many(WALKS, &rows, rows::read_visited)?;
        Ok(Self {
            metas: shared.metas(&keys)?,
            pinned: walk.pinned(batch)?,
            visited: visited.into_iter().map(|row| row.map(|(left, _)| left)).collect(),
            batch,
            keys,
            targets,
            told,
            written,
            visits: Vec::new(),
            found: Vec::new(),
            back: Vec::new(),
            seen: HashMap::new(),
            links: 0,
            read: 0,
        })
    }

    /// The greatest depth with which the target of a row was visited before.
    fn before(&self, at: usize) -> Option<Left> {
        let seen = self.seen.get(&self.targets[at]).copied();
        self.visited[at].max(self.written[at]).max(seen)
    }

    fn push(&mut self, at: usize, what: Seen, children: Vec<(u64, Cid, Left)>, progress: Progress) {
        let (place, item) = self.batch[at];
        let first = self.before(at).is_none();
        if !matches!(what, Seen::Before) {
            self.seen.insert(self.targets[at].clone(), item.left);
        }
        self.links += children.len();
        self.found.push((
            place,
            Found {
                item,
                children: items(&children),
                progress: if first { progress } else { Progress::default() },
            },
        ));
        self.visits.push(Visit {
            place,
            target: self.targets[at].clone(),
            left: item.left,
            first,
            what,
            children,
        });
    }

    /// A row that is not needed, having the target of row `at`.
    fn push_before(&mut self, at: usize, (place, item): (u64, Item)) {
        self.visits.push(Visit {
            place,
            target: self.targets[at].clone(),
            left: item.left,
            first: false,
            what: Seen::Before,
            children: Vec::new(),
        });
    }
}

fn items(children: &[(u64, Cid, Left)]) -> Vec<(u64, Item)> {
    let item = |(place, cid, left): &(u64, Cid, Left)| (*place, Item { cid: *cid, left: *left });
    children.iter().map(item).collect()
}

/// Links to count and to follow. A block at the limit of depth needs neither, nor to be readable.
fn links(cid: &Cid, bytes: &[u8], left: Left) -> Result<(Option<Counted>, Vec<(Cid, Left)>), Error> {
    if left == 0 {
        return Ok((None, Vec::new()));
    }
    let links = Links::read(cid, bytes, left)?;
    Ok((counted(cid, links.keys), links.children))
}
