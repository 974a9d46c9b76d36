//! How fast a peer answers.

use std::time::Duration;

/// Bytes are counted over at least this time before they make a rate.
const WINDOW_MIN: Duration = Duration::from_millis(50);

/// Latency that is assumed of a peer which has not answered yet.
const LATENCY_GUESS: Duration = Duration::from_millis(100);

/// Rate that is assumed of a peer which has not sent anything yet, in bytes per second. Optimistic, so that it is tried;
/// what it may be asked for before it has sent something is bounded by blocks.
const RATE_GUESS: f64 = 8.0 * 1024.0 * 1024.0;

#[derive(Debug, Default)]
pub(crate) struct Speed {
    latency: Option<Duration>,
    rate: Option<f64>,
    /// Since when `bytes` are counted, and when they last grew.
    since: Duration,
    last: Duration,
    bytes: usize,
}

impl Speed {
    /// The peer had nothing to do, and now it has: the time between does not count.
    pub(crate) fn begin(&mut self, now: Duration) {
        self.since += now.saturating_sub(self.since.max(self.last));
    }

    pub(crate) fn answered(&mut self, after: Duration) {
        self.latency = Some(match self.latency {
            None => after,
            Some(latency) => (latency * 3 + after) / 4,
        });
    }

    pub(crate) fn received(&mut self, bytes: usize, now: Duration) {
        self.bytes += bytes;
        self.last = now;
    }

    /// A message is taken whole. The rate is measured between messages, because the blocks of one come all at once.
    pub(crate) fn settle(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.since);
        if elapsed < WINDOW_MIN || self.bytes == 0 {
            return;
        }
        let sample = self.bytes as f64 / elapsed.as_secs_f64();
        self.rate = Some(match self.rate {
            None => sample,
            Some(rate) => rate * 0.7 + sample * 0.3,
        });
        (self.since, self.bytes) = (now, 0);
    }

    pub(crate) fn latency(&self) -> Option<Duration> {
        self.latency
    }

    pub(crate) fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Time until so many bytes that are asked for would be here, in seconds.
    pub(crate) fn estimate(&self, bytes: f64) -> f64 {
        let latency = self.latency.unwrap_or(LATENCY_GUESS).as_secs_f64();
        // A peer that trickles must not make the estimate infinite.
        latency + bytes / self.rate.unwrap_or(RATE_GUESS).max(1.0)
    }
}
