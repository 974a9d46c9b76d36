//! Compares the tables with each other.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use cluster_dag::Block;
use node_core::Cid;

use crate::key::{ALL, Key, Left, Links, codec_bit, counted_keys, read_target, target};
use crate::options::{BLOCKS, KEPT, META, NOTES, PINS, REFS, WALKS};
use crate::rows::{self, Counters, Meta, Record, Refs};
use crate::{BlockStore, Error, Mode, State};

/// What a check went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Blocks stored.
    pub blocks: u64,
    /// Pins.
    pub pins: u64,
    /// References of blocks, stored or not, that add up to something.
    pub referenced: u64,
    /// Rows of walks.
    pub walk_rows: u64,
}

/// All of it, in memory.
struct Tables {
    metas: HashMap<Key, Meta>,
    blocks: HashMap<Key, Bytes>,
    refs: HashMap<Key, Refs>,
    pins: BTreeMap<Cid, Record>,
    kept: Vec<Cid>,
    /// By walk: what it visited, and its frontier.
    walks: HashMap<u64, WalkRows>,
    walk_rows: u64,
    counters: Counters,
}

#[derive(Default)]
struct WalkRows {
    visited: HashMap<Vec<u8>, (Left, bool)>,
    frontier: Vec<(Cid, Left)>,
}

fn damaged<T>(what: String) -> Result<T, Error> {
    Err(Error::Damaged(what))
}

impl BlockStore {
    /// Reads the whole store and says how its tables contradict each other, if they do:
    ///
    /// - references of a block are those of pins and of stored blocks that count their links,
    /// - a complete pin has every block of its DAG in the store, counted as deep as it holds it,
    /// - of a running walk each block that it visited is held, and all below is visited or waits,
    /// - every block is what its name says, and the counters are right.
    ///
    /// For tests and for looking into a fault: the store is held in memory meanwhile. Nothing may change while it runs.
    pub fn check(&self) -> Result<Checked, Error> {
        let tables = self.tables()?;
        tables.check_blocks()?;
        tables.check_references()?;
        tables.check_pins()?;
        tables.check_counters()?;
        Ok(Checked {
            blocks: tables.blocks.len() as u64,
            pins: tables.pins.len() as u64,
            referenced: tables.refs.values().filter(|refs| !refs.is_zero()).count() as u64,
            walk_rows: tables.walk_rows,
        })
    }

    fn tables(&self) -> Result<Tables, Error> {
        let shared = self.shared();
        let all = |name: &str| {
            let mut out = Vec::new();
            let mut rows = shared.rows(name, None);
            rows.seek_to_first();
            while let Some((key, row)) = rows.item() {
                out.push((key.to_vec(), Bytes::copy_from_slice(row)));
                rows.next();
            }
            rows.status()?;
            Ok::<_, Error>(out)
        };
        let mut tables = Tables {
            metas: HashMap::new(),
            blocks: HashMap::new(),
            refs: HashMap::new(),
            pins: BTreeMap::new(),
            kept: Vec::new(),
            walks: HashMap::new(),
            walk_rows: 0,
            counters: Counters::default(),
        };
        for (key, row) in all(META)? {
            tables.metas.insert(Key::from_row(&key), Meta::decode(&row)?);
        }
        for (key, row) in all(BLOCKS)? {
            tables.blocks.insert(Key::from_row(&key), row);
        }
        for (key, row) in all(REFS)? {
            tables.refs.insert(Key::from_row(&key), Refs::decode(&row)?);
        }
        for (key, row) in all(PINS)? {
            tables.pins.insert(crate::store::read_cid(&key)?, Record::decode(&row)?);
        }
        for (key, _) in all(KEPT)? {
            tables.kept.push(crate::store::read_cid(&key)?);
        }
        for (key, row) in all(WALKS)? {
            let walk = key.first_chunk::<8>().map_or(0, |walk| u64::from_be_bytes(*walk));
            let walk = tables.walks.entry(walk).or_default();
            tables.walk_rows += 1;
            if let Some((_, cid, left)) = rows::read_frontier(&key, &row)? {
                walk.frontier.push((cid, left));
            } else if let Some(target) = rows::read_visited_key(&key) {
                walk.visited.insert(target.to_vec(), rows::read_visited(&row)?);
            }
        }
        let row = shared.rocks.get_cf(shared.table(NOTES), crate::db::COUNTERS_KEY)?;
        tables.counters = row.map(|row| Counters::decode(&row)).transpose()?.unwrap_or_default();
        if tables.counters != *shared.counters.lock() {
            return damaged("the counters in memory are not those on disk".into());
        }
        Ok(tables)
    }
}

impl Tables {
    fn check_blocks(&self) -> Result<(), Error> {
        for (key, meta) in &self.metas {
            let cid = key.to_cid()?;
            match self.blocks.get(key) {
                Some(_) if meta.lost => return damaged(format!("{cid} is called lost and is there")),
                Some(bytes) if bytes.len() != meta.size as usize => {
                    return damaged(format!("{cid} has {} bytes and a row of {}", bytes.len(), meta.size));
                }
                Some(bytes) => drop(Block::new(cid, bytes.clone())?),
                None if meta.lost => {}
                None => return damaged(format!("{cid} has a row and no bytes")),
            }
        }
        match self.blocks.keys().find(|key| !self.metas.contains_key(key)) {
            Some(key) => damaged(format!("{} has bytes and no row", key.to_cid()?)),
            None => Ok(()),
        }
    }

    fn check_references(&self) -> Result<(), Error> {
        let mut expected: HashMap<Key, Refs> = HashMap::new();
        // What lost blocks link to is not known: more references may be there than are explained.
        let mut at_least = false;
        for (key, meta) in &self.metas {
            match self.blocks.get(key) {
                Some(bytes) => {
                    for child in counted_keys(key, bytes, meta.counted)? {
                        expected.entry(child).or_default().hard += 1;
                    }
                }
                None => at_least |= meta.has_links(),
            }
        }
        for (cid, record) in &self.pins {
            let left = left_of(record.mode);
            match Block::inline(*cid) {
                None if left == 0 => expected.entry(Key::of(cid)).or_default().direct += 1,
                None => expected.entry(Key::of(cid)).or_default().hard += 1,
                Some(_) if left == 0 => {}
                Some(block) => {
                    for child in Links::read(cid, block.bytes(), left)?.keys {
                        expected.entry(child).or_default().hard += 1;
                    }
                }
            }
        }
        for root in &self.kept {
            match Block::inline(*root) {
                None => expected.entry(Key::of(root)).or_default().hard += 1,
                Some(block) => {
                    for child in Links::read(root, block.bytes(), left_of(Mode::Recursive))?.keys {
                        expected.entry(child).or_default().hard += 1;
                    }
                }
            }
        }
        let all: HashSet<&Key> = expected.keys().chain(self.refs.keys()).collect();
        for key in all {
            let [expected, found] = [&expected, &self.refs].map(|refs| refs.get(key).copied().unwrap_or_default());
            let explained = found.hard == expected.hard || (at_least && found.hard > expected.hard);
            if found.direct != expected.direct || !explained {
                return damaged(format!(
                    "{} has {found:?}, the tables explain {expected:?}",
                    key.to_cid()?
                ));
            }
        }
        Ok(())
    }

    fn check_pins(&self) -> Result<(), Error> {
        for (cid, record) in &self.pins {
            let left = left_of(record.mode);
            let rows = self.walks.get(&record.walk);
            if record.state == State::Complete {
                if rows.is_some() {
                    return damaged(format!("the walk of {cid} is over and has rows"));
                }
                self.check_dag(cid, left)?;
                continue;
            }
            let empty = WalkRows::default();
            let rows = rows.unwrap_or(&empty);
            let counts = (rows.frontier.len() as u64, rows.visited.len() as u64);
            if counts != (record.frontier, record.visited) {
                return damaged(format!(
                    "the walk of {cid} has {counts:?} rows, its record says {record:?}"
                ));
            }
            self.check_walk(cid, left, rows)?;
        }
        let walks: HashSet<u64> = self.pins.values().map(|record| record.walk).collect();
        match self.walks.keys().find(|walk| !walks.contains(walk)) {
            Some(walk) => damaged(format!("walk {walk} has rows and no pin")),
            None => Ok(()),
        }
    }

    /// Everything that a complete pin holds is there.
    fn check_dag(&self, root: &Cid, left: Left) -> Result<(), Error> {
        let mut seen: HashMap<Vec<u8>, Left> = HashMap::new();
        let mut stack = vec![(*root, left)];
        while let Some((cid, left)) = stack.pop() {
            if seen.get(&target(&cid)).is_some_and(|seen| *seen >= left) {
                continue;
            }
            seen.insert(target(&cid), left);
            stack.extend(self.held(root, &cid, left)?);
        }
        Ok(())
    }

    /// A block that a pin holds: it is there and counted. Returns what it links to.
    fn held(&self, root: &Cid, cid: &Cid, left: Left) -> Result<Vec<(Cid, Left)>, Error> {
        let inline = Block::inline(*cid).map(|block| block.into_parts().1);
        let Some(bytes) = inline.as_ref().or_else(|| self.blocks.get(&Key::of(cid))) else {
            return damaged(format!("{cid} is missing, which the pin of {root} has seen"));
        };
        if left == 0 {
            return Ok(Vec::new());
        }
        let counted = self.metas.get(&Key::of(cid)).map_or(0, |meta| meta.counted);
        if inline.is_none() && codec_bit(cid.codec()).is_none_or(|bit| counted & bit == 0) {
            return damaged(format!("{cid} below the pin of {root} does not count its links"));
        }
        Ok(Links::read(cid, bytes, left)?.children)
    }

    fn check_walk(&self, root: &Cid, left: Left, rows: &WalkRows) -> Result<(), Error> {
        let waiting: Vec<(Vec<u8>, Left)> = rows.frontier.iter().map(|(cid, left)| (target(cid), *left)).collect();
        let is_known = |cid: &Cid, left: Left| {
            let target = target(cid);
            let visited = rows.visited.get(&target).is_some_and(|(visited, _)| *visited >= left);
            visited
                || waiting
                    .iter()
                    .any(|(waiting, deep)| *waiting == target && *deep >= left)
        };
        if Block::inline(*root).is_none() && !is_known(root, left) {
            return damaged(format!("the walk of {root} has forgotten its root"));
        }
        for (target, (left, skipped)) in &rows.visited {
            let cid = read_target(target)?;
            for (child, left) in self.held(root, &cid, *left)? {
                if !skipped && !is_known(&child, left) {
                    return damaged(format!(
                        "the walk of {root} has forgotten {child}, to which {cid} links"
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_counters(&self) -> Result<(), Error> {
        let stored = self.metas.values().filter(|meta| !meta.lost);
        let counted = Counters {
            blocks: stored.clone().count() as u64,
            bytes: stored.map(|meta| u64::from(meta.size)).sum(),
            pins: self.pins.len() as u64,
            walking: self
                .pins
                .values()
                .filter(|record| record.state == State::Walking)
                .count() as u64,
            lost: self.metas.values().filter(|meta| meta.lost).count() as u64,
        };
        if counted == self.counters {
            Ok(())
        } else {
            damaged(format!("the store holds {counted:?} and says {:?}", self.counters))
        }
    }
}

fn left_of(mode: Mode) -> Left {
    match mode {
        Mode::Recursive => ALL,
        Mode::Direct => 0,
        Mode::Depth(depth) => depth,
    }
}
