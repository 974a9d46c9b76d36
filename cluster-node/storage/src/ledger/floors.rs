//! Where the first live key of each queue is.
//!
//! A queue in RocksDB leaves a tombstone for everything taken from its front, and whoever reads it from the beginning
//! walks over all of them until a compaction comes by. So the place where the last reader found the first live key is
//! remembered, and writers push it back when they put something in front.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Bytes of node and lane, which name a queue.
const QUEUE: usize = 5;

#[derive(Default)]
struct Floor {
    /// No live key is below this one.
    key: Vec<u8>,
    /// Grows with every insertion, so that a reader knows whether what it saw is still all.
    insertions: u64,
}

#[derive(Default)]
pub(super) struct Floors(Mutex<HashMap<[u8; QUEUE], Floor>>);

impl Floors {
    /// Where to begin reading a queue, and the mark to hand to [`Self::raise`].
    pub(super) fn begin(&self, queue: [u8; QUEUE]) -> (Vec<u8>, u64) {
        let mut floors = self.0.lock();
        let floor = floors.entry(queue).or_insert_with(|| Floor {
            key: queue.to_vec(),
            insertions: 0,
        });
        (floor.key.clone(), floor.insertions)
    }

    /// The first live key was `first`, or the queue was empty. Ignored when something was inserted since `mark` was
    /// taken: the reader may not have seen it.
    pub(super) fn raise(&self, queue: [u8; QUEUE], mark: u64, first: Vec<u8>) {
        if let Some(floor) = self.0.lock().get_mut(&queue)
            && floor.insertions == mark
        {
            floor.key = first;
        }
    }

    /// Keys were inserted. To be called after the write: a reader that began before it and did not see them is then
    /// either refused by its mark or corrected here.
    pub(super) fn lower(&self, keys: &[Vec<u8>]) {
        let mut floors = self.0.lock();
        for key in keys {
            let Some(queue) = key.first_chunk::<QUEUE>() else {
                continue;
            };
            if let Some(floor) = floors.get_mut(queue) {
                floor.insertions += 1;
                if *key < floor.key {
                    floor.key.clone_from(key);
                }
            }
        }
    }
}
