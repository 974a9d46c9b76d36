//! A node in memory, and a listener to ask it at.

#![allow(dead_code, reason = "each test takes what it needs of this")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::Router;
use bytes::Bytes;
use cluster_content::{AddOptions, Adder, Entry, Sink, Source, StoreError};
use cluster_dag::Block;
use cluster_dag::car::{CarEvent, CarReader};
use cluster_gateway::Blocks;
use cluster_http::{Limits, serve_router};
use node_core::{Cid, ErrorClass};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Blocks in memory.
#[derive(Default)]
pub struct Store {
    pub blocks: Mutex<HashMap<Cid, Block>>,
    pub denied: Mutex<HashMap<Cid, String>>,
    /// Blocks that were read.
    pub reads: AtomicUsize,
}

impl Store {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub fn remove(&self, cid: &Cid) -> Option<Block> {
        self.blocks.lock().expect("no panic").remove(cid)
    }

    pub fn block(&self, cid: &Cid) -> Option<Block> {
        self.blocks.lock().expect("no panic").get(cid).cloned()
    }

    pub fn deny(&self, cid: Cid, reason: &str) {
        self.denied.lock().expect("no panic").insert(cid, reason.to_owned());
    }

    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    /// Adds files and gives their root.
    pub async fn add(self: &Arc<Self>, options: AddOptions, files: &[(&str, &[u8])]) -> Cid {
        let mut adder = Adder::new(options, self.clone()).expect("valid options");
        for (path, content) in files {
            adder.entry(Entry::file(path)).await.expect("begun");
            adder.write(Bytes::copy_from_slice(content)).await.expect("taken");
        }
        adder.finish().await.expect("added").roots[0].cid
    }
}

#[async_trait]
impl Source for Store {
    async fn get(&self, cid: &Cid) -> Result<Block, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.block(cid)
            .ok_or_else(|| StoreError::new(ErrorClass::NotFound, format!("{cid} is not held here")))
    }
}

#[async_trait]
impl Sink for Store {
    async fn put(&self, blocks: Vec<Block>) -> Result<(), StoreError> {
        let mut kept = self.blocks.lock().expect("no panic");
        kept.extend(blocks.into_iter().map(|block| (block.cid(), block)));
        Ok(())
    }
}

#[async_trait]
impl Blocks for Store {
    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError> {
        Ok(self.block(cid).map(|block| block.bytes().len() as u64))
    }

    fn denied(&self, cid: &Cid) -> Option<String> {
        self.denied.lock().expect("no panic").get(cid).cloned()
    }
}

/// A router on a free port of loopback, until it is dropped or ended.
pub struct Served {
    pub address: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Served {
    pub async fn new(router: Router, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(serve_router(listener, "gateway", router, limits, async {
            let _ = ended.await;
        }));
        Self {
            address,
            end: Some(end),
            task,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn end(mut self) {
        drop(self.end.take());
        (&mut self.task).await.expect("no panic");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The roots and blocks of a CAR file, all of them verified.
pub fn read_car(file: &[u8]) -> (Vec<Cid>, Vec<Block>) {
    let mut reader = CarReader::new();
    reader.push(file);
    let (mut found, mut blocks) = (Vec::new(), Vec::new());
    while let Some(event) = reader.next().expect("a good file") {
        match event {
            CarEvent::Header { roots, .. } => found = roots,
            CarEvent::Block(block) => blocks.push(block),
        }
    }
    reader.finish().expect("a whole file");
    (found, blocks)
}

pub fn cids(blocks: &[Block]) -> Vec<Cid> {
    blocks.iter().map(Block::cid).collect()
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

/// A client for loopback alone.
pub fn client() -> reqwest::Client {
    // The first one in the process wins.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    builder.build().expect("a client")
}
