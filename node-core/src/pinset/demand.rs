//! What all pins of a CID ask for together. Planning and applying both ask here, so they can't disagree.
//!
//! A placement carries the demand of its CID, so one more pin costs no look at the others. Replacing or removing one does:
//! whether the largest demand was its own is only known from the rest. They are read from one range of
//! [`Table::CidPins`], whose rows carry what each asks for, until some are found that together ask for as much; and their
//! number is bounded ([`PINS_PER_CID_MAX`]).

use super::keys;
use super::read::collect;
use super::view::{KvError, KvRead, Table};
use crate::{Cid, PinKey, PinMode, PinOptions, Placement, Replication};

/// Most pins of one CID, over all namespaces and slots. Replacing or removing one that asks for more than the others reads
/// them all on every peer, and who can choose slots could otherwise hold up the whole cluster.
pub const PINS_PER_CID_MAX: u32 = 10_000;

/// The largest demand of all pins of one CID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// The largest factors that any asks for.
    pub replication: Replication,
    /// Recursive as soon as one asks for that.
    pub mode: PinMode,
    /// How many there are.
    pub pins: u32,
}

impl Demand {
    fn add(&mut self, asked: Replication, mode: PinMode) {
        if self.pins == 0 {
            self.replication = asked;
            self.mode = mode;
        } else {
            if self.replication.is_everywhere() || asked.is_everywhere() {
                self.replication = Replication::EVERYWHERE;
            } else {
                self.replication.min = self.replication.min.max(asked.min);
                self.replication.max = self.replication.max.max(asked.max);
            }
            if mode == PinMode::Recursive {
                self.mode = PinMode::Recursive;
            }
        }
        self.pins = self.pins.saturating_add(1);
    }
}

/// A change to the pins of a CID.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// None: what the pins ask for as they are.
    None,
    /// A pin that is not there yet.
    Add(&'a PinOptions),
    /// A pin with other options.
    Replace(&'a PinKey, &'a PinOptions),
    /// One pin less.
    Remove(&'a PinKey),
}

/// The demand for `cid` after a step. `placement` is the CID's present one: when there is none there are no pins either.
pub fn demand(kv: &dyn KvRead, cid: &Cid, placement: Option<&Placement>, step: Step<'_>) -> Result<Demand, KvError> {
    let mut demand = Demand::default();
    let (left_out, with) = match step {
        Step::Add(options) => {
            if let Some(placement) = placement {
                demand = Demand {
                    replication: placement.replication,
                    mode: placement.mode,
                    pins: placement.pins,
                };
            }
            demand.add(options.replication, options.mode);
            return Ok(demand);
        }
        Step::None => (None, None),
        Step::Replace(key, options) => (Some(key), Some(options)),
        Step::Remove(key) => (Some(key), None),
    };
    if let Some(placement) = placement {
        // What a pin asked for that was replaced counts until what replaces it is held.
        let kept = collect(kv, Table::Kept, &keys::cid(cid), |_, value| decode_asked(value))?;
        // With some of these the placement does not tell how many pins there are: one may have been added just now.
        let known = (kept.is_empty() && left_out.is_some()).then_some(placement);
        demand = others(kv, cid, known, left_out)?;
        for (replication, mode) in kept {
            demand.add(replication, mode);
        }
    }
    if let Some(options) = with {
        demand.add(options.replication, options.mode);
    }
    Ok(demand)
}

/// What all pins of a CID but one ask for. As soon as those that were read ask for all that a `known` placement carries, the
/// rest can't add to it: of thousands of pins that ask for the same, one or two are read.
fn others(kv: &dyn KvRead, cid: &Cid, known: Option<&Placement>, left_out: Option<&PinKey>) -> Result<Demand, KvError> {
    let left_out = left_out.map(keys::cid_pin);
    let start = keys::cid(cid);
    let end = keys::after_prefix(&start);
    let (mut demand, mut failed) = (Demand::default(), None);
    kv.scan(Table::CidPins, &start, end.as_deref(), &mut |key, value| {
        if left_out.as_deref() == Some(key) {
            return true;
        }
        match decode_asked(value) {
            Ok((replication, mode)) => demand.add(replication, mode),
            Err(error) => failed = Some(error),
        }
        let is_all = |known: &&Placement| (demand.replication, demand.mode) == (known.replication, known.mode);
        let all = known.filter(is_all);
        if let Some(known) = all {
            demand.pins = known.pins.saturating_sub(1);
        }
        failed.is_none() && all.is_none()
    })?;
    failed.map_or(Ok(demand), Err)
}

/// The value of a row in `CidPins` and `Kept`: both factors and the mode.
pub(super) fn encode_asked(replication: Replication, mode: PinMode) -> Vec<u8> {
    let mut out = Vec::with_capacity(9);
    out.extend_from_slice(&replication.min.to_be_bytes());
    out.extend_from_slice(&replication.max.to_be_bytes());
    out.push(u8::from(mode == PinMode::Recursive));
    out
}

/// The value of a row for two that ask for the same CID.
pub(super) fn encode_asked_by_both(one: &[u8], replication: Replication, mode: PinMode) -> Result<Vec<u8>, KvError> {
    let mut both = Demand::default();
    let (first, first_mode) = decode_asked(one)?;
    both.add(first, first_mode);
    both.add(replication, mode);
    Ok(encode_asked(both.replication, both.mode))
}

fn decode_asked(value: &[u8]) -> Result<(Replication, PinMode), KvError> {
    let damaged = || KvError("what a pin asks for is damaged in the state".into());
    let (min, rest) = value.split_first_chunk::<4>().ok_or_else(damaged)?;
    let (max, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    let mode = match rest {
        [0] => PinMode::Direct,
        [1] => PinMode::Recursive,
        _ => return Err(damaged()),
    };
    let replication = Replication {
        min: i32::from_be_bytes(*min),
        max: i32::from_be_bytes(*max),
    };
    Ok((replication, mode))
}
