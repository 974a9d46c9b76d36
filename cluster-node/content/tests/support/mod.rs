//! Blocks in memory, and what both sides of a test are given.

#![allow(dead_code, reason = "each test takes what it needs of this")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use cluster_content::{AddOptions, Adder, Content, ContentError, Entry, Outcome, Sink, Source, StoreError};
use cluster_dag::Block;
use futures::TryStreamExt as _;
use node_core::{Cid, ErrorClass};

/// Blocks in memory that counts what is asked of it at once. Every call is open for a moment, so that others can come.
#[derive(Default)]
pub struct Store {
    pub blocks: Mutex<HashMap<Cid, Block>>,
    pub gets: Gauge,
    pub puts: Gauge,
    /// Bytes in batches that are under way.
    pub put_bytes: Gauge,
    /// How long a batch takes, in turns of the task; some at least.
    pub put_turns: usize,
    /// Fails from this many batches on.
    pub full_after: Option<usize>,
}

/// How much there is at once.
#[derive(Default)]
pub struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
    total: AtomicUsize,
}

impl Gauge {
    fn enter(&self, amount: usize) -> Held<'_> {
        let now = self.now.fetch_add(amount, Ordering::SeqCst) + amount;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.total.fetch_add(amount, Ordering::SeqCst);
        Held(self, amount)
    }

    pub fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }

    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    pub fn total(&self) -> usize {
        self.total.load(Ordering::SeqCst)
    }
}

struct Held<'a>(&'a Gauge, usize);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(self.1, Ordering::SeqCst);
    }
}

impl Store {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub fn of(blocks: impl IntoIterator<Item = Block>) -> Arc<Self> {
        let blocks = blocks.into_iter().map(|block| (block.cid(), block)).collect();
        Arc::new(Self {
            blocks: Mutex::new(blocks),
            ..Self::default()
        })
    }

    pub fn remove(&self, cid: &Cid) -> Option<Block> {
        self.blocks.lock().expect("no panic").remove(cid)
    }

    pub fn len(&self) -> usize {
        self.blocks.lock().expect("no panic").len()
    }
}

#[async_trait]
impl Source for Store {
    async fn get(&self, cid: &Cid) -> Result<Block, StoreError> {
        let _held = self.gets.enter(1);
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let block = self.blocks.lock().expect("no panic").get(cid).cloned();
        block.ok_or_else(|| StoreError::new(ErrorClass::NotFound, format!("{cid} is not held here")))
    }
}

#[async_trait]
impl Sink for Store {
    async fn put(&self, blocks: Vec<Block>) -> Result<(), StoreError> {
        let _held = self.puts.enter(1);
        let _bytes = self
            .put_bytes
            .enter(blocks.iter().map(|block| block.bytes().len()).sum());
        assert!(!blocks.is_empty(), "a batch holds something");
        for _ in 0..10 + self.put_turns {
            tokio::task::yield_now().await;
        }
        if self.full_after.is_some_and(|batches| self.puts.total() > batches) {
            return Err(StoreError::new(ErrorClass::DiskFull, "the disk is full"));
        }
        let mut kept = self.blocks.lock().expect("no panic");
        for block in blocks {
            let checked = Block::new(block.cid(), block.bytes().clone()).expect("a block of its CID");
            kept.insert(block.cid(), checked);
        }
        Ok(())
    }
}

/// Bytes that look random and are the same each time.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(length);
    out
}

/// Adds entries with their bytes, in pieces.
pub async fn add(
    options: AddOptions,
    sink: Arc<dyn Sink>,
    entries: impl IntoIterator<Item = (Entry, Vec<u8>)>,
) -> Result<Outcome, ContentError> {
    let mut adder = Adder::new(options, sink)?;
    for (entry, content) in entries {
        adder.entry(entry).await?;
        for piece in content.chunks(100_003) {
            adder.write(Bytes::copy_from_slice(piece)).await?;
        }
    }
    adder.finish().await
}

/// Adds one file.
pub async fn add_file(options: AddOptions, store: &Arc<Store>, content: &[u8]) -> Cid {
    let entries = [(Entry::file("file"), content.to_vec())];
    add(options, store.clone(), entries).await.expect("added").roots[0].cid
}

/// Reads a file.
pub async fn cat(content: &Content, cid: Cid, start: u64, length: Option<u64>) -> Result<Vec<u8>, ContentError> {
    let file = content.cat(cid, start, length).await?;
    let parts: Vec<Bytes> = file.bytes.try_collect().await?;
    Ok(parts.concat())
}

/// Whole streams of bytes.
pub async fn collect(stream: cluster_content::ByteStream) -> Result<Vec<u8>, ContentError> {
    let parts: Vec<Bytes> = stream.try_collect().await?;
    Ok(parts.concat())
}
