//! The block store of the embedded node: blocks, references, pins, walks and garbage in a RocksDB instance of its own.

mod check;
mod db;
mod error;
mod gc;
mod key;
mod options;
mod pins;
mod rows;
mod scrub;
mod store;
mod walk;
mod writer;

pub use check::Checked;
pub use error::Error;
pub use gc::{Budget, GcCursor, GcEstimate, GcStep};
pub use options::StoreOptions;
pub use pins::{Mode, PIN_NAME_BYTES_MAX, Pin, Progress, State};
pub use scrub::ScrubStep;
pub use store::{AddSession, BlockStore, NOTE_BYTES_MAX, NOTE_NAME_BYTES_MAX, Usage};
pub use walk::{Next, Step, Walk};
