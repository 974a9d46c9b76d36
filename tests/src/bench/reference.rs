//! IPFS Cluster in Raft mode over the same fake nodes, asked the same questions over its REST API.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use parking_lot::Mutex;

use super::load::{closed_loops, lines};
use super::pinfleet::{Fresh, longest_gap};
use super::{Options, tell};
use crate::content;
use crate::ipfs_cluster::{Cluster, pin};
use crate::node::FakeProcess;
use crate::ports::free_address;
use crate::wait::wait_until;

/// A figure and words about it, by name.
#[derive(Debug, Clone, Default)]
pub struct Reference {
    figures: BTreeMap<String, (f64, String)>,
}

impl Reference {
    /// A figure, if it was measured.
    pub fn get(&self, name: &str) -> Option<(f64, String)> {
        self.figures.get(name).cloned()
    }

    fn add(&mut self, name: &str, value: f64, words: String) {
        eprintln!("bench:   IPFS Cluster {name}: {value:.1}; {words}");
        self.figures.insert(name.to_owned(), (value, words));
    }
}

/// It was seen to end under load. A second try is fair, and the figures of Pinfleet are worth having without it.
const ATTEMPTS: usize = 2;

/// Three peers over a fake node each.
pub(super) async fn start(folder: &Path) -> anyhow::Result<(Cluster, Vec<FakeProcess>)> {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(FakeProcess::start(free_address()?)?);
    }
    let addresses: Vec<&str> = nodes.iter().map(FakeProcess::address).collect();
    let cluster = Cluster::start(folder, &addresses).await?;
    cluster.takes_a_pin(&content::fresh_cid()).await?;
    Ok((cluster, nodes))
}

/// Measures everything that it can do too. What fails is told on stderr, and left out when it fails again.
pub async fn measure(options: &Options, scratch: &Path) -> anyhow::Result<Reference> {
    let mut reference = Reference::default();
    for attempt in 1..=ATTEMPTS {
        tell("IPFS Cluster", "starting three peers in Raft mode");
        let (mut cluster, _nodes) = start(&scratch.join(format!("reference-{attempt}"))).await?;
        let Err(error) = measure_on(options, &mut cluster, &mut reference).await else {
            break;
        };
        tell(
            "IPFS Cluster",
            &format!("attempt {attempt} of {ATTEMPTS} failed: {error}"),
        );
        for (number, peer) in cluster.peers.iter_mut().enumerate() {
            if let Some(ended) = peer.ended() {
                let number = number + 1;
                tell(
                    "IPFS Cluster",
                    &format!("peer {number} {ended}; its log ends with:\n{}", peer.log_tail()),
                );
            }
        }
    }
    Ok(reference)
}

async fn measure_on(options: &Options, cluster: &mut Cluster, reference: &mut Reference) -> anyhow::Result<()> {
    let fresh = Arc::new(Fresh::default());
    if options.wants("small") {
        for clients in [1, 64, 512] {
            let seen = adds(cluster, &fresh, clients, options.time).await?;
            reference.add(&format!("add-{clients}"), seen.rate, seen.words());
        }
        status_of_one(options, cluster, &fresh, reference).await?;
    }
    if options.wants("large") {
        tell(
            "IPFS Cluster",
            &format!("adding up to {} pins one by one", options.reference_pins),
        );
        while fresh.count() < options.reference_pins {
            adds(cluster, &fresh, 512, Duration::from_secs(5)).await?;
        }
        for (name, path) in [("list", "/allocations"), ("status-all", "/pins")] {
            let listed = lines(&cluster.http, &format!("{}{path}", cluster.rest(0))).await?;
            let words = format!("{} in {:.1} s", listed.items, listed.all.as_secs_f64());
            reference.add(name, listed.rate(), words);
            let first = listed.first.as_secs_f64() * 1e3;
            reference.add(&format!("{name}-first"), first, format!("at {} pins", listed.items));
        }
        let mut largest = 0.0f64;
        for peer in &cluster.peers {
            largest = largest.max(peer.resident_mebibytes()?);
        }
        reference.add("memory", largest, format!("at {} pins, after the lists", fresh.count()));
    }
    if options.wants("small") {
        leader_gap(cluster, &fresh, reference).await?;
    }
    if options.wants("large") {
        restart(cluster, &fresh, reference).await?;
    }
    Ok(())
}

async fn adds(
    cluster: &Cluster,
    fresh: &Arc<Fresh>,
    clients: usize,
    time: Duration,
) -> anyhow::Result<super::load::Seen> {
    closed_loops(clients, Duration::from_secs(1), time, |number| {
        let (http, rest, fresh) = (cluster.http.clone(), cluster.rest(number), fresh.clone());
        Ok(move || {
            let (http, rest, cid) = (http.clone(), rest.clone(), fresh.cid());
            async move { pin(&http, &rest, &cid).await }
        })
    })
    .await
}

async fn status_of_one(
    options: &Options,
    cluster: &Cluster,
    fresh: &Fresh,
    reference: &mut Reference,
) -> anyhow::Result<()> {
    let known = fresh.count().max(1);
    for clients in [1, 64] {
        let next = Arc::new(AtomicU64::new(0));
        let seen = closed_loops(clients, Duration::from_millis(500), options.time, |number| {
            let (http, rest, next) = (cluster.http.clone(), cluster.rest(number), next.clone());
            Ok(move || {
                let cid = content::cid(next.fetch_add(7_919, Ordering::Relaxed) % known);
                let url = format!("{rest}/pins/{cid}");
                let http = http.clone();
                async move {
                    http.get(url).send().await?.error_for_status()?.bytes().await?;
                    Ok(())
                }
            })
        })
        .await?;
        reference.add(&format!("status-{clients}"), seen.rate, seen.words());
    }
    Ok(())
}

/// How long is waited for writes after the loss of the leader.
const GAP_LIMIT: Duration = Duration::from_secs(60);

/// The first peer began the cluster and leads as long as nobody else was elected, which takes its loss.
async fn leader_gap(cluster: &mut Cluster, fresh: &Arc<Fresh>, reference: &mut Reference) -> anyhow::Result<()> {
    tell("IPFS Cluster", "killing the leader");
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for number in [1, 1, 1, 1, 2, 2, 2, 2] {
        let (http, rest, fresh) = (cluster.http.clone(), cluster.rest(number), fresh.clone());
        let (acknowledged, stop) = (acknowledged.clone(), stop.clone());
        writers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                match pin(&http, &rest, &fresh.cid()).await {
                    Ok(()) => acknowledged.lock().push(Instant::now()),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        });
    }
    let count = |at_least: usize| {
        let acknowledged = acknowledged.clone();
        wait_until("writes are acknowledged", GAP_LIMIT, async move || {
            let now = acknowledged.lock().len();
            ensure!(now >= at_least, "{now} of {at_least}");
            Ok(())
        })
    };
    count(100).await?;
    let killed = Instant::now();
    cluster.peers[0].kill();
    let at_kill = acknowledged.lock().len();
    let words = match count(at_kill + 100).await {
        Ok(()) => "one kill".to_owned(),
        // Seen after heavy load. It is a figure too, and the others are worth having.
        Err(_) => format!("one kill; it had not recovered after {} s", GAP_LIMIT.as_secs()),
    };
    stop.store(true, Ordering::Relaxed);
    let mut seen = acknowledged.lock().clone();
    seen.push(Instant::now());
    // What still waits for an answer may do so for ever.
    writers.shutdown().await;
    let gap = longest_gap(&mut seen, killed);
    reference.add("gap", gap.as_secs_f64(), words);
    cluster.peers[0].launch(None)?;
    cluster.answers(0).await
}

async fn restart(cluster: &mut Cluster, fresh: &Fresh, reference: &mut Reference) -> anyhow::Result<()> {
    tell("IPFS Cluster", "killing and restarting all peers");
    for peer in &mut cluster.peers {
        peer.kill();
    }
    let begun = Instant::now();
    for peer in &mut cluster.peers {
        peer.launch(None)?;
    }
    let mut words = format!("at {} pins", fresh.count());
    if let Err(error) = cluster.takes_a_pin(&fresh.cid()).await {
        // Seen when a peer that was killed before did not come back. A figure too, and the others are worth having.
        tell("IPFS Cluster", &format!("it does not come back: {error:#}"));
        words.push_str("; it had not come back by then");
    }
    reference.add("restart", begun.elapsed().as_secs_f64(), words);
    Ok(())
}
