//! Listing a directory, and paths through it.

use std::collections::HashSet;

use cluster_dag::unixfs::{
    Added, BLOCKS_AHEAD, DirectoryBuilder, DirectoryEntry, DirectoryReader, ListStep, Metadata, Node, Options,
    PathResolver, ResolveStep,
};
use cluster_dag::{Block, DagError};
use node_core::Cid;

use super::{Course, ONE_BY_ONE, STEPS_MAX, Store, deliver};

/// Shards that can lie in each other: 64 bits of hash, at least three for each.
const SHARDS_DEEP: usize = 21;
/// Names that are looked up; many would only make the fuzzer slow.
const LOOKED_UP: usize = 40;

#[derive(Debug, PartialEq)]
enum End {
    Complete,
    Missing(Cid),
    Refused(DagError),
    Stopped,
}

fn list(root: Cid, store: &Store, course: Course) -> (Vec<DirectoryEntry>, End) {
    let mut reader = DirectoryReader::new(root);
    let (mut entries, mut outstanding) = (Vec::new(), Vec::new());
    for _ in 0..STEPS_MAX {
        let step = reader.step();
        match step {
            Err(error) => {
                assert_eq!(reader.step(), Ok(ListStep::End), "after an error there is no more");
                return (entries, End::Refused(error));
            }
            Ok(ListStep::End) => return (entries, End::Complete),
            Ok(ListStep::Entry(entry)) => entries.push(entry),
            Ok(ListStep::Need(cid)) => {
                let wanted = reader.wanted();
                assert!(
                    !wanted.iter().any(|cid| outstanding.contains(cid)),
                    "a block is wanted twice"
                );
                outstanding.extend(wanted);
                assert!(outstanding.len() <= BLOCKS_AHEAD + SHARDS_DEEP);
                assert!(outstanding.contains(&cid), "a block is needed and not wanted");
                if !store.contains_key(&cid) {
                    return (entries, End::Missing(cid));
                }
                deliver(&mut outstanding, store, course, &mut |block| reader.supply(block));
            }
        }
    }
    (entries, End::Stopped)
}

fn resolve(root: Cid, path: &[u8], store: &Store) -> Result<Option<Cid>, DagError> {
    let mut resolver = PathResolver::new(root, path)?;
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).count();
    for _ in 0..=names * (SHARDS_DEEP + 1) {
        match resolver.step()? {
            ResolveStep::Found(cid) => return Ok(Some(cid)),
            ResolveStep::Need(cid) => match store.get(&cid) {
                Some(bytes) => assert!(resolver.supply(Block::trusted(cid, bytes.clone()))),
                None => return Ok(None),
            },
        }
    }
    panic!("{names} names took more blocks than {SHARDS_DEEP} for each");
}

pub(super) fn check(root: Cid, store: &Store, node: Option<&Node>, choices: [u8; 4]) {
    let course = Course {
        ahead: BLOCKS_AHEAD,
        order: choices[1],
    };
    let (entries, end) = list(root, store, ONE_BY_ONE);
    let (others, other_end) = list(root, store, course);
    let common = entries.len().min(others.len());
    assert_eq!(
        entries[..common],
        others[..common],
        "the order of the blocks changes the list"
    );
    if end == End::Stopped || other_end == End::Stopped {
        return;
    }
    assert_eq!((entries.len(), &end), (others.len(), &other_end));
    // Anything is an error or a CID, through whatever the path leads.
    let mut path = choices.to_vec();
    for entry in entries.iter().take(4) {
        path.extend_from_slice(&entry.name);
        path.push(b'/');
        let _ = resolve(root, &path[choices.len()..], store);
    }
    let _ = resolve(root, &path, store);
    match node {
        Some(Node::Directory { sharded, .. }) => {
            if !sharded {
                assert_eq!(end, End::Complete, "a plain directory is one block");
                find_each(root, store, &entries);
            }
        }
        _ => {
            assert!(matches!(end, End::Refused(_)), "what is no directory was listed");
            return;
        }
    }
    if end == End::Complete {
        again(&entries, choices);
    }
}

/// Each name leads to the first entry that has it.
fn find_each(root: Cid, store: &Store, entries: &[DirectoryEntry]) {
    let mut seen = HashSet::new();
    for entry in entries.iter().take(LOOKED_UP) {
        if entry.name.is_empty() || entry.name.contains(&b'/') || !seen.insert(&entry.name) {
            continue;
        }
        assert_eq!(resolve(root, &entry.name, store), Ok(Some(entry.cid)));
    }
}

/// Makes a directory of the entries, plain or sharded, and lists that.
fn again(entries: &[DirectoryEntry], choices: [u8; 4]) {
    let mut options = if choices[3] & 1 == 0 {
        Options::v0_2015()
    } else {
        Options::v1_2025()
    };
    options.sharding.above = Some(u64::from(choices[2]) * 16);
    options.sharding.fanout = 8 << (choices[3] >> 1 & 7);
    let mut builder = DirectoryBuilder::new(options, Metadata::default()).expect("valid options");
    let (mut kept, mut names) = (Vec::new(), HashSet::new());
    for entry in entries {
        let added = Added {
            cid: entry.cid,
            tsize: entry.tsize,
            content_bytes: 0,
        };
        // Names that nobody should give are read from a directory, and not written into a new one.
        if names.insert(entry.name.clone()) && builder.add(&entry.name, &added).is_ok() {
            kept.push(entry.clone());
        }
    }
    let mut store = Store::new();
    let built = builder.finish(&mut |block| {
        Block::new(block.cid(), block.bytes().clone()).expect("a new block has the name of its bytes");
        store.insert(block.cid(), block.bytes().clone());
    });
    let added = match built {
        Ok(added) => added,
        // Two names with the same hash can't be told apart by shards.
        Err(DagError::TooLarge { .. } | DagError::BadEntry { .. }) => return,
        Err(error) => panic!("a directory of few entries can't be made: {error}"),
    };
    let course = Course {
        ahead: BLOCKS_AHEAD,
        order: choices[1],
    };
    let (mut listed, end) = list(added.cid, &store, course);
    assert_eq!(end, End::Complete);
    for entry in listed.iter().take(LOOKED_UP) {
        assert_eq!(resolve(added.cid, &entry.name, &store), Ok(Some(entry.cid)));
    }
    let name = |entry: &DirectoryEntry| entry.name.clone();
    listed.sort_by_key(name);
    kept.sort_by_key(name);
    assert_eq!(listed, kept);
}
