//! What the server says to what is asked, message by message.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use cluster_bitswap::limits::BLOCK_BYTES_MAX;
use cluster_bitswap::{
    Action, Ask, Config, Engine, Entry, Event, FrameDecoder, Lane, Message, Peer, Presence, ServerConfig, Sha2Hasher,
    Version, WantKind,
};
use multihash_codetable::{Code, MultihashDigest};
use proptest::prelude::*;

const ONE: Peer = Peer(1);
const TWO: Peer = Peer(2);
const THREE: Peer = Peer(3);

fn cid(data: &[u8]) -> Cid {
    Cid::new_v1(0x55, Code::Sha2_256.digest(data))
}

/// An engine, its store, and what it sends.
struct Server {
    engine: Engine,
    now: Duration,
    store: BTreeMap<Cid, Bytes>,
    denied: Arc<Mutex<Vec<Cid>>>,
    /// Messages that were sent and not yet looked at.
    said: Vec<(Peer, Message)>,
    /// Whether what is sent counts as written at once.
    writes: bool,
    reads: usize,
}

impl Server {
    fn new(config: ServerConfig) -> Self {
        let denied = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&denied);
        let deny = Box::new(move |_, cid: &Cid| list.lock().expect("not poisoned").contains(cid));
        let config = Config {
            server: config,
            ..Config::default()
        };
        let mut server = Self {
            engine: Engine::new(config, 1, deny),
            now: Duration::from_secs(1),
            store: BTreeMap::new(),
            denied,
            said: Vec::new(),
            writes: true,
            reads: 0,
        };
        for peer in [ONE, TWO] {
            let version = Version::V1_2;
            server.happens(Event::Connected { peer, version });
        }
        server
    }

    fn put(&mut self, data: impl Into<Bytes>) -> Cid {
        let data = data.into();
        let cid = cid(&data);
        self.store.insert(cid, data);
        cid
    }

    fn happens(&mut self, event: Event) {
        self.engine.handle(event, self.now);
        while let Some(action) = self.engine.poll_action() {
            let answer = match action {
                Action::LookUp { ticket, cids } => {
                    let sizes = cids.iter().map(|cid| self.store.get(cid).map(Bytes::len)).collect();
                    Event::LookedUp { ticket, sizes }
                }
                Action::Read { ticket, cids } => {
                    self.reads += 1;
                    let blocks = cids.iter().map(|cid| self.store.get(cid).cloned()).collect();
                    Event::Read { ticket, blocks }
                }
                Action::Send { peer, lane, frame } => {
                    let content = FrameDecoder::new()
                        .decode(&mut &frame[..])
                        .expect("a frame")
                        .expect("whole");
                    self.said.push((peer, Message::decode(content).expect("a message")));
                    if !self.writes {
                        continue;
                    }
                    Event::Sent { peer, lane }
                }
                other => panic!("{other:?}"),
            };
            self.engine.handle(answer, self.now);
        }
        let (usage, max) = (self.engine.usage(), self.engine.usage_max());
        assert!(usage.is_within(&max), "{usage:?} exceeds {max:?}");
    }

    fn asked(&mut self, peer: Peer, full: bool, entries: Vec<Entry>) {
        let message = Message {
            full,
            entries,
            ..Message::default()
        };
        let message = message.identify(&Sha2Hasher);
        self.happens(Event::Received { peer, message });
    }

    /// What was said to a peer since the last look: blocks by CID, and presences.
    fn heard(&mut self, peer: Peer) -> (Vec<Cid>, Vec<(Cid, Presence)>) {
        let (mut blocks, mut presences) = (Vec::new(), Vec::new());
        self.said.retain(|(to, message)| {
            if *to == peer {
                let message = message.clone();
                presences.extend(message.presences.clone());
                blocks.extend(message.identify(&Sha2Hasher).blocks().iter().map(|block| *block.cid()));
            }
            *to != peer
        });
        (blocks, presences)
    }
}

fn want(cid: Cid, kind: WantKind, priority: i32) -> Entry {
    Entry {
        cid,
        ask: Ask::Want {
            kind,
            priority,
            send_dont_have: true,
        },
    }
}

fn quietly(mut entry: Entry) -> Entry {
    if let Ask::Want { send_dont_have, .. } = &mut entry.ask {
        *send_dont_have = false;
    }
    entry
}

fn cancel(cid: Cid) -> Entry {
    Entry { cid, ask: Ask::Cancel }
}

#[test]
fn want_have_and_want_block_are_answered_as_the_protocol_says() {
    let mut server = Server::new(ServerConfig::default());
    let large = server.put(vec![1; 2_000]);
    let other = server.put(vec![2; 2_000]);
    let small = server.put(vec![3; 1_024]);
    let missing = [cid(b"a"), cid(b"b"), cid(b"c"), cid(b"d")];
    server.asked(
        ONE,
        false,
        vec![
            want(large, WantKind::Have, 1),
            want(other, WantKind::Block, 1),
            want(small, WantKind::Have, 1),
            want(missing[0], WantKind::Have, 1),
            want(missing[1], WantKind::Block, 1),
            quietly(want(missing[2], WantKind::Have, 1)),
            quietly(want(missing[3], WantKind::Block, 1)),
        ],
    );
    let (mut blocks, presences) = server.heard(ONE);
    blocks.sort_unstable();
    let mut expected = vec![other, small];
    expected.sort_unstable();
    assert_eq!(blocks, expected);
    let said: BTreeMap<_, _> = presences.iter().map(|(cid, presence)| (*cid, *presence)).collect();
    assert_eq!(presences.len(), 3);
    assert_eq!(said[&large], Presence::Have);
    assert_eq!(said[&missing[0]], Presence::DontHave);
    assert_eq!(said[&missing[1]], Presence::DontHave);
    // Only what is not there is still waited for.
    assert_eq!(server.engine.usage().server.wants, 4);
}

#[test]
fn who_waits_is_told_when_the_block_comes() {
    let mut server = Server::new(ServerConfig::default());
    let data: [Bytes; 2] = [vec![1; 5_000].into(), vec![2; 10].into()];
    let cids = [cid(&data[0]), cid(&data[1])];
    server.asked(
        ONE,
        false,
        vec![want(cids[0], WantKind::Have, 1), want(cids[1], WantKind::Have, 1)],
    );
    server.asked(TWO, false, vec![quietly(want(cids[0], WantKind::Block, 1))]);
    assert_eq!(server.heard(ONE).1.len(), 2);
    assert_eq!(server.heard(TWO), (vec![], vec![]));
    for data in &data {
        server.put(data.clone());
    }
    let blocks = vec![(cids[0], 5_000), (cids[1], 10)];
    server.happens(Event::Stored { blocks });
    assert_eq!(server.heard(ONE), (vec![cids[1]], vec![(cids[0], Presence::Have)]));
    assert_eq!(server.heard(TWO), (vec![cids[0]], vec![]));
    assert_eq!(server.engine.usage().server.wants, 0);
}

#[test]
fn a_block_that_comes_under_another_cid_of_the_same_bytes_serves_as_well() {
    let mut server = Server::new(ServerConfig::default());
    let data = Bytes::from(vec![7; 3_000]);
    let raw = cid(&data);
    let v0 = Cid::new_v0(*raw.hash()).expect("sha2-256");
    server.asked(ONE, false, vec![want(v0, WantKind::Block, 1)]);
    server.heard(ONE);
    server.store.insert(v0, data);
    server.happens(Event::Stored {
        blocks: vec![(raw, 3_000)],
    });
    assert_eq!(server.heard(ONE).0, [v0]);
}

#[test]
fn what_is_denied_is_not_there() {
    let mut server = Server::new(ServerConfig::default());
    let cids = [server.put(vec![1; 5_000]), server.put(vec![2; 10])];
    server.denied.lock().expect("not poisoned").extend(cids);
    let both = |kind| cids.map(|cid| want(cid, kind, 1)).to_vec();
    for kind in [WantKind::Have, WantKind::Block] {
        server.asked(ONE, true, both(kind));
        let (blocks, presences) = server.heard(ONE);
        assert!(blocks.is_empty());
        assert!(
            presences.iter().all(|(_, presence)| *presence == Presence::DontHave),
            "{presences:?}"
        );
    }
    server.happens(Event::Stored {
        blocks: vec![(cids[0], 5_000)],
    });
    // Not even that it came.
    assert_eq!(server.heard(ONE), (vec![], vec![]));
    assert_eq!(server.reads, 0);
}

#[test]
fn what_is_denied_while_it_waits_is_not_sent() {
    let mut server = Server::new(ServerConfig {
        bytes_per_second: 1_000,
        ..ServerConfig::default()
    });
    let first = server.put(vec![1; 100_000]);
    let second = server.put(vec![2; 100_000]);
    server.asked(
        ONE,
        false,
        vec![want(first, WantKind::Block, 2), want(second, WantKind::Block, 1)],
    );
    assert_eq!(server.heard(ONE).0, [first]);
    server.denied.lock().expect("not poisoned").push(second);
    server.now = server.engine.next_deadline().expect("waits for tokens");
    server.happens(Event::Tick);
    assert_eq!(server.heard(ONE), (vec![], vec![(second, Presence::DontHave)]));
}

#[test]
fn higher_priorities_come_first_and_cancelled_ones_not_at_all() {
    let mut server = Server::new(ServerConfig {
        bytes_per_second: 1,
        ..ServerConfig::default()
    });
    let cids: Vec<_> = (0..10u8).map(|fill| server.put(vec![fill; 70_000])).collect();
    let entries = cids
        .iter()
        .enumerate()
        .map(|(number, cid)| want(*cid, WantKind::Block, number as i32))
        .collect();
    server.asked(ONE, false, entries);
    server.asked(ONE, false, vec![cancel(cids[8])]);
    let mut got = server.heard(ONE).0;
    while let Some(at) = server.engine.next_deadline() {
        server.now = at;
        server.happens(Event::Tick);
        got.extend(server.heard(ONE).0);
    }
    let expected: Vec<_> = cids.iter().rev().filter(|cid| **cid != cids[8]).copied().collect();
    assert_eq!(got, expected);
}

#[test]
fn a_full_wantlist_replaces_what_was_wanted() {
    let mut server = Server::new(ServerConfig::default());
    let (a, b, c) = (cid(b"a"), cid(b"b"), cid(b"c"));
    server.asked(
        ONE,
        false,
        vec![want(a, WantKind::Block, 1), want(b, WantKind::Block, 1)],
    );
    server.asked(
        ONE,
        true,
        vec![want(b, WantKind::Block, 1), want(c, WantKind::Block, 1)],
    );
    assert_eq!(server.engine.usage().server.wants, 2);
    for data in [b"a", b"b", b"c"] {
        server.put(&data[..]);
    }
    let blocks = vec![(a, 1), (b, 1), (c, 1)];
    server.happens(Event::Stored { blocks });
    let mut got = server.heard(ONE).0;
    got.sort_unstable();
    let mut expected = vec![b, c];
    expected.sort_unstable();
    assert_eq!(got, expected);
}

#[test]
fn an_answer_with_an_empty_full_wantlist_cancels_nothing() {
    let mut server = Server::new(ServerConfig::default());
    server.asked(ONE, false, vec![want(cid(b"a"), WantKind::Block, 1)]);
    let message = Message {
        full: true,
        presences: vec![(cid(b"b"), Presence::DontHave)],
        ..Message::default()
    };
    let message = message.identify(&Sha2Hasher);
    server.happens(Event::Received { peer: ONE, message });
    assert_eq!(server.engine.usage().server.wants, 1);
    server.asked(ONE, true, vec![]);
    assert_eq!(server.engine.usage().server.wants, 0);
}

#[test]
fn beyond_the_bound_the_least_important_then_the_oldest_want_is_dropped() {
    let mut server = Server::new(ServerConfig {
        wants_per_peer: 4,
        ..ServerConfig::default()
    });
    let cids: Vec<_> = (0..8u8).map(|number| cid(&[number])).collect();
    let ask = |number: usize, priority| want(cids[number], WantKind::Block, priority);
    server.asked(ONE, false, vec![ask(0, 5), ask(1, 3), ask(2, 3), ask(3, 9)]);
    server.heard(ONE);
    // 4 is worth less than all there is; 5 as much as 1, which is older than 2; 6 more than 2.
    server.asked(ONE, false, vec![ask(4, 1), ask(5, 3), ask(6, 4)]);
    let denied: Vec<_> = server.heard(ONE).1.into_iter().map(|(cid, _)| cid).collect();
    for dropped in [4, 1, 2] {
        assert!(denied.contains(&cids[dropped]), "{dropped} is told nothing");
    }
    assert_eq!(server.engine.usage().server.wants, 4);
    for number in 0..8u8 {
        server.put(vec![number]);
    }
    let blocks = cids.iter().map(|cid| (*cid, 1)).collect();
    server.happens(Event::Stored { blocks });
    let got = server.heard(ONE).0;
    let kept: Vec<_> = (0..8).filter(|number| got.contains(&cids[*number])).collect();
    assert_eq!(kept, [0, 3, 5, 6]);
}

/// A server that is full of wants for what it does not have, all of them of [`ONE`] and [`TWO`], and a newcomer.
fn full_of_nothing() -> (Server, Vec<Cid>) {
    let mut server = Server::new(ServerConfig {
        wants_per_peer: 4,
        wants_max: 8,
        ..ServerConfig::default()
    });
    let cids: Vec<_> = (0..8u8).map(|number| cid(&[number])).collect();
    for (peer, cids) in [(ONE, &cids[..4]), (TWO, &cids[4..])] {
        let entries = cids.iter().zip(1..);
        let entries = entries.map(|(cid, priority)| want(*cid, WantKind::Block, priority));
        server.asked(peer, false, entries.collect());
        assert_eq!(server.heard(peer).1.len(), 4);
    }
    assert_eq!(server.engine.usage().server.wants, 8);
    let (peer, version) = (THREE, Version::V1_2);
    server.happens(Event::Connected { peer, version });
    (server, cids)
}

#[test]
fn peers_that_want_what_is_not_there_do_not_keep_others_from_being_served() {
    for kind in [WantKind::Have, WantKind::Block] {
        for told in [true, false] {
            let (mut server, _) = full_of_nothing();
            let held = server.put(vec![1; 5_000]);
            let entry = want(held, kind, 1);
            server.asked(THREE, false, vec![if told { entry } else { quietly(entry) }]);
            let expected = match kind {
                WantKind::Block => (vec![held], vec![]),
                WantKind::Have => (vec![], vec![(held, Presence::Have)]),
            };
            assert_eq!(server.heard(THREE), expected);
            // The one whose want was dropped for it has been told already.
            assert_eq!((server.heard(ONE), server.heard(TWO)), Default::default());
            assert_eq!(server.engine.usage().server.wants, 7);
        }
    }
}

#[test]
fn wants_for_what_is_not_there_are_dropped_where_there_are_most_the_least_important_first() {
    let (mut server, cids) = full_of_nothing();
    let others: Vec<_> = (100..104u8).map(|number| cid(&[number])).collect();
    let entries = others[..3].iter().map(|cid| want(*cid, WantKind::Block, 1));
    server.asked(THREE, false, entries.collect());
    // Two took the places of others. Then all have about as much, and the third, which was not looked up, is refused.
    assert_eq!(server.engine.usage().server.wants, 8);
    assert_eq!(server.heard(THREE).1.len(), 3);
    // When it is known that the first ones are not there, another takes the place of the first.
    server.asked(THREE, false, vec![want(others[3], WantKind::Block, 1)]);
    assert_eq!(server.engine.usage().server.wants, 8);
    for number in (0..8).chain(100..104u8) {
        server.put(vec![number]);
    }
    let blocks = cids.iter().chain(&others).map(|cid| (*cid, 1)).collect();
    server.happens(Event::Stored { blocks });
    let mut kept = |peer, cids: &[Cid]| {
        let got = server.heard(peer).0;
        (0..4).filter(|place| got.contains(&cids[*place])).collect::<Vec<_>>()
    };
    assert_eq!(kept(ONE, &cids[..4]), [1, 2, 3]);
    assert_eq!(kept(TWO, &cids[4..]), [1, 2, 3]);
    assert_eq!(kept(THREE, &others), [1, 3]);
}

#[test]
fn peers_that_do_not_read_what_is_there_leave_every_peer_its_share() {
    let mut server = Server::new(ServerConfig {
        wants_per_peer: 4,
        wants_max: 8,
        ..ServerConfig::default()
    });
    // The first of each are written and not read, the others wait for that.
    server.writes = false;
    let cids: Vec<_> = (0..16u8).map(|fill| server.put(vec![fill; 2 << 20])).collect();
    let ask = |server: &mut Server, peer, cids: &[Cid]| {
        let entries = cids.iter().map(|cid| want(*cid, WantKind::Block, 1));
        server.asked(peer, false, entries.collect());
    };
    for round in 0..4 {
        let held = cids[4 * round..].iter().take(4).copied().collect::<Vec<_>>();
        ask(&mut server, [ONE, TWO][round % 2], &held);
    }
    assert_eq!(server.engine.usage().server.wants, 8);
    for peer in [ONE, TWO] {
        server.heard(peer);
    }
    let (peer, version) = (THREE, Version::V1_2);
    server.happens(Event::Connected { peer, version });
    let held: Vec<_> = (100..102u8).map(|fill| server.put(vec![fill; 2_000])).collect();
    ask(&mut server, THREE, &held);
    assert_eq!(server.heard(THREE).0.len(), 2);
    assert_eq!(server.engine.usage().server.wants, 6);
}

#[test]
fn a_peer_that_reads_nothing_is_not_read_for() {
    let mut server = Server::new(ServerConfig::default());
    server.writes = false;
    let cids: Vec<_> = (0..60u8).map(|fill| server.put(vec![fill; 1 << 20])).collect();
    server.asked(
        ONE,
        false,
        cids.iter().map(|cid| want(*cid, WantKind::Block, 1)).collect(),
    );
    let usage = server.engine.usage().server;
    assert!(usage.writing_bytes < (2 << 20) + (3 << 20), "{usage:?}");
    let first = server.heard(ONE).0.len();
    assert!(first < 5);
    // It does not hold up another one.
    server.asked(TWO, false, vec![want(cids[7], WantKind::Block, 1)]);
    assert_eq!(server.heard(TWO).0, [cids[7]]);
    // And goes on when it reads.
    server.writes = true;
    for _ in 0..first {
        let (peer, lane) = (ONE, Lane::Answers);
        server.happens(Event::Sent { peer, lane });
    }
    assert_eq!(server.heard(ONE).0.len() + first, 60);
}

#[test]
fn blocks_that_are_gone_or_too_large_are_not_there() {
    let mut server = Server::new(ServerConfig {
        bytes_per_second: 1_000,
        ..ServerConfig::default()
    });
    let first = server.put(vec![1; 100_000]);
    let gone = server.put(vec![2; 5_000]);
    let huge = server.put(vec![3; BLOCK_BYTES_MAX + 1]);
    server.asked(
        ONE,
        false,
        vec![
            want(first, WantKind::Block, 2),
            want(gone, WantKind::Block, 1),
            want(huge, WantKind::Have, 1),
        ],
    );
    assert_eq!(server.heard(ONE).1, [(huge, Presence::DontHave)]);
    server.store.remove(&gone);
    server.now = server.engine.next_deadline().expect("waits for tokens");
    server.happens(Event::Tick);
    assert_eq!(server.heard(ONE), (vec![], vec![(gone, Presence::DontHave)]));
}

#[test]
fn peers_of_older_versions_get_blocks_and_nothing_else() {
    for version in [Version::V1_0, Version::V1_1] {
        let mut server = Server::new(ServerConfig::default());
        server.happens(Event::Connected { peer: ONE, version });
        let v0 = {
            let raw = server.put(vec![1; 5_000]);
            let v0 = Cid::new_v0(*raw.hash()).expect("sha2-256");
            let data = server.store[&raw].clone();
            server.store.insert(v0, data);
            v0
        };
        server.asked(
            ONE,
            false,
            vec![want(v0, WantKind::Block, 1), want(cid(b"?"), WantKind::Block, 1)],
        );
        assert_eq!(server.heard(ONE), (vec![v0], vec![]));
    }
}

#[test]
fn answers_that_nobody_asked_for_change_nothing() {
    let mut server = Server::new(ServerConfig::default());
    let held = server.put(vec![1; 5_000]);
    server.engine.handle(
        Event::Received {
            peer: ONE,
            message: Message {
                entries: vec![want(held, WantKind::Block, 1)],
                ..Message::default()
            }
            .identify(&Sha2Hasher),
        },
        server.now,
    );
    let Some(Action::LookUp { ticket, .. }) = server.engine.poll_action() else {
        panic!("asks the store");
    };
    // The wrong kind of answer, then the right one, then the same again.
    server.happens(Event::Read {
        ticket,
        blocks: vec![None],
    });
    assert!(server.heard(ONE).0.is_empty());
    let sizes = vec![Some(5_000)];
    server.happens(Event::LookedUp {
        ticket,
        sizes: sizes.clone(),
    });
    assert_eq!(server.heard(ONE).0, [held]);
    server.happens(Event::LookedUp { ticket, sizes });
    assert_eq!(server.heard(ONE), (vec![], vec![]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever peers ask, in whatever order, memory stays within its bounds, and in the end all questions are answered.
    #[test]
    fn floods_of_wants_stay_within_bounds(
        messages in prop::collection::vec((1..3u64, any::<bool>(), prop::collection::vec((0..300u16, any::<i8>(), 0..4u8), 1..200)), 1..40),
        reads in any::<bool>(),
    ) {
        let mut server = Server::new(ServerConfig { wants_per_peer: 50, wants_max: 80, answers_per_peer: 60, ..ServerConfig::default() });
        for number in (0..300u16).step_by(2) {
            server.put(vec![number as u8; usize::from(number) * 20 + 1]);
        }
        let cids: Vec<_> = (0..300u16).map(|number| cid(&vec![number as u8; usize::from(number) * 20 + 1])).collect();
        server.writes = reads;
        for (peer, full, entries) in messages {
            let entries = entries.into_iter().map(|(number, priority, kind)| {
                let (cid, priority) = (cids[usize::from(number)], i32::from(priority));
                match kind {
                    0 => cancel(cid),
                    1 => want(cid, WantKind::Have, priority),
                    2 => quietly(want(cid, WantKind::Block, priority)),
                    _ => want(cid, WantKind::Block, priority),
                }
            });
            server.asked(Peer(peer), full, entries.collect());
        }
        if reads {
            // All that is there was sent; what is left waits for blocks that are not there.
            let left = server.engine.usage().server;
            prop_assert_eq!((left.questions, left.reading_bytes, left.writing_bytes, left.answers), (0, 0, 0, 0));
            server.asked(ONE, true, vec![]);
            server.happens(Event::Disconnected { peer: TWO });
            prop_assert_eq!(server.engine.usage().server.wants, 0);
        }
    }
}
