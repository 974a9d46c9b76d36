//! Blocks from whichever node has them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster_content::{Source, StoreError};
use cluster_dag::Block;
use cluster_proto::peer::v1::BlocksRequest;
use node_core::{Cid, ErrorClass, NodeId, PeerId, pinset};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::intake::other_drivers;
use crate::service::{Error, Pins};

/// Blocks asked of another peer in one call.
pub const BLOCKS_ASKED_MAX: usize = 256;

/// Bytes of blocks in an answer to another peer; one block may go beyond. With [`CALLS_MAX`] this bounds what a reader
/// keeps in memory, beside the blocks that it read ahead.
pub const BLOCKS_BYTES: usize = 4 << 20;

/// Calls of one reader that are under way.
const CALLS_MAX: usize = 4;

/// Blocks of one reader that wait to be asked for. A reader asks for far fewer ahead.
const WAITING_MAX: usize = 4_096;

/// Blocks read at once for an answer: 32 MiB of the largest.
const READ_AT_ONCE: usize = 16;

/// How long one answer of another peer may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

type Wanted = (Cid, oneshot::Sender<Result<Block, StoreError>>);

/// Where blocks are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The nodes of this peer.
    Here,
    /// The nodes of another.
    Peer(PeerId),
}

/// The nodes of the cluster as a source of blocks: those of this peer first, then those that shall hold the root, then all
/// others. Every block is checked.
pub struct ClusterSource {
    wanted: mpsc::Sender<Wanted>,
    _task: AbortOnDropHandle<()>,
}

impl ClusterSource {
    /// A source for what lies below `root`. Its work ends when it is dropped.
    pub fn new(pins: &Arc<Pins>, root: Cid) -> Result<Self, Error> {
        let placed = pinset::placement(&*pins.reads.stale(), &root)?;
        let placed: Vec<NodeId> = placed.map(|placement| placement.nodes).unwrap_or_default();
        let mut places = vec![Place::Here];
        let holders = other_drivers(pins, placed);
        places.extend(holders.iter().copied().map(Place::Peer));
        let rest = other_drivers(pins, pins.names().present().map(|node| node.id));
        places.extend(rest.difference(&holders).copied().map(Place::Peer));
        let (wanted, queue) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(serve(pins.clone(), places, queue));
        Ok(Self {
            wanted,
            _task: AbortOnDropHandle::new(task),
        })
    }
}

#[async_trait]
impl Source for ClusterSource {
    async fn get(&self, cid: &Cid) -> Result<Block, StoreError> {
        let ended = || StoreError::new(ErrorClass::Temporary, format!("{cid}: the reader has ended"));
        let (reply, answer) = oneshot::channel();
        self.wanted.send((*cid, reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

/// Takes what waits, as much as fits into a call, and looks for it; some calls at a time.
async fn serve(pins: Arc<Pins>, places: Vec<Place>, mut queue: mpsc::Receiver<Wanted>) {
    let places: Arc<[Place]> = places.into();
    let mut calls = tokio::task::JoinSet::new();
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BLOCKS_ASKED_MAX).await > 0 {
        while calls.len() >= CALLS_MAX {
            calls.join_next().await;
        }
        calls.spawn(look_for(pins.clone(), places.clone(), std::mem::take(&mut batch)));
    }
    while calls.join_next().await.is_some() {}
}

/// Asks place after place for what the ones before did not have.
async fn look_for(pins: Arc<Pins>, places: Arc<[Place]>, batch: Vec<Wanted>) {
    let mut wanted: HashMap<Cid, Vec<oneshot::Sender<_>>> = HashMap::new();
    for (cid, reply) in batch {
        // Whoever has gone away by now wants nothing any more.
        if !reply.is_closed() {
            wanted.entry(cid).or_default().push(reply);
        }
    }
    let mut silent = Vec::new();
    for place in places.iter() {
        let mut left: Vec<Cid> = wanted.keys().copied().collect();
        while !left.is_empty() {
            let found = match ask(&pins, *place, &left).await {
                Ok(found) if !found.is_empty() => found,
                Ok(_) => break,
                Err(error) => {
                    silent.push(error);
                    break;
                }
            };
            // An answer may end before the last block asked for, where its bytes were full.
            for (cid, block) in left.drain(..found.len()).zip(found) {
                let Some(block) = block else { continue };
                for reply in wanted.remove(&cid).unwrap_or_default() {
                    let _ = reply.send(Ok(block.clone()));
                }
            }
        }
        if wanted.is_empty() {
            return;
        }
    }
    for (cid, replies) in wanted {
        let why = if silent.is_empty() {
            String::new()
        } else {
            format!("; {}", silent.join("; "))
        };
        for reply in replies {
            let error = StoreError::new(ErrorClass::NotFound, format!("no node of the cluster has {cid}{why}"));
            let _ = reply.send(Err(error));
        }
    }
}

/// One place's answer: for the first so many of `cids`, what it has. Blocks that are not what they are said to be are
/// logged and count as not there.
async fn ask(pins: &Arc<Pins>, place: Place, cids: &[Cid]) -> Result<Vec<Option<Block>>, String> {
    let cids = &cids[..cids.len().min(BLOCKS_ASKED_MAX)];
    let found: Vec<Option<Bytes>> = match place {
        Place::Here => own_blocks(pins, cids).await,
        Place::Peer(peer) => {
            let silent = |error: String| format!("peer {peer}: {error}");
            let link = pins.directory.content_link(peer).await;
            let mut link = link.map_err(|error| silent(error.to_string()))?;
            let mut call = tonic::Request::new(BlocksRequest {
                cids: cids.iter().map(|cid| cid.to_bytes().into()).collect(),
            });
            call.set_timeout(CALL_TIMEOUT);
            let answer = tokio::time::timeout(CALL_TIMEOUT, link.blocks(call)).await;
            let answer = answer.map_err(|_| silent(format!("it did not answer within {CALL_TIMEOUT:?}")))?;
            let answer = answer.map_err(|status| silent(status.message().to_owned()))?;
            answer.into_inner().blocks.into_iter().map(|found| found.data).collect()
        }
    };
    let pairs: Vec<_> = cids.iter().copied().zip(found).collect();
    let checked = tokio::task::spawn_blocking(move || {
        let check = |(cid, data): (Cid, Option<Bytes>)| {
            let checked = Block::new(cid, data?);
            if let Err(error) = &checked {
                tracing::warn!(pin = %cid, %error, "a node has a damaged block");
            }
            checked.ok()
        };
        pairs.into_iter().map(check).collect()
    });
    checked.await.map_err(|error| error.to_string())
}

/// What the nodes of this peer have, up to where the bytes are full.
pub async fn own_blocks(pins: &Arc<Pins>, cids: &[Cid]) -> Vec<Option<Bytes>> {
    let clients = pins.nodes.clients();
    let (mut found, mut bytes) = (Vec::with_capacity(cids.len()), 0);
    // A few at a time: each may be as large as half of what fits.
    for some in cids.chunks(READ_AT_ONCE) {
        let begin = found.len();
        found.resize(begin + some.len(), None);
        for (node, client) in &clients {
            let missing: Vec<usize> = (0..some.len()).filter(|at| found[begin + at].is_none()).collect();
            if missing.is_empty() {
                break;
            }
            let asked: Vec<Cid> = missing.iter().map(|at| some[*at]).collect();
            match client.blocks(&asked).await {
                Ok(blocks) => {
                    for (at, block) in missing.into_iter().zip(blocks) {
                        found[begin + at] = block;
                    }
                }
                // Another node may have them.
                Err(error) => tracing::debug!(node = %node.id, %error, "a node gave no blocks"),
            }
        }
        for at in begin..found.len() {
            bytes += found[at].as_ref().map_or(0, Bytes::len);
            if bytes >= BLOCKS_BYTES {
                found.truncate(at + 1);
                return found;
            }
        }
    }
    found
}
