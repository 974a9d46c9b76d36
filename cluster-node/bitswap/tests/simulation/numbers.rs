//! How fast. The bounds are what the links allow, less what the protocol and the first round trips cost.

use std::time::Duration;

use cluster_bitswap::{Config, Peer, ServerConfig, SessionId};

use crate::link;
use crate::world::{Link, Nature, World};

const KIB_256: usize = 256 << 10;

/// Fetches blocks that all servers have, over these links; says how many bytes per second came.
fn fetch(links: &[Link], sizes: &[usize]) -> (f64, World) {
    let mut world = World::new(7);
    let client = world.node(Nature::Honest, Config::default());
    let cids = world.blocks(sizes.iter().copied());
    let mut servers = Vec::new();
    for link in links {
        let server = world.node(Nature::Honest, Config::default());
        world.hold(server, &cids);
        world.connect(client, server, *link);
        servers.push(server);
    }
    let start = world.now;
    world.fetch(client, 1, &servers, &cids, false);
    assert!(world.run(Duration::from_secs(3_600), |world| world.is_served(client)));
    let took = (world.now - start).as_secs_f64();
    (sizes.iter().sum::<usize>() as f64 / took, world)
}

fn share(links: &[Link], sizes: &[usize]) -> f64 {
    let whole: f64 = links.iter().map(|link| link.rate).sum();
    let (rate, world) = fetch(links, sizes);
    let report = world.nodes[0].engine.session(SessionId(1)).expect("open");
    assert_eq!(report.blocks, sizes.len() as u64);
    // A want-have that was answered with a small block, and a want-block behind it: cheap, and seldom.
    assert!(
        report.duplicates * 100 <= report.blocks && report.duplicate_bytes * 1_000 <= report.bytes,
        "{report:?}"
    );
    assert!(world.nodes[0].nobody_has.is_empty());
    println!("{:.1} % of {} links", 100.0 * rate / whole, links.len());
    rate / whole
}

#[test]
fn one_peer_fills_the_link() {
    assert!(share(&[link(50, 100)], &[KIB_256; 1_000]) > 0.95);
}

#[test]
fn three_peers_fill_three_links() {
    assert!(share(&[link(50, 100); 3], &[KIB_256; 1_000]) > 0.90);
}

#[test]
fn peers_of_unequal_speed_each_give_what_they_can() {
    let links = [link(50, 100), link(20, 50), link(200, 10)];
    assert!(share(&links, &[KIB_256; 1_000]) > 0.85);
}

#[test]
fn small_blocks_fill_the_link_as_well() {
    // 256 blocks of 4 KiB for each round trip of 50 ms would be 168 Mbit/s.
    assert!(share(&[link(50, 100)], &[4 << 10; 20_000]) > 0.80);
}

#[test]
fn blocks_of_all_sizes_fill_the_link() {
    let sizes: Vec<_> = (0..1_000)
        .map(|number| [100, 4 << 10, KIB_256, 1 << 20, 2 << 20][number % 5])
        .collect();
    assert!(share(&[link(50, 100), link(50, 100)], &sizes) > 0.85);
}

#[test]
fn a_chain_costs_one_round_trip_for_each_block() {
    let mut world = World::new(3);
    let client = world.node(Nature::Honest, Config::default());
    let server = world.node(Nature::Honest, Config::default());
    let cids = world.blocks([1_000; 200]);
    world.hold(server, &cids);
    world.connect(client, server, link(10, 1_000));
    let start = world.now;
    for cid in &cids {
        world.fetch(client, 1, &[server], &[*cid], false);
        assert!(world.run(Duration::from_secs(5), |world| world.is_served(client)));
    }
    // 10 ms on the way, and what the store takes: 1.2 ms.
    let each = (world.now - start) / 200;
    assert!(each < Duration::from_millis(13), "{each:?}");
}

#[test]
fn clients_of_one_server_get_the_same_whatever_they_ask_for() {
    let config = Config {
        server: ServerConfig {
            bytes_per_second: 4_000_000,
            ..ServerConfig::default()
        },
        ..Config::default()
    };
    let mut world = World::new(11);
    let server = world.node(Nature::Honest, config);
    let large = world.blocks([1 << 20; 200]);
    let middle = world.blocks([100_000; 1_000]);
    let small = world.blocks([3_000; 4_000]);
    for (cids, round_trip) in [(large, 20), (middle, 80), (small, 20)] {
        world.hold(server, &cids);
        let client = world.node(Nature::Honest, Config::default());
        world.connect(client, server, link(round_trip, 1_000));
        world.fetch(client, 1, &[server], &cids, false);
    }
    // None of them is through by then: 4 MB/s for 8 s is 32 MB, and the least that one of them wants is 12 MB.
    let start = world.now;
    world.run(Duration::from_secs(8), |_| false);
    let got = |to: usize| -> usize {
        let sent = world.nodes[server].sent.iter().filter(|(_, peer, _)| *peer == to);
        sent.map(|(.., bytes)| bytes).sum()
    };
    let got = [got(1), got(2), got(3)];
    let whole = got.iter().sum::<usize>() as f64 / (world.now - start).as_secs_f64();
    assert!((3_600_000.0..4_800_000.0).contains(&whole), "{whole} bytes per second");
    let (least, most) = (got.iter().min().expect("three"), got.iter().max().expect("three"));
    assert!(*most as f64 / (*least as f64) < 1.3, "{got:?}");
}

#[test]
fn a_fetch_leaves_nothing_behind() {
    let (_, world) = fetch(&[link(50, 100); 3], &[KIB_256; 200]);
    let mut world = world;
    world.run(Duration::from_secs(10), |_| false);
    for (number, node) in world.nodes.iter().enumerate() {
        let usage = node.engine.usage();
        assert_eq!(
            (usage.client.wants, usage.client.facts, usage.client.in_flight),
            (0, 0, 0),
            "{number}"
        );
        // Cancels have reached everybody.
        assert_eq!((usage.server.wants, usage.server.questions), (0, 0), "{number}");
        assert_eq!(
            (usage.server.reading_bytes, usage.server.writing_bytes),
            (0, 0),
            "{number}"
        );
    }
    assert!(world.nodes[0].engine.peer(Peer(1)).is_some_and(|peer| peer.asked == 0));
}
