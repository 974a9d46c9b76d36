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

/// The last moment with a year of four digits; humantime ends there.
const END_OF_9999: u64 = 253_402_300_799_999;

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What lies beyond is printed as its number.
        if self.0 > END_OF_9999 {
            return write!(f, "{} ms", self.0);
        }
        let time = std::time::UNIX_EPOCH + Duration::from_millis(self.0);
        humantime::format_rfc3339_millis(time).fmt(f)
    }
}

/// When a pin was first recorded, as its place in the order of all pins of its namespace: no two are alike, and a later one is
/// always greater, whatever the leaders' clocks do, but for those that another cluster had at a time of their own. Lists that go
/// from the newest to the oldest are resumed by it.
///
/// Within a millisecond pins are counted, and the count is shown as nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Created {
    /// The time.
    pub at: Timestamp,
    /// Which pin of that millisecond; less than [`Created::PER_MILLI`].
    pub ordinal: u32,
}

impl Created {
    /// Before every pin.
    pub const FIRST: Self = Self {
        at: Timestamp::ZERO,
        ordinal: 0,
    };

    /// Pins that one millisecond counts: as many as it has nanoseconds.
    pub const PER_MILLI: u32 = 1_000_000;

    /// The moment of a pin that is recorded at `now`, after one of `self`. A clock that was set back, or a new leader's that is
    /// behind, goes on from where the last one was.
    #[must_use]
    pub fn next(self, now: Timestamp) -> Self {
        if now > self.at {
            return Self { at: now, ordinal: 0 };
        }
        if self.ordinal + 1 < Self::PER_MILLI {
            return Self {
                ordinal: self.ordinal + 1,
                ..self
            };
        }
        Self {
            at: self.at.plus(Duration::from_millis(1)),
            ordinal: 0,
        }
    }

    /// Nanoseconds since the Unix epoch.
    pub fn as_nanos(self) -> u128 {
        u128::from(self.at.as_millis()) * u128::from(Self::PER_MILLI) + u128::from(self.ordinal)
    }

    /// From nanoseconds since the Unix epoch; the last moment there is for more than that.
    pub fn from_nanos(nanos: u128) -> Self {
        let per_milli = u128::from(Self::PER_MILLI);
        match u64::try_from(nanos / per_milli) {
            Ok(millis) => Self {
                at: Timestamp::from_millis(millis),
                ordinal: u32::try_from(nanos % per_milli).unwrap_or_default(),
            },
            Err(_) => Self {
                at: Timestamp::from_millis(u64::MAX),
                ordinal: Self::PER_MILLI - 1,
            },
        }
    }
}

impl fmt::Display for Created {
    /// RFC 3339 in UTC with nine digits of a second, so that it reads back as what it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.at.as_millis().min(END_OF_9999);
        let time = std::time::UNIX_EPOCH + Duration::from_millis(millis) + Duration::from_nanos(self.ordinal.into());
        humantime::format_rfc3339_nanos(time).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_778_494_830_123);

    #[test]
    fn moments_only_grow() {
        let first = Created::FIRST.next(NOW);
        assert_eq!(first.to_string(), "2026-05-11T10:20:30.123000000Z");
        let second = first.next(NOW);
        assert_eq!(second.to_string(), "2026-05-11T10:20:30.123000001Z");
        assert_eq!(second.as_nanos(), 1_778_494_830_123_000_001);
        assert_eq!(Created::from_nanos(second.as_nanos()), second);
        // The clock was set back by an hour.
        let third = second.next(Timestamp::from_millis(NOW.as_millis() - 3_600_000));
        assert_eq!((third.at, third.ordinal), (NOW, 2));
        let last = Created {
            at: NOW,
            ordinal: Created::PER_MILLI - 1,
        };
        assert_eq!(last.next(NOW).as_nanos(), last.as_nanos() + 1);
        assert!(last.to_string() < last.next(NOW).to_string());
    }

    #[test]
    fn no_number_of_nanoseconds_is_too_large() {
        let end = Created::from_nanos(u128::MAX);
        assert_eq!(end.at.as_millis(), u64::MAX);
        assert_eq!(Created::from_nanos(end.as_nanos()), end);
        assert_eq!(end.to_string(), "9999-12-31T23:59:59.999999999Z");
    }
}
