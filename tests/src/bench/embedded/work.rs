//! One piece of work, measured: how long it took, who was busy meanwhile, and how much memory it needed.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::bench::machine::{CpuShare, Resident, Usage};
use crate::bench::report::{Row, Unit};

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What one piece of work took.
#[derive(Debug, Clone)]
pub struct Work {
    /// How long.
    pub seconds: f64,
    /// Cores that were busy.
    pub cpu: CpuShare,
    /// The most resident memory of the process that was watched.
    pub peak: Resident,
}

/// Who is busy while something is measured: groups of processes.
pub type Groups = Vec<(&'static str, Vec<u32>)>;

/// Does it, and measures it. `watched` is the process whose memory counts.
pub async fn measured<T>(
    groups: Groups,
    watched: u32,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, Work)> {
    let peak = Arc::new(Mutex::new(Resident::default()));
    let look = {
        let peak = Arc::clone(&peak);
        move || {
            if let Some(now) = Resident::of(watched) {
                let mut peak = peak.lock();
                if now.all > peak.all {
                    *peak = now;
                }
            }
        }
    };
    let looking = {
        let look = look.clone();
        tokio::spawn(async move {
            loop {
                look();
                tokio::time::sleep(LOOK).await;
            }
        })
    };
    let before = Usage::now(&groups).with_ended_children("commands");
    let begun = Instant::now();
    let done = work.await;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = Usage::now(&groups).with_ended_children("commands").since(&before);
    looking.abort();
    look();
    let peak = *peak.lock();
    Ok((done?, Work { seconds, cpu, peak }))
}

/// What took a side longer than this, in seconds, is not done again: the machine's drift is small beside it, and a bench has
/// to end.
const LONG: f64 = 60.0;

/// The same work of one side, round after round.
#[derive(Debug, Clone, Default)]
pub struct Rounds(Vec<Work>);

impl Rounds {
    /// One more round.
    pub fn add(&mut self, side: &str, what: &str, work: Work) {
        eprintln!(
            "bench:   {what}, {side}: {:.2} s; {}; {:.0} MiB at the peak",
            work.seconds,
            work.cpu.words(),
            work.peak.all
        );
        self.0.push(work);
        self.0.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    }

    /// The middle one, by time: the machine's drift is in the others.
    pub fn median(&self) -> Option<&Work> {
        // Of two the slower.
        self.0.get(self.0.len() / 2)
    }

    /// Whether it takes so long that once is enough.
    pub fn is_long(&self) -> bool {
        self.0.last().is_some_and(|work| work.seconds > LONG)
    }

    /// The most memory of all rounds.
    pub fn peak(&self) -> Option<Resident> {
        let peaks = self.0.iter().map(|work| work.peak);
        peaks.max_by(|a, b| a.all.total_cmp(&b.all))
    }

    fn words(&self) -> String {
        let all: Vec<_> = self.0.iter().map(|work| format!("{:.2}", work.seconds)).collect();
        format!(
            "{} s; at most {:.0} MiB of memory",
            all.join(", "),
            self.peak().unwrap_or_default().all
        )
    }
}

/// A row of so much work, ours beside theirs; none when ours was not measured.
pub fn row(what: &str, unit: Unit, amount: f64, ours: &Rounds, theirs: &Rounds) -> Option<Row> {
    let middle = ours.median()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let reference = theirs.median().map(|work| {
        let words = format!("{}; {}", theirs.words(), work.cpu.words());
        (amount / work.seconds, words)
    });
    Some(
        Row::new(what, unit, amount / middle.seconds)
            .detail(ours.words())
            .reference(reference)
            .limit(middle.cpu.limit(cores, "waiting, on the disk or on each other")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Target;

    fn rounds(seconds: &[f64]) -> Rounds {
        let mut rounds = Rounds::default();
        for seconds in seconds {
            let work = Work {
                seconds: *seconds,
                cpu: CpuShare::default(),
                peak: Resident {
                    all: 10.0 * seconds,
                    anonymous: 1.0,
                },
            };
            rounds.add("ours", "work", work);
        }
        rounds
    }

    #[test]
    fn the_middle_round_counts_and_the_highest_peak() {
        let ours = rounds(&[3.0, 1.0, 2.0]);
        assert_eq!(ours.median().map(|work| work.seconds), Some(2.0));
        assert_eq!(ours.peak().map(|peak| peak.all), Some(30.0));
        assert!(!ours.is_long() && rounds(&[61.0]).is_long());
        let row = row("work", Unit::PerSecond, 100.0, &ours, &rounds(&[4.0])).expect("measured");
        assert_eq!((row.pinfleet, row.reference), (50.0, Some(25.0)));
        assert_eq!(row.target(Target::Times(2.0)).reached(), Some(true));
    }

    #[tokio::test]
    async fn memory_and_time_are_of_the_work() {
        let own = std::process::id();
        let work = tokio::time::sleep(Duration::from_millis(20));
        let (_, work) = measured(vec![("load", vec![own])], own, async {
            work.await;
            Ok(())
        })
        .await
        .expect("measured");
        assert!(work.seconds >= 0.02 && work.peak.anonymous > 0.1, "{work:?}");
    }
}
