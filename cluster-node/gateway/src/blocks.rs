//! What a gateway serves from.

use std::sync::Arc;

use async_trait::async_trait;
use cluster_content::{Source, StoreError};
use cluster_dag::Block;
use node_core::{Cid, ErrorClass};

/// A store of blocks that may be shown to anybody.
#[async_trait]
pub trait Blocks: Source {
    /// How many bytes a block has, if it is held here; nothing is fetched and, if it can be helped, nothing is read.
    async fn size(&self, cid: &Cid) -> Result<Option<u64>, StoreError>;

    /// Why the operator does not want this block to be served, if so. Asked for every block that is given out.
    fn denied(&self, cid: &Cid) -> Option<String>;
}

/// Blocks less those that are denied: wherever in a DAG one lies, it is not given out.
pub(crate) struct Guarded(pub(crate) Arc<dyn Blocks>);

#[async_trait]
impl Source for Guarded {
    async fn get(&self, cid: &Cid) -> Result<Block, StoreError> {
        match self.0.denied(cid) {
            Some(reason) => Err(StoreError::new(ErrorClass::Unauthorized, denial(cid, &reason))),
            None => self.0.get(cid).await,
        }
    }
}

pub(crate) fn denial(cid: &Cid, reason: &str) -> String {
    format!("{cid} is not served here: {reason}")
}
