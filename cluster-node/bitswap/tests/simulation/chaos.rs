//! Everything at once, from a seed: what an honest connected peer has arrives, and nothing else does.

use std::collections::BTreeSet;
use std::time::Duration;

use cluster_bitswap::{ClientConfig, Config, Peer, ServerConfig, SessionId};

use crate::world::{Link, Lots, Nature, World};

fn nature(lots: &mut Lots) -> Nature {
    let after = lots.below(20) as usize;
    [
        Nature::Honest,
        Nature::StallsAfter(after),
        Nature::Teases,
        Nature::Lies,
        Nature::Repeats,
        Nature::Floods,
    ][lots.below(6) as usize]
}

fn config(lots: &mut Lots) -> Config {
    let rate = [0, 0, 2_000_000][lots.below(3) as usize];
    Config {
        client: ClientConfig {
            in_flight_max: [32, 64, 256][lots.below(3) as usize],
            ..ClientConfig::default()
        },
        server: ServerConfig {
            bytes_per_second: rate,
            // Never fewer than there are blocks: a list that is full of wants for what is not there makes a server deny
            // what is there, and the client finds that out only by asking again at its long intervals.
            wants_per_peer: [256, 1_024][lots.below(2) as usize],
            ..ServerConfig::default()
        },
        ..Config::default()
    }
}

fn chaos(seed: u64) {
    let mut world = World::new(seed);
    let mut lots = Lots(seed ^ 0xc4a0);
    let count = 20 + lots.below(180) as usize;
    let sizes: Vec<_> = (0..count)
        .map(|_| [20, 900, 5_000, 60_000][lots.below(4) as usize])
        .collect();
    let cids = world.blocks(sizes);
    let clients = 1 + lots.below(2) as usize;
    let servers = 2 + lots.below(6) as usize;
    for _ in 0..clients {
        let config = config(&mut lots);
        world.node(Nature::Honest, config);
    }
    for number in 0..servers {
        let nature = match number {
            0 => Nature::Honest,
            _ => nature(&mut lots),
        };
        let config = config(&mut lots);
        let server = world.node(nature, config);
        let share = 20 + lots.below(80);
        for cid in &cids {
            if lots.chance(share) {
                world.hold(server, &[*cid]);
            }
        }
        for client in 0..clients {
            let link = Link {
                latency: Duration::from_millis(lots.below(150)),
                rate: 100_000.0 + lots.below(10_000_000) as f64,
                loss: lots.below(3),
            };
            world.connect(client, server, link);
            if lots.chance(30) {
                let at = Duration::from_millis(1_000 + lots.below(8_000));
                let lasts = Duration::from_millis(lots.below(3_000));
                world.interrupt(client, server, at, lasts);
            }
        }
    }
    let honest: Vec<_> = (clients..world.nodes.len())
        .filter(|node| world.nodes[*node].nature == Nature::Honest)
        .collect();
    let held: BTreeSet<_> = honest
        .iter()
        .flat_map(|node| world.nodes[*node].store.clone())
        .collect();
    let (there, absent): (Vec<_>, Vec<_>) = cids.iter().copied().partition(|cid| held.contains(cid));
    let mut wanted = Vec::new();
    for client in 0..clients {
        let candidates: Vec<_> = (clients..world.nodes.len()).filter(|_| lots.chance(60)).collect();
        // Two fetches of one node that overlap; the second one also wants what no honest peer has.
        let middle = there.len() / 2;
        world.fetch(client, 1, &candidates, &there[..middle], lots.chance(50));
        let second = [&there[middle / 2..], &absent[..]].concat();
        world.fetch(client, 2, &candidates, &second, false);
        wanted.push((client, there.clone()));
    }
    let done = |world: &World| {
        let arrived = |(client, cids): &(usize, Vec<_>)| {
            let arrived = &world.nodes[*client].arrived;
            arrived.len() >= cids.len() && cids.iter().all(|cid| arrived.contains_key(cid))
        };
        wanted.iter().all(arrived)
    };
    let arrived = world.run(Duration::from_secs(900), done);
    for (client, cids) in &wanted {
        let node = &world.nodes[*client];
        let missing = cids.iter().filter(|cid| !node.arrived.contains_key(cid)).count();
        let (one, two) = (node.engine.session(SessionId(1)), node.engine.session(SessionId(2)));
        assert!(
            arrived,
            "seed {seed}: {missing} of {} missing, {one:?}, {two:?}",
            cids.len()
        );
        // Nobody honest is shunned. It may be excused for a late block more often than it is remembered for.
        for honest in &honest {
            let offences = node.offences.get(&Peer(*honest as u64));
            assert!(
                offences.is_none_or(|(_, shunned)| !shunned),
                "seed {seed}: {offences:?}"
            );
        }
        // Liars gave nothing.
        let liar = |peer: &Peer| world.nodes[peer.0 as usize].nature == Nature::Lies;
        assert!(node.arrived.values().all(|(_, peer)| !liar(peer)));
    }
    // What no honest peer has is not waited for in vain by those who have to look for providers.
    world.run(Duration::from_secs(130), |_| false);
    for (client, _) in &wanted {
        let node = &world.nodes[*client];
        for cid in absent.iter().filter(|cid| !node.arrived.contains_key(cid)) {
            assert!(node.nobody_has.contains(cid), "seed {seed}: {cid} was not reported");
        }
    }
}

/// The same worlds in every run, so that a change is what makes the difference; `BITSWAP_SEED` begins with others.
#[test]
fn what_an_honest_peer_has_arrives() {
    let first = std::env::var("BITSWAP_SEED").map_or(0, |text| text.parse().expect("BITSWAP_SEED is a number"));
    for seed in first..first + 100 {
        chaos(seed);
    }
}

#[test]
fn a_schedule_is_the_same_each_time() {
    let run = |seed| {
        let mut world = World::new(seed);
        let client = world.node(Nature::Honest, Config::default());
        let cids = world.blocks([10_000; 200]);
        for _ in 0..3 {
            let server = world.node(Nature::Honest, Config::default());
            world.hold(server, &cids);
            let link = Link {
                latency: Duration::from_millis(20),
                rate: 1e6,
                loss: 3,
            };
            world.connect(client, server, link);
        }
        world.fetch(client, 1, &[1, 2], &cids, true);
        world.run(Duration::from_secs(600), |world| world.is_served(client));
        world.nodes[client].arrived.clone()
    };
    assert_eq!(run(1), run(1));
}
