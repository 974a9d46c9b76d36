//! New pins, one after the other: those of the queue, and behind them those that it had no room for.

use std::collections::VecDeque;

use cluster_blocks::State;
use node_core::{Cid, Timestamp};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::{Instant, timeout};

use super::schedule::Missed;
use super::{FAILED_PAUSE, ROWS_MAX, SAVE_EVERY, noted, save};
use crate::error::Failure;
use crate::inner::Inner;
use crate::{blocking, now};

/// The note that says what was missed. Without it a restart would leave it to the rounds, which take two intervals at
/// worst.
const NOTE: &str = "embedded.announce.missed";

/// What is told at once.
pub(super) struct News<'a> {
    inner: &'a Inner,
    fresh: mpsc::Receiver<Cid>,
    /// When one was taken out of the queue last.
    taken_at: Timestamp,
    missed: Missed,
    /// Of the pass under way, at most [`ROWS_MAX`].
    page: VecDeque<Cid>,
    /// Behind that page come no more pins.
    is_last: bool,
    saved: Missed,
    saved_at: Instant,
}

impl<'a> News<'a> {
    pub(super) async fn begin(inner: &'a Inner, fresh: mpsc::Receiver<Cid>) -> Self {
        let missed: Missed = noted(inner, NOTE).await.unwrap_or_default();
        Self {
            inner,
            fresh,
            taken_at: now(),
            saved: missed.clone(),
            missed,
            page: VecDeque::new(),
            is_last: false,
            saved_at: Instant::now(),
        }
    }

    /// The next one; none, when the node ends. Those of the queue first, or more of them would be missed.
    pub(super) async fn next(&mut self) -> Option<Cid> {
        loop {
            // While a page is being handed out, where the pass stands is not where a restart would have to go on.
            if self.page.is_empty() && self.saved_at.elapsed() >= SAVE_EVERY {
                self.save().await;
            }
            match self.fresh.try_recv() {
                Ok(cid) => return Some(self.took(cid)),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => {}
            }
            if let Some(cid) = self.page.pop_front() {
                return Some(cid);
            }
            if self.missed.is_none() {
                let cid = self.fresh.recv().await?;
                return Some(self.took(cid));
            }
            if let Err(failure) = self.turn().await {
                tracing::warn!(
                    reason = failure.words,
                    "which new pins are to be announced can't be read"
                );
                if let Ok(cid) = timeout(FAILED_PAUSE, self.fresh.recv()).await {
                    return Some(self.took(cid?));
                }
            }
        }
    }

    /// One came out of the queue. Whoever finds it full says so to nobody. But it stays full until one is taken, and then
    /// has room for one: so this sees every time that it was full, and the pins that it turned away came since the one
    /// before was taken.
    fn took(&mut self, cid: Cid) -> Cid {
        if self.inner.fresh.capacity() <= 1 {
            // Of a clock that was set back only what came since then is known.
            self.missed.note(self.taken_at.min(now()));
        }
        self.taken_at = now();
        cid
    }

    /// Reads the next page of the pass under way. Everything before it has been handed out.
    async fn turn(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.is_last) {
            self.missed.ended();
        }
        let Some(pass) = self.missed.pass(now()) else {
            self.save().await;
            return Ok(());
        };
        let (pass, store) = (pass.clone(), self.inner.store.clone());
        let after = Cid::from_bytes(&pass.position).ok();
        let pins = blocking(move || store.pins(after.as_ref(), ROWS_MAX)).await?;
        self.is_last = pins.len() < ROWS_MAX;
        if let (Some(last), Some(pass)) = (pins.last(), self.missed.pass(now())) {
            pass.position = last.cid.to_bytes();
        }
        let missed = pins
            .iter()
            .filter(|pin| pin.state == State::Complete && pass.is_for(pin.completed));
        self.page.extend(missed.map(|pin| pin.cid));
        Ok(())
    }

    async fn save(&mut self) {
        if self.saved != self.missed {
            let value = Some(&self.missed).filter(|missed| !missed.is_none());
            save(self.inner, NOTE, value).await;
            self.saved = self.missed.clone();
        }
        self.saved_at = Instant::now();
    }
}
