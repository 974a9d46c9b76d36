//! What the machine itself can do, measured in the same run as everything else.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::binaries::binary;
use crate::content;

/// The machine's own limits.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Machine {
    /// Processors.
    pub cores: usize,
    /// `fdatasync` a second after appends of 4 KiB.
    pub fsyncs_per_second: f64,
    /// Rows a second that raw RocksDB takes in batches, without a WAL, and with one that is synced after each batch of
    /// 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_rows: Option<RawRows>,
    /// What bounds the work on content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
}

/// Rows a second.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RawRows {
    /// Without a WAL.
    pub unsynced_per_second: f64,
    /// With a WAL that is synced after each batch of 1,000.
    pub synced_per_second: f64,
}

/// How many MiB a second of content can be moved at all.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bytes {
    /// One file written from its begin to its end, with `fdatasync` after every 8 MiB.
    pub disk: f64,
    /// SHA-256 by one core.
    pub sha256: f64,
    /// One TCP connection over loopback, which takes a core at each end.
    pub loopback: f64,
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
        raw_rows: Some(RawRows {
            unsynced_per_second: raw.rows_per_second,
            synced_per_second: raw.rows_per_second_synced,
        }),
        bytes: None,
    })
}

/// Measures what bounds the work on content.
pub fn measure_bytes(folder: &Path, short: bool) -> anyhow::Result<Machine> {
    let time = Duration::from_secs(if short { 1 } else { 3 });
    Ok(Machine {
        cores: std::thread::available_parallelism()?.get(),
        fsyncs_per_second: fsync_rate(folder, time)?,
        raw_rows: None,
        bytes: Some(Bytes {
            disk: disk_rate(folder, time)?,
            sha256: sha256_rate(time),
            loopback: loopback_rate(time)?,
        }),
    })
}

const MEBIBYTE: usize = 1 << 20;

fn disk_rate(folder: &Path, time: Duration) -> anyhow::Result<f64> {
    let path = folder.join("disk");
    let mut file = File::create(&path)?;
    // What cannot be compressed, whatever the disk is made of.
    let piece = content::fresh_bytes(8 * MEBIBYTE);
    let (begun, mut count) = (Instant::now(), 0u64);
    while begun.elapsed() < time {
        file.write_all(&piece)?;
        file.sync_data()?;
        count += 8;
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(rate)
}

fn sha256_rate(time: Duration) -> f64 {
    let piece = content::fresh_bytes(MEBIBYTE);
    let (begun, mut count) = (Instant::now(), 0u64);
    while begun.elapsed() < time {
        std::hint::black_box(content::sha256(std::hint::black_box(&piece)));
        count += 1;
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

fn loopback_rate(time: Duration) -> anyhow::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _) = listener.accept()?;
    let begun = Instant::now();
    let sending = std::thread::spawn(move || -> io::Result<()> {
        let piece = vec![0x5a; MEBIBYTE];
        while begun.elapsed() < time {
            sender.write_all(&piece)?;
        }
        Ok(())
    });
    let (mut buffer, mut bytes) = (vec![0; MEBIBYTE], 0u64);
    loop {
        match receiver.read(&mut buffer)? {
            0 => break,
            count => bytes += count as u64,
        }
    }
    let rate = bytes as f64 / MEBIBYTE as f64 / begun.elapsed().as_secs_f64();
    sending
        .join()
        .map_err(|_| anyhow::anyhow!("the thread that sends panicked"))??;
    Ok(rate)
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

    /// With what programs took that this one has run and waited for.
    pub fn with_ended_children(mut self, group: &'static str) -> Self {
        let seconds = times(std::process::id()).map_or(0.0, |times| times.ended_children);
        self.by_group.insert(group, seconds);
        self
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

    /// `node 1.1, sources 0.6`; who did next to nothing is left out.
    pub fn words(&self) -> String {
        let busy = self.cores_by_group.iter().filter(|(_, cores)| **cores >= 0.05);
        let words: Vec<_> = busy.map(|(group, cores)| format!("{group} {cores:.1}")).collect();
        words.join(", ")
    }

    /// What limits a figure, as far as the processors tell: they are busy, or something is waited for.
    pub fn limit(&self, cores: usize, waited_for: &str) -> String {
        let used = format!("{:.1} of {cores} cores: {}", self.total(), self.words());
        if self.total() > 0.85 * cores as f64 {
            format!("processors ({used})")
        } else {
            format!("{waited_for} ({used})")
        }
    }
}

/// Resident memory of a process, in MiB; none when it is gone.
pub fn resident_mebibytes(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

fn cpu_seconds(pid: u32) -> Option<f64> {
    times(pid).map(|times| times.own)
}

/// User and system time in seconds.
struct Times {
    own: f64,
    ended_children: f64,
}

/// The kernel counts hundredths of a second (`USER_HZ`, fixed at 100 for userspace).
fn times(pid: u32) -> Option<Times> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces; fields 14 to 17 of proc(5) are counted behind it.
    let rest = text.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    let (user, system, children_user, children_system) = (next()?, next()?, next()?, next()?);
    Some(Times {
        own: (user + system) / 100.0,
        ended_children: (children_user + children_system) / 100.0,
    })
}
