//! The numbers: what a cluster does, beside what the machine could do and, when asked, what IPFS Cluster does over the
//! same fake nodes in the same run.
//!
//! [`embedded`] measures something else: the node inside a peer beside Kubo; and [`pinning`] the pages of the Pinning Services
//! API. [`rest`] asks the same as the rest does, over the REST API, by the same program on both sides. The rest is about the
//! control plane:
//! three peers on loopback, two replicas. Storage nodes are fakes that answer at once, each a process of its own, so
//! that the control plane is what is measured; one line drives a real Kubo. An add counts when it is acknowledged.

pub mod embedded;
mod load;
mod machine;
mod migration;
mod pinfleet;
pub mod pinning;
mod reference;
mod report;
pub mod rest;
mod rows;
mod storage_node;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use report::{Report, Row};

/// What to measure, and for how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// Small sizes, for development: minutes become seconds, and the figures are worth less.
    pub short: bool,
    /// Measure IPFS Cluster too.
    pub against_ipfs_cluster: bool,
    /// Only the groups whose names begin with one of these; empty: all.
    pub only: Vec<String>,
    /// Pins of the large pinset; the memory is measured at twice as many too.
    pub pins: u64,
    /// Pins that IPFS Cluster gets; it takes no bulk, so they cost time.
    pub reference_pins: u64,
    /// How long each rate is measured.
    pub time: Duration,
    /// Where clusters keep their data while they are measured; none: the folder for temporary files.
    pub dir: Option<PathBuf>,
    /// Nodes are not driven.
    pub undriven: bool,
    /// Percent of the usual sizes of what is measured beside Kubo.
    pub percent: u64,
    /// How often each work is measured beside Kubo, in turn.
    pub rounds: usize,
    /// Kubo as it comes, which syncs no blocks.
    pub kubo_unsynced: bool,
    /// Options of all peers that are not the defaults.
    pub set: Vec<(String, String)>,
}

impl Options {
    fn wants(&self, group: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| group.starts_with(name.as_str()))
    }
}

/// The groups of measurements, in their order, with what they measure.
pub const GROUPS: [(&str, &str); 5] = [
    (
        "small",
        "adds with a small pinset; status of one; the gap when the leader is killed",
    ),
    ("large", "bulk add, lists, adds, memory and restart with a large pinset"),
    ("node", "pins driven to a node that answers at once"),
    ("kubo", "pins driven to one real Kubo, beside direct calls (needs Kubo)"),
    ("import", "a pinset of IPFS Cluster taken over, beside a bulk stream"),
];

/// What is measured is compared with this.
pub const REFERENCE: &str = "IPFS Cluster";

/// Measures, telling on stderr how it goes. What was measured before an error is in the report.
pub async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    beside_the_machine(options, report, async |folder, report| {
        let reference = if options.against_ipfs_cluster {
            Some(reference::measure(options, folder).await?)
        } else {
            None
        };
        report.reference_ran = reference.is_some();
        let reference = reference.unwrap_or_default();
        if options.wants("small") {
            pinfleet::small(options, folder, &reference, report).await?;
        }
        if options.wants("large") {
            pinfleet::large(options, folder, &reference, report).await?;
        }
        if options.wants("node") && !options.undriven {
            storage_node::at_once(options, folder, report).await?;
        }
        if options.wants("kubo") && !options.undriven {
            storage_node::kubo(options, folder, report).await?;
        }
        if options.wants("import") {
            migration::import(options, folder, report).await?;
        }
        Ok(())
    })
    .await
}

/// Measures in a folder that is removed afterwards, between two looks at the machine: on a shared one the limit itself moves,
/// and the figures lie between the two.
async fn beside_the_machine(
    options: &Options,
    report: &mut Report,
    measure: impl AsyncFnOnce(&Path, &mut Report) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    report.pins = Some(options.pins);
    let scratch = tempfile::Builder::new()
        .prefix("pinfleet-bench-")
        .tempdir_in(options.dir.clone().unwrap_or_else(std::env::temp_dir))?;
    tell("machine", "fsync rate and raw RocksDB");
    report.machine = machine::measure(scratch.path(), options.short)?;
    measure(scratch.path(), report).await?;
    report.fsyncs_at_end = machine::fsync_rate(scratch.path(), Duration::from_secs(1))?;
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(())
}

fn tell(group: &str, what: &str) {
    eprintln!("bench: {group}: {what}");
}
