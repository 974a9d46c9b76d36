//! Trying again what somebody asks for, and everything of a node whose daemon is another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cluster_storage::ledger::{Edit, Ledger};
use node_core::reconcile::{Asked, Change, Entry, rearmed, requeued};
use node_core::{Cid, ErrorClass, NodeId, Status, Timestamp};

use crate::{Worker, drain};

/// Entries changed at a time: together one batch of the ledger, small enough that outcomes fit in between.
const CHUNK: usize = 1_024;

/// Which entries to try again at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recover {
    /// Only at this node.
    pub node: Option<NodeId>,
    /// Only this CID.
    pub cid: Option<Cid>,
    /// Only in these states; empty stands for `gave_up` and `retrying`. What is pinned waits for nothing and is never
    /// among them.
    pub statuses: Vec<Status>,
    /// Only those that failed with this class of error.
    pub class: Option<ErrorClass>,
}

impl Worker {
    /// Tries again now what is asked for, and answers how many entries that are. Their count of tries begins anew.
    pub async fn recover(&self, filter: Recover) -> Result<u64, String> {
        let inner = self.inner();
        let nodes = filter.node.map_or_else(|| inner.all_nodes(), |node| vec![node]);
        let asked = Asked {
            statuses: filter.statuses.clone(),
            class: filter.class,
        };
        let mut recovered = 0;
        for node in nodes {
            let mut here = 0;
            if let Some(cid) = filter.cid {
                here += self.rearm(node, vec![cid], &asked).await?;
            } else {
                // Those of the other states wait for nothing that could come sooner.
                let states = [Status::GaveUp, Status::Retrying, Status::Queued, Status::Unpinning];
                for status in states.into_iter().filter(|status| asked.statuses().contains(status)) {
                    here += self.rearm_all(node, status, &asked).await?;
                }
            }
            if here > 0
                && let Some(context) = inner.context(node)
            {
                context.hint.notify_one();
            }
            recovered += here;
        }
        Ok(recovered)
    }

    async fn rearm_all(&self, node: NodeId, status: Status, asked: &Asked) -> Result<u64, String> {
        let mut recovered = 0;
        let mut after = None;
        loop {
            let ledger = Arc::clone(&self.inner().ledger);
            let page = drain::blocking(move || {
                let page = ledger.scan_status(node, status, after.as_ref(), CHUNK);
                page.map_err(|error| error.to_string())
            })
            .await?;
            let Some((last, _)) = page.last() else {
                return Ok(recovered);
            };
            after = Some(*last);
            let cids = page.into_iter().map(|(cid, _)| cid).collect();
            // Only in the state of this round: what it makes of one state must not be found again in the next.
            let only = Asked {
                statuses: vec![status],
                class: asked.class,
            };
            recovered += self.rearm(node, cids, &only).await?;
        }
    }

    async fn rearm(&self, node: NodeId, cids: Vec<Cid>, asked: &Asked) -> Result<u64, String> {
        let now = self.inner().clock.now();
        let asked = asked.clone();
        change(&self.inner().ledger, node, cids, move |old| rearmed(old, &asked, now)).await
    }
}

/// Forgets what was known of the node's pins and looks for all of them anew, and answers how many that are. When it
/// returns, no power failure undoes it.
pub(crate) async fn requeue_all(ledger: &Arc<Ledger>, node: NodeId, now: Timestamp) -> Result<u64, String> {
    let mut requeued_here = 0;
    let mut after: Option<Cid> = None;
    loop {
        let reader = Arc::clone(ledger);
        let page = drain::blocking(move || {
            let page = reader.page(node, after.as_ref(), CHUNK);
            page.map_err(|error| error.to_string())
        })
        .await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        let cids = page.into_iter().map(|(cid, _)| cid).collect();
        requeued_here += change(ledger, node, cids, move |old| Some(requeued(old, now))).await?;
    }
    let writer = Arc::clone(ledger);
    drain::blocking(move || writer.sync().map_err(|error| error.to_string())).await?;
    Ok(requeued_here)
}

/// Changes entries and counts those that were.
async fn change(
    ledger: &Ledger,
    node: NodeId,
    cids: Vec<Cid>,
    to: impl Fn(&Entry) -> Option<Entry> + Send + Sync + 'static,
) -> Result<u64, String> {
    let count = Arc::new(AtomicU64::new(0));
    let to = Arc::new(to);
    let edits = cids.into_iter().map(|cid| {
        let (count, to) = (Arc::clone(&count), Arc::clone(&to));
        Edit::new(node, cid, move |old| match old.and_then(|old| to(old)) {
            Some(next) => {
                count.fetch_add(1, Ordering::Relaxed);
                Change::Put(next)
            }
            None => Change::Keep,
        })
    });
    ledger.edit(edits.collect()).await.map_err(|error| error.to_string())?;
    Ok(count.load(Ordering::Relaxed))
}
