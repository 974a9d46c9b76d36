//! Blocks that the cluster hands over before it pins them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use cluster_content::{Sink, StoreError};
use cluster_dag::Block;
use cluster_ipfs::{Error, Intake, KEPT_FOR, Operation};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::content::Adding;
use crate::inner::Inner;

/// How long one add session takes what comes. Each is kept for [`KEPT_FOR`] longer, so about a dozen are open at most,
/// however much is handed over.
const TURN: Duration = Duration::from_secs(60);

/// The session of this turn, which a task of the node holds.
pub(crate) type Turn = Mutex<Option<(Instant, Weak<Adding>)>>;

/// Takes blocks and keeps them from garbage collection for [`KEPT_FOR`] at least, until a pin holds them. Clones are
/// handles of the same one.
#[derive(Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

impl Keeper {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        Self {
            inner: Arc::clone(inner),
        }
    }

    fn session(&self) -> Arc<Adding> {
        let now = Instant::now();
        let mut turn = self.inner.turn.lock();
        if let Some((begun, session)) = &*turn
            && now.duration_since(*begun) < TURN
            && let Some(session) = session.upgrade()
        {
            return session;
        }
        let session = Arc::new(Adding::begin(&self.inner));
        *turn = Some((now, Arc::downgrade(&session)));
        let (kept, stop) = (Arc::clone(&session), self.inner.stop.clone());
        self.inner.tasks.spawn(async move {
            stop.run_until_cancelled(sleep(TURN + KEPT_FOR)).await;
            drop(kept);
        });
        session
    }
}

#[async_trait]
impl Sink for Keeper {
    async fn put(&self, blocks: Vec<Block>) -> Result<(), StoreError> {
        self.session().put(blocks).await
    }
}

#[async_trait]
impl Intake for Keeper {
    async fn put(&mut self, blocks: Vec<Block>) -> Result<(), Error> {
        let put = Sink::put(self, blocks).await;
        put.map_err(|error| Error::new(Operation::Intake, error.class, error.message, None))
    }

    async fn finish(self: Box<Self>) -> Result<(), Error> {
        // What was put is on disk.
        Ok(())
    }
}
