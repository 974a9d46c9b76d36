//! The figures as a table for people and as JSON for programs.

use serde::Serialize;

use super::Options;
use super::machine::Machine;

/// What a figure counts, which says how it is written and which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// More is better.
    PerSecond,
    /// More is better.
    MebiBytesPerSecond,
    /// Less is better.
    Milliseconds,
    /// Less is better.
    Seconds,
    /// Less is better.
    MebiBytes,
    /// A share; more is better.
    Share,
}

impl Unit {
    fn write(self, value: f64) -> String {
        match self {
            Self::PerSecond => format!("{}/s", thousands(value)),
            Self::MebiBytesPerSecond => format!("{} MiB/s", thousands(value)),
            Self::Milliseconds => format!("{value:.1} ms"),
            Self::Seconds => format!("{value:.2} s"),
            Self::MebiBytes => format!("{value:.0} MiB"),
            Self::Share => format!("{value:.2}"),
        }
    }

    fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond | Self::MebiBytesPerSecond | Self::Share)
    }
}

/// What a figure must reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "value")]
pub enum Target {
    /// So many times what the other system reaches in the same run.
    Times(f64),
    /// This value, whatever else was measured.
    Value(f64),
    /// Nothing: only for comparison.
    None,
}

/// One line.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The kind of work.
    pub work: String,
    /// What the figures count.
    pub unit: Unit,
    /// Ours.
    pub pinfleet: f64,
    /// Latencies, shares, sizes.
    pub detail: String,
    /// Theirs, when it ran.
    pub reference: Option<f64>,
    /// Their latencies.
    pub reference_detail: String,
    /// What ours must reach.
    pub target: Target,
    /// What limits the figure.
    pub limit: String,
}

impl Row {
    /// A figure that nothing is compared with.
    pub fn new(work: impl Into<String>, unit: Unit, pinfleet: f64) -> Self {
        Self {
            work: work.into(),
            unit,
            pinfleet,
            detail: String::new(),
            reference: None,
            reference_detail: String::new(),
            target: Target::None,
            limit: String::new(),
        }
    }

    /// With what it must reach.
    pub fn target(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    /// With more words.
    pub fn detail(mut self, words: impl Into<String>) -> Self {
        self.detail = words.into();
        self
    }

    /// With what limits it.
    pub fn limit(mut self, words: impl Into<String>) -> Self {
        self.limit = words.into();
        self
    }

    /// With the reference's figure and words, if it ran.
    pub fn reference(mut self, figure: Option<(f64, String)>) -> Self {
        if let Some((value, words)) = figure {
            self.reference = Some(value);
            self.reference_detail = words;
        }
        self
    }

    /// How many times better than the reference.
    pub fn ratio(&self) -> Option<f64> {
        let reference = self.reference?;
        Some(if self.unit.more_is_better() {
            self.pinfleet / reference
        } else {
            reference / self.pinfleet
        })
    }

    /// Whether the target is reached; none when there is none, or when the reference did not run.
    pub fn reached(&self) -> Option<bool> {
        match self.target {
            Target::None => None,
            Target::Value(value) if self.unit.more_is_better() => Some(self.pinfleet >= value),
            Target::Value(value) => Some(self.pinfleet <= value),
            Target::Times(times) => Some(self.ratio()? >= times),
        }
    }

    fn target_words(&self) -> String {
        match self.target {
            Target::None => String::new(),
            Target::Value(value) if self.unit.more_is_better() => format!(">= {}", self.unit.write(value)),
            Target::Value(value) => format!("<= {}", self.unit.write(value)),
            Target::Times(times) => format!(">= {times} x"),
        }
    }
}

/// Everything that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The version measured.
    pub version: &'static str,
    /// The short form, whose figures are worth less.
    pub short: bool,
    /// Pins of the large pinset, where one is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pins: Option<u64>,
    /// What ours is compared with.
    pub against: &'static str,
    /// Whether that was measured too.
    pub reference_ran: bool,
    /// How long everything took.
    pub seconds: f64,
    /// The machine's limits.
    pub machine: Machine,
    /// Its fsync rate once more at the end.
    pub fsyncs_at_end: f64,
    /// The figures.
    pub rows: Vec<Row>,
}

impl Report {
    /// Without figures, and beside what they are to be compared with.
    pub fn new(options: &Options, against: &'static str) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            short: options.short,
            pins: None,
            against,
            reference_ran: false,
            seconds: 0.0,
            machine: Machine::default(),
            fsyncs_at_end: 0.0,
            rows: Vec::new(),
        }
    }

    /// Adds a line, and tells it at once: a bench that is interrupted has told what it knew.
    pub(super) fn add(&mut self, row: Row) {
        eprintln!("bench:   {}", one_line(&row));
        self.rows.push(row);
    }

    /// Whether every target that could be judged was reached.
    pub fn all_reached(&self) -> bool {
        self.rows.iter().all(|row| row.reached() != Some(false))
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut lines = vec![[
            "work".to_owned(),
            "Pinfleet".to_owned(),
            self.against.to_owned(),
            "ratio".to_owned(),
            "target".to_owned(),
            String::new(),
        ]];
        for row in &self.rows {
            lines.push([
                row.work.clone(),
                row.unit.write(row.pinfleet),
                row.reference.map_or_else(String::new, |value| row.unit.write(value)),
                row.ratio().map_or_else(String::new, |ratio| format!("{ratio:.1} x")),
                row.target_words(),
                match row.reached() {
                    Some(true) => "reached".to_owned(),
                    Some(false) => "MISSED".to_owned(),
                    None => String::new(),
                },
            ]);
        }
        let widths: Vec<usize> = (0..6)
            .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for (number, line) in lines.iter().enumerate() {
            let mut written = String::new();
            for (column, cell) in line.iter().enumerate() {
                let pad = " ".repeat(widths[column] - cell.chars().count());
                // Numbers to the right, words to the left.
                if (1..=4).contains(&column) {
                    written.push_str(&format!("{pad}{cell}  "));
                } else {
                    written.push_str(&format!("{cell}{pad}  "));
                }
            }
            text.push_str(written.trim_end());
            text.push('\n');
            if let Some(row) = number.checked_sub(1).and_then(|index| self.rows.get(index)) {
                for words in [
                    &row.detail,
                    &labelled(&format!("{}: ", self.against), &row.reference_detail),
                    &labelled("limited by ", &row.limit),
                ] {
                    if !words.is_empty() {
                        text.push_str(&format!("    {words}\n"));
                    }
                }
            }
        }
        text.push_str(&format!(
            "\nThe machine in this run: {}.\n{}{} took {:.0} s.\n",
            self.machine_words(),
            if self.short {
                "The short form: small sizes, figures of little weight. "
            } else {
                ""
            },
            if self.reference_ran {
                format!("Everything, {} included,", self.against)
            } else {
                "Everything".to_owned()
            },
            self.seconds,
        ));
        text
    }

    fn machine_words(&self) -> String {
        let machine = &self.machine;
        let mut words = format!(
            "{} cores; fdatasync after 4 KiB appends {}/s, at the end {}/s",
            machine.cores,
            thousands(machine.fsyncs_per_second),
            thousands(self.fsyncs_at_end),
        );
        if let Some(rows) = machine.raw_rows {
            words.push_str(&format!(
                "; raw RocksDB {} rows/s without a WAL, {} rows/s in synced batches of 1,000",
                thousands(rows.unsynced_per_second),
                thousands(rows.synced_per_second),
            ));
        }
        if let Some(bytes) = machine.bytes {
            words.push_str(&format!(
                "; one file written and synced {} MiB/s; SHA-256 by one core {} MiB/s; one TCP connection over loopback {} \
                 MiB/s",
                thousands(bytes.disk),
                thousands(bytes.sha256),
                thousands(bytes.loopback),
            ));
        }
        words
    }
}

fn labelled(label: &str, words: &str) -> String {
    if words.is_empty() {
        String::new()
    } else {
        format!("{label}{words}")
    }
}

fn one_line(row: &Row) -> String {
    let mut line = format!("{}: {}", row.work, row.unit.write(row.pinfleet));
    if let (Some(reference), Some(ratio)) = (row.reference, row.ratio()) {
        line.push_str(&format!(" against {}, {ratio:.2} x", row.unit.write(reference)));
    }
    for words in [&row.detail, &row.limit] {
        if !words.is_empty() {
            line.push_str(&format!("; {words}"));
        }
    }
    line
}

/// `12,345`; small figures keep a digit behind the point.
fn thousands(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_judged_the_right_way_round() {
        let rate = Row::new("add", Unit::PerSecond, 100.0).target(Target::Value(90.0));
        assert_eq!(rate.reached(), Some(true));
        let time = Row::new("gap", Unit::Seconds, 1.5).target(Target::Value(1.0));
        assert_eq!(time.reached(), Some(false));
        let times = Row::new("add", Unit::PerSecond, 100.0).target(Target::Times(8.0));
        assert_eq!(times.reached(), None, "nothing to compare with");
        let times = times.reference(Some((20.0, String::new())));
        assert_eq!(times.reached(), Some(false));
        let less = Row::new("first", Unit::Milliseconds, 10.0)
            .target(Target::Times(8.0))
            .reference(Some((100.0, String::new())));
        assert_eq!(less.reached(), Some(true));
    }

    #[test]
    fn figures_are_grouped() {
        assert_eq!(thousands(7.25), "7.2");
        assert_eq!(thousands(999.6), "1,000");
        assert_eq!(thousands(1_234_567.0), "1,234,567");
    }
}
