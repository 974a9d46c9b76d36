//! A session that gathers blocks from all sources at once.
//!
//! It knows nothing of stores and pins: blocks are wanted, and come in any order. One Bitswap session serves all of its
//! wants, so that who had one block is asked for the next ones.
//!
//! | what | bound | why |
//! |---|---|---|
//! | wants that somebody may bring | the caller's, at most [`crate::config::BLOCKS_IN_FLIGHT_MAX`] | each block is up to 2 MiB |
//! | wants in all | the caller's, at most [`WANTS_MAX`] | those that nobody has take no more than their names |
//! | blocks of a CAR that nobody wants yet | [`EARLY_BYTES_MAX`] with what each takes besides its bytes, and one block | it comes in the order in which a walk wants it, give or take a few |
//! | blocks known to have come already | [`DELIVERED_MAX`] | a CAR brings them once more |
//! | searches | one at a time | each is dozens of messages, and what one finds mostly has the rest as well |
//! | candidates of a search | [`super::search::CANDIDATES_MAX`] | each is a dial |

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Duration;

use cluster_dag::Block;
use cluster_swarm::{Candidate, Closed, Fetch, FetchEvent, from_wire, to_wire};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use node_core::Cid;
use tokio::time::{Instant, sleep_until};

use super::Network;
use super::car::{CAR_QUIET, CAR_STUCK, Car, CarEvent, car_event};
use super::plan::{self, Around, Step, Want};
use super::search::{CANDIDATES_MAX, Search, SearchEvent, search_event};
use crate::http::Answered;

/// Wants of a session, with those that nobody has. Each is some 300 bytes here and 1 KiB in the network.
pub(crate) const WANTS_MAX: usize = 1_024;

/// Bytes of blocks kept that came in a CAR before they were wanted, with [`EARLY_ENTRY_BYTES`] for each.
pub(crate) const EARLY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a block that is kept takes besides its bytes: its CID twice, its place in the map, the allocator's share. About
/// 350 bytes in all. Not counted, the tiniest blocks would fill the memory and not the bound.
const EARLY_ENTRY_BYTES: usize = 512;

/// Blocks of a session of which it is known that they came, the oldest forgotten: some 4 MiB at worst. One that is
/// forgotten and comes once more in a CAR takes room until the session ends, as does one that the store had before.
const DELIVERED_MAX: usize = 128 * 1024;

/// How often what is to be done next is thought about, when nothing happens.
const TICK: Duration = Duration::from_millis(100);

/// Pause between two searches.
const SEARCH_PAUSE: Duration = Duration::from_secs(5);

/// When all connected peers are asked again for what nobody had: peers come all the time, and one that was connected a
/// moment too late for the first question would never be asked. The pause doubles from the first to the longest.
const ASK_AGAIN_FIRST: Duration = Duration::from_millis(500);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(30);

/// Blocks asked for again at a time: who has one of them is asked for the others anyway.
const ASK_AGAIN_BLOCKS: usize = 8;

/// Events of the network taken at once.
const EVENTS_MAX: usize = 64;

/// What came.
#[derive(Debug)]
pub(crate) enum Got {
    /// A block, checked.
    Block(Block),
    /// It came into the store another way.
    Held(Cid),
}

/// Why a session ends without what it wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GatherError {
    /// Nobody is left to be asked.
    #[error("nobody has {cid}{others}: no connected peer, no provider that was found and no gateway")]
    NotFound {
        /// One that is missing.
        cid: Box<Cid>,
        /// How many more are missing, in words.
        others: String,
    },
    /// Somebody says to have it, or may, and does not bring it.
    #[error("no block came for {after:?} while {cid}{others} was waited for")]
    Stalled {
        /// One that is missing.
        cid: Box<Cid>,
        /// How many more are missing, in words.
        others: String,
        /// How long.
        after: Duration,
    },
    /// The node shuts down.
    #[error("the node shuts down")]
    Closed,
}

impl From<Closed> for GatherError {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

struct Wanted {
    since: Instant,
    nobody: bool,
    searched: bool,
    refused: u16,
    at_gateway: bool,
    /// All connected peers were asked, and not only those that had something before.
    broad: bool,
}

/// Blocks that a CAR brought before they were wanted.
#[derive(Default)]
struct Early {
    blocks: HashMap<Cid, Block>,
    /// What they take, in bytes.
    bytes: usize,
    delivered: Delivered,
}

/// Which blocks came, each as a number of 64 bits that a stranger can't foresee. Two of one number are taken for one:
/// then a block of a CAR is not kept, and is fetched another way.
#[derive(Default)]
struct Delivered {
    hasher: RandomState,
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Delivered {
    fn add(&mut self, cid: &Cid) {
        let number = self.hasher.hash_one(cid);
        if !self.known.insert(number) {
            return;
        }
        if self.order.len() == DELIVERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(number);
    }

    fn has(&self, cid: &Cid) -> bool {
        self.known.contains(&self.hasher.hash_one(cid))
    }
}

impl Early {
    fn weight(block: &Block) -> usize {
        block.bytes().len() + EARLY_ENTRY_BYTES
    }

    /// Whether another one may come: they are let come one at a time.
    fn has_room(&self) -> bool {
        self.bytes < EARLY_BYTES_MAX
    }

    /// Keeps a block that nobody wants yet. Not one that was delivered, which nobody will want again; nor one that its CID
    /// tells, be it an identity CID or that of the empty block: nobody asks for those, so they would never leave.
    fn keep(&mut self, block: Block) {
        let cid = block.cid();
        let is_told = block.bytes().is_empty() || Block::inline(cid).is_some();
        if is_told || self.delivered.has(&cid) || self.blocks.contains_key(&cid) {
            return;
        }
        self.bytes += Self::weight(&block);
        self.blocks.insert(cid, block);
    }

    fn take(&mut self, cid: &Cid) -> Option<Block> {
        let block = self.blocks.remove(cid)?;
        self.bytes -= Self::weight(&block);
        Some(block)
    }

    /// Keeps none of them any longer.
    fn clear(&mut self) {
        self.blocks = HashMap::new();
        self.bytes = 0;
    }
}

type Asked = BoxFuture<'static, (Cid, usize, Answered)>;

/// A session. Dropping it ends all of its requests.
pub(crate) struct Gather {
    network: Arc<Network>,
    root: Cid,
    fetch: Fetch,
    wants: HashMap<Cid, Wanted>,
    requests: FuturesUnordered<Asked>,
    search: Option<Search>,
    root_searched: bool,
    search_again_at: Instant,
    car: Option<Car>,
    car_tried: bool,
    early: Early,
    ready: Vec<Got>,
    events: Vec<FetchEvent>,
    /// To be told to the network.
    candidates: Vec<Candidate>,
    unwanted: Vec<cluster_swarm::Cid>,
    ask_all: Vec<cluster_swarm::Cid>,
    again: Vec<cluster_swarm::Cid>,
    /// There may be room for more wants.
    freed: bool,
    /// When everybody is asked again, and how long after that once more.
    ask_again_at: Instant,
    ask_again_pause: Duration,
    /// The first wants are asked of everybody.
    fresh: bool,
    /// When a block came last.
    progressed: Instant,
    /// When somebody new was found.
    hopeful: Instant,
    think_at: Instant,
}

impl Gather {
    /// Begins a session for what lies below `root`. These candidates are asked besides the fellows.
    pub(crate) async fn begin(
        network: &Arc<Network>,
        root: Cid,
        mut candidates: Vec<Candidate>,
    ) -> Result<Self, GatherError> {
        candidates.extend(network.fellows.lock().iter().cloned());
        candidates.extend(network.origins.lock().recent(Instant::now()));
        let fetch = network.swarm.fetch(candidates).await?;
        let now = Instant::now();
        Ok(Self {
            network: Arc::clone(network),
            root,
            fetch,
            wants: HashMap::new(),
            requests: FuturesUnordered::new(),
            search: None,
            root_searched: false,
            search_again_at: now,
            car: None,
            car_tried: false,
            early: Early::default(),
            ready: Vec::new(),
            events: Vec::new(),
            candidates: Vec::new(),
            unwanted: Vec::new(),
            ask_all: Vec::new(),
            again: Vec::new(),
            freed: false,
            ask_again_at: now + ASK_AGAIN_FIRST,
            ask_again_pause: ASK_AGAIN_FIRST,
            fresh: true,
            progressed: now,
            hopeful: now,
            think_at: now,
        })
    }

    /// How many are wanted and have not come.
    pub(crate) fn wanted(&self) -> usize {
        self.wants.len()
    }

    /// How many of them somebody may bring: the others take no room, or a part of a DAG that nobody has would keep out all
    /// the rest of it.
    pub(crate) fn live(&self) -> usize {
        let live = |wanted: &&Wanted| !wanted.nobody || wanted.at_gateway;
        self.wants.values().filter(live).count()
    }

    /// Whether some have come that were not taken yet.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Wants these blocks; identity CIDs are none of its business. Nobody is asked for the empty block.
    pub(crate) async fn want(&mut self, cids: &[Cid]) -> Result<(), GatherError> {
        let now = Instant::now();
        let mut wires = Vec::with_capacity(cids.len());
        for cid in cids {
            if let Some(block) = self.early.take(cid) {
                self.came(cid);
                self.useful(now);
                self.network.counters.add_from_gateway(block.bytes().len());
                self.ready.push(Got::Block(block));
                continue;
            }
            if let Some(block) = Block::empty(*cid) {
                // Made here: Kubo says that it has it, and never sends it.
                self.ready.push(Got::Block(block));
                continue;
            }
            let wire = to_wire(cid);
            let wanted = Wanted {
                since: now,
                // Bitswap can't name it, so no peer can be asked.
                nobody: wire.is_none(),
                searched: false,
                refused: 0,
                at_gateway: false,
                broad: self.fresh,
            };
            wires.extend(wire);
            self.wants.insert(*cid, wanted);
        }
        let broad = self.fresh;
        if !wires.is_empty() {
            self.fresh = false;
            self.fetch.want(wires, broad).await?;
        }
        if self.network.gateways.len() > 0 && self.network.gateway_config.after.is_zero() {
            self.think_at = now;
        }
        Ok(())
    }

    /// Does not want these any more.
    pub(crate) fn forget(&mut self, cids: &[Cid]) {
        for cid in cids {
            if self.wants.remove(cid).is_some() {
                self.unwanted.extend(to_wire(cid));
            }
        }
    }

    /// Something moved elsewhere: blocks of this pin were found in the store.
    pub(crate) fn moved(&mut self) {
        self.progressed = Instant::now();
    }

    /// What came; nothing, when there may be room for more wants. Loses nothing when it is dropped while it waits.
    pub(crate) async fn next(&mut self) -> Result<Vec<Got>, GatherError> {
        loop {
            let now = Instant::now();
            if now >= self.think_at {
                self.think(now);
                self.think_at = now + TICK;
            }
            self.tell().await?;
            if !self.ready.is_empty() {
                self.progressed = Instant::now();
                self.ask_again_pause = ASK_AGAIN_FIRST;
                return Ok(std::mem::take(&mut self.ready));
            }
            if std::mem::take(&mut self.freed) {
                return Ok(Vec::new());
            }
            self.check(now)?;
            self.wait().await?;
        }
    }

    /// Waits for the next thing to happen, and takes it.
    async fn wait(&mut self) -> Result<(), GatherError> {
        let room = self.early.has_room();
        tokio::select! {
            count = self.fetch.next_many(&mut self.events, EVENTS_MAX) => {
                if count == 0 {
                    return Err(GatherError::Closed);
                }
                self.take_events();
            }
            Some((cid, place, answer)) = self.requests.next(), if !self.requests.is_empty() => {
                self.take_answer(cid, place, answer);
            }
            event = search_event(&mut self.search) => self.take_search(event),
            event = car_event(&mut self.car, room) => self.take_car(event),
            () = sleep_until(self.think_at) => {}
        }
        Ok(())
    }

    /// Tells the network what has piled up. Told twice is harmless, so it may be cut off anywhere.
    async fn tell(&mut self) -> Result<(), GatherError> {
        if !self.unwanted.is_empty() {
            self.fetch.unwant(self.unwanted.clone()).await?;
            self.unwanted.clear();
        }
        if !self.ask_all.is_empty() {
            // Wanted blocks are not wanted twice: so it has to be let go first.
            self.fetch.unwant(self.ask_all.clone()).await?;
            self.fetch.want(self.ask_all.clone(), true).await?;
            self.ask_all.clear();
        }
        if !self.candidates.is_empty() {
            self.fetch.candidates(self.candidates.clone()).await?;
            self.candidates.clear();
        }
        Ok(())
    }

    fn take_events(&mut self) {
        for event in std::mem::take(&mut self.events) {
            match event {
                FetchEvent::Block { cid, data, .. } => {
                    let Some(cid) = from_wire(&cid).filter(|cid| self.wants.remove(cid).is_some()) else {
                        continue;
                    };
                    self.came(&cid);
                    self.network.counters.add_from_peer(data.len());
                    self.ready.push(Got::Block(Block::trusted(cid, data)));
                }
                FetchEvent::Held(cid) => {
                    if let Some(cid) = from_wire(&cid).filter(|cid| self.wants.remove(cid).is_some()) {
                        self.came(&cid);
                        self.ready.push(Got::Held(cid));
                    }
                }
                FetchEvent::NobodyHas(cids) => {
                    for wire in cids {
                        let Some(wanted) = from_wire(&wire).and_then(|cid| self.wants.get_mut(&cid)) else {
                            continue;
                        };
                        if wanted.broad {
                            self.freed |= !wanted.nobody;
                            wanted.nobody = true;
                        } else {
                            // Who had nothing of the root may have this: after a restart the session knows nobody, and
                            // an origin may hold one part only.
                            wanted.broad = true;
                            self.ask_all.push(wire);
                        }
                    }
                    self.think_at = Instant::now();
                }
                FetchEvent::Refused { cids, reason } => {
                    tracing::debug!(?reason, count = cids.len(), "wants were not taken, asking again");
                    self.again.extend(cids);
                }
            }
        }
    }

    /// A block came, wherever from: a CAR may bring it once more, or has done so.
    fn came(&mut self, cid: &Cid) {
        self.early.take(cid);
        let may_begin = !self.car_tried && self.network.gateway_config.car && self.network.gateways.len() > 0;
        if self.car.is_some() || may_begin {
            self.early.delivered.add(cid);
        }
    }

    fn take_answer(&mut self, cid: Cid, place: usize, answer: Answered) {
        self.think_at = Instant::now();
        let Some(wanted) = self.wants.get_mut(&cid) else {
            return;
        };
        wanted.at_gateway = false;
        match answer {
            Answered::Block(block) => self.take_from_gateway(block),
            Answered::Missing => wanted.refused |= 1 << place,
            Answered::Failed(reason) => {
                wanted.refused |= 1 << place;
                tracing::debug!(%cid, reason, "a gateway did not bring a block");
            }
        }
    }

    /// A block that is wanted came from a gateway.
    fn take_from_gateway(&mut self, block: Block) {
        let cid = block.cid();
        self.wants.remove(&cid);
        self.came(&cid);
        self.unwanted.extend(to_wire(&cid));
        self.network.counters.add_from_gateway(block.bytes().len());
        self.ready.push(Got::Block(block));
    }

    fn take_search(&mut self, event: SearchEvent) {
        let now = Instant::now();
        self.think_at = now;
        match event {
            SearchEvent::Found(candidate) => {
                self.hopeful = now;
                self.candidates.push(candidate);
                let Some(search) = &mut self.search else {
                    return;
                };
                search.count += 1;
                if search.count < CANDIDATES_MAX {
                    return;
                }
            }
            SearchEvent::Ended => {}
        }
        let Some(search) = self.search.take() else {
            return;
        };
        tracing::debug!(cid = %search.cid, found = search.count, "searched for providers");
        self.search_again_at = now + SEARCH_PAUSE;
        // Of the root: whatever it found will be asked for everything. Of a block below: its neighbours mostly lie where
        // it lies, so they are not looked for one by one.
        let below = search.cid != self.root;
        for (cid, wanted) in &mut self.wants {
            wanted.searched |= below || *cid == search.cid;
        }
    }

    fn take_car(&mut self, event: CarEvent) {
        let now = Instant::now();
        match event {
            CarEvent::Block(block) => {
                let cid = block.cid();
                if self.wants.contains_key(&cid) {
                    self.useful(now);
                    self.take_from_gateway(block);
                } else {
                    self.early.keep(block);
                }
            }
            CarEvent::Ended(result) => {
                if let Some(car) = self.car.take() {
                    self.car_over(car.place, result.err());
                }
            }
        }
    }

    fn car_over(&mut self, place: usize, reason: Option<String>) {
        if let Some(reason) = reason {
            tracing::debug!(root = %self.root, reason, "a CAR file ended before its time");
        }
        // There is one CAR in a session: what is to be told apart from what it brings is not any more.
        self.early.delivered = Delivered::default();
        self.think_at = Instant::now();
        if let Some(wanted) = self.wants.get_mut(&self.root) {
            // It began with something else, or with nothing.
            wanted.refused |= 1 << place;
            wanted.at_gateway = false;
        }
    }

    fn useful(&mut self, now: Instant) {
        if let Some(car) = &mut self.car {
            car.useful = now;
        }
    }

    /// Starts what is due.
    fn think(&mut self, now: Instant) {
        if !self.again.is_empty() {
            // Let go and wanted anew: both are harmless for what was taken meanwhile.
            self.ask_all.append(&mut self.again);
        }
        if let Some(car) = self.car.take_if(|car| now.duration_since(car.useful) > CAR_STUCK) {
            self.car_over(
                car.place,
                Some(format!("it brought nothing that is wanted for {CAR_STUCK:?}")),
            );
            self.early.clear();
        }
        let mut around = Around {
            usable: self.network.gateways.usable(),
            well: self.network.gateways.well(),
            gateway_after: self.network.gateway_config.after,
            car_flows: self
                .car
                .as_ref()
                .is_some_and(|car| now.duration_since(car.useful) < CAR_QUIET),
            can_search: self.network.can_search(),
            searching: self.search.is_some() || now < self.search_again_at,
        };
        // The oldest first, so that no want is passed over for ever.
        let mut order: Vec<(Instant, Cid)> = self.wants.iter().map(|(cid, wanted)| (wanted.since, *cid)).collect();
        order.sort_unstable();
        if now >= self.ask_again_at {
            let nobody = |(_, cid): &&(Instant, Cid)| self.wants.get(cid).is_some_and(|wanted| wanted.nobody);
            let again = order.iter().filter(nobody).take(ASK_AGAIN_BLOCKS);
            self.ask_all.extend(again.filter_map(|(_, cid)| to_wire(cid)));
            self.ask_again_at = now + self.ask_again_pause;
            self.ask_again_pause = (2 * self.ask_again_pause).min(ASK_AGAIN_MAX);
        }
        for (_, cid) in order {
            let Some(wanted) = self.wants.get(&cid) else {
                continue;
            };
            let mut step = plan::next(wanted.known(now), around);
            if step == Step::Search {
                let root_first = !self.root_searched;
                self.root_searched = true;
                let whom = if root_first { self.root } else { cid };
                self.search = Some(Search::begin(&self.network, whom));
                around.searching = true;
                step = plan::next(wanted.known(now), around);
            }
            if let Step::Gateway(place) = step {
                self.ask_gateway(cid, place, now);
                around.usable = self.network.gateways.usable();
            }
        }
    }

    fn ask_gateway(&mut self, cid: Cid, place: usize, now: Instant) {
        if let Some(wanted) = self.wants.get_mut(&cid) {
            wanted.at_gateway = true;
        }
        let gateways = self.network.gateways.clone();
        if cid == self.root && self.network.gateway_config.car && !self.car_tried {
            self.car_tried = true;
            self.car = Some(Car::begin(gateways, place, cid, now));
            return;
        }
        // Counted from here on, and not from the first poll: the next decision looks at who is busy.
        let asked = gateways.block(place, cid);
        self.requests.push(async move { (cid, place, asked.await) }.boxed());
    }

    /// Whether it is over.
    fn check(&self, now: Instant) -> Result<(), GatherError> {
        let Some((cid, _)) = self.wants.iter().min_by_key(|(_, wanted)| wanted.since) else {
            return Ok(());
        };
        let quiet = now.duration_since(self.progressed);
        let config = self.network.config;
        let stalled = quiet >= config.stall_timeout;
        let hopeless = now.duration_since(self.progressed.max(self.hopeful)) >= config.not_found_after;
        if !stalled && !hopeless {
            return Ok(());
        }
        let others = match self.wants.len() - 1 {
            0 => String::new(),
            count => format!(" and {count} other blocks"),
        };
        let around = Around {
            usable: self.network.gateways.usable(),
            well: self.network.gateways.well(),
            gateway_after: self.network.gateway_config.after,
            car_flows: self.car.is_some(),
            can_search: self.network.can_search(),
            searching: self.search.is_some() || now < self.search_again_at,
        };
        let all = |test: &dyn Fn(&Wanted) -> bool| self.wants.values().all(test);
        let exhausted = all(&|wanted| plan::next(wanted.known(now), around) == Step::Exhausted);
        let nobody = all(&|wanted| wanted.nobody);
        if exhausted || stalled && nobody {
            return Err(GatherError::NotFound {
                cid: Box::new(*cid),
                others,
            });
        }
        if stalled {
            let after = config.stall_timeout;
            return Err(GatherError::Stalled {
                cid: Box::new(*cid),
                others,
                after,
            });
        }
        Ok(())
    }
}

impl Wanted {
    fn known(&self, now: Instant) -> Want {
        Want {
            waited: now.duration_since(self.since),
            nobody: self.nobody,
            searched: self.searched,
            refused: self.refused,
            at_gateway: self.at_gateway,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cluster_swarm::{DhtMode, Keypair, StoreError, Swarm};
    use multihash_codetable::{Code, MultihashDigest as _};

    use super::*;
    use crate::config::EmbeddedConfig;
    use crate::http::{Gateways, Routers, client};

    struct Nothing;

    impl cluster_swarm::Blocks for Nothing {
        fn sizes(&self, cids: &[cluster_swarm::Cid]) -> Result<Vec<Option<usize>>, StoreError> {
            Ok(vec![None; cids.len()])
        }

        fn read(&self, cids: &[cluster_swarm::Cid]) -> Result<Vec<Option<Bytes>>, StoreError> {
            Ok(vec![None; cids.len()])
        }
    }

    /// A block of these bytes under a codec that is told by a number.
    fn block(codec: u64, bytes: &'static [u8]) -> Block {
        named(codec, &Code::Sha2_256.digest(bytes).to_bytes(), bytes)
    }

    fn named(codec: u64, hash: &[u8], bytes: &'static [u8]) -> Block {
        let mut binary = vec![1];
        let mut rest = codec;
        while rest >= 0x80 {
            binary.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        binary.push(rest as u8);
        binary.extend(hash);
        let cid = Cid::from_bytes(&binary).expect("valid");
        Block::new(cid, Bytes::from_static(bytes)).expect("its own hash")
    }

    /// A session with a gateway that nobody asks: nothing listens there.
    async fn session(root: Cid) -> Gather {
        let mut config = EmbeddedConfig::new("/nowhere");
        config.swarm.listen = Vec::new();
        config.swarm.dht = DhtMode::Off;
        config.gateways.gateways = vec!["http://127.0.0.1:9".into()];
        let swarm = Swarm::start(config.swarm.clone(), Keypair::generate_ed25519(), Arc::new(Nothing));
        let swarm = swarm.await.expect("started");
        let http = client(Duration::from_secs(1), "test").expect("a client");
        let routers = Routers::new(http.clone(), &config.routing).expect("none");
        let gateways = Gateways::new(http, &config.gateways).expect("one");
        let network = Arc::new(Network::new(&config, swarm, routers, gateways));
        Gather::begin(&network, root, Vec::new()).await.expect("begun")
    }

    #[tokio::test]
    async fn a_car_of_tiny_blocks_fills_the_bound_and_not_the_memory() {
        let mut gather = session(block(0x55, b"root").cid()).await;
        // Empty blocks, and those that lie in their names, under ever new codecs: nobody will ever want them.
        for codec in 0..100_000 {
            gather.take_car(CarEvent::Block(block(codec, b"")));
            gather.take_car(CarEvent::Block(named(codec, &[0, 1, b'x'], b"x")));
        }
        assert_eq!((gather.early.blocks.len(), gather.early.bytes), (0, 0));
        assert!(gather.early.has_room());
        // The tiniest that somebody may want.
        let mut count = 0;
        while gather.early.has_room() {
            assert!(count < 100_000, "there is always room");
            gather.take_car(CarEvent::Block(block(count, b"y")));
            count += 1;
        }
        assert_eq!(
            gather.early.blocks.len(),
            EARLY_BYTES_MAX.div_ceil(1 + EARLY_ENTRY_BYTES)
        );
        // What is wanted makes room again, to the last byte.
        let all: Vec<Cid> = gather.early.blocks.keys().copied().collect();
        gather.want(&all).await.expect("open");
        assert_eq!((gather.early.blocks.len(), gather.early.bytes), (0, 0));
        assert_eq!((gather.ready.len(), gather.wanted()), (all.len(), 0));
    }

    #[tokio::test]
    async fn what_came_another_way_takes_no_room() {
        let mut gather = session(block(0x55, b"root").cid()).await;
        let (first, second, held) = (block(0x55, b"a"), block(0x55, b"b"), block(0x55, b"c"));
        let all = [&first, &second, &held].map(Block::cid);
        gather.want(&all).await.expect("open");
        let wire = |block: &Block| to_wire(&block.cid()).expect("short");
        let peer = gather.network.swarm.peer_id();
        for block in [&first, &second] {
            gather.events.push(FetchEvent::Block {
                cid: wire(block),
                data: block.bytes().clone(),
                peer,
            });
        }
        gather.events.push(FetchEvent::Held(wire(&held)));
        gather.take_events();
        assert_eq!((gather.ready.len(), gather.wanted()), (3, 0));
        for block in [&first, &second, &held] {
            gather.take_car(CarEvent::Block(block.clone()));
        }
        assert_eq!((gather.early.blocks.len(), gather.early.bytes), (0, 0));
        // What nobody wanted so far is kept, once.
        for _ in 0..2 {
            gather.take_car(CarEvent::Block(block(0x55, b"d")));
        }
        assert_eq!(
            (gather.early.blocks.len(), gather.early.bytes),
            (1, 1 + EARLY_ENTRY_BYTES)
        );
    }

    #[test]
    fn what_is_known_to_have_come_is_bounded() {
        let mut delivered = Delivered::default();
        let cids: Vec<Cid> = (0..DELIVERED_MAX as u64 + 2)
            .map(|codec| block(codec, b"z").cid())
            .collect();
        for cid in &cids {
            delivered.add(cid);
            delivered.add(cid);
        }
        assert_eq!(
            (delivered.known.len(), delivered.order.len()),
            (DELIVERED_MAX, DELIVERED_MAX)
        );
        assert!(delivered.has(&cids[2]) && !delivered.has(&cids[1]), "the oldest go");
    }
}
