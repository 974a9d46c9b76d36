//! The nodes of an add, and what became of them.

use std::sync::Arc;

use async_trait::async_trait;
use cluster_content::{Sink, StoreError};
use cluster_dag::Block;
use cluster_ipfs::Intake;
use node_core::{Cid, ErrorClass, NodeId};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::service::Error;

/// Batches that wait for one node, so that a node which syncs does not hold up the others at once. A batch is about 2 MiB
/// at most.
const BATCHES_WAITING_MAX: usize = 2;

/// A node that takes blocks, and its name.
pub(super) type Open = (NodeId, String, Box<dyn Intake>);

/// What a node is sent.
enum Order {
    Put(Vec<Block>),
    /// With the roots that are about to be pinned.
    Finish(Arc<[Cid]>),
}

/// One node of an add.
struct Target {
    node: NodeId,
    name: String,
    orders: mpsc::Sender<Order>,
    outcome: Mutex<Outcome>,
}

/// What became of a node.
enum Outcome {
    Taking(AbortOnDropHandle<Result<(), String>>),
    Holds,
    Failed(String),
}

/// What came of an add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The nodes that have every block on disk, with their names.
    pub nodes: Vec<(NodeId, String)>,
    /// Why the others have not, with the name in front.
    pub failures: Vec<String>,
}

/// All nodes of an add. What it is given goes to each of them.
pub(super) struct Targets {
    targets: Vec<Target>,
    /// With fewer nodes than that it fails.
    needed: usize,
}

impl Targets {
    /// Begins to hand over to these nodes, of which so many must hold it all in the end.
    pub(super) fn begin(nodes: Vec<Open>, needed: usize) -> Self {
        let targets = nodes.into_iter().map(|(node, name, intake)| {
            let (orders, queue) = mpsc::channel(BATCHES_WAITING_MAX);
            let task = tokio::spawn(drive(intake, queue));
            Target {
                node,
                name,
                orders,
                outcome: Mutex::new(Outcome::Taking(AbortOnDropHandle::new(task))),
            }
        });
        Self {
            targets: targets.collect(),
            needed,
        }
    }

    /// All nodes that it began with.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.targets.iter().map(|target| target.node).collect()
    }

    /// Ends the handover and waits until every node has said what it has. They keep it for the pins of `roots` to come.
    pub(super) async fn finish(&self, roots: &[Cid]) -> Result<Held, Error> {
        let roots: Arc<[Cid]> = roots.into();
        let told = self
            .targets
            .iter()
            .map(|target| target.order(Order::Finish(roots.clone())));
        futures::future::join_all(told).await;
        let (mut nodes, mut failures) = (Vec::new(), Vec::new());
        for target in &self.targets {
            target.end().await;
            match &*target.outcome.lock() {
                Outcome::Holds => nodes.push((target.node, target.name.clone())),
                Outcome::Failed(error) => failures.push(format!("{}: {error}", target.name)),
                Outcome::Taking(_) => failures.push(format!("{}: it did not end", target.name)),
            }
        }
        if nodes.len() < self.needed {
            return Err(Error::precondition(too_few(nodes.len(), self.needed, &failures)));
        }
        Ok(Held { nodes, failures })
    }

    fn failures(&self) -> Vec<String> {
        let failed = self.targets.iter().filter_map(|target| match &*target.outcome.lock() {
            Outcome::Failed(error) => Some(format!("{}: {error}", target.name)),
            _ => None,
        });
        failed.collect()
    }
}

fn too_few(held: usize, needed: usize, failures: &[String]) -> String {
    format!(
        "{held} of the {needed} nodes needed hold the content, so it is not pinned: {}",
        failures.join("; ")
    )
}

impl Target {
    /// Sends an order; false when the node has failed.
    async fn order(&self, order: Order) -> bool {
        if self.orders.send(order).await.is_ok() {
            return true;
        }
        self.end().await;
        false
    }

    /// Waits for the end of its task and notes what it said.
    async fn end(&self) {
        let taking = {
            let mut outcome = self.outcome.lock();
            match std::mem::replace(&mut *outcome, Outcome::Failed("it was cut off".into())) {
                Outcome::Taking(task) => task,
                known => {
                    *outcome = known;
                    return;
                }
            }
        };
        let ended = match taking.await {
            Ok(Ok(())) => Outcome::Holds,
            Ok(Err(error)) => Outcome::Failed(error),
            Err(error) => Outcome::Failed(error.to_string()),
        };
        if let Outcome::Failed(error) = &ended {
            tracing::warn!(node = %self.node, name = %self.name, %error, "a node takes no more of an add");
        }
        *self.outcome.lock() = ended;
    }
}

/// Hands what comes to one node. Ends well only after [`Order::Finish`]: an add that breaks off leaves no node that seems
/// to hold it.
async fn drive(mut intake: Box<dyn Intake>, mut orders: mpsc::Receiver<Order>) -> Result<(), String> {
    while let Some(order) = orders.recv().await {
        match order {
            Order::Put(blocks) => intake.put(blocks).await.map_err(|error| error.message)?,
            Order::Finish(roots) => return intake.finish(&roots).await.map_err(|error| error.message),
        }
    }
    Err("the add broke off".into())
}

#[async_trait]
impl Sink for Targets {
    /// Done when each node that still takes part has room for more; they have it on disk after [`Targets::finish`].
    async fn put(&self, blocks: Vec<Block>) -> Result<(), StoreError> {
        let sent = futures::future::join_all(
            self.targets
                .iter()
                .map(|target| target.order(Order::Put(blocks.clone()))),
        );
        let taking = sent.await.into_iter().filter(|sent| *sent).count();
        if taking < self.needed {
            let message = too_few(taking, self.needed, &self.failures());
            return Err(StoreError::new(ErrorClass::Temporary, message));
        }
        Ok(())
    }
}
