//! The Raft log as openraft wants it, over [`RaftLog`], which knows bytes only.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use cluster_storage::raft_log::RaftLog;
use futures::{Stream, StreamExt, stream};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;

use crate::codec;
use crate::handles::Held;
use crate::log_weight::LogWeight;
use crate::types::{C, Entry, LogId, Vote};

/// Read at a time when a whole range is asked for.
const READ_BYTES: usize = 1 << 20;

/// Clones are handles to the same log, for openraft's replication tasks.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: RaftLog,
    known: Arc<Mutex<Known>>,
    /// Most bytes of one append to a follower.
    append_bytes_max: usize,
    held: Held,
}

/// What is asked for so often that it is kept at hand.
struct Known {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Where the entries begin: behind what was purged, else with the first one that was appended.
    first: u64,
    weight: LogWeight,
}

impl LogStore {
    /// `bytes_kept` is what [`LogStore::beyond`] will be asked for.
    pub fn open(log: RaftLog, append_bytes_max: usize, bytes_kept: u64) -> io::Result<Self> {
        let head = log.head();
        let purged = head
            .purged
            .as_ref()
            .map(|(_, marker)| codec::decode_log_id(marker))
            .transpose()?;
        let last = match &head.last {
            Some((_, entry)) => Some(codec::decode_entry(entry)?.log_id),
            None => purged,
        };
        let first = purged.map_or(0, |purged| purged.index + 1);
        let known = Known {
            vote: head.vote.as_ref().map(codec::decode_vote).transpose()?,
            committed: head.committed.as_ref().map(codec::decode_log_id).transpose()?,
            purged,
            last,
            first,
            weight: LogWeight::new(first, last.map(|last| last.index), head.bytes, bytes_kept),
        };
        Ok(Self {
            log,
            known: Arc::new(Mutex::new(known)),
            append_bytes_max,
            held: Held::new(),
        })
    }

    pub fn purged(&self) -> Option<LogId> {
        self.known.lock().purged
    }

    pub fn last(&self) -> Option<LogId> {
        self.known.lock().last
    }

    /// The last entry to be purged, so that no more than `bytes_kept` are left.
    pub fn beyond(&self, bytes_kept: u64) -> Option<u64> {
        self.known.lock().weight.beyond(bytes_kept)
    }

    /// Waits until nobody else has a handle.
    pub async fn alone(&self) {
        self.held.alone().await;
    }

    /// Nothing at all was written here yet: a new disk.
    pub fn is_empty(&self) -> bool {
        let known = self.known.lock();
        known.vote.is_none() && known.last.is_none()
    }

    pub async fn close(&self) {
        self.log.close().await;
    }

    /// The part of a range that can be in the log.
    fn clip(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let start = start_of(range);
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let known = self.known.lock();
        let next = known.last.map_or(0, |last| last.index + 1);
        (start.max(known.first), end.min(next))
    }

    /// The beginning of a range was purged.
    fn gap(&self, range: &impl RangeBounds<u64>) -> Option<io::Error> {
        let purged = self.known.lock().purged?.index;
        let start = start_of(range);
        (start <= purged).then(|| {
            let message = format!("entry {start} is not in the Raft log any more: it is purged up to {purged}");
            io::Error::new(io::ErrorKind::InvalidData, message)
        })
    }

    /// Entries from `start`, as many as fit but at least one. The range was clipped, so they are there.
    async fn piece(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let values = self.log.read(start, end, bytes_max).await?;
        if values.is_empty() && start == self.clip(&(start..end)).0 {
            let message = format!("entry {start} is missing in the Raft log");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        values.iter().map(codec::decode_entry).collect()
    }
}

fn start_of(range: &impl RangeBounds<u64>) -> u64 {
    match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    }
}

impl RaftLogReader<C> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (mut start, end) = self.clip(&range);
        let mut entries = Vec::new();
        while start < end {
            let piece = self.piece(start, end, READ_BYTES).await?;
            if piece.is_empty() {
                break;
            }
            start += piece.len() as u64;
            entries.extend(piece);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.known.lock().vote)
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // Piece by piece: after a restart there may be gigabytes to apply.
        let (start, end) = self.clip(&range);
        // Whoever applies the log must not be given its rest for the whole: what is missing would never be noticed.
        let gap = self.gap(&range);
        if let Some(gap) = gap {
            return stream::iter([Err(gap)]).boxed();
        }
        let reader = self.clone();
        let pieces = stream::unfold((reader, start), move |(reader, start)| async move {
            if start >= end {
                return None;
            }
            match reader.piece(start, end, READ_BYTES).await {
                Ok(piece) if piece.is_empty() => None,
                Ok(piece) => {
                    let next = start + piece.len() as u64;
                    Some((piece.into_iter().map(Ok).collect::<Vec<_>>(), (reader, next)))
                }
                Err(error) => Some((vec![Err(error)], (reader, end))),
            }
        });
        pieces.flat_map(stream::iter).boxed()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let (clipped, end) = self.clip(&(start..end));
        if clipped >= end {
            return Ok(Vec::new());
        }
        self.piece(clipped, end, self.append_bytes_max).await
    }
}

impl RaftLogStorage<C> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<C>> {
        let known = self.known.lock();
        Ok(LogState {
            last_purged_log_id: known.purged,
            last_log_id: known.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.log.save_vote(codec::encode_vote(vote)).await?;
        self.known.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(committed) = &committed {
            self.log.save_committed(codec::encode_log_id(committed)).await?;
        }
        self.known.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.known.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut first, mut last) = (None, None);
        let encoded: Vec<(u64, Bytes)> = entries
            .into_iter()
            .map(|entry| {
                first.get_or_insert(entry.log_id.index);
                last = Some(entry.log_id());
                (entry.log_id.index, codec::encode_entry(&entry))
            })
            .collect();
        let weights: Vec<_> = encoded
            .iter()
            .map(|(index, value)| (*index, value.len() as u64))
            .collect();
        self.log
            .append(encoded, Box::new(|result| callback.io_completed(result)))
            .await?;
        if let (Some(first), Some(last)) = (first, last) {
            let mut known = self.known.lock();
            for (index, bytes) in weights {
                known.weight.push(index, bytes);
            }
            if known.last.is_none() {
                known.first = first;
            }
            known.last = Some(last);
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let from = last_log_id.map_or(0, |last| last.index + 1);
        {
            let mut known = self.known.lock();
            if known.last.is_some_and(|last| last.index >= from) {
                known.last = last_log_id.or(known.purged);
            }
            known.weight.truncate(from);
        }
        self.log.truncate(from).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        {
            let mut known = self.known.lock();
            known.purged = Some(log_id);
            known.first = log_id.index + 1;
            known.weight.purge(log_id.index);
            // After a snapshot the log may end before what is purged.
            if known.last.is_none_or(|last| last.index <= log_id.index) {
                known.last = Some(log_id);
            }
        }
        self.log.purge(log_id.index, codec::encode_log_id(&log_id)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cluster_storage::raft_log::{MemoryLogEngine, RaftLogOptions};
    use openraft::EntryPayload;
    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::types::LeaderId;

    fn log_id(index: u64) -> LogId {
        LogId::new(LeaderId::new(1, 1), index)
    }

    async fn store(entries: u64) -> LogStore {
        let options = RaftLogOptions {
            inline: true,
            ..RaftLogOptions::default()
        };
        let log = RaftLog::open(Arc::new(MemoryLogEngine::new()), &options).expect("opened");
        let entry = |index| codec::encode_entry(&Entry::new(log_id(index), EntryPayload::Blank));
        let entries = (0..entries).map(|index| (index, entry(index))).collect();
        log.append(entries, Box::new(drop)).await.expect("taken");
        let store = LogStore::open(log.clone(), 1 << 20, 1 << 20).expect("opened");
        // Opened before anything was in it; as openraft appends, it would know.
        store.known.lock().last = Some(log_id(9));
        store
    }

    /// Whoever applies entries must be told that some are gone, not be given the rest.
    #[tokio::test]
    async fn entries_that_are_gone_are_not_passed_over() {
        let mut store = store(10).await;
        store.purge(log_id(4)).await.expect("purged");
        for start in 0..=4 {
            let read: Vec<_> = store.entries_stream(start..8).await.collect().await;
            assert_eq!(read.len(), 1, "from {start}");
            let error = read
                .into_iter()
                .next()
                .expect("one")
                .expect_err("they are gone")
                .to_string();
            assert!(error.contains("purged up to 4"), "{error}");
        }
        let read: Vec<_> = store.entries_stream(5..8).await.collect().await;
        let read: Vec<_> = read.into_iter().map(|entry| entry.expect("there").log_id).collect();
        assert_eq!(read, [log_id(5), log_id(6), log_id(7)]);
    }
}
