//! What the suites, the demo and the bench share: whole clusters of real processes, and daemons to drive, real and fake.

pub mod bench;
pub mod binaries;
pub mod car;
pub mod client;
pub mod clients;
pub mod cluster;
pub mod content;
pub mod ctl;
pub mod fake_kubo;
pub mod helia;
pub mod ipfs_cluster;
mod json_lines;
pub mod kubo;
pub mod kubo_clients;
pub mod node;
pub mod npm;
pub mod peer;
pub mod ports;
pub mod python;
pub mod raw_http;
pub mod reference_ctl;
pub mod schemathesis;
pub mod wait;
