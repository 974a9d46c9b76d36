//! Blocks that the cluster hands over before it pins them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use cluster_content::{Sink, StoreError};
use cluster_dag::Block;
use cluster_ipfs::{Error, Intake, KEPT_FOR_PIN, Operation};
use node_core::Cid;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::content::Adding;
use crate::error::Failure;
use crate::inner::Inner;

/// The add session that is shared by what begins within a turn: a daemon's clients put a thousand single blocks a second,
/// and a session of its own for each, kept for ten minutes, would be too many. A task of the node holds it.
pub(crate) type Turn = Mutex<Option<(Instant, Weak<Adding>)>>;

/// Takes the blocks of one add. They are safe from garbage collection as long as this is there, however long the add takes,
/// and for [`cluster_ipfs::KEPT_FOR`] behind its end; what lies below the roots that it is finished with, until they are
/// pinned.
pub struct Keeper {
    inner: Arc<Inner>,
    begun: Instant,
    adding: Arc<Adding>,
}

impl Keeper {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        Self {
            inner: Arc::clone(inner),
            begun: Instant::now(),
            adding: session(inner),
        }
    }
}

/// How long a session takes in new adds. An add of up to the same length is covered by the session's own time.
fn turn(inner: &Inner) -> Duration {
    inner.config.kept_for / 10
}

fn session(inner: &Arc<Inner>) -> Arc<Adding> {
    let now = Instant::now();
    let mut latest = inner.turn.lock();
    if let Some((begun, session)) = &*latest
        && now.duration_since(*begun) < turn(inner)
        && let Some(session) = session.upgrade()
    {
        return session;
    }
    let session = Arc::new(Adding::begin(inner));
    *latest = Some((now, Arc::downgrade(&session)));
    hold(inner, &session, 2 * turn(inner) + inner.config.kept_for);
    session
}

/// Keeps a session open.
fn hold(inner: &Inner, session: &Arc<Adding>, time: Duration) {
    // Without a runtime the process is about to end.
    if let Ok(runtime) = Handle::try_current() {
        let (kept, stop) = (Arc::clone(session), inner.stop.clone());
        let holding = async move {
            stop.run_until_cancelled(sleep(time)).await;
            drop(kept);
        };
        inner.tasks.spawn_on(holding, &runtime);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.begun.elapsed() >= turn(&self.inner) {
            hold(&self.inner, &self.adding, self.inner.config.kept_for);
        }
    }
}

#[async_trait]
impl Sink for Keeper {
    async fn put(&self, blocks: Vec<Block>) -> Result<(), StoreError> {
        self.adding.put(blocks).await
    }
}

#[async_trait]
impl Intake for Keeper {
    async fn put(&mut self, blocks: Vec<Block>) -> Result<(), Error> {
        let put = self.adding.put(blocks).await;
        put.map_err(|error| Error::new(Operation::Intake, error.class, error.message, None))
    }

    async fn finish(self: Box<Self>, roots: &[Cid]) -> Result<(), Error> {
        if roots.is_empty() {
            // What was put is on disk.
            return Ok(());
        }
        let until = crate::now().plus(KEPT_FOR_PIN);
        let kept = self.inner.store.keep(roots.to_vec(), until).await;
        kept.map_err(|error| Failure::from(error).of(Operation::Intake))
    }
}
