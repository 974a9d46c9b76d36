//! One try at one CID.
//!
//! ```text
//! enter the live map ─▶ read the entry ─▶ ask the node what it holds ─▶ note our intent ─▶ act ─▶ write the outcome
//! ```
//! What it all means is decided in [`node_core::reconcile`]; this carries it out. What the node holds is asked before
//! each pin, because a daemon that is told to pin what it already has may let go of it first, and because of pins made
//! by hand:
//!
//! - A CID that was pinned on the node before a Pinfleet first touched it stays pinned there when the cluster lets go of
//!   it (`Entry::found`). If such a pin is enough for what is wanted, the node is not touched at all.
//! - Before the first request that pins, the entry is marked `ours`, and the pin is given our name. Only what is so
//!   marked or named is ever unpinned, and a crash between mark and request only means one needless unpin.
//! - The name outlives the ledger: after a lost disk, or when a node was taken out of the cluster and comes back, what
//!   bears it is ours again.
//! - On a node that `adopts`, all pins of what the cluster wants become ours, whoever made them: another cluster filled it.
//!
//! A daemon that forgets names (below Kubo 0.24) has only the mark, which survives a killed process and not a power
//! failure of this machine within `sync_interval`: then a pin of ours may be taken for one made by hand and left behind.
//! The other way round would delete what a person pinned.

use std::sync::Arc;

use cluster_ipfs::{Added, Error, Held, Listed, LookFor, Operation, Progress, Updated};
use cluster_storage::ledger::{self, Edit};
use node_core::reconcile::{self, Change, Entry, Failure as Failed, Lane, Named, Pinned, Seen, Step, Unpin};
use node_core::{Cid, ErrorClass, PinMode, Status, Timestamp};
use tokio::time::Instant;

use crate::driver::Context;
use crate::live::Running;
use crate::settings::NodeSettings;
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
        Ok(Some(entry)) if entry.wants(kind) => entry,
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

async fn pin(context: &Context, cid: &Cid, entry: &Entry, running: &Running) -> Result<Did, Failure> {
    let node = &context.node;
    let listed = node.pin_ls(cid, LookFor::Any).await?;
    context.answered();
    let seen = listed.as_ref().and_then(|listed| seen(listed, &context.settings));
    let looked = reconcile::look(entry, seen);
    let done = |ours, found, progress: Progress| {
        Ok(Did::Pinned(Pinned {
            mode: entry.mode,
            found,
            ours,
            blocks: progress.blocks,
            bytes: progress.bytes,
        }))
    };
    if looked.step == Step::Nothing {
        return done(looked.ours, looked.found, Progress::default());
    }
    let found = looked.found;
    // Also what was made by hand since: once it is overwritten nothing else tells of it.
    if !entry.ours || entry.found != found {
        let mark = Edit::new(context.id(), *cid, move |old| {
            old.map_or(Change::Keep, |old| reconcile::marked(old, found))
        });
        let after = context.ledger.edit(vec![mark]).await?;
        if !after.iter().flatten().any(|entry| entry.wants(Kind::Pin)) {
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
    if looked.step == Step::Shrink {
        // From recursive down to direct: a daemon does not shrink a pin, it has to let go of it in between.
        node.pin_rm(cid).await?;
    } else if let Some(from) = from {
        match node
            .pin_update(&from, cid, &|progress| running.set_progress(progress))
            .await
        {
            Ok(Updated::Done(progress)) => return done(true, found, progress),
            Ok(Updated::SourceNotPinned) => {}
            Err(error) if error.class.is_node_fault() => return Err(error.into()),
            // Whatever it fetched stays; pinning from the beginning needs no source and reports its progress.
            Err(error) => tracing::debug!(node = %context.id(), pin = %cid, %error, "update failed, pinning instead"),
        }
    }
    let name = if looked.under_our_name {
        &context.settings.pin_name
    } else {
        ""
    };
    let added = add(context, cid, entry, name, running).await?;
    // More than we asked for, of what we never touched before: somebody pinned it by hand since we looked.
    let by_hand = !looked.ours && entry.mode == PinMode::Direct && added.held == PinMode::Recursive;
    let found = if by_hand { Some(PinMode::Recursive) } else { found };
    done(!by_hand, found, added.progress)
}

/// Pins. A first try of which no block comes is cut off as soon as others wait for its permit: what nobody has would
/// else hold up what is there, for the whole of the stall timeout each. Later tries, which have permits of their own
/// kind, get that time.
async fn add(context: &Context, cid: &Cid, entry: &Entry, name: &str, running: &Running) -> Result<Added, Error> {
    let sink = |progress| {
        running.set_progress(progress);
        context.answered();
    };
    let adding = context.node.pin_add(cid, entry.mode, name, &sink);
    if entry.lane() != Some(Lane::Fresh) {
        return adding.await;
    }
    let quiet = context.config.first_try_quiet;
    tokio::select! {
        biased;
        added = adding => added,
        () = in_the_way(context, running) => Err(Error {
            operation: Operation::PinAdd,
            class: ErrorClass::Stalled,
            message: format!("no block came within {quiet:?} while others waited: the node found nobody who has it yet"),
            status: None,
        }),
    }
}

/// Ends when the first try has brought nothing for a while and somebody waits for its permit.
async fn in_the_way(context: &Context, running: &Running) {
    tokio::time::sleep(context.config.first_try_quiet).await;
    context.pins.crowded().await;
    if running.progress() != Progress::default() {
        std::future::pending().await
    }
}

/// The pin itself; none for what is held as a part of another pin, which may go at any time.
fn seen(listed: &Listed, settings: &NodeSettings) -> Option<Seen> {
    let mode = match listed.held {
        Held::Recursive => PinMode::Recursive,
        Held::Direct => PinMode::Direct,
        Held::Indirect => return None,
    };
    let named = match &listed.name {
        _ if settings.adopts => Named::Ours,
        Some(name) if *name == settings.pin_name => Named::Ours,
        Some(_) => Named::Another,
        None => Named::Untold,
    };
    Some(Seen { mode, named })
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
    // Only from a pin of ours: a daemon hands the name on, and under another one the new pin would look like one made
    // by hand to whoever has only the name to go by.
    let fits = |entry: &Entry| entry.status == Status::Pinned && entry.mode == PinMode::Recursive && entry.ours;
    Ok(older.as_ref().is_some_and(fits).then_some(from))
}

async fn unpin(context: &Context, cid: &Cid, entry: &Entry, running: &Running) -> Result<Did, Failure> {
    running.set_at_node();
    let node = &context.node;
    let listed = node.pin_ls(cid, LookFor::Any).await?;
    let seen = listed.as_ref().and_then(|listed| seen(listed, &context.settings));
    match reconcile::unpin(entry, seen) {
        Unpin::Nothing => {}
        Unpin::Remove => {
            node.pin_rm(cid).await?;
        }
        Unpin::BackToDirect { remove } => {
            if remove {
                node.pin_rm(cid).await?;
            }
            // Without our name: it is theirs again.
            node.pin_add(cid, PinMode::Direct, "", &|_| {}).await?;
        }
    }
    Ok(Did::Unpinned)
}

async fn write(context: &Context, edit: Edit) -> Result<Option<Entry>, ledger::Error> {
    Ok(context.ledger.edit(vec![edit]).await?.pop().flatten())
}

async fn settle_pinned(context: &Context, cid: &Cid, pinned: Pinned) -> Result<Option<Entry>, ledger::Error> {
    let (now, later) = (context.clock.now(), context.config.look_again_after);
    let edit = Edit::new(context.id(), *cid, move |old| {
        old.map_or(Change::Keep, |old| reconcile::pinned(old, pinned, now, later))
    });
    write(context, edit).await
}

async fn settle_unpinned(context: &Context, cid: &Cid) -> Result<Option<Entry>, ledger::Error> {
    let (now, later) = (context.clock.now(), context.config.look_again_after);
    let edit = Edit::new(context.id(), *cid, move |old| {
        old.map_or(Change::Keep, |old| reconcile::unpinned(old, now, later))
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
    let failure = Failed {
        kind,
        class,
        message: error.message,
        blocks: progress.blocks,
        bytes: progress.bytes,
    };
    let edit = Edit::new(context.id(), *cid, move |old| {
        old.map_or(Change::Keep, |old| reconcile::failed(old, &failure, &policy, now, seed))
    });
    let after = write(context, edit).await?;
    if let Some(entry) = &after
        && kind == Kind::Pin
        && entry.status == Status::GaveUp
    {
        tracing::info!(node = %context.id(), pin = %cid, class = class.as_str(), attempts = entry.attempts, error = %entry.error, "gave up");
        context.observer.gave_up(context.id(), class);
    }
    Ok(after)
}
