//! One kind of trouble at a time, and what it may cost.

use std::time::Duration;

use cluster_bitswap::{Config, Event, Offence, Peer, SessionId};

use crate::link;
use crate::world::{Nature, World};

const KIB_64: usize = 64 << 10;

/// A client that asks an honest and another server, both with all blocks, over equal links; says how long it took.
fn with(nature: Nature, blocks: usize) -> (Duration, World) {
    let mut world = World::new(5);
    let client = world.node(Nature::Honest, Config::default());
    let cids = world.blocks(vec![KIB_64; blocks]);
    let mut servers = Vec::new();
    // The one in question is asked first where there is no difference.
    for nature in [nature, Nature::Honest] {
        let server = world.node(nature, Config::default());
        world.hold(server, &cids);
        world.connect(client, server, link(20, 100));
        servers.push(server);
    }
    let start = world.now;
    world.fetch(client, 1, &servers, &cids, false);
    assert!(
        world.run(Duration::from_secs(600), |world| world.is_served(client)),
        "{nature:?}"
    );
    let took = world.now - start;
    (took, world)
}

/// How long one honest server alone takes for 2,000 blocks: 131 MB at 12.5 MB/s.
const ALONE: Duration = Duration::from_millis(10_600);

/// Everything that is needed to get over a peer that stops: noticing takes three seconds and eight round trips.
const NOTICE: Duration = Duration::from_millis(3_500);

#[test]
fn a_peer_that_stalls_costs_its_share_only() {
    for after in [0, 1, 100] {
        let (took, world) = with(Nature::StallsAfter(after), 2_000);
        // The honest one was busy all the time, also while the other one was waited for.
        assert!(took < ALONE + Duration::from_millis(800), "{took:?} after {after}");
        let report = world.nodes[0].engine.session(SessionId(1)).expect("open");
        let bad = report
            .served
            .iter()
            .find(|(peer, _)| *peer == Peer(1))
            .expect("a candidate")
            .1;
        assert!(bad.timeouts > 0, "{bad:?}");
        assert!(world.nodes[0].nobody_has.is_empty());
    }
    // Even at the end of a fetch it is no more than that.
    let (took, _) = with(Nature::StallsAfter(0), 10);
    assert!(took < NOTICE, "{took:?}");
}

#[test]
fn a_peer_that_says_have_and_sends_nothing_costs_its_share_only() {
    let (took, _) = with(Nature::Teases, 2_000);
    assert!(took < ALONE + Duration::from_secs(6), "{took:?}");
}

#[test]
fn a_peer_that_lies_is_named_and_shunned() {
    let (took, world) = with(Nature::Lies, 2_000);
    assert!(took < ALONE + Duration::from_millis(800), "{took:?}");
    let client = &world.nodes[0];
    let (offences, shunned) = &client.offences[&Peer(1)];
    assert!(*shunned);
    assert!(
        offences
            .iter()
            .all(|offence| matches!(offence, Offence::UnaskedBlock { bytes, .. } if *bytes == KIB_64 + 1))
    );
    // It is asked for nothing more once it is caught: what comes after that was asked for before.
    assert!(offences.len() <= 16, "{}", offences.len());
    assert!(!client.offences.contains_key(&Peer(2)));
    assert!(client.arrived.values().all(|(_, from)| *from == Peer(2)));
}

#[test]
fn a_peer_that_floods_is_named_and_shunned() {
    let (_, world) = with(Nature::Floods, 2_000);
    let (offences, shunned) = &world.nodes[0].offences[&Peer(1)];
    assert!(*shunned && offences.len() < 64, "{}", offences.len());
}

#[test]
fn blocks_that_come_twice_are_counted_and_their_sender_is_reported() {
    let (_, world) = with(Nature::Repeats, 300);
    let report = world.nodes[0].engine.session(SessionId(1)).expect("open");
    assert!(report.duplicates > 0);
    assert_eq!(report.duplicate_bytes, report.duplicates * KIB_64 as u64);
    assert_eq!(report.blocks, 300);
}

#[test]
fn a_block_that_only_one_of_many_has_is_found() {
    let mut world = World::new(1);
    let client = world.node(Nature::Honest, Config::default());
    let cids = world.blocks([KIB_64; 40]);
    let mut servers = Vec::new();
    for number in 0..8 {
        let server = world.node(Nature::Honest, Config::default());
        world.connect(client, server, link(20 + number, 100));
        // Each has an eighth of it.
        let own: Vec<_> = cids.iter().copied().skip(number as usize).step_by(8).collect();
        world.hold(server, &own);
        servers.push(server);
    }
    world.fetch(client, 1, &servers[..3], &cids, false);
    let start = world.now;
    assert!(world.run(Duration::from_secs(30), |world| world.is_served(client)));
    // Three candidates say no, all others are asked, one says yes: some round trips, and no time is waited out.
    assert!(
        world.now - start < Duration::from_millis(700),
        "{:?}",
        world.now - start
    );
    assert!(world.nodes[client].nobody_has.is_empty());
}

#[test]
fn a_root_is_found_without_candidates_and_the_rest_is_asked_of_who_had_it() {
    let mut world = World::new(1);
    let client = world.node(Nature::Honest, Config::default());
    let cids = world.blocks([KIB_64; 50]);
    for number in 0..20 {
        let server = world.node(Nature::Honest, Config::default());
        world.connect(client, server, link(20, 100));
        if number == 13 {
            world.hold(server, &cids);
        }
    }
    world.fetch(client, 1, &[], &cids[..1], true);
    let start = world.now;
    assert!(world.run(Duration::from_secs(5), |world| world.is_served(client)));
    // Want-have, HAVE, want-block, block.
    assert!(world.now - start < Duration::from_millis(80), "{:?}", world.now - start);
    world.fetch(client, 1, &[], &cids[1..], false);
    assert!(world.run(Duration::from_secs(5), |world| world.is_served(client)));
    let report = world.nodes[client].engine.session(SessionId(1)).expect("open");
    assert_eq!(report.served.len(), 1);
    // Nobody else was bothered with the 49 blocks.
    assert!(world.nodes[1].sent.len() <= 1, "{:?}", world.nodes[1].sent);
}

#[test]
fn what_nobody_has_is_reported_and_found_when_somebody_comes() {
    let mut world = World::new(1);
    let client = world.node(Nature::Honest, Config::default());
    let cids = world.blocks([KIB_64; 3_000]);
    let poor = world.node(Nature::Honest, Config::default());
    let rich = world.node(Nature::Honest, Config::default());
    world.hold(poor, &cids[2_000..]);
    world.hold(rich, &cids);
    world.connect(client, poor, link(20, 1_000));
    world.fetch(client, 1, &[poor], &cids, false);
    // What nobody has does not hold up what somebody has.
    assert!(world.run(Duration::from_secs(20), |world| world.nodes[0].arrived.len() == 1_000));
    let missing: std::collections::BTreeSet<_> = world.nodes[client].nobody_has.iter().copied().collect();
    assert!(missing.len() >= 1_000, "{}", missing.len());
    assert!(missing.iter().all(|cid| cids[..2_000].contains(cid)));
    world.connect(client, rich, link(20, 1_000));
    let (session, peers) = (SessionId(1), vec![Peer(rich as u64)]);
    world.soon(client, Event::Candidates { session, peers });
    assert!(world.run(Duration::from_secs(20), |world| world.is_served(client)));
}

#[test]
fn blocks_that_come_into_a_store_are_sent_to_who_waits_for_them() {
    // A chain of nodes, each of which fetches from the one before and passes on.
    let mut world = World::new(1);
    let source = world.node(Nature::Honest, Config::default());
    let cids = world.blocks([KIB_64; 100]);
    world.hold(source, &cids);
    for number in 1..4 {
        let node = world.node(Nature::Honest, Config::default());
        world.nodes[node].shares = true;
        world.connect(number - 1, node, link(20, 100));
        world.fetch(node, 1, &[number - 1], &cids, true);
    }
    assert!(world.run(Duration::from_secs(30), |world| {
        (1..4).all(|node| world.is_served(node))
    }));
    assert!(world.now < Duration::from_secs(4), "{:?}", world.now);
}

#[test]
fn a_connection_that_breaks_loses_nothing() {
    let mut world = World::new(9);
    let client = world.node(Nature::Honest, Config::default());
    let server = world.node(Nature::Honest, Config::default());
    let cids = world.blocks([KIB_64; 1_000]);
    world.hold(server, &cids);
    world.connect(client, server, link(20, 100));
    for second in 1..4 {
        let at = Duration::from_millis(1_000 * second + 337);
        world.interrupt(client, server, at, Duration::from_millis(200));
    }
    world.fetch(client, 1, &[server], &cids, false);
    let start = world.now;
    assert!(world.run(Duration::from_secs(60), |world| world.is_served(client)));
    assert!(
        world.now - start < Duration::from_millis(7_500),
        "{:?}",
        world.now - start
    );
    let (offences, report) = (
        &world.nodes[client].offences,
        world.nodes[client].engine.session(SessionId(1)),
    );
    assert!(offences.is_empty(), "{offences:?}");
    assert_eq!(report.expect("open").duplicates, 0);
}
