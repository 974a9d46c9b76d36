//! Nodes on loopback, content to put on them, and servers to ask.

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use cluster_content::Sink as _;
use cluster_dag::Block;
use cluster_dag::car::CarWriter;
use cluster_embedded::{DhtMode, Dns, EmbeddedConfig, EmbeddedNode};
use cluster_ipfs::Progress;
use multihash_codetable::{Code, MultihashDigest as _};
use node_core::Cid;
use parking_lot::Mutex;
use tempfile::TempDir;

pub const RAW: u8 = 0x55;
pub const DAG_PB: u8 = 0x70;
pub const DAG_CBOR: u8 = 0x71;

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Awaits something that must come to an end.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(result) => result,
        Err(_) => panic!("{what} took longer than {LIMIT:?}"),
    }
}

/// Awaits a condition.
pub async fn until<F: Future<Output = bool>>(what: &str, mut test: impl FnMut() -> F) {
    within(what, async {
        while !test().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// A node on loopback that knows nobody and gives up soon.
pub fn config(dir: &Path) -> EmbeddedConfig {
    let mut config = EmbeddedConfig::new(dir);
    config.swarm.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().expect("address")];
    config.swarm.dht = DhtMode::Off;
    config.swarm.lan = true;
    config.swarm.dns = Dns::Off;
    config.fetch.not_found_after = Duration::from_secs(2);
    config.fetch.stall_timeout = Duration::from_secs(20);
    config.gateways.after = Duration::from_millis(200);
    config.disk.free_bytes_min = 0;
    config
}

pub struct Node {
    pub node: EmbeddedNode,
    pub dir: TempDir,
}

impl Node {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut EmbeddedConfig)) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        Self::open(dir, change).await
    }

    pub async fn open(dir: TempDir, change: impl FnOnce(&mut EmbeddedConfig)) -> Self {
        let mut config = config(dir.path());
        change(&mut config);
        // A folder of a node that was just ended is free when the last call of its store has returned.
        let node = within("starting a node", async {
            loop {
                match EmbeddedNode::start(config.clone()).await {
                    Ok(node) => break node,
                    Err(error) if error.to_string().to_lowercase().contains("lock") => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await;
        Self { node, dir }
    }

    /// Ends it and gives its folder back.
    pub async fn stop(self) -> TempDir {
        within("shutting down", self.node.shutdown()).await.expect("closed");
        self.dir
    }

    /// Makes it know the others.
    pub fn knows(&self, others: &[&Node]) {
        let addresses: Vec<_> = others.iter().flat_map(|other| other.node.addresses()).collect();
        self.node.set_fellows(&addresses).expect("fellows");
    }

    /// Puts blocks on it that nothing holds.
    pub async fn put(&self, blocks: &[Block]) {
        let session = self.node.begin_add();
        for batch in blocks.chunks(64) {
            session.put(batch.to_vec()).await.expect("stored");
        }
    }

    /// How many of these it has.
    pub fn has(&self, blocks: &[Block]) -> usize {
        let cids: Vec<Cid> = blocks.iter().map(Block::cid).collect();
        let sizes = self.node.store().sizes(&cids).expect("looked up");
        for (block, size) in blocks.iter().zip(&sizes) {
            assert!(size.is_none_or(|size| size == block.bytes().len()));
        }
        sizes.iter().flatten().count()
    }

    /// Blocks that came from others since it was started.
    pub async fn fetched(&self) -> u64 {
        let fetched = self.node.report().await.expect("report").fetched;
        fetched.peer_blocks + fetched.gateway_blocks
    }
}

/// Takes no progress.
pub fn silent(_: Progress) {}

pub fn named(codec: u8, bytes: Vec<u8>) -> Block {
    let hash = Code::Sha2_256.digest(&bytes);
    let binary = [&[1, codec][..], &hash.to_bytes()].concat();
    let cid = Cid::from_bytes(&binary).expect("a CID");
    Block::new(cid, bytes.into()).expect("its bytes")
}

/// A leaf of this many bytes that differ from seed to seed.
pub fn leaf(seed: u64, bytes: usize) -> Block {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let mut noise: Vec<u8> = words.take(bytes.div_ceil(8)).flatten().collect();
    noise.truncate(bytes);
    named(RAW, noise)
}

/// A dag-cbor list of links.
pub fn parent(children: &[Cid]) -> Block {
    let mut bytes = vec![0x99];
    bytes.extend(u16::try_from(children.len()).expect("few").to_be_bytes());
    // The shortest form is asked for.
    if children.len() < 24 {
        bytes = vec![0x80 | children.len() as u8];
    } else if children.len() < 256 {
        bytes = vec![0x98, children.len() as u8];
    }
    for child in children {
        let binary = child.to_bytes();
        bytes.extend([0xd8, 0x2a, 0x58, binary.len() as u8 + 1, 0]);
        bytes.extend(binary);
    }
    named(DAG_CBOR, bytes)
}

/// A root over nodes over leaves. The root comes last.
pub fn tree(seed: u64, nodes: usize, leaves: usize, leaf_bytes: usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut children = Vec::new();
    for node in 0..nodes {
        let begin = blocks.len();
        for at in 0..leaves {
            blocks.push(leaf((seed << 32) + (node * leaves + at) as u64 + 1, leaf_bytes));
        }
        let links: Vec<Cid> = blocks[begin..].iter().map(Block::cid).collect();
        let parent = parent(&links);
        children.push(parent.cid());
        blocks.push(parent);
    }
    blocks.push(parent(&children));
    blocks
}

pub fn root(blocks: &[Block]) -> Cid {
    blocks.last().expect("some").cid()
}

pub fn bytes_of(blocks: &[Block]) -> u64 {
    blocks.iter().map(|block| block.bytes().len() as u64).sum()
}

/// How a gateway behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As it should; CAR files too.
    Honest,
    /// Only single blocks.
    RawOnly,
    /// Other bytes than were asked for.
    Lies,
    /// Status 502.
    Broken,
}

/// An HTTP server on loopback, ended when it is dropped.
pub struct Server {
    pub url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(router: Router) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("served") });
        Self { url, task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub struct Gateway {
    pub server: Server,
    content: Arc<Content>,
}

struct Content {
    /// Last the root.
    blocks: Vec<Block>,
    manner: Manner,
    raw: AtomicUsize,
    cars: AtomicUsize,
}

impl Gateway {
    pub async fn start(manner: Manner, blocks: &[Block]) -> Self {
        let content = Arc::new(Content {
            blocks: blocks.to_vec(),
            manner,
            raw: AtomicUsize::new(0),
            cars: AtomicUsize::new(0),
        });
        let router = Router::new()
            .route("/ipfs/{cid}", get(serve))
            .with_state(Arc::clone(&content));
        Self {
            server: Server::start(router).await,
            content,
        }
    }

    pub fn raw_requests(&self) -> usize {
        self.content.raw.load(Ordering::SeqCst)
    }

    pub fn car_requests(&self) -> usize {
        self.content.cars.load(Ordering::SeqCst)
    }
}

async fn serve(
    State(content): State<Arc<Content>>,
    UrlPath(cid): UrlPath<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let cid: Cid = cid.parse().expect("a CID is asked for");
    let car = query.get("format").map(String::as_str) == Some("car");
    let counter = if car { &content.cars } else { &content.raw };
    counter.fetch_add(1, Ordering::SeqCst);
    let found = content.blocks.iter().find(|block| block.cid() == cid);
    match (content.manner, found) {
        (Manner::Broken, _) => StatusCode::BAD_GATEWAY.into_response(),
        (Manner::RawOnly, _) if car => StatusCode::NOT_IMPLEMENTED.into_response(),
        (_, None) => StatusCode::NOT_FOUND.into_response(),
        (Manner::Lies, Some(_)) => ([(header::CONTENT_TYPE, "application/vnd.ipld.raw")], "a lie").into_response(),
        (_, Some(_)) if car => {
            let mut out = Vec::new();
            let mut writer = CarWriter::new(&[cid], &mut out).expect("one root");
            // The root first, as in any order that a walk takes.
            for block in content.blocks.iter().rev() {
                writer.block(block, &mut out);
            }
            ([(header::CONTENT_TYPE, "application/vnd.ipld.car; version=1")], out).into_response()
        }
        (_, Some(block)) => (
            [(header::CONTENT_TYPE, "application/vnd.ipld.raw")],
            block.bytes().clone(),
        )
            .into_response(),
    }
}

/// A delegated router that says the same of every CID.
pub struct RoutingServer {
    pub server: Server,
    asked: Arc<Mutex<Vec<String>>>,
}

impl RoutingServer {
    pub async fn start(content_type: &'static str, answer: String) -> Self {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&asked);
        let body = Bytes::from(answer);
        let of = move |kind: &'static str| {
            let (log, body) = (Arc::clone(&log), body.clone());
            get(move |UrlPath(id): UrlPath<String>| {
                log.lock().push(format!("{kind}/{id}"));
                let answer = ([(header::CONTENT_TYPE, content_type)], body.clone()).into_response();
                async move { answer }
            })
        };
        let router = Router::new()
            .route("/routing/v1/providers/{id}", of("providers"))
            .route("/routing/v1/peers/{id}", of("peers"));
        Self {
            server: Server::start(router).await,
            asked,
        }
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}
