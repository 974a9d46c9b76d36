//! Getting blocks from outside: peers, gateways, and whoever they are found by.

mod car;
mod gather;
mod network;
mod plan;
mod search;

pub(crate) use gather::{Gather, GatherError, Got, WANTS_MAX};
pub use network::Fetched;
pub(crate) use network::{Network, candidate};
pub(crate) use search::providers;
