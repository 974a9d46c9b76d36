//! Nodes with real engines, links with latency and bandwidth, and a clock that nobody waits for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use cid::Cid;
use cid::multihash::Multihash;
use cluster_bitswap::{
    Action, BlockHasher, Config, Engine, Event, FrameDecoder, Lane, Message, Offence, Peer, SessionId, Ticket, Version,
    split,
};

/// Sha2-256 in name only: a digest of the first bytes and the length, so that simulating gigabytes takes no hashing. It
/// tells apart all blocks of a simulation, which is all that is asked of it here.
pub struct CheapHasher;

impl BlockHasher for CheapHasher {
    fn digest(&self, code: u64, length: usize, data: &[u8]) -> Option<Multihash<64>> {
        if (code, length) != (0x12, 32) {
            return None;
        }
        let mut state = mix(data.len() as u64);
        for chunk in data.iter().take(32).collect::<Vec<_>>().chunks(8) {
            let word = chunk.iter().fold(0u64, |word, byte| word << 8 | u64::from(**byte));
            state = mix(state ^ word);
        }
        let words = [1u64, 2, 3, 4].map(|number| mix(state.wrapping_add(number)).to_be_bytes());
        Multihash::wrap(code, &words.concat()).ok()
    }
}

fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Lots, from a seed.
pub struct Lots(pub u64);

impl Lots {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A block is its number and its size.
fn content(number: u64, size: usize) -> Bytes {
    let mut data = vec![0; size];
    let bytes = number.to_be_bytes();
    let start = size.min(8);
    data[..start].copy_from_slice(&bytes[8 - start..]);
    data.into()
}

/// What a node does to the answers that its engine gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    Honest,
    /// Sends nothing after so many answers, and says nothing about it.
    StallsAfter(usize),
    /// Says HAVE, and sends no block.
    Teases,
    /// Sends something else instead of the block.
    Lies,
    /// Sends everything twice.
    Repeats,
    /// Sends blocks that nobody asked for along with those that were.
    Floods,
}

#[derive(Debug, Clone, Copy)]
pub struct Link {
    pub latency: Duration,
    /// Bytes per second.
    pub rate: f64,
    /// Frames that are lost, in percent.
    pub loss: u64,
}

struct Wire {
    link: Link,
    busy: Duration,
    /// Counts connections: what is under way dies with them.
    epoch: u64,
    up: bool,
}

pub struct Node {
    pub engine: Engine,
    pub nature: Nature,
    pub store: BTreeSet<Cid>,
    pub wanted: BTreeSet<Cid>,
    /// Blocks that arrived, when, and from whom.
    pub arrived: BTreeMap<Cid, (Duration, Peer)>,
    pub nobody_has: Vec<Cid>,
    pub offences: BTreeMap<Peer, (Vec<Offence>, bool)>,
    /// Bytes of answers that were written to each peer, with the time.
    pub sent: Vec<(Duration, usize, usize)>,
    /// Blocks are offered to others as soon as they arrive.
    pub shares: bool,
    answers: usize,
    tick: Option<Duration>,
    /// What is still to be wanted, by session.
    backlog: BTreeMap<SessionId, VecDeque<Cid>>,
}

enum Happening {
    Event {
        node: usize,
        event: Event,
    },
    Frame {
        from: usize,
        to: usize,
        epoch: u64,
        frame: Bytes,
    },
    Written {
        from: usize,
        to: usize,
        epoch: u64,
        lane: Lane,
        lost: bool,
    },
    Tick {
        node: usize,
    },
    Break {
        a: usize,
        b: usize,
    },
    Mend {
        a: usize,
        b: usize,
    },
}

pub struct World {
    pub now: Duration,
    pub lots: Lots,
    pub nodes: Vec<Node>,
    catalog: BTreeMap<Cid, (u64, usize)>,
    wires: BTreeMap<(usize, usize), Wire>,
    agenda: BTreeMap<(Duration, u64), Happening>,
    order: u64,
    handled: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            now: Duration::from_secs(1),
            lots: Lots(seed),
            nodes: Vec::new(),
            catalog: BTreeMap::new(),
            wires: BTreeMap::new(),
            agenda: BTreeMap::new(),
            order: 0,
            handled: 0,
        }
    }

    pub fn node(&mut self, nature: Nature, config: Config) -> usize {
        let seed = self.lots.draw();
        self.nodes.push(Node {
            engine: Engine::new(config, seed, Box::new(|_, _| false)),
            nature,
            store: BTreeSet::new(),
            wanted: BTreeSet::new(),
            arrived: BTreeMap::new(),
            nobody_has: Vec::new(),
            offences: BTreeMap::new(),
            sent: Vec::new(),
            shares: false,
            answers: 0,
            tick: None,
            backlog: BTreeMap::new(),
        });
        self.nodes.len() - 1
    }

    /// New blocks of these sizes.
    pub fn blocks(&mut self, sizes: impl IntoIterator<Item = usize>) -> Vec<Cid> {
        let mut cids = Vec::new();
        for size in sizes {
            let number = self.catalog.len() as u64 + 1;
            let hash = CheapHasher.digest(0x12, 32, &content(number, size)).expect("its hash");
            let cid = Cid::new_v1(0x55, hash);
            self.catalog.insert(cid, (number, size));
            cids.push(cid);
        }
        cids
    }

    pub fn hold(&mut self, node: usize, cids: &[Cid]) {
        self.nodes[node].store.extend(cids);
    }

    pub fn connect(&mut self, a: usize, b: usize, link: Link) {
        for pair in [(a, b), (b, a)] {
            let wire = Wire {
                link,
                busy: Duration::ZERO,
                epoch: 0,
                up: false,
            };
            self.wires.insert(pair, wire);
        }
        self.plan(self.now, Happening::Mend { a, b });
    }

    /// The connection breaks then, and is there again after a while.
    pub fn interrupt(&mut self, a: usize, b: usize, at: Duration, lasts: Duration) {
        self.plan(at, Happening::Break { a, b });
        self.plan(at + lasts, Happening::Mend { a, b });
    }

    pub fn fetch(&mut self, node: usize, session: u64, candidates: &[usize], cids: &[Cid], roots: bool) {
        let session = SessionId(session);
        let candidates = candidates.iter().map(|node| Peer(*node as u64)).collect();
        self.nodes[node].wanted.extend(cids);
        let mut cids = cids.to_vec();
        // As many as a session takes at a time; the rest follows as they come.
        let rest = cids.split_off(cids.len().min(4_000));
        self.nodes[node].backlog.entry(session).or_default().extend(rest);
        self.soon(node, Event::Open { session, candidates });
        self.soon(node, Event::Want { session, cids, roots });
    }

    fn want_more(&mut self, number: usize, session: SessionId) {
        let node = &mut self.nodes[number];
        let Some(backlog) = node.backlog.get_mut(&session) else {
            return;
        };
        if backlog.is_empty() || node.engine.room(session) < 1_000 {
            return;
        }
        let cids = backlog.drain(..backlog.len().min(500)).collect();
        let roots = false;
        self.handle(number, Event::Want { session, cids, roots });
    }

    pub fn soon(&mut self, node: usize, event: Event) {
        self.plan(self.now, Happening::Event { node, event });
    }

    fn plan(&mut self, at: Duration, happening: Happening) {
        self.order += 1;
        self.agenda.insert((at, self.order), happening);
    }

    /// Runs until it is so or the time has come; says whether it is so.
    pub fn run(&mut self, lasts: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + lasts;
        let mut steps = 0u64;
        while let Some(entry) = self.agenda.first_entry() {
            let (at, _) = *entry.key();
            if at > end {
                break;
            }
            let happening = entry.remove();
            self.now = self.now.max(at);
            self.step(happening);
            steps += 1;
            assert!(steps < 20_000_000, "the world does not come to rest");
            if done(self) {
                return true;
            }
        }
        done(self)
    }

    /// Whether a node has all that it wanted.
    pub fn is_served(&self, node: usize) -> bool {
        let node = &self.nodes[node];
        node.arrived.len() == node.wanted.len()
    }

    fn step(&mut self, happening: Happening) {
        match happening {
            Happening::Event { node, event } => self.handle(node, event),
            Happening::Frame { from, to, epoch, frame } => {
                if self.wires[&(from, to)].epoch == epoch {
                    self.receive(from, to, &frame);
                }
            }
            Happening::Written {
                from,
                to,
                epoch,
                lane,
                lost,
            } => {
                if self.wires[&(from, to)].epoch == epoch {
                    let peer = Peer(to as u64);
                    let event = match lost {
                        true => Event::Failed { peer, lane },
                        false => Event::Sent { peer, lane },
                    };
                    self.handle(from, event);
                }
            }
            Happening::Tick { node } => {
                self.nodes[node].tick = None;
                self.handle(node, Event::Tick);
            }
            Happening::Break { a, b } => {
                for (from, to) in [(a, b), (b, a)] {
                    let wire = self.wires.get_mut(&(from, to)).expect("connected once");
                    wire.epoch += 1;
                    if std::mem::replace(&mut wire.up, false) {
                        self.handle(from, Event::Disconnected { peer: Peer(to as u64) });
                    }
                }
            }
            Happening::Mend { a, b } => {
                for (from, to) in [(a, b), (b, a)] {
                    let wire = self.wires.get_mut(&(from, to)).expect("connected once");
                    if !std::mem::replace(&mut wire.up, true) {
                        wire.busy = self.now;
                        let (peer, version) = (Peer(to as u64), Version::V1_2);
                        self.handle(from, Event::Connected { peer, version });
                    }
                }
            }
        }
    }

    fn receive(&mut self, from: usize, to: usize, frame: &Bytes) {
        let mut input = &frame[..];
        let content = FrameDecoder::new().decode(&mut input).expect("a frame").expect("whole");
        let message = Message::decode(content).expect("a message").identify(&CheapHasher);
        let peer = Peer(from as u64);
        self.handle(to, Event::Received { peer, message });
    }

    fn handle(&mut self, number: usize, event: Event) {
        let now = self.now;
        let node = &mut self.nodes[number];
        node.engine.handle(event, now);
        let mut actions = Vec::new();
        while let Some(action) = node.engine.poll_action() {
            actions.push(action);
        }
        self.handled += 1;
        if self.handled.is_multiple_of(16) {
            let (usage, max) = (node.engine.usage(), node.engine.usage_max());
            assert!(usage.is_within(&max), "{usage:?} exceeds {max:?}");
        }
        for action in actions {
            self.act(number, action);
        }
        let node = &mut self.nodes[number];
        if let Some(at) = node.engine.next_deadline()
            && node.tick.is_none_or(|tick| at < tick)
        {
            node.tick = Some(at);
            self.plan(at.max(now), Happening::Tick { node: number });
        }
    }

    fn act(&mut self, number: usize, action: Action) {
        let now = self.now;
        match action {
            Action::Send { peer, lane, frame } => self.send(number, peer.0 as usize, lane, frame),
            Action::LookUp { ticket, cids } => {
                let store = &self.nodes[number].store;
                let sizes = cids
                    .iter()
                    .map(|cid| store.contains(cid).then(|| self.catalog[cid].1))
                    .collect();
                let event = Event::LookedUp { ticket, sizes };
                self.plan(
                    now + Duration::from_micros(200),
                    Happening::Event { node: number, event },
                );
            }
            Action::Read { ticket, cids } => self.read(number, ticket, &cids),
            Action::Block {
                sessions,
                cid,
                data,
                peer,
            } => {
                let (block, size) = self.catalog[&cid];
                assert_eq!(data, content(block, size), "{cid} is not what it is called");
                let node = &mut self.nodes[number];
                assert!(node.wanted.contains(&cid), "{cid} was not wanted");
                assert!(!sessions.is_empty());
                let before = node.arrived.insert(cid, (now, peer));
                assert_eq!(before, None, "{cid} arrived twice");
                for session in sessions {
                    self.want_more(number, session);
                }
                let node = &mut self.nodes[number];
                if node.shares {
                    node.store.insert(cid);
                    let blocks = vec![(cid, size)];
                    self.soon(number, Event::Stored { blocks });
                }
            }
            Action::NobodyHas { cids, .. } => self.nodes[number].nobody_has.extend(cids),
            Action::Misbehaved { peer, offence, shunned } => {
                let offences = self.nodes[number].offences.entry(peer).or_default();
                offences.0.push(offence);
                offences.1 |= shunned;
            }
            Action::Held { .. } => {}
            Action::Refused { reason, .. } => panic!("{reason:?}"),
            Action::PeerRefused { peer } => panic!("{peer:?} was refused"),
        }
    }

    fn read(&mut self, number: usize, ticket: Ticket, cids: &[Cid]) {
        let store = &self.nodes[number].store;
        let blocks = cids
            .iter()
            .map(|cid| {
                let (block, size) = self.catalog[cid];
                store.contains(cid).then(|| content(block, size))
            })
            .collect();
        let event = Event::Read { ticket, blocks };
        self.plan(
            self.now + Duration::from_millis(1),
            Happening::Event { node: number, event },
        );
    }

    fn send(&mut self, from: usize, to: usize, lane: Lane, frame: Bytes) {
        let mut frames = vec![frame];
        if lane == Lane::Answers {
            let bytes = frames[0].len();
            self.nodes[from].sent.push((self.now, to, bytes));
            self.nodes[from].answers += 1;
            frames = self.distort(from, frames.remove(0));
        }
        let lost = {
            let loss = self.wires[&(from, to)].link.loss;
            self.lots.chance(loss)
        };
        let wire = self.wires.get_mut(&(from, to)).expect("connected once");
        let (epoch, link) = (wire.epoch, wire.link);
        let mut arrivals = Vec::new();
        wire.busy = wire.busy.max(self.now);
        for frame in frames {
            wire.busy += Duration::from_secs_f64(frame.len() as f64 / link.rate);
            arrivals.push((wire.busy + link.latency, frame));
        }
        let written = wire.busy;
        if !lost {
            for (at, frame) in arrivals {
                self.plan(at, Happening::Frame { from, to, epoch, frame });
            }
        }
        self.plan(
            written,
            Happening::Written {
                from,
                to,
                epoch,
                lane,
                lost,
            },
        );
    }

    /// What a dishonest node sends instead of an answer.
    fn distort(&mut self, from: usize, frame: Bytes) -> Vec<Bytes> {
        let node = &self.nodes[from];
        let content = || {
            let mut input = &frame[..];
            let content = FrameDecoder::new().decode(&mut input).expect("a frame").expect("whole");
            Message::decode(content).expect("a message")
        };
        let again = |message: &Message| split(message, Version::V1_2, 512 << 10).expect("can be sent");
        match node.nature {
            Nature::Honest => vec![frame],
            Nature::StallsAfter(count) if node.answers > count => Vec::new(),
            Nature::StallsAfter(_) => vec![frame],
            Nature::Repeats => vec![frame.clone(), frame],
            Nature::Teases => {
                let mut message = content();
                message.blocks.clear();
                again(&message)
            }
            Nature::Lies => {
                let mut message = content();
                for block in &mut message.blocks {
                    let mut data = block.data.to_vec();
                    data.insert(0, 0xff);
                    block.data = data.into();
                }
                again(&message)
            }
            Nature::Floods => {
                let mut message = content();
                for block in message.blocks.clone() {
                    let mut data = block.data.to_vec();
                    data.insert(0, 0xfe);
                    let mut more = block;
                    more.data = data.into();
                    message.blocks.push(more);
                }
                again(&message)
            }
        }
    }
}
