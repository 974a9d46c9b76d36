//! The end of the log in memory.

use std::collections::VecDeque;

use bytes::Bytes;

/// The last entries. Holds at least those that the engine does not have yet, whatever they weigh, and beyond these as
/// many as fit: appliers and followers that keep up never read a file.
pub(super) struct Ring {
    entries: VecDeque<Held>,
    /// Index of the front entry, or of the next one when there is none.
    first: u64,
    bytes: usize,
    bytes_max: usize,
    /// Writes up to this one are done by the engine.
    done: u64,
}

struct Held {
    value: Bytes,
    /// The write that brings it to the engine.
    write: u64,
}

impl Ring {
    pub fn new(next: u64, bytes_max: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            first: next,
            bytes: 0,
            bytes_max,
            done: 0,
        }
    }

    /// The index that comes next.
    pub fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// The index from which on entries are here.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Adds an entry. One that is already there is replaced, with all behind it.
    pub fn push(&mut self, index: u64, value: Bytes, write: u64) {
        if index < self.next() {
            self.truncate(index);
        } else if self.entries.is_empty() {
            self.first = index;
        }
        self.bytes += value.len();
        self.entries.push_back(Held { value, write });
    }

    /// Drops the entries from `from` on.
    pub fn truncate(&mut self, from: u64) {
        if from < self.first {
            self.entries.clear();
            self.bytes = 0;
            self.first = from;
            return;
        }
        while self.next() > from {
            match self.entries.pop_back() {
                Some(held) => self.bytes -= held.value.len(),
                None => break,
            }
        }
    }

    /// Drops the entries up to `upto`; the log goes on behind it.
    pub fn purge(&mut self, upto: u64) {
        while self.first <= upto && self.pop_front() {}
        if self.first <= upto {
            self.first = upto + 1;
        }
    }

    /// The engine has done all writes up to `write`.
    pub fn done(&mut self, write: u64) {
        self.done = self.done.max(write);
        while self.bytes > self.bytes_max && self.entries.front().is_some_and(|held| held.write <= self.done) {
            self.pop_front();
        }
    }

    /// Entries from `start`, which must be here, to before `end`, of at most `bytes_max` but at least one.
    pub fn read(&self, start: u64, end: u64, bytes_max: usize, into: &mut Vec<Bytes>, bytes: &mut usize) {
        let skip = (start - self.first) as usize;
        let take = end.saturating_sub(start) as usize;
        for held in self.entries.iter().skip(skip).take(take) {
            if *bytes > 0 && *bytes + held.value.len() > bytes_max {
                break;
            }
            *bytes += held.value.len();
            into.push(held.value.clone());
        }
    }

    fn pop_front(&mut self) -> bool {
        match self.entries.pop_front() {
            Some(held) => {
                self.bytes -= held.value.len();
                self.first += 1;
                true
            }
            None => false,
        }
    }
}
