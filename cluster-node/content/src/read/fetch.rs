//! Blocks that are asked for before they are needed.

use std::collections::HashMap;
use std::sync::Arc;

use cluster_dag::Block;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use node_core::Cid;

use crate::{ContentError, Source, StoreError};

/// Gets blocks, several at once, and keeps them until they are taken.
pub(super) struct Fetcher {
    source: Arc<dyn Source>,
    ahead: usize,
    under_way: FuturesUnordered<BoxFuture<'static, (Cid, Result<Block, StoreError>)>>,
    /// What was asked for: none while it is under way. An error is kept too; it counts only if the block is needed.
    asked: HashMap<Cid, Option<Result<Block, StoreError>>>,
}

impl Fetcher {
    pub(super) fn new(source: Arc<dyn Source>, ahead: usize) -> Self {
        Self {
            source,
            ahead,
            under_way: FuturesUnordered::new(),
            asked: HashMap::new(),
        }
    }

    /// Whether more may be asked for that is not needed yet.
    pub(super) fn has_room(&self) -> bool {
        self.asked.len() < self.ahead
    }

    /// Asks for a block that will be needed, if there is room for it.
    pub(super) fn want(&mut self, cid: Cid) {
        if self.has_room() {
            self.ask(cid);
        }
    }

    fn ask(&mut self, cid: Cid) {
        if self.asked.contains_key(&cid) || Block::inline(cid).is_some() {
            return;
        }
        self.asked.insert(cid, None);
        let source = self.source.clone();
        self.under_way.push(Box::pin(async move {
            let result = source.get(&cid).await;
            (cid, result)
        }));
    }

    /// A block that is needed now.
    pub(super) async fn take(&mut self, cid: Cid) -> Result<Block, ContentError> {
        if let Some(block) = Block::inline(cid) {
            return Ok(block);
        }
        self.ask(cid);
        loop {
            if self.asked.get(&cid).is_some_and(Option::is_some)
                && let Some(Some(result)) = self.asked.remove(&cid)
            {
                return Ok(result?);
            }
            match self.under_way.next().await {
                Some((arrived, result)) => {
                    self.asked.insert(arrived, Some(result));
                }
                // It was asked for, so it is under way or has arrived.
                None => self.ask(cid),
            }
        }
    }
}
