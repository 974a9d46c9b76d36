//! Taking in CAR files.

use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use node_core::Cid;

use crate::{ContentError, Sink};

/// Takes a CAR file of version 1 or 2 whose bytes come in pieces of any size, and gives its blocks, each verified, to a
/// sink.
pub struct CarImporter {
    sink: Arc<dyn Sink>,
}

/// What was in a CAR file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// 1 or 2.
    pub version: u64,
    /// The roots that its header names, maybe none. Whether their DAGs are complete was not looked at: pin them.
    pub roots: Vec<Cid>,
    /// Blocks in it, repeated ones counted as often as they are there.
    pub blocks: u64,
    /// Bytes of these blocks.
    pub block_bytes: u64,
}

impl CarImporter {
    /// In front of a file.
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        Self { sink }
    }

    /// Takes the next bytes. Done when there is room for more; blocks may still be on their way.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ContentError> {
        let _ = &self.sink;
        unimplemented!("{bytes:?}")
    }

    /// What has been read so far; the header is there as soon as it was read.
    pub fn so_far(&self) -> Option<&Imported> {
        unimplemented!()
    }

    /// Ends the file: it must be whole, and its blocks are with the sink.
    pub async fn finish(self) -> Result<Imported, ContentError> {
        unimplemented!()
    }
}

/// Takes a whole CAR file from a stream.
pub async fn import_car<E: std::fmt::Display>(
    file: impl Stream<Item = Result<Bytes, E>>,
    sink: Arc<dyn Sink>,
) -> Result<Imported, ContentError> {
    let _ = (file, sink);
    unimplemented!()
}
