//! Looking at rows of a frontier: what of them is in the store, was seen before, or is missing.

use std::collections::HashMap;

use node_core::Cid;

use super::{Item, Out, Walk, links};
use crate::key::{ALL, Key, Left, RAW_BIT, codec_bit, target};
use crate::options::{PINS, WALKS};
use crate::rows::{self, Meta, Record};
use crate::store::counted;
use crate::writer::{Command, Seen, Visit};
use crate::{Error, Mode, Progress, State};

/// Links in a batch after which no more rows are taken into it. One block may have as many by itself.
const BATCH_LINKS_MAX: usize = 8_192;

/// Bytes of blocks read together for their links.
const BATCH_READ_BYTES_MAX: usize = 8 << 20;

impl Walk {
    pub(super) fn try_look_at(
        &self,
        batch: &[(u64, Item)],
        missing_max: usize,
        missing: &mut Vec<Cid>,
    ) -> Result<(), Error> {
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

pub(super) fn items(children: &[(u64, Cid, Left)]) -> Vec<(u64, Item)> {
    let item = |(place, cid, left): &(u64, Cid, Left)| (*place, Item { cid: *cid, left: *left });
    children.iter().map(item).collect()
}
