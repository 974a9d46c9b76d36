//! What all parts of a node share.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use cluster_blocks::BlockStore;
use cluster_dag::Block;
use cluster_swarm::{Blocks, StoreError};
use node_core::Cid;
use parking_lot::RwLock;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::announce::Announcer;
use crate::config::EmbeddedConfig;
use crate::fellows::Fellows;
use crate::fetch::Network;
use crate::gate::Gate;
use crate::gc::Gc;
use crate::keep::Turn;
use crate::scrub::Scrub;
use crate::walk::Walks;

pub(crate) struct Inner {
    pub(crate) config: EmbeddedConfig,
    pub(crate) store: BlockStore,
    pub(crate) network: Arc<Network>,
    pub(crate) gate: Gate,
    pub(crate) walks: Arc<Walks>,
    pub(crate) gc: Gc,
    pub(crate) scrub: Scrub,
    pub(crate) announcer: Announcer,
    pub(crate) fellows: Fellows,
    pub(crate) denied: Arc<Denied>,
    pub(crate) turn: Turn,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Roots that were just completed, to be announced.
    pub(crate) fresh: mpsc::Sender<Cid>,
}

impl Inner {
    /// A pin is complete: the world may know. When too many wait, it is looked for later.
    pub(crate) fn announce_soon(&self, cid: Cid) {
        if self.fresh.try_send(cid).is_err() {
            tracing::trace!(%cid, "not announced at once");
        }
    }
}

/// Blocks that are served to nobody, by multihash.
#[derive(Default)]
pub(crate) struct Denied(RwLock<HashSet<Vec<u8>>>);

impl Denied {
    pub(crate) fn set(&self, cids: &[Cid]) {
        let set = cids.iter().map(multihash).collect();
        *self.0.write() = set;
    }

    pub(crate) fn contains(&self, cid: &Cid) -> bool {
        let set = self.0.read();
        !set.is_empty() && set.contains(&multihash(cid))
    }
}

/// What names the bytes of a block, whatever its codec.
fn multihash(cid: &Cid) -> Vec<u8> {
    let binary = cid.to_bytes();
    if cid.version() == 0 {
        return binary;
    }
    // Behind the version, which is one byte, and the codec.
    let codec_bytes = binary[1..]
        .iter()
        .position(|byte| byte & 0x80 == 0)
        .map_or(0, |last| last + 1);
    binary[1 + codec_bytes..].to_vec()
}

/// Blocks of the store, with the empty block, stored or not.
pub(crate) fn blocks(store: &BlockStore, cids: &[Cid]) -> Result<Vec<Option<Bytes>>, cluster_blocks::Error> {
    let mut found = store.get_many(cids)?;
    for (cid, bytes) in cids.iter().zip(&mut found) {
        if bytes.is_none() {
            *bytes = Block::empty(*cid).map(|block| block.into_parts().1);
        }
    }
    Ok(found)
}

/// The store, as the network sees it: with the empty block, stored or not.
pub(crate) struct Served {
    pub(crate) store: BlockStore,
    pub(crate) denied: Arc<Denied>,
}

impl Served {
    fn own(cids: &[cluster_swarm::Cid]) -> Result<Vec<Cid>, StoreError> {
        let own = cids.iter().map(|cid| {
            cluster_swarm::from_wire(cid).ok_or_else(|| StoreError(format!("{cid} is not a CID that can be stored")))
        });
        own.collect()
    }
}

impl Blocks for Served {
    fn sizes(&self, cids: &[cluster_swarm::Cid]) -> Result<Vec<Option<usize>>, StoreError> {
        let own = Self::own(cids)?;
        let mut sizes = self.store.sizes(&own).map_err(|error| StoreError(error.to_string()))?;
        for (cid, size) in own.iter().zip(&mut sizes) {
            if size.is_none() {
                *size = Block::empty(*cid).map(|_| 0);
            }
        }
        Ok(sizes)
    }

    fn read(&self, cids: &[cluster_swarm::Cid]) -> Result<Vec<Option<Bytes>>, StoreError> {
        blocks(&self.store, &Self::own(cids)?).map_err(|error| StoreError(error.to_string()))
    }

    fn is_denied(&self, cid: &cluster_swarm::Cid) -> bool {
        cluster_swarm::from_wire(cid).is_some_and(|cid| self.denied.contains(&cid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_denied_under_all_of_its_names() {
        let v0: Cid = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn".parse().expect("cid");
        let denied = Denied::default();
        assert!(!denied.contains(&v0));
        denied.set(&[v0]);
        assert!(denied.contains(&v0));
        let mut binary = v0.to_bytes();
        // A codec of one byte, and one of two.
        for codec in [&[0x70][..], &[0x80, 0x02][..]] {
            let named = [&[1][..], codec, &v0.to_bytes()[..]].concat();
            assert!(denied.contains(&Cid::from_bytes(&named).expect("cid")));
        }
        binary[10] ^= 1;
        assert!(!denied.contains(&Cid::from_bytes(&binary).expect("cid")));
        denied.set(&[]);
        assert!(!denied.contains(&v0));
    }
}
