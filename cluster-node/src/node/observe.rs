//! Where the parts count: each knows a small trait, and this file knows the metrics.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use cluster_consensus::{Consensus, SnapshotCounts};
use cluster_ipfs::Operation;
use cluster_kubo::CallObserver;
use cluster_storage::StateStore;
use cluster_storage::ledger::Ledger;
use cluster_storage::raft_log::RocksLogEngine;
use cluster_worker::{Kind, Observer, Worker};
use http::StatusCode;
use node_core::pinset;
use node_core::{ErrorClass, NodeId, Status, StorageNode};
use parking_lot::Mutex;

use crate::service::{ObserverOf, Proposer, ServiceMetrics, Shared};
use crate::telemetry::{Metrics, RocksDbSizes};

/// Counts what the proposer does.
pub struct CountProposals(pub Metrics);

impl ServiceMetrics for CountProposals {
    fn committed(&self, operations: usize, took: Duration) {
        self.0.raft_committed(took, operations);
    }

    fn proposal(&self, outcome: &'static str, operations: usize) {
        self.0.raft_proposal(outcome, operations as u64);
    }

    fn refused(&self, reason: &'static str) {
        self.0.access_refused(reason);
    }
}

/// Counts requests to the HTTP APIs.
pub struct CountRequests(pub Metrics);

impl fmt::Debug for CountRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountRequests")
    }
}

impl cluster_http::Observer for CountRequests {
    fn answered(&self, server: &'static str, status: StatusCode, took: Duration) {
        self.0.http_answered(server, status.as_u16(), took);
    }
}

/// Counts what the worker does. Nodes are named as in the pinset.
pub struct CountAttempts {
    /// Where.
    pub metrics: Metrics,
    /// Knows the names.
    pub shared: Arc<Shared>,
}

impl Observer for CountAttempts {
    fn attempt(&self, node: NodeId, kind: Kind, outcome: Result<(), ErrorClass>, _took: Duration) {
        self.metrics
            .attempt(&self.shared.names().name(node), kind.as_str(), outcome);
    }

    fn gave_up(&self, node: NodeId, _class: ErrorClass) {
        self.metrics.gave_up(&self.shared.names().name(node));
    }
}

/// Observers of calls to daemons, one a node.
pub fn kubo_observer(metrics: Metrics) -> ObserverOf {
    Arc::new(move |node: &StorageNode| {
        let (metrics, name) = (metrics.clone(), node.name.clone());
        Arc::new(CountCalls { metrics, name }) as Arc<dyn CallObserver>
    })
}

struct CountCalls {
    metrics: Metrics,
    name: String,
}

impl CallObserver for CountCalls {
    fn called(&self, operation: Operation, outcome: Result<(), ErrorClass>, took: Duration) {
        self.metrics.kubo_call(&self.name, operation.as_str(), outcome, took);
    }
}

/// What is only worth knowing when somebody asks. All of it is answered from memory.
pub struct Scraped {
    worker: Worker,
    proposer: Proposer,
    consensus: Consensus,
    // Asked as long as they are there: a metric must not keep a database open.
    log: Weak<RocksLogEngine>,
    state: Weak<StateStore>,
    ledger: Weak<Ledger>,
    last: Mutex<Last>,
}

/// What was told the last time.
#[derive(Default)]
struct Last {
    nodes: BTreeSet<String>,
    snapshots: SnapshotCounts,
}

impl Scraped {
    /// Nothing told yet.
    pub fn new(
        worker: Worker,
        proposer: Proposer,
        consensus: Consensus,
        log: Weak<RocksLogEngine>,
        state: &Arc<StateStore>,
        ledger: &Arc<Ledger>,
    ) -> Self {
        Self {
            worker,
            proposer,
            consensus,
            log,
            state: Arc::downgrade(state),
            ledger: Arc::downgrade(ledger),
            last: Mutex::default(),
        }
    }

    /// Fills it in.
    pub fn scrape(&self, metrics: &Metrics) {
        let mut last = self.last.lock();
        self.scrape_nodes(metrics, &mut last.nodes);
        self.scrape_raft(metrics, &mut last.snapshots);
        self.scrape_databases(metrics);
    }

    fn scrape_nodes(&self, metrics: &Metrics, told: &mut BTreeSet<String>) {
        let reports = self.worker.reports();
        for report in &reports {
            for status in Status::ALL {
                let pins = match status {
                    Status::Pinning => report.pinning as u64,
                    status => report.counts.of(status),
                };
                metrics.set_queue(&report.name, status, pins);
            }
            metrics.set_oldest_queued(&report.name, report.oldest_queued_age.unwrap_or_default());
            metrics.set_node_reachable(&report.name, report.reachable);
        }
        let driven: BTreeSet<_> = reports.into_iter().map(|report| report.name).collect();
        // Taken out, driven by another peer now, or renamed.
        for gone in told.difference(&driven) {
            metrics.forget_node(gone);
        }
        *told = driven;
    }

    fn scrape_raft(&self, metrics: &Metrics, told: &mut SnapshotCounts) {
        let raft = self.consensus.metrics();
        let leads = self.consensus.leader().is_self;
        metrics.set_raft(
            raft.term,
            leads,
            raft.committed.unwrap_or_default(),
            raft.applied.unwrap_or_default(),
        );
        metrics.set_raft_queue_bytes(self.proposer.queued_bytes() as u64);
        let counts = self.consensus.snapshot_counts();
        metrics.snapshots(
            counts.installed.saturating_sub(told.installed),
            counts.built.saturating_sub(told.built),
        );
        *told = counts;
    }

    fn scrape_databases(&self, metrics: &Metrics) {
        if let Some(log) = self.log.upgrade() {
            let stats = log.stats();
            let sizes = RocksDbSizes {
                memtable_bytes: stats.memtable_bytes,
                sst_bytes: stats.sst_bytes,
                pending_compaction_bytes: stats.pending_compaction_bytes,
                block_cache_bytes: stats.cache_bytes,
            };
            metrics.set_rocksdb("log", sizes);
        }
        if let Some(state) = self.state.upgrade() {
            // A row that can't be read shows at everything else.
            if let Ok(header) = pinset::header(&*state.current()) {
                metrics.set_pins(header.pins);
            }
            let stats = state.stats();
            let sizes = RocksDbSizes {
                memtable_bytes: stats.memtable_bytes,
                sst_bytes: stats.sst_bytes,
                pending_compaction_bytes: stats.pending_compaction_bytes,
                block_cache_bytes: stats.cache_bytes,
            };
            metrics.set_rocksdb("state", sizes);
        }
        if let Some(ledger) = self.ledger.upgrade() {
            let stats = ledger.stats();
            let sizes = RocksDbSizes {
                memtable_bytes: stats.memtable_bytes,
                sst_bytes: stats.disk_bytes,
                pending_compaction_bytes: stats.pending_compaction_bytes,
                block_cache_bytes: stats.cache_bytes,
            };
            metrics.set_rocksdb("ledger", sizes);
        }
    }
}
