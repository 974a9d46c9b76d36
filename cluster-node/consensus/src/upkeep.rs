//! When snapshots are taken and how much of the log is kept.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;

use crate::config::ConsensusConfig;
use crate::log_store::LogStore;
use crate::network::Sending;
use crate::state_machine::StateMachine;
use crate::types::{C, Raft};

/// Waited after each look. Both loops would else run for every entry, several times, and nothing they do is urgent.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Waited for a snapshot that was asked for, before it is asked for again: it is put off while the disk is behind, and
/// asking while one is being taken does nothing.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(30);

/// Takes a snapshot whenever enough was applied since the last one.
pub(crate) async fn take_snapshots(raft: Raft, machine: StateMachine, config: Arc<ConsensusConfig>) {
    let mut applied = machine.applied();
    let mut taken = (machine.snapshot_index().unwrap_or(0), machine.bytes_applied());
    loop {
        let index = applied.borrow_and_update().index;
        let newest = machine.snapshot_index().unwrap_or(0);
        if newest > taken.0 {
            taken = (newest, machine.bytes_applied());
        }
        let entries = index.saturating_sub(taken.0);
        let bytes = machine.bytes_applied() - taken.1;
        if entries >= config.snapshot_entries || (entries > 0 && bytes >= config.snapshot_bytes) {
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
            let newer = |metrics: &openraft::RaftMetrics<C>| {
                metrics.running_state.is_err() || metrics.snapshot.is_some_and(|last| last.index > taken.0)
            };
            let _ = raft.wait(Some(SNAPSHOT_RETRY)).metrics(newer, "a new snapshot").await;
            if raft.is_initialized().await.is_err() {
                return;
            }
            continue;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// Purges the log whenever more of it is held by the newest snapshot than shall be kept.
pub(crate) async fn purge_log(raft: Raft, log: LogStore, sending: Sending, config: Arc<ConsensusConfig>) {
    let mut metrics = raft.data_metrics();
    let mut asked = None;
    loop {
        let (snapshot, purged) = {
            let metrics = metrics.borrow_watched();
            (
                metrics.snapshot.map(|log_id| log_id.index),
                metrics.purged.map(|log_id| log_id.index),
            )
        };
        let kept = Kept {
            purged,
            snapshot,
            sending: sending.oldest(),
            too_heavy: log.beyond(config.log_bytes_kept),
        };
        let upto = kept.purge_upto(config.log_entries_kept, config.purge_batch);
        // On a leader openraft puts a purge off while the entries are on their way to a follower, and does it later.
        if upto.is_some() && upto > asked {
            asked = upto;
            if let Some(upto) = upto
                && raft.trigger().purge_log(upto).await.is_err()
            {
                return;
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        if WatchReceiver::<openraft::alias::WatchOf<C>, _>::changed(&mut metrics)
            .await
            .is_err()
        {
            return;
        }
    }
}

/// What decides about a purge. All are indexes in the log.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    /// Up to where it is purged.
    purged: Option<u64>,
    /// The newest snapshot.
    snapshot: Option<u64>,
    /// The oldest snapshot that is being sent. Its receiver goes on with the entry behind it: without that one it would
    /// need another snapshot at once, and for ever if snapshots are taken faster than they are sent.
    sending: Option<u64>,
    /// The last entry of those that are too much to keep by their bytes.
    too_heavy: Option<u64>,
}

impl Kept {
    /// The last entry to go; none when it is not worth it yet.
    fn purge_upto(&self, entries_kept: u64, batch: u64) -> Option<u64> {
        let first = self.purged.map_or(0, |purged| purged + 1);
        let snapshot = self.snapshot?;
        let limit = self.sending.map_or(snapshot, |sending| sending.min(snapshot));
        // By weight there is no batch: one entry may be a large part of what is kept.
        let heavy = self.too_heavy.map(|upto| upto.min(limit)).filter(|upto| *upto >= first);
        // Whoever keeps few wants them gone soon.
        let batch = batch.min(entries_kept / 10).max(1);
        let many = snapshot.checked_sub(entries_kept).map(|upto| upto.min(limit));
        let many = many.filter(|upto| *upto >= first && *upto - first + 1 >= batch);
        many.max(heavy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_purged_in_batches_and_bytes_at_once() {
        let kept = Kept {
            snapshot: Some(1000),
            ..Kept::default()
        };
        assert_eq!(Kept::default().purge_upto(0, 1), None, "no snapshot holds them");
        assert_eq!(kept.purge_upto(1001, 1), None);
        assert_eq!(kept.purge_upto(1000, 1), Some(0));
        assert_eq!(kept.purge_upto(900, 1), Some(100));
        assert_eq!(kept.purge_upto(910, 91), Some(90));
        assert_eq!(kept.purge_upto(920, 92), None);
        assert_eq!(
            kept.purge_upto(8, 10_000),
            Some(992),
            "few are kept, so few are waited for"
        );
        let purged = Kept {
            purged: Some(100),
            ..kept
        };
        assert_eq!(purged.purge_upto(900, 1), None);
        assert_eq!(purged.purge_upto(899, 1), Some(101));
        let heavy = Kept {
            too_heavy: Some(500),
            ..purged
        };
        assert_eq!(heavy.purge_upto(900, 10_000), Some(500));
        assert_eq!(heavy.purge_upto(100, 1), Some(900), "whichever is more");
        let beyond = Kept {
            too_heavy: Some(2000),
            ..purged
        };
        assert_eq!(beyond.purge_upto(900, 1), Some(1000), "what no snapshot holds is kept");
        let gone = Kept {
            too_heavy: Some(99),
            ..purged
        };
        assert_eq!(gone.purge_upto(900, 1), None);
    }

    #[test]
    fn nothing_behind_a_snapshot_that_is_being_sent_is_purged() {
        let kept = Kept {
            purged: Some(100),
            snapshot: Some(1000),
            sending: Some(300),
            too_heavy: Some(800),
        };
        assert_eq!(kept.purge_upto(10, 1), Some(300));
        let done = Kept { sending: None, ..kept };
        assert_eq!(done.purge_upto(10, 1), Some(990));
        let old = Kept {
            sending: Some(100),
            ..kept
        };
        assert_eq!(old.purge_upto(10, 1), None);
    }
}
