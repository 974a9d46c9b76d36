//! The embedded node in the network: libp2p with Bitswap, DHT, relay and hole punching.
//!
//! [`Swarm::start`] starts a node beside a store of blocks ([`Blocks`]). It serves what is in there to whoever asks, and
//! fetches what it is told to ([`Swarm::fetch`]); what to fetch, and where it is kept, is not its business.
//!
//! # The parts
//!
//! | part | what it does |
//! |---|---|
//! | the driver, a task | owns the Bitswap engine ([`cluster_bitswap::Engine`]), asks the store, feeds the fetches |
//! | the host, a task | owns libp2p's swarm: dials, DHT, relays, who is shunned |
//! | a task for each connection | libp2p's own: decrypts, and splits what comes into streams |
//! | a task for each stream of Bitswap | reads messages and has them hashed, or writes them |
//! | blocking threads | hash blocks, read the store |
//!
//! A block passes by neither the host nor any task of its own.
//!
//! # Bounds
//!
//! Numbers are those of the default [`SwarmConfig`]; the engine's own bounds stand in `cluster_bitswap`.
//!
//! | what | for one peer, connection or fetch | in all |
//! |---|---|---|
//! | connections | 4 of a peer | 512, of which others opened 384; 64 each in their handshake; above 256 peers the idle ones go |
//! | streams | 256 of a connection, 64 of them negotiating; a Yamux stream that is not read holds 256 KiB, QUIC 16 MiB of a connection | |
//! | streams of Bitswap that are read | 32 of a connection, 32 KiB each | |
//! | messages of more than 16 KiB that arrive, are hashed or wait for the engine | 8 of a peer, 4 MiB each | 64, of which 32 of peers that are asked for nothing |
//! | messages that wait for the engine | | 64 |
//! | a message that arrives | 20 s without a byte, 120 s in all; of more than 16 KiB, when other peers wait, 5 s and 1 s for each 16 KiB | |
//! | a message that is written | 20 s without progress | as the engine's bytes written |
//! | calls that wait for driver and host | | 256 each |
//! | calls of the store | | [`STORE_CALLS_MAX`] |
//! | wants of a fetch | [`FETCH_WANTS_MAX`], of which the engine knows 64 to 1,024 | |
//! | blocks that a fetch has not taken | [`UNREAD_BYTES_MAX`] and up to 64 blocks more | as many as fetches |
//! | peers that are dialled | 16 addresses each | 32, and 1,024 that wait |
//! | queries of the DHT | 64 providers, 60 s | 64 |
//! | provider records of others | 20 of a key, 8 addresses each | 65,536 |
//! | own provider records, to be told to who asks | | 65,536 |
//! | shunned peers | | 4,096 |
//!
//! # Who breaks the rules
//!
//! What a peer sent and was not asked for, messages that are none, that stall or are too long, and floods of streams are
//! logged with the peer's ID. After some of them the peer is hung up on and shunned for a while
//! ([`SwarmConfig::shun`]). A message that is cut off is none of these, because that is how a peer gives one up; nor is a
//! slow one, which only gives way to others. A peer that wants too much is served as far as its share goes, and that is
//! all.

mod bitswap;
mod blocks;
mod config;
mod driver;
mod error;
mod fetch;
mod hasher;
mod host;
mod records;
mod report;
mod swarm;
mod transport;

pub use blocks::{Blocks, from_wire, to_wire};
pub use cid::Cid;
pub use cluster_bitswap::{ClientConfig, Refusal, Served, ServerConfig, SessionReport};
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
