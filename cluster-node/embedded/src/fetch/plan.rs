//! Which source is asked next for a block: a decision without a clock or a network.
//!
//! ```text
//! wanted ─▶ peers (Bitswap, at once) ──┬─ nobody there has it ─▶ look for providers ─▶ peers again
//!                                      └─ … or not within a moment ─▶ gateways, one after the other
//!                                         all of them said no ─▶ exhausted
//! ```
//! Peers, the search and one gateway are at work side by side; the first block counts.

use std::time::Duration;

/// How long a block is awaited from the peers before more of them are looked for, although none said that nobody has
/// it: a slow peer is no reason to stay alone.
pub(crate) const SEARCH_AFTER: Duration = Duration::from_secs(5);

/// What is known of a block that is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Want {
    /// How long it has been wanted.
    pub(crate) waited: Duration,
    /// No peer that was asked has it.
    pub(crate) nobody: bool,
    /// Providers of it were looked for since it is wanted, and the search has ended.
    pub(crate) searched: bool,
    /// Gateways that have it not, or failed for it, as bits.
    pub(crate) refused: u16,
    /// A gateway has been asked and has not answered.
    pub(crate) at_gateway: bool,
}

/// What is known of the sources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Around {
    /// Gateways that may be asked at this moment, as bits.
    pub(crate) usable: u16,
    /// Gateways that can be expected to answer, be they busy or not, as bits.
    pub(crate) well: u16,
    /// How long peers come first.
    pub(crate) gateway_after: Duration,
    /// A CAR file is bringing blocks: what is wanted is probably in it.
    pub(crate) car_flows: bool,
    /// Whether there is anybody to ask for providers.
    pub(crate) can_search: bool,
    /// A search for providers is under way.
    pub(crate) searching: bool,
}

/// What to do for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask this gateway.
    Gateway(usize),
    /// Look for providers.
    Search,
    /// Somebody is at work on it.
    Wait,
    /// Nobody is left to be asked: no peer, no provider, no gateway has it.
    Exhausted,
}

/// Decides. A gateway may be due and a search as well; then the search comes first, and the gateway at the next call.
pub(crate) fn next(want: Want, around: Around) -> Step {
    let search_due = around.can_search && !want.searched && (want.nobody || want.waited >= SEARCH_AFTER);
    if search_due && !around.searching {
        return Step::Search;
    }
    let gateway_due = want.nobody || want.waited >= around.gateway_after;
    let candidates = around.usable & !want.refused;
    if gateway_due && !want.at_gateway && !around.car_flows && candidates != 0 {
        return Step::Gateway(candidates.trailing_zeros() as usize);
    }
    let left = around.well & !want.refused;
    let busy = want.at_gateway || around.car_flows || left != 0;
    if want.nobody && !busy && !around.searching && (want.searched || !around.can_search) {
        return Step::Exhausted;
    }
    Step::Wait
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn want()(waited in 0u64..20, nobody: bool, searched: bool, refused: u16, at_gateway: bool) -> Want {
            Want { waited: Duration::from_secs(waited), nobody, searched, refused, at_gateway }
        }
    }

    prop_compose! {
        fn around()(well: u16, free: u16, after in 0u64..10, car_flows: bool, can_search: bool, searching: bool) -> Around {
            Around {
                usable: well & free,
                well,
                gateway_after: Duration::from_secs(after),
                car_flows,
                can_search,
                searching: searching && can_search,
            }
        }
    }

    proptest! {
        #[test]
        fn nobody_is_asked_in_vain(want in want(), around in around()) {
            match next(want, around) {
                Step::Gateway(place) => {
                    let bit = 1u16 << place;
                    prop_assert!(around.usable & bit != 0, "one that is well and free");
                    prop_assert!(want.refused & bit == 0, "and has not said no");
                    prop_assert!(!want.at_gateway, "one at a time");
                    prop_assert!(want.nobody || want.waited >= around.gateway_after, "peers come first");
                }
                Step::Search => {
                    prop_assert!(around.can_search && !around.searching && !want.searched);
                    prop_assert!(want.nobody || want.waited >= SEARCH_AFTER);
                }
                Step::Exhausted => {
                    prop_assert!(want.nobody && !want.at_gateway && !around.searching && !around.car_flows);
                    prop_assert!(around.well & !want.refused == 0);
                    prop_assert!(want.searched || !around.can_search);
                }
                Step::Wait => {}
            }
        }

        /// When everybody says no, it ends, and it asks each source at most once.
        #[test]
        fn it_ends_when_all_say_no(well: u16, can_search: bool, slow in 0u64..10) {
            let mut want = Want { nobody: true, waited: Duration::from_secs(slow), ..Want::default() };
            let around = Around { usable: well, well, can_search, gateway_after: Duration::from_secs(3), ..Around::default() };
            let mut asked = 0;
            loop {
                match next(want, around) {
                    Step::Search => want.searched = true,
                    Step::Gateway(place) => want.refused |= 1 << place,
                    Step::Exhausted => break,
                    Step::Wait => prop_assert!(false, "nobody is at work on it"),
                }
                asked += 1;
                prop_assert!(asked <= 17);
            }
            prop_assert_eq!(want.refused, well);
            prop_assert_eq!(want.searched, can_search);
        }

        /// Whoever waits waits for something that ends by itself: a peer, a gateway, a search, a file, or a breaker.
        #[test]
        fn whoever_waits_waits_for_something(want in want(), around in around()) {
            if next(want, around) == Step::Wait {
                let left = around.well & !want.refused;
                prop_assert!(!want.nobody || want.at_gateway || around.car_flows || around.searching || left != 0);
            }
        }
    }
}
