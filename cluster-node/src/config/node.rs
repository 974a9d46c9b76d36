//! `[[node]]`: storage nodes that this peer brings into the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;

use super::error::Problems;
use super::http_api::Allowed;
use super::options::{Kind, OptionSpec, SectionSpec};
use super::worker;

/// Checked values of one section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Unique in the cluster.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// Its RPC; empty for the embedded node.
    pub api: String,
    /// Failure domains and other facts.
    pub tags: BTreeMap<String, String>,
    /// Share relative to other nodes.
    pub weight: f64,
    /// Credentials of its RPC; empty = none.
    pub auth_file: PathBuf,
    /// Instead of the worker's.
    pub pins_per_second: Option<f64>,
    /// Instead of the worker's.
    pub concurrency_max: Option<u32>,
    /// Instead of the worker's.
    pub adopt_pins: Option<Allowed>,
}

/// What a storage node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// A Kubo daemon, driven over its RPC.
    Kubo,
    /// The node inside this peer.
    Embedded,
}

impl NodeKind {
    /// The word in the file and in the pinset.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kubo => "kubo",
            Self::Embedded => "embedded",
        }
    }
}

fn name(text: &str) -> Result<(), String> {
    node_core::check_name("node name", text).map_err(|_| {
        "1 to 63 of a-z A-Z 0-9 - _ ., beginning with a letter or digit, and not `n` and a number".to_owned()
    })
}

fn api(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    text.parse::<cluster_kubo::Address>().map(drop).map_err(|_| {
        "the address of Kubo's RPC: \"http://127.0.0.1:5001\", \"/ip4/127.0.0.1/tcp/5001\" or \"unix:///path\""
            .to_owned()
    })
}

pub(super) const SECTION: SectionSpec = SectionSpec {
    name: "node",
    repeated: true,
    doc: "A storage node that this peer drives; one section for each. It is entered into the cluster when the peer \
          starts. More can be added at run time with `cluster-ctl node add`.",
    options: &[
        OptionSpec {
            key: "name",
            kind: Kind::Checked(name),
            default: None,
            doc: "Name, unique in the cluster. Required.",
        },
        OptionSpec {
            key: "kind",
            kind: Kind::Choice(&["kubo", "embedded"]),
            default: Some(r#""kubo""#),
            doc: "What it is: a Kubo daemon, or the node inside this peer, which [embedded] is about.",
        },
        OptionSpec {
            key: "api",
            kind: Kind::Checked(api),
            default: Some(r#""""#),
            doc: "Kubo's RPC as this peer reaches it: URL, multiaddr or unix socket. Required for Kubo; the embedded node \
                  has none.",
        },
        OptionSpec {
            key: "tags",
            kind: Kind::Map,
            default: Some("{}"),
            doc: "Failure domains and other facts that placement looks at, such as { region = \"eu\", zone = \"a\" }.",
        },
        OptionSpec {
            key: "weight",
            kind: Kind::Float(0.0, 1_000.0, false),
            default: Some("1.0"),
            doc: "Its share of pins, relative to other nodes.",
        },
        OptionSpec {
            key: "auth_file",
            kind: Kind::Text,
            default: Some(r#""""#),
            doc: "File with the credentials of its RPC, `bearer:TOKEN` or `basic:USER:PASSWORD`, readable by its owner \
                  only. Empty: none.",
        },
        OptionSpec {
            key: "pins_per_second",
            kind: worker::PINS_PER_SECOND,
            default: None,
            doc: "Instead of the one of [worker].",
        },
        OptionSpec {
            key: "concurrency_max",
            kind: worker::CONCURRENCY,
            default: None,
            doc: "Instead of the one of [worker].",
        },
        OptionSpec {
            key: "adopt_pins",
            kind: Kind::Choice(&["yes", "no"]),
            default: None,
            doc: "Instead of the one of [worker].",
        },
    ],
};

/// What each section must say.
pub(super) const REQUIRED: &[&str] = &["name"];

/// An example for the commented default file: values of options that have no default.
pub(super) const EXAMPLES: &[(&str, &str)] = &[
    ("name", r#""kubo-1""#),
    ("api", r#""http://127.0.0.1:5001""#),
    ("pins_per_second", "100.0"),
    ("concurrency_max", "32"),
    ("adopt_pins", r#""yes""#),
];

pub(super) fn check(nodes: &[Node], problems: &mut Problems<'_>) {
    let mut names = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    let mut embedded = false;
    for (at, node) in nodes.iter().enumerate() {
        if !names.insert(&node.name) {
            problems.add(&format!("node.{at}.name"), "different for each node");
        }
        let api = format!("node.{at}.api");
        match node.kind {
            NodeKind::Embedded if !node.api.is_empty() => {
                problems.add(&api, "left out: the embedded node is inside this peer");
            }
            NodeKind::Embedded if embedded => {
                problems.add(
                    &format!("node.{at}.kind"),
                    "\"kubo\": a peer has one embedded node at most",
                );
            }
            NodeKind::Embedded => {
                embedded = true;
                continue;
            }
            NodeKind::Kubo if node.api.is_empty() => problems.add(
                &api,
                "the address of Kubo's RPC, such as \"http://127.0.0.1:5001\", or `kind` must be \"embedded\"",
            ),
            NodeKind::Kubo => {}
        }
        if !addresses.insert(&node.api) {
            problems.add(
                &api,
                "different for each node: two names for one daemon would count one copy twice",
            );
        }
    }
}
