//! Applying what concerns placements: whether a plan still fits, and all that hangs on where a CID is held.

use std::collections::BTreeMap;

use super::apply::{Applier, Stop, conflict, refuse};
use super::codec;
use super::keys;
use super::read::placement;
use super::records::{ChangeKind, Unsettled};
use super::view::{KvError, Table};
use crate::command::{OpResult, Plan, RefusalKind};
use crate::{Cid, NodeId, NodeState, Placement, Replication};

impl Applier<'_> {
    /// Which nodes shall hold a CID: the plan when it was made for the placement as it is, otherwise what is there, as
    /// long as that suffices.
    pub(super) fn decide(
        &mut self,
        old: Option<&Placement>,
        replication: Replication,
        plan: &Plan,
    ) -> Result<Decided, Stop> {
        if replication.is_everywhere() {
            return Ok(Decided {
                nodes: Vec::new(),
                unplaced: None,
            });
        }
        let based_on = old.map_or(0, |old| old.revision);
        if plan.based_on == based_on {
            return self.check_plan(old, replication, plan);
        }
        let suffices = old.filter(|old| Unsettled::of(replication, old.nodes.len()).is_none());
        match suffices {
            Some(old) if !old.replication.is_everywhere() => Ok(Decided {
                nodes: old.nodes.clone(),
                unplaced: None,
            }),
            _ => conflict("another operation on the same CID came first"),
        }
    }

    fn check_plan(&mut self, old: Option<&Placement>, replication: Replication, plan: &Plan) -> Result<Decided, Stop> {
        let mut nodes = plan.nodes.clone();
        nodes.sort_unstable();
        nodes.dedup();
        for id in &nodes {
            let state = self.states()?.get(id).copied();
            let keeps = old.is_some_and(|old| old.nodes.contains(id));
            let fits = match state {
                Some(NodeState::Active) => true,
                Some(NodeState::Cordoned | NodeState::Draining) => keeps,
                Some(NodeState::Gone) | None => false,
            };
            if !fits {
                return conflict(format!("node {id} no longer takes pins"));
            }
        }
        match Unsettled::of(replication, nodes.len()) {
            Some(Unsettled::TooFew) if plan.unplaced.is_none() => conflict(format!(
                "planned for fewer nodes than the {} that are needed",
                replication.min
            )),
            Some(Unsettled::TooFew) => Ok(Decided {
                nodes,
                unplaced: plan.unplaced.clone(),
            }),
            _ => Ok(Decided { nodes, unplaced: None }),
        }
    }

    pub(super) fn place(&mut self, cid: &Cid, plan: &Plan) -> Result<OpResult, Stop> {
        let Some(old) = placement(self.kv, cid)? else {
            return refuse(RefusalKind::NotFound, format!("{cid} is not pinned"));
        };
        if plan.based_on != old.revision {
            return conflict("another operation on the same CID came first");
        }
        let decided = self.decide(Some(&old), old.replication, plan)?;
        if decided.nodes == old.nodes && decided.unplaced == old.unplaced {
            return Ok(OpResult::Done);
        }
        let revision = self.next_revision();
        self.change(revision, ChangeKind::PlacementChanged, cid, None);
        let new = Placement {
            nodes: decided.nodes,
            unplaced: decided.unplaced,
            revision,
            changed: self.time,
            ..old.clone()
        };
        self.set_placement(Some(old), Some(new), false)?;
        Ok(OpResult::Done)
    }

    /// The storage nodes that are not gone.
    pub(super) fn present_nodes(&mut self) -> Result<Vec<NodeId>, KvError> {
        let states = self.states()?;
        Ok(states
            .iter()
            .filter(|(_, state)| **state != NodeState::Gone)
            .map(|(id, _)| *id)
            .collect())
    }

    fn states(&mut self) -> Result<&BTreeMap<NodeId, NodeState>, KvError> {
        let states = match self.states.take() {
            Some(states) => states,
            None => {
                let nodes = super::read::nodes(self.kv)?;
                nodes.iter().map(|node| (node.id, node.state)).collect()
            }
        };
        Ok(self.states.insert(states))
    }

    pub(super) fn placement_of(&self, cid: &Cid) -> Result<Placement, KvError> {
        placement(self.kv, cid)?.ok_or_else(|| KvError(format!("{cid} is pinned but has no placement")))
    }

    /// Replaces a placement with all that hangs on it: indexes, counters, and the nodes that must look.
    /// With `asked` somebody has asked for the content: all its nodes must look, since one may have given up.
    pub(super) fn set_placement(
        &mut self,
        old: Option<Placement>,
        new: Option<Placement>,
        asked: bool,
    ) -> Result<(), KvError> {
        let Some(cid) = new.as_ref().or(old.as_ref()).map(|placement| placement.cid) else {
            return Ok(());
        };
        let row = keys::cid(&cid);
        let (old_nodes, old_everywhere) = held_by(old.as_ref());
        let (new_nodes, new_everywhere) = held_by(new.as_ref());
        for id in old_nodes.iter().filter(|id| !new_nodes.contains(id)) {
            self.kv.delete(Table::ByNode, keys::by_node(*id, &cid));
        }
        for id in new_nodes.iter().filter(|id| !old_nodes.contains(id)) {
            self.kv.put(Table::ByNode, keys::by_node(*id, &cid), Vec::new());
        }
        match (old_everywhere, new_everywhere) {
            (false, true) => self.kv.put(Table::Everywhere, row.clone(), Vec::new()),
            (true, false) => self.kv.delete(Table::Everywhere, row.clone()),
            _ => {}
        }

        let amiss = |placement: Option<&Placement>| {
            placement.and_then(|placement| Unsettled::of(placement.replication, placement.nodes.len()))
        };
        let (was, is) = (amiss(old.as_ref()), amiss(new.as_ref()));
        if was != is {
            if let Some(was) = was {
                self.kv.delete(Table::Unsettled, keys::unsettled(was, &cid));
            }
            if let Some(is) = is {
                self.kv.put(Table::Unsettled, keys::unsettled(is, &cid), Vec::new());
            }
        }
        let too_few = |amiss| u64::from(amiss == Some(Unsettled::TooFew));
        self.header.unplaced = (self.header.unplaced + too_few(is)).saturating_sub(too_few(was));
        self.header.cids = (self.header.cids + u64::from(new.is_some())).saturating_sub(u64::from(old.is_some()));

        // A node that holds it before and after must still look when the mode changed, and when it is told of another place
        // where the content may be found: it may have given up for want of one.
        let told = |placement: &Placement| (placement.mode, placement.origins.clone(), placement.updated_from);
        let same = !asked && old.as_ref().map(told) == new.as_ref().map(told);
        let mut touched: Vec<NodeId> = if old_everywhere || new_everywhere {
            if old_everywhere && new_everywhere && same {
                Vec::new()
            } else {
                [self.present_nodes()?.as_slice(), old_nodes, new_nodes].concat()
            }
        } else {
            let only = |these: &[NodeId], those: &[NodeId]| -> Vec<NodeId> {
                these
                    .iter()
                    .filter(|id| !same || !those.contains(id))
                    .copied()
                    .collect()
            };
            let mut touched = only(old_nodes, new_nodes);
            touched.extend(only(new_nodes, old_nodes));
            touched
        };
        touched.sort_unstable();
        touched.dedup();
        self.effects.touched.extend(touched.into_iter().map(|node| (node, cid)));

        match &new {
            Some(new) => self.kv.put(Table::Placements, row, codec::encode_placement(new)),
            None => self.kv.delete(Table::Placements, row),
        }
        Ok(())
    }
}

/// Where a CID shall be held.
pub(super) struct Decided {
    /// The nodes, ascending.
    pub nodes: Vec<NodeId>,
    /// Why they are fewer than needed.
    pub unplaced: Option<String>,
}

fn held_by(placement: Option<&Placement>) -> (&[NodeId], bool) {
    placement.map_or((&[], false), |placement| {
        (&placement.nodes, placement.replication.is_everywhere())
    })
}
