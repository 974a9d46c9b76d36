//! Intake stops before the disk is full.

use std::path::PathBuf;
use std::time::Duration;

use cluster_blocks::BlockStore;
use node_core::ErrorClass;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::disk::{self, DiskConfig, Level, Room};
use crate::error::Failure;

/// How long a look at the disk counts. What is written meanwhile is added to it.
const FRESH: Duration = Duration::from_secs(1);

/// Says whether more may be written.
pub(crate) struct Gate {
    config: DiskConfig,
    dir: PathBuf,
    store: BlockStore,
    seen: Mutex<Option<Seen>>,
    /// Somebody was turned away: the collector may be able to help.
    pub(crate) turned_away: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    room: Room,
    /// Bytes taken in since.
    taken: u64,
}

impl Gate {
    pub(crate) fn new(config: DiskConfig, dir: PathBuf, store: BlockStore) -> Self {
        Self {
            config,
            dir,
            store,
            seen: Mutex::new(None),
            turned_away: Notify::new(),
        }
    }

    /// Looks at the disk, whatever is known of it.
    pub(crate) async fn look(&self) -> Result<Room, Failure> {
        let (store, dir) = (self.store.clone(), self.dir.clone());
        let looked = tokio::task::spawn_blocking(move || -> Result<Room, Failure> {
            let used_bytes = store.disk_bytes()?;
            let free_bytes = disk::free_bytes(&dir).map_err(|error| {
                let words = format!("the free space of {} is not known: {error}", dir.display());
                Failure::new(ErrorClass::Temporary, words)
            })?;
            Ok(Room { used_bytes, free_bytes })
        });
        let room = looked.await??;
        *self.seen.lock() = Some(Seen {
            at: Instant::now(),
            room,
            taken: 0,
        });
        Ok(room)
    }

    /// How full it is, as of a moment ago.
    pub(crate) async fn level(&self) -> Result<Level, Failure> {
        let seen = *self.seen.lock();
        let room = match seen {
            Some(seen) if seen.at.elapsed() < FRESH => Room {
                used_bytes: seen.room.used_bytes.saturating_add(seen.taken),
                free_bytes: seen.room.free_bytes.saturating_sub(seen.taken),
            },
            _ => self.look().await?,
        };
        Ok(self.config.judge(room))
    }

    /// Fails when nothing more may be taken in.
    pub(crate) async fn enter(&self) -> Result<(), Failure> {
        match self.level().await? {
            Level::Stop(reason) => {
                self.turned_away.notify_one();
                Err(Failure::new(ErrorClass::DiskFull, reason))
            }
            Level::Fine | Level::Collect => Ok(()),
        }
    }

    /// So many bytes were taken in.
    pub(crate) fn took(&self, bytes: u64) {
        if let Some(seen) = self.seen.lock().as_mut() {
            seen.taken = seen.taken.saturating_add(bytes);
        }
    }

    /// What it may take at all, as far as is known: its limit, or what the file system leaves it.
    pub(crate) fn max_bytes(&self, room: Room) -> u64 {
        let disk = room
            .used_bytes
            .saturating_add(room.free_bytes.saturating_sub(self.config.free_bytes_min));
        self.config.max_bytes.map_or(disk, |max| max.min(disk))
    }
}
