//! What all pins of a CID ask for together. Planning and applying both ask here, so they can't disagree.

use super::read::{pin, pins_of};
use super::view::{KvError, KvRead};
use crate::{Cid, PinKey, PinMode, PinOptions, Placement, Replication};

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
    fn add(&mut self, options: &PinOptions) {
        let asked = options.replication;
        if self.pins == 0 {
            self.replication = asked;
            self.mode = options.mode;
        } else {
            if self.replication.is_everywhere() || asked.is_everywhere() {
                self.replication = Replication::EVERYWHERE;
            } else {
                self.replication.min = self.replication.min.max(asked.min);
                self.replication.max = self.replication.max.max(asked.max);
            }
            if options.mode == PinMode::Recursive {
                self.mode = PinMode::Recursive;
            }
        }
        self.pins = self.pins.saturating_add(1);
    }
}

/// The demand for `cid`, with one pin as it shall be and one left out. `placement` is the CID's present one: when there
/// is none there are no pins either, and the most frequent case costs no scan.
pub fn demand(
    kv: &dyn KvRead,
    cid: &Cid,
    placement: Option<&Placement>,
    with: Option<(&PinKey, &PinOptions)>,
    without: Option<&PinKey>,
) -> Result<Demand, KvError> {
    let mut demand = Demand::default();
    if placement.is_some() {
        for key in pins_of(kv, cid)? {
            if Some(&key) == without || with.is_some_and(|(with, _)| *with == key) {
                continue;
            }
            let pin = pin(kv, &key)?.ok_or_else(|| KvError(format!("the pin {key:?} is indexed but missing")))?;
            demand.add(&pin.options);
        }
    }
    if let Some((_, options)) = with {
        demand.add(options);
    }
    Ok(demand)
}
