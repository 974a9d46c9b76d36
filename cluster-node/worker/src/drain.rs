//! From notes to ledger entries.
//!
//! ```text
//! notes ─▶ what is wanted now ─▶ decide, inside the ledger's edit ─▶ sync ─▶ forget the notes
//! ```
//! A note says where to look, not what to do, so doing it twice or late does no harm: what counts is what is wanted when
//! the note is handled. One task does all of this, which is why a wish can't be overtaken by an older one.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use cluster_storage::ledger::Edit;
use node_core::reconcile::{Entry, Wanted, diff, follow, stretch_end};
use node_core::{Cid, NodeId};
use tokio::time::Instant;

use crate::worker::Inner;
use crate::{ALL_NODES, TodoRow};

/// Notes left behind are found within this time even if nobody says that there are new ones.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Pause after a failure to read or write.
const FAULT_PAUSE: Duration = Duration::from_secs(1);

/// A whole node being compared.
#[derive(Default)]
struct Resync {
    /// Notes to forget at the end.
    keys: Vec<Vec<u8>>,
    /// Up to here it is done.
    after: Option<Cid>,
}

/// Handles notes until the worker stops.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut resyncs: BTreeMap<NodeId, Resync> = BTreeMap::new();
    // Notes of all nodes make no sense before the nodes are known.
    tokio::select! {
        () = inner.cancel.cancelled() => return,
        () = inner.nodes_known.cancelled() => {}
    }
    loop {
        let begun = Instant::now();
        let wait = match step(&inner, &mut resyncs).await {
            Ok(true) => Duration::ZERO,
            Ok(false) => LOOK_AGAIN,
            Err(error) => {
                tracing::error!(%error, "what is wanted could not be brought into the ledger, trying again soon");
                FAULT_PAUSE
            }
        };
        if inner.cancel.is_cancelled() {
            return;
        }
        if wait == Duration::ZERO {
            continue;
        }
        tokio::select! {
            () = inner.cancel.cancelled() => return,
            () = inner.wake.notified() => {
                // Few notes at a time would mean a sync for each few of them.
                tokio::time::sleep_until(begun + inner.config.drain_interval).await;
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// One batch of notes and one chunk of each comparison. Says whether there is more to do now.
async fn step(inner: &Arc<Inner>, resyncs: &mut BTreeMap<NodeId, Resync>) -> Result<bool, String> {
    let limit = inner.config.drain_batch;
    // Notes that a comparison will answer stay where they are until it has; so more than those must be read.
    let held: HashSet<Vec<u8>> = resyncs
        .values()
        .flat_map(|resync| resync.keys.iter().cloned())
        .collect();
    let source = Arc::clone(&inner.source);
    let asked = limit + held.len();
    let rows = blocking(move || source.todo(asked)).await?;
    let more = rows.len() >= asked;
    let rows: Vec<_> = rows.into_iter().filter(|row| !held.contains(&row.key)).collect();
    let all = match rows.iter().any(|row| row.node == ALL_NODES) {
        true => all_nodes(inner).await?,
        false => Vec::new(),
    };
    let meant = |node: NodeId| match node {
        ALL_NODES => all.clone(),
        node => vec![node],
    };
    let (single, whole): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.cid.is_some());
    for row in whole {
        let nodes = meant(row.node);
        if nodes.is_empty() {
            forget(inner, vec![row.key.clone()]).await?;
        }
        for node in nodes {
            // A comparison that runs begins again: what it has passed may have changed.
            let resync = resyncs.entry(node).or_default();
            resync.after = None;
            resync.keys.push(row.key.clone());
        }
    }
    if !single.is_empty() {
        handle(inner, single, meant).await?;
    }
    let nodes: Vec<_> = resyncs.keys().copied().collect();
    for node in nodes {
        let after = resyncs.get(&node).and_then(|resync| resync.after);
        let next = compare(inner, node, after).await?;
        if let Some(next) = next {
            if let Some(resync) = resyncs.get_mut(&node) {
                resync.after = Some(next);
            }
        } else if let Some(done) = resyncs.remove(&node) {
            // A note that concerns several nodes is forgotten with the last of them.
            let open: HashSet<_> = resyncs.values().flat_map(|resync| &resync.keys).collect();
            let keys: Vec<_> = done.keys.into_iter().filter(|key| !open.contains(key)).collect();
            sync(inner).await?;
            forget(inner, keys).await?;
            tracing::debug!(%node, "compared what is wanted with the ledger");
        }
    }
    Ok(more || !resyncs.is_empty())
}

/// Those of the state, those that the ledger knows something of, and those that are driven.
async fn all_nodes(inner: &Arc<Inner>) -> Result<Vec<NodeId>, String> {
    let source = Arc::clone(&inner.source);
    let mut all: BTreeSet<_> = blocking(move || source.nodes()).await?.into_iter().collect();
    all.extend(inner.all_nodes());
    Ok(all.into_iter().collect())
}

/// Notes of single CIDs.
async fn handle(inner: &Arc<Inner>, rows: Vec<TodoRow>, meant: impl Fn(NodeId) -> Vec<NodeId>) -> Result<(), String> {
    let mut keys = Vec::with_capacity(rows.len());
    let mut places = Vec::with_capacity(rows.len());
    let mut seen = HashSet::with_capacity(rows.len());
    for row in rows {
        keys.push(row.key);
        let Some(cid) = row.cid else { continue };
        places.extend(
            meant(row.node)
                .into_iter()
                .map(|node| (node, cid))
                .filter(|place| seen.insert(*place)),
        );
    }
    let source = Arc::clone(&inner.source);
    let wishes = blocking(move || {
        places
            .into_iter()
            .map(|(node, cid)| Ok((node, cid, source.wanted(node, &cid)?)))
            .collect::<Result<Vec<_>, String>>()
    })
    .await?;
    apply(inner, wishes).await?;
    // What the notes led to must outlive a power failure before they are gone.
    sync(inner).await?;
    forget(inner, keys).await
}

/// Compares a stretch of a node's wishes with its ledger, both in CID order, and says where to go on.
async fn compare(inner: &Arc<Inner>, node: NodeId, after: Option<Cid>) -> Result<Option<Cid>, String> {
    let limit = inner.config.resync_chunk.max(1);
    let now = inner.clock.now();
    let (source, ledger) = (Arc::clone(&inner.source), Arc::clone(&inner.ledger));
    let (wishes, next) = blocking(move || {
        let wanted = source.scan_wanted(node, after.as_ref(), limit)?;
        let held = ledger
            .page(node, after.as_ref(), limit)
            .map_err(|error| error.to_string())?;
        // Up to here both lists are complete; what lies beyond in one of them is the next stretch.
        let last = [wanted.last().map(|(cid, _)| *cid), held.last().map(|(cid, _)| *cid)];
        let next = stretch_end(limit, [(wanted.len(), last[0]), (held.len(), last[1])]);
        let within = |cid: &Cid| next.is_none_or(|next| *cid <= next);
        let wanted = wanted.into_iter().take_while(|(cid, _)| within(cid));
        let held = held.into_iter().take_while(|(cid, _)| within(cid));
        // Only what differs goes to the ledger's writer, which decides again on what it finds then.
        let wishes: Vec<_> = diff(wanted, held, now)
            .into_iter()
            .map(|(cid, wanted)| (node, cid, wanted))
            .collect();
        Ok((wishes, next))
    })
    .await?;
    apply(inner, wishes).await?;
    Ok(next)
}

/// Brings wishes into the ledger, cuts off what runs against them and lets the nodes know.
async fn apply(inner: &Arc<Inner>, wishes: Vec<(NodeId, Cid, Option<Wanted>)>) -> Result<(), String> {
    if wishes.is_empty() {
        return Ok(());
    }
    let now = inner.clock.now();
    let places: Vec<_> = wishes.iter().map(|(node, cid, _)| (*node, *cid)).collect();
    let edits = wishes
        .into_iter()
        .map(|(node, cid, wanted)| Edit::new(node, cid, move |old| follow(wanted.as_ref(), old, now)))
        .collect();
    let after = inner.ledger.edit(edits).await.map_err(|error| error.to_string())?;
    let mut hinted = HashSet::new();
    for ((node, cid), entry) in places.into_iter().zip(after) {
        let Some(context) = inner.context(node) else { continue };
        context.live.recheck(&cid, entry.as_ref());
        if entry.as_ref().and_then(Entry::lane).is_some() && hinted.insert(node) {
            context.hint.notify_one();
        }
    }
    Ok(())
}

async fn sync(inner: &Arc<Inner>) -> Result<(), String> {
    let ledger = Arc::clone(&inner.ledger);
    blocking(move || ledger.sync().map_err(|error| error.to_string())).await
}

async fn forget(inner: &Arc<Inner>, keys: Vec<Vec<u8>>) -> Result<(), String> {
    if keys.is_empty() {
        return Ok(());
    }
    let source = Arc::clone(&inner.source);
    blocking(move || source.forget_todo(&keys)).await
}

/// Runs what waits for the disk where that disturbs nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(error.to_string()),
    }
}
