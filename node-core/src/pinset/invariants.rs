//! What must hold of the state after every entry. Used by tests and simulation; too slow for production.

use std::collections::{BTreeMap, BTreeSet};

use super::apply::{each_row, index_rows};
use super::codec::{decode_pin, decode_pin_name, decode_placement};
use super::credentials;
use super::demand::{Step, demand};
use super::keys;
use super::read::{header, nodes};
use super::records::Unsettled;
use super::view::{KvError, KvRead, Table};
use crate::{Cid, NodeState};

/// Checks the whole state; the error tells the first thing that is wrong.
pub fn check_invariants(kv: &dyn KvRead) -> Result<(), String> {
    let text = |error: super::view::KvError| error.to_string();
    let header = header(kv).map_err(text)?;

    // 1. Every pin is in exactly the indexes that its options ask for, and the indexes hold nothing else.
    let mut expected: BTreeSet<(Table, Vec<u8>)> = BTreeSet::new();
    // What wants a CID: its pins, and what replaces others.
    let mut pins: BTreeMap<Cid, u32> = BTreeMap::new();
    let (mut total, mut moments) = (0_u64, BTreeSet::new());
    each_row(kv, Table::Pins, |key, value| {
        let pin = decode_pin(keys::read_pin(key)?, value)?;
        let name = decode_pin_name(value)?;
        if name != pin.options.name {
            return Err(KvError(format!(
                "{:?} is called {:?} and {name:?}",
                pin.key, pin.options.name
            )));
        }
        expected.extend(index_rows(&pin));
        expected.insert((Table::CidPins, keys::cid_pin(&pin.key)));
        *pins.entry(pin.key.cid).or_default() += 1;
        total += 1;
        if pin.created() > header.last_created {
            return Err(KvError(format!("{:?} is newer than the newest", pin.key)));
        }
        // The copy by time says the same.
        let copy = kv.get(Table::ByCreated, &keys::by_created(&pin.key, pin.created()))?;
        if copy.as_deref() != Some(value) {
            return Err(KvError(format!("{:?} is recorded in two ways", pin.key)));
        }
        if !moments.insert((pin.key.namespace.clone(), pin.created())) {
            return Err(KvError(format!("{:?} is recorded when another is", pin.key)));
        }
        Ok(())
    })
    .map_err(text)?;
    each_row(kv, Table::Kept, |key, _| {
        *pins.entry(keys::read_kept(key)?.0).or_default() += 1;
        Ok(())
    })
    .map_err(text)?;

    // 2. A CID has a placement exactly as long as a pin wants it, with the largest demand of its pins.
    let mut placed = BTreeSet::new();
    let mut unplaced = 0;
    each_row(kv, Table::Placements, |key, value| {
        placed.insert((keys::read_whole_cid(key)?, value.to_vec()));
        Ok(())
    })
    .map_err(text)?;
    let known: BTreeMap<_, _> = nodes(kv)
        .map_err(text)?
        .into_iter()
        .map(|node| (node.id, node.state))
        .collect();
    for (cid, value) in &placed {
        let placement = decode_placement(*cid, value).map_err(text)?;
        let wanted = demand(kv, cid, Some(&placement), Step::None).map_err(text)?;
        if (placement.replication, placement.mode, placement.pins) != (wanted.replication, wanted.mode, wanted.pins) {
            return Err(format!(
                "{cid} is placed as {placement:?}, and its pins ask for {wanted:?}"
            ));
        }
        if pins.get(cid) != Some(&placement.pins) {
            return Err(format!(
                "{cid} counts {} pins and has {:?}",
                placement.pins,
                pins.get(cid)
            ));
        }
        if !placement.nodes.is_sorted_by(|a, b| a < b) {
            return Err(format!("the nodes of {cid} are not in order: {:?}", placement.nodes));
        }
        if let Some(stranger) = placement.nodes.iter().find(|id| !known.contains_key(id)) {
            return Err(format!("{cid} is placed on {stranger}, which never was"));
        }
        // 3. Nobody is assigned what is held everywhere, and who is assigned finds it under its own ID.
        if placement.replication.is_everywhere() {
            if !placement.nodes.is_empty() {
                return Err(format!("{cid} is held everywhere and names nodes"));
            }
            expected.insert((Table::Everywhere, keys::cid(cid)));
        }
        expected.extend(
            placement
                .nodes
                .iter()
                .map(|id| (Table::ByNode, keys::by_node(*id, cid))),
        );
        // 4. What does not fit its factors is listed, so that the loop finds it.
        let amiss = Unsettled::of(placement.replication, placement.nodes.len());
        if let Some(amiss) = amiss {
            expected.insert((Table::Unsettled, keys::unsettled(amiss, cid)));
        }
        if amiss == Some(Unsettled::TooFew) {
            unplaced += 1;
        } else if placement.unplaced.is_some() {
            return Err(format!("{cid} has enough nodes and says why it has not"));
        }
    }
    if placed.len() != pins.len() {
        return Err(format!("{} CIDs are wanted and {} placed", pins.len(), placed.len()));
    }

    let mut found = BTreeSet::new();
    for table in [
        Table::CidPins,
        Table::ByNode,
        Table::Everywhere,
        Table::Unsettled,
        Table::ByName,
        Table::ByMetadata,
        Table::ByCreated,
        Table::ByExpiry,
        Table::Slots,
    ] {
        each_row(kv, table, |key, _| {
            found.insert((table, key.to_vec()));
            Ok(())
        })
        .map_err(text)?;
    }
    if let Some((table, key)) = expected.symmetric_difference(&found).next() {
        let missing = if found.contains(&(*table, key.clone())) {
            "too much"
        } else {
            "missing"
        };
        return Err(format!("in {} the row {key:02x?} is {missing}", table.name()));
    }

    // 5. The counters count.
    let cids = pins.len() as u64;
    if (header.pins, header.cids, header.unplaced) != (total, cids, unplaced) {
        return Err(format!(
            "the header counts {header:?}; there are {total} pins, {cids} CIDs, {unplaced} unplaced"
        ));
    }

    let mut requests = 0;
    each_row(kv, Table::RequestTimes, |key, _| {
        requests += 1;
        let from = keys::number(header.requests_from.as_millis());
        if key < from.as_slice() {
            return Err(super::view::KvError("a request lies before the oldest".into()));
        }
        Ok(())
    })
    .map_err(text)?;
    if header.requests != requests {
        return Err(format!(
            "{} requests are counted and {requests} remembered",
            header.requests
        ));
    }
    each_row(kv, Table::ByExpiry, |key, _| {
        if keys::read_by_expiry(key)?.0 < header.expiry_from {
            return Err(super::view::KvError("a pin expires before the first expiry".into()));
        }
        Ok(())
    })
    .map_err(text)?;

    // 6. A name belongs to one node that is not gone.
    let mut names = BTreeSet::new();
    for node in nodes(kv).map_err(text)? {
        if node.state != NodeState::Gone && !names.insert(node.name.clone()) {
            return Err(format!("two nodes are named {}", node.name));
        }
    }

    // 7. History has no holes.
    let mut next = header.changes_from;
    each_row(kv, Table::Changes, |key, _| {
        let revision = keys::read_number(key)?;
        let fits = revision == next;
        next = revision + 1;
        if fits {
            Ok(())
        } else {
            Err(super::view::KvError(format!("a change is missing before {revision}")))
        }
    })
    .map_err(text)?;
    if next != header.revision + 1 {
        return Err(format!(
            "the history ends before {next}, and the revision is {}",
            header.revision
        ));
    }

    // 8. A credential is found by its ID and by its name.
    credentials::check(kv, header.credentials)
}
