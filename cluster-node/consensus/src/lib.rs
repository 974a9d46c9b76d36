//! Consensus: the peers agree on one log of commands, and each applies it to its state.
//!
//! A thin layer over openraft, and the only crate that names it. What is here: the log and the state as openraft wants
//! them, over [`cluster_storage`]; Raft's requests between peers over gRPC; snapshots sent file by file; and
//! [`Consensus`], the handle that the rest of a peer works with.
//!
//! What a command means is decided by `node_core::pinset`. This crate carries bytes, calls
//! [`node_core::pinset::apply`], and writes what comes of it in one batch with the position in the log.

mod channel;
mod codec;
mod config;
mod consensus;
mod errors;
mod handles;
mod lease;
mod log_store;
mod log_weight;
mod members;
mod network;
mod runtime;
mod server;
mod state_machine;
mod status;
#[cfg(test)]
mod suite;
mod types;
mod upkeep;

pub use channel::{ChannelProvider, ConnectError, Purpose};
pub use config::{ConfigError, ConsensusConfig};
pub use consensus::{Consensus, Proposal, Proposed};
pub use errors::{Behind, Leader, MemberError, OpenError, ProposeError, ReadError, TransferError};
pub use runtime::{OwnRuntime, RuntimeOptions};
pub use server::RaftService;
pub use state_machine::{Applied, Changes, SnapshotCounts};
pub use status::{Follower, LeaderView, RaftStatus, Role};
pub use types::RaftPeer;
