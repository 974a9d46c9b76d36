//! Keeps what strangers can cause from flooding the log.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lets so many lines through per period, and says how many it swallowed before.
#[derive(Debug)]
pub struct LogLimit {
    lines_max: u32,
    period: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    began: Option<Instant>,
    written: u32,
    suppressed: u64,
}

impl Default for LogLimit {
    /// Ten lines in ten seconds: enough to see what goes on.
    fn default() -> Self {
        Self::new(10, Duration::from_secs(10))
    }
}

impl LogLimit {
    /// `lines_max` lines per `period`.
    pub fn new(lines_max: u32, period: Duration) -> Self {
        Self {
            lines_max,
            period,
            state: Mutex::new(State {
                began: None,
                written: 0,
                suppressed: 0,
            }),
        }
    }

    /// Whether to write a line now: `Some` of the number of lines that were swallowed since the last one.
    pub fn allow(&self) -> Option<u64> {
        self.allow_at(Instant::now())
    }

    fn allow_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if state
            .began
            .is_none_or(|began| now.saturating_duration_since(began) >= self.period)
        {
            state.began = Some(now);
            state.written = 0;
        }
        if state.written < self.lines_max {
            state.written += 1;
            Some(std::mem::take(&mut state.suppressed))
        } else {
            state.suppressed += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swallows_and_counts() {
        let limit = LogLimit::new(2, Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| limit.allow_at(start + Duration::from_secs(seconds));
        assert_eq!(at(0), Some(0));
        assert_eq!(at(1), Some(0));
        assert_eq!(at(2), None);
        assert_eq!(at(9), None);
        assert_eq!(at(10), Some(2));
        assert_eq!(at(10), Some(0));
        assert_eq!(at(11), None);
    }
}
