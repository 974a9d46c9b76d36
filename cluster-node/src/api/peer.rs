//! `pinfleet.peer.v1.Peers`: what other peers ask. The caller's identity comes from its TLS certificate.

use std::pin::Pin as StdPin;
use std::sync::Arc;
use std::time::Duration;

use cluster_proto::peer::v1;
use cluster_proto::peer::v1::peers_server::Peers as PeersService;
use cluster_security::PeerIdentity;
use futures::Stream;
use node_core::command::NewPeer;
use node_core::{Cid, ErrorClass, NodeId, PeerId, Replication, Status as PinState};
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status};

use super::error::{deadline_of, status};
use crate::service::{
    AHEAD, ChunkSender, ENTRIES_CHUNK, Error, JoinAnswer, NodeEntry, Pins, RecoverFilter, WAIT_DEFAULT, WAIT_MAX,
    chunks_within, own_page, put_entry, read_report,
};

/// Handlers of `pinfleet.peer.v1.Peers`.
#[derive(Clone)]
pub struct PeerApi(pub Arc<Pins>);

type Answered<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl PeersService for PeerApi {
    type ScanEntriesStream = StdPin<Box<dyn Stream<Item = Result<v1::ScanEntriesResponse, Status>> + Send>>;
    type RecoverStream = StdPin<Box<dyn Stream<Item = Result<v1::RecoverEntriesResponse, Status>> + Send>>;

    async fn join(&self, request: Request<v1::JoinRequest>) -> Answered<v1::JoinResponse> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let peer = caller(&request)?;
        let answer = self.0.join(peer, request.into_inner(), wait).await;
        let answer = answer.inspect_err(|error| tracing::warn!(%peer, %error, "a peer was not admitted"));
        Ok(Response::new(match answer.map_err(status)? {
            JoinAnswer::Ask(leader) => v1::JoinResponse {
                leader: Some(leader),
                ..v1::JoinResponse::default()
            },
            JoinAnswer::Admitted {
                cluster_id,
                raft_id,
                members,
            } => v1::JoinResponse {
                cluster_id,
                raft_id,
                members,
                leader: None,
            },
        }))
    }

    async fn forward(&self, request: Request<v1::ForwardRequest>) -> Answered<v1::ForwardResponse> {
        let answer = self.0.proposer.take_forwarded(request.into_inner()).await;
        answer.map(Response::new).map_err(status)
    }

    async fn read_index(&self, _: Request<v1::ReadIndexRequest>) -> Answered<v1::ReadIndexResponse> {
        let index = self.0.consensus.read_index().await;
        let index = index.map_err(|error| status(Error::NoLeader(error.to_string())))?;
        Ok(Response::new(v1::ReadIndexResponse { index }))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Answered<v1::ReportResponse> {
        let peer = caller(&request)?;
        let report = request.into_inner();
        let heard = read_report(&report);
        let introduced = NewPeer {
            id: peer,
            name: report.name,
            addresses: report.addresses,
            api_address: report.api_address,
            version: report.version,
        };
        self.0.fleet.hear(peer, heard);
        if self.0.leads() {
            self.0.introduce(&introduced).await.map_err(status)?;
        }
        Ok(Response::new(v1::ReportResponse {}))
    }

    async fn entries(&self, request: Request<v1::EntriesRequest>) -> Answered<v1::EntriesResponse> {
        let request = request.into_inner();
        if request.cids.len() > ENTRIES_CHUNK {
            let count = request.cids.len().to_string();
            return Err(status(Error::invalid("cids", count, "at most 1000 in one call")));
        }
        let pins = self.0.clone();
        let answer = on_thread(move || {
            let cids = request.cids.iter().map(|bytes| Ok(Cid::from_bytes(bytes)?));
            let cids = cids.collect::<Result<Vec<_>, Error>>()?;
            let found = pins.gather.own(&pins.names(), &cids)?;
            let entries = found
                .iter()
                .flat_map(|(cid, rows)| rows.iter().map(|entry| put_entry(cid, entry, false)));
            Ok(v1::EntriesResponse {
                entries: entries.collect(),
            })
        });
        Ok(Response::new(answer.await.map_err(status)?))
    }

    async fn scan_entries(&self, request: Request<v1::ScanEntriesRequest>) -> Answered<Self::ScanEntriesStream> {
        let request = request.into_inner();
        let parsed = || {
            let after = if request.after.is_empty() {
                None
            } else {
                Some(Cid::from_bytes(&request.after)?)
            };
            let statuses = request
                .statuses
                .iter()
                .map(|code| read_code(&PinState::ALL, *code, "statuses"));
            Ok::<_, Error>((after, statuses.collect::<Result<Vec<_>, Error>>()?))
        };
        let (after, statuses) = parsed().map_err(status)?;
        let (out, messages) = chunks_within(AHEAD, SCAN_SEND_LIMIT);
        let (pins, brief) = (self.0.clone(), request.brief);
        tokio::task::spawn_blocking(move || scan(&pins, after, &statuses, brief, out));
        Ok(Response::new(Box::pin(messages.map(|message| message.map_err(status)))))
    }

    async fn recover(&self, request: Request<v1::RecoverEntriesRequest>) -> Answered<Self::RecoverStream> {
        let request = request.into_inner();
        let parsed = || {
            let cid = if request.cid.is_empty() {
                None
            } else {
                Some(Cid::from_bytes(&request.cid)?)
            };
            let statuses = request
                .statuses
                .iter()
                .map(|code| read_code(&PinState::ALL, *code, "statuses"));
            let class = match request.error_class {
                0 => None,
                code => Some(read_code(&ErrorClass::ALL, code, "error_class")?),
            };
            let statuses = statuses.collect::<Result<_, Error>>()?;
            Ok::<_, Error>(RecoverFilter {
                cid,
                node: None,
                statuses,
                class,
            })
        };
        let nodes = request.nodes.iter().copied().map(NodeId).collect();
        let progress = self.0.recover_here(parsed().map_err(status)?, nodes);
        let messages = progress.map(|recovered| {
            let recovered = recovered.map_err(status)?;
            Ok(v1::RecoverEntriesResponse { recovered })
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn probe_node(&self, request: Request<v1::ProbeNodeRequest>) -> Answered<v1::ProbeNodeResponse> {
        let answer = self.0.nodes.probe(&request.into_inner()).await;
        answer.map(Response::new).map_err(status)
    }

    async fn change_member(&self, request: Request<v1::ChangeMemberRequest>) -> Answered<v1::ChangeMemberResponse> {
        use v1::change_member_request::Change;
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let request = request.into_inner();
        let answer = async {
            let peer = request.peer_id.parse().map_err(Error::from)?;
            if !self.0.leads() {
                // Not handed on: a call that goes in circles between two peers helps nobody.
                return Err(Error::NoLeader("this peer does not lead".into()));
            }
            match request.change() {
                Change::Promote => self.0.promote_peer(peer, wait).await,
                Change::Remove => self.0.remove_peer(peer, wait).await,
                Change::Unspecified => Err(Error::invalid("change", "0", "use promote (1) or remove (2)")),
            }
        };
        answer.await.map_err(status)?;
        Ok(Response::new(v1::ChangeMemberResponse {}))
    }

    async fn fleet(&self, _: Request<v1::FleetRequest>) -> Answered<v1::FleetResponse> {
        Ok(Response::new(v1::FleetResponse { peers: self.0.seen() }))
    }

    async fn explain(&self, request: Request<v1::ExplainPlacementRequest>) -> Answered<v1::ExplainPlacementResponse> {
        let request = request.into_inner();
        let answer = || {
            let cid = Cid::from_bytes(&request.cid)?;
            let replication = Replication {
                min: request.replication_min,
                max: request.replication_max,
            };
            let preferred: Vec<_> = request.preferred.iter().copied().map(NodeId).collect();
            self.0
                .explain_here(&*self.0.reads.stale(), cid, replication, &preferred)
        };
        let (summary, verdicts) = answer().map_err(status)?;
        Ok(Response::new(v1::ExplainPlacementResponse { summary, verdicts }))
    }
}

fn caller<T>(request: &Request<T>) -> Result<PeerId, Status> {
    let identity = request.extensions().get::<PeerIdentity>();
    identity
        .map(|identity| identity.0)
        .ok_or_else(|| Status::unauthenticated("the caller has no certificate"))
}

fn read_code<T: Copy>(all: &[T], code: u32, field: &str) -> Result<T, Error> {
    let position = usize::try_from(code).ok().and_then(|code| code.checked_sub(1));
    let found = position.and_then(|position| all.get(position).copied());
    found.ok_or_else(|| Error::invalid(field, code.to_string(), "a code of this version"))
}

async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::Internal(format!("a look-up ended early: {error}"))))
}

/// A peer reads as fast as the client that it reads for, which may take its time for each of several chunks.
const SCAN_SEND_LIMIT: Duration = Duration::from_secs(300);

type Out = ChunkSender<v1::ScanEntriesResponse>;

/// Merges the ledgers of this peer's nodes by CID; all entries of a CID go out in one message.
fn scan(pins: &Pins, after: Option<Cid>, statuses: &[PinState], brief: bool, mut out: Out) {
    let nodes: Vec<NodeId> = pins.names().of_peer(pins.directory.own()).map(|node| node.id).collect();
    let mut after = after;
    loop {
        let page = next_page(pins, &nodes, after, statuses);
        let (rows, next) = match page {
            Ok(page) => page,
            Err(error) => {
                out.send_blocking(Err(error));
                return;
            }
        };
        let entries: Vec<_> = rows.iter().map(|(cid, entry)| put_entry(cid, entry, brief)).collect();
        if !entries.is_empty() && !out.send_blocking(Ok(v1::ScanEntriesResponse { entries })) {
            return;
        }
        match next {
            Some(next) => after = Some(next),
            None => return,
        }
    }
}

type Page = (Vec<(Cid, NodeEntry)>, Option<Cid>);

/// A page of every node, cut where the shortest of them ends, and the CID to go on behind.
fn next_page(pins: &Pins, nodes: &[NodeId], after: Option<Cid>, statuses: &[PinState]) -> Result<Page, Error> {
    let mut rows = Vec::new();
    let mut bound: Option<Cid> = None;
    for node in nodes {
        let page = own_page(&pins.worker, *node, after, statuses)?;
        if page.len() >= crate::service::LIST_CHUNK
            && let Some((last, _)) = page.last()
        {
            bound = Some(bound.map_or(*last, |bound| bound.min(*last)));
        }
        rows.extend(page);
    }
    if let Some(bound) = bound {
        rows.retain(|(cid, _)| *cid <= bound);
    }
    if nodes.len() > 1 {
        rows.sort_by_key(|row| row.0);
    }
    Ok((rows, bound))
}
