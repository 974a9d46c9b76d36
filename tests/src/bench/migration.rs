//! The pinset of another cluster, taken over by `cluster-ctl import`, beside the same pins in a bulk stream.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::process::Command;

use super::machine::Usage;
use super::pinfleet::{Fresh, bulk, cores, groups, start};
use super::report::{Row, Target, Unit};
use super::{Options, Report, tell};
use crate::binaries::binary;
use crate::cluster::Cluster;
use crate::content;

/// How long an import of any size may take.
const LIMIT: Duration = Duration::from_secs(3_600);

/// A bulk stream into one fresh cluster, an import of as many pins into another.
pub async fn import(options: &Options, scratch: &Path, report: &mut Report) -> anyhow::Result<()> {
    // Of two streams that are compared neither shall have the nodes beside it.
    let options = &Options {
        undriven: true,
        ..options.clone()
    };
    let pins = options.pins;
    tell("import", &format!("bulk add of {pins} pins"));
    let mut cluster = start(options, scratch, "import-bulk").await?;
    let (bulk_rate, _) = bulk(&cluster, &Fresh::default(), pins).await?;
    cluster.stop().await?;
    drop(cluster);

    let list = scratch.join("pins.jsonl");
    write_list(&list, pins)?;
    tell("import", &format!("import of {pins} pins"));
    let mut cluster = start(options, scratch, "import").await?;
    let before = Usage::now(&groups(&cluster));
    let seconds = ctl(&cluster, &list, "--no-verify").await?;
    let share = Usage::now(&groups(&cluster)).since(&before);
    let rate = pins as f64 / seconds;
    report.add(
        Row::new(
            format!("import of a state export of {pins} pins: share of the bulk stream"),
            Unit::Share,
            rate / bulk_rate,
        )
        .detail(format!(
            "{rate:.0}/s in {seconds:.0} s, bulk {bulk_rate:.0}/s; nodes not driven"
        ))
        .target(Target::Value(0.9))
        .limit(share.limit(cores(), "waiting for synced writes")),
    );
    let seconds = ctl(&cluster, &list, "--verify-only").await?;
    report.add(
        Row::new(
            "import: comparing every field with the list",
            Unit::PerSecond,
            pins as f64 / seconds,
        )
        .detail(format!("{seconds:.0} s")),
    );
    cluster.stop().await
}

/// As `ipfs-cluster-service state export` writes it, with the fields that most pins have.
fn write_list(to: &Path, pins: u64) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(to)?);
    for number in 0..pins {
        let line = json!({
            "replication_factor_min": 2, "replication_factor_max": 2, "name": "", "mode": "recursive", "shard_size": 0,
            "user_allocations": null, "expire_at": "0001-01-01T00:00:00Z", "metadata": null, "pin_update": null,
            "origins": [], "cid": content::cid(number).to_string(), "type": "pin", "allocations": [], "max_depth": -1,
            "reference": null, "timestamp": "2026-05-11T10:20:30Z",
        });
        serde_json::to_writer(&mut file, &line)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    Ok(())
}

/// How many seconds `cluster-ctl import` takes.
async fn ctl(cluster: &Cluster, list: &Path, how: &str) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let run = Command::new(binary("cluster-ctl")?)
        .args([
            "--api",
            &cluster.api(),
            "--quiet",
            "import",
            "--from",
            "ipfs-cluster",
            how,
        ])
        .arg(list)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, run)
        .await
        .context("the import took an hour")??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the import ended with {}: {said}",
        output.status
    );
    Ok(begun.elapsed().as_secs_f64())
}
