//! When a failed attempt is made again, and when never.
//!
//! The delay grows by half its length with each attempt of the same entry, from a first delay that depends on the kind
//! of failure up to a longest one, and is drawn evenly from the upper half (equal jitter), so that entries that failed
//! together do not come back together. Failures of the node itself (it does not answer, it is full) do not count
//! against the entry: they say nothing of the content, the node's circuit breaker paces them, and a node that was away
//! for a month must not find its pins given up.

use std::time::Duration;

use crate::ErrorClass;

/// When to try again.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// The first delay after a temporary failure. Other classes scale it.
    pub first: Duration,
    /// The longest delay.
    pub max: Duration,
    /// Attempts after which an entry is given up; 0 = no end.
    pub attempts_max: u32,
    /// How long an entry may have been failing before it is given up; zero = no end.
    pub age_max: Duration,
}

impl Default for RetryPolicy {
    /// Content that nobody provides today is asked for about fifty times within a week, then given up: often enough
    /// that a provider who comes back is noticed within hours, seldom enough that a million such entries cost a node
    /// some sixty attempts a second once they are old. The number of attempts only bounds what fails in some way that
    /// makes the delays short; the week is what ends a pin.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(10),
            max: Duration::from_secs(6 * 3600),
            attempts_max: 100,
            age_max: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// What becomes of a failed entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Tried again after this delay.
    Retry(Duration),
    /// Not tried any more, for this reason.
    GiveUp(String),
}

impl RetryPolicy {
    /// Judges an attempt that failed. `attempts` counts it; `failing` is how long ago the first of them failed, so that
    /// neither a long queue nor a node that was away makes an entry old; `seed` is any number that differs from try to
    /// try.
    pub fn judge(&self, class: ErrorClass, attempts: u32, failing: Duration, seed: u64) -> Verdict {
        if class == ErrorClass::Permanent {
            return Verdict::GiveUp("the daemon says that it can never be pinned".into());
        }
        if !class.is_node_fault() {
            if self.attempts_max > 0 && attempts >= self.attempts_max {
                return Verdict::GiveUp(format!("{attempts} attempts failed"));
            }
            if !self.age_max.is_zero() && failing >= self.age_max {
                let failing = humantime::format_duration(Duration::from_secs(failing.as_secs()));
                return Verdict::GiveUp(format!("it could not be pinned for {failing}"));
            }
        }
        Verdict::Retry(self.delay(class, attempts, seed))
    }

    /// The delay after so many attempts.
    pub fn delay(&self, class: ErrorClass, attempts: u32, seed: u64) -> Duration {
        let first = self.first.as_secs_f64() * scale(class);
        // 1.5^60 is 3.7e10: what matters was capped long before, and no power overflows.
        let grown = first * 1.5f64.powi(i32::try_from(attempts.saturating_sub(1).min(60)).unwrap_or(60));
        let longest = grown.min(self.max.as_secs_f64());
        // 53 bits of a mixed seed make an even number in [0, 1).
        let mixed = xxhash_rust::xxh3::xxh3_64_with_seed(&attempts.to_be_bytes(), seed);
        let unit = (mixed >> 11) as f64 / (1u64 << 53) as f64;
        Duration::from_secs_f64(longest * (0.5 + 0.5 * unit))
    }
}

/// How long a kind of failure lasts, compared with a temporary one.
fn scale(class: ErrorClass) -> f64 {
    match class {
        ErrorClass::Temporary | ErrorClass::Permanent => 1.0,
        // A node that is only busy, or comes back, should not wait long; its breaker keeps the peace.
        ErrorClass::Unreachable | ErrorClass::Overloaded => 0.5,
        // A stall took minutes already, and providers come back in hours.
        ErrorClass::Stalled | ErrorClass::NotFound => 3.0,
        // Somebody has to free space or mend the credentials.
        ErrorClass::DiskFull | ErrorClass::Unauthorized => 6.0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class() -> impl Strategy<Value = ErrorClass> {
        (0..ErrorClass::ALL.len()).prop_map(|place| ErrorClass::ALL[place])
    }

    #[test]
    fn what_is_permanent_is_given_up_at_once() {
        let verdict = RetryPolicy::default().judge(ErrorClass::Permanent, 1, Duration::ZERO, 1);
        assert!(matches!(verdict, Verdict::GiveUp(_)));
    }

    #[test]
    fn a_node_that_is_away_for_a_year_finds_its_pins_again() {
        let year = Duration::from_secs(365 * 24 * 3600);
        for class in ErrorClass::ALL.into_iter().filter(|class| class.is_node_fault()) {
            assert!(matches!(
                RetryPolicy::default().judge(class, 100_000, year, 1),
                Verdict::Retry(_)
            ));
        }
    }

    #[test]
    fn content_that_nobody_has_is_given_up_after_its_age_or_its_attempts() {
        let policy = RetryPolicy::default();
        let judge = |attempts, age| policy.judge(ErrorClass::NotFound, attempts, age, 1);
        assert!(matches!(judge(99, Duration::ZERO), Verdict::Retry(_)));
        assert_eq!(
            judge(100, Duration::ZERO),
            Verdict::GiveUp("100 attempts failed".into())
        );
        let week = policy.age_max;
        assert_eq!(
            judge(2, week),
            Verdict::GiveUp("it could not be pinned for 7days".into())
        );
        let endless = RetryPolicy {
            attempts_max: 0,
            age_max: Duration::ZERO,
            ..policy
        };
        assert!(matches!(
            endless.judge(ErrorClass::NotFound, 1_000, 9 * week, 1),
            Verdict::Retry(_)
        ));
    }

    proptest! {
        #[test]
        fn the_week_ends_a_pin_and_not_the_number_of_attempts(
            class in class().prop_filter("counts against the pin", |class| !class.is_node_fault()),
            seed in any::<u64>()
        ) {
            prop_assume!(class != ErrorClass::Permanent);
            let policy = RetryPolicy::default();
            let (mut failing, mut attempts) = (Duration::ZERO, 1);
            while let Verdict::Retry(delay) = policy.judge(class, attempts, failing, seed) {
                failing += delay;
                attempts += 1;
            }
            prop_assert!(failing >= policy.age_max);
            prop_assert!((40..70).contains(&attempts), "{} attempts", attempts);
        }

        #[test]
        fn delays_grow_within_their_jitter_and_never_beyond_the_longest(
            class in class(), attempts in 1..200u32, seed in any::<u64>(), other in any::<u64>()
        ) {
            let policy = RetryPolicy::default();
            let delay = policy.delay(class, attempts, seed);
            prop_assert!(delay <= policy.max);
            prop_assert!(delay >= Duration::from_secs_f64(policy.first.as_secs_f64() * 0.25));
            // Two attempts later the smallest draw exceeds what was halfway to the largest one here, until the cap.
            let later = policy.delay(class, attempts + 2, other);
            prop_assert!(later.as_secs_f64() >= delay.as_secs_f64() * 0.5 * (1.0 - 1e-9));
            // The same question has the same answer.
            prop_assert_eq!(delay, policy.delay(class, attempts, seed));
        }

        #[test]
        fn entries_that_failed_together_do_not_come_back_together(base in any::<u64>()) {
            let policy = RetryPolicy::default();
            let delays: std::collections::BTreeSet<_> =
                (0..100).map(|seed| policy.delay(ErrorClass::Stalled, 5, base.wrapping_add(seed))).collect();
            prop_assert!(delays.len() > 95);
        }
    }
}
