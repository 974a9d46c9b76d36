//! Reads under the leader's lease: without a question to anybody.
//!
//! A voter that has heard the leader grants no vote to others for `election_max` (openraft, and `ConsensusConfig`), so
//! a leader that a majority has answered within that time is the only one. Half of it is used here: clocks of two peers
//! would have to run at rates that differ by a factor of two before another leader could exist in that time.
//!
//! What is read is the state as this peer has applied it. All writes that were acknowledged under this leader were
//! applied here first, since it is the leader that acknowledges them, also those that other peers hand over; those of
//! earlier leaders lie before the first entry of this term, which must be applied too.
//!
//! Two things would break it, and are excluded: a voter that is restarted forgets what it has heard, so it waits
//! ([`wait_after_start`]) before it takes part again; and a leader that hands over lets others vote at once, so it does
//! not use the lease in the term in which it has tried that.

use std::time::Duration;

use crate::config::ConsensusConfig;

/// What a leader knows of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    /// The term in which it leads.
    pub term: u64,
    /// When the newest of its messages was sent that a majority has answered, as time since then.
    pub quorum_acked: Duration,
    /// Whether the last entry that it has applied is of its own leadership. The term does not tell: a term may see two
    /// leaders.
    pub applied_own: bool,
    /// The last term in which it tried to hand over the lead; 0 = none.
    pub handed_over_in: u64,
}

/// How long after a majority's answer a leader reads without asking anew.
pub(crate) fn lease(config: &ConsensusConfig) -> Duration {
    config.election_max / 2
}

/// Whether what the leader has applied holds every acknowledged write.
pub(crate) fn covers(standing: &Standing, lease: Duration) -> bool {
    standing.quorum_acked < lease && standing.applied_own && standing.handed_over_in != standing.term
}

/// How long a peer that has run before stays silent, `since_start` after its process had nothing of Raft running yet:
/// what it promised before it was killed has lapsed by then.
pub(crate) fn wait_after_start(config: &ConsensusConfig, since_start: Duration) -> Duration {
    if config.started {
        lease(config).saturating_sub(since_start)
    } else {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn standing() -> Standing {
        Standing {
            term: 3,
            quorum_acked: Duration::from_millis(10),
            applied_own: true,
            handed_over_in: 0,
        }
    }

    #[test]
    fn a_leader_reads_alone_only_while_nobody_else_can_lead() {
        let lease = lease(&ConsensusConfig::default());
        assert!(covers(&standing(), lease));
        let cases = [
            Standing {
                quorum_acked: lease,
                ..standing()
            },
            Standing {
                applied_own: false,
                ..standing()
            },
            Standing {
                handed_over_in: 3,
                ..standing()
            },
        ];
        for case in cases {
            assert!(!covers(&case, lease), "{case:?}");
        }
        assert!(
            covers(
                &Standing {
                    handed_over_in: 2,
                    ..standing()
                },
                lease
            ),
            "that was another time"
        );
    }

    proptest! {
        /// A voter that was restarted may vote no sooner than every lease that rests on what it said has run out.
        #[test]
        fn no_restarted_voter_votes_within_a_lease(started in any::<bool>(), passed in 0u64..1_000) {
            let config = ConsensusConfig { started, ..ConsensusConfig::default() };
            let passed = Duration::from_millis(passed);
            let votes_at = passed + wait_after_start(&config, passed);
            prop_assert!(!started || votes_at >= lease(&config));
            prop_assert!(votes_at <= passed.max(lease(&config)), "and no later than needed");
        }
    }
}
