//! When what is announced: decisions without a clock, a store or a network.
//!
//! Everything announced is told anew once per interval, since the DHT forgets. A round goes through all of it in the
//! order of the store and spreads it evenly: number `k` of `n` is due when `k/n` of the interval have passed. Its state is
//! small and is written down as it moves on, so a node that restarts goes on in the middle of its round, neither
//! beginning anew nor hurrying.
//!
//! `n` is a guess: pins come and go while a round runs. It only ever grows, so a wrong guess makes the round end early.
//! When all of `n` are done and the end of the store was not seen, the rest is due at once.
//!
//! New pins are told when they come. Those that found the queue full are looked for among all pins by when they were
//! completed: [`Missed`] says which, and takes no more memory for many than for one.

use std::time::Duration;

use node_core::Timestamp;
use serde::{Deserialize, Serialize};

use super::FRESH_MAX;

/// How long after its moment of completion a pin may come to be told: what lies between is a write that is synced.
const COMPLETING: Duration = Duration::from_secs(60);

/// A way through everything that is announced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Round {
    /// When it began, in milliseconds since the epoch.
    pub(crate) begun_at: u64,
    /// How many there were then, or later while it ran if those were more.
    pub(crate) total: u64,
    /// How many it has dealt with. What is not to be announced does not count here, as it does not in `total`.
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

    /// Were it to have begun later than now, the clock was set back: it began now, then. Otherwise a node whose clock was wrong
    /// by a year would wait for a year.
    pub(crate) fn settle(&mut self, now: Timestamp) {
        self.begun_at = self.begun_at.min(now.as_millis());
    }

    /// There are so many now. Fewer than before change nothing: which of them are gone is not known, and who takes those
    /// that were done already off the rest comes too late to the others.
    pub(crate) fn grow(&mut self, total: u64) {
        if !self.ended {
            self.total = self.total.max(total);
        }
    }

    /// Whether it has seen everything, and there is so much more by now that the next one can't wait for its time: more
    /// than twice as many, and more than were told as they came. Rounds that begin early for this are few, since each
    /// is twice as long as the one before.
    pub(crate) fn is_outgrown(&self, total: u64) -> bool {
        self.ended && total.saturating_sub(self.total) > self.total.max(FRESH_MAX as u64)
    }

    /// All that there were thought to be are done, and the end was not seen: more came, or there is nothing more.
    fn is_spent(&self) -> bool {
        !self.ended && self.done >= self.total
    }

    /// When the one after those done is due by its number, in milliseconds since the epoch.
    fn due_at(&self, interval: Duration) -> u64 {
        let millis = interval.as_millis();
        let share = match (self.total, self.ended) {
            (0, _) | (_, true) => millis,
            (total, false) => millis * u128::from(self.done.min(total)) / u128::from(total),
        };
        self.begun_at.saturating_add(u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// How long to wait for the next one. Zero: it is due. Never longer than the interval.
    pub(crate) fn wait(&self, now: Timestamp, interval: Duration) -> Duration {
        if self.is_spent() {
            return Duration::ZERO;
        }
        Timestamp::from_millis(self.due_at(interval)).since(now).min(interval)
    }

    /// How many are overdue. Behind the end of the interval at least one, until the end of the store was seen.
    pub(crate) fn behind(&self, now: Timestamp, interval: Duration) -> u64 {
        if self.ended {
            return 0;
        }
        let elapsed = now.since(Timestamp::from_millis(self.begun_at)).as_millis();
        let millis = interval.as_millis().max(1);
        let due = u128::from(self.total) * elapsed.min(millis) / millis;
        let behind = u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(self.done);
        behind.max(u64::from(elapsed > millis))
    }

    /// How many to tell side by side, at most `most`: as many as are overdue, and one, when none is. All at once where it
    /// is not known how many are overdue, because more came than were counted, or because the interval is over.
    pub(crate) fn side_by_side(&self, now: Timestamp, interval: Duration, most: usize) -> usize {
        let is_late = now.since(Timestamp::from_millis(self.begun_at)) >= interval;
        if is_late || self.is_spent() {
            return most;
        }
        let behind = usize::try_from(self.behind(now, interval)).unwrap_or(usize::MAX);
        behind.max(1).min(most)
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

    /// It dealt with one.
    pub(crate) fn passed(&mut self, position: Vec<u8>, told: bool) {
        self.done += 1;
        self.failed += u64::from(!told);
        self.position = position;
    }

    /// It went past one that is not to be announced.
    pub(crate) fn skipped(&mut self, position: Vec<u8>) {
        self.position = position;
    }
}

/// How many rows in a row to take for `count` that are to be announced: up to the last of those, or all of them.
pub(crate) fn rows_for(wanted: impl Iterator<Item = bool>, count: usize) -> usize {
    let (mut rows, mut found) = (0, 0);
    for is_wanted in wanted {
        if found == count {
            break;
        }
        rows += 1;
        found += usize::from(is_wanted);
    }
    rows
}

/// Pins that found no room in the queue of new ones. They are looked for in passes over all pins, by when they were
/// completed. What is missed while a pass runs is left to the next one: so each is told once, but for those of a minute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Missed {
    /// The pass under way.
    pass: Option<Pass>,
    /// Since when more were missed, in milliseconds since the epoch.
    since: Option<u64>,
}

/// A look at all pins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pass {
    /// Completed then or later, in milliseconds since the epoch.
    since: u64,
    /// And then or earlier.
    until: u64,
    /// The last one looked at. Empty at the beginning.
    pub(crate) position: Vec<u8>,
}

impl Pass {
    /// Whether it is for a pin that was completed then.
    pub(crate) fn is_for(&self, completed: Timestamp) -> bool {
        (self.since..=self.until).contains(&completed.as_millis())
    }
}

impl Missed {
    /// The queue may have been full at any time since then.
    pub(crate) fn note(&mut self, since: Timestamp) {
        let completing = u64::try_from(COMPLETING.as_millis()).unwrap_or(u64::MAX);
        let since = since.as_millis().saturating_sub(completing);
        self.since = Some(self.since.map_or(since, |before| before.min(since)));
    }

    /// Whether there is nothing to be looked for.
    pub(crate) fn is_none(&self) -> bool {
        self.pass.is_none() && self.since.is_none()
    }

    /// The pass under way; one that begins now, when it is time for it.
    pub(crate) fn pass(&mut self, now: Timestamp) -> Option<&mut Pass> {
        if self.pass.is_none() {
            self.pass = self.since.take().map(|since| Pass {
                since,
                until: now.as_millis(),
                position: Vec::new(),
            });
        }
        self.pass.as_mut()
    }

    /// The pass under way has seen all pins.
    pub(crate) fn ended(&mut self) {
        self.pass = None;
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
        let mut round = Round::begin(Timestamp::from_millis(u64::MAX / 2), 10);
        round.passed(vec![1], true);
        let now = Timestamp::from_millis(1_000);
        assert_eq!(round.wait(now, HOUR), HOUR);
        assert_eq!(round.behind(now, HOUR), 0);
        round.settle(now);
        round.settle(now.plus(HOUR));
        assert_eq!(round.wait(now, HOUR), HOUR / 10);
        assert_eq!(round.wait(now.plus(HOUR / 10), HOUR), Duration::ZERO);
    }

    const DAY: Duration = Duration::from_secs(22 * 3600);

    #[test]
    fn a_round_past_its_count_goes_on_side_by_side_and_says_that_it_is_late() {
        let start = Timestamp::from_millis(1_000_000);
        let round = Round {
            done: 10,
            ..Round::begin(start, 10)
        };
        let late = start.plus(DAY + HOUR);
        assert_eq!(round.wait(late, DAY), Duration::ZERO);
        assert_eq!(round.side_by_side(late, DAY, 8), 8);
        assert_eq!((round.behind(late, DAY), round.late(late, DAY)), (1, HOUR));
        // Also before its time: whether there is more is found out at once.
        let early = start.plus(HOUR);
        assert_eq!(round.wait(early, DAY), Duration::ZERO);
        assert_eq!(round.side_by_side(early, DAY, 8), 8);
        assert_eq!((round.behind(early, DAY), round.late(early, DAY)), (0, Duration::ZERO));
        // One that lags behind its count catches up by as many as are overdue, and when its time is over by all.
        let lagging = Round {
            done: 4,
            ..Round::begin(start, 10)
        };
        assert_eq!(lagging.side_by_side(start.plus(DAY / 2), DAY, 8), 1);
        assert_eq!(lagging.side_by_side(start.plus(DAY * 7 / 10), DAY, 8), 3);
        assert_eq!(lagging.side_by_side(late, DAY, 8), 8);
        assert_eq!(lagging.side_by_side(late, DAY, 1), 1);
    }

    #[test]
    fn a_round_that_was_outgrown_is_followed_at_once() {
        let start = Timestamp::from_millis(1_000_000);
        // The first start: there is nothing, and that is seen at once.
        let mut round = Round::begin(start, 0);
        assert_eq!(round.wait(start, DAY), Duration::ZERO);
        round.ended = true;
        assert_eq!(round.wait(start, DAY), DAY);
        assert!(!round.is_outgrown(FRESH_MAX as u64), "those were told when they came");
        assert!(round.is_outgrown(FRESH_MAX as u64 + 1));
        round.total = 10_000;
        assert!(!round.is_outgrown(20_000));
        assert!(round.is_outgrown(20_001));
        round.ended = false;
        assert!(!round.is_outgrown(u64::MAX), "it is never given up");
    }

    #[test]
    fn what_was_missed_is_looked_for_by_its_time() {
        let at = |minute: u64| Timestamp::from_millis(minute * 60_000);
        let mut missed = Missed::default();
        assert!(missed.is_none() && missed.pass(at(1)).is_none());
        missed.note(at(10));
        missed.note(at(5));
        missed.note(at(11));
        let pass = missed.pass(at(12)).expect("something was missed");
        let hit: Vec<bool> = [3, 4, 12, 13].map(|minute| pass.is_for(at(minute))).into();
        assert_eq!(hit, [false, true, true, false]);
        pass.position = vec![7];
        // More is missed meanwhile: the pass is not begun anew, and after it comes another.
        missed.note(at(14));
        assert_eq!(missed.pass(at(15)).expect("under way").position, [7]);
        let text = serde_json::to_vec(&missed).expect("written");
        assert_eq!(serde_json::from_slice::<Missed>(&text).expect("read"), missed);
        missed.ended();
        assert!(!missed.is_none());
        let pass = missed.pass(at(16)).expect("the next one");
        assert!(pass.position.is_empty());
        assert!(pass.is_for(at(13)) && !pass.is_for(at(12)));
        missed.ended();
        assert!(missed.is_none());
    }

    /// Goes through a store whose rows are given with whether they are to be announced. Each announcement takes ten
    /// seconds, and a step as long as one of them. `added` come when half of the interval is over. Returns how long it took
    /// until the end was seen, and how many were announced.
    fn go_through(total: u64, rows: &[bool], added: &[bool]) -> (Duration, u64) {
        const EACH: Duration = Duration::from_secs(10);
        let start = Timestamp::from_millis(5);
        let (mut now, mut round, mut at) = (start, Round::begin(start, total), 0);
        let (mut rows, mut added) = (rows.to_vec(), added);
        let wanted = |rows: &[bool]| rows.iter().filter(|wanted| **wanted).count() as u64;
        let mut there = wanted(&rows);
        while !round.ended {
            if now >= start.plus(DAY / 2) {
                there += wanted(added);
                rows.extend(std::mem::take(&mut added));
            }
            round.grow(there);
            let wait = round.wait(now, DAY);
            if !wait.is_zero() {
                now = now.plus(wait.min(Duration::from_secs(30)));
                continue;
            }
            let count = round.side_by_side(now, DAY, 8);
            let page = &rows[at..rows.len().min(at + 256)];
            let taken = rows_for(page.iter().copied(), count);
            round.ended = page.len() < 256 && taken == page.len();
            for wanted in &page[..taken] {
                at += 1;
                match wanted {
                    true => round.passed(at.to_be_bytes().to_vec(), true),
                    false => round.skipped(at.to_be_bytes().to_vec()),
                }
            }
            if page[..taken].contains(&true) {
                now = now.plus(EACH);
            }
        }
        (now.since(start), round.done)
    }

    #[test]
    fn a_round_ends_in_its_time_whatever_lies_between_and_comes_meanwhile() {
        let enough = DAY + DAY / 50;
        // Of sixty thousand pins one in six is complete.
        let rows: Vec<bool> = (0..60_000).map(|row| row % 6 == 0).collect();
        let (took, done) = go_through(10_000, &rows, &[]);
        assert_eq!(done, 10_000);
        assert!(took <= enough && took >= DAY * 9 / 10, "{took:?}");
        // The complete ones come last.
        let mut sorted = rows.clone();
        sorted.sort_unstable();
        let (took, done) = go_through(10_000, &sorted, &[]);
        assert_eq!(done, 10_000);
        assert!(took <= enough, "{took:?}");
        // Ten, and then many more behind where it stands.
        let (took, done) = go_through(10, &[true; 10], &[true; 25_000]);
        assert_eq!(done, 25_010);
        assert!(took <= enough, "{took:?}");
        // As a round was written down that counted too few: the rest goes side by side, in 10 s / 8 each.
        let (took, _) = go_through(0, &[true; 25_000], &[]);
        assert!(took <= enough, "{took:?}");
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
            // It looks at once whether that was all.
            prop_assert!(round.wait(now, interval).is_zero());
            round.ended = true;
            prop_assert_eq!(round.behind(start.plus(interval), interval), 0);
        }

        /// Nothing is due earlier than its share of the interval: after a restart, and when rounds are late.
        #[test]
        fn nobody_hurries(total in 1u64..1_000, done in 0u64..1_000, elapsed in 0u64..4_000_000) {
            prop_assume!(done < total);
            let start = Timestamp::from_millis(7);
            let round = Round { done, ..Round::begin(start, total) };
            let now = start.plus(Duration::from_millis(elapsed));
            let due = round.wait(now, HOUR).is_zero();
            // k/n of the interval has passed, to the millisecond.
            let share = 3_600_000 * done / total;
            prop_assert_eq!(due, elapsed >= share);
            prop_assert!(round.behind(now, HOUR) <= total - done);
            prop_assert!((1..=8).contains(&round.side_by_side(now, HOUR, 8)));
            prop_assert!(round.behind(now, HOUR) == 0 || due);
        }
    }
}
