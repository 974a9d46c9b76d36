//! Who belongs to the cluster: joining, catching up, being removed, and those who never belonged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cluster_proto::peer::v1::peers_client::PeersClient;
use cluster_proto::peer::v1::raft_client::RaftClient;
use cluster_proto::peer::v1::{AppendRequest, FleetRequest};
use cluster_proto::v1;
use cluster_security::{ConnectorOptions, Identity, JoinToken, PeerConnector, PeerTls, TokenSecret};
use cluster_tests::client::pin_replicas;
use cluster_tests::cluster::{Cluster, ClusterOptions, LIMIT};
use cluster_tests::content::{cid, fresh_cid};
use cluster_tests::fake_kubo::FakeKubo;
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

/// The last log entry that the first peer has applied. Nothing else is going on when it is asked.
async fn applied(cluster: &Cluster) -> anyhow::Result<u64> {
    Ok(cluster.client(0).cluster_status().await?.committed_index)
}

/// The same once every peer says that it has applied as much: a change of voters is two entries, and the second may still be
/// on its way when the first shows.
async fn applied_by_all(cluster: &Cluster) -> anyhow::Result<u64> {
    cluster
        .wait_until("all have applied the same", LIMIT, async || {
            let index = applied(cluster).await?;
            let peers = peers(cluster).await?;
            ensure!(
                peers.iter().all(|peer| peer.applied_index == index),
                "{index}: {peers:?}"
            );
            Ok(index)
        })
        .await
}

/// Waits until one of these peers has written a line with all of these words.
async fn logged(peers: &[&Peer], words: &[&str]) -> anyhow::Result<()> {
    wait_until(&format!("a line with {words:?} is logged"), LIMIT, async || {
        let has_all = |line: &str| words.iter().all(|word| line.contains(word));
        let found = peers.iter().any(|peer| peer.log().lines().any(has_all));
        let tails = peers.iter().map(|peer| peer.log_tail());
        ensure!(
            found,
            "the logs end with:\n{}",
            tails.collect::<Vec<_>>().join("\n---\n")
        );
        Ok(())
    })
    .await
}

async fn role(cluster: &Cluster, id: &str) -> anyhow::Result<v1::PeerRole> {
    let found = peers(cluster).await?.into_iter().find(|peer| peer.peer_id == id);
    Ok(found.context("it is a member")?.role())
}

/// Waits until a peer is this to Raft.
async fn becomes(cluster: &Cluster, id: &str, wanted: v1::PeerRole) -> anyhow::Result<()> {
    let what = format!("{id} is a {wanted:?}");
    cluster
        .wait_until(&what, LIMIT, async || {
            let role = role(cluster, id).await?;
            ensure!(role == wanted, "it is a {role:?}");
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
    let members: Vec<_> = (0..3).filter(|at| *at != removed).map(|at| cluster.peer(at)).collect();
    logged(&members, &["a request was refused", "reason=\"removed\"", &id]).await?;
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
    let refused = ["a peer was not admitted", "the join token was used before"];
    logged(&[cluster.peer(0), &first], &refused).await?;
    logged(&[&replayed], &["the join token was used before"]).await?;
    assert_eq!(peers(&cluster).await?.len(), 2);

    // A token of this cluster whose secret is another one. It costs the cluster no log entry.
    becomes(&cluster, &first.id(), v1::PeerRole::Voter).await?;
    let mut guessed: JoinToken = cluster.client(0).join_token().await?.parse()?;
    guessed.secret = TokenSecret::generate();
    let before = applied_by_all(&cluster).await?;
    let guesser = cluster.try_join("guesses", &guessed.to_text()).await?;
    let refused = ["a peer was not admitted", "the join token is unknown or expired"];
    logged(&[cluster.peer(0), &first], &refused).await?;
    logged(&[&guesser], &["the join token is unknown or expired"]).await?;
    assert_eq!(applied(&cluster).await?, before);

    // A token of another cluster: nobody is there any more. Told to stop while it tries, the peer stops.
    let other = Cluster::start(ClusterOptions::fakes(1)).await?;
    let stranger = other.client(0).join_token().await?;
    drop(other);
    let lost = cluster.try_join("lost", &stranger).await?;
    logged(&[&lost], &["did not admit this one yet"]).await?;
    let begun = Instant::now();
    lost.stop().await?;
    ensure!(
        begun.elapsed() < Duration::from_secs(5),
        "the stop took {:?}",
        begun.elapsed()
    );

    // A key that belongs to no member gets no answer, whatever it asks.
    let identity = Identity::generate();
    let nowhere = |_: &node_core::PeerId| Vec::new();
    let connector = PeerConnector::new(PeerTls::new(&identity), Arc::new(nowhere), ConnectorOptions::default());
    let member = cluster.peer(0).info();
    let channel = connector
        .connect(member.id.parse()?, std::slice::from_ref(&member.peer))
        .await?;
    let asked = PeersClient::new(channel.clone()).fleet(FleetRequest {}).await;
    assert_eq!(asked.expect_err("it is a stranger").code(), Code::PermissionDenied);
    let appended = RaftClient::new(channel).append(AppendRequest::default()).await;
    assert_eq!(
        appended.expect_err("nobody vouches for it").code(),
        Code::PermissionDenied
    );
    let own = identity.peer_id().to_string();
    for path in ["Peers/Fleet", "Raft/Append"] {
        let words = ["a request was refused", "reason=\"stranger\"", path, &own];
        logged(&[cluster.peer(0)], &words).await?;
    }

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
    logged(&[&late], &["the join token"]).await?;

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
    becomes(&cluster, &spare_id, v1::PeerRole::Learner).await?;
    let leader = cluster.leader().await?;
    let lost = (0..3).find(|at| *at != leader).context("three voters")?;
    cluster.peer(lost).kill9()?;
    let lost_id = cluster.peer(lost).id();
    becomes(&cluster, &spare_id, v1::PeerRole::Voter).await?;
    becomes(&cluster, &lost_id, v1::PeerRole::Learner).await?;
    // With it, one more may be lost.
    let also = (0..3).find(|at| *at != leader && *at != lost).context("three voters")?;
    cluster.peer(also).kill9()?;
    cluster.client(leader).pin_as(pin_replicas(&fresh_cid(), 1)).await?;
    Ok(())
}

/// Five vote unless it is said otherwise; the sixth steps in when one is lost for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_six_peers_five_vote() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default().with("raft.voter_lost_after", "2s")).await?;
    for _ in 3..6 {
        cluster.add_peer().await?;
    }
    cluster.settled().await?;
    let count = async |role: v1::PeerRole| -> anyhow::Result<usize> {
        Ok(peers(&cluster).await?.iter().filter(|peer| peer.role() == role).count())
    };
    assert_eq!(
        (count(v1::PeerRole::Voter).await?, count(v1::PeerRole::Learner).await?),
        (5, 1)
    );
    let all = peers(&cluster).await?;
    let spare = all.iter().find(|peer| peer.role() == v1::PeerRole::Learner);
    let spare = spare.context("one does not vote")?.peer_id.clone();
    let leader = cluster.leader().await?;
    let lost = (0..6).find(|at| *at != leader && cluster.peer(*at).id() != spare);
    let lost = lost.context("five vote")?;
    cluster.peer(lost).kill9()?;
    let lost_id = cluster.peer(lost).id();
    becomes(&cluster, &spare, v1::PeerRole::Voter).await?;
    becomes(&cluster, &lost_id, v1::PeerRole::Learner).await?;
    // Back again it replicates, and does not vote a second time.
    cluster.peer(lost).start().await?;
    cluster.caught_up().await?;
    assert_eq!(
        (count(v1::PeerRole::Voter).await?, count(v1::PeerRole::Learner).await?),
        (5, 1)
    );
    Ok(())
}

/// While a peer is away, others join, and one of them leads when it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_away_follows_a_leader_that_it_never_met() -> anyhow::Result<()> {
    let mut cluster = Cluster::three().await?;
    let away = cluster.follower().await?;
    cluster.peer(away).kill9()?;
    let new = cluster.add_peer().await?;
    becomes(&cluster, &cluster.peer(new).id(), v1::PeerRole::Voter).await?;
    for _ in 0..8 {
        let leader = cluster.leader().await?;
        if leader == new {
            break;
        }
        // A clean stop hands over to the voter with the longest log.
        cluster.peer(leader).restart().await?;
    }
    assert_eq!(cluster.leader().await?, new);
    let missed = fresh_cid();
    cluster.client(new).pin_as(pin_replicas(&missed, 1)).await?;
    cluster.peer(away).start().await?;
    logged(
        &[cluster.peer(away)],
        &["other members say that a peer unknown here", &cluster.peer(new).id()],
    )
    .await?;
    cluster.caught_up().await?;
    let found = cluster.client(away).get(&missed, v1::Consistency::Stale).await?;
    assert_eq!(found.cid, missed.to_string());
    Ok(())
}

/// All that it has then is its number, and the members that it was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_crashes_right_after_it_was_admitted_comes_in() -> anyhow::Result<()> {
    let cluster = Cluster::start(ClusterOptions::fakes(1)).await?;
    let token = cluster.client(0).join_token().await?;
    let new = cluster.try_join("crashes", &token).await?;
    let standing = new.dir().join("cluster").join("standing.json");
    let begun = Instant::now();
    // A file of another process, looked at every millisecond: Raft hears of the leader a moment after it is there.
    while !standing.exists() {
        ensure!(begun.elapsed() < LIMIT, "it was not admitted:\n{}", new.log_tail());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    new.kill9()?;
    new.start().await?;
    becomes(&cluster, &new.id(), v1::PeerRole::Voter).await?;
    new.client().pin_as(pin_replicas(&fresh_cid(), 1)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_can_be_removed() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let leader = cluster.leader().await?;
    let id = cluster.peer(leader).id();
    let kept = fresh_cid();
    cluster.client(leader).pin_as(pin_replicas(&kept, 1)).await?;
    // Asked of itself: it hands over first, and its successor sees it through.
    cluster
        .client(leader)
        .cluster
        .clone()
        .remove_peer(v1::RemovePeerRequest { peer_id: id.clone() })
        .await?;
    cluster.peer(leader).kill9()?;
    let next = cluster.leader().await?;
    let client = cluster.client(next);
    let left = peers(&cluster).await?;
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(
        left.iter()
            .all(|peer| peer.peer_id != id && peer.role() == v1::PeerRole::Voter),
        "{left:?}"
    );
    assert_eq!(
        client.get(&kept, v1::Consistency::Linearizable).await?.cid,
        kept.to_string()
    );
    client.pin_as(pin_replicas(&fresh_cid(), 1)).await?;
    Ok(())
}

/// Without a token an empty disk brings nobody back, and begins no cluster of its own either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_peer_without_a_token_stays_out() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let wiped = cluster.follower().await?;
    cluster.peer(wiped).kill9()?;
    cluster.peer(wiped).wipe(None).await?;
    cluster.peer(wiped).launch()?;
    let peer = cluster.peer(wiped);
    let status = wait_until("it ends", LIMIT, async || peer.exit_status()?.context("it runs")).await?;
    ensure!(!status.success(), "{status}");
    logged(&[peer], &["holds no data", "--join TOKEN"]).await?;
    peer.forget();
    assert_eq!(peers(&cluster).await?.len(), 3);
    cluster.any()?.pin_as(pin_replicas(&fresh_cid(), 1)).await?;
    Ok(())
}

/// A peer whose Raft log was lost has forgotten how it voted; also when its state went with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_its_log_does_not_start() -> anyhow::Result<()> {
    let cluster = Cluster::three().await?;
    let peer = cluster.peer(cluster.follower().await?);
    let data = peer.dir().join("cluster");
    for lost in [&["raft-log"][..], &["raft-log", "state", "ledger"]] {
        peer.kill9()?;
        for folder in lost {
            std::fs::remove_dir_all(data.join(folder))?;
        }
        peer.launch()?;
        let status = wait_until("it ends", LIMIT, async || peer.exit_status()?.context("it runs")).await?;
        ensure!(!status.success(), "{status}");
        logged(&[peer], &["its Raft log is gone", "join anew"]).await?;
        peer.forget();
    }
    cluster.any()?.pin_as(pin_replicas(&fresh_cid(), 1)).await?;
    Ok(())
}

/// Neither on the way in nor later does a log tell what lets somebody in: not the peers', and not at the finest level.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_reaches_a_log() -> anyhow::Result<()> {
    const CREDENTIAL: &str = "never-to-be-seen-d41d8cd9";
    let options = ClusterOptions::fakes(2).with("telemetry.log_level", "trace");
    let mut cluster = Cluster::start(options).await?;
    let file = cluster.root().join("credentials");
    std::fs::write(&file, format!("bearer:{CREDENTIAL}\n"))?;
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let spare = FakeKubo::new().await?;
    let add = v1::AddNodeRequest {
        name: "guarded".into(),
        api: spare.address().to_owned(),
        auth_file: file.display().to_string(),
        ..v1::AddNodeRequest::default()
    };
    cluster.client(0).cluster.clone().add_node(add).await?;
    let token = cluster.client(0).join_token().await?;
    let joined = cluster.try_join("joins", &token).await?;
    joined.ready().await?;
    let replayed = cluster.try_join("replays", &token).await?;
    logged(&[&replayed], &["the join token was used before"]).await?;
    cluster.client(0).pin_as(pin_replicas(&fresh_cid(), 3)).await?;
    cluster.add_peer().await?;

    let parsed: JoinToken = token.parse()?;
    let secret = parsed.secret.expose();
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut secrets = vec![CREDENTIAL.to_owned(), token, hex, format!("{secret:?}")];
    let all: Vec<&Peer> = cluster.peers().iter().chain([&joined, &replayed]).collect();
    for peer in &all {
        let key = std::fs::read_to_string(peer.dir().join("identity.key"))?;
        // One line: what it is, and the key.
        let key = key.split_whitespace().last().context("the file is empty")?;
        ensure!(key.len() == 64, "no key stands in the file");
        secrets.push(key.to_owned());
    }
    for peer in all {
        let log = peer.log();
        let told = secrets.iter().find(|secret| log.contains(secret.as_str()));
        ensure!(told.is_none(), "the log of {} tells {told:?}", peer.name());
    }
    Ok(())
}
