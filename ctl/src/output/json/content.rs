//! The objects of `add` and `get`.

use cluster_proto::v1;
use serde::Serialize;

use super::{Pin, set};
use crate::output::words;

/// `add`: an entry is complete.
#[derive(Debug, Clone, Serialize)]
pub struct Added {
    /// Always `added`.
    pub event: &'static str,
    /// Its path; empty for the directory around everything and for what has no name.
    pub path: String,
    /// Its CID.
    pub cid: String,
    /// Bytes of all its blocks.
    pub tsize: u64,
}

impl From<v1::AddedEntry> for Added {
    fn from(entry: v1::AddedEntry) -> Self {
        Self {
            event: "added",
            path: entry.path,
            cid: entry.cid,
            tsize: entry.tsize,
        }
    }
}

/// `add`: everything is. The last object.
#[derive(Debug, Clone, Serialize)]
pub struct AddDone {
    /// Always `done`.
    pub event: &'static str,
    /// The root; `null` for a CAR file with several roots.
    pub cid: Option<String>,
    /// How many there are.
    pub blocks: u64,
    /// In all of them.
    pub bytes: u64,
    /// The nodes that hold it all.
    pub nodes: Vec<String>,
    /// Why others don't.
    pub failures: Vec<String>,
    /// Those of a CAR file.
    pub roots: Vec<String>,
    /// `created`, `updated` or `unchanged`; `null` without a pin.
    pub outcome: Option<&'static str>,
    /// As `pin ls` has it; `null` without a pin.
    pub pin: Option<Pin>,
    /// With `--wait`: the state at the end.
    pub status: Option<&'static str>,
}

impl From<v1::AddDone> for AddDone {
    fn from(done: v1::AddDone) -> Self {
        let outcome = done.pin.as_ref().map(|pin| words::outcome(pin.outcome()));
        Self {
            event: "done",
            cid: set(done.cid),
            blocks: done.blocks,
            bytes: done.bytes,
            nodes: done.nodes,
            failures: done.failures,
            roots: done.roots,
            outcome,
            pin: done.pin.and_then(|pin| pin.pin).map(Pin::from),
            status: None,
        }
    }
}

/// `get`: what was written.
#[derive(Debug, Clone, Serialize)]
pub struct Got {
    /// What the path led to.
    pub cid: String,
    /// Where it is now.
    pub to: String,
    /// With `--tar`: always 1.
    pub files: u64,
    /// With the first one.
    pub directories: u64,
    /// That were written.
    pub symlinks: u64,
    /// In all files.
    pub bytes: u64,
    /// Symlinks that were not written.
    pub left_out: u64,
}

/// `export --to FILE`: what was written.
#[derive(Debug, Clone, Serialize)]
pub struct Exported {
    /// What the path led to.
    pub cid: String,
    /// Where it is now.
    pub to: String,
    /// Of the CAR file.
    pub bytes: u64,
}
