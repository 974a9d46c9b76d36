//! Pin records.

use node_core::{Cid, Timestamp};

/// Longest name of a pin, in bytes. Kubo takes 255 since 0.36; a record stays small beside its walk either way.
pub const PIN_NAME_BYTES_MAX: usize = 1024;

/// What a pin holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The block and everything below it.
    Recursive,
    /// The one block.
    Direct,
    /// The block and what is at most this many links below it. `Depth(0)` holds what [`Mode::Direct`] does.
    Depth(u32),
}

/// How far a pin has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Blocks of it are still to be looked for. What was found so far is held.
    Walking,
    /// Every block of it was seen in the store, and all are held.
    Complete,
}

/// Blocks of a pin or walk that were seen in the store, each once.
///
/// Identity CIDs are not counted. Of a part that is a complete recursive pin of its own, and so was not walked again,
/// the figures of that pin are added: a block that lies in it and elsewhere is then counted twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Its root, in the form in which it was pinned: CIDv0 and CIDv1 of a block are different pins.
    pub cid: Cid,
    /// What it holds.
    pub mode: Mode,
    /// The name it was given; empty is none.
    pub name: String,
    /// How far it has come.
    pub state: State,
    /// What of it was seen in the store so far.
    pub progress: Progress,
    /// When it was begun in this mode.
    pub begun: Timestamp,
    /// When it was last found complete; zero while that has never been.
    pub completed: Timestamp,
}
