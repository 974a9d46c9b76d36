//! What the embedded IPFS node tells of itself.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Labels of the node: its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    node: String,
}

type Numbers = Family<Labels, Gauge<f64, AtomicU64>>;

/// What is known of an embedded node at one moment. Counts are since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EmbeddedNumbers {
    /// Blocks in its store.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of its files.
    pub disk_bytes: u64,
    /// Bytes that it may take.
    pub disk_max_bytes: u64,
    /// Whether it takes nothing more.
    pub intake_stopped: bool,
    /// Pins that are being fetched.
    pub walks: u64,
    /// Connected peers.
    pub peers: u64,
    /// Bytes of Bitswap messages that came.
    pub bytes_in: u64,
    /// Bytes of Bitswap messages that went out.
    pub bytes_out: u64,
    /// Offences of peers.
    pub offences: u64,
    /// Blocks that came from gateways.
    pub gateway_blocks: u64,
    /// Blocks that garbage collection deleted in its last pass, or in the one under way.
    pub collected_blocks: u64,
    /// Their bytes.
    pub collected_bytes: u64,
    /// Whether a collection is under way.
    pub gc_running: bool,
    /// Share of its present look over the store that is done, 0 to 1; 1 behind a whole collection.
    pub gc_progress: f64,
    /// Announcements that are overdue.
    pub announce_behind: u64,
    /// For how long the next one has been due, in seconds.
    pub announce_late_seconds: f64,
    /// Resting blocks that were found corrupt.
    pub corrupt: u64,
}

/// The gauges. A peer without an embedded node shows none of them.
#[derive(Default)]
pub(super) struct EmbeddedGauges {
    blocks: Numbers,
    bytes: Numbers,
    disk_bytes: Numbers,
    disk_max_bytes: Numbers,
    intake_stopped: Numbers,
    walks: Numbers,
    peers: Numbers,
    bytes_in: Numbers,
    bytes_out: Numbers,
    offences: Numbers,
    gateway_blocks: Numbers,
    collected_blocks: Numbers,
    collected_bytes: Numbers,
    gc_running: Numbers,
    gc_progress: Numbers,
    announce_behind: Numbers,
    announce_late: Numbers,
    corrupt: Numbers,
}

impl EmbeddedGauges {
    pub(super) fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("embedded");
        let mut number = |name: &str, help: &str, numbers: &Numbers| registry.register(name, help, numbers.clone());
        number("blocks", "Blocks in the store", &self.blocks);
        number("walks", "Pins that are being fetched", &self.walks);
        number("peers", "Connected IPFS nodes", &self.peers);
        number("offences", "Offences of other nodes since the start", &self.offences);
        number("intake_stopped", "1 while nothing more is taken", &self.intake_stopped);
        number(
            "gateway_blocks",
            "Blocks from gateways since the start",
            &self.gateway_blocks,
        );
        number(
            "collected_blocks",
            "Blocks that the last collection of garbage deleted",
            &self.collected_blocks,
        );
        number("gc_running", "1 while garbage is being collected", &self.gc_running);
        number(
            "gc_progress",
            "Share of the collection's present look over the store that is done, 0 to 1",
            &self.gc_progress,
        );
        number(
            "announce_behind",
            "Announcements that are overdue",
            &self.announce_behind,
        );
        number(
            "corrupt_blocks",
            "Resting blocks found damaged since the start",
            &self.corrupt,
        );
        let mut bytes = |name: &str, help: &str, numbers: &Numbers| {
            registry.register_with_unit(name, help, Unit::Bytes, numbers.clone());
        };
        bytes("content", "Bytes of the blocks", &self.bytes);
        bytes(
            "collected",
            "Bytes of the blocks that the last collection of garbage deleted",
            &self.collected_bytes,
        );
        bytes("disk", "Bytes that the store takes", &self.disk_bytes);
        bytes("disk_max", "Bytes that the store may take", &self.disk_max_bytes);
        bytes(
            "received",
            "Bytes of Bitswap messages that came, since the start",
            &self.bytes_in,
        );
        bytes(
            "sent",
            "Bytes of Bitswap messages that went out, since the start",
            &self.bytes_out,
        );
        registry.register_with_unit(
            "announce_late",
            "For how long the next announcement has been due",
            Unit::Seconds,
            self.announce_late.clone(),
        );
    }

    pub(super) fn set(&self, node: &str, numbers: &EmbeddedNumbers) {
        let labels = Labels { node: node.to_owned() };
        let set = |gauge: &Numbers, value: f64| {
            gauge.get_or_create(&labels).set(value);
        };
        // Exact up to 2^53, beyond which nobody reads single bytes.
        set(&self.blocks, numbers.blocks as f64);
        set(&self.bytes, numbers.bytes as f64);
        set(&self.disk_bytes, numbers.disk_bytes as f64);
        set(&self.disk_max_bytes, numbers.disk_max_bytes as f64);
        set(&self.intake_stopped, f64::from(u8::from(numbers.intake_stopped)));
        set(&self.walks, numbers.walks as f64);
        set(&self.peers, numbers.peers as f64);
        set(&self.bytes_in, numbers.bytes_in as f64);
        set(&self.bytes_out, numbers.bytes_out as f64);
        set(&self.offences, numbers.offences as f64);
        set(&self.gateway_blocks, numbers.gateway_blocks as f64);
        set(&self.collected_blocks, numbers.collected_blocks as f64);
        set(&self.collected_bytes, numbers.collected_bytes as f64);
        set(&self.gc_running, f64::from(u8::from(numbers.gc_running)));
        set(&self.gc_progress, numbers.gc_progress);
        set(&self.announce_behind, numbers.announce_behind as f64);
        set(&self.announce_late, numbers.announce_late_seconds);
        set(&self.corrupt, numbers.corrupt as f64);
    }
}
