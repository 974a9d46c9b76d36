//! The file in which a peer that is ready tells where it is reached.

use std::net::SocketAddr;

use node_core::PeerId;

use super::standing;
use crate::config::{Config, DataDir};

/// Where this peer listens.
pub struct Addresses {
    /// For other peers.
    pub peer: SocketAddr,
    /// For clients of the gRPC API.
    pub grpc: SocketAddr,
    /// For clients of the REST API, the first of several; none when it is off.
    pub rest: Option<SocketAddr>,
    /// For clients of Kubo, the first of several; none when it is off.
    pub proxy: Option<SocketAddr>,
    /// For clients of the Pinning Services API, likewise.
    pub pinning: Option<SocketAddr>,
    /// For metrics and health.
    pub http: SocketAddr,
}

/// Writes the file.
pub fn write_run_file(dir: &DataDir, config: &Config, own: PeerId, addresses: &Addresses) -> anyhow::Result<()> {
    let run = serde_json::json!({
        "id": own.to_string(),
        "name": config.peer.name,
        "pid": std::process::id(),
        "grpc": addresses.grpc.to_string(),
        "rest": addresses.rest.map(|address| address.to_string()),
        "proxy": addresses.proxy.map(|address| address.to_string()),
        "pinning": addresses.pinning.map(|address| address.to_string()),
        "peer": addresses.peer.to_string(),
        "http": addresses.http.to_string(),
        "admin": dir.admin_socket().display().to_string(),
        "config": dir.config_file().display().to_string(),
    });
    standing::replace_file(&dir.run_json(), format!("{run:#}\n").as_bytes())
}
