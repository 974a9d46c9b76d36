//! What a peer finds on its disk when it comes back, and what it makes of it.

use std::path::Path;
use std::sync::Arc;

use cluster_consensus::{Consensus, ConsensusConfig};
use cluster_storage::raft_log::{LogOptions, RaftLog, RaftLogOptions, RocksLogEngine};
use cluster_storage::{StateOptions, StateStore};
use node_core::Timestamp;
use node_core::command::{CommandBatch, Request};

use crate::harness::{self, PATIENCE, Peer, config, eventually, folders, short_log};
use crate::{names, put_all};

async fn alone(folder: &Path, config: ConsensusConfig) -> Peer {
    let peer = Peer::start(1, 1, folder, None, config).await;
    peer.consensus.bootstrap(peer.as_member(1)).await.expect("bootstrapped");
    eventually("leading", || peer.consensus.leader().is_self).await;
    peer
}

/// An error of a start that must not succeed.
async fn refused(raft_id: u64, folder: &Path, config: ConsensusConfig) -> String {
    let engine = RocksLogEngine::open(&folder.join("raft-log"), &LogOptions::default()).expect("the log opens");
    let log = RaftLog::open(Arc::new(engine), &RaftLogOptions::default()).expect("the log opens");
    let state = StateStore::open(&folder.join("state"), StateOptions::default()).expect("the state opens");
    let channels = Arc::new(harness::PlainChannels::default());
    let opened = Consensus::open(raft_id, harness::peer_id(1), config, log, Arc::new(state), channels).await;
    opened.err().expect("refused").to_string()
}

/// Nothing may hold on to log or state behind a stop: the next start would find them locked, and a process that exits
/// meanwhile would abort. On the caller's runtime and on one of its own, with snapshots and old entries being read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_stopped_starts_again_at_once() {
    let folders = folders(1);
    for round in 0..8 {
        let config = ConsensusConfig {
            runtime_threads: round % 2,
            snapshot_entries: 10,
            ..short_log()
        };
        let peer = if round == 0 {
            alone(folders[0].path(), config).await
        } else {
            Peer::start(1, 1, folders[0].path(), None, config).await
        };
        eventually("leading", || peer.consensus.leader().is_self).await;
        put_all(&peer, &names(&format!("round-{round}"), 40)).await;
        peer.stop().await;
    }
}

/// As `a_peer_that_was_stopped_starts_again_at_once`, without a stop: dropping has to be enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_on_its_own_runtime_that_is_dropped_leaves_nothing_open() {
    let folders = folders(1);
    for round in 0..4 {
        let engine = RocksLogEngine::open(&folders[0].path().join("raft-log"), &LogOptions::default());
        let log = RaftLog::open(Arc::new(engine.expect("it is free")), &RaftLogOptions::default()).expect("opened");
        let state = StateStore::open(&folders[0].path().join("state"), StateOptions::default()).expect("it is free");
        let config = ConsensusConfig {
            runtime_threads: 2,
            ..short_log()
        };
        let channels = Arc::new(harness::PlainChannels::default());
        let consensus = Consensus::open(1, harness::peer_id(1), config, log, Arc::new(state), channels).await;
        let consensus = consensus.expect("Raft starts");
        if round == 0 {
            let own = cluster_consensus::RaftPeer {
                peer_id: harness::peer_id(1),
                addresses: vec!["127.0.0.1:1".into()],
            };
            consensus.bootstrap(own).await.expect("bootstrapped");
        }
        eventually("leading", || consensus.leader().is_self).await;
        for name in names(&format!("round-{round}"), 30) {
            consensus.propose(harness::command(&name), 1).await.expect("put");
        }
    }
}

/// A snapshot was installed and the power went before this peer took its own of it; or a leader had applied, and written
/// out, what its own disk had not yet in its log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_ahead_of_its_log_is_gone_on_with() {
    let folders = folders(2);
    let peer = alone(folders[0].path(), config()).await;
    put_all(&peer, &names("first", 30)).await;
    peer.consensus.trigger_snapshot().await.expect("asked");
    eventually("a snapshot", || peer.consensus.metrics().snapshot.is_some()).await;
    put_all(&peer, &names("second", 30)).await;
    let (rows, applied) = (peer.rows(), peer.consensus.applied().borrow().index);
    let address = peer.address;
    peer.stop().await;

    let engine = RocksLogEngine::open(&folders[0].path().join("raft-log"), &LogOptions::default()).expect("opened");
    let log = RaftLog::open(Arc::new(engine), &RaftLogOptions::default()).expect("opened");
    log.truncate(applied - 10).await.expect("cut");
    log.close().await;
    drop(log);

    let peer = Peer::start(1, 1, folders[0].path(), Some(address), config()).await;
    assert_eq!(peer.rows(), rows);
    // Raft tells of it once it runs.
    eventually("a snapshot of all", || {
        peer.consensus.metrics().snapshot >= Some(applied)
    })
    .await;
    eventually("leading", || peer.consensus.leader().is_self).await;
    put_all(&peer, &names("third", 10)).await;
    // It can bring up others.
    let new = Peer::start(2, 2, folders[1].path(), None, config()).await;
    peer.consensus
        .admit_learner(2, new.as_member(2))
        .await
        .expect("admitted");
    new.catch_up(&peer).await;
    assert_eq!(new.rows(), peer.rows());
    new.stop().await;
    peer.stop().await;
}

/// A number never comes back to an empty disk, nor to the disk of another number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_belongs_to_one_number() {
    let folders = folders(1);
    let folder = folders[0].path();
    let peer = alone(folder, config()).await;
    peer.put_pin("one").await.expect("put");
    peer.stop().await;

    let error = refused(2, folder, config()).await;
    assert!(error.contains("Raft number 1") && error.contains("number 2"), "{error}");
    let started = ConsensusConfig {
        started: true,
        ..config()
    };
    let peer = Peer::start(1, 1, folder, None, started.clone()).await;
    assert_eq!(peer.pins(), ["one"]);
    peer.stop().await;

    std::fs::remove_dir_all(folder.join("raft-log")).expect("removed");
    std::fs::remove_dir_all(folder.join("state")).expect("removed");
    let error = refused(1, folder, started).await;
    assert!(
        error.contains("Raft log is gone") && error.contains("join anew"),
        "{error}"
    );
}

/// An entry of about 100 KiB.
fn heavy(number: usize) -> bytes::Bytes {
    let requests = (0..500).map(|part| Request {
        id: None,
        op: harness::put_pin(&format!("heavy-{number:04}-{part:03}-{}", "x".repeat(100)), Vec::new()),
    });
    let batch = CommandBatch {
        time: Timestamp::from_millis(1_700_000_000_000),
        requests: requests.collect(),
    };
    batch.encode().into()
}

/// However many entries may be kept, they must not fill the disk; nor after a restart, which knows their weight as a
/// whole only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_heavy_entries_is_kept_short() {
    let folders = folders(1);
    let config = ConsensusConfig {
        snapshot_entries: 5,
        log_entries_kept: 1_000_000,
        log_bytes_kept: 2 << 20,
        ..config()
    };
    let mut peer = alone(folders[0].path(), config.clone()).await;
    let weight = heavy(0).len() as u64;
    let kept = config.log_bytes_kept / weight;
    assert!((5..60).contains(&kept), "{weight}");
    for round in 0..2 {
        for number in 0..60 {
            let proposed = peer.consensus.propose(heavy(100 * round + number), 500).await;
            proposed.expect("put");
        }
        // What the last snapshot holds, and is too much.
        let status = peer.consensus.metrics();
        let last = status.last_log.expect("entries");
        eventually("the log is short", || {
            let purged = peer.consensus.metrics().purged.unwrap_or(0);
            purged + kept + 10 >= last && purged > 0
        })
        .await;
        let purged = peer.consensus.metrics().purged.expect("purged");
        assert!(
            purged + kept / 2 < last,
            "more than too much was purged: {purged} of {last}"
        );
        if round == 0 {
            peer.stop().await;
            peer = Peer::start(1, 1, folders[0].path(), None, config.clone()).await;
            eventually("leading", || peer.consensus.leader().is_self).await;
        }
    }
    assert_eq!(
        peer.consensus.applied().borrow().index,
        peer.consensus.metrics().last_log.expect("entries")
    );
    let _ = tokio::time::timeout(PATIENCE, peer.stop()).await;
}
