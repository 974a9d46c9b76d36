//! The block store of the embedded node: blocks, references, pins, walks and garbage in a RocksDB instance of its own.
//!
//! ```text
//! blocks  multihash                 -> the bytes; from 4 KiB up in blob files
//! meta    multihash                 -> size, codecs under which links are counted, epoch of the last put
//! refs    multihash                 -> how many hold it; changes are merged in, so nothing is read for them
//! pins    CID                       -> mode, name, state, figures, number of its walk
//! walks   walk 'f' place            -> CID, depth          what a pin has yet to look at
//!         walk 'v' codec multihash  -> depth               what it has seen
//! kept    CID                       -> time                until when it is kept for a pin that is to come
//! notes   name                      -> bytes               of the node above; form, run and counters of the store
//! ```
//!
//! # References
//!
//! A block whose links are *counted* gives one reference to each block that it links to, and so does a pin to its root;
//! they come and go in the batch of what gives them. DAGs have no cycles, so a block is garbage exactly when it has none,
//! and when it goes, its own go with it. There is no mark phase, and no lock: one thread makes all changes, in an order.
//!
//! | what | how it holds its blocks |
//! |---|---|
//! | recursive pin | a reference to the root from [`BlockStore::pin_begin`] on; each block that its [`Walk`] visits is counted |
//! | direct pin | a reference of another kind, which keeps the block and not what it links to; its links are not counted |
//! | pin to a depth | as a recursive one; blocks at the limit are not counted |
//! | open add | by epoch: what is put under an [`AddSession`] is not collected before it ends |
//! | add that has ended | [`BlockStore::keep`]: a reference to the root, until a pin of it is complete or its time is over |
//!
//! Links are counted once for each codec in which a block is walked or put. They stay counted as long as anything holds the
//! block, so more may be kept than asked for where pins overlap in unusual ways (a block that one pin holds as raw bytes
//! and another held as a node; a limited pin that was recursive): it goes when the block goes.
//!
//! # A pin
//!
//! ```text
//! pin_begin ─▶ walk ─▶ ┌ advance ─▶ missing ─▶ fetch them ─▶ store ┐ ─▶ finish ─▶ complete
//!                      └◀─────────────────────────────────────────┘
//! ```
//! *Complete* means that every block was seen in the store, under a reference. What is still to be seen is in rows, so a
//! restart goes on where it was, however large the DAG.
//!
//! # Syncs
//!
//! All writes go through one queue to one thread, which takes what waits, writes it as one batch and syncs once. So the
//! more callers there are, the less each pays. What a write was told to have done is on disk.
//!
//! # Bounds
//!
//! | what | bound | of |
//! |---|---|---|
//! | commands that wait | 256 | the writer's queue |
//! | bytes of blocks that wait, and of links about 64 B each | [`StoreOptions::queue_bytes`], 16 MiB | the writer's queue |
//! | bytes of a batch | 8 MiB and one command | the writer |
//! | writes in memory, block cache, open files | [`StoreOptions`] | RocksDB |
//! | rows of a frontier in memory | 4,096, and the children of what was handed in since the last `advance` | a walk |
//! | rows looked at together, and links of them | 256; 8,192 and one block's | a walk |
//! | blocks read together for their links | 8 MiB and one block | a walk |
//! | candidates, and links of them, in a batch | 256; 4,096 and one block's | a collection |
//! | children to follow | 100,000, about 10 MB; beyond that another pass | a collection |
//! | references kept in mind | 1,000,000, about 100 MB | an estimate |
//! | blocks known to have no lost one below them | 500,000, about 60 MB | [`BlockStore::remove_corrupt`] |
//! | names of pins; names and values of notes | 1 KiB; 128 B, 64 KiB | |
//!
//! How many blocks are handed to a walk at once is the caller's choice; they are counted in the queue's bytes.

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
#[cfg(test)]
mod tests;
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
