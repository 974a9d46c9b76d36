//! The block store of the embedded node: blocks, references, pins, walks and garbage in a RocksDB instance of its own.

mod api;
mod error;
mod pins;

pub use api::*;
pub use error::Error;
pub use pins::{Mode, PIN_NAME_BYTES_MAX, Pin, Progress, State};
