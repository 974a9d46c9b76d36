//! Where the parts count: each knows a small trait, and this file knows the metrics.

use std::sync::Arc;
use std::time::Duration;

use cluster_kubo::{CallObserver, Operation};
use cluster_worker::{Kind, Observer};
use node_core::{ErrorClass, NodeId, StorageNode};

use crate::service::{ObserverOf, ServiceMetrics, Shared};
use crate::telemetry::Metrics;

/// Counts what the proposer does.
pub struct CountProposals(pub Metrics);

impl ServiceMetrics for CountProposals {
    fn committed(&self, operations: usize, took: Duration) {
        self.0.raft_committed(took, operations);
    }

    fn proposal(&self, outcome: &'static str, operations: usize) {
        self.0.raft_proposal(outcome, operations as u64);
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
