//! Content in and out, over any store of blocks.
//!
//! | to | take |
//! |---|---|
//! | add files, directories and symlinks | [`Adder`]: entries and their bytes in, blocks into a [`Sink`] |
//! | take in a CAR file, version 1 or 2 | [`CarImporter`], or [`import_car`] for a stream of bytes |
//! | follow a path, read, list, walk | [`Content`], over a [`Source`] |
//! | get something as `ipfs get` does | [`Content::tar`] |
//! | give out a CAR file | [`Content::car`] |
//! | know which names are safe on a disk | [`names`] |
//!
//! What content *is* lies in `cluster-dag`, which does no input and output. Here is what it takes to have many blocks
//! under way at once: blocks are asked of a [`Source`] before they are needed, and given to a [`Sink`] in batches while
//! the next ones are made. A reader that is not polled fetches nothing, and dropping a future or stream cancels all of
//! its work. No runtime is needed; where there is tokio's, the blocks of very large directories are made beside it.
//!
//! # Bounds
//!
//! | what | bound | why |
//! |---|---|---|
//! | blocks that a reader asks for ahead | [`AHEAD_DEFAULT`], up to [`AHEAD_MAX`] | enough to hide the way to a peer; of the largest blocks 64 MiB, up to 128 |
//! | a batch for a sink | [`BATCH_BLOCKS_MAX`] blocks, [`BATCH_BYTES_MAX`] bytes and a block | one synced write is worth it, and other work of the store does not wait for it |
//! | batches under way | [`BATCHES_MAX`] | hashing goes on while the disk syncs |
//! | bytes hashed in one go | [`STEP_BYTES_MAX`] | other tasks of the runtime wait for it |
//! | roots of an add | [`ROOTS_MAX`] | they are reported at the end |
//! | length of a path | [`names::PATH_BYTES_MAX`] | and so the number of open directories |
//! | entries of an open directory | `cluster_dag::unixfs::DIRECTORY_ENTRIES_MAX` | its shape depends on the last one |
//! | links that a walk has not followed yet | [`FRONTIER_MAX`] | a hostile DAG makes a walk hold no more than 50 MiB |
//! | blocks that a walk knows again | [`SEEN_MAX`] | 70 MiB; beyond it a block may come twice |
//! | root blocks of the directories that a tar is inside of | [`OPEN_DIRECTORIES_BYTES_MAX`] | a chain of wide directories would fill the memory |

mod batch;
mod car;
mod error;
pub mod names;
mod read;
mod store;
mod write;

pub use batch::{BATCH_BLOCKS_MAX, BATCH_BYTES_MAX, BATCHES_MAX};
pub use car::{CarImporter, Imported, import_car};
pub use error::{ContentError, StoreError};
pub use read::{
    AHEAD_DEFAULT, AHEAD_MAX, BlockStream, ByteStream, Content, EntryStream, FRONTIER_MAX, FileContent,
    OPEN_DIRECTORIES_BYTES_MAX, Resolved, SEEN_MAX, Scope, WalkOptions,
};
pub use store::{NullSink, Sink, Source};
pub use write::{AddOptions, AddedEntry, Adder, Entry, EntryKind, Outcome, Progress, ROOTS_MAX, Root, STEP_BYTES_MAX};
