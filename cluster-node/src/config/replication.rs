//! `[replication]`: what a new cluster begins with.

use node_core::{REPLICATION_MAX, Replication};
use serde::Deserialize;

use super::error::Problems;
use super::options::{Kind, OptionSpec, SectionSpec};

/// Checked values of the section. Used once, when the first peer makes the cluster.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicationDefaults {
    /// Fewest nodes that must take a pin.
    pub min: i32,
    /// Nodes that shall hold it.
    pub max: i32,
    /// Tags that replicas shall differ in, the most important first.
    pub spread_by: Vec<String>,
}

pub(super) const SECTION: SectionSpec = SectionSpec {
    name: "replication",
    repeated: false,
    doc: "What pins get that ask for nothing else. Read only when the first peer makes the cluster; the cluster keeps \
          it from then on.",
    options: &[
        OptionSpec {
            key: "min",
            kind: Kind::Int(-1, REPLICATION_MAX as i64),
            default: Some("1"),
            doc: "Fewest nodes that must take a pin, or it is refused. -1: every node.",
        },
        OptionSpec {
            key: "max",
            kind: Kind::Int(-1, REPLICATION_MAX as i64),
            default: Some("2"),
            doc: "Nodes that shall hold a pin. -1: every node.",
        },
        OptionSpec {
            key: "spread_by",
            kind: Kind::TextList,
            default: Some("[]"),
            doc: "Tags of nodes that replicas of a pin shall differ in, the most important first, such as \
                  [\"region\", \"zone\"].",
        },
    ],
};

impl ReplicationDefaults {
    /// As the pinset takes it.
    pub fn factors(&self) -> Replication {
        Replication {
            min: self.min,
            max: self.max,
        }
    }

    pub(super) fn check(&self, problems: &mut Problems<'_>) {
        let everywhere = self.min == -1 && self.max == -1;
        let counted = self.min >= 1 && self.max >= self.min;
        if everywhere || counted {
            return;
        }
        let rule = "both -1 for every node, or 1 <= `replication.min` <= `replication.max`";
        let option = if self.min == 0 || (self.min == -1) != (self.max == -1) && self.min == -1 {
            "replication.min"
        } else {
            "replication.max"
        };
        problems.add(option, rule);
    }
}
