//! Whatever happens, in whatever order, sense or nonsense: the engine does not panic, stays within its bounds, comes to
//! rest, and takes no block that was not asked for.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use cluster_bitswap::{
    Action, Ask, ClientConfig, Config, Engine, Entry, Event, FrameDecoder, Lane, Message, Peer, Prefix, Presence,
    RawBlock, ServerConfig, SessionId, Sha2Hasher, Ticket, Version, WantKind,
};
use multihash_codetable::{Code, MultihashDigest};
use proptest::prelude::*;

fn data(number: u8) -> Bytes {
    vec![number; usize::from(number) * 37 + 1].into()
}

fn cid(number: u8) -> Cid {
    Cid::new_v1(0x55, Code::Sha2_256.digest(&data(number)))
}

/// Something that happens, by numbers.
#[derive(Debug, Clone)]
enum Step {
    Connected(u64, u8),
    Disconnected(u64),
    Message(u64, Vec<(u8, u8)>, bool),
    Arriving(u64),
    Written(bool),
    Open(u64, Vec<u64>),
    Candidates(u64, Vec<u64>),
    Want(u64, Vec<u8>, bool),
    Unwant(u64, Vec<u8>),
    Close(u64),
    Stored(Vec<u8>),
    /// Answers the oldest question, honestly or with too few lines, or the wrong kind.
    Answer(u8),
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let peer = || 0..6u64;
    let session = || 0..4u64;
    let blocks = |most| prop::collection::vec(0..60u8, 0..most);
    prop_oneof![
        3 => (peer(), 0..3u8).prop_map(|(peer, version)| Step::Connected(peer, version)),
        1 => peer().prop_map(Step::Disconnected),
        8 => (peer(), prop::collection::vec((0..60u8, 0..8u8), 0..30), any::<bool>())
            .prop_map(|(peer, parts, full)| Step::Message(peer, parts, full)),
        1 => peer().prop_map(Step::Arriving),
        8 => prop::bool::weighted(0.9).prop_map(Step::Written),
        2 => (session(), prop::collection::vec(peer(), 0..5)).prop_map(|(session, peers)| Step::Open(session, peers)),
        1 => (session(), prop::collection::vec(peer(), 0..5))
            .prop_map(|(session, peers)| Step::Candidates(session, peers)),
        5 => (session(), blocks(40), any::<bool>()).prop_map(|(session, cids, roots)| Step::Want(session, cids, roots)),
        1 => (session(), blocks(20)).prop_map(|(session, cids)| Step::Unwant(session, cids)),
        1 => session().prop_map(Step::Close),
        1 => blocks(10).prop_map(Step::Stored),
        8 => (0..6u8).prop_map(Step::Answer),
        4 => (0..20_000u16).prop_map(Step::Pass),
    ]
}

/// An engine with narrow bounds, and what its surroundings remember of it.
struct Run {
    engine: Engine,
    now: Duration,
    /// Frames that are being written, and questions that are open.
    writing: Vec<(Peer, Lane)>,
    questions: Vec<(Ticket, Vec<Cid>, bool)>,
    /// Every block of which a peer was ever told that it is wanted, in any way.
    asked: BTreeSet<(Peer, Cid)>,
    wanted: BTreeSet<(SessionId, Cid)>,
}

impl Run {
    fn new() -> Self {
        let config = Config {
            peers_max: 5,
            client: ClientConfig {
                in_flight_min: 2,
                in_flight_max: 6,
                in_flight_total: 9,
                sessions_max: 3,
                session_wants_max: 30,
                wants_max: 50,
                candidates_max: 3,
                broadcast_max: 2,
                message_bytes: 300,
                ..ClientConfig::default()
            },
            server: ServerConfig {
                wants_per_peer: 10,
                wants_max: 25,
                answers_per_peer: 7,
                bytes_per_second: 5_000,
                peer_bytes: 3_000,
                total_bytes: 6_000,
                message_bytes: 1_000,
                batch_max: 4,
                look_ups_max: 2,
                ..ServerConfig::default()
            },
        };
        Self {
            engine: Engine::new(config, 1, Box::new(|_, cid: &Cid| *cid == self::cid(13))),
            now: Duration::ZERO,
            writing: Vec::new(),
            questions: Vec::new(),
            asked: BTreeSet::new(),
            wanted: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: Step) {
        let peers = |peers: Vec<u64>| peers.into_iter().map(Peer).collect();
        let cids = |numbers: Vec<u8>| -> Vec<Cid> { numbers.into_iter().map(cid).collect() };
        let event = match step {
            Step::Connected(peer, version) => {
                self.writing.retain(|(to, _)| *to != Peer(peer));
                self.asked.retain(|(to, _)| *to != Peer(peer));
                Event::Connected {
                    peer: Peer(peer),
                    version: Version::ALL[usize::from(version)],
                }
            }
            Step::Disconnected(peer) => {
                self.writing.retain(|(to, _)| *to != Peer(peer));
                Event::Disconnected { peer: Peer(peer) }
            }
            Step::Message(peer, parts, full) => Event::Received {
                peer: Peer(peer),
                message: message(&parts, full).identify(&Sha2Hasher),
            },
            Step::Arriving(peer) => Event::Arriving { peer: Peer(peer) },
            Step::Written(well) => {
                if self.writing.is_empty() {
                    return;
                }
                let (peer, lane) = self.writing.remove(0);
                match well {
                    true => Event::Sent { peer, lane },
                    false => Event::Failed { peer, lane },
                }
            }
            Step::Open(session, candidates) => Event::Open {
                session: SessionId(session),
                candidates: peers(candidates),
            },
            Step::Candidates(session, candidates) => Event::Candidates {
                session: SessionId(session),
                peers: peers(candidates),
            },
            Step::Want(session, numbers, roots) => {
                let (session, cids) = (SessionId(session), cids(numbers));
                self.wanted.extend(cids.iter().map(|cid| (session, *cid)));
                Event::Want { session, cids, roots }
            }
            Step::Unwant(session, numbers) => {
                let (session, cids) = (SessionId(session), cids(numbers));
                for cid in &cids {
                    self.wanted.remove(&(session, *cid));
                }
                Event::Unwant { session, cids }
            }
            Step::Close(session) => {
                self.wanted.retain(|(wants, _)| *wants != SessionId(session));
                Event::Close {
                    session: SessionId(session),
                }
            }
            Step::Stored(numbers) => Event::Stored {
                blocks: numbers
                    .into_iter()
                    .map(|number| (cid(number), data(number).len()))
                    .collect(),
            },
            Step::Answer(way) => match self.answer(way) {
                Some(event) => event,
                None => return,
            },
            Step::Pass(millis) => {
                self.now += Duration::from_millis(millis.into());
                Event::Tick
            }
        };
        self.happens(event);
    }

    fn answer(&mut self, way: u8) -> Option<Event> {
        if self.questions.is_empty() {
            return None;
        }
        let (ticket, mut cids, read) = match way {
            // Of the wrong kind; the right one comes later.
            4 => {
                let (ticket, cids, read) = self.questions[0].clone();
                (ticket, cids, !read)
            }
            _ => self.questions.remove(0),
        };
        if way == 5 {
            cids.pop();
        }
        // Of 60 blocks, the odd ones are there.
        let held = |cid: &Cid| (1..60u8).step_by(2).find(|number| self::cid(*number) == *cid).map(data);
        let blocks: Vec<_> = cids.iter().map(held).collect();
        Some(match read {
            true => Event::Read { ticket, blocks },
            false => Event::LookedUp {
                ticket,
                sizes: blocks.iter().map(|data| data.as_ref().map(Bytes::len)).collect(),
            },
        })
    }

    fn happens(&mut self, event: Event) {
        let from = match &event {
            Event::Received { peer, .. } => Some(*peer),
            _ => None,
        };
        self.engine.handle(event, self.now);
        let mut actions = 0;
        while let Some(action) = self.engine.poll_action() {
            actions += 1;
            assert!(actions < 1_000, "there is no end to it");
            match action {
                Action::Send { peer, lane, frame } => {
                    let content = FrameDecoder::new()
                        .decode(&mut &frame[..])
                        .expect("a frame")
                        .expect("whole");
                    let message = Message::decode(content).expect("a message");
                    self.writing.push((peer, lane));
                    let wants = message.entries.iter().filter(|entry| entry.ask != Ask::Cancel);
                    self.asked.extend(wants.map(|entry| (peer, entry.cid)));
                    let denied = message
                        .identify(&Sha2Hasher)
                        .blocks()
                        .iter()
                        .any(|block| *block.cid() == cid(13));
                    assert!(!denied, "a denied block was sent");
                }
                Action::LookUp { ticket, cids } => self.questions.push((ticket, cids, false)),
                Action::Read { ticket, cids } => self.questions.push((ticket, cids, true)),
                Action::Block {
                    sessions, cid, peer, ..
                } => {
                    assert_eq!(from, Some(peer));
                    assert!(self.asked.contains(&(peer, cid)), "{peer:?} was not asked");
                    for session in sessions {
                        assert!(self.wanted.remove(&(session, cid)), "{session:?} does not want it");
                    }
                }
                Action::Held { sessions, cid } => {
                    for session in sessions {
                        assert!(self.wanted.remove(&(session, cid)), "{session:?} does not want it");
                    }
                }
                Action::Refused { .. }
                | Action::NobodyHas { .. }
                | Action::PeerRefused { .. }
                | Action::Misbehaved { .. } => {}
            }
        }
        let (usage, max) = (self.engine.usage(), self.engine.usage_max());
        assert!(usage.is_within(&max), "{usage:?} exceeds {max:?}");
    }
}

fn message(parts: &[(u8, u8)], full: bool) -> Message {
    let mut message = Message {
        full,
        ..Message::default()
    };
    for (number, kind) in parts {
        let cid = cid(*number);
        let mut entry = |ask| message.entries.push(Entry { cid, ask });
        match kind {
            0 => entry(Ask::Cancel),
            1 | 2 => entry(Ask::Want {
                kind: if *kind == 1 { WantKind::Have } else { WantKind::Block },
                priority: i32::from(*number % 5) - 2,
                send_dont_have: number % 2 == 0,
            }),
            3 => message.presences.push((cid, Presence::Have)),
            4 => message.presences.push((cid, Presence::DontHave)),
            5 => message.blocks.push(RawBlock {
                prefix: None,
                data: data(*number),
            }),
            _ => message.blocks.push(RawBlock {
                prefix: Some(Prefix::of(&cid)),
                data: data(*number),
            }),
        }
    }
    message
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn anything_may_happen(steps in prop::collection::vec(step(), 1..150)) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
        }
        // Left alone, with all questions answered and all messages written, it comes to rest: what it does again it does
        // at longer and longer intervals.
        for _ in 0..2_000 {
            if !run.questions.is_empty() {
                run.step(Step::Answer(0));
            } else if !run.writing.is_empty() {
                run.step(Step::Written(true));
            } else {
                break;
            }
        }
        prop_assert!(run.questions.is_empty() && run.writing.is_empty());
        let mut ticks = 0;
        let end = run.now + Duration::from_secs(600);
        while let Some(at) = run.engine.next_deadline().filter(|at| *at < end) {
            run.now = run.now.max(at);
            run.happens(Event::Tick);
            while !run.questions.is_empty() || !run.writing.is_empty() {
                run.step(Step::Answer(0));
                run.step(Step::Written(true));
            }
            ticks += 1;
            prop_assert!(ticks < 20_000, "it never sleeps");
        }
        // And goes when everybody goes.
        for peer in 0..6 {
            run.step(Step::Disconnected(peer));
        }
        for session in 0..4 {
            run.step(Step::Close(session));
        }
        let usage = run.engine.usage();
        prop_assert_eq!(usage.client, cluster_bitswap::ClientUsage::default());
        prop_assert_eq!(usage.server, cluster_bitswap::ServerUsage::default());
    }

    #[test]
    fn arbitrary_bytes_from_a_peer_do_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..300), number in any::<u8>(), at in any::<prop::sample::Index>()
    ) {
        let mut run = Run::new();
        for step in [Step::Connected(1, 0), Step::Open(1, vec![1]), Step::Want(1, (0..30).collect(), true)] {
            run.step(step);
        }
        // On their own, and in the place of part of a good message.
        let parts: Vec<_> = (0..40u8).map(|part| (part ^ number, part % 8)).collect();
        let good = cluster_bitswap::split(&message(&parts, false), Version::V1_2, 1 << 20).expect("can be sent").concat();
        let mut spoilt = good.clone();
        let at = at.index(spoilt.len());
        let end = (at + bytes.len()).min(spoilt.len());
        drop(spoilt.splice(at..end, bytes.clone()));
        for stream in [bytes, spoilt, good] {
            let (mut decoder, mut input) = (FrameDecoder::new(), &stream[..]);
            while let Ok(Some(content)) = decoder.decode(&mut input) {
                if let Ok(message) = Message::decode(content) {
                    let (peer, message) = (Peer(1), message.identify(&Sha2Hasher));
                    run.happens(Event::Received { peer, message });
                }
            }
        }
    }
}
