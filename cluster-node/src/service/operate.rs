//! Sight of one storage node and a hand on it: asked of the peer that drives it, whichever peer was asked.
//!
//! What is seen here is shown to people and decided on by nobody, so the messages of the API are the types here too: one
//! list of its fields and not three.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cluster_proto::peer::v1::{CollectNodeGarbageRequest, NodeDetailsRequest, NodeDetailsResponse};
use cluster_proto::v1;
use cluster_proto::v1::collect_garbage_response::Message;
use node_core::{NodeId, PeerId, StorageNode};
use tokio::sync::OwnedSemaphorePermit;

use super::chunks::{Chunks, chunks};
use super::nodes::{EMBEDDED, Known, NOT_CONFIGURED};
use super::report::{own_nodes, put_item, read_item};
use super::{Error, HeardNode, Pins};

/// Collections and estimates that run or wait on one peer, those handed on to another peer with them. Each holds a task and
/// a few numbers; one at a time does something.
pub const COLLECTIONS_MAX: usize = 16;

/// How often a collection says how far it is.
const PROGRESS: Duration = Duration::from_millis(250);

/// How long an estimate looks around.
const ESTIMATE_TIME: Duration = Duration::from_secs(3);

/// How long another peer may say nothing while it collects: many times [`PROGRESS`], and more than [`ESTIMATE_TIME`].
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How long a node may take to say how it is. An answer without it is better than none.
const NODE_TIME: Duration = Duration::from_secs(5);

/// Addresses of an attached node that are shown.
const ADDRESSES_MAX: usize = 100;

/// What an operator may see of the node inside this peer, and do to it.
#[async_trait]
pub trait Operated: Send + Sync {
    /// Everything that it says of itself.
    async fn details(&self) -> Result<v1::EmbeddedDetails, Error>;

    /// How far the collection under way has come, or the last one.
    fn garbage(&self) -> v1::GarbageProgress;

    /// Collects until there is no garbage; who comes second waits for the first. Dropping the future ends it behind the step
    /// under way.
    async fn collect_garbage(&self) -> Result<v1::GarbageCollected, Error>;

    /// What that would free, found within this time.
    async fn estimate_garbage(&self, time: Duration) -> Result<v1::GarbageEstimate, Error>;
}

/// Everything that is known of one node.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// As recorded.
    pub node: StorageNode,
    /// What its worker knows of it; nothing before it was first asked.
    pub report: Option<HeardNode>,
    /// What it says itself.
    pub details: v1::NodeDetails,
}

impl Pins {
    /// Everything that is known of the node of this name or ID.
    pub async fn node(&self, name: &str, wait: Duration) -> Result<NodeView, Error> {
        let node = self.find_node(name, wait).await?;
        if node.peer == self.directory.own() {
            let (details, report) = self.details_of(node.id).await?;
            return Ok(NodeView { node, report, details });
        }
        let ask = async {
            let mut link = self.directory.link(node.peer).await?;
            let mut call = tonic::Request::new(NodeDetailsRequest { node: node.id.0 });
            call.set_timeout(wait);
            let answer = link.node_details(call).await;
            answer.map_err(|status| self.told_by(node.peer, &status))
        };
        let answer = tokio::time::timeout(wait.min(SILENCE_MAX), ask).await;
        let answer = answer.map_err(|_| self.silent(node.peer, "it is silent"))??;
        let NodeDetailsResponse { details, report } = answer.into_inner();
        Ok(NodeView {
            node,
            report: report.map(|item| read_item(&item)),
            details: details.unwrap_or_default(),
        })
    }

    /// The same for another peer that asked.
    pub async fn details_here(&self, node: NodeId) -> Result<NodeDetailsResponse, Error> {
        let (details, report) = self.details_of(node).await?;
        Ok(NodeDetailsResponse {
            details: Some(details),
            report: report.as_ref().map(put_item),
        })
    }

    /// Of one of this peer's own nodes. A node that does not answer is no error: that is what is to be seen.
    async fn details_of(&self, id: NodeId) -> Result<(v1::NodeDetails, Option<HeardNode>), Error> {
        let (node, client) = self.nodes.known(id).ok_or_else(|| not_driven(id))?;
        let mut details = v1::NodeDetails::default();
        let asked = async {
            let (identity, version, stat) = tokio::join!(client.id(), client.version(), client.repo_stat());
            // The worst is told last: a node that can't say who it is does not answer at all.
            match stat {
                Ok(stat) => {
                    details.repo_bytes = stat.used_bytes;
                    details.repo_max_bytes = stat.max_bytes;
                }
                Err(error) => details.error = error.to_string(),
            }
            match version {
                Ok(version) => details.version = version,
                Err(error) => details.error = error.to_string(),
            }
            match identity {
                Ok(identity) => {
                    details.agent = identity.agent;
                    details.ipfs_peer_id = identity.peer_id;
                    details.addresses = identity.addresses;
                    details.addresses.truncate(ADDRESSES_MAX);
                }
                Err(error) => details.error = error.to_string(),
            }
            if node.kind == EMBEDDED {
                match self.nodes.operated() {
                    Some(operated) => match operated.details().await {
                        Ok(embedded) => details.embedded = Some(embedded),
                        Err(error) => details.error = error.to_string(),
                    },
                    None => details.error = NOT_CONFIGURED.into(),
                }
            }
        };
        if tokio::time::timeout(NODE_TIME, asked).await.is_err() {
            details.error = format!("it did not say everything within {} s", NODE_TIME.as_secs());
        }
        let report = own_nodes(&self.worker).into_iter().find(|report| report.node == id);
        Ok((details, report))
    }

    /// Collects the garbage of the node of this name or ID, or estimates what that would free: how far it is, at last the
    /// outcome. It ends when nobody listens.
    pub async fn collect_garbage(
        self: &Arc<Self>,
        name: &str,
        estimate_only: bool,
        wait: Duration,
    ) -> Result<Chunks<v1::CollectGarbageResponse>, Error> {
        let node = self.find_node(name, wait).await?;
        if node.kind != EMBEDDED {
            return Err(Error::precondition(format!(
                "the storage node {:?} is a {} daemon, which collects its garbage by itself: run `ipfs repo gc` on its \
                 machine, or start the daemon with --enable-gc; what is pinned there stays",
                node.name, node.kind
            )));
        }
        if node.peer == self.directory.own() {
            return self.collect_here(node.id, estimate_only);
        }
        let place = self.place_to_collect()?;
        let request = CollectNodeGarbageRequest {
            node: node.id.0,
            estimate_only,
        };
        let begin = async {
            let mut link = self.directory.scan_link(node.peer).await?;
            let stream = link.collect_garbage(request).await;
            stream.map_err(|status| self.told_by(node.peer, &status))
        };
        let begun = tokio::time::timeout(wait.min(SILENCE_MAX), begin).await;
        let begun = begun.map_err(|_| self.silent(node.peer, "it is silent"))??;
        let (mut out, steps) = chunks();
        let (pins, mut stream) = (self.clone(), begun.into_inner());
        tokio::spawn(async move {
            let _place = place;
            loop {
                let message = tokio::select! {
                    message = tokio::time::timeout(SILENCE_MAX, stream.message()) => message,
                    // Dropping the stream tells the other peer.
                    () = out.closed() => return,
                };
                let step = match message {
                    Ok(Ok(Some(step))) => Ok(step),
                    Ok(Ok(None)) => return,
                    Ok(Err(status)) => Err(pins.told_by(node.peer, &status)),
                    Err(_) => Err(pins.silent(node.peer, "it is silent")),
                };
                let has_failed = step.is_err();
                if !out.send(step).await || has_failed {
                    return;
                }
            }
        });
        Ok(steps)
    }

    /// Collects the garbage of this peer's own node, for whichever peer was asked.
    pub fn collect_here(
        self: &Arc<Self>,
        node: NodeId,
        estimate_only: bool,
    ) -> Result<Chunks<v1::CollectGarbageResponse>, Error> {
        let is_embedded = |(node, _): &Known| node.kind == EMBEDDED;
        let known = self.nodes.known(node).filter(is_embedded);
        known.ok_or_else(|| not_driven(node))?;
        let operated = self.nodes.operated();
        let operated = operated.ok_or_else(|| Error::precondition(NOT_CONFIGURED))?;
        let place = self.place_to_collect()?;
        let (mut out, steps) = chunks();
        tokio::spawn(async move {
            let _place = place;
            let last = if estimate_only {
                let estimate = operated.estimate_garbage(ESTIMATE_TIME).await;
                estimate.map(Message::Estimate)
            } else {
                let collecting = operated.collect_garbage();
                tokio::pin!(collecting);
                loop {
                    tokio::select! {
                        collected = &mut collecting => break collected.map(Message::Done),
                        () = out.closed() => return,
                        () = tokio::time::sleep(PROGRESS) => {
                            if !out.send(Ok(step(Message::Progress(operated.garbage())))).await {
                                return;
                            }
                        }
                    }
                }
            };
            out.send(last.map(step)).await;
        });
        Ok(steps)
    }

    fn place_to_collect(&self) -> Result<OwnedSemaphorePermit, Error> {
        let place = self.collections.clone().try_acquire_owned();
        place.map_err(|_| Error::Overloaded {
            retry_after: Duration::from_secs(1),
        })
    }

    /// Looks a node up as this peer knows it, and anew when it knows none: it may have been added a moment ago.
    async fn find_node(&self, name: &str, wait: Duration) -> Result<StorageNode, Error> {
        if let Some(node) = self.names().find(name) {
            return Ok(node.clone());
        }
        let names = self.names_for(true, wait).await?;
        names.find(name).cloned().ok_or_else(|| {
            Error::not_found(format!(
                "there is no storage node {name:?}; `cluster-ctl node ls` shows them"
            ))
        })
    }

    fn silent(&self, peer: PeerId, reason: &str) -> Error {
        let known = self.directory.get(peer).filter(|known| !known.name.is_empty());
        Error::DriverSilent {
            peer: known.map_or_else(|| peer.to_string(), |known| known.name),
            reason: reason.to_owned(),
        }
    }

    /// What the driver of a node answered instead.
    fn told_by(&self, peer: PeerId, status: &tonic::Status) -> Error {
        let message = status.message();
        match status.code() {
            tonic::Code::FailedPrecondition => Error::precondition(message),
            tonic::Code::NotFound => Error::not_found(message),
            tonic::Code::ResourceExhausted => Error::Overloaded {
                retry_after: Duration::from_secs(1),
            },
            tonic::Code::Unimplemented => Error::precondition(format!(
                "peer {peer}, which drives the node, runs an older version that can't do this; update it"
            )),
            _ => self.silent(peer, message),
        }
    }
}

fn step(message: Message) -> v1::CollectGarbageResponse {
    v1::CollectGarbageResponse { message: Some(message) }
}

/// The peer that asked knows of a node what this one has not applied yet, or no longer.
fn not_driven(node: NodeId) -> Error {
    Error::precondition(format!(
        "this peer does not drive the node {node} at this moment; try again"
    ))
}
