//! The REST API under load: three peers over fake nodes, asked by one and the same program as IPFS Cluster is.

mod add;
mod connection;
mod control;

use super::Options;
use super::report::Report;
use crate::binaries::binary;

/// The groups of measurements, in their order, with what they measure.
pub const GROUPS: [(&str, &str); 4] = [
    ("pins", "POST /pins/CID at 1, 64 and 512 connections"),
    ("status", "GET /pins/CID at 1 and 64 connections"),
    (
        "lists",
        "GET /allocations and GET /pins of a large pinset, and what they take of memory",
    ),
    (
        "add",
        "POST /add of one large file beside adding it to the node directly, embedded and Kubo (needs Kubo)",
    ),
];

/// Measures, telling on stderr how it goes. What was measured before an error is in the report.
pub async fn run(options: &Options, report: &mut Report) -> anyhow::Result<()> {
    report.reference_ran = options.against_ipfs_cluster;
    // What is missing is built, and that has to be over before anything is measured.
    for program in ["cluster-node", "fake-kubo"] {
        binary(program)?;
    }
    super::beside_the_machine(options, report, async |folder, report| {
        if ["pins", "status", "lists"].iter().any(|group| options.wants(group)) {
            control::measure(options, folder, report).await?;
        }
        if options.wants("add") {
            add::measure(options, folder, report).await?;
        }
        Ok(())
    })
    .await
}

fn tell(group: &str, what: &str) {
    super::tell(&format!("rest: {group}"), what);
}
