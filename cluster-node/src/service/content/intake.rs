//! Handing blocks to a node: to one that this peer drives, or to one behind another peer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cluster_dag::Block;
use cluster_ipfs::{Intake, Operation};
use cluster_proto::peer::v1 as wire;
use futures::{Stream, StreamExt};
use node_core::{Cid, ErrorClass, NodeId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::service::{Error, Pins};

/// Blocks in one message between peers, as the API of peers says. Bytes are bounded by the size of messages.
pub const INGEST_BLOCKS_MAX: usize = 1_024;

/// Roots of one handover at most, more than the header of a CAR file has room for.
const INGEST_ROOTS_MAX: usize = 100_000;

/// Messages to another peer that wait to be sent. One is a batch of an add: about 2 MiB.
const MESSAGES_WAITING_MAX: usize = 2;

/// How long a peer that is to take blocks may keep silent at first.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// How long another peer may take no blocks, and how long it may take to say that all are stored.
const STALL: Duration = Duration::from_secs(120);

type NodeError = cluster_ipfs::Error;

fn failed(class: ErrorClass, message: impl AsRef<str>) -> NodeError {
    NodeError::new(Operation::Intake, class, message, None)
}

impl Pins {
    /// Begins to hand blocks to a node.
    pub(super) async fn intake(&self, node: NodeId) -> Result<Box<dyn Intake>, NodeError> {
        let names = self.names();
        let driver = names.driver(node);
        let driver = driver.ok_or_else(|| failed(ErrorClass::Permanent, format!("{node} is not a node any more")))?;
        if driver == self.directory.own() {
            let client = self.nodes.client(node);
            let client =
                client.ok_or_else(|| failed(ErrorClass::Temporary, "this peer does not drive the node yet"))?;
            return client.intake().await;
        }
        let unreachable = |error: String| failed(ErrorClass::Unreachable, format!("peer {driver}: {error}"));
        let mut link = self
            .directory
            .content_link(driver)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let (messages, queue) = mpsc::channel(MESSAGES_WAITING_MAX);
        let first = wire::IngestRequest {
            node: node.0,
            blocks: Vec::new(),
            roots: Vec::new(),
        };
        // There is room: the channel is new.
        let _ = messages.try_send(first);
        let opened = tokio::time::timeout(OPEN_LIMIT, link.ingest(ReceiverStream::new(queue))).await;
        let answers = match opened {
            Ok(Ok(answers)) => answers.into_inner(),
            Ok(Err(status)) => return Err(unreachable(status.message().to_owned())),
            Err(_) => return Err(unreachable(format!("it did not answer for {OPEN_LIMIT:?}"))),
        };
        Ok(Box::new(RemoteIntake {
            messages: Some(messages),
            answers,
            sent: 0,
        }))
    }
}

/// A node behind another peer.
struct RemoteIntake {
    /// None when all was sent.
    messages: Option<mpsc::Sender<wire::IngestRequest>>,
    answers: Streaming<wire::IngestResponse>,
    sent: u64,
}

impl RemoteIntake {
    /// Reads to the end of the answers, which is where the other side says how it ended.
    async fn outcome(&mut self) -> Result<u64, NodeError> {
        let mut stored = 0;
        loop {
            match tokio::time::timeout(STALL, self.answers.message()).await {
                Ok(Ok(Some(answer))) => stored = answer.stored,
                Ok(Ok(None)) => return Ok(stored),
                Ok(Err(status)) => return Err(failed(ErrorClass::Temporary, status.message())),
                Err(_) => return Err(failed(ErrorClass::Stalled, format!("it said nothing for {STALL:?}"))),
            }
        }
    }
}

#[async_trait]
impl Intake for RemoteIntake {
    async fn put(&mut self, blocks: Vec<Block>) -> Result<(), NodeError> {
        let Some(messages) = &self.messages else {
            return Err(failed(ErrorClass::Temporary, "the handover has ended"));
        };
        let count = blocks.len() as u64;
        let blocks = blocks.into_iter().map(|block| {
            let (cid, data) = block.into_parts();
            wire::Block {
                cid: cid.to_bytes().into(),
                data,
            }
        });
        let message = wire::IngestRequest {
            node: 0,
            blocks: blocks.collect(),
            roots: Vec::new(),
        };
        match tokio::time::timeout(STALL, messages.send(message)).await {
            Ok(Ok(())) => {
                self.sent += count;
                Ok(())
            }
            // The call is over: its end says why.
            Ok(Err(_)) => {
                self.messages = None;
                self.outcome().await?;
                Err(failed(ErrorClass::Temporary, "the other peer ended the handover"))
            }
            Err(_) => Err(failed(
                ErrorClass::Stalled,
                format!("the other peer took no blocks for {STALL:?}"),
            )),
        }
    }

    async fn finish(mut self: Box<Self>, roots: &[Cid]) -> Result<(), NodeError> {
        let messages = self.messages.take();
        for roots in roots.chunks(INGEST_BLOCKS_MAX) {
            let message = wire::IngestRequest {
                node: 0,
                blocks: Vec::new(),
                roots: roots.iter().map(|root| root.to_bytes().into()).collect(),
            };
            if let Some(messages) = &messages
                && !matches!(tokio::time::timeout(STALL, messages.send(message)).await, Ok(Ok(())))
            {
                break;
            }
        }
        drop(messages);
        let stored = self.outcome().await?;
        if stored == self.sent {
            Ok(())
        } else {
            let message = format!("it has {stored} of {} blocks", self.sent);
            Err(failed(ErrorClass::Temporary, message))
        }
    }
}

/// The other side: takes blocks for one of this peer's nodes and tells after each message how many the node took. What is
/// told last, after the end of `messages`, is true of its disk.
pub async fn take_in(
    pins: Arc<Pins>,
    mut messages: impl Stream<Item = Result<wire::IngestRequest, Status>> + Unpin,
    answers: mpsc::Sender<Result<wire::IngestResponse, Error>>,
) {
    let outcome = take_all(&pins, &mut messages, &answers).await;
    let last = outcome.map(|stored| wire::IngestResponse { stored });
    // Nobody waits any more: the caller went away.
    let _ = answers.send(last).await;
}

async fn take_all(
    pins: &Pins,
    messages: &mut (impl Stream<Item = Result<wire::IngestRequest, Status>> + Unpin),
    answers: &mpsc::Sender<Result<wire::IngestResponse, Error>>,
) -> Result<u64, Error> {
    let broken = |status: Status| Error::precondition(format!("the handover broke off: {}", status.message()));
    let refused = |error: NodeError| Error::precondition(error.message);
    let first = messages.next().await.transpose().map_err(broken)?;
    let first = first.ok_or_else(|| Error::invalid("node", "", "the first message names the node"))?;
    let node = NodeId(first.node);
    let own = pins.nodes.client(node);
    let own = own.ok_or_else(|| Error::not_found(format!("this peer does not drive the node {node}")))?;
    let mut intake = own.intake().await.map_err(refused)?;
    let mut stored = 0;
    let mut roots = Vec::new();
    let mut next = Some(first);
    while let Some(message) = next {
        if roots.len() + message.roots.len() > INGEST_ROOTS_MAX {
            return Err(Error::invalid(
                "roots",
                format!("more than {INGEST_ROOTS_MAX}"),
                "at most 100000 in one handover",
            ));
        }
        for root in &message.roots {
            roots.push(Cid::from_bytes(root)?);
        }
        let count = message.blocks.len();
        if count > INGEST_BLOCKS_MAX {
            return Err(Error::invalid(
                "blocks",
                count.to_string(),
                "at most 1024 in one message",
            ));
        }
        if count > 0 {
            let blocks = read_blocks(message.blocks).await?;
            intake.put(blocks).await.map_err(refused)?;
            stored += count as u64;
            let told = answers.send(Ok(wire::IngestResponse { stored })).await;
            if told.is_err() {
                return Err(Error::precondition("the other peer went away"));
            }
        }
        next = messages.next().await.transpose().map_err(broken)?;
    }
    intake.finish(&roots).await.map_err(refused)?;
    Ok(stored)
}

/// Checks blocks against their CIDs: also a peer may have a damaged disk. Hashing is done where it keeps nobody waiting.
async fn read_blocks(blocks: Vec<wire::Block>) -> Result<Vec<Block>, Error> {
    let checked = tokio::task::spawn_blocking(move || {
        let blocks = blocks.into_iter().map(|block| {
            let cid = Cid::from_bytes(&block.cid)?;
            Block::new(cid, block.data).map_err(|error| Error::precondition(error.to_string()))
        });
        blocks.collect::<Result<Vec<_>, Error>>()
    });
    checked.await.map_err(|error| Error::Internal(error.to_string()))?
}

/// Distinct drivers of some nodes, this peer left out.
pub(super) fn other_drivers(pins: &Pins, nodes: impl IntoIterator<Item = NodeId>) -> BTreeSet<node_core::PeerId> {
    let (names, own) = (pins.names(), pins.directory.own());
    nodes
        .into_iter()
        .filter_map(|node| names.driver(node))
        .filter(|peer| *peer != own)
        .collect()
}
