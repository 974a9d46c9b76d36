//! When what is announced: decisions without a clock, a store or a network.
//!
//! Everything announced is told anew once per interval, since the DHT forgets. A round goes through all of it in the
//! order of the store and spreads it evenly: number `k` of `n` is due when `k/n` of the interval have passed. Its state is
//! small and is written down as it moves on, so a node that restarts goes on in the middle of its round, neither
//! beginning anew nor hurrying.

use std::time::Duration;

use node_core::Timestamp;
use serde::{Deserialize, Serialize};

/// A way through everything that is announced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Round {
    /// When it began, in milliseconds since the epoch.
    pub(crate) begun_at: u64,
    /// How many there were then. More come and go while it runs; they only make its end a little uneven.
    pub(crate) total: u64,
    /// How many it has gone past.
    pub(crate) done: u64,
    /// How many of those nobody was told of.
    pub(crate) failed: u64,
    /// Where in the store it stands: the last one gone past. Empty at the beginning.
    pub(crate) position: Vec<u8>,
    /// It has seen all of them.
    pub(crate) ended: bool,
}

impl Round {
    /// One that begins now.
    pub(crate) fn begin(now: Timestamp, total: u64) -> Self {
        Self {
            begun_at: now.as_millis(),
            total,
            ..Self::default()
        }
    }

    /// When the one after those done is due, in milliseconds since the epoch. What was added since it began is due at
    /// its end.
    fn due_at(&self, interval: Duration) -> u64 {
        let millis = interval.as_millis();
        let share = match (self.total, self.ended) {
            (0, _) | (_, true) => millis,
            (total, false) => millis * u128::from(self.done.min(total)) / u128::from(total),
        };
        self.begun_at.saturating_add(u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// How long to wait for the next one. Zero: it is due. Never longer than the interval, even when the clock was set
    /// back: a node that waited for a clock to catch up would be forgotten.
    pub(crate) fn wait(&self, now: Timestamp, interval: Duration) -> Duration {
        Timestamp::from_millis(self.due_at(interval)).since(now).min(interval)
    }

    /// How many are overdue.
    pub(crate) fn behind(&self, now: Timestamp, interval: Duration) -> u64 {
        if self.ended {
            return 0;
        }
        let elapsed = now.since(Timestamp::from_millis(self.begun_at)).as_millis();
        let millis = interval.as_millis().max(1);
        let due = u128::from(self.total) * elapsed.min(millis) / millis;
        u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(self.done)
    }

    /// For how long the next one has been due.
    pub(crate) fn late(&self, now: Timestamp, interval: Duration) -> Duration {
        if self.ended || self.total == 0 {
            return Duration::ZERO;
        }
        now.since(Timestamp::from_millis(self.due_at(interval)))
    }

    /// Whether it is time for a new round: this one has seen everything, and its interval is over. A round that is late
    /// is never given up for a new one, or what comes late in the order would never be announced.
    pub(crate) fn is_over(&self, now: Timestamp, interval: Duration) -> bool {
        self.ended && self.wait(now, interval).is_zero()
    }

    /// It went past one.
    pub(crate) fn passed(&mut self, position: Vec<u8>, told: bool) {
        self.done += 1;
        self.failed += u64::from(!told);
        self.position = position;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_round_is_spread_over_its_interval() {
        let start = Timestamp::from_millis(1_000_000);
        let mut round = Round::begin(start, 4);
        assert_eq!(round.wait(start, HOUR), Duration::ZERO);
        round.passed(vec![1], true);
        assert_eq!(round.wait(start, HOUR), HOUR / 4);
        assert_eq!(round.behind(start.plus(HOUR / 2), HOUR), 1);
        assert_eq!(round.late(start.plus(HOUR / 2), HOUR), HOUR / 4);
        for position in 2..=4 {
            round.passed(vec![position], false);
        }
        round.ended = true;
        assert_eq!((round.done, round.failed), (4, 3));
        assert!(!round.is_over(start.plus(HOUR / 2), HOUR));
        assert!(round.is_over(start.plus(HOUR), HOUR));
    }

    #[test]
    fn a_clock_set_back_delays_by_an_interval_at_most() {
        let round = Round::begin(Timestamp::from_millis(u64::MAX / 2), 10);
        let now = Timestamp::from_millis(1_000);
        assert_eq!(round.wait(now, HOUR), HOUR);
        assert_eq!(round.behind(now, HOUR), 0);
    }

    proptest! {
        /// Whoever announces each one when it is due, however it oversleeps and restarts, is through at the end of the
        /// interval and has announced each once.
        #[test]
        fn all_are_announced_once_within_the_interval(
            total in 1u64..200,
            interval in 1_000u64..10_000_000,
            oversleep in proptest::collection::vec(0u64..2_000, 1..20),
        ) {
            let interval = Duration::from_millis(interval);
            let start = Timestamp::from_millis(5);
            let mut now = start;
            let mut round = Round::begin(start, total);
            let mut naps = oversleep.iter().cycle();
            for k in 0..total {
                let wait = round.wait(now, interval);
                prop_assert!(wait <= interval);
                if !wait.is_zero() {
                    now = now.plus(wait).plus(Duration::from_millis(*naps.next().expect("endless")));
                }
                prop_assert!(round.wait(now, interval).is_zero());
                round.passed(k.to_be_bytes().to_vec(), true);
                // A restart.
                let text = serde_json::to_vec(&round).expect("written");
                round = serde_json::from_slice(&text).expect("read");
            }
            let most = Duration::from_millis(*oversleep.iter().max().expect("some"));
            prop_assert!(now <= start.plus(interval).plus(most));
            prop_assert_eq!(round.done, total);
            prop_assert_eq!(round.behind(start.plus(interval), interval), 0);
        }

        /// Nothing is due earlier than its share of the interval: after a restart, and when rounds are late.
        #[test]
        fn nobody_hurries(total in 1u64..1_000, done in 0u64..1_000, elapsed in 0u64..4_000_000) {
            prop_assume!(done <= total);
            let start = Timestamp::from_millis(7);
            let round = Round { done, ..Round::begin(start, total) };
            let now = start.plus(Duration::from_millis(elapsed));
            let due = round.wait(now, HOUR).is_zero();
            // k/n of the interval has passed, to the millisecond.
            let share = 3_600_000 * done / total;
            prop_assert_eq!(due, elapsed >= share);
            prop_assert!(round.behind(now, HOUR) <= total - done);
            prop_assert!(round.behind(now, HOUR) == 0 || due);
        }
    }
}
