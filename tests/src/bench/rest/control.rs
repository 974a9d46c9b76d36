//! The control plane over HTTP: adds, states and lists.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::sync::Mutex;

use super::connection::Connection;
use super::tell;
use crate::bench::embedded::work::{Groups, Work, measured};
use crate::bench::load::{Listed, Seen, closed_loops, lines};
use crate::bench::machine::{Resident, Usage};
use crate::bench::pinfleet::{self, Fresh, cores};
use crate::bench::report::{Report, Row, Target, Unit};
use crate::bench::{Options, reference};
use crate::cluster::Cluster;
use crate::content;
use crate::node::FakeProcess;

/// Connections of each rate of adds, and how many times the reference's it must reach.
const ADDS: [(usize, f64); 3] = [(1, 8.0), (64, 15.0), (512, 15.0)];
/// The question that costs least.
const NOTHING: &str = "/version";
/// Connections of each rate of states.
const STATES: [usize; 2] = [1, 64];
/// What must be reached by lists.
const LISTS: [(&str, f64); 2] = [("/allocations", 10.0), ("/pins", 30.0)];
/// Milliseconds in which 99 of 100 adds at 64 connections are answered.
const P99_AT_64: f64 = 30.0;
/// MiB that a list of any length may take.
const LIST_MEMORY: f64 = 64.0;

/// One of the two that are compared.
struct Side {
    name: &'static str,
    addresses: Vec<String>,
    groups: Groups,
}

/// What it did.
#[derive(Default)]
struct Figures {
    /// Of questions that nothing has to be done for, as many as of `adds`.
    nothing: Vec<Seen>,
    adds: Vec<(Seen, String)>,
    states: Vec<(Seen, String)>,
    lists: Vec<List>,
}

/// A list as it was read.
struct List {
    listed: Listed,
    work: Work,
    /// MiB of the peer that was asked, before.
    before: f64,
}

/// Both sides, and then the rows.
pub async fn measure(options: &Options, folder: &Path, report: &mut Report) -> anyhow::Result<()> {
    let theirs = match options.against_ipfs_cluster {
        false => Figures::default(),
        true => {
            tell("IPFS Cluster", "starting three peers in Raft mode");
            let (cluster, nodes) = reference::start(&folder.join("reference")).await?;
            let side = Side {
                name: "IPFS Cluster",
                addresses: (0..cluster.peers.len())
                    .map(|number| host(&cluster.rest(number)))
                    .collect(),
                groups: vec![
                    ("peers", cluster.peers.iter().filter_map(|peer| peer.pid()).collect()),
                    ("nodes", nodes.iter().map(FakeProcess::pid).collect()),
                    ("load", vec![std::process::id()]),
                ],
            };
            let fresh = Arc::new(Fresh::default());
            let mut figures = side.small(options, &fresh, async || Ok(())).await?;
            if options.wants("lists") {
                tell(
                    "IPFS Cluster",
                    &format!("adding up to {} pins one by one", options.reference_pins),
                );
                while fresh.count() < options.reference_pins {
                    side.adds(&fresh, 512, Duration::from_secs(5)).await?;
                }
                figures.lists = side.lists(fresh.count()).await?;
            }
            figures
        }
    };
    let mut cluster = pinfleet::start(options, folder, "rest").await?;
    let ours = Pinfleet {
        options,
        cluster: &cluster,
    }
    .measure()
    .await?;
    cluster.stop().await?;
    rows(&ours, &theirs, report);
    Ok(())
}

/// What stands behind the scheme of a URL.
fn host(url: &str) -> String {
    url.trim_start_matches("http://").to_owned()
}

struct Pinfleet<'a> {
    options: &'a Options,
    cluster: &'a Cluster,
}

impl Pinfleet<'_> {
    async fn measure(&self) -> anyhow::Result<Figures> {
        let addresses = self.cluster.peers().iter().map(|peer| peer.info().rest);
        let side = Side {
            name: "Pinfleet",
            addresses: addresses.collect::<Option<_>>().context("a peer without a REST API")?,
            groups: pinfleet::groups(self.cluster),
        };
        let fresh = Arc::new(Fresh::default());
        let idle = async || pinfleet::idle(self.options, self.cluster).await;
        let mut figures = side.small(self.options, &fresh, idle).await?;
        if self.options.wants("pins") {
            for (connections, _) in ADDS {
                let seen = side.nothing(connections, self.options.time).await?;
                side.told(&format!("GET {NOTHING}, {}", words_of(connections)), &seen);
                figures.nothing.push(seen);
            }
        }
        if self.options.wants("lists") {
            let more = self.options.pins.saturating_sub(fresh.count());
            tell("lists", &format!("bulk add of {more} pins, over gRPC"));
            pinfleet::bulk(self.cluster, &fresh, more).await?;
            idle().await?;
            figures.lists = side.lists(fresh.count()).await?;
        }
        Ok(figures)
    }
}

impl Side {
    fn address(&self, number: usize) -> String {
        self.addresses[number % self.addresses.len()].clone()
    }

    /// Adds and states with a small pinset. `idle` waits until the nodes have done what was left to them.
    async fn small(
        &self,
        options: &Options,
        fresh: &Arc<Fresh>,
        idle: impl AsyncFn() -> anyhow::Result<()>,
    ) -> anyhow::Result<Figures> {
        let mut figures = Figures::default();
        // States are asked of what is there.
        let adds = if options.wants("pins") { &ADDS[..] } else { &ADDS[1..2] };
        for (connections, _) in adds {
            let seen = self.adds(fresh, *connections, options.time).await?;
            self.told(&format!("POST /pins/CID, {connections} connections"), &seen.0);
            figures.adds.push(seen);
            idle().await?;
        }
        if !options.wants("pins") {
            figures.adds.clear();
        }
        if options.wants("status") {
            for connections in STATES {
                let seen = self.states(fresh.count(), connections, options.time).await?;
                self.told(&format!("GET /pins/CID, {connections} connections"), &seen.0);
                figures.states.push(seen);
            }
        }
        Ok(figures)
    }

    fn told(&self, what: &str, seen: &Seen) {
        eprintln!("bench:   {}, {what}: {:.0}/s; {}", self.name, seen.rate, seen.words());
    }

    async fn adds(&self, fresh: &Arc<Fresh>, connections: usize, time: Duration) -> anyhow::Result<(Seen, String)> {
        let target = |fresh: &Fresh| ("POST", format!("/pins/{}", fresh.cid()));
        let fresh = fresh.clone();
        self.load(connections, time, Duration::from_secs(1), move || target(&fresh))
            .await
    }

    /// What connections and the machine allow at most: an answer that is made of nothing.
    async fn nothing(&self, connections: usize, time: Duration) -> anyhow::Result<Seen> {
        let target = || ("GET", NOTHING.to_owned());
        let loaded = self.load(connections, time, Duration::from_millis(500), target).await?;
        Ok(loaded.0)
    }

    async fn states(&self, known: u64, connections: usize, time: Duration) -> anyhow::Result<(Seen, String)> {
        let next = AtomicU64::new(0);
        let target = move || {
            let number = next.fetch_add(7_919, Ordering::Relaxed) % known.max(1);
            ("GET", format!("/pins/{}", content::cid(number)))
        };
        self.load(connections, time, Duration::from_millis(500), target).await
    }

    /// Closed loops over connections that stay open, dealt out to the peers.
    async fn load(
        &self,
        connections: usize,
        time: Duration,
        warm_up: Duration,
        target: impl Fn() -> (&'static str, String) + Send + Sync + 'static,
    ) -> anyhow::Result<(Seen, String)> {
        let before = Usage::now(&self.groups);
        let target = Arc::new(target);
        let seen = closed_loops(connections, warm_up, time, |number| {
            let connection = Arc::new(Mutex::new(Connection::new(self.address(number))));
            let target = target.clone();
            Ok(move || {
                let (connection, (method, target)) = (connection.clone(), target());
                async move { connection.lock().await.ask(method, &target).await }
            })
        })
        .await?;
        let limit = Usage::now(&self.groups).since(&before);
        Ok((
            seen,
            limit.limit(cores(), "waiting for synced writes, and for each other"),
        ))
    }

    async fn lists(&self, pins: u64) -> anyhow::Result<Vec<List>> {
        let asked = self.groups.first().and_then(|(_, peers)| peers.first()).copied();
        let asked = asked.context("no peer runs")?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
        let mut lists = Vec::new();
        for (path, _) in LISTS {
            let before = Resident::of(asked).context("the peer is gone")?.all;
            let url = format!("http://{}{path}", self.address(0));
            let (listed, work) = measured(self.groups.clone(), asked, lines(&http, &url)).await?;
            eprintln!(
                "bench:   {}, GET {path}: {:.0}/s; first after {:.1} ms; {:.0} MiB before, {:.0} at the peak",
                self.name,
                listed.rate(),
                millis(listed.first),
                before,
                work.peak.all
            );
            ensure!(
                listed.items * 100 >= pins * 99,
                "GET {path} of {}: {} of {pins} pins came",
                self.name,
                listed.items
            );
            lists.push(List { listed, work, before });
        }
        Ok(lists)
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn words_of(count: usize) -> String {
    match count {
        1 => "1 connection".to_owned(),
        count => format!("{count} connections"),
    }
}

fn rows(ours: &Figures, theirs: &Figures, report: &mut Report) {
    for (index, ((seen, limit), (count, times))) in ours.adds.iter().zip(ADDS).enumerate() {
        let theirs = theirs.adds.get(index).map(|(seen, _)| seen);
        let work = format!("POST /pins/CID, {}", words_of(count));
        report.add(
            Row::new(&work, Unit::PerSecond, seen.rate)
                .detail(seen.words())
                .reference(theirs.map(|seen| (seen.rate, seen.words())))
                .target(Target::Times(times))
                .limit(limit),
        );
        if let Some(nothing) = ours.nothing.get(index) {
            report.add(
                Row::new(
                    format!("GET {NOTHING}, {}: the machine's own limit", words_of(count)),
                    Unit::PerSecond,
                    nothing.rate,
                )
                .detail(nothing.words()),
            );
        }
        if count == 64 {
            report.add(
                Row::new(
                    format!("{work}: 99 of 100 within"),
                    Unit::Milliseconds,
                    millis(seen.p99),
                )
                .reference(theirs.map(|seen| (millis(seen.p99), String::new())))
                .target(Target::Value(P99_AT_64)),
            );
        }
    }
    for (index, ((seen, limit), count)) in ours.states.iter().zip(STATES).enumerate() {
        let theirs = theirs.states.get(index).map(|(seen, _)| (seen.rate, seen.words()));
        report.add(
            Row::new(
                format!("GET /pins/CID, {}", words_of(count)),
                Unit::PerSecond,
                seen.rate,
            )
            .detail(seen.words())
            .reference(theirs)
            .target(Target::Times(10.0))
            .limit(limit),
        );
    }
    for (index, (list, (path, times))) in ours.lists.iter().zip(LISTS).enumerate() {
        let theirs = theirs.lists.get(index);
        let words = |list: &List| format!("{} in {:.1} s", list.listed.items, list.listed.all.as_secs_f64());
        let grown = |list: &List| (list.work.peak.all - list.before).max(0.0);
        let memory = |list: &List| format!("from {:.0} to {:.0} MiB", list.before, list.work.peak.all);
        let limit = list.work.cpu.limit(cores(), "one stream, one line after the other");
        report.add(
            Row::new(format!("GET {path}"), Unit::PerSecond, list.listed.rate())
                .detail(words(list))
                .reference(theirs.map(|list| (list.listed.rate(), words(list))))
                .target(Target::Times(times))
                .limit(limit),
        );
        report.add(
            Row::new(
                format!("GET {path}: first line"),
                Unit::Milliseconds,
                millis(list.listed.first),
            )
            .reference(theirs.map(|list| (millis(list.listed.first), String::new())))
            .target(Target::Value(50.0)),
        );
        report.add(
            Row::new(
                format!("GET {path}: memory that it takes"),
                Unit::MebiBytes,
                grown(list),
            )
            .detail(memory(list))
            .reference(theirs.map(|list| (grown(list), memory(list))))
            .target(Target::Value(LIST_MEMORY)),
        );
    }
}
