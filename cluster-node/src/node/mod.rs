//! The one place that builds the parts of a peer, wires them together, and stops them in order.

mod channels;
mod join;
mod limits;
mod observe;
mod standing;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use cluster_consensus::{Consensus, ConsensusConfig, RaftPeer};
use cluster_proto::peer::v1::peers_server::PeersServer;
use cluster_proto::v1::cluster_server::ClusterServer;
use cluster_proto::v1::pins_server::PinsServer;
use cluster_security::{
    AcceptorOptions, ConnectorOptions, Identity, MemberGuardLayer, PeerAcceptor, PeerConnector, PeerTls,
};
use cluster_storage::ledger::{Ledger, LedgerOptions};
use cluster_storage::raft_log::{LogOptions, RaftLog, RaftLogOptions, RocksLogEngine};
use cluster_storage::state::{StateOptions, StateStore};
use cluster_worker::{Clock, SystemClock, Worker, WorkerConfig};
use node_core::allocate::Policy;
use node_core::command::{NewPeer, Op, Request};
use node_core::pinset::{self, FIRST_RAFT_ID, Settings};
use node_core::{NodeId, NodeState, PeerId, StorageNode};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

use crate::api::{ClusterApi, ErrorDetailsLayer, PeerApi, PinsApi};
use crate::config::{Config, DataDir};
use crate::service::{
    FleetView, Gather, LoopSettings, Loops, NodeFactory, PeerDirectory, Pins, Proposer, ProposerLimits, Reads, Shared,
    StateWanted, WAIT_DEFAULT,
};
use crate::telemetry::{Condition, GrpcMetricsLayer, Health, HttpServer, Metrics};
use channels::{AddressBook, Channels};
use limits::ConfiguredLimits;
use observe::{CountAttempts, CountProposals, kubo_observer};
use standing::Standing;

/// The method that a peer may call before it is a member.
const JOIN_PATH: &str = "/pinfleet.peer.v1.Peers/Join";

/// Largest message between peers: a chunk of a snapshot or of a ledger is far below it.
const PEER_MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Runs a peer until it is told to stop.
pub async fn run(dir: DataDir, config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    let identity =
        Identity::load(&dir.identity_key()).context("the peer's key can't be read; `cluster-node init` makes one")?;
    let own = identity.peer_id();
    let cluster = dir.cluster();
    std::fs::create_dir_all(&cluster).with_context(|| format!("{} can't be made", cluster.display()))?;
    // Gone until this run is ready: whoever waits for the file must not read that of the last run.
    let _ = std::fs::remove_file(dir.run_json());

    let metrics = Metrics::new(&own.to_string(), env!("CARGO_PKG_VERSION"));
    let health = Health::new();
    let consensus_ready = health.condition("consensus");
    let http = HttpServer::start(config.telemetry.http_listen, metrics.clone(), health.clone()).await?;

    let peer_listener = bind(config.peer.listen, "peer.listen").await?;
    let grpc_listener = bind(config.api.grpc_listen, "api.grpc_listen").await?;
    let introduce = introduction(own, &config, peer_listener.local_addr()?, grpc_listener.local_addr()?);

    let tls = PeerTls::new(&identity);
    let book = Arc::new(AddressBook::default());
    let addresses = book.clone();
    let connector = PeerConnector::new(
        tls.clone(),
        Arc::new(move |peer: &PeerId| addresses.addresses(peer)),
        ConnectorOptions::default(),
    );
    let (standing, begins) = stand(&dir, &cluster, &connector, &introduce, &book).await?;

    let channels = Arc::new(Channels {
        connector,
        book: book.clone(),
    });
    let directory = Arc::new(PeerDirectory::new(own, channels.clone()));
    book.follow(directory.clone());
    let (consensus, state, ledger) = open_stores(&cluster, &config, &standing, own, channels).await?;
    directory.refresh(&*state.current())?;

    let pins = build(&config, own, &metrics, &consensus, &state, &ledger, &directory);
    pins.refresh()?;

    // The peers' server runs beside Raft, so that no client and no daemon can delay a heartbeat.
    let members = book.clone();
    let members = Arc::new(move |peer: &PeerId| members.membership(peer));
    let guard = MemberGuardLayer::new(members.clone(), [JOIN_PATH]);
    let peer_service = PeersServer::new(PeerApi(pins.clone()))
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX);
    let (peer_stop, raft_service, peer_tls) = (CancellationToken::new(), consensus.raft_service(), tls.clone());
    let stopped = peer_stop.clone();
    let peer_listener = peer_listener.into_std()?;
    let peer_address = peer_listener.local_addr()?;
    consensus.runtime().spawn(async move {
        let served = async {
            let listener = TcpListener::from_std(peer_listener)?;
            let acceptor = PeerAcceptor::new(listener, &peer_tls, members, AcceptorOptions::default())?;
            let server = Server::builder()
                .initial_stream_window_size(4 << 20)
                .initial_connection_window_size(16 << 20)
                .layer(guard)
                .add_service(raft_service)
                .add_service(peer_service);
            server
                .serve_with_incoming_shutdown(acceptor, stopped.cancelled())
                .await
                .map_err(std::io::Error::other)
        };
        if let Err(error) = served.await {
            tracing::error!(%error, "the server for other peers has ended");
        }
    });

    if begins {
        begin_cluster(&consensus, &pins, &config, &introduce, &cluster).await?;
    }
    let tasks = TaskTracker::new();
    let loop_settings = LoopSettings {
        configured_nodes: configured_nodes(&config, own),
        introduce,
        report_interval: config.worker.report_interval,
        voters_max: config.raft.voters_max as usize,
        voter_lost_after: config.raft.voter_lost_after,
    };
    Loops::start(pins.clone(), loop_settings, stop.child_token(), &tasks);
    tasks.spawn(
        stop.clone()
            .run_until_cancelled_owned(watch_readiness(pins.clone(), consensus_ready, health.clone())),
    );

    let grpc_address = grpc_listener.local_addr()?;
    let api_stop = CancellationToken::new();
    let api = tokio::spawn(serve_api(
        grpc_listener,
        pins.clone(),
        metrics.clone(),
        config.clone(),
        api_stop.clone(),
    ));

    await_ready(&health, &stop).await;
    write_run_file(&dir, &config, own, peer_address, grpc_address, http.address())?;
    tracing::info!(peer = %own, grpc = %grpc_address, peers = %peer_address, "the peer is ready");

    stop.cancelled().await;
    tracing::info!("stopping");
    let deadline = config.shutdown.deadline;
    let stopping = async {
        // Refuse new work, hand over the lead, let open calls end, park the workers, flush, close.
        health.condition("stopping").not_ready("the peer is stopping");
        if consensus.leader().is_self
            && let Err(error) = consensus.transfer_leadership(None, deadline / 4).await
        {
            tracing::info!(%error, "the lead was not handed over");
        }
        api_stop.cancel();
        if tokio::time::timeout(deadline / 4, api).await.is_err() {
            tracing::info!("calls that were still open are cut");
        }
        tasks.close();
        // The loops end at once; nothing they do needs an end.
        let _ = tokio::time::timeout(deadline / 4, tasks.wait()).await;
        if let Err(error) = pins.worker.shutdown(deadline / 4).await {
            tracing::warn!(%error, "the worker did not stop cleanly; its ledger is safe all the same");
        }
        peer_stop.cancel();
        consensus.shutdown(deadline / 4).await;
        http.stop(Duration::from_millis(200)).await;
    };
    if tokio::time::timeout(deadline, stopping).await.is_err() {
        tracing::warn!("the deadline for stopping has passed; what was acknowledged is safe all the same");
    }
    let _ = std::fs::remove_file(dir.run_json());
    Ok(())
}

async fn bind(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{option} = \"{address}\": can't listen there"))
}

fn introduction(own: PeerId, config: &Config, peer: SocketAddr, grpc: SocketAddr) -> NewPeer {
    let addresses = if config.peer.advertise.is_empty() {
        vec![peer.to_string()]
    } else {
        config.peer.advertise.clone()
    };
    let api_address = if config.api.grpc_advertise.is_empty() {
        grpc.to_string()
    } else {
        config.api.grpc_advertise.clone()
    };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    NewPeer {
        id: own,
        name: config.peer.name.clone(),
        addresses,
        api_address,
        version,
    }
}

/// Where the peer stands, and whether it is to begin a cluster.
async fn stand(
    dir: &DataDir,
    cluster: &Path,
    connector: &PeerConnector,
    introduce: &NewPeer,
    book: &AddressBook,
) -> anyhow::Result<(Standing, bool)> {
    if let Some(standing) = standing::read(cluster)? {
        let begins = standing.cluster_id.is_empty();
        return Ok((standing, begins));
    }
    if dir.join_token().exists() {
        let joined = join::join(&dir.join_token(), cluster, connector, introduce).await?;
        book.tell(joined.members);
        return Ok((joined.standing, false));
    }
    if !dir.founds().exists() {
        bail!(
            "{} holds no data and the peer was not told to begin a cluster: if its disk was lost, let it join again \
             with `cluster-node init --dir {} --force --join TOKEN`",
            cluster.display(),
            dir.root().display()
        );
    }
    let standing = Standing {
        cluster_id: String::new(),
        raft_id: FIRST_RAFT_ID,
    };
    standing::write(cluster, &standing)?;
    std::fs::remove_file(dir.founds()).context("the mark of a new cluster can't be removed")?;
    Ok((standing, true))
}

async fn open_stores(
    cluster: &Path,
    config: &Config,
    standing: &Standing,
    own: PeerId,
    channels: Arc<Channels>,
) -> anyhow::Result<(Consensus, Arc<StateStore>, Arc<Ledger>)> {
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let storage = &config.storage;
    let log_options = LogOptions {
        write_buffers_bytes: bytes(storage.log_memory),
        ..LogOptions::default()
    };
    let engine =
        RocksLogEngine::open(&cluster.join("raft-log"), &log_options).context("the Raft log can't be opened")?;
    let log = RaftLog::open(Arc::new(engine), &RaftLogOptions::default()).context("the Raft log can't be opened")?;
    let state_options = StateOptions {
        block_cache_bytes: bytes(storage.block_cache),
        write_buffers_bytes: bytes(storage.state_memory),
        ..StateOptions::default()
    };
    let state = StateStore::open(&cluster.join("state"), state_options).context("the state can't be opened")?;
    let state = Arc::new(state);
    let ledger_options = LedgerOptions {
        memtable_bytes: bytes(storage.ledger_memory),
        ..LedgerOptions::default()
    };
    let ledger = Ledger::open(&cluster.join("ledger"), &ledger_options).context("the ledger can't be opened")?;
    let raft = ConsensusConfig {
        heartbeat: config.raft.heartbeat,
        election_min: config.raft.election_timeout_min,
        election_max: config.raft.election_timeout_max,
        snapshot_entries: config.raft.snapshot_log_entries,
        log_entries_kept: config.raft.snapshot_keep_log_entries,
        ..ConsensusConfig::default()
    };
    let consensus = Consensus::open(standing.raft_id, own, raft, log, state.clone(), channels).await?;
    Ok((consensus, state, Arc::new(ledger)))
}

fn build(
    config: &Config,
    own: PeerId,
    metrics: &Metrics,
    consensus: &Consensus,
    state: &Arc<StateStore>,
    ledger: &Arc<Ledger>,
    directory: &Arc<PeerDirectory>,
) -> Arc<Pins> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let shared = Arc::new(Shared::new(Arc::new(CountProposals(metrics.clone()))));
    let worker = Worker::start(
        WorkerConfig {
            report_interval: config.worker.report_interval,
            ..WorkerConfig::default()
        },
        ledger.clone(),
        Arc::new(StateWanted(state.clone())),
        clock.clone(),
        rand::random(),
        Arc::new(CountAttempts {
            metrics: metrics.clone(),
            shared: shared.clone(),
        }),
    );
    let fleet = Arc::new(FleetView::new(Policy::default()));
    let limits = ProposerLimits {
        operations_max: config.raft.batch_operations_max as usize,
        bytes_max: usize::try_from(config.raft.batch_bytes_max).unwrap_or(usize::MAX),
        linger: config.raft.batch_linger,
        queue_bytes_max: usize::try_from(config.raft.queue_bytes_max).unwrap_or(usize::MAX),
        ..ProposerLimits::default()
    };
    let proposer = Proposer::start(
        limits,
        consensus.clone(),
        state.clone(),
        fleet.clone(),
        directory.clone(),
        shared.clone(),
        clock.clone(),
    );
    let reads = Reads::start(state.clone(), consensus.clone(), directory.clone());
    let gather = Arc::new(Gather::new(directory.clone(), worker.clone()));
    let nodes = NodeFactory::new(
        own,
        Arc::new(ConfiguredLimits(config.clone())),
        kubo_observer(metrics.clone()),
    );
    let scraped = worker.clone();
    let raft = consensus.clone();
    metrics.on_scrape(move |metrics| scrape(metrics, &scraped, &raft));
    Arc::new(Pins::new(
        proposer,
        reads,
        shared,
        directory.clone(),
        gather,
        worker,
        consensus.clone(),
        fleet,
        clock,
        Arc::new(nodes),
    ))
}

/// Fills in what is only worth knowing when somebody asks.
fn scrape(metrics: &Metrics, worker: &Worker, consensus: &Consensus) {
    for report in worker.reports() {
        for status in node_core::Status::ALL {
            let pins = match status {
                node_core::Status::Pinning => report.pinning as u64,
                status => report.counts.of(status),
            };
            metrics.set_queue(&report.name, status, pins);
        }
        metrics.set_oldest_queued(&report.name, report.oldest_queued_age.unwrap_or_default());
        metrics.set_node_reachable(&report.name, report.reachable);
    }
    let raft = consensus.metrics();
    let leads = consensus.leader().is_self;
    metrics.set_raft(
        raft.term,
        leads,
        raft.committed.unwrap_or_default(),
        raft.applied.unwrap_or_default(),
    );
}

/// Begins a cluster of this peer alone, and names it. Repeated after a crash in the middle until it has worked.
async fn begin_cluster(
    consensus: &Consensus,
    pins: &Pins,
    config: &Config,
    introduce: &NewPeer,
    cluster: &Path,
) -> anyhow::Result<()> {
    if !consensus.is_initialized().await? {
        let own = RaftPeer {
            peer_id: introduce.id,
            addresses: introduce.addresses.clone(),
        };
        consensus.bootstrap(own).await?;
    }
    let mut named = pinset::header(&*pins.reads.stale())?.cluster_id;
    if named.is_empty() {
        let settings = Settings {
            replication: config.replication.factors(),
            spread_by: config.replication.spread_by.clone(),
        };
        let op = Op::InitCluster {
            cluster_id: uuid::Uuid::new_v4().to_string(),
            settings,
            peer: introduce.clone(),
        };
        if let Err(error) = pins.proposer.submit(Request { id: None, op }, WAIT_DEFAULT).await {
            // Named by an earlier run whose entry is only applied now.
            named = pinset::header(&*pins.reads.linearizable(WAIT_DEFAULT).await?)?.cluster_id;
            if named.is_empty() {
                return Err(error).context("the cluster could not be named");
            }
        } else {
            named = pinset::header(&*pins.reads.stale())?.cluster_id;
        }
    }
    pins.refresh()?;
    standing::write(
        cluster,
        &Standing {
            cluster_id: named,
            raft_id: FIRST_RAFT_ID,
        },
    )
}

fn configured_nodes(config: &Config, own: PeerId) -> Vec<StorageNode> {
    let node = |section: &crate::config::Node| StorageNode {
        id: NodeId(0),
        name: section.name.clone(),
        peer: own,
        kind: section.kind.as_str().to_owned(),
        api: section.api.clone(),
        tags: section.tags.clone(),
        weight: section.weight,
        state: NodeState::Active,
        auth_file: section.auth_file.display().to_string(),
    };
    config.nodes.iter().map(node).collect()
}

/// Ready means that an add would work now: there is a leader, a majority confirms it, and this peer keeps up.
async fn watch_readiness(pins: Arc<Pins>, ready: Condition, health: Health) {
    ready.not_ready("no majority has confirmed a leader yet");
    loop {
        match pins.reads.linearizable(Duration::from_secs(2)).await {
            Ok(_) => ready.ready(),
            Err(error) => ready.not_ready(error.to_string()),
        }
        if let Some(reason) = pins.consensus.metrics().fatal {
            health.fail("consensus", reason);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Waits until the peer is ready, or is told to stop.
async fn await_ready(health: &Health, stop: &CancellationToken) {
    while !health.is_ready() && !stop.is_cancelled() {
        let _ = tokio::time::timeout(Duration::from_millis(50), stop.cancelled()).await;
    }
}

async fn serve_api(
    listener: TcpListener,
    pins: Arc<Pins>,
    metrics: Metrics,
    config: Config,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let bytes = usize::try_from(config.api.message_bytes_max).unwrap_or(usize::MAX);
    let (reporter, health_service) = tonic_health::server::health_reporter();
    reporter.set_serving::<PinsServer<PinsApi>>().await;
    reporter.set_serving::<ClusterServer<ClusterApi>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(cluster_proto::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    Server::builder()
        .max_concurrent_streams(config.api.streams_max)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .layer(GrpcMetricsLayer::new(metrics))
        .layer(ErrorDetailsLayer)
        .add_service(health_service)
        .add_service(reflection)
        // Answers are bounded by their chunks; a page of 1,000 pins with the longest metadata exceeds what a message
        // of a client may be.
        .add_service(
            PinsServer::new(PinsApi(pins.clone()))
                .max_decoding_message_size(bytes)
                .max_encoding_message_size(64 << 20),
        )
        .add_service(ClusterServer::new(ClusterApi(pins)).max_decoding_message_size(bytes))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled())
        .await?;
    Ok(())
}

fn write_run_file(
    dir: &DataDir,
    config: &Config,
    own: PeerId,
    peer: SocketAddr,
    grpc: SocketAddr,
    http: SocketAddr,
) -> anyhow::Result<()> {
    let run = serde_json::json!({
        "id": own.to_string(),
        "name": config.peer.name,
        "pid": std::process::id(),
        "grpc": grpc.to_string(),
        "peer": peer.to_string(),
        "http": http.to_string(),
        "config": dir.config_file().display().to_string(),
    });
    standing::replace_file(&dir.run_json(), format!("{run:#}\n").as_bytes())
}
