//! The only way the state changes.

use std::collections::BTreeMap;

use super::codec;
use super::credentials;
use super::demand::{Demand, PINS_PER_CID_MAX, Step, demand, encode_asked, encode_asked_by_both};
use super::keys;
use super::members;
use super::read::{header, pin, placement};
use super::records::{Change, ChangeKind, Header, Unsettled};
use super::view::{KvError, KvRead, KvWrite, Table};
use crate::command::{CommandBatch, Op, OpResult, PinOutcome, Pinned, Plan, Refusal, RefusalKind, Request};
use crate::pin::limits;
use crate::{
    Cid, Created, Namespace, NodeId, NodeState, PeerId, Pin, PinKey, PinOptions, Placement, StorageNode, Timestamp,
    check_slot, is_request_slot,
};

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
    /// Credentials of clients were made or revoked.
    pub credentials_changed: bool,
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
        states: None,
    };
    let results = batch
        .requests
        .iter()
        .map(|request| applier.request(request))
        .collect::<Result<Vec<_>, _>>()?;
    applier.forget_requests(batch.requests.len())?;
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
    /// States of all storage nodes, read once for an entry: every pin of it asks.
    pub states: Option<BTreeMap<NodeId, NodeState>>,
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
            && let Some(answer) = self.remembered(id, &request.op)?
        {
            return Ok(answer);
        }
        let result = match self.op(&request.op) {
            Ok(result) => result,
            Err(Stop::Refused(refusal)) => OpResult::Refused(refusal),
            Err(Stop::Failed(error)) => return Err(error),
        };
        // A refusal changed nothing, so the same request may well succeed later: only what was done is remembered.
        if let (Some(id), false) = (&request.id, matches!(result, OpResult::Refused(_))) {
            self.remember(id, &request.op, &result);
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
                created,
            } => {
                // Whoever comes from elsewhere can't have been made later than now.
                let created = created.filter(|created| *created < self.time);
                self.put_pin(key, options, plan, from.as_ref(), *unpin_from, created)
            }
            Op::RemovePin { key } => match pin(self.kv, key)? {
                Some(pin) => {
                    self.remove_pin(&pin, ChangeKind::PinRemoved)?;
                    Ok(OpResult::Unpinned(Box::new(pin)))
                }
                None => refuse(RefusalKind::NotFound, not_pinned(key)),
            },
            Op::Place { cid, plan } => self.place(cid, plan),
            Op::Release { cid, by, based_on } => self.release(cid, by, *based_on),
            Op::Expire { limit } => self.expire((*limit).min(EXPIRE_LIMIT_MAX)),
            Op::CreateCredential { credential } => credentials::create(self, credential),
            Op::RevokeCredential { id } => credentials::revoke(self, id),
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
        created: Option<Timestamp>,
    ) -> Result<OpResult, Stop> {
        let checked = check_slot(&key.slot).and_then(|()| options.check());
        if let Err(invalid) = checked.and_then(|()| options.check_expiry(self.time)) {
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
        let takes_place = unpin_from && source.as_ref().is_some_and(|source| source.key != *key);
        if let Some(old) = &old
            && old.options == *options
            && !takes_place
        {
            let placement = self.placement_of(&key.cid)?;
            return Ok(pinned(PinOutcome::Unchanged, old, &placement));
        }

        // Everything that can refuse comes before the first write.
        let old_placement = placement(self.kv, &key.cid)?;
        let step = match &old {
            Some(_) => Step::Replace(key, options),
            None => Step::Add(options),
        };
        let Demand {
            replication,
            mode,
            pins,
        } = demand(self.kv, &key.cid, old_placement.as_ref(), step)?;
        if pins > PINS_PER_CID_MAX {
            return refuse(
                RefusalKind::Precondition,
                format!(
                    "{} has {PINS_PER_CID_MAX} pins already, the most that one CID can have; remove some, or use one pin for \
                     many users of the content",
                    key.cid
                ),
            );
        }
        let decided = self.decide(old_placement.as_ref(), replication, plan)?;

        let revision = self.next_revision();
        let Created { at, ordinal } = match &old {
            Some(old) => old.created(),
            None => self.next_created(&key.namespace, created)?,
        };
        let new = Pin {
            key: key.clone(),
            options: options.clone(),
            created: at,
            ordinal,
            modified: self.time,
            revision,
        };
        if let Some(old) = &old {
            self.unindex(old);
        } else {
            self.header.pins += 1;
        }
        let asked = encode_asked(options.replication, options.mode);
        self.kv.put(Table::CidPins, keys::cid_pin(key), asked);
        let value = codec::encode_pin(&new);
        self.index(&new, &value);
        self.kv.put(Table::Pins, keys::pin(key), value);
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
            origins: known_origins(&options.origins, old_placement.as_ref()),
            updated_from: options.updated_from,
            revision,
            changed: self.time,
        };
        self.set_placement(old_placement, Some(new_placement.clone()), true)?;
        if takes_place && let Some(source) = source {
            if source.key.cid != key.cid {
                self.keep(&source, &key.cid)?;
            }
            self.remove_pin(&source, ChangeKind::PinRemoved)?;
        }
        Ok(pinned(outcome, &new, &new_placement))
    }

    fn expire(&mut self, limit: u32) -> Result<OpResult, Stop> {
        let start = keys::number(self.header.expiry_from.as_millis());
        let end = keys::number(self.time.as_millis().saturating_add(1));
        let mut due = Vec::new();
        let mut failed = None;
        let mut last = None;
        self.kv.scan(Table::ByExpiry, &start, Some(&end), &mut |key, _| {
            match keys::read_by_expiry(key) {
                Ok((at, key)) => {
                    last = Some(at);
                    due.push(key);
                }
                Err(error) => failed = Some(error),
            }
            failed.is_none() && due.len() < limit as usize
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        // Everything before is gone after this.
        self.header.expiry_from = last.unwrap_or(self.header.expiry_from);
        for key in &due {
            let pin = pin(self.kv, key)?.ok_or_else(|| KvError(format!("the pin {key:?} is indexed but missing")))?;
            self.remove_pin(&pin, ChangeKind::PinExpired)?;
        }
        Ok(OpResult::Expired(u32::try_from(due.len()).unwrap_or(limit)))
    }

    fn remove_pin(&mut self, pin: &Pin, kind: ChangeKind) -> Result<(), KvError> {
        let key = &pin.key;
        let old = placement(self.kv, &key.cid)?;
        let demand = demand(self.kv, &key.cid, old.as_ref(), Step::Remove(key))?;
        let revision = self.next_revision();
        self.unindex(pin);
        self.kv.delete(Table::Pins, keys::pin(key));
        self.kv.delete(Table::CidPins, keys::cid_pin(key));
        self.header.pins = self.header.pins.saturating_sub(1);
        self.change(revision, kind, &key.cid, Some(key.clone()));
        self.shrink(old, demand, revision)
    }

    /// Keeps the content of a pin that is about to be removed, as that pin asked for it, until `by` is held in its place. The
    /// blocks that both share are never without a pin on their nodes, wherever the new one goes.
    fn keep(&mut self, pin: &Pin, by: &Cid) -> Result<(), KvError> {
        let row = keys::kept(&pin.key.cid, by);
        let (replication, mode) = (pin.options.replication, pin.options.mode);
        let asked = match self.kv.get(Table::Kept, &row)? {
            // Another pin of the same CID was replaced by the same.
            Some(before) => encode_asked_by_both(&before, replication, mode)?,
            None => encode_asked(replication, mode),
        };
        self.kv.put(Table::Kept, row, asked);
        Ok(())
    }

    fn release(&mut self, cid: &Cid, by: &Cid, based_on: Option<u64>) -> Result<OpResult, Stop> {
        let row = keys::kept(cid, by);
        if self.kv.get(Table::Kept, &row)?.is_none() {
            return Ok(OpResult::Done);
        }
        // Decided by a leader that has been replaced since, it may come when other nodes are to hold the new content.
        if let Some(based_on) = based_on
            && placement(self.kv, by)?.map_or(0, |placement| placement.revision) != based_on
        {
            return Ok(OpResult::Done);
        }
        self.kv.delete(Table::Kept, row);
        let old = placement(self.kv, cid)?;
        let demand = demand(self.kv, cid, old.as_ref(), Step::None)?;
        let revision = self.next_revision();
        self.change(revision, ChangeKind::PlacementChanged, cid, None);
        self.shrink(old, demand, revision)?;
        Ok(OpResult::Done)
    }

    /// Brings a placement in line with what is left that asks for it; without anything it goes.
    fn shrink(&mut self, old: Option<Placement>, demand: Demand, revision: u64) -> Result<(), KvError> {
        let Demand {
            replication,
            mode,
            pins,
        } = demand;
        let everyone = self.present_nodes()?;
        let new = old.clone().filter(|_| pins > 0).map(|old| {
            // From everywhere to a few: nobody is chosen yet, so the leader's loop plans it; until then the nodes that
            // hold it go on holding it, because a node that is not assigned lets go only after the placement names
            // others. That is why the list starts with all nodes when the factor shrinks from everywhere.
            let nodes = if old.replication.is_everywhere() && !replication.is_everywhere() {
                everyone.clone()
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
        self.set_placement(old, new, false)
    }

    /// `value` is that of its row in `Pins`.
    fn index(&mut self, pin: &Pin, value: &[u8]) {
        if let Some(at) = pin.options.expire_at {
            self.header.expiry_from = self.header.expiry_from.min(at);
        }
        for (table, key) in index_rows(pin) {
            let value = if table == Table::ByCreated { value } else { &[] };
            self.kv.put(table, key, value.to_vec());
        }
    }

    fn unindex(&mut self, pin: &Pin) {
        for (table, key) in index_rows(pin) {
            self.kv.delete(table, key);
        }
    }

    /// The moment of a new pin, which no other pin of its namespace has: now, or a time in the past for one that comes from
    /// elsewhere. Of these, thousands may be of one second, as IPFS Cluster keeps no more of a time.
    fn next_created(&mut self, namespace: &Namespace, past: Option<Timestamp>) -> Result<Created, KvError> {
        /// Tries of a moment from the past. Each begins where the last one ended, so the first one is nearly always free.
        const TRIES: usize = 1_000;
        let Some(at) = past else {
            self.header.last_created = self.header.last_created.next(self.time);
            return Ok(self.header.last_created);
        };
        let mut created = Created {
            at,
            ordinal: self.header.next_ordinal % Created::PER_MILLI,
        };
        let prefix = keys::namespace(namespace);
        for _ in 0..TRIES {
            let row = keys::created_at(prefix.clone(), created);
            let mut is_taken = false;
            self.kv.scan(
                Table::ByCreated,
                &row,
                keys::after_prefix(&row).as_deref(),
                &mut |_, _| {
                    is_taken = true;
                    false
                },
            )?;
            if !is_taken {
                break;
            }
            created.ordinal = (created.ordinal + 1) % Created::PER_MILLI;
        }
        self.header.next_ordinal = (created.ordinal + 1) % Created::PER_MILLI;
        // Should a leader's clock be behind this time, new pins begin behind it.
        let all_of_it = Created {
            ordinal: Created::PER_MILLI - 1,
            ..created
        };
        self.header.last_created = self.header.last_created.max(all_of_it);
        Ok(created)
    }

    pub(super) fn next_revision(&mut self) -> u64 {
        self.header.revision += 1;
        self.header.revision
    }

    pub(super) fn change(&mut self, revision: u64, kind: ChangeKind, cid: &Cid, key: Option<PinKey>) {
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

    pub(super) fn put_node(&mut self, node: &StorageNode) {
        self.kv.put(Table::Nodes, keys::node(node.id), codec::encode_node(node));
        self.states = None;
        self.effects.nodes_changed = true;
    }

    pub(super) fn nodes_of(&self, peer: PeerId) -> Result<Vec<StorageNode>, KvError> {
        super::read::nodes_of_peer(self.kv, peer)
    }
}

/// The index rows of a pin, apart from its place by CID.
pub(super) fn index_rows(pin: &Pin) -> Vec<(Table, Vec<u8>)> {
    let (key, options, created) = (&pin.key, &pin.options, pin.created());
    let mut rows = vec![(Table::ByCreated, keys::by_created(key, created))];
    if is_request_slot(&key.slot) {
        rows.push((Table::Slots, keys::slot(key)));
    }
    if !options.name.is_empty() {
        rows.push((Table::ByName, keys::by_name(key, &options.name, created)));
    }
    if let Some(at) = options.expire_at {
        rows.push((Table::ByExpiry, keys::by_expiry(key, at)));
    }
    rows.extend(
        options
            .metadata
            .iter()
            .map(|(name, value)| (Table::ByMetadata, keys::by_metadata(key, name, value, created))),
    );
    rows
}

/// The addresses at which a CID's content may be found: those that are named now, and those that were named before by any
/// pin of it. They only help to find it, so one pin's silence is no reason to forget what another said.
fn known_origins(named: &[String], old: Option<&Placement>) -> Vec<String> {
    let before = old.map_or(&[][..], |old| &old.origins);
    let mut origins = named.to_vec();
    origins.extend(before.iter().filter(|origin| !named.contains(origin)).cloned());
    origins.truncate(limits::ORIGINS);
    origins
}

fn pinned(outcome: PinOutcome, pin: &Pin, placement: &Placement) -> OpResult {
    OpResult::Pinned(Pinned {
        outcome,
        created: pin.created,
        ordinal: pin.ordinal,
        modified: pin.modified,
        revision: pin.revision,
        nodes: placement.nodes.clone(),
        everywhere: placement.replication.is_everywhere(),
        unplaced: placement.unplaced.clone(),
    })
}

pub(super) fn conflict<T>(why: impl Into<String>) -> Result<T, Stop> {
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
