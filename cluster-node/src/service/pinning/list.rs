//! Pages of pins, from the newest to the oldest.
//!
//! A page is read in steps: some rows of an index ([`Finder`]), then where their pins stand ([`stand`]). What is newer than a
//! page's last pin has no part in the next one, which begins behind it, so pins that arrive between two pages are neither missed
//! nor shown twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_storage::state::StateDb;
use node_core::pinset::KvError;
use node_core::{PeerId, Pin, PinOptions, PinningStatus, Status};

use super::find::{Finder, LISTED_MAX, PINNING_PAGE_MAX, PinningFilter, keys_of};
use super::stand::{PEER_TIMEOUT, PinningView, stand};
use crate::service::status::{Sources, cids_in};
use crate::service::{Error, Pins};

/// Matches that are looked for, the page's among them, to tell how many there are. Beyond them the count is a lower bound: it
/// says that there are more. Looking at so many takes a few milliseconds, as long as the largest page.
const LOOK_AHEAD: usize = 1_000;

/// Rows that are counted behind a page where rows alone tell the count.
const COUNTED: usize = 10_000;

/// Rows of one step: what one call to another peer takes.
const STEP: usize = 1_000;

/// Rows of a step at least.
const LEAST: usize = 64;

/// Rows of which none or few fit before the ledgers are asked which CIDs are in the states wanted.
const RARE_AFTER: usize = 4_000;

/// CIDs in rare states that are looked at one by one. More are not rare.
const RARE_MAX: usize = 20_000;

/// Bytes of pins after which a page ends early, about: of such with little metadata a page is a fraction of it.
const PAGE_BYTES: usize = 8 << 20;

/// How long pins are looked for once one is found: clients go on behind it.
const SOME: Duration = Duration::from_millis(500);

/// How long pins are looked for in vain. A page without pins but with more behind it is what clients can't go on from.
const NONE: Duration = Duration::from_secs(10);

/// A page of pins.
#[derive(Debug, Clone, PartialEq)]
pub struct PinningPage {
    /// The newest first.
    pub views: Vec<PinningView>,
    /// How many the filter finds, these included; if there are more than `is_exact` tells, at least one more than these.
    pub count: usize,
    /// Whether that is all of them.
    pub is_exact: bool,
}

impl Pins {
    /// The newest pins that a filter finds, at most `limit` (of at most [`PINNING_PAGE_MAX`]). With every write that was
    /// acknowledged before the call.
    pub async fn pinning_list(
        &self,
        filter: PinningFilter,
        limit: usize,
        wait: Duration,
    ) -> Result<PinningPage, Error> {
        let state: Arc<StateDb> = self.reads.linearizable(wait).await?;
        let turn = tokio::time::timeout(wait, self.pages.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| Error::Deadline)?.map_err(|_| Error::Stopping)?;
        let sources = Sources {
            state,
            worker: self.worker.clone(),
            directory: self.directory.clone(),
            gather: self.gather.clone(),
            names: self.names(),
        };
        let read = move || {
            let page = page(&sources, filter, limit.clamp(1, PINNING_PAGE_MAX));
            drop(turn);
            page
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|error| Error::Internal(error.to_string()))?
    }
}

fn page(sources: &Sources, filter: PinningFilter, limit: usize) -> Result<PinningPage, Error> {
    let begun = Instant::now();
    let finder = sources.state.walk_view(|kv| Finder::new(kv, filter))?;
    let mut lister = Lister {
        sources,
        finder,
        silent: BTreeSet::new(),
        limit,
        found: Vec::new(),
        looked_at: 0,
        bytes: 0,
    };
    let mut asked_ledgers = false;
    loop {
        lister.step()?;
        let looked_at = lister.looked_at;
        if lister.finder.has_ended() {
            return Ok(lister.page(0, true));
        }
        if lister.found.len() > limit && looked_at >= LOOK_AHEAD {
            let left = sources.state.walk_view(|kv| lister.finder.count_left(kv, COUNTED))?;
            return Ok(lister.page(left.unwrap_or_default(), left.is_some()));
        }
        if looked_at >= RARE_AFTER && !std::mem::replace(&mut asked_ledgers, true) {
            lister.look_where_ledgers_say()?;
        }
        let took = begun.elapsed();
        if !lister.found.is_empty() && (took > SOME || lister.bytes > PAGE_BYTES) {
            // At least what would be found next.
            return Ok(lister.page(1, false));
        }
        if took > NONE {
            return Err(Error::Deadline);
        }
    }
}

struct Lister<'a> {
    sources: &'a Sources,
    finder: Finder,
    /// Peers that did not answer.
    silent: BTreeSet<PeerId>,
    limit: usize,
    /// In order; may be more than a page.
    found: Vec<PinningView>,
    /// Rows so far.
    looked_at: usize,
    /// Of what was found.
    bytes: usize,
}

impl Lister<'_> {
    /// Looks at some rows: as many as it takes if of those to come as many fit as did so far. Where everything fits, the first
    /// step is enough.
    fn step(&mut self) -> Result<(), Error> {
        let lacking = (self.limit + 1).max(LOOK_AHEAD).saturating_sub(self.found.len());
        let rows = match (self.looked_at, self.found.len()) {
            (0, _) => lacking,
            (_, 0) => STEP,
            (looked_at, found) => (lacking * looked_at * 5 / (found * 4)).max(LEAST),
        };
        let rows = rows.min(STEP + 1);
        let finder = &mut self.finder;
        let step = self.sources.state.walk_view(|kv| finder.step(kv, rows))?;
        let mut views = stand(self.sources, step.pins, &mut self.silent)?;
        views.retain(|view| self.finder.filter().wants_status(view.status));
        self.bytes += views.iter().map(|view| bytes_of(&view.pin)).sum::<usize>();
        self.found.extend(views);
        self.looked_at += step.looked_at;
        Ok(())
    }

    /// The rest of the list, if the states that are wanted are rare: then the ledgers tell which CIDs may be in one of them, and
    /// their pins are all that is left to look at. `pinned` is never rare, as no index lists it. What a peer's worker has not
    /// looked at yet is in no ledger; it is new, and the walk so far was over the newest.
    fn look_where_ledgers_say(&mut self) -> Result<(), Error> {
        let filter = self.finder.filter();
        let statuses = ledger_states(&filter.statuses);
        // What is listed by CIDs is as short as it can be. While a peer is silent all that only it knows of is queued, and in no
        // ledger that can be read.
        if statuses.is_empty() || !filter.cids.is_empty() || !self.silent.is_empty() {
            return Ok(());
        }
        let Some(cids) = cids_in(self.sources, &statuses, RARE_MAX, PEER_TIMEOUT)? else {
            return Ok(());
        };
        let behind = self.finder.reached();
        let mut filter = filter.clone();
        filter.before = behind.or(filter.before);
        let keys = self.sources.state.read_view(|kv| -> Result<_, KvError> {
            let mut keys = Vec::new();
            for cid in &cids {
                keys_of(kv, &filter, cid, &mut keys)?;
                if keys.len() > LISTED_MAX {
                    return Ok(None);
                }
            }
            Ok(Some(keys))
        })?;
        // More are not rare.
        if let Some(keys) = keys {
            self.finder = Finder::listed(filter, keys);
        }
        Ok(())
    }

    fn page(self, left: usize, is_exact: bool) -> PinningPage {
        let count = self.found.len() + left;
        let mut views = self.found;
        views.truncate(self.limit);
        PinningPage { views, count, is_exact }
    }
}

/// About what a pin takes.
fn bytes_of(pin: &Pin) -> usize {
    let PinOptions {
        name,
        metadata,
        origins,
        ..
    } = &pin.options;
    let pairs: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    let origins: usize = origins.iter().map(String::len).sum();
    size_of::<Pin>() + name.len() + pairs + origins
}

/// The states of ledger entries that a pin may be in one of, in one of these states of a whole; none if `pinned` is among them
/// or all are.
fn ledger_states(statuses: &[PinningStatus]) -> Vec<Status> {
    let mut found = Vec::new();
    for status in statuses {
        match status {
            PinningStatus::Pinned => return Vec::new(),
            PinningStatus::Failed => found.push(Status::GaveUp),
            PinningStatus::Pinning => found.push(Status::Pinning),
            PinningStatus::Queued => {
                found.extend([Status::Queued, Status::Retrying, Status::GaveUp, Status::Unplaced]);
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}
