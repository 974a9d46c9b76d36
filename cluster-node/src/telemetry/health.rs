//! Whether the peer lives, and whether it can take work. Both answers come from the parts themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

/// What the peer says of itself. Cheap to clone.
///
/// *Ready* means that an add would work now: every registered condition holds. *Live* means that the process is worth
/// keeping: no part has failed for good.
#[derive(Clone, Default)]
pub struct Health {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    conditions: BTreeMap<&'static str, Option<String>>,
    failure: Option<Reason>,
}

/// A condition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Which one.
    pub condition: &'static str,
    /// Why.
    pub reason: String,
}

/// A part's handle on its condition. When it is dropped the condition doesn't hold: the part is gone.
pub struct Condition {
    name: &'static str,
    health: Health,
}

impl Health {
    /// Ready, until the first condition is registered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a condition, which does not hold yet. The name is for operators, as `raft_leader`; each is registered
    /// by one part.
    pub fn condition(&self, name: &'static str) -> Condition {
        let condition = Condition {
            name,
            health: self.clone(),
        };
        condition.not_ready("starting");
        condition
    }

    /// A part has failed for good: only a restart helps. The first failure is kept.
    pub fn fail(&self, condition: &'static str, reason: impl Into<String>) {
        self.state.lock().failure.get_or_insert(Reason {
            condition,
            reason: reason.into(),
        });
    }

    /// Why an add would not work now; empty when it would.
    pub fn reasons(&self) -> Vec<Reason> {
        let state = self.state.lock();
        let unmet = state.conditions.iter().filter_map(|(condition, reason)| {
            Some(Reason {
                condition,
                reason: reason.clone()?,
            })
        });
        state.failure.iter().cloned().chain(unmet).collect()
    }

    /// Whether an add would work now.
    pub fn is_ready(&self) -> bool {
        let state = self.state.lock();
        state.failure.is_none() && state.conditions.values().all(Option::is_none)
    }

    /// What failed for good.
    pub fn failure(&self) -> Option<Reason> {
        self.state.lock().failure.clone()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health").field(&self.reasons()).finish()
    }
}

impl Condition {
    /// It holds.
    pub fn ready(&self) {
        self.set(None);
    }

    /// It does not hold, and why: short, for operators.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, reason: Option<String>) {
        self.health.state.lock().conditions.insert(self.name, reason);
    }
}

impl Drop for Condition {
    fn drop(&mut self) {
        self.not_ready("stopped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_all_conditions_hold() {
        let health = Health::new();
        let leader = health.condition("leader");
        let storage = health.condition("storage");
        assert!(!health.is_ready());
        assert_eq!(health.reasons().len(), 2);
        leader.ready();
        storage.ready();
        assert!(health.is_ready());
        leader.not_ready("no majority");
        assert_eq!(
            health.reasons(),
            [Reason {
                condition: "leader",
                reason: "no majority".to_owned()
            }]
        );
        leader.ready();
        drop(storage);
        assert_eq!(health.reasons()[0].reason, "stopped");
    }

    #[test]
    fn a_failure_stays() {
        let health = Health::new();
        assert!(health.is_ready() && health.failure().is_none());
        health.fail("raft", "disk full");
        health.fail("raft", "later");
        assert!(!health.is_ready());
        assert_eq!(health.failure().unwrap().reason, "disk full");
    }
}
