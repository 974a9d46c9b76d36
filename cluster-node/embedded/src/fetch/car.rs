//! A CAR file on its way from a gateway.

use std::time::Duration;

use cluster_dag::Block;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use node_core::Cid;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::http::Gateways;

/// Blocks of a CAR that lie in its channel.
const CAR_BLOCKS_MAX: usize = 4;

/// How long a CAR that brings nothing wanted holds back requests for single blocks.
pub(super) const CAR_QUIET: Duration = Duration::from_secs(2);

/// How long a CAR may bring nothing that is wanted before it is given up.
pub(super) const CAR_STUCK: Duration = Duration::from_secs(10);

/// A CAR file that comes.
pub(super) struct Car {
    pub(super) place: usize,
    running: BoxFuture<'static, Result<(), String>>,
    blocks: mpsc::Receiver<Block>,
    ended: bool,
    /// When it last brought something that was wanted.
    pub(super) useful: Instant,
}

impl Car {
    pub(super) fn begin(gateways: Gateways, place: usize, root: Cid, now: Instant) -> Self {
        let (sender, blocks) = mpsc::channel(CAR_BLOCKS_MAX);
        Self {
            place,
            running: async move { gateways.car(place, root, sender).await }.boxed(),
            blocks,
            ended: false,
            useful: now,
        }
    }
}

pub(super) enum CarEvent {
    Block(Block),
    Ended(Result<(), String>),
}

/// The next thing that a CAR file brings; never, when there is none or no room for its blocks.
pub(super) async fn car_event(car: &mut Option<Car>, room: bool) -> CarEvent {
    let Some(car) = car.as_mut().filter(|_| room) else {
        return std::future::pending().await;
    };
    if !car.ended {
        tokio::select! {
            biased;
            block = car.blocks.recv() => if let Some(block) = block {
                return CarEvent::Block(block);
            },
            result = &mut car.running => {
                car.ended = true;
                if let Err(reason) = result {
                    return CarEvent::Ended(Err(reason));
                }
            }
        }
    }
    // Its end may have overtaken its last blocks in the channel.
    match car.blocks.recv().await {
        Some(block) => CarEvent::Block(block),
        None => CarEvent::Ended(Ok(())),
    }
}
