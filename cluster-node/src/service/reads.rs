//! What every part of the service looks at, and reads that promise to see all writes before them.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cluster_consensus::{Consensus, ReadError};
use cluster_proto::peer::v1::ReadIndexRequest;
use cluster_storage::state::{StateDb, StateStore};
use node_core::pinset::{self, KvError, KvRead, Settings};
use tokio::sync::{mpsc, oneshot};

use super::{Error, NodeNames, PeerDirectory};

/// What the service tells about itself. Implemented by telemetry; the service knows no metrics library.
pub trait ServiceMetrics: Send + Sync + 'static {
    /// A batch of so many operations was committed and applied, so long after it was proposed.
    fn committed(&self, operations: usize, took: Duration);
    /// So many operations came to an end: `committed`, `refused`, `forwarded`, `not_leader`, `unknown`, `overloaded`,
    /// `failed`.
    fn proposal(&self, outcome: &'static str, operations: usize);
    /// A client was refused for what it showed, or did not: `missing`, `malformed`, `unknown`, `wrong`, `expired`,
    /// `overloaded`; or for asking for more than it may: `scope`, `namespace`.
    fn refused(&self, reason: &'static str);
}

/// Small, hot parts of the state, read once per change instead of once per request.
pub struct Shared {
    names: ArcSwap<NodeNames>,
    settings: ArcSwap<Settings>,
    /// Where the service counts.
    pub metrics: Arc<dyn ServiceMetrics>,
}

impl Shared {
    /// Nothing read yet.
    pub fn new(metrics: Arc<dyn ServiceMetrics>) -> Self {
        Self {
            names: ArcSwap::default(),
            settings: ArcSwap::default(),
            metrics,
        }
    }

    /// Reads nodes and settings anew. Called after every entry that changed them.
    pub fn refresh(&self, kv: &dyn KvRead) -> Result<(), KvError> {
        self.names.store(Arc::new(NodeNames::read(kv)?));
        self.settings.store(Arc::new(pinset::header(kv)?.settings));
        Ok(())
    }

    /// The storage nodes.
    pub fn names(&self) -> NodeNames {
        NodeNames::clone(&self.names.load())
    }

    /// The cluster's settings.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }
}

/// Waiters for a read index at once; more than there are calls in flight can't wait.
const WAITERS_MAX: usize = 16_384;

/// Reads of this peer.
#[derive(Clone)]
pub struct Reads {
    state: Arc<StateStore>,
    consensus: Consensus,
    waiters: mpsc::Sender<oneshot::Sender<Result<u64, Error>>>,
}

impl Reads {
    /// Starts the task that asks for read indexes, one for all that wait.
    pub fn start(state: Arc<StateStore>, consensus: Consensus, directory: Arc<PeerDirectory>) -> Self {
        let (waiters, queue) = mpsc::channel(WAITERS_MAX);
        tokio::spawn(serve_indexes(queue, consensus.clone(), directory));
        Self {
            state,
            consensus,
            waiters,
        }
    }

    /// The state as this peer has applied it.
    pub fn stale(&self) -> Arc<StateDb> {
        self.state.current()
    }

    /// The state with every write that was acknowledged before the call.
    pub async fn linearizable(&self, wait: Duration) -> Result<Arc<StateDb>, Error> {
        let deadline = tokio::time::Instant::now() + wait;
        let no_leader = |_| Error::NoLeader("no majority confirmed the read in time; ask for a stale read".into());
        loop {
            let (reply, answer) = oneshot::channel();
            self.waiters.try_send(reply).map_err(|_| Error::Overloaded {
                retry_after: Duration::from_millis(100),
            })?;
            let asked = tokio::time::timeout_at(deadline, answer).await.map_err(no_leader)?;
            match asked.unwrap_or(Err(Error::Stopping)) {
                Ok(index) => {
                    let left = deadline.saturating_duration_since(tokio::time::Instant::now());
                    self.consensus
                        .wait_applied(index, left)
                        .await
                        .map_err(|_| Error::Deadline)?;
                    return Ok(self.state.current());
                }
                Err(Error::NoLeader(_)) => {
                    // An election is on: a change of leader ends the wait, or a moment does.
                    let mut leader = self.consensus.watch_leader();
                    leader.mark_unchanged();
                    let pause = tokio::time::timeout(Duration::from_millis(50), leader.changed());
                    let _ = tokio::time::timeout_at(deadline, pause).await.map_err(no_leader)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The state as asked for.
    pub async fn with(&self, linearizable: bool, wait: Duration) -> Result<Arc<StateDb>, Error> {
        if linearizable {
            self.linearizable(wait).await
        } else {
            Ok(self.stale())
        }
    }
}

/// Answers all that wait with one index. The index is asked for after they came, so it covers what each may have seen.
async fn serve_indexes(
    mut queue: mpsc::Receiver<oneshot::Sender<Result<u64, Error>>>,
    consensus: Consensus,
    directory: Arc<PeerDirectory>,
) {
    let mut waiting = Vec::new();
    loop {
        if queue.recv_many(&mut waiting, WAITERS_MAX).await == 0 {
            return;
        }
        let index = read_index(&consensus, &directory).await;
        for waiter in waiting.drain(..) {
            // Nobody waits any more: the caller went away.
            let _ = waiter.send(index.clone());
        }
    }
}

async fn read_index(consensus: &Consensus, directory: &PeerDirectory) -> Result<u64, Error> {
    match consensus.read_index().await {
        Ok(index) => Ok(index),
        Err(ReadError::NotLeader { leader: Some(leader) }) => {
            let mut link = directory.link_at(leader.peer.peer_id, &leader.peer.addresses).await?;
            let mut call = tonic::Request::new(ReadIndexRequest {});
            // Three elections' worth: a leader that does not answer by then is none.
            call.set_timeout(Duration::from_secs(2));
            let answer = link.read_index(call).await;
            answer
                .map(|answer| answer.into_inner().index)
                .map_err(|status| Error::NoLeader(status.message().to_owned()))
        }
        Err(ReadError::NotLeader { leader: None }) => Err(Error::NoLeader("none is elected".into())),
        Err(ReadError::NoQuorum) => Err(Error::NoLeader("the leader sees no majority".into())),
        Err(ReadError::Fatal(reason)) => Err(Error::Internal(reason)),
    }
}
