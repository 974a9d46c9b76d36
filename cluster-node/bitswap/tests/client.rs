//! What the client asks for and takes, message by message.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use cluster_bitswap::{
    Action, Ask, ClientConfig, Config, Engine, Entry, Event, FrameDecoder, Lane, Message, Offence, Peer, Prefix,
    Presence, RawBlock, Refusal, SessionId, Sha2Hasher, Version, WantKind,
};
use multihash_codetable::{Code, MultihashDigest};

const ONE: Peer = Peer(1);
const TWO: Peer = Peer(2);
const FETCH: SessionId = SessionId(1);
const OTHER: SessionId = SessionId(2);

/// A block of eight bytes.
fn data(number: u64) -> Bytes {
    number.to_be_bytes().to_vec().into()
}

fn cid(number: u64) -> Cid {
    Cid::new_v1(0x55, Code::Sha2_256.digest(&data(number)))
}

fn cids(numbers: std::ops::Range<u64>) -> Vec<Cid> {
    numbers.map(cid).collect()
}

struct Client {
    engine: Engine,
    now: Duration,
    /// Messages that were sent and not yet looked at.
    said: Vec<(Peer, Message)>,
    /// All else that was to be done and was not yet looked at.
    done: Vec<Action>,
    /// Whether what is sent counts as written at once.
    writes: bool,
}

impl Client {
    fn new() -> Self {
        Self::with(ClientConfig::default())
    }

    fn with(client: ClientConfig) -> Self {
        let config = Config {
            client,
            ..Config::default()
        };
        Self {
            engine: Engine::new(config, 1, Box::new(|_, _| false)),
            now: Duration::from_secs(1),
            said: Vec::new(),
            done: Vec::new(),
            writes: true,
        }
    }

    fn connected(mut self, peers: &[Peer]) -> Self {
        for peer in peers {
            let (peer, version) = (*peer, Version::V1_2);
            self.happens(Event::Connected { peer, version });
        }
        self
    }

    fn happens(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            self.engine.handle(event, self.now);
            while let Some(action) = self.engine.poll_action() {
                match action {
                    Action::Send { peer, lane, frame } => {
                        assert_eq!(lane, Lane::Wants);
                        let content = FrameDecoder::new()
                            .decode(&mut &frame[..])
                            .expect("a frame")
                            .expect("whole");
                        self.said.push((peer, Message::decode(content).expect("a message")));
                        if self.writes {
                            events.push(Event::Sent { peer, lane });
                        }
                    }
                    other => self.done.push(other),
                }
            }
        }
        let (usage, max) = (self.engine.usage(), self.engine.usage_max());
        assert!(usage.is_within(&max), "{usage:?} exceeds {max:?}");
    }

    fn passes(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.engine.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.happens(Event::Tick);
        }
        self.now = end;
    }

    fn fetch(&mut self, session: SessionId, candidates: &[Peer], cids: Vec<Cid>) {
        let candidates = candidates.to_vec();
        self.happens(Event::Open { session, candidates });
        let roots = false;
        self.happens(Event::Want { session, cids, roots });
    }

    fn hears(&mut self, peer: Peer, message: Message) {
        let message = message.identify(&Sha2Hasher);
        self.happens(Event::Received { peer, message });
    }

    fn gets(&mut self, peer: Peer, numbers: &[u64]) {
        let block = |number: &u64| RawBlock {
            prefix: Some(Prefix::of(&cid(*number))),
            data: data(*number),
        };
        let blocks = numbers.iter().map(block).collect();
        self.hears(
            peer,
            Message {
                blocks,
                ..Message::default()
            },
        );
    }

    fn is_told(&mut self, peer: Peer, presence: Presence, numbers: &[u64]) {
        let presences = numbers.iter().map(|number| (cid(*number), presence)).collect();
        self.hears(
            peer,
            Message {
                presences,
                ..Message::default()
            },
        );
    }

    /// What a peer was told since the last look.
    fn told(&mut self, peer: Peer) -> Vec<Entry> {
        let mut entries = Vec::new();
        self.said.retain(|(to, message)| {
            if *to == peer {
                entries.extend(message.entries.clone());
            }
            *to != peer
        });
        entries
    }

    /// What a peer was asked for since the last look, of one kind.
    fn asked(&mut self, peer: Peer, kind: WantKind) -> BTreeSet<Cid> {
        let entries = self.told(peer);
        let of_kind = |entry: &&Entry| matches!(entry.ask, Ask::Want { kind: k, .. } if k == kind);
        entries.iter().filter(of_kind).map(|entry| entry.cid).collect()
    }

    fn arrived(&mut self) -> Vec<Cid> {
        let block = |action: &Action| match action {
            Action::Block { cid, .. } => Some(*cid),
            _ => None,
        };
        let arrived = self.done.iter().filter_map(block).collect();
        self.done.retain(|action| block(action).is_none());
        arrived
    }

    fn missing(&mut self) -> BTreeSet<Cid> {
        let missing = self.done.iter().filter_map(|action| match action {
            Action::NobodyHas { cids, .. } => Some(cids.clone()),
            _ => None,
        });
        let missing = missing.flatten().collect();
        self.done.retain(|action| !matches!(action, Action::NobodyHas { .. }));
        missing
    }
}

fn set(numbers: std::ops::Range<u64>) -> BTreeSet<Cid> {
    cids(numbers).into_iter().collect()
}

#[test]
fn earlier_wants_have_higher_priorities_and_ask_for_dont_have() {
    let mut client = Client::new().connected(&[ONE]);
    client.fetch(FETCH, &[ONE], cids(0..5));
    let entries = client.told(ONE);
    assert_eq!(entries.len(), 5);
    let mut by_priority: Vec<_> = entries
        .iter()
        .map(|entry| match entry.ask {
            Ask::Want {
                kind: WantKind::Block,
                priority,
                send_dont_have: true,
            } => (-priority, entry.cid),
            other => panic!("{other:?}"),
        })
        .collect();
    by_priority.sort_unstable();
    let order: Vec<_> = by_priority.into_iter().map(|(_, cid)| cid).collect();
    assert_eq!(order, cids(0..5));
}

#[test]
fn a_new_peer_is_tried_with_few_blocks_and_asked_for_more_as_they_come() {
    let mut client = Client::new().connected(&[ONE]);
    client.fetch(FETCH, &[ONE], cids(0..1_000));
    let mut asked = client.asked(ONE, WantKind::Block);
    assert_eq!(asked, set(0..8));
    let mut came = 0;
    for _ in 0..6 {
        client.now += Duration::from_millis(60);
        let numbers: Vec<_> = (came..asked.len() as u64).collect();
        came = asked.len() as u64;
        client.gets(ONE, &numbers);
        asked.extend(client.asked(ONE, WantKind::Block));
    }
    let report = client.engine.session(FETCH).expect("open");
    assert_eq!(report.blocks, came);
    // Small blocks: as many as may be at all.
    assert_eq!(report.in_flight, 256);
    assert_eq!(report.wanted, 1_000 - came as usize);
    assert_eq!(report.served.len(), 1);
    assert_eq!(report.served[0].1.blocks, came);
}

#[test]
fn dont_have_moves_a_want_to_the_next_peer_and_then_it_is_reported() {
    let mut client = Client::new().connected(&[ONE, TWO]);
    client.fetch(FETCH, &[ONE, TWO], cids(0..1));
    let first = if client.asked(ONE, WantKind::Block).is_empty() {
        TWO
    } else {
        ONE
    };
    let second = if first == ONE { TWO } else { ONE };
    assert!(client.asked(second, WantKind::Block).is_empty());
    client.is_told(first, Presence::DontHave, &[0]);
    assert_eq!(client.asked(second, WantKind::Block), set(0..1));
    assert!(client.missing().is_empty());
    client.is_told(second, Presence::DontHave, &[0]);
    assert_eq!(client.missing(), set(0..1));
    assert_eq!(client.engine.session(FETCH).expect("open").starved, 1);
    // Who gets it later says so.
    client.is_told(first, Presence::Have, &[0]);
    assert_eq!(client.asked(first, WantKind::Block), set(0..1));
    client.gets(first, &[0]);
    assert_eq!(client.arrived(), cids(0..1));
}

#[test]
fn a_root_that_others_are_being_asked_about_is_asked_of_a_candidate_as_soon_as_there_is_one() {
    let mut client = Client::new().connected(&[ONE, TWO]);
    client.happens(Event::Open {
        session: FETCH,
        candidates: vec![],
    });
    client.happens(Event::Want {
        session: FETCH,
        cids: cids(0..1),
        roots: true,
    });
    assert_eq!(client.asked(ONE, WantKind::Have), set(0..1));
    assert_eq!(client.asked(TWO, WantKind::Have), set(0..1));
    client.happens(Event::Candidates {
        session: FETCH,
        peers: vec![TWO],
    });
    assert_eq!(client.asked(TWO, WantKind::Block), set(0..1));
    assert!(client.told(ONE).is_empty());
}

#[test]
fn a_block_from_one_peer_is_cancelled_with_the_others() {
    let mut client = Client::new().connected(&[ONE, TWO]);
    client.fetch(FETCH, &[ONE, TWO], cids(0..1));
    client.said.clear();
    // The other one was asked whether it has it, and answers with the block, because that is small.
    client.gets(TWO, &[0]);
    let told = client.told(ONE);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].ask, Ask::Cancel);
    assert!(client.told(TWO).is_empty());
    // What comes all the same is counted and is no offence; once more is one.
    client.gets(ONE, &[0]);
    assert_eq!(client.engine.session(FETCH).expect("open").duplicates, 1);
    assert_eq!(client.arrived(), cids(0..1));
    assert!(client.done.is_empty(), "{:?}", client.done);
    client.gets(ONE, &[0]);
    assert!(
        matches!(
            client.done[..],
            [Action::Misbehaved {
                peer: ONE,
                shunned: false,
                ..
            }]
        ),
        "{:?}",
        client.done
    );
}

#[test]
fn what_was_not_asked_of_a_peer_is_not_taken_from_it() {
    let mut client = Client::new().connected(&[ONE, TWO]);
    client.fetch(FETCH, &[ONE], cids(0..1));
    client.gets(TWO, &[0]);
    client.gets(ONE, &[7]);
    assert!(client.arrived().is_empty());
    let offence = |number| Offence::UnaskedBlock {
        cid: cid(number),
        bytes: 8,
    };
    let seen: Vec<_> = client
        .done
        .iter()
        .map(|action| match action {
            Action::Misbehaved { peer, offence, .. } => (*peer, *offence),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seen, [(TWO, offence(0)), (ONE, offence(7))]);
    // A hash that nobody here can compute was not asked for either.
    let prefix = Prefix::of(&Cid::new_v1(
        0x55,
        cid::multihash::Multihash::wrap(0x1e, &[1; 32]).expect("fits"),
    ));
    let blocks = vec![RawBlock {
        prefix: Some(prefix),
        data: data(0),
    }];
    client.done.clear();
    client.hears(
        ONE,
        Message {
            blocks,
            ..Message::default()
        },
    );
    let unknown = Offence::UnknownHash { blocks: 1, bytes: 8 };
    assert!(matches!(&client.done[..], [Action::Misbehaved { offence, .. }] if *offence == unknown));
}

#[test]
fn two_fetches_that_want_the_same_block_ask_once_and_both_get_it() {
    let mut client = Client::new().connected(&[ONE, TWO]);
    client.fetch(FETCH, &[ONE], cids(0..2));
    client.fetch(OTHER, &[TWO], cids(1..3));
    assert_eq!(client.asked(ONE, WantKind::Block), set(0..2));
    assert_eq!(client.asked(TWO, WantKind::Block), set(2..3));
    client.gets(ONE, &[1]);
    assert!(client.done.iter().any(|action| matches!(action,
        Action::Block { sessions, .. } if *sessions == [FETCH, OTHER])));
    // The one that asks may end; the other one still wants it.
    client.fetch(FETCH, &[ONE], cids(5..6));
    client.fetch(OTHER, &[TWO], cids(5..6));
    client.happens(Event::Close { session: FETCH });
    assert_eq!(client.engine.session(OTHER).expect("open").in_flight, 2);
    client.said.clear();
    client.is_told(ONE, Presence::DontHave, &[5]);
    assert_eq!(client.asked(TWO, WantKind::Block), set(5..6));
}

#[test]
fn what_is_not_wanted_any_more_is_cancelled() {
    let mut client = Client::new().connected(&[ONE]);
    client.fetch(FETCH, &[ONE], cids(0..6));
    client.said.clear();
    let unwanted = cids(0..2);
    client.happens(Event::Unwant {
        session: FETCH,
        cids: unwanted,
    });
    let blocks = vec![(cid(2), 8)];
    client.happens(Event::Stored { blocks });
    assert!(matches!(&client.done[..], [Action::Held { sessions, cid: held }]
        if *sessions == [FETCH] && *held == cid(2)));
    let cancelled: BTreeSet<_> = client.told(ONE).iter().map(|entry| entry.cid).collect();
    assert_eq!(cancelled, set(0..3));
    client.happens(Event::Close { session: FETCH });
    assert_eq!(client.told(ONE).len(), 3);
    let usage = client.engine.usage().client;
    assert_eq!(
        (usage.sessions, usage.wants, usage.facts, usage.in_flight),
        (0, 0, 0, 0)
    );
    assert!(client.engine.session(FETCH).is_none());
}

#[test]
fn wants_and_cancels_while_a_message_is_being_written_become_one_message() {
    let mut client = Client::new().connected(&[ONE]);
    client.writes = false;
    client.fetch(FETCH, &[ONE], cids(0..1));
    assert_eq!(client.told(ONE).len(), 1);
    client.happens(Event::Want {
        session: FETCH,
        cids: cids(1..5),
        roots: false,
    });
    client.happens(Event::Unwant {
        session: FETCH,
        cids: cids(0..3),
    });
    assert!(client.said.is_empty());
    client.happens(Event::Sent {
        peer: ONE,
        lane: Lane::Wants,
    });
    // 1 and 2 were never told, so they need no cancel.
    assert_eq!(client.said.len(), 1);
    let told = client.told(ONE);
    let cancelled: Vec<_> = told
        .iter()
        .filter(|entry| entry.ask == Ask::Cancel)
        .map(|entry| entry.cid)
        .collect();
    assert_eq!(cancelled, cids(0..1));
    assert_eq!(told.len(), 3);
}

#[test]
fn after_a_broken_stream_all_wants_are_told_again() {
    let mut client = Client::new().connected(&[ONE]);
    client.writes = false;
    client.fetch(FETCH, &[ONE], cids(0..4));
    assert!(client.said[0].1.full, "the first message of a connection says all");
    client.said.clear();
    client.happens(Event::Failed {
        peer: ONE,
        lane: Lane::Wants,
    });
    assert!(client.said[0].1.full);
    assert_eq!(client.asked(ONE, WantKind::Block), set(0..4));
}

#[test]
fn peers_of_older_versions_are_asked_for_blocks_only() {
    for version in [Version::V1_0, Version::V1_1] {
        let mut client = Client::new();
        client.happens(Event::Connected { peer: ONE, version });
        client.happens(Event::Connected { peer: TWO, version });
        client.happens(Event::Open {
            session: FETCH,
            candidates: vec![ONE, TWO],
        });
        client.happens(Event::Want {
            session: FETCH,
            cids: cids(0..1),
            roots: true,
        });
        let told = [client.told(ONE), client.told(TWO)].concat();
        assert_eq!(told.len(), 1);
        let expected = Ask::Want {
            kind: WantKind::Block,
            priority: i32::MAX - 1,
            send_dont_have: false,
        };
        assert_eq!(told[0].ask, expected);
    }
    // A bare block is taken under the CIDs that it may have.
    let mut client = Client::new();
    let version = Version::V1_0;
    client.happens(Event::Connected { peer: ONE, version });
    client.fetch(FETCH, &[ONE], cids(0..1));
    let blocks = vec![RawBlock {
        prefix: None,
        data: data(0),
    }];
    client.hears(
        ONE,
        Message {
            blocks,
            ..Message::default()
        },
    );
    assert_eq!(client.arrived(), cids(0..1));
}

#[test]
fn a_silent_peer_without_alternative_is_reported_and_asked_again() {
    let mut client = Client::new().connected(&[ONE]);
    client.fetch(FETCH, &[ONE], cids(0..20));
    client.said.clear();
    client.passes(Duration::from_secs(4));
    assert!(client.engine.peer(ONE).expect("connected").stalled);
    client.passes(Duration::from_secs(36));
    assert_eq!(client.missing(), set(0..20));
    // It was not given up: it comes back, and all of it arrives.
    let mut asked: BTreeSet<_> = client.asked(ONE, WantKind::Block);
    client.gets(ONE, &[0]);
    let mut rounds = 0;
    while client.engine.session(FETCH).expect("open").blocks < 20 {
        asked.extend(client.asked(ONE, WantKind::Block));
        client.now += Duration::from_millis(20);
        let numbers: Vec<_> = (0..20).filter(|number| asked.contains(&cid(*number))).collect();
        let arrived: BTreeSet<_> = client.arrived().into_iter().collect();
        let due: Vec<_> = numbers
            .into_iter()
            .filter(|number| !arrived.contains(&cid(*number)))
            .collect();
        asked.retain(|cid| !due.iter().any(|number| self::cid(*number) == *cid));
        client.gets(ONE, &due);
        rounds += 1;
        assert!(rounds < 50, "{:?}", client.engine.session(FETCH));
    }
}

#[test]
fn bytes_that_trickle_in_are_a_sign_of_life() {
    let mut client = Client::new().connected(&[ONE, TWO]);
    client.fetch(FETCH, &[ONE], cids(0..1));
    for _ in 0..20 {
        client.passes(Duration::from_millis(500));
        client.happens(Event::Arriving { peer: ONE });
    }
    assert!(!client.engine.peer(ONE).expect("connected").stalled);
    client.gets(ONE, &[0]);
    assert_eq!(client.arrived(), cids(0..1));
}

#[test]
fn what_is_beyond_a_bound_is_refused_with_the_reason() {
    let mut client = Client::with(ClientConfig {
        sessions_max: 2,
        session_wants_max: 10,
        wants_max: 15,
        ..ClientConfig::default()
    });
    client.fetch(FETCH, &[], cids(0..12));
    client.fetch(OTHER, &[], cids(20..28));
    client.fetch(SessionId(3), &[], cids(40..41));
    let refused: Vec<_> = client
        .done
        .iter()
        .filter_map(|action| match action {
            Action::Refused { session, cids, reason } => Some((*session, cids.len(), *reason)),
            _ => None,
        })
        .collect();
    let expected = [
        (FETCH, 2, Refusal::SessionFull),
        (OTHER, 3, Refusal::EngineFull),
        (SessionId(3), 0, Refusal::NoSession),
        (SessionId(3), 1, Refusal::NoSession),
    ];
    assert_eq!(refused, expected);
    assert_eq!((client.engine.room(FETCH), client.engine.room(OTHER)), (0, 0));
    client.happens(Event::Unwant {
        session: FETCH,
        cids: cids(0..4),
    });
    assert_eq!((client.engine.room(FETCH), client.engine.room(OTHER)), (4, 4));
}

#[test]
fn peers_beyond_the_bound_are_refused() {
    let config = Config {
        peers_max: 1,
        ..Config::default()
    };
    let mut engine = Engine::new(config, 1, Box::new(|_, _| false));
    for peer in [ONE, TWO] {
        let version = Version::V1_2;
        engine.handle(Event::Connected { peer, version }, Duration::ZERO);
    }
    assert!(matches!(engine.poll_action(), Some(Action::PeerRefused { peer: TWO })));
    assert!(engine.peer(ONE).is_some() && engine.peer(TWO).is_none());
}
