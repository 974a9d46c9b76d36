//! Fuzz targets of the decoders that bytes of strangers reach.
//!
//! | target | what it drives | the first byte of an input |
//! |---|---|---|
//! | `bitswap` | frames of a stream in pieces, messages, the naming of blocks | odd: one message; even: a stream |
//! | `car` | the CAR reader, in pieces | see [`mod@car`] |
//! | `links` | links of dag-pb, dag-cbor and dag-json | which of the three |
//! | `unixfs` | nodes, file and directory readers, paths | odd: a recipe of a DAG; even: one dag-pb block |
//!
//! Each is a plain function of bytes. It must not panic, and it panics itself when one of the following does not hold:
//! a bound that the crate documents; memory, which is measured; the same result for the same bytes in other pieces or
//! another order; what was decoded, encoded again and decoded again, is the same; another decoder (prost, serde_json)
//! that is built otherwise agrees.
//!
//! `cargo xtask fuzz` runs them under libFuzzer, with coverage. `cargo test` replays `corpus/`, where the seeds are,
//! which [`mod@seeds`] makes, and every input that once found something.

mod bitswap;
pub mod car;
mod input;
mod links;
mod memory;
mod protobuf;
pub mod seeds;
mod unixfs;

/// What is done with one input; a fault is a panic.
pub type Target = fn(&[u8]);

/// All targets: name and function.
pub const TARGETS: &[(&str, Target)] = &[
    ("bitswap", bitswap::target),
    ("car", car::target),
    ("links", links::target),
    ("unixfs", unixfs::target),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.map(|(_, target)| *target)
}
