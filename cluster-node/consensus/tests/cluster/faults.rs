//! Leaders that nobody answers, changes of members that are not what they seem, and members that break the rules.

use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_consensus::{ConsensusConfig, MemberError, ProposeError};
use cluster_proto::peer::v1 as wire;
use cluster_proto::peer::v1::raft_client::RaftClient;
use tonic::Code;

use crate::harness::{Peer, config, eventually, folders, three};
use crate::{names, put_all};

/// A leader that lost its majority refuses, but not at once: whoever asks again when it is refused would do nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_nobody_answers_makes_proposals_wait() {
    let folders = folders(3);
    let wait = Duration::from_millis(800);
    let limits = ConsensusConfig {
        propose_wait: wait,
        ..config()
    };
    let mut peers = three(&folders, &limits).await;
    peers[0].put_pin("one").await.expect("put");
    for peer in peers.drain(1..).collect::<Vec<_>>() {
        peer.stop().await;
    }
    let leader = peers.remove(0);
    eventually("its lease ends", || {
        let age = leader.consensus.metrics().millis_since_quorum_ack;
        age.is_some_and(|age| u128::from(age) > limits.election_max.as_millis())
    })
    .await;
    let began = Instant::now();
    let refused = leader.put_pin("two").await;
    assert!(matches!(refused, Err(ProposeError::NotLeader { .. })), "{refused:?}");
    let waited = began.elapsed();
    assert!(waited >= wait && waited < 5 * wait, "{waited:?}");
    leader.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_no_message_holds_is_refused() {
    let folders = folders(1);
    let peer = Peer::start(1, 1, folders[0].path(), None, config()).await;
    let refused = peer.consensus.propose(Bytes::from(vec![0; (32 << 20) + 1]), 1).await;
    assert!(
        matches!(refused, Err(ProposeError::TooLarge { allowed, .. }) if allowed == 32 << 20),
        "{refused:?}"
    );
    peer.stop().await;
}

/// What seems to be done already is answered only by a leader that a majority has just confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_to_change_is_no_answer_without_a_majority() {
    let folders = folders(3);
    let limits = ConsensusConfig {
        member_timeout: Duration::from_millis(700),
        ..config()
    };
    let mut peers = three(&folders, &limits).await;
    peers[1].catch_up(&peers[0]).await;
    let follower = &peers[1].consensus;
    for answer in [
        follower.promote(3).await,
        follower.remove(9).await,
        follower.promote(9).await,
        follower.admit_learner(1, peers[0].as_member(1)).await,
    ] {
        assert!(matches!(answer, Err(MemberError::NotLeader { .. })), "{answer:?}");
    }
    assert_eq!(peers[0].consensus.promote(3).await, Ok(()), "it votes already");
    for peer in peers.drain(1..).collect::<Vec<_>>() {
        peer.stop().await;
    }
    let alone = &peers[0].consensus;
    for answer in [alone.promote(3).await, alone.remove(9).await] {
        assert!(
            matches!(answer, Err(MemberError::Unknown | MemberError::NotLeader { .. })),
            "{answer:?}"
        );
    }
    peers.remove(0).stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_lags_gets_no_vote() {
    let folders = folders(2);
    let limits = ConsensusConfig {
        lagging_entries: 20,
        ..config()
    };
    let leader = Peer::start(1, 1, folders[0].path(), None, limits.clone()).await;
    leader
        .consensus
        .bootstrap(leader.as_member(1))
        .await
        .expect("bootstrapped");
    eventually("leading", || leader.consensus.leader().is_self).await;
    let learner = Peer::start(2, 2, folders[1].path(), None, limits.clone()).await;
    let (address, member) = (learner.address, learner.as_member(2));
    leader.consensus.admit_learner(2, member).await.expect("admitted");
    learner.catch_up(&leader).await;
    learner.stop().await;
    put_all(&leader, &names("pin", 50)).await;
    match leader.consensus.promote(2).await {
        Err(MemberError::Lagging {
            raft_id: 2,
            lag,
            allowed: 20,
        }) => assert!(lag >= 50, "{lag}"),
        other => panic!("{other:?}"),
    }
    let learner = Peer::start(2, 2, folders[1].path(), Some(address), limits).await;
    eventually("it has caught up", || {
        let status = leader.consensus.metrics();
        status.followers.get(&2).is_some_and(|follower| !follower.lagging)
    })
    .await;
    leader.consensus.promote(2).await.expect("promoted");
    learner.stop().await;
    leader.stop().await;
}

/// As the peers encode it: a version, then Protocol Buffers. Small numbers only.
fn log_id(term: u8, leader: u8, index: u8) -> Vec<u8> {
    vec![8, term, 16, leader, 24, index]
}

fn position(term: u8, leader: u8, index: u8) -> Bytes {
    [vec![1], log_id(term, leader, index)].concat().into()
}

fn vote(term: u8, node: u8) -> Bytes {
    vec![1, 8, term, 16, node, 24, 1].into()
}

fn blank(term: u8, leader: u8, index: u8) -> Bytes {
    [vec![1, 10, 6], log_id(term, leader, index)].concat().into()
}

fn snapshot_of(term: u8, leader: u8, index: u8) -> Bytes {
    [vec![1, 10, 6], log_id(term, leader, index), vec![18, 2, 18, 0]]
        .concat()
        .into()
}

/// openraft stops with a panic where a member breaks the rules. One that does must not take others down with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_breaks_the_rules_stops_nobody() {
    let folders = folders(3);
    let peers = three(&folders, &config()).await;
    put_all(&peers[0], &names("pin", 20)).await;
    peers[1].catch_up(&peers[0]).await;
    let target = &peers[1];
    eventually("it knows what is committed", || {
        target.consensus.metrics().committed >= Some(20)
    })
    .await;
    let mut client = RaftClient::connect(format!("http://{}", target.address))
        .await
        .expect("connected");
    let ends = Some(wire::Ends { from: 3, to: 2 });
    let term = 100;
    let append = |previous: Bytes, entries: Vec<Bytes>| wire::AppendRequest {
        ends,
        vote: vote(term, 3),
        previous,
        committed: Bytes::new(),
        entries,
    };
    let cases = [
        ("a gap", append(position(1, 1, 10), vec![blank(term, 3, 12)])),
        (
            "a gap within",
            append(position(1, 1, 90), vec![blank(term, 3, 91), blank(term, 3, 93)]),
        ),
        (
            "a beginning that is none",
            append(Bytes::new(), vec![blank(term, 3, 5)]),
        ),
        (
            "a later term than the leader's",
            append(position(1, 1, 90), vec![blank(term + 1, 3, 91)]),
        ),
        ("terms that go back", append(position(5, 1, 90), vec![blank(4, 3, 91)])),
        ("another history", append(position(term, 3, 10), vec![])),
    ];
    for (what, message) in cases {
        let status = client.append(message).await.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
    }
    let snapshot = |vote: Bytes, meta: Bytes| {
        let header = wire::SnapshotHeader {
            ends,
            vote,
            meta,
            files: Vec::new(),
        };
        let frame = Some(wire::snapshot_request::Frame::Header(header));
        tokio_stream::iter([wire::SnapshotRequest { frame }])
    };
    for (what, meta) in [
        ("a snapshot of a later term", snapshot_of(term + 1, 3, 99)),
        ("a snapshot of another history", snapshot_of(term, 3, 10)),
    ] {
        let status = client.snapshot(snapshot(vote(term, 3), meta)).await.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
    }
    // What is here already need not be sent: the answer comes after the header.
    let answer = client.snapshot(snapshot(vote(term, 3), snapshot_of(1, 1, 10))).await;
    answer.expect("it is here already");
    assert_eq!(target.consensus.metrics().fatal, None);
    put_all(&peers[0], &names("later", 5)).await;
    target.catch_up(&peers[0]).await;
    for peer in peers {
        peer.stop().await;
    }
}
