//! Waiting for conditions. Tests never sleep for a time and hope.

use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// Between two looks at a condition that can't announce itself.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks until `condition` is well, and returns what it gives. When `limit` passes, the error says what was waited for and
/// why it was not so at the last look.
pub async fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    let mut last = None;
    loop {
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            let last = last.unwrap_or_else(|| anyhow!("the condition did not answer at all"));
            return Err(last.context(format!("waited {limit:?} until {what}")));
        }
        match tokio::time::timeout(left, condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = Some(error),
            // Keeps the last reason: "it did not answer" says less.
            Err(_) => continue,
        }
        tokio::time::sleep(LOOK_AGAIN.min(limit.saturating_sub(begun.elapsed()))).await;
    }
}

/// A process on a busy machine stops when its threads are next looked at by the kernel.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// Stops a child of this program, and returns when all its threads stand still: the signal alone lets it finish an answer.
pub(crate) fn freeze(child: Pid) -> anyhow::Result<()> {
    kill_process(child, Signal::STOP)?;
    let begun = Instant::now();
    // Not without a limit: a child that ends instead never stops.
    while waitid(WaitId::Pid(child), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG)?.is_none() {
        ensure!(
            begun.elapsed() < FREEZE_LIMIT,
            "process {child:?} has not stopped in {FREEZE_LIMIT:?}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
