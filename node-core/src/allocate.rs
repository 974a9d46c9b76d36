//! Which storage nodes shall hold a CID: a pure function from what is known of the nodes to a choice that explains
//! itself.
//!
//! 1. **Filter.** A node takes new pins when it is active, not known to be unreachable, has room above the watermark
//!    (less what was just placed there) and its queue is not full. A node that holds the CID already keeps it unless it
//!    is draining or gone: moving costs more than any gain in balance.
//! 2. **Spread.** Of the nodes left, those come first whose failure domains hold the fewest replicas, widest domain
//!    first. Replicas that stay count.
//! 3. **Draw.** Among equals the choice is a weighted rendezvous: each node draws `-ln(u) / score`, where `u` in (0, 1)
//!    is a hash of CID and node, and the smallest draw wins. So each gets pins in proportion to
//!    `score = weight × free GiB / (1 + queue / 1000)`, every CID spreads over all nodes alike, and a burst between two
//!    reports does not run to the one best node. Reservations lower the free space at once.
//!
//! Nodes that were not heard of yet come after those known to be well: a new leader can place at once, and places well
//! as soon as it has heard.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Cid, NodeId, NodeState};

/// What is known of a storage node.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Identity.
    pub id: NodeId,
    /// For people.
    pub name: String,
    /// Whether it takes and keeps pins.
    pub state: NodeState,
    /// Failure domains.
    pub tags: BTreeMap<String, String>,
    /// Share relative to other nodes.
    pub weight: f64,
    /// None when it was not heard of since this leader took over.
    pub reachable: Option<bool>,
    /// Bytes that it can still take.
    pub free_bytes: Option<u64>,
    /// Bytes that it may hold in all.
    pub total_bytes: Option<u64>,
    /// Pins that wait there.
    pub queued: u64,
    /// Bytes promised since it last reported.
    pub reserved_bytes: u64,
    /// Pins promised since it last reported.
    pub reserved_pins: u64,
}

/// What is to be placed.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The CID.
    pub cid: &'a Cid,
    /// Fewest nodes; 0 takes whatever there is.
    pub min: i32,
    /// Nodes that shall hold it.
    pub max: i32,
    /// Who holds it now.
    pub current: &'a [NodeId],
    /// Who is used first, if it can take it.
    pub preferred: &'a [NodeId],
    /// Tags whose values are failure domains, widest first.
    pub spread_by: &'a [String],
    /// What it is taken to need.
    pub size_estimate_bytes: u64,
}

/// Limits of the filter.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Share of a node's storage that stays free. Kubo collects garbage at 90 % by default, and a node that fills up
    /// fails every pin on it, so new pins stop a little earlier.
    pub free_share_min: f64,
    /// Pins that may wait at a node. Beyond it the node is so far behind that anyone else is better.
    pub queue_max: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            free_share_min: 0.05,
            queue_max: 10_000_000,
        }
    }
}

/// A choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Who shall hold it, ascending.
    pub nodes: Vec<NodeId>,
}

/// Too few nodes can take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPlaceable {
    /// How many are needed.
    pub needed: usize,
    /// How many there are.
    pub available: usize,
    /// Who refused, and why.
    pub reasons: Vec<(String, String)>,
}

impl std::error::Error for NotPlaceable {}

impl fmt::Display for NotPlaceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to see what is wrong; a message that names a hundred nodes is read by nobody.
        const NAMED_MAX: usize = 10;
        write!(
            f,
            "{} storage nodes are needed and {} can take it",
            self.needed, self.available
        )?;
        for (place, (name, reason)) in self.reasons.iter().take(NAMED_MAX).enumerate() {
            write!(f, "{}{name}: {reason}", if place == 0 { " (" } else { "; " })?;
        }
        match self.reasons.len() {
            0 => Ok(()),
            count if count > NAMED_MAX => write!(f, "; and {} more)", count - NAMED_MAX),
            _ => f.write_str(")"),
        }
    }
}

/// What is said of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Which node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it is to hold the CID.
    pub chosen: bool,
    /// Its place in the order of choice, from 1; 0 when it was filtered out.
    pub rank: usize,
    /// Its share.
    pub score: f64,
    /// Why.
    pub reason: String,
}

/// Candidates prepared for many requests.
#[derive(Debug, Clone)]
pub struct Fleet {
    candidates: Vec<Candidate>,
    by_id: BTreeMap<NodeId, usize>,
    policy: Policy,
    /// Free bytes that a node of unknown size is taken to have: what the others have on average.
    free_assumed: f64,
}

impl Fleet {
    /// Prepares. The order of the candidates does not matter.
    pub fn new(mut candidates: Vec<Candidate>, policy: Policy) -> Self {
        candidates.sort_by_key(|candidate| candidate.id);
        let known: Vec<f64> = candidates
            .iter()
            .filter_map(|one| one.free_bytes)
            .map(|free| free as f64)
            .collect();
        let free_assumed = if known.is_empty() {
            GIB
        } else {
            known.iter().sum::<f64>() / known.len() as f64
        };
        let by_id = candidates
            .iter()
            .enumerate()
            .map(|(place, candidate)| (candidate.id, place))
            .collect();
        Self {
            candidates,
            by_id,
            policy,
            free_assumed,
        }
    }

    /// Counts room as taken until the node's next report.
    pub fn reserve(&mut self, node: NodeId, bytes: u64, pins: u64) {
        if let Some(candidate) = self.by_id.get(&node).and_then(|place| self.candidates.get_mut(*place)) {
            candidate.reserved_bytes = candidate.reserved_bytes.saturating_add(bytes);
            candidate.reserved_pins = candidate.reserved_pins.saturating_add(pins);
        }
    }

    /// Chooses.
    pub fn allocate(&self, request: &Request<'_>) -> Result<Plan, NotPlaceable> {
        let chosen = self.choose(request);
        let needed = usize::try_from(request.min).unwrap_or(0);
        if chosen.len() < needed {
            let is_chosen = |candidate: &&Candidate| !chosen.iter().any(|pick| pick.candidate.id == candidate.id);
            let refused = self.candidates.iter().filter(is_chosen).filter_map(|candidate| {
                let reason = self.refuses(candidate, request.size_estimate_bytes)?;
                Some((candidate.name.clone(), reason))
            });
            return Err(NotPlaceable {
                needed,
                available: chosen.len(),
                reasons: refused.collect(),
            });
        }
        let mut nodes: Vec<_> = chosen.iter().map(|pick| pick.candidate.id).collect();
        nodes.sort_unstable();
        Ok(Plan { nodes })
    }

    fn choose(&self, request: &Request<'_>) -> Vec<Pick<'_>> {
        let wanted = usize::try_from(request.max).unwrap_or(0);
        let pick = |candidate| self.pick(candidate, request);
        let mut chosen: Vec<Pick<'_>> = request
            .current
            .iter()
            .filter_map(|id| self.by_id.get(id).and_then(|place| self.candidates.get(*place)))
            .filter(|candidate| keeps(candidate))
            .map(pick)
            .collect();
        chosen.sort_by_key(|pick| pick.candidate.id);
        chosen.dedup_by_key(|pick| pick.candidate.id);
        while chosen.len() > wanted {
            let Some(worst) = worst_to_keep(&chosen, request.spread_by) else {
                break;
            };
            chosen.remove(worst);
        }
        if chosen.len() < wanted {
            let free = |candidate: &&Candidate| {
                !chosen.iter().any(|pick| pick.candidate.id == candidate.id)
                    && self.refuses(candidate, request.size_estimate_bytes).is_none()
            };
            let mut rest: Vec<Pick<'_>> = self.candidates.iter().filter(free).map(pick).collect();
            while chosen.len() < wanted && !rest.is_empty() {
                let best = best_to_add(&rest, &chosen, request.spread_by);
                chosen.push(rest.swap_remove(best));
            }
        }
        chosen
    }

    fn pick<'a>(&'a self, candidate: &'a Candidate, request: &Request<'_>) -> Pick<'a> {
        let preferred = request
            .preferred
            .iter()
            .position(|id| *id == candidate.id)
            .unwrap_or(usize::MAX);
        let unknown = match candidate.reachable {
            Some(true) => 0,
            None => 1,
            Some(false) => 2,
        };
        let score = self.score(candidate);
        Pick {
            candidate,
            preferred,
            unknown,
            draw: draw(request.cid, candidate.id, score),
            score,
        }
    }

    fn free(&self, candidate: &Candidate) -> f64 {
        let free = candidate.free_bytes.map_or(self.free_assumed, |free| free as f64);
        (free - candidate.reserved_bytes as f64).max(0.0)
    }

    fn score(&self, candidate: &Candidate) -> f64 {
        let waiting = (candidate.queued + candidate.reserved_pins) as f64;
        candidate.weight * (self.free(candidate) / GIB) / (1.0 + waiting / 1_000.0)
    }

    /// Why a node takes nothing new.
    fn refuses(&self, candidate: &Candidate, size: u64) -> Option<String> {
        match candidate.state {
            NodeState::Active => {}
            state => return Some(format!("it is {}", state.as_str())),
        }
        if candidate.reachable == Some(false) {
            return Some("it is not reachable".into());
        }
        if candidate.queued >= self.policy.queue_max {
            return Some(format!("{} pins wait there already", candidate.queued));
        }
        if let (Some(free), Some(total)) = (candidate.free_bytes, candidate.total_bytes) {
            let left = free.saturating_sub(candidate.reserved_bytes).saturating_sub(size);
            let kept = (total as f64 * self.policy.free_share_min) as u64;
            if left < kept || free == 0 {
                let mib = |bytes: u64| bytes >> 20;
                return Some(format!("it is full: {} MiB of {} MiB are free", mib(free), mib(total)));
            }
        } else if candidate.free_bytes == Some(0) {
            return Some("it is full".into());
        }
        None
    }
}

/// Every node with the reason why it is chosen, ranked or left out.
pub fn explain(request: &Request<'_>, candidates: &[Candidate], policy: &Policy) -> Vec<Verdict> {
    let fleet = Fleet::new(candidates.to_vec(), policy.clone());
    let chosen = fleet.choose(request);
    let place = |id: NodeId| chosen.iter().position(|pick| pick.candidate.id == id);
    let mut order: Vec<Pick<'_>> = fleet
        .candidates
        .iter()
        .map(|candidate| fleet.pick(candidate, request))
        .collect();
    order.sort_by(|a, b| a.order().partial_cmp(&b.order()).unwrap_or(std::cmp::Ordering::Equal));
    let mut rank = chosen.len();
    let mut verdicts = Vec::with_capacity(order.len());
    for pick in order {
        let candidate = pick.candidate;
        let current = request.current.contains(&candidate.id);
        let refusal = fleet.refuses(candidate, request.size_estimate_bytes);
        let (rank, reason) = match (place(candidate.id), refusal) {
            (Some(place), refusal) if current => {
                let note = refusal
                    .map(|why| format!(", though it takes nothing new: {why}"))
                    .unwrap_or_default();
                (place + 1, format!("it holds the CID already and keeps it{note}"))
            }
            (Some(place), _) if pick.preferred != usize::MAX => (place + 1, "the user chose it".into()),
            (Some(place), _) => (place + 1, format!("chosen: {}", describe(&fleet, candidate, request))),
            (None, Some(why)) => (0, why),
            (None, None) => {
                rank += 1;
                (
                    rank,
                    format!("others come first: {}", describe(&fleet, candidate, request)),
                )
            }
        };
        let chosen = place(candidate.id).is_some();
        verdicts.push(Verdict {
            node: candidate.id,
            name: candidate.name.clone(),
            chosen,
            rank,
            score: pick.score,
            reason,
        });
    }
    verdicts.sort_by_key(|verdict| (verdict.rank == 0, verdict.rank, verdict.node));
    verdicts
}

fn describe(fleet: &Fleet, candidate: &Candidate, request: &Request<'_>) -> String {
    let mut text = match candidate.free_bytes {
        Some(_) => format!("{:.1} GiB free", fleet.free(candidate) / GIB),
        None => "free space not known yet".into(),
    };
    if candidate.weight != 1.0 {
        text += &format!(", weight {}", candidate.weight);
    }
    let waiting = candidate.queued + candidate.reserved_pins;
    if waiting > 0 {
        text += &format!(", {waiting} pins wait");
    }
    for tag in request.spread_by {
        text += &format!(", {tag} {}", candidate.tags.get(tag).map_or("not set", String::as_str));
    }
    text
}

const GIB: f64 = (1u64 << 30) as f64;

struct Pick<'a> {
    candidate: &'a Candidate,
    /// Place among the user's nodes; the last there is when it is none.
    preferred: usize,
    /// 0 known to be well, 1 not heard of, 2 known not to be.
    unknown: u8,
    draw: f64,
    score: f64,
}

impl Pick<'_> {
    fn order(&self) -> (usize, u8, f64) {
        (self.preferred, self.unknown, self.draw)
    }
}

/// A node that holds a CID goes on holding it, also while it can't be reached: repair is another's decision.
fn keeps(candidate: &Candidate) -> bool {
    matches!(candidate.state, NodeState::Active | NodeState::Cordoned)
}

/// How many of `chosen` share a node's failure domains, widest first. Domains nest: the second counts only within the
/// first. Nodes without a tag share one domain, so an untagged node never looks like a better spread.
fn shared(candidate: &Candidate, chosen: &[Pick<'_>], spread_by: &[String]) -> Vec<usize> {
    let mut same: Vec<&Candidate> = chosen
        .iter()
        .map(|pick| pick.candidate)
        .filter(|other| other.id != candidate.id)
        .collect();
    spread_by
        .iter()
        .map(|tag| {
            same.retain(|other| other.tags.get(tag) == candidate.tags.get(tag));
            same.len()
        })
        .collect()
}

fn best_to_add(rest: &[Pick<'_>], chosen: &[Pick<'_>], spread_by: &[String]) -> usize {
    let key = |pick: &Pick<'_>| {
        let (preferred, unknown, draw) = pick.order();
        (preferred, shared(pick.candidate, chosen, spread_by), unknown, draw)
    };
    let mut best = 0;
    let mut best_key = key(&rest[0]);
    for (place, pick) in rest.iter().enumerate().skip(1) {
        let this = key(pick);
        if this < best_key {
            (best, best_key) = (place, this);
        }
    }
    best
}

/// The node whose loss hurts least: not chosen by the user, in the fullest domains, not well, with the worst draw.
fn worst_to_keep(chosen: &[Pick<'_>], spread_by: &[String]) -> Option<usize> {
    let key = |pick: &Pick<'_>| {
        let unreachable = pick.unknown == 2;
        (
            unreachable,
            pick.preferred,
            shared(pick.candidate, chosen, spread_by),
            pick.unknown,
            pick.draw,
        )
    };
    let keys: Vec<_> = chosen.iter().map(key).collect();
    (0..chosen.len()).max_by(|a, b| keys[*a].partial_cmp(&keys[*b]).unwrap_or(std::cmp::Ordering::Equal))
}

/// A node's draw for a CID: the smallest wins, in proportion to the scores (weighted rendezvous hashing).
fn draw(cid: &Cid, node: NodeId, score: f64) -> f64 {
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(&cid.to_bytes(), u64::from(node.0));
    // 53 bits make an even number in (0, 1): neither end, so the logarithm is finite and not zero.
    let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -unit.ln() / score.max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cid(number: u32) -> Cid {
        let mut bytes = vec![0x01, 0x55, 0x12, 0x20];
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&number.to_be_bytes());
        bytes.extend(digest);
        Cid::from_bytes(&bytes).expect("valid")
    }

    fn node(id: u32, zone: &str) -> Candidate {
        Candidate {
            id: NodeId(id),
            name: format!("node-{id}"),
            state: NodeState::Active,
            tags: BTreeMap::from([("zone".into(), zone.into())]),
            weight: 1.0,
            reachable: Some(true),
            free_bytes: Some(100 << 30),
            total_bytes: Some(200 << 30),
            queued: 0,
            reserved_bytes: 0,
            reserved_pins: 0,
        }
    }

    struct Ask {
        cid: Cid,
        min: i32,
        max: i32,
        current: Vec<NodeId>,
        preferred: Vec<NodeId>,
        spread_by: Vec<String>,
    }

    impl Ask {
        fn new(number: u32, min: i32, max: i32) -> Self {
            let spread_by = vec!["zone".into()];
            Self {
                cid: cid(number),
                min,
                max,
                current: Vec::new(),
                preferred: Vec::new(),
                spread_by,
            }
        }

        fn request(&self) -> Request<'_> {
            Request {
                cid: &self.cid,
                min: self.min,
                max: self.max,
                current: &self.current,
                preferred: &self.preferred,
                spread_by: &self.spread_by,
                size_estimate_bytes: 1 << 20,
            }
        }

        fn of(&self, candidates: &[Candidate]) -> Result<Plan, NotPlaceable> {
            Fleet::new(candidates.to_vec(), Policy::default()).allocate(&self.request())
        }
    }

    #[test]
    fn a_refusal_names_who_refused_and_why() {
        let mut nodes = vec![node(1, "a"), node(2, "b"), node(3, "c")];
        nodes[0].state = NodeState::Cordoned;
        nodes[1].free_bytes = Some(1 << 30);
        nodes[2].reachable = Some(false);
        let refused = Ask::new(1, 1, 2).of(&nodes).expect_err("refused").to_string();
        for part in [
            "1 storage nodes",
            "node-1: it is cordoned",
            "node-2: it is full",
            "node-3: it is not reachable",
        ] {
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn a_new_leader_places_on_nodes_it_has_not_heard_of() {
        let mut nodes = vec![node(1, "a"), node(2, "b")];
        for node in &mut nodes {
            (node.reachable, node.free_bytes, node.total_bytes) = (None, None, None);
        }
        assert_eq!(Ask::new(1, 2, 2).of(&nodes).expect("placed").nodes.len(), 2);
        nodes[1].reachable = Some(true);
        assert_eq!(Ask::new(1, 1, 1).of(&nodes).expect("placed").nodes, [NodeId(2)]);
    }

    #[test]
    fn who_holds_it_keeps_it_and_who_drains_does_not() {
        let mut nodes = vec![node(1, "a"), node(2, "b"), node(3, "c")];
        nodes[0].state = NodeState::Cordoned;
        nodes[1].state = NodeState::Draining;
        let mut ask = Ask::new(1, 2, 2);
        ask.current = vec![NodeId(1), NodeId(2)];
        assert_eq!(ask.of(&nodes).expect("placed").nodes, [NodeId(1), NodeId(3)]);
    }

    #[test]
    fn survivors_count_for_the_spread() {
        let nodes = [node(1, "a"), node(2, "a"), node(3, "a"), node(4, "b")];
        for number in 0..50 {
            let mut ask = Ask::new(number, 2, 2);
            ask.current = vec![NodeId(1)];
            assert_eq!(ask.of(&nodes).expect("placed").nodes, [NodeId(1), NodeId(4)]);
        }
    }

    #[test]
    fn a_smaller_factor_drops_who_is_missed_least() {
        let nodes = [node(1, "a"), node(2, "a"), node(3, "b")];
        for number in 0..50 {
            let mut ask = Ask::new(number, 2, 2);
            ask.current = vec![NodeId(1), NodeId(2), NodeId(3)];
            assert!(ask.of(&nodes).expect("placed").nodes.contains(&NodeId(3)));
        }
    }

    #[test]
    fn shares_follow_space_and_weight() {
        let mut nodes = [node(1, "a"), node(2, "a"), node(3, "a")];
        nodes[1].weight = 2.0;
        nodes[2].free_bytes = Some(50 << 30);
        let fleet = Fleet::new(nodes.to_vec(), Policy::default());
        let mut counts = [0; 4];
        for number in 0..7_000 {
            let plan = fleet.allocate(&Ask::new(number, 1, 1).request()).expect("placed");
            counts[plan.nodes[0].0 as usize] += 1;
        }
        // In proportion 2 : 4 : 1.
        assert!((1_800..2_200).contains(&counts[1]), "{counts:?}");
        assert!((3_800..4_200).contains(&counts[2]), "{counts:?}");
        assert!((850..1_150).contains(&counts[3]), "{counts:?}");
    }

    #[test]
    fn a_burst_stops_at_what_is_reserved() {
        let mut nodes = [node(1, "a"), node(2, "a")];
        for node in &mut nodes {
            (node.free_bytes, node.total_bytes) = (Some(100 << 20), Some(200 << 20));
        }
        let mut fleet = Fleet::new(nodes.to_vec(), Policy::default());
        let mut placed = 0;
        for number in 0..1_000 {
            let ask = Ask::new(number, 1, 1);
            let Ok(plan) = fleet.allocate(&ask.request()) else {
                break;
            };
            fleet.reserve(plan.nodes[0], 1 << 20, 1);
            placed += 1;
        }
        // Each has 100 MiB free and keeps 5 % of 200 MiB.
        assert_eq!(placed, 2 * 90);
    }

    #[test]
    fn the_explanation_agrees_with_the_choice() {
        let mut nodes = vec![node(1, "a"), node(2, "b"), node(3, "c"), node(4, "d")];
        nodes[3].state = NodeState::Draining;
        let mut ask = Ask::new(1, 2, 2);
        ask.preferred = vec![NodeId(3)];
        let plan = ask.of(&nodes).expect("placed");
        let verdicts = explain(&ask.request(), &nodes, &Policy::default());
        let mut chosen: Vec<_> = verdicts.iter().filter(|one| one.chosen).map(|one| one.node).collect();
        chosen.sort_unstable();
        assert_eq!(chosen, plan.nodes);
        assert_eq!(verdicts[0].reason, "the user chose it");
        assert_eq!((verdicts[3].rank, verdicts[3].reason.as_str()), (0, "it is draining"));
    }

    fn any_node(id: u32) -> impl Strategy<Value = Candidate> {
        let reachable = prop_oneof![Just(None), Just(Some(true)), Just(Some(false))];
        (0..4usize, "[ab]", reachable, 0..200u64, 0.1..5.0f64).prop_map(
            move |(state, zone, reachable, free, weight)| Candidate {
                state: NodeState::ALL[state],
                reachable,
                free_bytes: Some(free << 30),
                weight,
                ..node(id, &zone)
            },
        )
    }

    proptest! {
        #[test]
        fn choices_keep_their_rules(
            nodes in (1..8u32).prop_flat_map(|count| (1..=count).map(any_node).collect::<Vec<_>>()),
            number in any::<u32>(), min in 0..4i32, more in 0..3i32,
            current in prop::collection::vec(1..8u32, 0..4), rotate in 0..8usize,
        ) {
            let mut ask = Ask::new(number, min, min + more);
            ask.current = current.into_iter().map(NodeId).collect();
            let plan = ask.of(&nodes);
            // The order of the candidates does not matter.
            let mut turned = nodes.clone();
            turned.rotate_left(rotate % nodes.len());
            prop_assert_eq!(&plan, &ask.of(&turned));

            let fleet = Fleet::new(nodes.clone(), Policy::default());
            let by_id = |id: &NodeId| nodes.iter().find(|node| node.id == *id);
            let kept = |id: &NodeId| ask.current.contains(id) && by_id(id).is_some_and(keeps);
            let takes = |id: &NodeId| by_id(id).is_some_and(|node| fleet.refuses(node, 1 << 20).is_none());
            let possible = nodes.iter().filter(|node| kept(&node.id) || takes(&node.id)).count();
            match plan {
                Ok(plan) => {
                    prop_assert_eq!(plan.nodes.len(), possible.min((min + more) as usize));
                    prop_assert!(plan.nodes.iter().all(|id| kept(id) || takes(id)));
                    // Nobody moves who could stay.
                    let staying = ask.current.iter().filter(|id| kept(id)).collect::<std::collections::BTreeSet<_>>();
                    let stayed = plan.nodes.iter().filter(|id| staying.contains(id)).count();
                    prop_assert_eq!(stayed, staying.len().min((min + more) as usize));
                }
                Err(refused) => {
                    prop_assert_eq!(refused.available, possible);
                    prop_assert!(possible < min as usize);
                }
            }
        }
    }
}
