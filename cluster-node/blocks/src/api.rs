//! TEMPORARY during the first commits: the public signatures, for who writes against them.
#![allow(unused_variables, missing_docs)]
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster_dag::Block;
use node_core::{Cid, Timestamp};

use crate::{Error, Mode, Pin, Progress};

/// Bounds of memory and files.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes of writes in memory, all tables together. Default 96 MiB.
    pub write_buffers_bytes: usize,
    /// Bytes of the block cache (index, filters, small rows; never blobs). Default 32 MiB.
    pub cache_bytes: usize,
    /// Files kept open. Default 512.
    pub open_files_max: i32,
    /// Bytes of blocks that may wait for the writer; callers beyond wait. Default 32 MiB.
    pub queue_bytes: usize,
}

/// The open store; cheap to clone. Plain functions read (or wait) and belong on threads that may block; async functions
/// write, and when they return what they did is synced on disk.
#[derive(Clone)]
pub struct BlockStore;

impl BlockStore {
    /// Blocking. Opens the store in `folder`, made when missing.
    pub fn open(folder: &Path, options: &StoreOptions) -> Result<Self, Error> { unimplemented!() }
    /// Blocking. Ends the writer after what was handed in, flushes, closes. Later calls fail with `Closed`.
    pub fn close(&self) -> Result<(), Error> { unimplemented!() }

    // ---- reads (blocking threads) ----
    pub fn get(&self, cid: &Cid) -> Result<Option<Bytes>, Error> { unimplemented!() }
    /// In the order asked. Identity CIDs are answered from themselves.
    pub fn get_many(&self, cids: &[Cid]) -> Result<Vec<Option<Bytes>>, Error> { unimplemented!() }
    /// Presence and size; never reads a block.
    pub fn sizes(&self, cids: &[Cid]) -> Result<Vec<Option<usize>>, Error> { unimplemented!() }
    pub fn has(&self, cid: &Cid) -> Result<bool, Error> { unimplemented!() }
    /// Stored blocks in the order of their multihashes, as CIDv1 of codec raw, behind `after` (any codec), with sizes.
    pub fn blocks(&self, after: Option<&Cid>, limit: usize) -> Result<Vec<(Cid, usize)>, Error> { unimplemented!() }
    pub fn pin(&self, cid: &Cid) -> Result<Option<Pin>, Error> { unimplemented!() }
    /// In CID order, behind `after`.
    pub fn pins(&self, after: Option<&Cid>, limit: usize) -> Result<Vec<Pin>, Error> { unimplemented!() }
    /// Whether something holds the block besides pins of exactly this block (a stored parent with counted links).
    /// It may be garbage's child that GC has not come to; "indirect" as far as references tell.
    pub fn is_referenced(&self, cid: &Cid) -> Result<bool, Error> { unimplemented!() }
    pub fn note(&self, name: &str) -> Result<Option<Bytes>, Error> { unimplemented!() }
    /// From memory.
    pub fn usage(&self) -> Usage { unimplemented!() }
    /// Looks at the folder (blocking): all files, the write-ahead log too.
    pub fn disk_bytes(&self) -> Result<u64, Error> { unimplemented!() }
    /// Why the writer ended; none while it writes. From memory.
    pub fn fault(&self) -> Option<String> { unimplemented!() }

    // ---- writes (async: await = synced) ----
    /// Opens an add: what is put under the session is not collected until the session is dropped, though nothing refers
    /// to it. In memory: after a crash there are none. Put every block, also those that are there already.
    pub fn begin_add(&self) -> AddSession { unimplemented!() }
    /// Stores blocks with their links counted, children before parents or in any order. Has many in flight from many
    /// callers; one sync for all that wait. None = no session (a cache fill: garbage unless something refers to it).
    pub async fn put(&self, session: Option<&AddSession>, blocks: Vec<Block>) -> Result<(), Error> { unimplemented!() }
    /// Records a pin. A complete pin of this mode stays complete (the name is replaced), a begun one goes on, another mode
    /// replaces the one that was: nothing that both hold is let go. Returns the record as it is now.
    pub async fn pin_begin(&self, cid: Cid, mode: Mode, name: &str, now: Timestamp) -> Result<Pin, Error> { unimplemented!() }
    /// Removes a pin, complete or not. False: there was none.
    pub async fn unpin(&self, cid: &Cid) -> Result<bool, Error> { unimplemented!() }
    /// None deletes it. Name at most 128 bytes, value at most 64 KiB.
    pub async fn set_note(&self, name: &str, value: Option<Bytes>) -> Result<(), Error> { unimplemented!() }

    // ---- walks ----
    /// Blocking. The walk of a pin that is `Walking`; none when there is no such pin or it is complete.
    /// `WalkInUse` while another `Walk` of it lives. After a restart it goes on where it was.
    pub fn walk(&self, cid: &Cid) -> Result<Option<Walk>, Error> { unimplemented!() }

    // ---- maintenance (blocking threads) ----
    /// One step of garbage collection. Start with `GcCursor::default()`, hand `next` in again; `next == None` = done.
    pub fn gc_step(&self, cursor: GcCursor, budget: Budget) -> Result<GcStep, Error> { unimplemented!() }
    /// A dry run, as far as the time allows; the rest by extrapolation.
    pub fn gc_estimate(&self, time: Duration) -> Result<GcEstimate, Error> { unimplemented!() }
    /// Re-hashes resting blocks behind the cursor (the last CID of the step before; none = from the start).
    pub fn scrub_step(&self, after: Option<&Cid>, budget: Budget) -> Result<ScrubStep, Error> { unimplemented!() }
    /// Drops a block whose bytes are corrupt; its pins are `Walking` again and fetch it. Returns those pins.
    pub fn remove_corrupt(&self, cid: &Cid) -> Result<Vec<Cid>, Error> { unimplemented!() }
    /// Gives back disk space of deleted blocks now (compaction); call after a GC that deleted much.
    pub fn reclaim(&self) -> Result<(), Error> { unimplemented!() }
    /// Writes memtables to files: frees their memory. Call when idle.
    pub fn flush(&self) -> Result<(), Error> { unimplemented!() }
}

/// An open add.
pub struct AddSession;

/// Exclusive hold of the walk of one pin; `&self` everywhere, Send + Sync. Dropping it loses nothing but what was not
/// handed in.
pub struct Walk;

impl Walk {
    pub fn cid(&self) -> Cid { unimplemented!() }
    /// Blocking. Visits what is in the store (reading links itself, bounded work per call) and returns up to
    /// `missing_max` CIDs that have to be fetched. Each is returned once until it is `give_back`ed.
    pub fn advance(&self, missing_max: usize) -> Result<Step, Error> { unimplemented!() }
    /// Hands in fetched blocks (of CIDs that advance returned; others are ignored). Waits only for room in the writer's
    /// queue, not for the sync: links are known at once to the next `advance`. A failed write shows in the next call.
    /// A block whose links can't be read is an `Error::Content` (permanent): those before it in the Vec are taken.
    pub async fn store(&self, blocks: Vec<Block>) -> Result<(), Error> { unimplemented!() }
    /// CIDs that were not fetched: `advance` returns them again.
    pub fn give_back(&self, cids: &[Cid]) { unimplemented!() }
    /// Once `advance` said `Next::Finish`: records completion, synced. Returns the record.
    pub async fn finish(&self, now: Timestamp) -> Result<Pin, Error> { unimplemented!() }
    /// What was seen so far, including what is on its way to the disk.
    pub fn progress(&self) -> Progress { unimplemented!() }
}

pub struct Step {
    pub missing: Vec<Cid>,
    pub next: Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// More to look at right now: call `advance` again.
    Advance,
    /// Nothing to do until blocks that are out are handed in or given back.
    Wait,
    /// All was seen: call `finish`.
    Finish,
}

/// How much one step of GC or scrub may do.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    pub keys: usize,
    pub bytes: u64,
    pub time: Duration,
}

#[derive(Debug, Clone, Default)]
pub struct GcCursor;

pub struct GcStep {
    pub next: Option<GcCursor>,
    /// Share of the pass that is done, 0.0 to 1.0.
    pub done: f64,
    pub scanned: u64,
    pub deleted: Progress,
}

pub struct GcEstimate {
    pub garbage: Progress,
    /// Share of the store that was looked at; 1.0 = exact at that moment.
    pub looked_at: f64,
}

pub struct ScrubStep {
    pub next: Option<Cid>,
    pub checked: Progress,
    /// As CIDv1 of codec raw.
    pub corrupt: Vec<Cid>,
    pub done: f64,
}

/// From memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub blocks: u64,
    /// Bytes of blocks as they are, without what the database adds.
    pub bytes: u64,
    /// All pins; `walking` of them are not complete.
    pub pins: u64,
    pub walking: u64,
}
