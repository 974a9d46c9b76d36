//! The walk of a pin: what of its DAG is still to be seen, kept in rows so that a restart goes on where it was.

mod look;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use cluster_dag::Block;
use node_core::{Cid, Timestamp};
use parking_lot::Mutex;

use crate::key::{Key, Left, Links, target};
use crate::rows;
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

/// Bytes of blocks handed in together, and one block more.
const PARCEL_BYTES_MAX: usize = 1 << 20;

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

/// Fetched blocks that are handed to the writer together.
#[derive(Default)]
struct Parcel {
    blocks: Vec<Fetched>,
    bytes: usize,
}

struct Fetched {
    target: Vec<u8>,
    /// The depth for which its links were read.
    left: Left,
    block: Incoming,
    children: Vec<(Cid, Left)>,
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
        let (mut looked_at, mut all_present) = (0, false);
        while missing.len() < missing_max.max(1) && looked_at < ADVANCE_MAX {
            self.check()?;
            self.trim()?;
            // Where nothing is missing there will be more of that, and looking at many together costs least.
            let wanted = if all_present {
                BATCH
            } else {
                missing_max.max(1) - missing.len()
            };
            let batch = self.take(wanted);
            if batch.is_empty() {
                if self.refill()? {
                    continue;
                }
                break;
            }
            looked_at += batch.len();
            let before = missing.len();
            self.look_at(batch, missing_max.max(1), &mut missing)?;
            all_present = missing.len() == before;
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
        let mut parcel = Parcel::default();
        for block in blocks {
            let target = target(&block.cid());
            let wanted = self.inner.lock().out.get(&target).map(|out| out.item.left);
            let Some(left) = wanted else { continue };
            let (cid, bytes) = block.into_parts();
            let followed = links(&cid, &bytes, left);
            let Ok((counted, children)) = followed else {
                self.hand_in(parcel).await?;
                return followed.map(drop);
            };
            let block = Incoming {
                key: Key::of(&cid),
                bytes,
                counted,
            };
            parcel.bytes += block.weight() + 64 * children.len();
            parcel.blocks.push(Fetched {
                target,
                left,
                block,
                children,
            });
            if parcel.bytes >= PARCEL_BYTES_MAX {
                self.hand_in(std::mem::take(&mut parcel)).await?;
            }
        }
        self.hand_in(parcel).await
    }

    async fn hand_in(&self, parcel: Parcel) -> Result<(), Error> {
        if parcel.blocks.is_empty() {
            return Ok(());
        }
        let room = self.store.room(parcel.bytes).await?;
        let sender = self.store.sender()?;
        let permit = sender.reserve().await.map_err(|_| self.store.shared().gone())?;
        // Under one lock, so that rows are in memory exactly when they are on their way to the disk, in this order.
        let mut inner = self.inner.lock();
        let (mut visits, mut written) = (Vec::new(), Vec::new());
        for fetched in parcel.blocks {
            let Fetched {
                target,
                left,
                block,
                children,
            } = fetched;
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
                inner.progress.bytes += block.bytes.len() as u64;
            }
            inner.written.insert(target.clone(), left);
            inner.written_places.insert(place);
            written.push((target.clone(), place));
            let children = self.places(children);
            inner.hot.extend(look::items(&children));
            visits.push(Visit {
                place,
                target,
                left,
                first,
                what: Seen::Fetched(block),
                children,
            });
        }
        let shared = Arc::clone(&self.inner);
        permit.send(Command::Visit {
            cid: self.cid,
            walk: self.walk,
            visits,
            room: Some(room),
            told: Box::new(move |result| {
                let mut inner = shared.lock();
                for (target, place) in &written {
                    inner.written.remove(target);
                    inner.written_places.remove(place);
                }
                inner.told += 1;
                if let Err(error) = result {
                    inner.failed.get_or_insert(error);
                }
            }),
        });
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
}

/// Links to count, and links to follow.
type Followed = (Option<Counted>, Vec<(Cid, Left)>);

/// A block at the limit of depth has neither, and need not be readable.
fn links(cid: &Cid, bytes: &[u8], left: Left) -> Result<Followed, Error> {
    if left == 0 {
        return Ok((None, Vec::new()));
    }
    let links = Links::read(cid, bytes, left)?;
    Ok((counted(cid, links.keys), links.children))
}
