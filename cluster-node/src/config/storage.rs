//! `[storage]`: memory for what is kept on disk.

use serde::Deserialize;

use super::options::{Kind, OptionSpec, SectionSpec};
use super::values;

/// Checked values of the section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// Write buffers of the pinset.
    #[serde(deserialize_with = "values::bytes")]
    pub state_memory: u64,
    /// Write buffers of the Raft log.
    #[serde(deserialize_with = "values::bytes")]
    pub log_memory: u64,
    /// Write buffers of the ledger.
    #[serde(deserialize_with = "values::bytes")]
    pub ledger_memory: u64,
    /// Cache of blocks read from the pinset.
    #[serde(deserialize_with = "values::bytes")]
    pub block_cache: u64,
}

const MIB: u64 = 1 << 20;

pub(super) const SECTION: SectionSpec = SectionSpec {
    name: "storage",
    repeated: false,
    doc: "Memory for what is kept on disk. It does not grow with the number of pins; more makes reads and writes of \
          very large pinsets faster.",
    options: &[
        OptionSpec {
            key: "state_memory",
            kind: Kind::Size(8 * MIB, 65_536 * MIB),
            default: Some(r#""48MiB""#),
            doc: "Write buffers of the pinset, all tables together.",
        },
        OptionSpec {
            key: "log_memory",
            kind: Kind::Size(8 * MIB, 65_536 * MIB),
            default: Some(r#""24MiB""#),
            doc: "Write buffers of the Raft log. Besides, the newest 8MiB of entries are kept for followers, and 4MiB \
                  of blocks read from files.",
        },
        OptionSpec {
            key: "ledger_memory",
            kind: Kind::Size(8 * MIB, 65_536 * MIB),
            default: Some(r#""24MiB""#),
            doc: "Write buffers of the record of what the nodes hold, all tables together. Besides, 8MiB of blocks read \
                  from its files are kept.",
        },
        OptionSpec {
            key: "block_cache",
            kind: Kind::Size(4 * MIB, 1_048_576 * MIB),
            default: Some(r#""24MiB""#),
            doc: "Cache of what was read from the pinset.",
        },
    ],
};
