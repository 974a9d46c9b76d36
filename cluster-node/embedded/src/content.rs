//! Content in and out of the node: the two sides that `cluster-content` works on.

use std::sync::Arc;

use async_trait::async_trait;
use cluster_blocks::{AddSession, Mode};
use cluster_content::{Sink, Source, StoreError};
use cluster_dag::Block;
use cluster_ipfs::{Added, Error, Operation, Progress, ProgressSink};
use cluster_swarm::to_wire;
use node_core::{Cid, ErrorClass, PinMode};

use crate::error::Failure;
use crate::inner::Inner;
use crate::session::Session;
use crate::{blocking, walk};

/// Content that is being added: blocks put here are safe from garbage collection until this is dropped, though nothing
/// holds them yet. Pin the root before that ([`Adding::pin`]). What was added and not pinned is garbage.
pub struct Adding {
    inner: Arc<Inner>,
    session: AddSession,
}

impl Adding {
    pub(crate) fn begin(inner: &Arc<Inner>) -> Self {
        Self {
            inner: Arc::clone(inner),
            session: inner.store.begin_add(),
        }
    }

    /// Holds what was added, under this name. What is missing of it, because it was not added here, is fetched.
    ///
    /// # Errors
    /// As [`cluster_ipfs::IpfsNode::pin_add`].
    pub async fn pin(&self, root: &Cid, mode: PinMode, name: &str, progress: ProgressSink<'_>) -> Result<Added, Error> {
        add_pin(&self.inner, root, mode, name, progress).await
    }
}

#[async_trait]
impl Sink for Adding {
    async fn put(&self, blocks: Vec<Block>) -> Result<(), StoreError> {
        self.inner.gate.enter().await?;
        let mut bytes = 0;
        let mut stored = Vec::with_capacity(blocks.len());
        for block in &blocks {
            bytes += block.bytes().len() as u64;
            stored.extend(to_wire(&block.cid()).map(|wire| (wire, block.bytes().len())));
        }
        self.inner.gate.took(bytes);
        let put = self.inner.store.put(Some(&self.session), blocks).await;
        put.map_err(|error| StoreError::from(Failure::from(error)))?;
        // Peers that wait for them are served. A node that shuts down shows itself in the next call.
        let _ = self.inner.network.swarm.stored(stored).await;
        Ok(())
    }
}

/// A pin as the cluster's worker asks for it.
pub(crate) async fn add_pin(
    inner: &Arc<Inner>,
    cid: &Cid,
    mode: PinMode,
    name: &str,
    progress: ProgressSink<'_>,
) -> Result<Added, Error> {
    let of = |failure: Failure| failure.of(Operation::PinAdd);
    let wanted = match mode {
        PinMode::Recursive => Mode::Recursive,
        PinMode::Direct => Mode::Direct,
    };
    if mode == PinMode::Direct {
        let found = walk::look_up(&inner.store, *cid).await.map_err(of)?;
        if found.is_some_and(|pin| pin.mode == Mode::Recursive) {
            return Ok(Added {
                held: PinMode::Recursive,
                progress: Progress::default(),
            });
        }
    }
    let pin = walk::pin(inner, *cid, wanted, name, progress).await.map_err(of)?;
    Ok(Added {
        held: mode,
        progress: Progress {
            blocks: pin.progress.blocks,
            bytes: pin.progress.bytes,
        },
    })
}

/// Blocks of this node, and of the network where that is asked for. What comes from the network is checked and handed on,
/// and not kept: reading is not pinning.
pub struct NodeSource {
    inner: Arc<Inner>,
    remote: Option<Session>,
}

impl NodeSource {
    pub(crate) fn new(inner: &Arc<Inner>, network: bool) -> Self {
        Self {
            inner: Arc::clone(inner),
            remote: network.then(|| Session::begin(inner)),
        }
    }
}

#[async_trait]
impl Source for NodeSource {
    async fn get(&self, cid: &Cid) -> Result<Block, StoreError> {
        let (store, key) = (self.inner.store.clone(), *cid);
        if let Some(bytes) = blocking(move || store.get(&key)).await? {
            return Ok(Block::trusted(*cid, bytes));
        }
        if let Some(block) = Block::empty(*cid) {
            return Ok(block);
        }
        match &self.remote {
            Some(session) => {
                walk::verifiable(cid).map_err(|error| StoreError::from(Failure::from(error)))?;
                Ok(session.get(*cid).await?)
            }
            None => Err(StoreError::new(
                ErrorClass::NotFound,
                format!("{cid} is not on this node"),
            )),
        }
    }
}
