//! What a Pinfleet cluster of three peers over fake nodes does.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cluster_proto::v1;
use node_core::Cid;
use parking_lot::Mutex;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::load::{Listed, Seen, closed_loops};
use super::machine::Usage;
use super::reference::Reference;
use super::report::{Report, Row, Target, Unit};
use super::storage_node::HELD_BACK;
use super::{Options, rows, tell};
use crate::client::{Client, pin_replicas, replicas_of};
use crate::cluster::{Cluster, ClusterOptions};
use crate::content;
use crate::node::NodeKind;
use crate::wait::wait_until;

/// Items of one message of a bulk stream.
const BULK_MESSAGE: usize = 1_000;
/// A call that takes longer than this fails the bench.
const CALL_LIMIT: Duration = Duration::from_secs(600);

/// Numbers for CIDs that nobody has asked for yet.
#[derive(Debug, Default)]
pub struct Fresh(AtomicU64);

impl Fresh {
    /// The next one.
    pub fn cid(&self) -> Cid {
        content::cid(self.0.fetch_add(1, Ordering::Relaxed))
    }

    /// How many were given out.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self, count: u64) -> std::ops::Range<u64> {
        let first = self.0.fetch_add(count, Ordering::Relaxed);
        first..first + count
    }
}

/// The processes of a cluster, in the groups that processor time is told for.
pub fn groups(cluster: &Cluster) -> Vec<(&'static str, Vec<u32>)> {
    vec![
        (
            "peers",
            cluster.peers().iter().filter_map(crate::peer::Peer::pid).collect(),
        ),
        (
            "nodes",
            cluster.nodes().iter().filter_map(|(_, node)| node.pid()).collect(),
        ),
        ("load", vec![std::process::id()]),
    ]
}

/// Three peers over fake nodes.
pub(super) async fn start(options: &Options, scratch: &Path, name: &str) -> anyhow::Result<Cluster> {
    let mut set = options.set.clone();
    if options.undriven {
        set.push(("worker.pins_per_second".into(), HELD_BACK.into()));
    }
    let options = ClusterOptions {
        node: NodeKind::FakeProcess,
        dir: Some(scratch.join(name)),
        set,
        ..ClusterOptions::default()
    };
    Cluster::start(options).await
}

fn client_of(cluster: &Cluster, number: usize) -> anyhow::Result<Client> {
    let peers = cluster.peers();
    Client::new(&peers[number % peers.len()].info().grpc, CALL_LIMIT)
}

/// Adds with so many clients, each with a connection of its own, dealt out to the peers.
async fn adds(cluster: &Cluster, fresh: &Arc<Fresh>, clients: usize, time: Duration) -> anyhow::Result<(Seen, String)> {
    let before = Mutex::new(None);
    let seen = closed_loops(clients, Duration::from_secs(1), time, |number| {
        before.lock().get_or_insert_with(|| Usage::now(&groups(cluster)));
        let (client, fresh) = (client_of(cluster, number)?, fresh.clone());
        Ok(move || {
            let (client, mut request) = (client.clone(), pin_replicas(&fresh.cid(), 2));
            request.request_id = uuid::Uuid::new_v4().to_string();
            async move {
                client.pin_as(request).await?;
                Ok(())
            }
        })
    })
    .await?;
    let before = before.into_inner().unwrap_or_default();
    let share = Usage::now(&groups(cluster)).since(&before);
    Ok((seen, share.limit(cores(), "waiting for synced writes")))
}

/// Calls that do nothing, with so many clients: what connections and the machine allow at most, with all processes of the
/// cluster on it.
async fn nothing(cluster: &Cluster, clients: usize, time: Duration) -> anyhow::Result<Seen> {
    closed_loops(clients, Duration::from_millis(500), time, |number| {
        let health = HealthClient::new(client_of(cluster, number)?.channel);
        Ok(move || {
            let mut health = health.clone();
            async move {
                health.check(HealthCheckRequest::default()).await?;
                Ok(())
            }
        })
    })
    .await
}

/// Of this machine.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn words_of(clients: usize) -> String {
    match clients {
        1 => "1 client".to_owned(),
        clients => format!("{clients} clients"),
    }
}

/// A small pinset: adds, status of one, the gap after the loss of the leader.
pub async fn small(
    options: &Options,
    scratch: &Path,
    reference: &Reference,
    report: &mut Report,
) -> anyhow::Result<()> {
    tell("small", "starting three peers");
    let mut cluster = start(options, scratch, "small").await?;
    let fresh = Arc::new(Fresh::default());
    for (clients, times, name) in [(1, 8.0, "add-1"), (64, 15.0, "add-64"), (512, 15.0, "add-512")] {
        let (seen, limit) = adds(&cluster, &fresh, clients, options.time).await?;
        let words = words_of(clients);
        report.add(
            Row::new(format!("add, {words}"), Unit::PerSecond, seen.rate)
                .detail(seen.words())
                .reference(reference.get(name))
                .target(Target::Times(times))
                .limit(limit),
        );
        let empty = nothing(&cluster, clients, options.time).await?;
        report.add(
            Row::new(
                format!("a call that does nothing, {words}: the machine's own limit"),
                Unit::PerSecond,
                empty.rate,
            )
            .detail(empty.words()),
        );
        if clients == 1 {
            let share = seen.rate / report.machine.fsyncs_per_second;
            report.add(
                Row::new("add, 1 client, share of the fsync rate", Unit::Share, share)
                    .target(Target::Value(0.4))
                    .limit(
                        "two syncs one after the other: the leader's and a follower's run side by side, on one disk",
                    ),
            );
        }
        idle(options, &cluster).await?;
    }
    status_of_one(options, &cluster, &fresh, reference, report).await?;
    leader_gap(options, &mut cluster, &fresh, reference, report).await?;
    cluster.stop().await
}

/// Two million pins on three nodes took 11 minutes on two cores.
const IDLE_LIMIT: Duration = Duration::from_secs(3_600);

/// Waits until the nodes have done what the adds before left them, so that the next figure is not paid for by them.
pub(super) async fn idle(options: &Options, cluster: &Cluster) -> anyhow::Result<()> {
    if options.undriven {
        return Ok(());
    }
    wait_until("the nodes have done their work", IDLE_LIMIT, async || {
        let status = cluster.any()?.cluster_status().await?;
        let open: u64 = status
            .nodes
            .iter()
            .filter_map(|node| node.report.as_ref())
            .map(|report| report.queued + report.pinning + report.retrying)
            .sum();
        ensure!(open == 0, "{open} pins are on their way");
        Ok(())
    })
    .await
}

async fn status_of_one(
    options: &Options,
    cluster: &Cluster,
    fresh: &Fresh,
    reference: &Reference,
    report: &mut Report,
) -> anyhow::Result<()> {
    let known = fresh.count().max(1);
    for (clients, name) in [(1, "status-1"), (64, "status-64")] {
        let before = Usage::now(&groups(cluster));
        let next = Arc::new(AtomicU64::new(0));
        let seen = closed_loops(clients, Duration::from_millis(500), options.time, |number| {
            let (client, next) = (client_of(cluster, number)?, next.clone());
            Ok(move || {
                // A step that has no common factor with the number of pins would be nicer; any that is spread will do.
                let number = next.fetch_add(7_919, Ordering::Relaxed) % known;
                let client = client.clone();
                async move {
                    let status = client.status(&content::cid(number)).await?;
                    ensure!(
                        status.nodes.len() == 2,
                        "{} nodes answer for {}",
                        status.nodes.len(),
                        status.cid
                    );
                    Ok(())
                }
            })
        })
        .await?;
        let share = Usage::now(&groups(cluster)).since(&before);
        let words = words_of(clients);
        report.add(
            Row::new(format!("status of one CID, {words}"), Unit::PerSecond, seen.rate)
                .detail(seen.words())
                .reference(reference.get(name))
                .target(Target::Times(10.0))
                .limit(share.limit(cores(), "the way to the leader and to the peers that drive the nodes")),
        );
    }
    Ok(())
}

/// Kills the leader under load and looks for the longest time without an acknowledged write.
async fn leader_gap(
    options: &Options,
    cluster: &mut Cluster,
    fresh: &Arc<Fresh>,
    reference: &Reference,
    report: &mut Report,
) -> anyhow::Result<()> {
    let rounds = if options.short { 2 } else { 5 };
    let mut gaps = Vec::new();
    for round in 1..=rounds {
        tell("small", &format!("killing the leader, {round} of {rounds}"));
        let leader = cluster.leader().await?;
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = tokio::task::JoinSet::new();
        for number in (0..cluster.peers().len()).filter(|number| *number != leader) {
            for _ in 0..4 {
                let (client, fresh) = (client_of(cluster, number)?, fresh.clone());
                let (acknowledged, stop) = (acknowledged.clone(), stop.clone());
                writers.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let mut request = pin_replicas(&fresh.cid(), 1);
                        request.request_id = uuid::Uuid::new_v4().to_string();
                        request.allow_unplaced = true;
                        match client.pin_as(request).await {
                            Ok(_) => acknowledged.lock().push(Instant::now()),
                            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                        }
                    }
                });
            }
        }
        let count = |at_least: usize| {
            let acknowledged = acknowledged.clone();
            wait_until("writes are acknowledged", Duration::from_secs(60), async move || {
                let now = acknowledged.lock().len();
                ensure!(now >= at_least, "{now} of {at_least}");
                Ok(now)
            })
        };
        count(100).await?;
        let killed = Instant::now();
        cluster.peer(leader).kill9()?;
        let at_kill = acknowledged.lock().len();
        count(at_kill + 200).await?;
        stop.store(true, Ordering::Relaxed);
        while writers.join_next().await.is_some() {}
        gaps.push(longest_gap(&mut acknowledged.lock(), killed));
        cluster.peer(leader).start().await?;
        cluster.settled().await?;
    }
    gaps.sort_unstable();
    let median = gaps[gaps.len() / 2];
    let all: Vec<_> = gaps.iter().map(|gap| format!("{:.2}", gap.as_secs_f64())).collect();
    report.add(
        Row::new("gap after kill -9 of the leader", Unit::Seconds, median.as_secs_f64())
            .detail(format!("median of {} kills: {} s", gaps.len(), all.join(", ")))
            .reference(reference.get("gap"))
            .target(Target::Value(1.0))
            .limit("the election timeout: silence of 375 ms, then a random 225 to 375 ms"),
    );
    Ok(())
}

/// The longest time without an acknowledgement that ends after `from`.
pub fn longest_gap(acknowledged: &mut [Instant], from: Instant) -> Duration {
    acknowledged.sort_unstable();
    acknowledged
        .windows(2)
        .filter(|pair| pair[1] >= from)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap_or_default()
}

/// A large pinset: bulk, lists, adds, memory, restart.
pub async fn large(
    options: &Options,
    scratch: &Path,
    reference: &Reference,
    report: &mut Report,
) -> anyhow::Result<()> {
    tell("large", &format!("bulk add of {} pins", options.pins));
    let mut cluster = start(options, scratch, "large").await?;
    let fresh = Arc::new(Fresh::default());
    let (small, _) = {
        bulk(&cluster, &fresh, 10_000.min(options.pins)).await?;
        idle(options, &cluster).await?;
        adds(&cluster, &fresh, 64, options.time).await?
    };
    idle(options, &cluster).await?;
    let before = Usage::now(&groups(&cluster));
    let (rate, seconds) = bulk(&cluster, &fresh, options.pins).await?;
    let share = Usage::now(&groups(&cluster)).since(&before);
    let rows = rows::of_a_pin()? as f64;
    let raw_rows = report.machine.raw_rows.context("raw RocksDB was not measured")?;
    let raw = rate * rows / raw_rows.unsynced_per_second;
    report.add(
        Row::new(format!("bulk add, {} pins", options.pins), Unit::PerSecond, rate)
            .detail(format!(
                "{seconds:.0} s; {rows} rows of state a pin and peer: {raw:.2} of what raw RocksDB takes in one peer"
            ))
            .target(Target::Value(20_000.0))
            .limit(share.limit(cores(), "waiting for synced writes")),
    );
    tell("large", "waiting until the nodes hold them");
    let driving = Instant::now();
    idle(options, &cluster).await?;
    tell(
        "large",
        &format!(
            "the nodes held them after {:.0} s more",
            driving.elapsed().as_secs_f64()
        ),
    );

    let (large, limit) = adds(&cluster, &fresh, 64, options.time).await?;
    report.add(
        Row::new(
            format!("add, 64 clients, at {} pins: share of that at 10,000", options.pins),
            Unit::Share,
            large.rate / small.rate,
        )
        .detail(format!(
            "{:.0}/s and {:.0}/s; {}",
            large.rate,
            small.rate,
            large.words()
        ))
        .target(Target::Value(0.8))
        .limit(limit),
    );
    idle(options, &cluster).await?;
    questions(&cluster, reference, report).await?;
    memory(&cluster, reference, report, "")?;
    restart(&cluster, &fresh, reference, report).await?;

    tell("large", &format!("bulk add of {} more", options.pins));
    bulk(&cluster, &fresh, options.pins).await?;
    idle(options, &cluster).await?;
    // Asked again, so that memory is looked at after any question.
    list_all(&cluster).await?;
    status_all(&cluster).await?;
    memory(&cluster, reference, report, " at twice as many pins")?;
    cluster.stop().await
}

/// Adds many in one stream to one peer. Answers the rate and the time.
pub(super) async fn bulk(cluster: &Cluster, fresh: &Fresh, count: u64) -> anyhow::Result<(f64, f64)> {
    let client = client_of(cluster, 0)?;
    let numbers = fresh.take(count);
    let messages = tokio_stream::iter(numbers.step_by(BULK_MESSAGE).map(move |first| {
        v1::BulkPinRequest {
            items: (first..(first + BULK_MESSAGE as u64).min(first + count))
                .map(|number| v1::BulkPinItem {
                    cid: content::cid(number).to_string(),
                    options: Some(replicas_of(2)),
                    ..v1::BulkPinItem::default()
                })
                .collect(),
        }
    }));
    let begun = Instant::now();
    let mut results = client.pins.clone().bulk_pin(messages).await?.into_inner();
    let mut recorded = 0u64;
    while let Some(chunk) = results.message().await? {
        for result in chunk.results {
            ensure!(result.code == 0, "a pin was refused: {}", result.error);
            recorded += 1;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(recorded >= count, "{recorded} of {count} were recorded");
    Ok((recorded as f64 / seconds, seconds))
}

async fn list_all(cluster: &Cluster) -> anyhow::Result<Listed> {
    let begun = Instant::now();
    let client = client_of(cluster, 0)?;
    let mut stream = client.pins.clone().list(v1::ListRequest::default()).await?.into_inner();
    let (mut items, mut first) = (0, None);
    while let Some(chunk) = stream.message().await? {
        first.get_or_insert_with(|| begun.elapsed());
        items += chunk.pins.len() as u64;
    }
    Ok(Listed {
        items,
        first: first.context("the list was empty")?,
        all: begun.elapsed(),
    })
}

async fn status_all(cluster: &Cluster) -> anyhow::Result<Listed> {
    let begun = Instant::now();
    let client = client_of(cluster, 0)?;
    let request = v1::StatusAllRequest::default();
    let mut stream = client.pins.clone().status_all(request).await?.into_inner();
    let (mut items, mut first) = (0, None);
    while let Some(chunk) = stream.message().await? {
        first.get_or_insert_with(|| begun.elapsed());
        ensure!(
            chunk.unreachable_nodes.is_empty(),
            "silent nodes: {:?}",
            chunk.unreachable_nodes
        );
        items += chunk.statuses.len() as u64;
    }
    Ok(Listed {
        items,
        first: first.context("there was no status")?,
        all: begun.elapsed(),
    })
}

async fn questions(cluster: &Cluster, reference: &Reference, report: &mut Report) -> anyhow::Result<()> {
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    for (work, name, times) in [
        ("list all pins", "list", 10.0),
        ("status of all pins", "status-all", 30.0),
    ] {
        let before = Usage::now(&groups(cluster));
        let listed = if name == "list" {
            list_all(cluster).await?
        } else {
            status_all(cluster).await?
        };
        let limit = Usage::now(&groups(cluster))
            .since(&before)
            .limit(cores(), "one stream, one item after the other");
        report.add(
            Row::new(work, Unit::PerSecond, listed.rate())
                .detail(format!("{} in {:.1} s", listed.items, listed.all.as_secs_f64()))
                .reference(reference.get(name))
                .target(Target::Times(times))
                .limit(limit),
        );
        report.add(
            Row::new(format!("{work}: first line"), Unit::Milliseconds, millis(listed.first))
                .reference(reference.get(&format!("{name}-first")))
                .target(Target::Value(50.0)),
        );
    }
    Ok(())
}

/// The largest peer.
fn memory(cluster: &Cluster, reference: &Reference, report: &mut Report, when: &str) -> anyhow::Result<()> {
    let mut sizes = Vec::new();
    for peer in cluster.peers() {
        sizes.push(peer.resident_bytes()? as f64 / f64::from(1 << 20));
    }
    let largest = sizes.iter().copied().fold(0.0, f64::max);
    let all: Vec<_> = sizes.iter().map(|size| format!("{size:.0}")).collect();
    let row = Row::new(format!("resident memory of a peer{when}"), Unit::MebiBytes, largest)
        .detail(format!("the peers after the questions above: {} MiB", all.join(", ")))
        .target(Target::Value(200.0))
        .limit("buffers and caches of [storage]");
    report.add(if when.is_empty() {
        row.reference(reference.get("memory"))
    } else {
        row
    });
    Ok(())
}

/// Kills all peers and starts them again, until a write is acknowledged.
async fn restart(cluster: &Cluster, fresh: &Fresh, reference: &Reference, report: &mut Report) -> anyhow::Result<()> {
    tell("large", "killing and restarting all peers");
    for peer in cluster.peers() {
        peer.kill9()?;
    }
    let addresses: Vec<_> = cluster.peers().iter().map(|peer| peer.info().grpc).collect();
    let begun = Instant::now();
    for peer in cluster.peers() {
        peer.launch()?;
    }
    let client = Client::new(&addresses[0], CALL_LIMIT)?;
    let took = wait_until("a write is acknowledged", Duration::from_secs(120), async || {
        client.pin_as(pin_replicas(&fresh.cid(), 2)).await?;
        Ok(begun.elapsed())
    })
    .await?;
    for peer in cluster.peers() {
        peer.ready().await?;
    }
    cluster.settled().await?;
    report.add(
        Row::new(
            "restart of all peers to the first acknowledged write",
            Unit::Seconds,
            took.as_secs_f64(),
        )
        .detail("after kill -9 of all")
        .reference(reference.get("restart"))
        .target(Target::Value(3.0))
        .limit("opening the databases, applying the log's end again, an election"),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_found_where_it_counts() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut seen = [at(0), at(900), at(905), at(1_405), at(1_410)];
        assert_eq!(longest_gap(&mut seen, at(904)), Duration::from_millis(500));
        assert_eq!(longest_gap(&mut seen, at(0)), Duration::from_millis(900));
        assert_eq!(longest_gap(&mut [], start), Duration::ZERO);
    }
}
