//! Points in time as data. Nothing in this crate reads a clock.

use std::fmt;
use std::time::Duration;

/// Milliseconds since the Unix epoch. In commands it is the leader's clock, so that every peer applies the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The epoch; stands for "never" where a time is not optional.
    pub const ZERO: Self = Self(0);

    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The later moment, at most the end of representable time.
    pub fn plus(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// Time passed since `earlier`; zero when that is in the future, which happens when clocks are set back.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // humantime ends at the year 9999; what lies beyond is printed as its number.
        const END_OF_9999: u64 = 253_402_300_799_999;
        if self.0 > END_OF_9999 {
            return write!(f, "{} ms", self.0);
        }
        let time = std::time::UNIX_EPOCH + Duration::from_millis(self.0);
        humantime::format_rfc3339_millis(time).fmt(f)
    }
}
