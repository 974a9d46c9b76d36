//! What the leader has heard from the peers about themselves and their storage nodes, and the plans it makes from it.
//!
//! Soft state: it is not in the log, and a new leader has all of it after one interval of reports. Ages are counted on
//! the leader's own monotonic clock, so no peer's clock can make it look dead or alive.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use node_core::allocate::{self, Candidate, Fleet, Policy, Verdict};
use node_core::command::{Plan, Refusal, RefusalKind};
use node_core::{Cid, NodeId, NodeState, PeerId, Placement, Replication};
use parking_lot::Mutex;

use super::NodeNames;

/// A peer that said nothing for so long is taken as not reachable: five reports at the default interval.
pub const SILENT_AFTER: Duration = Duration::from_secs(5);

/// How long a reservation stands before the node's own report shows what it stood for: three reports.
const RESERVED_FOR: Duration = Duration::from_secs(3);

/// Candidates are worked out anew at most so often; between, reservations keep a burst spread.
const REBUILD_EVERY: Duration = Duration::from_millis(200);

/// What a peer last said.
#[derive(Debug, Clone)]
pub struct Heard {
    /// When, on this peer's monotonic clock.
    pub at: Instant,
    /// The last log entry it had applied.
    pub applied_index: u64,
    /// Of its software.
    pub version: String,
    /// Its storage nodes.
    pub nodes: Vec<HeardNode>,
}

/// What a peer last said of a storage node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeardNode {
    /// Which node.
    pub node: NodeId,
    /// The daemon answers.
    pub reachable: bool,
    /// What it said when it does not.
    pub error: String,
    /// Bytes that it can still take.
    pub free_bytes: Option<u64>,
    /// Bytes that it may hold in all.
    pub total_bytes: Option<u64>,
    /// Of the daemon.
    pub version: String,
    /// The daemon's own identity.
    pub ipfs_peer_id: String,
    /// Entries by state: queued, pinning, pinned, retrying, gave up, unpinning.
    pub counts: [u64; 6],
    /// Age of the oldest entry that waits for its first try.
    pub oldest_queued: Duration,
    /// Done in the last while.
    pub pins_per_second: f64,
    /// State of its circuit breaker.
    pub breaker: String,
    /// How many it may work on at once.
    pub concurrency: u32,
    /// Where other IPFS nodes reach it.
    pub addresses: Vec<String>,
}

/// The leader's view of all peers and nodes.
pub struct FleetView {
    policy: Policy,
    inner: Mutex<Inner>,
}

struct Inner {
    heard: BTreeMap<PeerId, Heard>,
    /// The term that this peer leads in, as far as it was told.
    term: u64,
    /// Since when this peer listens; who was never heard of is judged from then.
    since: Instant,
    fleet: Option<(Fleet, Instant)>,
    reserved: VecDeque<(Instant, NodeId, u64)>,
}

/// What an allocation is to be made for.
pub struct Wish<'a> {
    /// Which CID.
    pub cid: &'a Cid,
    /// With no zeros left in it.
    pub replication: Replication,
    /// Where it is held now.
    pub placement: Option<&'a Placement>,
    /// Nodes to use first.
    pub preferred: &'a [NodeId],
    /// Tag names of failure domains.
    pub spread_by: &'a [String],
    /// Take fewer nodes than the minimum rather than refuse.
    pub allow_unplaced: bool,
    /// What is known of who holds the content: whether a node does, or nothing. Nobody lets go before those that stay hold
    /// it.
    pub holds: &'a (dyn Fn(NodeId) -> Option<bool> + Sync),
}

/// Nothing is known of who holds what: then nobody lets go yet.
pub const NOTHING_KNOWN: &(dyn Fn(NodeId) -> Option<bool> + Sync) = &|_| None;

impl FleetView {
    /// Nothing heard yet.
    pub fn new(policy: Policy) -> Self {
        let inner = Inner {
            heard: BTreeMap::new(),
            term: 0,
            since: Instant::now(),
            fleet: None,
            reserved: VecDeque::new(),
        };
        Self {
            policy,
            inner: Mutex::new(inner),
        }
    }

    /// This peer leads in `term`. With a new term it begins to listen: nobody is late before it could have reported. Said
    /// by everyone who is about to judge, so that whoever comes first after an election judges rightly.
    pub fn lead(&self, term: u64) {
        let mut inner = self.inner.lock();
        if inner.term != term {
            inner.term = term;
            inner.since = Instant::now();
            inner.fleet = None;
        }
    }

    /// Takes a report.
    pub fn hear(&self, peer: PeerId, heard: Heard) {
        let mut inner = self.inner.lock();
        inner.heard.insert(peer, heard);
    }

    /// The nodes or the settings changed.
    pub fn forget_candidates(&self) {
        self.inner.lock().fleet = None;
    }

    /// Everything heard, with whether the peer counts as reachable.
    pub fn snapshot(&self) -> BTreeMap<PeerId, (Heard, bool)> {
        let inner = self.inner.lock();
        let now = Instant::now();
        inner
            .heard
            .iter()
            .map(|(peer, heard)| (*peer, (heard.clone(), now.duration_since(heard.at) < SILENT_AFTER)))
            .collect()
    }

    /// How long a peer has been silent; since this peer listens when it was never heard.
    pub fn silent_for(&self, peer: PeerId) -> Duration {
        let inner = self.inner.lock();
        let since = inner
            .heard
            .get(&peer)
            .map_or(inner.since, |heard| heard.at.max(inner.since));
        since.elapsed()
    }

    /// Plans where a CID shall be held, and reserves room for it.
    pub fn plan(&self, names: &NodeNames, wish: &Wish<'_>) -> Result<Plan, Refusal> {
        let based_on = wish.placement.map_or(0, |placement| placement.revision);
        if wish.replication.is_everywhere() {
            return Ok(Plan {
                based_on,
                nodes: Vec::new(),
                unplaced: None,
            });
        }
        let mut inner = self.inner.lock();
        let current = current_nodes(names, wish);
        let fleet = inner.fleet(names, &self.policy);
        let request = allocate::Request {
            cid: wish.cid,
            min: wish.replication.min,
            max: wish.replication.max,
            current: &current,
            preferred: wish.preferred,
            spread_by: wish.spread_by,
        };
        let (nodes, unplaced) = match fleet.allocate(&request) {
            Ok(plan) => (plan.nodes, None),
            Err(refused) if wish.allow_unplaced => {
                // As many as there are: what can be held is held, and the loop adds the rest when it can.
                let fewer = allocate::Request { min: 0, ..request };
                (
                    fleet.allocate(&fewer).map(|plan| plan.nodes).unwrap_or_default(),
                    Some(refused.to_string()),
                )
            }
            Err(refused) => return Err(Refusal::new(RefusalKind::NotPlaceable, refused.to_string())),
        };
        let nodes = allocate::hand_over(&current, &nodes, wish.holds);
        let now = Instant::now();
        for node in nodes.iter().filter(|node| !current.contains(node)) {
            inner.reserve(now, *node);
        }
        Ok(Plan {
            based_on,
            nodes,
            unplaced,
        })
    }

    /// Every node with the reason why it is chosen or not.
    pub fn explain(&self, names: &NodeNames, wish: &Wish<'_>) -> Vec<Verdict> {
        let mut inner = self.inner.lock();
        let current = current_nodes(names, wish);
        let candidates = inner.candidates(names);
        let request = allocate::Request {
            cid: wish.cid,
            min: wish.replication.min,
            max: wish.replication.max,
            current: &current,
            preferred: wish.preferred,
            spread_by: wish.spread_by,
        };
        allocate::explain(&request, &candidates, &self.policy)
    }
}

/// The present nodes that hold a CID now. From everywhere to a few: all of them hold it.
fn current_nodes(names: &NodeNames, wish: &Wish<'_>) -> Vec<NodeId> {
    match wish.placement {
        Some(placement) if placement.replication.is_everywhere() => names.everyone(),
        Some(placement) => {
            let present = |id: &&NodeId| names.present().any(|node| node.id == **id);
            placement.nodes.iter().filter(present).copied().collect()
        }
        None => Vec::new(),
    }
}

impl Inner {
    fn fleet(&mut self, names: &NodeNames, policy: &Policy) -> &mut Fleet {
        let fresh = self.fleet.take().filter(|(_, built)| built.elapsed() < REBUILD_EVERY);
        let fleet = match fresh {
            Some(fleet) => fleet,
            None => (Fleet::new(self.candidates(names), policy.clone()), Instant::now()),
        };
        &mut self.fleet.insert(fleet).0
    }

    fn reserve(&mut self, now: Instant, node: NodeId) {
        if let Some((fleet, _)) = &mut self.fleet {
            fleet.reserve(node, 1);
        }
        // One row per node and tenth of a second, so the queue's length follows the nodes and not the pins.
        let slot = self
            .reserved
            .iter_mut()
            .rev()
            .take(128)
            .find(|(at, of, _)| *of == node && now.duration_since(*at) < Duration::from_millis(100));
        match slot {
            Some((_, _, pins)) => *pins += 1,
            None => self.reserved.push_back((now, node, 1)),
        }
    }

    fn candidates(&mut self, names: &NodeNames) -> Vec<Candidate> {
        let now = Instant::now();
        while self
            .reserved
            .front()
            .is_some_and(|(at, _, _)| now.duration_since(*at) > RESERVED_FOR)
        {
            self.reserved.pop_front();
        }
        let mut reserved: BTreeMap<NodeId, u64> = BTreeMap::new();
        for (_, node, pins) in &self.reserved {
            *reserved.entry(*node).or_default() += pins;
        }
        let settled = now.duration_since(self.since) > SILENT_AFTER;
        let candidate = |node: &node_core::StorageNode| {
            let peer = self.heard.get(&node.peer);
            let alive = peer.map(|heard| now.duration_since(heard.at) < SILENT_AFTER);
            let said = peer.and_then(|heard| heard.nodes.iter().find(|said| said.node == node.id));
            let reachable = match (alive, said) {
                (Some(true), Some(said)) => Some(said.reachable),
                // The peer is there and has not come to its new node yet.
                (Some(true), None) => None,
                (Some(false), _) if settled => Some(false),
                (None, _) if settled => Some(false),
                _ => None,
            };
            let pins = reserved.get(&node.id).copied().unwrap_or_default();
            Candidate {
                id: node.id,
                name: node.name.clone(),
                state: node.state,
                tags: node.tags.clone(),
                weight: node.weight,
                reachable,
                free_bytes: said.and_then(|said| said.free_bytes),
                total_bytes: said.and_then(|said| said.total_bytes),
                queued: said.map_or(0, |said| said.counts[0]),
                pin_bytes: said.and_then(|said| {
                    let used = said.total_bytes?.saturating_sub(said.free_bytes?);
                    allocate::pin_bytes(used, said.counts[2])
                }),
                reserved_pins: pins,
            }
        };
        names
            .present()
            .filter(|node| node.state != NodeState::Gone)
            .map(candidate)
            .collect()
    }
}
