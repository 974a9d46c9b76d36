//! Collecting garbage: a pass in small steps, on command or when the disk fills.

use std::sync::Arc;
use std::time::Duration;

use cluster_blocks::{Budget, GcCursor, GcEstimate};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::blocking;
use crate::disk::Level;
use crate::error::Failure;
use crate::inner::Inner;

/// Keys looked at, bytes deleted and time taken in one step: puts wait for no longer than that.
const STEP: Budget = Budget {
    keys: 4_096,
    bytes: 64 * 1024 * 1024,
    time: Duration::from_millis(25),
};

/// Deleted bytes above which their disk space is asked back at once and not by and by.
const RECLAIM_BYTES: u64 = 256 * 1024 * 1024;

/// The longest pause between passes begun by themselves, when they find nothing: a full disk without garbage is not
/// searched over and over.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// The garbage collector.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GcReport {
    /// A pass is under way.
    pub running: bool,
    /// Share of the present look over the store that is done, 0.0 to 1.0.
    pub done: f64,
    /// Looks over the store in this pass or the last one. Behind one that deleted something comes another.
    pub looks: u64,
    /// Blocks looked at in this pass or the last one.
    pub scanned: u64,
    /// Blocks deleted in this pass or the last one.
    pub deleted_blocks: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Passes since the start.
    pub passes: u64,
    /// How long the last pass took.
    pub took: Duration,
    /// Why the last pass ended before its time; empty when it did not.
    pub problem: String,
}

#[derive(Default)]
pub(crate) struct Gc {
    turn: tokio::sync::Mutex<()>,
    state: Mutex<GcReport>,
}

impl Gc {
    pub(crate) fn report(&self) -> GcReport {
        self.state.lock().clone()
    }
}

/// Marks the pass as over however its future ends.
struct Pass<'a>(&'a Gc, Instant);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.running = false;
        state.took = self.1.elapsed();
    }
}

/// Collects until there is no garbage. One pass at a time: who comes second waits, and looks again. Dropping the future
/// ends it behind the step under way; nothing is lost by that.
pub(crate) async fn collect(inner: &Inner) -> Result<GcReport, Failure> {
    let _turn = inner.gc.turn.lock().await;
    let pass = Pass(&inner.gc, Instant::now());
    {
        let mut state = inner.gc.state.lock();
        let passes = state.passes + 1;
        *state = GcReport {
            running: true,
            passes,
            ..GcReport::default()
        };
    }
    let result = tokio::select! {
        biased;
        () = inner.stop.cancelled() => Err(Failure::stopping()),
        result = sweep(inner) => result,
    };
    drop(pass);
    if let Err(failure) = result {
        inner.gc.state.lock().problem.clone_from(&failure.words);
        return Err(failure);
    }
    let report = inner.gc.report();
    tracing::info!(
        blocks = report.deleted_blocks,
        bytes = report.deleted_bytes,
        took = ?report.took,
        "garbage collected"
    );
    Ok(report)
}

async fn sweep(inner: &Inner) -> Result<(), Failure> {
    let effort = u32::from(inner.config.gc.effort_percent);
    let store = inner.store.clone();
    blocking(move || store.expire_kept(crate::now())).await?;
    // What held deleted blocks is gone with them: until a look finds nothing, there may be more.
    loop {
        let mut cursor = GcCursor::default();
        let mut deleted = 0;
        {
            let mut state = inner.gc.state.lock();
            state.looks += 1;
            state.done = 0.0;
        }
        loop {
            let store = inner.store.clone();
            let begun = Instant::now();
            let step = blocking(move || store.gc_step(cursor, STEP)).await?;
            let took = begun.elapsed();
            deleted += step.deleted.blocks;
            {
                let mut state = inner.gc.state.lock();
                state.done = step.done;
                state.scanned += step.scanned;
                state.deleted_blocks += step.deleted.blocks;
                state.deleted_bytes += step.deleted.bytes;
            }
            match step.next {
                Some(next) => cursor = next,
                None => break,
            }
            if effort < 100 {
                sleep(took * (100 - effort) / effort).await;
            }
        }
        if deleted == 0 {
            break;
        }
    }
    if inner.gc.state.lock().deleted_bytes >= RECLAIM_BYTES {
        let store = inner.store.clone();
        blocking(move || store.reclaim()).await?;
    }
    // What it freed counts at once.
    inner.gate.look().await?;
    Ok(())
}

/// What a pass would free, found within this time.
pub(crate) async fn estimate(inner: &Inner, time: Duration) -> Result<GcEstimate, Failure> {
    let store = inner.store.clone();
    blocking(move || store.gc_estimate(time)).await
}

/// Collects by itself when the disk fills, until the node ends.
pub(crate) async fn run(inner: Arc<Inner>) {
    let config = inner.config.gc;
    let mut pause = config.interval;
    let mut in_vain = false;
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            () = sleep(pause) => {}
            // Not when the last pass found nothing: then only time or an unpin can help.
            () = inner.gate.turned_away.notified(), if !in_vain => {}
        }
        pause = config.interval;
        in_vain = false;
        let level = match inner.gate.level().await {
            Ok(level) => level,
            Err(failure) => {
                tracing::warn!(reason = failure.words, "the disk can't be looked at");
                continue;
            }
        };
        if level == Level::Fine {
            continue;
        }
        match collect(&inner).await {
            Ok(report) if report.deleted_blocks == 0 => {
                if let Ok(Level::Stop(reason)) = inner.gate.level().await {
                    tracing::warn!(reason, "nothing new is taken, and there is no garbage");
                }
                in_vain = true;
                pause = (config.interval * 10).min(IDLE_MAX).max(config.interval);
            }
            Ok(_) => {}
            Err(failure) => tracing::warn!(reason = failure.words, "garbage collection ended early"),
        }
    }
}
