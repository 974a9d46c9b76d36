//! Which storage nodes shall hold a CID: a pure function from what is known of the nodes to a choice that explains
//! itself.
//!
//! 1. **Filter.** A node takes new pins when it is active, not known to be unreachable, has room above the watermark
//!    and its queue is not full. Where the usual size of its pins is known, what waits there and what was just placed
//!    there count as room taken. A node that holds the CID already keeps it unless it is draining or gone, or the user
//!    chose others: moving costs more than any gain in balance.
//! 2. **Spread.** Of the nodes left, those come first whose failure domains hold the fewest replicas, widest domain
//!    first. Replicas that stay count.
//! 3. **Draw.** Among equals the choice is a weighted rendezvous: each node draws `-ln(u) / score`, where `u` in (0, 1)
//!    is a hash of CID and node, and the smallest draw wins. So each gets pins in proportion to
//!    `score = weight × free GiB / (1 + queue / 1000)`, every CID spreads over all nodes alike, and a burst between two
//!    reports does not run to the one best node. Reservations lower the free space at once.
//!
//! Nodes that were not heard of yet come after those known to be well: a new leader can place at once, and places well
//! as soon as it has heard.
//!
//! Who is no longer chosen does not let go at once: [`hand_over`] keeps it until those that stay hold the content.

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
    /// Bytes that a pin there takes on average, once there are enough to tell.
    pub pin_bytes: Option<u64>,
    /// Pins promised since it last reported.
    pub reserved_pins: u64,
}

/// What a pin is taken to need where nothing is known: enough to spread a burst, which is all it is used for.
const PIN_BYTES_ASSUMED: u64 = 1 << 20;

/// The mean size of the pins of a node that holds `pinned` of them in `used_bytes`. None for so few that it would be chance.
pub fn pin_bytes(used_bytes: u64, pinned: u64) -> Option<u64> {
    const ENOUGH: u64 = 100;
    (pinned >= ENOUGH).then(|| used_bytes / pinned)
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
    pub fn reserve(&mut self, node: NodeId, pins: u64) {
        if let Some(candidate) = self.by_id.get(&node).and_then(|place| self.candidates.get_mut(*place)) {
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
                let reason = self.refuses(candidate)?;
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
        let key = request.cid.to_bytes();
        let pick = |candidate| self.pick(candidate, request, &key);
        let known = |id: &NodeId| self.by_id.get(id).and_then(|place| self.candidates.get(*place));
        // Who holds it, and whom the user chose, as far as they can: the latter come before the former when there are more
        // than wanted.
        let holders = request
            .current
            .iter()
            .filter_map(known)
            .filter(|candidate| keeps(candidate));
        let asked_for = request.preferred.iter().filter_map(known);
        let asked_for = asked_for.filter(|candidate| self.refuses(candidate).is_none());
        let mut chosen: Vec<Pick<'_>> = holders.chain(asked_for).map(pick).collect();
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
                !chosen.iter().any(|pick| pick.candidate.id == candidate.id) && self.refuses(candidate).is_none()
            };
            let mut rest: Vec<Pick<'_>> = self.candidates.iter().filter(free).map(pick).collect();
            while chosen.len() < wanted && !rest.is_empty() {
                let best = best_to_add(&rest, &chosen, request.spread_by);
                chosen.push(rest.swap_remove(best));
            }
        }
        chosen
    }

    /// `key` is the CID's bytes, made once for all nodes.
    fn pick<'a>(&'a self, candidate: &'a Candidate, request: &Request<'_>, key: &[u8]) -> Pick<'a> {
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
            draw: draw(key, candidate.id, score),
            score,
        }
    }

    fn free(&self, candidate: &Candidate) -> f64 {
        let free = candidate.free_bytes.map_or(self.free_assumed, |free| free as f64);
        let promised = candidate.reserved_pins as f64 * candidate.pin_bytes.unwrap_or(PIN_BYTES_ASSUMED) as f64;
        (free - promised).max(0.0)
    }

    fn score(&self, candidate: &Candidate) -> f64 {
        let waiting = (candidate.queued + candidate.reserved_pins) as f64;
        candidate.weight * (self.free(candidate) / GIB) / (1.0 + waiting / 1_000.0)
    }

    /// Why a node takes nothing new.
    fn refuses(&self, candidate: &Candidate) -> Option<String> {
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
            // Nothing is taken for what is not known: a guess that is too large would refuse pins that fit.
            let coming = candidate.queued.saturating_add(candidate.reserved_pins);
            let promised = coming.saturating_mul(candidate.pin_bytes.unwrap_or(0));
            let kept = (total as f64 * self.policy.free_share_min) as u64;
            let mib = |bytes: u64| bytes >> 20;
            if free < kept || free == 0 {
                return Some(format!("it is full: {} MiB of {} MiB are free", mib(free), mib(total)));
            }
            if free.saturating_sub(promised) < kept {
                return Some(format!(
                    "it will be full: {} MiB of {} MiB are free, and the {coming} pins on their way need about {} MiB",
                    mib(free),
                    mib(total),
                    mib(promised)
                ));
            }
        } else if candidate.free_bytes == Some(0) {
            return Some("it is full".into());
        }
        None
    }
}

/// Whom a placement names on the way from `current` to `planned`, ascending. Whoever leaves goes on holding the content until
/// all of `planned` hold it: a node that lets go first may take the last copy with it.
///
/// `holds` says what is known of a node: that it holds the content, that it does not, or nothing. Who may hold it stays.
pub fn hand_over(current: &[NodeId], planned: &[NodeId], holds: impl Fn(NodeId) -> Option<bool>) -> Vec<NodeId> {
    let mut nodes = planned.to_vec();
    let arrived = !planned.is_empty() && planned.iter().all(|id| holds(*id) == Some(true));
    if !arrived {
        let leaving = current.iter().filter(|id| !planned.contains(id));
        nodes.extend(leaving.filter(|id| holds(**id) != Some(false)));
    }
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// Every node with the reason why it is chosen, ranked or left out.
pub fn explain(request: &Request<'_>, candidates: &[Candidate], policy: &Policy) -> Vec<Verdict> {
    let fleet = Fleet::new(candidates.to_vec(), policy.clone());
    let chosen = fleet.choose(request);
    let key = request.cid.to_bytes();
    let place = |id: NodeId| chosen.iter().position(|pick| pick.candidate.id == id);
    let mut order: Vec<Pick<'_>> = fleet
        .candidates
        .iter()
        .map(|candidate| fleet.pick(candidate, request, &key))
        .collect();
    order.sort_by(|a, b| a.order().partial_cmp(&b.order()).unwrap_or(std::cmp::Ordering::Equal));
    let mut rank = chosen.len();
    let mut verdicts = Vec::with_capacity(order.len());
    for pick in order {
        let candidate = pick.candidate;
        let current = request.current.contains(&candidate.id);
        let refusal = fleet.refuses(candidate);
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
fn draw(cid: &[u8], node: NodeId, score: f64) -> f64 {
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(cid, u64::from(node.0));
    // 53 bits make an even number in (0, 1): neither end, so the logarithm is finite and not zero.
    let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -unit.ln() / score.max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests;
