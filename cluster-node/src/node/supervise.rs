//! Watches the parts of a peer that must not end before the peer does.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster_storage::ledger::Ledger;
use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::service::{Pins, panic_text};
use crate::telemetry::{Condition, Health};

/// How often is looked whether an add would work now.
const READY_INTERVAL: Duration = Duration::from_millis(500);

/// How often the ledger is looked at.
const LEDGER_INTERVAL: Duration = Duration::from_secs(1);

/// A ledger that can't be written for so long does not recover by itself: whatever was to be written is tried again every
/// second. A restart opens it anew, and says what is wrong with it.
const LEDGER_PATIENCE: Duration = Duration::from_secs(10);

/// Runs a part until `stop`. When it ends before that, in whatever way, the peer is not live any more: it would look well
/// and not do its work.
pub async fn supervised(
    name: &'static str,
    health: Health,
    stop: CancellationToken,
    work: impl Future<Output = anyhow::Result<()>>,
) {
    let reason = match AssertUnwindSafe(work).catch_unwind().await {
        Ok(Ok(())) => "it has ended".to_owned(),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => format!("it panicked: {}", panic_text(&*panic)),
    };
    if !stop.is_cancelled() {
        tracing::error!(part = name, %reason, "a part that should run until the end has ended");
        health.fail(name, reason);
    }
}

/// Ready means that an add would work now: there is a leader, a majority confirms it, and this peer keeps up.
pub async fn watch_readiness(pins: Arc<Pins>, ready: Condition, health: Health) {
    ready.not_ready("no majority has confirmed a leader yet");
    loop {
        match pins.reads.linearizable(Duration::from_secs(2)).await {
            Ok(_) => ready.ready(),
            Err(error) => ready.not_ready(error.to_string()),
        }
        if let Some(reason) = pins.consensus.metrics().fatal {
            health.fail("consensus", reason);
        }
        tokio::time::sleep(READY_INTERVAL).await;
    }
}

/// What is wanted must come into the ledger, and the ledger onto the disk, or no pin gets done.
pub async fn watch_ledger(ledger: Arc<Ledger>, writes: Condition, health: Health) {
    let mut since = None;
    loop {
        match ledger.fault() {
            None => {
                since = None;
                writes.ready();
            }
            Some(reason) => {
                if since.get_or_insert_with(Instant::now).elapsed() > LEDGER_PATIENCE {
                    health.fail("ledger", reason.as_str());
                }
                writes.not_ready(reason);
            }
        }
        tokio::time::sleep(LEDGER_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(work: impl Future<Output = anyhow::Result<()>>, stopped: bool) -> Option<String> {
        let (health, stop) = (Health::new(), CancellationToken::new());
        if stopped {
            stop.cancel();
        }
        supervised("part", health.clone(), stop, work).await;
        health.failure().map(|failure| {
            assert_eq!(failure.condition, "part");
            failure.reason
        })
    }

    #[tokio::test]
    async fn a_part_that_ends_early_makes_the_peer_not_live() {
        let panics = async { panic!("index out of range") };
        assert_eq!(
            run(panics, false).await.as_deref(),
            Some("it panicked: index out of range")
        );
        let fails = async { anyhow::bail!("the port is gone") };
        assert_eq!(run(fails, false).await.as_deref(), Some("the port is gone"));
        assert_eq!(run(async { Ok(()) }, false).await.as_deref(), Some("it has ended"));
        assert_eq!(run(async { Ok(()) }, true).await, None);
    }
}
