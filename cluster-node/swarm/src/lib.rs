//! The embedded node in the network: libp2p with Bitswap, DHT, relay and hole punching.

mod blocks;
mod config;
mod error;
mod fetch;
mod report;
mod swarm;

pub use blocks::{Blocks, from_wire, to_wire};
pub use cid::Cid;
pub use cluster_bitswap::{ClientConfig, Refusal, ServerConfig, Served, SessionReport};
pub use config::{ConnectionLimits, DhtMode, Dns, SwarmConfig, SwarmKey};
pub use error::{Closed, ConnectError, DhtError, StartError, StoreError};
pub use fetch::{Candidate, FETCH_WANTS_MAX, Fetch, FetchControl, FetchEvent, FetchReport, UNREAD_BYTES_MAX};
pub use libp2p::PeerId;
pub use libp2p::identity::Keypair;
pub use multiaddr::Multiaddr;
pub use report::{NatStatus, PeerInfo, Report};
pub use swarm::Swarm;

/// Calls of the block store that run at a time.
pub const STORE_CALLS_MAX: usize = 8;
