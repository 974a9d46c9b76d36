//! A block that is wanted: by whom, and what is known of who has it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::{Peer, SessionId};

/// Peers that are remembered for a want.
pub(crate) const FACTS_MAX: usize = 64;

/// Where a want stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for its turn.
    Queued,
    /// This peer is asked for it.
    Asked(Peer),
    /// Peers are asked whether they have it.
    Seeking,
    /// Nobody who was asked has it.
    Starved,
}

/// What is known of one peer and one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fact {
    /// It was asked then whether it has it.
    AskedHave(Duration),
    /// It says that it has it.
    Has,
    /// It was asked then for it. Whether that was all it was asked for tells whether its answer measures its latency.
    AskedBlock { at: Duration, alone: bool },
    /// It says that it doesn't have it.
    Lacks,
    /// It did not say in time whether it has it.
    Silent,
    /// It did not send it in time.
    Slow,
}

#[derive(Debug)]
pub(crate) struct Want {
    /// Who wants it. The first one pays for it with its window and lends its candidates; so do some others.
    pub(crate) sessions: Vec<SessionId>,
    /// Given when it is first asked for, so that peers serve in the order of asking and nothing waits for ever behind what
    /// came later.
    pub(crate) priority: Option<i32>,
    pub(crate) phase: Phase,
    pub(crate) facts: BTreeMap<Peer, Fact>,
    /// Whether it is in the queue of its first session.
    pub(crate) queued: bool,
    /// Whether all peers were asked whether they have it.
    pub(crate) broadcast: bool,
    /// When something happens if nothing happens.
    pub(crate) deadline: Option<Duration>,
    /// How long it is waited for.
    pub(crate) patience: Duration,
    /// How often everybody was asked in vain.
    pub(crate) rounds: u32,
}

impl Want {
    pub(crate) fn new(session: SessionId) -> Self {
        Self {
            sessions: vec![session],
            priority: None,
            phase: Phase::Queued,
            facts: BTreeMap::new(),
            queued: false,
            broadcast: false,
            deadline: None,
            patience: Duration::ZERO,
            rounds: 0,
        }
    }

    pub(crate) fn owner(&self) -> Option<SessionId> {
        self.sessions.first().copied()
    }

    /// Whether an answer to a want-have may still come.
    pub(crate) fn is_awaited(&self) -> bool {
        self.facts.values().any(|fact| matches!(fact, Fact::AskedHave(_)))
    }
}
