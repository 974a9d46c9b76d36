//! Tests of the store as a whole, and what they share.

mod collect;
mod crash;
mod faults;
mod kept;
mod large;
mod model;
mod pins;
mod walks;

use std::collections::HashMap;
use std::future::Future;

use bytes::Bytes;
use cluster_dag::Block;
use multihash_codetable::{Code, MultihashDigest as _};
use node_core::{Cid, Timestamp};
use tempfile::TempDir;

use crate::{BlockStore, Budget, Error, GcCursor, Mode, Next, Pin, Progress, State, StoreOptions, Walk};

pub(super) const RAW: u64 = 0x55;
pub(super) const PB: u64 = 0x70;
pub(super) const CBOR: u64 = 0x71;

pub(super) fn now() -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000)
}

pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// Small buffers, so that tests meet files and compactions too.
pub(super) fn small() -> StoreOptions {
    StoreOptions {
        write_buffers_bytes: 6 << 20,
        cache_bytes: 1 << 20,
        open_files_max: 64,
        queue_bytes: 4 << 20,
        wal_bytes: 12 << 20,
    }
}

pub(super) fn open(folder: &TempDir) -> BlockStore {
    BlockStore::open(folder.path(), &small()).expect("the store opens")
}

pub(super) fn fresh() -> (TempDir, BlockStore) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder);
    (folder, store)
}

pub(super) fn cid_of(codec: u64, bytes: &[u8]) -> Cid {
    let mut binary = vec![1, u8::try_from(codec).expect("a short codec")];
    binary.extend(Code::Sha2_256.digest(bytes).to_bytes());
    Cid::from_bytes(&binary).expect("valid")
}

pub(super) fn block(codec: u64, bytes: Vec<u8>) -> Block {
    Block::new(cid_of(codec, &bytes), Bytes::from(bytes)).expect("its own hash")
}

pub(super) fn raw(bytes: impl Into<Vec<u8>>) -> Block {
    block(RAW, bytes.into())
}

fn cbor_head(out: &mut Vec<u8>, major: u8, count: usize) {
    match u8::try_from(count) {
        Ok(count) if count < 24 => out.push(major | count),
        Ok(count) => out.extend([major | 24, count]),
        Err(_) => {
            let count = u32::try_from(count).expect("short");
            if let Ok(short) = u16::try_from(count) {
                out.push(major | 25);
                out.extend(short.to_be_bytes());
            } else {
                out.push(major | 26);
                out.extend(count.to_be_bytes());
            }
        }
    }
}

/// The list of some bytes and links, in dag-cbor.
pub(super) fn cbor_bytes(payload: &[u8], links: &[Cid]) -> Vec<u8> {
    let mut out = Vec::new();
    cbor_head(&mut out, 0x80, 1 + links.len());
    cbor_head(&mut out, 0x40, payload.len());
    out.extend(payload);
    for link in links {
        let binary = link.to_bytes();
        out.extend([0xd8, 0x2a]);
        cbor_head(&mut out, 0x40, 1 + binary.len());
        out.push(0);
        out.extend(binary);
    }
    out
}

pub(super) fn cbor(payload: &[u8], links: &[Cid]) -> Block {
    block(CBOR, cbor_bytes(payload, links))
}

/// A CID that carries a list of links itself.
pub(super) fn inline(links: &[Cid]) -> Cid {
    let bytes = cbor_bytes(&[], links);
    let mut binary = vec![1, 0x71, 0, u8::try_from(bytes.len()).expect("short")];
    binary.extend(bytes);
    Cid::from_bytes(&binary).expect("valid")
}

/// A dag-pb block of links without names.
pub(super) fn pb(data: &[u8], links: &[Cid]) -> Block {
    let mut out = Vec::new();
    for link in links {
        let binary = link.to_bytes();
        let length = u8::try_from(binary.len()).expect("short");
        out.extend([0x12, length + 2, 0x0a, length]);
        out.extend(binary);
    }
    out.extend([0x0a, u8::try_from(data.len()).expect("short")]);
    out.extend(data);
    block(PB, out)
}

/// Blocks that others have.
#[derive(Default)]
pub(super) struct Network(HashMap<Cid, Block>);

impl Network {
    pub(super) fn of<'a>(blocks: impl IntoIterator<Item = &'a Block>) -> Self {
        let mut network = Self::default();
        for block in blocks {
            network.0.insert(block.cid(), block.clone());
            // Whoever has the bytes has them under each codec.
            let raw = cid_of(RAW, block.bytes());
            network.0.insert(raw, Block::trusted(raw, block.bytes().clone()));
        }
        network
    }

    pub(super) fn fetch(&self, cids: &[Cid]) -> Vec<Block> {
        cids.iter().filter_map(|cid| self.0.get(cid).cloned()).collect()
    }
}

pub(super) fn put(store: &BlockStore, blocks: &[&Block]) {
    let blocks = blocks.iter().map(|block| (*block).clone()).collect();
    wait(store.put(None, blocks)).expect("stored");
}

pub(super) fn begin(store: &BlockStore, cid: Cid, mode: Mode) -> Pin {
    wait(store.pin_begin(cid, mode, "", now())).expect("begun")
}

/// Walks to the end; returns what was fetched, in order. Panics when something can't be.
pub(super) fn walk_to_end(walk: &Walk, network: &Network) -> Vec<Cid> {
    let mut fetched = Vec::new();
    loop {
        let step = walk.advance(8).expect("advances");
        fetched.extend(&step.missing);
        let blocks = network.fetch(&step.missing);
        assert_eq!(blocks.len(), step.missing.len(), "the network has all blocks");
        wait(walk.store(blocks)).expect("taken");
        if step.next == Next::Finish && step.missing.is_empty() {
            return fetched;
        }
        assert!(step.next != Next::Wait || !step.missing.is_empty(), "nothing is out");
    }
}

/// Pins with all that belongs to it; returns what was fetched.
pub(super) fn pin(store: &BlockStore, cid: Cid, mode: Mode, network: &Network) -> (Pin, Vec<Cid>) {
    begin(store, cid, mode);
    let Some(walk) = store.walk(&cid).expect("reads") else {
        return (store.pin(&cid).expect("reads").expect("pinned"), Vec::new());
    };
    let fetched = walk_to_end(&walk, network);
    let progress = walk.progress();
    let pin = wait(walk.finish(now())).expect("finished");
    assert_eq!(pin.state, State::Complete);
    assert_eq!(pin.progress, progress, "the walk and the record count alike");
    (pin, fetched)
}

/// A whole collection, in small steps.
pub(super) fn collect(store: &BlockStore) -> Progress {
    let budget = Budget {
        keys: 7,
        ..Budget::default()
    };
    let (mut cursor, mut deleted) = (Some(GcCursor::default()), Progress::default());
    while let Some(at) = cursor {
        let step = store.gc_step(at, budget).expect("a step");
        deleted.blocks += step.deleted.blocks;
        deleted.bytes += step.deleted.bytes;
        cursor = step.next;
    }
    deleted
}

pub(super) fn check(store: &BlockStore) {
    if let Err(error) = store.check() {
        panic!("{error}");
    }
}

pub(super) fn has(store: &BlockStore, block: &Block) -> bool {
    store.has(&block.cid()).expect("reads")
}

/// Nothing is left, not even a reference.
pub(super) fn assert_empty(store: &BlockStore) {
    assert_eq!(store.check().expect("consistent"), crate::Checked::default());
    assert_eq!(store.usage(), crate::Usage::default());
    assert_eq!(store.blocks(None, 10).expect("reads"), Vec::new());
}

/// Numbers that look random and are the same in each run.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
fn blocks_come_back_and_are_listed() {
    let (_folder, store) = fresh();
    let (a, b) = (raw("a"), raw(vec![7; 100_000]));
    let link = cbor(b"x", &[a.cid(), b.cid()]);
    put(&store, &[&a, &b, &link]);
    put(&store, &[&a]);
    for block in [&a, &b, &link] {
        assert_eq!(store.get(&block.cid()).expect("reads").as_ref(), Some(block.bytes()));
    }
    let missing = raw("missing");
    let identity: Cid = "bafkqabtimvwgy3yk".parse().expect("valid");
    let asked = [missing.cid(), b.cid(), identity, a.cid()];
    assert_eq!(
        store.sizes(&asked).expect("reads"),
        vec![None, Some(100_000), Some(6), Some(1)]
    );
    let found = store.get_many(&asked).expect("reads");
    assert_eq!(found[0], None);
    assert_eq!(found[2].as_deref(), Some(&b"hello\n"[..]));
    // Under any codec and version.
    assert!(store.has(&cid_of(CBOR, b"a")).expect("reads"));
    let all = store.blocks(None, 10).expect("reads");
    assert_eq!(all.len(), 3);
    assert_eq!(store.blocks(Some(&all[0].0), 10).expect("reads"), all[1..]);
    assert_eq!(store.blocks(Some(&all[2].0), 10).expect("reads"), Vec::new());
    let usage = store.usage();
    assert_eq!((usage.blocks, usage.bytes), (3, 100_001 + link.bytes().len() as u64));
    assert!(store.disk_bytes().expect("reads") > 100_000);
    assert!(store.is_referenced(&a.cid()).expect("reads"));
    assert!(!store.is_referenced(&link.cid()).expect("reads"));
    check(&store);
}

#[test]
fn notes_and_everything_else_outlive_the_process() {
    let (folder, store) = fresh();
    let note = |store: &BlockStore, name| store.note(name).expect("reads");
    wait(store.set_note("position", Some(Bytes::from_static(b"42")))).expect("noted");
    wait(store.set_note("gone", Some(Bytes::from_static(b"1")))).expect("noted");
    wait(store.set_note("gone", None)).expect("removed");
    let long = "n".repeat(crate::NOTE_NAME_BYTES_MAX + 1);
    let error = wait(store.set_note(&long, None)).expect_err("too long");
    assert!(matches!(error, Error::NoteTooLong { field: "name", .. }), "{error}");
    let long = Some(Bytes::from(vec![0; crate::NOTE_BYTES_MAX + 1]));
    let error = wait(store.set_note("long", long)).expect_err("too long");
    assert!(matches!(error, Error::NoteTooLong { field: "value", .. }), "{error}");
    let a = raw("a");
    put(&store, &[&a]);
    begin(&store, a.cid(), Mode::Recursive);
    let usage = store.usage();
    store.close().expect("closes");
    assert!(matches!(wait(store.put(None, vec![raw("b")])), Err(Error::Closed)));
    assert!(matches!(wait(store.unpin(&a.cid())), Err(Error::Closed)));
    drop(store);
    let store = open(&folder);
    assert_eq!(note(&store, "position").as_deref(), Some(&b"42"[..]));
    assert_eq!(note(&store, "gone"), None);
    assert_eq!(store.usage(), usage);
    assert_eq!(
        store.pin(&a.cid()).expect("reads").expect("pinned").state,
        State::Walking
    );
    check(&store);
}

#[test]
fn a_store_of_a_newer_version_is_left_alone() {
    let (folder, store) = fresh();
    let shared = store.shared();
    let notes = shared.table(crate::options::NOTES);
    shared
        .rocks
        .put_cf(notes, b"\0form", 9u32.to_le_bytes())
        .expect("written");
    drop(store);
    let error = BlockStore::open(folder.path(), &small()).expect_err("refused");
    assert!(matches!(error, Error::Newer { found: 9, known: 1 }), "{error}");
}

#[test]
fn what_can_not_be_read_is_not_stored() {
    let (_folder, store) = fresh();
    let unknown = block(0x78, b"tree".to_vec());
    let error = wait(store.put(None, vec![raw("a"), unknown])).expect_err("refused");
    assert!(error.to_string().contains("git-raw"), "{error}");
    let broken = block(CBOR, vec![0xff]);
    assert!(matches!(wait(store.put(None, vec![broken])), Err(Error::Content(_))));
    assert_empty(&store);
}

#[test]
fn puts_of_many_callers_share_syncs() {
    let (_folder, store) = fresh();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let blocks: Vec<Block> = (0..500u32).map(|n| raw(n.to_be_bytes())).collect();
    runtime.block_on(async {
        let puts = blocks.iter().map(|block| {
            let (store, block) = (store.clone(), block.clone());
            async move { store.put(None, vec![block]).await }
        });
        let mut tasks = tokio::task::JoinSet::new();
        for put in puts {
            tasks.spawn(put);
        }
        while let Some(result) = tasks.join_next().await {
            result.expect("ran").expect("stored");
        }
    });
    assert_eq!(store.usage().blocks, 500);
    // More than fits into the queue at once passes all the same.
    let large: Vec<Block> = (0..6).map(|n| raw(vec![n; 2 << 20])).collect();
    wait(store.put(None, large)).expect("stored");
    assert_eq!(store.usage().blocks, 506);
    check(&store);
}
