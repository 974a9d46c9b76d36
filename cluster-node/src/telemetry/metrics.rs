//! All metrics of a peer, in one place.
//!
//! What happens is counted where it happens. What *is* (queues, sizes, lag) is asked for when it is scraped, by hooks
//! that must answer from memory.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use cluster_ipfs::Operation;
use cluster_kubo::CallObserver;
use node_core::{ErrorClass, Status};
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{self, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::embedded::{EmbeddedGauges, EmbeddedNumbers};
use super::requests::HttpRequests;

/// A distribution.
type Histogram = histogram::Histogram;
type FloatGauge = Gauge<f64, AtomicU64>;
type Hook = Box<dyn Fn(&Metrics) + Send + Sync>;

/// Labels of queue lengths.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    /// Name of the storage node.
    pub node: String,
    /// As in `status`.
    pub status: &'static str,
}

/// Labels of attempts at a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    /// Name of the storage node.
    pub node: String,
    /// `pin` or `unpin`.
    pub operation: &'static str,
    /// `ok` or `error`.
    pub outcome: &'static str,
    /// The error's class; empty when there was none.
    pub class: &'static str,
}

/// Labels of calls to a node's RPC.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KuboLabels {
    /// Name of the storage node.
    pub node: String,
    /// Which call.
    pub operation: &'static str,
    /// `ok`, or the error's class.
    pub outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabels {
    node: String,
}

/// Labels of what a database reports.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DatabaseLabels {
    /// `log`, `state` or `ledger`.
    pub db: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GrpcLabels {
    method: String,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: String,
}

/// Sizes that a RocksDB instance reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RocksDbSizes {
    /// Write buffers.
    pub memtable_bytes: u64,
    /// Files.
    pub sst_bytes: u64,
    /// Bytes that wait for compaction.
    pub pending_compaction_bytes: u64,
    /// Cache in use.
    pub block_cache_bytes: u64,
}

/// The metrics of one peer. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    hooks: Mutex<Vec<Hook>>,
    queue: Family<QueueLabels, Gauge>,
    oldest_queued: Family<NodeLabels, FloatGauge>,
    attempts: Family<AttemptLabels, Counter>,
    gave_up: Family<NodeLabels, Counter>,
    node_reachable: Family<NodeLabels, Gauge>,
    kubo_calls: Family<KuboLabels, Histogram>,
    raft_commit: Histogram,
    raft_proposals: Family<OutcomeLabels, Counter>,
    raft_batch_operations: Histogram,
    raft_apply_lag: Gauge,
    raft_applied: Gauge,
    raft_term: Gauge,
    raft_is_leader: Gauge,
    raft_queue_bytes: Gauge,
    snapshot_installs: Counter,
    snapshots_built: Counter,
    memtable: Family<DatabaseLabels, Gauge>,
    sst: Family<DatabaseLabels, Gauge>,
    pending_compaction: Family<DatabaseLabels, Gauge>,
    block_cache: Family<DatabaseLabels, Gauge>,
    grpc_requests: Family<GrpcLabels, Counter>,
    grpc_seconds: Family<MethodLabels, Histogram>,
    grpc_in_flight: Gauge,
    access_refused: Family<ReasonLabels, Counter>,
    embedded: EmbeddedGauges,
    http_requests: HttpRequests,
    pins: Gauge,
}

/// From a tenth of a millisecond to 13 s.
pub(super) fn fast_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 18))
}

/// From 1 ms to 17 minutes: fetching content takes as long as it takes.
fn slow_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 11))
}

/// From 1 to 65,536.
fn count_buckets() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 17))
}

/// What `operation` of an attempt may be.
const OPERATIONS: [&str; 2] = ["pin", "unpin"];

/// The label values of a call's outcome: `ok` and nothing, or `error` and the class.
fn outcome_of(result: Result<(), ErrorClass>) -> (&'static str, &'static str) {
    match result {
        Ok(()) => ("ok", ""),
        Err(class) => ("error", class.as_str()),
    }
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Metrics {
    /// A new set, all zero. `peer` and `version` go into `pinfleet_build_info`.
    pub fn new(peer: &str, version: &str) -> Self {
        let inner = Inner {
            registry: Registry::with_prefix("pinfleet"),
            hooks: Mutex::new(Vec::new()),
            queue: Family::default(),
            oldest_queued: Family::default(),
            attempts: Family::default(),
            gave_up: Family::default(),
            node_reachable: Family::default(),
            kubo_calls: Family::new_with_constructor(slow_buckets),
            raft_commit: fast_buckets(),
            raft_proposals: Family::default(),
            raft_batch_operations: count_buckets(),
            raft_apply_lag: Gauge::default(),
            raft_applied: Gauge::default(),
            raft_term: Gauge::default(),
            raft_is_leader: Gauge::default(),
            raft_queue_bytes: Gauge::default(),
            snapshot_installs: Counter::default(),
            snapshots_built: Counter::default(),
            memtable: Family::default(),
            sst: Family::default(),
            pending_compaction: Family::default(),
            block_cache: Family::default(),
            grpc_requests: Family::default(),
            grpc_seconds: Family::new_with_constructor(fast_buckets),
            grpc_in_flight: Gauge::default(),
            access_refused: Family::default(),
            embedded: EmbeddedGauges::default(),
            http_requests: HttpRequests::default(),
            pins: Gauge::default(),
        };
        let inner = inner.register(peer, version);
        Self { inner: Arc::new(inner) }
    }

    /// Something to be asked at each scrape, which sets gauges. It must answer from memory, at once.
    pub fn on_scrape(&self, hook: impl Fn(&Metrics) + Send + Sync + 'static) {
        self.inner.hooks.lock().push(Box::new(hook));
    }

    /// Asks nothing any more: what the hooks hold is to be closed.
    pub fn forget_hooks(&self) {
        self.inner.hooks.lock().clear();
    }

    /// The OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        for hook in self.inner.hooks.lock().iter() {
            hook(self);
        }
        let mut text = String::new();
        text::encode(&mut text, &self.inner.registry)?;
        Ok(text)
    }

    /// Pins of a node in a state.
    pub fn set_queue(&self, node: &str, status: Status, pins: u64) {
        self.inner
            .queue
            .get_or_create(&queue_labels(node, status))
            .set(clamp(pins));
    }

    /// How long the oldest queued pin of a node has waited; zero when none waits.
    pub fn set_oldest_queued(&self, node: &str, age: Duration) {
        self.inner
            .oldest_queued
            .get_or_create(&node_labels(node))
            .set(age.as_secs_f64());
    }

    /// Whether a node answers.
    pub fn set_node_reachable(&self, node: &str, reachable: bool) {
        self.inner
            .node_reachable
            .get_or_create(&node_labels(node))
            .set(i64::from(reachable));
    }

    /// A pin or unpin was tried; `operation` is `pin` or `unpin`.
    pub fn attempt(&self, node: &str, operation: &'static str, result: Result<(), ErrorClass>) {
        self.inner
            .attempts
            .get_or_create(&attempt_labels(node, operation, result))
            .inc();
    }

    /// A pin was given up.
    pub fn gave_up(&self, node: &str) {
        self.inner.gave_up.get_or_create(&node_labels(node)).inc();
    }

    /// What counts the calls of a node's client.
    pub fn kubo_observer(&self, node: &str) -> Arc<dyn CallObserver> {
        let metrics = self.clone();
        let node = node.to_owned();
        Arc::new(
            move |operation: Operation, result: Result<(), ErrorClass>, took: Duration| {
                metrics.kubo_call(&node, operation.as_str(), result, took);
            },
        )
    }

    /// A call to a node's RPC has ended.
    pub fn kubo_call(&self, node: &str, operation: &'static str, result: Result<(), ErrorClass>, took: Duration) {
        let labels = kubo_labels(node, operation, result);
        self.inner.kubo_calls.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Forgets a node that was taken out, so that its last values don't stay for ever.
    pub fn forget_node(&self, node: &str) {
        let results = || std::iter::once(Ok(())).chain(ErrorClass::ALL.into_iter().map(Err));
        for status in Status::ALL {
            self.inner.queue.remove(&queue_labels(node, status));
        }
        for result in results() {
            for operation in OPERATIONS {
                self.inner.attempts.remove(&attempt_labels(node, operation, result));
            }
            for operation in Operation::ALL {
                self.inner
                    .kubo_calls
                    .remove(&kubo_labels(node, operation.as_str(), result));
            }
        }
        let node = node_labels(node);
        self.inner.oldest_queued.remove(&node);
        self.inner.node_reachable.remove(&node);
        self.inner.gave_up.remove(&node);
    }

    /// A proposed entry was applied: from its submission to its answer.
    pub fn raft_committed(&self, took: Duration, operations: usize) {
        self.inner.raft_commit.observe(took.as_secs_f64());
        self.inner.raft_batch_operations.observe(operations as f64);
    }

    /// Operations came to an end; `outcome` is `committed`, `forwarded`, `not_leader`, `unknown`, `overloaded`, `refused`
    /// or `failed`.
    pub fn raft_proposal(&self, outcome: &'static str, operations: u64) {
        self.inner
            .raft_proposals
            .get_or_create(&OutcomeLabels { outcome })
            .inc_by(operations);
    }

    /// Where the log is.
    pub fn set_raft(&self, term: u64, is_leader: bool, committed: u64, applied: u64) {
        self.inner.raft_term.set(clamp(term));
        self.inner.raft_is_leader.set(i64::from(is_leader));
        self.inner.raft_applied.set(clamp(applied));
        self.inner.raft_apply_lag.set(clamp(committed.saturating_sub(applied)));
    }

    /// How the embedded node of this name is.
    pub fn set_embedded(&self, node: &str, numbers: &EmbeddedNumbers) {
        self.inner.embedded.set(node, numbers);
    }

    /// Bytes of operations that wait to be proposed.
    pub fn set_raft_queue_bytes(&self, bytes: u64) {
        self.inner.raft_queue_bytes.set(clamp(bytes));
    }

    /// So often was the state replaced by a snapshot of the leader, and so many were taken, since it was last told.
    pub fn snapshots(&self, installed: u64, built: u64) {
        self.inner.snapshot_installs.inc_by(installed);
        self.inner.snapshots_built.inc_by(built);
    }

    /// Sizes of a database: `log`, `state` or `ledger`.
    pub fn set_rocksdb(&self, db: &'static str, sizes: RocksDbSizes) {
        let labels = DatabaseLabels { db };
        for (family, bytes) in [
            (&self.inner.memtable, sizes.memtable_bytes),
            (&self.inner.sst, sizes.sst_bytes),
            (&self.inner.pending_compaction, sizes.pending_compaction_bytes),
            (&self.inner.block_cache, sizes.block_cache_bytes),
        ] {
            family.get_or_create(&labels).set(clamp(bytes));
        }
    }

    /// A client was refused for the credential that it showed, or did not show; `reason` is one of a few words.
    pub fn access_refused(&self, reason: &'static str) {
        self.inner.access_refused.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// A request to an HTTP API was answered, so long after it came.
    pub fn http_answered(&self, api: &'static str, status: u16, took: Duration) {
        self.inner.http_requests.answered(api, status, took);
    }

    /// How many pins there are.
    pub fn set_pins(&self, pins: u64) {
        self.inner.pins.set(clamp(pins));
    }

    pub(super) fn grpc_begun(&self) {
        self.inner.grpc_in_flight.inc();
    }

    pub(super) fn grpc_ended(&self, method: &str, code: &'static str, took: Duration) {
        self.inner.grpc_in_flight.dec();
        let method = method.to_owned();
        self.inner
            .grpc_seconds
            .get_or_create(&MethodLabels { method: method.clone() })
            .observe(took.as_secs_f64());
        self.inner
            .grpc_requests
            .get_or_create(&GrpcLabels { method, code })
            .inc();
    }
}

fn queue_labels(node: &str, status: Status) -> QueueLabels {
    QueueLabels {
        node: node.to_owned(),
        status: status.as_str(),
    }
}

fn attempt_labels(node: &str, operation: &'static str, result: Result<(), ErrorClass>) -> AttemptLabels {
    let (outcome, class) = outcome_of(result);
    AttemptLabels {
        node: node.to_owned(),
        operation,
        outcome,
        class,
    }
}

fn kubo_labels(node: &str, operation: &'static str, result: Result<(), ErrorClass>) -> KuboLabels {
    KuboLabels {
        node: node.to_owned(),
        operation,
        outcome: result.map_or_else(ErrorClass::as_str, |()| "ok"),
    }
}

fn node_labels(node: &str) -> NodeLabels {
    NodeLabels { node: node.to_owned() }
}

impl Inner {
    fn register(mut self, peer: &str, version: &str) -> Self {
        let build = Info::new(vec![
            ("peer".to_owned(), peer.to_owned()),
            ("version".to_owned(), version.to_owned()),
        ]);
        let r = &mut self.registry;
        r.register("build", "What runs here", build);
        self.embedded.register(r);
        self.http_requests.register(r);
        r.register("pins", "Pins of the pinset, of all namespaces", self.pins.clone());
        r.register("queue_pins", "Pins by storage node and status", self.queue.clone());
        r.register_with_unit(
            "queue_oldest",
            "Age of the oldest queued pin",
            Unit::Seconds,
            self.oldest_queued.clone(),
        );
        r.register(
            "attempts",
            "Attempts to pin and unpin, by outcome and error class",
            self.attempts.clone(),
        );
        r.register("gave_up", "Pins given up", self.gave_up.clone());
        r.register(
            "node_reachable",
            "Whether the storage node answers",
            self.node_reachable.clone(),
        );
        r.register_with_unit(
            "kubo_call",
            "Duration of calls to storage nodes, by operation and outcome",
            Unit::Seconds,
            self.kubo_calls.clone(),
        );
        r.register_with_unit(
            "raft_commit",
            "From the submission of a log entry to its answer",
            Unit::Seconds,
            self.raft_commit.clone(),
        );
        r.register(
            "access_refused",
            "Clients refused, by reason: missing, malformed, unknown, wrong, expired (what they showed), overloaded (too many \
             passwords to check), scope, namespace (what they asked for)",
            self.access_refused.clone(),
        );
        r.register(
            "raft_proposals",
            "Operations that came to an end, by outcome: committed, forwarded (to the leader), not_leader and unknown \
             (tried again where that is safe), overloaded, refused, failed",
            self.raft_proposals.clone(),
        );
        r.register(
            "raft_batch_operations",
            "Operations in one log entry",
            self.raft_batch_operations.clone(),
        );
        r.register(
            "raft_apply_lag_entries",
            "Log entries committed and not yet applied",
            self.raft_apply_lag.clone(),
        );
        r.register(
            "raft_applied_index",
            "Last log entry applied",
            self.raft_applied.clone(),
        );
        r.register("raft_term", "Term of the leader known here", self.raft_term.clone());
        r.register("raft_is_leader", "Whether this peer leads", self.raft_is_leader.clone());
        r.register_with_unit(
            "raft_queue",
            "Operations that wait to be proposed",
            Unit::Bytes,
            self.raft_queue_bytes.clone(),
        );
        r.register(
            "raft_snapshot_installs",
            "Times the state was replaced by a snapshot of the leader",
            self.snapshot_installs.clone(),
        );
        r.register("raft_snapshots_built", "Snapshots taken", self.snapshots_built.clone());
        for (name, help, family) in [
            ("rocksdb_memtable", "Write buffers", &self.memtable),
            ("rocksdb_sst", "Files", &self.sst),
            (
                "rocksdb_pending_compaction",
                "What waits for compaction",
                &self.pending_compaction,
            ),
            ("rocksdb_block_cache", "Cache in use", &self.block_cache),
        ] {
            r.register_with_unit(name, help, Unit::Bytes, family.clone());
        }
        r.register(
            "grpc_requests",
            "Requests by method and status code",
            self.grpc_requests.clone(),
        );
        r.register_with_unit(
            "grpc_request",
            "Duration of requests by method",
            Unit::Seconds,
            self.grpc_seconds.clone(),
        );
        r.register(
            "grpc_requests_in_flight",
            "Requests that are open",
            self.grpc_in_flight.clone(),
        );
        self
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
    }

    #[test]
    fn everything_is_exported() {
        let metrics = Metrics::new("alpha", "0.1.0");
        metrics.set_queue("kubo-1", Status::Queued, 7);
        metrics.set_oldest_queued("kubo-1", Duration::from_millis(1500));
        metrics.set_node_reachable("kubo-1", true);
        metrics.attempt("kubo-1", "pin", Ok(()));
        metrics.attempt("kubo-1", "pin", Err(ErrorClass::Unreachable));
        metrics.gave_up("kubo-1");
        metrics
            .kubo_observer("kubo-1")
            .called(Operation::PinAdd, Ok(()), Duration::from_millis(20));
        metrics.raft_committed(Duration::from_millis(3), 10);
        metrics.raft_proposal("committed", 10);
        metrics.set_raft(3, true, 12, 10);
        metrics.set_raft_queue_bytes(9);
        metrics.snapshots(1, 1);
        metrics.set_rocksdb(
            "state",
            RocksDbSizes {
                memtable_bytes: 1,
                sst_bytes: 2,
                pending_compaction_bytes: 3,
                block_cache_bytes: 4,
            },
        );
        metrics.http_answered("rest", 404, Duration::from_millis(1));
        metrics.set_pins(7);
        metrics.grpc_begun();
        metrics.grpc_ended("/pinfleet.v1.Pins/Add", "OK", Duration::from_millis(1));
        let text = metrics.encode().unwrap();
        for line in [
            r#"pinfleet_build_info{peer="alpha",version="0.1.0"} 1"#,
            r#"pinfleet_queue_pins{node="kubo-1",status="queued"} 7"#,
            r#"pinfleet_queue_oldest_seconds{node="kubo-1"} 1.5"#,
            r#"pinfleet_node_reachable{node="kubo-1"} 1"#,
            r#"pinfleet_attempts_total{node="kubo-1",operation="pin",outcome="ok",class=""} 1"#,
            r#"pinfleet_attempts_total{node="kubo-1",operation="pin",outcome="error",class="unreachable"} 1"#,
            r#"pinfleet_gave_up_total{node="kubo-1"} 1"#,
            r#"pinfleet_kubo_call_seconds_count{node="kubo-1",operation="pin_add",outcome="ok"} 1"#,
            "pinfleet_raft_commit_seconds_count 1",
            "pinfleet_raft_batch_operations_sum 10.0",
            r#"pinfleet_raft_proposals_total{outcome="committed"} 10"#,
            "pinfleet_raft_apply_lag_entries 2",
            "pinfleet_raft_applied_index 10",
            "pinfleet_raft_term 3",
            "pinfleet_raft_is_leader 1",
            "pinfleet_raft_queue_bytes 9",
            "pinfleet_raft_snapshot_installs_total 1",
            "pinfleet_raft_snapshots_built_total 1",
            r#"pinfleet_rocksdb_memtable_bytes{db="state"} 1"#,
            r#"pinfleet_rocksdb_sst_bytes{db="state"} 2"#,
            r#"pinfleet_rocksdb_pending_compaction_bytes{db="state"} 3"#,
            r#"pinfleet_rocksdb_block_cache_bytes{db="state"} 4"#,
            r#"pinfleet_grpc_requests_total{method="/pinfleet.v1.Pins/Add",code="OK"} 1"#,
            r#"pinfleet_grpc_request_seconds_count{method="/pinfleet.v1.Pins/Add"} 1"#,
            "pinfleet_grpc_requests_in_flight 0",
            r#"pinfleet_http_requests_total{api="rest",status="404"} 1"#,
            r#"pinfleet_http_request_seconds_count{api="rest"} 1"#,
            "pinfleet_pins 7",
            "# EOF",
        ] {
            has(&text, line);
        }
        for class in ErrorClass::ALL {
            metrics.kubo_call("kubo-1", Operation::Id.as_str(), Err(class), Duration::ZERO);
        }
        metrics.forget_node("kubo-1");
        assert!(!metrics.encode().unwrap().contains("kubo-1"));
    }

    #[test]
    fn hooks_are_asked_at_each_scrape() {
        let metrics = Metrics::new("a", "1");
        let asked = Arc::new(AtomicU64::new(0));
        let count = asked.clone();
        metrics.on_scrape(move |metrics| {
            let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            metrics.set_raft_queue_bytes(n);
        });
        has(&metrics.encode().unwrap(), "pinfleet_raft_queue_bytes 1");
        has(&metrics.encode().unwrap(), "pinfleet_raft_queue_bytes 2");
    }

    #[test]
    fn peers_in_one_process_do_not_share() {
        let (a, b) = (Metrics::new("a", "1"), Metrics::new("b", "1"));
        a.snapshots(0, 1);
        has(&b.encode().unwrap(), "pinfleet_raft_snapshots_built_total 0");
    }
}
