//! How full the disk may get.

use std::io;
use std::path::Path;

use node_core::Invalid;

/// What may be taken of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskConfig {
    /// Bytes that the block store may take; none when only the file system bounds it.
    pub max_bytes: Option<u64>,
    /// Garbage is collected from this share of [`max_bytes`](Self::max_bytes) on, in percent, 1 to 100.
    pub collect_percent: u8,
    /// Nothing new is taken from this share on, in percent, at least `collect_percent`, at most 100. What is left above
    /// it is for writes that are under way, and for the copies that compaction makes.
    pub stop_percent: u8,
    /// Bytes that stay free on the file system: below, nothing new is taken. A RocksDB whose disk is full can't compact
    /// and so can't even delete; so keep some times the size of its largest files (64 to 256 MiB).
    pub free_bytes_min: u64,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            max_bytes: None,
            collect_percent: 90,
            stop_percent: 97,
            free_bytes_min: 1024 * 1024 * 1024,
        }
    }
}

impl DiskConfig {
    /// Checks the bounds.
    pub fn check(&self) -> Result<(), Invalid> {
        let percent = 1..=100;
        if !percent.contains(&self.collect_percent) {
            let given = self.collect_percent.to_string();
            return Err(Invalid::new("disk.collect_percent", given, "give 1 to 100"));
        }
        if !percent.contains(&self.stop_percent) || self.stop_percent < self.collect_percent {
            let remedy =
                "give at least disk.collect_percent and at most 100, or no garbage is collected before intake stops";
            return Err(Invalid::new("disk.stop_percent", self.stop_percent.to_string(), remedy));
        }
        if self.max_bytes.is_some_and(|max| max < BYTES_MIN) {
            let given = self.max_bytes.unwrap_or_default().to_string();
            return Err(Invalid::new(
                "disk.max_bytes",
                given,
                "give at least 1 MiB, or nothing for no limit",
            ));
        }
        Ok(())
    }

    /// What follows from how full it is.
    pub(crate) fn judge(&self, room: Room) -> Level {
        let over = |percent: u8| {
            let max = self.max_bytes?;
            // In 128 bits: a hundred times the largest number does not fit into 64.
            let mark = u128::from(max) * u128::from(percent) / 100;
            (u128::from(room.used_bytes) >= mark).then_some(max)
        };
        if room.free_bytes < self.free_bytes_min {
            let (free, min) = (room.free_bytes, self.free_bytes_min);
            return Level::Stop(format!(
                "the file system has {free} bytes free and {min} shall stay free (disk.free_bytes_min): free some space \
                 or unpin something"
            ));
        }
        if let Some(max) = over(self.stop_percent) {
            let (used, percent) = (room.used_bytes, self.stop_percent);
            return Level::Stop(format!(
                "the block store takes {used} bytes, {percent} % or more of the {max} that it may (disk.max_bytes): raise \
                 it or unpin something"
            ));
        }
        if over(self.collect_percent).is_some() || room.free_bytes / 2 < self.free_bytes_min {
            return Level::Collect;
        }
        Level::Fine
    }
}

/// Smallest limit that makes sense: RocksDB's own files take some of it.
const BYTES_MIN: u64 = 1024 * 1024;

/// How full it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Bytes that the store takes on the disk.
    pub(crate) used_bytes: u64,
    /// Bytes that the file system has left for us.
    pub(crate) free_bytes: u64,
}

/// What follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Level {
    /// Nothing.
    Fine,
    /// Garbage is to be collected.
    Collect,
    /// And nothing new is taken, for this reason.
    Stop(String),
}

/// Bytes that the file system of a folder has left for a process without privileges.
pub(crate) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_free_space_of_this_disk_is_known() {
        let dir = tempfile::tempdir().expect("folder");
        assert!(free_bytes(dir.path()).expect("known") > 0);
        assert!(free_bytes(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn bad_marks_are_named() {
        let base = DiskConfig::default();
        assert_eq!(base.check(), Ok(()));
        for (config, field) in [
            (
                DiskConfig {
                    collect_percent: 0,
                    ..base
                },
                "disk.collect_percent",
            ),
            (
                DiskConfig {
                    stop_percent: 101,
                    ..base
                },
                "disk.stop_percent",
            ),
            (
                DiskConfig {
                    stop_percent: 89,
                    ..base
                },
                "disk.stop_percent",
            ),
            (
                DiskConfig {
                    max_bytes: Some(7),
                    ..base
                },
                "disk.max_bytes",
            ),
        ] {
            let error = config.check().expect_err(field);
            assert_eq!(error.field, field);
        }
    }

    proptest! {
        #[test]
        fn the_fuller_the_stricter(
            max in proptest::option::of(BYTES_MIN..=u64::MAX),
            (collect, stop) in (1u8..=100).prop_flat_map(|collect| (Just(collect), collect..=100)),
            min: u64,
            room: (u64, u64),
            more: u64,
        ) {
            let config = DiskConfig { max_bytes: max, collect_percent: collect, stop_percent: stop, free_bytes_min: min };
            prop_assert_eq!(config.check(), Ok(()));
            let rank = |level: &Level| match level {
                Level::Fine => 0,
                Level::Collect => 1,
                Level::Stop(_) => 2,
            };
            let now = config.judge(Room { used_bytes: room.0, free_bytes: room.1 });
            let fuller = config.judge(Room {
                used_bytes: room.0.saturating_add(more),
                free_bytes: room.1.saturating_sub(more),
            });
            prop_assert!(rank(&now) <= rank(&fuller));
            let full = config.judge(Room { used_bytes: u64::MAX, free_bytes: 0 });
            prop_assert!(max.is_none() && min == 0 || rank(&full) == 2);
            // Who has no limit and a wide disk is never stopped.
            let wide = config.judge(Room { used_bytes: 0, free_bytes: u64::MAX });
            prop_assert!(rank(&wide) < 2 || min == u64::MAX);
        }
    }
}
