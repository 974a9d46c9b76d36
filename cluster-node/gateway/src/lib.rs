//! What an embedded node serves over HTTP, over small traits, so that a test needs no network of peers.
//!
//! | router | for whom |
//! |---|---|
//! | [`gateway`] | anybody: verifiable content by CID, as blocks and CAR files |
//! | [`rpc`] | another Pinfleet, an operator, or the IPFS proxy: the part of Kubo's RPC that Pinfleet drives nodes by, and what clients of Kubo use day by day |
//!
//! [`cluster_http::serve_router`] runs either of them on a listener, with the bounds that HTTP itself does not have; [`limits`]
//! says which.
//!
//! # Bounds
//!
//! | what | bound | why |
//! |---|---|---|
//! | gateway requests at once | [`GatewayOptions::requests_max`] | each reads ahead; beyond it the answer is 429 with `Retry-After` |
//! | blocks that a request reads ahead | [`GatewayOptions::blocks_ahead`] | 8 MiB of the largest blocks each |
//! | RPC calls at once | [`RpcOptions::calls_max`] | pins may take days, and each holds a connection |
//! | a block that is put as JSON | 8 MiB | it is held whole, and some twenty times of it as a value |
//! | parts of one `block/put` or `dag/put` | 65,536 | their CIDs are answered at the end |
//! | entries, pins of an answer that is one object | 100,000 | it is made at the end; streams have no such bound |
//! | links told apart by `refs` | 262,144 | each is remembered |
//! | connections, heads, stalls | [`limits`] | a client that sends or reads nothing holds a connection, and perhaps a request |
//! | names of a path | what fits into a URI | each costs a block to be read |
//!
//! What is sent is never collected: a body is asked for its next part when there is room for it. A client that goes away
//! ends the work that was done for it, pins included.

mod blocks;
pub mod gateway;
pub mod rpc;

use std::time::Duration;

pub use blocks::Blocks;
use cluster_http::Limits;
pub use gateway::GatewayOptions;
pub use rpc::{Inside, Peer, RpcCredential, RpcNode, RpcOptions, Traffic};

/// What a client may take of a listener of either router.
pub fn limits() -> Limits {
    Limits {
        // Each may hold a request that reads ahead, or a pin that takes days.
        connections_max: 512,
        // What is imported may come from a node that is still looking for its blocks.
        body_idle_timeout: Duration::from_secs(60 * 60),
        ..Limits::default()
    }
}
