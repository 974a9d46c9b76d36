//! Content, as far as it needs no network, no disk and no clock: everything here takes bytes and gives bytes.
//!
//! | module | for |
//! |---|---|
//! | [`Block`], [`HashFunction`] | bytes that are proven to be those which their CID names |
//! | [`links`], [`codec`] | what a block of dag-pb, dag-cbor, dag-json or raw links to |
//! | [`unixfs`] | files and directories: made with the CIDs that Kubo makes, and read, listed and walked by path |
//! | [`car`] | CAR files, version 1 and 2: read piece by piece, written |
//! | [`value`] | single blocks as values of the IPLD data model, from one codec into another |
//!
//! Who needs blocks says which; the caller fetches them, from a store, a peer or a gateway, in any order and as many at
//! once as it likes. So the same code serves a simulated node, a real one and a command line, and every test of it is
//! a plain function.
//!
//! What arrives is taken to be hostile. Nothing here panics on any input, recursion never follows the input, and each
//! buffer has a bound that is a constant beside its reason. All errors are permanent: the same bytes fail the same way
//! tomorrow, on every node.

pub mod car;
pub mod codec;
pub mod unixfs;
pub mod value;

mod block;
mod error;
mod hash;
mod varint;

pub use block::{BLOCK_BYTES_MAX, Block};
pub use codec::links;
pub use error::DagError;
pub use hash::{DIGEST_BYTES_MIN, HashFunction, UnknownHashFunction};
