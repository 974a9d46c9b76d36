//! A node for tests that answers as the test wants, byte by byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cluster_tests::cluster::{Cluster, ClusterOptions};
use cluster_tests::node::NodeKind;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What it does with a call that no driver makes.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Writes these bytes, and closes the connection.
    Bytes(Vec<u8>),
    /// Writes these bytes, and then nothing more.
    Hang(Vec<u8>),
    /// Writes a head and then data until nobody takes it any more.
    Endless,
    /// Reads slowly: so many bytes every ten milliseconds; at the end it answers `{}`.
    SlowReader(usize),
}

/// The node.
pub struct Upstream {
    pub address: String,
    behaviour: Arc<Mutex<Behaviour>>,
    /// Heads of requests of no driver, as they came.
    pub heads: Arc<Mutex<Vec<String>>>,
    /// Connections on which such a request is being answered.
    pub open: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

const ID: &str = "12D3KooWBhV9dp6GQkvFYdvCpwWkRxgnYC4UHPBGtKaqxbxn3Kmr";

impl Upstream {
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let behaviour = Arc::new(Mutex::new(Behaviour::Bytes(Vec::new())));
        let (heads, open) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let (behave, note, count) = (behaviour.clone(), heads.clone(), open.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (behave, note, count) = (behave.clone(), note.clone(), count.clone());
                tokio::spawn(async move {
                    // A peer that went away is no fault of this node.
                    let _ = answer(stream, behave, note, count).await;
                });
            }
        });
        Ok(Self {
            address,
            behaviour,
            heads,
            open,
            task,
        })
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock() = behaviour;
    }

    /// A cluster of one peer that drives it.
    pub async fn cluster(&self, set: &[(&str, &str)]) -> anyhow::Result<Cluster> {
        let mut options = ClusterOptions {
            peers: 1,
            node: NodeKind::Urls(vec![self.address.clone()]),
            ..ClusterOptions::default()
        };
        for (key, value) in set {
            options = options.with(key, value);
        }
        Cluster::start(options).await
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts while it lives.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answer(
    mut stream: TcpStream,
    behaviour: Arc<Mutex<Behaviour>>,
    heads: Arc<Mutex<Vec<String>>>,
    open: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default();
    let call = target
        .trim_start_matches("/api/v0/")
        .split('?')
        .next()
        .unwrap_or_default();
    // What a driver asks.
    let known = match call {
        "id" => Some(format!(
            "{{\"ID\":\"{ID}\",\"Addresses\":[],\"AgentVersion\":\"kubo/0.43.0/\"}}"
        )),
        "version" => Some("{\"Version\":\"0.43.0\"}".to_owned()),
        "repo/stat" => Some("{\"RepoSize\":1,\"StorageMax\":1000000000}".to_owned()),
        _ => None,
    };
    if let Some(body) = known {
        let text = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        return stream.write_all(text.as_bytes()).await;
    }
    open.fetch_add(1, Ordering::SeqCst);
    let _open = Open(open);
    heads.lock().push(head);
    let behaviour = behaviour.lock().clone();
    match behaviour {
        Behaviour::Bytes(bytes) => {
            stream.write_all(&bytes).await?;
            stream.shutdown().await?;
            // What is still sent is taken, until the other side goes away: closed before, the connection would fail under
            // who still writes, and the answer be lost.
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await? > 0 {}
            Ok(())
        }
        Behaviour::Hang(bytes) => {
            stream.write_all(&bytes).await?;
            // Until the other side goes away.
            let mut rest = [0; 1024];
            while stream.read(&mut rest).await? > 0 {}
            Ok(())
        }
        Behaviour::Endless => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
                .await?;
            let piece = vec![7; 64 * 1024];
            loop {
                stream.write_all(&piece).await?;
            }
        }
        Behaviour::SlowReader(bytes) => {
            let mut piece = vec![0; bytes];
            let mut tail: Vec<u8> = Vec::new();
            loop {
                let read = stream.read(&mut piece).await?;
                tail.extend_from_slice(&piece[..read]);
                if tail.ends_with(b"0\r\n\r\n") || read == 0 {
                    break;
                }
                let kept = tail.len().saturating_sub(8);
                tail.drain(..kept);
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{}\n")
                .await
        }
    }
}
