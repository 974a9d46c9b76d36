//! `[shutdown]`: how long a clean stop may take.

use std::time::Duration;

use serde::Deserialize;

use super::options::{Kind, OptionSpec, SectionSpec};
use super::values;

/// Checked values of the section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// After which the process ends, done or not.
    #[serde(deserialize_with = "values::duration")]
    pub deadline: Duration,
}

pub(super) const SECTION: SectionSpec = SectionSpec {
    name: "shutdown",
    repeated: false,
    doc: "What happens on SIGTERM: new requests are refused and watches end, open calls end, leadership is handed over, \
          nodes' work is parked, everything is flushed.",
    options: &[OptionSpec {
        key: "deadline",
        kind: Kind::Duration(100, 600_000),
        default: Some(r#""10s""#),
        doc: "After this the process ends, done or not. Nothing that was acknowledged is lost either way. Each of the \
              steps gets a part of it, so that a client or a daemon that hangs leaves time for the others.",
    }],
};
