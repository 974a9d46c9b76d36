//! A real Kubo: it fetches from here, and is fetched from, over TCP and QUIC.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use cluster_dag::unixfs::{Chunker, FileBuilder, Metadata, Options};
use cluster_swarm::{
    Blocks, Cid, DhtMode, Dns, FetchEvent, Keypair, StoreError, Swarm, SwarmConfig, from_wire, to_wire,
};
use cluster_tests::kubo::{KuboDaemon, kubo_binary};
use parking_lot::Mutex;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(300);

#[derive(Default)]
struct Memory(Mutex<HashMap<Vec<u8>, Bytes>>);

impl Memory {
    fn put(&self, cid: &Cid, data: Bytes) {
        self.0.lock().insert(cid.hash().to_bytes(), data);
    }
}

impl Blocks for Memory {
    fn sizes(&self, cids: &[Cid]) -> Result<Vec<Option<usize>>, StoreError> {
        Ok(self.read(cids)?.into_iter().map(|data| Some(data?.len())).collect())
    }

    fn read(&self, cids: &[Cid]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let blocks = self.0.lock();
        Ok(cids
            .iter()
            .map(|cid| blocks.get(&cid.hash().to_bytes()).cloned())
            .collect())
    }
}

#[derive(Debug, Clone, Copy)]
enum Over {
    Tcp,
    Quic,
}

impl Over {
    fn address(self) -> &'static str {
        match self {
            Self::Tcp => "/ip4/127.0.0.1/tcp/0",
            Self::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
        }
    }
}

async fn node(over: Over) -> anyhow::Result<(Swarm, Arc<Memory>)> {
    let store = Arc::new(Memory::default());
    let config = SwarmConfig {
        listen: vec![over.address().parse()?],
        dht: DhtMode::Off,
        dns: Dns::Off,
        lan: true,
        ..SwarmConfig::default()
    };
    let swarm = Swarm::start(config, Keypair::generate_ed25519(), store.clone()).await?;
    Ok((swarm, store))
}

/// A daemon that listens over one transport only.
async fn kubo(folder: &Path, over: Over) -> anyhow::Result<KuboDaemon> {
    let binary = tokio::task::spawn_blocking(kubo_binary).await??;
    let output = Command::new(binary)
        .args(["init", "-p", "test"])
        .env("IPFS_PATH", folder)
        .env("IPFS_TELEMETRY", "off")
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = folder.join("config");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["Addresses"]["Swarm"] = json!([over.address()]);
    std::fs::write(&path, config.to_string())?;
    KuboDaemon::start(folder).await
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
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

/// Adds a file to a store of ours.
fn add(store: &Memory, content: &[u8], options: Options) -> anyhow::Result<node_core::Cid> {
    let mut file = FileBuilder::new(options, Metadata::default())?;
    let mut sink = |block: cluster_dag::Block| {
        let (cid, data) = block.into_parts();
        store.put(&to_wire(&cid).expect("no identity CID"), data);
    };
    for piece in content.chunks(1 << 20) {
        file.write(piece, &mut sink)?;
    }
    Ok(file.finish(&mut sink)?.cid)
}

/// Fetches all blocks below a CID into a store.
async fn fetch(swarm: &Swarm, store: &Memory, from: &str, root: &node_core::Cid) -> anyhow::Result<usize> {
    swarm.connect(from.parse()?).await?;
    let mut fetch = swarm.fetch(Vec::new()).await?;
    let root = to_wire(root).context("no identity CID")?;
    let mut seen = HashSet::from([root]);
    let mut bytes = 0;
    fetch.want(vec![root], true).await?;
    let mut open = 1;
    let mut waiting = Vec::new();
    while open > 0 {
        match fetch.next().await.context("it ended")? {
            FetchEvent::Block { cid, data, .. } => {
                open -= 1;
                bytes += data.len();
                let core = from_wire(&cid).context("a CID")?;
                for link in cluster_dag::links(&core, &data)? {
                    let link = to_wire(&link).context("no identity CID")?;
                    if seen.insert(link) {
                        waiting.push(link);
                    }
                }
                store.put(&cid, data);
            }
            FetchEvent::NobodyHas(_) => {}
            other => anyhow::bail!("{other:?}"),
        }
        let room = 1_000usize.saturating_sub(open).min(waiting.len());
        let next: Vec<_> = waiting.drain(..room).collect();
        open += next.len();
        fetch.want(next, false).await?;
    }
    Ok(bytes)
}

async fn we_fetch(over: Over) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let daemon = kubo(folder.path(), over).await?;
    let (swarm, store) = node(over).await?;
    // No empty file: Kubo says that it has the empty block and never sends it. Whoever fetches knows it anyway.
    for (size, chunk) in [
        (1, 1u32 << 18),
        (1 << 20, 1 << 18),
        (100 << 20, 1 << 18),
        (3 << 20, 1 << 10),
    ] {
        let content = noise(size, size as u64);
        let cid = daemon.add_in_chunks(&content, chunk as usize).await?;
        let bytes = fetch(&swarm, &store, daemon.swarm_address(), &cid).await?;
        assert!(bytes >= size, "{bytes} of {size} bytes");
        // All of it came, and each block is the one that its CID names: adding the same gives the same root.
        let again = Memory::default();
        let options = Options {
            chunker: Chunker::Size(chunk),
            cid_version: cluster_dag::unixfs::CidVersion::V1,
            raw_leaves: true,
            ..Options::v0_2015()
        };
        assert_eq!(add(&again, &content, options)?, cid);
        let wanted = again.0.lock();
        let came = store.0.lock();
        assert!(wanted.iter().all(|(hash, data)| came.get(hash) == Some(data)));
    }
    let report = swarm.report().await?;
    assert_eq!(report.offences, 0);
    assert_eq!(report.peers.len(), 1);
    assert_eq!(report.peers[0].bitswap, Some("/ipfs/bitswap/1.2.0"));
    assert!(report.peers[0].agent.starts_with("kubo/"), "{}", report.peers[0].agent);
    swarm.shutdown().await;
    Ok(())
}

async fn kubo_fetches(over: Over) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let daemon = kubo(folder.path(), over).await?;
    let (swarm, store) = node(over).await?;
    daemon
        .call(&format!("swarm/connect?arg={}", swarm.addresses()[0]))
        .await?;
    for (size, options) in [
        (0, Options::v0_2015()),
        (1, Options::v1_2025()),
        (1 << 20, Options::v0_2015()),
        (100 << 20, Options::v1_2025()),
        (100 << 20, Options::v0_2015()),
    ] {
        let content = noise(size, size as u64 + 7);
        let cid = add(&store, &content, options)?;
        daemon.call(&format!("pin/add?arg={cid}")).await?;
        assert_eq!(daemon.pin_kind(&cid).await?.as_deref(), Some("recursive"));
        // The same content under CIDs that Kubo does not have yet would hide a mistake, so it is taken out again.
        daemon.call(&format!("pin/rm?arg={cid}")).await?;
        daemon.call("repo/gc?silent=true").await?;
    }
    let report = swarm.report().await?;
    assert_eq!(report.offences, 0);
    assert!(report.bytes_out > 200 << 20);
    // A block that comes later is sent to who waits for it.
    let late = Memory::default();
    let cid = add(&late, b"late", Options::v1_2025())?;
    let query = format!("block/get?arg={cid}");
    let waiting = daemon.call(&query);
    let serve = async {
        while swarm.report().await?.wants_of_others == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let blocks: Vec<_> = late
            .0
            .lock()
            .iter()
            .map(|(hash, data)| (hash.clone(), data.clone()))
            .collect();
        for (hash, data) in blocks {
            let hash = cid::multihash::Multihash::from_bytes(&hash)?;
            let wire = Cid::new_v1(0x55, hash);
            store.put(&wire, data.clone());
            swarm.stored(vec![(wire, data.len())]).await?;
        }
        anyhow::Ok(())
    };
    let (got, served) = tokio::join!(waiting, serve);
    served?;
    assert_eq!(got?, "late");
    swarm.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn we_fetch_over_tcp() -> anyhow::Result<()> {
    tokio::time::timeout(LIMIT, we_fetch(Over::Tcp)).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn we_fetch_over_quic() -> anyhow::Result<()> {
    tokio::time::timeout(LIMIT, we_fetch(Over::Quic)).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn kubo_fetches_over_tcp() -> anyhow::Result<()> {
    tokio::time::timeout(LIMIT, kubo_fetches(Over::Tcp)).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn kubo_fetches_over_quic() -> anyhow::Result<()> {
    tokio::time::timeout(LIMIT, kubo_fetches(Over::Quic)).await?
}
