//! Peers that die: what was acknowledged stays, and the rest of the cluster goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use cluster_proto::v1;
use cluster_tests::client::{Client, pin_replicas, pin_request};
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::{cid, fresh_cid};
use cluster_tests::fake_kubo::{Call, Fault, Rule};
use node_core::Cid;
use parking_lot::Mutex;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

/// Adds pins through one peer until told to stop; knows which were acknowledged, and when.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(Cid, Instant)>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn begin(clients: Vec<Client>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let next = Arc::new(AtomicU64::new(1));
        let tasks = clients
            .into_iter()
            .map(|client| {
                let (stop, acknowledged, next) = (stop.clone(), acknowledged.clone(), next.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let cid = cid(next.fetch_add(1, Ordering::Relaxed));
                        let mut request = tonic::Request::new(pin_replicas(&cid, 2));
                        request.set_timeout(Duration::from_secs(5));
                        match client.pins.clone().pin(request).await {
                            Ok(_) => acknowledged.lock().push((cid, Instant::now())),
                            // Its peer is dead or has no leader; not a reason to burn the processor.
                            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                        }
                    }
                })
            })
            .collect();
        Self {
            stop,
            acknowledged,
            tasks,
        }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().len()
    }

    async fn end(self) -> Vec<(Cid, Instant)> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("the load does not panic");
        }
        std::mem::take(&mut *self.acknowledged.lock())
    }
}

/// Every one of these is on every running peer.
async fn all_there(cluster: &Cluster, acknowledged: &[(Cid, Instant)]) -> anyhow::Result<()> {
    cluster.caught_up().await?;
    for peer in cluster.peers().iter().filter(|peer| peer.runs()) {
        let listed: std::collections::BTreeSet<String> =
            peer.client().list_all().await?.into_iter().map(|pin| pin.cid).collect();
        let lost = acknowledged
            .iter()
            .filter(|(cid, _)| !listed.contains(&cid.to_string()))
            .count();
        ensure!(
            lost == 0,
            "{} of {} acknowledged pins are not on {}",
            lost,
            acknowledged.len(),
            peer.name()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_killed_under_load_takes_nothing_acknowledged_with_it() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    for _ in 0..3 {
        let leader = cluster.leader().await?;
        // Through all peers: those of the dead one fail, the others are forwarded to its successor.
        let load = Load::begin((0..9).map(|at| cluster.client(at % 3)).collect());
        let enough = async |count: usize| -> anyhow::Result<()> {
            ensure!(load.count() >= count, "{} pins were acknowledged", load.count());
            Ok(())
        };
        cluster
            .wait_until("the load runs", LIMIT, async || enough(200).await)
            .await?;
        cluster.peer(leader).kill9()?;
        let killed = Instant::now();
        let before = load.count();
        cluster
            .wait_until("pins are acknowledged again", LIMIT, async || {
                enough(before + 100).await
            })
            .await?;
        let acknowledged = load.end().await;
        let first_after = acknowledged
            .iter()
            .filter(|(_, at)| *at > killed + Duration::from_millis(5))
            .map(|(_, at)| *at)
            .min();
        let gap = first_after.expect("a hundred came after the kill") - killed;
        println!("gap in acknowledged writes: {gap:?}");
        ensure!(gap < Duration::from_secs(5), "the gap was {gap:?}");
        all_there(&cluster, &acknowledged).await?;
        cluster.peer(leader).start().await?;
        cluster.settled().await?;
        all_there(&cluster, &acknowledged).await?;
    }
    // And all of it is really held, by two nodes each.
    let client = cluster.client(0);
    cluster
        .wait_until("everything is pinned", Duration::from_secs(120), async || {
            let open = v1::StatusAllRequest {
                statuses: [
                    v1::Status::Queued,
                    v1::Status::Pinning,
                    v1::Status::Retrying,
                    v1::Status::GaveUp,
                ]
                .map(i32::from)
                .to_vec(),
                brief: true,
                ..v1::StatusAllRequest::default()
            };
            let open = client.status_all(open).await?;
            ensure!(
                open.is_empty(),
                "{} are not pinned yet, such as {:?}",
                open.len(),
                open.first()
            );
            Ok(())
        })
        .await?;
    let pins = client.list_all().await?;
    let held: usize = (0..3).map(|at| cluster.fake(at).pins().len()).sum();
    // Each fake also holds what `ipfs init` pins: nothing. What two nodes hold counts twice.
    ensure!(
        held == 2 * pins.len(),
        "{held} are held, for {} pins with two replicas",
        pins.len()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_may_be_lost_and_a_majority_may_come_back() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let known = fresh_cid();
    cluster.client(0).pin_as(pin_replicas(&known, 1)).await?;
    cluster.caught_up().await?;

    // One of three: everything goes on.
    let leader = cluster.leader().await?;
    let (first, second) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.peer(first).kill9()?;
    for _ in 0..20 {
        cluster.client(second).pin_as(pin_replicas(&fresh_cid(), 1)).await?;
    }
    let status = cluster.client(second).cluster_status().await?;
    assert_eq!(status.pins, 21);
    cluster
        .wait_until("the loss is seen", LIMIT, async || {
            let status = cluster.client(second).cluster_status().await?;
            ensure!(status.health() == v1::Health::Degraded, "{:?}", status.problems);
            let name = cluster.peer(first).name();
            ensure!(
                status.problems.iter().any(|problem| problem.subject == name),
                "{:?}",
                status.problems
            );
            Ok(())
        })
        .await?;

    // Two of three: writes are refused, and reads of what the peer has go on.
    cluster.peer(leader).kill9()?;
    let client = cluster.client(second);
    cluster
        .wait_until("writes are refused", LIMIT, async || {
            let begun = Instant::now();
            let mut request = tonic::Request::new(pin_request(&fresh_cid()));
            request.set_timeout(Duration::from_secs(2));
            let refused = client.pins.clone().pin(request).await;
            // Said by the peer, with the reason, and before the caller's own deadline cuts it off.
            match refused {
                Err(status) if status.code() == Code::Unavailable => {
                    ensure!(begun.elapsed() < Duration::from_secs(2), "{status:?} came too late");
                    assert_eq!(crate::reason(&status), "NO_LEADER");
                    Ok(())
                }
                other => anyhow::bail!("{other:?}"),
            }
        })
        .await?;
    let begun = Instant::now();
    let pin = client.get(&known, v1::Consistency::Stale).await?;
    assert_eq!(pin.cid, known.to_string());
    assert_eq!(client.list_all().await?.len() as u64, status.pins);
    ensure!(
        begun.elapsed() < Duration::from_secs(5),
        "stale reads took {:?}",
        begun.elapsed()
    );
    let mut request = tonic::Request::new(v1::GetRequest {
        cid: known.to_string(),
        ..v1::GetRequest::default()
    });
    request.set_timeout(Duration::from_secs(2));
    let refused = client
        .pins
        .clone()
        .get(request)
        .await
        .expect_err("it can't be linearizable");
    assert!(
        matches!(refused.code(), Code::Unavailable | Code::DeadlineExceeded),
        "{refused:?}"
    );
    let status = client.cluster_status().await?;
    assert_eq!(status.health(), v1::Health::Failed, "{:?}", status.problems);
    let (code, _) = cluster.peer(second).http_get("/livez").await?;
    assert_eq!(code, 200, "it lives");
    let (code, text) = cluster.peer(second).http_get("/readyz").await?;
    assert_eq!(code, 503, "it can't take an add: {text}");

    // They come back, without a hand.
    cluster.peer(leader).launch()?;
    cluster.peer(first).launch()?;
    cluster.peer(leader).ready().await?;
    cluster.peer(first).ready().await?;
    cluster.settled().await?;
    client.pin_as(pin_replicas(&fresh_cid(), 1)).await?;
    cluster.caught_up().await?;
    // What was refused was not done, and what was acknowledged is on all of them.
    for peer in 0..3 {
        assert_eq!(cluster.client(peer).list_all().await?.len(), 22);
    }
    Ok(())
}

/// After any load, adds, changes and removals through all peers, every peer has the same pinset: the reference's
/// followers were caught with pins that the leader did not have, and the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_peers_hold_the_same_after_load() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let work = (0..6u64).map(|worker| {
        let client = cluster.client(usize::try_from(worker).expect("few") % 3);
        async move {
            // Half of the CIDs are everybody's, so that orders differ if they can.
            for round in 0..60 {
                let cid = cid(if round % 2 == 0 {
                    round
                } else {
                    1_000 * (worker + 1) + round
                });
                if round % 5 == 4 {
                    match client.unpin(&cid).await {
                        Err(status) if status.code() != Code::NotFound => return Err(status),
                        _ => {}
                    }
                } else {
                    client.pin_as(pin_replicas(&cid, 1 + i32::from(round % 3 == 0))).await?;
                }
            }
            Ok(())
        }
    });
    futures::future::try_join_all(work).await?;
    cluster.caught_up().await?;
    // Placements are settled by the leader for a moment longer: until nothing changes.
    cluster
        .wait_until(
            "all peers are at the same revision with the same pins",
            LIMIT,
            async || {
                let mut seen = Vec::new();
                for at in 0..3 {
                    let client = cluster.client(at);
                    let before = client.cluster_status().await?;
                    let pins = client.list_all().await?;
                    let after = client.cluster_status().await?.revision;
                    ensure!(before.revision == after, "something changes still");
                    ensure!(
                        before.pins == pins.len() as u64,
                        "{} pins are counted, {} listed",
                        before.pins,
                        pins.len()
                    );
                    seen.push((after, before.cids, pins));
                }
                ensure!(seen.windows(2).all(|two| two[0].0 == two[1].0), "revisions differ");
                ensure!(
                    seen.windows(2).all(|two| two[0] == two[1]),
                    "pins differ at the same revision"
                );
                ensure!(!seen[0].2.is_empty(), "nothing was pinned");
                Ok(())
            },
        )
        .await
}

/// What hangs does not hold up a stop: a watch that never ends, a daemon that takes calls and says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_nobody_who_hangs() -> anyhow::Result<()> {
    // A quarter of it is more than the whole stop may take here.
    let cluster = Cluster::start(ClusterOptions::default().with("shutdown.deadline", "60s")).await?;
    let leader = cluster.leader().await?;
    let client = cluster.client(leader);
    for at in 0..3 {
        cluster.fake(at).add_rule(Rule::new(Fault::Hang).of_call(Call::PinAdd));
    }
    client.pin_as(pin_replicas(&fresh_cid(), 3)).await?;
    let hung = cluster.fake_named(&format!("node-{}", leader + 1));
    hung.wait("hang with a pin", LIMIT, |fake| fake.in_flight(Call::PinAdd) > 0)
        .await?;
    let mut watch = client
        .pins
        .clone()
        .watch(v1::WatchRequest::default())
        .await?
        .into_inner();
    let health = tonic_health::pb::health_client::HealthClient::new(client.channel.clone());
    let check = async |mut health: tonic_health::pb::health_client::HealthClient<_>| {
        let answer = health.check(tonic_health::pb::HealthCheckRequest::default()).await;
        answer.map(|answer| answer.into_inner().status())
    };
    assert_eq!(check(health.clone()).await?, ServingStatus::Serving);
    let mut told = health
        .clone()
        .watch(tonic_health::pb::HealthCheckRequest::default())
        .await?
        .into_inner();
    assert_eq!(
        told.message().await?.map(|answer| answer.status()),
        Some(ServingStatus::Serving)
    );

    // What it has to tell of comes first, and last of all why it ends.
    let read_on = async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => {}
                ended => return ended,
            }
        }
    };
    let begun = Instant::now();
    let (stopped, ended, health) = tokio::join!(cluster.peer(leader).stop(), read_on, told.message());
    stopped?;
    ensure!(
        begun.elapsed() < Duration::from_secs(10),
        "the stop took {:?}",
        begun.elapsed()
    );
    let ended = ended.expect_err("the peer stops");
    assert_eq!(
        (ended.code(), crate::reason(&ended).as_str()),
        (Code::Unavailable, "STOPPING")
    );
    // Who balances load by it hears it before the connection goes.
    assert_eq!(health?.map(|answer| answer.status()), Some(ServingStatus::NotServing));
    cluster.client((leader + 1) % 3).pin(&fresh_cid()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_peers_killed_at_once_come_back_with_everything() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let load = Load::begin((0..8).map(|at| cluster.client(at % 3)).collect());
    cluster
        .wait_until("the load runs", LIMIT, async || {
            ensure!(load.count() >= 300, "{} pins were acknowledged", load.count());
            Ok(())
        })
        .await?;
    for peer in cluster.peers() {
        peer.kill9()?;
    }
    let acknowledged = load.end().await;
    for peer in cluster.peers() {
        peer.launch()?;
    }
    for peer in cluster.peers() {
        peer.ready().await?;
    }
    all_there(&cluster, &acknowledged).await?;
    let client = cluster.client(1);
    for (cid, _) in acknowledged.iter().rev().take(20) {
        cluster
            .wait_until("it is pinned", LIMIT, async || client.pinned_on(cid, 2).await)
            .await?;
    }
    Ok(())
}

/// A stop is a hand-over: no election has to time out, no client sees an error that it has to think about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_hands_leadership_over() -> anyhow::Result<()> {
    // An election by timeout would take ten seconds, and be seen.
    let options = ClusterOptions::default()
        .with("raft.election_timeout_min", "10s")
        .with("raft.election_timeout_max", "12s");
    let cluster = Cluster::start(options).await?;
    let leader = cluster.leader().await?;
    let other = cluster.client((leader + 1) % 3);
    other.pin(&fresh_cid()).await?;
    let begun = Instant::now();
    cluster.peer(leader).stop().await?;
    ensure!(
        begun.elapsed() < Duration::from_secs(10),
        "the stop took {:?}",
        begun.elapsed()
    );
    let begun = Instant::now();
    other.pin(&fresh_cid()).await?;
    ensure!(
        begun.elapsed() < Duration::from_secs(3),
        "the next write took {:?}",
        begun.elapsed()
    );
    assert_ne!(cluster.leader().await?, leader);
    Ok(())
}

/// A cluster that is stopped in good order goes on from its folder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_goes_on_from_its_folder() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let options = ClusterOptions {
        dir: Some(folder.path().join("cluster")),
        ..ClusterOptions::fakes(2)
    };
    let cid = fresh_cid();
    let mut cluster = Cluster::start(options.clone()).await?;
    let ids: Vec<_> = cluster.peers().iter().map(|peer| peer.id()).collect();
    let client = cluster.client(1);
    client.pin_as(pin_replicas(&cid, 2)).await?;
    cluster
        .wait_until("it is pinned", LIMIT, async || client.pinned_on(&cid, 2).await)
        .await?;
    cluster.stop().await?;
    drop(cluster);
    let cluster = Cluster::start(options).await?;
    assert_eq!(cluster.peers().iter().map(|peer| peer.id()).collect::<Vec<_>>(), ids);
    let client = cluster.client(0);
    cluster
        .wait_until("it is pinned still", LIMIT, async || client.pinned_on(&cid, 2).await)
        .await?;
    assert!(cluster.fake(0).pin(&cid).is_some() && cluster.fake(1).pin(&cid).is_some());
    Ok(())
}
