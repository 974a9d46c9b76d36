//! Trying again what nodes gave up or are waiting to retry.

use std::sync::Arc;
use std::time::Duration;

use cluster_proto::peer::v1::{RecoverEntriesRequest, RecoverEntriesResponse};
use node_core::{Cid, ErrorClass, NodeId, PeerId, Status};

use super::chunks::{Chunks, chunks};
use super::{Error, Pins};

/// How long another peer may say nothing while it re-arms entries; it says how far it is every [`PROGRESS`], so a
/// million entries may take their time and a hung peer does not.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How often a peer says how far it is.
const PROGRESS: Duration = Duration::from_secs(1);

/// Which entries are re-armed.
#[derive(Debug, Clone, Default)]
pub struct RecoverFilter {
    /// Of this CID.
    pub cid: Option<Cid>,
    /// Of this node.
    pub node: Option<NodeId>,
    /// In these states; empty = given up and retrying.
    pub statuses: Vec<Status>,
    /// Whose last error is of this class.
    pub class: Option<ErrorClass>,
}

impl Pins {
    /// Re-arms entries on all peers. Answers how many, and the nodes of peers that did not answer.
    pub async fn recover(&self, filter: &RecoverFilter) -> Result<(u64, Vec<NodeId>), Error> {
        let names = self.names();
        let nodes: Vec<_> = names
            .present()
            .filter(|node| filter.node.is_none_or(|wanted| node.id == wanted))
            .cloned()
            .collect();
        let mut drivers: Vec<_> = nodes.iter().map(|node| node.peer).collect();
        drivers.sort_unstable();
        drivers.dedup();
        let calls = drivers.into_iter().map(|peer| {
            let of_peer: Vec<NodeId> = nodes
                .iter()
                .filter(|node| node.peer == peer)
                .map(|node| node.id)
                .collect();
            async move {
                let mut recovered = 0;
                let result = self.recover_at(peer, filter, &of_peer, &mut recovered).await;
                (result, recovered, of_peer)
            }
        });
        let mut total = 0;
        let mut unreachable = Vec::new();
        for (result, recovered, of_peer) in futures::future::join_all(calls).await {
            // Also what a peer did before it fell silent was done.
            total += recovered;
            if let Err(error) = result {
                tracing::warn!(%error, "a peer could not be asked to recover");
                unreachable.extend(of_peer);
            }
        }
        Ok((total, unreachable))
    }

    async fn recover_at(
        &self,
        peer: PeerId,
        filter: &RecoverFilter,
        nodes: &[NodeId],
        recovered: &mut u64,
    ) -> Result<(), Error> {
        if peer == self.directory.own() {
            for node in nodes {
                *recovered += self.recover_node(filter, *node).await?;
            }
            return Ok(());
        }
        let code = |position: usize| u32::try_from(position + 1).unwrap_or_default();
        let request = RecoverEntriesRequest {
            cid: filter.cid.map(|cid| cid.to_bytes().into()).unwrap_or_default(),
            nodes: nodes.iter().map(|node| node.0).collect(),
            statuses: filter.statuses.iter().map(|status| code(*status as usize)).collect(),
            error_class: filter.class.map_or(0, |class| code(class as usize)),
        };
        let silent = |message: &str| Error::NoLeader(format!("peer {peer} does not answer: {message}"));
        let begin = async {
            let mut link = self.directory.link(peer).await?;
            let stream = link.recover(request).await;
            stream.map_err(|status| silent(status.message()))
        };
        let begun = tokio::time::timeout(SILENCE_MAX, begin).await;
        let mut stream = begun.map_err(|_| silent("it is silent"))??.into_inner();
        loop {
            let message = tokio::time::timeout(SILENCE_MAX, stream.message()).await;
            match message.map_err(|_| silent("it is silent"))? {
                Ok(Some(RecoverEntriesResponse { recovered: so_far })) => *recovered = so_far,
                Ok(None) => return Ok(()),
                Err(status) => return Err(silent(status.message())),
            }
        }
    }

    /// Re-arms entries of one of this peer's own nodes.
    async fn recover_node(&self, filter: &RecoverFilter, node: NodeId) -> Result<u64, Error> {
        let recover = cluster_worker::Recover {
            node: Some(node),
            cid: filter.cid,
            class: filter.class,
            statuses: filter.statuses.clone(),
        };
        self.worker.recover(recover).await.map_err(Error::Internal)
    }

    /// The same for another peer that asked: says how far it is, at last how many there were. It ends when nobody listens,
    /// with what was re-armed by then.
    pub fn recover_here(self: &Arc<Self>, filter: RecoverFilter, nodes: Vec<NodeId>) -> Chunks<u64> {
        let (mut out, progress) = chunks();
        let pins = self.clone();
        tokio::spawn(async move {
            let mut total = 0;
            for node in nodes {
                let work = pins.recover_node(&filter, node);
                tokio::pin!(work);
                let result = loop {
                    tokio::select! {
                        result = &mut work => break result,
                        () = tokio::time::sleep(PROGRESS) => {
                            if !out.send(Ok(total)).await {
                                return;
                            }
                        }
                    }
                };
                match result {
                    Ok(count) => total += count,
                    Err(error) => {
                        out.send(Err(error)).await;
                        return;
                    }
                }
            }
            out.send(Ok(total)).await;
        });
        progress
    }
}
