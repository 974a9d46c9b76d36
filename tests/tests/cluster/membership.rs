//! Who belongs to the cluster: joining, catching up, being removed, and those who never belonged.

use std::time::Duration;

use anyhow::{Context, ensure};
use cluster_proto::v1;
use cluster_tests::client::pin_replicas;
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::{cid, fresh_cid};
use cluster_tests::peer::Peer;
use cluster_tests::wait::wait_until;
use tonic::Code;

use crate::bulk;

/// Snapshots early, and nothing kept behind them: who comes late can only catch up by one.
fn small_log() -> ClusterOptions {
    ClusterOptions::default()
        .with("raft.snapshot_log_entries", 100)
        .with("raft.snapshot_keep_log_entries", 0)
}

async fn peers(cluster: &Cluster) -> anyhow::Result<Vec<v1::Peer>> {
    let answer = cluster
        .any()?
        .cluster
        .clone()
        .list_peers(v1::ListPeersRequest {})
        .await?;
    Ok(answer.into_inner().peers)
}

/// Waits until the log of a peer that can't become ready says so, by exit or by words.
async fn refused(peer: &Peer, word: &str) -> anyhow::Result<()> {
    wait_until(&format!("{} is refused ({word})", peer.name()), LIMIT, async || {
        let log = peer.log().to_lowercase();
        ensure!(log.contains(word), "its log ends with:\n{}", peer.log_tail());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_peers_catch_up_by_snapshot_while_writes_go_on() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(small_log()).await?;
    let leader = cluster.leader().await?;
    let away = (leader + 1) % 3;
    cluster.peer(away).kill9()?;
    // Each an entry of its own, so that the log is cut several times.
    let client = cluster.client(leader);
    for number in 0..400 {
        client.pin_as(pin_replicas(&cid(number), 1)).await?;
    }
    bulk(&client, 1_000..4_000, 1).await?;

    // While one comes back and a new one joins, writes go on.
    let writer = tokio::spawn({
        let client = client.clone();
        async move {
            let mut written = 0u64;
            for number in 10_000..10_400 {
                if client.pin_as(pin_replicas(&cid(number), 1)).await.is_ok() {
                    written += 1;
                }
            }
            written
        }
    });
    cluster.peer(away).start().await?;
    let new = cluster.add_peer().await?;
    let written = writer.await?;
    ensure!(
        written == 400,
        "{written} of 400 writes went through while peers caught up"
    );
    cluster.settled().await?;
    cluster.caught_up().await?;
    let wanted = 400 + 3_000 + 400;
    for peer in [leader, away, new] {
        let listed = cluster.client(peer).list_all().await?.len();
        assert_eq!(listed, wanted, "on {}", cluster.peer(peer).name());
    }
    // The one that was away drives a node: what was placed there meanwhile is done.
    let node = format!("node-{}", away + 1);
    let request = v1::ListRequest {
        filter: Some(v1::PinFilter {
            node: node.clone(),
            ..v1::PinFilter::default()
        }),
        ..v1::ListRequest::default()
    };
    let placed = client.list(request).await?.len();
    let fake = cluster.fake_named(&node);
    fake.wait("hold all that it was given", Duration::from_secs(60), |fake| {
        fake.pins().len() == placed
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_peer_is_refused_from_then_on() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let leader = cluster.leader().await?;
    let removed = (leader + 1) % 3;
    let id = cluster.peer(removed).id();
    // Asked of the one that is to go, which forwards it.
    cluster
        .client(removed)
        .cluster
        .clone()
        .remove_peer(v1::RemovePeerRequest { peer_id: id.clone() })
        .await?;
    let client = cluster.client(leader);
    cluster
        .wait_until("two peers are left", LIMIT, async || {
            let status = client.cluster_status().await?;
            ensure!(
                status.peers.len() == 2 && status.peers.iter().all(|peer| peer.peer_id != id),
                "{:?}",
                status.peers
            );
            let of_it = status
                .nodes
                .iter()
                .filter(|node| node.peer == id && node.state() != v1::NodeState::Gone);
            ensure!(of_it.count() == 0, "{:?}", status.nodes);
            Ok(())
        })
        .await?;
    // It can write no more, and the others can.
    let mut request = tonic::Request::new(pin_replicas(&fresh_cid(), 1));
    request.set_timeout(Duration::from_secs(3));
    cluster
        .client(removed)
        .pins
        .clone()
        .pin(request)
        .await
        .expect_err("it does not belong to the cluster");
    client.pin_as(pin_replicas(&fresh_cid(), 1)).await?;
    // A restart does not bring it back; the others note that it tried.
    cluster.peer(removed).kill9()?;
    cluster.peer(removed).launch()?;
    cluster
        .wait_until("a peer notes the refusal", LIMIT, async || {
            let logs: String = (0..3).map(|at| cluster.peer(at).log()).collect();
            ensure!(logs.to_lowercase().contains("removed"), "nothing is logged");
            Ok(())
        })
        .await?;
    assert_eq!(
        peers(&cluster).await?.iter().filter(|peer| peer.peer_id == id).count(),
        0
    );
    client.pin_as(pin_replicas(&fresh_cid(), 1)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_works_once_and_strangers_never_get_in() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let token = cluster.client(0).join_token().await?;

    // Used once, it is used up.
    let first = cluster.try_join("joins", &token).await?;
    first.ready().await?;
    let replayed = cluster.try_join("replays", &token).await?;
    refused(&replayed, "token").await?;
    assert_eq!(peers(&cluster).await?.len(), 2);

    // A token of another cluster, and one whose secret was changed.
    let other = Cluster::start(ClusterOptions::fakes(1)).await?;
    let stranger = other.client(0).join_token().await?;
    drop(other);
    let lost = cluster.try_join("lost", &stranger).await?;
    cluster
        .wait_until("it does not get in", LIMIT, async || {
            ensure!(!lost.log().is_empty(), "it has said nothing yet");
            Ok(())
        })
        .await?;

    // Without mutual TLS nobody gets a word out of the peers' port.
    let address = cluster.peer(0).info().peer;
    let plain = cluster_tests::client::Client::new(&address, Duration::from_secs(3))?;
    let nothing = plain.cluster_status().await.expect_err("this port is for peers");
    assert_ne!(nothing.code(), Code::Ok);

    // A token that has run out.
    let request = v1::CreateJoinTokenRequest { valid_for_ms: 1_000 };
    let short = cluster
        .client(0)
        .cluster
        .clone()
        .create_join_token(request)
        .await?
        .into_inner();
    let expires = short.expires.context("a token has an end")?;
    wait_until("it has run out", LIMIT, async || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        ensure!(now.as_secs() as i64 > expires.seconds + 1, "not yet");
        Ok(())
    })
    .await?;
    let late = cluster.try_join("late", &short.token).await?;
    refused(&late, "token").await?;

    assert_eq!(
        peers(&cluster).await?.len(),
        2,
        "the one that bootstrapped and the one that joined"
    );
    // And the cluster takes who is invited.
    cluster.add_peer().await?;
    assert_eq!(peers(&cluster).await?.len(), 3);
    Ok(())
}

/// A peer that lost its disk must not vote as the one that it was, since it forgot what it promised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_peer_comes_back_as_another_one() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let leader = cluster.leader().await?;
    let wiped = (leader + 1) % 3;
    let id = cluster.peer(wiped).id();
    let old = peers(&cluster)
        .await?
        .into_iter()
        .find(|peer| peer.peer_id == id)
        .context("it is a member")?;
    let kept = fresh_cid();
    cluster.client(leader).pin_as(pin_replicas(&kept, 1)).await?;
    cluster.peer(wiped).kill9()?;
    let token = cluster.client(leader).join_token().await?;
    cluster.peer(wiped).wipe(Some(&token)).await?;
    cluster.peer(wiped).start().await?;
    cluster.settled().await?;
    let all = peers(&cluster).await?;
    assert_eq!(all.len(), 3, "{all:?}");
    let new = all
        .into_iter()
        .find(|peer| peer.peer_id == id)
        .context("it is a member again")?;
    assert_ne!(new.raft_id, old.raft_id);
    cluster.caught_up().await?;
    assert_eq!(
        cluster.client(wiped).get(&kept, v1::Consistency::Stale).await?.cid,
        kept.to_string()
    );
    cluster.client(wiped).pin_as(pin_replicas(&fresh_cid(), 2)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_beyond_the_voters_replicates_and_steps_in() -> anyhow::Result<()> {
    let options = ClusterOptions {
        peers: 3,
        ..ClusterOptions::default()
    }
    .with("raft.voters_max", 3)
    .with("raft.voter_lost_after", "2s");
    let mut cluster = Cluster::start(options).await?;
    let spare = cluster.add_peer().await?;
    let spare_id = cluster.peer(spare).id();
    let role = async |id: &str| -> anyhow::Result<v1::PeerRole> {
        let found = peers(&cluster).await?.into_iter().find(|peer| peer.peer_id == id);
        Ok(found.context("it is a member")?.role())
    };
    cluster
        .wait_until("the fourth replicates", LIMIT, async || {
            ensure!(
                role(&spare_id).await? == v1::PeerRole::Learner,
                "{:?}",
                role(&spare_id).await?
            );
            Ok(())
        })
        .await?;
    let leader = cluster.leader().await?;
    let lost = (0..3).find(|at| *at != leader).context("three voters")?;
    cluster.peer(lost).kill9()?;
    cluster
        .wait_until("the fourth votes in its place", LIMIT, async || {
            let role = role(&spare_id).await?;
            ensure!(role == v1::PeerRole::Voter, "it is {role:?}");
            Ok(())
        })
        .await?;
    // With it, one more may be lost.
    let also = (0..3).find(|at| *at != leader && *at != lost).context("three voters")?;
    cluster.peer(also).kill9()?;
    cluster.client(leader).pin_as(pin_replicas(&fresh_cid(), 1)).await?;
    Ok(())
}
