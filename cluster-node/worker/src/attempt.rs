//! One try at one CID.
//!
//! ```text
//! enter the live map ─▶ read the entry ─▶ ask the node what it holds ─▶ note our intent ─▶ act ─▶ write the outcome
//! ```
//! What the node holds is asked before each pin, because a daemon that is told to pin what it already has may let go
//! of it first, and because of pins made by hand:
//!
//! - A CID that was pinned on the node before this peer first touched it stays pinned there when the cluster lets go of
//!   it (`Entry::found`). If such a pin is enough for what is wanted, the node is not touched at all.
//! - Before the first request that pins, the entry is marked `ours`. Only entries so marked are ever unpinned, and a
//!   crash between mark and request only means one needless unpin.
//!
//! The mark survives a killed process, not a power failure of this machine within `sync_interval`: then a pin of ours
//! may be taken for one made by hand and left behind. The other way round would delete what a person pinned.

use std::sync::Arc;

use cluster_kubo::{Error, Held, Progress, Updated};
use cluster_storage::ledger::{self, Change, Edit, Entry, Lane};
use node_core::retry::{RetryPolicy, Verdict};
use node_core::{Cid, ErrorClass, PinMode, Status, Timestamp};
use tokio::time::Instant;

use crate::driver::Context;
use crate::live::Running;
use crate::{Kind, log};

/// Addresses that are tried before a pin; more would only delay it.
const ORIGINS_MAX: usize = 10;

/// How a try ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The node holds it, or has let go of it.
    Done,
    /// The node or the way to it failed.
    Failed(ErrorClass),
    /// Nothing was to be done: the entry asks for something else by now.
    Moot,
    /// Cut off: not wanted any more, or stopping.
    Cut,
    /// The outcome could not be written.
    Ledger(ledger::Error),
}

/// What the driver learns of a try.
#[derive(Debug)]
pub(crate) struct Finished {
    pub cid: Cid,
    pub kind: Kind,
    pub outcome: Outcome,
    /// Where it waits now, and until when.
    pub waits: Option<(Lane, Timestamp)>,
}

/// What the node did.
enum Did {
    Pinned(Pinned),
    Unpinned,
    Moot,
}

struct Pinned {
    /// What was wanted when the try began.
    mode: PinMode,
    found: Option<PinMode>,
    ours: bool,
    progress: Progress,
}

enum Failure {
    Node(Error),
    Ledger(ledger::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Node(error)
    }
}

impl From<ledger::Error> for Failure {
    fn from(error: ledger::Error) -> Self {
        Self::Ledger(error)
    }
}

/// Removes the operation from the live map however its future ends.
struct Leave<'a>(&'a Context, Cid);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.live.leave(&self.1);
    }
}

/// Tries once. The operation was entered into the live map by the caller.
pub(crate) async fn run(context: Arc<Context>, cid: Cid, running: Arc<Running>) -> Finished {
    let _leave = Leave(&context, cid);
    let begun = Instant::now();
    let kind = running.kind;
    let finished = |outcome, waits| Finished {
        cid,
        kind,
        outcome,
        waits,
    };
    let entry = match context.ledger.get(context.id(), &cid) {
        Ok(Some(entry)) if wants(kind, &entry) => entry,
        Ok(_) => return finished(Outcome::Moot, None),
        Err(error) => return finished(Outcome::Ledger(error), None),
    };
    if entry.next_due > context.clock.now() {
        return finished(Outcome::Moot, entry.lane().map(|lane| (lane, entry.next_due)));
    }
    running.set_mode(entry.mode);
    let work = async {
        match kind {
            Kind::Pin => pin(&context, &cid, &entry, &running).await,
            Kind::Unpin => unpin(&context, &cid, &entry, &running).await,
        }
    };
    let result = tokio::select! {
        biased;
        () = running.cancel.cancelled() => return finished(Outcome::Cut, None),
        result = work => result,
    };
    let took = begun.elapsed();
    log::attempt(
        &context,
        &cid,
        kind,
        entry.attempts,
        result.as_ref().err().and_then(node_error),
        took,
    );
    let written = match result {
        Ok(Did::Moot) => return finished(Outcome::Moot, None),
        Ok(Did::Pinned(pinned)) => settle_pinned(&context, &cid, pinned)
            .await
            .map(|after| (Outcome::Done, after)),
        Ok(Did::Unpinned) => settle_unpinned(&context, &cid)
            .await
            .map(|after| (Outcome::Done, after)),
        Err(Failure::Node(error)) => {
            let progress = running.progress();
            let class = error.class;
            let after = settle_failed(&context, &cid, kind, error, progress).await;
            after.map(|after| (Outcome::Failed(class), after))
        }
        Err(Failure::Ledger(error)) => Err(error),
    };
    match written {
        Ok((outcome, after)) => {
            let class = if let Outcome::Failed(class) = &outcome {
                Err(*class)
            } else {
                Ok(())
            };
            context.observer.attempt(context.id(), kind, class, took);
            finished(outcome, after.and_then(|entry| Some((entry.lane()?, entry.next_due))))
        }
        Err(error) => finished(Outcome::Ledger(error), None),
    }
}

fn node_error(failure: &Failure) -> Option<&Error> {
    if let Failure::Node(error) = failure {
        Some(error)
    } else {
        None
    }
}

/// Whether the entry still asks for this kind of work.
fn wants(kind: Kind, entry: &Entry) -> bool {
    match kind {
        Kind::Pin => matches!(entry.status, Status::Queued | Status::Retrying),
        Kind::Unpin => entry.status == Status::Unpinning,
    }
}

async fn pin(context: &Context, cid: &Cid, entry: &Entry, running: &Running) -> Result<Did, Failure> {
    let node = &context.node;
    let held = node.pin_ls(cid).await?;
    let held = match held {
        Some(Held::Recursive) => Some(PinMode::Recursive),
        Some(Held::Direct) => Some(PinMode::Direct),
        // Held as a part of another pin, which may go at any time.
        Some(Held::Indirect) | None => None,
    };
    // What is there before our first request was made by hand.
    let found = if entry.ours { entry.found } else { held };
    let keep_found = found == Some(PinMode::Recursive);
    let enough = match (held, entry.mode) {
        (Some(PinMode::Recursive), PinMode::Recursive) | (Some(PinMode::Direct), PinMode::Direct) => true,
        // More than is wanted: shrunk when it is ours, left alone when it was made by hand.
        (Some(PinMode::Recursive), PinMode::Direct) => keep_found || !entry.ours,
        _ => false,
    };
    if enough {
        return Ok(Did::Pinned(Pinned {
            mode: entry.mode,
            found,
            ours: entry.ours,
            progress: Progress::default(),
        }));
    }
    if !entry.ours {
        let mark = Edit::new(context.id(), *cid, move |old| match old {
            Some(old) if wants(Kind::Pin, old) => Change::Put(Entry {
                ours: true,
                found,
                ..old.clone()
            }),
            _ => Change::Keep,
        });
        let after = context.ledger.edit(vec![mark]).await?;
        if !after.iter().flatten().any(|entry| wants(Kind::Pin, entry)) {
            return Ok(Did::Moot);
        }
    }
    // Only now: looking and noting down are cheap, and while they go on another pin can use the permit.
    let _permit = context.pins.enter().await;
    running.set_at_node();
    let mut from = None;
    if entry.hints {
        from = follow_hints(context, cid, entry.mode).await?;
    }
    let sink = |progress| running.set_progress(progress);
    if held == Some(PinMode::Recursive) {
        // From recursive down to direct: a daemon does not shrink a pin, it has to let go of it in between.
        node.pin_rm(cid).await?;
    } else if let Some(from) = from {
        match node.pin_update(&from, cid, &sink).await {
            Ok(Updated::Done(progress)) => {
                return Ok(Did::Pinned(Pinned {
                    mode: entry.mode,
                    found,
                    ours: true,
                    progress,
                }));
            }
            Ok(Updated::SourceNotPinned) => {}
            Err(error) if error.class.is_node_fault() => return Err(error.into()),
            // Whatever it fetched stays; pinning from the beginning needs no source and reports its progress.
            Err(error) => tracing::debug!(node = %context.id(), pin = %cid, %error, "update failed, pinning instead"),
        }
    }
    let added = node.pin_add(cid, entry.mode, &sink).await?;
    // More than we asked for, of what we never touched before: somebody pinned it by hand since we looked.
    let by_hand = !entry.ours && entry.mode == PinMode::Direct && added.held == PinMode::Recursive;
    let found = if by_hand { Some(PinMode::Recursive) } else { found };
    Ok(Did::Pinned(Pinned {
        mode: entry.mode,
        found,
        ours: !by_hand,
        progress: added.progress,
    }))
}

/// Connects to the origins and finds out whether an older version of the content is pinned on the node.
async fn follow_hints(context: &Context, cid: &Cid, mode: PinMode) -> Result<Option<Cid>, Failure> {
    let (source, id, key) = (Arc::clone(&context.source), context.id(), *cid);
    let wanted = tokio::task::spawn_blocking(move || source.wanted(id, &key)).await;
    let wanted = match wanted {
        Ok(Ok(Some(wanted))) => wanted,
        // Hints only make it faster.
        Ok(Ok(None)) | Err(_) => return Ok(None),
        Ok(Err(error)) => {
            tracing::debug!(node = %id, pin = %cid, %error, "origins could not be read");
            return Ok(None);
        }
    };
    let origins = &wanted.origins[..wanted.origins.len().min(ORIGINS_MAX)];
    if !origins.is_empty() {
        let connecting = tokio::time::timeout(context.config.origins_timeout, context.node.swarm_connect(origins));
        match connecting.await {
            Ok(connected) => {
                for error in connected.failures {
                    tracing::debug!(node = %id, pin = %cid, %error, "origin not reached");
                }
            }
            Err(_) => tracing::debug!(node = %id, pin = %cid, "origins did not answer in time"),
        }
    }
    let Some(from) = wanted
        .updated_from
        .filter(|from| mode == PinMode::Recursive && from != cid)
    else {
        return Ok(None);
    };
    let older = context.ledger.get(id, &from)?;
    let pinned = |entry: &Entry| entry.status == Status::Pinned && entry.mode == PinMode::Recursive;
    Ok(older.as_ref().is_some_and(pinned).then_some(from))
}

async fn unpin(context: &Context, cid: &Cid, entry: &Entry, running: &Running) -> Result<Did, Failure> {
    if !entry.ours {
        return Ok(Did::Unpinned);
    }
    running.set_at_node();
    let node = &context.node;
    match entry.found {
        None => {
            node.pin_rm(cid).await?;
        }
        // It was there before us and was enough: what is there now is not ours.
        Some(PinMode::Recursive) => {}
        // We made more of a direct pin made by hand: back to what it was.
        Some(PinMode::Direct) => match node.pin_ls(cid).await? {
            Some(Held::Direct) => {}
            held => {
                if held == Some(Held::Recursive) {
                    node.pin_rm(cid).await?;
                }
                node.pin_add(cid, PinMode::Direct, &|_| {}).await?;
            }
        },
    }
    Ok(Did::Unpinned)
}

async fn write(context: &Context, edit: Edit) -> Result<Option<Entry>, ledger::Error> {
    Ok(context.ledger.edit(vec![edit]).await?.pop().flatten())
}

async fn settle_pinned(context: &Context, cid: &Cid, pinned: Pinned) -> Result<Option<Entry>, ledger::Error> {
    let now = context.clock.now();
    let edit = Edit::new(context.id(), *cid, move |old| match old {
        Some(old) if wants(Kind::Pin, old) => {
            let mut next = Entry {
                ours: pinned.ours,
                found: pinned.found,
                ..old.clone()
            };
            if old.mode == pinned.mode {
                next.status = Status::Pinned;
                next.attempts += 1;
                next.pinned_at = Some(now);
                next.changed = now;
                next.error.clear();
                next.class = None;
                (next.blocks, next.bytes) = (pinned.progress.blocks, pinned.progress.bytes);
            } else {
                // Another mode is wanted by now than when the try began.
                next.next_due = now;
            }
            Change::Put(next)
        }
        // Not wanted any more: an unpin is queued and will find what was done.
        _ => Change::Keep,
    });
    write(context, edit).await
}

async fn settle_unpinned(context: &Context, cid: &Cid) -> Result<Option<Entry>, ledger::Error> {
    let edit = Edit::new(context.id(), *cid, |old| match old {
        Some(old) if wants(Kind::Unpin, old) => Change::Delete,
        // Wanted again meanwhile: the next try asks the node what is left.
        _ => Change::Keep,
    });
    write(context, edit).await
}

async fn settle_failed(
    context: &Context,
    cid: &Cid,
    kind: Kind,
    error: Error,
    progress: Progress,
) -> Result<Option<Entry>, ledger::Error> {
    let now = context.clock.now();
    let class = error.class;
    let policy = context.settings.retry.clone();
    let seed = context.seed();
    let edit = Edit::new(context.id(), *cid, move |old| match old {
        Some(old) if wants(kind, old) => Change::Put(after_failure(&policy, old, kind, &error, progress, now, seed)),
        _ => Change::Keep,
    });
    let after = write(context, edit).await?;
    if let Some(entry) = &after
        && entry.status == Status::GaveUp
    {
        tracing::info!(node = %context.id(), pin = %cid, class = class.as_str(), attempts = entry.attempts, error = %entry.error, "gave up");
        context.observer.gave_up(context.id(), class);
    }
    Ok(after)
}

/// The entry after a failed try.
fn after_failure(
    policy: &RetryPolicy,
    old: &Entry,
    kind: Kind,
    error: &Error,
    progress: Progress,
    now: Timestamp,
    seed: u64,
) -> Entry {
    let class = error.class;
    // A fault of the node is not one of the content: it moves the next try, and nothing else.
    let attempts = if class.is_node_fault() {
        old.attempts
    } else {
        old.attempts.saturating_add(1)
    };
    let mut next = Entry {
        attempts,
        error: error.message.clone(),
        class: Some(class),
        ..old.clone()
    };
    if kind == Kind::Pin {
        (next.blocks, next.bytes) = (progress.blocks, progress.bytes);
    }
    match policy.judge(class, attempts, now.since(old.first_queued), seed) {
        Verdict::Retry(after) => {
            next.next_due = now.plus(after);
            if kind == Kind::Pin && !class.is_node_fault() {
                next.status = Status::Retrying;
            }
        }
        Verdict::GiveUp(reason) if kind == Kind::Pin => {
            next.status = Status::GaveUp;
            next.error = format!("{reason}: {}", next.error);
        }
        // What is not let go of would stay on the disk for ever.
        Verdict::GiveUp(_) => next.next_due = now.plus(policy.max),
    }
    if next.status != old.status {
        next.changed = now;
    }
    next
}
