//! `[peer]`: what this peer is called and where other peers reach it.

use std::net::SocketAddr;

use serde::Deserialize;

use super::error::Problems;
use super::options::{Kind, OptionSpec, SectionSpec};

/// Checked values of the section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// For tables; unique in the cluster.
    pub name: String,
    /// Where peers connect.
    pub listen: SocketAddr,
    /// What other peers are told; empty = `listen`, with the port that was really taken.
    pub advertise: Vec<String>,
}

fn name(text: &str) -> Result<(), String> {
    if text.is_empty() || node_core::check_name("peer name", text).is_ok() {
        return Ok(());
    }
    Err(
        "empty (the host's name), or 1 to 63 of a-z A-Z 0-9 - _ ., beginning with a letter or digit, and not `n` and a \
         number"
            .to_owned(),
    )
}

pub(super) const SECTION: SectionSpec = SectionSpec {
    name: "peer",
    repeated: false,
    doc: "This peer, and where other peers reach it. The connections are mutual TLS, bound to peer IDs.",
    options: &[
        OptionSpec {
            key: "name",
            kind: Kind::Checked(name),
            default: Some(r#""""#),
            doc: "Name in tables and messages. A name that another peer of the cluster has is refused. Empty: the name of \
                  the host.",
        },
        OptionSpec {
            key: "listen",
            kind: Kind::Listen,
            default: Some(r#""127.0.0.1:9096""#),
            doc: "Where other peers connect.",
        },
        OptionSpec {
            key: "advertise",
            kind: Kind::ReachList,
            default: Some("[]"),
            doc: "Addresses that other peers are told, the best first. Empty: the one of `listen`, which must then be \
                  one that others can reach.",
        },
    ],
};

/// As many as the cluster keeps of a peer.
const ADVERTISE_MAX: usize = 16;

impl Peer {
    pub(super) fn check(&self, problems: &mut Problems<'_>) {
        if self.advertise.len() > ADVERTISE_MAX {
            problems.add("peer.advertise", "at most 16 addresses");
        }
        if self.listen.ip().is_unspecified() && self.advertise.is_empty() {
            problems.add(
                "peer.advertise",
                "set when `peer.listen` takes all addresses of the host: other peers must be told one of them",
            );
        }
    }
}
