//! The handle: starts and stops tasks, answers questions.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use cluster_ipfs::IpfsNode;
use cluster_storage::ledger::Ledger;
use node_core::reconcile::Entry;
use node_core::{Cid, NodeId, Status};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::driver::{self, Context};
use crate::flow::Flow;
use crate::gate::Gate;
use crate::live::{Live, LiveMap};
use crate::probe::{self, Health};
use crate::{Clock, Kind, NodeReport, NodeSettings, Observer, View, WantedSource, WorkerConfig, audit, drain};

/// What the tasks of the worker share.
pub(crate) struct Inner {
    pub config: Arc<WorkerConfig>,
    pub ledger: Arc<Ledger>,
    pub source: Arc<dyn WantedSource>,
    pub clock: Arc<dyn Clock>,
    pub observer: Arc<dyn Observer>,
    /// New notes may be there.
    pub wake: Notify,
    /// Fires when the nodes were told for the first time.
    pub nodes_known: CancellationToken,
    pub cancel: CancellationToken,
    /// Fires when what is wanted is brought into the ledger no more.
    drained: CancellationToken,
    nodes: RwLock<HashMap<NodeId, Driven>>,
    /// What still runs at nodes that were let go: they may be taken up again before it has ended.
    leaving: Mutex<HashMap<NodeId, TaskTracker>>,
    tasks: TaskTracker,
    /// Where the tasks run, whoever calls.
    runtime: tokio::runtime::Handle,
    seed: u64,
}

struct Driven {
    context: Arc<Context>,
    tasks: TaskTracker,
}

impl Inner {
    pub(crate) fn context(&self, node: NodeId) -> Option<Arc<Context>> {
        self.nodes.read().get(&node).map(|driven| Arc::clone(&driven.context))
    }

    /// The nodes that are driven, and those of which the ledger knows something.
    pub(crate) fn all_nodes(&self) -> Vec<NodeId> {
        let mut all: BTreeSet<_> = self.ledger.nodes().into_iter().collect();
        all.extend(self.nodes.read().keys());
        all.into_iter().collect()
    }
}

/// Makes the nodes of this peer hold what is wanted. A clone is another handle of the same worker.
#[derive(Clone)]
pub struct Worker(Arc<Inner>);

impl Worker {
    /// Starts the worker on the current tokio runtime. It does nothing until the nodes are told, and then goes on where
    /// it stopped: the queues are in the ledger. `seed` sets the jitter of retries.
    pub fn start(
        config: WorkerConfig,
        ledger: Arc<Ledger>,
        source: Arc<dyn WantedSource>,
        clock: Arc<dyn Clock>,
        seed: u64,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let runtime = tokio::runtime::Handle::current();
        Self::start_on(runtime, config, ledger, source, clock, seed, observer)
    }

    /// The same on another runtime, which may be one that nothing else runs on: then no storage node, however many
    /// answers it gives, delays a call of a client.
    pub fn start_on(
        runtime: tokio::runtime::Handle,
        config: WorkerConfig,
        ledger: Arc<Ledger>,
        source: Arc<dyn WantedSource>,
        clock: Arc<dyn Clock>,
        seed: u64,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let inner = Arc::new(Inner {
            config: Arc::new(config),
            ledger,
            source,
            clock,
            observer,
            wake: Notify::new(),
            nodes_known: CancellationToken::new(),
            cancel: CancellationToken::new(),
            drained: CancellationToken::new(),
            nodes: RwLock::default(),
            leaving: Mutex::default(),
            tasks: TaskTracker::new(),
            runtime,
            seed,
        });
        // Also when it panics.
        let ended = inner.drained.clone().drop_guard();
        let drain = drain::run(Arc::clone(&inner));
        let drain = async move {
            let _ended = ended;
            drain.await;
        };
        inner.tasks.spawn_on(drain, &inner.runtime);
        inner
            .tasks
            .spawn_on(sync_now_and_then(Arc::clone(&inner)), &inner.runtime);
        Self(inner)
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    /// New notes may be there. Cheap; call it after each change of the pinset.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Tells which nodes to drive from now on: the whole list. A node with the same settings and the same client goes
    /// on undisturbed; one that changed begins anew after what ran there was cut off; one that is missing is let go.
    /// What the ledger knows of it stays until [`Self::forget_node`].
    pub fn set_nodes(&self, nodes: Vec<(NodeSettings, Arc<dyn IpfsNode>)>) {
        let mut driven = self.0.nodes.write();
        if self.0.cancel.is_cancelled() {
            return;
        }
        let mut before = std::mem::take(&mut *driven);
        for (settings, node) in nodes {
            let id = settings.id;
            let next = match before.remove(&id) {
                Some(old) if old.context.settings == settings && Arc::ptr_eq(&old.context.node, &node) => old,
                old => {
                    if let Some(old) = old {
                        self.leave(old);
                    }
                    self.drive(settings, node)
                }
            };
            driven.insert(id, next);
        }
        for gone in before.into_values() {
            tracing::info!(node = %gone.context.id(), name = %gone.context.settings.name, "node is not driven any more");
            self.leave(gone);
        }
        self.0.nodes_known.cancel();
    }

    fn drive(&self, settings: NodeSettings, node: Arc<dyn IpfsNode>) -> Driven {
        let inner = &self.0;
        let flow = Flow::new(&settings, Instant::now());
        let context = Arc::new(Context {
            pins: Gate::new(flow.concurrency()),
            flow: Mutex::new(flow),
            node,
            config: Arc::clone(&inner.config),
            ledger: Arc::clone(&inner.ledger),
            source: Arc::clone(&inner.source),
            clock: Arc::clone(&inner.clock),
            observer: Arc::clone(&inner.observer),
            live: LiveMap::default(),
            hint: Notify::new(),
            health: Mutex::new(Health::default()),
            cancel: inner.cancel.child_token(),
            seed: inner.seed ^ (u64::from(settings.id.0) << 32),
            seeds: AtomicU64::new(0),
            settings,
        });
        let tasks = TaskTracker::new();
        tracing::info!(node = %context.id(), name = %context.settings.name, "driving node");
        let begun = Arc::clone(&context);
        let predecessor = inner.leaving.lock().remove(&context.id());
        let work = async move {
            // Never two operations at the same CID: what the predecessor runs must have ended.
            if let Some(predecessor) = predecessor {
                predecessor.wait().await;
            }
            driver::drive(begun).await;
        };
        inner.tasks.spawn_on(tasks.track_future(work), &inner.runtime);
        let health = probe::watch(Arc::clone(&context));
        inner.tasks.spawn_on(tasks.track_future(health), &inner.runtime);
        let auditing = audit::watch(Arc::clone(&context));
        inner.tasks.spawn_on(tasks.track_future(auditing), &inner.runtime);
        tasks.close();
        Driven { context, tasks }
    }

    fn leave(&self, driven: Driven) {
        driven.context.cancel.cancel();
        self.0.leaving.lock().insert(driven.context.id(), driven.tasks);
    }

    /// Drops everything the ledger knows of a node that is gone for good.
    pub async fn forget_node(&self, node: NodeId) -> Result<(), String> {
        if let Some(driven) = self.0.nodes.write().remove(&node) {
            self.leave(driven);
        }
        self.0.ledger.drop_node(node).await.map_err(|error| error.to_string())
    }

    /// Forgets nodes in the background: whatever the ledger knows of those is dropped. Nothing happens for nodes of which
    /// nothing is known, so it may be called each time the list of nodes is read.
    pub fn forget_nodes(&self, nodes: impl IntoIterator<Item = NodeId>) {
        let known = self.0.ledger.nodes();
        for node in nodes.into_iter().filter(|node| known.contains(node)) {
            let worker = self.clone();
            let forget = async move {
                match worker.forget_node(node).await {
                    Ok(()) => tracing::info!(%node, "what was known of a node that is gone was forgotten"),
                    // It is tried again when the list of nodes is read the next time.
                    Err(error) => tracing::error!(%node, %error, "a node that is gone could not be forgotten"),
                }
            };
            self.0.tasks.spawn_on(forget, &self.0.runtime);
        }
    }

    /// Where a CID stands at a node; none when nothing is known. Reads the ledger.
    pub fn status(&self, node: NodeId, cid: &Cid) -> Result<Option<View>, String> {
        // Before the entry: an operation that ends between the two reads then shows as its outcome, not as waiting.
        let live = self.0.context(node).and_then(|context| context.live.get(cid));
        let entry = self.0.ledger.get(node, cid).map_err(|error| error.to_string())?;
        Ok(entry.map(|entry| View::new(entry, live)))
    }

    /// The same of many CIDs, in the order asked. Those in order are found several times as fast.
    pub fn status_many(&self, node: NodeId, cids: &[Cid]) -> Result<Vec<Option<View>>, String> {
        // Before the entries, as above.
        let live = self.live(node);
        let entries = self.0.ledger.get_many(node, cids).map_err(|error| error.to_string())?;
        let view = |(cid, entry): (&Cid, Option<Entry>)| Some(View::new(entry?, live.get(cid).copied()));
        Ok(cids.iter().zip(entries).map(view).collect())
    }

    /// What the node is working on now.
    pub fn live(&self, node: NodeId) -> HashMap<Cid, Live> {
        self.0
            .context(node)
            .map(|context| context.live.all())
            .unwrap_or_default()
    }

    /// Calls `visit` for everything known of a node, in CID order, behind `after`, until it says stop. Reads from disk:
    /// run it where waiting is allowed.
    pub fn scan(
        &self,
        node: NodeId,
        after: Option<&Cid>,
        mut visit: impl FnMut(Cid, View) -> ControlFlow<()>,
    ) -> Result<(), String> {
        let live = self.live(node);
        let merged = |cid, entry| visit(cid, View::new(entry, live.get(&cid).copied()));
        self.0
            .ledger
            .scan(node, after, merged)
            .map_err(|error| error.to_string())
    }

    /// At most `limit` of what [`Self::scan`] visits.
    pub fn page(&self, node: NodeId, after: Option<&Cid>, limit: usize) -> Result<Vec<(Cid, View)>, String> {
        let live = self.live(node);
        let page = self
            .0
            .ledger
            .page(node, after, limit)
            .map_err(|error| error.to_string())?;
        Ok(page
            .into_iter()
            .map(|(cid, entry)| (cid, View::new(entry, live.get(&cid).copied())))
            .collect())
    }

    /// The next entries in some states, in CID order. Finds them by index, except those that are pinned.
    pub fn page_of(
        &self,
        node: NodeId,
        statuses: &[Status],
        after: Option<&Cid>,
        limit: usize,
    ) -> Result<Vec<(Cid, View)>, String> {
        let live = self.live(node);
        let mut page = Vec::new();
        for status in statuses {
            if *status == Status::Pinning {
                let running = live.keys().copied().filter(|cid| after.is_none_or(|after| cid > after));
                let cids: Vec<Cid> = running.collect();
                let entries = self.0.ledger.get_many(node, &cids).map_err(|error| error.to_string())?;
                page.extend(
                    cids.into_iter()
                        .zip(entries)
                        .filter_map(|(cid, entry)| Some((cid, entry?))),
                );
            } else if matches!(
                status,
                Status::Queued | Status::Retrying | Status::GaveUp | Status::Unpinning
            ) {
                let found = self.0.ledger.scan_status(node, *status, after, limit);
                page.extend(found.map_err(|error| error.to_string())?);
            }
        }
        page.sort_by_key(|(cid, _)| *cid);
        page.dedup_by_key(|(cid, _)| *cid);
        page.truncate(limit);
        Ok(page
            .into_iter()
            .map(|(cid, entry)| (cid, View::new(entry, live.get(&cid).copied())))
            .collect())
    }

    /// How a node is; none when it is not driven here.
    pub fn report(&self, node: NodeId) -> Option<NodeReport> {
        Some(self.describe(&*self.0.context(node)?))
    }

    /// How all driven nodes are, in order.
    pub fn reports(&self) -> Vec<NodeReport> {
        let contexts: Vec<_> = self
            .0
            .nodes
            .read()
            .values()
            .map(|driven| Arc::clone(&driven.context))
            .collect();
        let mut reports: Vec<_> = contexts.iter().map(|context| self.describe(context)).collect();
        reports.sort_by_key(|report| report.node);
        reports
    }

    fn describe(&self, context: &Context) -> NodeReport {
        let health = context.health.lock().clone();
        let now = self.0.clock.now();
        let (breaker, pins_per_second, concurrency) = {
            let flow = context.flow.lock();
            let at = Instant::now();
            (flow.breaker(at), flow.pins_per_second(at), flow.concurrency())
        };
        // A queue that can't be read is reported by the worker itself; the rest of the report is still true.
        let oldest = self.0.ledger.oldest_queued(context.id()).ok().flatten();
        NodeReport {
            node: context.id(),
            name: context.settings.name.clone(),
            reachable: health.reachable,
            class: health.error.as_ref().map(|(class, _)| *class),
            error: health.error.map(|(_, error)| error),
            free_bytes: health.stat.and_then(|stat| stat.free_bytes()),
            total_bytes: health.stat.and_then(|stat| stat.max_bytes),
            used_bytes: health.stat.map(|stat| stat.used_bytes),
            version: health.version,
            ipfs_peer: health.identity.as_ref().map(|identity| identity.peer_id.clone()),
            addresses: health.identity.map(|identity| identity.addresses).unwrap_or_default(),
            counts: self.0.ledger.counts(context.id()),
            oldest_queued_age: oldest.map(|at| now.since(at)),
            pins_per_second,
            breaker,
            concurrency,
            pinning: context.live.count(Kind::Pin),
            probed_at: health.probed_at,
        }
    }

    /// Returns when what is wanted is brought into the ledger no more: the worker was stopped, or that task failed.
    pub async fn ended(&self) {
        self.0.drained.cancelled().await;
    }

    /// Stops: nothing new begins, what runs is cut off and stays queued, and the ledger is synced. Returns when all is
    /// quiet, or at the deadline with an error that says so.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), String> {
        self.0.cancel.cancel();
        self.0.tasks.close();
        let quiet = tokio::time::timeout(deadline, self.0.tasks.wait()).await;
        // Also when something hangs: what was written must not be lost with it.
        let ledger = Arc::clone(&self.0.ledger);
        drain::blocking(move || ledger.sync().map_err(|error| error.to_string())).await?;
        quiet.map_err(|_| format!("the worker did not come to rest within {} ms", deadline.as_millis()))
    }
}

/// Bounds what a power failure takes. A sync costs nothing while nothing is written.
async fn sync_now_and_then(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            () = inner.cancel.cancelled() => return,
            () = tokio::time::sleep(inner.config.sync_interval) => {}
        }
        let ledger = Arc::clone(&inner.ledger);
        if let Err(error) = drain::blocking(move || ledger.sync().map_err(|error| error.to_string())).await {
            tracing::error!(%error, "the ledger could not be synced");
        }
    }
}
