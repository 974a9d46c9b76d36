//! A node to measure with: `fetch ADDRESS… CID` walks a DAG and says how long it took, `serve BYTES CHUNK [ADDRESS]` serves
//! a file of that size until it is ended. Blocks lie in memory, so that the network alone is measured.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster_dag::unixfs::{Chunker, FileBuilder, Metadata, Options};
use cluster_swarm::{
    Blocks, Cid, DhtMode, Dns, FetchEvent, Keypair, StoreError, Swarm, SwarmConfig, from_wire, to_wire,
};
use parking_lot::Mutex;

#[derive(Default)]
struct Memory(Mutex<HashMap<Vec<u8>, Bytes>>);

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

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fetch", ref from @ .., root] if !from.is_empty() => fetch(from, root).await,
        ["serve", bytes, chunk] => serve(bytes.parse()?, chunk.parse()?, "/ip4/127.0.0.1/tcp/0").await,
        ["serve", bytes, chunk, address] => serve(bytes.parse()?, chunk.parse()?, address).await,
        _ => Err("usage: fetch ADDRESS… CID | serve BYTES CHUNK [ADDRESS]".into()),
    }
}

async fn start(listen: Vec<&str>, store: Arc<Memory>) -> Result<Swarm, Failure> {
    let listen: Result<_, _> = listen.into_iter().map(str::parse).collect();
    let config = SwarmConfig {
        listen: listen?,
        dht: DhtMode::Off,
        dns: Dns::Off,
        lan: true,
        ..SwarmConfig::default()
    };
    Ok(Swarm::start(config, Keypair::generate_ed25519(), store).await?)
}

async fn fetch(from: &[&str], root: &str) -> Result<(), Failure> {
    let swarm = start(Vec::new(), Arc::default()).await?;
    for address in from {
        swarm.connect(address.parse()?).await?;
    }
    while swarm
        .report()
        .await?
        .peers
        .iter()
        .filter(|peer| peer.bitswap.is_some())
        .count()
        < from.len()
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    let root = to_wire(&root.parse()?).ok_or("an identity CID")?;
    let mut fetch = swarm.fetch(Vec::new()).await?;
    let (mut seen, mut open, mut bytes, mut blocks) = (HashSet::from([root]), 1, 0, 0u64);
    fetch.want(vec![root], true).await?;
    let mut waiting = std::collections::VecDeque::new();
    let mut events = Vec::new();
    while open > 0 {
        if fetch.next_many(&mut events, 256).await == 0 {
            return Err("the node ended".into());
        }
        for event in events.drain(..) {
            let FetchEvent::Block { cid, data, .. } = event else {
                continue;
            };
            open -= 1;
            blocks += 1;
            bytes += data.len();
            // Raw blocks have no links.
            if cid.codec() == 0x55 {
                continue;
            }
            let core = from_wire(&cid).ok_or("no CID")?;
            for link in cluster_dag::links(&core, &data)? {
                let link = to_wire(&link).ok_or("an identity CID")?;
                if seen.insert(link) {
                    waiting.push_back(link);
                }
            }
        }
        let room = 2_000usize.saturating_sub(open).min(waiting.len());
        if room > 0 {
            open += room;
            fetch.want(waiting.drain(..room).collect(), false).await?;
        }
    }
    let taken = begun.elapsed().as_secs_f64();
    let rate = bytes as f64 / taken / f64::from(1 << 20);
    println!(
        "{taken:.2} s, {blocks} blocks, {bytes} bytes, {rate:.0} MiB/s, {:.0} blocks/s",
        blocks as f64 / taken
    );
    let report = fetch.report().await?;
    println!("{} duplicates; {:?}", report.session.duplicates, report.peers);
    swarm.shutdown().await;
    Ok(())
}

async fn serve(bytes: usize, chunk: u32, address: &str) -> Result<(), Failure> {
    let store = Arc::new(Memory::default());
    let options = Options {
        chunker: Chunker::Size(chunk),
        ..Options::v1_2025()
    };
    let mut file = FileBuilder::new(options, Metadata::default())?;
    let mut sink = |block: cluster_dag::Block| {
        let (cid, data) = block.into_parts();
        if let Some(cid) = to_wire(&cid) {
            store.0.lock().insert(cid.hash().to_bytes(), data);
        }
    };
    let mut state = 1u64;
    let mut left = bytes;
    while left > 0 {
        let mut piece = Vec::with_capacity(1 << 20);
        while piece.len() < left.min(1 << 20) {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            piece.extend_from_slice(&state.to_be_bytes());
        }
        piece.truncate(left.min(1 << 20));
        left -= piece.len();
        file.write(&piece, &mut sink)?;
    }
    let root = file.finish(&mut sink)?.cid;
    let swarm = start(vec![address], store).await?;
    println!("{} {root}", swarm.addresses()[0]);
    tokio::signal::ctrl_c().await?;
    swarm.shutdown().await;
    Ok(())
}
