//! What a connection is doing: seen by its reader, its service and the loop that accepts others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Context;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// One connection.
#[derive(Debug)]
pub struct Life {
    /// Requests that are being answered; more than one only for a moment.
    open: AtomicUsize,
    /// Requests so far.
    begun: AtomicU64,
    /// The answer must not look as if it were whole: the connection is to be reset.
    broken: AtomicBool,
    /// Tells the connection to make room.
    leave: CancellationToken,
    /// The connection's reader. hyper does not read again when an answer is over but only when something comes, and how long
    /// that takes is for the reader to know.
    reader: AtomicWaker,
    resting: Arc<Resting>,
    /// Its place among those that rest; 0 if it does not.
    place: AtomicU64,
}

impl Life {
    pub fn new(resting: &Arc<Resting>) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            leave: CancellationToken::new(),
            reader: AtomicWaker::new(),
            resting: resting.clone(),
            place: AtomicU64::new(0),
        })
    }

    /// A request begins, and ends when this is dropped.
    pub fn begin(self: &Arc<Self>) -> Answering {
        self.open.fetch_add(1, Ordering::AcqRel);
        self.begun.fetch_add(1, Ordering::AcqRel);
        Answering(self.clone())
    }

    /// Whether a request is being answered; if so, the end of that is told.
    pub fn is_answering(&self, cx: &Context<'_>) -> bool {
        self.reader.register(cx.waker());
        self.open.load(Ordering::Acquire) > 0
    }

    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// The connection is to be reset, and not closed.
    pub fn break_off(&self) {
        self.broken.store(true, Ordering::Release);
    }

    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// From now on it may be told to make room.
    pub fn rest(&self) {
        if self.place.load(Ordering::Acquire) == 0 {
            self.place
                .store(self.resting.enter(self.leave.clone()), Ordering::Release);
        }
    }

    pub fn wake(&self) {
        let place = self.place.swap(0, Ordering::AcqRel);
        if place > 0 {
            self.resting.0.lock().places.remove(&place);
        }
    }

    /// Whether it was told to make room.
    pub fn must_leave(&self) -> bool {
        self.leave.is_cancelled()
    }

    /// Done when it is to make room.
    pub async fn told_to_leave(&self) {
        self.leave.cancelled().await;
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.wake();
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Answering(pub Arc<Life>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.reader.wake();
    }
}

/// The connections of a server that have nothing to do, in the order in which they came to that. Never more than there are
/// connections.
#[derive(Debug, Default)]
pub struct Resting(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    last: u64,
    places: BTreeMap<u64, CancellationToken>,
}

impl Resting {
    fn enter(&self, leave: CancellationToken) -> u64 {
        let mut places = self.0.lock();
        places.last += 1;
        let place = places.last;
        places.places.insert(place, leave);
        place
    }

    /// Tells the connection that has rested longest to make room; whether there was one.
    pub fn reclaim(&self) -> bool {
        let first = self.0.lock().places.pop_first();
        if let Some((_, leave)) = &first {
            leave.cancel();
        }
        first.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::AcqRel);
        }
    }

    #[test]
    fn the_one_that_has_rested_longest_makes_room() {
        let resting = Arc::new(Resting::default());
        let lives: Vec<_> = (0..3).map(|_| Life::new(&resting)).collect();
        for life in &lives {
            life.rest();
            life.rest();
        }
        lives[0].wake();
        lives[0].rest();
        assert!(resting.reclaim());
        let left = |at: usize| lives[at].leave.is_cancelled();
        assert_eq!((left(0), left(1), left(2)), (false, true, false));
        assert!(resting.reclaim() && resting.reclaim());
        assert!(left(0) && left(2) && !resting.reclaim());
        // Told to leave and gone: nothing is left behind.
        drop(lives);
        assert!(resting.0.lock().places.is_empty());
    }

    #[test]
    fn requests_are_counted_until_their_answers_end() {
        let life = Life::new(&Arc::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        let cx = Context::from_waker(&waker);
        let (one, two) = (life.begin(), life.begin());
        drop(one);
        assert!(life.is_answering(&cx));
        assert_eq!(count.0.load(Ordering::Acquire), 0);
        drop(two);
        assert_eq!(count.0.load(Ordering::Acquire), 1);
        assert!(!life.is_answering(&cx));
        assert_eq!(life.begun(), 2);
    }
}
