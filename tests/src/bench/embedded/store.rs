//! A block store of many blocks, by a program of its own: it links with RocksDB, which nothing here does.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde::Deserialize;
use tokio::process::Command;

use super::data::Sizes;
use super::tell;
use crate::bench::report::{Report, Row, Target, Unit};
use crate::binaries::binary;

/// Of its answer what is shown here.
#[derive(Debug, Deserialize)]
struct Measured {
    blocks: u64,
    raw_puts_per_second: f64,
    puts_per_second: f64,
    open_ms: f64,
    opened_rss_bytes: f64,
    rss_bytes: f64,
    lookups_per_second: f64,
    gc_rows_per_second: f64,
    gc_longest_step_ms: f64,
    gc_deletes_per_second: f64,
    gc_delete_longest_step_ms: f64,
    slowest_put_ms: f64,
}

async fn run(folder: &Path, blocks: u64) -> anyhow::Result<Measured> {
    let output = Command::new(binary("blocks-bench")?)
        .arg(folder)
        .arg(blocks.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run blocks-bench")?;
    ensure!(
        output.status.success(),
        "blocks-bench ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// At this size, and at a tenth of it, so that what grows is seen.
pub async fn measure(sizes: &Sizes, folder: &Path, report: &mut Report) -> anyhow::Result<()> {
    let blocks = sizes.stored;
    tell("store", &format!("{} blocks, then {blocks}, of 64 bytes", blocks / 10));
    let small = run(folder, blocks / 10).await?;
    let large = run(folder, blocks).await?;
    let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
    let at = format!("at {} blocks", large.blocks);
    report.add(
        Row::new(format!("opening the store {at}"), Unit::Milliseconds, large.open_ms)
            .detail(format!("{:.1} ms at {} blocks", small.open_ms, small.blocks))
            .target(Target::Value(2_000.0))
            .limit("reading the names of files and the end of the log"),
    );
    report.add(
        Row::new(format!("look-ups {at}"), Unit::PerSecond, large.lookups_per_second)
            .detail(format!(
                "one thread, 16 at a time, every other one absent; {:.0}/s at {} blocks",
                small.lookups_per_second, small.blocks
            ))
            .limit("one core"),
    );
    report.add(
        Row::new(
            format!("longest step of a collection {at}"),
            Unit::Milliseconds,
            large.gc_longest_step_ms.max(large.gc_delete_longest_step_ms),
        )
        .detail(format!(
            "{:.1} ms where nothing goes ({:.0} rows/s), {:.1} ms where all goes ({:.0} blocks/s)",
            large.gc_longest_step_ms,
            large.gc_rows_per_second,
            large.gc_delete_longest_step_ms,
            large.gc_deletes_per_second
        ))
        .target(Target::Value(100.0))
        .limit("the time that a step is given"),
    );
    report.add(
        Row::new(
            "slowest write beside the collection",
            Unit::Milliseconds,
            large.slowest_put_ms,
        )
        .detail("single synced puts, one after the other")
        .target(Target::Value(100.0))
        .limit("the step under way, the disk's sync, and compaction"),
    );
    report.add(
        Row::new(
            format!("memory of the store {at}"),
            Unit::MebiBytes,
            mebibytes(large.rss_bytes),
        )
        .detail(format!(
            "{:.0} MiB when opened; at {} blocks {:.0} and {:.0} MiB",
            mebibytes(large.opened_rss_bytes),
            small.blocks,
            mebibytes(small.rss_bytes),
            mebibytes(small.opened_rss_bytes)
        ))
        .limit("buffers and caches of its options"),
    );
    report.add(
        Row::new("puts into the store", Unit::PerSecond, large.puts_per_second)
            .detail(format!(
                "{:.2} of raw RocksDB with the same bytes, {:.0}/s",
                large.puts_per_second / large.raw_puts_per_second,
                large.raw_puts_per_second
            ))
            .limit("one core, and syncs"),
    );
    Ok(())
}
