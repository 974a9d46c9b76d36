//! Reading again what rests: finds blocks that the disk has spoilt, and fetches them anew.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster_blocks::Budget;
use node_core::Cid;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::error::Failure;
use crate::inner::Inner;
use crate::{blocking, walk};

/// The note that says where it stands.
const NOTE: &str = "embedded.scrub";

/// Blocks and time of one step.
const STEP_KEYS: usize = 64;
const STEP_TIME: Duration = Duration::from_millis(100);

/// Bytes of one step: less where a second of the allowed rate is less.
const STEP_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How often the position is written down.
const SAVE_EVERY: Duration = Duration::from_secs(30);

/// Pause after something failed; less where that between passes is less. What failed is looked at again in the next pass
/// at the latest, and a disk in trouble is not asked faster than somebody can read the log.
const FAILED_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How often a step that fails as a whole is tried at one place before the pass begins anew.
const TRIES_MAX: u32 = 3;

/// Corrupt blocks that are listed.
const LISTED_MAX: usize = 100;

/// The scrubber.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScrubReport {
    /// Share of this pass that is done since the start, 0.0 to 1.0.
    pub done: f64,
    /// Blocks checked since the start.
    pub checked_blocks: u64,
    /// Their bytes.
    pub checked_bytes: u64,
    /// Blocks found corrupt since the start.
    pub corrupt: u64,
    /// The last of them, as raw CIDs, at most a hundred.
    pub last_corrupt: Vec<Cid>,
    /// Pins that lost a block and were completed again.
    pub repaired: u64,
    /// Pins that lost a block which was not found again so far.
    pub broken: Vec<Cid>,
    /// Passes that were completed since the start.
    pub passes: u64,
}

#[derive(Default)]
pub(crate) struct Scrub {
    state: Mutex<ScrubReport>,
}

impl Scrub {
    pub(crate) fn report(&self) -> ScrubReport {
        self.state.lock().clone()
    }
}

/// Reads again and again until the node ends, whatever fails: were it to end by itself, one bad sector would keep all
/// others from being found.
pub(crate) async fn run(inner: Arc<Inner>) {
    if inner.config.scrub.bytes_per_second == 0 {
        return;
    }
    tokio::select! {
        () = inner.stop.cancelled() => {}
        () = scrub(&inner) => {}
    }
}

/// Never ends.
async fn scrub(inner: &Arc<Inner>) {
    let rate = inner.config.scrub.bytes_per_second;
    let failed_pause = FAILED_PAUSE_MAX.min(inner.config.scrub.pause);
    let store = inner.store.clone();
    let noted: Option<Bytes> = blocking(move || store.note(NOTE)).await.unwrap_or_else(|failure| {
        tracing::warn!(
            reason = failure.words,
            "where reading resting blocks stood is not known: it begins anew"
        );
        None
    });
    let mut after = noted.and_then(|bytes| Cid::from_bytes(&bytes).ok());
    let mut saved = Instant::now();
    let mut in_pass = 0;
    let mut tries = 0;
    loop {
        let begun = Instant::now();
        let budget = Budget {
            keys: STEP_KEYS,
            bytes: rate.min(STEP_BYTES_MAX),
            time: STEP_TIME,
        };
        let store = inner.store.clone();
        let step = match blocking(move || store.scrub_step(after.as_ref(), budget)).await {
            Ok(step) => step,
            Err(failure) => {
                tracing::warn!(behind = ?after, reason = failure.words, "resting blocks can't be read here");
                tries += 1;
                if tries == TRIES_MAX {
                    (after, in_pass, tries) = (None, 0, 0);
                }
                sleep(failed_pause).await;
                continue;
            }
        };
        tries = 0;
        {
            let mut state = inner.scrub.state.lock();
            in_pass += step.checked.blocks;
            // Of a pass that goes on after a restart it is not known how many lie behind.
            let blocks = inner.store.usage().blocks.max(1);
            state.done = (in_pass as f64 / blocks as f64).min(1.0);
            state.checked_blocks += step.checked.blocks;
            state.checked_bytes += step.checked.bytes;
        }
        let mut failed = false;
        if let Some(problem) = step.problems.first() {
            failed = true;
            let count = step.problems.len();
            tracing::warn!(behind = ?after, count, reason = %problem, "resting blocks can't be read; they are passed over");
        }
        for cid in step.corrupt {
            if let Err(failure) = repair(inner, cid).await {
                failed = true;
                tracing::error!(%cid, reason = failure.words, "a block on the disk is corrupt, and can't be removed");
            }
        }
        let ended = step.next.is_none();
        after = step.next;
        if ended || saved.elapsed() >= SAVE_EVERY {
            let value = after.map(|cid| Bytes::from(cid.to_bytes()));
            if let Err(error) = inner.store.set_note(NOTE, value).await {
                // Costs no more than reading some twice after a restart.
                tracing::debug!(%error, "where reading resting blocks stands is not written down");
            }
            saved = Instant::now();
        }
        if ended {
            in_pass = 0;
            inner.scrub.state.lock().passes += 1;
            sleep(inner.config.scrub.pause).await;
        } else if failed {
            sleep(failed_pause).await;
        } else {
            let due = Duration::from_secs_f64(step.checked.bytes as f64 / rate as f64);
            // At least a moment, so that a store of tiny blocks is not gone through in one breath.
            sleep(due.saturating_sub(begun.elapsed()).max(Duration::from_millis(1))).await;
        }
    }
}

/// Takes a corrupt block out, so that nobody is served it, and completes the pins that it was part of.
async fn repair(inner: &Arc<Inner>, cid: Cid) -> Result<(), Failure> {
    let store = inner.store.clone();
    let pins = blocking(move || store.remove_corrupt(&cid)).await?;
    tracing::error!(%cid, pins = pins.len(), "a block on the disk is corrupt: it was removed, and is fetched again for its pins");
    {
        let mut state = inner.scrub.state.lock();
        state.corrupt += 1;
        if state.last_corrupt.len() == LISTED_MAX {
            state.last_corrupt.remove(0);
        }
        state.last_corrupt.push(cid);
    }
    for pin in pins {
        // The cluster notices too that it is not pinned any more, and whoever of both comes first fetches it.
        match walk::resume(inner, pin, &|_| {}).await {
            Ok(Some(_)) => inner.scrub.state.lock().repaired += 1,
            Ok(None) => {}
            Err(failure) => {
                tracing::error!(%pin, reason = failure.words, "a pin lost a block and is not complete any more");
                let mut state = inner.scrub.state.lock();
                if state.broken.len() < LISTED_MAX && !state.broken.contains(&pin) {
                    state.broken.push(pin);
                }
            }
        }
    }
    Ok(())
}
