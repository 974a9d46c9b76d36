//! Whether the peer lives, and whether it can take work. Both answers come from the parts themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

/// What the peer says of itself. Cheap to clone.
///
/// *Ready* means that an add would work now: every registered condition holds. *Live* means that the process is worth
/// keeping: no part has failed for good.
#[derive(Clone, Default)]
pub struct Health {
    state: Arc<watch::Sender<State>>,
}

#[derive(Default)]
struct State {
    conditions: BTreeMap<&'static str, Option<String>>,
    failure: Option<Reason>,
}

impl State {
    fn is_ready(&self) -> bool {
        self.failure.is_none() && self.conditions.values().all(Option::is_none)
    }
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
        self.state.send_modify(|state| {
            state.failure.get_or_insert(Reason {
                condition,
                reason: reason.into(),
            });
        });
    }

    /// Why an add would not work now; empty when it would.
    pub fn reasons(&self) -> Vec<Reason> {
        let state = self.state.borrow();
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
        self.state.borrow().is_ready()
    }

    /// Waits until an add would work, or would not.
    pub async fn until_ready_is(&self, ready: bool) {
        let mut state = self.state.subscribe();
        // The sender is kept by this handle, so there is no error.
        let _ = state.wait_for(|state| state.is_ready() == ready).await;
    }

    /// What failed for good.
    pub fn failure(&self) -> Option<Reason> {
        self.state.borrow().failure.clone()
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
        self.health.state.send_if_modified(|state| {
            let before = state.conditions.insert(self.name, reason.clone());
            before.as_ref() != Some(&reason)
        });
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

    #[tokio::test]
    async fn changes_can_be_awaited() {
        let health = Health::new();
        health.until_ready_is(true).await;
        let leader = health.condition("leader");
        health.until_ready_is(false).await;
        let waiting = tokio::spawn({
            let health = health.clone();
            async move { health.until_ready_is(true).await }
        });
        leader.ready();
        waiting.await.unwrap();
        health.fail("raft", "disk full");
        health.until_ready_is(false).await;
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
