//! How Raft is run.

use std::time::Duration;

/// Settings of the Raft layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsensusConfig {
    /// How often the leader tells its followers that it is there.
    pub heartbeat: Duration,
    /// A follower without a heartbeat waits for `election_max`, during which it also grants no vote to others, and then
    /// for a random time from `election_min` to `election_max` until it stands for election. With the defaults a dead
    /// leader is replaced after 600 to 750 ms.
    pub election_min: Duration,
    /// See `election_min`. A leader that hears of no majority for so long takes no more writes.
    pub election_max: Duration,
    /// An append that a follower has not answered by then is sent again. Far above the heartbeat: an append that is cut
    /// off in the middle of a burst is sent for nothing.
    pub append_timeout: Duration,
    /// A snapshot that makes no progress for so long is given up. However long it takes as a whole, it may.
    pub snapshot_stall: Duration,
    /// How long the receiver of a whole snapshot may take to install it.
    pub snapshot_install_timeout: Duration,
    /// Most bytes of entries in one append.
    pub append_bytes_max: usize,
    /// Most entries in one append.
    pub append_entries_max: u64,
    /// A snapshot is taken after so many entries.
    pub snapshot_entries: u64,
    /// A snapshot is taken after so many bytes of entries.
    pub snapshot_bytes: u64,
    /// So many entries before a snapshot are kept in the log: a peer that was away for less of them needs no snapshot.
    pub log_entries_kept: u64,
    /// Of these, so many bytes are kept: entries differ in size by a factor of a hundred thousand. Entries that no
    /// snapshot holds are kept whatever they weigh.
    pub log_bytes_kept: u64,
    /// Entries are removed from the log so many at a time, or a tenth of those that are kept, if that is less; or when
    /// they weigh too much.
    pub purge_batch: u64,
    /// A follower that is behind by more entries is called lagging.
    pub lagging_entries: u64,
    /// Bytes of proposals without an answer. Further ones wait.
    pub inflight_bytes_max: usize,
    /// Proposals without an answer. Further ones wait.
    pub inflight_entries_max: usize,
    /// A proposal that waits longer for its turn is refused as overload.
    pub propose_wait: Duration,
    /// A proposal without an answer by then has an unknown outcome.
    pub propose_timeout: Duration,
    /// How long a change of members is tried while another is under way.
    pub member_timeout: Duration,
    /// This peer has run under its number before. An empty log, or one that nobody ever ran on, is then one that was
    /// lost: the peer has forgotten how it voted, and does not start.
    pub started: bool,
    /// Threads of the runtime of its own that Raft runs on, so that nothing else delays a heartbeat; 0 = run on the
    /// caller's runtime, for simulation.
    pub runtime_threads: usize,
}

impl Default for ConsensusConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(75),
            election_min: Duration::from_millis(225),
            election_max: Duration::from_millis(375),
            append_timeout: Duration::from_secs(5),
            snapshot_stall: Duration::from_secs(15),
            snapshot_install_timeout: Duration::from_secs(300),
            append_bytes_max: 1 << 20,
            append_entries_max: 1024,
            snapshot_entries: 200_000,
            snapshot_bytes: 1 << 30,
            log_entries_kept: 500_000,
            log_bytes_kept: 4 << 30,
            purge_batch: 10_000,
            lagging_entries: 5_000,
            inflight_bytes_max: 16 << 20,
            inflight_entries_max: 64,
            propose_wait: Duration::from_secs(5),
            propose_timeout: Duration::from_secs(30),
            member_timeout: Duration::from_secs(30),
            started: false,
            runtime_threads: 1,
        }
    }
}

/// A setting that can't work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option} = {value}: {allowed}")]
pub struct ConfigError {
    /// Name of the field.
    pub option: &'static str,
    /// What it is set to.
    pub value: String,
    /// What would do.
    pub allowed: String,
}

impl ConsensusConfig {
    /// Whether the settings can work together.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let time = |option, value: Duration, min: Duration, why: &str| {
            check(value >= min, option, format!("{value:?}"), || {
                format!("at least {min:?}{why}")
            })
        };
        let count =
            |option, value: u64, min: u64| check(value >= min, option, value.to_string(), || format!("at least {min}"));
        let millisecond = Duration::from_millis(1);
        time("heartbeat", self.heartbeat, Duration::from_millis(10), "")?;
        time(
            "election_min",
            self.election_min,
            2 * self.heartbeat,
            ": twice the heartbeat",
        )?;
        time(
            "election_max",
            self.election_max,
            self.election_min + 10 * millisecond,
            ": 10 ms above election_min",
        )?;
        time("append_timeout", self.append_timeout, Duration::from_secs(1), "")?;
        time("snapshot_stall", self.snapshot_stall, Duration::from_secs(1), "")?;
        time(
            "snapshot_install_timeout",
            self.snapshot_install_timeout,
            Duration::from_secs(1),
            "",
        )?;
        time("propose_wait", self.propose_wait, millisecond, "")?;
        time("propose_timeout", self.propose_timeout, millisecond, "")?;
        time("member_timeout", self.member_timeout, millisecond, "")?;
        count("append_bytes_max", self.append_bytes_max as u64, 4096)?;
        check(
            self.append_bytes_max <= 32 << 20,
            "append_bytes_max",
            self.append_bytes_max.to_string(),
            || "at most 32 MiB: half of what a peer takes in one message".into(),
        )?;
        count("append_entries_max", self.append_entries_max, 1)?;
        count("snapshot_entries", self.snapshot_entries, 1)?;
        count("snapshot_bytes", self.snapshot_bytes, 1)?;
        count("log_bytes_kept", self.log_bytes_kept, 1 << 20)?;
        count("purge_batch", self.purge_batch, 1)?;
        count("lagging_entries", self.lagging_entries, 1)?;
        count("inflight_bytes_max", self.inflight_bytes_max as u64, 1 << 20)?;
        count("inflight_entries_max", self.inflight_entries_max as u64, 1)?;
        Ok(())
    }

    pub(crate) fn openraft(&self) -> openraft::Config {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        openraft::Config {
            cluster_name: "pinfleet".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            enable_pre_vote: Some(true),
            max_payload_entries: self.append_entries_max,
            replication_lag_threshold: self.lagging_entries,
            // Taken by our own count of entries and bytes, and the log is purged by it.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            purge_batch_size: 1,
            // A restarted leader may be behind what it once answered: it has to win an election first.
            enable_leader_restore: Some(false),
            allow_log_reversion: Some(false),
            ..openraft::Config::default()
        }
    }
}

fn check(ok: bool, option: &'static str, value: String, allowed: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if ok {
        Ok(())
    } else {
        Err(ConfigError {
            option,
            value,
            allowed: allowed(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_for_both() {
        let config = ConsensusConfig::default();
        config.validate().expect("valid");
        config.openraft().validate().expect("valid for openraft");
    }

    #[test]
    fn a_wrong_value_is_named() {
        let config = ConsensusConfig {
            election_max: Duration::from_millis(226),
            ..ConsensusConfig::default()
        };
        let error = config.validate().expect_err("too close to election_min");
        assert_eq!(error.option, "election_max");
        assert!(error.to_string().contains("226ms"), "{error}");
    }
}
