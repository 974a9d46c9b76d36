//! The node inside a peer beside Kubo: the same work over the same data, in turn, each from an empty folder, both on disk
//! and synced.
//!
//! The peer is a whole cluster of one: what a pin costs includes its way through the control plane. Content comes from
//! Kubo daemons that are in no figure but as company on the same processors.

mod add;
pub(super) mod data;
mod fetch;
mod sides;
mod store;
pub(super) mod work;

use std::time::{Duration, Instant};

pub use self::data::Sizes;
use super::report::Report;
use super::{Options, machine};
use crate::binaries::binary;

/// The groups of measurements, in their order, with what they measure.
pub const GROUPS: [(&str, &str); 6] = [
    (
        "fetch",
        "one large file from one Kubo and from three; memory at rest and while it is fetched",
    ),
    ("serve", "one large file to a Kubo"),
    ("blocks", "many small blocks of one wide DAG"),
    ("chain", "blocks each of which only the one before names"),
    ("add", "one large file; a directory of many small files"),
    (
        "store",
        "a block store of 10 million blocks: opening, looking up, collecting",
    ),
];

/// What is measured is compared with this.
pub const REFERENCE: &str = "Kubo";

/// Measures, telling on stderr how it goes. What was measured before an error is in the report.
pub async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let begun = Instant::now();
    let scratch = tempfile::Builder::new()
        .prefix("pinfleet-bench-")
        .tempdir_in(options.dir.clone().unwrap_or_else(std::env::temp_dir))?;
    // What is missing is built, and that has to be over before anything is measured.
    for program in ["cluster-node", "cluster-ctl", "blocks-bench"] {
        binary(program)?;
    }
    let (folder, sizes) = (scratch.path(), Sizes::of(options.short, options.percent));
    tell("machine", "disk, SHA-256 and loopback");
    report.machine = machine::measure_bytes(folder, options.short)?;
    report.reference_ran = ["fetch", "serve", "blocks", "chain", "add"]
        .iter()
        .any(|group| options.wants(group));
    fetch::measure(options, &sizes, folder, report).await?;
    if options.wants("add") {
        add::measure(options, &sizes, folder, report).await?;
    }
    if options.wants("store") {
        store::measure(&sizes, folder, report).await?;
    }
    report.fsyncs_at_end = machine::fsync_rate(folder, Duration::from_secs(1))?;
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(())
}

fn tell(group: &str, what: &str) {
    super::tell(&format!("embedded: {group}"), what);
}
