//! Random DAGs and random histories, against a model that knows only who links to whom.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// How a node links to one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    Plain,
    /// As raw bytes: the walk ends there, though the block has links in its own codec.
    AsRaw,
    /// By an identity CID that carries the link.
    Inline,
}

#[derive(Debug, Clone)]
enum Op {
    Put(Vec<Index>, bool),
    Begin(Index, u8),
    /// Walks on, fetching at most so many blocks; none of them when the network is slow.
    Walk(Index, u8, bool),
    Unpin(Index),
    Collect(u8),
    BeginAdd,
    EndAdd,
    Reopen,
}

fn edges() -> impl Strategy<Value = Vec<Vec<(Index, Edge)>>> {
    let edge = prop_oneof![6 => Just(Edge::Plain), 1 => Just(Edge::AsRaw), 1 => Just(Edge::Inline)];
    let node = proptest::collection::vec((any::<Index>(), edge), 0..5);
    proptest::collection::vec(node, 1..24)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (proptest::collection::vec(any::<Index>(), 1..5), any::<bool>()).prop_map(|(at, add)| Op::Put(at, add)),
        4 => (any::<Index>(), 0u8..6).prop_map(|(at, mode)| Op::Begin(at, mode)),
        8 => (any::<Index>(), 1u8..9, any::<bool>()).prop_map(|(at, n, slow)| Op::Walk(at, n, slow)),
        3 => any::<Index>().prop_map(Op::Unpin),
        4 => (1u8..60).prop_map(Op::Collect),
        1 => Just(Op::BeginAdd),
        1 => Just(Op::EndAdd),
        1 => Just(Op::Reopen),
    ]
}

fn mode(number: u8) -> Mode {
    match number {
        0..=2 => Mode::Recursive,
        3 => Mode::Direct,
        number => Mode::Depth(u32::from(number) - 3),
    }
}

struct World {
    blocks: Vec<Block>,
    /// Whom each links to, and whether as raw; how many links down.
    links: Vec<Vec<(usize, bool, u32)>>,
    network: Network,
}

impl World {
    fn new(edges: &[Vec<(Index, Edge)>]) -> Self {
        let (mut blocks, mut links) = (Vec::<Block>::new(), Vec::new());
        for (at, edges) in edges.iter().enumerate() {
            let (mut cids, mut known) = (Vec::new(), Vec::new());
            for (to, edge) in edges.iter().filter(|_| at > 0) {
                let to = to.index(at);
                let cid = blocks[to].cid();
                known.push((to, *edge == Edge::AsRaw, if *edge == Edge::Inline { 2 } else { 1 }));
                cids.push(match edge {
                    Edge::Plain => cid,
                    Edge::AsRaw => cid_of(RAW, blocks[to].bytes()),
                    Edge::Inline => inline(&[cid]),
                });
            }
            // Some are long enough for blob files.
            let payload = [&at.to_be_bytes()[..], &vec![0; if at % 5 == 0 { 5_000 } else { 0 }]].concat();
            blocks.push(cbor(&payload, &cids));
            links.push(known);
        }
        Self {
            network: Network::of(&blocks),
            blocks,
            links,
        }
    }

    /// What a pin holds.
    fn reach(&self, root: usize, mode: Mode) -> BTreeSet<usize> {
        let left = match mode {
            Mode::Recursive => u32::MAX,
            Mode::Direct => 0,
            Mode::Depth(depth) => depth,
        };
        let mut best: BTreeMap<usize, u32> = BTreeMap::new();
        let mut all = BTreeSet::new();
        let mut stack = vec![(root, left)];
        while let Some((at, left)) = stack.pop() {
            all.insert(at);
            if best.get(&at).is_some_and(|best| *best >= left) {
                continue;
            }
            best.insert(at, left);
            for (to, as_raw, steps) in &self.links[at] {
                let Some(rest) = (if left == u32::MAX {
                    Some(left)
                } else {
                    left.checked_sub(*steps)
                }) else {
                    continue;
                };
                all.insert(*to);
                if !as_raw {
                    stack.push((*to, rest));
                }
            }
        }
        all
    }
}

struct Run<'a> {
    world: &'a World,
    folder: TempDir,
    store: Option<BlockStore>,
    pins: BTreeMap<usize, (Mode, bool)>,
    session: Option<(crate::AddSession, BTreeSet<usize>)>,
    cursor: Option<GcCursor>,
    /// Nothing was pinned by depth, or under two codecs: what is kept is then known exactly.
    exact: bool,
}

impl Run<'_> {
    fn store(&self) -> &BlockStore {
        self.store.as_ref().expect("open")
    }

    fn apply(&mut self, op: &Op) {
        let world = self.world;
        let place = |at: &Index| at.index(world.blocks.len());
        match op {
            Op::Put(at, under_add) => {
                let at: Vec<usize> = at.iter().map(place).collect();
                let blocks = at.iter().map(|at| world.blocks[*at].clone()).collect();
                let session = self.session.as_mut().filter(|_| *under_add);
                if let Some((session, put)) = session {
                    put.extend(at);
                    wait(self.store.as_ref().expect("open").put(Some(session), blocks)).expect("stored");
                } else {
                    wait(self.store().put(None, blocks)).expect("stored");
                }
            }
            Op::Begin(at, number) => {
                let (at, mode) = (place(at), mode(*number));
                let pin = begin(self.store(), world.blocks[at].cid(), mode);
                let before = self.pins.insert(at, (mode, pin.state == State::Complete));
                let stays = before.is_some_and(|(before, done)| before == mode && done);
                assert_eq!(pin.state == State::Complete, stays);
                self.exact &= !matches!(mode, Mode::Depth(_));
            }
            Op::Walk(at, count, slow) => self.walk(place(at), usize::from(*count), *slow),
            Op::Unpin(at) => {
                let at = place(at);
                let there = wait(self.store().unpin(&world.blocks[at].cid())).expect("removed");
                assert_eq!(there, self.pins.remove(&at).is_some());
            }
            Op::Collect(keys) => {
                let budget = Budget {
                    keys: usize::from(*keys),
                    ..Budget::default()
                };
                let cursor = self.cursor.take().unwrap_or_default();
                self.cursor = self.store().gc_step(cursor, budget).expect("a step").next;
            }
            Op::BeginAdd => {
                self.session
                    .get_or_insert((self.store.as_ref().expect("open").begin_add(), BTreeSet::new()));
            }
            Op::EndAdd => self.session = None,
            Op::Reopen => {
                self.session = None;
                self.cursor = None;
                self.store = None;
                self.store = Some(open(&self.folder));
            }
        }
        check(self.store());
        let there = |at: &usize| has(self.store(), &world.blocks[*at]);
        for (root, (mode, done)) in &self.pins {
            if *done {
                assert!(
                    world.reach(*root, *mode).iter().all(there),
                    "pin {root} {mode:?} is whole"
                );
            }
        }
        if let Some((_, put)) = &self.session {
            assert!(put.iter().all(there), "{put:?} were put under the add");
        }
    }

    fn walk(&mut self, at: usize, count: usize, slow: bool) {
        let cid = self.world.blocks[at].cid();
        let Some(walk) = self.store().walk(&cid).expect("reads") else {
            assert!(self.pins.get(&at).is_none_or(|(_, done)| *done));
            return;
        };
        let step = walk.advance(count).expect("advances");
        let blocks = self.world.network.fetch(&step.missing);
        assert_eq!(blocks.len(), step.missing.len());
        if slow {
            walk.give_back(&step.missing);
        } else {
            wait(walk.store(blocks)).expect("taken");
        }
        let again = walk.advance(1).expect("advances");
        if again.next == Next::Finish && again.missing.is_empty() {
            let pin = wait(walk.finish(now())).expect("finished");
            let (mode, done) = self.pins.get_mut(&at).expect("it is walked");
            *done = true;
            let reach = self.world.reach(at, *mode);
            // A block is counted once for each codec, and again in parts that are pins of their own.
            assert!(pin.progress.blocks >= reach.len() as u64, "{pin:?} of {reach:?}");
        } else {
            // Written before the tables are looked at.
            drop(walk);
            self.store()
                .ask_blocking(|reply| crate::writer::Command::Barrier { reply })
                .expect("written");
        }
    }

    fn end(mut self) {
        self.session = None;
        let world = self.world;
        collect(self.store());
        check(self.store());
        let walking: Vec<usize> = self
            .pins
            .iter()
            .filter(|(_, (_, done))| !done)
            .map(|(at, _)| *at)
            .collect();
        for at in walking {
            wait(self.store().unpin(&world.blocks[at].cid())).expect("removed");
            self.pins.remove(&at);
        }
        collect(self.store());
        check(self.store());
        let held: BTreeSet<usize> = self
            .pins
            .iter()
            .flat_map(|(root, (mode, _))| world.reach(*root, *mode))
            .collect();
        let stored: BTreeSet<usize> = (0..world.blocks.len())
            .filter(|at| has(self.store(), &world.blocks[*at]))
            .collect();
        assert!(stored.is_superset(&held));
        if self.exact {
            assert_eq!(stored, held);
        }
        for at in self.pins.keys() {
            wait(self.store().unpin(&world.blocks[*at].cid())).expect("removed");
        }
        collect(self.store());
        assert_empty(self.store());
        drop(self.store.take());
        assert_empty(&open(&self.folder));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn references_are_exact_and_pins_whole_whatever_happens(
        edges in edges(),
        ops in proptest::collection::vec(op(), 1..50),
    ) {
        let world = World::new(&edges);
        let (folder, store) = fresh();
        let exact = !edges.iter().flatten().any(|(_, edge)| *edge == Edge::AsRaw);
        let mut run = Run {
            world: &world,
            folder,
            store: Some(store),
            pins: BTreeMap::new(),
            session: None,
            cursor: None,
            exact,
        };
        for op in &ops {
            run.apply(op);
        }
        run.end();
    }
}

/// All at once: walks, adds, unpins and collections from threads of their own.
#[test]
fn everything_at_once() {
    let (_folder, store) = fresh();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let workers = 3u64;
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers)
            .map(|worker| {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..25u64 {
                        let (root, blocks) = shared_dag(worker, round);
                        let network = Network::of(&blocks);
                        if round % 3 == 0 {
                            let session = store.begin_add();
                            for block in &blocks {
                                wait(store.put(Some(&session), vec![block.clone()])).expect("stored");
                            }
                            let (_, fetched) = pin(store, root, Mode::Recursive, &Network::default());
                            assert!(fetched.is_empty(), "all was put");
                        } else {
                            pin(store, root, Mode::Recursive, &network);
                        }
                        if let Some(before) = round.checked_sub(2) {
                            let (before, _) = shared_dag(worker, before);
                            wait(store.unpin(&before)).expect("removed");
                        }
                        assert!(blocks.iter().all(|block| has(store, block)), "{worker} {round}");
                    }
                })
            })
            .collect();
        let collector = scope.spawn(|| {
            let mut deleted = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                deleted += collect(&store).blocks;
            }
            deleted
        });
        for worker in running {
            worker.join().expect("no worker fails");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(collector.join().expect("it does not fail") > 0);
    });
    check(&store);
    for worker in 0..workers {
        for round in 0..25 {
            wait(store.unpin(&shared_dag(worker, round).0)).expect("removed");
        }
    }
    collect(&store);
    assert_empty(&store);
}

/// Children first. Parts of it are in those of other workers and rounds.
pub(super) fn shared_dag(worker: u64, round: u64) -> (Cid, Vec<Block>) {
    let mut dice = Dice::new(worker * 1_000 + round);
    let mut blocks: Vec<Block> = (0..12).map(|_| raw(dice.below(40).to_be_bytes())).collect();
    for _ in 0..5 {
        let from = usize::try_from(dice.below(8)).expect("small");
        let links: Vec<Cid> = blocks[from..from + 4].iter().map(Block::cid).collect();
        blocks.push(cbor(b"node", &links));
    }
    let links: Vec<Cid> = blocks.iter().map(Block::cid).collect();
    let root = cbor(&[worker.to_be_bytes(), round.to_be_bytes()].concat(), &links);
    let cid = root.cid();
    blocks.push(root);
    (cid, blocks)
}
