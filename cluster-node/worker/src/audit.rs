//! Looks at a few pinned CIDs now and then, in CID order and round again: whether the node still holds them.
//!
//! A daemon's pins can be changed behind the cluster's back: by a person, or by a repository that was restored from a
//! backup. Asking for all pins would take hours on a large node, so it is a sample. What is missing is pinned anew, and
//! logged, so that somebody looks at the rest.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use cluster_ipfs::{Held, LookFor};
use cluster_storage::ledger::{self, Edit, Ledger, Note};
use node_core::reconcile::{Change, Entry, requeued};
use node_core::{Cid, NodeId, Status};

use crate::drain;
use crate::driver::Context;

/// Entries passed over at a time in search of a pinned one. A node where nothing is pinned must not be read through
/// each time.
const LOOKED_AT_MAX: usize = 1_024;

/// Audits until the node is not driven any more.
pub(crate) async fn watch(context: Arc<Context>) {
    let per_minute = context.config.audit_per_minute;
    if per_minute == 0 {
        return;
    }
    let interval = Duration::from_secs(60) / per_minute;
    loop {
        tokio::select! {
            () = context.cancel.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        // What can't be asked tells nothing, and a node in trouble is left alone.
        if !context.health.lock().reachable || context.flow.lock().is_held_back() {
            continue;
        }
        tokio::select! {
            () = context.cancel.cancelled() => return,
            audited = audit(&context) => if let Err(error) = audited {
                tracing::warn!(node = %context.id(), %error, "the node's pins could not be audited");
            }
        }
    }
}

async fn audit(context: &Context) -> Result<(), String> {
    let (ledger, id) = (Arc::clone(&context.ledger), context.id());
    let picked = drain::blocking(move || pick(&ledger, id).map_err(|error| error.to_string())).await?;
    let Some((cid, entry)) = picked else { return Ok(()) };
    if context.live.has(&cid) {
        return Ok(());
    }
    let listed = match context.node.pin_ls(&cid, LookFor::Any).await {
        Ok(listed) => listed,
        // The probe says what is to be said of a node that does not answer.
        Err(error) => {
            tracing::debug!(node = %id, pin = %cid, %error, "audit failed");
            return Ok(());
        }
    };
    let held = listed.as_ref().map(|pin| pin.held);
    if held.is_some_and(|held| held.satisfies(entry.mode)) {
        return Ok(());
    }
    let now = context.clock.now();
    // Only if nothing has happened to it since it was picked: else the look may have been at a moment in between.
    let edit = Edit::new(id, cid, move |old| match old {
        Some(old) if *old == entry => Change::Put(requeued(old, now)),
        _ => Change::Keep,
    });
    let after = context
        .ledger
        .edit(vec![edit])
        .await
        .map_err(|error| error.to_string())?;
    if after.iter().flatten().any(|entry| entry.status == Status::Queued) {
        let held = held.map_or("nothing", word);
        tracing::warn!(node = %id, name = %context.settings.name, pin = %cid, held, "the node does not hold what it had pinned; it is pinned anew");
        context.hint.notify_one();
    }
    Ok(())
}

fn word(held: Held) -> &'static str {
    match held {
        Held::Recursive => "recursive",
        Held::Direct => "direct",
        Held::Indirect => "indirect",
    }
}

/// The next pinned entry behind the last one audited. None when there is none nearby; the next look goes on from there,
/// and from the beginning after the end.
fn pick(ledger: &Ledger, node: NodeId) -> Result<Option<(Cid, Entry)>, ledger::Error> {
    let cursor = ledger.note(node, Note::Audited)?;
    // A cursor that can't be read is one at the beginning.
    let after = cursor.as_deref().and_then(|bytes| Cid::from_bytes(bytes).ok());
    let (mut picked, mut passed, mut last) = (None, 0, None);
    ledger.scan(node, after.as_ref(), |cid, entry| {
        passed += 1;
        last = Some(cid);
        if entry.status == Status::Pinned {
            picked = Some((cid, entry));
        }
        if picked.is_some() || passed >= LOOKED_AT_MAX {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    if last != after {
        let cursor = last.map(|cid| cid.to_bytes()).unwrap_or_default();
        ledger.set_note(node, Note::Audited, &cursor)?;
    }
    Ok(picked)
}
