//! The embedded IPFS node: fetches what it is to pin, holds it, serves it, and announces it.
//!
//! It is a storage node like an attached daemon, behind the same trait ([`cluster_ipfs::IpfsNode`]), and joins three
//! parts: the block store (`cluster-blocks`), the network (`cluster-swarm`) and content (`cluster-content`).
//!
//! ```text
//!                       IpfsNode                      Sink, Source
//!                          │                               │
//!              ┌───────────▼───────────┐        ┌──────────▼─────────┐
//!              │ walk: a pin's blocks, │        │ content: adding,   │
//!              │ durable frontier      │        │ reading            │
//!              └───┬───────────────┬───┘        └───┬────────────┬───┘
//!                  │ what is       │ what is        │            │
//!                  │ there         │ missing        │            │
//!           ┌──────▼──────┐   ┌────▼────────────────▼──┐         │
//!           │ block store │   │ gather: peers, search, │         │
//!           │             │   │ gateways, side by side │         │
//!           └──▲───────▲──┘   └────────────────────────┘         │
//!              │       └─────────────────────────────────────────┘
//!   gc, scrub, announce, disk watermarks, fellows: loops of their own, in steps
//! ```
//!
//! # Bounds
//!
//! | what | bound | why |
//! |---|---|---|
//! | blocks of a pin in flight | [`FetchConfig::blocks_in_flight`], at most [`BLOCKS_IN_FLIGHT_MAX`] | each is up to 2 MiB; the number of pins at a time is its caller's |
//! | blocks of a pin that nobody has, and that are waited for | 1,024 | only their names take memory |
//! | blocks of a CAR that are not wanted yet | 16 MiB of a pin | the file and the walk run in the same order |
//! | requests at one gateway | [`GatewayConfig::requests`], at most [`REQUESTS_MAX`] | and a block is read into memory |
//! | gateways, routers | [`GATEWAYS_MAX`], [`ROUTERS_MAX`] | |
//! | answer of a router | 1 MiB, 64 KiB a line, 200 records, 16 addresses each | services send at most 100 records |
//! | searches of a pin | one, 32 candidates | each is a dial |
//! | blocks that readers of one [`NodeSource`] wait for | 64 | |
//! | fellows | [`FELLOWS_MAX`] addresses | the size of a cluster |
//! | new pins waiting to be announced | 1,024 | the rest are looked for by when they were completed |
//! | a step of garbage collection | 4,096 keys, 64 MiB, 25 ms | puts wait for it |
//! | a step of scrubbing | 64 blocks, 4 MiB, 100 ms | |
//!
//! # What it trusts
//!
//! Nobody. Every block is checked against its CID before it is stored, wherever it came from; who says to have something
//! has to bring it; what a router or gateway says is a hint.

mod announce;
mod breaker;
mod config;
mod content;
mod disk;
mod error;
mod fellows;
mod fetch;
mod gate;
mod gc;
mod http;
mod inner;
mod keep;
mod key;
mod node;
mod report;
mod scrub;
mod session;
mod walk;

pub use announce::{AnnounceConfig, AnnounceReport, CONCURRENT_MAX, Strategy};
pub use cluster_blocks::{GcEstimate, Mode, Pin, State, StoreOptions, Usage};
pub use cluster_swarm::{
    DhtMode, Dns, Keypair, Multiaddr, NatStatus, PeerId, PeerInfo, Report as SwarmReport, SwarmConfig, SwarmKey,
};
pub use config::{BLOCKS_IN_FLIGHT_MAX, EmbeddedConfig, FetchConfig, GcConfig, ScrubConfig};
pub use content::{Adding, NodeSource};
pub use disk::DiskConfig;
pub use error::StartError;
pub use fellows::{FELLOWS_MAX, FellowReport};
pub use fetch::Fetched;
pub use gc::GcReport;
pub use http::{
    GATEWAYS_MAX, GatewayConfig, GatewayReport, Provider, REQUESTS_MAX, ROUTERS_MAX, RouterReport, Routers,
    RoutingConfig, RoutingError,
};
pub use keep::Keeper;
pub use key::{KeyError, load_or_create as load_or_create_key};
pub use node::EmbeddedNode;
pub use report::EmbeddedReport;
pub use scrub::ScrubReport;
pub use walk::WalkReport;

use node_core::Timestamp;

use crate::error::Failure;

/// Now, by the wall clock: for records and schedules that outlive the process.
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_millis(since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

/// Runs a call of the store where it may block.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, cluster_blocks::Error> + Send + 'static,
) -> Result<T, Failure> {
    Ok(tokio::task::spawn_blocking(call).await??)
}
