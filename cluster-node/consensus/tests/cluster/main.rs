//! Raft over real sockets and real disks, in one process.

mod faults;
mod harness;
mod restart;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cluster_consensus::{MemberError, ProposeError, ReadError, TransferError};
use cluster_storage::state::ALL_NODES;
use futures::future::join_all;
use harness::{PATIENCE, Peer, check, command, config, eventually, folders, short_log, three};

fn names(prefix: &str, count: usize) -> BTreeSet<String> {
    (0..count).map(|number| format!("{prefix}-{number:04}")).collect()
}

async fn put_all(peer: &Peer, names: &BTreeSet<String>) {
    for done in join_all(names.iter().map(|name| peer.put_pin(name))).await {
        done.expect("it is put");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_with_the_leader() {
    let folders = folders(3);
    let mut peers = three(&folders, &config()).await;
    let before = names("before", 200);
    put_all(&peers[0], &before).await;

    let killed = Instant::now();
    let old = peers.remove(0);
    let (old_id, old_address) = (old.raft_id, old.address);
    old.stop().await;
    let mut views: Vec<_> = peers.iter().map(|peer| peer.consensus.watch_leader()).collect();
    let elected = views.iter_mut().map(|view| {
        Box::pin(view.wait_for(|view| view.leader.as_ref().is_some_and(|leader| leader.raft_id != old_id)))
    });
    tokio::time::timeout(PATIENCE, futures::future::select_all(elected))
        .await
        .expect("a new leader")
        .0
        .expect("it runs");
    let gap = killed.elapsed();
    assert!(gap < Duration::from_secs(2), "it took {gap:?} to elect a new leader");

    eventually("a leader among the two", || {
        peers.iter().any(|peer| peer.consensus.leader().is_self)
    })
    .await;
    let leader = peers
        .iter()
        .find(|peer| peer.consensus.leader().is_self)
        .expect("just seen");
    let after = names("after", 100);
    put_all(leader, &after).await;

    // The old leader comes back with what it has and gets the rest from the log.
    let old = Peer::start(old_id, 1, folders[0].path(), Some(old_address), config()).await;
    old.catch_up(leader).await;
    old.consensus.recovered(PATIENCE).await.expect("it has recovered");
    let all: Vec<_> = before.union(&after).cloned().collect();
    for peer in peers.iter().chain([&old]) {
        peer.catch_up(leader).await;
        assert_eq!(peer.pins(), all, "peer {}", peer.raft_id);
        assert_eq!(peer.rows(), leader.rows(), "peer {}", peer.raft_id);
        check(peer);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_peer_catches_up_by_snapshot_while_writes_go_on() {
    let folders = folders(4);
    let peers = three(&folders, &short_log()).await;
    let leader = &peers[0];
    put_all(leader, &names("old", 300)).await;
    eventually("the log is short", || {
        leader.consensus.metrics().purged.is_some_and(|purged| purged > 100)
    })
    .await;

    let new = Peer::start(4, 4, folders[3].path(), None, short_log()).await;
    let fresh = names("fresh", 200);
    let writes = put_all(leader, &fresh);
    let joins = async {
        leader
            .consensus
            .admit_learner(4, new.as_member(4))
            .await
            .expect("admitted")
    };
    tokio::join!(writes, joins);
    new.catch_up(leader).await;
    assert!(
        new.state.current().generation() > 1,
        "it came by the log, although that begins later"
    );
    leader
        .consensus
        .wait_applied(new.consensus.applied().borrow().index, PATIENCE)
        .await
        .expect("it is there");
    assert_eq!(new.pins(), leader.pins());
    assert_eq!(new.rows(), leader.rows());
    check(&new);
    let todo = new.state.todo_batch(10).expect("read");
    let whole: Vec<_> = todo
        .iter()
        .filter(|row| row.cid.is_none())
        .map(|row| row.node)
        .collect();
    assert_eq!(whole, [ALL_NODES], "everything is compared once");
    assert!(new.consensus.metrics().snapshot.is_some(), "it can bring up others");

    // It also comes back from its disk, and follows on.
    let address = new.address;
    let applied = new.consensus.applied().borrow().index;
    new.stop().await;
    let again = Peer::start(4, 4, folders[3].path(), Some(address), short_log()).await;
    assert!(
        again.consensus.applied().borrow().index >= applied,
        "a clean stop keeps what was applied"
    );
    leader.put_pin("later").await.expect("put");
    again.catch_up(leader).await;
    assert_eq!(again.rows(), leader.rows());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_for_long_gets_a_snapshot() {
    let folders = folders(3);
    let mut peers = three(&folders, &short_log()).await;
    put_all(&peers[0], &names("first", 20)).await;
    let away = peers.pop().expect("three of them");
    let (address, index) = (away.address, away.consensus.applied().borrow().index);
    away.stop().await;
    put_all(&peers[0], &names("second", 300)).await;
    let leader = &peers[0];
    eventually("the log is short", || {
        leader.consensus.metrics().purged.is_some_and(|purged| purged > index)
    })
    .await;
    let back = Peer::start(3, 3, folders[2].path(), Some(address), short_log()).await;
    back.catch_up(leader).await;
    assert_eq!(back.rows(), leader.rows());
    assert!(back.state.current().generation() > 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go() {
    let folders = folders(4);
    let mut peers = three(&folders, &config()).await;
    put_all(&peers[0], &names("pin", 20)).await;
    let leader = &peers[0].consensus;
    assert_eq!(
        leader.bootstrap(peers[0].as_member(1)).await,
        Err(MemberError::AlreadyInitialized)
    );
    assert_eq!(leader.promote(9).await, Err(MemberError::NotAMember(9)));
    assert_eq!(leader.remove(9).await, Ok(()), "what is not there needs no removing");
    assert_eq!(
        leader.admit_learner(2, peers[1].as_member(2)).await,
        Ok(()),
        "it is there already"
    );
    let other = leader.admit_learner(2, peers[1].as_member(7)).await;
    assert!(
        matches!(other, Err(MemberError::Refused(_))),
        "a number never changes hands: {other:?}"
    );
    let follower = peers[1].consensus.promote(3).await;
    assert!(matches!(follower, Err(MemberError::NotLeader { .. })), "{follower:?}");

    leader.demote(3).await.expect("demoted");
    let status = leader.metrics();
    assert_eq!(status.voters.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(status.learners.keys().copied().collect::<Vec<_>>(), [3]);
    leader.promote(3).await.expect("promoted");

    // Peer 3 loses its disk and comes back with the same key under a new number.
    let lost = peers.pop().expect("three of them");
    let address = lost.address;
    lost.stop().await;
    let back = Peer::start(40, 3, folders[3].path(), Some(address), config()).await;
    let leader = &peers[0].consensus;
    leader.remove(3).await.expect("the old number goes");
    leader.admit_learner(40, back.as_member(3)).await.expect("admitted");
    leader.promote(40).await.expect("promoted");
    put_all(&peers[0], &names("later", 20)).await;
    back.catch_up(&peers[0]).await;
    assert_eq!(back.rows(), peers[0].rows());
    let voters: Vec<_> = leader.metrics().voters.keys().copied().collect();
    assert_eq!(voters, [1, 2, 40]);

    // Down to one.
    leader.remove(40).await.expect("removed");
    leader.remove(2).await.expect("removed");
    assert_eq!(leader.remove(1).await, Err(MemberError::LastVoter(1)));
    peers[0].put_pin("alone").await.expect("one is a majority of one");
}

/// An empty disk under an old number could vote a second time in a term in which it has voted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_peer_is_not_taken_for_its_former_self() {
    let folders = folders(4);
    let mut peers = three(&folders, &config()).await;
    put_all(&peers[0], &names("pin", 10)).await;
    let lost = peers.pop().expect("three of them");
    let address = lost.address;
    lost.stop().await;
    // Same address, same key, new number, not admitted: what is sent to number 3 must not reach it.
    let wiped = Peer::start(41, 3, folders[3].path(), Some(address), config()).await;
    put_all(&peers[0], &names("more", 20)).await;
    eventually("heartbeats were refused", || {
        let status = peers[0].consensus.metrics();
        status.followers.get(&3).is_some_and(|follower| follower.lag >= 20)
    })
    .await;
    assert!(!wiped.consensus.is_initialized().await.expect("it runs"));
    assert_eq!(wiped.pins(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_and_reads_are_linearizable() {
    let folders = folders(3);
    let peers = three(&folders, &config()).await;
    let (leader, follower) = (&peers[0], &peers[1]);
    let index = leader.put_pin("one").await.expect("put");
    let read = leader.consensus.read_index().await.expect("it leads");
    assert!(read >= index);
    follower.consensus.wait_applied(read, PATIENCE).await.expect("applied");
    assert_eq!(follower.pins(), ["one"]);

    eventually("the follower knows the leader", || {
        follower.consensus.leader().leader.is_some()
    })
    .await;
    match follower.put_pin("two").await {
        Err(ProposeError::NotLeader { leader: Some(hint) }) => {
            assert_eq!(hint.raft_id, 1);
            assert_eq!(hint.peer, leader.as_member(1));
        }
        other => panic!("a follower took a proposal: {other:?}"),
    }
    assert!(matches!(
        follower.consensus.read_index().await,
        Err(ReadError::NotLeader { .. })
    ));
    let refused = follower.consensus.transfer_leadership(None, PATIENCE).await;
    assert_eq!(refused, Err(TransferError::NotLeader));
    let nobody = leader.consensus.transfer_leadership(Some(77), PATIENCE).await;
    assert_eq!(nobody, Err(TransferError::NoCandidate));

    let began = Instant::now();
    let new = leader
        .consensus
        .transfer_leadership(None, PATIENCE)
        .await
        .expect("handed over");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let new = peers.iter().find(|peer| peer.raft_id == new).expect("one of the three");
    eventually("it leads", || new.consensus.leader().is_self).await;
    put_all(new, &["two".to_owned()].into()).await;
    assert!(new.consensus.metrics().millis_since_quorum_ack.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_promised() {
    let folders = folders(3);
    let limits = cluster_consensus::ConsensusConfig {
        propose_timeout: Duration::from_millis(1500),
        propose_wait: Duration::from_millis(100),
        inflight_entries_max: 1,
        ..config()
    };
    let mut peers = three(&folders, &limits).await;
    peers[0].put_pin("one").await.expect("put");
    for peer in peers.drain(1..).collect::<Vec<_>>() {
        peer.stop().await;
    }
    let alone = &peers[0];
    // In flight while the majority goes: unknown, or refused because the lease has ended. Never acknowledged.
    let first = alone.consensus.submit(command("two"), 1).await.expect("handed over");
    let (first, second) = tokio::join!(first.wait(), alone.consensus.propose(command("three"), 1));
    assert!(
        matches!(first, Err(ProposeError::Unknown | ProposeError::NotLeader { .. })),
        "{first:?}"
    );
    let known = matches!(
        second,
        Err(ProposeError::Overloaded | ProposeError::Unknown | ProposeError::NotLeader { .. })
    );
    assert!(known, "{second:?}");
    let read = tokio::time::timeout(PATIENCE, alone.consensus.read_index())
        .await
        .expect("it answers");
    assert!(
        matches!(read, Err(ReadError::NoQuorum | ReadError::NotLeader { .. })),
        "{read:?}"
    );
    assert_eq!(alone.pins(), ["one"]);
}

/// Raft has a runtime of its own by default. It must be possible to let go of it in the middle of async code.
#[tokio::test]
async fn one_peer_on_a_runtime_of_its_own() {
    let folders = folders(1);
    let config = || cluster_consensus::ConsensusConfig {
        runtime_threads: 1,
        ..config()
    };
    let peer = Peer::start(1, 1, folders[0].path(), None, config()).await;
    peer.consensus.bootstrap(peer.as_member(1)).await.expect("bootstrapped");
    eventually("leading", || peer.consensus.leader().is_self).await;
    put_all(&peer, &names("pin", 20)).await;
    peer.stop().await;
    let peer = Peer::start(1, 1, folders[0].path(), None, config()).await;
    eventually("leading", || peer.consensus.leader().is_self).await;
    peer.put_pin("later").await.expect("put");
    assert_eq!(peer.pins().len(), 21);
    drop(peer);
}

/// A peer whose log is gone has forgotten its votes.
#[tokio::test]
async fn a_state_without_its_log_is_refused() {
    use std::sync::Arc;

    use cluster_storage::raft_log::{MemoryLogEngine, RaftLog, RaftLogOptions};

    let folders = folders(1);
    let peer = Peer::start(1, 1, folders[0].path(), None, config()).await;
    peer.consensus.bootstrap(peer.as_member(1)).await.expect("bootstrapped");
    eventually("leading", || peer.consensus.leader().is_self).await;
    peer.put_pin("one").await.expect("put");
    let log = RaftLog::open(Arc::new(MemoryLogEngine::new()), &RaftLogOptions::default()).expect("empty");
    let state = Arc::clone(&peer.state);
    let channels = Arc::new(harness::PlainChannels::default());
    let opened = cluster_consensus::Consensus::open(1, harness::peer_id(1), config(), log, state, channels).await;
    let error = opened.err().expect("refused").to_string();
    assert!(error.contains("log was lost"), "{error}");
}

/// What an entry changes for a storage node is on the list of the peer that drives it, and of no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_peer_has_the_to_do_of_its_own_nodes() {
    use node_core::command::{NewPeer, Op, OpResult};
    use node_core::{NodeId, NodeState, StorageNode};

    let folders = folders(3);
    let peers = three(&folders, &config()).await;
    let leader = &peers[0];
    let propose = async |op| {
        let results = leader.consensus.propose(harness::entry(op), 1).await.expect("agreed");
        results.into_iter().next().expect("one answer")
    };
    let new_peer = |name: u8| NewPeer {
        id: harness::peer_id(name),
        name: format!("p{name}"),
        addresses: vec!["127.0.0.1:1".into()],
        api_address: "127.0.0.1:2".into(),
        version: "test".into(),
    };
    let settings = node_core::pinset::Settings::default();
    let named = propose(Op::InitCluster {
        cluster_id: "test".into(),
        settings,
        peer: new_peer(1),
    })
    .await;
    assert!(matches!(named, OpResult::Admitted { .. }), "{named:?}");
    let hash = vec![7; 32];
    let expires = node_core::Timestamp::from_millis(1_800_000_000_000);
    assert_eq!(
        propose(Op::CreateToken {
            hash: hash.clone(),
            expires
        })
        .await,
        OpResult::Done
    );
    let admit = Op::AdmitPeer {
        token_hash: hash,
        attempt: vec![1; 16],
        peer: new_peer(2),
    };
    let admitted = propose(admit).await;
    assert!(matches!(admitted, OpResult::Admitted { .. }), "{admitted:?}");
    let mut nodes = Vec::new();
    for name in 1..=2_u8 {
        let node = StorageNode {
            id: NodeId(0),
            name: format!("node-{name}"),
            peer: harness::peer_id(name),
            kind: "kubo".into(),
            api: "http://127.0.0.1:5001".into(),
            tags: Default::default(),
            weight: 1.0,
            state: NodeState::Active,
            auth_file: String::new(),
        };
        match propose(Op::PutNode { node }).await {
            OpResult::Node(node) => nodes.push(node.id),
            other => panic!("{other:?}"),
        }
    }
    for (name, node) in ["a", "b", "c"].iter().zip([nodes[0], nodes[1], nodes[0]]) {
        let put = propose(harness::put_pin(name, vec![node])).await;
        assert!(matches!(put, OpResult::Pinned(_)), "{put:?}");
    }
    let expected = [(nodes[0], vec!["a", "c"]), (nodes[1], vec!["b"])];
    for (peer, (node, names)) in peers.iter().zip(expected) {
        peer.catch_up(leader).await;
        assert_eq!(
            peer.consensus.own_nodes().load().iter().copied().collect::<Vec<_>>(),
            [node]
        );
        let todo = peer.state.todo_batch(100).expect("read");
        assert!(todo.iter().all(|row| row.node == node), "{todo:?}");
        let cids: Vec<_> = todo.iter().filter_map(|row| row.cid).collect();
        assert_eq!(cids, names.iter().map(|name| harness::cid(name)).collect::<Vec<_>>());
        assert!(peer.consensus.changes().borrow().nodes >= 2);
    }
    peers[2].catch_up(leader).await;
    assert_eq!(peers[2].state.todo_batch(100).expect("read"), [], "it drives none");
}
