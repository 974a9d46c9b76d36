//! A node whose pins are in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cluster_content::{Content, WalkOptions};
use cluster_ipfs::{
    Added, Connected, Error, Held, Identity, IpfsNode, Listed, LookFor, Operation, Progress, ProgressSink, RepoStat,
    Updated,
};
use futures::TryStreamExt as _;
use node_core::{Cid, ErrorClass, PinMode};
use tokio::sync::Semaphore;

use crate::support::Store;

pub struct Node {
    pub store: Arc<Store>,
    pub pins: Mutex<BTreeMap<Cid, (PinMode, String)>>,
    /// Every call fails with this.
    pub failing: Mutex<Option<(ErrorClass, String)>>,
    /// Blocks that pins may still take: with none left they wait.
    pub budget: Semaphore,
    /// Pins that are being added.
    pub adding: AtomicUsize,
}

struct Adding<'a>(&'a AtomicUsize);

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Node {
    pub fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self {
            store,
            pins: Mutex::default(),
            failing: Mutex::default(),
            budget: Semaphore::new(1_000_000),
            adding: AtomicUsize::new(0),
        })
    }

    pub fn fail(&self, class: ErrorClass, words: &str) {
        *self.failing.lock().expect("no panic") = Some((class, words.to_owned()));
    }

    fn check(&self, operation: Operation) -> Result<(), Error> {
        match &*self.failing.lock().expect("no panic") {
            Some((class, words)) => Err(Error::new(operation, *class, words, None)),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl IpfsNode for Node {
    async fn id(&self) -> Result<Identity, Error> {
        self.check(Operation::Id)?;
        Ok(Identity {
            peer_id: "12D3KooWTest".into(),
            addresses: vec!["/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWTest".into()],
            agent: "pinfleet/test".into(),
        })
    }

    async fn version(&self) -> Result<String, Error> {
        self.check(Operation::Version)?;
        Ok("1.2.3".into())
    }

    async fn repo_stat(&self) -> Result<RepoStat, Error> {
        self.check(Operation::RepoStat)?;
        Ok(RepoStat {
            used_bytes: 77,
            max_bytes: None,
        })
    }

    async fn pin_add(&self, cid: &Cid, mode: PinMode, name: &str, progress: ProgressSink<'_>) -> Result<Added, Error> {
        self.adding.fetch_add(1, Ordering::SeqCst);
        let _adding = Adding(&self.adding);
        self.check(Operation::PinAdd)?;
        let held = self.pins.lock().expect("no panic").get(cid).map(|(mode, _)| *mode);
        let mut reached = Progress::default();
        if (held, mode) != (Some(PinMode::Recursive), PinMode::Direct) {
            let scope = match mode {
                PinMode::Recursive => cluster_content::Scope::All,
                PinMode::Direct => cluster_content::Scope::Block,
            };
            let options = WalkOptions {
                scope,
                duplicates: false,
            };
            let mut walk = Content::new(self.store.clone()).walk(vec![*cid], options);
            let failed = |error: cluster_content::ContentError| {
                Error::new(Operation::PinAdd, error.class(), error.to_string(), None)
            };
            while let Some(block) = walk.try_next().await.map_err(failed)? {
                self.budget.acquire().await.expect("never closed").forget();
                // A budget that comes later fails a pin in the middle.
                self.check(Operation::PinAdd)?;
                reached.blocks += 1;
                reached.bytes += block.bytes().len() as u64;
                progress(reached);
            }
            self.pins
                .lock()
                .expect("no panic")
                .insert(*cid, (mode, name.to_owned()));
        }
        Ok(Added {
            held: if held == Some(PinMode::Recursive) {
                PinMode::Recursive
            } else {
                mode
            },
            progress: reached,
        })
    }

    async fn pin_update(&self, from: &Cid, to: &Cid, progress: ProgressSink<'_>) -> Result<Updated, Error> {
        let held = self.pins.lock().expect("no panic").get(from).map(|(mode, _)| *mode);
        if held != Some(PinMode::Recursive) {
            return Ok(Updated::SourceNotPinned);
        }
        let added = self.pin_add(to, PinMode::Recursive, "", progress).await?;
        Ok(Updated::Done(added.progress))
    }

    async fn pin_rm(&self, cid: &Cid) -> Result<bool, Error> {
        self.check(Operation::PinRm)?;
        Ok(self.pins.lock().expect("no panic").remove(cid).is_some())
    }

    async fn pin_ls(&self, cid: &Cid, _: LookFor) -> Result<Option<Listed>, Error> {
        self.check(Operation::PinLs)?;
        let pins = self.pins.lock().expect("no panic");
        Ok(pins.get(cid).map(|(mode, name)| Listed {
            held: match mode {
                PinMode::Recursive => Held::Recursive,
                PinMode::Direct => Held::Direct,
            },
            name: Some(name.clone()),
        }))
    }

    async fn swarm_connect(&self, origins: &[String]) -> Connected {
        let mut outcome = Connected::default();
        for origin in origins {
            match origin.contains("/p2p/") {
                true => outcome.connected += 1,
                false => outcome.failures.push(Error::new(
                    Operation::SwarmConnect,
                    ErrorClass::Permanent,
                    format!("invalid p2p multiaddr: {origin}"),
                    None,
                )),
            }
        }
        outcome
    }
}
