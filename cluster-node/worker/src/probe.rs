//! Asks a node how it is.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cluster_ipfs::{Error, Identity, RepoStat};
use cluster_storage::ledger::Note;
use node_core::{ErrorClass, Timestamp};
use tokio::time::Instant;

use crate::driver::Context;
use crate::recover;

/// What the last questions brought.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    pub reachable: bool,
    pub error: Option<(ErrorClass, String)>,
    pub identity: Option<Identity>,
    pub stat: Option<RepoStat>,
    pub version: Option<String>,
    pub probed_at: Option<Timestamp>,
}

/// Asks until the node is not driven any more. Independent of the work at the node: a hung pin says nothing about the
/// daemon, and a daemon that hangs must be noticed while nothing is to be done.
pub(crate) async fn watch(context: Arc<Context>) {
    loop {
        let wait = tokio::select! {
            () = context.cancel.cancelled() => return,
            wait = probe(&context) => wait,
        };
        tokio::select! {
            () = context.cancel.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Asks once and returns how long to wait before the next time.
async fn probe(context: &Context) -> Duration {
    let config = &context.config;
    let begun = Instant::now();
    let answer = ask(config.probe_timeout, context.node.id()).await;
    let took = begun.elapsed();
    let id = context.id();
    context
        .observer
        .probe(id, answer.as_ref().map(|_| ()).map_err(|(class, _)| *class), took);
    let now = context.clock.now();
    let identity = match answer {
        Ok(identity) => identity,
        Err((class, error)) => {
            let mut health = context.health.lock();
            if health.reachable || health.probed_at.is_none() {
                tracing::warn!(node = %id, name = %context.settings.name, class = class.as_str(), %error, "node does not answer");
            }
            health.reachable = false;
            health.error = Some((class, error));
            health.probed_at = Some(now);
            drop(health);
            context.flow.lock().probed(Err(class), Instant::now());
            return config.recheck_interval.min(config.report_interval);
        }
    };
    if let Err(error) = recognise(context, &identity.peer_id).await {
        // Without that what the ledger says of the node may be wrong, so it is asked again soon and not worked at.
        tracing::error!(node = %id, name = %context.settings.name, %error, "whether it is the same daemon as before could not be found out");
        return config.recheck_interval.min(config.report_interval);
    }
    let returned = {
        let mut health = context.health.lock();
        let returned = !health.reachable;
        if returned && health.probed_at.is_some() {
            tracing::info!(node = %id, name = %context.settings.name, "node answers again");
        }
        health.reachable = true;
        health.error = None;
        health.identity = Some(identity);
        health.probed_at = Some(now);
        returned
    };
    context.flow.lock().probed(Ok(()), Instant::now());
    // Work that waits for the node begins now, not when the figures below are there.
    context.hint.notify_one();
    // The version changes only with a restart, which was noticed or is unlikely to matter.
    if returned && let Ok(version) = ask(config.probe_timeout, context.node.version()).await {
        context.health.lock().version = Some(version);
    }
    match ask(config.probe_timeout, context.node.repo_stat()).await {
        Ok(stat) => context.health.lock().stat = Some(stat),
        // Free space that is not known is not free space: an old figure would let the node be filled up.
        Err((class, error)) => {
            let mut health = context.health.lock();
            health.stat = None;
            health.error = Some((class, error));
        }
    }
    config.report_interval
}

/// Compares the daemon that answers with the one that the ledger speaks of. Another one, or one whose repository was
/// made anew, holds nothing of what the ledger says, so all of it is looked for and pinned anew.
async fn recognise(context: &Context, peer: &str) -> Result<(), String> {
    let id = context.id();
    let known = context
        .ledger
        .note(id, Note::Daemon)
        .map_err(|error| error.to_string())?;
    if known.as_deref() == Some(peer.as_bytes()) || peer.is_empty() {
        return Ok(());
    }
    if let Some(known) = known {
        let known = String::from_utf8_lossy(&known);
        tracing::warn!(
            node = %id, name = %context.settings.name, before = %known, now = %peer,
            "another IPFS daemon answers at the node's address: everything is looked for and pinned anew"
        );
        let count = recover::requeue_all(&context.ledger, id, context.clock.now()).await?;
        tracing::info!(node = %id, count, "entries were queued anew");
    }
    // Only now: after a crash in between it is done once more.
    let note = context.ledger.set_note(id, Note::Daemon, peer.as_bytes());
    note.map_err(|error| error.to_string())?;
    context.hint.notify_one();
    Ok(())
}

async fn ask<T>(limit: Duration, question: impl Future<Output = Result<T, Error>>) -> Result<T, (ErrorClass, String)> {
    match tokio::time::timeout(limit, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err((error.class, error.to_string())),
        Err(_) => Err((
            ErrorClass::Unreachable,
            format!("no answer within {} ms", limit.as_millis()),
        )),
    }
}
