//! Nodes with stores in memory.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use cluster_bitswap::{BlockHasher as _, Sha2Hasher};
use cluster_swarm::{
    Blocks, Candidate, Cid, DhtMode, Dns, Fetch, FetchEvent, Keypair, Report, StoreError, Swarm, SwarmConfig,
};
use parking_lot::Mutex;

/// Longer than anything takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Ends a test that hangs.
pub async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("it ends in time")
}

/// Waits until a condition holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Blocks in memory.
#[derive(Default)]
pub struct Memory {
    blocks: Mutex<HashMap<Vec<u8>, Bytes>>,
    denied: Mutex<HashSet<Cid>>,
    /// Blocks that were read.
    pub read: AtomicUsize,
}

impl Memory {
    pub fn put(&self, blocks: &[(Cid, Bytes)]) {
        let mut stored = self.blocks.lock();
        stored.extend(blocks.iter().map(|(cid, data)| (cid.hash().to_bytes(), data.clone())));
    }

    pub fn deny(&self, cid: Cid) {
        self.denied.lock().insert(cid);
    }
}

impl Blocks for Memory {
    fn sizes(&self, cids: &[Cid]) -> Result<Vec<Option<usize>>, StoreError> {
        let blocks = self.blocks.lock();
        Ok(cids
            .iter()
            .map(|cid| Some(blocks.get(&cid.hash().to_bytes())?.len()))
            .collect())
    }

    fn read(&self, cids: &[Cid]) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.read.fetch_add(cids.len(), Ordering::Relaxed);
        let blocks = self.blocks.lock();
        Ok(cids
            .iter()
            .map(|cid| blocks.get(&cid.hash().to_bytes()).cloned())
            .collect())
    }

    fn is_denied(&self, cid: &Cid) -> bool {
        self.denied.lock().contains(cid)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    Tcp,
    Quic,
}

pub const BOTH: [Over; 2] = [Over::Tcp, Over::Quic];

/// A configuration for loopback, without the DHT.
pub fn config(over: Over) -> SwarmConfig {
    let listen = match over {
        Over::Tcp => "/ip4/127.0.0.1/tcp/0",
        Over::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
    };
    SwarmConfig {
        listen: vec![listen.parse().expect("an address")],
        dht: DhtMode::Off,
        lan: true,
        dns: Dns::Off,
        ..SwarmConfig::default()
    }
}

pub struct Node {
    pub swarm: Swarm,
    pub store: Arc<Memory>,
}

impl Node {
    pub async fn start(config: SwarmConfig) -> Self {
        let store = Arc::new(Memory::default());
        let swarm = Swarm::start(config, Keypair::generate_ed25519(), store.clone());
        let swarm = swarm.await.expect("it starts");
        Self { swarm, store }
    }

    pub async fn over(over: Over) -> Self {
        Self::start(config(over)).await
    }

    pub fn candidate(&self) -> Candidate {
        Candidate {
            peer: self.swarm.peer_id(),
            addresses: self.swarm.addresses(),
        }
    }

    pub async fn report(&self) -> Report {
        self.swarm.report().await.expect("it runs")
    }

    /// Connects, and waits until both know that the other speaks Bitswap.
    pub async fn meet(&self, other: &Self) {
        self.swarm.connect_to(other.candidate()).await.expect("connected");
        for (one, two) in [(self, other), (other, self)] {
            let id = two.swarm.peer_id();
            until("they know each other", || async {
                let report = one.report().await;
                report
                    .peers
                    .iter()
                    .any(|peer| peer.peer == id && peer.bitswap.is_some())
            })
            .await;
        }
    }

    /// Fetches blocks from connected peers, keeping a window full, and checks them.
    pub async fn fetch(&self, from: &[&Self], wanted: &[(Cid, Bytes)]) {
        let candidates = from.iter().map(|node| node.candidate()).collect();
        let mut fetch = self.swarm.fetch(candidates).await.expect("it runs");
        let contents: HashMap<_, _> = wanted.iter().cloned().collect();
        let mut rest = wanted.iter().map(|(cid, _)| *cid);
        let mut missing: HashSet<_> = contents.keys().copied().collect();
        fetch
            .want(rest.by_ref().take(1_000).collect(), false)
            .await
            .expect("it runs");
        let mut events = Vec::new();
        while !missing.is_empty() {
            assert!(fetch.next_many(&mut events, 256).await > 0, "it ended");
            let mut done = 0;
            for event in events.drain(..) {
                match event {
                    FetchEvent::Block { cid, data, .. } => {
                        assert_eq!(contents[&cid], data);
                        assert!(missing.remove(&cid), "{cid} came twice");
                        done += 1;
                    }
                    FetchEvent::NobodyHas(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            fetch
                .want(rest.by_ref().take(done).collect(), false)
                .await
                .expect("it runs");
        }
    }
}

/// The next block that comes, whatever else happens.
pub async fn next_block(fetch: &mut Fetch) -> (Cid, Bytes) {
    loop {
        match fetch.next().await.expect("it runs") {
            FetchEvent::Block { cid, data, .. } => return (cid, data),
            FetchEvent::NobodyHas(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A raw block of these bytes.
pub fn raw(data: impl Into<Bytes>) -> (Cid, Bytes) {
    let data = data.into();
    let digest = Sha2Hasher.digest(0x12, 32, &data).expect("known");
    (Cid::new_v1(0x55, digest), data)
}

/// Different blocks of this size.
pub fn blocks(count: usize, bytes: usize) -> Vec<(Cid, Bytes)> {
    (0..count).map(|number| raw(noise(bytes, number as u64))).collect()
}

/// Bytes that can't be compressed, the same for the same seed; of 8 bytes and more, different for each.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// What all nodes of this test binary log.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Whether there is a line with all of these in it.
    pub fn has(&self, parts: &[&str]) -> bool {
        let text = String::from_utf8_lossy(&self.0.lock()).into_owned();
        text.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    }
}

/// The log, from the first call on.
pub static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    log
});
