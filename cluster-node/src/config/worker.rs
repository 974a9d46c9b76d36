//! `[worker]`: how storage nodes are driven.

use std::time::Duration;

use serde::Deserialize;

use super::error::Problems;
use super::http_api::Allowed;
use super::options::{Kind, OptionSpec, SectionSpec};
use super::values;

/// Checked values of the section. Limits are per node.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    /// Pins begun per second; 0 = no limit.
    pub pins_per_second: f64,
    /// Pins that may begin at once after a quiet time.
    pub pins_burst: u32,
    /// Most pins at the same time.
    pub concurrency_max: u32,
    /// Pins at the same time, to begin with.
    pub concurrency_start: u32,
    /// Silence after which a pin is taken as stalled.
    #[serde(deserialize_with = "values::duration")]
    pub stall_timeout: Duration,
    /// How long a pin may have been failing before it is given up; zero = never.
    #[serde(deserialize_with = "values::duration")]
    pub give_up_after: Duration,
    /// Attempts after which it is given up; 0 = never.
    pub give_up_attempts: u32,
    /// First wait between attempts.
    #[serde(deserialize_with = "values::duration")]
    pub backoff_base: Duration,
    /// Longest wait between attempts.
    #[serde(deserialize_with = "values::duration")]
    pub backoff_max: Duration,
    /// Whether pins that nodes had already become the cluster's.
    pub adopt_pins: Allowed,
    /// Pins looked at per minute; 0 = none.
    pub audit_per_minute: u32,
    /// How often the leader is told about the nodes.
    #[serde(deserialize_with = "values::duration")]
    pub report_interval: Duration,
}

const HOUR_MS: u64 = 3_600_000;
/// As long as it is written: the year of `humantime` has 365.25 days.
const YEAR_MS: u64 = 24 * HOUR_MS / 4 * 1_461;

/// Limit of `pins_per_second`, here and for single nodes.
pub(super) const PINS_PER_SECOND: Kind = Kind::Float(0.0, 1_000_000.0, true);
/// Limit of `concurrency_max`, here and for single nodes.
pub(super) const CONCURRENCY: Kind = Kind::Int(1, 4_096);

pub(super) const SECTION: SectionSpec = SectionSpec {
    name: "worker",
    repeated: false,
    doc: "How this peer drives its storage nodes. All limits are per node.",
    options: &[
        OptionSpec {
            key: "pins_per_second",
            kind: PINS_PER_SECOND,
            default: Some("0.0"),
            doc: "Pins that are begun per second. 0: no limit.",
        },
        OptionSpec {
            key: "pins_burst",
            kind: Kind::Int(1, 1_000_000),
            default: Some("64"),
            doc: "Pins that may begin at once after a quiet time, where `pins_per_second` is set.",
        },
        OptionSpec {
            key: "concurrency_max",
            kind: CONCURRENCY,
            default: Some("64"),
            doc: "Most pins at the same time. The number in use follows what the node answers.",
        },
        OptionSpec {
            key: "concurrency_start",
            kind: CONCURRENCY,
            default: Some("8"),
            doc: "Pins at the same time to begin with.",
        },
        OptionSpec {
            key: "stall_timeout",
            kind: Kind::Duration(100, 24 * HOUR_MS),
            default: Some(r#""2m""#),
            doc: "Time without a new block after which a pin is stopped and tried again later. A pin that makes \
                  progress may take as long as it needs.",
        },
        OptionSpec {
            key: "give_up_after",
            kind: Kind::Duration(0, 10 * YEAR_MS),
            default: Some(r#""7d""#),
            doc: "Time since its first failure after which a pin is given up, until `recover`. Neither waiting for its \
                  turn nor a node that is away counts. 0: never.",
        },
        OptionSpec {
            key: "give_up_attempts",
            kind: Kind::Int(0, 1_000_000),
            default: Some("100"),
            doc: "Failed attempts after which a pin is given up, until `recover`. With the waits below it is the time \
                  above that counts. 0: no limit.",
        },
        OptionSpec {
            key: "backoff_base",
            kind: Kind::Duration(1, HOUR_MS),
            default: Some(r#""10s""#),
            doc: "Wait before the second attempt. It grows by half from attempt to attempt, and 50 to 100 % of it are \
                  waited, at random. By the kind of failure it is multiplied: 0.5 when the node does not answer or asks \
                  for less, 3 when nobody was found who has the content or nothing moved any more, 6 when the disk is \
                  full or the credentials are refused, 1 for all else.",
        },
        OptionSpec {
            key: "backoff_max",
            kind: Kind::Duration(1, 30 * 24 * HOUR_MS),
            default: Some(r#""6h""#),
            doc: "Longest wait between attempts, whatever the kind of failure.",
        },
        OptionSpec {
            key: "adopt_pins",
            kind: Kind::Choice(&["yes", "no"]),
            default: Some(r#""no""#),
            doc: "Whether a pin that a node had when the cluster first wanted its CID becomes the cluster's, and is \
                  removed when the cluster lets go of the CID. For daemons that another cluster filled; what was pinned \
                  by hand is left alone without it.",
        },
        OptionSpec {
            key: "audit_per_minute",
            kind: Kind::Int(0, 6_000),
            default: Some("6"),
            doc: "Pins looked at per minute, whether the daemon still holds them; what it does not is pinned anew and \
                  logged. 0: none.",
        },
        OptionSpec {
            key: "report_interval",
            // A peer counts as silent after five seconds: two reports may be lost before that.
            kind: Kind::Duration(50, 2_000),
            default: Some(r#""1s""#),
            doc: "How often the leader is told how the nodes are; it takes a peer for lost that says nothing for 5s.",
        },
    ],
};

impl Worker {
    pub(super) fn check(&self, problems: &mut Problems<'_>) {
        if self.concurrency_start > self.concurrency_max {
            problems.add("worker.concurrency_start", "at most `worker.concurrency_max`");
        }
        if self.backoff_max < self.backoff_base {
            problems.add("worker.backoff_max", "at least `worker.backoff_base`");
        }
    }
}
