//! `[telemetry]`: logs, metrics and health answers.

use std::net::SocketAddr;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use super::options::{Kind, OptionSpec, SectionSpec};

/// Checked values of the section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// Where metrics and health are answered.
    pub http_listen: SocketAddr,
    /// What is logged.
    pub log_level: String,
    /// How it is logged.
    pub log_format: LogFormat,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For eyes.
    Text,
    /// For collectors: one object a line.
    Json,
}

fn filter(text: &str) -> Result<(), String> {
    let known = |level: &str| level.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    // A single word that is no level would be taken as the name of a crate, and silence everything.
    let words_ok = text
        .split(',')
        .all(|part| part.contains('=') || part.contains('[') || part.contains("::") || known(part.trim()));
    if !text.trim().is_empty() && !text.contains('\0') && words_ok && EnvFilter::try_new(text).is_ok() {
        return Ok(());
    }
    Err(
        "\"error\", \"warn\", \"info\", \"debug\", \"trace\" or \"off\", also by module, such as \
         \"info,cluster_worker=debug\""
            .to_owned(),
    )
}

pub(super) const SECTION: SectionSpec = SectionSpec {
    name: "telemetry",
    repeated: false,
    doc: "Logs, metrics and health answers. Logs go to standard error.",
    options: &[
        OptionSpec {
            key: "http_listen",
            kind: Kind::Listen,
            default: Some(r#""127.0.0.1:9099""#),
            doc: "Where /metrics (OpenMetrics), /livez and /readyz are answered.",
        },
        OptionSpec {
            key: "log_level",
            kind: Kind::Checked(filter),
            default: Some(r#""info,openraft=warn""#),
            doc: "What is logged: a level, or levels by module such as \"info,cluster_worker=debug\". openraft tells of each \
                  step of an election at info.",
        },
        OptionSpec {
            key: "log_format",
            kind: Kind::Choice(&["text", "json"]),
            default: Some(r#""text""#),
            doc: "\"text\" for eyes, \"json\" for collectors (one object a line).",
        },
    ],
};
