//! Raft's requests from other peers. Who may call was decided before: only members get here.

use std::io;
use std::sync::{Arc, Weak};

use cluster_proto::peer::v1 as wire;
use cluster_proto::peer::v1::raft_server;
use cluster_storage::StateStore;
use cluster_storage::snapshot::{Frame, Incoming, SnapshotFile, SnapshotReceiver};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest,
};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status, Streaming};

use crate::codec;
use crate::config::ConsensusConfig;
use crate::state_machine::{self, SnapshotData};
use crate::types::{C, LogId, Raft, SnapshotMeta, Vote};

/// The Raft service of this peer.
#[derive(Clone)]
pub struct RaftService {
    inner: Arc<Inner>,
}

struct Inner {
    own: u64,
    raft: Raft,
    /// Connections outlive the peer for a moment; the state must not.
    state: Weak<StateStore>,
    config: Arc<ConsensusConfig>,
    /// One snapshot at a time.
    receiving: Mutex<()>,
}

impl RaftService {
    pub(crate) fn new(own: u64, raft: Raft, state: &Arc<StateStore>, config: Arc<ConsensusConfig>) -> Self {
        Self {
            inner: Arc::new(Inner {
                own,
                raft,
                state: Arc::downgrade(state),
                config,
                receiving: Mutex::new(()),
            }),
        }
    }

    /// A message may be meant for the peer that was here before its disk was lost: to answer it would be to vote twice.
    fn check_ends(&self, ends: Option<wire::Ends>) -> Result<(), Status> {
        let ends = ends.ok_or_else(|| Status::invalid_argument("the message does not say for whom it is"))?;
        let own = self.inner.own;
        if ends.to != own {
            return Err(Status::failed_precondition(format!(
                "this is Raft number {own}, not {}",
                ends.to
            )));
        }
        if ends.from == own {
            return Err(Status::failed_precondition(format!(
                "a message from Raft number {own} to itself"
            )));
        }
        Ok(())
    }

    /// Up to where this peer knows the log to be committed.
    fn known_committed(&self) -> Option<LogId> {
        self.inner.raft.metrics().borrow_watched().local_committed
    }

    async fn receive(&self, mut frames: Streaming<wire::SnapshotRequest>) -> Result<wire::SnapshotResponse, Status> {
        let header = match self.next_frame(&mut frames).await? {
            Some(wire::snapshot_request::Frame::Header(header)) => header,
            _ => return Err(Status::invalid_argument("a snapshot begins with its header")),
        };
        self.check_ends(header.ends)?;
        let vote = codec::decode_vote(&header.vote).map_err(invalid)?;
        let meta = codec::decode_snapshot_meta(&header.meta).map_err(invalid)?;
        let current = self.inner.raft.metrics().borrow_watched().vote;
        let committed = self.known_committed();
        // Gigabytes for nothing otherwise: that leader is one no longer, or what it sends is here already.
        if current > vote || meta.last_log_id <= committed {
            return Ok(wire::SnapshotResponse {
                vote: codec::encode_vote(&current),
            });
        }
        check_snapshot(&vote, &meta, committed)?;
        let Ok(_receiving) = self.inner.receiving.try_lock() else {
            return Err(Status::unavailable("another snapshot is coming in"));
        };
        let incoming = self.receive_files(header.files, &mut frames).await?;
        let checked = meta.clone();
        let incoming = blocking(move || {
            incoming.read(|view| state_machine::check(view, &checked))??;
            Ok(incoming)
        });
        self.install(vote, meta, incoming.await?).await
    }

    async fn receive_files(
        &self,
        files: Vec<wire::SnapshotFile>,
        frames: &mut Streaming<wire::SnapshotRequest>,
    ) -> Result<Incoming, Status> {
        use wire::snapshot_request::Frame as Wire;
        let files = files
            .into_iter()
            .map(|file| SnapshotFile {
                name: file.name,
                size: file.size,
            })
            .collect();
        let state = self.inner.state.upgrade();
        let folder = state.ok_or_else(|| stopped("it was shut down"))?.incoming_folder();
        let mut receiver = blocking(move || SnapshotReceiver::new(folder, files)).await?;
        loop {
            let frame = match self.next_frame(frames).await? {
                Some(Wire::Data(piece)) => Frame::Data(piece),
                Some(Wire::FileEnd(digest)) => Frame::FileEnd(digest),
                Some(Wire::Header(_)) => return Err(Status::invalid_argument("a snapshot has one header")),
                None => break,
            };
            receiver = blocking(move || receiver.accept(frame).map(|()| receiver)).await?;
        }
        blocking(move || receiver.finish()).await
    }

    async fn install(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        incoming: Incoming,
    ) -> Result<wire::SnapshotResponse, Status> {
        let snapshot = openraft::Snapshot {
            meta,
            snapshot: SnapshotData::Received(incoming),
        };
        let answer = self
            .inner
            .raft
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(stopped)?;
        Ok(wire::SnapshotResponse {
            vote: codec::encode_vote(&answer.vote),
        })
    }

    async fn next_frame(
        &self,
        frames: &mut Streaming<wire::SnapshotRequest>,
    ) -> Result<Option<wire::snapshot_request::Frame>, Status> {
        let stall = self.inner.config.snapshot_stall;
        let message = tokio::time::timeout(stall, frames.message()).await;
        let message = message.map_err(|_| Status::deadline_exceeded(format!("nothing came for {stall:?}")))??;
        match message {
            None => Ok(None),
            Some(message) => match message.frame {
                Some(frame) => Ok(Some(frame)),
                None => Err(Status::invalid_argument("an empty frame")),
            },
        }
    }
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    async fn append(&self, request: Request<wire::AppendRequest>) -> Result<Response<wire::AppendResponse>, Status> {
        use wire::append_response::Result as Outcome;
        let request = request.into_inner();
        self.check_ends(request.ends)?;
        let entries = request
            .entries
            .iter()
            .map(codec::decode_entry)
            .collect::<io::Result<Vec<_>>>();
        let request = AppendEntriesRequest {
            vote: codec::decode_vote(&request.vote).map_err(invalid)?,
            prev_log_id: codec::decode_optional_log_id(&request.previous).map_err(invalid)?,
            entries: entries.map_err(invalid)?,
            leader_commit: codec::decode_optional_log_id(&request.committed).map_err(invalid)?,
        };
        check_append(&request, self.known_committed())?;
        let outcome = match self.inner.raft.append_entries(request).await.map_err(stopped)? {
            AppendEntriesResponse::Success => Outcome::Success(true),
            AppendEntriesResponse::Conflict => Outcome::Conflict(true),
            AppendEntriesResponse::PartialSuccess(matched) => Outcome::Partial(wire::PartialSuccess {
                matched: codec::encode_optional_log_id(matched.as_ref()),
            }),
            AppendEntriesResponse::HigherVote(vote) => Outcome::HigherVote(codec::encode_vote(&vote)),
        };
        Ok(Response::new(wire::AppendResponse { result: Some(outcome) }))
    }

    async fn vote(&self, request: Request<wire::VoteRequest>) -> Result<Response<wire::VoteResponse>, Status> {
        let message = request.into_inner();
        self.check_ends(message.ends)?;
        let last = codec::decode_optional_log_id(&message.last).map_err(invalid)?;
        let mut request = VoteRequest::new(codec::decode_vote(&message.vote).map_err(invalid)?, last);
        request.leadership_transfer = message.leadership_transfer;
        let answer = if message.pre_vote {
            self.inner.raft.pre_vote(request).await
        } else {
            self.inner.raft.vote(request).await
        };
        let answer = answer.map_err(stopped)?;
        Ok(Response::new(wire::VoteResponse {
            vote: codec::encode_vote(&answer.vote),
            granted: answer.vote_granted,
            last: codec::encode_optional_log_id(answer.last_log_id.as_ref()),
        }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotRequest>>,
    ) -> Result<Response<wire::SnapshotResponse>, Status> {
        let received = self.receive(request.into_inner()).await;
        if let Err(status) = &received {
            tracing::warn!(%status, "a snapshot was not taken");
        }
        received.map(Response::new)
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderResponse>, Status> {
        use wire::transfer_leader_response::Result as Outcome;
        let request = request.into_inner();
        self.check_ends(request.ends)?;
        let from = codec::decode_vote(&request.from_leader).map_err(invalid)?;
        let last = codec::decode_optional_log_id(&request.last).map_err(invalid)?;
        let request = TransferLeaderRequest::new(from, request.to_node, last);
        let outcome = match self.inner.raft.handle_transfer_leader(request).await.map_err(stopped)? {
            Ok(()) => Outcome::Accepted(true),
            Err(TransferLeaderError::VoteChanged { expected, actual }) => Outcome::VoteChanged(wire::VoteChanged {
                expected: codec::encode_vote(&expected),
                actual: codec::encode_vote(&actual),
            }),
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                Outcome::LogNotFlushed(wire::LogNotFlushed {
                    expected: codec::encode_optional_log_id(expected.as_ref()),
                    actual: codec::encode_optional_log_id(actual.as_ref()),
                })
            }
        };
        Ok(Response::new(wire::TransferLeaderResponse { result: Some(outcome) }))
    }
}

/// openraft trusts its peers and stops with a panic where one breaks the rules; a faulty member must not be able to stop
/// others. No leader sends a snapshot of terms after its own, or one that contradicts what is committed.
fn check_snapshot(vote: &Vote, meta: &SnapshotMeta, committed: Option<LogId>) -> Result<(), Status> {
    let Some(last) = meta.last_log_id else {
        return Err(invalid("a snapshot of nothing"));
    };
    if !vote.is_committed() {
        return Err(invalid(format!("a snapshot from {vote}, which was not elected")));
    }
    if last.committed_leader_id() > vote.leader_id() {
        return Err(invalid(format!(
            "a snapshot up to {last} can't come from the leader {vote}"
        )));
    }
    if committed.is_some_and(|committed| last.index <= committed.index) {
        return Err(invalid(format!(
            "the snapshot up to {last} contradicts what is committed here"
        )));
    }
    if meta.last_membership.log_id().is_some_and(|log_id| log_id > last) {
        return Err(invalid(format!("the snapshot up to {last} has later members")));
    }
    Ok(())
}

/// As [`check_snapshot`]: entries follow one another and the one before them, and none is of a later term than the
/// leader's.
fn check_append(request: &AppendEntriesRequest<C>, committed: Option<LogId>) -> Result<(), Status> {
    let contradicts = |log_id: LogId| committed.is_some_and(|known| log_id.index <= known.index && log_id > known);
    if !request.vote.is_committed() {
        return Err(invalid(format!("entries from {}, which was not elected", request.vote)));
    }
    let mut before = request.prev_log_id;
    if before.is_some_and(contradicts) {
        return Err(invalid(format!("{before:?} contradicts what is committed here")));
    }
    for entry in &request.entries {
        let next = match before {
            Some(before) => before.index.checked_add(1),
            None => Some(0),
        };
        if next != Some(entry.log_id.index) || before.is_some_and(|before| before > entry.log_id) {
            return Err(invalid(format!("entry {} does not follow {before:?}", entry.log_id)));
        }
        if contradicts(entry.log_id) {
            return Err(invalid(format!(
                "entry {} contradicts what is committed here",
                entry.log_id
            )));
        }
        before = Some(entry.log_id);
    }
    if before.is_some_and(|last| last.committed_leader_id() > request.vote.leader_id()) {
        return Err(invalid(format!(
            "{before:?} can't come from the leader {}",
            request.vote
        )));
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, cluster_storage::StoreError> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Status::internal(error.to_string()))?;
    done.map_err(|error| Status::data_loss(error.to_string()))
}

fn invalid(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("Raft of this peer is stopped: {error}"))
}
