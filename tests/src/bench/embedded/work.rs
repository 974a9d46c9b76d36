//! One piece of work, measured: how long it took, who was busy meanwhile, and how much memory it needed.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::bench::machine::{CpuShare, Usage, resident_mebibytes};
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
    /// The most resident memory of the process that was watched, in MiB.
    pub peak: f64,
}

/// Who is busy while something is measured: groups of processes.
pub type Groups = Vec<(&'static str, Vec<u32>)>;

/// Does it, and measures it. `watched` is the process whose memory counts.
pub async fn measured<T>(
    groups: Groups,
    watched: u32,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, Work)> {
    let peak = Arc::new(AtomicU64::new(0));
    let look = {
        let peak = Arc::clone(&peak);
        move || {
            let kibibytes = resident_mebibytes(watched).unwrap_or_default() * 1024.0;
            peak.fetch_max(kibibytes as u64, Ordering::Relaxed);
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
    Ok((
        done?,
        Work {
            seconds,
            cpu,
            peak: peak.load(Ordering::Relaxed) as f64 / 1024.0,
        },
    ))
}

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
            work.peak
        );
        self.0.push(work);
        self.0.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    }

    /// The middle one, by time: the machine's drift is in the others.
    pub fn median(&self) -> Option<&Work> {
        // Of two the slower.
        self.0.get(self.0.len() / 2)
    }

    /// The most memory of all rounds.
    pub fn peak(&self) -> Option<f64> {
        self.0.iter().map(|work| work.peak).reduce(f64::max)
    }

    fn words(&self) -> String {
        let all: Vec<_> = self.0.iter().map(|work| format!("{:.2}", work.seconds)).collect();
        format!(
            "{} s; at most {:.0} MiB of memory",
            all.join(", "),
            self.peak().unwrap_or_default()
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
                peak: 10.0 * seconds,
            };
            rounds.add("ours", "work", work);
        }
        rounds
    }

    #[test]
    fn the_middle_round_counts_and_the_highest_peak() {
        let ours = rounds(&[3.0, 1.0, 2.0]);
        assert_eq!(ours.median().map(|work| work.seconds), Some(2.0));
        assert_eq!(ours.peak(), Some(30.0));
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
        assert!(work.seconds >= 0.02 && work.peak > 0.5, "{work:?}");
    }
}
