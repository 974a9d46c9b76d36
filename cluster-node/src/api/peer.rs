//! `pinfleet.peer.v1.Peers`: what other peers ask. The caller's identity comes from its TLS certificate.
//!
//! The server runs on Raft's runtime, whose few blocking threads belong to Raft. What is short and waits for nothing is
//! answered there; whatever reads from disk, asks a daemon or lasts runs on the main runtime, so that no client and no
//! daemon can keep Raft from applying.

use std::collections::BTreeSet;
use std::pin::Pin as StdPin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cluster_proto::peer::v1;
use cluster_proto::peer::v1::peers_server::Peers as PeersService;
use cluster_proto::v1::CollectGarbageResponse;
use cluster_security::{LogLimit, PeerIdentity};
use futures::{Stream, StreamExt};
use node_core::command::NewPeer;
use node_core::{Cid, ErrorClass, NodeId, PeerId, Replication, Status as PinState};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

use super::error::{deadline_of, status};
use crate::service::{
    BLOCKS_ASKED_MAX, ENTRIES_CHUNK, Error, FIRST_PAGE, JoinAnswer, LIST_CHUNK, NodeEntry, Pins, RecoverFilter,
    WAIT_DEFAULT, WAIT_MAX, own_blocks, own_page, put_entry, read_report, take_in,
};

/// Scans that run at once. Each holds two messages of about 2 MiB at most; the other peers run as many lists for their
/// clients.
const SCANS_MAX: usize = 64;

/// Handovers of blocks that run at once. Each holds a message of blocks being stored and one on its way, 8 MiB in all.
const INTAKES_MAX: usize = 64;

/// How long a message of a scan may wait for its reader. One that has stopped reading gives its place back.
const SCAN_SEND_TIME: Duration = Duration::from_secs(30);

/// Handlers of `pinfleet.peer.v1.Peers`.
#[derive(Clone)]
pub struct PeerApi {
    pins: Arc<Pins>,
    /// Where work that waits for disks and daemons is done.
    main: Handle,
    scans: Arc<Semaphore>,
    intakes: Arc<Semaphore>,
    /// What strangers cause must not fill the log.
    refusals: Arc<LogLimit>,
    /// Members that speak another version of the protocol, each named in the log once. No longer than the member list.
    other_version: Arc<Mutex<BTreeSet<PeerId>>>,
}

type Answered<T> = Result<Response<T>, Status>;

impl PeerApi {
    /// `main` is the runtime for all that is not Raft.
    pub fn new(pins: Arc<Pins>, main: Handle) -> Self {
        Self {
            pins,
            main,
            scans: Arc::new(Semaphore::new(SCANS_MAX)),
            intakes: Arc::new(Semaphore::new(INTAKES_MAX)),
            refusals: Arc::default(),
            other_version: Arc::default(),
        }
    }

    /// Answers on the main runtime. When the caller goes away, the work ends.
    async fn on_main<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Status> {
        let task = AbortOnDropHandle::new(self.main.spawn(work));
        match task.await {
            Ok(answer) => answer.map_err(status),
            Err(error) => Err(ended(&error)),
        }
    }

    /// Answers on a thread that may wait for the disk.
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        match self.main.spawn_blocking(work).await {
            Ok(answer) => answer.map_err(status),
            Err(error) => Err(ended(&error)),
        }
    }

    /// A report in words that this version does not know would be misread.
    fn check_version(&self, peer: PeerId, spoken: u32) -> Result<(), Status> {
        let checked = crate::service::check_wire_version(spoken);
        let Err(error) = checked else { return Ok(()) };
        if self.other_version.lock().insert(peer) {
            tracing::warn!(%peer, %error, "the reports of a peer are not taken");
        }
        Err(status(error))
    }
}

fn ended(error: &tokio::task::JoinError) -> Status {
    status(Error::Internal(format!("the answer ended early: {error}")))
}

#[tonic::async_trait]
impl PeersService for PeerApi {
    type ScanEntriesStream = StdPin<Box<dyn Stream<Item = Result<v1::ScanEntriesResponse, Status>> + Send>>;
    type RecoverStream = StdPin<Box<dyn Stream<Item = Result<v1::RecoverEntriesResponse, Status>> + Send>>;
    type CollectGarbageStream = StdPin<Box<dyn Stream<Item = Result<CollectGarbageResponse, Status>> + Send>>;
    type IngestStream = StdPin<Box<dyn Stream<Item = Result<v1::IngestResponse, Status>> + Send>>;

    async fn join(&self, request: Request<v1::JoinRequest>) -> Answered<v1::JoinResponse> {
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let peer = caller(&request)?;
        let pins = self.pins.clone();
        let answer = self
            .on_main(async move { pins.join(peer, request.into_inner(), wait).await })
            .await;
        if let Err(status) = &answer
            && let Some(suppressed) = self.refusals.allow()
        {
            tracing::warn!(%peer, error = status.message(), suppressed, "a peer was not admitted");
        }
        Ok(Response::new(match answer? {
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

    async fn is_member(&self, request: Request<v1::IsMemberRequest>) -> Answered<v1::IsMemberResponse> {
        use v1::is_member_response::Membership;
        let peer = request
            .into_inner()
            .peer_id
            .parse()
            .map_err(|error| status(Error::from(error)))?;
        let membership = match self.pins.directory.get(peer) {
            Some(peer) if peer.removed => Membership::Removed,
            Some(_) => Membership::Member,
            None => Membership::Stranger,
        };
        Ok(Response::new(v1::IsMemberResponse {
            membership: membership.into(),
        }))
    }

    async fn forward(&self, request: Request<v1::ForwardRequest>) -> Answered<v1::ForwardResponse> {
        let answer = self.pins.proposer.take_forwarded(request.into_inner()).await;
        answer.map(Response::new).map_err(status)
    }

    async fn read_index(&self, _: Request<v1::ReadIndexRequest>) -> Answered<v1::ReadIndexResponse> {
        let index = self.pins.consensus.read_index().await;
        let index = index.map_err(|error| status(Error::NoLeader(error.to_string())))?;
        Ok(Response::new(v1::ReadIndexResponse { index }))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Answered<v1::ReportResponse> {
        let peer = caller(&request)?;
        let report = request.into_inner();
        self.check_version(peer, report.wire_version)?;
        let heard = read_report(&report);
        let introduced = NewPeer {
            id: peer,
            name: report.name,
            addresses: report.addresses,
            api_address: report.api_address,
            version: report.version,
        };
        self.pins.fleet.hear(peer, heard);
        if self.pins.leads() {
            self.pins.introduce(&introduced).await.map_err(status)?;
        }
        Ok(Response::new(v1::ReportResponse {}))
    }

    async fn entries(&self, request: Request<v1::EntriesRequest>) -> Answered<v1::EntriesResponse> {
        let request = request.into_inner();
        if request.cids.len() > ENTRIES_CHUNK {
            let count = request.cids.len().to_string();
            let most = format!("at most {ENTRIES_CHUNK} in one call");
            return Err(status(Error::invalid("cids", count, most)));
        }
        let pins = self.pins.clone();
        let answer = self.on_thread(move || {
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
        Ok(Response::new(answer.await?))
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
        let place = self.scans.clone().try_acquire_owned().map_err(|_| {
            status(Error::Overloaded {
                retry_after: Duration::from_secs(1),
            })
        })?;
        // One message being sent and one on its way.
        let (out, messages) = mpsc::channel(2);
        let complete = Arc::new(AtomicBool::new(false));
        let scan = Scan {
            pins: self.pins.clone(),
            statuses: statuses.into(),
            brief: request.brief,
            out,
            complete: complete.clone(),
            _place: place,
        };
        self.main.spawn(scan.run(after));
        // A scan that was cut must not look like one that came to its end.
        let end = futures::stream::once(async move {
            let cut = !complete.load(Ordering::Acquire);
            cut.then(|| {
                let seconds = SCAN_SEND_TIME.as_secs();
                Err(Status::aborted(format!(
                    "the scan was not read for {seconds} s and has ended; begin it again"
                )))
            })
        });
        let messages = ReceiverStream::new(messages).chain(end.filter_map(std::future::ready));
        Ok(Response::new(Box::pin(messages)))
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
        let filter = parsed().map_err(status)?;
        let nodes = request.nodes.iter().copied().map(NodeId).collect();
        let pins = self.pins.clone();
        let progress = self
            .on_main(async move { Ok(pins.recover_here(filter, nodes)) })
            .await?;
        let messages = progress.map(|recovered| {
            let recovered = recovered.map_err(status)?;
            Ok(v1::RecoverEntriesResponse { recovered })
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn probe_node(&self, request: Request<v1::ProbeNodeRequest>) -> Answered<v1::ProbeNodeResponse> {
        let (pins, request) = (self.pins.clone(), request.into_inner());
        let answer = self.on_main(async move { pins.nodes.probe(&request).await }).await;
        answer.map(Response::new)
    }

    async fn change_member(&self, request: Request<v1::ChangeMemberRequest>) -> Answered<v1::ChangeMemberResponse> {
        use v1::change_member_request::Change;
        let wait = deadline_of(&request, WAIT_DEFAULT, WAIT_MAX);
        let (pins, request) = (self.pins.clone(), request.into_inner());
        let answer = async move {
            let peer = request.peer_id.parse().map_err(Error::from)?;
            if !pins.leads() {
                // Not handed on: a call that goes in circles between two peers helps nobody.
                return Err(Error::NoLeader("this peer does not lead".into()));
            }
            match request.change() {
                Change::Promote => pins.promote_peer(peer, wait).await,
                Change::Remove => pins.remove_peer(peer, wait).await,
                Change::Unspecified => Err(Error::invalid("change", "0", "use promote (1) or remove (2)")),
            }
        };
        self.on_main(answer).await?;
        Ok(Response::new(v1::ChangeMemberResponse {}))
    }

    async fn fleet(&self, _: Request<v1::FleetRequest>) -> Answered<v1::FleetResponse> {
        Ok(Response::new(v1::FleetResponse {
            peers: self.pins.seen(),
        }))
    }

    async fn explain(&self, request: Request<v1::ExplainPlacementRequest>) -> Answered<v1::ExplainPlacementResponse> {
        let request = request.into_inner();
        let pins = self.pins.clone();
        let answer = move || {
            let cid = Cid::from_bytes(&request.cid)?;
            let replication = Replication {
                min: request.replication_min,
                max: request.replication_max,
            };
            let preferred: Vec<_> = request.preferred.iter().copied().map(NodeId).collect();
            pins.explain_here(&*pins.reads.stale(), cid, replication, &preferred)
        };
        let (summary, verdicts) = self.on_thread(answer).await?;
        Ok(Response::new(v1::ExplainPlacementResponse { summary, verdicts }))
    }

    async fn ingest(&self, request: Request<Streaming<v1::IngestRequest>>) -> Answered<Self::IngestStream> {
        let place = self.intakes.clone().try_acquire_owned().map_err(|_| {
            status(Error::Overloaded {
                retry_after: Duration::from_secs(1),
            })
        })?;
        // One answer being sent and one on its way: a caller that reads none is not read from either.
        let (answers, queue) = mpsc::channel(2);
        let (pins, messages) = (self.pins.clone(), request.into_inner());
        let task = AbortOnDropHandle::new(self.main.spawn(async move {
            take_in(pins, messages, answers).await;
            drop(place);
        }));
        let answers = ReceiverStream::new(queue).map(move |answer| {
            // Ends with the stream: when the caller goes away, so does the handover.
            let _ = &task;
            answer.map_err(status)
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn blocks(&self, request: Request<v1::BlocksRequest>) -> Answered<v1::BlocksResponse> {
        let request = request.into_inner();
        if request.cids.len() > BLOCKS_ASKED_MAX {
            let count = request.cids.len().to_string();
            return Err(status(Error::invalid("cids", count, "at most 256 in one call")));
        }
        let pins = self.pins.clone();
        let answer = self.on_main(async move {
            let cids = request.cids.iter().map(|bytes| Ok(Cid::from_bytes(bytes)?));
            let cids = cids.collect::<Result<Vec<_>, Error>>()?;
            let blocks = own_blocks(&pins, &cids).await.into_iter();
            Ok(v1::BlocksResponse {
                blocks: blocks.map(|data| v1::FoundBlock { data }).collect(),
            })
        });
        Ok(Response::new(answer.await?))
    }

    async fn node_details(&self, request: Request<v1::NodeDetailsRequest>) -> Answered<v1::NodeDetailsResponse> {
        let (pins, node) = (self.pins.clone(), NodeId(request.into_inner().node));
        let answer = self.on_main(async move { pins.details_here(node).await }).await;
        answer.map(Response::new)
    }

    async fn collect_garbage(
        &self,
        request: Request<v1::CollectNodeGarbageRequest>,
    ) -> Answered<Self::CollectGarbageStream> {
        let (pins, request) = (self.pins.clone(), request.into_inner());
        let steps = self
            .on_main(async move { pins.collect_here(NodeId(request.node), request.estimate_only) })
            .await?;
        Ok(Response::new(Box::pin(steps.map(|step| step.map_err(status)))))
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

/// The ledgers of this peer's nodes, on their way to another peer.
struct Scan {
    pins: Arc<Pins>,
    statuses: Arc<[PinState]>,
    brief: bool,
    out: mpsc::Sender<Result<v1::ScanEntriesResponse, Status>>,
    /// All was sent, or why not.
    complete: Arc<AtomicBool>,
    _place: OwnedSemaphorePermit,
}

impl Scan {
    /// Merges the ledgers by CID; all entries of a CID go out in one message. A thread is held for a page at a time, and
    /// none while the reader is waited for.
    async fn run(self, mut after: Option<Cid>) {
        let own = self.pins.directory.own();
        let nodes: Arc<[NodeId]> = self.pins.names().of_peer(own).map(|node| node.id).collect();
        let mut rows = FIRST_PAGE;
        loop {
            let (pins, nodes, statuses, brief) = (self.pins.clone(), nodes.clone(), self.statuses.clone(), self.brief);
            let page = tokio::task::spawn_blocking(move || {
                let (rows, next) = next_page(&pins, &nodes, after, &statuses, rows)?;
                let entries: Vec<_> = rows.iter().map(|(cid, entry)| put_entry(cid, entry, brief)).collect();
                Ok::<_, Error>((entries, next))
            });
            let (entries, next) = match page.await {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => return self.fail(status(error)).await,
                Err(error) => return self.fail(ended(&error)).await,
            };
            if !entries.is_empty() {
                let message = Ok(v1::ScanEntriesResponse { entries });
                match tokio::time::timeout(SCAN_SEND_TIME, self.out.send(message)).await {
                    Ok(Ok(())) => {}
                    // Nobody listens any more.
                    Ok(Err(_)) => return,
                    Err(_) => {
                        tracing::debug!("a scan ended, because nobody read it");
                        return;
                    }
                }
            }
            match next {
                Some(next) => (after, rows) = (Some(next), LIST_CHUNK),
                None => return self.complete.store(true, Ordering::Release),
            }
        }
    }

    async fn fail(self, status: Status) {
        // A reader that does not take the error in time would not take it later.
        if let Ok(Ok(())) = tokio::time::timeout(SCAN_SEND_TIME, self.out.send(Err(status))).await {
            self.complete.store(true, Ordering::Release);
        }
    }
}

type Page = (Vec<(Cid, NodeEntry)>, Option<Cid>);

/// A page of every node, cut where the shortest of them ends, and the CID to go on behind.
fn next_page(
    pins: &Pins,
    nodes: &[NodeId],
    after: Option<Cid>,
    statuses: &[PinState],
    rows_max: usize,
) -> Result<Page, Error> {
    let mut rows = Vec::new();
    let mut bound: Option<Cid> = None;
    for node in nodes {
        let page = own_page(&pins.worker, *node, after, statuses, rows_max)?;
        // A short page is the last of its node.
        if page.len() >= rows_max
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
