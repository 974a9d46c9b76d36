//! Peers in this process, over loopback TCP, with RocksDB below.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster_consensus::{ChannelProvider, ConnectError, Consensus, ConsensusConfig, Purpose, RaftPeer};
use cluster_storage::raft_log::{LogOptions, RaftLog, RaftLogOptions, RocksLogEngine};
use cluster_storage::{StateOptions, StateStore};
use multihash_codetable::{Code, MultihashDigest};
use node_core::command::{CommandBatch, Op, Plan, Request};
use node_core::pinset::{self, Table};
use node_core::{Cid, Namespace, NodeId, PeerId, PinKey, PinOptions, Replication, Timestamp};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};

/// Long enough for a busy machine; nothing waits so long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Channels without any security.
#[derive(Default)]
pub struct PlainChannels {
    open: Mutex<HashMap<(String, Purpose), Channel>>,
}

#[async_trait]
impl ChannelProvider for PlainChannels {
    async fn channel(&self, peer: &PeerId, addresses: &[String], purpose: Purpose) -> Result<Channel, ConnectError> {
        let refused = |reason: &str| ConnectError {
            peer: *peer,
            reason: reason.to_owned(),
        };
        let address = addresses.first().ok_or_else(|| refused("it has no address"))?;
        let mut open = self.open.lock();
        let key = (address.clone(), purpose);
        if let Some(channel) = open.get(&key) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| refused(&e.to_string()))?;
        let channel = endpoint
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_millis(500))
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20)
            .connect_lazy();
        open.insert(key, channel.clone());
        Ok(channel)
    }
}

/// Settings under which a snapshot is taken soon and the log is short.
pub fn short_log() -> ConsensusConfig {
    ConsensusConfig {
        snapshot_entries: 50,
        log_entries_kept: 10,
        purge_batch: 1,
        ..config()
    }
}

pub fn config() -> ConsensusConfig {
    ConsensusConfig {
        runtime_threads: 0,
        ..ConsensusConfig::default()
    }
}

pub struct Peer {
    pub raft_id: u64,
    pub consensus: Consensus,
    pub state: Arc<StateStore>,
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<()>,
}

pub fn peer_id(name: u8) -> PeerId {
    PeerId::from_bytes(&[0, 1, name]).expect("an identity multihash")
}

impl Peer {
    /// Starts a peer in `folder`. Its key is that of `name`, whatever its Raft number.
    pub async fn start(
        raft_id: u64,
        name: u8,
        folder: &Path,
        address: Option<SocketAddr>,
        config: ConsensusConfig,
    ) -> Self {
        let listener = match address {
            None => TcpListener::bind("127.0.0.1:0").await,
            Some(address) => TcpListener::bind(address).await,
        };
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let engine = RocksLogEngine::open(&folder.join("raft-log"), &LogOptions::default()).expect("the log opens");
        let log = RaftLog::open(Arc::new(engine), &RaftLogOptions::default()).expect("the log opens");
        let state = StateStore::open(&folder.join("state"), StateOptions::default()).expect("the state opens");
        let state = Arc::new(state);
        let channels = Arc::new(PlainChannels::default());
        let consensus = Consensus::open(raft_id, peer_id(name), config, log, Arc::clone(&state), channels);
        let consensus = consensus.await.expect("Raft starts");
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = Server::builder()
            .add_service(consensus.raft_service())
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
                let _ = stopped.await;
            });
        let server = tokio::spawn(async move {
            let _ = serving.await;
        });
        Self {
            raft_id,
            consensus,
            state,
            address,
            stop,
            server,
        }
    }

    pub fn as_member(&self, name: u8) -> RaftPeer {
        RaftPeer {
            peer_id: peer_id(name),
            addresses: vec![self.address.to_string()],
        }
    }

    /// Stops without handing anything over. Afterwards the folder can be used again at once.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        self.consensus.shutdown(PATIENCE).await;
        let _ = tokio::time::timeout(PATIENCE, self.server).await;
    }

    /// Names of all pins, from one view.
    pub fn pins(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.state.current().read_view(|view| {
            view.scan(Table::ByName, &[], None, &mut |key, _| {
                names.push(
                    String::from_utf8_lossy(key)
                        .split('\0')
                        .nth(1)
                        .unwrap_or_default()
                        .to_owned(),
                );
                true
            })
            .expect("the state is read");
        });
        names.sort();
        names
    }

    /// The pinset as rows, without what is local.
    pub fn rows(&self) -> BTreeMap<(Table, Vec<u8>), Vec<u8>> {
        let mut rows = BTreeMap::new();
        self.state.current().read_view(|view| {
            for table in Table::ALL.into_iter().filter(|table| *table != Table::Todo) {
                view.scan(table, &[], None, &mut |key, value| {
                    rows.insert((table, key.to_vec()), value.to_vec());
                    true
                })
                .expect("the state is read");
            }
        });
        rows
    }

    pub async fn put_pin(&self, name: &str) -> Result<u64, cluster_consensus::ProposeError> {
        let proposal = self.consensus.submit(command(name), 1).await?;
        Ok(proposal.wait().await?.index)
    }

    /// Waits until everything that `of` has applied is applied here too.
    pub async fn catch_up(&self, of: &Peer) {
        let index = of.consensus.applied().borrow().index;
        self.consensus
            .wait_applied(index, PATIENCE)
            .await
            .expect("it catches up");
    }
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn cid(name: &str) -> Cid {
    let digest = Code::Sha2_256.digest(name.as_bytes());
    let mut bytes = vec![1, 0x55];
    bytes.extend_from_slice(&digest.to_bytes());
    Cid::from_bytes(&bytes).expect("a CID")
}

/// Pins the CID of a name under that name, on no node.
pub fn command(name: &str) -> Bytes {
    entry(put_pin(name, Vec::new()))
}

/// Pins the CID of a name under that name.
pub fn put_pin(name: &str, nodes: Vec<NodeId>) -> Op {
    let key = PinKey {
        namespace: Namespace::default(),
        cid: cid(name),
        slot: String::new(),
    };
    let replication = Replication { min: 1, max: 1 };
    let options = PinOptions {
        name: name.to_owned(),
        replication,
        ..PinOptions::default()
    };
    let unplaced = nodes.is_empty().then(|| "there are no nodes".to_owned());
    let plan = Plan {
        based_on: 0,
        nodes,
        unplaced,
    };
    Op::PutPin {
        key,
        options,
        plan,
        from: None,
        unpin_from: false,
        created: None,
    }
}

/// An entry of one operation.
pub fn entry(op: Op) -> Bytes {
    let time = Timestamp::from_millis(1_700_000_000_000);
    CommandBatch {
        time,
        requests: vec![Request { id: None, op }],
    }
    .encode()
    .into()
}

/// A cluster of three voters, numbered 1 to 3; 1 leads.
pub async fn three(folders: &[tempfile::TempDir], config: &ConsensusConfig) -> Vec<Peer> {
    let mut peers = Vec::new();
    for (folder, name) in folders.iter().zip(1..=3) {
        peers.push(Peer::start(name.into(), name, folder.path(), None, config.clone()).await);
    }
    let first = &peers[0];
    first
        .consensus
        .bootstrap(first.as_member(1))
        .await
        .expect("bootstrapped");
    eventually("leading", || first.consensus.leader().is_self).await;
    for (peer, name) in peers.iter().zip(1..=3).skip(1) {
        let raft_id = u64::from(name);
        first
            .consensus
            .admit_learner(raft_id, peer.as_member(name))
            .await
            .expect("admitted");
        first.consensus.promote(raft_id).await.expect("promoted");
    }
    peers
}

pub fn folders(count: usize) -> Vec<tempfile::TempDir> {
    (0..count).map(|_| tempfile::tempdir().expect("a folder")).collect()
}

/// What the invariants of the pinset say of a peer's state.
pub fn check(peer: &Peer) {
    peer.state
        .current()
        .read_view(|view| pinset::check_invariants(view).expect("the state is sound"));
}
