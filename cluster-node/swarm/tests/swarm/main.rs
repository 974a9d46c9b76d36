//! Nodes on loopback, with each other and with peers that do not keep the rules.

mod dht;
mod fetching;
mod hostile;
mod limits;
mod private;
mod serving;
mod support;
