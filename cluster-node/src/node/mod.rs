//! The one place that builds the parts of a peer, wires them together, and stops them in order.

mod admission;
mod channels;
mod content_http;
mod embedded;
mod http_servers;
mod inside;
mod introduce;
mod join;
mod limits;
mod local;
mod observe;
mod operate;
mod proxy;
mod run_file;
mod serve;
mod standing;
mod supervise;
mod vouching;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, bail};
use cluster_consensus::{Consensus, ConsensusConfig, OwnRuntime, RaftPeer, RuntimeOptions};
use cluster_http::ErrorForm;
use cluster_security::{ConnectorOptions, Identity, PeerConnector, PeerTls, secret_file};
use cluster_storage::ledger::{Ledger, LedgerOptions};
use cluster_storage::lower_priority;
use cluster_storage::raft_log::{LogOptions, RaftLog, RaftLogOptions, RocksLogEngine};
use cluster_storage::state::{StateOptions, StateStore};
use cluster_worker::{Clock, SystemClock, Worker, WorkerConfig};
use node_core::PeerId;
use node_core::allocate::Policy;
use node_core::command::{NewPeer, Op, Request};
use node_core::pinset::{self, FIRST_RAFT_ID, Settings};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::pinning::Pinning;
use crate::api::rest::Rest;
use crate::config::{Auth, Config, DataDir, NodeKind};
use crate::service::{
    Access, Fellows, FleetView, Gatekeeper, Gather, LoopSettings, Loops, NodeFactory, OwnNode, PeerDirectory, Pins,
    Proposer, ProposerLimits, Reads, Shared, StateWanted, WAIT_DEFAULT,
};
use crate::telemetry::{Health, HttpServer, Metrics};
use admission::Admission;
use channels::{AddressBook, Channels};
use embedded::{Embedded, TellFellows, own_node, tell_numbers};
use http_servers::{HttpListeners, HttpServers, ServedWith};
use introduce::{configured_nodes, introduction};
use limits::ConfiguredLimits;
use observe::{CountAttempts, CountProposals, CountRequests, Scraped, kubo_observer};
use run_file::{Addresses, write_run_file};
use serve::{Serving, serve_clients, serve_peers};
use standing::Standing;
use supervise::{supervised, watch_ledger, watch_readiness};
use vouching::Vouching;

/// What is left of the deadline of a stop when all that could wait has been waited for.
const STOP_GRACE: Duration = Duration::from_millis(200);

/// Threads that drive the storage nodes; they mostly wait.
const WORKER_THREADS_MAX: usize = 4;

/// Threads on which the worker reads and writes the ledger.
const WORKER_BLOCKING_MAX: usize = 16;

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
    let ledger_writes = health.condition("ledger");
    let http = HttpServer::start(config.telemetry.http_listen, metrics.clone(), health.clone()).await?;

    let peer_listener = bind(config.peer.listen, "peer.listen").await?;
    let grpc_listener = bind(config.api.grpc_listen, "api.grpc_listen").await?;
    let rest_listeners = HttpListeners::bind("rest", &config.rest).await?;
    let rest_address = rest_listeners.address();
    let proxy_listeners = HttpListeners::bind("proxy", &config.proxy.http).await?;
    let proxy_address = proxy_listeners.address();
    let pinning_listeners = HttpListeners::bind("pinning", &config.pinning).await?;
    let pinning_address = pinning_listeners.address();
    let (peer_address, grpc_address) = (peer_listener.local_addr()?, grpc_listener.local_addr()?);
    let introduce = introduction(own, &config, peer_address, grpc_address);

    let tls = PeerTls::new(&identity);
    let book = Arc::new(AddressBook::new(own));
    let addresses = book.clone();
    let connector = PeerConnector::new(
        tls.clone(),
        Arc::new(move |peer: &PeerId| addresses.addresses(peer)),
        ConnectorOptions::default(),
    );
    let standing = stop.run_until_cancelled(stand(&dir, &cluster, &connector, &introduce, &book));
    let Some(standing) = standing.await else {
        tracing::info!("told to stop before the peer belonged to a cluster");
        return Ok(());
    };
    let (standing, begins) = standing?;

    let channels = Arc::new(Channels {
        connector: connector.clone(),
        book: book.clone(),
    });
    let directory = Arc::new(PeerDirectory::new(own, channels.clone()));
    book.follow(directory.clone());
    let stores = open_stores(&cluster, &config, &standing, own, channels).await?;
    directory.refresh(&*stores.state.current())?;

    let worker_runtime = OwnRuntime::start(RuntimeOptions {
        name: "worker",
        threads: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(WORKER_THREADS_MAX)),
        blocking_max: WORKER_BLOCKING_MAX,
        on_thread_start: lower_priority,
    })
    .context("the worker's threads can't be started")?;
    let embedded = match stop.run_until_cancelled(Embedded::start(&dir, &config)).await {
        Some(embedded) => embedded?,
        None => return Ok(()),
    };
    let pins = build(
        &config,
        own,
        &metrics,
        &stores,
        &directory,
        worker_runtime.handle(),
        own_node(&embedded),
    );
    pins.refresh()?;
    let Stores { consensus, ledger, .. } = stores;

    let vouching = Vouching::new(book.clone(), connector);
    let peers = serve_peers(
        peer_listener.into_std()?,
        tls,
        book,
        vouching,
        &consensus,
        pins.clone(),
        &health,
    );
    let admission = Admission::new(config.api.streams_max as usize);
    let mut running = Running {
        deadline: config.shutdown.deadline,
        consensus,
        pins: pins.clone(),
        metrics: metrics.clone(),
        health: health.clone(),
        http,
        tasks: TaskTracker::new(),
        stop: stop.clone(),
        peers,
        worker_runtime,
        embedded,
        clients: None,
        http_apis: Vec::new(),
        admission: admission.clone(),
    };

    if begins {
        let begun = begin_cluster(&running.consensus, &pins, &config, &introduce, &cluster);
        if let Some(Err(error)) = stop.run_until_cancelled(begun).await {
            stop.cancel();
            running.stop().await;
            return Err(error);
        }
    }
    let loop_settings = LoopSettings {
        configured_nodes: configured_nodes(&config, own),
        introduce,
        report_interval: config.worker.report_interval,
        voters_max: config.raft.voters_max as usize,
        voter_lost_after: config.raft.voter_lost_after,
        fellows: running
            .embedded
            .as_ref()
            .map(|embedded| Arc::new(TellFellows(embedded.node.clone())) as Arc<dyn Fellows>),
    };
    let failing = health.clone();
    Loops::start(
        pins.clone(),
        loop_settings,
        stop.child_token(),
        &running.tasks,
        Arc::new(move |name, reason| failing.fail(name, reason)),
    );
    running.watch(
        "readiness",
        watch_readiness(pins.clone(), consensus_ready, health.clone()),
    );
    running.watch("ledger", watch_ledger(ledger, ledger_writes, health.clone()));
    if let Some(embedded) = &running.embedded {
        let name = config.nodes.iter().find(|node| node.kind == NodeKind::Embedded);
        let name = name.map(|node| node.name.clone()).unwrap_or_default();
        let told = tell_numbers(embedded.node.clone(), name, running.metrics.clone());
        running.watch("numbers of the embedded node", told);
    }
    let worker = pins.worker.clone();
    running.watch("worker", async move { worker.ended().await });
    running.watch("proposer", pins.proposer.ended());
    let access = Arc::new(Access::new(&pins));
    let gate = Arc::new(Gatekeeper {
        access: access.clone(),
        required: config.api.auth == Auth::Required,
    });
    let with = ServedWith {
        grace: config.shutdown.deadline / 8,
        gate: &gate,
        health: &health,
        observer: &Arc::new(CountRequests(metrics.clone())),
    };
    let rest = Rest::new(pins.clone(), Some(gate.clone())).router();
    let rest = rest_listeners.serve(&config.rest, ErrorForm::Rest, &rest, &with)?;
    running.http_apis.push(rest);
    let proxied = running.embedded.as_ref().map(|embedded| &embedded.node);
    let proxy = proxy::serve(proxy_listeners, &config.proxy, &pins, proxied, &with)?;
    running.http_apis.push(proxy);
    let pinning = Pinning::new(pins.clone(), Some(gate.clone())).router();
    let pinning = pinning_listeners.serve(&config.pinning, ErrorForm::Pinning, &pinning, &with)?;
    running.http_apis.push(pinning);
    let clients = serve_clients(
        grpc_listener,
        &dir.admin_socket(),
        pins,
        access,
        metrics,
        &config,
        admission,
        &health,
    );
    running.clients = Some(clients?);

    let ready = stop.run_until_cancelled(health.until_ready_is(true)).await;
    if ready.is_some() {
        let addresses = Addresses {
            peer: peer_address,
            grpc: grpc_address,
            rest: rest_address,
            proxy: proxy_address,
            pinning: pinning_address,
            http: running.http.address(),
        };
        write_run_file(&dir, &config, own, &addresses)?;
        tracing::info!(peer = %own, grpc = %grpc_address, peers = %peer_address, "the peer is ready");
        stop.cancelled().await;
    }
    running.stop().await;
    let _ = std::fs::remove_file(dir.run_json());
    Ok(())
}

/// A peer that runs, and all that has to be stopped.
struct Running {
    deadline: Duration,
    consensus: Consensus,
    pins: Arc<Pins>,
    metrics: Metrics,
    health: Health,
    http: HttpServer,
    tasks: TaskTracker,
    stop: CancellationToken,
    peers: Serving,
    worker_runtime: OwnRuntime,
    embedded: Option<Embedded>,
    clients: Option<Serving>,
    http_apis: Vec<HttpServers>,
    admission: Admission,
}

impl Running {
    /// Runs a part until the peer stops.
    fn watch(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let work = async move {
            work.await;
            anyhow::Ok(())
        };
        let supervised = supervised(name, self.health.clone(), self.stop.clone(), work);
        self.tasks
            .spawn(self.stop.clone().run_until_cancelled_owned(supervised));
    }

    /// Stops in order, within the deadline.
    async fn stop(self) {
        tracing::info!("stopping");
        // Held until the end: probes shall read why.
        let stopping = self.health.condition("stopping");
        stopping.not_ready("the peer is stopping");
        let deadline = self.deadline;
        if tokio::time::timeout(deadline, self.stop_parts()).await.is_err() {
            tracing::warn!("the deadline for stopping has passed; what was acknowledged is safe all the same");
        }
        drop(stopping);
    }

    /// Refuses new work, hands over the lead, lets open calls end, parks the workers, flushes, closes.
    async fn stop_parts(self) {
        let share = self.deadline / 4;
        // First, so that no call that begins now loses its leader in the middle.
        self.admission.stop_taking();
        for api in &self.http_apis {
            api.end();
        }
        if !self.admission.calls_ended(share / 2).await {
            tracing::info!("some calls are still open");
        }
        if self.consensus.leader().is_self
            && let Err(error) = self.consensus.transfer_leadership(None, share).await
        {
            tracing::info!(%error, "the lead was not handed over");
        }
        if !self.admission.streams_ended(share / 2).await {
            tracing::info!("lists and bulk streams that are still open are cut");
        }
        self.admission.close();
        if let Some(clients) = self.clients
            && !clients.stop(share / 2).await
        {
            tracing::info!("connections of clients that are still open are cut");
        }
        let stops = self.http_apis.into_iter().map(|api| api.stop(share / 2));
        futures::future::join_all(stops).await;
        self.tasks.close();
        // The loops end at once; nothing they do needs an end.
        let _ = tokio::time::timeout(share, self.tasks.wait()).await;
        if let Err(error) = self.pins.worker.shutdown(share).await {
            tracing::warn!(%error, "the worker did not stop cleanly; its ledger is safe all the same");
        }
        self.worker_runtime.stop(share / 2).await;
        if let Some(embedded) = self.embedded {
            embedded.stop(share).await;
        }
        // Before Raft: its requests hold Raft, log and state, which are to be closed.
        if !self.peers.stop(share / 2).await {
            tracing::info!("connections of other peers that are still open are cut");
        }
        // So that nothing but Raft holds log and state when it closes them.
        self.metrics.forget_hooks();
        drop(self.pins);
        self.consensus.shutdown(share).await;
        self.http.stop(STOP_GRACE).await;
    }
}

async fn bind(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{option} = \"{address}\": can't listen there"))
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
        book.tell(standing.raft_id, standing::read_members(cluster)?);
        // Left by a crash right after the peer was admitted; it is used up.
        secret_file::remove(&dir.join_token()).context("the used join token can't be removed")?;
        return Ok((standing, begins));
    }
    if dir.join_token().exists() {
        let joined = join::join(&dir.join_token(), cluster, connector, introduce).await?;
        book.tell(joined.standing.raft_id, joined.members);
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
        started: false,
    };
    standing::write(cluster, &standing)?;
    std::fs::remove_file(dir.founds()).context("the mark of a new cluster can't be removed")?;
    Ok((standing, true))
}

/// What this peer keeps on disk, and Raft over it.
struct Stores {
    consensus: Consensus,
    state: Arc<StateStore>,
    ledger: Arc<Ledger>,
    /// Only for its sizes: the log belongs to Raft, which closes it.
    log_engine: Weak<RocksLogEngine>,
}

async fn open_stores(
    cluster: &Path,
    config: &Config,
    standing: &Standing,
    own: PeerId,
    channels: Arc<Channels>,
) -> anyhow::Result<Stores> {
    let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let storage = &config.storage;
    // Newest entries take a quarter, write buffers the rest.
    let log_options = LogOptions {
        write_buffers_bytes: bytes(storage.log_memory / 4 * 3),
        ..LogOptions::default()
    };
    let ring_options = RaftLogOptions {
        ring_bytes: bytes(storage.log_memory / 4),
        ..RaftLogOptions::default()
    };
    let engine =
        RocksLogEngine::open(&cluster.join("raft-log"), &log_options).context("the Raft log can't be opened")?;
    let engine = Arc::new(engine);
    let log_engine = Arc::downgrade(&engine);
    let log = RaftLog::open(engine, &ring_options).context("the Raft log can't be opened")?;
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
        log_bytes_kept: config.raft.snapshot_keep_log_bytes,
        started: standing.started,
        runtime_threads: raft_threads(),
        ..ConsensusConfig::default()
    };
    let consensus = Consensus::open(standing.raft_id, own, raft, log, state.clone(), channels).await?;
    if !standing.started {
        // After the log has its owner: a crash in between leaves a log that may be gone on with.
        let standing = Standing {
            started: true,
            ..standing.clone()
        };
        standing::write(cluster, &standing)?;
    }
    note_unknown_nodes(&state, &ledger, own)?;
    Ok(Stores {
        consensus,
        state,
        ledger: Arc::new(ledger),
        log_engine,
    })
}

/// Notes that a node of which the ledger knows nothing is compared with what is wanted: the ledger's folder may have been
/// lost, and nothing else would ever bring back what was in it. Costs nothing for a node that shall hold nothing.
fn note_unknown_nodes(state: &StateStore, ledger: &Ledger, own: PeerId) -> anyhow::Result<()> {
    let known = ledger.nodes();
    let own = pinset::nodes_of_peer(&*state.current(), own).context("the nodes of this peer can't be read")?;
    let unknown = own.into_iter().map(|node| node.id).filter(|id| !known.contains(id));
    state.note_nodes(unknown).context("the state can't be written")
}

/// One thread takes thousands of entries a second. On a small machine a second one only makes more switches between
/// threads: on two cores three peers took a third fewer adds with it.
fn raft_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| if cores.get() > 4 { 2 } else { 1 })
}

fn build(
    config: &Config,
    own: PeerId,
    metrics: &Metrics,
    stores: &Stores,
    directory: &Arc<PeerDirectory>,
    worker_runtime: tokio::runtime::Handle,
    embedded: Option<OwnNode>,
) -> Arc<Pins> {
    let Stores {
        consensus,
        state,
        ledger,
        log_engine,
    } = stores;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let shared = Arc::new(Shared::new(Arc::new(CountProposals(metrics.clone()))));
    let worker = Worker::start_on(
        worker_runtime,
        WorkerConfig {
            report_interval: config.worker.report_interval,
            audit_per_minute: config.worker.audit_per_minute,
            ..WorkerConfig::default()
        },
        ledger.clone(),
        Arc::new(StateWanted {
            state: state.clone(),
            own,
        }),
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
        in_flight_max: config.raft.batches_in_flight as usize,
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
        embedded,
    );
    let scraped = Scraped::new(
        worker.clone(),
        proposer.clone(),
        consensus.clone(),
        log_engine.clone(),
        state,
        ledger,
    );
    metrics.on_scrape(move |metrics| scraped.scrape(metrics));
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
            started: true,
        },
    )
}
