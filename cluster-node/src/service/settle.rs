//! As the leader, brings placements in line with their factors and with the nodes there are.
//!
//! What does not fit is listed by the state itself ([`Table::Unsettled`], and [`Table::ByNode`] for nodes that are to be
//! emptied), so no pass scans the pinset. Passes are bounded, and go on where the last one ended: a fleet that has lost a
//! node is repaired piece by piece while everything else goes on, and what can't be helped now costs little.
//!
//! Nobody lets go before the others hold it: the ledgers of the nodes in question are asked first, and
//! [`node_core::allocate::hand_over`] decides.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_core::command::{Op, Request};
use node_core::pinset::{self, KvError, KvRead, Table, Unsettled, keys};
use node_core::{Cid, NodeId, NodeState, Placement, Status};

use super::fleet::{NOTHING_KNOWN, Wish};
use super::gather::PEER_TIMEOUT;
use super::proposer::WhenFull;
use super::{Error, NodeNames, Pins, WAIT_DEFAULT};

/// How often the leader looks for what is to settle, when nothing wakes it.
const INTERVAL: Duration = Duration::from_secs(1);

/// CIDs that are planned together: their answers are awaited together, and one look at the ledgers serves them all.
const CHUNK: usize = 256;

/// Chunks of one kind in one pass. A pass that changes nothing is not repeated before the interval, so this bounds what
/// hopeless rows cost: about 2,000 plans a second.
const CHUNKS_A_PASS: usize = 8;

/// How often pins that have enough nodes, but could have more, are looked at when the fleet did not change.
const TOP_UP_INTERVAL: Duration = Duration::from_secs(300);

/// Pins of one CID that are asked which nodes the user chose: one that has more has no use for all their wishes.
const CHOOSERS_MAX: usize = 16;

/// Where the rows to look at come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// Rows of one kind.
    Kind(u8),
    /// What a node that is to be emptied still has.
    Leaving(NodeId),
}

/// A placement and the nodes that users chose for it.
struct Item {
    placement: Placement,
    preferred: Vec<NodeId>,
}

/// The loop's own state: where each kind of rows was left.
pub(super) struct Settler {
    pins: Arc<Pins>,
    cursors: BTreeMap<Source, Vec<u8>>,
    topping_up: bool,
}

impl Settler {
    pub fn new(pins: Arc<Pins>) -> Self {
        Self {
            pins,
            cursors: BTreeMap::new(),
            topping_up: true,
        }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let mut effects = self.pins.consensus.changes();
        let mut leader = self.pins.consensus.watch_leader();
        let mut topped_up = Instant::now();
        loop {
            let view = leader.borrow_and_update().clone();
            let mut again = false;
            if view.is_self {
                self.pins.fleet.lead(view.term);
                match self.pass().await {
                    Ok(changed) => again = changed,
                    Err(error) => tracing::debug!(%error, "placements could not be settled yet"),
                }
            }
            if !again {
                tokio::select! {
                    () = tokio::time::sleep(INTERVAL) => {}
                    changed = effects.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        self.top_up();
                    }
                    changed = leader.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        self.top_up();
                    }
                }
            }
            if topped_up.elapsed() > TOP_UP_INTERVAL {
                topped_up = Instant::now();
                self.top_up();
            }
        }
    }

    /// The fleet or the leader changed: who has room now may have had none before.
    fn top_up(&mut self) {
        self.topping_up = true;
        self.cursors.remove(&Source::Kind(Unsettled::BelowMax.code()));
    }

    /// Looks at some rows of each kind; tells whether anything changed.
    async fn pass(&mut self) -> Result<bool, Error> {
        let mut changed = false;
        for kind in [Unsettled::TooFew, Unsettled::TooMany] {
            changed |= self.some_of(Source::Kind(kind.code())).await?.0;
        }
        if self.topping_up {
            let (more, ended) = self.some_of(Source::Kind(Unsettled::BelowMax.code())).await?;
            changed |= more;
            self.topping_up = !ended;
        }
        let leaving: Vec<NodeId> = {
            let nodes = pinset::nodes(&*self.pins.reads.stale())?;
            let leaves = |node: &node_core::StorageNode| matches!(node.state, NodeState::Gone | NodeState::Draining);
            nodes.into_iter().filter(leaves).map(|node| node.id).collect()
        };
        self.cursors.retain(|source, _| match source {
            Source::Leaving(node) => leaving.contains(node),
            Source::Kind(_) => true,
        });
        for node in leaving {
            changed |= self.some_of(Source::Leaving(node)).await?.0;
        }
        Ok(changed)
    }

    /// Some rows of one source, from where the last pass ended. Tells whether anything changed, and whether the end was
    /// reached.
    async fn some_of(&mut self, source: Source) -> Result<(bool, bool), Error> {
        let mut changed = false;
        for _ in 0..CHUNKS_A_PASS {
            let from = self.cursors.remove(&source).unwrap_or_default();
            let state = self.pins.reads.stale();
            let read = move || read_chunk(&*state, source, &from);
            let (items, next) = tokio::task::spawn_blocking(read)
                .await
                .map_err(|error| Error::Internal(error.to_string()))??;
            changed |= self.replan(items).await?;
            match next {
                Some(next) => self.cursors.insert(source, next),
                None => return Ok((changed, true)),
            };
        }
        Ok((changed, false))
    }

    /// Plans CIDs anew and proposes what differs.
    async fn replan(&self, items: Vec<Item>) -> Result<bool, Error> {
        let names = self.pins.names();
        let settings = self.pins.shared.settings();
        let known = self.who_holds(&names, &items).await?;
        let mut answers = Vec::new();
        for Item { placement, preferred } in &items {
            let cid = &placement.cid;
            let holders = known.get(cid);
            let holds = |node: NodeId| holders?.get(&node).copied();
            let wish = Wish {
                cid,
                replication: placement.replication,
                placement: Some(placement),
                preferred,
                spread_by: &settings.spread_by,
                allow_unplaced: true,
                holds: if holders.is_some() { &holds } else { NOTHING_KNOWN },
            };
            let plan = self.pins.fleet.plan(&names, &wish)?;
            if plan.nodes == placement.nodes && plan.unplaced.is_some() == placement.unplaced.is_some() {
                continue;
            }
            tracing::debug!(pin = %cid, from = ?placement.nodes, to = ?plan.nodes, "a placement is settled");
            let request = Request {
                id: None,
                op: Op::Place { cid: *cid, plan },
            };
            answers.push(
                self.pins
                    .proposer
                    .enqueue(request, WAIT_DEFAULT, WhenFull::Wait)
                    .await?,
            );
        }
        let changed = !answers.is_empty();
        for answer in answers {
            // A conflict means that somebody changed the pin: a later pass sees what is left to do.
            answer.wait().await?;
        }
        Ok(changed)
    }

    /// Which present nodes hold the CIDs that somebody is to let go of. Nodes whose peer is silent are left out.
    async fn who_holds(
        &self,
        names: &NodeNames,
        items: &[Item],
    ) -> Result<HashMap<Cid, BTreeMap<NodeId, bool>>, Error> {
        let leaves = |id: &NodeId| {
            names
                .present()
                .any(|node| node.id == *id && node.state == NodeState::Draining)
        };
        let lets_go = |placement: &Placement| {
            let too_many = Unsettled::of(placement.replication, placement.nodes.len()) == Some(Unsettled::TooMany);
            too_many || placement.nodes.iter().any(leaves)
        };
        let cids: Vec<Cid> = items
            .iter()
            .filter(|item| lets_go(&item.placement))
            .map(|item| item.placement.cid)
            .collect();
        if cids.is_empty() {
            return Ok(HashMap::new());
        }
        let mut silent = BTreeSet::new();
        let entries = self.pins.gather.all(names, &cids, PEER_TIMEOUT, &mut silent).await?;
        let said = |cid: &Cid, node: NodeId| {
            let entries = entries.get(cid).map(Vec::as_slice).unwrap_or_default();
            entries
                .iter()
                .any(|entry| entry.node == node && entry.status == Status::Pinned)
        };
        Ok(cids
            .into_iter()
            .map(|cid| {
                let heard = names.present().filter(|node| !silent.contains(&node.peer));
                (cid, heard.map(|node| (node.id, said(&cid, node.id))).collect())
            })
            .collect())
    }
}

/// Placements from `from` on, and where to go on.
fn read_chunk(kv: &dyn KvRead, source: Source, from: &[u8]) -> Result<(Vec<Item>, Option<Vec<u8>>), KvError> {
    let (table, prefix) = match source {
        Source::Kind(code) => (Table::Unsettled, vec![code]),
        Source::Leaving(node) => (Table::ByNode, keys::node(node)),
    };
    let start = if from.is_empty() { &prefix } else { from };
    let (mut cids, mut next, mut failed) = (Vec::new(), None, None);
    kv.scan(table, start, keys::after_prefix(&prefix).as_deref(), &mut |key, _| {
        if cids.len() >= CHUNK {
            next = Some(key.to_vec());
            return false;
        }
        let cid = match source {
            Source::Kind(_) => keys::read_unsettled(key),
            Source::Leaving(_) => keys::read_by_node(key),
        };
        match cid {
            Ok(cid) => cids.push(cid),
            Err(error) => failed = Some(error),
        }
        failed.is_none()
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let mut items = Vec::with_capacity(cids.len());
    for cid in cids {
        if let Some(placement) = pinset::placement(kv, &cid)? {
            let preferred = chosen_by_users(kv, &placement)?;
            items.push(Item { placement, preferred });
        }
    }
    Ok((items, next))
}

/// The nodes that the pins of a CID ask for.
fn chosen_by_users(kv: &dyn KvRead, placement: &Placement) -> Result<Vec<NodeId>, KvError> {
    let mut chosen = Vec::new();
    if placement.replication.is_everywhere() {
        return Ok(chosen);
    }
    for key in pinset::pins_of(kv, &placement.cid)?.into_iter().take(CHOOSERS_MAX) {
        if let Some(pin) = pinset::pin(kv, &key)? {
            chosen.extend(
                pin.options
                    .nodes
                    .iter()
                    .filter(|node| !chosen.contains(node))
                    .copied()
                    .collect::<Vec<_>>(),
            );
        }
    }
    Ok(chosen)
}
