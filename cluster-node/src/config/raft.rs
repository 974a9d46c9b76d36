//! `[raft]`: how peers agree.

use std::time::Duration;

use serde::Deserialize;

use super::error::Problems;
use super::options::{Kind, OptionSpec, SectionSpec};
use super::values;

/// Checked values of the section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raft {
    /// Between heartbeats of the leader.
    #[serde(deserialize_with = "values::duration")]
    pub heartbeat: Duration,
    /// See `election_timeout_max`.
    #[serde(deserialize_with = "values::duration")]
    pub election_timeout_min: Duration,
    /// A peer stands for election after `election_timeout_max` plus a random time between the two, in silence.
    #[serde(deserialize_with = "values::duration")]
    pub election_timeout_max: Duration,
    /// Entries after which a snapshot is taken.
    pub snapshot_log_entries: u64,
    /// Entries kept behind a snapshot.
    pub snapshot_keep_log_entries: u64,
    /// Bytes of entries kept behind a snapshot.
    #[serde(deserialize_with = "values::bytes")]
    pub snapshot_keep_log_bytes: u64,
    /// Peers that vote.
    pub voters_max: u32,
    /// Silence after which a voter is replaced by a learner.
    #[serde(deserialize_with = "values::duration")]
    pub voter_lost_after: Duration,
    /// Operations in one entry.
    pub batch_operations_max: u32,
    /// Bytes in one entry.
    #[serde(deserialize_with = "values::bytes")]
    pub batch_bytes_max: u64,
    /// How long an entry waits for company.
    #[serde(deserialize_with = "values::duration")]
    pub batch_linger: Duration,
    /// Entries that are proposed before the first of them is answered.
    pub batches_in_flight: u32,
    /// Bytes of operations that wait.
    #[serde(deserialize_with = "values::bytes")]
    pub queue_bytes_max: u64,
}

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

pub(super) const SECTION: SectionSpec = SectionSpec {
    name: "raft",
    repeated: false,
    doc: "How peers agree. The same on all peers, unless an option says otherwise.",
    options: &[
        OptionSpec {
            key: "heartbeat",
            kind: Kind::Duration(10, MINUTE_MS),
            default: Some(r#""75ms""#),
            doc: "How often the leader says that it lives.",
        },
        OptionSpec {
            key: "election_timeout_min",
            kind: Kind::Duration(20, 10 * MINUTE_MS),
            default: Some(r#""225ms""#),
            doc: "Least of the random time before an election. At least twice `heartbeat`.",
        },
        OptionSpec {
            key: "election_timeout_max",
            kind: Kind::Duration(30, 10 * MINUTE_MS),
            default: Some(r#""375ms""#),
            doc: "A peer that hears no leader for this long waits a random time between `election_timeout_min` and \
                  this, and then stands for election. Raise all three on slow or far networks.",
        },
        OptionSpec {
            key: "snapshot_log_entries",
            kind: Kind::Int(100, 1_000_000_000),
            default: Some("100000"),
            doc: "Log entries after which a snapshot is taken, which costs little: files are linked, not copied.",
        },
        OptionSpec {
            key: "snapshot_keep_log_entries",
            kind: Kind::Int(0, 1_000_000_000),
            default: Some("500000"),
            doc: "Log entries kept behind a snapshot, so that a peer that was away for a while catches up from the log.",
        },
        OptionSpec {
            key: "snapshot_keep_log_bytes",
            kind: Kind::Size(64 << 20, 1 << 40),
            default: Some(r#""4GiB""#),
            doc: "Of these no more than so many bytes on disk.",
        },
        OptionSpec {
            key: "voters_max",
            kind: Kind::Int(1, 9),
            default: Some("5"),
            doc: "Peers that vote; further ones only replicate, and step in when a voter is lost.",
        },
        OptionSpec {
            key: "voter_lost_after",
            kind: Kind::Duration(1_000, 30 * DAY_MS),
            default: Some(r#""5m""#),
            doc: "Silence of a voter after which a peer that only replicates takes its vote.",
        },
        OptionSpec {
            key: "batch_operations_max",
            kind: Kind::Int(1, 65_536),
            default: Some("1024"),
            doc: "Most operations in one log entry.",
        },
        OptionSpec {
            key: "batch_bytes_max",
            kind: Kind::Size(4 << 10, 16 << 20),
            default: Some(r#""512KiB""#),
            doc: "Most bytes in one log entry.",
        },
        OptionSpec {
            key: "batch_linger",
            kind: Kind::Duration(0, 1_000),
            default: Some(r#""2ms""#),
            doc: "How long operations wait for others to share their log entry, at most.",
        },
        OptionSpec {
            key: "batches_in_flight",
            kind: Kind::Int(1, 64),
            default: Some("2"),
            doc: "Log entries under way at the same time. What comes meanwhile shares the next one, so few make large \
                  batches; raise it where peers are far apart.",
        },
        OptionSpec {
            key: "queue_bytes_max",
            kind: Kind::Size(1 << 20, 4 << 30),
            default: Some(r#""64MiB""#),
            doc: "Bytes of operations that wait to be proposed. Beyond it clients are told to come again.",
        },
    ],
};

impl Raft {
    pub(super) fn check(&self, problems: &mut Problems<'_>) {
        if self.election_timeout_min < self.heartbeat * 2 {
            problems.add(
                "raft.election_timeout_min",
                "at least twice `raft.heartbeat`, or one late heartbeat is an election",
            );
        }
        if self.election_timeout_max < self.election_timeout_min + Duration::from_millis(10) {
            problems.add(
                "raft.election_timeout_max",
                "at least 10ms above `raft.election_timeout_min`, or peers stand for election at the same moment",
            );
        }
        if self.queue_bytes_max < self.batch_bytes_max {
            problems.add("raft.queue_bytes_max", "at least `raft.batch_bytes_max`");
        }
    }
}
