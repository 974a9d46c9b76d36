//! Settings of storage nodes from this peer's configuration.

use cluster_ipfs::pin_name;
use cluster_kubo::KuboOptions;
use cluster_worker::NodeSettings;
use node_core::StorageNode;
use node_core::retry::RetryPolicy;

use crate::config::{Allowed, Config};
use crate::service::NodeLimits;

/// Unpins a node works on at once. They are cheap for Kubo and hold its lock, so few are as fast as many.
const UNPIN_CONCURRENCY: u32 = 4;

/// The configuration's limits; a `[[node]]` section of the same name overrides the common ones.
pub struct ConfiguredLimits(pub Config);

impl NodeLimits for ConfiguredLimits {
    fn settings(&self, node: &StorageNode, cluster_id: &str) -> NodeSettings {
        let common = &self.0.worker;
        let own = self.0.nodes.iter().find(|section| section.name == node.name);
        let concurrency_max = own
            .and_then(|own| own.concurrency_max)
            .unwrap_or(common.concurrency_max);
        NodeSettings {
            id: node.id,
            name: node.name.clone(),
            pin_name: pin_name(cluster_id),
            adopts: own.and_then(|own| own.adopt_pins).unwrap_or(common.adopt_pins) == Allowed::Yes,
            pins_per_second: own
                .and_then(|own| own.pins_per_second)
                .unwrap_or(common.pins_per_second),
            burst: common.pins_burst,
            concurrency_max,
            concurrency_start: common.concurrency_start.min(concurrency_max),
            unpin_concurrency: UNPIN_CONCURRENCY,
            stall_timeout: common.stall_timeout,
            retry: RetryPolicy {
                first: common.backoff_base,
                max: common.backoff_max,
                attempts_max: common.give_up_attempts,
                age_max: common.give_up_after,
            },
        }
    }

    fn client(&self, _node: &StorageNode) -> KuboOptions {
        KuboOptions {
            stall_timeout: self.0.worker.stall_timeout,
            ..KuboOptions::default()
        }
    }
}
