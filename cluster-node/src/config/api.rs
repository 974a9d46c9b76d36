//! `[api]`: the gRPC API for clients.

use std::net::SocketAddr;

use serde::Deserialize;

use super::error::Problems;
use super::options::{Kind, OptionSpec, SectionSpec};
use super::values;

/// Checked values of the section.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    /// Where clients connect.
    pub grpc_listen: SocketAddr,
    /// What clients and other peers are told; empty = `grpc_listen`.
    pub grpc_advertise: String,
    /// Whether clients must show a credential, those of the HTTP APIs too.
    pub auth: Auth,
    /// Largest message taken.
    #[serde(deserialize_with = "values::bytes")]
    pub message_bytes_max: u64,
    /// Requests and streams open at the same time, over all connections.
    pub streams_max: u32,
}

/// Whether clients must show a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Whoever reaches the address may do everything.
    None,
    /// A token, or a name with a password.
    Required,
}

pub(super) const SECTION: SectionSpec = SectionSpec {
    name: "api",
    repeated: false,
    doc: "The gRPC API for cluster-ctl and storage services; and, by `auth`, whom the HTTP APIs let in, which are [rest], \
          [proxy] and [pinning].",
    options: &[
        OptionSpec {
            key: "grpc_listen",
            kind: Kind::Listen,
            default: Some(r#""127.0.0.1:9098""#),
            doc: "Where clients connect. Whoever reaches this address may change pins, unless `auth` says otherwise: keep it \
                  on loopback or behind something that authenticates. The connection is not encrypted.",
        },
        OptionSpec {
            key: "grpc_advertise",
            kind: Kind::Reach,
            default: Some(r#""""#),
            doc: "Address that clients are told when they ask for the peers. Empty: the one of `grpc_listen`.",
        },
        OptionSpec {
            key: "auth",
            kind: Kind::Choice(&["none", "required"]),
            default: Some(r#""none""#),
            doc: "Whether clients must show a token, or a name with a password: those of gRPC and those of the HTTP APIs \
                  ([rest], [proxy], [pinning]). Both are made with `cluster-ctl token create` and `cluster-ctl credential \
                  create`, and making some keeps nobody outside: only this option does. The first one is made on a peer's own host, over the socket \
                  `admin.sock` in its folder, which only the owner of the folder can open and which asks for none: \
                  `cluster-ctl --api unix:DIR/admin.sock token create NAME --scope admin`. With \"none\" whoever reaches \
                  an address may do everything; what is shown and wrong is refused all the same. What tells of health \
                  (the service of gRPC, `GET /health` of HTTP) is always open.",
        },
        OptionSpec {
            key: "message_bytes_max",
            kind: Kind::Size(64 << 10, 64 << 20),
            default: Some(r#""4MiB""#),
            doc: "Largest message that is taken; a larger one is refused, nothing is done.",
        },
        OptionSpec {
            key: "streams_max",
            kind: Kind::Int(1, 100_000),
            default: Some("4096"),
            doc: "Requests and streams that are open at the same time, over all connections. Beyond it clients are told \
                  to come again (RESOURCE_EXHAUSTED). Health answers are not counted.",
        },
    ],
};

impl Api {
    pub(super) fn check(&self, _problems: &mut Problems<'_>) {}
}
