//! How fast one node may be driven: rate, permits, breaker.

use std::time::Duration;

use node_core::ErrorClass;
use tokio::time::Instant;

use crate::{Kind, NodeSettings};

/// Faults of the node in a row that open the breaker.
const FAULTS_MAX: u32 = 5;

/// How long the breaker first stays open, and at most.
const OPEN_MIN: Duration = Duration::from_secs(1);
const OPEN_MAX: Duration = Duration::from_secs(30);

/// Permits are halved at most this often: answers that were under way when they were halved tell nothing new.
const HALVE_INTERVAL: Duration = Duration::from_secs(1);

/// A trial that has not ended after so long does not hold up the next one.
const TRIAL_MAX: Duration = Duration::from_secs(10);

/// A node whose disk is full gets no pins for so long. Unpins go on: they are what helps.
const FULL_PAUSE: Duration = Duration::from_secs(30);

/// The time over which the rate of pins is averaged.
const RATE_SECONDS: f64 = 10.0;

/// Whether something may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Now,
    /// Not before this has passed, or something else has changed.
    After(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breaker {
    Closed {
        faults: u32,
    },
    Open {
        until: Instant,
        times: u32,
    },
    /// One operation finds out whether the node works; begun at `trial`, if it was.
    HalfOpen {
        times: u32,
        trial: Option<Instant>,
    },
}

pub(crate) struct Flow {
    breaker: Breaker,
    /// The node did not answer when it was last asked how it is.
    down: bool,
    /// Tokens, and when they were counted; none without a limit.
    bucket: Option<(f64, Instant)>,
    rate: f64,
    burst: f64,
    limit: usize,
    limit_max: usize,
    /// Successes since the limit last grew.
    credit: usize,
    halved: Option<Instant>,
    full_until: Option<Instant>,
    measured: (f64, Instant),
}

impl Flow {
    pub(crate) fn new(settings: &NodeSettings, now: Instant) -> Self {
        let limit_max = settings.concurrency_max.max(1) as usize;
        let burst = f64::from(settings.burst.max(1));
        Self {
            breaker: Breaker::Closed { faults: 0 },
            down: false,
            bucket: (settings.pins_per_second > 0.0).then_some((burst, now)),
            rate: settings.pins_per_second,
            burst,
            limit: (settings.concurrency_start as usize).clamp(1, limit_max),
            limit_max,
            credit: 0,
            halved: None,
            full_until: None,
            measured: (0.0, now),
        }
    }

    pub(crate) fn concurrency(&self) -> usize {
        self.limit
    }

    pub(crate) fn may_unpin(&mut self, now: Instant) -> Start {
        match &mut self.breaker {
            Breaker::Closed { .. } => Start::Now,
            Breaker::Open { until, .. } if *until > now => Start::After(*until - now),
            Breaker::Open { times, .. } => {
                self.breaker = Breaker::HalfOpen {
                    times: *times,
                    trial: Some(now),
                };
                Start::Now
            }
            Breaker::HalfOpen { trial: Some(begun), .. } if now.duration_since(*begun) < TRIAL_MAX => {
                Start::After(TRIAL_MAX - now.duration_since(*begun))
            }
            Breaker::HalfOpen { trial, .. } => {
                *trial = Some(now);
                Start::Now
            }
        }
    }

    /// Takes a token if it says yes; [`Self::give_back`] returns it.
    pub(crate) fn may_pin(&mut self, now: Instant) -> Start {
        if let Some(until) = self.full_until.filter(|until| *until > now) {
            return Start::After(until - now);
        }
        if let Some((tokens, at)) = &mut self.bucket {
            *tokens = (*tokens + now.duration_since(*at).as_secs_f64() * self.rate).min(self.burst);
            *at = now;
            if *tokens < 1.0 {
                // A little longer, so that rounding does not wake us just before the token is there.
                let wait = Duration::from_secs_f64((1.0 - *tokens) / self.rate);
                return Start::After(wait + Duration::from_micros(100));
            }
        }
        let start = self.may_unpin(now);
        if start == Start::Now
            && let Some((tokens, _)) = &mut self.bucket
        {
            *tokens -= 1.0;
        }
        start
    }

    /// What was allowed did not begin after all.
    pub(crate) fn give_back(&mut self, kind: Kind) {
        if kind == Kind::Pin
            && let Some((tokens, _)) = &mut self.bucket
        {
            *tokens += 1.0;
        }
        self.untried();
    }

    /// An operation ended without having asked the node.
    pub(crate) fn untried(&mut self) {
        if let Breaker::HalfOpen { trial, .. } = &mut self.breaker {
            *trial = None;
        }
    }

    /// The node answered a question in the course of an operation that goes on: it works, however long that operation
    /// takes. Says whether the breaker was waiting for that. Faults in a row are not forgotten for it, because a node may
    /// list its pins well and refuse every new one.
    pub(crate) fn answered(&mut self) -> bool {
        let waited = matches!(self.breaker, Breaker::HalfOpen { .. });
        if waited {
            self.breaker = Breaker::Closed { faults: 0 };
        }
        waited
    }

    pub(crate) fn ended(&mut self, kind: Kind, outcome: Result<(), ErrorClass>, now: Instant, seed: u64) {
        match outcome {
            Err(ErrorClass::DiskFull) => self.full_until = Some(now + FULL_PAUSE),
            Err(class) if class.is_node_fault() => {
                self.halve(now);
                self.fault(now, seed);
                return;
            }
            Err(_) => {}
            Ok(()) if kind == Kind::Pin => {
                self.count(now);
                self.credit += 1;
                if self.credit >= self.limit && self.limit < self.limit_max {
                    self.credit = 0;
                    self.limit += 1;
                }
            }
            Ok(()) => {}
        }
        // It answered.
        if !matches!(self.breaker, Breaker::Open { .. }) {
            self.breaker = Breaker::Closed { faults: 0 };
        }
    }

    /// A question outside of the work was answered, or not.
    pub(crate) fn probed(&mut self, outcome: Result<(), ErrorClass>, now: Instant) {
        let was_down = std::mem::replace(&mut self.down, outcome.is_err());
        if self.down {
            let times = match self.breaker {
                Breaker::Closed { .. } => 0,
                Breaker::Open { times, .. } | Breaker::HalfOpen { times, .. } => times,
            };
            // Until it answers; the time is only for the case that nobody asks any more.
            self.breaker = Breaker::Open {
                until: now + OPEN_MAX,
                times,
            };
        } else if was_down {
            self.breaker = Breaker::HalfOpen { times: 0, trial: None };
        }
    }

    pub(crate) fn breaker(&self, now: Instant) -> &'static str {
        match self.breaker {
            Breaker::Closed { .. } => "closed",
            Breaker::Open { until, .. } if until > now => "open",
            Breaker::Open { .. } | Breaker::HalfOpen { .. } => "half_open",
        }
    }

    /// Whether the node is left alone or only tried.
    pub(crate) fn is_held_back(&self) -> bool {
        !matches!(self.breaker, Breaker::Closed { .. })
    }

    pub(crate) fn pins_per_second(&self, now: Instant) -> f64 {
        let (rate, at) = self.measured;
        rate * (-now.duration_since(at).as_secs_f64() / RATE_SECONDS).exp()
    }

    fn count(&mut self, now: Instant) {
        self.measured = (self.pins_per_second(now) + 1.0 / RATE_SECONDS, now);
    }

    fn halve(&mut self, now: Instant) {
        if self.halved.is_none_or(|at| now.duration_since(at) >= HALVE_INTERVAL) {
            self.halved = Some(now);
            self.limit = (self.limit / 2).max(1);
            self.credit = 0;
        }
    }

    fn fault(&mut self, now: Instant, seed: u64) {
        let times = match self.breaker {
            Breaker::Open { .. } => return,
            Breaker::Closed { faults } if faults + 1 < FAULTS_MAX => {
                self.breaker = Breaker::Closed { faults: faults + 1 };
                return;
            }
            Breaker::Closed { .. } => 1,
            Breaker::HalfOpen { times, .. } => times + 1,
        };
        let open = OPEN_MIN.saturating_mul(1 << (times - 1).min(10)).min(OPEN_MAX);
        // Jitter: peers that drive copies of one hanging service must not try in step.
        let open = open + open.mul_f64((seed % 1_000) as f64 / 4_000.0);
        self.breaker = Breaker::Open {
            until: now + open,
            times,
        };
    }
}

#[cfg(test)]
mod tests {
    use node_core::NodeId;
    use node_core::retry::RetryPolicy;

    use super::*;

    fn flow(pins_per_second: f64, now: Instant) -> Flow {
        let settings = NodeSettings {
            id: NodeId(1),
            name: "a".into(),
            pin_name: String::new(),
            adopts: false,
            pins_per_second,
            burst: 2,
            concurrency_max: 16,
            concurrency_start: 8,
            unpin_concurrency: 2,
            stall_timeout: Duration::from_secs(1),
            retry: RetryPolicy::default(),
        };
        Flow::new(&settings, now)
    }

    const FAULT: Result<(), ErrorClass> = Err(ErrorClass::Unreachable);

    #[test]
    fn tokens_come_back_at_the_rate() {
        let mut now = Instant::now();
        let mut flow = flow(100.0, now);
        let mut begun = 0;
        for _ in 0..10_000 {
            match flow.may_pin(now) {
                Start::Now => begun += 1,
                Start::After(wait) => now += wait.min(Duration::from_millis(7)),
            }
        }
        let passed = now.duration_since(flow.measured.1).as_secs_f64();
        assert!(
            (begun as f64 - 2.0 - passed * 100.0).abs() < 3.0 + passed,
            "{begun} in {passed} s"
        );
    }

    #[test]
    fn faults_in_a_row_open_the_breaker_for_longer_and_longer() {
        let mut now = Instant::now();
        let mut flow = flow(0.0, now);
        for _ in 0..FAULTS_MAX - 1 {
            flow.ended(Kind::Pin, FAULT, now, 0);
        }
        assert_eq!(flow.breaker(now), "closed");
        flow.ended(Kind::Pin, FAULT, now, 0);
        let mut last = Duration::ZERO;
        for _ in 0..4 {
            let Start::After(wait) = flow.may_pin(now) else {
                panic!("open")
            };
            assert!(wait > last, "{wait:?}");
            last = wait;
            now += wait;
            assert_eq!(flow.may_pin(now), Start::Now);
            assert!(matches!(flow.may_unpin(now), Start::After(_)), "one trial at a time");
            flow.ended(Kind::Pin, FAULT, now, 0);
        }
        now += OPEN_MAX;
        assert_eq!(flow.may_pin(now), Start::Now);
        // The content is at fault, not the node: it answered.
        flow.ended(Kind::Pin, Err(ErrorClass::NotFound), now, 0);
        assert_eq!(flow.breaker(now), "closed");
        assert!(flow.concurrency() < 8);
    }

    #[test]
    fn a_node_that_answers_again_is_tried_at_once() {
        let now = Instant::now();
        let mut flow = flow(0.0, now);
        flow.probed(FAULT, now);
        assert!(matches!(flow.may_unpin(now), Start::After(_)));
        flow.probed(Ok(()), now);
        assert_eq!(flow.may_unpin(now), Start::Now);
        flow.untried();
        assert_eq!(flow.may_pin(now), Start::Now);
        flow.ended(Kind::Pin, Ok(()), now, 0);
        assert_eq!(flow.breaker(now), "closed");
    }

    #[test]
    fn an_answer_closes_the_breaker_though_the_operation_goes_on() {
        let now = Instant::now();
        let mut flow = flow(0.0, now);
        assert!(!flow.answered());
        flow.probed(FAULT, now);
        assert!(!flow.answered(), "a late answer does not overrule a probe that failed");
        flow.probed(Ok(()), now);
        assert_eq!(flow.may_pin(now), Start::Now);
        assert!(matches!(flow.may_pin(now), Start::After(_)));
        assert!(flow.answered());
        assert_eq!(flow.may_pin(now), Start::Now);
        assert_eq!(flow.breaker(now), "closed");
    }

    #[test]
    fn a_full_disk_stops_pins_and_not_unpins() {
        let now = Instant::now();
        let mut flow = flow(0.0, now);
        flow.ended(Kind::Pin, Err(ErrorClass::DiskFull), now, 0);
        assert_eq!(flow.may_pin(now), Start::After(FULL_PAUSE));
        assert_eq!(flow.may_unpin(now), Start::Now);
        assert_eq!(flow.may_pin(now + FULL_PAUSE), Start::Now);
    }

    #[test]
    fn permits_grow_with_success_and_are_halved_by_faults() {
        let now = Instant::now();
        let mut flow = flow(0.0, now);
        for _ in 0..1_000 {
            flow.ended(Kind::Pin, Ok(()), now, 0);
        }
        assert_eq!(flow.concurrency(), 16);
        flow.ended(Kind::Pin, Err(ErrorClass::Overloaded), now, 0);
        flow.ended(Kind::Pin, Err(ErrorClass::Overloaded), now, 0);
        assert_eq!(flow.concurrency(), 8);
        assert!(flow.pins_per_second(now) > 90.0);
        assert!(flow.pins_per_second(now + Duration::from_secs(60)) < 1.0);
    }
}
