//! The only way the state changes.

use std::time::Duration;

use super::codec;
use super::demand::{Demand, demand};
use super::keys;
use super::members;
use super::read::{header, node, pin, placement};
use super::records::{Change, ChangeKind, Header, Unsettled};
use super::view::{KvError, KvRead, KvWrite, Table};
use crate::command::{CommandBatch, Op, OpResult, PinOutcome, Pinned, Plan, Refusal, RefusalKind, Request};
use crate::{Cid, NodeId, NodeState, PeerId, Pin, PinKey, PinOptions, Placement, Replication, StorageNode, Timestamp};

/// How long a request ID protects against repetition. A client that has not repeated by then has given up.
pub const REQUESTS_KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// How many changes are kept for watchers that were away. At 100 bytes each they take 100 MB of disk.
pub const CHANGES_KEPT: u64 = 1_000_000;

/// Most pins that one operation lets expire, so that an entry's work is bounded.
pub const EXPIRE_LIMIT_MAX: u32 = 1_000;

/// What the shell must know of an applied batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// What may have changed for which node: its worker compares wanted and seen.
    pub touched: Vec<(NodeId, Cid)>,
    /// Nodes for which everything may have changed.
    pub resync: Vec<NodeId>,
    /// Peers were admitted, changed or removed.
    pub members_changed: bool,
    /// Storage nodes or settings were added or changed.
    pub nodes_changed: bool,
    /// The revision afterwards.
    pub revision: u64,
}

/// Applies one log entry: one answer for each request, in order.
///
/// An error means that the store failed or can't be read; then nothing of the batch may be kept.
pub fn apply(
    kv: &mut dyn KvWrite,
    log_index: u64,
    batch: &CommandBatch,
    effects: &mut Effects,
) -> Result<Vec<OpResult>, KvError> {
    let before = header(kv)?;
    let mut applier = Applier {
        kv,
        header: before.clone(),
        time: batch.time,
        log_index,
        effects,
        admitted: false,
    };
    let results = batch
        .requests
        .iter()
        .map(|request| applier.request(request))
        .collect::<Result<Vec<_>, _>>()?;
    applier.forget_requests(2 * batch.requests.len())?;
    applier.forget_changes(before.revision);
    applier.effects.revision = applier.header.revision;
    let after = applier.header;
    if after != before {
        kv.put(Table::Meta, keys::HEADER.to_vec(), codec::encode_header(&after));
    }
    Ok(results)
}

/// A batch being applied.
pub(super) struct Applier<'a> {
    pub kv: &'a mut dyn KvWrite,
    pub header: Header,
    pub time: Timestamp,
    pub log_index: u64,
    pub effects: &'a mut Effects,
    /// A peer's Raft ID is the index of its entry, so an entry admits one.
    pub admitted: bool,
}

/// An operation that changed nothing ends early with its refusal; a store that fails ends the batch.
pub(super) enum Stop {
    Refused(Refusal),
    Failed(KvError),
}

impl From<KvError> for Stop {
    fn from(error: KvError) -> Self {
        Self::Failed(error)
    }
}

pub(super) fn refuse<T>(kind: RefusalKind, message: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Refused(Refusal::new(kind, message)))
}

impl Applier<'_> {
    fn request(&mut self, request: &Request) -> Result<OpResult, KvError> {
        if let Some(id) = &request.id
            && let Some(row) = self.kv.get(Table::Requests, id.as_str().as_bytes())?
        {
            return super::command_codec::decode_stored_result(&row);
        }
        let result = match self.op(&request.op) {
            Ok(result) => result,
            Err(Stop::Refused(refusal)) => OpResult::Refused(refusal),
            Err(Stop::Failed(error)) => return Err(error),
        };
        // A refusal changed nothing, so the same request may well succeed later: only what was done is remembered.
        if let (Some(id), false) = (&request.id, matches!(result, OpResult::Refused(_))) {
            let row = super::command_codec::encode_stored_result(&result);
            self.kv.put(Table::Requests, id.as_str().as_bytes().to_vec(), row);
            self.kv.put(
                Table::RequestTimes,
                keys::request_time(self.time, id.as_str()),
                Vec::new(),
            );
        }
        Ok(result)
    }

    fn op(&mut self, op: &Op) -> Result<OpResult, Stop> {
        match op {
            Op::PutPin {
                key,
                options,
                plan,
                from,
                unpin_from,
            } => self.put_pin(key, options, plan, from.as_ref(), *unpin_from),
            Op::RemovePin { key } => match pin(self.kv, key)? {
                Some(pin) => {
                    self.remove_pin(&pin, ChangeKind::PinRemoved)?;
                    Ok(OpResult::Unpinned(Box::new(pin)))
                }
                None => refuse(RefusalKind::NotFound, not_pinned(key)),
            },
            Op::Place { cid, plan } => self.place(cid, plan),
            Op::Expire { limit } => self.expire((*limit).min(EXPIRE_LIMIT_MAX)),
            other => members::apply(self, other),
        }
    }

    fn put_pin(
        &mut self,
        key: &PinKey,
        options: &PinOptions,
        plan: &Plan,
        from: Option<&PinKey>,
        unpin_from: bool,
    ) -> Result<OpResult, Stop> {
        if let Err(invalid) = options.check().and_then(|()| options.check_expiry(self.time)) {
            return refuse(RefusalKind::Invalid, invalid.to_string());
        }
        let source = match from {
            Some(from) => match pin(self.kv, from)? {
                Some(source) => Some(source),
                None => return refuse(RefusalKind::NotFound, not_pinned(from)),
            },
            None => None,
        };
        let old = pin(self.kv, key)?;
        if let Some(old) = &old
            && old.options == *options
        {
            let placement = self.placement_of(&key.cid)?;
            return Ok(pinned(PinOutcome::Unchanged, old, &placement));
        }

        // Everything that can refuse comes before the first write.
        let old_placement = placement(self.kv, &key.cid)?;
        let Demand {
            replication,
            mode,
            pins,
        } = demand(self.kv, &key.cid, old_placement.as_ref(), Some((key, options)), None)?;
        let decided = self.decide(old_placement.as_ref(), replication, plan)?;

        let revision = self.next_revision();
        let new = Pin {
            key: key.clone(),
            options: options.clone(),
            created: old.as_ref().map_or(self.time, |old| old.created),
            modified: self.time,
            revision,
        };
        if let Some(old) = &old {
            self.unindex(old);
        } else {
            self.header.pins += 1;
            self.kv.put(Table::CidPins, keys::cid_pin(key), Vec::new());
        }
        self.index(&new);
        self.kv.put(Table::Pins, keys::pin(key), codec::encode_pin(&new));
        let outcome = if old.is_some() {
            PinOutcome::Updated
        } else {
            PinOutcome::Created
        };
        let kind = if old.is_some() {
            ChangeKind::PinUpdated
        } else {
            ChangeKind::PinCreated
        };
        self.change(revision, kind, &key.cid, Some(key.clone()));

        let new_placement = Placement {
            cid: key.cid,
            mode,
            replication,
            nodes: decided.nodes,
            unplaced: decided.unplaced,
            pins,
            origins: options.origins.clone(),
            updated_from: options.updated_from,
            revision,
            changed: self.time,
        };
        self.set_placement(old_placement, Some(new_placement.clone()))?;
        if unpin_from
            && let Some(source) = source
            && source.key != *key
        {
            self.remove_pin(&source, ChangeKind::PinRemoved)?;
        }
        Ok(pinned(outcome, &new, &new_placement))
    }

    /// Which nodes shall hold a CID: the plan when it was made for the placement as it is, otherwise what is there, as
    /// long as that suffices.
    fn decide(&self, old: Option<&Placement>, replication: Replication, plan: &Plan) -> Result<Decided, Stop> {
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

    fn check_plan(&self, old: Option<&Placement>, replication: Replication, plan: &Plan) -> Result<Decided, Stop> {
        let mut nodes = plan.nodes.clone();
        nodes.sort_unstable();
        nodes.dedup();
        for id in &nodes {
            let state = node(self.kv, *id)?.map(|node| node.state);
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

    fn place(&mut self, cid: &Cid, plan: &Plan) -> Result<OpResult, Stop> {
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
        self.set_placement(Some(old), Some(new))?;
        Ok(OpResult::Done)
    }

    fn expire(&mut self, limit: u32) -> Result<OpResult, Stop> {
        let end = keys::number(self.time.as_millis().saturating_add(1));
        let mut due = Vec::new();
        let mut failed = None;
        self.kv.scan(Table::ByExpiry, &[], Some(&end), &mut |key, _| {
            match keys::read_by_expiry(key) {
                Ok((_, key)) => due.push(key),
                Err(error) => failed = Some(error),
            }
            failed.is_none() && due.len() < limit as usize
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        for key in &due {
            let pin = pin(self.kv, key)?.ok_or_else(|| KvError(format!("the pin {key:?} is indexed but missing")))?;
            self.remove_pin(&pin, ChangeKind::PinExpired)?;
        }
        Ok(OpResult::Expired(u32::try_from(due.len()).unwrap_or(limit)))
    }

    fn remove_pin(&mut self, pin: &Pin, kind: ChangeKind) -> Result<(), KvError> {
        let key = &pin.key;
        let old = placement(self.kv, &key.cid)?;
        let Demand {
            replication,
            mode,
            pins,
        } = demand(self.kv, &key.cid, old.as_ref(), None, Some(key))?;
        let revision = self.next_revision();
        self.unindex(pin);
        self.kv.delete(Table::Pins, keys::pin(key));
        self.kv.delete(Table::CidPins, keys::cid_pin(key));
        self.header.pins = self.header.pins.saturating_sub(1);
        self.change(revision, kind, &key.cid, Some(key.clone()));
        let new = old.clone().filter(|_| pins > 0).map(|old| {
            // From everywhere to a few: nobody is chosen yet, so the leader's loop plans it; until then the nodes that
            // hold it go on holding it, because a node that is not assigned lets go only after the placement names
            // others. That is why the list starts with all nodes when the factor shrinks from everywhere.
            let nodes = if old.replication.is_everywhere() && !replication.is_everywhere() {
                self.present_nodes().unwrap_or_default()
            } else {
                old.nodes.clone()
            };
            let nodes = if replication.is_everywhere() { Vec::new() } else { nodes };
            let enough = Unsettled::of(replication, nodes.len()) != Some(Unsettled::TooFew);
            let unplaced = old.unplaced.clone().filter(|_| !enough);
            Placement {
                mode,
                replication,
                nodes,
                unplaced,
                pins,
                revision,
                changed: self.time,
                ..old
            }
        });
        self.set_placement(old, new)
    }

    pub(super) fn present_nodes(&self) -> Result<Vec<NodeId>, KvError> {
        let nodes = super::read::nodes(self.kv)?;
        Ok(nodes
            .iter()
            .filter(|node| node.state != NodeState::Gone)
            .map(|node| node.id)
            .collect())
    }

    fn placement_of(&self, cid: &Cid) -> Result<Placement, KvError> {
        placement(self.kv, cid)?.ok_or_else(|| KvError(format!("{cid} is pinned but has no placement")))
    }

    /// Replaces a placement with all that hangs on it: indexes, counters, and the nodes that must look.
    pub(super) fn set_placement(&mut self, old: Option<Placement>, new: Option<Placement>) -> Result<(), KvError> {
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
            match is {
                Some(is) => self.kv.put(Table::Unsettled, row.clone(), vec![is.code()]),
                None => self.kv.delete(Table::Unsettled, row.clone()),
            }
        }
        let too_few = |amiss| u64::from(amiss == Some(Unsettled::TooFew));
        self.header.unplaced = (self.header.unplaced + too_few(is)).saturating_sub(too_few(was));
        self.header.cids = (self.header.cids + u64::from(new.is_some())).saturating_sub(u64::from(old.is_some()));

        // A node that holds it before and after must still look when the mode changed.
        let same_mode = old.as_ref().map(|old| old.mode) == new.as_ref().map(|new| new.mode);
        let mut touched: Vec<NodeId> = if old_everywhere || new_everywhere {
            if old_everywhere && new_everywhere && same_mode {
                Vec::new()
            } else {
                [self.present_nodes()?.as_slice(), old_nodes, new_nodes].concat()
            }
        } else {
            let only = |these: &[NodeId], those: &[NodeId]| -> Vec<NodeId> {
                these
                    .iter()
                    .filter(|id| !same_mode || !those.contains(id))
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

    fn index(&mut self, pin: &Pin) {
        for (table, key) in index_rows(pin) {
            self.kv.put(table, key, Vec::new());
        }
    }

    fn unindex(&mut self, pin: &Pin) {
        for (table, key) in index_rows(pin) {
            self.kv.delete(table, key);
        }
    }

    fn next_revision(&mut self) -> u64 {
        self.header.revision += 1;
        self.header.revision
    }

    fn change(&mut self, revision: u64, kind: ChangeKind, cid: &Cid, key: Option<PinKey>) {
        let change = Change {
            revision,
            kind,
            cid: *cid,
            key,
            time: self.time,
        };
        self.kv
            .put(Table::Changes, keys::number(revision), codec::encode_change(&change));
    }

    /// Keeps the history at its length: as many go as came.
    fn forget_changes(&mut self, revision_before: u64) {
        let keep_from = (self.header.revision + 1).saturating_sub(CHANGES_KEPT).max(1);
        debug_assert!(revision_before <= self.header.revision, "revisions only grow");
        while self.header.changes_from < keep_from {
            self.kv.delete(Table::Changes, keys::number(self.header.changes_from));
            self.header.changes_from += 1;
        }
    }

    fn forget_requests(&mut self, limit: usize) -> Result<(), KvError> {
        let kept = u64::try_from(REQUESTS_KEPT_FOR.as_millis()).unwrap_or(u64::MAX);
        let end = keys::number(self.time.as_millis().saturating_sub(kept));
        let mut old = Vec::new();
        self.kv.scan(Table::RequestTimes, &[], Some(&end), &mut |key, _| {
            old.push(key.to_vec());
            old.len() < limit.max(1)
        })?;
        for key in old {
            self.kv
                .delete(Table::Requests, key.get(8..).unwrap_or_default().to_vec());
            self.kv.delete(Table::RequestTimes, key);
        }
        Ok(())
    }

    pub(super) fn put_node(&mut self, node: &StorageNode) {
        self.kv.put(Table::Nodes, keys::node(node.id), codec::encode_node(node));
        self.effects.nodes_changed = true;
    }

    pub(super) fn nodes_of(&self, peer: PeerId) -> Result<Vec<StorageNode>, KvError> {
        super::read::nodes_of_peer(self.kv, peer)
    }
}

struct Decided {
    nodes: Vec<NodeId>,
    unplaced: Option<String>,
}

fn held_by(placement: Option<&Placement>) -> (&[NodeId], bool) {
    placement.map_or((&[], false), |placement| {
        (&placement.nodes, placement.replication.is_everywhere())
    })
}

/// The index rows of a pin, apart from its place by CID.
pub(super) fn index_rows(pin: &Pin) -> Vec<(Table, Vec<u8>)> {
    let (key, options) = (&pin.key, &pin.options);
    let mut rows = vec![(Table::ByCreated, keys::by_created(key, pin.created))];
    if !options.name.is_empty() {
        rows.push((Table::ByName, keys::by_name(key, &options.name)));
    }
    if let Some(at) = options.expire_at {
        rows.push((Table::ByExpiry, keys::by_expiry(key, at)));
    }
    rows.extend(
        options
            .metadata
            .iter()
            .map(|(name, value)| (Table::ByMetadata, keys::by_metadata(key, name, value))),
    );
    rows
}

fn pinned(outcome: PinOutcome, pin: &Pin, placement: &Placement) -> OpResult {
    OpResult::Pinned(Pinned {
        outcome,
        created: pin.created,
        modified: pin.modified,
        revision: pin.revision,
        nodes: placement.nodes.clone(),
        everywhere: placement.replication.is_everywhere(),
        unplaced: placement.unplaced.clone(),
    })
}

fn conflict<T>(why: impl Into<String>) -> Result<T, Stop> {
    refuse(RefusalKind::Conflict, why)
}

/// Says which pin is missing.
pub(super) fn not_pinned(key: &PinKey) -> String {
    let PinKey { namespace, cid, slot } = key;
    let slot = if slot.is_empty() {
        String::new()
    } else {
        format!(" under the slot {slot:?}")
    };
    format!("{cid} is not pinned in the namespace {namespace}{slot}")
}

/// Reads a whole table through `visit`; used by checks.
pub(super) fn each_row(
    kv: &dyn KvRead,
    table: Table,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), KvError>,
) -> Result<(), KvError> {
    let mut failed = None;
    kv.scan(table, &[], None, &mut |key, value| {
        failed = visit(key, value).err();
        failed.is_none()
    })?;
    failed.map_or(Ok(()), Err)
}
