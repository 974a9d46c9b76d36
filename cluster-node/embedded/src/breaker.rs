//! When something outside that failed is asked again.

use std::time::Duration;

/// Failures in a row after which a service is left alone.
pub(crate) const FAILURES: u32 = 3;

/// The first time it is left alone.
pub(crate) const PAUSE_FIRST: Duration = Duration::from_secs(5);

/// The longest time it is left alone. One request in five minutes hurts nobody, and a gateway that comes back is
/// noticed while people still look for the reason.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Counts failures in a row and says until when to leave a service alone. Times are durations since any fixed moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Breaker {
    failures: u32,
    until: Duration,
    /// A request is out that decides whether it is well again.
    probing: bool,
}

impl Breaker {
    /// Whether it may be asked now.
    pub(crate) fn allows(&self, now: Duration) -> bool {
        self.failures < FAILURES || (now >= self.until && !self.probing)
    }

    /// A request goes out.
    pub(crate) fn asked(&mut self) {
        self.probing = self.failures >= FAILURES;
    }

    /// The service did its work, be it that it said no to this one thing.
    pub(crate) fn answered(&mut self) {
        *self = Self::default();
    }

    /// The caller lost interest: nothing was learnt.
    pub(crate) fn dropped(&mut self) {
        self.probing = false;
    }

    /// The service is broken, or asks to be left alone for this long.
    pub(crate) fn failed(&mut self, now: Duration, asked_for: Option<Duration>) {
        self.probing = false;
        self.failures = self.failures.saturating_add(1);
        if asked_for.is_some() {
            self.failures = self.failures.max(FAILURES);
        }
        if self.failures >= FAILURES {
            let doubled = PAUSE_FIRST * 2u32.pow((self.failures - FAILURES).min(10));
            self.until = now + asked_for.unwrap_or_default().max(doubled).min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_failures_close_it_and_one_answer_opens_it() {
        let mut breaker = Breaker::default();
        let now = Duration::from_secs(100);
        for _ in 0..FAILURES {
            assert!(breaker.allows(now));
            breaker.asked();
            breaker.failed(now, None);
        }
        assert!(!breaker.allows(now));
        let later = now + PAUSE_FIRST;
        assert!(breaker.allows(later));
        breaker.asked();
        assert!(!breaker.allows(later), "one request tries it, not all that wait");
        breaker.answered();
        assert!(breaker.allows(later));
    }

    #[test]
    fn a_request_that_was_dropped_does_not_close_it_for_ever() {
        let mut breaker = Breaker::default();
        breaker.failed(Duration::ZERO, Some(Duration::from_secs(1)));
        assert!(!breaker.allows(Duration::from_secs(1)), "the shortest pause counts");
        breaker.asked();
        breaker.dropped();
        assert!(breaker.allows(PAUSE_FIRST));
    }

    proptest! {
        #[test]
        fn it_never_stays_closed_longer_than_the_longest_pause(
            steps in proptest::collection::vec((0u64..400, proptest::option::of(0u64..100_000), any::<bool>()), 0..60),
        ) {
            let mut breaker = Breaker::default();
            let mut now = Duration::ZERO;
            for (pause, asked_for, well) in steps {
                now += Duration::from_secs(pause);
                if breaker.allows(now) {
                    breaker.asked();
                    if well {
                        breaker.answered();
                        prop_assert!(breaker.allows(now));
                    } else {
                        breaker.failed(now, asked_for.map(Duration::from_secs));
                        prop_assert!(asked_for.is_none() || !breaker.allows(now));
                    }
                }
                prop_assert!(breaker.allows(now + PAUSE_MAX));
            }
        }
    }
}
