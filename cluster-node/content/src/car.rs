//! Taking in CAR files.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use cluster_dag::car::{CarEvent, CarReader};
use cluster_dag::{Block, DagError};
use futures::{Stream, StreamExt as _};
use node_core::Cid;

use crate::batch::Batcher;
use crate::{ContentError, STEP_BYTES_MAX, Sink};

/// Takes a CAR file of version 1 or 2 whose bytes come in pieces of any size, and gives its blocks, each verified and with
/// links that can be read, to a sink.
pub struct CarImporter {
    batcher: Batcher,
    reader: CarReader,
    header: Option<(u64, Vec<Cid>)>,
    /// Whether the block of the first root was among them.
    has_root: bool,
}

/// What was in a CAR file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// 1 or 2.
    pub version: u64,
    /// The roots that its header names, maybe none, at most some 25 thousand
    /// ([`HEADER_BYTES_MAX`](cluster_dag::car::HEADER_BYTES_MAX)). Whether their DAGs are complete was not looked at: pin
    /// them.
    pub roots: Vec<Cid>,
    /// Whether the block of the first root is in it. Files that hold a part of a DAG may name the root of the whole.
    pub has_root: bool,
    /// Blocks in it, repeated ones counted as often as they are there.
    pub blocks: u64,
    /// Bytes of these blocks.
    pub block_bytes: u64,
}

impl CarImporter {
    /// In front of a file.
    pub fn new(sink: Arc<dyn Sink>) -> Self {
        Self {
            batcher: Batcher::new(sink),
            reader: CarReader::new(),
            header: None,
            has_root: false,
        }
    }

    /// Takes the next bytes. Done when there is room for more; blocks may still be on their way. After an error, or when
    /// the future was dropped, the importer is of no use.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ContentError> {
        for piece in bytes.chunks(STEP_BYTES_MAX) {
            self.reader.push(piece);
            while let Some(event) = self.reader.next()? {
                match event {
                    CarEvent::Header { version, roots } => {
                        // An identity CID carries its block itself.
                        self.has_root = roots.first().is_some_and(|root| Block::inline(*root).is_some());
                        self.header = Some((version, roots));
                    }
                    CarEvent::Block(block) => {
                        readable(&block)?;
                        let is_root = || self.roots().and_then(<[Cid]>::first) == Some(&block.cid());
                        self.has_root = self.has_root || is_root();
                        self.batcher.push(block);
                    }
                }
            }
            self.batcher.room().await?;
            if bytes.len() > STEP_BYTES_MAX {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// The roots that the header names, as soon as it was read.
    pub fn roots(&self) -> Option<&[Cid]> {
        self.header.as_ref().map(|(_, roots)| &roots[..])
    }

    /// Blocks so far, and their bytes.
    pub fn progress(&self) -> (u64, u64) {
        (self.batcher.blocks, self.batcher.block_bytes)
    }

    /// Ends the file: it must be whole; when it is done, all its blocks are with the sink.
    pub async fn finish(mut self) -> Result<Imported, ContentError> {
        self.reader.finish()?;
        self.batcher.finish().await?;
        // A reader that finished has read a header.
        let (version, roots) = self.header.unwrap_or_default();
        Ok(Imported {
            version,
            roots,
            has_root: self.has_root,
            blocks: self.batcher.blocks,
            block_bytes: self.batcher.block_bytes,
        })
    }
}

/// Refuses what no store takes, which knows the links of all that it holds. Here it is the fault of the file; from a store
/// it would look like that of the store.
fn readable(block: &Block) -> Result<(), DagError> {
    // An identity CID carries its block itself, and goes into no store.
    if Block::inline(block.cid()).is_none() {
        block.links()?;
    }
    Ok(())
}

/// Takes a whole CAR file from a stream.
pub async fn import_car<E: std::fmt::Display>(
    file: impl Stream<Item = Result<Bytes, E>>,
    sink: Arc<dyn Sink>,
) -> Result<Imported, ContentError> {
    let mut file = pin!(file);
    let mut importer = CarImporter::new(sink);
    while let Some(bytes) = file.next().await {
        let bytes = bytes.map_err(|error| ContentError::Input(error.to_string()))?;
        importer.write(bytes).await?;
    }
    importer.finish().await
}
