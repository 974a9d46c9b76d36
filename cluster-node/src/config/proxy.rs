//! `[proxy]`: the IPFS proxy.

use std::time::Duration;

use http::HeaderName;
use http::uri::PathAndQuery;
use serde::Deserialize;

use super::error::Problems;
use super::http_api::{Allowed, COMMON, Defaults, HttpApi, joined, options};
use super::options::{Kind, OptionSpec, SectionSpec};
use super::values;

/// Checked values of the section. Unknown keys are found by the tables, before.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Proxy {
    /// Where clients connect, and what all HTTP APIs share.
    #[serde(flatten)]
    pub http: HttpApi,
    /// The node that calls are passed on to; empty = the first attached one of this peer, else its embedded one.
    pub node: String,
    /// Whether `pin/add` waits until the content is held.
    pub wait: Allowed,
    /// How long the node may take to begin its answer.
    #[serde(deserialize_with = "values::duration")]
    pub answer_timeout: Duration,
    /// The call of the node whose headers are mirrored.
    pub mirror_path: String,
    /// Which headers.
    pub mirror_headers: Vec<String>,
    /// How long they are taken for true.
    #[serde(deserialize_with = "values::duration")]
    pub mirror_ttl: Duration,
}

fn header_name(text: &str) -> Result<(), String> {
    match HeaderName::try_from(text) {
        Ok(_) => Ok(()),
        Err(_) => Err("a list of names of headers, such as [\"x-served-by\"]".to_owned()),
    }
}

const HOUR_MS: u64 = 3_600_000;

const SHARED: [OptionSpec; COMMON] = options(&Defaults {
    listen: r#"["127.0.0.1:9095"]"#,
    listen_doc: "Where clients of Kubo connect. Empty: nowhere, the proxy is off. Unless `api.auth = \"required\"` whoever \
                 reaches it may do anything, to the IPFS node behind it too, whether or not there are credentials.",
    cors_origins: "[]",
    cors_methods: r#"["POST"]"#,
    cors_headers: r#"["accept", "content-type", "x-requested-with"]"#,
});

const OWN: [OptionSpec; 6] = [
    OptionSpec {
        key: "node",
        kind: Kind::Text,
        default: Some(r#""""#),
        doc: "Name or ID of the storage node that answers what is not the cluster's, one that this peer drives. Empty: its \
              first attached node, or its embedded one if it has no other.",
    },
    OptionSpec {
        key: "wait",
        kind: Kind::Choice(&["yes", "no"]),
        default: Some(r#""no""#),
        doc: "Whether `pin/add` without `progress` answers only when enough nodes hold the content, as Kubo does, and not \
              when the pin is recorded, as IPFS Cluster does.",
    },
    OptionSpec {
        key: "answer_timeout",
        kind: Kind::Duration(1_000, 168 * HOUR_MS),
        default: Some(r#""1h""#),
        doc: "How long the node may take to begin the answer of a call that is passed on, behind the last that was sent of \
              it; more gets 504. What it sends may take any time.",
    },
    OptionSpec {
        key: "mirror_path",
        kind: Kind::Text,
        default: Some(r#""/api/v0/version""#),
        doc: "The call of the node whose headers are mirrored in the cluster's answers.",
    },
    OptionSpec {
        key: "mirror_headers",
        kind: Kind::CheckedList(header_name),
        default: Some("[]"),
        doc: "Which of them, beside Access-Control-Expose-Headers: those that API.HTTPHeaders of Kubo sets.",
    },
    OptionSpec {
        key: "mirror_ttl",
        kind: Kind::Duration(1_000, 168 * HOUR_MS),
        default: Some(r#""5m""#),
        doc: "How long mirrored headers are taken for true before the node is asked anew.",
    },
];

const ALL: [OptionSpec; COMMON + OWN.len()] = joined(&SHARED, &OWN);

pub(super) const SECTION: SectionSpec = SectionSpec {
    name: "proxy",
    repeated: false,
    doc: "The IPFS proxy: Kubo's RPC, whose pins, adds and repository are the cluster's, and whose other calls reach a node.",
    options: &ALL,
};

impl Proxy {
    pub(super) fn check(&self, problems: &mut Problems<'_>) {
        let path = self.mirror_path.parse::<PathAndQuery>();
        if !self.mirror_path.starts_with('/') || path.is_err() {
            problems.add("proxy.mirror_path", "a path, such as \"/api/v0/version\"");
        }
    }
}
