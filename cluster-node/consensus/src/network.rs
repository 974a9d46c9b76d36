//! Raft's requests to other peers.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster_proto::peer::v1 as wire;
use cluster_proto::peer::v1::raft_client::RaftClient;
use cluster_storage::StoreError;
use cluster_storage::snapshot::{Frame, Snapshot};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::channel::{ChannelProvider, Purpose};
use crate::codec;
use crate::config::ConsensusConfig;
use crate::state_machine::SnapshotData;
use crate::types::{C, RaftPeer, Vote};

/// Largest message between peers. Appends are cut at a fraction of it; one entry may be larger than that.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Frames read ahead of the network.
const FRAMES_AHEAD: usize = 2;

/// Snapshots sent at a time. Each keeps a blocking thread of Raft's busy until it is over; there are sixteen, and
/// applying, which must not wait, needs some of them. As many as a cluster of five voters has followers.
const TRANSFERS_MAX: usize = 4;

/// Makes connections for openraft.
#[derive(Clone)]
pub(crate) struct Network {
    own: u64,
    channels: Arc<dyn ChannelProvider>,
    config: Arc<ConsensusConfig>,
    transfers: Arc<Semaphore>,
    sending: Sending,
}

/// Which snapshots are being sent: the log behind them is what their receivers will ask for next.
#[derive(Clone, Default)]
pub(crate) struct Sending {
    /// Index, and how many transfers.
    indexes: Arc<Mutex<BTreeMap<u64, usize>>>,
}

/// One transfer.
struct SendingOne {
    sending: Sending,
    index: u64,
}

impl Sending {
    fn begin(&self, index: u64) -> SendingOne {
        *self.indexes.lock().entry(index).or_default() += 1;
        SendingOne {
            sending: self.clone(),
            index,
        }
    }

    /// Index of the oldest one.
    pub fn oldest(&self) -> Option<u64> {
        self.indexes.lock().first_key_value().map(|(index, _)| *index)
    }
}

impl Drop for SendingOne {
    fn drop(&mut self) {
        let mut indexes = self.sending.indexes.lock();
        if let Some(count) = indexes.get_mut(&self.index) {
            *count -= 1;
            if *count == 0 {
                indexes.remove(&self.index);
            }
        }
    }
}

/// Requests to one peer.
pub(crate) struct Connection {
    network: Network,
    target: u64,
    peer: RaftPeer,
    /// What appends go over: heartbeats have a connection of their own.
    appends: Purpose,
}

impl Network {
    pub fn new(own: u64, channels: Arc<dyn ChannelProvider>, config: Arc<ConsensusConfig>) -> Self {
        Self {
            own,
            channels,
            config,
            transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            sending: Sending::default(),
        }
    }

    pub fn sending(&self) -> Sending {
        self.sending.clone()
    }

    fn connection(&self, target: u64, peer: &RaftPeer, appends: Purpose) -> Connection {
        Connection {
            network: self.clone(),
            target,
            peer: peer.clone(),
            appends,
        }
    }
}

impl RaftNetworkFactory<C> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, peer: &RaftPeer) -> Connection {
        self.connection(target, peer, Purpose::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, peer: &RaftPeer) -> Connection {
        self.connection(target, peer, Purpose::Vote)
    }
}

impl Connection {
    fn ends(&self) -> Option<wire::Ends> {
        Some(wire::Ends {
            from: self.network.own,
            to: self.target,
        })
    }

    async fn client(&self, purpose: Purpose) -> Result<RaftClient<Channel>, Unreachable<C>> {
        let channel = self
            .network
            .channels
            .channel(&self.peer.peer_id, &self.peer.addresses, purpose)
            .await;
        let channel = channel.map_err(|error| Unreachable::new(&error))?;
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Waits for an answer. Whatever fails is `Unreachable`, so that openraft waits longer and longer before it tries
    /// again, instead of trying at once.
    async fn call<T>(
        &self,
        action: RPCTypes,
        timeout: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, RPCError<C>> {
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(RPCError::Unreachable(Unreachable::from_string(describe(&status)))),
            Err(_) => Err(RPCError::Timeout(Timeout {
                action,
                id: self.network.own,
                target: self.target,
                timeout,
            })),
        }
    }

    async fn ask_vote(
        &self,
        request: VoteRequest<C>,
        option: RPCOption,
        pre_vote: bool,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        let message = wire::VoteRequest {
            ends: self.ends(),
            vote: codec::encode_vote(&request.vote),
            last: codec::encode_optional_log_id(request.last_log_id.as_ref()),
            leadership_transfer: request.leadership_transfer,
            pre_vote,
        };
        let mut client = self.client(Purpose::Vote).await?;
        let answer = self
            .call(RPCTypes::Vote, option.hard_ttl(), client.vote(message))
            .await?;
        let vote = codec::decode_vote(&answer.vote).map_err(unreadable)?;
        let last = codec::decode_optional_log_id(&answer.last).map_err(unreadable)?;
        Ok(VoteResponse::new(vote, last, answer.granted))
    }
}

impl RaftNetworkV2<C> for Connection {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<C>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        let message = wire::AppendRequest {
            ends: self.ends(),
            vote: codec::encode_vote(&request.vote),
            previous: codec::encode_optional_log_id(request.prev_log_id.as_ref()),
            committed: codec::encode_optional_log_id(request.leader_commit.as_ref()),
            entries: request.entries.iter().map(codec::encode_entry).collect(),
        };
        let mut client = self.client(self.appends).await?;
        // The limit in the option is a heartbeat: as the deadline of an append it would tear down bursts for nothing.
        // Heartbeats themselves are ended by openraft.
        let timeout = self.network.config.append_timeout;
        let answer = self
            .call(RPCTypes::AppendEntries, timeout, client.append(message))
            .await?;
        use wire::append_response::Result as Outcome;
        match answer.result {
            Some(Outcome::Success(_)) => Ok(AppendEntriesResponse::Success),
            Some(Outcome::Conflict(_)) => Ok(AppendEntriesResponse::Conflict),
            Some(Outcome::Partial(partial)) => {
                let matched = codec::decode_optional_log_id(&partial.matched).map_err(unreadable)?;
                Ok(AppendEntriesResponse::PartialSuccess(matched))
            }
            Some(Outcome::HigherVote(vote)) => Ok(AppendEntriesResponse::HigherVote(
                codec::decode_vote(&vote).map_err(unreadable)?,
            )),
            None => Err(unreadable("an append was answered with nothing")),
        }
    }

    async fn vote(&mut self, request: VoteRequest<C>, option: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        self.ask_vote(request, option, false).await
    }

    async fn pre_vote(&mut self, request: VoteRequest<C>, option: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        self.ask_vote(request, option, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<C, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + openraft::OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let SnapshotData::Own(data) = snapshot.snapshot else {
            return Err(NetworkError::from_string("a snapshot that is still coming in can't be sent").into());
        };
        let header = wire::SnapshotHeader {
            ends: self.ends(),
            vote: codec::encode_vote(&vote),
            meta: codec::encode_snapshot_meta(&snapshot.meta),
            files: data
                .files()
                .iter()
                .map(|f| wire::SnapshotFile {
                    name: f.name.clone(),
                    size: f.size,
                })
                .collect(),
        };
        let _sending = self.network.sending.begin(data.index());
        let mut client = self.client(Purpose::Snapshot).await?;
        let mut cancel = std::pin::pin!(cancel);
        let _turn = tokio::select! {
            turn = self.network.transfers.acquire() => turn.map_err(|closed| NetworkError::new(&closed))?,
            closed = &mut cancel => return Err(closed.into()),
        };
        let (messages, progress, reading) = send_frames(header, data);
        let sending = client.snapshot(ReceiverStream::new(messages));
        let watching = watch_progress(&progress, &self.network.config);
        let answer = tokio::select! {
            answer = sending => answer,
            () = watching => {
                let timeout = self.network.config.snapshot_stall;
                let (id, target) = (self.network.own, self.target);
                return Err(Timeout { action: RPCTypes::InstallSnapshot, id, target, timeout }.into());
            }
            closed = &mut cancel => return Err(closed.into()),
        };
        match answer {
            Ok(answer) => {
                let vote = codec::decode_vote(&answer.into_inner().vote).map_err(unreadable)?;
                Ok(SnapshotResponse::new(vote))
            }
            Err(status) => {
                // When the stream broke because a file could not be read, that is the reason to give.
                if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(1), reading)
                    .await
                    .unwrap_or(Ok(Ok(())))
                {
                    return Err(NetworkError::new(&error).into());
                }
                Err(Unreachable::from_string(describe(&status)).into())
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        let message = wire::TransferLeaderRequest {
            ends: self.ends(),
            from_leader: codec::encode_vote(request.from_leader()),
            to_node: *request.to_node_id(),
            last: codec::encode_optional_log_id(request.last_log_id()),
        };
        let mut client = self.client(Purpose::Vote).await?;
        let answer = self
            .call(
                RPCTypes::TransferLeader,
                option.hard_ttl(),
                client.transfer_leader(message),
            )
            .await?;
        use wire::transfer_leader_response::Result as Outcome;
        match answer.result {
            Some(Outcome::Accepted(_)) => Ok(Ok(())),
            Some(Outcome::VoteChanged(changed)) => Ok(Err(TransferLeaderError::VoteChanged {
                expected: codec::decode_vote(&changed.expected).map_err(unreadable)?,
                actual: codec::decode_vote(&changed.actual).map_err(unreadable)?,
            })),
            Some(Outcome::LogNotFlushed(log)) => Ok(Err(TransferLeaderError::LogNotFlushed {
                expected: codec::decode_optional_log_id(&log.expected).map_err(unreadable)?,
                actual: codec::decode_optional_log_id(&log.actual).map_err(unreadable)?,
            })),
            None => Err(unreadable("a transfer of leadership was answered with nothing")),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        // Short at first, because a peer that restarts is back soon; a second at most, so that one that was away for
        // long does not wait long either.
        let waits = [25, 50, 100, 200, 400].into_iter().chain(std::iter::repeat(1000));
        Some(Backoff::new(waits.map(Duration::from_millis)))
    }
}

/// How far a transfer is.
#[derive(Default)]
struct Progress {
    frames: AtomicU64,
    /// Nothing is left to be sent.
    finished: std::sync::atomic::AtomicBool,
}

type Reading = tokio::task::JoinHandle<Result<(), StoreError>>;

/// Reads the files on a blocking thread, a few frames ahead of what the network takes.
fn send_frames(
    header: wire::SnapshotHeader,
    data: Arc<Snapshot>,
) -> (mpsc::Receiver<wire::SnapshotRequest>, Arc<Progress>, Reading) {
    use wire::snapshot_request::Frame as Wire;
    let (sender, receiver) = mpsc::channel(FRAMES_AHEAD);
    let progress = Arc::new(Progress::default());
    let reading = tokio::task::spawn_blocking({
        let progress = Arc::clone(&progress);
        move || {
            let send = |frame| {
                sender
                    .blocking_send(wire::SnapshotRequest { frame: Some(frame) })
                    .is_ok()
            };
            let mut reader = data.reader();
            let mut going = send(Wire::Header(header));
            while going {
                progress.frames.fetch_add(1, Ordering::Relaxed);
                going = match reader.next_frame()? {
                    Some(Frame::Data(piece)) => send(Wire::Data(piece)),
                    Some(Frame::FileEnd(digest)) => send(Wire::FileEnd(digest)),
                    None => break,
                };
            }
            progress.finished.store(true, Ordering::Relaxed);
            Ok(())
        }
    });
    (receiver, progress, reading)
}

/// Returns when a transfer stalls: no frame was taken for a while, or the installation takes too long.
async fn watch_progress(progress: &Progress, config: &ConsensusConfig) {
    let mut seen = 0;
    loop {
        tokio::time::sleep(config.snapshot_stall).await;
        if progress.finished.load(Ordering::Relaxed) {
            tokio::time::sleep(config.snapshot_install_timeout).await;
            return;
        }
        let frames = progress.frames.load(Ordering::Relaxed);
        if frames == seen {
            return;
        }
        seen = frames;
    }
}

fn describe(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn unreadable(error: impl std::fmt::Display) -> RPCError<C> {
    RPCError::Network(NetworkError::from_string(error))
}
