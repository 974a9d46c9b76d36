//! Blocks on their way to a sink.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

use cluster_dag::Block;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};

use crate::{Sink, StoreError};

/// Blocks of a batch, at most.
pub const BATCH_BLOCKS_MAX: usize = 256;

/// Bytes after which a batch is given away: with its last block, it may have 2 MiB more.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Batches that are under way at once: with the one being filled, up to 30 MiB.
pub const BATCHES_MAX: usize = 4;

/// Collects blocks into batches and keeps several of them under way.
pub(crate) struct Batcher {
    sink: Arc<dyn Sink>,
    filling: Vec<Block>,
    filling_bytes: usize,
    /// Batches that can go. Whoever makes blocks waits for [`Batcher::room`] after each small step, so these are few.
    full: VecDeque<Vec<Block>>,
    under_way: FuturesUnordered<BoxFuture<'static, Result<u64, StoreError>>>,
    /// Blocks taken.
    pub(crate) blocks: u64,
    /// Their bytes.
    pub(crate) block_bytes: u64,
    /// Blocks that are with the sink.
    pub(crate) stored: u64,
}

impl Batcher {
    pub(crate) fn new(sink: Arc<dyn Sink>) -> Self {
        Self {
            sink,
            filling: Vec::new(),
            filling_bytes: 0,
            full: VecDeque::new(),
            under_way: FuturesUnordered::new(),
            blocks: 0,
            block_bytes: 0,
            stored: 0,
        }
    }

    /// Takes a block. One of an identity CID is counted and goes nowhere: its CID carries it.
    pub(crate) fn push(&mut self, block: Block) {
        self.blocks += 1;
        self.block_bytes += block.bytes().len() as u64;
        if Block::inline(block.cid()).is_some() {
            self.stored += 1;
            return;
        }
        self.filling_bytes += block.bytes().len();
        self.filling.push(block);
        if self.filling.len() == BATCH_BLOCKS_MAX || self.filling_bytes >= BATCH_BYTES_MAX {
            self.fill_next();
        }
    }

    fn fill_next(&mut self) {
        self.filling_bytes = 0;
        let batch = std::mem::take(&mut self.filling);
        if !batch.is_empty() {
            self.full.push_back(batch);
        }
    }

    /// Waits until all full batches are under way.
    pub(crate) async fn room(&mut self) -> Result<(), StoreError> {
        self.poll_once().await?;
        while !self.full.is_empty() {
            while self.under_way.len() >= BATCHES_MAX {
                if let Some(result) = self.under_way.next().await {
                    self.stored += result?;
                }
            }
            if let Some(batch) = self.full.pop_front() {
                let sink = self.sink.clone();
                self.under_way.push(Box::pin(async move {
                    let blocks = batch.len() as u64;
                    sink.put(batch).await.map(|()| blocks)
                }));
                // A future that was never polled has not begun: its turn is now, before blocks that are made later.
                self.poll_once().await?;
            }
        }
        Ok(())
    }

    /// Lets what is under way go on, and counts what is done.
    async fn poll_once(&mut self) -> Result<(), StoreError> {
        while let Poll::Ready(Some(result)) = futures::poll!(self.under_way.next()) {
            self.stored += result?;
        }
        Ok(())
    }

    /// Waits until every block is with the sink.
    pub(crate) async fn finish(&mut self) -> Result<(), StoreError> {
        self.fill_next();
        self.room().await?;
        while let Some(result) = self.under_way.next().await {
            self.stored += result?;
        }
        Ok(())
    }
}
