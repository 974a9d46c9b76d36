//! A log engine in memory that forgets what was not synced, for simulation and tests.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::engine::{LogEngine, LogHead, LogOp};

/// Clones share one disk, so a restarted peer finds what was synced.
#[derive(Clone, Default)]
pub struct MemoryLogEngine {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Default)]
struct Disk {
    written: Content,
    /// What a crash leaves.
    durable: Content,
    /// Reported by the next sync.
    fault: Option<String>,
}

#[derive(Clone, Default)]
struct Content {
    entries: BTreeMap<u64, Bytes>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
    owner: Option<u64>,
}

impl MemoryLogEngine {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// The power goes out: what was not synced is gone.
    pub fn crash(&self) {
        let mut disk = self.disk.lock();
        disk.written = disk.durable.clone();
    }

    /// The next sync fails with this message, once.
    pub fn fail_next_sync(&self, message: &str) {
        self.disk.lock().fault = Some(message.to_owned());
    }
}

impl LogEngine for MemoryLogEngine {
    fn load(&self) -> io::Result<LogHead> {
        let disk = self.disk.lock();
        let content = &disk.written;
        Ok(LogHead {
            vote: content.vote.clone(),
            committed: content.committed.clone(),
            purged: content.purged.clone(),
            last: content
                .entries
                .last_key_value()
                .map(|(index, value)| (*index, value.clone())),
            owner: content.owner,
            bytes: content.entries.values().map(|value| value.len() as u64).sum(),
        })
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Bytes>> {
        let disk = self.disk.lock();
        let mut values = Vec::new();
        let mut bytes = 0;
        let rows = if start < end {
            Some(disk.written.entries.range(start..end))
        } else {
            None
        };
        for ((index, value), expected) in rows.into_iter().flatten().zip(start..) {
            if *index != expected || (bytes > 0 && bytes + value.len() > bytes_max) {
                break;
            }
            bytes += value.len();
            values.push(value.clone());
        }
        Ok(values)
    }

    fn write(&self, ops: Vec<LogOp>, sync: bool) -> io::Result<()> {
        let mut disk = self.disk.lock();
        for op in ops {
            disk.written.apply(op);
        }
        if sync {
            if let Some(fault) = disk.fault.take() {
                return Err(io::Error::other(fault));
            }
            disk.durable = disk.written.clone();
        }
        Ok(())
    }
}

impl Content {
    fn apply(&mut self, op: LogOp) {
        match op {
            LogOp::Put { index, value } => {
                self.entries.insert(index, value);
            }
            LogOp::Truncate { from } => {
                self.entries.split_off(&from);
            }
            LogOp::Purge { upto, marker } => {
                self.entries = self.entries.split_off(&(upto + 1));
                self.purged = Some((upto, marker));
            }
            LogOp::Vote(vote) => self.vote = Some(vote),
            LogOp::Committed(committed) => self.committed = Some(committed),
            LogOp::Owner(raft_id) => self.owner = Some(raft_id),
        }
    }
}
