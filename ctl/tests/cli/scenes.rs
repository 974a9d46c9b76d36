//! A cluster to look at: what the golden files show.

mod node;

use cluster_proto::v1;
use prost_types::Timestamp;

use crate::fake::{Fake, Server};
use crate::runner::cid;

pub use node::embedded;

pub const PEER_A: &str = "12D3KooWGQ5kbnzkEG5TxTiFtUnZbmAECV5bM1gL9LbxPxSvAVQb";
pub const PEER_B: &str = "12D3KooWHGrvKBPnWaT8hgrXZyXPHzQDmzyZ5vkzz7NGiTd4jPzn";

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

/// So far from now that the clock of a slow test machine makes no difference.
fn hours_from_now(hours: i64) -> Option<Timestamp> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    at(i64::try_from(now.as_secs()).expect("small") + hours * 3_600 + if hours > 0 { 1_800 } else { -1_800 })
}

fn peer(name: &str, peer_id: &str, leader: bool, reachable: bool) -> v1::Peer {
    v1::Peer {
        peer_id: peer_id.into(),
        name: name.into(),
        raft_id: if leader { 1 } else { 2 },
        role: v1::PeerRole::Voter.into(),
        leader,
        reachable,
        addresses: vec!["10.0.0.1:9096".into()],
        api_address: "10.0.0.1:9098".into(),
        version: "0.1.0".into(),
        applied_index: 1_204_511,
        joined: at(1_767_323_045),
    }
}

fn nodes() -> Vec<v1::StorageNode> {
    let node = v1::StorageNode {
        id: "n1".into(),
        name: "kubo-1".into(),
        peer: PEER_A.into(),
        kind: "kubo".into(),
        api: "http://10.0.0.1:5001".into(),
        tags: [("zone".into(), "a".into()), ("host".into(), "h1".into())].into(),
        weight: 1.0,
        state: v1::NodeState::Active.into(),
        report: Some(v1::NodeReport {
            time: at(1_767_323_045),
            reachable: true,
            free_bytes: 512 << 30,
            total_bytes: 1 << 40,
            version: "0.43.0".into(),
            ipfs_peer_id: PEER_A.into(),
            queued: 12_000,
            pinning: 32,
            pinned: 998_765,
            retrying: 3,
            gave_up: 1,
            oldest_queued_ms: 4_500,
            pins_per_second: 812.25,
            breaker: "closed".into(),
            concurrency: 32,
            ..v1::NodeReport::default()
        }),
        ..v1::StorageNode::default()
    };
    let down = v1::StorageNode {
        id: "n2".into(),
        name: "kubo-2".into(),
        peer: PEER_B.into(),
        api: "/ip4/10.0.0.2/tcp/5001".into(),
        tags: [("zone".into(), "b".into())].into(),
        state: v1::NodeState::Cordoned.into(),
        report: Some(v1::NodeReport {
            reachable: false,
            error: "connection refused".into(),
            breaker: "open".into(),
            ..v1::NodeReport::default()
        }),
        ..node.clone()
    };
    let fresh = v1::StorageNode {
        id: "n3".into(),
        name: "kubo-3".into(),
        report: None,
        ..node.clone()
    };
    vec![node, down, fresh]
}

pub fn status(cid: &str, nodes: Vec<v1::NodeStatus>, whole: v1::Status) -> v1::PinStatus {
    v1::PinStatus {
        cid: cid.into(),
        name: "photos".into(),
        status: whole.into(),
        nodes,
        replication_min: 2,
        replication_max: 3,
        pins: 1,
        unplaced: String::new(),
    }
}

pub fn node_status(node: &str, status: v1::Status) -> v1::NodeStatus {
    v1::NodeStatus {
        node: node.into(),
        node_id: "n1".into(),
        peer: PEER_A.into(),
        status: status.into(),
        ..v1::NodeStatus::default()
    }
}

fn pins(fake: &Fake) {
    let base = v1::Pin {
        namespace: "default".into(),
        mode: v1::PinMode::Recursive.into(),
        replication_min: 2,
        replication_max: 3,
        created: at(1_767_323_045),
        modified: at(1_767_323_045),
        nodes: vec!["kubo-1".into(), "kubo-2".into()],
        revision: 41,
        ..v1::Pin::default()
    };
    fake.put(v1::Pin {
        cid: cid(1),
        name: "photos".into(),
        metadata: [("owner".into(), "ann".into()), ("kind".into(), "jpeg".into())].into(),
        origins: vec![format!("/ip4/192.0.2.1/tcp/4001/p2p/{PEER_A}")],
        expire_at: at(1_798_718_400),
        requested_nodes: vec!["kubo-1".into()],
        ..base.clone()
    });
    fake.put(v1::Pin {
        cid: cid(2),
        // A name that tries to move the cursor, and one that is wider than it is long.
        name: "évil\x1b[2J\n 漢字".into(),
        slot: "s1".into(),
        mode: v1::PinMode::Direct.into(),
        replication_min: -1,
        replication_max: -1,
        nodes: vec![],
        everywhere: true,
        ..base.clone()
    });
    fake.put(v1::Pin {
        cid: cid(3),
        namespace: "team-a".into(),
        nodes: vec![],
        unplaced: "2 storage nodes are needed and 1 can take it (kubo-2: it is full)".into(),
        updated_from: cid(1),
        ..base
    });
}

fn statuses(fake: &Fake) {
    let pinned = v1::NodeStatus {
        blocks: 12_345,
        bytes: 3 << 30,
        changed: hours_from_now(-3),
        attempts: 1,
        ..node_status("kubo-1", v1::Status::Pinned)
    };
    let retrying = v1::NodeStatus {
        attempts: 4,
        error: "pin/add: context deadline exceeded".into(),
        error_class: "stalled".into(),
        next_attempt: hours_from_now(2),
        changed: hours_from_now(-1),
        ..node_status("kubo-2", v1::Status::Retrying)
    };
    let silent = node_status("kubo-3", v1::Status::Unreachable);
    let gave_up = v1::NodeStatus {
        attempts: 60,
        error: "merkledag: not found".into(),
        error_class: "not_found".into(),
        ..node_status("kubo-1", v1::Status::GaveUp)
    };
    fake.script(|script| {
        let one = status(&cid(1), vec![pinned, retrying, silent], v1::Status::Retrying);
        script.statuses.insert(cid(1), [one].into());
        script
            .statuses
            .insert(cid(2), [status(&cid(2), vec![gave_up], v1::Status::GaveUp)].into());
        let unplaced = v1::PinStatus {
            unplaced: "no node has 2 TiB free".into(),
            name: String::new(),
            ..status(&cid(3), vec![], v1::Status::Unplaced)
        };
        script.statuses.insert(cid(3), [unplaced].into());
    });
}

/// A cluster with a bit of everything.
pub fn cluster() -> Server {
    let server = Server::start();
    pins(&server.fake);
    statuses(&server.fake);
    server.fake.script(|script| {
        script.cluster = v1::ClusterStatus {
            cluster_id: "6f1c9a52".into(),
            health: v1::Health::Degraded.into(),
            problems: vec![v1::Problem {
                severity: v1::Health::Degraded.into(),
                subject: "kubo-2".into(),
                message: "its IPFS daemon does not answer (connection refused); start it, or take the node out with \
                          `cluster-ctl node rm kubo-2`"
                    .into(),
            }],
            leader: PEER_A.into(),
            term: 4,
            committed_index: 1_204_511,
            revision: 1_200_000,
            pins: 1_000_000,
            cids: 998_001,
            unplaced: 1,
            peers: vec![peer("peer-a", PEER_A, true, true), peer("peer-b", PEER_B, false, false)],
            nodes: nodes(),
            answered_by: PEER_A.into(),
        };
        let verdict = |node: &str, node_id: &str, chosen, rank, score, reason: &str| v1::NodeVerdict {
            node: node.into(),
            node_id: node_id.into(),
            chosen,
            rank,
            score,
            reason: reason.into(),
        };
        script.explanation = v1::ExplainResponse {
            cid: cid(1),
            pinned: true,
            summary: "2 nodes chosen; at least 1 and up to 2 are wanted".into(),
            nodes: vec![
                verdict("kubo-1", "n1", true, 1, 0.875, "asked for; 512 GiB free"),
                verdict("kubo-3", "n3", true, 2, 0.5, "zone c has none yet"),
                verdict("kubo-2", "n2", false, 0, 0.0, "cordoned"),
            ],
        };
        script.recovered = v1::RecoverResponse {
            recovered: 1_234,
            unreachable_nodes: vec![],
        };
        script.settings = v1::Settings {
            replication_min: Some(2),
            replication_max: Some(3),
            spread_by: vec!["zone".into(), "host".into()],
        };
        let change = |revision, kind: v1::ChangeKind, slot: &str| v1::Change {
            revision,
            kind: kind.into(),
            namespace: "default".into(),
            cid: cid(1),
            slot: slot.into(),
            time: at(1_767_323_045),
        };
        script.changes = vec![
            change(1_200_001, v1::ChangeKind::PinCreated, ""),
            change(1_200_002, v1::ChangeKind::PlacementChanged, ""),
            change(1_200_003, v1::ChangeKind::PinExpired, "s1"),
        ];
    });
    server
}
