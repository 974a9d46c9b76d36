//! What nodes say of themselves.

use std::collections::HashMap;

use cluster_proto::v1;

use super::{PEER_A, PEER_B, cluster, hours_from_now, nodes};
use crate::fake::Server;
use crate::runner::cid;

/// The cluster with two embedded nodes besides: one that is busy, and one in trouble.
pub fn embedded() -> Server {
    let server = cluster();
    server.fake.script(|script| {
        script.details = details();
        let first = nodes().swap_remove(0);
        let node = |id: &str, name: &str| v1::StorageNode {
            id: id.into(),
            name: name.into(),
            ..first.clone()
        };
        script
            .cluster
            .nodes
            .extend([node("n4", "node-4"), node("n5", "node-5")]);
    });
    server
}

/// What a healthy embedded node, one in trouble and a Kubo daemon say of themselves.
fn details() -> HashMap<String, v1::NodeDetails> {
    let kubo = v1::NodeDetails {
        version: "0.43.0".into(),
        agent: "kubo/0.43.0/abcdef".into(),
        ipfs_peer_id: PEER_A.into(),
        addresses: vec!["/ip4/10.0.0.1/tcp/4001".into(), "/ip4/10.0.0.1/udp/4001/quic-v1".into()],
        repo_bytes: 512 << 30,
        repo_max_bytes: Some(1 << 40),
        ..v1::NodeDetails::default()
    };
    let unlimited = v1::NodeDetails {
        error: "id: connection refused".into(),
        ..v1::NodeDetails::default()
    };
    let busy = v1::NodeDetails {
        version: "0.1.0".into(),
        agent: "pinfleet/0.1.0".into(),
        ipfs_peer_id: PEER_A.into(),
        addresses: vec![
            format!("/ip4/10.0.0.1/tcp/4001/p2p/{PEER_A}"),
            format!("/ip4/10.0.0.1/udp/4001/quic-v1/p2p/{PEER_A}"),
        ],
        repo_bytes: 13 << 30,
        repo_max_bytes: Some(100 << 30),
        embedded: Some(busy()),
        ..v1::NodeDetails::default()
    };
    let troubled = v1::NodeDetails {
        embedded: Some(troubled()),
        ..busy.clone()
    };
    [
        ("kubo-1", kubo),
        ("kubo-2", unlimited),
        ("node-4", busy),
        ("node-5", troubled),
    ]
    .map(|(name, details)| (name.to_owned(), details))
    .into()
}

fn busy() -> v1::EmbeddedDetails {
    let network = v1::NetworkDetails {
        reachability: v1::Reachability::Public.into(),
        listeners: vec!["/ip4/0.0.0.0/tcp/4001".into()],
        external: vec!["/ip4/203.0.113.7/tcp/4001".into()],
        dht: "server".into(),
        dht_peers: 214,
        bytes_in: 7 << 30,
        bytes_out: 21 << 30,
        peers: vec![
            v1::ConnectedPeer {
                peer_id: PEER_B.into(),
                agent: "pinfleet/0.1.0".into(),
                addresses: vec!["/ip4/10.0.0.2/tcp/4001".into()],
                bitswap: "/ipfs/bitswap/1.2.0".into(),
                latency_us: Some(840),
                bytes_per_second: Some(98.5 * f64::from(1 << 20)),
                fellow: true,
                ..v1::ConnectedPeer::default()
            },
            v1::ConnectedPeer {
                peer_id: "12D3KooWRzCVDwHUkgdK7eRgnoXbjDAELhxPErjHzbRLguSV1aRt".into(),
                // What others choose may hold anything.
                agent: "kubo/0.43.0\x1b[2J".into(),
                addresses: vec!["/ip4/198.51.100.9/udp/4001/quic-v1".into()],
                offences: 2,
                ..v1::ConnectedPeer::default()
            },
        ],
        peers_count: 340,
        wanted_blocks: 48,
        wanted_by_others: 1_203,
        ..v1::NetworkDetails::default()
    };
    v1::EmbeddedDetails {
        store: Some(v1::BlockStoreDetails {
            blocks: 1_234_567,
            bytes: 12 << 30,
            pins: 4_321,
            incomplete_pins: 1,
            disk_bytes: 13 << 30,
            disk_max_bytes: 100 << 30,
            disk_free_bytes: 300 << 30,
            collect_at_bytes: Some(90 << 30),
            stop_at_bytes: Some(97 << 30),
            free_min_bytes: 1 << 30,
            ..v1::BlockStoreDetails::default()
        }),
        network: Some(network),
        fetching: vec![v1::FetchingPin {
            cid: cid(7),
            blocks: 12_000,
            bytes: 3 << 30,
            fetched: 11_000,
            in_flight: 48,
            running_ms: 95_000,
        }],
        fetching_count: 1,
        fetched: Some(v1::FetchedDetails {
            peer_blocks: 900_000,
            peer_bytes: 9 << 30,
            gateway_blocks: 1_200,
            gateway_bytes: 300 << 20,
            searches: 77,
        }),
        garbage: Some(v1::GarbageDetails {
            progress: Some(v1::GarbageProgress {
                done: 1.0,
                looks: 2,
                scanned: 2_500_000,
                deleted_blocks: 5_000,
                deleted_bytes: 1 << 30,
            }),
            took_ms: 12_345,
            passes: 3,
            ..v1::GarbageDetails::default()
        }),
        scrub: Some(v1::ScrubDetails {
            done: 0.42,
            passes: 1,
            checked_blocks: 1_700_000,
            checked_bytes: 17 << 30,
            ..v1::ScrubDetails::default()
        }),
        announcing: Some(v1::AnnouncingDetails {
            strategy: "roots".into(),
            interval_ms: 22 * 3_600_000,
            begun: hours_from_now(-3),
            total: 4_300,
            done: 680,
            told: 5_120,
            ..v1::AnnouncingDetails::default()
        }),
        fellows: vec![v1::FellowNode {
            peer_id: PEER_B.into(),
            connected: true,
            problem: String::new(),
        }],
        fellows_count: 1,
        fellows_connected: 1,
        gateways: vec![v1::GatewayUse {
            url: "https://gateway.example".into(),
            usable: true,
            requests_under_way: 2,
            blocks: 1_200,
            bytes: 300 << 20,
            ..v1::GatewayUse::default()
        }],
        routers: vec![v1::RouterUse {
            url: "https://routing.example".into(),
            usable: true,
            answers: 77,
            ..v1::RouterUse::default()
        }],
    }
}

fn troubled() -> v1::EmbeddedDetails {
    v1::EmbeddedDetails {
        store: Some(v1::BlockStoreDetails {
            blocks: 10,
            bytes: 2_560,
            pins: 2,
            lost_blocks: 1,
            disk_bytes: 98 << 30,
            disk_max_bytes: 100 << 30,
            disk_free_bytes: 1 << 20,
            free_min_bytes: 1 << 30,
            intake_stopped: "the file system has 1048576 bytes free and 1073741824 shall stay free \
                             (disk.free_bytes_min): free some space or unpin something"
                .into(),
            ..v1::BlockStoreDetails::default()
        }),
        network: Some(v1::NetworkDetails {
            reachability: v1::Reachability::Private.into(),
            dht: "client".into(),
            offences: 12,
            shunned: vec![v1::ShunnedPeer {
                peer_id: "12D3KooWRzCVDwHUkgdK7eRgnoXbjDAELhxPErjHzbRLguSV1aRt".into(),
                left_ms: 250_000,
            }],
            shunned_count: 1,
            ..v1::NetworkDetails::default()
        }),
        garbage: Some(v1::GarbageDetails {
            running: true,
            progress: Some(v1::GarbageProgress {
                done: 0.305,
                looks: 1,
                ..v1::GarbageProgress::default()
            }),
            passes: 9,
            ..v1::GarbageDetails::default()
        }),
        scrub: Some(v1::ScrubDetails {
            corrupt_blocks: 1,
            corrupt: vec![cid(3)],
            broken_pins: vec![cid(4)],
            broken_pins_count: 1,
            ..v1::ScrubDetails::default()
        }),
        announcing: Some(v1::AnnouncingDetails {
            strategy: "all".into(),
            interval_ms: 22 * 3_600_000,
            begun: hours_from_now(-30),
            total: 10_000,
            done: 1_000,
            failed: 1_000,
            behind: 9_000,
            late_ms: 4 * 3_600_000,
            problem: "nobody is there to be told".into(),
            ..v1::AnnouncingDetails::default()
        }),
        fellows: vec![v1::FellowNode {
            peer_id: PEER_B.into(),
            connected: false,
            problem: "no connection within 10s".into(),
        }],
        fellows_count: 130,
        fellows_connected: 28,
        gateways: vec![v1::GatewayUse {
            url: "https://gateway.example".into(),
            failures: 5,
            last_failure: "429 Too Many Requests".into(),
            ..v1::GatewayUse::default()
        }],
        ..v1::EmbeddedDetails::default()
    }
}
