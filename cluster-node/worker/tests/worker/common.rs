//! A node, a source of wishes and a clock that tests can steer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cluster_ipfs::{
    Added, Connected, Error, Held, Identity, IpfsNode, Listed, LookFor, Operation, PIN_NAME, Progress, ProgressSink,
    RepoStat, Updated,
};
use cluster_storage::ledger::{Ledger, LedgerOptions};
use cluster_worker::{Clock, NodeSettings, SystemClock, TodoRow, View, WantedSource, Worker, WorkerConfig};
use multihash_codetable::{Code, MultihashDigest};
use node_core::reconcile::{Entry, Wanted};
use node_core::retry::RetryPolicy;
use node_core::{Cid, ErrorClass, NodeId, PinMode, Status};
use parking_lot::Mutex;
use tokio::sync::Notify;

pub const NODE: NodeId = NodeId(1);
pub const OTHER: NodeId = NodeId(2);

pub fn cid(n: u64) -> Cid {
    let mut bytes = vec![1, 0x55];
    bytes.extend_from_slice(&Code::Sha2_256.digest(&n.to_be_bytes()).to_bytes());
    Cid::from_bytes(&bytes).expect("a valid CID")
}

/// Waits until it is so; a test that waits in vain fails with what it waited for.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    let what = what.to_owned();
    async move {
        let begun = std::time::Instant::now();
        while !is_so() {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "waited in vain at {caller}: {what}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// What the node does with the next requests of a kind for a CID.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Ends well at once.
    Well,
    /// Fails so.
    Fail(ErrorClass),
    /// Reports this progress and never ends.
    Hang(Progress),
}

#[derive(Default)]
struct Script {
    pins: HashMap<Cid, PinMode>,
    names: HashMap<Cid, String>,
    /// Another daemon answers.
    peer_id: Option<String>,
    adds: HashMap<Cid, Answer>,
    removes: HashMap<Cid, Answer>,
    all: Option<Answer>,
    /// One in so many requests fails, with a class drawn from the state of a random number.
    flaky: Option<(u64, u64)>,
    calls: Vec<(Operation, Option<Cid>)>,
    origins: Vec<String>,
}

/// A node in memory.
#[derive(Default)]
pub struct FakeNode {
    script: Mutex<Script>,
    /// Requests that run, and the most that ever did.
    pub adding: AtomicU64,
    pub adding_most: AtomicU64,
    /// Calls of any kind are counted here without being remembered.
    pub silent: AtomicBool,
    released: Notify,
}

fn error(operation: Operation, class: ErrorClass) -> Error {
    Error {
        operation,
        class,
        message: format!("scripted {}", class.as_str()),
        status: None,
    }
}

impl FakeNode {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn on_add(&self, cid: Cid, answer: Answer) {
        self.script.lock().adds.insert(cid, answer);
        self.released.notify_waiters();
    }

    pub fn on_remove(&self, cid: Cid, answer: Answer) {
        self.script.lock().removes.insert(cid, answer);
        self.released.notify_waiters();
    }

    /// All calls, whatever they ask.
    pub fn on_all(&self, answer: Option<Answer>) {
        self.script.lock().all = answer;
        self.released.notify_waiters();
    }

    /// From now on one in `of` requests for a CID fails; 0 ends that.
    pub fn set_flaky(&self, of: u64, seed: u64) {
        self.script.lock().flaky = (of > 0).then_some((of, seed));
    }

    pub fn pin_by_hand(&self, cid: Cid, mode: PinMode) {
        let mut script = self.script.lock();
        script.pins.insert(cid, mode);
        script.names.remove(&cid);
    }

    pub fn pin_as(&self, cid: Cid, mode: PinMode, name: &str) {
        let mut script = self.script.lock();
        script.pins.insert(cid, mode);
        script.names.insert(cid, name.into());
    }

    pub fn unpin_by_hand(&self, cid: &Cid) {
        let mut script = self.script.lock();
        script.pins.remove(cid);
        script.names.remove(cid);
    }

    /// Another daemon answers from now on, which holds nothing.
    pub fn replace(&self, peer_id: &str) {
        let mut script = self.script.lock();
        script.pins.clear();
        script.names.clear();
        script.peer_id = Some(peer_id.into());
    }

    pub fn name(&self, cid: &Cid) -> String {
        self.script.lock().names.get(cid).cloned().unwrap_or_default()
    }

    pub fn holds(&self, cid: &Cid) -> Option<PinMode> {
        self.script.lock().pins.get(cid).copied()
    }

    pub fn all(&self) -> BTreeMap<Cid, PinMode> {
        self.script
            .lock()
            .pins
            .iter()
            .map(|(cid, mode)| (*cid, *mode))
            .collect()
    }

    pub fn held(&self) -> usize {
        self.script.lock().pins.len()
    }

    pub fn calls(&self, of: Operation) -> Vec<Cid> {
        self.script
            .lock()
            .calls
            .iter()
            .filter(|(op, _)| *op == of)
            .filter_map(|(_, cid)| *cid)
            .collect()
    }

    /// How many calls of a kind there were, whatever they were about.
    pub fn count(&self, of: Operation) -> usize {
        self.script.lock().calls.iter().filter(|(op, _)| *op == of).count()
    }

    pub fn origins(&self) -> Vec<String> {
        self.script.lock().origins.clone()
    }

    async fn call(&self, operation: Operation, cid: Option<&Cid>) -> Result<(), Error> {
        if !self.silent.load(Ordering::Relaxed) {
            self.script.lock().calls.push((operation, cid.copied()));
        }
        if let Some((of, state)) = &mut self.script.lock().flaky {
            let drawn = random(state);
            if cid.is_some() && drawn.is_multiple_of(*of) {
                let classes = [
                    ErrorClass::Temporary,
                    ErrorClass::Stalled,
                    ErrorClass::Unreachable,
                    ErrorClass::Overloaded,
                ];
                return Err(error(
                    operation,
                    classes[usize::try_from(drawn >> 60).expect("small") % classes.len()],
                ));
            }
        }
        loop {
            let released = self.released.notified();
            let answer = {
                let script = self.script.lock();
                let own = match operation {
                    Operation::PinAdd | Operation::PinUpdate => cid.and_then(|cid| script.adds.get(cid).cloned()),
                    Operation::PinRm => cid.and_then(|cid| script.removes.get(cid).cloned()),
                    _ => None,
                };
                script.all.clone().or(own).unwrap_or(Answer::Well)
            };
            match answer {
                Answer::Well => return Ok(()),
                Answer::Fail(class) => return Err(error(operation, class)),
                // Until the script changes.
                Answer::Hang(_) => released.await,
            }
        }
    }

    fn hanging_progress(&self, cid: &Cid) -> Option<Progress> {
        match self.script.lock().adds.get(cid) {
            Some(Answer::Hang(progress)) => Some(*progress),
            _ => None,
        }
    }
}

/// The next number of a simple generator.
pub fn random(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state ^ (*state >> 33)
}

struct Counted<'a>(&'a AtomicU64);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl IpfsNode for FakeNode {
    async fn id(&self) -> Result<Identity, Error> {
        self.call(Operation::Id, None).await?;
        Ok(Identity {
            peer_id: self
                .script
                .lock()
                .peer_id
                .clone()
                .unwrap_or_else(|| "12D3KooWFake".into()),
            addresses: vec!["/ip4/192.0.2.1/tcp/4001".into()],
            agent: "fake".into(),
        })
    }

    async fn version(&self) -> Result<String, Error> {
        self.call(Operation::Version, None).await.map(|()| "0.0.1".into())
    }

    async fn repo_stat(&self) -> Result<RepoStat, Error> {
        self.call(Operation::RepoStat, None).await.map(|()| RepoStat {
            used_bytes: 100,
            max_bytes: Some(1_000),
        })
    }

    async fn pin_add(&self, cid: &Cid, mode: PinMode, name: &str, progress: ProgressSink<'_>) -> Result<Added, Error> {
        let now = self.adding.fetch_add(1, Ordering::Relaxed) + 1;
        self.adding_most.fetch_max(now, Ordering::Relaxed);
        let _counted = Counted(&self.adding);
        if let Some(hanging) = self.hanging_progress(cid) {
            progress(hanging);
        }
        self.call(Operation::PinAdd, Some(cid)).await?;
        let done = Progress { blocks: 3, bytes: 300 };
        progress(done);
        let mut script = self.script.lock();
        let held = script.pins.entry(*cid).or_insert(mode);
        *held = (*held).min(mode);
        let held = *held;
        script.names.insert(*cid, name.to_owned());
        Ok(Added { held, progress: done })
    }

    async fn pin_update(&self, from: &Cid, to: &Cid, _: ProgressSink<'_>) -> Result<Updated, Error> {
        self.call(Operation::PinUpdate, Some(to)).await?;
        let mut script = self.script.lock();
        if script.pins.get(from) != Some(&PinMode::Recursive) {
            return Ok(Updated::SourceNotPinned);
        }
        script.pins.insert(*to, PinMode::Recursive);
        let name = script.names.get(from).cloned().unwrap_or_default();
        script.names.insert(*to, name);
        Ok(Updated::Done(Progress { blocks: 1, bytes: 10 }))
    }

    async fn pin_rm(&self, cid: &Cid) -> Result<bool, Error> {
        self.call(Operation::PinRm, Some(cid)).await?;
        let mut script = self.script.lock();
        script.names.remove(cid);
        Ok(script.pins.remove(cid).is_some())
    }

    async fn pin_ls(&self, cid: &Cid, look_for: LookFor) -> Result<Option<Listed>, Error> {
        self.call(Operation::PinLs, Some(cid)).await?;
        let script = self.script.lock();
        let held = match script.pins.get(cid) {
            Some(PinMode::Recursive) => Held::Recursive,
            Some(PinMode::Direct) if look_for == LookFor::Any => Held::Direct,
            _ => return Ok(None),
        };
        let name = script.names.get(cid).cloned().unwrap_or_default();
        Ok(Some(Listed { held, name: Some(name) }))
    }

    async fn swarm_connect(&self, origins: &[String]) -> Connected {
        self.script.lock().origins.extend_from_slice(origins);
        Connected {
            connected: origins.len(),
            failures: vec![error(Operation::SwarmConnect, ErrorClass::Unreachable)],
        }
    }
}

/// Wishes and notes in memory, as the pinset would leave them.
#[derive(Default)]
pub struct Wishes {
    state: Mutex<WishState>,
    /// Every question fails while this is set.
    pub broken: AtomicBool,
    /// How many questions failed.
    pub failures: AtomicU64,
}

#[derive(Default)]
struct WishState {
    wanted: BTreeMap<(NodeId, Cid), Wanted>,
    todo: BTreeMap<Vec<u8>, TodoRow>,
    revision: u64,
}

impl Wishes {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn want(&self, node: NodeId, cid: Cid) {
        self.want_as(node, cid, PinMode::Recursive);
    }

    pub fn want_as(&self, node: NodeId, cid: Cid, mode: PinMode) {
        self.want_with(node, cid, |wanted| wanted.mode = mode);
    }

    pub fn want_with(&self, node: NodeId, cid: Cid, change: impl FnOnce(&mut Wanted)) {
        let mut state = self.state.lock();
        state.revision += 1;
        let mut wanted = Wanted {
            mode: PinMode::Recursive,
            revision: state.revision,
            origins: Vec::new(),
            updated_from: None,
        };
        change(&mut wanted);
        state.wanted.insert((node, cid), wanted);
        state.note(node, Some(cid));
    }

    pub fn unwant(&self, node: NodeId, cid: Cid) {
        let mut state = self.state.lock();
        state.revision += 1;
        state.wanted.remove(&(node, cid));
        state.note(node, Some(cid));
    }

    /// Changes what is wanted without leaving notes, as the installation of a snapshot does.
    pub fn replace(&self, node: NodeId, cids: impl Iterator<Item = Cid>) {
        let mut state = self.state.lock();
        state.revision += 1;
        let revision = state.revision;
        state.wanted.retain(|(of, _), _| *of != node);
        for cid in cids {
            let wanted = Wanted {
                mode: PinMode::Recursive,
                revision,
                origins: Vec::new(),
                updated_from: None,
            };
            state.wanted.insert((node, cid), wanted);
        }
    }

    pub fn all(&self, node: NodeId) -> BTreeMap<Cid, PinMode> {
        let state = self.state.lock();
        let of_node = state.wanted.iter().filter(|((of, _), _)| *of == node);
        of_node.map(|((_, cid), wanted)| (*cid, wanted.mode)).collect()
    }

    pub fn note(&self, node: NodeId, cid: Option<Cid>) {
        let mut state = self.state.lock();
        state.revision += 1;
        state.note(node, cid);
    }

    fn check(&self) -> Result<(), String> {
        if self.broken.load(Ordering::Relaxed) {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return Err("scripted failure".into());
        }
        Ok(())
    }

    pub fn notes(&self) -> usize {
        self.state.lock().todo.len()
    }
}

impl WishState {
    fn note(&mut self, node: NodeId, cid: Option<Cid>) {
        let key = self.revision.to_be_bytes().to_vec();
        self.todo.insert(key.clone(), TodoRow { key, node, cid });
    }
}

impl WantedSource for Wishes {
    fn todo(&self, limit: usize) -> Result<Vec<TodoRow>, String> {
        self.check()?;
        Ok(self.state.lock().todo.values().take(limit).cloned().collect())
    }

    fn forget_todo(&self, keys: &[Vec<u8>]) -> Result<(), String> {
        self.check()?;
        let mut state = self.state.lock();
        for key in keys {
            state.todo.remove(key);
        }
        Ok(())
    }

    fn nodes(&self) -> Result<Vec<NodeId>, String> {
        self.check()?;
        let state = self.state.lock();
        let nodes: BTreeSet<_> = state.wanted.keys().map(|(node, _)| *node).collect();
        Ok(nodes.into_iter().collect())
    }

    fn wanted(&self, node: NodeId, cid: &Cid) -> Result<Option<Wanted>, String> {
        self.check()?;
        Ok(self.state.lock().wanted.get(&(node, *cid)).cloned())
    }

    fn scan_wanted(&self, node: NodeId, after: Option<&Cid>, limit: usize) -> Result<Vec<(Cid, Wanted)>, String> {
        self.check()?;
        let state = self.state.lock();
        let of_node = state
            .wanted
            .iter()
            .filter(|((of, cid), _)| *of == node && after.is_none_or(|after| cid > after));
        Ok(of_node
            .take(limit)
            .map(|((_, cid), wanted)| (*cid, wanted.clone()))
            .collect())
    }
}

/// Quick retries, quick probes.
pub fn config() -> WorkerConfig {
    WorkerConfig {
        report_interval: Duration::from_millis(200),
        recheck_interval: Duration::from_millis(20),
        probe_timeout: Duration::from_millis(500),
        drain_interval: Duration::from_millis(1),
        resync_chunk: 7,
        picks_max: 64,
        look_again_after: Duration::from_millis(50),
        ..WorkerConfig::default()
    }
}

pub fn settings(id: NodeId) -> NodeSettings {
    NodeSettings {
        id,
        name: format!("node-{}", id.0),
        adopts: false,
        pin_name: PIN_NAME.into(),
        pins_per_second: 0.0,
        burst: 1,
        concurrency_max: 8,
        concurrency_start: 4,
        unpin_concurrency: 2,
        stall_timeout: Duration::from_secs(60),
        retry: RetryPolicy {
            first: Duration::from_millis(20),
            max: Duration::from_millis(100),
            attempts_max: 0,
            age_max: Duration::ZERO,
        },
    }
}

/// A ledger, wishes and a worker that drives nothing yet.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub ledger: Arc<Ledger>,
    pub wishes: Arc<Wishes>,
    pub worker: Worker,
    config: WorkerConfig,
}

pub fn open(dir: &tempfile::TempDir) -> Arc<Ledger> {
    Arc::new(Ledger::open(dir.path(), &LedgerOptions::default()).expect("opens"))
}

impl Bench {
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn with(config: WorkerConfig) -> Self {
        Self::begin(tempfile::tempdir().expect("folder"), Wishes::new(), config)
    }

    pub fn over(dir: tempfile::TempDir, wishes: Arc<Wishes>) -> Self {
        Self::begin(dir, wishes, config())
    }

    fn begin(dir: tempfile::TempDir, wishes: Arc<Wishes>, config: WorkerConfig) -> Self {
        let ledger = open(&dir);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let source: Arc<dyn WantedSource> = Arc::clone(&wishes) as _;
        let worker = Worker::start(config.clone(), Arc::clone(&ledger), source, clock, 7, Arc::new(()));
        Self {
            dir,
            ledger,
            wishes,
            worker,
            config,
        }
    }

    /// Stops the worker, closes the ledger and starts anew on what is left.
    pub async fn restart(self) -> Self {
        let Self {
            dir,
            ledger,
            wishes,
            worker,
            config,
        } = self;
        worker.shutdown(Duration::from_secs(10)).await.expect("stops");
        drop(worker);
        assert_eq!(
            Arc::strong_count(&ledger),
            1,
            "nobody keeps the ledger open after a stop"
        );
        drop(ledger);
        Self::begin(dir, wishes, config)
    }

    pub fn drive(&self, nodes: &[(NodeSettings, &Arc<FakeNode>)]) {
        let of = |(settings, node): &(NodeSettings, &Arc<FakeNode>)| {
            let node: Arc<dyn IpfsNode> = Arc::clone(node) as _;
            (settings.clone(), node)
        };
        self.worker.set_nodes(nodes.iter().map(of).collect());
    }

    pub fn want(&self, node: NodeId, cids: impl IntoIterator<Item = u64>) {
        for n in cids {
            self.wishes.want(node, cid(n));
        }
        self.worker.wake();
    }

    pub fn unwant(&self, node: NodeId, cids: impl IntoIterator<Item = u64>) {
        for n in cids {
            self.wishes.unwant(node, cid(n));
        }
        self.worker.wake();
    }

    pub fn view(&self, node: NodeId, n: u64) -> Option<View> {
        self.worker.status(node, &cid(n)).expect("reads")
    }

    pub fn status(&self, node: NodeId, n: u64) -> Option<Status> {
        self.view(node, n).map(|view| view.status)
    }

    pub fn entry(&self, n: u64) -> Option<Entry> {
        self.ledger.get(NODE, &cid(n)).expect("reads")
    }

    pub async fn until_status(&self, node: NodeId, n: u64, status: Option<Status>) {
        until(&format!("{n} to be {status:?}"), || self.status(node, n) == status).await;
    }
}
