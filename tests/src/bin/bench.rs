//! The numbers. `cargo xtask bench --help` says what is measured.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use cluster_tests::bench::{GROUPS, Options, REFERENCE, Report, embedded, pinning, rest, run};
use cluster_tests::cluster::option_of_peers;
use tokio::signal::unix::{SignalKind, signal};

/// What is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum What {
    /// The control plane: a cluster of three peers
    #[default]
    Cluster,
    /// The node inside a peer, beside Kubo 0.43.0
    Embedded,
    /// Pages of the Pinning Services API, of a cluster of three peers whose nodes are held back
    Pinning,
    /// The REST API of IPFS Cluster, by the same program on both sides
    Rest,
}

impl What {
    fn groups(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Cluster => &GROUPS,
            Self::Embedded => &embedded::GROUPS,
            Self::Pinning => &pinning::GROUPS,
            Self::Rest => &rest::GROUPS,
        }
    }
}

/// What can be measured beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Against {
    /// IPFS Cluster 1.1.6 in Raft mode, over the same fake nodes
    IpfsCluster,
}

/// Measures a cluster of three peers on loopback, or the node inside a peer, beside the machine's own limits in the same
/// run.
///
/// Prints a table on stdout and progress on stderr, and writes all figures as JSON. A release build; nothing else should
/// run on the machine. About 12 minutes on two cores, 20 with --against ipfs-cluster; the short form takes 2 and 4.
/// `bench embedded` is always beside Kubo, and takes 20 minutes, in the short form 2.
///
/// Exit codes: 0 all targets that can be judged are reached, 1 it failed, 3 a target is missed.
#[derive(Parser)]
#[command(name = "bench", bin_name = "cargo xtask bench", version, after_help = groups())]
struct Arguments {
    /// What is measured
    #[arg(value_enum, default_value_t)]
    what: What,
    /// Small sizes, for development; the figures are worth less
    #[arg(long)]
    short: bool,
    /// Measure another system in turn, in the same run
    #[arg(long, value_name = "WHAT")]
    against: Option<Against>,
    /// Only these groups of measurements
    #[arg(long, value_name = "GROUP,…", value_delimiter = ',')]
    only: Vec<String>,
    /// Pins of the large pinset [default: 1000000, short: 50000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1_000..=1_000_000_000))]
    pins: Option<u64>,
    /// Pins that IPFS Cluster gets, one by one [default: 60000, short: 5000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    reference_pins: Option<u64>,
    /// Seconds that each rate is measured [default: 10, short: 3]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    time: Option<u64>,
    /// Where clusters keep their data while they are measured, since that disk is measured too [default: the folder for
    /// temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Let the nodes alone: what the peers take by themselves. Figures of nodes are left out
    #[arg(long)]
    undriven: bool,
    /// An option of all peers, such as worker.pins_per_second=100; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = option_of_peers)]
    set: Vec<(String, String)>,
    /// Percent of the sizes of `bench embedded` and of the file of `bench rest`, for when Kubo is slow at one of them
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100))]
    percent: u64,
    /// How often each work of `bench embedded`, and each add of `bench rest`, is done by each side, in turn; the middle one
    /// counts. What takes longer than
    /// a minute is done once [default: 3, short: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=99))]
    rounds: Option<u64>,
    /// Let Kubo write blocks as it does by itself, without syncing them: not the same promise
    #[arg(long)]
    kubo_unsynced: bool,
    /// Where the figures go as JSON [default: bench.json, bench-embedded.json, bench-pinning.json, bench-rest.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn groups() -> String {
    format!(
        "Groups:\n{}\n\nGroups of `bench embedded`:\n{}\n\nGroups of `bench pinning`:\n{}\n\nGroups of `bench rest`:\n{}",
        lines(What::Cluster),
        lines(What::Embedded),
        lines(What::Pinning),
        lines(What::Rest)
    )
}

fn lines(what: What) -> String {
    let lines = what.groups().iter();
    let lines: Vec<_> = lines.map(|(name, what)| format!("  {name:<6}  {what}")).collect();
    lines.join("\n")
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let wrong = arguments
        .only
        .iter()
        .find(|name| !arguments.what.groups().iter().any(|(group, _)| group == name));
    ensure!(
        wrong.is_none(),
        "--only {}: there is no such group; these are:\n{}",
        wrong.map_or("", String::as_str),
        lines(arguments.what)
    );
    let short = arguments.short;
    let or = |given: Option<u64>, full, small| given.unwrap_or(if short { small } else { full });
    let options = Options {
        short,
        against_ipfs_cluster: arguments.against.is_some(),
        only: arguments.only,
        pins: or(arguments.pins, 1_000_000, 50_000),
        reference_pins: or(arguments.reference_pins, 60_000, 5_000),
        time: Duration::from_secs(or(arguments.time, 10, 3)),
        dir: arguments.dir,
        set: arguments.set,
        undriven: arguments.undriven,
        percent: arguments.percent,
        rounds: usize::try_from(or(arguments.rounds, 3, 1))?,
        kubo_unsynced: arguments.kubo_unsynced,
    };
    let mut report = match arguments.what {
        What::Cluster | What::Rest => Report::new(&options, REFERENCE),
        What::Embedded => Report::new(&options, embedded::REFERENCE),
        What::Pinning => Report::new(&options, pinning::REFERENCE),
    };
    let measure = async {
        match arguments.what {
            What::Cluster => run(&options, &mut report).await,
            What::Embedded => embedded::run(&options, &mut report).await,
            What::Pinning => pinning::run(&options, &mut report).await,
            What::Rest => rest::run(&options, &mut report).await,
        }
    };
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let ended = tokio::select! {
        ended = measure => ended,
        // All processes end with the future that is dropped here.
        _ = terminated.recv() => Err(anyhow::anyhow!("stopped")),
        _ = interrupted.recv() => Err(anyhow::anyhow!("interrupted")),
    };
    if ended.is_err() {
        eprintln!("bench: it did not come to its end; what was measured until then follows");
    }
    let text = serde_json::to_string_pretty(&report)?;
    let json = arguments.json.unwrap_or_else(|| match arguments.what {
        What::Cluster => "bench.json".into(),
        What::Embedded => "bench-embedded.json".into(),
        What::Pinning => "bench-pinning.json".into(),
        What::Rest => "bench-rest.json".into(),
    });
    fs::write(&json, text + "\n").with_context(|| format!("cannot write {}", json.display()))?;
    print!("{}", report.table());
    eprintln!("bench: all figures are in {}", json.display());
    ended?;
    Ok(if report.all_reached() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(3)
    })
}
