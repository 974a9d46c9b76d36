//! Permits whose number changes while they are in use.

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

/// At most so many at a time. Taking a permit is fair: who waits longest goes first.
pub(crate) struct Gate {
    free: Semaphore,
    state: Mutex<State>,
    /// How many wait for a permit.
    waiting: watch::Sender<usize>,
}

struct State {
    limit: usize,
    /// Permits to be destroyed when they come back, because the limit fell while they were in use.
    debt: usize,
}

/// The right to go on; given back when dropped.
pub(crate) struct Permit<'a>(&'a Gate);

impl Gate {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            free: Semaphore::new(limit),
            state: Mutex::new(State { limit, debt: 0 }),
            waiting: watch::Sender::new(0),
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.state.lock().limit
    }

    /// Lets through more or fewer from now on. Those already inside are not disturbed.
    pub(crate) fn set_limit(&self, limit: usize) {
        let mut state = self.state.lock();
        let old = std::mem::replace(&mut state.limit, limit);
        if limit > old {
            let more = limit - old;
            let paid = more.min(state.debt);
            state.debt -= paid;
            self.free.add_permits(more - paid);
        } else {
            let fewer = old - limit;
            state.debt += fewer - self.free.forget_permits(fewer);
        }
    }

    pub(crate) async fn enter(&self) -> Permit<'_> {
        if let Ok(permit) = self.free.try_acquire() {
            permit.forget();
            return Permit(self);
        }
        let _waiting = Waiting::new(self);
        match self.free.acquire().await {
            Ok(permit) => permit.forget(),
            // The semaphore is never closed; were it, there would be nothing left to limit.
            Err(_) => std::future::pending().await,
        }
        Permit(self)
    }

    /// Ends when somebody waits for a permit.
    pub(crate) async fn crowded(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives as long as the gate.
        let _ = waiting.wait_for(|waiting| *waiting > 0).await;
    }
}

/// Counts one that waits, until it is let in or goes away.
struct Waiting<'a>(&'a Gate);

impl<'a> Waiting<'a> {
    fn new(gate: &'a Gate) -> Self {
        gate.waiting.send_modify(|waiting| *waiting += 1);
        Self(gate)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        if state.debt > 0 {
            state.debt -= 1;
        } else {
            self.0.free.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn enter(gate: &Gate) -> Option<Permit<'_>> {
        gate.enter().now_or_never()
    }

    #[test]
    fn a_lower_limit_waits_for_permits_to_come_back() {
        let gate = Gate::new(3);
        let inside: Vec<_> = std::iter::from_fn(|| enter(&gate)).collect();
        assert_eq!(inside.len(), 3);
        gate.set_limit(1);
        let mut inside = inside.into_iter();
        drop(inside.next());
        drop(inside.next());
        assert!(enter(&gate).is_none());
        drop(inside.next());
        let last = enter(&gate);
        assert!(last.is_some() && enter(&gate).is_none());
        gate.set_limit(2);
        assert!(enter(&gate).is_some());
        gate.set_limit(1);
        drop(last);
        assert!(enter(&gate).is_some());
        assert_eq!(gate.limit(), 1);
    }

    #[test]
    fn it_is_known_whether_somebody_waits() {
        let gate = Gate::new(1);
        let inside = enter(&gate);
        assert!(gate.crowded().now_or_never().is_none());
        let mut next = Box::pin(gate.enter());
        assert!(next.as_mut().now_or_never().is_none());
        assert!(gate.crowded().now_or_never().is_some());
        drop(inside);
        assert!(next.now_or_never().is_some());
        assert!(gate.crowded().now_or_never().is_none());
    }

    #[test]
    fn a_higher_limit_first_pays_the_debt() {
        let gate = Gate::new(2);
        let inside = [enter(&gate), enter(&gate)];
        gate.set_limit(1);
        gate.set_limit(2);
        assert!(enter(&gate).is_none());
        drop(inside);
        let again = [enter(&gate), enter(&gate)];
        assert!(again.iter().all(Option::is_some) && enter(&gate).is_none());
    }
}
