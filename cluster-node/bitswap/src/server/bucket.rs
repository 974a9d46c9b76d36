//! How many bytes may go out.

use std::time::Duration;

/// A token bucket that is paid after the fact: something may begin while there is anything in it, and then costs what it
/// costs. So a block larger than the burst is no special case.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Bytes per second; 0 = without a limit.
    rate: u64,
    burst: f64,
    tokens: f64,
    counted: Duration,
}

impl Bucket {
    /// A full bucket that holds what flows in within a quarter of a second, but at least 64 KiB.
    pub(crate) fn new(rate: u64) -> Self {
        let burst = (rate as f64 / 4.0).max(65_536.0);
        Self {
            rate,
            burst,
            tokens: burst,
            counted: Duration::ZERO,
        }
    }

    pub(crate) fn has_tokens(&mut self, now: Duration) -> bool {
        if self.rate == 0 {
            return true;
        }
        let elapsed = now.saturating_sub(self.counted);
        self.counted = self.counted.max(now);
        self.tokens = (self.tokens + elapsed.as_secs_f64() * self.rate as f64).min(self.burst);
        self.tokens > 0.0
    }

    pub(crate) fn take(&mut self, bytes: usize) {
        if self.rate != 0 {
            self.tokens -= bytes as f64;
        }
    }

    pub(crate) fn give_back(&mut self, bytes: usize) {
        if self.rate != 0 {
            self.tokens += bytes as f64;
        }
    }

    /// When there are tokens again, if there are none as of the last look.
    pub(crate) fn next(&self) -> Option<Duration> {
        if self.rate == 0 || self.tokens > 0.0 {
            return None;
        }
        // A little later, so that rounding does not wake us just before the token is there.
        let wait = Duration::from_secs_f64(-self.tokens / self.rate as f64) + Duration::from_micros(100);
        Some(self.counted + wait)
    }
}
