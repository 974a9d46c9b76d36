//! Watching the pinset: changes as this peer applies them, resumable by revision.

use std::time::Duration;

use cluster_storage::state::StateDb;
use node_core::Namespace;
use node_core::pinset::{self, Change};

use super::chunks::{Chunks, chunks};
use super::pins::slot_of;
use super::{Error, Pins};

/// Changes in one message: three messages of each watch lie in memory at most.
const WATCH_CHUNK: usize = 250;

/// A watcher hears at least so often up to where it has seen everything, so that a quiet one can resume near the end and
/// knows that the stream lives.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What a watcher is told at a time.
#[derive(Debug, PartialEq)]
pub struct WatchChunk {
    /// In order; may be empty.
    pub changes: Vec<Change>,
    /// All changes up to this revision that the watcher wants were sent.
    pub revision: u64,
}

impl Pins {
    /// Streams changes after a revision until nobody listens; 0 stands for now. Of one namespace only when one is given:
    /// a placement belongs to no namespace, who watches one sees it in the pin.
    pub fn watch(&self, after: u64, namespace: Option<Namespace>) -> Result<Chunks<WatchChunk>, Error> {
        let header = pinset::header(&*self.reads.stale())?;
        let mut after = if after == 0 { header.revision } else { after };
        if after.saturating_add(1) < header.changes_from {
            return Err(Error::HistoryGone {
                asked: after,
                oldest: header.changes_from,
            });
        }
        let slot = slot_of(&self.watches)?;
        let mut applied = self.consensus.applied();
        let reads = self.reads.clone();
        let (mut out, stream) = chunks();
        tokio::spawn(async move {
            let _slot = slot;
            let hello = WatchChunk {
                changes: Vec::new(),
                revision: after,
            };
            if !out.send(Ok(hello)).await {
                return;
            }
            let mut heartbeat = tokio::time::interval(HEARTBEAT);
            heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            // The first tick is the beginning, which was just sent.
            heartbeat.tick().await;
            loop {
                applied.mark_unchanged();
                // At most a chunk of rows that lie together: short enough for this thread.
                let changes = match read_changes(&reads.stale(), after) {
                    Ok(changes) => changes,
                    Err(error) => {
                        out.send(Err(error)).await;
                        return;
                    }
                };
                if let Some(last) = changes.last() {
                    let revision = last.revision;
                    let is_wanted = |change: &Change| {
                        let key = change.key.as_ref();
                        let of = |namespace: &Namespace| key.is_some_and(|key| key.namespace == *namespace);
                        namespace.as_ref().is_none_or(of)
                    };
                    let changes: Vec<_> = changes.into_iter().filter(is_wanted).collect();
                    after = revision;
                    if !changes.is_empty() {
                        heartbeat.reset();
                        if !out.send(Ok(WatchChunk { changes, revision })).await {
                            return;
                        }
                    }
                    // More may lie behind this chunk; a watcher of a small namespace is told where it stands meanwhile.
                    if futures::FutureExt::now_or_never(heartbeat.tick()).is_none() {
                        continue;
                    }
                } else {
                    tokio::select! {
                        changed = applied.changed() => match changed {
                            Ok(()) => continue,
                            Err(_) => return,
                        },
                        () = out.closed() => return,
                        _ = heartbeat.tick() => {}
                    }
                }
                let alive = WatchChunk {
                    changes: Vec::new(),
                    revision: after,
                };
                if !out.send(Ok(alive)).await {
                    return;
                }
            }
        });
        Ok(stream)
    }
}

fn read_changes(state: &StateDb, after: u64) -> Result<Vec<Change>, Error> {
    let changes = pinset::changes_after(state, after, WATCH_CHUNK)?;
    // A watcher that fell behind the kept history must not miss a change in silence.
    if let Some(first) = changes.first().filter(|first| first.revision > after.saturating_add(1)) {
        return Err(Error::HistoryGone {
            asked: after,
            oldest: first.revision,
        });
    }
    Ok(changes)
}
