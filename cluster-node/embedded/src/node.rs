//! The node itself.

use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cluster_blocks::{BlockStore, GcEstimate, Mode, Pin};
use cluster_ipfs::{
    Added, Connected, Error, Held, Identity, Intake, IpfsNode, Listed, LookFor, MESSAGE_BYTES_MAX, Operation, Progress,
    ProgressSink, RepoStat, Updated, cut,
};
use cluster_swarm::{ConnectError, Multiaddr, PeerId, Swarm};
use futures::StreamExt as _;
use node_core::{Cid, ErrorClass, Invalid, PinMode};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::announce::{self, Announcer, FRESH_MAX};
use crate::config::EmbeddedConfig;
use crate::content::{Adding, NodeSource, add_pin};
use crate::error::{Failure, StartError};
use crate::fellows::{self, Fellows};
use crate::fetch::{self, Network, candidate};
use crate::gate::Gate;
use crate::gc::{self, Gc, GcReport};
use crate::http::{self, Gateways, Provider, Routers};
use crate::inner::{self, Denied, Inner, Served};
use crate::keep::Keeper;
use crate::report::{self, EmbeddedReport};
use crate::scrub::{self, Scrub};
use crate::{blocking, key, walk};

/// Origins connected to at the same time.
const CONNECTS_MAX: usize = 8;

/// Addresses of one origin that are dialled, when routers know it.
const ADDRESSES_MAX: usize = 16;

/// The key file in the node's folder.
const KEY_FILE: &str = "node.key";

/// The block store in the node's folder.
const BLOCKS_DIR: &str = "blocks";

/// A running embedded node. Clones are handles of the same one. It runs until [`EmbeddedNode::shutdown`], or until the last
/// handle is dropped.
#[derive(Clone)]
pub struct EmbeddedNode {
    inner: Arc<Inner>,
    _running: Arc<DropGuard>,
}

impl EmbeddedNode {
    /// Starts a node on the tokio runtime that this is called on. Folder, key and store are made when they are missing.
    ///
    /// # Errors
    /// When the configuration is not usable, the folder is in use by another process, or an address is taken.
    pub async fn start(config: EmbeddedConfig) -> Result<Self, StartError> {
        config.check()?;
        let dir = config.dir.clone();
        let options = config.store.clone();
        let opened = blocking(move || Ok(open(&dir, &options))).await;
        let (key, store) = opened.map_err(|failure| StartError::Folder {
            path: config.dir.clone(),
            reason: failure.words,
        })??;
        let agent = &config.swarm.agent;
        let client = http::client(config.fetch.connect_timeout, agent).map_err(StartError::Http)?;
        let gateways = Gateways::new(client.clone(), &config.gateways)?;
        let routers = Routers::new(client, &config.routing)?;
        let denied = Arc::new(Denied::default());
        let served = Arc::new(Served {
            store: store.clone(),
            denied: Arc::clone(&denied),
        });
        let swarm = Swarm::start(config.swarm.clone(), key, served).await?;
        let network = Arc::new(Network::new(&config, swarm, routers, gateways));
        let (fresh, receiver) = mpsc::channel(FRESH_MAX);
        let stop = CancellationToken::new();
        let inner = Arc::new(Inner {
            gate: Gate::new(config.disk, config.dir.clone(), store.clone()),
            store,
            network,
            walks: Arc::default(),
            gc: Gc::default(),
            scrub: Scrub::default(),
            announcer: Announcer::default(),
            fellows: Fellows::default(),
            denied,
            turn: Default::default(),
            stop: stop.clone(),
            tasks: TaskTracker::new(),
            fresh,
            config,
        });
        inner.tasks.spawn(fellows::run(Arc::clone(&inner)));
        inner.tasks.spawn(scrub::run(Arc::clone(&inner)));
        inner.tasks.spawn(announce::run(Arc::clone(&inner), receiver));
        if inner.config.gc.by_itself {
            inner.tasks.spawn(gc::run(Arc::clone(&inner)));
        }
        tracing::info!(
            peer = %inner.network.swarm.peer_id(),
            blocks = inner.store.usage().blocks,
            dir = %inner.config.dir.display(),
            "embedded node started"
        );
        Ok(Self {
            inner,
            _running: Arc::new(stop.drop_guard()),
        })
    }

    /// Its ID: the multihash of its public key.
    pub fn peer_id(&self) -> PeerId {
        self.inner.network.swarm.peer_id()
    }

    /// Where others may reach it, each with `/p2p/ID`: what its fellows are to be told.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.inner.network.swarm.addresses()
    }

    /// The addresses of the cluster's other embedded nodes, each with `/p2p/ID`, instead of those told before; this node's
    /// own are passed over. It keeps connected to them, and asks them first.
    ///
    /// # Errors
    /// When there are more than [`crate::FELLOWS_MAX`], or one does not end in `/p2p/ID`; then nothing changes.
    pub fn set_fellows(&self, addresses: &[Multiaddr]) -> Result<(), Invalid> {
        self.inner.fellows.set(&self.inner, addresses)
    }

    /// Blocks that are served to nobody over Bitswap, and not announced, instead of those told before. Under whatever
    /// codec they are asked for. They can be pinned and read here.
    pub fn set_denied(&self, cids: &[Cid]) {
        self.inner.denied.set(cids);
    }

    /// Whether a block is served to nobody; for who serves blocks another way.
    pub fn is_denied(&self, cid: &Cid) -> bool {
        self.inner.denied.contains(cid)
    }

    /// Begins to add content.
    pub fn begin_add(&self) -> Adding {
        Adding::begin(&self.inner)
    }

    /// Blocks to read from: those of this node, and with `network` those that others have. Take one for each content that
    /// is read: who had one block of it is asked for the next ones.
    pub fn source(&self, network: bool) -> NodeSource {
        NodeSource::new(&self.inner, network)
    }

    /// What takes the blocks of one add, which are to be pinned later.
    pub fn keeper(&self) -> Keeper {
        Keeper::new(&self.inner)
    }

    /// The block store, for look-ups. Its plain functions block.
    pub fn store(&self) -> &BlockStore {
        &self.inner.store
    }

    /// Pins a block and what is at most `depth` links below it; 0 is the block alone.
    ///
    /// # Errors
    /// As [`IpfsNode::pin_add`].
    pub async fn pin_to_depth(&self, cid: &Cid, depth: u32, name: &str, sink: ProgressSink<'_>) -> Result<Pin, Error> {
        let pinned = walk::pin(&self.inner, *cid, Mode::Depth(depth), name, sink).await;
        pinned.map_err(|failure| failure.of(Operation::PinAdd))
    }

    /// Pins in CID order, complete and not, behind `after`, at most `limit` of them.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn pins(&self, after: Option<Cid>, limit: usize) -> Result<Vec<Pin>, Error> {
        let store = self.inner.store.clone();
        let pins = blocking(move || store.pins(after.as_ref(), limit)).await;
        pins.map_err(|failure| failure.of(Operation::PinLs))
    }

    /// Collects garbage until there is none. Safe beside everything else; who comes second waits for the first.
    ///
    /// # Errors
    /// When the store fails, or the node shuts down.
    pub async fn collect_garbage(&self) -> Result<GcReport, Error> {
        let collected = gc::collect(&self.inner).await;
        collected.map_err(|failure| failure.of(Operation::RepoStat))
    }

    /// How far the collection under way has come, or how the last one went. Costs nothing, so it may be asked often.
    pub fn garbage(&self) -> GcReport {
        self.inner.gc.report()
    }

    /// What [`EmbeddedNode::collect_garbage`] would free, found within this time, by extrapolation where that is short.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn estimate_garbage(&self, time: Duration) -> Result<GcEstimate, Error> {
        let estimate = gc::estimate(&self.inner, time).await;
        estimate.map_err(|failure| failure.of(Operation::RepoStat))
    }

    /// Everything that an operator wants to see.
    ///
    /// # Errors
    /// When the node has been shut down, or the disk can't be looked at.
    pub async fn report(&self) -> Result<EmbeddedReport, Error> {
        let report = report::of(&self.inner).await;
        report.map_err(|failure| failure.of(Operation::RepoStat))
    }

    /// Ends all connections with a peer. It may come back.
    ///
    /// # Errors
    /// When the node has been shut down.
    pub async fn disconnect(&self, peer: PeerId) -> Result<(), Error> {
        let ended = self.inner.network.swarm.disconnect(peer).await;
        ended.map_err(|_| Failure::stopping().of(Operation::SwarmConnect))
    }

    /// Looks for peers that have a block, in the DHT and by delegated routing, as long as a pin would, and until so many are
    /// found.
    pub async fn find_providers(&self, cid: &Cid, limit: usize) -> Vec<Provider> {
        let found = fetch::providers(&self.inner.network, *cid, limit).await;
        let provider = |candidate: cluster_swarm::Candidate| Provider {
            peer: candidate.peer,
            addresses: candidate.addresses,
        };
        found.into_iter().map(provider).collect()
    }

    /// Ends everything: work under way, connections, then the store, with all that was handed to it synced. Further calls of
    /// any handle fail. The folder is free when the last handle, source and add are dropped too.
    ///
    /// # Errors
    /// When the store could not be closed properly; it is as after a crash then, and nothing pinned is lost.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.network.swarm.shutdown().await;
        let store = self.inner.store.clone();
        let closed = blocking(move || store.close()).await;
        closed.map_err(|failure| failure.of(Operation::Id))
    }
}

type Opened = (cluster_swarm::Keypair, BlockStore);

fn open(dir: &std::path::Path, options: &cluster_blocks::StoreOptions) -> Result<Opened, StartError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| StartError::Folder {
        path: dir.to_owned(),
        reason: error.to_string(),
    })?;
    let key = key::load_or_create(&dir.join(KEY_FILE))?;
    let store = BlockStore::open(&dir.join(BLOCKS_DIR), options)?;
    Ok((key, store))
}

#[async_trait]
impl IpfsNode for EmbeddedNode {
    async fn id(&self) -> Result<Identity, Error> {
        if self.inner.stop.is_cancelled() {
            return Err(Failure::stopping().of(Operation::Id));
        }
        if let Some(fault) = self.inner.store.fault() {
            let words = format!("the block store takes no writes: {fault}");
            return Err(Failure::new(ErrorClass::Unreachable, words).of(Operation::Id));
        }
        Ok(Identity {
            peer_id: self.peer_id().to_string(),
            addresses: self.addresses().iter().map(ToString::to_string).collect(),
            agent: self.inner.config.swarm.agent.clone(),
        })
    }

    async fn version(&self) -> Result<String, Error> {
        Ok(env!("CARGO_PKG_VERSION").to_owned())
    }

    async fn repo_stat(&self) -> Result<RepoStat, Error> {
        let room = self.inner.gate.look().await;
        let room = room.map_err(|failure| failure.of(Operation::RepoStat))?;
        Ok(RepoStat {
            used_bytes: room.used_bytes,
            // Unlike a daemon elsewhere it knows the disk, so there always is a limit.
            max_bytes: Some(self.inner.gate.max_bytes(room)),
        })
    }

    async fn pin_add(&self, cid: &Cid, mode: PinMode, name: &str, progress: ProgressSink<'_>) -> Result<Added, Error> {
        add_pin(&self.inner, cid, mode, name, progress).await
    }

    async fn pin_update(&self, from: &Cid, to: &Cid, progress: ProgressSink<'_>) -> Result<Updated, Error> {
        let of = |failure: Failure| failure.of(Operation::PinUpdate);
        let source = walk::look_up(&self.inner.store, *from).await.map_err(of)?;
        let Some(source) = source.filter(|pin| pin.mode == Mode::Recursive) else {
            return Ok(Updated::SourceNotPinned);
        };
        // What both share is there and held; nothing is let go in between. The name is handed on, as Kubo does.
        let done = match walk::look_up(&self.inner.store, *to).await.map_err(of)? {
            Some(pin) if pin.mode == Mode::Recursive => pin,
            _ => {
                let pinned = walk::pin(&self.inner, *to, Mode::Recursive, &source.name, progress).await;
                pinned.map_err(of)?
            }
        };
        Ok(Updated::Done(Progress {
            blocks: done.progress.blocks,
            bytes: done.progress.bytes,
        }))
    }

    async fn pin_rm(&self, cid: &Cid) -> Result<bool, Error> {
        let removed = self.inner.store.unpin(cid).await;
        removed.map_err(|error| Failure::from(error).of(Operation::PinRm))
    }

    async fn pin_ls(&self, cid: &Cid, look_for: LookFor) -> Result<Option<Listed>, Error> {
        let of = |failure: Failure| failure.of(Operation::PinLs);
        if let Some(pin) = walk::look_up(&self.inner.store, *cid).await.map_err(of)? {
            let held = match pin.mode {
                Mode::Recursive => Some(Held::Recursive),
                // Of a depth-limited pin only the first block is certain to be all that is below it.
                Mode::Direct | Mode::Depth(_) => (look_for == LookFor::Any).then_some(Held::Direct),
            };
            return Ok(held.map(|held| Listed {
                held,
                name: Some(pin.name),
            }));
        }
        if look_for == LookFor::Recursive {
            return Ok(None);
        }
        let (store, key) = (self.inner.store.clone(), *cid);
        let below = blocking(move || Ok(store.has(&key)? && store.is_referenced(&key)?)).await;
        Ok(below.map_err(of)?.then_some(Listed {
            held: Held::Indirect,
            name: None,
        }))
    }

    async fn swarm_connect(&self, origins: &[String]) -> Connected {
        // In a loop: a closure over borrowed origins is not general enough for a future that has to be `Send`.
        let mut calls = Vec::with_capacity(origins.len());
        for origin in origins {
            calls.push(self.connect(origin));
        }
        let results: Vec<Result<(), Error>> = futures::stream::iter(calls).buffered(CONNECTS_MAX).collect().await;
        let mut outcome = Connected::default();
        for result in results {
            match result {
                Ok(()) => outcome.connected += 1,
                Err(error) => outcome.failures.push(error),
            }
        }
        outcome
    }

    async fn blocks(&self, cids: &[Cid]) -> Result<Vec<Option<Bytes>>, Error> {
        let (store, asked) = (self.inner.store.clone(), cids.to_vec());
        let found = blocking(move || inner::blocks(&store, &asked)).await;
        found.map_err(|failure| failure.of(Operation::Blocks))
    }

    async fn intake(&self) -> Result<Box<dyn Intake>, Error> {
        // Before anything is sent that could not be stored.
        self.inner
            .gate
            .enter()
            .await
            .map_err(|failure| failure.of(Operation::Intake))?;
        Ok(Box::new(self.keeper()))
    }
}

impl EmbeddedNode {
    async fn connect(&self, origin: &str) -> Result<(), Error> {
        let failed = |class, reason: &str| {
            let words = cut(&format!("{origin}: {reason}"), MESSAGE_BYTES_MAX);
            Error::new(Operation::SwarmConnect, class, words, None)
        };
        let address: Multiaddr = origin
            .parse()
            .map_err(|error| failed(ErrorClass::Permanent, &format!("this is no multiaddr: {error}")))?;
        let Some(mut peer) = candidate(&address) else {
            return Err(failed(
                ErrorClass::Permanent,
                "the address does not end in /p2p/PEER_ID",
            ));
        };
        if peer.peer == self.peer_id() {
            return Err(failed(ErrorClass::Permanent, "this is the node itself"));
        }
        let limit = self.inner.config.fetch.connect_timeout;
        if peer.addresses.is_empty() {
            peer.addresses = self.addresses_of(peer.peer, limit).await;
        }
        let network = &self.inner.network;
        match timeout(limit, network.swarm.connect_to(peer.clone())).await {
            Ok(Ok(())) => {
                network.origins.lock().add(Instant::now(), peer);
                Ok(())
            }
            Ok(Err(error)) => {
                let class = match error {
                    ConnectError::Closed(_) => ErrorClass::Unreachable,
                    ConnectError::NoPeerId(_) => ErrorClass::Permanent,
                    ConnectError::Shunned(_) | ConnectError::Failed { .. } => ErrorClass::Temporary,
                };
                Err(failed(class, &error.to_string()))
            }
            Err(_) => Err(failed(
                ErrorClass::Temporary,
                &format!("no connection within {limit:?}"),
            )),
        }
    }

    /// Where delegated routers say that a peer is, if there are any; the DHT is asked by the network itself.
    async fn addresses_of(&self, peer: PeerId, limit: Duration) -> Vec<Multiaddr> {
        let routers = &self.inner.network.routers;
        let found = Mutex::new(Vec::new());
        let take = |record: http::Provider| {
            if record.peer == peer {
                found.lock().extend(record.addresses);
            }
            true
        };
        match timeout(limit, routers.peers(&peer, take)).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!(%peer, %error, "no addresses by delegated routing"),
        }
        let mut found = found.into_inner();
        found.truncate(ADDRESSES_MAX);
        found
    }
}
