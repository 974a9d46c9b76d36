//! Blocks for readers, from the network: one session for all reads of one content.

use std::collections::HashMap;
use std::sync::Arc;

use cluster_dag::Block;
use node_core::{Cid, ErrorClass};
use tokio::sync::{mpsc, oneshot};

use crate::blocking;
use crate::error::Failure;
use crate::fetch::{Gather, Got};
use crate::inner::Inner;

/// Blocks that are waited for at a time; readers beyond wait for their turn.
const WAITING_MAX: usize = 64;

type Answer = oneshot::Sender<Result<Block, Failure>>;

/// A running session. It ends when it is dropped.
pub(crate) struct Session {
    requests: mpsc::Sender<(Cid, Answer)>,
}

impl Session {
    /// Begins one; nothing is asked before the first block is wanted.
    pub(crate) fn begin(inner: &Arc<Inner>) -> Self {
        let (requests, receiver) = mpsc::channel(WAITING_MAX);
        let inner = Arc::clone(inner);
        let stop = inner.stop.clone();
        let tasks = inner.tasks.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = run(inner, receiver) => {}
            }
        });
        Self { requests }
    }

    /// A block from whoever has it.
    pub(crate) async fn get(&self, cid: Cid) -> Result<Block, Failure> {
        let (sender, answer) = oneshot::channel();
        let sent = self.requests.send((cid, sender)).await;
        sent.map_err(|_| Failure::stopping())?;
        answer.await.map_err(|_| Failure::stopping())?
    }
}

#[derive(Default)]
struct Waiting(HashMap<Cid, Vec<Answer>>);

impl Waiting {
    fn answer(&mut self, cid: &Cid, result: &Result<Block, Failure>) {
        for answer in self.0.remove(cid).unwrap_or_default() {
            // Who went away does not need it any more.
            let _ = answer.send(result.clone());
        }
    }

    /// Lets go of what nobody waits for any more.
    fn forget(&mut self) -> Vec<Cid> {
        let mut gone = Vec::new();
        self.0.retain(|cid, answers| {
            answers.retain(|answer| !answer.is_closed());
            if answers.is_empty() {
                gone.push(*cid);
            }
            !answers.is_empty()
        });
        gone
    }
}

async fn run(inner: Arc<Inner>, mut requests: mpsc::Receiver<(Cid, Answer)>) {
    let mut waiting = Waiting::default();
    let mut gather: Option<Gather> = None;
    loop {
        let gone = waiting.forget();
        if let Some(gather) = &mut gather {
            gather.forget(&gone);
        }
        let idle = waiting.0.is_empty();
        let next = async {
            match &mut gather {
                Some(gather) if !idle => gather.next().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            request = requests.recv(), if waiting.0.len() < WAITING_MAX => {
                let Some((cid, answer)) = request else {
                    return;
                };
                let answers = waiting.0.entry(cid).or_default();
                answers.push(answer);
                if answers.len() > 1 {
                    continue;
                }
                let wanted = want(&inner, &mut gather, cid).await;
                if let Err(failure) = wanted {
                    waiting.answer(&cid, &Err(failure));
                }
            }
            got = next => match got {
                Ok(got) => {
                    for got in got {
                        let (cid, result) = match got {
                            Got::Block(block) => (block.cid(), Ok(block)),
                            Got::Held(cid) => (cid, held(&inner, cid).await),
                        };
                        waiting.answer(&cid, &result);
                    }
                }
                Err(error) => {
                    // All that is wanted is what nobody brings. The next request begins anew.
                    gather = None;
                    let failure = Failure::from(error);
                    for cid in waiting.0.keys().copied().collect::<Vec<_>>() {
                        waiting.answer(&cid, &Err(failure.clone()));
                    }
                }
            },
            // Readers that went away are noticed although nothing comes.
            () = tokio::time::sleep(std::time::Duration::from_secs(1)), if !idle => {}
        }
    }
}

async fn want(inner: &Arc<Inner>, gather: &mut Option<Gather>, cid: Cid) -> Result<(), Failure> {
    if gather.is_none() {
        *gather = Some(Gather::begin(&inner.network, cid, Vec::new()).await?);
    }
    if let Some(gather) = gather {
        gather.moved();
        gather.want(&[cid]).await?;
    }
    Ok(())
}

async fn held(inner: &Inner, cid: Cid) -> Result<Block, Failure> {
    let store = inner.store.clone();
    match blocking(move || store.get(&cid)).await? {
        Some(bytes) => Ok(Block::trusted(cid, bytes)),
        None => {
            let words = format!("{cid} was stored and collected again while it was read");
            Err(Failure::new(ErrorClass::Temporary, words))
        }
    }
}
