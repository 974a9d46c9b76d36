//! What the machine itself can do, measured in the same run as everything else.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::binaries::binary;

/// The machine's own limits.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Machine {
    /// Processors.
    pub cores: usize,
    /// `fdatasync` a second after appends of 4 KiB.
    pub fsyncs_per_second: f64,
    /// Rows a second that raw RocksDB takes in batches, without a WAL.
    pub raw_rows_per_second: f64,
    /// The same with a WAL that is synced after each batch of 1,000.
    pub raw_rows_per_second_synced: f64,
}

#[derive(Deserialize)]
struct RocksLimit {
    rows_per_second: f64,
    rows_per_second_synced: f64,
}

/// Measures below `folder`, where the clusters will be.
pub fn measure(folder: &Path, short: bool) -> anyhow::Result<Machine> {
    let time = if short { 1.0 } else { 3.0 };
    let output = Command::new(binary("rocks-limit")?)
        .arg(folder)
        .arg(time.to_string())
        .output()
        .context("cannot run rocks-limit")?;
    ensure!(
        output.status.success(),
        "rocks-limit ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let raw: RocksLimit = serde_json::from_slice(&output.stdout)?;
    Ok(Machine {
        cores: std::thread::available_parallelism()?.get(),
        fsyncs_per_second: fsync_rate(folder, Duration::from_secs_f64(time))?,
        raw_rows_per_second: raw.rows_per_second,
        raw_rows_per_second_synced: raw.rows_per_second_synced,
    })
}

/// How often a second 4 KiB can be appended and synced.
pub fn fsync_rate(folder: &Path, time: Duration) -> anyhow::Result<f64> {
    let path = folder.join("fsync");
    let mut file = File::create(&path)?;
    let page = [0x5a; 4096];
    let (begun, mut count) = (Instant::now(), 0u64);
    while begun.elapsed() < time {
        file.write_all(&page)?;
        file.sync_data()?;
        count += 1;
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(rate)
}

/// Processor time that groups of processes have used, in seconds.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    by_group: BTreeMap<&'static str, f64>,
    at: Option<Instant>,
}

impl Usage {
    /// Looks at these processes; one that is gone counts as zero.
    pub fn now(groups: &[(&'static str, Vec<u32>)]) -> Self {
        let mut usage = Self {
            at: Some(Instant::now()),
            ..Self::default()
        };
        for (group, pids) in groups {
            usage
                .by_group
                .insert(group, pids.iter().filter_map(|pid| cpu_seconds(*pid)).sum());
        }
        usage
    }

    /// In words, what was used since `before`: `1.9 of 2 cores: peers 1.2, nodes 0.4, load 0.3`.
    pub fn since(&self, before: &Self) -> CpuShare {
        let seconds = match (self.at, before.at) {
            (Some(now), Some(then)) => (now - then).as_secs_f64().max(1e-6),
            _ => 1.0,
        };
        let share = |group: &&'static str| {
            let used = self.by_group[group] - before.by_group.get(group).copied().unwrap_or_default();
            (used / seconds).max(0.0)
        };
        CpuShare {
            cores_by_group: self.by_group.keys().map(|group| (*group, share(group))).collect(),
        }
    }
}

/// Cores that were busy for each group of processes, on average.
#[derive(Debug, Clone, Default)]
pub struct CpuShare {
    cores_by_group: BTreeMap<&'static str, f64>,
}

impl CpuShare {
    /// All groups together.
    pub fn total(&self) -> f64 {
        self.cores_by_group.values().sum()
    }

    /// What limits a figure, as far as the processors tell: they are busy, or something is waited for.
    pub fn limit(&self, cores: usize, waited_for: &str) -> String {
        let groups: Vec<_> = self
            .cores_by_group
            .iter()
            .map(|(group, cores)| format!("{group} {cores:.1}"))
            .collect();
        let used = format!("{:.1} of {cores} cores: {}", self.total(), groups.join(", "));
        if self.total() > 0.85 * cores as f64 {
            format!("processors ({used})")
        } else {
            format!("{waited_for} ({used})")
        }
    }
}

/// User and system time of a process. The kernel counts hundredths of a second (`USER_HZ`, fixed at 100 for userspace).
fn cpu_seconds(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; fields 14 and 15 of proc(5) are counted behind it.
    let rest = text.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}
