//! What is answered, in the fields of IPFS Cluster 1.1.6.
//!
//! Every field is always there unless its type says `skip`: the Go client takes an empty text or `null` for a peer ID as a
//! broken answer, and times that are not set are those of the year 1.

use std::collections::BTreeMap;

use cluster_http::time;
use node_core::{PinMode, Timestamp};
use serde::Serialize;

use super::options::Asked;
use crate::service::{Members, PinView, allocated};

/// The protocol of IPFS Cluster's peers, which clients show.
pub const RPC_PROTOCOL: &str = "/ipfscluster/1.0/rpc";

/// The release of IPFS Cluster whose API this is, and what answers it. What stands behind `+` counts for nothing when
/// versions are compared (semver 2.0.0, 10).
pub const VERSION: &str = concat!("1.1.6+pinfleet.", env!("CARGO_PKG_VERSION"));

/// A pin.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pin {
    /// Fewest members that hold it; -1 for all.
    pub replication_factor_min: i32,
    /// Members that shall hold it; -1 for all.
    pub replication_factor_max: i32,
    pub name: String,
    pub mode: &'static str,
    pub shard_size: u64,
    pub user_allocations: Vec<String>,
    pub expire_at: String,
    pub metadata: BTreeMap<String, String>,
    pub pin_update: Option<String>,
    pub origins: Vec<String>,
    pub cid: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub allocations: Vec<String>,
    /// -1 for all below it, 0 for the one block.
    pub max_depth: i32,
    /// Of sharded content only, which there is none of.
    pub reference: Option<String>,
    pub timestamp: String,
}

impl Pin {
    /// A pin as recorded.
    pub fn of(view: &PinView, members: &Members) -> Self {
        let options = &view.pin.options;
        let id = |node: &node_core::NodeId| members.text_of(*node).map(str::to_owned);
        let allocations = allocated(view.placement.as_ref()).iter().filter_map(id);
        Self {
            replication_factor_min: options.replication.min,
            replication_factor_max: options.replication.max,
            name: options.name.clone(),
            mode: mode(options.mode),
            shard_size: 0,
            user_allocations: options.nodes.iter().filter_map(id).collect(),
            expire_at: time::rfc3339(options.expire_at.unwrap_or(Timestamp::ZERO)),
            metadata: options.metadata.clone(),
            pin_update: options.updated_from.map(|cid| cid.to_string()),
            origins: options.origins.clone(),
            cid: view.pin.key.cid.to_string(),
            kind: "pin",
            allocations: allocations.collect(),
            max_depth: match options.mode {
                PinMode::Recursive => -1,
                PinMode::Direct => 0,
            },
            reference: None,
            timestamp: time::rfc3339(view.pin.created),
        }
    }

    /// The same as the answer to who just asked for it: with what was given and is not stored.
    pub fn answered(mut self, asked: &Asked) -> Self {
        self.user_allocations = asked.user_allocations.iter().map(ToString::to_string).collect();
        self.shard_size = asked.shard_size;
        self
    }
}

/// The word for a mode.
pub fn mode(mode: PinMode) -> &'static str {
    match mode {
        PinMode::Recursive => "recursive",
        PinMode::Direct => "direct",
    }
}

/// A member.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Id {
    pub id: String,
    pub addresses: Vec<String>,
    pub cluster_peers: Vec<String>,
    pub cluster_peers_addresses: Vec<String>,
    pub version: &'static str,
    pub commit: &'static str,
    pub rpc_protocol_version: &'static str,
    pub error: String,
    pub ipfs: IpfsId,
    pub peername: String,
}

/// The IPFS node of a member.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct IpfsId {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub addresses: Vec<String>,
    pub error: String,
}

/// What answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Version {
    pub version: &'static str,
}

/// Who reaches whom.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ConnectGraph {
    pub cluster_id: String,
    pub id_to_peername: BTreeMap<String, String>,
    pub ipfs_links: BTreeMap<String, Vec<String>>,
    pub cluster_links: BTreeMap<String, Vec<String>>,
    pub cluster_trust_links: BTreeMap<String, bool>,
    pub cluster_to_ipfs: BTreeMap<String, String>,
}

/// A number or text that a member tells of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metric {
    pub name: String,
    pub peer: String,
    pub value: String,
    /// Nanoseconds since 1970.
    pub expire: i64,
    pub valid: bool,
    /// Members with more of it are taken first.
    pub weight: i64,
    pub partitionable: bool,
    /// Nanoseconds since 1970.
    pub received_at: i64,
}

/// A metric that ran out, which is how a member that does not answer shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alert {
    #[serde(flatten)]
    pub metric: Metric,
    pub triggered_at: String,
}

/// Bytes of a protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Bandwidth {
    pub total_in: i64,
    pub total_out: i64,
    /// Bytes a second.
    pub rate_in: f64,
    /// Bytes a second.
    pub rate_out: f64,
}

/// What came of collecting garbage.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GlobalRepoGc {
    pub peer_map: BTreeMap<String, RepoGc>,
}

/// What came of it at one member.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RepoGc {
    pub peer: String,
    pub peername: String,
    /// What was deleted, as far as the node names it; embedded nodes only count.
    pub keys: Vec<IpfsRepoGc>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// One thing that was deleted, or could not be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IpfsRepoGc {
    pub key: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// A step of an add.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct AddedOutput {
    pub name: String,
    /// None while a file is under way.
    pub cid: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub size: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allocations: Vec<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A bearer token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Token {
    pub token: String,
}
