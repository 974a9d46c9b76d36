//! What an embedded node serves over HTTP, over small traits, so that a test needs no network of peers.
//!
//! | router | for whom |
//! |---|---|
//! | [`gateway`] | anybody: verifiable content by CID, as blocks and CAR files |
//! | [`rpc`] | another Pinfleet, or an operator: the part of Kubo's RPC that Pinfleet drives nodes by |
//!
//! [`serve`] runs either of them on a listener, with the bounds that HTTP itself does not have.
//!
//! # Bounds
//!
//! | what | bound | why |
//! |---|---|---|
//! | gateway requests at once | [`GatewayOptions::requests_max`] | each reads ahead; beyond it the answer is 429 with `Retry-After` |
//! | blocks that a request reads ahead | [`GatewayOptions::blocks_ahead`] | 8 MiB of the largest blocks each |
//! | RPC calls at once | [`RpcOptions::calls_max`] | pins may take days, and each holds a connection |
//! | connections | [`ServeOptions::connections_max`] | further ones wait to be accepted |
//! | time for the head of a request | [`ServeOptions::head_timeout`] | a client that sends nothing holds a connection |
//! | time in which nothing can be sent | [`ServeOptions::stall_timeout`] | a client that reads nothing holds a request |
//! | names of a path | what fits into a URI | each costs a block to be read |
//!
//! What is sent is never collected: a body is asked for its next part when there is room for it. A client that goes away
//! ends the work that was done for it, pins included.

mod blocks;
pub mod gateway;
pub mod rpc;
mod serve;

pub use blocks::Blocks;
pub use gateway::GatewayOptions;
pub use rpc::{RpcCredential, RpcNode, RpcOptions};
pub use serve::{ServeOptions, serve};
