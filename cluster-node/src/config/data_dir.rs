//! What lies where in a peer's folder.

use std::path::{Path, PathBuf};

/// A peer's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// The folder itself; nothing is touched.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The configuration.
    pub fn config_file(&self) -> PathBuf {
        self.root.join("pinfleet.toml")
    }

    /// The peer's key, mode 0600.
    pub fn identity_key(&self) -> PathBuf {
        self.root.join("identity.key")
    }

    /// The peer's share of the cluster: log, state and ledger.
    pub fn cluster(&self) -> PathBuf {
        self.root.join("cluster")
    }

    /// The embedded IPFS node: its key and its blocks.
    pub fn node(&self) -> PathBuf {
        self.root.join("node")
    }

    /// The token of a peer that is to join, mode 0600; removed once it was used.
    pub fn join_token(&self) -> PathBuf {
        self.root.join("join.token")
    }

    /// The mark of a peer that is to begin a cluster; removed once it has.
    pub fn founds(&self) -> PathBuf {
        self.root.join("begins-cluster")
    }

    /// The socket over which the owner of the folder may do everything; there while the peer runs.
    pub fn admin_socket(&self) -> PathBuf {
        self.root.join("admin.sock")
    }

    /// Addresses and process ID of a running peer, written when it is ready.
    pub fn run_json(&self) -> PathBuf {
        self.root.join("run.json")
    }
}
